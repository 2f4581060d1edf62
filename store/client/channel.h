// SPDX-License-Identifier: Apache-2.0
// Channel: a further connection of a process that is connected already, for requests whose answers
// nobody waits for.
//
// Belongs to the thread of its owner, who lends it an epoll instance: that is readable when the
// channel has something to do. Only `connect` waits; the rest does what can be done now. When the
// daemon goes away, what was asked is void: the channel comes back with the pauses that the core
// makes, if its owner still wants it, and the owner asks again.
//
// In a forked child it is void: what is done to the copies of its descriptors there does nothing to
// the parent's connection.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "store/client/core.h"
#include "store/client/timer.h"
#include "store/error.h"
#include "store/wire/codec.h"
#include "store/wire/message.h"
#include "store/wire/socket.h"

namespace forebay::client {

class Channel {
 public:
  // The numbers of its owner's requests start here; those below are its own.
  static constexpr std::uint32_t first_number = 2;

  // An epoll instance for it to be in.
  static Result<Descriptor> make_poll_set();

  // Not connected yet. `poll_set` outlives it.
  Channel(std::shared_ptr<Core> core, int poll_set);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Connects, and brings the process's main connection back if need be. Fails as connecting does.
  Result<void> connect(Deadline deadline);
  bool connected() const { return state_ == State::connected; }
  // Why it is not connected.
  const Error& trouble() const { return trouble_; }
  // This is a forked child of the process that made it.
  bool in_child() const { return core_->fork_generation() != fork_generation_; }

  // Sends now or when the socket takes it. Nothing is sent while it is not connected.
  template <class Request>
  void send(const Request& request, std::uint32_t number) {
    if (!connected()) return;
    std::vector<std::byte> frame;
    const auto encoded = wire::encode_request(request, number, frame);
    STORE_CHECK(encoded.has_value(), "what a channel carries fits into a frame");
    post(std::move(frame));
  }

  // Hands over each frame that has come, as deliver(number, frame), and notices when the daemon has
  // gone.
  template <class Deliver>
  void receive(Deliver&& deliver) {
    while (const auto frame = next_frame()) deliver(frame->number, frame->bytes);
  }

  // To be called whenever the poll set is readable, behind `receive`. Sends what waits, and connects
  // again if it is `wanted`. True: this is another connection, on which nothing has been asked yet.
  bool tend(bool wanted);

  // Ends it for good.
  void close();

 private:
  enum class State { away, greeting, connected, closed };
  struct Frame {
    std::uint32_t number;
    std::span<const std::byte> bytes;  // whole; valid until the next one
  };

  Result<void> greet();
  void greeted(std::span<const std::byte> frame);
  std::optional<Frame> next_frame();
  void post(std::vector<std::byte> frame);
  void flush();
  void watch(int operation, int descriptor, std::uint32_t events) const;
  void lose(Error why);

  std::shared_ptr<Core> core_;
  int poll_set_;
  std::uint64_t fork_generation_;
  State state_ = State::away;
  bool fresh_ = false;  // connected, and the owner has not been told
  Descriptor socket_;
  std::deque<std::vector<std::byte>> outbox_;  // what the socket has not taken yet
  std::vector<std::byte> buffer_;
  Timer retry_;
  Deadline next_attempt_{};  // not before
  std::chrono::milliseconds pause_;
  Error trouble_;
};

}  // namespace forebay::client
