// SPDX-License-Identifier: Apache-2.0
// StoreMemory: the index and the arena of one store, made anew or taken over from a daemon that is
// gone.
#pragma once

#include <memory>
#include <string>

#include "store/error.h"
#include "store/ref.h"
#include "store/shm/guard.h"
#include "store/shm/index_map.h"
#include "store/shm/mapping.h"
#include "store/shm/object_home.h"

namespace forebay::daemon {

enum class MemoryKind { named, kept };

struct StoreMemoryOptions {
  MemoryKind kind = MemoryKind::named;
  shm::Limits limits;
  std::uint64_t address_bytes = 0;
};

// Whether the kernel has huge pages to give for such memory.
bool gives_huge_pages(MemoryKind kind);

class StoreMemory {
 public:
  static Result<std::unique_ptr<StoreMemory>> create(const StoreMemoryOptions& options);
  // Fails with layout_mismatch when another version made it, and with ENOENT when it is gone.
  static Result<std::unique_ptr<StoreMemory>> open(const StoreUuid& uuid, MemoryKind kind);
  // The store that a keeper holds for us, if it holds one.
  static std::optional<StoreUuid> kept();

  const StoreUuid& uuid() const { return uuid_; }
  shm::ObjectHome& home() { return *home_; }
  const shm::IndexMap& index() const { return index_; }
  const Descriptor& index_object() const { return index_object_; }
  const Descriptor& index_for_readers() const { return index_read_only_; }
  const Descriptor& arena_object() const { return arena_object_; }
  shm::Mapping& arena() { return arena_mapping_; }
  shm::Mapping& index_mapping() { return index_mapping_; }

  // Somebody has taken pages of the index or the arena away: nothing here can be trusted any more.
  bool damaged() const { return index_guard_->broken() || arena_guard_->broken(); }

  // Removes all objects of the store; what processes still map goes with their mappings.
  void remove_all();
  // Removes objects that no slot leads to: pin tables of a daemon that died while making them.
  void remove_strays();

 private:
  StoreMemory() = default;
  Result<void> map_all(std::uint64_t index_bytes, std::uint64_t arena_bytes);

  StoreUuid uuid_{};
  std::unique_ptr<shm::ObjectHome> home_;
  Descriptor index_object_;
  Descriptor index_read_only_;
  Descriptor arena_object_;
  shm::Mapping index_mapping_;
  shm::Mapping arena_mapping_;
  std::unique_ptr<shm::Guard> index_guard_;
  std::unique_ptr<shm::Guard> arena_guard_;
  shm::IndexMap index_;
};

}  // namespace forebay::daemon
