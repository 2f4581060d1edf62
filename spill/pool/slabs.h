// SPDX-License-Identifier: Apache-2.0
// Slabs: how the arena is lent to tenants, in slabs of one size or of that of one larger item, and
// how items lie in them: in whole cache lines, best fit.
//
// A slab belongs to one tenant from its first item until its memory is wanted by another after the
// last: exposing and withdrawing cost a page fault for each of its pages, which a store that spills
// and restores in turn would pay each time. It is exposed to the data plane under a key of its own,
// and withdrawn before its memory goes to anybody else. Owned by the control thread; takes no lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "spill/pool/data_link.h"
#include "spill/pool/extents.h"
#include "spill/pool/protocol.h"
#include "store/error.h"

namespace forebay::spill::pool {

struct Allocation {
  std::uint32_t slab = 0;
  std::uint64_t slab_offset = 0;  // in the arena
  std::uint64_t slab_size = 0;
  std::uint64_t offset = 0;       // in the slab
  SlabKey key;
};

class Slabs {
 public:
  Slabs(std::span<std::byte> arena, std::uint64_t slab_bytes, DataServer& server)
      : arena_(arena), slab_bytes_(slab_bytes), server_(server), space_(arena.size()) {}
  ~Slabs();  // withdraws all
  Slabs(const Slabs&) = delete;
  Slabs& operator=(const Slabs&) = delete;

  // `bytes` in whole cache lines. Fails with store_full, or as the data plane does.
  Result<Allocation> allocate(const StoreUuid& tenant, std::uint64_t bytes);
  // What a former process had allocated there; fails when anything else is in the way.
  Result<Allocation> adopt(const StoreUuid& tenant, std::uint64_t slab_offset,
                           std::uint64_t slab_size, std::uint64_t offset, std::uint64_t bytes);
  void release(std::uint32_t slab, std::uint64_t offset, std::uint64_t bytes);

  // Its key now: after new_key() failed, another attempt.
  Result<SlabKey> key(std::uint32_t slab);
  // Whoever has the old key reaches nothing any more.
  void new_key(std::uint32_t slab);
  std::span<std::byte> bytes(std::uint32_t slab) const;

  std::uint64_t used_bytes() const { return used_bytes_; }
  std::size_t count() const { return slabs_.size(); }

 private:
  struct Slab {
    StoreUuid tenant{};
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    Extents space;
    std::optional<SlabKey> key;
    std::uint64_t listed = 0;  // the room under which the tenant's set has it
  };
  using Rooms = std::set<std::pair<std::uint64_t, std::uint32_t>>;

  Result<std::uint32_t> add(const StoreUuid& tenant, std::uint64_t offset, std::uint64_t size);
  void list_again(std::uint32_t number, Slab& slab);
  // Takes empty slabs away until there is a slab's room of so many bytes, or none is left.
  void make_room(std::uint64_t bytes);
  void remove(std::uint32_t number);

  std::span<std::byte> arena_;
  std::uint64_t slab_bytes_;
  DataServer& server_;
  Extents space_;
  std::map<std::uint32_t, Slab> slabs_;  // by their place in the arena
  std::map<StoreUuid, Rooms> rooms_;     // each tenant's slabs by their largest room
  std::set<std::uint32_t> empty_;        // of the usual size, kept for their tenants
  std::uint64_t used_bytes_ = 0;
};

}  // namespace forebay::spill::pool
