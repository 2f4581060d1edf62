// SPDX-License-Identifier: Apache-2.0
// LeastRecentlyUsed: the policy that the daemon's is measured against.
#pragma once

#include <cstdint>
#include <iterator>
#include <list>
#include <unordered_map>

#include "store/daemon/segment_table.h"

namespace forebay::bench {

using daemon::EntryNumber;
using daemon::no_entry;

class LeastRecentlyUsed {
 public:
  void add(EntryNumber entry);
  void remove(EntryNumber entry);
  void touch(EntryNumber entry);

  // no_entry: none.
  EntryNumber coldest() const { return order_.empty() ? no_entry : order_.front(); }
  // The coldest but for `entry`, which is there, and those that are colder.
  EntryNumber next_warmer(EntryNumber entry) const {
    const auto next = std::next(places_.at(entry));
    return next == order_.end() ? no_entry : *next;
  }
  std::size_t count() const { return order_.size(); }

 private:
  std::list<EntryNumber> order_;  // coldest first
  std::unordered_map<EntryNumber, std::list<EntryNumber>::iterator> places_;
};

inline void LeastRecentlyUsed::add(EntryNumber entry) {
  places_[entry] = order_.insert(order_.end(), entry);
}

inline void LeastRecentlyUsed::remove(EntryNumber entry) {
  const auto found = places_.find(entry);
  if (found == places_.end()) return;
  order_.erase(found->second);
  places_.erase(found);
}

inline void LeastRecentlyUsed::touch(EntryNumber entry) {
  const auto found = places_.find(entry);
  if (found != places_.end()) order_.splice(order_.end(), order_, found->second);
}

}  // namespace forebay::bench
