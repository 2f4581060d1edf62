// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/sums.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "spill/checksum.h"

namespace forebay::spill {
namespace {

static_assert(std::endian::native == std::endian::little, "tables are little-endian");

// Polynomials modulo Castagnoli's, bits reflected: the highest bit is x^0.
constexpr std::uint32_t one = 1U << 31U;
constexpr std::uint32_t polynomial = 0x82F63B78U;

constexpr std::uint32_t times(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = one; bit != 0; bit >>= 1U) {
    if ((a & bit) != 0) product ^= b;
    b = (b & 1U) != 0 ? (b >> 1U) ^ polynomial : b >> 1U;
  }
  return product;
}

// x to the power of the bits in so many bytes: what moves a sum past them.
constexpr std::uint32_t shift_past(std::uint64_t bytes) {
  std::uint32_t power = one >> 8U;  // x^8: one byte
  std::uint32_t product = one;
  for (; bytes != 0; bytes >>= 1U) {
    if ((bytes & 1U) != 0) product = times(power, product);
    power = times(power, power);
  }
  return product;
}

constexpr std::uint32_t past_block = shift_past(sum_block_bytes);

}  // namespace

std::uint32_t crc32c_joined(std::uint32_t first, std::uint32_t second, std::uint64_t second_bytes) {
  const std::uint32_t shift =
      second_bytes == sum_block_bytes ? past_block : shift_past(second_bytes);
  return times(shift, first) ^ second;
}

std::optional<std::uint64_t> stored_of_item(std::uint64_t item_bytes) {
  if (item_bytes == 0) return std::nullopt;
  if (item_bytes <= sum_block_bytes) return item_bytes;
  const std::uint64_t with_sum = sum_block_bytes + 4;
  const std::uint64_t blocks = item_bytes / with_sum + (item_bytes % with_sum != 0 ? 1 : 0);
  const std::uint64_t stored = item_bytes - 4 * blocks;
  if (stored <= sum_block_bytes || blocks_of(stored) != blocks) return std::nullopt;
  return stored;
}

BlockSums BlockSums::of(std::span<const std::byte> stored) {
  BlockSums sums;
  sums.sums_.reserve(blocks_of(stored.size()));
  for (std::uint64_t at = 0; at < stored.size(); at += sum_block_bytes)
    sums.sums_.push_back(
        crc32c(stored.subspan(at, std::min<std::uint64_t>(sum_block_bytes, stored.size() - at))));
  sums.join(stored.size());
  return sums;
}

BlockSums BlockSums::from_table(std::span<const std::byte> table, std::uint64_t stored) {
  BlockSums sums;
  sums.sums_.resize(table.size() / 4);
  std::memcpy(sums.sums_.data(), table.data(), sums.sums_.size() * 4);
  sums.join(stored);
  return sums;
}

void BlockSums::join(std::uint64_t stored) {
  std::uint64_t left = stored;
  for (const std::uint32_t sum : sums_) {
    const std::uint64_t bytes = std::min(left, sum_block_bytes);
    item_sum_ = crc32c_joined(item_sum_, sum, bytes);
    left -= bytes;
  }
  item_sum_ = crc32c(table(), item_sum_);
}

std::span<const std::byte> BlockSums::table() const {
  if (sums_.size() < 2) return {};
  return std::as_bytes(std::span(sums_));
}

std::uint32_t place_sum(const TierKey& key, std::uint64_t size, std::uint64_t stored,
                        SpillCodec codec, std::uint32_t item_sum) {
  std::array<std::byte, 16 + 8 + 8 + 8 + 1 + 4> bound{};
  std::byte* at = bound.data();
  const auto add = [&at](const void* from, std::size_t bytes) {
    std::memcpy(at, from, bytes);
    at += bytes;
  };
  add(key.store.data(), 16);
  add(&key.number, 8);
  add(&size, 8);
  add(&stored, 8);
  add(&codec, 1);
  add(&item_sum, 4);
  return crc32c(bound);
}

}  // namespace forebay::spill
