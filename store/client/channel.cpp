// SPDX-License-Identifier: Apache-2.0
#include "store/client/channel.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "store/shm/layout.h"

namespace forebay::client {
namespace {

constexpr std::uint32_t hello_number = 1;
// How long the main connection may take to come back where somebody listens again.
constexpr auto greeting_patience = std::chrono::milliseconds(100);
constexpr auto first_pause = std::chrono::milliseconds(5);
constexpr auto longest_pause = std::chrono::milliseconds(200);

Deadline now() { return std::chrono::steady_clock::now(); }

}  // namespace

Result<Descriptor> Channel::make_poll_set() {
  Descriptor poll_set(::epoll_create1(EPOLL_CLOEXEC));
  if (!poll_set) return fail_errno(errno, "cannot make an epoll instance");
  return poll_set;
}

Channel::Channel(std::shared_ptr<Core> core, int poll_set)
    : core_(std::move(core)),
      poll_set_(poll_set),
      fork_generation_(core_->fork_generation()),
      buffer_(wire::frame_bytes_max + 1),
      pause_(first_pause),
      trouble_{make_error_code(Errc::disconnected), "not connected yet"} {
  if (retry_) watch(EPOLL_CTL_ADD, retry_.fd(), EPOLLIN);
}

Channel::~Channel() { close(); }

void Channel::close() {
  // The set and the connection are the parent's: here, only the copies go.
  if (in_child()) return;
  if (state_ == State::closed) return;
  lose({make_error_code(Errc::bad_state), "closed"});
  if (retry_) watch(EPOLL_CTL_DEL, retry_.fd(), 0);
  state_ = State::closed;
}

void Channel::watch(int operation, int descriptor, std::uint32_t events) const {
  epoll_event event{};
  event.events = events;
  ::epoll_ctl(poll_set_, operation, descriptor, &event);
}

// ------------------------------------------------------------------------------------ connecting

Result<void> Channel::connect(Deadline deadline) {
  if (!retry_) return fail(Errc::limit_reached, "no descriptor for a timer: see ulimit -n");
  auto pause = first_pause;
  while (true) {
    if (auto main = core_->ensure_connected(deadline); !main) return main;
    auto sent = greet();
    while (sent && state_ == State::greeting) {
      if (!wire::wait_readable(socket_.get(), deadline)) {
        lose({make_error_code(Errc::timed_out), "the daemon has not answered in time"});
        return fail(trouble_);
      }
      receive([](std::uint32_t, std::span<const std::byte>) {});
    }
    if (connected()) {
      fresh_ = false;
      return {};
    }
    if (!sent) trouble_ = std::move(sent.error());
    // The daemon ended just now, or another one took its place and does not know this process yet.
    const bool passes = trouble_.is(Errc::disconnected) || (sent && trouble_.is(Errc::bad_state));
    if (!passes || now() + pause >= deadline) return fail(trouble_);
    std::this_thread::sleep_for(pause);
    pause = std::min<std::chrono::milliseconds>(pause * 2, longest_pause);
  }
}

// Connects and says hello; the answer comes as any other does.
Result<void> Channel::greet() {
  // First, because it fails at once if nobody listens: nothing waits then.
  auto socket = wire::connect_to(core_->address(), now());
  if (!socket) return fail(std::move(socket.error()));
  const Deadline deadline = now() + greeting_patience;
  // Else the daemon, which may be another one by now, would not know this process's table.
  if (auto main = core_->ensure_connected(deadline); !main) return main;
  std::vector<std::byte> frame;
  {
    const auto share = core_->share(deadline);
    if (!share) return fail(share.error());
    wire::HelloRequest hello;
    hello.layout = shm::layout_version;
    hello.namespace_name = core_->namespace_name();
    hello.store = (*share)->store();
    hello.slot = (*share)->slot();
    hello.token = (*share)->token();
    hello.side = 1;
    if (auto encoded = wire::encode_request(hello, hello_number, frame); !encoded) return encoded;
  }
  if (wire::send_frame(socket->get(), frame, {}) != wire::Sent::all)
    return fail(Errc::disconnected, "the daemon has closed the connection");
  socket_ = std::move(*socket);
  watch(EPOLL_CTL_ADD, socket_.get(), EPOLLIN);
  state_ = State::greeting;
  return {};
}

void Channel::greeted(std::span<const std::byte> frame) {
  if (auto hello = wire::decode_reply<wire::HelloReply>(frame); !hello)
    return lose(std::move(hello.error()));
  state_ = State::connected;
  fresh_ = true;
  pause_ = first_pause;
}

bool Channel::tend(bool wanted) {
  if (state_ == State::closed) return false;
  flush();
  if (state_ != State::away || !wanted) {
    retry_.set(std::nullopt);
    return std::exchange(fresh_, false);
  }
  if (now() >= next_attempt_) {
    auto sent = greet();
    // Also when it worked: the daemon may be one that closes every connection.
    next_attempt_ = now() + pause_;
    // Jitter by the token counter: a thousand clients do not all come back at once.
    pause_ = std::min<std::chrono::milliseconds>(
        pause_ * 2 + std::chrono::milliseconds(core_->new_token() % 5), longest_pause);
    if (sent) {
      retry_.set(std::nullopt);
      return false;
    }
    trouble_ = std::move(sent.error());
  }
  retry_.set(next_attempt_);
  return false;
}

void Channel::lose(Error why) {
  if (socket_) {
    // By name, and for both ends: while a forked child holds copies, closing ours would do neither.
    watch(EPOLL_CTL_DEL, socket_.get(), 0);
    ::shutdown(socket_.get(), SHUT_RDWR);
    socket_.reset();
  }
  outbox_.clear();
  fresh_ = false;
  state_ = State::away;
  trouble_ = std::move(why);
}

// --------------------------------------------------------------------------------------- talking

void Channel::post(std::vector<std::byte> frame) {
  if (outbox_.empty()) {
    // A socket that is closed says so to whoever reads it next: that is where it is dealt with.
    if (wire::send_frame(socket_.get(), frame, {}) != wire::Sent::would_block) return;
    watch(EPOLL_CTL_MOD, socket_.get(), EPOLLIN | EPOLLOUT);
  }
  outbox_.push_back(std::move(frame));
}

void Channel::flush() {
  if (outbox_.empty()) return;
  while (!outbox_.empty() &&
         wire::send_frame(socket_.get(), outbox_.front(), {}) != wire::Sent::would_block)
    outbox_.pop_front();
  if (outbox_.empty()) watch(EPOLL_CTL_MOD, socket_.get(), EPOLLIN);
}

std::optional<Channel::Frame> Channel::next_frame() {
  while (socket_) {
    const wire::Received received = wire::receive_frame(socket_.get(), buffer_, 0);
    const auto bytes = std::span<const std::byte>(buffer_).first(received.bytes);
    switch (received.kind) {
      case wire::Received::Kind::nothing:
        return std::nullopt;
      case wire::Received::Kind::closed:
        lose({make_error_code(Errc::disconnected), "the daemon has closed the connection"});
        return std::nullopt;
      case wire::Received::Kind::malformed:
        lose({make_error_code(Errc::bad_message), "the daemon sent what is not a frame"});
        return std::nullopt;
      case wire::Received::Kind::frame:
        break;
    }
    const auto header = wire::decode_header(bytes);
    if (!header) {
      lose(header.error());
      return std::nullopt;
    }
    if (header->number != hello_number) return Frame{header->number, bytes};
    if (state_ == State::greeting) greeted(bytes);
  }
  return std::nullopt;
}

}  // namespace forebay::client
