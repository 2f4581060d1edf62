// SPDX-License-Identifier: Apache-2.0
// Expiries: which segments have a time to live, and whose is up. Owned by the daemon's thread.
#pragma once

#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "store/daemon/clock.h"
#include "store/daemon/segment_table.h"

namespace forebay::daemon {

class Expiries {
 public:
  void add(EntryNumber entry, TimePoint at) {
    remove(entry);
    by_entry_.emplace(entry, by_time_.emplace(at, entry));
  }
  void remove(EntryNumber entry) {
    const auto found = by_entry_.find(entry);
    if (found == by_entry_.end()) return;
    by_time_.erase(found->second);
    by_entry_.erase(found);
  }
  // Takes out and returns those whose time is up, the earliest first.
  std::vector<EntryNumber> take_due(TimePoint now) {
    std::vector<EntryNumber> due;
    while (!by_time_.empty() && by_time_.begin()->first <= now) {
      due.push_back(by_time_.begin()->second);
      by_entry_.erase(by_time_.begin()->second);
      by_time_.erase(by_time_.begin());
    }
    return due;
  }
  std::optional<TimePoint> next() const {
    return by_time_.empty() ? std::nullopt : std::optional(by_time_.begin()->first);
  }
  std::optional<TimePoint> of(EntryNumber entry) const {
    const auto found = by_entry_.find(entry);
    return found == by_entry_.end() ? std::nullopt : std::optional(found->second->first);
  }

 private:
  std::multimap<TimePoint, EntryNumber> by_time_;
  std::unordered_map<EntryNumber, std::multimap<TimePoint, EntryNumber>::iterator> by_entry_;
};

}  // namespace forebay::daemon
