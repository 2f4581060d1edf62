// SPDX-License-Identifier: Apache-2.0
#include "store/client/connection.h"

#include <sys/socket.h>

#include <new>

namespace forebay::client {

std::uint32_t Connection::enroll(Waiter& waiter) {
  const std::lock_guard lock(mutex_);
  std::uint32_t number = next_number_++;
  if (number == 0) number = next_number_++;  // 0 is for messages without a reply
  waiters_.emplace(number, &waiter);
  return number;
}

void Connection::withdraw(std::uint32_t number) {
  const std::lock_guard lock(mutex_);
  waiters_.erase(number);
}

void Connection::break_off() {
  broken_.store(true, std::memory_order_release);
  // Whoever reads right now must wake up.
  ::shutdown(socket_.get(), SHUT_RDWR);
  const std::lock_guard lock(mutex_);
  for (auto& [number, waiter] : waiters_) waiter->ready.notify_one();
}

Result<void> Connection::wait_for_reply(Waiter& waiter, std::uint32_t number, Deadline deadline) {
  std::unique_lock lock(mutex_);
  while (!waiter.arrived) {
    const bool late = std::chrono::steady_clock::now() >= deadline;
    if (broken() || late) {
      waiters_.erase(number);
      pass_on_reading();
      if (broken()) return fail(Errc::disconnected, "the daemon has closed the connection");
      return fail(Errc::timed_out, "the daemon has not answered in time");
    }
    if (somebody_reads_) {
      waiter.ready.wait_until(lock, deadline);
      continue;
    }
    somebody_reads_ = true;
    read_one(lock, deadline);
    somebody_reads_ = false;
  }
  pass_on_reading();
  return {};
}

void Connection::pass_on_reading() {
  if (!somebody_reads_ && !waiters_.empty()) waiters_.begin()->second->ready.notify_one();
}

void Connection::read_one(std::unique_lock<std::mutex>& lock, Deadline deadline) {
  lock.unlock();
  wire::Received received =
      wire::receive_frame(socket_.get(), buffer_, wire::descriptors_max);
  if (received.kind == wire::Received::Kind::nothing && wire::wait_readable(socket_.get(), deadline))
    received = wire::receive_frame(socket_.get(), buffer_, wire::descriptors_max);
  switch (received.kind) {
    case wire::Received::Kind::nothing:
      break;
    case wire::Received::Kind::frame:
      lock.lock();
      deliver(std::span(buffer_).first(received.bytes), std::move(received.descriptors));
      return;
    case wire::Received::Kind::closed:
    case wire::Received::Kind::malformed:
      break_off();
      break;
  }
  lock.lock();
}

void Connection::deliver(std::span<const std::byte> frame,
                         std::vector<Descriptor> descriptors) {
  const auto header = wire::decode_header(frame);
  if (!header) {
    broken_.store(true, std::memory_order_release);
    return;
  }
  const auto found = waiters_.find(header->number);
  if (found == waiters_.end()) {
    undo_lost_create(frame);
    return;
  }
  Waiter& waiter = *found->second;
  waiters_.erase(found);
  waiter.frame.assign(frame.begin(), frame.end());
  waiter.descriptors = std::move(descriptors);
  waiter.arrived = true;
  waiter.ready.notify_one();
}

// A create that came after its caller had given up: nobody will fill or abort it.
void Connection::undo_lost_create(std::span<const std::byte> frame) {
  const auto header = wire::decode_header(frame);
  if (header->op != (static_cast<std::uint16_t>(wire::Op::create) | wire::reply_bit)) return;
  const auto created = wire::decode_reply<wire::CreateReply>(frame);
  if (!created) return;
  std::vector<std::byte> request;
  const wire::AbortRequest abort{created->store, created->entry, created->serial, 1, 0};
  if (wire::encode_request(abort, 0, request))
    (void)wire::send_frame(socket_.get(), request, {});
}

void Connection::replace_in_child(Descriptor socket) {
  // The other threads, and what they waited for, do not exist here.
  waiters_.clear();
  somebody_reads_ = false;
  broken_.store(!socket, std::memory_order_release);
  // Closes the child's copy only; the parent's connection stays.
  socket_ = std::move(socket);
  mutex_.unlock();
}

}  // namespace forebay::client
