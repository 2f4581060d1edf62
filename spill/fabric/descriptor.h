// SPDX-License-Identifier: Apache-2.0
// Descriptor: owns one file descriptor.
#pragma once

#include <unistd.h>

namespace forebay::spill::fabric {

class Descriptor {
 public:
  Descriptor() = default;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  // Once.
  bool take(int number) {
    number_ = number;
    return number >= 0;
  }
  int get() const { return number_; }

 private:
  int number_ = -1;
};

}  // namespace forebay::spill::fabric
