// SPDX-License-Identifier: Apache-2.0
#include "store/shm/mapping.h"

#include <sys/mman.h>

#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <utility>
#include <vector>

#include "store/shm/layout.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

namespace forebay::shm {
namespace {

namespace ipc = boost::interprocess;

// What Boost.Interprocess maps: our descriptors come from a socket, not from a name.
class Mappable {
 public:
  explicit Mappable(int descriptor) : handle_{} {
    handle_.handle = descriptor;
    handle_.is_xsi = false;
  }
  ipc::mapping_handle_t get_mapping_handle() const { return handle_; }

 private:
  ipc::mapping_handle_t handle_;
};

}  // namespace

Mapping::Mapping() = default;
Mapping::Mapping(Mapping&& other) noexcept
    : region_(std::move(other.region_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}
Mapping& Mapping::operator=(Mapping&& other) noexcept {
  region_ = std::move(other.region_);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}
Mapping::~Mapping() = default;

Result<Mapping> Mapping::map(int descriptor, std::uint64_t bytes, Protection protection) {
  try {
    // An arena's address space is far larger than its memory, so nothing may be reserved for it.
    auto region = std::make_unique<ipc::mapped_region>(
        Mappable(descriptor), protection == Protection::read ? ipc::read_only : ipc::read_write, 0,
        bytes, nullptr, MAP_SHARED | MAP_NORESERVE);
    Mapping mapping;
    mapping.data_ = static_cast<std::byte*>(region->get_address());
    mapping.size_ = bytes;
    mapping.region_ = std::move(region);
    return mapping;
  } catch (const ipc::interprocess_exception& error) {
    return fail_errno(error.get_native_error(),
                      "cannot map " + std::to_string(bytes) + " bytes of shared memory");
  } catch (const std::bad_alloc&) {
    return fail_errno(ENOMEM, "no memory for a mapping");
  }
}

Result<void> Mapping::protect(std::uint64_t offset, std::uint64_t bytes, Protection protection) {
  const int rights = protection == Protection::read ? PROT_READ : PROT_READ | PROT_WRITE;
  if (::mprotect(data_ + offset, page_align(bytes), rights) != 0) {
    return fail_errno(errno, errno == ENOMEM ? "cannot change the protection of a segment: too many "
                                               "mappings (see vm.max_map_count)"
                                             : "cannot change the protection of a segment");
  }
  return {};
}

void Mapping::want_huge_pages() { ::madvise(data_, size_, MADV_HUGEPAGE); }
void Mapping::keep_from_children() { ::madvise(data_, size_, MADV_DONTFORK); }
void Mapping::keep_from_dumps() { ::madvise(data_, size_, MADV_DONTDUMP); }

void Mapping::forget() {
  // Its destructor would unmap whatever else lies at that address by then, so it never runs. Kept
  // within reach, so that no leak check complains. Without a lock: only a child that has just been
  // forked forgets, and it has one thread.
  static auto* const forgotten = new std::vector<boost::interprocess::mapped_region*>;
  forgotten->push_back(region_.release());
  data_ = nullptr;
  size_ = 0;
}

bool Mapping::populate(std::uint64_t offset, std::uint64_t bytes, Protection protection) {
  const int advice = protection == Protection::read ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;
  return ::madvise(data_ + offset, page_align(bytes), advice) == 0;
}

void populate(std::byte* address, std::uint64_t bytes) {
  // For reading: on shared memory the entries are writable all the same, and this way the kernel puts
  // in many at a time (80 ms for a GiB; 220 for writing, for it then takes each page as a fault).
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const std::uintptr_t start = at / page_bytes * page_bytes;
  ::madvise(reinterpret_cast<void*>(start), page_align(at - start + bytes), MADV_POPULATE_READ);
}

bool remap_in_place(void* address, std::uint64_t bytes, int descriptor, bool copy_on_write) {
  const int sharing = copy_on_write ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED | MAP_NORESERVE;
  return ::mmap(address, bytes, PROT_READ | PROT_WRITE, sharing | MAP_FIXED, descriptor, 0) ==
         address;
}

Result<std::byte*> map_private(int descriptor, std::uint64_t offset, std::uint64_t bytes) {
  // Not reserved: most of it is never written to.
  void* const address =
      ::mmap(nullptr, page_align(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
             descriptor, static_cast<off_t>(offset));
  if (address == MAP_FAILED)
    return fail_errno(errno, errno == ENOMEM ? "cannot map a private copy of a segment: too many "
                                               "mappings (see vm.max_map_count), or no memory"
                                             : "cannot map a private copy of a segment");
  return static_cast<std::byte*>(address);
}

void unmap_private(std::byte* address, std::uint64_t bytes) {
  ::munmap(address, page_align(bytes));
}

}  // namespace forebay::shm
