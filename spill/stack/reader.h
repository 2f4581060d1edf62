// SPDX-License-Identifier: Apache-2.0
// Reader: brings a segment back, whole or in part, checked, from whichever copy is there and sound.
//
// Copies are asked one after the other, never two at once: they share the destination. Where there
// is another, the first gets only a share of the time; if nothing else helps it is asked again with
// what is left. A whole segment that was not encoded comes straight into the destination, a part of
// one but for its first and last block; everything else goes through bounded scratch memory. Any
// thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>

#include "spill/stack/remover.h"
#include "spill/stack/scratch.h"
#include "spill/stack/tier_set.h"
#include "spill/stack/workers.h"
#include "store/spill.h"

namespace forebay::spill {

class Reader {
 public:
  // A copy of that place turned out to be corrupt or gone, and another one was good.
  using BadCopy = std::function<void(const SpillPlace& place, unsigned copy)>;

  Reader(TierSet& tiers, Scratch& scratch, Remover& remover, Workers& workers)
      : tiers_(tiers), scratch_(scratch), remover_(remover), workers_(workers) {}

  void on_bad_copy(BadCopy bad_copy) { bad_copy_ = std::move(bad_copy); }

  // Bytes [offset, offset + into.size()) of the segment.
  void read(const SpillPlace& place, std::uint64_t offset, std::span<std::byte> into,
            TierPriority priority, TierDeadline deadline, Spill::Done done);

  std::uint64_t repaired() const { return repaired_.load(); }
  std::uint64_t corrupt() const { return corrupt_.load(); }
  void count_corrupt() { corrupt_.fetch_add(1); }

 private:
  struct Reading;
  using Open = std::shared_ptr<Reading>;

  void find_copies(Reading& reading);
  void attempt(const Open& reading);
  void arrived(const Open& reading, Result<void> result);
  void check(const Open& reading);
  void failed(const Open& reading, const Error& error);
  void finish(const Open& reading, Result<void> result);

  TierSet& tiers_;
  Scratch& scratch_;
  Remover& remover_;
  Workers& workers_;
  BadCopy bad_copy_;  // set once, before anything else
  std::atomic<std::uint64_t> repaired_{0};
  std::atomic<std::uint64_t> corrupt_{0};
};

}  // namespace forebay::spill
