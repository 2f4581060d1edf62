// SPDX-License-Identifier: Apache-2.0
#include "spill/disk/item_index.h"

#include <limits>

#include "store/check.h"

namespace forebay::spill {

bool ItemIndex::reserve(std::uint64_t bytes) {
  if (used_bytes_ > capacity_bytes_ || bytes > capacity_bytes_ - used_bytes_) return false;
  used_bytes_ += bytes;
  return true;
}

void ItemIndex::release(std::uint64_t bytes) {
  STORE_CHECK(bytes <= used_bytes_, "only what was reserved is released");
  used_bytes_ -= bytes;
}

void ItemIndex::add(TierItem item) {
  const Id id = id_of(item.key);
  if (!item.label.name.empty()) names_.emplace(Name{item.label.name, item.label.version}, id);
  const bool added = items_.emplace(id, std::move(item)).second;
  STORE_CHECK(added, "a key names one item");
}

const TierItem* ItemIndex::find(const TierKey& key) const {
  const auto item = items_.find(id_of(key));
  return item == items_.end() ? nullptr : &item->second;
}

const TierItem* ItemIndex::find_named(const std::string& name, std::uint64_t version) const {
  if (name.empty()) return nullptr;
  const bool newest = version == 0;
  auto after = names_.upper_bound(
      {name, newest ? std::numeric_limits<std::uint64_t>::max() : version});
  if (after == names_.begin()) return nullptr;
  const auto& [found, id] = *--after;
  if (found.first != name || (!newest && found.second != version)) return nullptr;
  return &items_.at(id);
}

std::optional<TierItem> ItemIndex::take(const TierKey& key) {
  const auto item = items_.find(id_of(key));
  if (item == items_.end()) return std::nullopt;
  TierItem taken = std::move(item->second);
  items_.erase(item);
  const auto [first, last] = names_.equal_range({taken.label.name, taken.label.version});
  for (auto name = first; name != last; ++name) {
    if (name->second != id_of(key)) continue;
    names_.erase(name);
    break;
  }
  return taken;
}

std::vector<TierItem> ItemIndex::list(const std::array<std::uint8_t, 16>& store) const {
  std::vector<TierItem> found;
  for (auto item = items_.lower_bound({store, 0}); item != items_.end(); ++item) {
    if (item->first.first != store) break;
    found.push_back(item->second);
  }
  return found;
}

}  // namespace forebay::spill
