// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/placement.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace forebay::spill {
namespace {

bool knows_capacity(const TierStatus& status) { return status.capacity_bytes != 0; }

std::uint64_t free_bytes(const TierStatus& status) {
  return status.capacity_bytes - std::min(status.capacity_bytes, status.used_bytes);
}

bool has_room(const TierStatus& status, std::uint64_t bytes) {
  return !knows_capacity(status) || free_bytes(status) >= bytes;
}

}  // namespace

Candidates candidates_for(const std::vector<TierRoom>& tiers, std::uint64_t item_bytes,
                          bool pools_only, std::mt19937_64& random) {
  Candidates candidates;
  std::vector<std::pair<double, std::size_t>> pools;
  for (std::size_t i = 0; i < tiers.size(); ++i) {
    const TierRoom& tier = tiers[i];
    if (!tier.status.up || !has_room(tier.status, item_bytes)) continue;
    if (tier.kind == TierKind::disk) {
      if (!pools_only) candidates.disks.push_back(i);
      continue;
    }
    // The smallest of exponential draws, each with its own rate, is a choice weighted by the rates;
    // and the next smallest is one among the others.
    const double rate =
        std::max(tier.weight, 1e-9) *
        (knows_capacity(tier.status) ? static_cast<double>(free_bytes(tier.status)) + 1 : 1.0);
    pools.emplace_back(std::exponential_distribution<double>(1)(random) / rate, i);
  }
  std::sort(pools.begin(), pools.end());
  for (const auto& [draw, index] : pools) candidates.pools.push_back(index);
  return candidates;
}

Error no_tier_for(const std::vector<TierRoom>& tiers, std::uint64_t item_bytes, bool pools_only) {
  std::string full;
  std::string down;
  for (const TierRoom& tier : tiers) {
    if (pools_only && tier.kind != TierKind::pool) continue;
    if (!tier.status.up)
      down += (down.empty() ? "" : "; ") + tier.status.name + " is down: " + tier.status.why_down;
    else if (!has_room(tier.status, item_bytes))
      full += (full.empty() ? "" : "; ") + tier.status.name + " has " +
              std::to_string(free_bytes(tier.status)) + " bytes free";
  }
  const std::string asked = "no tier takes " + std::to_string(item_bytes) + " bytes: ";
  // Full is the more telling: it stays so when the others are back, unless somebody makes room.
  if (!full.empty())
    return {make_error_code(Errc::store_full), asked + full + (down.empty() ? "" : "; " + down)};
  if (!down.empty()) return {make_error_code(Errc::tier_down), asked + down};
  return {make_error_code(Errc::tier_down),
          asked + (pools_only ? "no pool is configured" : "no tier is configured")};
}

}  // namespace forebay::spill
