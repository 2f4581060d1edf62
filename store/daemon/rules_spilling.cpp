// SPDX-License-Identifier: Apache-2.0
// The rules of the tiers: which segments are copied there, which of those give their memory back,
// and how they come back.
//
// A segment is dirty while it is in memory alone, clean while it is in memory and in a tier, spilled
// when it is in a tier alone. Dirty ones are copied ahead of need, coldest first, once enough memory
// is in use; to evict a clean one costs nothing then. While bytes are read on their way into a tier,
// or written on their way back, their memory is nobody else's, whatever becomes of the segment.
#include <algorithm>
#include <utility>

#include "store/check.h"
#include "store/daemon/publication.h"
#include "store/daemon/rules.h"
#include "store/id.h"
#include "store/units.h"

namespace forebay::daemon {
namespace {

using shm::RecordFlag;
using shm::State;
using Class = GreedyDual::Class;

// At most so much on its way at a time: ahead of need, and when somebody waits for memory.
constexpr std::uint64_t ahead_bytes = 64 * mebibyte;
constexpr std::uint64_t urgent_bytes = 256 * mebibyte;
constexpr std::size_t copies_max = 4096;
// So little that the last of them has time enough over a network of 50 MB/s.
constexpr std::uint64_t fetching_max = 64 * mebibyte;
// Candidates looked at in one search: most of the coldest may be pinned.
constexpr std::size_t looks_max = 4096;
// Of those who wait for memory, so many are looked at behind the first that finds none.
constexpr std::size_t passing_max = 64;
// Who waits for a segment gets a chance to pin it before it goes again.
constexpr auto fresh_for_demand = std::chrono::milliseconds(50);
constexpr auto fresh_for_prefetch = std::chrono::milliseconds(250);
// How long a get that was given no time of its own waits for room.
constexpr auto room_patience = std::chrono::seconds(2);
constexpr auto least_pause = std::chrono::milliseconds(100);
constexpr auto longest_pause = std::chrono::milliseconds(5000);

}  // namespace

std::uint64_t Rules::stored_bytes(EntryNumber entry) const {
  return shm::stored_bytes(table_.size(entry), table_.description_size(entry));
}

// ------------------------------------------------------------------------------- where things are

bool Rules::may_be_copied(EntryNumber entry) const {
  // What a manifest lists is looked up in its bytes, also by a daemon that has just started.
  return table_.word(entry).state() == State::sealed && stored_bytes(entry) > 0 &&
         shm::Brief::from_bits(table_.brief(entry)).kind != shm::Kind::manifest;
}

void Rules::note_resident(EntryNumber entry) {
  const std::uint64_t bytes = stored_bytes(entry);
  const bool evictable = table_.has_flag(entry, RecordFlag::evictable);
  if (table_.has_place(entry)) {
    eviction_.add(entry, bytes);
    transfers_.clean_bytes += bytes;
  } else if (spills() && may_be_copied(entry)) {
    // While the tiers take nothing, what may be dropped is.
    eviction_.add(entry, bytes, evictable && !tiers_work() ? Class::ready : Class::dirty);
  } else if (evictable) {
    eviction_.add(entry, bytes);
  }
}

void Rules::forget_resident(EntryNumber entry, bool evicted) {
  if (eviction_.contains(entry) && table_.has_place(entry))
    transfers_.clean_bytes -= stored_bytes(entry);
  if (evicted)
    eviction_.evict(entry);
  else
    eviction_.remove(entry);
  transfers_.fresh_until.erase(entry);
}

void Rules::touched(EntryNumber entry) {
  eviction_.touch(entry);
  if (SegmentTable::readable(table_.word(entry).state())) trace(entry, TraceOp::read);
  transfers_.fresh_until.erase(entry);
}

void Rules::note_place(EntryNumber entry) {
  if (table_.has_place(entry)) transfers_.by_serial[table_.serial(entry)] = entry;
}

void Rules::forget_place(EntryNumber entry) {
  if (!table_.has_place(entry)) return;
  transfers_.by_serial.erase(table_.serial(entry));
  if (!table_.has_memory(entry)) {
    --transfers_.spilled;
    transfers_.spilled_bytes -= stored_bytes(entry);
  }
  const SpillPlace place = table_.place(entry);
  table_.clear_place(entry);
  outside_.forget(place);
}

std::vector<std::pair<std::uint64_t, SpillPlace>> Rules::places() const {
  std::vector<std::pair<std::uint64_t, SpillPlace>> all;
  all.reserve(transfers_.by_serial.size());
  for (const auto& [serial, entry] : transfers_.by_serial)
    all.emplace_back(serial, table_.place(entry));
  return all;
}

// EVICTING, clean, and pinned by nobody.
void Rules::put_away(EntryNumber entry) {
  forget_resident(entry, true);
  const Memory memory{table_.location(entry).offset(), stored_bytes(entry),
                      table_.has_flag(entry, RecordFlag::in_slab)};
  record_event(EventKind::spilled, RemovalCause::none, entry);
  table_.put_away(entry);
  ++transfers_.spilled;
  transfers_.spilled_bytes += memory.bytes;
  free_memory(memory);
}

void Rules::adopt_spilled(std::span<const EntryNumber> entries) {
  for (const EntryNumber entry : entries) {
    if (!table_.has_place(entry)) {
      // Nothing was spilled without a place; an index that says otherwise cannot be trusted here.
      table_.bury(entry, shm::Reason::lost);
      tombstones_.emplace_back(entry, table_.serial(entry));
      continue;
    }
    note_place(entry);
    ++transfers_.spilled;
    transfers_.spilled_bytes += stored_bytes(entry);
    if (table_.has_flag(entry, RecordFlag::doomed)) doomed_.emplace(entry, nullptr);
  }
}

// ---------------------------------------------------------------------------------- into the tiers

void Rules::copy(EntryNumber entry, bool urgent, TransferVerb verb, Ticket batch) {
  const std::uint64_t number = next_job_++;
  Copying copying;
  copying.entry = entry;
  copying.serial = table_.serial(entry);
  copying.bytes = stored_bytes(entry);
  copying.put_away = verb == TransferVerb::spill;
  copying.publish = verb == TransferVerb::publish;
  if (batch != Ticket{}) copying.batches.push_back(batch);
  CopyJob job;
  job.number = number;
  job.serial = copying.serial;
  job.offset = table_.location(entry).offset();
  job.bytes = copying.bytes;
  job.urgent = urgent;
  if (copying.publish) job.label = label_of(table_, entry);
  eviction_.set_class(entry, Class::travelling);
  transfers_.copying_bytes += copying.bytes;
  transfers_.copies.emplace(number, std::move(copying));
  transfers_.copy_of.emplace(entry, number);
  outside_.start(std::move(job));
}

// Starts copies of the coldest dirty segments, until so much will be free when they are done.
void Rules::copy_coldest(std::uint64_t bytes) {
  if (!tiers_work()) return;
  const std::uint64_t wanted = std::min(bytes, urgent_bytes);
  EntryNumber next = eviction_.coldest(Class::dirty);
  for (std::size_t looks = 0; next != no_entry && looks < looks_max; ++looks) {
    if (transfers_.copying_bytes >= wanted || transfers_.copies.size() >= copies_max) return;
    const EntryNumber entry = next;
    next = eviction_.next_warmer(entry);
    // Not the look that decides: only so that nothing is copied in vain.
    if (!census_.pinned(entry)) copy(entry, true, TransferVerb::prefetch, {});
  }
}

// Copies ahead of need.
void Rules::clean() {
  if (!tiers_work() || options_.clean_above_bytes == 0) return;
  bool drained = false;
  while (transfers_.copying_bytes < ahead_bytes && transfers_.copies.size() < copies_max) {
    const std::uint64_t covered = transfers_.clean_bytes + transfers_.copying_bytes;
    if (space_.used() <= options_.clean_above_bytes + covered) return;
    if (!std::exchange(drained, true))
      drain_accesses();
    const EntryNumber coldest = eviction_.coldest(Class::dirty);
    if (coldest == no_entry) return;
    copy(coldest, false, TransferVerb::prefetch, {});
  }
}

void Rules::copied(std::uint64_t number, Result<SpillPlace> place, TimePoint now) {
  now_ = now;
  const auto found = transfers_.copies.find(number);
  if (found == transfers_.copies.end()) {
    if (place) outside_.forget(*place);
    return;
  }
  const Copying copying = std::move(found->second);
  transfers_.copies.erase(found);
  transfers_.copying_bytes -= copying.bytes;
  Result<void> outcome;
  const EntryNumber entry = copying.entry;
  if (copying.orphan) {
    if (place) outside_.forget(*place);
    outcome = fail(Errc::not_found, "the segment was removed while it was copied");
    free_memory(*copying.orphan);
  } else if (transfers_.copy_of.erase(entry); table_.word(entry).state() != State::sealed) {
    // Its memory stays for those who pin it, and for them alone.
    if (place) outside_.forget(*place);
    outcome = fail(Errc::not_found, "the segment was removed while it was copied");
  } else {
    if (place && copying.publish) place->reserved[0] = published_mark;
    const SpillPlace former = table_.has_place(entry) ? table_.place(entry) : SpillPlace{};
    if (!place) {
      outcome = fail(place.error());
      eviction_.set_class(entry, former.nowhere() ? Class::dirty : Class::ready);
      tiers_failed(place.error());
    } else if (auto noted = table_.set_place(entry, *place); !noted) {
      outside_.forget(*place);
      outcome = fail(Errc::limit_reached, "the index got no memory to note where a segment lies: " +
                                              noted.error().message());
      eviction_.set_class(entry, former.nowhere() ? Class::dirty : Class::ready);
    } else {
      tiers_worked();
      eviction_.set_class(entry, Class::ready);
      if (!former.nowhere()) {
        outside_.forget(former);
      } else {
        note_place(entry);
        if (eviction_.contains(entry)) transfers_.clean_bytes += copying.bytes;
        else note_resident(entry);
      }
      if (copying.put_away) evict(entry);
    }
  }
  for (const Ticket batch : copying.batches) settle_batch(batch, outcome);
  serve_restores();
  serve_parked();
  keep_memory_ready();
}

void Rules::tiers_failed(const Error& error) {
  tiers_pause_ = std::clamp<std::chrono::milliseconds>(tiers_pause_ * 2, least_pause, longest_pause);
  if (now_ >= tiers_again_at_)
    // What may be dropped is what can make room now.
    change_class_of_droppable(Class::dirty, Class::ready);
  tiers_again_at_ = now_ + tiers_pause_;
  tiers_error_ = error;
}

void Rules::tiers_worked() {
  tiers_pause_ = {};
  if (!tiers_error_) return;
  tiers_error_.reset();
  tiers_again_at_ = {};
  change_class_of_droppable(Class::ready, Class::dirty);
}

void Rules::change_class_of_droppable(GreedyDual::Class from, GreedyDual::Class to) {
  for (EntryNumber next = eviction_.coldest(from); next != no_entry;) {
    const EntryNumber entry = next;
    next = eviction_.next_warmer(entry);
    if (table_.has_flag(entry, RecordFlag::evictable) && !table_.has_place(entry))
      eviction_.set_class(entry, to);
  }
}

bool Rules::moved(const SpillMove& move) {
  const auto found = transfers_.by_serial.find(move.serial);
  if (found == transfers_.by_serial.end()) return false;
  if (!(table_.place(found->second) == move.from)) return false;
  return table_.set_place(found->second, move.to).has_value();
}

// ------------------------------------------------------------------------------------ and back

void Rules::want_back(EntryNumber entry, bool demand) {
  const std::uint64_t serial = table_.serial(entry);
  auto [found, fresh] = transfers_.restores.try_emplace(serial);
  Restoring& restoring = found->second;
  restoring.entry = entry;
  if (fresh) {
    restoring.demand = demand;
    (demand ? transfers_.demanded : transfers_.prefetched).push_back(serial);
  } else if (demand && !restoring.demand) {
    restoring.demand = true;
    if (!restoring.memory) transfers_.demanded.push_back(serial);
  }
}

void Rules::demand(EntryNumber entry, Ticket ticket, TimePoint deadline) {
  want_back(entry, true);
  const TimePoint until = deadline > now_ ? deadline : now_ + room_patience;
  restore_waiters_.park(ticket, table_.key(entry), {.exact = table_.version(entry)}, until);
  serve_restores();
}

void Rules::serve_restores() {
  if (serving_restores_) return;
  serving_restores_ = true;
  if (serve_restores(transfers_.demanded, true)) serve_restores(transfers_.prefetched, false);
  serving_restores_ = false;
}

// Whether none waits any more. What finds no memory lets others pass that find it.
bool Rules::serve_restores(std::deque<std::uint64_t>& queue, bool demanded) {
  bool may_make_room = true;  // until it was in vain: whatever could go has gone then
  for (std::size_t i = 0; i < std::min(queue.size(), passing_max);) {
    if (transfers_.fetching_bytes >= fetching_max) return false;
    const std::uint64_t serial = queue[i];
    const auto found = transfers_.restores.find(serial);
    if (found != transfers_.restores.end() && found->second.demand == demanded &&
        !found->second.memory && !found->second.growing) {
      if (!is_wanted(found->second)) {
        transfers_.restores.erase(found);
      } else if (!find_memory_for(serial, may_make_room)) {
        ++i;
        continue;
      }
    }
    if (i < queue.size() && queue[i] == serial)
      queue.erase(queue.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return queue.empty();
}

// A prefetch is for whoever comes; a demand ends with the last who waits.
bool Rules::is_wanted(const Restoring& restoring) const {
  return !restoring.demand ||
         restore_waiters_.anybody_waits_for(table_.key(restoring.entry),
                                            table_.version(restoring.entry)) ||
         std::ranges::any_of(restoring.batches,
                             [this](Ticket batch) { return transfer_batches_.contains(batch); });
}

// True: it has memory, or that is on its way.
bool Rules::find_memory_for(std::uint64_t serial, bool& may_make_room) {
  Restoring& restoring = transfers_.restores.at(serial);
  const bool demanded = restoring.demand;
  const std::uint64_t bytes = stored_bytes(restoring.entry);
  // As it was before: the record still says so.
  const bool in_slab = table_.has_flag(restoring.entry, RecordFlag::in_slab);
  const std::uint64_t needed = in_slab ? Slabs::slab_bytes(bytes) : shm::page_align(bytes);
  const std::uint64_t alignment = in_slab ? needed : shm::page_bytes;
  const auto take = [&]() -> std::optional<Memory> {
    if (in_slab)
      if (const auto slot = slabs_.take(bytes)) return Memory{*slot, bytes, true};
    const auto extent = space_.take_warm(needed, alignment);
    if (!extent) return std::nullopt;
    if (!in_slab) return Memory{extent->offset, bytes, false};
    slabs_.add(bytes, *extent);
    return Memory{*slabs_.take(bytes), bytes, true};
  };
  if (const auto memory = take()) {
    fetch(serial, *memory);
    return true;
  }
  if (in_slab && slab_is_coming(bytes)) return false;
  auto growth = plan_growth(needed, alignment);
  if (!growth && may_make_room && (demanded || transfers_.clean_bytes > 0)) {
    std::optional<std::uint64_t> slot;
    const auto slot_is_free = [&] {
      if (in_slab) slot = slabs_.take(bytes);
      return slot.has_value();
    };
    const bool made = make_room(needed, slot_is_free, demanded);
    // The room was made by what waits with others: it may have been removed meanwhile.
    if (!transfers_.restores.contains(serial)) {
      if (slot) free_memory({*slot, bytes, true});
      return true;
    }
    if (slot) {
      fetch(serial, {*slot, bytes, true});
      return true;
    }
    if (!made) {
      may_make_room = false;
      return false;
    }
    if (const auto memory = take()) {
      fetch(serial, *memory);
      return true;
    }
    growth = plan_growth(needed, alignment);
  }
  if (!growth) return false;
  transfers_.restores.at(serial).growing = true;
  MemoryJob job{.urgent = demanded, .arena = growth->work, .index_ranges = {}};
  run(ForRestore{std::move(*growth), serial, bytes, in_slab}, std::move(job));
  return true;
}

void Rules::fetch(std::uint64_t serial, const Memory& memory) {
  Restoring& restoring = transfers_.restores.at(serial);
  restoring.memory = memory;
  FetchJob job;
  job.number = next_job_++;
  job.place = table_.place(restoring.entry);
  job.offset = memory.offset;
  job.bytes = memory.bytes;
  job.priority = restoring.demand ? TierPriority::demand : TierPriority::background;
  table_.begin_restore(restoring.entry);
  transfers_.fetching_bytes += memory.bytes;
  transfers_.fetches.emplace(job.number, serial);
  outside_.start(std::move(job));
}

void Rules::fetched(std::uint64_t number, Result<void> outcome, TimePoint now) {
  now_ = now;
  const auto found = transfers_.fetches.find(number);
  if (found == transfers_.fetches.end()) return;
  const std::uint64_t serial = found->second;
  transfers_.fetches.erase(found);
  transfers_.fetching_bytes -= transfers_.restores.at(serial).memory->bytes;
  end_restore(serial, outcome);
  serve_restores();
  serve_parked();
  keep_memory_ready();
}

void Rules::end_restore(std::uint64_t serial, const Result<void>& outcome) {
  const auto found = transfers_.restores.find(serial);
  const Restoring restoring = std::move(found->second);
  transfers_.restores.erase(found);
  const EntryNumber entry = restoring.entry;
  const bool there = table_.serial(entry) == serial && (table_.word(entry).state() == State::restoring ||
                                                        table_.word(entry).state() == State::spilled);
  // If it is not there any more, they were told when it went.
  std::vector<Ticket> waiting;
  if (there) waiting = restore_waiters_.wake(table_.key(entry), table_.version(entry));
  std::optional<Error> error;
  if (!there) {
    error = Error{make_error_code(Errc::not_found), "the segment was removed while it came back"};
  } else if (outcome) {
    table_.restore(entry, shm::Location(0, restoring.memory->offset), restoring.memory->in_slab);
    --transfers_.spilled;
    transfers_.spilled_bytes -= restoring.memory->bytes;
    note_resident(entry);
    transfers_.fresh_until[entry] = now_ + (restoring.demand ? fresh_for_demand : fresh_for_prefetch);
    record_event(EventKind::restored, RemovalCause::none, entry);
  } else {
    error = outcome.error();
    error->detail = shown(table_.id(entry), table_.version(entry)) + ": " + error->detail;
    if (restoring.memory) table_.abandon_restore(entry);
    if (outcome.error().is(Errc::lost)) {
      const auto members = bury(entry, shm::Reason::lost, RemovalCause::lost);
      bound_tombstones();
      held_no_more(members);
    }
  }
  if (error && restoring.memory) free_memory(*restoring.memory);
  for (const Ticket ticket : waiting) {
    if (error && !error->is(Errc::not_found))
      outside_.refused(ticket, *error);
    else
      wake(ticket);  // whoever looks again sees what there is
  }
  for (const Ticket batch : restoring.batches)
    settle_batch(batch, error ? Result<void>(fail(*error)) : Result<void>());
}

// The segment goes: nobody waits for its bytes any more.
void Rules::forget_restore(EntryNumber entry) {
  const auto found = transfers_.restores.find(table_.serial(entry));
  if (found == transfers_.restores.end()) return;
  Restoring& restoring = found->second;
  const auto waiting = restore_waiters_.wake(table_.key(entry), table_.version(entry));
  const auto batches = std::exchange(restoring.batches, {});
  // Bytes on their way still need the memory that they are going to.
  if (!restoring.memory) transfers_.restores.erase(found);
  for (const Ticket ticket : waiting) wake(ticket);
  for (const Ticket batch : batches)
    settle_batch(batch, fail(Errc::not_found, "the segment was removed while it came back"));
}

void Rules::expire_restores() {
  std::erase_if(transfers_.fresh_until, [this](const auto& item) { return item.second <= now_; });
  for (const auto& [ticket, key, wish] : restore_waiters_.expire(now_)) {
    const auto found = table_.find_exact(key, wish.exact);
    STORE_CHECK(found && transfers_.restores.contains(table_.serial(*found)),
                "who waits for a restore is told when its segment goes");
    const EntryNumber entry = *found;
    if (transfers_.restores.at(table_.serial(entry)).memory) {
      outside_.refused(ticket, fail(Errc::tier_down, shown(table_.id(entry), table_.version(entry)) +
                                                         " is still on its way back from its tier")
                                   .error);
      continue;
    }
    Pending asked;
    const std::string id = table_.id(entry);
    asked.segment.id = id;
    asked.segment.size = table_.size(entry);
    outside_.refused(ticket, full_error(asked));
  }
}

// ------------------------------------------------------------------------------------ by request

void Rules::settle_batch(Ticket ticket, const Result<void>& outcome) {
  const auto found = transfer_batches_.find(ticket);
  if (found == transfer_batches_.end()) return;
  TransferBatch& batch = found->second;
  if (outcome) {
    ++batch.done;
  } else if (!batch.error) {
    batch.error = outcome.error();
  }
  leave_batch(ticket);
}

// One less to wait for.
void Rules::leave_batch(Ticket ticket) {
  const auto found = transfer_batches_.find(ticket);
  if (found == transfer_batches_.end() || --found->second.left > 0) return;
  const TransferBatch ended = std::move(found->second);
  transfer_batches_.erase(found);
  if (ended.error)
    outside_.refused(ticket, *ended.error);
  else
    outside_.transferred(ticket, ended.done);
}

void Rules::transfer(Ticket ticket, TransferVerb verb, std::span<const TransferItem> items,
                     TimePoint now) {
  now_ = now;
  const bool outwards = verb == TransferVerb::spill || verb == TransferVerb::publish;
  if (outwards && !options_.has_tiers)
    return outside_.refused(ticket, fail(Errc::bad_state,
                                         "this forebayd has no tier: start it with --pools or "
                                         "--spill-dir")
                                        .error);
  // One more than there are, so that it does not end before all have begun.
  transfer_batches_[ticket].left = items.size() + 1;
  for (const TransferItem& item : items) {
    const auto found = find_segment(item.id, item.version, item.serial);
    if (!found) {
      settle_batch(ticket, verb == TransferVerb::prefetch ? Result<void>() : fail(found.error()));
      continue;
    }
    const EntryNumber entry = *found;
    const bool in_memory = table_.has_memory(entry);
    const bool published =
        table_.has_place(entry) && table_.place(entry).reserved[0] == published_mark;
    if (verb == TransferVerb::publish && !in_memory) {
      settle_batch(ticket, published ? Result<void>()
                                     : fail(Errc::bad_state,
                                            shown(table_.id(entry), table_.version(entry)) +
                                                " is spilled: restore it before it is published"));
    } else if (!outwards && in_memory) {
      settle_batch(ticket, {});
    } else if (verb == TransferVerb::prefetch) {
      want_back(entry, false);
      settle_batch(ticket, {});
    } else if (verb == TransferVerb::restore) {
      want_back(entry, true);
      transfers_.restores.at(table_.serial(entry)).batches.push_back(ticket);
    } else if (!in_memory || !may_be_copied(entry) ||
               (verb == TransferVerb::publish && published)) {
      settle_batch(ticket, {});
    } else if (verb == TransferVerb::spill && table_.has_place(entry) && !is_copying(entry)) {
      // Whoever says so means it, also of what has just come back.
      transfers_.fresh_until.erase(entry);
      evict(entry);
      settle_batch(ticket, {});
    } else if (const auto running = transfers_.copy_of.find(entry);
               running != transfers_.copy_of.end() && verb == TransferVerb::spill) {
      Copying& copying = transfers_.copies.at(running->second);
      copying.put_away = true;
      copying.batches.push_back(ticket);
    } else if (running != transfers_.copy_of.end()) {
      settle_batch(ticket, fail(Errc::conflict, shown(table_.id(entry), table_.version(entry)) +
                                                    " is being copied into a tier: try again"));
    } else {
      copy(entry, true, verb, ticket);
    }
  }
  leave_batch(ticket);
  serve_restores();
}

void Rules::hint(const TransferItem& item, const UseHint& hint) {
  const auto found = find_segment(item.id, item.version, item.serial);
  if (!found) return;
  if (hint.priority != 0) eviction_.hint(*found, GreedyDual::Priority{hint.priority});
  if (hint.next_use != 0) eviction_.hint(*found, GreedyDual::NextUse{hint.next_use});
  if (hint.last_use) trace(*found, TraceOp::last_use);
  if (hint.last_use) eviction_.hint(*found, GreedyDual::LastUse{});
}

Result<EntryNumber> Rules::import(const NewSegment& segment, const SpillPlace& place,
                                  std::uint64_t wall_ns, TimePoint now) {
  now_ = now;
  if (auto checked = check_id(segment.id); !checked) return fail(std::move(checked.error()));
  const shm::Key key = table_.key_of(segment.id);
  if (const auto there = table_.find_exact(key, segment.version)) {
    if (SegmentTable::readable(table_.word(*there).state())) return *there;
  }
  if (find_creation(key, segment.version) != nullptr)
    return fail(Errc::conflict, shown(segment.id, segment.version) + " is being created here");
  if (!find_room_for_entry() || !table_.can_link())
    return fail(Errc::limit_reached, "no room in the index for " +
                                         shown(segment.id, segment.version) + " now; try again");
  SegmentFields fields;
  fields.id = segment.id;
  fields.key = key;
  fields.version = segment.version;
  fields.size = segment.size;
  fields.brief = segment.brief;
  fields.description = segment.description;
  fields.location = shm::Location::none();
  if (Slabs::fits(shm::stored_bytes(segment.size, segment.description.size())))
    fields.flags = shm::flag_bit(RecordFlag::in_slab);
  fields.owner_slot = segment.owner_slot;
  fields.writer_uid = segment.writer_uid;
  auto entry = table_.begin(fields);
  if (!entry) return fail(std::move(entry.error()));
  if (auto noted = table_.set_place(*entry, place); !noted) {
    table_.begin_removal(*entry);
    table_.finish_removal(*entry);
    return fail(std::move(noted.error()));
  }
  table_.seal(*entry, wall_ns, State::spilled);
  note_place(*entry);
  ++transfers_.spilled;
  transfers_.spilled_bytes += stored_bytes(*entry);
  record_event(EventKind::sealed, RemovalCause::none, *entry);
  for (const Ticket ticket : waiters_.wake(key, segment.version)) wake(ticket);
  claims_due_.push_back(key);
  serve_claims();
  apply_keep(key);
  return *entry;
}

}  // namespace forebay::daemon
