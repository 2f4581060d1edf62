// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/waiters.h"

#include <algorithm>
#include <iterator>

namespace forebay::daemon {

void Waiters::park(Ticket ticket, const shm::Key& key, VersionWish wish, TimePoint deadline) {
  const Arrival arrival = next_arrival_++;
  by_key_[key].emplace(arrival, Waiter{ticket, wish, deadline});
  by_deadline_.emplace(std::pair{deadline, arrival}, ticket);
  by_ticket_.emplace(std::pair{ticket, arrival}, key);
}

void Waiters::forget(Arrival arrival, const Waiter& waiter) {
  by_deadline_.erase({waiter.deadline, arrival});
  by_ticket_.erase({waiter.ticket, arrival});
}

Waiters::ByTicket::iterator Waiters::take_out(ByTicket::iterator at) {
  const Arrival arrival = at->first.second;
  const auto of_key = by_key_.find(at->second);
  const auto waiter = of_key->second.find(arrival);
  const auto next = std::next(at);
  forget(arrival, waiter->second);
  of_key->second.erase(waiter);
  if (of_key->second.empty()) by_key_.erase(of_key);
  return next;
}

std::vector<Ticket> Waiters::wake(const shm::Key& key, std::uint64_t version) {
  std::vector<Ticket> woken;
  const auto of_key = by_key_.find(key);
  if (of_key == by_key_.end()) return woken;
  std::erase_if(of_key->second, [&](const OfKey::value_type& entry) {
    const auto& [arrival, waiter] = entry;
    if (!waiter.wish.satisfied_by(version)) return false;
    woken.push_back(waiter.ticket);
    forget(arrival, waiter);
    return true;
  });
  if (of_key->second.empty()) by_key_.erase(of_key);
  return woken;
}

std::vector<Waiters::Late> Waiters::expire(TimePoint now) {
  std::vector<Late> expired;
  while (!by_deadline_.empty() && by_deadline_.begin()->first.first <= now) {
    const auto [when, ticket] = *by_deadline_.begin();
    const auto at = by_ticket_.find({ticket, when.second});
    expired.push_back({ticket, at->second, by_key_.at(at->second).at(when.second).wish});
    take_out(at);
  }
  return expired;
}

bool Waiters::anybody_waits_for(const shm::Key& key, std::uint64_t version) const {
  const auto of_key = by_key_.find(key);
  return of_key != by_key_.end() &&
         std::ranges::any_of(of_key->second, [version](const OfKey::value_type& waiter) {
           return waiter.second.wish.satisfied_by(version);
         });
}

void Waiters::drop(SessionId session) {
  auto at = by_ticket_.lower_bound({Ticket{session}, 0});
  while (at != by_ticket_.end() && at->first.first.session == session) at = take_out(at);
}

void Waiters::cancel(SessionId session, std::uint32_t number) {
  const auto of_request = [&](const Ticket& ticket) {
    return ticket.session == session && ticket.number == number;
  };
  auto at = by_ticket_.lower_bound({Ticket{session, number}, 0});
  while (at != by_ticket_.end() && of_request(at->first.first)) at = take_out(at);
}

std::optional<TimePoint> Waiters::next_deadline() const {
  if (by_deadline_.empty()) return std::nullopt;
  return by_deadline_.begin()->first.first;
}

}  // namespace forebay::daemon
