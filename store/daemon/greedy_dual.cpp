// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/greedy_dual.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace forebay::daemon {
namespace {

// A use counts half after as many uses as this many rounds over all that is in memory.
constexpr double half_life_rounds = 2;
constexpr double half_life_least = 64;
// A few hot ones must sink too when they are used no more.
constexpr double uses_most = 16;
// What comes next, and what does not come for very long, as multiples of an ordinary worth.
constexpr double next_use_most = 64;
constexpr int priority_most = 8;

constexpr double dead_worth = -std::numeric_limits<double>::infinity();

}  // namespace

void GreedyDual::add(EntryNumber entry, std::uint64_t size, Class of) {
  const auto [at, fresh] = entries_.try_emplace(entry);
  at->second.size = std::max<std::uint64_t>(size, 1);
  if (fresh) {
    at->second.in = of;
    at->second.place = {0, ++sequence_, entry};
    order_of(at->second).insert(at->second.place);
  }
  set_class(entry, of);
  touch(entry);
}

void GreedyDual::set_class(EntryNumber entry, Class of) {
  const auto found = entries_.find(entry);
  if (found == entries_.end() || found->second.in == of) return;
  auto node = order_of(found->second).extract(found->second.place);
  found->second.in = of;
  order_of(found->second).insert(std::move(node));
}

void GreedyDual::remove(EntryNumber entry) {
  const auto found = entries_.find(entry);
  if (found == entries_.end()) return;
  order_of(found->second).erase(found->second.place);
  entries_.erase(found);
}

void GreedyDual::evict(EntryNumber entry) {
  const auto found = entries_.find(entry);
  if (found == entries_.end()) return;
  floor_ = std::max(floor_, std::get<0>(found->second.place));
  remove(entry);
}

void GreedyDual::touch(EntryNumber entry, double weight) {
  const auto found = entries_.find(entry);
  if (found == entries_.end()) return;
  Entry& touched = found->second;
  weight = std::clamp(weight, 0.0, 1.0);
  ++uses_;
  touched.uses = std::min(uses_now(touched) + weight, uses_most);
  touched.used_at = uses_;
  // Whoever said that it would not be, or when it would be, has been heard.
  const double before = touched.dead ? floor_ : std::get<0>(touched.place);
  touched.dead = false;
  touched.next_use = 0;
  move_to(entry, touched, before + weight * (worth(touched) - before));
}

void GreedyDual::hint(EntryNumber entry, LastUse) {
  counting_ = true;
  const auto found = entries_.find(entry);
  if (found == entries_.end()) return;
  found->second.dead = true;
  move_to(entry, found->second, dead_worth);
}

void GreedyDual::hint(EntryNumber entry, NextUse next) {
  const auto found = entries_.find(entry);
  if (found == entries_.end()) return;
  found->second.dead = false;
  found->second.next_use = uses_ + std::min(next.distance, ~uses_ - 1) + 1;
  move_to(entry, found->second, worth(found->second));
}

void GreedyDual::hint(EntryNumber entry, Priority priority) {
  const auto found = entries_.find(entry);
  if (found == entries_.end()) return;
  found->second.priority = std::clamp(priority.steps, -priority_most, priority_most);
  if (!found->second.dead) move_to(entry, found->second, worth(found->second));
}

EntryNumber GreedyDual::next_warmer(EntryNumber entry) const {
  const Entry& known = entries_.at(entry);
  const auto& order = order_[static_cast<std::size_t>(known.in)];
  const auto next = std::next(order.find(known.place));
  return next == order.end() ? no_entry : std::get<2>(*next);
}

bool GreedyDual::is_dead(EntryNumber entry) const {
  const auto found = entries_.find(entry);
  return found != entries_.end() && found->second.dead;
}

double GreedyDual::uses_now(const Entry& entry) const {
  const double half_life =
      std::max(half_life_least, half_life_rounds * static_cast<double>(entries_.size()));
  return entry.uses * std::exp2(-static_cast<double>(uses_ - entry.used_at) / half_life);
}

double GreedyDual::worth(const Entry& entry) const {
  double uses = 1;
  if (entry.next_use != 0) {
    // An ordinary one is expected about once in a round over all that is in memory.
    const auto distance =
        static_cast<double>(entry.next_use - std::min(entry.next_use - 1, uses_));
    uses = std::min(static_cast<double>(entries_.size()) / distance, next_use_most);
  } else if (counting_) {
    // The root: with the plain count, what is read in each of many rounds keeps out what is read
    // once more, soon (1.08 of the cost of LRU for a blocked product in 5 % of its memory; 0.99
    // so).
    uses = std::sqrt(std::max(uses_now(entry), 1.0));
  }
  const double size = static_cast<double>(entry.size);
  const double transfer = size / options_.bytes_per_ns;
  // Where the transfer is most of it, all are worth the same for each byte: to keep what is a
  // little dearer a little longer loses, on task graphs whose working set just fits, what LRU does
  // not (2.2 of its cost).
  const double cost = transfer + (transfer > options_.latency_ns ? 0 : options_.latency_ns);
  return floor_ + std::ldexp(uses * cost / size, entry.priority);
}

void GreedyDual::move_to(EntryNumber number, Entry& entry, double worth) {
  auto node = order_of(entry).extract(entry.place);
  entry.place = {worth, ++sequence_, number};
  node.value() = entry.place;
  order_of(entry).insert(std::move(node));
}

}  // namespace forebay::daemon
