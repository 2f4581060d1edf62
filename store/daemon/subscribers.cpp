// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/subscribers.h"

#include <iterator>
#include <utility>

namespace forebay::daemon {

void Subscribers::park(Ticket ticket, std::string prefix, std::uint64_t cursor,
                       TimePoint deadline) {
  const Arrival arrival = next_arrival_++;
  by_arrival_.emplace(arrival, Subscriber{ticket, std::move(prefix), cursor, deadline});
  by_deadline_.emplace(deadline, arrival);
  by_ticket_.emplace(ticket, arrival);
}

Subscribers::ByArrival::iterator Subscribers::take_out(ByArrival::iterator at) {
  by_deadline_.erase({at->second.deadline, at->first});
  by_ticket_.erase({at->second.ticket, at->first});
  return by_arrival_.erase(at);
}

Subscribers::ByTicket::iterator Subscribers::take_out(ByTicket::iterator at) {
  const auto next = std::next(at);
  take_out(by_arrival_.find(at->second));
  return next;
}

void Subscribers::serve(const EventLog& log, std::size_t bytes_max, const Answer& answer) {
  // Without a new event there is nothing to look at but for those who have come since: else a crowd
  // that is answered and comes back one by one would each time be gone through as a whole.
  const std::uint64_t next = log.next();
  auto at = next == looked_at_ ? by_arrival_.lower_bound(served_) : by_arrival_.begin();
  looked_at_ = next;
  served_ = next_arrival_;
  while (at != by_arrival_.end()) {
    Subscriber& subscriber = at->second;
    const EventLog::Batch batch = log.read(subscriber.prefix, subscriber.cursor, bytes_max);
    if (batch.events.empty() && batch.missed == 0) {
      subscriber.cursor = batch.cursor;
      ++at;
      continue;
    }
    const Ticket ticket = subscriber.ticket;
    at = take_out(at);
    answer(ticket, batch);
  }
}

void Subscribers::expire(TimePoint now, const Answer& answer) {
  while (!by_deadline_.empty() && by_deadline_.begin()->first <= now) {
    const auto at = by_arrival_.find(by_deadline_.begin()->second);
    const Ticket ticket = at->second.ticket;
    const EventLog::Batch nothing{.cursor = at->second.cursor, .missed = 0, .events = {}};
    take_out(at);
    answer(ticket, nothing);
  }
}

void Subscribers::drop(SessionId session) {
  auto at = by_ticket_.lower_bound({Ticket{session}, 0});
  while (at != by_ticket_.end() && at->first.session == session) at = take_out(at);
}

void Subscribers::cancel(SessionId session, std::uint32_t number) {
  const auto of_request = [&](const Ticket& ticket) {
    return ticket.session == session && ticket.number == number;
  };
  auto at = by_ticket_.lower_bound({Ticket{session, number}, 0});
  while (at != by_ticket_.end() && of_request(at->first)) at = take_out(at);
}

std::optional<TimePoint> Subscribers::next_deadline() const {
  if (by_deadline_.empty()) return std::nullopt;
  return by_deadline_.begin()->first;
}

}  // namespace forebay::daemon
