// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/segment_table.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "store/check.h"
#include "store/shm/failpoint.h"

namespace forebay::daemon {
namespace {

using shm::Entry;
using shm::Record;
using shm::RecordFlag;
using shm::reached;
using shm::State;
namespace points = shm::points;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto release = std::memory_order_release;

// Measured over 10^6 random keys: three slots of seven in use on average keep overflow lines rare
// without paying for empty ones.
constexpr std::uint64_t slots_per_line = 3;
constexpr std::uint32_t growth_entries = 8192;
// Lines and overflow lines backed for each step of entries: one line for three entries and a little
// more, because a split may come early; overflow lines for the buckets that wait for their split.
constexpr std::uint32_t growth_lines = growth_entries * 3 / 8;
constexpr std::uint32_t growth_overflow_lines = growth_entries / 8;
// An insert into each array, a split of each, and what a replaced tombstone may need.
constexpr std::uint32_t overflow_lines_wanted = 16;
constexpr std::uint32_t overflow_lines_of_a_seal = 2;  // one insert into each array

using PlaceWords = std::array<std::uint64_t, shm::place_words>;
static_assert(sizeof(PlaceWords) == sizeof(SpillPlace));

}  // namespace

SegmentTable::SegmentTable(shm::IndexMap index, Reserve reserve)
    : index_(index),
      live_(index.live),
      limits_(index.stamp->limits),
      regions_(index.stamp->regions),
      hash_seed_(index.stamp->hash_seed),
      reserve_(std::move(reserve)),
      newest_(index.newest, *overflow_),
      exact_(index.exact, *overflow_),
      annex_backed_(limits_.entries * sizeof(shm::Annex) / shm::page_bytes + 1),
      extension_backed_(limits_.entries * sizeof(shm::Extension) / shm::page_bytes + 1) {
  overflow_->set_backed(live_->overflow_lines_backed.load(relaxed));
}

bool SegmentTable::has_room() const {
  const bool entry = !free_.empty() || live_->entries_end.load(relaxed) <
                                           live_->entries_backed.load(relaxed);
  return entry && overflow_->available() >= overflow_lines_wanted;
}

bool SegmentTable::can_link() const { return overflow_->available() >= overflow_lines_of_a_seal; }

std::optional<IndexGrowth> SegmentTable::wants_growth(bool urgent) {
  const std::uint32_t entries = live_->entries_backed.load(relaxed);
  const std::uint32_t spare =
      entries - live_->entries_end.load(relaxed) + static_cast<std::uint32_t>(free_.size());
  const bool due = urgent || spare < growth_entries / 2 ||
                   overflow_->available() < growth_overflow_lines / 4;
  if (growing_ || !due || entries >= limits_.entries) return std::nullopt;

  IndexGrowth growth;
  const auto extend = [&growth](std::uint64_t region, std::uint32_t from, std::uint32_t to,
                                std::uint64_t item_bytes) {
    const std::uint64_t start = region + from * item_bytes;
    const std::uint64_t end = region + to * item_bytes;
    if (start < end) growth.ranges.push_back({start, end - start});
  };
  const std::uint32_t lines = live_->newest_lines_backed.load(relaxed);
  const std::uint32_t overflow = live_->overflow_lines_backed.load(relaxed);
  growth.entries_backed = std::min(entries + growth_entries, limits_.entries);
  growth.lines_backed = std::min(lines + growth_lines, limits_.lines);
  growth.overflow_lines_backed =
      std::min(overflow + growth_overflow_lines, limits_.overflow_lines);
  extend(regions_.entries, entries, growth.entries_backed, sizeof(Entry));
  extend(regions_.records, entries, growth.entries_backed, sizeof(Record));
  extend(regions_.newest_lines, lines, growth.lines_backed, sizeof(shm::Line));
  extend(regions_.exact_lines, lines, growth.lines_backed, sizeof(shm::Line));
  extend(regions_.overflow_lines, overflow, growth.overflow_lines_backed, sizeof(shm::Line));
  growing_ = true;
  return growth;
}

void SegmentTable::grown(const IndexGrowth& growth, bool succeeded) {
  growing_ = false;
  if (!succeeded) return;
  reached(points::index_backed);
  // In this order: what `wants_growth` goes by comes last, so that a daemon that follows one killed
  // in between asks for the whole step again.
  live_->overflow_lines_backed.store(growth.overflow_lines_backed, release);
  live_->exact_lines_backed.store(growth.lines_backed, release);
  live_->newest_lines_backed.store(growth.lines_backed, release);
  live_->entries_backed.store(growth.entries_backed, release);
  overflow_->set_backed(growth.overflow_lines_backed);
}

// ------------------------------------------------------------------------------------- looking

shm::Key SegmentTable::key(EntryNumber entry) const {
  return {index_.entries[entry].hash_low.load(relaxed),
          index_.entries[entry].hash_high.load(relaxed)};
}
std::uint64_t SegmentTable::version(EntryNumber entry) const {
  return index_.entries[entry].version.load(relaxed);
}
std::uint64_t SegmentTable::serial(EntryNumber entry) const {
  return index_.entries[entry].serial.load(relaxed);
}
std::uint64_t SegmentTable::size(EntryNumber entry) const {
  return index_.entries[entry].size.load(relaxed);
}
shm::Location SegmentTable::location(EntryNumber entry) const {
  return shm::Location(index_.entries[entry].location.load(relaxed));
}
std::uint32_t SegmentTable::description_size(EntryNumber entry) const {
  return index_.records[entry].description_size.load(relaxed);
}
std::uint64_t SegmentTable::brief(EntryNumber entry) const {
  return index_.entries[entry].brief.load(relaxed);
}
std::uint32_t SegmentTable::flags(EntryNumber entry) const {
  return index_.records[entry].flags.load(relaxed);
}
std::uint32_t SegmentTable::owner_slot(EntryNumber entry) const {
  return index_.records[entry].owner_slot.load(relaxed);
}
std::uint64_t SegmentTable::token(EntryNumber entry) const {
  return index_.records[entry].token.load(relaxed);
}
std::string SegmentTable::id(EntryNumber entry) const {
  return shm::load_id(index_.records[entry], index_.annexes[entry]);
}
EntryNumber SegmentTable::older(EntryNumber entry) const {
  return index_.records[entry].older.load(relaxed);
}
EntryNumber SegmentTable::newer(EntryNumber entry) const {
  return index_.records[entry].newer.load(relaxed);
}
void SegmentTable::set_older(EntryNumber entry, EntryNumber other) {
  index_.records[entry].older.store(other, release);
}
void SegmentTable::set_newer(EntryNumber entry, EntryNumber other) {
  index_.records[entry].newer.store(other, release);
}

bool SegmentTable::same_key(EntryNumber entry, const shm::Key& key) const {
  return this->key(entry) == key;
}

std::optional<EntryNumber> SegmentTable::find_exact(const shm::Key& key,
                                                    std::uint64_t version) const {
  return exact_.find_if(shm::exact_hash(key, version), [&](EntryNumber entry) {
    return same_key(entry, key) && this->version(entry) == version;
  });
}

std::optional<EntryNumber> SegmentTable::find_newest(const shm::Key& key) const {
  return newest_.find_if(shm::newest_hash(key),
                         [&](EntryNumber entry) { return same_key(entry, key); });
}

std::vector<EntryNumber> SegmentTable::family(const shm::Key& key) const {
  std::vector<EntryNumber> members;
  const auto representative = find_newest(key);
  if (!representative) return members;
  EntryNumber top = *representative;
  while (newer(top) != no_entry) top = newer(top);
  for (; top != no_entry; top = older(top)) members.push_back(top);
  return members;
}

std::uint64_t SegmentTable::highest_version(const shm::Key& key) const {
  const auto representative = find_newest(key);
  if (!representative) return 0;
  EntryNumber top = *representative;
  while (newer(top) != no_entry) top = newer(top);
  return version(top);
}

// ------------------------------------------------------------------------- the life of a segment

EntryNumber SegmentTable::take_entry() {
  if (!free_.empty()) {
    const EntryNumber entry = free_.back();
    free_.pop_back();
    return entry;
  }
  const std::uint32_t entry = live_->entries_end.load(relaxed);
  STORE_CHECK(entry < live_->entries_backed.load(relaxed), "room for an entry was promised");
  live_->entries_end.store(entry + 1, release);
  return entry;
}

std::uint64_t SegmentTable::take_serial() {
  // Counted before it is used: a serial that was written anywhere is never given again.
  const std::uint64_t serial = live_->next_serial.load(relaxed);
  live_->next_serial.store(serial + 1, release);
  reached(points::serial_taken);
  return serial;
}

Result<EntryNumber> SegmentTable::begin(const SegmentFields& fields) {
  const EntryNumber number = take_entry();
  if (shm::id_needs_annex(fields.id.size())) {
    const std::uint64_t page = std::uint64_t{number} * sizeof(shm::Annex) / shm::page_bytes;
    if (!annex_backed_[page]) {
      const std::uint64_t offset = regions_.annexes + page * shm::page_bytes;
      if (auto reserved = reserve_(offset, shm::page_bytes); !reserved) {
        free_.push_back(number);
        return fail(std::move(reserved.error()));
      }
      annex_backed_[page] = true;
    }
  }
  const std::uint64_t serial = take_serial();
  Entry& entry = index_.entries[number];
  Record& record = index_.records[number];
  shm::begin_life(entry);
  reached(points::create_begun);
  entry.hash_low.store(fields.key.low, release);
  entry.hash_high.store(fields.key.high, release);
  entry.version.store(fields.version, release);
  entry.serial.store(serial, release);
  entry.location.store(fields.location.bits(), release);
  entry.size.store(fields.size, release);
  entry.brief.store(fields.brief, release);
  shm::store_id(record, &index_.annexes[number], fields.id);
  shm::store_description(record, fields.description);
  record.flags.store(fields.flags, release);
  record.expires_s.store(fields.expires_s, release);
  record.owner_slot.store(fields.owner_slot, release);
  record.writer_uid.store(fields.writer_uid, release);
  record.sealed_ns.store(0, release);
  record.token.store(fields.token, release);
  record.in_tier.store(0, release);
  set_older(number, no_entry);
  set_newer(number, no_entry);
  reached(points::create_filled);
  shm::set_state(entry, State::creating);
  reached(points::create_written);
  return number;
}

void SegmentTable::keep_load(Writer& writer, std::uint64_t count, const shm::Counter& backed) {
  // Two splits at most for each insert: the table catches up after a wait for memory.
  for (int split = 0; split < 2; ++split) {
    if (count <= slots_per_line * writer.lines()) return;
    if (writer.lines() >= backed.load(relaxed)) return;
    if (overflow_->available() < writer.overflow_of_next_split() + overflow_lines_wanted / 2) return;
    writer.grow();
  }
}

void SegmentTable::join_family(EntryNumber entry, EntryNumber representative) {
  // Versions mostly arrive in order, so the place is next to the top.
  EntryNumber above = no_entry;
  EntryNumber below = representative;
  while (newer(below) != no_entry && version(newer(below)) < version(entry)) below = newer(below);
  above = newer(below);
  while (below != no_entry && version(below) > version(entry)) {
    above = below;
    below = older(below);
  }
  set_older(entry, below);
  set_newer(entry, above);
  if (below != no_entry) set_newer(below, entry);
  if (above != no_entry) set_older(above, entry);
}

void SegmentTable::leave_family(EntryNumber entry) {
  const EntryNumber below = older(entry);
  const EntryNumber above = newer(entry);
  if (below != no_entry) set_newer(below, above);
  if (above != no_entry) set_older(above, below);
}

EntryNumber SegmentTable::next_representative(EntryNumber leaving) const {
  for (EntryNumber entry = older(leaving); entry != no_entry; entry = older(entry))
    if (readable(word(entry).state())) return entry;
  // What is above a representative is tombstones only; the highest one speaks for the family.
  EntryNumber top = newer(leaving) != no_entry ? newer(leaving) : older(leaving);
  while (top != no_entry && newer(top) != no_entry && newer(top) != leaving) top = newer(top);
  return top;
}

void SegmentTable::seal(EntryNumber entry, std::uint64_t now_ns, State as) {
  index_.records[entry].sealed_ns.store(now_ns, release);
  const shm::Key key = this->key(entry);
  const std::uint32_t exact = shm::exact_hash(key, version(entry));
  const auto former = find_exact(key, version(entry));  // a tombstone: the version is made again
  if (former) {
    exact_.replace(exact, *former, entry);
  } else {
    exact_.insert(exact, entry);
    ++exact_count_;
  }
  reached(points::seal_exact_linked);

  const auto representative = find_newest(key);
  if (representative) join_family(entry, *representative);
  shm::set_state(index_.entries[entry], as);
  ++sealed_count_;
  reached(points::seal_written);
  if (!representative) {
    newest_.insert(shm::newest_hash(key), entry);
    ++newest_count_;
  } else if (!readable(word(*representative).state()) ||
             version(*representative) < version(entry)) {
    newest_.replace(shm::newest_hash(key), *representative, entry);
  }
  reached(points::seal_newest_linked);
  if (former) {
    leave_family(*former);
    shm::set_state(index_.entries[*former], State::free);
    free_.push_back(*former);
  }
  keep_load(exact_, exact_count_, live_->exact_lines_backed);
  keep_load(newest_, newest_count_, live_->newest_lines_backed);
}

void SegmentTable::unlink_newest(EntryNumber entry) {
  const std::uint32_t hash = shm::newest_hash(key(entry));
  if (!newest_.contains(hash, entry)) return;
  const EntryNumber next = next_representative(entry);
  if (next != no_entry) {
    newest_.replace(hash, entry, next);
  } else {
    newest_.erase(hash, entry);
    --newest_count_;
  }
}

void SegmentTable::unlink_exact(EntryNumber entry) {
  if (exact_.erase(shm::exact_hash(key(entry), version(entry)), entry)) --exact_count_;
}

void SegmentTable::begin_removal(EntryNumber entry) {
  if (word(entry).state() != State::creating) {
    // First out of sight, then marked: a reader that misses it finds the next version at once.
    unlink_newest(entry);
    reached(points::remove_newest_unlinked);
    unlink_exact(entry);
    reached(points::remove_exact_unlinked);
    leave_family(entry);
    if (readable(word(entry).state())) --sealed_count_;
  }
  shm::set_state(index_.entries[entry], State::removing);
  reached(points::remove_marked);
}

void SegmentTable::finish_removal(EntryNumber entry) {
  shm::set_wanted(index_.entries[entry], false);
  shm::set_state(index_.entries[entry], State::free);
  reached(points::remove_freed);
  free_.push_back(entry);
}

void SegmentTable::mark_evicting(EntryNumber entry) {
  shm::set_state(index_.entries[entry], State::evicting);
  reached(points::evict_marked);
}

void SegmentTable::unmark_evicting(EntryNumber entry) {
  shm::set_state(index_.entries[entry], State::sealed);
}

void SegmentTable::bury(EntryNumber entry, shm::Reason reason) {
  Record& record = index_.records[entry];
  record.flags.store((record.flags.load(relaxed) & ~shm::reason_bits(shm::Reason{0xff})) |
                         shm::reason_bits(reason),
                     release);
  // The exact slot stays: it is how a get learns why. The newest slot goes to what can be read, and
  // first, so that nobody is told of an eviction while an older version is there.
  const std::uint32_t hash = shm::newest_hash(key(entry));
  if (newest_.contains(hash, entry)) {
    EntryNumber next = next_representative(entry);
    if (next == no_entry || !readable(word(next).state()))
      for (next = entry; newer(next) != no_entry;) next = newer(next);
    if (next != entry) newest_.replace(hash, entry, next);
  }
  reached(points::evict_unlinked);
  shm::set_state(index_.entries[entry], State::tombstone);
  --sealed_count_;
  reached(points::evict_tombstone);
}

void SegmentTable::forget(EntryNumber entry) {
  STORE_CHECK(word(entry).state() == State::tombstone, "only a tombstone is forgotten");
  unlink_newest(entry);
  unlink_exact(entry);
  leave_family(entry);
  shm::set_state(index_.entries[entry], State::free);
  free_.push_back(entry);
}

Result<void> SegmentTable::set_place(EntryNumber entry, const SpillPlace& place) {
  const std::uint64_t page = std::uint64_t{entry} * sizeof(shm::Extension) / shm::page_bytes;
  if (!extension_backed_[page]) {
    const std::uint64_t offset = regions_.extensions + page * shm::page_bytes;
    if (auto reserved = reserve_(offset, shm::page_bytes); !reserved)
      return fail(std::move(reserved.error()));
    extension_backed_[page] = true;
  }
  // Whole before it counts, beside the one that counts until then.
  const std::uint16_t number = place_number(entry) == 1 ? 2 : 1;
  auto& written = index_.extensions[entry].places[number - 1].words;
  PlaceWords words{};
  std::memcpy(words.data(), &place, sizeof place);
  for (std::size_t i = 0; i < words.size(); ++i) written[i].store(words[i], release);
  reached(points::place_written);
  index_.records[entry].in_tier.store(number, release);
  reached(points::place_counts);
  return {};
}

void SegmentTable::clear_place(EntryNumber entry) {
  index_.records[entry].in_tier.store(0, release);
}

bool SegmentTable::has_place(EntryNumber entry) const {
  return place_number(entry) != 0;
}

// Anything else than 1 or 2 was written by nobody who could be believed.
std::uint16_t SegmentTable::place_number(EntryNumber entry) const {
  const std::uint16_t number = index_.records[entry].in_tier.load(relaxed);
  return number <= 2 ? number : 0;
}

SpillPlace SegmentTable::place(EntryNumber entry) const {
  SpillPlace place;
  const std::uint16_t number = place_number(entry);
  if (number == 0) return place;
  const auto& written = index_.extensions[entry].places[number - 1].words;
  PlaceWords words{};
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = written[i].load(relaxed);
  std::memcpy(static_cast<void*>(&place), words.data(), sizeof place);
  return place;
}

void SegmentTable::put_away(EntryNumber entry) {
  shm::set_state(index_.entries[entry], State::spilled);
  reached(points::spill_put_away);
  index_.entries[entry].location.store(shm::Location::none().bits(), release);
}

void SegmentTable::begin_restore(EntryNumber entry) {
  shm::set_state(index_.entries[entry], State::restoring);
  reached(points::restore_begun);
}

void SegmentTable::restore(EntryNumber entry, shm::Location location, bool in_slab) {
  set_flag(entry, RecordFlag::in_slab, in_slab);
  // Readers look at the location only after a pin that found the entry sealed.
  index_.entries[entry].location.store(location.bits(), release);
  reached(points::restore_located);
  shm::set_state(index_.entries[entry], State::sealed);
  reached(points::restore_done);
}

void SegmentTable::abandon_restore(EntryNumber entry) {
  shm::set_state(index_.entries[entry], State::spilled);
}

void SegmentTable::set_owner(EntryNumber entry, std::uint32_t slot) {
  index_.records[entry].owner_slot.store(slot, release);
}

void SegmentTable::set_token(EntryNumber entry, std::uint64_t token) {
  index_.records[entry].token.store(token, release);
}

void SegmentTable::set_flag(EntryNumber entry, shm::RecordFlag flag, bool value) {
  auto& flags = index_.records[entry].flags;
  const std::uint32_t others = flags.load(relaxed) & ~shm::flag_bit(flag);
  flags.store(others | (value ? shm::flag_bit(flag) : 0), release);
}

void SegmentTable::set_keep(EntryNumber entry, std::uint32_t keep) {
  auto& flags = index_.records[entry].flags;
  flags.store((flags.load(relaxed) & ~shm::keep_bits(shm::keep_all)) | shm::keep_bits(keep),
              release);
}

void SegmentTable::set_expires(EntryNumber entry, std::uint32_t seconds) {
  index_.records[entry].expires_s.store(seconds, release);
}
std::uint32_t SegmentTable::expires(EntryNumber entry) const {
  return index_.records[entry].expires_s.load(relaxed);
}

// ------------------------------------------------------------------------------------ a restart

SegmentTable::Found SegmentTable::recover() {
  Found found;
  const std::uint32_t end = live_->entries_end.load(relaxed);
  std::uint64_t highest_serial = 0;
  free_.clear();
  newest_count_ = 0;
  exact_count_ = 0;
  sealed_count_ = 0;
  for (EntryNumber entry = end; entry-- > 1;) {
    const State state = word(entry).state();
    if (readable(state)) ++sealed_count_;
    if (state != State::free) highest_serial = std::max(highest_serial, serial(entry));
    switch (state) {
      case State::free:
        free_.push_back(entry);
        break;
      case State::creating:
        found.creating.push_back(entry);
        break;
      case State::removing:
        found.removing.push_back(entry);
        break;
      case State::evicting:
        found.evicting.push_back(entry);
        break;
      case State::sealed:
        found.resident.push_back(entry);
        break;
      case State::tombstone:
        found.tombstones.push_back(entry);
        break;
      case State::spilled:
      case State::restoring:
        // Whatever memory it was given or had is nobody's now.
        index_.entries[entry].location.store(shm::Location::none().bits(), release);
        shm::set_state(index_.entries[entry], State::spilled);
        found.spilled.push_back(entry);
        break;
    }
  }
  if (live_->next_serial.load(relaxed) <= highest_serial)
    live_->next_serial.store(highest_serial + 1, release);
  reached(points::recover_entries);

  // A split that was under way may have begun to fill the line behind the last one.
  for (const auto& buckets : {index_.newest, index_.exact}) {
    const std::uint32_t lines = buckets.in_use->load(relaxed);
    if (lines >= live_->newest_lines_backed.load(relaxed)) continue;
    for (auto& slot : buckets.lines[lines].slots) slot.store(0, release);
    buckets.lines[lines].overflow.store(0, release);
  }

  // Keep each slot that is right, the first of its kind; drop the others.
  std::vector<bool> overflow_used(live_->overflow_lines_backed.load(relaxed));
  std::vector<bool> in_exact(end);
  std::vector<bool> in_newest(end);
  const auto in_family = [](State state) {
    return readable(state) || state == State::tombstone;
  };
  exact_.repair(overflow_used, [&](std::uint32_t line, std::uint64_t slot) {
    const EntryNumber entry = shm::slot_entry(slot);
    const bool right = entry != no_entry && entry < end && !in_exact[entry] &&
                       in_family(word(entry).state()) &&
                       shm::slot_hash(slot) == shm::exact_hash(key(entry), version(entry)) &&
                       shm::home_of(shm::slot_hash(slot), exact_.lines()) == line;
    if (right) {
      in_exact[entry] = true;
      ++exact_count_;
    } else {
      ++found.slots_repaired;
    }
    return right;
  });
  newest_.repair(overflow_used, [&](std::uint32_t line, std::uint64_t slot) {
    const EntryNumber entry = shm::slot_entry(slot);
    const bool right = entry != no_entry && entry < end && !in_newest[entry] &&
                       in_family(word(entry).state()) &&
                       shm::slot_hash(slot) == shm::newest_hash(key(entry)) &&
                       shm::home_of(shm::slot_hash(slot), newest_.lines()) == line;
    if (right) {
      in_newest[entry] = true;
      ++newest_count_;
    } else {
      ++found.slots_repaired;
    }
    return right;
  });
  overflow_->adopt(overflow_used);
  reached(points::recover_buckets);

  // Two entries of one version: a tombstone and what was made in its place.
  for (EntryNumber entry = 1; entry < end; ++entry) {
    if (!in_family(word(entry).state()) || in_exact[entry]) continue;
    const auto other = find_exact(key(entry), version(entry));
    if (!other) {
      exact_.insert(shm::exact_hash(key(entry), version(entry)), entry);
      ++exact_count_;
      ++found.slots_repaired;
    } else if (readable(word(entry).state()) && !readable(word(*other).state())) {
      exact_.replace(shm::exact_hash(key(entry), version(entry)), *other, entry);
    }
    reached(points::recover_relinked);
  }
  rebuild_families(found);
  return found;
}

// Links are derived anew; only slots that are wrong are touched, for readers are looking at them.
void SegmentTable::rebuild_families(Found& found) {
  const std::uint32_t end = live_->entries_end.load(relaxed);
  struct KeyHash {
    std::size_t operator()(const shm::Key& key) const { return key.low; }
  };
  struct Family {
    std::vector<EntryNumber> members;
    std::vector<EntryNumber> replaced;  // tombstones of versions that were made again
  };
  std::unordered_map<shm::Key, Family, KeyHash> families;
  for (const EntryNumber entry : found.creating) {
    set_older(entry, no_entry);
    set_newer(entry, no_entry);
  }
  for (EntryNumber entry = 1; entry < end; ++entry) {
    const State state = word(entry).state();
    if (!readable(state) && state != State::tombstone) continue;
    Family& family = families[key(entry)];
    const bool found_by_readers = find_exact(key(entry), version(entry)) == entry;
    (found_by_readers ? family.members : family.replaced).push_back(entry);
  }
  for (auto& [key, family] : families) {
    std::vector<EntryNumber>& members = family.members;
    std::sort(members.begin(), members.end(),
              [this](EntryNumber a, EntryNumber b) { return version(a) < version(b); });
    EntryNumber representative = members.back();
    for (std::size_t i = 0; i < members.size(); ++i) {
      set_older(members[i], i > 0 ? members[i - 1] : no_entry);
      set_newer(members[i], i + 1 < members.size() ? members[i + 1] : no_entry);
      if (readable(word(members[i]).state())) representative = members[i];
    }
    if (!readable(word(representative).state())) representative = members.back();
    // Exactly one slot, and the right one: redirect the first, drop the others.
    const std::uint32_t hash = shm::newest_hash(key);
    bool placed = newest_.contains(hash, representative);
    const auto redirect = [&](EntryNumber member) {
      if (member == representative || !newest_.contains(hash, member)) return;
      ++found.slots_repaired;
      if (!placed) {
        newest_.replace(hash, member, representative);
        placed = true;
      } else {
        newest_.erase(hash, member);
        --newest_count_;
      }
    };
    std::for_each(members.begin(), members.end(), redirect);
    std::for_each(family.replaced.begin(), family.replaced.end(), redirect);
    if (!placed) {
      newest_.insert(hash, representative);
      ++newest_count_;
      ++found.slots_repaired;
    }
    for (const EntryNumber entry : family.replaced) {
      shm::set_state(index_.entries[entry], State::free);
      free_.push_back(entry);
      std::erase(found.tombstones, entry);
    }
  }
}

}  // namespace forebay::daemon
