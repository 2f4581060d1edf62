// SPDX-License-Identifier: Apache-2.0
#include "store/shm/index_map.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace forebay::shm {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

// Ids lie in words, so that copying one while the daemon reuses the entry is no data race; the
// caller finds out by the entry's word.
template <std::size_t Words>
void store_words(std::atomic<std::uint64_t> (&words)[Words], std::string_view id) {
  std::array<char, Words * 8> bytes{};
  bytes[0] = static_cast<char>(static_cast<unsigned char>(id.size()));
  std::memcpy(bytes.data() + 1, id.data(), std::min(id.size(), bytes.size() - 1));
  for (std::size_t i = 0; i < Words; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i * 8, 8);
    words[i].store(word, std::memory_order_release);
  }
}

template <std::size_t Words>
std::string load_words(const std::atomic<std::uint64_t> (&words)[Words]) {
  std::array<char, Words * 8> bytes{};
  const std::uint64_t first = words[0].load(std::memory_order_acquire);
  std::memcpy(bytes.data(), &first, 8);
  const std::size_t size =
      std::min<std::size_t>(static_cast<unsigned char>(bytes[0]), bytes.size() - 1);
  for (std::size_t i = 1; i * 8 < size + 1; ++i) {
    const std::uint64_t word = words[i].load(std::memory_order_acquire);
    std::memcpy(bytes.data() + i * 8, &word, 8);
  }
  return {bytes.data() + 1, size};
}

}  // namespace

Key key_of(std::string_view id, std::uint64_t seed) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(id.data(), id.size(), seed);
  return {hash.low64, hash.high64};
}

IndexMap IndexMap::over(std::byte* base, const Regions& regions) {
  IndexMap map;
  map.stamp = reinterpret_cast<IndexStamp*>(base);
  map.live = reinterpret_cast<IndexLive*>(base + page_bytes);
  map.processes = reinterpret_cast<ProcessSlot*>(base + regions.processes);
  auto* overflow = reinterpret_cast<Line*>(base + regions.overflow_lines);
  map.newest = {&map.live->newest_lines, reinterpret_cast<Line*>(base + regions.newest_lines),
                overflow};
  map.exact = {&map.live->exact_lines, reinterpret_cast<Line*>(base + regions.exact_lines),
               overflow};
  map.entries = reinterpret_cast<Entry*>(base + regions.entries);
  map.records = reinterpret_cast<Record*>(base + regions.records);
  map.annexes = reinterpret_cast<Annex*>(base + regions.annexes);
  map.extensions = reinterpret_cast<Extension*>(base + regions.extensions);
  return map;
}

void store_id(Record& record, Annex* annex, std::string_view id) {
  store_words(record.id, id);
  if (id_needs_annex(id.size())) store_words(annex->id, id);
}

std::string load_id(const Record& record, const Annex& annex) {
  const std::uint64_t first = record.id[0].load(std::memory_order_acquire);
  const auto size = static_cast<unsigned char>(first & 0xffU);
  return id_needs_annex(size) ? load_words(annex.id) : load_words(record.id);
}

void store_description(Record& record, std::span<const std::byte> description) {
  record.description_size.store(static_cast<std::uint32_t>(description.size()),
                                std::memory_order_release);
  if (!description_in_record(description.size())) return;
  std::array<std::uint32_t, record_description_words> words{};
  // Not memcpy: a description without bytes may have no address either.
  std::ranges::copy(description, std::as_writable_bytes(std::span(words)).begin());
  for (std::size_t i = 0; i < words.size(); ++i)
    record.description[i].store(words[i], std::memory_order_release);
}

void load_description(const Record& record, std::span<std::byte> to) {
  std::array<std::uint32_t, record_description_words> words{};
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = record.description[i].load(relaxed);
  std::ranges::copy(std::as_bytes(std::span(words)).first(std::min(to.size(), sizeof words)),
                    to.begin());
}

}  // namespace forebay::shm
