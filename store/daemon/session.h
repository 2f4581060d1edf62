// SPDX-License-Identifier: Apache-2.0
// Session: one connection, from accept to its end, and what is on its way out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "store/daemon/clock.h"
#include "store/daemon/process.h"
#include "store/daemon/processes.h"
#include "store/daemon/ticket.h"
#include "store/daemon/waiters.h"
#include "store/wire/message.h"
#include "store/wire/socket.h"

namespace forebay::daemon {

struct Session {
  SessionId id = 0;
  Descriptor socket;
  Peer peer;                    // as the kernel said at accept
  Descriptor pidfd;        // until the process has a slot, which then owns it
  TimePoint opened_at;
  bool admitted = false;        // has said hello, or is a child's that has arrived
  bool awaits_child = false;    // made for a fork; its peer is not known before it arrives
  bool side = false;            // a further one of a process that has another
  Slot slot = 0;                // once admitted, or for a child

  // What the peer has not taken yet. A peer that does not read is ended, not waited for.
  struct Outgoing {
    std::vector<std::byte> frame;
    std::vector<Descriptor> descriptors;
  };
  std::deque<Outgoing> outbox;
  std::size_t outbox_bytes = 0;
  std::size_t outbox_descriptors = 0;
  bool watching_writable = false;

  // Requests that may be answered later and are not yet, by their numbers.
  struct Waiting {
    wire::Op op{};
    std::size_t bytes = 0;
  };
  std::unordered_map<std::uint32_t, Waiting> waiting;
  std::size_t waiting_bytes = 0;

  // What has come so far of requests that take several frames.
  struct WaitParts {
    std::vector<std::string> ids;
    std::vector<VersionWish> wishes;
    std::size_t frames = 0;
  };
  std::unordered_map<std::uint32_t, WaitParts> wait_parts;
  std::size_t wait_parts_items = 0;  // of all of them
  std::vector<std::pair<EntryNumber, std::uint64_t>> holds_parts;
  std::vector<std::pair<std::string, bool>> scopes_parts;
};

}  // namespace forebay::daemon
