// SPDX-License-Identifier: Apache-2.0
// Holdings: which items of this store live, and which segments are in the packs among them.
//
// An item is known from before the first tier is asked to take it until its last segment is
// forgotten; whatever else a tier lists for this store may be removed. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "store/spill.h"

namespace forebay::spill {

inline constexpr std::uint64_t pack_bit = std::uint64_t{1} << 63U;

// A segment in a pack; where the pack lies is told of the pack.
struct PackMember {
  std::uint64_t serial = 0;
  std::uint64_t inner = 0;
  std::uint64_t stored = 0;
  std::uint64_t size = 0;
  std::uint32_t sum = 0;
  SpillCodec codec = SpillCodec::none;
};

class Holdings {
 public:
  explicit Holdings(std::array<std::uint8_t, 16> store) : store_(store) {}

  const std::array<std::uint8_t, 16>& store() const { return store_; }

  // A number that no item of this store ever had, known from now on.
  std::uint64_t begin(bool pack);
  // It did not come to be.
  void abandon(std::uint64_t item);
  void settle(std::uint64_t item, std::uint64_t serial);
  void settle_pack(std::uint64_t item, const std::array<TierPlace, 2>& copies, std::uint64_t bytes,
                   const std::vector<PackMember>& members);
  // What a predecessor knew. False: the place cannot be one of this store's.
  bool adopt(std::uint64_t serial, const SpillPlace& place);

  bool knows(std::uint64_t item) const;
  // Of an item that is no pack.
  std::optional<std::uint64_t> serial_of(std::uint64_t item) const;
  // False: it was not there.
  bool forget(std::uint64_t item);

  struct Forgotten {
    bool last = false;    // the pack has gone with it; it lay there:
    std::array<TierPlace, 2> copies{};
    bool sparse = false;  // the pack wants to be compacted
  };
  // Nothing: there was no such segment.
  std::optional<Forgotten> forget_member(std::uint64_t item, std::uint64_t inner);

  struct Pack {
    std::uint64_t item = 0;
    std::array<TierPlace, 2> copies{};
    std::uint64_t bytes = 0;
    std::vector<PackMember> members;  // that live
  };
  std::optional<Pack> pack(std::uint64_t item) const;
  // Packs less than half of which lives.
  std::vector<std::uint64_t> sparse() const;
  SpillPlace place_of(const Pack& pack, const PackMember& member) const;

  struct Sizes {
    std::uint64_t packs = 0;
    std::uint64_t live_bytes = 0;
    std::uint64_t bytes = 0;
  };
  Sizes sizes() const;

 private:
  struct Held {
    std::array<TierPlace, 2> copies{};
    std::uint64_t bytes = 0;
    std::uint64_t live_bytes = 0;
    std::map<std::uint64_t, PackMember> members;  // by where they start
    bool is_sparse() const { return live_bytes * 2 < bytes; }
  };

  const std::array<std::uint8_t, 16> store_;
  mutable std::mutex mutex_;
  std::uint64_t next_ = 0;                                 // Guarded by mutex_. 0: none yet
  std::unordered_map<std::uint64_t, std::uint64_t> whole_; // Guarded by mutex_. Item to serial
  std::unordered_map<std::uint64_t, Held> packs_;          // Guarded by mutex_.
  Sizes sizes_;                                            // Guarded by mutex_. Of settled packs
};

}  // namespace forebay::spill
