// SPDX-License-Identifier: Apache-2.0
#include "store/wire/socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

namespace forebay::wire {
namespace {

// A few more than anybody may send, so that an excess is seen and not just cut off.
constexpr std::size_t descriptors_room = 16;
// Larger than one frame with its bookkeeping: a sender never waits for room for half a frame.
constexpr int send_buffer_bytes = 1024 * 1024;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return fail(Errc::bad_argument, "socket path of " + std::to_string(path.size()) +
                                        " bytes: '" + path + "'; the system allows 1 to " +
                                        std::to_string(sizeof address.sun_path - 1));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

bool wait_for(int socket, short events, Deadline deadline) {
  while (true) {
    const auto left = deadline - std::chrono::steady_clock::now();
    const auto milliseconds =
        std::chrono::ceil<std::chrono::milliseconds>(left).count();
    pollfd poll{socket, events, 0};
    const int ready =
        ::poll(&poll, 1, static_cast<int>(std::clamp<long long>(milliseconds, 0, 1'000'000)));
    if (ready > 0) return true;
    if (ready == 0 && std::chrono::steady_clock::now() >= deadline) return false;
    if (ready < 0 && errno != EINTR) return true;  // the call that follows will say what is wrong
  }
}

}  // namespace

bool wait_readable(int socket, Deadline deadline) { return wait_for(socket, POLLIN, deadline); }
bool wait_writable(int socket, Deadline deadline) { return wait_for(socket, POLLOUT, deadline); }

Result<Descriptor> connect_to(const std::string& path, Deadline deadline) {
  const auto address = address_of(path);
  if (!address) return fail(address.error());
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno(errno, "cannot make a socket");
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &send_buffer_bytes, sizeof send_buffer_bytes);
  while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address),
                   sizeof *address) != 0) {
    // A full backlog: the daemon is busy, or stopped.
    if (errno == EAGAIN && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      continue;
    }
    if (errno == EINTR) continue;
    const int error = errno;
    const std::string why = error == ENOENT         ? "there is no such socket"
                            : error == ECONNREFUSED ? "nobody listens there any more"
                            : error == EAGAIN       ? "the daemon there does not answer"
                            : error == EACCES       ? "this user may not"
                                                    : std::strerror(error);
    return fail(error == EACCES ? Errc::denied : Errc::disconnected,
                "cannot connect to forebayd at " + path + ": " + why);
  }
  return socket;
}

Result<Descriptor> listen_at(const std::string& path) {
  const auto address = address_of(path);
  if (!address) return fail(address.error());
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno(errno, "cannot make a socket");
  // Under another name until it listens: whoever sees a socket can connect to it. Where there is no
  // room for a longer name, he may be refused for a moment.
  const std::string unseen = path + "~";
  const auto unseen_address = address_of(unseen);
  if (unseen_address) ::unlink(unseen.c_str());
  const sockaddr_un& first = unseen_address ? *unseen_address : *address;
  const mode_t mask = ::umask(0177);
  const int bound =
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&first), sizeof first);
  const int error = errno;
  ::umask(mask);
  if (bound != 0) return fail_errno(error, "cannot make the socket " + path);
  const bool listens = ::listen(socket.get(), SOMAXCONN) == 0;
  const int listen_error = errno;
  if (!unseen_address) {
    if (!listens) return fail_errno(listen_error, "cannot listen at " + path);
    return socket;
  }
  // Not renamed: that would replace what is there.
  const bool named = listens && ::link(unseen.c_str(), path.c_str()) == 0;
  const int link_error = errno == EEXIST ? EADDRINUSE : errno;
  ::unlink(unseen.c_str());
  if (!listens) return fail_errno(listen_error, "cannot listen at " + path);
  if (!named) return fail_errno(link_error, "cannot make the socket " + path);
  return socket;
}

Result<std::pair<Descriptor, Descriptor>> connected_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
    return fail_errno(errno, "cannot make a pair of sockets");
  for (const int end : ends)
    ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &send_buffer_bytes, sizeof send_buffer_bytes);
  return std::pair{Descriptor(ends[0]), Descriptor(ends[1])};
}

Sent send_frame(int socket, std::span<const std::byte> frame, std::span<const int> descriptors) {
  iovec part{const_cast<std::byte*>(frame.data()), frame.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * descriptors_max)> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    STORE_CHECK(descriptors.size() <= descriptors_max, "no message has more descriptors");
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
    std::memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
  }
  while (true) {
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return Sent::all;
    if (errno == EINTR) continue;
    // ETOOMANYREFS, ENOBUFS and ENOMEM pass; what is in flight will be received.
    return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS
               ? Sent::would_block
               : Sent::closed;
  }
}

Result<void> send_frame_by(int socket, std::span<const std::byte> frame, Deadline deadline) {
  while (true) {
    switch (send_frame(socket, frame, {})) {
      case Sent::all:
        return {};
      case Sent::closed:
        return fail(Errc::disconnected, "the daemon has closed the connection");
      case Sent::would_block:
        if (!wait_writable(socket, deadline))
          return fail(Errc::timed_out, "the daemon takes no messages");
    }
  }
}

Received receive_frame(int socket, std::span<std::byte> buffer,
                       std::size_t descriptors_expected) {
  Received received;
  iovec part{buffer.data(), buffer.size()};
  alignas(cmsghdr)
      std::array<char, CMSG_SPACE(sizeof(int) * descriptors_room) + CMSG_SPACE(sizeof(ucred))>
          control;
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t bytes = 0;
  do {
    bytes = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (bytes < 0 && errno == EINTR);
  if (bytes < 0) {
    received.kind = errno == EAGAIN ? Received::Kind::nothing : Received::Kind::closed;
    return received;
  }
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_RIGHTS) {
      const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int number = -1;
        std::memcpy(&number, CMSG_DATA(header) + i * sizeof(int), sizeof number);
        received.descriptors.emplace_back(number);
      }
    } else if (header->cmsg_type == SCM_CREDENTIALS) {
      ucred credentials{};
      std::memcpy(&credentials, CMSG_DATA(header), sizeof credentials);
      received.credentials = credentials;
    }
  }
  received.bytes = static_cast<std::size_t>(bytes);
  const bool cut = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  if (cut || received.descriptors.size() > descriptors_expected) {
    received.descriptors.clear();
    received.kind = Received::Kind::malformed;
  } else {
    // A SEQPACKET peer cannot send an empty frame of ours: none is shorter than its header.
    received.kind = bytes == 0 ? Received::Kind::closed : Received::Kind::frame;
  }
  return received;
}

}  // namespace forebay::wire
