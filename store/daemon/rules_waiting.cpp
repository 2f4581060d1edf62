// SPDX-License-Identifier: Apache-2.0
// The rules of waiting: for versions, for whoever makes one, for events.
#include <algorithm>

#include "store/daemon/rules.h"
#include "store/id.h"

namespace forebay::daemon {
namespace {

// Of the events in one answer; well within a frame.
constexpr std::size_t events_bytes_max = 128 * 1024;

}  // namespace

// ------------------------------------------------------------------------------------- versions

std::optional<EntryNumber> Rules::find_wished(const shm::Key& key, VersionWish wish) const {
  const auto entry =
      wish.exact != 0 ? table_.find_exact(key, wish.exact) : table_.find_newest(key);
  if (!entry || (wish.exact == 0 && table_.version(*entry) <= wish.after)) return std::nullopt;
  return entry;
}

void Rules::await(Ticket ticket, std::string_view id, VersionWish wish, TimePoint deadline,
                  TimePoint now) {
  now_ = now;
  const shm::Key key = table_.key_of(id);
  if (const auto entry = find_wished(key, wish)) {
    const shm::State state = table_.word(*entry).state();
    if (state == shm::State::spilled || state == shm::State::restoring)
      return demand(*entry, ticket, deadline);
    outside_.awaited(ticket);
  } else if (deadline <= now) {
    outside_.refused(ticket, fail(Errc::not_found, "no segment " + shown(id, wish.exact)).error);
  } else {
    waiters_.park(ticket, key, wish, deadline);
  }
}

void Rules::wait(Ticket ticket, std::span<const WaitWish> items, std::uint32_t needed,
                 TimePoint deadline, TimePoint now) {
  now_ = now;
  wait_sets_.add_items(ticket, static_cast<std::uint32_t>(items.size()));
  Ticket of_item = ticket;
  for (const WaitWish& item : items) {
    ++of_item.item;
    const shm::Key key = table_.key_of(item.id);
    const auto entry = find_wished(key, item.wish);
    if (entry && SegmentTable::readable(table_.word(*entry).state())) {
      wait_sets_.note_ready(of_item);
    } else {
      waiters_.park(of_item, key, item.wish, deadline);
    }
  }
  // More than all there are will never be there: nothing would end such a wait.
  needed = std::min(needed, wait_sets_.items(ticket));
  wait_sets_.begin(ticket, needed);
  if (wait_sets_.ready(ticket) < needed && deadline > now) return;
  waiters_.cancel(ticket.session, ticket.number);
  outside_.waited(ticket, *wait_sets_.give_up(ticket));
}

void Rules::wake(Ticket ticket) {
  if (ticket.item == 0) return outside_.awaited(ticket);
  auto ready = wait_sets_.note_ready(ticket);
  if (!ready) return;
  waiters_.cancel(ticket.session, ticket.number);
  outside_.waited({ticket.session, ticket.number, 0}, std::move(*ready));
}

void Rules::time_up(Ticket ticket) {
  if (ticket.item == 0)
    return outside_.refused(ticket,
                            fail(Errc::timed_out, "not sealed before the deadline").error);
  auto ready = wait_sets_.give_up(ticket);
  if (!ready) return;
  waiters_.cancel(ticket.session, ticket.number);
  outside_.waited({ticket.session, ticket.number, 0}, std::move(*ready));
}

void Rules::cancel_wait(SessionId session, std::uint32_t number) {
  waiters_.cancel(session, number);
  wait_sets_.cancel(session, number);
  subscribers_.cancel(session, number);
  std::erase_if(transfer_batches_, [&](const auto& batch) {
    return batch.first.session == session && batch.first.number == number;
  });
  restore_waiters_.cancel(session, number);
  claim_waiters_.take_of_all([&](const ClaimWaiters::Waiter& waiter) {
    return waiter.ticket.session == session && waiter.ticket.number == number;
  });
}

Result<EntryNumber> Rules::find(std::string_view id, std::uint64_t version) const {
  const shm::Key key = table_.key_of(id);
  const auto entry = version != 0 ? table_.find_exact(key, version) : table_.find_newest(key);
  if (entry) return *entry;
  EntryNumber newest = no_entry;
  for (const EntryNumber removing : deferred_) {
    if (table_.key(removing) != key) continue;
    if (version != 0 && table_.version(removing) != version) continue;
    if (newest == no_entry || table_.version(removing) > table_.version(newest)) newest = removing;
  }
  if (newest != no_entry) return newest;
  return fail(Errc::not_found, "no segment " + shown(id, version));
}

// --------------------------------------------------------------------------------------- claims

void Rules::claim(Ticket ticket, const NewClaim& claim, TimePoint deadline, TimePoint now) {
  now_ = now;
  if (auto checked = check_id(claim.id); !checked)
    return outside_.refused(ticket, std::move(checked.error()));
  const shm::Key key = table_.key_of(claim.id);
  const auto entry =
      claim.version != 0 ? table_.find_exact(key, claim.version) : table_.find_newest(key);
  if (entry && SegmentTable::readable(table_.word(*entry).state()))
    return outside_.claimed(ticket, {.yours = false,
                                     .entry = *entry,
                                     .version = table_.version(*entry),
                                     .serial = table_.serial(*entry)});
  const auto creations = creations_.find(key);
  bool granted_before = false;  // and asked for again, after a reconnect
  bool in_the_way = false;
  if (creations != creations_.end())
    for (const Creation& creation : creations->second) {
      granted_before |= claim.token != 0 && creation.is_claim && creation.token == claim.token &&
                        same_owner(creation.owner_slot, claim.owner_slot);
      in_the_way |= claim.version == 0 || creation.version == claim.version;
    }
  if (in_the_way && !granted_before) {
    if (deadline <= now)
      return outside_.refused(ticket, fail(Errc::timed_out, shown(claim.id, claim.version) +
                                                                " is being made by somebody else")
                                          .error);
    return claim_waiters_.park(key, {ticket, claim, deadline});
  }
  const std::string id = claim.id;
  create(ticket,
         {.id = id,
          .version = claim.version,
          .token = claim.token,
          .owner_slot = claim.owner_slot,
          .writer_uid = claim.writer_uid,
          .is_claim = true},
         now);
}

// Those who wait for a version that was made have it; of those who wait for one that was not, the
// first takes over.
void Rules::serve_claims() {
  if (serving_claims_) return;
  serving_claims_ = true;
  while (!claims_due_.empty()) {
    const shm::Key key = claims_due_.back();
    claims_due_.pop_back();
    if (claim_waiters_.count() > 0) serve_claims_of(key);
  }
  serving_claims_ = false;
}

void Rules::serve_claims_of(const shm::Key& key) {
  // All of them ask again, in the order in which they came: the first finds nobody in its way.
  for (const ClaimWaiters::Waiter& waiter :
       claim_waiters_.take(key, [](const ClaimWaiters::Waiter&) { return true; }))
    claim(waiter.ticket, waiter.claim, waiter.deadline, now_);
}

void Rules::fail_claims(const shm::Key& key, std::uint64_t version, std::string_view why) {
  for (const ClaimWaiters::Waiter& waiter :
       claim_waiters_.take(key, [version](const ClaimWaiters::Waiter& waiter) {
         return waiter.claim.version == 0 || waiter.claim.version == version;
       }))
    outside_.refused(waiter.ticket, fail(Errc::loader_failed, std::string(why)).error);
}

// --------------------------------------------------------------------------------------- events

void Rules::record_event(EventKind kind, RemovalCause cause, EntryNumber entry) {
  event_log_.record({.kind = kind,
                     .cause = cause,
                     .id = table_.id(entry),
                     .version = table_.version(entry),
                     .serial = table_.serial(entry),
                     .size = table_.size(entry)});
  // Cursors are numbers of events: they go on where they were after a restart.
  table_.index().live->next_event.store(event_log_.next(), std::memory_order_relaxed);
}

void Rules::read_events(Ticket ticket, std::string_view prefix,
                        std::optional<std::uint64_t> cursor, TimePoint deadline, TimePoint now) {
  now_ = now;
  if (!cursor) return outside_.told(ticket, {.cursor = event_log_.next(), .missed = 0, .events = {}});
  if (*cursor > event_log_.next())
    return outside_.refused(
        ticket, fail(Errc::bad_argument, "the cursor is of event " + std::to_string(*cursor) +
                                             ", and the next one is " +
                                             std::to_string(event_log_.next()))
                    .error);
  const EventLog::Batch batch = event_log_.read(prefix, *cursor, events_bytes_max);
  if (!batch.events.empty() || batch.missed > 0 || deadline <= now)
    return outside_.told(ticket, batch);
  subscribers_.park(ticket, std::string(prefix), batch.cursor, deadline);
}

void Rules::serve_subscribers() {
  const auto answer = [this](Ticket ticket, const EventLog::Batch& batch) {
    outside_.told(ticket, batch);
  };
  subscribers_.serve(event_log_, events_bytes_max, answer);
  subscribers_.expire(now_, answer);
}

}  // namespace forebay::daemon
