// SPDX-License-Identifier: Apache-2.0
// TierStack: the tiers of a node as one Spill.
//
// Segments below 64 KiB (as stored) go into packs, larger ones are items of their own; named ones
// always are, as they came, in pools only: who finds one by its name has nothing but what the tier
// knows of it. Each copy of an item lies in one tier. See the parts for the rest: Packer, Writer,
// Reader, Remover, Compactor, Sweeper, and sums.h for what is checked.
//
// Places of other stores, as `find` gives them, can be read, but forgetting them does nothing: they
// are their store's. A segment is encoded when there is scratch memory for that, and kept so when
// it has become smaller.
//
// The destructor answers everything (with `cancelled`, or as the tiers answer when they go), waits
// for the stack's threads and the tiers' and for no peer. Nothing may be called any more then but
// answers of on_moved, which do nothing.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "spill/stack/compactor.h"
#include "spill/stack/holdings.h"
#include "spill/stack/packer.h"
#include "spill/stack/reader.h"
#include "spill/stack/remover.h"
#include "spill/stack/scratch.h"
#include "spill/stack/sweeper.h"
#include "spill/stack/tier_set.h"
#include "spill/stack/workers.h"
#include "spill/stack/writer.h"
#include "store/spill.h"

namespace forebay::spill {

struct StackOptions {
  std::array<std::uint8_t, 16> store{};
  PackerOptions packs{};
  std::uint64_t pack_below_bytes = 64 * 1024;  // at most that
  std::uint64_t scratch_bytes = std::uint64_t{512} << 20U;
  std::size_t removals_max = 64 * 1024;  // waiting, for each incarnation
  unsigned threads = 2;
  std::uint64_t seed = 0;  // of the choice among pools; 0: any
};

class TierStack final : public Spill {
 public:
  // In the order in which they are shown; disks are asked in it.
  TierStack(std::vector<StackTier> tiers, StackOptions options);
  ~TierStack() override;

  void adopt(std::vector<std::pair<std::uint64_t, SpillPlace>> segments) override;
  void on_moved(Moved moved) override { compactor_.on_moved(std::move(moved)); }
  void put(SpillSource source, TierDeadline deadline, SpillDone done) override;
  void get(SpillPlace place, std::span<std::byte> into, TierPriority priority,
           TierDeadline deadline, Done done) override;
  void get_range(SpillPlace place, std::uint64_t offset, std::span<std::byte> into,
                 TierDeadline deadline, Done done) override;
  void forget(SpillPlace place) override;
  void settle(TierDeadline deadline) override;
  void find(std::string name, std::uint64_t version, TierDeadline deadline,
            FindDone done) override;
  std::array<int, 2> tiers_of(const SpillPlace& place) const override;
  SpillStatus status() const override;
  void memory_leaves(std::span<const std::byte> bytes) override { tiers_->memory_leaves(bytes); }

  // Sends packs that wait for more. For tests, and for who knows that no more will come.
  void flush() { packer_.flush(); }
  // Removals that no tier has answered yet.
  std::size_t removals_waiting() const { return remover_.waiting(); }

 private:
  struct Put;
  struct Finding;

  void prepare(const std::shared_ptr<Put>& put);
  void put_packed(const std::shared_ptr<Put>& put, std::span<const std::byte> stored,
                  std::uint32_t sum);
  void put_alone(const std::shared_ptr<Put>& put, std::span<const std::byte> stored);
  void found_all(Finding& finding);

  const StackOptions options_;
  // Each knows those above it.
  const std::shared_ptr<TierSet> tiers_;
  Workers workers_;
  Scratch scratch_;
  Holdings holdings_;
  Writer writer_;
  Remover remover_;
  Packer packer_;
  Reader reader_;
  Compactor compactor_;
  Sweeper sweeper_;
};

}  // namespace forebay::spill
