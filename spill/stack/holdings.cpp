// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/holdings.h"

#include <random>

namespace forebay::spill {

std::uint64_t Holdings::begin(bool pack) {
  const std::lock_guard lock(mutex_);
  if (next_ == 0) {
    // Nobody keeps the numbers over a restart: one out of 2^62 to start from will not meet those
    // of a predecessor.
    std::random_device device;
    next_ = ((std::uint64_t{device()} << 32U | device()) >> 2U) | 1U;
  }
  std::uint64_t item = 0;
  do item = next_++ | (pack ? pack_bit : 0);
  while (pack ? packs_.contains(item) : whole_.contains(item));
  if (pack)
    packs_[item];
  else
    whole_[item] = 0;
  return item;
}

void Holdings::abandon(std::uint64_t item) {
  const std::lock_guard lock(mutex_);
  if ((item & pack_bit) != 0)
    packs_.erase(item);
  else
    whole_.erase(item);
}

void Holdings::settle(std::uint64_t item, std::uint64_t serial) {
  const std::lock_guard lock(mutex_);
  whole_[item] = serial;
}

void Holdings::settle_pack(std::uint64_t item, const std::array<TierPlace, 2>& copies,
                           std::uint64_t bytes, const std::vector<PackMember>& members) {
  const std::lock_guard lock(mutex_);
  Held& held = packs_[item];
  held.copies = copies;
  held.bytes = bytes;
  for (const PackMember& member : members) {
    held.members[member.inner] = member;
    held.live_bytes += member.stored;
  }
  ++sizes_.packs;
  sizes_.bytes += bytes;
  sizes_.live_bytes += held.live_bytes;
}

bool Holdings::adopt(std::uint64_t serial, const SpillPlace& place) {
  const bool packed = (place.item & pack_bit) != 0;
  if (place.nowhere() || place.store != store_ || packed != (place.packed != 0)) return false;
  const std::lock_guard lock(mutex_);
  if (!packed) {
    whole_[place.item] = serial;
    return true;
  }
  const auto [at, fresh] = packs_.try_emplace(place.item);
  Held& held = at->second;
  if (fresh) {
    held.copies = place.copies;
    held.bytes = place.copies[place.copies[0].incarnation != 0 ? 0 : 1].size;
    ++sizes_.packs;
    sizes_.bytes += held.bytes;
  }
  const PackMember member{serial,     place.inner, place.stored,
                          place.size, place.sum,   place.codec};
  if (held.members.emplace(place.inner, member).second) {
    held.live_bytes += place.stored;
    sizes_.live_bytes += place.stored;
  }
  return true;
}

bool Holdings::knows(std::uint64_t item) const {
  const std::lock_guard lock(mutex_);
  return (item & pack_bit) != 0 ? packs_.contains(item) : whole_.contains(item);
}

std::optional<std::uint64_t> Holdings::serial_of(std::uint64_t item) const {
  const std::lock_guard lock(mutex_);
  const auto found = whole_.find(item);
  if (found == whole_.end()) return std::nullopt;
  return found->second;
}

bool Holdings::forget(std::uint64_t item) {
  const std::lock_guard lock(mutex_);
  return whole_.erase(item) != 0;
}

std::optional<Holdings::Forgotten> Holdings::forget_member(std::uint64_t item,
                                                           std::uint64_t inner) {
  const std::lock_guard lock(mutex_);
  const auto found = packs_.find(item);
  if (found == packs_.end()) return std::nullopt;
  Held& held = found->second;
  const auto member = held.members.find(inner);
  if (member == held.members.end()) return std::nullopt;
  held.live_bytes -= member->second.stored;
  sizes_.live_bytes -= member->second.stored;
  held.members.erase(member);
  Forgotten forgotten{held.members.empty(), held.copies, held.is_sparse()};
  if (forgotten.last) {
    --sizes_.packs;
    sizes_.bytes -= held.bytes;
    packs_.erase(found);
  }
  return forgotten;
}

std::optional<Holdings::Pack> Holdings::pack(std::uint64_t item) const {
  const std::lock_guard lock(mutex_);
  const auto found = packs_.find(item);
  if (found == packs_.end() || found->second.members.empty()) return std::nullopt;
  Pack pack{item, found->second.copies, found->second.bytes, {}};
  for (const auto& [inner, member] : found->second.members) pack.members.push_back(member);
  return pack;
}

std::vector<std::uint64_t> Holdings::sparse() const {
  std::vector<std::uint64_t> items;
  const std::lock_guard lock(mutex_);
  for (const auto& [item, held] : packs_)
    if (!held.members.empty() && held.is_sparse()) items.push_back(item);
  return items;
}

SpillPlace Holdings::place_of(const Pack& pack, const PackMember& member) const {
  SpillPlace place;
  place.copies = pack.copies;
  place.store = store_;
  place.item = pack.item;
  place.inner = member.inner;
  place.stored = member.stored;
  place.size = member.size;
  place.sum = member.sum;
  place.codec = member.codec;
  place.packed = 1;
  return place;
}

Holdings::Sizes Holdings::sizes() const {
  const std::lock_guard lock(mutex_);
  return sizes_;
}

}  // namespace forebay::spill
