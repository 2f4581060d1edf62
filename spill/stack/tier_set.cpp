// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/tier_set.h"

#include <utility>

namespace forebay::spill {

Failure closed_failure() {
  return fail(Errc::cancelled, "the spill is being closed; ask again after the restart");
}

TierSet::Holder TierSet::holder_of(std::uint64_t incarnation) const {
  Holder holder;
  const Visit visit(*this);
  if (!visit) {
    holder.may_return = true;
    holder.why = "the spill is being closed";
    return holder;
  }
  for (std::size_t i = 0; i < tiers_.size(); ++i) {
    const TierStatus status = tiers_[i].tier->status();
    if (status.incarnation == incarnation) {
      holder.tier = i;
      holder.up = status.up;
      holder.may_return = true;
      holder.why = status.up ? "" : status.name + " is down: " + status.why_down;
      return holder;
    }
    // What it holds is not known, so it may be this.
    if (status.incarnation == 0) {
      holder.may_return = true;
      holder.why += (holder.why.empty() ? "" : "; ") + status.name +
                    " has not been reached yet: " + status.why_down;
    }
  }
  if (!holder.may_return) holder.why = "the memory or folder that held it is there no more";
  return holder;
}

std::vector<TierRoom> TierSet::rooms() const {
  std::vector<TierRoom> rooms;
  const Visit visit(*this);
  if (!visit) return rooms;
  rooms.reserve(tiers_.size());
  for (const StackTier& tier : tiers_)
    rooms.push_back({tier.kind, tier.weight, tier.tier->status()});
  return rooms;
}

void TierSet::memory_leaves(std::span<const std::byte> bytes) {
  const Visit visit(*this);
  if (!visit) return;
  for (const StackTier& tier : tiers_) tier.tier->memory_leaves(bytes);
}

void TierSet::put(std::size_t tier, TierPut put, TierDeadline deadline, Tier::PutDone done) {
  const Visit visit(*this);
  if (!visit) return done(closed_failure());
  tiers_[tier].tier->put(std::move(put), deadline, std::move(done));
}

void TierSet::get(std::size_t tier, TierGet get, TierDeadline deadline, Tier::Done done) {
  const Visit visit(*this);
  if (!visit) return done(closed_failure());
  tiers_[tier].tier->get(get, deadline, std::move(done));
}

void TierSet::remove(std::size_t tier, TierKey key, TierPlace place, TierDeadline deadline,
                     Tier::Done done) {
  const Visit visit(*this);
  if (!visit) return done(closed_failure());
  tiers_[tier].tier->remove(key, place, deadline, std::move(done));
}

void TierSet::list(std::size_t tier, std::array<std::uint8_t, 16> store, TierDeadline deadline,
                   Tier::ListDone done) {
  const Visit visit(*this);
  if (!visit) return done(closed_failure());
  tiers_[tier].tier->list(store, deadline, std::move(done));
}

void TierSet::find(std::size_t tier, std::string name, std::uint64_t version,
                   TierDeadline deadline, Tier::FindDone done) {
  const Visit visit(*this);
  if (!visit) return done(closed_failure());
  tiers_[tier].tier->find(std::move(name), version, deadline, std::move(done));
}

void TierSet::close() {
  closed_.store(true);
  // Calls into a tier do not wait for anything, so this is short.
  for (unsigned inside = visitors_.load(); inside != 0; inside = visitors_.load())
    visitors_.wait(inside);
}

}  // namespace forebay::spill
