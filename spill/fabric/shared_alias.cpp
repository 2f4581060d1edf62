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

std::span<const std::byte> pages_around(std::span<const std::byte> bytes) {
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::size_t before = first % page;
  const std::size_t size = (before + bytes.size() + page - 1) / page * page;
  return {bytes.data() - before, size};
}

Result<void> populate(std::span<const std::byte> bytes, bool for_writing) {
  const std::span<const std::byte> pages = pages_around(bytes);
  void* const start = const_cast<std::byte*>(pages.data());
  if (::madvise(start, pages.size(), for_writing ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0)
    return {};
  // Before Linux 5.14; then the pages come when they are touched.
  if (errno == EINVAL) return {};
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
