// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/sweeper.h"

#include <chrono>
#include <utility>
#include <vector>

namespace forebay::spill {
namespace {

using namespace std::chrono_literals;

constexpr auto list_within = 30s;
constexpr auto look_every = 500ms;  // whether a tier has come up

}  // namespace

void Sweeper::start() {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(started_, true)) return;
  }
  tick();
}

void Sweeper::again(std::uint64_t incarnation) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    swept_.erase(incarnation);
    first = !std::exchange(started_, true);
  }
  // Not within the call: the tier that could not keep up would be asked for all it has.
  if (first) workers_.run_at(TierClock::now() + look_every, [this] { tick(); });
}

void Sweeper::tick() {
  const std::vector<TierRoom> rooms = tiers_.rooms();
  for (std::size_t tier = 0; tier < rooms.size(); ++tier) {
    const std::uint64_t incarnation = rooms[tier].status.incarnation;
    if (!rooms[tier].status.up || incarnation == 0) continue;
    {
      const std::lock_guard lock(mutex_);
      if (swept_.contains(incarnation) || !sweeping_.insert(incarnation).second) continue;
      // Before the listing: a removal that is dropped from here on asks for another one.
      swept_.insert(incarnation);
    }
    sweep(tier, incarnation);
  }
  workers_.run_at(TierClock::now() + look_every, [this] { tick(); });
}

void Sweeper::sweep(std::size_t tier, std::uint64_t incarnation) {
  tiers_.list(tier, holdings_.store(), TierClock::now() + list_within,
              [this, incarnation](Result<std::vector<TierItem>> items) {
                if (items)
                  for (const TierItem& item : *items)
                    if (item.label.name.empty() && !holdings_.knows(item.key.number))
                      remover_.remove(item.key, item.place);
                const std::lock_guard lock(mutex_);
                sweeping_.erase(incarnation);
                if (!items) swept_.erase(incarnation);
              });
}

}  // namespace forebay::spill
