// SPDX-License-Identifier: Apache-2.0
// Sums: how the stack knows that what comes back from a tier is what went there.
//
// The stored bytes of a segment (what is left of it after its codec) are cut into blocks of 64 KiB,
// each with its crc32c. An item of several blocks is the stored bytes followed by the table of
// these sums, four bytes each, little-endian; an item of one block has no table. So:
//
//   item sum   = crc32c of the whole item, table included. It follows from the block sums alone,
//                since crc32c of two strings follows from those of either. Told to the tier.
//   place.sum  = crc32c(store 16, item 8, size 8, stored 8, codec 1, item sum 4): it binds the
//                bytes to the item's key, to their size before and after the codec, and to the
//                codec.
//
// A get of the whole needs no table: the sums are made from what came. A get of a range fetches the
// table and the blocks it touches; the table is held against place.sum, the blocks against the
// table. Where in its item a segment lies is not bound: bytes of another place have another sum.
// A segment that moves to another pack gets a new place.sum from the sum of its bytes, unread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "store/spill.h"

namespace forebay::spill {

inline constexpr std::uint64_t sum_block_bytes = 64 * 1024;

// crc32c of two strings, one behind the other, from the sums of both and the length of the second.
std::uint32_t crc32c_joined(std::uint32_t first, std::uint32_t second, std::uint64_t second_bytes);

inline std::uint64_t blocks_of(std::uint64_t stored) {
  return stored / sum_block_bytes + (stored % sum_block_bytes != 0 ? 1 : 0);
}
inline std::uint64_t table_bytes_of(std::uint64_t stored) {
  return stored <= sum_block_bytes ? 0 : 4 * blocks_of(stored);
}
// Stored bytes of an item of that many bytes in all; nothing: no item is so long.
std::optional<std::uint64_t> stored_of_item(std::uint64_t item_bytes);

class BlockSums {
 public:
  static BlockSums of(std::span<const std::byte> stored);
  // As a table of `stored` bytes says; it has table_bytes_of(stored) bytes, not none.
  static BlockSums from_table(std::span<const std::byte> table, std::uint64_t stored);

  // Behind the stored bytes in the item; empty where there is one block. Lives as long as this.
  std::span<const std::byte> table() const;
  std::uint32_t item_sum() const { return item_sum_; }
  std::uint32_t block(std::uint64_t number) const { return sums_[number]; }

 private:
  void join(std::uint64_t stored);

  std::vector<std::uint32_t> sums_;
  std::uint32_t item_sum_ = 0;
};

std::uint32_t place_sum(const TierKey& key, std::uint64_t size, std::uint64_t stored,
                        SpillCodec codec, std::uint32_t item_sum);
inline std::uint32_t place_sum(const SpillPlace& place, std::uint32_t item_sum) {
  return place_sum({place.store, place.item}, place.size, place.stored, place.codec, item_sum);
}

}  // namespace forebay::spill
