// SPDX-License-Identifier: Apache-2.0
// ClaimWaiters: who asked for a version that somebody else is making.
//
// When that ends, the first of them takes over, or all of them have what they wanted. Owned by the
// daemon's thread.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "store/daemon/clock.h"
#include "store/daemon/ticket.h"
#include "store/shm/index_map.h"

namespace forebay::daemon {

struct NewClaim {
  std::string id = {};
  std::uint64_t version = 0;  // 0: the newest
  std::uint64_t token = 0;
  std::uint32_t owner_slot = 0;
  std::uint32_t writer_uid = 0;
};

class ClaimWaiters {
 public:
  struct Waiter {
    Ticket ticket;
    NewClaim claim;
    TimePoint deadline;
  };

  void park(const shm::Key& key, Waiter waiter) {
    by_deadline_.emplace(waiter.deadline, key);
    by_key_[key].push_back(std::move(waiter));
    ++count_;
  }
  // Takes out and returns, in order of arrival, those of an id of whom `leaves` is true.
  template <class Leaves>
  std::vector<Waiter> take(const shm::Key& key, Leaves&& leaves) {
    std::vector<Waiter> taken;
    const auto found = by_key_.find(key);
    if (found == by_key_.end()) return taken;
    for (auto waiter = found->second.begin(); waiter != found->second.end();) {
      if (!leaves(*waiter)) {
        ++waiter;
        continue;
      }
      forget_deadline(key, waiter->deadline);
      taken.push_back(std::move(*waiter));
      waiter = found->second.erase(waiter);
      --count_;
    }
    if (found->second.empty()) by_key_.erase(found);
    return taken;
  }
  // The same of all ids. Looks at every waiter: for what happens seldom.
  template <class Leaves>
  std::vector<Waiter> take_of_all(Leaves&& leaves) {
    std::vector<shm::Key> keys;
    for (const auto& [key, waiters] : by_key_) keys.push_back(key);
    std::vector<Waiter> taken;
    for (const shm::Key& key : keys)
      for (Waiter& waiter : take(key, leaves)) taken.push_back(std::move(waiter));
    return taken;
  }
  std::vector<Waiter> expire(TimePoint now) {
    std::vector<Waiter> late;
    while (!by_deadline_.empty() && by_deadline_.begin()->first <= now) {
      const shm::Key key = by_deadline_.begin()->second;
      for (Waiter& waiter :
           take(key, [now](const Waiter& waiter) { return waiter.deadline <= now; }))
        late.push_back(std::move(waiter));
    }
    return late;
  }
  std::optional<TimePoint> next_deadline() const {
    return by_deadline_.empty() ? std::nullopt : std::optional(by_deadline_.begin()->first);
  }
  std::size_t count() const { return count_; }

 private:
  struct KeyHash {
    std::size_t operator()(const shm::Key& key) const { return key.low; }
  };
  void forget_deadline(const shm::Key& key, TimePoint deadline) {
    for (auto [at, end] = by_deadline_.equal_range(deadline); at != end; ++at)
      if (at->second == key) {
        by_deadline_.erase(at);
        return;
      }
  }
  std::unordered_map<shm::Key, std::list<Waiter>, KeyHash> by_key_;
  std::multimap<TimePoint, shm::Key> by_deadline_;
  std::size_t count_ = 0;
};

}  // namespace forebay::daemon
