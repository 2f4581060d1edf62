// SPDX-License-Identifier: Apache-2.0
// WaitSets: requests that wait for several versions, and which of them are ready.
//
// Each item of a request waits by itself, under a ticket with the item's number; a set only counts
// what is ready, and says when that is enough. A set is known by session and number: a client that
// uses a number twice adds to the same set, and gets one answer. Items that no set knows any more,
// or never did, are no error, for such a client can bring them about.
//
// Owned by the daemon's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "store/daemon/ticket.h"

namespace forebay::daemon {

class WaitSets {
 public:
  using Ready = std::vector<std::uint32_t>;  // indices of items, ascending

  // So many items more, behind those that there are: a request may come in several frames. `whole`
  // is a ticket with item 0; that of the item with index i has item i + 1. How many there may be is
  // for the caller to bound, by items(whole).
  void add_items(Ticket whole, std::uint32_t count);
  std::uint32_t items(Ticket whole) const;  // 0: not known
  std::uint32_t ready(Ticket whole) const;

  // All items are there: from now on the set is complete when `needed` of them are ready. If they
  // are already, that is for the caller to see, and to end with give_up.
  void begin(Ticket whole, std::uint32_t needed);

  // This item is ready, which counts once. If that completes the set, forgets it and returns the
  // ready ones.
  std::optional<Ready> note_ready(Ticket item);
  // Forgets the set that this ticket, of an item or of the whole, belongs to, and returns the ready
  // ones by now; nothing if it is not known, because it has been answered.
  std::optional<Ready> give_up(Ticket item_or_whole);

  // The session has ended, or nobody waits for the answer to this request any more.
  void drop(SessionId session);
  void cancel(SessionId session, std::uint32_t number);

  std::size_t count() const { return sets_.size(); }

 private:
  struct Set {
    std::vector<bool> ready;
    std::uint32_t ready_count = 0;
    std::optional<std::uint32_t> needed;  // none before `begin`
  };
  using Request = std::pair<SessionId, std::uint32_t>;
  using SetMap = std::map<Request, Set>;

  static Request request_of(Ticket ticket) { return {ticket.session, ticket.number}; }
  Ready forget(SetMap::iterator set);

  SetMap sets_;
};

}  // namespace forebay::daemon
