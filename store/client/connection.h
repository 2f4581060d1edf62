// SPDX-License-Identifier: Apache-2.0
// Connection: one socket to the daemon, shared by the threads of a process.
//
// Every thread sends its own requests; whoever waits and finds nobody reading becomes the reader and
// hands the others their replies, so no thread of ours is needed and nobody waits for another's
// request. A connection that broke stays broken: the core makes a new one.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "store/error.h"
#include "store/wire/codec.h"
#include "store/wire/message.h"
#include "store/wire/socket.h"

namespace forebay::client {

using wire::Deadline;

// A reply, with the frame that its texts point into.
template <class Message>
struct Answer {
  Message message;
  std::vector<std::byte> frame;
  std::vector<Descriptor> descriptors;
};

class Connection {
 public:
  explicit Connection(Descriptor socket)
      : socket_(std::move(socket)), buffer_(wire::frame_bytes_max + 1) {}

  // Sends a request and waits for its reply. Fails with disconnected when the connection is or gets
  // broken, with timed_out, or with what the daemon answered.
  template <class Reply, class Request>
  Result<Answer<Reply>> call(const Request& request, Deadline deadline) {
    return call_in_parts<Reply>(std::span(&request, 1), deadline);
  }
  // A request that takes several frames, the last of which is answered.
  template <class Reply, class Request>
  Result<Answer<Reply>> call_in_parts(std::span<const Request> parts, Deadline deadline) {
    Waiter waiter;
    std::vector<std::byte> frame;
    const std::uint32_t number = enroll(waiter);
    for (const Request& part : parts) {
      if (auto encoded = wire::encode_request(part, number, frame); !encoded) {
        withdraw(number);
        return fail(std::move(encoded.error()));
      }
      if (auto sent = wire::send_frame_by(socket_.get(), frame, deadline); !sent) {
        withdraw(number);
        if (sent.error().is(Errc::disconnected)) break_off();
        return fail(std::move(sent.error()));
      }
    }
    if (auto arrived = wait_for_reply(waiter, number, deadline); !arrived)
      return fail(std::move(arrived.error()));
    auto reply = wire::decode_reply<Reply>(waiter.frame);
    if (!reply) return fail(std::move(reply.error()));
    return Answer<Reply>{std::move(*reply), std::move(waiter.frame),
                         std::move(waiter.descriptors)};
  }

  // Sends a message that has no reply, if that does not block.
  template <class Request>
  void tell(const Request& request) {
    std::vector<std::byte> frame;
    if (!wire::encode_request(request, 0, frame)) return;
    if (wire::send_frame(socket_.get(), frame, {}) == wire::Sent::closed) break_off();
  }

  // The same, waiting until the daemon takes it.
  template <class Request>
  Result<void> tell_by(const Request& request, Deadline deadline) {
    std::vector<std::byte> frame;
    if (auto encoded = wire::encode_request(request, 0, frame); !encoded) return encoded;
    auto sent = wire::send_frame_by(socket_.get(), frame, deadline);
    if (!sent && sent.error().is(Errc::disconnected)) break_off();
    return sent;
  }

  bool broken() const { return broken_.load(std::memory_order_acquire); }
  void break_off();
  int socket() const { return socket_.get(); }

  // Around a fork: nobody else changes anything in between. In the child, what other threads waited
  // for is void, and the socket becomes the child's own.
  void lock_for_fork() { mutex_.lock(); }
  void unlock_in_parent() { mutex_.unlock(); }
  void replace_in_child(Descriptor socket);

 private:
  struct Waiter {
    bool arrived = false;
    std::vector<std::byte> frame;
    std::vector<Descriptor> descriptors;
    std::condition_variable ready;
  };

  std::uint32_t enroll(Waiter& waiter);
  void withdraw(std::uint32_t number);
  Result<void> wait_for_reply(Waiter& waiter, std::uint32_t number, Deadline deadline);
  // Whoever leaves lets another one read in its place, if nobody does.
  void pass_on_reading();
  // Reads one frame and delivers it; the lock is not held while waiting.
  void read_one(std::unique_lock<std::mutex>& lock, Deadline deadline);
  void deliver(std::span<const std::byte> frame, std::vector<Descriptor> descriptors);
  void undo_lost_create(std::span<const std::byte> frame);

  Descriptor socket_;
  std::mutex mutex_;
  std::unordered_map<std::uint32_t, Waiter*> waiters_;  // Guarded by mutex_.
  std::uint32_t next_number_ = 1;                        // Guarded by mutex_.
  bool somebody_reads_ = false;                          // Guarded by mutex_.
  std::vector<std::byte> buffer_;                        // The reader's.
  std::atomic<bool> broken_{false};
};

}  // namespace forebay::client
