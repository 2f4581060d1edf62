// SPDX-License-Identifier: Apache-2.0
// Timer: a descriptor that is readable from a point in time on.
#pragma once

#include <sys/timerfd.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "store/descriptor.h"
#include "store/wire/socket.h"

namespace forebay::client {

class Timer {
 public:
  Timer() : descriptor_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {}

  int fd() const { return descriptor_.get(); }
  explicit operator bool() const { return static_cast<bool>(descriptor_); }

  // None: never. What was readable before is so no more.
  void set(std::optional<wire::Deadline> at) {
    if (at == set_) return;
    itimerspec spec{};
    if (at) {
      // All zero would mean never; a point in the past means at once.
      const auto since = std::max(at->time_since_epoch(), std::chrono::nanoseconds(1));
      const auto seconds = std::chrono::floor<std::chrono::seconds>(since);
      spec.it_value.tv_sec = seconds.count();
      spec.it_value.tv_nsec = (since - seconds).count();
    }
    ::timerfd_settime(descriptor_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
    set_ = at;
  }

 private:
  static_assert(std::is_same_v<wire::Deadline::duration, std::chrono::nanoseconds>);
  Descriptor descriptor_;
  std::optional<wire::Deadline> set_;
};

}  // namespace forebay::client
