// SPDX-License-Identifier: Apache-2.0
// Eviction: which of the segments that may be dropped goes first.
//
// Least recently used, as far as the daemon learns of uses: from seals and from the access logs in
// which clients note first pins. Owned by the daemon's thread.
#pragma once

#include <cstdint>
#include <iterator>
#include <list>
#include <unordered_map>

#include "store/daemon/segment_table.h"
#include "store/daemon/transfers.h"

namespace forebay::daemon {

class Eviction {
 public:
  void add(EntryNumber entry);
  void remove(EntryNumber entry);
  void touch(EntryNumber entry);
  // What is said of the future.
  void hint(EntryNumber entry, const UseHint& hint);

  // no_entry: none.
  EntryNumber coldest() const { return order_.empty() ? no_entry : order_.front(); }
  // The coldest but for `entry`, which is there, and those that are colder.
  EntryNumber next_warmer(EntryNumber entry) const {
    const auto next = std::next(places_.at(entry));
    return next == order_.end() ? no_entry : *next;
  }
  bool contains(EntryNumber entry) const { return places_.contains(entry); }
  std::size_t count() const { return order_.size(); }

 private:
  std::list<EntryNumber> order_;  // coldest first
  std::unordered_map<EntryNumber, std::list<EntryNumber>::iterator> places_;
};

inline void Eviction::add(EntryNumber entry) {
  if (!contains(entry)) places_[entry] = order_.insert(order_.end(), entry);
}

inline void Eviction::remove(EntryNumber entry) {
  const auto found = places_.find(entry);
  if (found == places_.end()) return;
  order_.erase(found->second);
  places_.erase(found);
}

inline void Eviction::hint(EntryNumber entry, const UseHint& hint) {
  const auto found = places_.find(entry);
  if (found != places_.end() && hint.last_use)
    order_.splice(order_.begin(), order_, found->second);
}

inline void Eviction::touch(EntryNumber entry) {
  const auto found = places_.find(entry);
  if (found != places_.end()) order_.splice(order_.end(), order_, found->second);
}

}  // namespace forebay::daemon
