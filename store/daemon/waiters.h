// SPDX-License-Identifier: Apache-2.0
// Waiters: who waits for which version, to be sealed or to be back in memory.
//
// What happens to a version wakes exactly those whom it satisfies; nobody polls. Whatever takes a waiter out finds him
// without passing the others of his id, session or deadline, however many they are; only a version
// must look at all who wait for its id. A client chooses its numbers and may use one twice, so that
// a ticket may stand for several waiters: inside, they are told apart by their arrival.
//
// Owned by the daemon's thread; sees no clock but the time it is told.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "store/daemon/clock.h"
#include "store/daemon/ticket.h"
#include "store/shm/index_map.h"

namespace forebay::daemon {

// What a waiter wants of an id: this version, or any above `after`.
struct VersionWish {
  std::uint64_t exact = 0;  // 0: any above `after`
  std::uint64_t after = 0;
  bool satisfied_by(std::uint64_t version) const {
    return exact != 0 ? version == exact : version > after;
  }
};

class Waiters {
 public:
  struct Late {
    Ticket ticket;
    shm::Key key;
    VersionWish wish;
  };

  void park(Ticket ticket, const shm::Key& key, VersionWish wish, TimePoint deadline);

  // Takes out and returns the waiters whom this version satisfies, in order of arrival.
  std::vector<Ticket> wake(const shm::Key& key, std::uint64_t version);
  // Takes out and returns those whose time is up, the earliest deadline first.
  std::vector<Late> expire(TimePoint now);
  // Whether that version would wake somebody.
  bool anybody_waits_for(const shm::Key& key, std::uint64_t version) const;
  // The session has ended: its waits are void.
  void drop(SessionId session);
  // Nobody waits for the answer to this request any more: the waits of all its items are void.
  void cancel(SessionId session, std::uint32_t number);

  std::optional<TimePoint> next_deadline() const;
  std::size_t count() const { return by_ticket_.size(); }

 private:
  struct Waiter {
    Ticket ticket;
    VersionWish wish;
    TimePoint deadline;
  };
  struct KeyHash {
    std::size_t operator()(const shm::Key& key) const { return key.low; }
  };
  using Arrival = std::uint64_t;  // never given twice
  using OfKey = std::map<Arrival, Waiter>;
  using ByTicket = std::map<std::pair<Ticket, Arrival>, shm::Key>;

  // Forgets the waiter, but for his place in `by_key_`.
  void forget(Arrival arrival, const Waiter& waiter);
  // Takes out one whose ticket is known; returns the place of the next ticket.
  ByTicket::iterator take_out(ByTicket::iterator at);

  // Each waiter stands once in each of these; no key is left without waiters.
  std::unordered_map<shm::Key, OfKey, KeyHash> by_key_;
  std::map<std::pair<TimePoint, Arrival>, Ticket> by_deadline_;
  ByTicket by_ticket_;
  Arrival next_arrival_ = 0;
};

}  // namespace forebay::daemon
