// SPDX-License-Identifier: Apache-2.0
// Waker: an eventfd, by which any thread ends an epoll_wait.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

#include "store/descriptor.h"

namespace forebay::spill {

class Waker {
 public:
  Waker() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  explicit operator bool() const { return static_cast<bool>(event_); }
  int get() const { return event_.get(); }
  void wake() {
    const std::uint64_t one = 1;
    (void)!::write(event_.get(), &one, sizeof one);
  }
  void clear() {
    std::uint64_t count = 0;
    (void)!::read(event_.get(), &count, sizeof count);
  }

 private:
  Descriptor event_;
};

}  // namespace forebay::spill
