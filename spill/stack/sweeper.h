// SPDX-License-Identifier: Apache-2.0
// Sweeper: removes what lies in the tiers for this store though nobody knows it: what a predecessor
// put and could not note, and what it could not remove any more.
//
// Each memory or folder is swept once after it has first been met, and again when removals for it
// had to be dropped. Published items, those with a name, stay. What this process puts is known
// before it lies anywhere, so it is never taken for a leftover. Any thread.
#pragma once

#include <cstdint>
#include <mutex>
#include <set>

#include "spill/stack/holdings.h"
#include "spill/stack/remover.h"
#include "spill/stack/tier_set.h"
#include "spill/stack/workers.h"

namespace forebay::spill {

class Sweeper {
 public:
  Sweeper(TierSet& tiers, const Holdings& holdings, Remover& remover, Workers& workers)
      : tiers_(tiers), holdings_(holdings), remover_(remover), workers_(workers) {}

  // From now on. Before this, what a predecessor has put is not known yet.
  void start();
  void again(std::uint64_t incarnation);

 private:
  void tick();
  void sweep(std::size_t tier, std::uint64_t incarnation);

  TierSet& tiers_;
  const Holdings& holdings_;
  Remover& remover_;
  Workers& workers_;
  std::mutex mutex_;
  bool started_ = false;              // Guarded by mutex_.
  std::set<std::uint64_t> swept_;     // Guarded by mutex_. Incarnations
  std::set<std::uint64_t> sweeping_;  // Guarded by mutex_.
};

}  // namespace forebay::spill
