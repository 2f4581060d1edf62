// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace forebay::bench {

// POSIX shared memory that nobody has touched.
class ColdShm {
 public:
  explicit ColdShm(std::size_t bytes) : bytes_(bytes) {
    const int object = ::memfd_create("bench", MFD_CLOEXEC);
    if (object < 0 || ::ftruncate(object, static_cast<off_t>(bytes)) != 0) std::abort();
    data_ = static_cast<char*>(
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, object, 0));
    ::close(object);
    if (data_ == MAP_FAILED) std::abort();
  }
  ~ColdShm() { ::munmap(data_, bytes_); }
  ColdShm(const ColdShm&) = delete;
  ColdShm& operator=(const ColdShm&) = delete;
  char* data() const { return data_; }

 private:
  std::size_t bytes_;
  char* data_;
};

// The same as the store has it: every page there, and in this process's page table.
class WarmShm : public ColdShm {
 public:
  explicit WarmShm(std::size_t bytes) : ColdShm(bytes) { std::memset(data(), 1, bytes); }
};

}  // namespace forebay::bench
