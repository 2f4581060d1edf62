// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/waiters.h"

#include <algorithm>

namespace forebay::daemon {

void Waiters::park(Ticket ticket, const shm::Key& key, VersionWish wish, TimePoint deadline) {
  by_key_[key].push_back({ticket, wish, deadline});
  by_deadline_.emplace(deadline, std::pair{ticket, key});
  by_session_[ticket.session].push_back(key);
  ++count_;
}

void Waiters::forget_deadline(const shm::Key& key, const Waiter& waiter) {
  auto [at, end] = by_deadline_.equal_range(waiter.deadline);
  // The ticket alone would do, did not a client choose its numbers: the same one for two ids must
  // not leave a deadline behind that belongs to nobody, for `expire` would never get past it.
  for (; at != end; ++at)
    if (at->second == std::pair{waiter.ticket, key}) {
      by_deadline_.erase(at);
      return;
    }
}

template <class Leaves>
std::vector<Ticket> Waiters::take(const shm::Key& key, Leaves&& leaves) {
  std::vector<Ticket> taken;
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return taken;
  std::erase_if(found->second, [&](const Waiter& waiter) {
    if (!leaves(waiter)) return false;
    taken.push_back(waiter.ticket);
    forget_deadline(key, waiter);
    auto& keys = by_session_[waiter.ticket.session];
    if (const auto one = std::find(keys.begin(), keys.end(), key); one != keys.end())
      keys.erase(one);
    if (keys.empty()) by_session_.erase(waiter.ticket.session);
    return true;
  });
  if (found->second.empty()) by_key_.erase(found);
  count_ -= taken.size();
  return taken;
}

std::vector<Ticket> Waiters::wake(const shm::Key& key, std::uint64_t version) {
  return take(key,
              [version](const Waiter& waiter) { return waiter.wish.satisfied_by(version); });
}

std::vector<Ticket> Waiters::expire(TimePoint now) {
  std::vector<Ticket> expired;
  while (!by_deadline_.empty() && by_deadline_.begin()->first <= now) {
    const auto [ticket, key] = by_deadline_.begin()->second;
    take(key, [&](const Waiter& waiter) { return waiter.ticket == ticket; });
    expired.push_back(ticket);
  }
  return expired;
}

void Waiters::drop(SessionId session) {
  const auto found = by_session_.find(session);
  if (found == by_session_.end()) return;
  for (const shm::Key& key : std::vector<shm::Key>(found->second))
    take(key, [&](const Waiter& waiter) { return waiter.ticket.session == session; });
}

std::optional<TimePoint> Waiters::next_deadline() const {
  if (by_deadline_.empty()) return std::nullopt;
  return by_deadline_.begin()->first;
}

}  // namespace forebay::daemon
