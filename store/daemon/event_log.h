// SPDX-License-Identifier: Apache-2.0
// EventLog: the last events of the store, numbered in the order in which they happened.
//
// It remembers a fixed number of them and forgets the oldest for the newest, so that a reader who
// is too slow costs nothing; he is told how many he missed. Memory grows with the events that there
// were, up to that number of them.
//
// Owned by the daemon's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "store/subscription.h"

namespace forebay::daemon {

struct StoreEvent {
  EventKind kind{};
  RemovalCause cause{};  // of a removal
  std::string id;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  std::uint64_t size = 0;  // payload bytes
};

class EventLog {
 public:
  // What an event takes in an answer, besides its id.
  static constexpr std::size_t event_bytes = 40;

  // Remembers `capacity` events, at least one. The first will get the number `next`; those before
  // count as forgotten.
  EventLog(std::size_t capacity, std::uint64_t next);

  // Forgets the oldest event when full. The new one is copied into its memory.
  void record(const StoreEvent& event);

  // The number that the next event will get.
  std::uint64_t next() const { return next_; }

  struct Batch {
    std::uint64_t cursor = 0;  // the number after the last event that was looked at
    std::uint64_t missed = 0;  // so many, of any id, were asked for and are forgotten
    std::vector<const StoreEvent*> events;
  };
  // The events from number `cursor` on whose id starts with `prefix`, in order, until they would
  // take more than `bytes_max` in an answer; but the first of them always, for a reader must get
  // on. A cursor above next() is taken for next(). Valid until the next record.
  Batch read(std::string_view prefix, std::uint64_t cursor, std::size_t bytes_max) const;

 private:
  std::size_t place(std::uint64_t number) const {
    return static_cast<std::size_t>((number - first_) % capacity_);
  }

  const std::size_t capacity_;
  const std::uint64_t first_;  // number of the first event there was; stands at place 0
  std::uint64_t next_;
  std::vector<StoreEvent> ring_;  // those with the numbers from next_ - ring_.size() on
};

}  // namespace forebay::daemon
