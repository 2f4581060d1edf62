// SPDX-License-Identifier: Apache-2.0
// ItemHeader: what stands on the first page of an item's file, before the bytes of the item.
//
// A page that was not written by write_header, whole, on a machine of this byte order and by this
// format, is refused by read_header. The bytes of the item start at header_bytes and are followed
// by zeros up to a whole page.
//
//   0 magic  8 format  12 crc32c of all that follows  16 store  32 number  40 size  48 incarnation
//   56 version  64 crc32c of the item  68 name bytes  70 about bytes  72 name, about, zeros
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill {

inline constexpr std::uint64_t page_bytes = 4096;
inline constexpr std::uint64_t header_bytes = page_bytes;
inline constexpr std::size_t longest_name = 512;
inline constexpr std::size_t longest_about = 1024;
static_assert(72 + longest_name + longest_about <= header_bytes);
// Above it, offsets in a file could not be told any more.
inline constexpr std::uint64_t largest_item = std::uint64_t{1} << 60U;

inline std::uint64_t whole_pages(std::uint64_t bytes) {
  return (bytes + page_bytes - 1) / page_bytes * page_bytes;
}
// Of the file that holds an item of that size.
inline std::uint64_t file_bytes(std::uint64_t size) { return header_bytes + whole_pages(size); }

struct ItemHeader {
  TierKey key;
  std::uint64_t size = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t crc32c = 0;
  TierLabel label;
};

// The label is not longer than it may be.
void write_header(const ItemHeader& header, std::span<std::byte, header_bytes> page);
// Fails with bad_message, and says why.
Result<ItemHeader> read_header(std::span<const std::byte, header_bytes> page);

}  // namespace forebay::spill
