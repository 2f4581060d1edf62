// SPDX-License-Identifier: Apache-2.0
// ArenaSpace: which addresses of an arena are in use, and which of the rest have memory.
//
// An arena has much more address space than memory, so fragmentation costs addresses and not memory.
// Each page of the address space is used (by a segment or a slab), warm (free, with memory), growing
// (promised to somebody, memory on its way) or cold (free, without memory). What is used, warm and
// growing never exceeds the capacity, and always adds up (I6).
//
// Pure bookkeeping: it decides, and the memory thread acts. Owned by the daemon's thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "store/shm/object_home.h"

namespace forebay::daemon {

using shm::Range;

struct Extent {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  bool operator==(const Extent&) const = default;
};

// What the memory thread has to do, in this order, before an extent can be used.
struct MemoryWork {
  std::vector<Extent> punch;  // give the memory of these back
  std::vector<Extent> grow;   // reserve and pre-fault memory for these
};

struct Growth {
  Extent extent;    // what was asked for; all of it is `growing` or taken from warm until settled
  MemoryWork work;  // how it gets its memory
};

class ArenaSpace {
 public:
  ArenaSpace(std::uint64_t address_bytes, std::uint64_t capacity_bytes);

  // Takes `bytes` (whole pages) that are warm already, best fit; nothing if no warm run is that long.
  // `alignment` is a power of two and at least a page.
  std::optional<Extent> take_warm(std::uint64_t bytes, std::uint64_t alignment);

  // Plans an extent that is not warm as a whole, with as little to grow as it can; takes warm memory
  // away from elsewhere if the capacity demands it. Nothing if even that is not enough.
  std::optional<Growth> plan(std::uint64_t bytes, std::uint64_t alignment);
  // The work of a plan is done, and its extent is in use now; or failed, and everything is as before
  // but for what was punched.
  void settle(const Growth& growth, bool succeeded);

  // Plans up to `bytes` more of warm memory, for later; nothing if the capacity is used up.
  std::optional<Extent> plan_reserve(std::uint64_t bytes);
  void settle_reserve(const Extent& extent, bool succeeded);

  // The extent is free and stays warm.
  void release(const Extent& extent);

  // Makes warm memory above `budget` cold, smallest runs first; the memory thread must punch these.
  // Their addresses are nobody's until `punched`.
  std::vector<Extent> trim(std::uint64_t budget_bytes);
  void punched(const Extent& extent);

  // At a restart, before anything else: a segment or slab was found here. False: it overlaps what
  // was found before, or lies outside the arena.
  bool adopt_used(const Extent& extent);
  // At a restart, after all segments: the free parts of this range have memory and become warm, as
  // far as the capacity allows.
  void adopt_warm(const Extent& extent);
  // Free addresses that count as being without memory.
  std::vector<Extent> cold_runs() const;

  std::uint64_t capacity() const { return capacity_; }
  std::uint64_t used() const { return used_; }
  std::uint64_t warm() const { return warm_.bytes(); }
  std::uint64_t growing() const { return growing_; }
  // Less than nothing is nothing: a restart with a smaller capacity finds more in use than it allows.
  std::uint64_t ungrown() const {
    const std::uint64_t committed = used_ + warm() + growing_;
    return capacity_ > committed ? capacity_ - committed : 0;
  }
  std::uint64_t largest_warm() const { return warm_.largest(); }
  std::size_t warm_runs() const { return warm_.count(); }

 private:
  // Free runs by address and by size; neighbours are always merged.
  class Runs {
   public:
    void add(Extent extent);
    void remove(Extent extent);  // must lie within one run
    std::optional<Extent> best_fit(std::uint64_t bytes, std::uint64_t alignment) const;
    std::optional<Extent> first_fit(std::uint64_t bytes, std::uint64_t alignment) const;
    std::vector<Extent> inside(Extent extent) const;  // clipped to it
    std::vector<Extent> largest_first(std::size_t most) const;
    std::vector<Extent> smallest_first() const;
    std::vector<Extent> all() const;
    std::uint64_t bytes() const { return bytes_; }
    std::uint64_t largest() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }
    std::size_t count() const { return by_offset_.size(); }

   private:
    void insert(Extent extent);
    void erase(std::map<std::uint64_t, std::uint64_t>::iterator run);
    std::map<std::uint64_t, std::uint64_t> by_offset_;
    std::set<std::pair<std::uint64_t, std::uint64_t>> by_size_;  // (bytes, offset)
    std::uint64_t bytes_ = 0;
  };

  struct Placement {
    Extent extent;
    std::uint64_t growth = 0;  // bytes of it that are cold
  };
  std::optional<Placement> best_placement(std::uint64_t bytes, std::uint64_t alignment) const;
  bool is_free(Extent extent) const;
  std::uint64_t warm_inside(Extent extent) const;

  std::uint64_t address_bytes_;
  std::uint64_t capacity_;
  std::uint64_t used_ = 0;
  std::uint64_t growing_ = 0;
  Runs warm_;
  Runs cold_;
};

}  // namespace forebay::daemon
