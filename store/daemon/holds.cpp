// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/holds.h"

#include <algorithm>
#include <utility>

namespace forebay::daemon {

void Holds::hold(EntryNumber entry, Slot slot) {
  ++held_[entry].counts[slot];
  by_slot_[slot].insert(entry);
}

bool Holds::unhold(EntryNumber entry, Slot slot) {
  const auto found = held_.find(entry);
  if (found == held_.end()) return false;
  const auto count = found->second.counts.find(slot);
  if (count == found->second.counts.end()) return false;
  if (--count->second > 0) return true;
  found->second.counts.erase(count);
  const auto of_slot = by_slot_.find(slot);
  of_slot->second.erase(entry);
  if (of_slot->second.empty()) by_slot_.erase(of_slot);
  if (found->second.by_nobody()) held_.erase(found);
  return true;
}

std::vector<EntryNumber> Holds::process_ended(Slot slot) {
  std::vector<EntryNumber> free;
  const auto of_slot = by_slot_.extract(slot);
  if (of_slot.empty()) return free;
  for (const EntryNumber entry : of_slot.mapped()) {
    const auto found = held_.find(entry);
    found->second.counts.erase(slot);
    if (!found->second.by_nobody()) continue;
    held_.erase(found);
    free.push_back(entry);
  }
  // In the same order on every run, for what is done with them shows.
  std::ranges::sort(free);
  return free;
}

std::vector<EntryNumber> Holds::say_again(Slot slot, std::span<const EntryNumber> entries) {
  std::vector<EntryNumber> free = process_ended(slot);
  for (const EntryNumber entry : entries) hold(entry, slot);
  std::erase_if(free, [this](EntryNumber entry) { return held(entry); });
  return free;
}

void Holds::list(EntryNumber manifest, std::vector<EntryNumber> members) {
  for (const EntryNumber member : members) held_[member].manifests.push_back(manifest);
  members_[manifest] = std::move(members);
}

std::vector<EntryNumber> Holds::unlist(EntryNumber manifest) {
  std::vector<EntryNumber> free;
  const auto members = members_.extract(manifest);
  if (members.empty()) return free;
  for (const EntryNumber member : members.mapped()) {
    const auto found = held_.find(member);
    if (found == held_.end()) continue;
    std::erase(found->second.manifests, manifest);
    if (!found->second.by_nobody()) continue;
    held_.erase(found);
    free.push_back(member);
  }
  return free;
}

const std::vector<EntryNumber>& Holds::members_of(EntryNumber manifest) const {
  static const std::vector<EntryNumber> none;
  const auto found = members_.find(manifest);
  return found == members_.end() ? none : found->second;
}

std::vector<EntryNumber> Holds::manifests_of(EntryNumber entry) const {
  const auto found = held_.find(entry);
  return found == held_.end() ? std::vector<EntryNumber>{} : found->second.manifests;
}

std::vector<Holds::Slot> Holds::holders(EntryNumber entry) const {
  std::vector<Slot> slots;
  if (const auto found = held_.find(entry); found != held_.end())
    for (const auto& [slot, count] : found->second.counts) slots.push_back(slot);
  return slots;
}

void Holds::forget(EntryNumber entry) {
  const auto held = held_.extract(entry);
  if (held.empty()) return;
  for (const auto& [slot, count] : held.mapped().counts) {
    const auto of_slot = by_slot_.find(slot);
    of_slot->second.erase(entry);
    if (of_slot->second.empty()) by_slot_.erase(of_slot);
  }
  for (const EntryNumber manifest : held.mapped().manifests)
    if (const auto members = members_.find(manifest); members != members_.end())
      std::erase(members->second, entry);
}

}  // namespace forebay::daemon
