// SPDX-License-Identifier: Apache-2.0
// Placement: in which order tiers are offered an item.
//
// Pools first: those that are up and have room, in a random order in which the one with more free
// bytes, times its weight, tends to come first; so several daemons that know nothing of each other
// fill the pools evenly. Then the disks, as configured. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill {

enum class TierKind : std::uint8_t { pool, disk };

// What placement knows of a tier.
struct TierRoom {
  TierKind kind = TierKind::pool;
  double weight = 1;
  TierStatus status;
};

struct Candidates {
  std::vector<std::size_t> pools;  // indices of tiers
  std::vector<std::size_t> disks;
};

Candidates candidates_for(const std::vector<TierRoom>& tiers, std::uint64_t item_bytes,
                          bool pools_only, std::mt19937_64& random);

// Why no tier took an item, when nobody was even asked: what the way out depends on.
Error no_tier_for(const std::vector<TierRoom>& tiers, std::uint64_t item_bytes, bool pools_only);

}  // namespace forebay::spill
