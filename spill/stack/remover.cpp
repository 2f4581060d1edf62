// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/remover.h"

#include <algorithm>

namespace forebay::spill {
namespace {

using namespace std::chrono_literals;

constexpr unsigned open_max = 32;  // at once, of one tier
constexpr auto deadline_of_one = 5s;
constexpr std::chrono::milliseconds back_off_first = 10ms;
constexpr std::chrono::milliseconds back_off_most = 2s;

}  // namespace

void Remover::remove(const TierKey& key, const TierPlace& place) {
  if (place.incarnation == 0) return;
  bool dropped = false;
  {
    const std::lock_guard lock(mutex_);
    const auto held = held_.find(key);
    if (held != held_.end()) {
      held->second.removals.push_back(place);
      return;
    }
    Queue& queue = queues_[place.incarnation];
    dropped = queue.waiting.size() >= queued_max_;
    if (!dropped) queue.waiting.push_back({key, place});
  }
  if (dropped) {
    if (overflowed_) overflowed_(place.incarnation);
    return;
  }
  pump(place.incarnation);
}

void Remover::hold(const TierKey& key) {
  const std::lock_guard lock(mutex_);
  ++held_[key].readers;
}

void Remover::release(const TierKey& key) {
  std::vector<TierPlace> removals;
  {
    const std::lock_guard lock(mutex_);
    const auto held = held_.find(key);
    if (held == held_.end() || --held->second.readers > 0) return;
    removals.swap(held->second.removals);
    held_.erase(held);
  }
  for (const TierPlace& place : removals) remove(key, place);
}

std::size_t Remover::waiting() const {
  const std::lock_guard lock(mutex_);
  std::size_t count = 0;
  for (const auto& [incarnation, queue] : queues_) count += queue.waiting.size() + queue.open;
  for (const auto& [key, hold] : held_) count += hold.removals.size();
  return count;
}

void Remover::try_later(std::uint64_t incarnation, Queue& queue) {
  if (queue.timer) return;
  queue.back_off = std::clamp(queue.back_off * 2, back_off_first, back_off_most);
  queue.not_before = TierClock::now() + queue.back_off;
  queue.timer = true;
  workers_.run_at(queue.not_before, [this, incarnation] {
    {
      const std::lock_guard relock(mutex_);
      const auto found = queues_.find(incarnation);
      if (found == queues_.end()) return;
      found->second.timer = false;
    }
    pump(incarnation);
  });
}

void Remover::pump(std::uint64_t incarnation) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = queues_.find(incarnation);
    if (found == queues_.end() || found->second.timer) return;
    if (found->second.open >= open_max) return;
  }
  const TierSet::Holder holder = tiers_.holder_of(incarnation);
  std::vector<Removal> removals;
  {
    const std::lock_guard lock(mutex_);
    const auto found = queues_.find(incarnation);
    if (found == queues_.end() || found->second.timer) return;
    Queue& queue = found->second;
    if (!holder.tier && !holder.may_return) {
      queue.waiting.clear();
      if (queue.open == 0) queues_.erase(found);
      return;
    }
    if (!holder.up) {
      if (!queue.waiting.empty()) try_later(incarnation, queue);
      return;
    }
    while (queue.open < open_max && !queue.waiting.empty()) {
      removals.push_back(queue.waiting.front());
      queue.waiting.pop_front();
      ++queue.open;
    }
  }
  for (const Removal& removal : removals)
    tiers_.remove(*holder.tier, removal.key, removal.place, TierClock::now() + deadline_of_one,
                  [this, incarnation, removal](Result<void> result) {
                    answered(incarnation, removal, result);
                  });
}

void Remover::answered(std::uint64_t incarnation, Removal removal, const Result<void>& result) {
  const bool gone = result || result.error().is(Errc::lost) || result.error().is(Errc::not_found);
  {
    const std::lock_guard lock(mutex_);
    const auto found = queues_.find(incarnation);
    if (found == queues_.end()) return;
    Queue& queue = found->second;
    --queue.open;
    if (gone) {
      queue.back_off = {};
    } else {
      queue.waiting.push_front(removal);
      try_later(incarnation, queue);
    }
    if (queue.waiting.empty()) {
      if (queue.open == 0 && !queue.timer) queues_.erase(found);
      return;
    }
    if (queue.timer) return;
    // A window is refilled when half of it is done, so that a tier that answers within the call
    // does not nest us without bound.
    if (queue.open > open_max / 2) return;
  }
  workers_.run(TierPriority::background, [this, incarnation] { pump(incarnation); });
}

}  // namespace forebay::spill
