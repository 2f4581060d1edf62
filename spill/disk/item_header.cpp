// SPDX-License-Identifier: Apache-2.0
#include "spill/disk/item_header.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "spill/checksum.h"

namespace forebay::spill {

namespace {
constexpr std::uint64_t magic = 0x6d6574695f796246U;  // "Fby_item"
constexpr std::uint32_t format = 1;

struct FixedPart {
  std::uint64_t magic;
  std::uint32_t format;
  std::uint32_t header_crc32c;
  std::uint8_t store[16];
  std::uint64_t number;
  std::uint64_t size;
  std::uint64_t incarnation;
  std::uint64_t version;
  std::uint32_t crc32c;
  std::uint16_t name_bytes;
  std::uint16_t about_bytes;
};
static_assert(sizeof(FixedPart) == 72);
static_assert(offsetof(FixedPart, store) == 16);
static_assert(offsetof(FixedPart, crc32c) == 64);
// The files of machines that write numbers otherwise are refused.
static_assert(std::endian::native == std::endian::little);
}  // namespace

void write_header(const ItemHeader& header, std::span<std::byte, header_bytes> page) {
  STORE_CHECK(header.label.name.size() <= longest_name, "a name fits into its header");
  STORE_CHECK(header.label.about.size() <= longest_about, "what is about an item fits, too");
  std::fill(page.begin(), page.end(), std::byte{0});
  FixedPart fixed{};
  fixed.magic = magic;
  fixed.format = format;
  std::memcpy(fixed.store, header.key.store.data(), sizeof fixed.store);
  fixed.number = header.key.number;
  fixed.size = header.size;
  fixed.incarnation = header.incarnation;
  fixed.version = header.label.version;
  fixed.crc32c = header.crc32c;
  fixed.name_bytes = static_cast<std::uint16_t>(header.label.name.size());
  fixed.about_bytes = static_cast<std::uint16_t>(header.label.about.size());
  std::memcpy(page.data(), &fixed, sizeof fixed);
  std::byte* const name = page.data() + sizeof fixed;
  if (fixed.name_bytes > 0) std::memcpy(name, header.label.name.data(), fixed.name_bytes);
  if (fixed.about_bytes > 0)
    std::memcpy(name + fixed.name_bytes, header.label.about.data(), fixed.about_bytes);
  const std::uint32_t sum = crc32c(page.subspan(16));
  std::memcpy(page.data() + offsetof(FixedPart, header_crc32c), &sum, sizeof sum);
}

Result<ItemHeader> read_header(std::span<const std::byte, header_bytes> page) {
  FixedPart fixed;
  std::memcpy(&fixed, page.data(), sizeof fixed);
  if (fixed.magic != magic) return fail(Errc::bad_message, "it does not begin like an item");
  if (fixed.format != format)
    return fail(Errc::bad_message, "it has format " + std::to_string(fixed.format) +
                                       ", and this program knows only " + std::to_string(format));
  if (fixed.header_crc32c != crc32c(page.subspan(16)))
    return fail(Errc::bad_message, "its first page does not fit its own checksum");
  if (fixed.name_bytes > longest_name || fixed.about_bytes > longest_about)
    return fail(Errc::bad_message, "its label is longer than any may be");
  if (fixed.size == 0 || fixed.size > largest_item)
    return fail(Errc::bad_message, "it gives a size that no item has");
  ItemHeader header;
  std::memcpy(header.key.store.data(), fixed.store, sizeof fixed.store);
  header.key.number = fixed.number;
  header.size = fixed.size;
  header.incarnation = fixed.incarnation;
  header.crc32c = fixed.crc32c;
  header.label.version = fixed.version;
  const std::byte* const name = page.data() + sizeof fixed;
  header.label.name.assign(reinterpret_cast<const char*>(name), fixed.name_bytes);
  header.label.about.assign(name + fixed.name_bytes,
                            name + fixed.name_bytes + fixed.about_bytes);
  return header;
}

}  // namespace forebay::spill
