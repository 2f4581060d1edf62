// SPDX-License-Identifier: Apache-2.0
// Writer: puts an item into as many tiers as it shall have copies.
//
// Copies go to different pools, at once; one that fails is offered to the next pool. If no pool has
// taken it, the disks are asked in their order. With at least one copy it has succeeded. Any
// thread.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <vector>

#include "spill/stack/tier_set.h"
#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill {

struct Writing {
  TierKey key;
  std::vector<std::span<const std::byte>> parts;
  std::uint32_t crc32c = 0;
  TierLabel label;  // named: to pools only
  unsigned replicas = 1;
  TierDeadline deadline{};
  std::function<void(Result<std::array<TierPlace, 2>>)> done;
};

class Writer {
 public:
  Writer(TierSet& tiers, std::uint64_t seed) : tiers_(tiers), random_(seed) {}

  void write(Writing writing);

 private:
  struct State;

  // Takes in an answer, if there is one; then asks the next, or has the result.
  void advance(const std::shared_ptr<State>& state, Result<TierPlace>* answer);
  static void note(State& state, Result<TierPlace>& answer);

  TierSet& tiers_;
  std::mutex mutex_;
  std::mt19937_64 random_;  // Guarded by mutex_.
};

}  // namespace forebay::spill
