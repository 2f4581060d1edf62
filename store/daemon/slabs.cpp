// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/slabs.h"

#include <algorithm>
#include <bit>

#include "store/check.h"

namespace forebay::daemon {
namespace {

constexpr std::uint32_t step = 64;
constexpr std::uint32_t fine_classes = 1024 / step;  // 64, 128, …, 1024
constexpr std::uint32_t steps_per_doubling = 8;
constexpr std::uint64_t small_slab_bytes = 64 * 1024;
constexpr std::uint64_t large_slab_bytes = 512 * 1024;
constexpr std::uint64_t small_slab_items_max = 8 * 1024;

constexpr std::uint32_t bytes_of_class(std::uint32_t size_class) {
  if (size_class < fine_classes) return (size_class + 1) * step;
  const std::uint32_t coarse = size_class - fine_classes;
  const std::uint32_t base = 1024U << (coarse / steps_per_doubling);
  return base + base / steps_per_doubling * (coarse % steps_per_doubling + 1);
}

}  // namespace

std::uint32_t Slabs::class_of(std::uint64_t item_bytes) {
  if (item_bytes <= 1024) return static_cast<std::uint32_t>((item_bytes + step - 1) / step) - 1;
  const auto doubling = static_cast<std::uint32_t>(std::bit_width(item_bytes - 1) - 11);
  const std::uint64_t base = std::uint64_t{1024} << doubling;
  const std::uint64_t width = base / steps_per_doubling;
  return fine_classes + doubling * steps_per_doubling +
         static_cast<std::uint32_t>((item_bytes - base + width - 1) / width) - 1;
}

std::uint64_t Slabs::slab_bytes(std::uint64_t item_bytes) {
  return item_bytes <= small_slab_items_max ? small_slab_bytes : large_slab_bytes;
}

Slabs::Slabs() {
  for (std::uint32_t size_class = 0; size_class <= class_of(item_bytes_max); ++size_class) {
    const std::uint32_t bytes = bytes_of_class(size_class);
    const std::uint64_t slab = slab_bytes(bytes);
    classes_.push_back({bytes, slab, static_cast<std::uint32_t>(slab / bytes), {}});
  }
}

Slabs::Slab* Slabs::slab_with_room(std::uint32_t size_class, std::uint64_t& offset) {
  SizeClass& of = classes_[size_class];
  while (!of.with_room.empty()) {
    offset = of.with_room.back();
    Slab& slab = slabs_.at(offset);
    if (slab.live < of.slots) return &slab;
    slab.listed = false;
    of.with_room.pop_back();
  }
  return nullptr;
}

std::optional<std::uint64_t> Slabs::take(std::uint64_t item_bytes) {
  const std::uint32_t size_class = class_of(item_bytes);
  std::uint64_t base = 0;
  Slab* slab = slab_with_room(size_class, base);
  if (slab == nullptr) return std::nullopt;
  std::uint32_t slot = 0;
  while (true) {
    if (!slab->free.empty()) {
      slot = slab->free.back();
      slab->free.pop_back();
    } else {
      slot = slab->fresh++;
    }
    if (!slab->taken[slot]) break;  // after a restart, `fresh` runs over slots that were found in use
  }
  slab->taken[slot] = true;
  ++slab->live;
  items_bytes_ += classes_[size_class].bytes;
  return base + std::uint64_t{slot} * classes_[size_class].bytes;
}

void Slabs::add(std::uint64_t item_bytes, const Extent& slab) {
  const std::uint32_t size_class = class_of(item_bytes);
  STORE_CHECK(slab.bytes == classes_[size_class].slab_bytes && slab.offset % slab.bytes == 0,
              "a slab is aligned to its size");
  Slab fresh;
  fresh.size_class = size_class;
  fresh.listed = true;
  fresh.taken.resize(classes_[size_class].slots);
  slabs_.emplace(slab.offset, std::move(fresh));
  classes_[size_class].with_room.push_back(slab.offset);
  slabs_bytes_ += slab.bytes;
}

std::optional<Extent> Slabs::give_back(std::uint64_t offset, std::uint64_t item_bytes) {
  const std::uint32_t size_class = class_of(item_bytes);
  SizeClass& of = classes_[size_class];
  const std::uint64_t base = offset & ~(of.slab_bytes - 1);
  const auto found = slabs_.find(base);
  STORE_CHECK(found != slabs_.end() && found->second.size_class == size_class,
              "a small segment lies in a slab of its class");
  Slab& slab = found->second;
  const auto slot = static_cast<std::uint32_t>((offset - base) / of.bytes);
  STORE_CHECK(slab.taken[slot], "a slot is given back once");
  slab.taken[slot] = false;
  slab.free.push_back(static_cast<std::uint16_t>(slot));
  items_bytes_ -= of.bytes;
  --slab.live;
  if (!slab.listed) {
    slab.listed = true;
    of.with_room.push_back(base);
  }
  // Keep one empty slab a class: a put and a remove in turn shall not make and unmake one each time.
  if (slab.live > 0 || !another_has_room(of, base)) return std::nullopt;
  std::erase(of.with_room, base);
  slabs_.erase(found);
  slabs_bytes_ -= of.slab_bytes;
  return Extent{base, of.slab_bytes};
}

bool Slabs::another_has_room(const SizeClass& of, std::uint64_t base) const {
  return std::any_of(of.with_room.begin(), of.with_room.end(), [&](std::uint64_t other) {
    return other != base && slabs_.at(other).live < of.slots;
  });
}

std::optional<Extent> Slabs::adopt(std::uint64_t offset, std::uint64_t item_bytes, bool& sound) {
  const std::uint32_t size_class = class_of(item_bytes);
  SizeClass& of = classes_[size_class];
  const std::uint64_t base = offset & ~(of.slab_bytes - 1);
  const std::uint64_t slot = (offset - base) / of.bytes;
  sound = (offset - base) % of.bytes == 0 && slot < of.slots;
  if (!sound) return std::nullopt;
  std::optional<Extent> met;
  auto found = slabs_.find(base);
  if (found == slabs_.end()) {
    met = Extent{base, of.slab_bytes};
    add(item_bytes, *met);
    found = slabs_.find(base);
  }
  Slab& slab = found->second;
  sound = slab.size_class == size_class && !slab.taken[slot];
  if (!sound) return met;
  slab.taken[slot] = true;
  ++slab.live;
  items_bytes_ += of.bytes;
  return met;
}

std::vector<Extent> Slabs::give_up_empty() {
  std::vector<Extent> extents;
  for (auto slab = slabs_.begin(); slab != slabs_.end();) {
    if (slab->second.live > 0) {
      ++slab;
      continue;
    }
    const SizeClass& of = classes_[slab->second.size_class];
    extents.push_back({slab->first, of.slab_bytes});
    slabs_bytes_ -= of.slab_bytes;
    slab = slabs_.erase(slab);
  }
  for (SizeClass& of : classes_)
    std::erase_if(of.with_room, [this](std::uint64_t base) { return !slabs_.contains(base); });
  return extents;
}

}  // namespace forebay::daemon
