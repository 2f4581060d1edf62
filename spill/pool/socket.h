// SPDX-License-Identifier: Apache-2.0
// TCP sockets of the pool, control and data: all of them non-blocking, close-on-exec, without
// delay, and given up by the kernel two seconds after the peer has stopped to acknowledge.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "store/descriptor.h"
#include "store/error.h"

namespace forebay::spill::pool {

struct Address {
  std::string host;
  std::uint16_t port = 0;

  std::string text() const;  // "10.0.0.7:7117", "[::1]:7117"
};

// "host:port" or "[v6 address]:port".
Result<Address> parse_address(std::string_view text);

struct Listening {
  Descriptor socket;
  std::uint16_t port = 0;
};
Result<Listening> listen_at(const Address& address);

// Begins to connect: the socket is writable once that has ended, and connected() says how. Names
// are looked up here, which may take as long as the resolver pleases; numbers are not.
Result<Descriptor> start_to_connect(const Address& address);
Result<void> connected(int socket, const Address& address);

enum class Traffic { control, bulk };
void tune(int socket, Traffic traffic);

// "10.0.0.9:40122", for log lines.
std::string peer_of(int socket);

}  // namespace forebay::spill::pool
