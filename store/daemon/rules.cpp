// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/rules.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "store/check.h"
#include "store/id.h"
#include "store/shm/failpoint.h"
#include "store/units.h"

namespace forebay::daemon {
namespace {

using shm::RecordFlag;
using shm::State;

constexpr std::uint64_t version_max = std::numeric_limits<std::uint64_t>::max() - 1;
constexpr auto rescan_interval = std::chrono::milliseconds(100);
constexpr auto trace_interval = std::chrono::milliseconds(10);
constexpr auto reserve_pause = std::chrono::seconds(1);
// Small enough that a demand does not wait long behind a step of the reserve.
constexpr std::uint64_t reserve_step = 32 * mebibyte;

// As the record has it, while the segment is made; rounded up.
std::uint32_t ttl_seconds(std::uint64_t ttl_ns) {
  constexpr std::uint64_t second = 1'000'000'000;
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(ttl_ns / second + (ttl_ns % second != 0),
                              std::numeric_limits<std::uint32_t>::max()));
}

std::string plural(std::uint64_t count, const char* noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

}  // namespace

Rules::Rules(SegmentTable& table, PinCensus& census, Outside& outside,
             const RulesOptions& options)
    : table_(table),
      census_(census),
      outside_(outside),
      options_(options),
      space_(options.address_bytes, options.capacity_bytes),
      event_log_(options.events_max, table.index().live->next_event.load()) {}

// ------------------------------------------------------------------------------------- creating

Rules::Creation* Rules::find_creation(const shm::Key& key, std::uint64_t version) {
  const auto found = creations_.find(key);
  if (found == creations_.end()) return nullptr;
  for (Creation& creation : found->second)
    if (creation.version == version) return &creation;
  return nullptr;
}

void Rules::forget_creation(const shm::Key& key, std::uint64_t version) {
  const auto found = creations_.find(key);
  if (found == creations_.end()) return;
  std::erase_if(found->second,
                [version](const Creation& creation) { return creation.version == version; });
  if (found->second.empty()) creations_.erase(found);
  claims_due_.push_back(key);
}

// What was to fulfil a claim, and does not, leaves the claim as it was.
void Rules::forget_pending(const Pending& pending) {
  if (pending.claim_entry == no_entry) return forget_creation(pending.key, pending.version);
  Creation* const creation = find_creation(pending.key, pending.version);
  if (creation == nullptr) return;
  creation->pending = false;
  creation->is_claim = true;
  creation->token = table_.token(pending.claim_entry);
  creation->ticket = {};
}

bool Rules::creating(EntryNumber entry) const {
  const auto found = creations_.find(table_.key(entry));
  return found != creations_.end() &&
         std::any_of(found->second.begin(), found->second.end(),
                     [entry](const Creation& creation) { return creation.entry == entry; });
}

// A request that was sent again after a reconnect finds what its first sending did.
bool Rules::answer_repetition(Ticket ticket, const NewSegment& segment, const shm::Key& key) {
  if (segment.token == 0) return false;
  if (const auto found = creations_.find(key); found != creations_.end()) {
    for (Creation& creation : found->second) {
      if (creation.token != segment.token || !same_owner(creation.owner_slot, segment.owner_slot))
        continue;
      if (creation.is_claim != segment.is_claim) continue;
      if (creation.pending) {
        for (Pending& parked : parked_)
          if (parked.ticket == creation.ticket) parked.ticket = ticket;
        for (auto& [number, purpose] : jobs_)
          if (auto* job = std::get_if<ForPending>(&purpose))
            if (job->pending.ticket == creation.ticket) job->pending.ticket = ticket;
        creation.ticket = ticket;
      } else if (creation.is_claim) {
        outside_.claimed(ticket, {.yours = true,
                                  .entry = creation.entry,
                                  .version = creation.version,
                                  .serial = table_.serial(creation.entry)});
      } else {
        outside_.created(ticket, {.entry = creation.entry,
                                  .version = creation.version,
                                  .serial = table_.serial(creation.entry),
                                  .location = table_.location(creation.entry),
                                  .size = table_.size(creation.entry),
                                  .description = segment.take_from != 0
                                                     ? std::span<const std::byte>{}
                                                     : segment.description});
      }
      return true;
    }
  }
  for (const EntryNumber entry : table_.family(key)) {
    if (table_.token(entry) != segment.token) continue;
    outside_.created(ticket, {.entry = entry,
                              .version = table_.version(entry),
                              .serial = table_.serial(entry),
                              .location = table_.location(entry),
                              .sealed_before = true,
                              .size = segment.size,
                              .description = {}});
    return true;
  }
  return false;
}

Result<std::uint64_t> Rules::choose_version(const NewSegment& segment, const shm::Key& key) {
  const auto newest = table_.find_newest(key);
  // The hash stands for the id everywhere else; here, once, the ids themselves are compared.
  if (newest && table_.id(*newest) != segment.id)
    return fail(Errc::conflict, "id " + shown(segment.id) + " has the same hash as " +
                                    shown(table_.id(*newest)) + ": choose another");
  if (segment.claim != 0) {
    if (const auto found = creations_.find(key); found != creations_.end())
      for (const Creation& creation : found->second)
        if (creation.is_claim && !creation.pending && creation.token == segment.claim &&
            same_owner(creation.owner_slot, segment.owner_slot))
          return creation.version;
    return fail(Errc::conflict, "the claim to make " + shown(segment.id) + " has ended");
  }
  if (segment.version != 0) {
    if (segment.version > version_max)
      return fail(Errc::bad_argument, "a version is 1 to 2^64 - 2");
    const auto exact = table_.find_exact(key, segment.version);
    if (exact && SegmentTable::readable(table_.word(*exact).state()))
      return fail(Errc::exists, shown(segment.id, segment.version) + " is sealed already");
    if (find_creation(key, segment.version) != nullptr)
      return fail(Errc::conflict, shown(segment.id, segment.version) +
                                      " is being created; wait for it with get and a timeout");
    return segment.version;
  }
  std::uint64_t highest = newest ? table_.highest_version(key) : 0;
  if (const auto found = creations_.find(key); found != creations_.end())
    for (const Creation& creation : found->second) highest = std::max(highest, creation.version);
  if (highest >= version_max)
    return fail(Errc::bad_argument, shown(segment.id) + " has no next version: the highest is " +
                                        std::to_string(highest));
  return highest + 1;
}

void Rules::create(Ticket ticket, const NewSegment& segment, TimePoint now) {
  now_ = now;
  if (auto checked = check_id(segment.id); !checked) {
    outside_.refused(ticket, std::move(checked.error()));
    return;
  }
  if (segment.description.size() > shm::description_bytes_max) {
    outside_.refused(ticket, fail(Errc::bad_argument, "a description of " +
                                                          plural(segment.description.size(), "byte"))
                                 .error);
    return;
  }
  if (segment.size > options_.capacity_bytes ||
      shm::page_align(shm::stored_bytes(segment.size, segment.description.size())) >
          space_.capacity()) {
    outside_.refused(ticket, fail(Errc::too_large, shown(segment.id) + ": " +
                                                       format_size(segment.size) +
                                                       " asked, the store's capacity is " +
                                                       format_size(options_.capacity_bytes) +
                                                       "; split it, or start forebayd with a "
                                                       "larger --capacity")
                                 .error);
    return;
  }
  const shm::Key key = table_.key_of(segment.id);
  if (answer_repetition(ticket, segment, key)) return;
  auto version = choose_version(segment, key);
  if (!version) {
    outside_.refused(ticket, std::move(version.error()));
    return;
  }
  if (auto checked = check_source(segment, key); !checked) {
    outside_.refused(ticket, std::move(checked.error()));
    return;
  }
  Pending pending;
  pending.ticket = ticket;
  pending.segment = segment;
  pending.key = key;
  pending.version = *version;
  pending.deadline = deadline_after(now, segment.timeout_ns);
  pending.bytes = shm::stored_bytes(segment.size, segment.description.size());
  if (segment.claim != 0) {
    Creation& creation = *find_creation(key, *version);
    pending.claim_entry = creation.entry;
    creation.token = segment.token;
    creation.ticket = ticket;
    creation.ttl_ns = segment.ttl_ns;
    creation.pending = true;
    creation.is_claim = false;
  } else {
    creations_[key].push_back({.version = *version,
                               .entry = no_entry,
                               .token = segment.token,
                               .owner_slot = segment.owner_slot,
                               .ticket = ticket,
                               .ttl_ns = segment.ttl_ns,
                               .pending = true,
                               .is_claim = segment.is_claim});
  }
  if (attempt(pending) == Attempt::full) {
    if (segment.timeout_ns == 0 && !room_is_coming(pending)) {
      refuse(pending, full_error(pending));
    } else {
      pending.id = segment.id;
      pending.description.assign(segment.description.begin(), segment.description.end());
      parked_.push_back(std::move(pending));
    }
  }
  keep_memory_ready();
  serve_claims();
}

void Rules::refuse(const Pending& pending, Error error) {
  forget_pending(pending);
  outside_.refused(pending.ticket, std::move(error));
}

// Whether the version that is to be taken over is there, and may go.
Result<void> Rules::check_source(const NewSegment& segment, const shm::Key& key) const {
  if (segment.take_from == 0) return {};
  const auto entry = table_.find_exact(key, segment.take_from);
  const std::string what = shown(segment.id, segment.take_from);
  if (!entry) return fail(Errc::not_found, "no segment " + what);
  const State state = table_.word(*entry).state();
  if (state == State::tombstone) {
    const bool superseded = shm::reason_of(table_.flags(*entry)) == shm::Reason::superseded;
    return fail(superseded ? Errc::superseded : Errc::evicted,
                what + (superseded ? " was taken over by its next version already"
                                   : " was evicted to make room"));
  }
  if (state != State::sealed || table_.size(*entry) == 0 ||
      table_.has_flag(*entry, RecordFlag::in_slab))
    return fail(Errc::bad_argument, what + " has no memory of its own to take over; update it "
                                           "without take");
  if (table_.has_flag(*entry, RecordFlag::persistent))
    return fail(Errc::conflict, what + " is to stay until it is removed; update it without take");
  if (auto unlisted = check_unlisted(*entry); !unlisted) return unlisted;
  if (auto not_held = check_not_held(*entry); !not_held) return not_held;
  return {};
}

// The evict protocol, with another end: the memory goes to the next version, as it is.
void Rules::take_over(Pending& pending) {
  const bool copied = !pending.id.empty();
  if (copied) pending.segment.id = pending.id;
  const NewSegment& segment = pending.segment;
  // While it waited for the index to grow, anything may have happened.
  if (auto checked = check_source(segment, pending.key); !checked)
    return refuse(pending, std::move(checked.error()));
  const EntryNumber from = *table_.find_exact(pending.key, segment.take_from);
  table_.mark_evicting(from);
  if (census_.pinned(from)) {
    table_.unmark_evicting(from);
    return refuse(pending, fail(Errc::conflict, shown(segment.id, segment.take_from) +
                                                    " cannot be taken over: it is pinned by " +
                                                    holders_text(from) +
                                                    "; release it, or update without take")
                               .error);
  }
  // Of a description that lies behind the payload only the size is written, and it stays there.
  std::vector<std::byte> description(table_.description_size(from));
  if (shm::description_in_record(description.size()))
    shm::load_description(table_.index().records[from], description);
  SegmentFields fields;
  fields.id = segment.id;
  fields.key = pending.key;
  fields.version = pending.version;
  fields.size = table_.size(from);
  fields.brief = table_.brief(from);
  fields.description = description;
  fields.location = table_.location(from);
  fields.flags = (segment.evictable ? shm::flag_bit(RecordFlag::evictable) : 0) |
                 (segment.persistent ? shm::flag_bit(RecordFlag::persistent) : 0) |
                 shm::flag_bit(RecordFlag::taken) | doomed_flag(pending) |
                 shm::keep_bits(segment.keep);
  fields.expires_s = ttl_seconds(segment.ttl_ns);
  fields.owner_slot = segment.owner_slot;
  fields.writer_uid = segment.writer_uid;
  fields.token = segment.token;
  // Both versions have the memory for a moment; a daemon that dies now leaves it to the sealed one.
  auto entry = table_.begin(fields);
  if (!entry) {
    table_.unmark_evicting(from);
    return refuse(pending, exhausted_error(pending, entry.error().code));
  }
  shm::reached(shm::points::take_begun);
  const auto members = bury(from, shm::Reason::superseded, RemovalCause::superseded);
  bound_tombstones();
  has_begun(pending, *entry);
  held_no_more(members);
  outside_.created(pending.ticket, {.entry = *entry,
                                    .version = pending.version,
                                    .serial = table_.serial(*entry),
                                    .location = fields.location,
                                    .size = fields.size,
                                    .description = {}});
}

// No entry is free: the create waits for the index to grow, or is refused because it cannot.
void Rules::wait_for_entry(Pending& pending) {
  if (auto growth = table_.wants_growth(true)) {
    MemoryJob job{.urgent = true, .arena = {}, .index_ranges = growth->ranges};
    run(ForIndex{std::move(*growth)}, std::move(job));
  }
  if (table_.at_limit()) {
    refuse(pending, fail(Errc::limit_reached,
                         "the index is full: " + plural(table_.sealed_count(), "segment") +
                             "; remove some, or start forebayd with larger --max-segments")
                        .error);
    return;
  }
  if (pending.id.empty()) {
    pending.id = pending.segment.id;
    pending.description.assign(pending.segment.description.begin(),
                               pending.segment.description.end());
  }
  parked_.push_back(std::move(pending));
}

// An index that cannot grow gives up tombstones, the oldest first.
bool Rules::find_room_for_entry() {
  while (table_.at_limit() && !table_.has_room() && !tombstones_.empty()) {
    const auto [entry, serial] = tombstones_.front();
    tombstones_.pop_front();
    if (table_.word(entry).state() == State::tombstone && table_.serial(entry) == serial)
      table_.forget(entry);
  }
  return table_.has_room();
}

// Finds memory for a pending create. done: it is answered. parked: a memory job has it,
// or it waits for the index (or was refused by it).
Rules::Attempt Rules::attempt(Pending& pending) {
  if (!find_room_for_entry()) {
    wait_for_entry(pending);
    return Attempt::parked;
  }

  if (pending.segment.take_from != 0) {
    // What is read on its way into a tier must not be written.
    const auto source = table_.find_exact(pending.key, pending.segment.take_from);
    if (source && is_copying(*source)) return Attempt::full;
    take_over(pending);
    return Attempt::done;
  }
  const bool in_slab = pending.segment.packed && Slabs::fits(pending.bytes);
  if (pending.bytes == 0) {
    finish_create(pending, shm::Location(), false);
    return Attempt::done;
  }
  if (in_slab) {
    if (const auto slot = slabs_.take(pending.bytes)) {
      finish_create(pending, shm::Location(0, *slot), true);
      return Attempt::done;
    }
  }
  const std::uint64_t bytes =
      in_slab ? Slabs::slab_bytes(pending.bytes) : shm::page_align(pending.bytes);
  const std::uint64_t alignment = in_slab ? bytes : shm::page_bytes;
  const auto use = [&](const Extent& extent) {
    std::uint64_t offset = extent.offset;
    if (in_slab) {
      slabs_.add(pending.bytes, extent);
      offset = *slabs_.take(pending.bytes);
    }
    finish_create(pending, shm::Location(0, offset), in_slab);
  };
  if (const auto extent = space_.take_warm(bytes, alignment)) {
    use(*extent);
    return Attempt::done;
  }
  // One slab for all that come while memory is cold, or each of a batch would take a slab of its own.
  if (in_slab && slab_is_coming(pending.bytes)) return Attempt::full;
  auto growth = plan_growth(bytes, alignment);
  std::optional<std::uint64_t> slot;
  const auto slot_is_free = [&] {
    if (in_slab) slot = slabs_.take(pending.bytes);
    return slot.has_value();
  };
  if (!growth && !memory_is_coming(pending) && make_room(bytes, slot_is_free)) {
    if (slot) {
      finish_create(pending, shm::Location(0, *slot), true);
      return Attempt::done;
    }
    if (const auto extent = space_.take_warm(bytes, alignment)) {
      use(*extent);
      return Attempt::done;
    }
    growth = plan_growth(bytes, alignment);
  }
  if (!growth) return Attempt::full;
  if (pending.id.empty()) {
    pending.id = pending.segment.id;
    pending.description.assign(pending.segment.description.begin(),
                               pending.segment.description.end());
  }
  MemoryJob job{.urgent = true, .arena = growth->work, .index_ranges = {}};
  run(ForPending{std::move(*growth), std::move(pending), in_slab}, std::move(job));
  return Attempt::parked;
}

// In multiples of what memory comes in, if that is free; what is not needed stays warm.
std::optional<Growth> Rules::plan_growth(std::uint64_t bytes, std::uint64_t alignment) {
  if (options_.growth_bytes > 0) {
    const std::uint64_t unit = options_.growth_bytes;
    if (auto growth = space_.plan((bytes + unit - 1) / unit * unit, std::max(alignment, unit)))
      return growth;
  }
  return space_.plan(bytes, alignment);
}

void Rules::finish_create(Pending& pending, shm::Location location, bool in_slab) {
  const NewSegment& segment = pending.segment;
  const bool copied = !pending.id.empty();  // it had to wait: the request's frame is gone
  SegmentFields fields;
  fields.id = copied ? std::string_view(pending.id) : segment.id;
  fields.key = pending.key;
  fields.version = pending.version;
  fields.size = segment.size;
  fields.brief = segment.brief;
  fields.description =
      copied ? std::span<const std::byte>(pending.description) : segment.description;
  fields.location = location;
  fields.flags = (segment.evictable ? shm::flag_bit(RecordFlag::evictable) : 0) |
                 (segment.persistent ? shm::flag_bit(RecordFlag::persistent) : 0) |
                 (in_slab ? shm::flag_bit(RecordFlag::in_slab) : 0) |
                 (segment.is_claim ? shm::flag_bit(RecordFlag::claim) : 0) |
                 doomed_flag(pending) | shm::keep_bits(segment.keep);
  fields.expires_s = ttl_seconds(segment.ttl_ns);
  fields.owner_slot = segment.owner_slot;
  fields.writer_uid = segment.writer_uid;
  fields.token = segment.token;
  const auto give_back = [&] {
    if (in_slab) {
      if (const auto emptied = slabs_.give_back(location.offset(), pending.bytes))
        release(*emptied);
    } else if (pending.bytes > 0) {
      release({location.offset(), shm::page_align(pending.bytes)});
    }
  };
  // While its memory was found, others may have taken the last entries.
  if (!table_.has_room()) {
    give_back();
    wait_for_entry(pending);
    return;
  }
  auto entry = table_.begin(fields);
  if (!entry) {
    give_back();
    refuse(pending, exhausted_error(pending, entry.error().code));
    return;
  }
  has_begun(pending, *entry);
  if (segment.is_claim) {
    outside_.claimed(pending.ticket, {.yours = true,
                                      .entry = *entry,
                                      .version = pending.version,
                                      .serial = table_.serial(*entry)});
    return;
  }
  outside_.created(pending.ticket, {.entry = *entry,
                                    .version = pending.version,
                                    .serial = table_.serial(*entry),
                                    .location = location,
                                    .size = segment.size,
                                    .description = fields.description});
}

void Rules::has_begun(const Pending& pending, EntryNumber entry) {
  Creation& creation = *find_creation(pending.key, pending.version);
  creation.entry = entry;
  creation.pending = false;
  if (pending.claim_entry == no_entry) return;
  // The claim is fulfilled. A daemon that dies before this finds both, and drops the claim.
  table_.begin_removal(pending.claim_entry);
  try_finish_removal(pending.claim_entry);
  shm::reached(shm::points::claim_fulfilled);
}

bool Rules::same_owner(std::uint32_t slot, std::uint32_t other) const {
  return slot == other || outside_.same_process(slot, other);
}

Result<void> Rules::seal(EntryNumber entry, std::uint64_t serial, std::uint32_t slot,
                         bool repeated, std::uint64_t wall_ns, TimePoint now,
                         std::span<const shm::ManifestMember> members) {
  now_ = std::max(now_, now);
  const bool known = entry != no_entry && entry < table_.entries_max() &&
                     entry < table_.index().live->entries_end.load(std::memory_order_relaxed);
  if (!known || table_.serial(entry) != serial || !same_owner(table_.owner_slot(entry), slot))
    return fail(Errc::not_found, "nothing of that number is being created by this process");
  const State state = table_.word(entry).state();
  if (repeated && (SegmentTable::readable(state) || state == State::tombstone)) return {};
  if (state != State::creating || table_.has_flag(entry, RecordFlag::claim) ||
      table_.has_flag(entry, RecordFlag::scope))
    return fail(Errc::bad_state, shown(table_.id(entry), table_.version(entry)) +
                                     " is not being created any more");
  const shm::Key key = table_.key(entry);
  const std::uint64_t version = table_.version(entry);
  if (!table_.can_link())
    return fail(Errc::limit_reached, "no room in the index to make " +
                                         shown(table_.id(entry), version) +
                                         " visible; remove some segments and try again");
  auto listed = find_members(entry, members);
  if (!listed) return fail(std::move(listed.error()));
  const Creation* const creation = find_creation(key, version);
  const std::uint64_t ttl_ns = creation != nullptr ? creation->ttl_ns : 0;
  // What was said of the id goes on until something else is said.
  if (const auto newest = table_.find_newest(key); newest && table_.keep(entry) == 0)
    table_.set_keep(entry, table_.keep(*newest));
  for (const EntryNumber member : *listed) table_.set_flag(member, RecordFlag::held, true);
  start_expiry(entry, ttl_ns, wall_ns);
  table_.seal(entry, wall_ns);
  if (!listed->empty()) holds_.list(entry, std::move(*listed));
  forget_creation(key, version);
  note_resident(entry);
  trace(entry, TraceOp::create);
  record_event(EventKind::sealed, RemovalCause::none, entry);
  for (const Ticket ticket : waiters_.wake(key, version)) wake(ticket);
  serve_claims();
  apply_keep(key);
  // Its scope ended while it was made.
  if (table_.serial(entry) == serial && table_.word(entry).state() == State::sealed &&
      table_.has_flag(entry, RecordFlag::doomed))
    remove_entry(entry);
  return {};
}

Result<void> Rules::abort(EntryNumber entry, std::uint64_t serial, std::uint32_t slot,
                          bool repeated, std::string_view why) {
  const bool known = entry != no_entry && entry < table_.entries_max() &&
                     entry < table_.index().live->entries_end.load(std::memory_order_relaxed);
  if (!known || table_.serial(entry) != serial || !same_owner(table_.owner_slot(entry), slot) ||
      table_.word(entry).state() != State::creating ||
      table_.has_flag(entry, RecordFlag::scope)) {
    if (repeated) return {};
    return fail(Errc::bad_state, "nothing of that number is being created by this process");
  }
  if (!why.empty())
    fail_claims(table_.key(entry), table_.version(entry), why);
  end_creation(entry);
  remove_entry(entry);
  keep_memory_ready();
  serve_claims();
  return {};
}

// Nobody makes this any more. If it is a claim, what was to fulfil it waits for nothing.
void Rules::end_creation(EntryNumber entry) {
  const shm::Key key = table_.key(entry);
  const std::uint64_t version = table_.version(entry);
  const Creation* const creation = find_creation(key, version);
  const bool is_awaited = creation != nullptr && creation->pending;
  const Ticket ticket = is_awaited ? creation->ticket : Ticket{};
  forget_creation(key, version);
  if (is_awaited) {
    // A memory job of its own finds it gone.
    std::erase_if(parked_, [&](const Pending& pending) { return pending.ticket == ticket; });
    outside_.refused(ticket, fail(Errc::conflict, "the claim to make " +
                                                      shown(table_.id(entry), version) +
                                                      " has ended")
                                 .error);
  }
}

void Rules::cancel(std::uint64_t token, std::uint32_t slot) {
  for (const auto& waiter : claim_waiters_.take_of_all([&](const ClaimWaiters::Waiter& waiter) {
         return waiter.claim.token == token && same_owner(waiter.claim.owner_slot, slot);
       }))
    outside_.refused(waiter.ticket, fail(Errc::timed_out, "its caller has given up").error);
  for (const auto& [key, creations] : creations_)
    for (const Creation& creation : creations) {
      if (creation.token != token || !same_owner(creation.owner_slot, slot)) continue;
      const Creation wanted_no_more = creation;
      const shm::Key of_id = key;
      Pending unfulfilled;
      unfulfilled.key = of_id;
      unfulfilled.version = creation.version;
      if (creation.pending) unfulfilled.claim_entry = creation.entry;
      // A memory job of its own finds it gone, and gives the memory back.
      std::erase_if(parked_, [&](const Pending& pending) {
        return pending.ticket == wanted_no_more.ticket;
      });
      forget_pending(unfulfilled);
      if (wanted_no_more.pending) {
        outside_.refused(wanted_no_more.ticket,
                         fail(Errc::timed_out, "its caller has given up").error);
      } else {
        remove_entry(wanted_no_more.entry);
      }
      keep_memory_ready();
      serve_claims();
      return;
    }
}

// ------------------------------------------------------------------------------------- removing

Result<std::uint64_t> Rules::remove(std::string_view id, std::uint64_t version,
                                    std::uint64_t serial, bool repeated) {
  const shm::Key key = table_.key_of(id);
  std::uint64_t removed = 0;
  std::vector<std::pair<EntryNumber, std::uint64_t>> members;
  for (const EntryNumber entry : table_.family(key)) {
    members.emplace_back(entry, table_.serial(entry));
    const bool meant = (version == 0 || table_.version(entry) == version) &&
                       (serial == 0 || table_.serial(entry) == serial);
    if (!meant) continue;
    if (auto unlisted = check_unlisted(entry); !unlisted) return fail(std::move(unlisted.error()));
  }
  for (const auto& [entry, known_serial] : members) {
    // What one removal frees may go to a waiting create at once, which may drop another member and
    // even take over its entry.
    const State state = table_.word(entry).state();
    if (state == State::free || table_.serial(entry) != known_serial) continue;
    if (version != 0 && table_.version(entry) != version) continue;
    if (serial != 0 && known_serial != serial) continue;
    if (state == State::tombstone) {
      // The reason why it is gone is gone, too: whoever removes it knows.
      table_.forget(entry);
      continue;
    }
    remove_entry(entry);
    ++removed;
  }
  keep_memory_ready();
  if (removed == 0 && !repeated) {
    if (serial != 0)
      return fail(Errc::stale_ref, "the segment of this ref to " + shown(id, version) +
                                       " is not in the store any more");
    return fail(Errc::not_found, "no segment " + shown(id, version));
  }
  return removed;
}

Result<std::uint64_t> Rules::remove_before(std::string_view id, std::uint64_t version) {
  const shm::Key key = table_.key_of(id);
  std::vector<std::pair<EntryNumber, std::uint64_t>> members;
  for (const EntryNumber entry : table_.family(key))
    if (table_.version(entry) < version) members.emplace_back(entry, table_.serial(entry));
  std::uint64_t removed = 0;
  for (const auto& [entry, serial] : members) {
    // As in remove: what one removal frees may take the next member.
    const State state = table_.word(entry).state();
    if (state == State::free || table_.serial(entry) != serial) continue;
    if (state == State::tombstone) {
      table_.forget(entry);
    } else if (holds_.manifests_of(entry).empty()) {
      remove_entry(entry);
      ++removed;
    }
  }
  keep_memory_ready();
  return removed;
}

void Rules::remove_entry(EntryNumber entry, RemovalCause cause) {
  if (SegmentTable::readable(table_.word(entry).state())) {
    record_event(EventKind::removed, cause, entry);
    trace(entry, TraceOp::remove);
  }
  forget_resident(entry);
  forget_retention(entry);
  forget_restore(entry);
  table_.begin_removal(entry);
  forget_place(entry);
  try_finish_removal(entry);
}

// A sealed segment that nobody pins becomes a tombstone; its memory is the caller's to see to. Returns
// what is held no more: the caller sees to that last, for it may make other segments go and others
// come, also where this one was.
std::vector<EntryNumber> Rules::bury(EntryNumber entry, shm::Reason reason, RemovalCause cause) {
  record_event(EventKind::removed, cause, entry);
  trace(entry, TraceOp::remove);
  forget_resident(entry, reason == shm::Reason::evicted);
  forget_retention(entry);
  std::vector<EntryNumber> members = unlist(entry);
  table_.bury(entry, reason);
  forget_place(entry);
  tombstones_.emplace_back(entry, table_.serial(entry));
  return members;
}

Result<void> Rules::supersede(std::string_view id, std::uint64_t version, std::uint64_t serial,
                              bool repeated) {
  const shm::Key key = table_.key_of(id);
  const auto entry = table_.find_exact(key, version);
  if (!entry) return fail(Errc::not_found, "no segment " + shown(id, version));
  const State state = table_.word(*entry).state();
  if (state == State::tombstone) {
    const bool superseded = shm::reason_of(table_.flags(*entry)) == shm::Reason::superseded;
    if (superseded && repeated) return {};
    return fail(superseded ? Errc::superseded : Errc::evicted,
                shown(id, version) + (superseded ? " was taken over by its next version already"
                                                 : " was evicted to make room"));
  }
  if (table_.serial(*entry) != serial)
    return fail(Errc::stale_ref, shown(id, version) + " was removed, and another one put");
  if (state != State::sealed)
    return fail(Errc::conflict, shown(id, version) + " is not resident");
  if (table_.has_flag(*entry, RecordFlag::persistent))
    return fail(Errc::conflict, shown(id, version) +
                                    " is to stay until it is removed; update it without take");
  if (auto unlisted = check_unlisted(*entry); !unlisted) return unlisted;
  if (auto not_held = check_not_held(*entry); !not_held) return not_held;
  table_.mark_evicting(*entry);
  if (census_.pinned(*entry)) {
    table_.unmark_evicting(*entry);
    return fail(Errc::conflict, shown(id, version) + " cannot be taken over: it is pinned by " +
                                    holders_text(*entry) +
                                    "; release it, or update without take");
  }
  const auto members = bury(*entry, shm::Reason::superseded, RemovalCause::superseded);
  give_memory_back(*entry);
  bound_tombstones();
  held_no_more(members);
  return {};
}

// "pid 4711 (kmeans.py), pid 4712 (kmeans.py)"
std::string Rules::holders_text(EntryNumber entry) {
  constexpr std::size_t named = 3;
  const std::vector<PinHolder> holders = census_.holders(entry);
  std::string text;
  for (std::size_t i = 0; i < std::min(named, holders.size()); ++i)
    text += (i > 0 ? ", pid " : "pid ") + std::to_string(holders[i].pid) + " (" +
            holders[i].name + ")";
  if (holders.size() > named) text += " and " + plural(holders.size() - named, "other");
  return text.empty() ? "somebody who has just let go" : text;
}

void Rules::try_finish_removal(EntryNumber entry) {
  if (census_.pinned(entry)) {
    if (!deferred_.contains(entry)) {
      table_.set_wanted(entry, true);
      // Asked first, looked second: the last release may have come in between.
      if (census_.pinned(entry)) {
        deferred_.insert(entry);
        return;
      }
    } else {
      return;
    }
  }
  deferred_.erase(entry);
  give_memory_back(entry);
}

// The entry is freed before its memory can be given to anybody else: a daemon that dies in between
// finds memory that nobody covers, never two segments over the same bytes.
void Rules::give_memory_back(EntryNumber entry) {
  const bool has_memory = table_.has_memory(entry);
  const Memory memory{table_.location(entry).offset(), stored_bytes(entry),
                      table_.has_flag(entry, RecordFlag::in_slab)};
  if (table_.word(entry).state() == State::removing) {
    end_manifest(entry);
    table_.finish_removal(entry);
  }
  if (!has_memory || memory.bytes == 0) return;
  if (const auto copy = transfers_.copy_of.find(entry); copy != transfers_.copy_of.end()) {
    // It is being read on its way into a tier.
    transfers_.copies.at(copy->second).orphan = memory;
    transfers_.copy_of.erase(copy);
    return;
  }
  free_memory(memory);
}

void Rules::free_memory(const Memory& memory) {
  if (memory.in_slab) {
    if (const auto emptied = slabs_.give_back(memory.offset, memory.bytes)) release(*emptied);
    serve_restores();
    serve_parked();
  } else {
    release({memory.offset, shm::page_align(memory.bytes)});
  }
}

void Rules::release(const Extent& extent) {
  space_.release(extent);
  serve_restores();
  serve_parked();
}

void Rules::nudge(EntryNumber entry) {
  if (surplus_.contains(entry)) return let_go_surplus(entry);
  if (!deferred_.contains(entry)) return;
  try_finish_removal(entry);
  keep_memory_ready();
}

bool Rules::evict(EntryNumber entry) {
  if (table_.word(entry).state() != State::sealed || is_copying(entry)) return false;
  const bool clean = table_.has_place(entry);
  if (!clean && (stays(entry) || !table_.has_flag(entry, RecordFlag::evictable))) return false;
  if (const auto fresh = transfers_.fresh_until.find(entry);
      fresh != transfers_.fresh_until.end() && fresh->second > now_)
    return false;
  table_.mark_evicting(entry);
  if (census_.pinned(entry)) {
    table_.unmark_evicting(entry);
    return false;
  }
  if (clean) {
    put_away(entry);
    return true;
  }
  const auto members = bury(entry, shm::Reason::evicted, RemovalCause::evicted);
  give_memory_back(entry);
  bound_tombstones();
  held_no_more(members);
  return true;
}

void Rules::bound_tombstones() {
  while (tombstones_.size() > options_.tombstones_max) {
    const auto [entry, serial] = tombstones_.front();
    tombstones_.pop_front();
    if (table_.word(entry).state() == State::tombstone && table_.serial(entry) == serial)
      table_.forget(entry);
  }
}

// Drops what may be dropped until `bytes` could be planned, or less would do; false: not even then.
bool Rules::make_room(std::uint64_t bytes, const std::function<bool()>& less_will_do,
                      bool may_copy) {
  give_up_empty_slabs();
  drain_accesses();
  EntryNumber refused = no_entry;  // the warmest that cannot go: all colder ones cannot, either
  std::uint64_t refused_serial = 0;
  std::uint64_t freed_in_slabs = 0;
  while (space_.warm() + space_.ungrown() < bytes) {
    if (less_will_do()) return true;
    // What was freed may have gone to who waits, who dropped what could not go before.
    if (refused != no_entry && (table_.serial(refused) != refused_serial ||
                                table_.word(refused).state() != State::sealed))
      refused = no_entry;
    const EntryNumber coldest =
        refused == no_entry ? eviction_.coldest() : eviction_.next_warmer(refused);
    // A slab that was emptied is memory only when it is given up. To look for one takes as long as
    // there are slabs, so it is not done after each small segment.
    const std::uint64_t missing = bytes - space_.warm() - space_.ungrown();
    if (freed_in_slabs > 0 && (coldest == no_entry || freed_in_slabs >= missing)) {
      give_up_empty_slabs();
      freed_in_slabs = 0;
      continue;
    }
    if (coldest == no_entry) {
      // Nothing can go at once; what is copied now can go soon.
      if (may_copy) copy_coldest(missing);
      return false;
    }
    const std::uint64_t items = slabs_.items_bytes();
    const bool lists_others =
        shm::Brief::from_bits(table_.brief(coldest)).kind == shm::Kind::manifest;
    if (!evict(coldest)) {
      refused = coldest;
      refused_serial = table_.serial(coldest);
    } else if (lists_others) {
      refused = no_entry;  // what it listed may go now
    }
    if (slabs_.items_bytes() < items) freed_in_slabs += items - slabs_.items_bytes();
  }
  return true;
}

void Rules::give_up_empty_slabs() {
  for (const Extent& extent : slabs_.give_up_empty()) space_.release(extent);
}

// Whether there will be room once the memory thread is done with what it prepares or gives back, and
// the tiers with what `coming` says: an empty store must not be called full because its memory is
// being tidied.
bool Rules::room_is_coming(const Pending& pending, std::uint64_t coming) const {
  const bool wants_entry = !table_.has_room();
  for (const auto& [number, purpose] : jobs_) {
    if (wants_entry && std::holds_alternative<ForIndex>(purpose)) return true;
    if (const auto* reserve = std::get_if<ForReserve>(&purpose)) coming += reserve->extent.bytes;
    if (const auto* trim = std::get_if<ForTrim>(&purpose))
      for (const Extent& extent : trim->extents) coming += extent.bytes;
  }
  if (pending.segment.take_from != 0) {
    const auto source = table_.find_exact(pending.key, pending.segment.take_from);
    if (source && is_copying(*source)) return true;
  }
  if (pending.segment.packed && Slabs::fits(pending.bytes) && slab_is_coming(pending.bytes))
    return true;
  if (coming == 0) return false;
  const std::uint64_t bytes = pending.segment.packed && Slabs::fits(pending.bytes)
                                  ? Slabs::slab_bytes(pending.bytes)
                                  : shm::page_align(pending.bytes);
  return space_.warm() + space_.ungrown() + coming >= bytes;
}

// Without a look at the tiers: what may go now goes, and is not waited for.
bool Rules::memory_is_coming(const Pending& pending) const { return room_is_coming(pending, 0); }

bool Rules::room_is_coming(const Pending& pending) const {
  // What is copied, and what has just come back, can go soon, unless somebody pins it.
  std::uint64_t coming = transfers_.copying_bytes;
  for (const auto& [entry, until] : transfers_.fresh_until)
    if (until > now_ && !census_.pinned(entry)) coming += stored_bytes(entry);
  return room_is_coming(pending, coming);
}

// Whether a slab for items of this size is on its way.
bool Rules::slab_is_coming(std::uint64_t bytes) const {
  return std::ranges::any_of(jobs_, [bytes](const auto& item) {
    const auto* job = std::get_if<ForPending>(&item.second);
    const auto* restore = std::get_if<ForRestore>(&item.second);
    return (job != nullptr && job->for_slab && Slabs::same_class(job->pending.bytes, bytes)) ||
           (restore != nullptr && restore->in_slab && Slabs::same_class(restore->bytes, bytes));
  });
}

// Retries what waits for room, in order of arrival; what does not fit yet lets others pass.
void Rules::serve_parked() {
  if (parked_.empty()) return;
  serve_parked_again_ = true;
  if (serving_parked_) return;
  serving_parked_ = true;
  // Again, if one that was served let something go: that may be what another one waits for.
  while (std::exchange(serve_parked_again_, false)) {
    std::list<Pending> again;
    again.swap(parked_);
    while (!again.empty()) {
      Pending pending = std::move(again.front());
      again.pop_front();
      pending.segment.id = pending.id;
      pending.segment.description = pending.description;
      if (attempt(pending) == Attempt::full) parked_.push_back(std::move(pending));
    }
  }
  serving_parked_ = false;
}

// --------------------------------------------------------------------------------------- events

void Rules::session_ended(SessionId session) {
  waiters_.drop(session);
  wait_sets_.drop(session);
  restore_waiters_.drop(session);
  std::erase_if(transfer_batches_,
                [session](const auto& batch) { return batch.first.session == session; });
  std::erase_if(waiting_scopes_, [session](const WaitingScope& scope) {
    return scope.ticket.session == session;
  });
  subscribers_.drop(session);
  claim_waiters_.take_of_all([session](const ClaimWaiters::Waiter& waiter) {
    return waiter.ticket.session == session;
  });
  for (auto pending = parked_.begin(); pending != parked_.end();) {
    if (pending->ticket.session != session) {
      ++pending;
      continue;
    }
    forget_pending(*pending);
    pending = parked_.erase(pending);
  }
  // Those whose memory is on its way: it will find nobody who wants it. But who was given up before
  // may not be who makes the version now.
  for (const auto& [number, purpose] : jobs_) {
    const auto* const job = std::get_if<ForPending>(&purpose);
    if (job == nullptr || job->pending.ticket.session != session) continue;
    const Creation* const creation = find_creation(job->pending.key, job->pending.version);
    if (creation != nullptr && creation->pending && creation->ticket == job->pending.ticket)
      forget_pending(job->pending);
  }
  serve_claims();
}

void Rules::process_ended(std::uint32_t slot) {
  std::vector<EntryNumber> orphans;
  for (const auto& [key, creations] : creations_)
    for (const Creation& creation : creations)
      if (creation.owner_slot == slot && creation.entry != no_entry)
        orphans.push_back(creation.entry);
  for (const EntryNumber entry : orphans) end_creation(entry);
  for (const EntryNumber entry : orphans) remove_entry(entry);
  end_scopes(slot);
  held_no_more(holds_.process_ended(slot));
  for (const EntryNumber entry : std::vector<EntryNumber>(deferred_.begin(), deferred_.end()))
    try_finish_removal(entry);
  for (const EntryNumber entry : std::vector<EntryNumber>(surplus_.begin(), surplus_.end()))
    let_go_surplus(entry);
  serve_claims();
  serve_parked();
  keep_memory_ready();
}

void Rules::memory_done(std::uint64_t number, const std::error_code& error, TimePoint now) {
  now_ = now;
  const auto found = jobs_.find(number);
  if (found == jobs_.end()) return;
  Purpose purpose = std::move(found->second);
  jobs_.erase(found);
  const bool succeeded = !error;

  if (auto* job = std::get_if<ForPending>(&purpose)) {
    space_.settle(job->growth, succeeded);
    Pending& pending = job->pending;
    pending.segment.id = pending.id;
    pending.segment.description = pending.description;
    Extent extent = job->growth.extent;
    if (succeeded) {
      const std::uint64_t needed =
          job->for_slab ? Slabs::slab_bytes(pending.bytes) : shm::page_align(pending.bytes);
      if (extent.bytes > needed) space_.release({extent.offset + needed, extent.bytes - needed});
      extent.bytes = needed;
    }
    const Creation* creation = find_creation(pending.key, pending.version);
    const bool wanted = creation != nullptr && creation->ticket == pending.ticket;
    if (!succeeded) {
      reserve_again_at_ = now + reserve_pause;
      if (wanted) refuse(pending, exhausted_error(pending, error));
    } else if (!wanted) {
      release(extent);
    } else if (job->for_slab) {
      slabs_.add(pending.bytes, extent);
      finish_create(pending, shm::Location(0, *slabs_.take(pending.bytes)), true);
    } else {
      finish_create(pending, shm::Location(0, extent.offset), false);
    }
  } else if (auto* reserve = std::get_if<ForReserve>(&purpose)) {
    space_.settle_reserve(reserve->extent, succeeded);
    reserve_running_ = false;
    if (!succeeded) reserve_again_at_ = now + reserve_pause;
  } else if (auto* trim = std::get_if<ForTrim>(&purpose)) {
    for (const Extent& extent : trim->extents) space_.punched(extent);
  } else if (auto* restore = std::get_if<ForRestore>(&purpose)) {
    space_.settle(restore->growth, succeeded);
    const auto restoring = transfers_.restores.find(restore->serial);
    Extent extent = restore->growth.extent;
    if (!succeeded) reserve_again_at_ = now + reserve_pause;
    const bool known = restoring != transfers_.restores.end();
    if (known) restoring->second.growing = false;
    if (!known || !is_wanted(restoring->second)) {
      if (known) transfers_.restores.erase(restoring);
      if (succeeded) release(extent);
    } else if (!succeeded) {
      end_restore(restore->serial,
                  fail(Errc::store_full, "the system gave no memory to bring a segment back (" +
                                             error.message() + ")"));
    } else if (restore->in_slab) {
      const std::uint64_t needed = Slabs::slab_bytes(restore->bytes);
      if (extent.bytes > needed) space_.release({extent.offset + needed, extent.bytes - needed});
      slabs_.add(restore->bytes, {extent.offset, needed});
      fetch(restore->serial, {*slabs_.take(restore->bytes), restore->bytes, true});
    } else {
      const std::uint64_t needed = shm::page_align(restore->bytes);
      if (extent.bytes > needed) space_.release({extent.offset + needed, extent.bytes - needed});
      fetch(restore->serial, {extent.offset, restore->bytes, false});
    }
  } else if (auto* index = std::get_if<ForIndex>(&purpose)) {
    table_.grown(index->growth, succeeded);
    if (!succeeded) {
      reserve_again_at_ = now + reserve_pause;
      if (!table_.has_room()) {
        for (Pending& pending : std::exchange(parked_, {})) {
          pending.segment.id = pending.id;
          refuse(pending, exhausted_error(pending, error));
        }
      }
    }
    serve_waiting_scopes(error);
  }
  serve_restores();
  serve_parked();
  serve_claims();
  keep_memory_ready();
}

void Rules::tick(TimePoint now) {
  now_ = now;
  for (const Waiters::Late& late : waiters_.expire(now)) time_up(late.ticket);
  for (const ClaimWaiters::Waiter& waiter : claim_waiters_.expire(now))
    outside_.refused(waiter.ticket,
                     fail(Errc::timed_out, shown(waiter.claim.id, waiter.claim.version) +
                                               " is still being made by somebody else")
                         .error);
  std::vector<std::pair<EntryNumber, std::uint64_t>> due;
  for (const EntryNumber entry : expiries_.take_due(now))
    due.emplace_back(entry, table_.serial(entry));
  // As in remove: what one of them frees may take the entry of the next.
  for (const auto& [entry, serial] : due)
    if (table_.serial(entry) == serial) expire(entry);
  empty_scopes();
  // Before anybody is told that time is up, what nobody announces: pins that ended without a nudge,
  // and segments that can be dropped.
  if ((!deferred_.empty() || !surplus_.empty()) && now >= rescan_at_) {
    // A client that died between its release and its nudge would otherwise keep the memory.
    for (const EntryNumber entry : std::vector<EntryNumber>(deferred_.begin(), deferred_.end()))
      try_finish_removal(entry);
    for (const EntryNumber entry : std::vector<EntryNumber>(surplus_.begin(), surplus_.end()))
      let_go_surplus(entry);
    rescan_at_ = now + rescan_interval;
  }
  if (options_.trace != nullptr) drain_accesses();
  expire_restores();
  serve_restores();
  if (may_leave()) serve_parked();
  for (auto pending = parked_.begin(); pending != parked_.end();) {
    if (pending->deadline > now || room_is_coming(*pending)) {
      ++pending;
      continue;
    }
    Pending late = std::move(*pending);
    pending = parked_.erase(pending);
    late.segment.id = late.id;
    refuse(late, full_error(late));
  }
  keep_memory_ready();
  serve_claims();
  serve_subscribers();
}

std::optional<TimePoint> Rules::next_wakeup() const {
  std::optional<TimePoint> next = waiters_.next_deadline();
  const auto also = [&next](TimePoint at) { next = next ? std::min(*next, at) : at; };
  for (const Pending& pending : parked_)
    if (pending.deadline > now_ || !room_is_coming(pending)) also(pending.deadline);
  if (!deferred_.empty() || !surplus_.empty()) also(rescan_at_);
  if (!endings_.empty() || !condemned_.empty()) also(now_);
  for (const auto at : {expiries_.next(), claim_waiters_.next_deadline(),
                        subscribers_.next_deadline(), restore_waiters_.next_deadline()})
    if (at) also(*at);
  if (options_.trace != nullptr) also(now_ + trace_interval);
  const bool wants_room = !parked_.empty() || !transfers_.demanded.empty();
  if (wants_room && (may_leave())) also(now_ + rescan_interval);
  if (!transfers_.prefetched.empty()) also(now_ + rescan_interval);
  if (spills() && now_ < tiers_again_at_) also(tiers_again_at_);
  if (now_ < reserve_again_at_) also(reserve_again_at_);
  return next;
}

void Rules::drop_all(bool keep_persistent) {
  const std::uint32_t end = table_.index().live->entries_end.load(std::memory_order_relaxed);
  for (EntryNumber entry = 1; entry < end; ++entry) {
    const State state = table_.word(entry).state();
    if (!SegmentTable::readable(state)) continue;
    if (keep_persistent && table_.has_flag(entry, RecordFlag::persistent)) continue;
    remove_entry(entry);
  }
}

// --------------------------------------------------------------------------------------- memory

void Rules::run(Purpose purpose, MemoryJob job) {
  job.number = next_job_++;
  jobs_.emplace(job.number, std::move(purpose));
  outside_.start(std::move(job));
}

void Rules::keep_memory_ready() {
  clean();
  const std::uint64_t keep = std::max(options_.keep_warm_bytes, options_.reserve_bytes);
  if (space_.warm() > keep) {
    std::vector<Extent> trimmed = space_.trim(keep);
    MemoryJob job{.arena = {.punch = trimmed, .grow = {}}, .index_ranges = {}};
    run(ForTrim{std::move(trimmed)}, std::move(job));
  }
  if (now_ < reserve_again_at_) return;
  if (auto growth = table_.wants_growth(false)) {
    MemoryJob job{.arena = {}, .index_ranges = growth->ranges};
    run(ForIndex{std::move(*growth)}, std::move(job));
  }
  if (reserve_running_) return;
  const std::uint64_t warm = space_.warm();
  if (warm >= options_.reserve_bytes) return;
  const std::uint64_t unit = std::max(options_.growth_bytes, shm::page_bytes);
  const std::uint64_t missing = (options_.reserve_bytes - warm + unit - 1) / unit * unit;
  const auto extent = space_.plan_reserve(std::min(reserve_step, missing));
  if (!extent) return;
  reserve_running_ = true;
  MemoryJob job{.arena = {.punch = {}, .grow = {*extent}}, .index_ranges = {}};
  run(ForReserve{*extent}, std::move(job));
}

void Rules::begin() { keep_memory_ready(); }

// ------------------------------------------------------------------------------------ a restart

std::uint64_t Rules::adopt(const SegmentTable::Found& found, const std::vector<bool>& living,
                           TimePoint now, std::uint64_t wall_ns, const MembersOf& members_of) {
  now_ = now;
  std::uint64_t unsound = 0;
  // Every segment that has memory claims it; who comes second to the same bytes cannot be trusted.
  const auto claim = [&](EntryNumber entry) {
    const std::uint64_t bytes = stored_bytes(entry);
    if (bytes == 0 || !table_.has_memory(entry)) return true;
    const std::uint64_t offset = table_.location(entry).offset();
    if (!table_.has_flag(entry, RecordFlag::in_slab))
      return space_.adopt_used({offset, shm::page_align(bytes)});
    if (!Slabs::fits(bytes)) return false;
    bool sound = false;
    const auto slab = slabs_.adopt(offset, bytes, sound);
    if (!slab || space_.adopt_used(*slab)) return sound;
    // A slab over what is another's must not stay one, or small segments would be put there.
    slabs_.give_back(offset, bytes);
    for (const Extent& empty : slabs_.give_up_empty())
      if (empty != *slab) space_.release(empty);
    return false;
  };
  std::vector<EntryNumber> sealed = found.resident;
  for (const EntryNumber entry : found.evicting) {
    // Nobody had acted on the mark yet.
    table_.unmark_evicting(entry);
    sealed.push_back(entry);
  }
  // When each was last read is not known any more; the order in which they came is.
  std::ranges::sort(sealed, {}, [this](EntryNumber entry) { return table_.serial(entry); });
  for (const EntryNumber entry : sealed) {
    if (!claim(entry)) {
      ++unsound;
      table_.begin_removal(entry);
      table_.finish_removal(entry);
      continue;
    }
    note_place(entry);
    note_resident(entry);
    if (table_.has_flag(entry, RecordFlag::doomed)) doomed_.emplace(entry, nullptr);
    adopt_retention(entry, living, wall_ns);
  }
  const auto is_manifest = [&](EntryNumber entry) {
    return members_of &&
           shm::Brief::from_bits(table_.brief(entry)).kind == shm::Kind::manifest;
  };
  for (const EntryNumber entry : sealed)
    if (table_.word(entry).state() == State::sealed && is_manifest(entry))
      adopt_manifest(entry, members_of(entry));
  adopt_spilled(found.spilled);
  for (const EntryNumber entry : found.spilled) adopt_retention(entry, living, wall_ns);
  std::vector<EntryNumber> orphans;  // given back once everybody has claimed what is theirs
  std::vector<EntryNumber> scopes;
  for (const EntryNumber entry : found.creating) {
    if (table_.has_flag(entry, RecordFlag::scope)) {
      scopes.push_back(entry);
      continue;
    }
    const std::uint32_t slot = table_.owner_slot(entry);
    const bool alive = slot < living.size() && living[slot];
    if (!claim(entry)) {
      // The former daemon may have died while it took a version's memory over, which then is still
      // that version's.
      if (!table_.has_flag(entry, RecordFlag::taken)) ++unsound;
      table_.begin_removal(entry);
      table_.finish_removal(entry);
    } else if (alive) {
      creations_[table_.key(entry)].push_back(
          {.version = table_.version(entry),
           .entry = entry,
           .token = table_.token(entry),
           .owner_slot = slot,
           .ticket = {},
           .ttl_ns = ttl_of_creation(entry),
           .pending = false,
           .is_claim = table_.has_flag(entry, RecordFlag::claim)});
    } else {
      orphans.push_back(entry);
    }
  }
  for (const EntryNumber entry : found.removing) {
    if (!claim(entry)) {
      ++unsound;
      table_.finish_removal(entry);
    } else {
      if (is_manifest(entry)) adopt_manifest(entry, members_of(entry));
      try_finish_removal(entry);
    }
  }
  for (const EntryNumber entry : orphans) remove_entry(entry);
  adopt_scopes(std::move(scopes), living);
  // A claim beside what fulfils it: the former daemon died between the two.
  for (auto& [key, creations] : creations_)
    std::erase_if(creations, [&](const Creation& claim) {
      const bool fulfilled =
          claim.is_claim && std::ranges::any_of(creations, [&](const Creation& other) {
            return !other.is_claim && other.version == claim.version;
          });
      if (!fulfilled) return false;
      table_.begin_removal(claim.entry);
      table_.finish_removal(claim.entry);
      return true;
    });
  for (const EntryNumber entry : found.tombstones)
    tombstones_.emplace_back(entry, table_.serial(entry));
  bound_tombstones();
  claims_due_.clear();
  std::vector<shm::Key> with_keep;
  for (const EntryNumber entry : found.spilled)
    if (SegmentTable::readable(table_.word(entry).state()) && keep_of_family(table_.key(entry)) != 0)
      with_keep.push_back(table_.key(entry));
  for (const EntryNumber entry : sealed)
    if (table_.word(entry).state() == State::sealed && keep_of_family(table_.key(entry)) != 0)
      with_keep.push_back(table_.key(entry));
  for (const shm::Key& key : with_keep) apply_keep(key);
  return unsound;
}

std::vector<Extent> Rules::adopt_memory(std::span<const shm::Range> touched) {
  for (const shm::Range& range : touched) space_.adopt_warm({range.offset, range.bytes});
  // Whatever else is free may still have pages: above the capacity, or reserved and never touched.
  return space_.cold_runs();
}

// ------------------------------------------------------------------------------------ for people

Usage Rules::usage() const {
  std::uint64_t creating = 0;
  for (const auto& [key, creations] : creations_)
    creating += static_cast<std::uint64_t>(std::ranges::count_if(
        creations, [](const Creation& creation) { return !creation.is_claim; }));
  std::uint64_t parked = parked_.size();
  for (const auto& [number, purpose] : jobs_) parked += std::holds_alternative<ForPending>(purpose);
  const auto tombstones = static_cast<std::uint64_t>(
      std::count_if(tombstones_.begin(), tombstones_.end(), [this](const auto& tombstone) {
        const auto& [entry, serial] = tombstone;
        return table_.word(entry).state() == State::tombstone && table_.serial(entry) == serial;
      }));
  std::uint64_t scopes_ending = 0;
  for (const Emptying& ending : endings_) scopes_ending += ending.scopes.size();
  return {.capacity = space_.capacity(),
          .used = space_.used(),
          .warm = space_.warm(),
          .growing = space_.growing(),
          .ungrown = space_.ungrown(),
          .slabs = slabs_.slabs_bytes(),
          .slab_items = slabs_.items_bytes(),
          .segments = table_.sealed_count(),
          .ids = table_.id_count(),
          .creating = creating,
          .removing = deferred_.size(),
          .tombstones = tombstones,
          .waiters = waiters_.count(),
          .parked = parked,
          .claims_waiting = claim_waiters_.count(),
          .subscribers_waiting = subscribers_.count(),
          .events = event_log_.next(),
          .spilled = transfers_.spilled,
          .spilled_bytes = transfers_.spilled_bytes,
          .clean_bytes = transfers_.clean_bytes,
          .copying_bytes = transfers_.copying_bytes,
          .fetching_bytes = transfers_.fetching_bytes,
          .restoring = transfers_.restores.size(),
          .scopes = scopes_.begun().size(),
          .scopes_ending = scopes_ending};
}

// "store full: 64 MiB asked for 'a', 12 MiB free, 3.1 GiB pinned by pid 4711 (kmeans.py); …"
Error Rules::full_error(const Pending& pending) {
  std::string text = "store full: " + format_size(pending.segment.size) + " asked for " +
                     shown(pending.segment.id) + ", " +
                     format_size(space_.warm() + space_.ungrown()) + " of " +
                     format_size(space_.capacity()) + " free";
  auto holders = census_.holders_of_all([this](EntryNumber entry) -> std::uint64_t {
    const State state = table_.word(entry).state();
    return SegmentTable::readable(state) || state == State::removing ? table_.size(entry) : 0;
  });
  std::sort(holders.begin(), holders.end(),
            [](const PinHolder& a, const PinHolder& b) { return a.bytes > b.bytes; });
  constexpr std::size_t holders_named = 3;
  for (std::size_t i = 0; i < std::min(holders_named, holders.size()); ++i) {
    if (holders[i].bytes == 0) break;
    text += ", " + format_size(holders[i].bytes) + " pinned by pid " +
            std::to_string(holders[i].pid) + " (" + holders[i].name + ")";
  }
  if (options_.has_tiers && tiers_error_)
    text += "; nothing can be spilled now (" + tiers_error_->message() + ")";
  text += "; remove segments, pass a timeout to wait for room, or start forebayd with a larger "
          "--capacity";
  return {make_error_code(Errc::store_full), std::move(text)};
}

Error Rules::exhausted_error(const Pending& pending, const std::error_code& error) const {
  return {make_error_code(Errc::store_full),
          "store full: " + format_size(pending.segment.size) + " asked for " +
              shown(pending.segment.id) + ", and the system gave no memory for it (" +
              error.message() +
              "): something else fills /dev/shm, or a memory limit of the daemon's is reached"};
}

}  // namespace forebay::daemon
