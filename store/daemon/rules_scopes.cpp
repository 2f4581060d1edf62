// SPDX-License-Identifier: Apache-2.0
// The rules of scopes: prefixes under which everything goes when the process that began them says so,
// or ends.
//
// A begun scope is an entry without memory that says CREATING, with the prefix for its id: so it
// survives the daemon, and an owner that dies meanwhile is noticed. When it ends, the entry's token
// says which segments were there (those with lower serials), and the entry stays until they have
// gone: a daemon that follows goes on with it.
#include <algorithm>
#include <set>

#include "store/daemon/rules.h"
#include "store/id.h"

namespace forebay::daemon {
namespace {

using shm::RecordFlag;
using shm::State;

constexpr std::size_t scopes_max = 1024;  // of one process
// Of a turn: a millisecond or so, between which everybody else is served.
constexpr std::uint32_t looked_at_per_turn = 16384;
constexpr std::uint32_t removed_per_turn = 1024;

}  // namespace

void Rules::begin_scope(Ticket ticket, std::string_view prefix, std::uint32_t slot,
                        bool repeated) {
  const auto refuse = [&](Errc code, std::string why) {
    outside_.refused(ticket, fail(code, std::move(why)).error);
  };
  if (auto checked = check_id(prefix); !checked)
    return outside_.refused(ticket, std::move(checked.error()));
  if (const auto other = scopes_.overlapping(prefix); other != scopes_.begun().end()) {
    if (repeated && other->first == prefix && other->second.slot == slot)
      return outside_.scoped(ticket, 0);
    return refuse(Errc::conflict,
                  "the scope " + shown(prefix) + " overlaps " + shown(other->first) +
                      ", which is begun by " + outside_.name_of(other->second.slot) +
                      "; choose another prefix, or have that one end first");
  }
  if (scopes_.count(slot) >= scopes_max)
    return refuse(Errc::limit_reached, "this process has " + std::to_string(scopes_max) +
                                           " scopes already; end some of them");
  if (!find_room_for_entry()) {
    if (table_.at_limit())
      return refuse(Errc::limit_reached, "the index is full; remove some segments, or start "
                                         "forebayd with larger --max-segments");
    if (auto growth = table_.wants_growth(true)) {
      MemoryJob job{.urgent = true, .arena = {}, .index_ranges = growth->ranges};
      run(ForIndex{std::move(*growth)}, std::move(job));
    }
    waiting_scopes_.push_back({ticket, std::string(prefix), slot});
    return;
  }
  SegmentFields fields;
  fields.id = prefix;
  fields.key = table_.key_of(prefix);
  fields.version = 1;
  fields.flags = shm::flag_bit(RecordFlag::scope);
  fields.owner_slot = slot;
  auto entry = table_.begin(fields);
  if (!entry) return outside_.refused(ticket, std::move(entry.error()));
  scopes_.add(std::string(prefix), {.entry = *entry, .slot = slot});
  keep_memory_ready();
  outside_.scoped(ticket, 0);
}

void Rules::serve_waiting_scopes(const std::error_code& error) {
  for (const WaitingScope& waiting : std::exchange(waiting_scopes_, {})) {
    if (error && !table_.has_room()) {
      outside_.refused(waiting.ticket,
                       fail(Errc::store_full, "the system gave no memory for the scope " +
                                                  shown(waiting.prefix) + " (" + error.message() +
                                                  ")")
                           .error);
    } else {
      begin_scope(waiting.ticket, waiting.prefix, waiting.slot, true);
    }
  }
}

void Rules::end_scope(Ticket ticket, std::string_view prefix, std::uint32_t slot, bool repeated) {
  const Scope* const scope = scopes_.find(prefix);
  if (scope != nullptr && scope->slot == slot)
    return start_ending({std::string(prefix)}, ticket);
  if (!repeated)
    return outside_.refused(ticket, fail(Errc::bad_state, "the scope " + shown(prefix) +
                                                              " was not begun by this process")
                                        .error);
  // The first sending has ended it; who asked waits for the same.
  for (Emptying& ending : endings_)
    if (const auto ended = ending.scopes.find(prefix);
        ended != ending.scopes.end() && ended->second->slot == slot) {
      ended->second->tickets.push_back(ticket);
      return;
    }
  outside_.scoped(ticket, 0);
}

void Rules::forget_scope(std::string_view prefix, std::uint32_t slot) {
  std::erase_if(waiting_scopes_, [&](const WaitingScope& waiting) {
    return waiting.slot == slot && waiting.prefix == prefix;
  });
  const Scope* const scope = scopes_.find(prefix);
  if (scope == nullptr || scope->slot != slot) return;
  const EntryNumber entry = scope->entry;
  scopes_.remove(prefix);
  table_.begin_removal(entry);
  try_finish_removal(entry);
}

void Rules::scopes_again(std::uint32_t slot,
                         std::span<const std::pair<std::string, bool>> scopes) {
  for (const auto& [prefix, ends] : scopes) {
    if (const Scope* const scope = scopes_.find(prefix); scope != nullptr) {
      // The process may have had another slot, which it left behind at a fork.
      if (!same_owner(scope->slot, slot)) continue;
      table_.set_owner(scope->entry, slot);
      scopes_.move(prefix, slot);
      if (ends) start_ending({prefix}, {});
    } else if (!ends) {
      // In a store that had to start empty. A process that somebody else was quicker than there will
      // hear so when it ends the scope.
      begin_scope({}, prefix, slot, true);
    }
  }
  std::set<std::string_view> said;
  for (const auto& [prefix, ends] : scopes) said.insert(prefix);
  for (const std::string& prefix : scopes_.of(slot))
    if (!said.contains(prefix)) forget_scope(prefix, slot);
}

void Rules::end_scopes(std::uint32_t slot) {
  std::erase_if(waiting_scopes_,
                [slot](const WaitingScope& waiting) { return waiting.slot == slot; });
  if (const auto prefixes = scopes_.of(slot); !prefixes.empty()) start_ending(prefixes, {});
}

// From here on the prefixes are anybody's.
void Rules::start_ending(const std::vector<std::string>& prefixes, Ticket ticket) {
  Emptying ending;
  ending.before_serial = table_.index().live->next_serial.load(std::memory_order_relaxed);
  ending.end = table_.index().live->entries_end.load(std::memory_order_relaxed);
  for (const std::string& prefix : prefixes) {
    const Scope scope = *scopes_.find(prefix);
    table_.set_token(scope.entry, ending.before_serial);
    scopes_.remove(prefix);
    auto ended = std::make_shared<EndedScope>();
    ended->entry = scope.entry;
    ended->slot = scope.slot;
    if (ticket != Ticket{}) ended->tickets.push_back(ticket);
    ending.scopes.emplace(prefix, std::move(ended));
  }
  // What waits for memory has no serial yet; it was asked for before the end.
  for (Pending& pending : parked_)
    if (ending.scope_of(pending.id)) pending.doomed = true;
  for (auto& [number, purpose] : jobs_)
    if (auto* const job = std::get_if<ForPending>(&purpose))
      if (ending.scope_of(job->pending.id)) job->pending.doomed = true;
  endings_.push_back(std::move(ending));
}

// What a claim that was doomed is fulfilled with is so, too.
std::uint32_t Rules::doomed_flag(const Pending& pending) const {
  const bool doomed = pending.doomed || (pending.claim_entry != no_entry &&
                                         table_.has_flag(pending.claim_entry, RecordFlag::doomed));
  return doomed ? shm::flag_bit(RecordFlag::doomed) : 0;
}

// ------------------------------------------------------------------------------------- emptying

// One turn.
void Rules::empty_scopes() {
  std::uint32_t looked_at = 0;
  std::uint32_t removed = 0;
  while (looked_at < looked_at_per_turn && removed < removed_per_turn) {
    if (!condemned_.empty()) {
      const Condemned condemned = std::move(condemned_.front());
      condemned_.pop_front();
      ++looked_at;
      removed += carry_out(condemned);
    } else if (endings_.empty()) {
      return;
    } else if (Emptying& ending = endings_.front(); ending.next < ending.end) {
      ++looked_at;
      removed += empty_scope_of(ending.next++, ending);
    } else {
      finish_ending(ending);
      endings_.pop_front();
    }
  }
}

// Whether something was removed.
bool Rules::empty_scope_of(EntryNumber entry, Emptying& ending) {
  const State state = table_.word(entry).state();
  if (state == State::free || state == State::removing) return false;
  if (table_.serial(entry) >= ending.before_serial) return false;
  if (state == State::creating && table_.has_flag(entry, RecordFlag::scope)) return false;
  const std::shared_ptr<EndedScope> scope = ending.scope_of(table_.id(entry));
  if (!scope) return false;
  if (state == State::tombstone) {
    // As with remove: why it is gone is nobody's concern any more.
    table_.forget(entry);
  } else if (state == State::creating) {
    // Its maker may still be writing.
    table_.set_flag(entry, RecordFlag::doomed, true);
  } else if (!holds_.manifests_of(entry).empty()) {
    // Perhaps a manifest of the same scope, which goes later in this walk or when its pins end.
    doom(entry, scope);
    ending.listed.emplace_back(entry, table_.serial(entry));
  } else {
    remove_entry(entry);
    ++scope->removed;
    return true;
  }
  return false;
}

void Rules::doom(EntryNumber entry, std::shared_ptr<EndedScope> scope) {
  table_.set_flag(entry, RecordFlag::doomed, true);
  doomed_[entry] = std::move(scope);
}

void Rules::spare(EntryNumber entry) {
  table_.set_flag(entry, RecordFlag::doomed, false);
  doomed_.erase(entry);
}

// The manifest has gone. What it listed and what is doomed may go now. Returns what nobody holds any
// more.
std::vector<EntryNumber> Rules::unlist(EntryNumber manifest) {
  std::vector<EntryNumber> members;
  if (!doomed_.empty()) members = holds_.members_of(manifest);
  std::vector<EntryNumber> free = holds_.unlist(manifest);
  for (const EntryNumber member : members)
    if (const auto doomed = doomed_.find(member);
        doomed != doomed_.end() && holds_.manifests_of(member).empty())
      condemned_.push_back({member, table_.serial(member), doomed->second});
  return free;
}

bool Rules::carry_out(const Condemned& condemned) {
  const EntryNumber entry = condemned.entry;
  // Meanwhile it may have gone, or be listed again.
  if (table_.serial(entry) != condemned.serial || !doomed_.contains(entry) ||
      !SegmentTable::readable(table_.word(entry).state()) || !holds_.manifests_of(entry).empty())
    return false;
  remove_entry(entry);
  if (condemned.scope) ++condemned.scope->removed;
  return true;
}

// Everything that could go has gone. What is listed by a manifest that stays, stays with it; what is
// listed by one that is still pinned goes with that.
void Rules::finish_ending(Emptying& ending) {
  const auto listed_by_one_that_stays = [this](EntryNumber entry) {
    return std::ranges::any_of(holds_.manifests_of(entry), [this](EntryNumber manifest) {
      return SegmentTable::readable(table_.word(manifest).state()) && !doomed_.contains(manifest);
    });
  };
  std::vector<EntryNumber> spared;
  for (const auto& [entry, serial] : ending.listed) {
    if (table_.serial(entry) != serial || !doomed_.contains(entry)) continue;
    if (!listed_by_one_that_stays(entry)) continue;
    spare(entry);
    spared.push_back(entry);
  }
  while (!spared.empty()) {
    const EntryNumber manifest = spared.back();
    spared.pop_back();
    for (const EntryNumber member : holds_.members_of(manifest))
      if (doomed_.contains(member)) {
        spare(member);
        spared.push_back(member);
      }
  }
  for (const auto& [prefix, scope] : ending.scopes) {
    table_.begin_removal(scope->entry);
    try_finish_removal(scope->entry);
    for (const Ticket ticket : scope->tickets) outside_.scoped(ticket, scope->removed);
  }
}

// ------------------------------------------------------------------------------------ a restart

void Rules::adopt_scopes(std::vector<EntryNumber> entries, const std::vector<bool>& living) {
  const std::uint64_t now = table_.index().live->next_serial.load(std::memory_order_relaxed);
  std::map<std::uint64_t, Emptying> endings;  // in the order in which they came
  for (const EntryNumber entry : entries) {
    const std::uint32_t slot = table_.owner_slot(entry);
    const bool begun = table_.token(entry) == 0;
    if (begun && slot < living.size() && living[slot]) {
      scopes_.add(table_.id(entry), {.entry = entry, .slot = slot});
      continue;
    }
    // Its process ended while no daemon looked: with what is there now.
    if (begun) table_.set_token(entry, now);
    auto scope = std::make_shared<EndedScope>();
    scope->entry = entry;
    scope->slot = slot;
    endings[table_.token(entry)].scopes.emplace(table_.id(entry), std::move(scope));
  }
  for (auto& [before_serial, ending] : endings) {
    ending.before_serial = before_serial;
    ending.end = table_.index().live->entries_end.load(std::memory_order_relaxed);
    endings_.push_back(std::move(ending));
  }
  for (const auto& [entry, scope] : doomed_)
    if (holds_.manifests_of(entry).empty())
      condemned_.push_back({entry, table_.serial(entry), nullptr});
}

}  // namespace forebay::daemon
