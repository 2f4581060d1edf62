// SPDX-License-Identifier: Apache-2.0
// TierSet: the tiers of a stack, and the way to them that can be closed.
//
// Passes calls on to tiers by their index. Once `close` has returned nobody is inside a tier, and
// who calls gets `cancelled`, within the call; then the tiers can go. Any thread.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "spill/stack/placement.h"
#include "store/tier.h"

namespace forebay::spill {

struct StackTier {
  std::unique_ptr<Tier> tier;
  TierKind kind = TierKind::pool;
  double weight = 1;  // of a pool, against the others, with as many bytes free
};

class TierSet {
 public:
  explicit TierSet(std::vector<StackTier> tiers) : tiers_(std::move(tiers)) {}

  // Where what lay in that incarnation is now.
  struct Holder {
    std::optional<std::size_t> tier;  // the one that holds it, up or not
    bool up = false;
    bool may_return = false;  // no tier that is known has it, but one that is not might
    std::string why;          // not up; one sentence
  };
  Holder holder_of(std::uint64_t incarnation) const;

  std::size_t count() const { return tiers_.size(); }
  TierKind kind(std::size_t tier) const { return tiers_[tier].kind; }
  // As long as the tiers are there, which the owner must see to.
  std::vector<TierRoom> rooms() const;
  void memory_leaves(std::span<const std::byte> bytes);

  void put(std::size_t tier, TierPut put, TierDeadline deadline, Tier::PutDone done);
  void get(std::size_t tier, TierGet get, TierDeadline deadline, Tier::Done done);
  void remove(std::size_t tier, TierKey key, TierPlace place, TierDeadline deadline,
              Tier::Done done);
  void list(std::size_t tier, std::array<std::uint8_t, 16> store, TierDeadline deadline,
            Tier::ListDone done);
  void find(std::size_t tier, std::string name, std::uint64_t version, TierDeadline deadline,
            Tier::FindDone done);

  // Must not be called from within a callback.
  void close();
  bool closed() const { return closed_.load(); }
  // After close: the tiers answer what is open, and go.
  void destroy_tiers() { tiers_.clear(); }

  // Whoever comes in keeps `close` from returning until this is gone; false: it is closed.
  class Visit {
   public:
    explicit Visit(const TierSet& set) : set_(set) {
      set_.visitors_.fetch_add(1);
      inside_ = !set_.closed_.load();
      if (!inside_) leave();
    }
    ~Visit() {
      if (inside_) leave();
    }
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;
    explicit operator bool() const { return inside_; }

   private:
    void leave() {
      if (set_.visitors_.fetch_sub(1) == 1) set_.visitors_.notify_all();
    }
    const TierSet& set_;
    bool inside_ = false;
  };

 private:
  std::vector<StackTier> tiers_;
  std::atomic<bool> closed_{false};
  mutable std::atomic<unsigned> visitors_{0};
};

Failure closed_failure();

}  // namespace forebay::spill
