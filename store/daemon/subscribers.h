// SPDX-License-Identifier: Apache-2.0
// Subscribers: who waits for the next event.
//
// A subscriber is parked once for each answer. While nothing happens that his prefix matches, his
// cursor moves on with the log, so that each event is looked at once for each subscriber. As with
// Waiters, several may have the same ticket.
//
// Owned by the daemon's thread; sees no clock but the time it is told.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "store/daemon/clock.h"
#include "store/daemon/event_log.h"
#include "store/daemon/ticket.h"

namespace forebay::daemon {

class Subscribers {
 public:
  // May call back into the owner, but not into Subscribers. The batch is valid until the next
  // record.
  using Answer = std::function<void(Ticket, const EventLog::Batch&)>;

  void park(Ticket ticket, std::string prefix, std::uint64_t cursor, TimePoint deadline);

  // Takes out and answers, in order of arrival, those for whom there is something by now: events,
  // or the news that some were forgotten before they could be looked at.
  void serve(const EventLog& log, std::size_t bytes_max, const Answer& answer);
  // Takes out those whose time is up, the earliest deadline first, and answers them with no events,
  // at their cursor.
  void expire(TimePoint now, const Answer& answer);
  // The session has ended: its subscriptions are void.
  void drop(SessionId session);
  // Nobody waits for the answer to this request any more.
  void cancel(SessionId session, std::uint32_t number);

  std::optional<TimePoint> next_deadline() const;
  std::size_t count() const { return by_arrival_.size(); }

 private:
  struct Subscriber {
    Ticket ticket;
    std::string prefix;
    std::uint64_t cursor;
    TimePoint deadline;
  };
  using Arrival = std::uint64_t;  // never given twice
  using ByArrival = std::map<Arrival, Subscriber>;
  using ByTicket = std::set<std::pair<Ticket, Arrival>>;

  // Both return the place of the one after.
  ByArrival::iterator take_out(ByArrival::iterator at);
  ByTicket::iterator take_out(ByTicket::iterator at);

  // Each subscriber stands once in each of these.
  ByArrival by_arrival_;
  std::set<std::pair<TimePoint, Arrival>> by_deadline_;
  ByTicket by_ticket_;
  Arrival next_arrival_ = 0;

  // Those who came before `served_` have looked at all events before this one.
  std::uint64_t looked_at_ = 0;
  Arrival served_ = 0;
};

}  // namespace forebay::daemon
