// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

namespace forebay::spill::pool {
namespace {

constexpr int backlog = 512;
constexpr int user_timeout_ms = 2000;
constexpr int bulk_buffer_bytes = 4 << 20;

struct FreeAddresses {
  void operator()(addrinfo* first) const { ::freeaddrinfo(first); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Result<Addresses> look_up(const Address& address, bool passive) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | AI_NUMERICHOST | (passive ? AI_PASSIVE : 0);
  const std::string port = std::to_string(address.port);
  addrinfo* found = nullptr;
  int status = ::getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found);
  if (status == EAI_NONAME) {
    hints.ai_flags &= ~AI_NUMERICHOST;
    status = ::getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found);
  }
  if (status != 0)
    return fail(Errc::bad_argument, "there is no host '" + address.host + "': " +
                                        ::gai_strerror(status) + "; give its address instead");
  return Addresses(found);
}

std::uint16_t port_of(const sockaddr_storage& name) {
  if (name.ss_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, &name, sizeof v6);
    return ntohs(v6.sin6_port);
  }
  sockaddr_in v4{};
  std::memcpy(&v4, &name, sizeof v4);
  return ntohs(v4.sin_port);
}

void set(int socket, int level, int option, int value) {
  ::setsockopt(socket, level, option, &value, sizeof value);
}

}  // namespace

std::string Address::text() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Address> parse_address(std::string_view text) {
  const auto wrong = [&] {
    return fail(Errc::bad_argument, "'" + std::string(text) +
                                        "' is not the address of a pool; write host:port, as in "
                                        "10.0.0.7:7117 or [::1]:7117");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return wrong();
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.front() == '[') {
    if (host.size() < 3 || host.back() != ']') return wrong();
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong();
  }
  Address address{.host = std::string(host)};
  const auto [end, status] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (status != std::errc{} || end != port.data() + port.size()) return wrong();
  return address;
}

Result<Listening> listen_at(const Address& address) {
  auto found = look_up(address, true);
  if (!found) return fail(found.error());
  int why = 0;
  for (const addrinfo* one = found->get(); one != nullptr; one = one->ai_next) {
    Descriptor socket(
        ::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, one->ai_protocol));
    if (!socket) {
      why = errno;
      continue;
    }
    // A pool that comes back listens where it did, whatever its last connections wait for.
    set(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (::bind(socket.get(), one->ai_addr, one->ai_addrlen) != 0 ||
        ::listen(socket.get(), backlog) != 0) {
      why = errno;
      continue;
    }
    sockaddr_storage name{};
    socklen_t size = sizeof name;
    ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&name), &size);
    return Listening{std::move(socket), port_of(name)};
  }
  return fail_errno(why, "cannot listen at " + address.text());
}

Result<Descriptor> start_to_connect(const Address& address) {
  auto found = look_up(address, false);
  if (!found) return fail(found.error());
  int why = 0;
  for (const addrinfo* one = found->get(); one != nullptr; one = one->ai_next) {
    Descriptor socket(
        ::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, one->ai_protocol));
    if (socket && (::connect(socket.get(), one->ai_addr, one->ai_addrlen) == 0 ||
                   errno == EINPROGRESS))
      return socket;
    why = errno;
  }
  return fail_errno(why, "cannot connect to the pool at " + address.text());
}

Result<void> connected(int socket, const Address& address) {
  int why = 0;
  socklen_t size = sizeof why;
  if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &why, &size) != 0) why = errno;
  if (why == 0) return {};
  return fail(Errc::tier_down, "cannot connect to the pool at " + address.text() + ": " +
                                   std::generic_category().message(why) +
                                   "; is forebay-poold running there?");
}

void tune(int socket, Traffic traffic) {
  set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, user_timeout_ms);
  set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(socket, IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set(socket, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set(socket, IPPROTO_TCP, TCP_KEEPCNT, 2);
  if (traffic == Traffic::bulk) {
    set(socket, SOL_SOCKET, SO_SNDBUF, bulk_buffer_bytes);
    set(socket, SOL_SOCKET, SO_RCVBUF, bulk_buffer_bytes);
  }
}

std::string peer_of(int socket) {
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&name), &size) != 0) return "somebody";
  std::array<char, INET6_ADDRSTRLEN> text{};
  std::array<char, 8> port{};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&name), size, text.data(), text.size(),
                    port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "somebody";
  return std::string(text.data()) + ":" + port.data();
}

}  // namespace forebay::spill::pool
