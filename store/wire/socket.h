// SPDX-License-Identifier: Apache-2.0
// Sockets: frames and descriptors over Unix SEQPACKET sockets. Nothing here blocks without a
// deadline; descriptors that nobody asked for are closed on arrival.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "store/descriptor.h"
#include "store/error.h"
#include "store/wire/message.h"

namespace forebay::wire {

using Deadline = std::chrono::steady_clock::time_point;

// Connects to a daemon's socket. Fails with disconnected when nobody listens there.
Result<Descriptor> connect_to(const std::string& path, Deadline deadline);

// Listens at `path`, which must not exist, with access for the owner alone from the first moment.
Result<Descriptor> listen_at(const std::string& path);

// A connected pair, for a forked child.
Result<std::pair<Descriptor, Descriptor>> connected_pair();

enum class Sent { all, would_block, closed };
// Sends one frame, with descriptors; never blocks.
Sent send_frame(int socket, std::span<const std::byte> frame, std::span<const int> descriptors);
// Blocks until the frame is sent, the peer is gone (disconnected) or the deadline passes.
Result<void> send_frame_by(int socket, std::span<const std::byte> frame, Deadline deadline);

struct Received {
  enum class Kind { frame, nothing, closed, malformed } kind = Kind::nothing;
  std::size_t bytes = 0;
  std::vector<Descriptor> descriptors;
  std::optional<ucred> credentials;  // if the socket asks the kernel for them
};
// Receives one frame into `buffer`; never blocks. malformed: larger than the buffer, more
// descriptors than expected, or some of them lost.
Received receive_frame(int socket, std::span<std::byte> buffer, std::size_t descriptors_expected);

// Waits until the socket can be read (or written); false when the deadline passed.
bool wait_readable(int socket, Deadline deadline);
bool wait_writable(int socket, Deadline deadline);

}  // namespace forebay::wire
