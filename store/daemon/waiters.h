// SPDX-License-Identifier: Apache-2.0
// Waiters: who waits for which version to be sealed.
//
// A seal wakes exactly those whom it satisfies; nobody polls. Owned by the daemon's thread; sees no
// clock but the time it is told.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "store/daemon/clock.h"
#include "store/daemon/ticket.h"
#include "store/shm/index_map.h"

namespace forebay::daemon {

// What a waiter wants of an id: this version, or any above `after`.
struct VersionWish {
  std::uint64_t exact = 0;  // 0: any above `after`
  std::uint64_t after = 0;
  bool satisfied_by(std::uint64_t version) const {
    return exact != 0 ? version == exact : version > after;
  }
};

class Waiters {
 public:
  void park(Ticket ticket, const shm::Key& key, VersionWish wish, TimePoint deadline);

  // Takes out and returns the waiters whom this version satisfies, in order of arrival.
  std::vector<Ticket> wake(const shm::Key& key, std::uint64_t version);
  // Takes out and returns those whose time is up.
  std::vector<Ticket> expire(TimePoint now);
  // The session has ended: its waits are void.
  void drop(SessionId session);

  std::optional<TimePoint> next_deadline() const;
  std::size_t count() const { return count_; }

 private:
  struct Waiter {
    Ticket ticket;
    VersionWish wish;
    TimePoint deadline;
  };
  struct KeyHash {
    std::size_t operator()(const shm::Key& key) const { return key.low; }
  };
  using ByKey = std::unordered_map<shm::Key, std::vector<Waiter>, KeyHash>;

  void forget_deadline(const shm::Key& key, const Waiter& waiter);
  template <class Leaves>
  std::vector<Ticket> take(const shm::Key& key, Leaves&& leaves);

  ByKey by_key_;
  std::multimap<TimePoint, std::pair<Ticket, shm::Key>> by_deadline_;
  std::unordered_map<SessionId, std::vector<shm::Key>> by_session_;
  std::size_t count_ = 0;
};

}  // namespace forebay::daemon
