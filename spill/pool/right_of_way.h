// SPDX-License-Identifier: Apache-2.0
// RightOfWay: what the data links of one pool know of each other. While somebody waits for bytes on one
// of them, the others send and fetch little at a time, so that the pool, and the processors at both
// ends, are soon free for him.
//
// Any thread may call; nobody waits for anybody.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "store/tier.h"

namespace forebay::spill {

class RightOfWay {
 public:
  // How long it lasts when nobody waits any more: who waited for one thing mostly wants another next.
  static constexpr std::chrono::milliseconds lasts{2};

  void begin() { waiting_.fetch_add(1, std::memory_order_relaxed); }
  void end(TierClock::time_point now) {
    until_.store((now + lasts).time_since_epoch().count(), std::memory_order_relaxed);
    waiting_.fetch_sub(1, std::memory_order_relaxed);
  }
  bool claimed(TierClock::time_point now) const {
    return waiting_.load(std::memory_order_relaxed) > 0 ||
           now.time_since_epoch().count() < until_.load(std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t> waiting_{0};
  std::atomic<TierClock::rep> until_{0};
};

}  // namespace forebay::spill
