// SPDX-License-Identifier: Apache-2.0
// Session: one connection, from accept to its end, and what is on its way out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "store/daemon/clock.h"
#include "store/daemon/process.h"
#include "store/daemon/processes.h"
#include "store/daemon/ticket.h"
#include "store/wire/socket.h"

namespace forebay::daemon {

struct Session {
  SessionId id = 0;
  wire::Descriptor socket;
  Peer peer;                    // as the kernel said at accept
  shm::Descriptor pidfd;        // until the process has a slot, which then owns it
  TimePoint opened_at;
  bool admitted = false;        // has said hello, or is a child's that has arrived
  bool awaits_child = false;    // made for a fork; its peer is not known before it arrives
  Slot slot = 0;                // once admitted, or for a child

  // What the peer has not taken yet. A peer that does not read is ended, not waited for.
  struct Outgoing {
    std::vector<std::byte> frame;
    std::vector<shm::Descriptor> descriptors;
  };
  std::deque<Outgoing> outbox;
  std::size_t outbox_bytes = 0;
  std::size_t outbox_descriptors = 0;
  bool watching_writable = false;

  // Requests that may be answered later and are not yet: their numbers, and the bytes of each.
  std::unordered_map<std::uint32_t, std::size_t> waiting;
  std::size_t waiting_bytes = 0;
};

}  // namespace forebay::daemon
