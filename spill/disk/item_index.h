// SPDX-License-Identifier: Apache-2.0
// ItemIndex: which items a folder holds, under their keys and names, and how many bytes are left.
//
// Takes no lock and sees no file: whoever owns it does. Bytes are reserved before a file is begun
// and released when it is gone; in between they are used, whether the item is in the index or not.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "store/tier.h"

namespace forebay::spill {

class ItemIndex {
 public:
  explicit ItemIndex(std::uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  // False: there is no room for them.
  bool reserve(std::uint64_t bytes);
  // What is there already, whether it fits or not.
  void count(std::uint64_t bytes) { used_bytes_ += bytes; }
  void release(std::uint64_t bytes);
  std::uint64_t capacity_bytes() const { return capacity_bytes_; }
  std::uint64_t used_bytes() const { return used_bytes_; }

  void add(TierItem item);
  // Valid until the index is changed.
  const TierItem* find(const TierKey& key) const;
  // Version 0: the highest.
  const TierItem* find_named(const std::string& name, std::uint64_t version) const;
  std::optional<TierItem> take(const TierKey& key);
  std::vector<TierItem> list(const std::array<std::uint8_t, 16>& store) const;

 private:
  using Id = std::pair<std::array<std::uint8_t, 16>, std::uint64_t>;
  using Name = std::pair<std::string, std::uint64_t>;
  static Id id_of(const TierKey& key) { return {key.store, key.number}; }

  std::uint64_t capacity_bytes_;
  std::uint64_t used_bytes_ = 0;
  std::map<Id, TierItem> items_;
  std::multimap<Name, Id> names_;  // of those items that have one
};

}  // namespace forebay::spill
