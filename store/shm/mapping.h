// SPDX-License-Identifier: Apache-2.0
// Mapping: a stretch of a shared-memory object in this process's address space.
//
// Owns the mapping, not the descriptor (which may be closed as soon as the mapping is made). Ranges
// are offsets into the mapping. Not thread-safe, but what it maps is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "store/error.h"

namespace boost::interprocess {
class mapped_region;
}

namespace forebay::shm {

enum class Protection { read, read_write };

class Mapping {
 public:
  Mapping();
  Mapping(Mapping&&) noexcept;
  Mapping& operator=(Mapping&&) noexcept;
  ~Mapping();

  // Maps `bytes` of the object from its start. Nothing is populated, and nothing counts against the
  // memory limits of this process until it is touched.
  static Result<Mapping> map(int descriptor, std::uint64_t bytes, Protection protection);

  std::byte* data() const { return data_; }
  std::uint64_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }

  // Changes what this process may do with a range of whole pages.
  Result<void> protect(std::uint64_t offset, std::uint64_t bytes, Protection protection);

  // A forked child shall not have this mapping at all.
  // Asks for huge pages where memory comes in from now on, and for entries of that size.
  void want_huge_pages();
  void keep_from_children();
  // Core dumps shall not have it.
  void keep_from_dumps();

  // After a fork, in a child that has not inherited the mapping: lets go without unmapping anything.
  void forget();

  // Gives the range page-table entries now, in bulk; false: the kernel cannot, or there is no memory.
  bool populate(std::uint64_t offset, std::uint64_t bytes, Protection protection);

 private:
  std::unique_ptr<boost::interprocess::mapped_region> region_;
  std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
};

// Gives the pages around [address, address + bytes), which are there already, page-table entries now, in
// bulk, fit for whatever the mapping allows. A kernel that cannot (before 5.14) leaves it to faults.
void populate(std::byte* address, std::uint64_t bytes);

// Lets the range at `address` map another object instead, in place, so that pointers into it stay
// right. With `copy_on_write`, later writes are this process's own and reach nobody.
// Async-signal-safe: a forked child may call it.
bool remap_in_place(void* address, std::uint64_t bytes, int descriptor, bool copy_on_write);

// Maps a stretch of whole pages that starts at `offset` once more, for reading and writing: a page is
// the object's until it is written to, then a copy of this process's own. unmap_private ends it.
Result<std::byte*> map_private(int descriptor, std::uint64_t offset, std::uint64_t bytes);
void unmap_private(std::byte* address, std::uint64_t bytes);

}  // namespace forebay::shm
