// SPDX-License-Identifier: Apache-2.0
// A value that a test and its forked children see together.
#pragma once

#include <sys/mman.h>

#include <new>
#include <stdexcept>

namespace forebay::test {

// For trivially destructible things: numbers, std::atomic, arrays of them.
template <class T>
class Shared {
 public:
  Shared() {
    void* const memory = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no shared memory");
    value_ = new (memory) T{};
  }
  ~Shared() { ::munmap(static_cast<void*>(value_), sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  T& operator*() const { return *value_; }
  T* operator->() const { return value_; }

 private:
  T* value_;
};

}  // namespace forebay::test
