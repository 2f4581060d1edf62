// SPDX-License-Identifier: Apache-2.0
// Time as the daemon's rules see it: they are told, they never look.
#pragma once

#include <chrono>
#include <cstdint>

namespace forebay::daemon {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

// The moment `timeout_ns` after `now`, without running over the end of time.
inline TimePoint deadline_after(TimePoint now, std::uint64_t timeout_ns) {
  constexpr std::uint64_t longest = std::uint64_t{365} * 24 * 3600 * 1'000'000'000;
  return now + std::chrono::nanoseconds(timeout_ns < longest ? timeout_ns : longest);
}

}  // namespace forebay::daemon
