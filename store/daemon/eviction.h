// SPDX-License-Identifier: Apache-2.0
// Eviction: which of the segments that may be dropped goes first.
//
// Least recently used, as far as the daemon learns of uses: from seals and from the access logs in
// which clients note first pins. Owned by the daemon's thread.
#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>

#include "store/daemon/segment_table.h"

namespace forebay::daemon {

class Eviction {
 public:
  void add(EntryNumber entry);
  void remove(EntryNumber entry);
  void touch(EntryNumber entry);

  // The coldest for which `droppable` holds; no_entry: none.
  template <class Droppable>
  EntryNumber coldest(Droppable&& droppable) const {
    for (const EntryNumber entry : order_)
      if (droppable(entry)) return entry;
    return no_entry;
  }
  std::size_t count() const { return order_.size(); }

 private:
  std::list<EntryNumber> order_;  // coldest first
  std::unordered_map<EntryNumber, std::list<EntryNumber>::iterator> places_;
};

inline void Eviction::add(EntryNumber entry) {
  places_[entry] = order_.insert(order_.end(), entry);
}

inline void Eviction::remove(EntryNumber entry) {
  const auto found = places_.find(entry);
  if (found == places_.end()) return;
  order_.erase(found->second);
  places_.erase(found);
}

inline void Eviction::touch(EntryNumber entry) {
  const auto found = places_.find(entry);
  if (found != places_.end()) order_.splice(order_.end(), order_, found->second);
}

}  // namespace forebay::daemon
