// SPDX-License-Identifier: Apache-2.0
// ObjectHome: where a store's shared-memory objects live, and how a restarted daemon finds them.
//
// Two kinds stand behind it. Named objects (a user's own daemon) are POSIX shared memory: they
// survive the daemon by their names, and whoever has the owner's uid can open them, so one uid is
// one domain of trust. Kept objects (a system daemon that serves several users) are memfds, sealed
// against shrinking and growing, that no name leads to; they survive the daemon because a descriptor
// keeper (systemd's FDSTORE, or `forebayd --supervise`) holds a copy of each.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store/descriptor.h"
#include "store/error.h"

namespace forebay::shm {

class ObjectHome {
 public:
  virtual ~ObjectHome() = default;

  // A new object of `bytes` of address space and no memory. Fails with EEXIST if there is one of
  // this name, whoever made it.
  virtual Result<Descriptor> create(const std::string& name, std::uint64_t bytes) = 0;
  // Fails with ENOENT.
  virtual Result<Descriptor> open(const std::string& name) = 0;
  // The name goes; the memory when the last mapping and descriptor have gone.
  virtual void remove(const std::string& name) = 0;
  // The names of this store's objects.
  virtual std::vector<std::string> list() = 0;
};

// `store` is the store's uuid as text: part of each name, unguessable, so that nobody can squat it.
std::unique_ptr<ObjectHome> named_home(const std::string& store);
std::unique_ptr<ObjectHome> kept_home(const std::string& store);

// The stores that the descriptors inherited from a keeper belong to, as uuid texts.
std::vector<std::string> kept_stores();

// A second descriptor of the same object through which nobody can write.
Result<Descriptor> reopen_read_only(const Descriptor& object);

// Reserves memory for a range, so that touching it cannot fail. ENOSPC says so instead of SIGBUS.
Result<void> reserve(const Descriptor& object, std::uint64_t offset, std::uint64_t bytes);
// Gives the memory of a range back; the range reads as zeros if it is reserved again.
void punch(const Descriptor& object, std::uint64_t offset, std::uint64_t bytes);
// Memory that the object holds now, in bytes.
std::uint64_t backed_bytes(const Descriptor& object);

struct Range {
  std::uint64_t offset;
  std::uint64_t bytes;
};
// The parts of a range that hold touched memory. Reserved but untouched pages may be left out.
std::vector<Range> touched_ranges(const Descriptor& object, Range within);

// Whether the kernel gives shared memory of these homes huge pages where it is advised to: a matter of
// how /dev/shm is mounted (named), or of transparent_hugepage/shmem_enabled (kept).
bool named_gives_huge_pages();
bool kept_gives_huge_pages();
inline constexpr std::uint64_t huge_page_bytes = 2 * 1024 * 1024;

struct ShmSpace {
  std::uint64_t total_bytes;
  std::uint64_t free_bytes;
};
// Size of, and room in, the file system of POSIX shared memory.
Result<ShmSpace> shm_space();

}  // namespace forebay::shm
