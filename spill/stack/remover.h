// SPDX-License-Identifier: Apache-2.0
// Remover: takes away what is wanted no more, as soon as the tier that holds it answers.
//
// One queue for each incarnation, each with its own back-off, bounded: what does not fit is left to
// the next sweep of that tier. An item that is being read is removed when the reading has ended.
// What lay in an incarnation that has gone has gone with it. Any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "spill/stack/tier_set.h"
#include "spill/stack/workers.h"

namespace forebay::spill {

class Remover {
 public:
  // Told of an incarnation of which a removal was dropped.
  using Overflowed = std::function<void(std::uint64_t incarnation)>;

  Remover(TierSet& tiers, Workers& workers, std::size_t queued_max)
      : tiers_(tiers), workers_(workers), queued_max_(queued_max) {}

  void on_overflow(Overflowed overflowed) { overflowed_ = std::move(overflowed); }

  void remove(const TierKey& key, const TierPlace& place);

  // Between these, the item stays.
  void hold(const TierKey& key);
  void release(const TierKey& key);

  std::size_t waiting() const;

 private:
  struct Removal {
    TierKey key;
    TierPlace place;
  };
  struct Queue {
    std::deque<Removal> waiting;
    unsigned open = 0;
    std::chrono::milliseconds back_off{0};
    TierClock::time_point not_before{};
    bool timer = false;
  };
  struct Hold {
    unsigned readers = 0;
    std::vector<TierPlace> removals;
  };
  struct KeyHash {
    std::size_t operator()(const TierKey& key) const {
      return std::hash<std::uint64_t>{}(key.number);
    }
  };

  void pump(std::uint64_t incarnation);
  void answered(std::uint64_t incarnation, Removal removal, const Result<void>& result);
  void try_later(std::uint64_t incarnation, Queue& queue);

  TierSet& tiers_;
  Workers& workers_;
  const std::size_t queued_max_;
  Overflowed overflowed_;  // set once, before anything else
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, Queue> queues_;       // Guarded by mutex_.
  std::unordered_map<TierKey, Hold, KeyHash> held_;       // Guarded by mutex_.
};

}  // namespace forebay::spill
