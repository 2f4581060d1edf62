// SPDX-License-Identifier: Apache-2.0
// Compactor: moves segments out of packs that are mostly dead or have a bad copy, and segments away
// from copies that turned out to be bad.
//
// One pack at a time, in the background: it is read back as a whole, each living segment is
// checked, those that are sound go into new packs with whatever else is being packed, and each is
// offered to whoever keeps the places. The old pack goes when its last segment has been taken over.
// What cannot be moved now is tried again later, less and less often. Any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>

#include "spill/stack/holdings.h"
#include "spill/stack/packer.h"
#include "spill/stack/reader.h"
#include "spill/stack/remover.h"
#include "spill/stack/scratch.h"
#include "spill/stack/tier_set.h"
#include "spill/stack/workers.h"
#include "store/spill.h"

namespace forebay::spill {

class Compactor {
 public:
  Compactor(std::shared_ptr<TierSet> tiers, Holdings& holdings, Packer& packer, Reader& reader,
            Remover& remover, Scratch& scratch, Workers& workers)
      : tiers_(std::move(tiers)),
        holdings_(holdings),
        packer_(packer),
        reader_(reader),
        remover_(remover),
        scratch_(scratch),
        workers_(workers) {}

  // Without it nothing moves.
  void on_moved(Spill::Moved moved);

  // The pack is to be emptied.
  void want(std::uint64_t item);
  // That segment lives no more; its pack goes with the last one.
  void forget_member(std::uint64_t item, std::uint64_t inner);
  // That copy is corrupt or gone, the other one is sound.
  void drop_copy(const SpillPlace& place, unsigned copy);

  std::uint64_t compactions() const { return compactions_.load(); }

 private:
  struct Run;
  struct Delay {
    unsigned failures = 0;
    TierClock::time_point not_before{};
  };
  class Answer;
  using Taken = std::function<void(bool taken)>;

  void next();
  void read_copy(const std::shared_ptr<Run>& run);
  void check(const std::shared_ptr<Run>& run);
  void move_members(const std::shared_ptr<Run>& run);
  void put_elsewhere(const std::shared_ptr<Run>& run, std::size_t number, const SpillPlace& to);
  void part_done(const std::shared_ptr<Run>& run, bool moved);
  void finish(const std::shared_ptr<Run>& run);
  bool offer(SpillMove move, Taken taken);

  const std::shared_ptr<TierSet> tiers_;  // outlives this for answers that come late
  Holdings& holdings_;
  Packer& packer_;
  Reader& reader_;
  Remover& remover_;
  Scratch& scratch_;
  Workers& workers_;
  std::atomic<std::uint64_t> compactions_{0};
  std::mutex mutex_;
  Spill::Moved moved_;                                 // Guarded by mutex_.
  std::set<std::uint64_t> wanted_;                     // Guarded by mutex_.
  std::unordered_map<std::uint64_t, Delay> delayed_;   // Guarded by mutex_.
  std::set<std::uint64_t> dropping_;                   // Guarded by mutex_.
  std::uint64_t running_ = 0;                          // Guarded by mutex_. 0: none
};

}  // namespace forebay::spill
