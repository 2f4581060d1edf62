// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/shared_alias.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include "store/check.h"

namespace forebay::spill::fabric {

namespace {

std::size_t page_bytes() {
  static const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return page;
}

}  // namespace

std::span<const std::byte> pages_around(std::span<const std::byte> bytes) {
  const std::uintptr_t page = page_bytes();
  const auto first = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::size_t before = first % page;
  const std::size_t size = (before + bytes.size() + page - 1) / page * page;
  return {bytes.data() - before, size};
}

namespace {

// Since Linux 5.14.
bool kernel_populates() {
  static const bool known = [] {
    void* const page = ::mmap(nullptr, page_bytes(), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return false;
    const bool populated = ::madvise(page, page_bytes(), MADV_POPULATE_WRITE) == 0;
    (void)::munmap(page, page_bytes());
    return populated;
  }();
  return known;
}

// By hand; where there is no room for a page, this is SIGBUS.
void touch(std::span<const std::byte> pages, bool for_writing) {
  for (std::size_t at = 0; at < pages.size(); at += page_bytes()) {
    auto* const byte = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(&pages[at]));
    // Others may be writing there.
    if (for_writing)
      __atomic_fetch_or(byte, 0, __ATOMIC_RELAXED);
    else
      (void)__atomic_load_n(byte, __ATOMIC_RELAXED);
  }
}

}  // namespace

Result<void> populate(std::span<const std::byte> bytes, bool for_writing) {
  const std::span<const std::byte> pages = pages_around(bytes);
  if (!kernel_populates()) {
    touch(pages, for_writing);
    return {};
  }
  void* const start = const_cast<std::byte*>(pages.data());
  if (::madvise(start, pages.size(), for_writing ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0)
    return {};
  return fail_errno(errno, "no memory behind " + std::to_string(bytes.size()) +
                               " bytes that transfers are to reach; is the file system full?");
}

Result<SharedAlias> SharedAlias::make(std::span<std::byte> memory) {
  const std::span<const std::byte> pages = pages_around(memory);
  // Of size 0: the pages stay where they are and get a second place. For shared mappings alone.
  void* const alias =
      ::mremap(const_cast<std::byte*>(pages.data()), 0, pages.size(), MREMAP_MAYMOVE);
  if (alias == MAP_FAILED) {
    if (errno != EINVAL)
      return fail_errno(errno, "cannot map a slab of " + std::to_string(memory.size()) +
                                   " bytes a second time");
    if (auto there = populate(memory, true); !there) return fail(there.error());
    return SharedAlias(memory, nullptr, 0);
  }
  SharedAlias made({static_cast<std::byte*>(alias) + (memory.data() - pages.data()), memory.size()},
                   alias, pages.size());
  if (auto there = populate(made.bytes(), true); !there) return fail(there.error());
  return made;
}

SharedAlias::SharedAlias(SharedAlias&& other) noexcept
    : bytes_(other.bytes_), start_(other.start_), owned_(std::exchange(other.owned_, 0)) {}

SharedAlias::~SharedAlias() {
  if (owned_ > 0) (void)::munmap(start_, owned_);
}

void SharedAlias::cut() {
  if (owned_ == 0) return;
  // Not PROT_NONE: providers also copy by themselves, and would die of it.
  void* const nothing = ::mmap(start_, owned_, PROT_READ | PROT_WRITE,
                               MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  // Only a lack of mappings can make it fail; to go on would leave a slab open to who has lost it.
  STORE_CHECK(nothing == start_, "a withdrawn slab can be cut off");
}

}  // namespace forebay::spill::fabric
