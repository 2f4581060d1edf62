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

// The time that people read, and that outlives the daemon: nanoseconds since 1970.
inline std::uint64_t wall_clock_ns() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

}  // namespace forebay::daemon
