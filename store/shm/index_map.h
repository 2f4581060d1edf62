// SPDX-License-Identifier: Apache-2.0
// IndexMap: where the parts of an index lie in a mapping of it, and how ids become look-ups.
//
// Holds pointers only; the mapping must outlive it. The pointers are the same for both sides; what a
// client must not write, its mapping does not let it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "store/shm/buckets.h"
#include "store/shm/layout.h"
#include "store/shm/protocol.h"

namespace forebay::shm {

// The 128-bit hash of an id. Keyed, so that nobody outside the namespace can choose collisions.
struct Key {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  bool operator==(const Key&) const = default;
};

Key key_of(std::string_view id, std::uint64_t seed);

constexpr std::uint32_t newest_hash(const Key& key) {
  return static_cast<std::uint32_t>(key.high >> 32U);
}
constexpr std::uint32_t exact_hash(const Key& key, std::uint64_t version) {
  // Versions of one id are consecutive: the multiplication spreads them over all lines.
  return static_cast<std::uint32_t>((key.low ^ (version * 0x9e3779b97f4a7c15U)) *
                                        0xd6e8feb86659fd93U >>
                                    32U);
}

using Counter = std::atomic<std::uint32_t>;
using IndexBuckets = Buckets<Counter, Line>;

struct IndexMap {
  IndexStamp* stamp = nullptr;
  IndexLive* live = nullptr;
  ProcessSlot* processes = nullptr;
  IndexBuckets newest{};
  IndexBuckets exact{};
  Entry* entries = nullptr;
  Record* records = nullptr;
  Annex* annexes = nullptr;
  Extension* extensions = nullptr;

  // `base` is the start of a mapping of a whole index whose stamp was checked.
  static IndexMap over(std::byte* base, const Regions& regions);
};

// The id of an entry, as its record and annex have it. The caller makes sure that the entry does not
// change meanwhile, or checks its word before and after.
void store_id(Record& record, Annex* annex, std::string_view id);
std::string load_id(const Record& record, const Annex& annex);
constexpr bool id_needs_annex(std::size_t id_size) { return id_size > record_id_bytes; }

// A record's description, if it lies in the record.
void store_description(Record& record, std::span<const std::byte> description);
constexpr bool description_in_record(std::size_t size) { return size <= record_description_bytes; }
// Copies what lies in the record into `to`; `to` has room for record_description_bytes.
void load_description(const Record& record, std::span<std::byte> to);

// Where the description lies if not in the record: behind the payload.
constexpr std::uint64_t description_offset(std::uint64_t payload_bytes) {
  return (payload_bytes + 7) & ~std::uint64_t{7};
}
// Bytes that a segment needs in the arena.
constexpr std::uint64_t stored_bytes(std::uint64_t payload_bytes, std::size_t description_size) {
  return description_in_record(description_size)
             ? payload_bytes
             : description_offset(payload_bytes) + description_size;
}

constexpr std::uint32_t flag_bit(RecordFlag flag) { return static_cast<std::uint32_t>(flag); }
constexpr std::uint32_t reason_bits(Reason reason) {
  return std::uint32_t{static_cast<std::uint8_t>(reason)} << flag_bit(RecordFlag::reason_shift);
}
constexpr Reason reason_of(std::uint32_t flags) {
  return static_cast<Reason>(flags >> flag_bit(RecordFlag::reason_shift) & 0xffU);
}

constexpr std::uint32_t keep_bits(std::uint32_t keep) {
  return keep << flag_bit(RecordFlag::keep_shift);
}
constexpr std::uint32_t keep_of(std::uint32_t flags) {
  return flags >> flag_bit(RecordFlag::keep_shift);
}

}  // namespace forebay::shm
