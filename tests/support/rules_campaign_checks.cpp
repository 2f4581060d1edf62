// SPDX-License-Identifier: Apache-2.0
// What must be true after each step.
#include "tests/support/rules_campaign.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <tuple>
#include <utility>

#include "tests/support/outcome.h"

namespace forebay::test {

using daemon::EntryNumber;
using daemon::Extent;
using daemon::MemoryJob;
using daemon::Slabs;
using daemon::StoreEvent;
using daemon::Ticket;
using daemon::Usage;
using shm::RecordFlag;
using shm::State;

namespace {

// The bytes that an item takes in its slab: multiples of 64 bytes, then eight steps a doubling.
std::uint64_t slot_bytes(std::uint64_t bytes) {
  const std::uint64_t width = bytes <= 1024 ? 64 : std::bit_floor(bytes - 1) / 8;
  return (bytes + width - 1) / width * width;
}

std::uint64_t bytes_of(const std::vector<Extent>& extents) {
  std::uint64_t bytes = 0;
  for (const Extent& extent : extents) bytes += extent.bytes;
  return bytes;
}

}  // namespace

void RulesCampaign::expect(bool condition, const char* what) const {
  if (!condition) FAIL("step ", step_, " of ", kind_.name, ": ", std::string(what));
}

std::map<Serial, ModelSegment> RulesCampaign::look() const {
  std::map<Serial, Segment> found;
  const std::uint32_t end = memory_map().live->entries_end.load();
  for (EntryNumber entry = 1; entry < end; ++entry) {
    const State state = table_->word(entry).state();
    if (state == State::free) continue;
    const std::uint32_t flags = table_->flags(entry);
    const auto has = [flags](RecordFlag flag) { return (flags & shm::flag_bit(flag)) != 0; };
    const bool fresh =
        found
            .emplace(table_->serial(entry),
                     Segment{.id = table_->id(entry),
                             .version = table_->version(entry),
                             .entry = entry,
                             .state = state,
                             .location = table_->location(entry).bits(),
                             .size = table_->size(entry),
                             .stored = shm::stored_bytes(table_->size(entry),
                                                         table_->description_size(entry)),
                             .evictable = has(RecordFlag::evictable),
                             .persistent = has(RecordFlag::persistent),
                             .in_slab = has(RecordFlag::in_slab),
                             .is_claim = has(RecordFlag::claim),
                             .is_manifest = shm::Brief::from_bits(table_->brief(entry)).kind ==
                                            shm::Kind::manifest,
                             .keep = shm::keep_of(flags),
                             .owner_slot = table_->owner_slot(entry),
                             .token = table_->token(entry),
                             .reason = shm::reason_of(flags)})
            .second;
    expect(fresh, "no serial is used twice");
  }
  return found;
}

bool RulesCampaign::same(const Segment& a, const Segment& b) {
  return std::tie(a.version, a.entry, a.location, a.size, a.stored, a.evictable, a.persistent, a.in_slab,
                  a.is_claim, a.is_manifest, a.owner_slot, a.token) ==
             std::tie(b.version, b.entry, b.location, b.size, b.stored, b.evictable, b.persistent,
                      b.in_slab, b.is_claim, b.is_manifest, b.owner_slot, b.token) &&
         a.id == b.id;
}

bool RulesCampaign::pinned(EntryNumber entry) const {
  return std::ranges::any_of(pins_, [entry](const Pin& pin) { return pin.entry == entry; });
}

void RulesCampaign::check() {
  hear_events();
  hear_answers();
  const auto found = look();
  compare(found);
  check_retention(found);
  check_pins(found);
  check_accounts(found);
  check_requests();
  stayed_before_.clear();
  for (const auto& [serial, segment] : model_.segments)
    if (segment.state == State::sealed && segment.evictable && may_stay(serial))
      stayed_before_.insert(serial);
}

void RulesCampaign::hear_events() {
  warmest_dropped_.clear();
  auto sealed = seals_.begin();
  for (const StoreEvent& event : new_events()) {
    const Segment* const known = model_.find(event.serial);
    if (event.kind == EventKind::sealed) {
      expect(sealed != seals_.end() && *sealed == event.serial, "seals are told in order");
      ++sealed;
      expect(known != nullptr && known->id == event.id && known->version == event.version,
             "as what they are");
      model_.sealed(event.serial);
      continue;
    }
    expect(event.kind == EventKind::removed, "nothing else happens");
    expect(known != nullptr && known->id == event.id && known->version == event.version &&
               model_.readable(event.id, event.version) == event.serial,
           "what is removed could be read");
    check_removal(event.serial, event.cause);
    Segment& segment = model_.segments.at(event.serial);
    const bool leaves_word =
        event.cause == RemovalCause::evicted || event.cause == RemovalCause::superseded;
    model_.gone(event.serial);
    segment.end.reset();
    segment.state = leaves_word ? State::tombstone : State::removing;
    segment.reason = event.cause == RemovalCause::evicted      ? shm::Reason::evicted
                     : event.cause == RemovalCause::superseded ? shm::Reason::superseded
                                                               : shm::Reason::none;
    ++done[std::string("gone: ") +
           std::array{"?", "removed", "kept_newer", "expired", "evicted", "superseded"}.at(
               static_cast<std::size_t>(event.cause))];
  }
  expect(sealed == seals_.end(), "each seal is told");
}

void RulesCampaign::check_removal(Serial serial, RemovalCause cause) {
  const Segment& segment = model_.segments.at(serial);
  switch (cause) {
    case RemovalCause::removed:
      expect(asked_to_go_.contains(serial), "what is removed was asked to go");
      return;
    case RemovalCause::superseded:
      expect(taken_now_.contains(serial), "what is superseded was copied or taken");
      return;
    case RemovalCause::kept_newer:
      expect(model_.surplus(segment), "keep lets go no more than it says");
      expect(!pinned(segment.entry), "and nothing pinned");
      break;
    case RemovalCause::expired:
      expect(segment.end && segment.end->not_before <= now_, "nothing expires early");
      break;
    case RemovalCause::evicted:
      expect(segment.evictable, "only what is evictable is dropped");
      expect(!pinned(segment.entry), "and nothing pinned");
      warmest_dropped_[segment.stored] =
          std::max(warmest_dropped_[segment.stored], segment.rank);
      break;
    default:
      expect(false, "a known cause");
  }
  expect(!must_stay(serial), "what is held, listed or persistent stays");
}

std::vector<StoreEvent> RulesCampaign::new_events() {
  std::vector<StoreEvent> events;
  while (true) {
    const Ticket ticket{0, ++last_number_, 0};
    rules_->read_events(ticket, "", events_heard_, now_, now_);
    const Answer told = std::move(outside_.answers.back());
    outside_.answers.pop_back();
    expect(told.ticket == ticket && told.kind == Answer::Kind::told, "told at once");
    expect(told.missed == 0, "nothing is missed by who listens always");
    expect(told.cursor == events_heard_ + told.events.size(), "and nothing is told twice");
    if (told.events.empty()) break;
    for (const StoreEvent& event : told.events) {
      log_[events_heard_++] = event;
      events.push_back(event);
    }
  }
  while (!log_.empty() && log_.begin()->first + 2 * kind_.options.events_max < events_heard_)
    log_.erase(log_.begin());
  return events;
}

void RulesCampaign::hear_answers() {
  for (const Answer& answer : outside_.answers) {
    const auto found = requests_.find(answer.ticket);
    expect(found != requests_.end(), "an answer has a request");
    Request& request = found->second;
    expect(request.open, "a request is answered once, and only to who still asks");
    request.open = false;
    switch (answer.kind) {
      case Answer::Kind::created:
        expect(request.kind == Request::Kind::create, "created for who creates");
        break;
      case Answer::Kind::awaited: {
        expect(request.kind == Request::Kind::await, "awaited by who awaits");
        bool true_answer = request.complete || satisfied(request);
        for (const Segment& segment : sealed_now_)
          true_answer = true_answer || (segment.id == request.id &&
                                        request.wish.satisfied_by(segment.version));
        expect(true_answer, "what was waited for is there");
        break;
      }
      case Answer::Kind::waited:
        expect(request.kind == Request::Kind::wait, "waited for several");
        expect(request.complete || request.deadline <= now_, "enough is there, or time is up");
        expect(std::ranges::equal(answer.ready, request.ready), "those that were there are named");
        break;
      case Answer::Kind::claimed:
        expect(request.kind == Request::Kind::claim, "claimed by who claims");
        break;
      case Answer::Kind::there:
        expect(request.kind == Request::Kind::claim, "there for who claims");
        check_there(request, answer);
        break;
      case Answer::Kind::told:
        expect(request.kind == Request::Kind::events, "told who subscribed");
        check_told(request, answer);
        break;
      case Answer::Kind::scoped:
      case Answer::Kind::transferred:
        expect(false, "nobody begins or ends a scope, or moves anything, here");
        break;
      case Answer::Kind::refused:
        check_refusal(request, answer.error);
        break;
    }
  }
  outside_.answers.clear();
}

void RulesCampaign::check_there(const Request& request, const Answer& answer) const {
  const Segment* segment = model_.find(answer.serial);
  for (const Segment& now : sealed_now_)
    if (segment == nullptr && now.entry == answer.entry && now.version == answer.version)
      segment = &now;
  expect(segment != nullptr && segment->id == request.id && segment->version == answer.version &&
             (request.claim.version == 0 || request.claim.version == answer.version),
         "what is there is what was claimed");
}

void RulesCampaign::check_told(const Request& request, const Answer& answer) {
  Subscriber& subscriber = subscribers_[request.subscriber];
  subscriber.asks.reset();
  const std::uint64_t first = subscriber.cursor + answer.missed;
  const std::uint64_t forgotten =
      events_heard_ - std::min<std::uint64_t>(events_heard_, kind_.options.events_max);
  if (answer.missed > 0)
    expect(first <= std::max(events_born_, forgotten), "only what is forgotten is missed");
  expect(answer.cursor >= first && answer.cursor <= events_heard_, "a cursor goes on");
  auto told = answer.events.begin();
  for (auto event = log_.lower_bound(first); event != log_.end() && event->first < answer.cursor;
       ++event) {
    if (!event->second.id.starts_with(subscriber.prefix)) continue;
    expect(told != answer.events.end() && told->serial == event->second.serial &&
               told->kind == event->second.kind && told->cause == event->second.cause &&
               told->id == event->second.id,
           "each event is told once and in order");
    ++told;
  }
  expect(told == answer.events.end(), "and nothing else");
  if (answer.events.empty() && answer.missed == 0)
    expect(request.deadline <= now_, "nothing is told only when time is up");
  subscriber.cursor = answer.cursor;
  done["events told"] += static_cast<int>(answer.events.size());
  done["events missed"] += answer.missed > 0;
}

void RulesCampaign::check_refusal(const Request& request, const Error& error) {
  const auto code = static_cast<Errc>(error.code.value());
  ++done[std::string(errc_name(code))];
  switch (request.kind) {
    case Request::Kind::await:
      expect(code == Errc::timed_out || code == Errc::not_found, "a wait ends at its deadline");
      expect(request.deadline <= now_, "and not before");
      return;
    case Request::Kind::claim:
      if (code == Errc::loader_failed) {
        expect(std::ranges::any_of(failed_claims_,
                                   [&](const auto& failed) {
                                     return failed.first == request.id &&
                                            (request.claim.version == 0 ||
                                             request.claim.version == failed.second);
                                   }),
               "a claim fails when its maker said why");
        ++done["claims failed"];
      } else {
        expect(code == Errc::timed_out || code == Errc::limit_reached, "a known refusal");
      }
      return;
    case Request::Kind::create:
      break;
    default:
      expect(false, "this is never refused");
  }
  expect(error.detail.find('#') == std::string::npos, "an error speaks of its request");
  if (code == Errc::limit_reached) {
    expect(kind_.limits.entries < 100, "the index is full");
  } else if (code == Errc::store_full && !memory_refused_) {
    refusals_.push_back(request);
  } else {
    const bool of_source = code == Errc::not_found || code == Errc::evicted ||
                           code == Errc::superseded || code == Errc::bad_argument;
    expect(code == Errc::store_full || code == Errc::exists || code == Errc::conflict ||
               code == Errc::too_large || code == Errc::timed_out ||
               (of_source && request.segment.take_from != 0),
           "a known refusal");
  }
}

void RulesCampaign::compare(const std::map<Serial, Segment>& found) {
  for (auto known = model_.segments.begin(); known != model_.segments.end();) {
    const auto& [serial, segment] = *known++;
    const auto there = found.find(serial);
    const bool gone = there == found.end();
    if (!gone) {
      expect(same(segment, there->second), "a segment stays what it is");
      expect(segment.state == State::tombstone || segment.keep == there->second.keep,
             "also in how many are kept");
    }
    const State state = gone ? State::free : there->second.state;
    switch (segment.state) {
      case State::tombstone:
        // Explicitly removed, or the oldest of too many.
        expect(gone || (state == State::tombstone && segment.reason == there->second.reason),
               "a tombstone stays and says why, or is forgotten");
        break;
      case State::removing:
        expect(gone || state == State::removing, "what is removed goes");
        if (gone) expect(!pinned(segment.entry), "nothing pinned goes");
        break;
      default:
        expect(state == segment.state, "what can be read, or is being made, stays");
    }
    if (gone) model_.forget(serial);
  }
  for (const Serial serial : must_go_) {
    expect(listed_now(serial) || !found.contains(serial) || found.at(serial).state != State::sealed,
           "what is removed is out of sight");
  }
  bool evictable_left = false;
  for (const auto& [serial, segment] : found) {
    const auto known = model_.segments.find(serial);
    expect(known != model_.segments.end(), "nothing is there that nobody made");
    if (segment.state != State::sealed || !segment.evictable || pinned(segment.entry) ||
        may_stay(serial))
      continue;
    evictable_left = true;
    // What is worth more depends on the size, too; of one size, the least recently used goes first.
    const auto dropped = warmest_dropped_.find(known->second.stored);
    if (dropped != warmest_dropped_.end() && !moved_midway_ && !stayed_before_.contains(serial) &&
        !listed_now(serial))
      expect(known->second.rank >= dropped->second, "the coldest goes first");
  }
  const std::uint64_t room = rules_->usage().warm + rules_->usage().ungrown;
  const bool settled = outside_.jobs.empty() && sealed_now_.empty() && !moved_midway_;
  for (const Request& request : refusals_)
    // What was sealed since, or let go by the tick behind it, may have made room again.
    if (settled && !turn_ended_ && (room >= needed(request) || evictable_left))
      expect(false, "full is full: " + std::to_string(needed(request)) + " bytes for " +
                        request.id + ", " + std::to_string(room) + " free" +
                        (evictable_left ? ", and something to drop" : ""));
  refusals_.clear();
  // What a tick can do, it has done.
  if (ticked_ && settled) {
    for (const auto& [ticket, request] : requests_)
      if (request.open && request.kind == Request::Kind::create)
        expect(room < needed(request) && !evictable_left, "who waits has a reason to");
  }
}

bool RulesCampaign::listed_now(Serial serial) const {
  return std::ranges::any_of(sealed_now_, [serial](const Segment& segment) {
    return std::ranges::any_of(segment.members,
                               [serial](const auto& member) { return member.serial == serial; });
  });
}

void RulesCampaign::check_retention(const std::map<Serial, Segment>& found) {
  for (const auto& [serial, segment] : model_.segments) {
    if (segment.state != State::sealed) continue;
    const EntryNumber entry = segment.entry;
    expect(model_.readable(segment.id, segment.version) == serial, "what is sealed can be read");
    std::vector<Slot> holders;
    if (const auto held = model_.holds.find(serial); held != model_.holds.end())
      for (const auto& [slot, count] : held->second) holders.push_back(slot);
    expect(rules_->leases(entry) == holders, "who holds is known");
    const auto manifests = model_.listed_by(serial, is_there());
    expect(rules_->manifests_of(entry) == manifests.size(), "and so is what lists");
    const bool held = !holders.empty() || !manifests.empty();
    expect(table_->has_flag(entry, RecordFlag::held) == held, "also to who comes after us");
    const bool stays = held || segment.persistent;

    if (segment.end) {
      if (const auto expiry = rules_->expiry(entry))
        expect(*expiry >= segment.end->not_before &&
                   (*expiry <= segment.end->by || *expiry <= now_),
               "a segment's time is what was asked for");
      else
        expect(segment.end->not_before <= now_, "whose time is up was late");
      if (ticked_ && segment.end->by <= now_) expect(stays, "whose time is up goes");
    } else {
      expect(!rules_->expiry(entry), "who asked for no end has none");
    }

    if (stays || !model_.surplus(segment) || model_.lenient.contains(segment.id)) continue;
    if (pinned(entry)) {
      expect(table_->word(entry).wanted(), "the last pin of what should go is asked for");
      ++done["surplus pinned"];
    } else {
      expect(lost_nudges_.contains(entry), "no more versions stay than are to be kept");
    }
  }
  for (const auto& [id, shelf] : model_.shelves)
    for (const auto& [version, serial] : shelf)
      expect(found.contains(serial) && found.at(serial).state == State::sealed,
             "what can be read is sealed");
}

void RulesCampaign::check_pins(const std::map<Serial, Segment>& found) const {
  for (const Pin& pin : pins_) {
    const auto there = found.find(pin.serial);
    expect(there != found.end(), "what is pinned stays");
    const Segment& segment = there->second;
    expect(segment.entry == pin.entry && segment.location == pin.location,
           "what is pinned does not move");
    expect(segment.state == State::sealed || segment.state == State::removing,
           "what is pinned can be read");
  }
}

void RulesCampaign::check_accounts(const std::map<Serial, Segment>& found) {
  page_of_.assign(arena_.pages(), Page::unknown);
  std::uint64_t known = 0;
  const auto mark = [&](const Extent& extent, Page as) {
    expect(extent.offset % page_bytes == 0 && extent.bytes % page_bytes == 0, "whole pages");
    for (std::uint64_t page = extent.offset / page_bytes;
         page < (extent.offset + extent.bytes) / page_bytes; ++page) {
      expect(page_of_.at(page) == Page::unknown, "no page is anybody's twice");
      page_of_[page] = as;
    }
    known += extent.bytes;
  };
  for (const Extent& extent : rules_->space().cold_runs()) mark(extent, Page::cold);

  std::uint64_t growing = 0;
  std::uint64_t trimmed = 0;
  for (const MemoryJob& job : outside_.jobs) {
    for (const Extent& extent : job.arena.grow) mark(extent, Page::growing);
    for (const Extent& extent : job.arena.punch) mark(extent, Page::punching);
    growing += bytes_of(job.arena.grow);
    if (job.arena.grow.empty()) trimmed += bytes_of(job.arena.punch);
  }

  std::uint64_t own_pages = 0;
  std::uint64_t items = 0;
  std::map<std::uint64_t, std::pair<std::uint64_t, std::uint64_t>> slabs;  // slab, slot bytes
  std::map<std::uint64_t, std::uint64_t> slots;
  std::uint64_t sealed = 0;
  std::uint64_t creating = 0;
  std::uint64_t removing = 0;
  std::uint64_t tombstones = 0;
  std::set<std::string> ids;
  for (const auto& [serial, segment] : found) {
    sealed += segment.state == State::sealed;
    creating += segment.state == State::creating && !segment.is_claim;
    removing += segment.state == State::removing;
    tombstones += segment.state == State::tombstone;
    if (segment.state == State::tombstone || segment.state == State::sealed)
      ids.insert(segment.id);
    if (segment.state == State::tombstone || segment.stored == 0) continue;
    const std::uint64_t offset = shm::Location(segment.location).offset();
    if (!segment.in_slab) {
      mark({offset, shm::page_align(segment.stored)}, Page::entry);
      own_pages += shm::page_align(segment.stored);
      continue;
    }
    const std::uint64_t slab = Slabs::slab_bytes(segment.stored);
    const std::uint64_t slot = slot_bytes(segment.stored);
    const std::uint64_t base = offset / slab * slab;
    const auto [kept, fresh] = slabs.try_emplace(base, slab, slot);
    expect(kept->second == std::pair{slab, slot}, "a slab has items of one size");
    if (fresh) mark({base, slab}, Page::slab);
    expect((offset - base) % slot == 0 && offset + slot <= base + slab, "an item is in a slot");
    expect(slots.emplace(offset, slot).second, "no slot is anybody's twice");
    items += slot;
  }
  std::uint64_t slabs_in_use = 0;
  for (const auto& [base, slab] : slabs) slabs_in_use += slab.first;

  const Usage usage = rules_->usage();
  expect(usage.used + usage.warm + usage.growing + usage.ungrown == usage.capacity, "capacity");
  expect(usage.used == own_pages + usage.slabs, "what is used is pages and slabs");
  expect(usage.slabs >= slabs_in_use, "slabs in use");
  expect(usage.slab_items == items, "items in slabs");
  // What nobody has is warm, or an empty slab, or the warm part of an extent that grows.
  expect(pages(arena_.pages()) - known ==
             usage.warm + (usage.slabs - slabs_in_use) + (usage.growing - growing - trimmed),
         "each byte is accounted for");
  if (outside_.jobs.empty()) expect(usage.growing == 0, "nothing grows that nobody makes grow");
  for (std::size_t page = 0; page < arena_.pages(); ++page)
    if (arena_.backed(page) != (page_of_[page] != Page::cold && page_of_[page] != Page::growing))
      expect(false, "memory is where the accounts say");

  expect(usage.segments == sealed, "counted segments");
  expect(usage.ids == ids.size(), "counted ids");
  expect(usage.removing == removing, "counted removals");
  expect(usage.tombstones == tombstones, "counted tombstones");
  expect(tombstones <= kind_.options.tombstones_max, "no more tombstones than allowed");
  std::uint64_t open_creates = 0;
  std::uint64_t open_waits = 0;
  std::uint64_t open_claims = 0;
  std::uint64_t open_subscriptions = 0;
  for (const auto& [ticket, request] : requests_) {
    if (!request.open) continue;
    switch (request.kind) {
      case Request::Kind::create:
        ++open_creates;
        break;
      case Request::Kind::await:
        ++open_waits;
        break;
      case Request::Kind::wait:
        open_waits += request.items.size() - request.ready.size();
        break;
      case Request::Kind::claim:
        ++open_claims;
        break;
      case Request::Kind::events:
        ++open_subscriptions;
        break;
    }
  }
  expect(usage.creating == creating + open_creates, "counted creations");
  expect(usage.waiters == open_waits, "counted waiters");
  expect(usage.claims_waiting == open_claims, "counted claims that wait");
  expect(usage.subscribers_waiting == open_subscriptions, "counted subscribers");
  expect(usage.parked >= open_creates && usage.parked <= open_creates + outside_.jobs.size(),
         "counted creates that wait");
  expect(usage.events == events_heard_, "counted events");
}

void RulesCampaign::check_requests() {
  const auto wakeup = rules_->next_wakeup();
  for (auto request = requests_.begin(); request != requests_.end();) {
    const Request& asked = request->second;
    if (!asked.open) {
      // Old requests may be sent again; the oldest are forgotten.
      request = requests_.size() > 60 ? requests_.erase(request) : std::next(request);
      continue;
    }
    ++request;
    if (asked.kind == Request::Kind::create) {
      if (outside_.jobs.empty()) expect(wakeup.has_value(), "who waits for room is looked after");
      expect(asked.claim_serial == 0 || model_.find(asked.claim_serial) != nullptr,
             "what fulfils a claim waits no longer than the claim");
      continue;
    }
    expect(wakeup && *wakeup <= asked.deadline, "a deadline is looked at in time");
    if (asked.kind == Request::Kind::await)
      expect(!satisfied(asked) || was_buried(asked), "nobody waits for what is there");
    if (asked.kind == Request::Kind::wait) expect(!asked.complete, "nor when enough is there");
    if (asked.kind == Request::Kind::claim) {
      expect(model_.readable(asked.id, asked.claim.version) == 0, "nor claims what is there");
      if (ticked_)
        expect(is_being_made(asked.id, asked.claim.version), "nor waits for who makes nothing");
    }
  }
}

bool RulesCampaign::was_buried(const Request& request) const {
  for (const auto& [serial, segment] : model_.segments)
    if (segment.id == request.id && segment.state == State::sealed &&
        request.wish.satisfied_by(segment.version))
      return false;
  return true;
}

}  // namespace forebay::test
