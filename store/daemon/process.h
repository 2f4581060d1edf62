// SPDX-License-Identifier: Apache-2.0
// What the kernel says about processes. Identity is pid and start time within one boot; death is
// what a pidfd reports. Nothing that a peer says about itself is believed.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "store/descriptor.h"
#include "store/error.h"

namespace forebay::daemon {

struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Who opened the other end of the socket. Fails with denied when the kernel cannot name it here.
Result<Peer> peer_of(int socket);

// A descriptor that becomes readable when the process ends; from the socket where the kernel can,
// so that no other process of the same number can be meant.
Result<Descriptor> watch_peer(int socket, const Peer& peer);
Result<Descriptor> watch_process(pid_t pid);
bool has_ended(const Descriptor& pidfd);

// Clock ticks after boot at which the process started; nothing if it does not exist.
std::optional<std::uint64_t> start_time_of(pid_t pid);
std::optional<uid_t> uid_of(pid_t pid);
// As in /proc/PID/cmdline: the script of an interpreter, else the program. For people.
std::string program_of(pid_t pid);

// Whether the process maps the object; nothing if this may not be looked at. A process that maps no
// index of the store any more has executed another program.
std::optional<bool> maps_object(pid_t pid, const Descriptor& object);

std::array<std::uint8_t, 16> boot_id();

}  // namespace forebay::daemon
