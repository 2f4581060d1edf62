// SPDX-License-Identifier: Apache-2.0
// Holds: which segments the daemon must not let go on its own, and for whom.
//
// A process's holds are leases: they end with it. A manifest holds what it lists for as long as it is
// there. After a restart nobody knows who held what; each living process is then taken to hold all that
// was held, until it says itself what it holds. Owned by the daemon's thread.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "store/daemon/segment_table.h"

namespace forebay::daemon {

class Holds {
 public:
  using Slot = std::uint32_t;

  // Counted for each process.
  void hold(EntryNumber entry, Slot slot);
  // False: this process does not hold it.
  bool unhold(EntryNumber entry, Slot slot);
  // Ends all holds of a process. Returns what nobody holds any more.
  std::vector<EntryNumber> process_ended(Slot slot);
  // All that a process holds is this. Returns what nobody holds any more.
  std::vector<EntryNumber> say_again(Slot slot, std::span<const EntryNumber> entries);

  // What a sealed manifest lists.
  void list(EntryNumber manifest, std::vector<EntryNumber> members);
  // It has gone. Returns what nobody holds any more.
  std::vector<EntryNumber> unlist(EntryNumber manifest);
  const std::vector<EntryNumber>& members_of(EntryNumber manifest) const;
  // The manifests that list a segment.
  std::vector<EntryNumber> manifests_of(EntryNumber entry) const;

  bool held(EntryNumber entry) const { return held_.contains(entry); }
  std::vector<Slot> holders(EntryNumber entry) const;
  // The segment has gone, whoever held it.
  void forget(EntryNumber entry);

 private:
  struct Held {
    std::map<Slot, std::uint64_t> counts;
    std::vector<EntryNumber> manifests;
    bool by_nobody() const { return counts.empty() && manifests.empty(); }
  };
  std::unordered_map<EntryNumber, Held> held_;
  std::unordered_map<Slot, std::unordered_set<EntryNumber>> by_slot_;
  std::unordered_map<EntryNumber, std::vector<EntryNumber>> members_;  // by manifest
};

}  // namespace forebay::daemon
