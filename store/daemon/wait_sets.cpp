// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/wait_sets.h"

#include <limits>

namespace forebay::daemon {

void WaitSets::add_items(Ticket whole, std::uint32_t count) {
  auto& ready = sets_[request_of(whole)].ready;
  ready.resize(ready.size() + count);
}

std::uint32_t WaitSets::items(Ticket whole) const {
  const auto set = sets_.find(request_of(whole));
  return set == sets_.end() ? 0 : static_cast<std::uint32_t>(set->second.ready.size());
}

std::uint32_t WaitSets::ready(Ticket whole) const {
  const auto set = sets_.find(request_of(whole));
  return set == sets_.end() ? 0 : set->second.ready_count;
}

void WaitSets::begin(Ticket whole, std::uint32_t needed) {
  sets_[request_of(whole)].needed = needed;
}

std::optional<WaitSets::Ready> WaitSets::note_ready(Ticket item) {
  const auto found = sets_.find(request_of(item));
  if (found == sets_.end()) return std::nullopt;
  Set& set = found->second;
  if (item.item == 0 || item.item > set.ready.size()) return std::nullopt;
  auto ready = set.ready[item.item - 1];
  if (ready) return std::nullopt;
  ready = true;
  ++set.ready_count;
  if (!set.needed || set.ready_count < *set.needed) return std::nullopt;
  return forget(found);
}

std::optional<WaitSets::Ready> WaitSets::give_up(Ticket item_or_whole) {
  const auto set = sets_.find(request_of(item_or_whole));
  if (set == sets_.end()) return std::nullopt;
  return forget(set);
}

WaitSets::Ready WaitSets::forget(SetMap::iterator set) {
  Ready ready;
  ready.reserve(set->second.ready_count);
  for (std::uint32_t index = 0; index < set->second.ready.size(); ++index)
    if (set->second.ready[index]) ready.push_back(index);
  sets_.erase(set);
  return ready;
}

void WaitSets::drop(SessionId session) {
  sets_.erase(sets_.lower_bound({session, 0}),
              sets_.upper_bound({session, std::numeric_limits<std::uint32_t>::max()}));
}

void WaitSets::cancel(SessionId session, std::uint32_t number) { sets_.erase({session, number}); }

}  // namespace forebay::daemon
