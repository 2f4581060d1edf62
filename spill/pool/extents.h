// SPDX-License-Identifier: Apache-2.0
// Extents: which stretches of [0, size) are free. Best fit, neighbours joined; O(log n) each. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace forebay::spill::pool {

class Extents {
 public:
  explicit Extents(std::uint64_t size) {
    if (size > 0) put(0, size);
  }

  std::optional<std::uint64_t> allocate(std::uint64_t size) {
    const auto found = by_size_.lower_bound({size, 0});
    if (found == by_size_.end()) return std::nullopt;
    const auto [whole, offset] = *found;
    erase(by_offset_.find(offset));
    if (whole > size) put(offset + size, whole - size);
    return offset;
  }
  // Takes just these bytes; false: they are not all free.
  bool take(std::uint64_t offset, std::uint64_t size) {
    auto found = by_offset_.upper_bound(offset);
    if (found == by_offset_.begin()) return false;
    --found;
    const auto [start, whole] = *found;
    if (size > whole || offset - start > whole - size) return false;
    erase(found);
    if (offset > start) put(start, offset - start);
    if (start + whole > offset + size) put(offset + size, start + whole - offset - size);
    return true;
  }
  void release(std::uint64_t offset, std::uint64_t size) {
    const auto next = by_offset_.lower_bound(offset);
    if (next != by_offset_.end() && next->first == offset + size) {
      size += next->second;
      erase(next);
    }
    auto before = by_offset_.lower_bound(offset);
    if (before != by_offset_.begin()) {
      --before;
      if (before->first + before->second == offset) {
        offset = before->first;
        size += before->second;
        erase(before);
      }
    }
    put(offset, size);
  }
  std::uint64_t free_bytes() const { return free_bytes_; }
  std::uint64_t largest() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }

 private:
  using ByOffset = std::map<std::uint64_t, std::uint64_t>;

  void put(std::uint64_t offset, std::uint64_t size) {
    by_offset_.emplace(offset, size);
    by_size_.emplace(size, offset);
    free_bytes_ += size;
  }
  void erase(ByOffset::iterator which) {
    free_bytes_ -= which->second;
    by_size_.erase({which->second, which->first});
    by_offset_.erase(which);
  }

  ByOffset by_offset_;
  std::set<std::pair<std::uint64_t, std::uint64_t>> by_size_;
  std::uint64_t free_bytes_ = 0;
};

}  // namespace forebay::spill::pool
