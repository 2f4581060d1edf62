// SPDX-License-Identifier: Apache-2.0
// The table over memory laid out as an index. Everything that a test believes it has done is
// checked with a reader's eyes, through the same look-up that clients use.
#include "store/daemon/segment_table.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/index_memory.h"
#include "tests/support/random.h"
#include "tests/support/single_step.h"

namespace forebay::daemon {
namespace {

using shm::Probe;
using shm::Reason;
using shm::State;
using test::IndexMemory;

constexpr shm::Limits small_limits{
    .entries = 4096, .lines = 2048, .overflow_lines = 1024, .processes = 1};
// Small enough to look at after every instruction; all of it grows in one step.
constexpr shm::Limits tiny_limits{.entries = 40, .lines = 20, .overflow_lines = 60, .processes = 1};

// ------------------------------------------------------------------------------ what should be

// What the entries say, and nothing else: this is what a restart must make of an index.
struct Segment {
  State state{};  // creating, sealed, removing or tombstone
  Reason reason{};
  std::uint64_t serial = 0;
  EntryNumber entry = 0;
  bool operator==(const Segment& other) const {
    return state == other.state && reason == other.reason && serial == other.serial &&
           entry == other.entry;
  }
};
using VersionOf = std::pair<std::string, std::uint64_t>;
// Several entries of one version: it may be created while its tombstone stands, and removed while
// pinned when it is made again.
using Truth = std::set<std::tuple<std::string, std::uint64_t, State, Reason, std::uint64_t>>;

Truth truth_of(IndexMemory& memory) {
  const shm::IndexMap index = memory.map();
  std::map<VersionOf, int> readable;
  Truth truth;
  const std::uint32_t end = index.live->entries_end.load();
  for (const bool tombstones : {false, true})
    for (EntryNumber entry = 1; entry < end; ++entry) {
      State state = shm::word_of(index.entries[entry]).state();
      if (state == State::free || (state == State::tombstone) != tombstones) continue;
      // Nobody has acted on the mark of an eviction yet.
      if (state == State::evicting) state = State::sealed;
      const std::string id = shm::load_id(index.records[entry], index.annexes[entry]);
      const std::uint64_t version = index.entries[entry].version.load();
      if (state == State::sealed) ++readable[{id, version}];
      // A tombstone beside what was made in its place is on its way out.
      if (tombstones && readable.contains({id, version})) continue;
      const Reason reason =
          tombstones ? shm::reason_of(index.records[entry].flags.load()) : Reason::none;
      truth.insert({id, version, state, reason, index.entries[entry].serial.load()});
    }
  return truth;
}

// ------------------------------------------------------------------------- a reader's own eyes

struct Sight {
  Probe probe = Probe::mismatch;
  EntryNumber entry = no_entry;
};

Sight look(const shm::IndexMap& index, const std::string& id, std::uint64_t version) {
  const shm::Key key = shm::key_of(id, index.stamp->hash_seed);
  Sight sight;
  std::atomic<std::uint32_t> count{0};
  const auto attempt = [&](EntryNumber entry) {
    const Probe probe = shm::try_pin(index.entries[entry], count, {key.low, key.high, version});
    if (probe != Probe::mismatch) sight.entry = entry;
    return probe;
  };
  sight.probe = version == 0 ? shm::search(index.newest, shm::newest_hash(key), attempt)
                             : shm::search(index.exact, shm::exact_hash(key, version), attempt);
  return sight;
}

// All slots of a bucket array as (line, hash, entry), lines and their overflow in use.
struct Slots {
  std::vector<std::pair<std::uint32_t, std::uint64_t>> all;
  bool rest_is_empty = true;
};
Slots slots_of(const shm::IndexBuckets& buckets, std::uint32_t backed) {
  Slots slots;
  const std::uint32_t in_use = buckets.in_use->load();
  for (std::uint32_t number = 0; number < in_use; ++number) {
    const shm::Line* line = &buckets.lines[number];
    for (int hops = 0; line != nullptr && hops < 1000; ++hops) {
      for (const auto& slot : line->slots)
        if (slot.load() != 0) slots.all.emplace_back(number, slot.load());
      const std::uint32_t next = line->overflow.load();
      line = next == 0 ? nullptr : &buckets.overflow[next];
    }
  }
  for (std::uint32_t number = in_use; number < backed; ++number) {
    for (const auto& slot : buckets.lines[number].slots)
      slots.rest_is_empty = slots.rest_is_empty && slot.load() == 0;
    slots.rest_is_empty = slots.rest_is_empty && buckets.lines[number].overflow.load() == 0;
  }
  return slots;
}

// That a table and everything a reader can find is exactly what the truth demands.
void check_against(const Truth& truth, IndexMemory& memory, const SegmentTable& table) {
  const shm::IndexMap index = memory.map();
  std::map<std::string, std::map<std::uint64_t, State>> families;
  std::uint64_t sealed = 0;
  std::uint64_t members = 0;
  for (const auto& [id, version, state, reason, serial] : truth) {
    if (state != State::sealed && state != State::tombstone) continue;
    REQUIRE(families[id].emplace(version, state).second);
    ++members;
    sealed += state == State::sealed ? 1 : 0;
    const Sight exact = look(index, id, version);
    REQUIRE(exact.probe == (state == State::sealed ? Probe::pinned : Probe::tombstone));
    REQUIRE(table.find_exact(table.key_of(id), version) == exact.entry);
    REQUIRE(table.serial(exact.entry) == serial);
    REQUIRE(table.id(exact.entry) == id);
    if (state == State::tombstone) REQUIRE(shm::reason_of(table.flags(exact.entry)) == reason);
  }
  for (const auto& [id, versions] : families) {
    const shm::Key key = table.key_of(id);
    std::uint64_t representative = versions.rbegin()->first;
    for (const auto& [version, state] : versions)
      if (state == State::sealed) representative = version;
    if (versions.at(representative) != State::sealed) representative = versions.rbegin()->first;
    const Sight newest = look(index, id, 0);
    REQUIRE(newest.probe ==
            (versions.at(representative) == State::sealed ? Probe::pinned : Probe::tombstone));
    REQUIRE(table.version(newest.entry) == representative);
    REQUIRE(table.find_newest(key) == newest.entry);
    REQUIRE(table.highest_version(key) == versions.rbegin()->first);
    std::vector<std::uint64_t> listed;
    for (const EntryNumber member : table.family(key)) listed.push_back(table.version(member));
    std::vector<std::uint64_t> expected;
    for (const auto& [version, state] : versions) expected.insert(expected.begin(), version);
    REQUIRE(listed == expected);
  }
  // What is being made or removed is found by nobody.
  for (const auto& [id, version, state, reason, serial] : truth) {
    if (families.contains(id) && families.at(id).contains(version)) continue;
    REQUIRE(look(index, id, version).probe == Probe::mismatch);
    REQUIRE_FALSE(table.find_exact(table.key_of(id), version));
    if (families.contains(id)) continue;
    REQUIRE(look(index, id, 0).probe == Probe::mismatch);
    REQUIRE(table.family(table.key_of(id)).empty());
    REQUIRE(table.highest_version(table.key_of(id)) == 0);
  }
  REQUIRE(table.sealed_count() == sealed);
  REQUIRE(table.id_count() == families.size());
  // And no slot is left over, in a place where it is not looked for, or where growth needs none.
  const Slots exact = slots_of(index.exact, index.live->exact_lines_backed.load());
  const Slots newest = slots_of(index.newest, index.live->newest_lines_backed.load());
  REQUIRE(exact.all.size() == members);
  REQUIRE(newest.all.size() == families.size());
  REQUIRE(exact.rest_is_empty);
  REQUIRE(newest.rest_is_empty);
  for (const auto& [line, slot] : exact.all)
    REQUIRE(shm::home_of(shm::slot_hash(slot), index.exact.in_use->load()) == line);
  for (const auto& [line, slot] : newest.all)
    REQUIRE(shm::home_of(shm::slot_hash(slot), index.newest.in_use->load()) == line);
}

// What a restarted daemon does with what it finds; then the index must be the truth of its entries.
SegmentTable recovered(IndexMemory& memory) {
  const Truth truth = truth_of(memory);
  std::uint64_t highest_serial = 0;
  const shm::IndexMap index = memory.map();
  const std::uint32_t end = index.live->entries_end.load();
  for (EntryNumber entry = 1; entry < end; ++entry)
    highest_serial = std::max(highest_serial, index.entries[entry].serial.load());

  SegmentTable table = memory.table();
  const SegmentTable::Found found = table.recover();
  for (const EntryNumber entry : found.evicting) table.unmark_evicting(entry);
  std::map<State, std::uint64_t> counts;
  for (const auto& [id, version, state, reason, serial] : truth) ++counts[state];
  REQUIRE(found.creating.size() == counts[State::creating]);
  REQUIRE(found.removing.size() == counts[State::removing]);
  REQUIRE(found.resident.size() + found.evicting.size() == counts[State::sealed]);
  REQUIRE(found.tombstones.size() == counts[State::tombstone]);
  for (const EntryNumber entry : found.creating)
    REQUIRE(table.word(entry).state() == State::creating);
  for (const EntryNumber entry : found.removing)
    REQUIRE(table.word(entry).state() == State::removing);
  for (const EntryNumber entry : found.tombstones)
    REQUIRE(table.word(entry).state() == State::tombstone);
  REQUIRE(truth_of(memory) == truth);
  REQUIRE(index.live->next_serial.load() > highest_serial);
  check_against(truth, memory, table);
  return table;
}

// ------------------------------------------------------------------------------------- a daemon

// Does to a table what the rules may do to it, in any order.
class Daemon {
 public:
  Daemon(IndexMemory& memory, SegmentTable table) : memory_(memory), table_(std::move(table)) {
    const std::uint32_t end = memory.map().live->entries_end.load();
    for (EntryNumber entry = 1; entry < end; ++entry)
      by_state_[table_.word(entry).state()].insert(entry);
    by_state_.erase(State::free);
  }

  SegmentTable& table() { return table_; }

  EntryNumber begin(const std::string& id, std::uint64_t version) {
    memory_.grow(table_);
    REQUIRE(table_.has_room());
    const auto entry = table_.begin({.id = id, .key = table_.key_of(id), .version = version});
    REQUIRE(entry);
    move(*entry, State::creating);
    return *entry;
  }
  EntryNumber seal(EntryNumber entry) {
    const auto former = table_.find_exact(table_.key(entry), table_.version(entry));
    table_.seal(entry, 7);
    if (former) drop(*former);
    move(entry, State::sealed);
    return entry;
  }
  EntryNumber put(const std::string& id, std::uint64_t version) { return seal(begin(id, version)); }
  void begin_removal(EntryNumber entry) {
    table_.begin_removal(entry);
    move(entry, State::removing);
  }
  void finish_removal(EntryNumber entry) {
    table_.finish_removal(entry);
    drop(entry);
  }
  void remove(EntryNumber entry) {
    begin_removal(entry);
    finish_removal(entry);
  }
  void mark(EntryNumber entry) {
    table_.mark_evicting(entry);
    move(entry, State::evicting);
  }
  void unmark(EntryNumber entry) {
    table_.unmark_evicting(entry);
    move(entry, State::sealed);
  }
  void bury(EntryNumber entry, Reason reason) {
    table_.bury(entry, reason);
    move(entry, State::tombstone);
  }
  void evict(EntryNumber entry, Reason reason = Reason::evicted) {
    mark(entry);
    bury(entry, reason);
  }
  void forget(EntryNumber entry) {
    table_.forget(entry);
    drop(entry);
  }

  bool may_begin(const std::string& id, std::uint64_t version) {
    const auto exact = table_.find_exact(table_.key_of(id), version);
    if (exact && SegmentTable::readable(table_.word(*exact).state())) return false;
    for (const EntryNumber entry : by_state_[State::creating])
      if (table_.version(entry) == version && table_.id(entry) == id) return false;
    return true;
  }

  void random_step(test::Random& random, const std::vector<std::string>& ids) {
    const auto any = [&](State state) {
      const auto& entries = by_state_[state];
      if (entries.empty()) return no_entry;
      auto entry = entries.begin();
      std::advance(entry, random.below(static_cast<std::uint32_t>(entries.size())));
      return *entry;
    };
    const bool full = by_state_[State::sealed].size() + by_state_[State::tombstone].size() > 300;
    switch (random.below(14)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const std::string& id = ids[random.below(static_cast<std::uint32_t>(ids.size()))];
        const std::uint64_t version = 1 + random.below(random.chance(0.9) ? 8 : 1'000'000);
        if (!full && may_begin(id, version)) begin(id, version);
        break;
      }
      case 4:
      case 5:
      case 6:
        if (const EntryNumber entry = any(State::creating); entry != no_entry) seal(entry);
        break;
      case 7:
        if (const EntryNumber entry = any(State::creating); entry != no_entry && random.chance(0.3))
          begin_removal(entry);
        break;
      case 8:
        if (const EntryNumber entry = any(State::sealed); entry != no_entry) begin_removal(entry);
        break;
      case 9:
        if (const EntryNumber entry = any(State::removing); entry != no_entry)
          finish_removal(entry);
        break;
      case 10:
        if (const EntryNumber entry = any(State::sealed); entry != no_entry) mark(entry);
        break;
      case 11:
        if (const EntryNumber entry = any(State::evicting); entry != no_entry) {
          if (random.chance(0.3))
            unmark(entry);
          else
            bury(entry, static_cast<Reason>(1 + random.below(3)));
        }
        break;
      case 12:
        if (const EntryNumber entry = any(State::tombstone); entry != no_entry) forget(entry);
        break;
      default:
        break;
    }
  }

  // Readers take an entry that is being evicted for busy; the checks want to find it.
  void unmark_all() {
    while (!by_state_[State::evicting].empty()) unmark(*by_state_[State::evicting].begin());
  }

 private:
  void move(EntryNumber entry, State to) {
    drop(entry);
    by_state_[to].insert(entry);
  }
  void drop(EntryNumber entry) {
    for (auto& [state, entries] : by_state_) entries.erase(entry);
  }

  IndexMemory& memory_;
  SegmentTable table_;
  std::map<State, std::set<EntryNumber>> by_state_;
};

struct Store {
  explicit Store(const shm::Limits& limits = small_limits, std::uint32_t first_lines = 64)
      : memory(limits, first_lines), daemon(memory, memory.table()) {
    memory.grow(daemon.table(), true);
  }
  void check() { check_against(truth_of(memory), memory, daemon.table()); }
  std::uint64_t newest_version(const std::string& id) {
    const Sight sight = look(memory.map(), id, 0);
    return sight.entry == no_entry ? 0 : daemon.table().version(sight.entry);
  }
  Probe newest(const std::string& id) { return look(memory.map(), id, 0).probe; }
  Probe exact(const std::string& id, std::uint64_t version) {
    return look(memory.map(), id, version).probe;
  }

  IndexMemory memory;
  Daemon daemon;
};

std::vector<std::string> some_ids() {
  std::vector<std::string> ids;
  for (int i = 0; i < 40; ++i) ids.push_back("block/" + std::to_string(i));
  for (const std::size_t size : {31U, 32U, 200U, 255U}) ids.emplace_back(size, 'x');
  ids.emplace_back("\0\xff\0", 3);
  return ids;
}

TEST_SUITE("segment_table") {
  TEST_CASE("what is being created is found by nobody; what is sealed, by everybody") {
    Store store;
    const EntryNumber entry = store.daemon.begin("points", 1);
    CHECK(store.exact("points", 1) == Probe::mismatch);
    CHECK(store.newest("points") == Probe::mismatch);
    store.daemon.seal(entry);
    CHECK(store.exact("points", 1) == Probe::pinned);
    CHECK(store.newest("points") == Probe::pinned);
    CHECK(store.exact("points", 2) == Probe::mismatch);
    CHECK(store.newest("other") == Probe::mismatch);
    store.check();
  }

  TEST_CASE("an entry has what it was begun with") {
    Store store;
    SegmentTable& table = store.daemon.table();
    const std::vector<std::byte> description(17, std::byte{9});
    const auto entry = table.begin({.id = "points",
                                    .key = table.key_of("points"),
                                    .version = 3,
                                    .size = 4711,
                                    .brief = 0x1234,
                                    .description = description,
                                    .location = shm::Location(2, 8192),
                                    .flags = shm::flag_bit(shm::RecordFlag::evictable),
                                    .owner_slot = 5,
                                    .writer_uid = 1000,
                                    .token = 77});
    REQUIRE(entry);
    CHECK(table.word(*entry).state() == State::creating);
    CHECK(table.key(*entry) == table.key_of("points"));
    CHECK(table.id(*entry) == "points");
    CHECK(table.version(*entry) == 3);
    CHECK(table.size(*entry) == 4711);
    CHECK(table.location(*entry) == shm::Location(2, 8192));
    CHECK(table.description_size(*entry) == 17);
    CHECK(table.has_flag(*entry, shm::RecordFlag::evictable));
    CHECK_FALSE(table.has_flag(*entry, shm::RecordFlag::persistent));
    CHECK(table.owner_slot(*entry) == 5);
    CHECK(table.token(*entry) == 77);
    const shm::Record& record = store.memory.map().records[*entry];
    CHECK(record.writer_uid.load() == 1000);
    CHECK(store.memory.map().entries[*entry].brief.load() == 0x1234);
    std::vector<std::byte> read(17);
    shm::load_description(record, read);
    CHECK(read == description);
    table.set_owner(*entry, 6);
    CHECK(table.owner_slot(*entry) == 6);
    table.seal(*entry, 123'456);
    CHECK(record.sealed_ns.load() == 123'456);
  }

  TEST_CASE("nothing of an entry's former life is left in its next one") {
    Store store;
    SegmentTable& table = store.daemon.table();
    EntryNumber first = no_entry;
    {
      const std::vector<std::byte> description(20, std::byte{9});
      const auto entry = table.begin({.id = std::string(200, 'x'),
                                      .key = table.key_of(std::string(200, 'x')),
                                      .version = 3,
                                      .size = 4711,
                                      .brief = 0x1234,
                                      .description = description,
                                      .location = shm::Location(2, 8192),
                                      .flags = 0xff,
                                      .owner_slot = 5,
                                      .writer_uid = 1000,
                                      .token = 77});
      first = *entry;
      table.seal(first, 1);
      table.mark_evicting(first);
      table.bury(first, Reason::lost);
      table.forget(first);
    }
    const std::uint64_t generation = table.word(first).generation();
    const std::uint64_t serial = table.serial(first);
    const auto again = table.begin({.id = "y", .key = table.key_of("y"), .version = 1});
    REQUIRE(*again == first);
    CHECK(table.word(first).generation() > generation);
    CHECK(table.serial(first) > serial);
    CHECK(table.id(first) == "y");
    CHECK(table.size(first) == 0);
    CHECK(table.flags(first) == 0);
    CHECK(shm::reason_of(table.flags(first)) == Reason::none);
    CHECK(table.token(first) == 0);
    CHECK(table.owner_slot(first) == 0);
    CHECK(table.description_size(first) == 0);
    CHECK(store.memory.map().records[first].sealed_ns.load() == 0);
  }

  TEST_CASE("the newest version is the highest that is sealed, in whatever order they come") {
    Store store;
    for (const std::uint64_t version : {5U, 2U, 9U, 1U, 7U}) {
      store.daemon.put("points", version);
      store.check();
    }
    CHECK(store.newest_version("points") == 9);
    const EntryNumber higher = store.daemon.begin("points", 12);
    CHECK(store.newest_version("points") == 9);
    store.daemon.seal(higher);
    CHECK(store.newest_version("points") == 12);
    CHECK(store.daemon.table().highest_version(store.daemon.table().key_of("points")) == 12);
  }

  TEST_CASE("when the newest is removed, the next lower one is the newest at once") {
    Store store;
    for (const std::uint64_t version : {1U, 2U, 3U}) store.daemon.put("points", version);
    SegmentTable& table = store.daemon.table();
    for (const std::uint64_t version : {3U, 2U}) {
      const EntryNumber entry = *table.find_exact(table.key_of("points"), version);
      store.daemon.begin_removal(entry);
      CHECK(store.newest_version("points") == version - 1);
      CHECK(store.newest("points") == Probe::pinned);
      CHECK(store.exact("points", version) == Probe::mismatch);
      store.daemon.finish_removal(entry);
      store.check();
    }
    store.daemon.remove(*table.find_newest(table.key_of("points")));
    CHECK(store.newest("points") == Probe::mismatch);
    store.check();
  }

  TEST_CASE("an evicted version leaves a tombstone with its reason, and the newest falls back") {
    Store store;
    for (const std::uint64_t version : {1U, 2U, 3U}) store.daemon.put("points", version);
    SegmentTable& table = store.daemon.table();
    const EntryNumber third = *table.find_exact(table.key_of("points"), 3);
    store.daemon.mark(third);
    CHECK(store.exact("points", 3) == Probe::busy);
    store.daemon.bury(third, Reason::lost);
    CHECK(store.exact("points", 3) == Probe::tombstone);
    CHECK(shm::reason_of(table.flags(third)) == Reason::lost);
    CHECK(store.newest_version("points") == 2);
    CHECK(store.newest("points") == Probe::pinned);
    CHECK(table.sealed_count() == 2);
    store.check();
  }

  TEST_CASE("where nothing can be read any more, the highest tombstone speaks for the id") {
    for (const auto& order : std::vector<std::vector<std::uint64_t>>{
             {1, 2, 3}, {3, 2, 1}, {3, 1, 2}, {2, 3, 1}, {2, 1, 3}, {1, 3, 2}}) {
      Store store;
      SegmentTable& table = store.daemon.table();
      for (const std::uint64_t version : {1U, 2U, 3U}) store.daemon.put("points", version);
      for (const std::uint64_t version : order) {
        store.daemon.evict(*table.find_exact(table.key_of("points"), version));
        store.check();
      }
      CHECK(store.newest("points") == Probe::tombstone);
      CHECK(store.newest_version("points") == 3);
      CHECK(table.sealed_count() == 0);
      CHECK(table.id_count() == 1);
      for (const std::uint64_t version : {3U, 2U, 1U}) {
        CHECK(store.newest_version("points") == version);
        store.daemon.forget(*table.find_exact(table.key_of("points"), version));
        store.check();
      }
      CHECK(store.newest("points") == Probe::mismatch);
      CHECK(table.id_count() == 0);
    }
  }

  TEST_CASE("an eviction that finds a pin leaves everything as it was") {
    Store store;
    const EntryNumber entry = store.daemon.put("points", 1);
    const shm::Word before = store.daemon.table().word(entry);
    store.daemon.mark(entry);
    store.daemon.unmark(entry);
    CHECK(store.daemon.table().word(entry) == before);
    store.check();
  }

  TEST_CASE("a version that was evicted can be made again, in its tombstone's place") {
    Store store;
    for (const std::uint64_t version : {1U, 2U, 3U}) {
      store.daemon.put("points", version);
      store.daemon.put("only/" + std::to_string(version), 1);
    }
    SegmentTable& table = store.daemon.table();
    for (const std::uint64_t version : {1U, 2U, 3U}) {
      store.daemon.evict(*table.find_exact(table.key_of("points"), version));
      const std::string id = "only/" + std::to_string(version);
      store.daemon.evict(*table.find_exact(table.key_of(id), 1));
    }
    for (const std::uint64_t version : {2U, 3U, 1U}) {
      const EntryNumber tombstone = *table.find_exact(table.key_of("points"), version);
      const EntryNumber made = store.daemon.begin("points", version);
      CHECK(store.exact("points", version) == Probe::tombstone);
      store.daemon.seal(made);
      CHECK(store.exact("points", version) == Probe::pinned);
      CHECK(table.word(tombstone).state() == State::free);
      store.check();
      store.daemon.put("only/" + std::to_string(version), 1);
      store.check();
    }
    CHECK(table.sealed_count() == 6);
  }

  TEST_CASE("what is aborted was never there") {
    Store store;
    store.daemon.put("points", 1);
    const EntryNumber entry = store.daemon.begin("points", 2);
    store.daemon.begin_removal(entry);
    CHECK(store.daemon.table().word(entry).state() == State::removing);
    store.daemon.finish_removal(entry);
    CHECK(store.newest_version("points") == 1);
    CHECK(store.daemon.table().sealed_count() == 1);
    store.check();
  }

  TEST_CASE("wanted comes and goes with no other change, and is not inherited") {
    Store store;
    SegmentTable& table = store.daemon.table();
    const EntryNumber entry = store.daemon.put("points", 1);
    const shm::Word before = table.word(entry);
    table.set_wanted(entry, true);
    CHECK(table.word(entry).wanted());
    CHECK(table.word(entry).frames_same_segment(before));
    CHECK(store.exact("points", 1) == Probe::pinned);
    store.daemon.remove(entry);
    CHECK_FALSE(table.word(entry).wanted());
    REQUIRE(store.daemon.begin("other", 1) == entry);
    CHECK_FALSE(table.word(entry).wanted());
  }

  TEST_CASE("a serial is given once, also when its segment was never sealed") {
    Store store;
    std::set<std::uint64_t> serials;
    for (int i = 0; i < 100; ++i) {
      const EntryNumber entry = store.daemon.begin("points", 1);
      CHECK(serials.insert(store.daemon.table().serial(entry)).second);
      store.daemon.remove(entry);
    }
    SegmentTable next = recovered(store.memory);
    const auto entry = next.begin({.id = "points", .key = next.key_of("points"), .version = 1});
    CHECK(serials.insert(next.serial(*entry)).second);
  }

  TEST_CASE("long ids get the memory that they need, and none is an error of the system's") {
    Store store;
    SegmentTable& table = store.daemon.table();
    const std::string id(200, 'x');
    store.memory.refuses = true;
    for (int i = 0; i < 10'000; ++i) {
      const auto refused = table.begin({.id = id, .key = table.key_of(id), .version = 1});
      REQUIRE_FALSE(refused);
      REQUIRE(refused.error().code.value() == ENOSPC);
    }
    // No entry was lost to the refusals, and a short id does without.
    CHECK(table.has_room());
    store.daemon.put(std::string(31, 's'), 1);
    store.memory.refuses = false;
    store.daemon.put(id, 1);
    CHECK(store.exact(id, 1) == Probe::pinned);
    store.check();
  }

  TEST_CASE("room is asked for before it is needed, once at a time, and again after a refusal") {
    IndexMemory memory(small_limits);
    SegmentTable table = memory.table();
    CHECK_FALSE(table.has_room());
    const auto growth = table.wants_growth(false);
    REQUIRE(growth);
    CHECK_FALSE(table.wants_growth(true));
    table.grown(*growth, false);
    CHECK_FALSE(table.has_room());
    const auto again = table.wants_growth(false);
    REQUIRE(again);
    for (const shm::Range& range : again->ranges)
      REQUIRE(memory.reserve(range.offset, range.bytes));
    table.grown(*again, true);
    CHECK(table.has_room());
    CHECK(table.at_limit());
    CHECK_FALSE(table.wants_growth(true));
  }

  TEST_CASE("when every entry is taken there is no room, and with the first that goes there is") {
    Store store(tiny_limits, 1);
    std::vector<EntryNumber> entries;
    while (store.daemon.table().has_room())
      entries.push_back(store.daemon.put("id/" + std::to_string(entries.size()), 1));
    CHECK(entries.size() == tiny_limits.entries - 1);
    CHECK(store.daemon.table().at_limit());
    store.check();
    store.daemon.remove(entries[7]);
    CHECK(store.daemon.table().has_room());
    store.daemon.put("the last", 1);
    store.check();
  }

  TEST_CASE("tens of thousands of segments are found, while the buckets grow and after") {
    Store store(
        {.entries = 1U << 16U, .lines = 1U << 15U, .overflow_lines = 1U << 14U, .processes = 1}, 1);
    test::Random random("many segments");
    std::vector<EntryNumber> entries;
    constexpr int segments = 30'000;
    for (int i = 0; i < segments; ++i) {
      // Half of them are versions of a few ids.
      const std::string id =
          i % 2 == 0 ? "id/" + std::to_string(i) : "model/" + std::to_string(i % 10);
      entries.push_back(store.daemon.put(id, static_cast<std::uint64_t>(i) + 1));
      if (i % 1000 != 0) continue;
      const EntryNumber some = entries[random.below(static_cast<std::uint32_t>(entries.size()))];
      const SegmentTable& table = store.daemon.table();
      REQUIRE(look(store.memory.map(), table.id(some), table.version(some)).entry == some);
    }
    store.check();
    const shm::IndexLive& live = *store.memory.map().live;
    CHECK(live.exact_lines.load() >= segments / 3 - 2);
    CHECK(live.newest_lines.load() >= segments / 2 / 3 - 2);
    std::shuffle(entries.begin(), entries.end(), std::mt19937_64(random.next()));
    for (std::size_t i = 0; i < entries.size(); ++i) {
      store.daemon.remove(entries[i]);
      if (i == entries.size() / 2) store.check();
    }
    store.check();
    CHECK(store.daemon.table().sealed_count() == 0);
    CHECK(store.daemon.table().id_count() == 0);
  }

  TEST_CASE("random lives of segments agree with the truth of the entries, across restarts") {
    test::Random random("segment table");
    const std::vector<std::string> ids = some_ids();
    auto memory = std::make_unique<IndexMemory>(small_limits, 1);
    auto daemon = std::make_unique<Daemon>(*memory, memory->table());
    constexpr int steps = 60'000;
    int restarts = 0;
    for (int step = 0; step < steps; ++step) {
      daemon->random_step(random, ids);
      if (random.chance(0.002)) {
        daemon->unmark_all();
        check_against(truth_of(*memory), *memory, daemon->table());
      }
      if (!random.chance(0.004)) continue;
      // Killed right here: the next daemon has the memory, and nothing of what this one knew.
      ++restarts;
      auto left = std::make_unique<IndexMemory>(*memory);
      daemon = std::make_unique<Daemon>(*left, recovered(*left));
      memory = std::move(left);
    }
    CHECK(restarts > 50);
  }

  TEST_CASE("whatever stands in slots and links, a restart makes them the truth of the entries") {
    test::Random random("corrupted slots and links");
    const std::vector<std::string> ids = some_ids();
    IndexMemory memory(small_limits, 1);
    Daemon daemon(memory, memory.table());
    for (int round = 0; round < 400; ++round) {
      for (int step = 0; step < 40; ++step) daemon.random_step(random, ids);
      IndexMemory damaged(memory);
      const shm::IndexMap index = damaged.map();
      const std::uint32_t end = index.live->entries_end.load();
      const std::uint32_t overflow_end = index.live->overflow_lines_backed.load();
      const auto some_entry = [&] { return random.below(end + 3); };
      const auto some_slot = [&] {
        const EntryNumber entry = some_entry();
        const shm::Key key = daemon.table().key(std::min(entry, end - 1));
        switch (random.below(4)) {
          case 0:
            return std::uint64_t{0};
          case 1:
            return shm::make_slot(shm::newest_hash(key), entry);
          case 2:
            return shm::make_slot(
                shm::exact_hash(key, daemon.table().version(std::min(entry, end - 1))), entry);
          default:
            return shm::make_slot(random.next32(), entry);
        }
      };
      for (std::uint32_t wounds = 1 + random.below(30); wounds > 0; --wounds) {
        const shm::IndexBuckets& buckets = random.chance(0.5) ? index.newest : index.exact;
        shm::Line& line = random.chance(0.7) ? buckets.lines[random.below(buckets.in_use->load())]
                                             : buckets.overflow[1 + random.below(overflow_end - 1)];
        switch (random.below(4)) {
          case 0:
            line.slots[random.below(shm::line_slots)].store(some_slot());
            break;
          case 1:
            line.overflow.store(random.chance(0.8) ? random.below(overflow_end) : random.next32());
            break;
          case 2:
            index.records[random.below(end)].older.store(some_entry());
            break;
          default:
            index.records[random.below(end)].newer.store(some_entry());
        }
      }
      Daemon next(damaged, recovered(damaged));
      for (int step = 0; step < 50; ++step) next.random_step(random, ids);
      next.unmark_all();
      check_against(truth_of(damaged), damaged, next.table());
    }
  }

  TEST_CASE("a restart that finds everything right repairs nothing") {
    test::Random random("nothing to repair");
    const std::vector<std::string> ids = some_ids();
    IndexMemory memory(small_limits, 1);
    Daemon daemon(memory, memory.table());
    for (int round = 0; round < 200; ++round) {
      for (int step = 0; step < 40; ++step) daemon.random_step(random, ids);
      IndexMemory left(memory);
      SegmentTable table = left.table();
      CHECK(table.recover().slots_repaired == 0);
    }
  }

  // The operations of a daemon, each from a state in which it has most to do.
  struct Operation {
    std::string name;
    std::function<void(Daemon&)> prepare;
    std::function<void(Daemon&)> perform;
  };
  EntryNumber entry_of(Daemon & daemon, const std::string& id, std::uint64_t version) {
    return *daemon.table().find_exact(daemon.table().key_of(id), version);
  }
  const std::string long_id(200, 'l');

  std::vector<Operation> operations() {
    static EntryNumber creating = no_entry;
    const auto three = [](Daemon& daemon) {
      for (const std::uint64_t version : {1U, 2U, 3U}) daemon.put("points", version);
    };
    const auto evict = [](std::initializer_list<std::uint64_t> versions) {
      return [versions = std::vector<std::uint64_t>(versions)](Daemon& daemon) {
        for (const std::uint64_t version : versions)
          daemon.evict(entry_of(daemon, "points", version));
      };
    };
    return {
        {"begin", three, [](Daemon& daemon) { daemon.begin("points", 4); }},
        {"begin with a long id", three, [](Daemon& daemon) { daemon.begin(long_id, 1); }},
        {"seal the first version", [](Daemon& daemon) { creating = daemon.begin("points", 1); },
         [](Daemon& daemon) { daemon.table().seal(creating, 7); }},
        {"seal the newest version",
         [=](Daemon& daemon) {
           three(daemon);
           creating = daemon.begin("points", 4);
         },
         [](Daemon& daemon) { daemon.table().seal(creating, 7); }},
        {"seal an older version",
         [](Daemon& daemon) {
           for (const std::uint64_t version : {1U, 2U, 4U}) daemon.put("points", version);
           creating = daemon.begin("points", 3);
         },
         [](Daemon& daemon) { daemon.table().seal(creating, 7); }},
        {"seal above tombstones",
         [=](Daemon& daemon) {
           three(daemon);
           evict({1, 2, 3})(daemon);
           creating = daemon.begin("points", 4);
         },
         [](Daemon& daemon) { daemon.table().seal(creating, 7); }},
        {"seal in the place of the tombstone that speaks for the id",
         [=](Daemon& daemon) {
           three(daemon);
           evict({1, 2, 3})(daemon);
           creating = daemon.begin("points", 3);
         },
         [](Daemon& daemon) { daemon.table().seal(creating, 7); }},
        {"seal in the place of the only tombstone",
         [](Daemon& daemon) {
           daemon.evict(daemon.put("points", 3));
           creating = daemon.begin("points", 3);
         },
         [](Daemon& daemon) { daemon.table().seal(creating, 7); }},
        {"seal in the place of a tombstone below what can be read",
         [=](Daemon& daemon) {
           three(daemon);
           evict({2})(daemon);
           creating = daemon.begin("points", 2);
         },
         [](Daemon& daemon) { daemon.table().seal(creating, 7); }},
        {"remove the newest version", three,
         [](Daemon& daemon) { daemon.remove(entry_of(daemon, "points", 3)); }},
        {"remove an older version", three,
         [](Daemon& daemon) { daemon.remove(entry_of(daemon, "points", 2)); }},
        {"remove the only version", [](Daemon& daemon) { daemon.put("points", 1); },
         [](Daemon& daemon) { daemon.remove(entry_of(daemon, "points", 1)); }},
        {"remove the only version above and below tombstones",
         [=](Daemon& daemon) {
           three(daemon);
           evict({1, 3})(daemon);
         },
         [](Daemon& daemon) { daemon.remove(entry_of(daemon, "points", 2)); }},
        {"abort", [](Daemon& daemon) { creating = daemon.begin("points", 1); },
         [](Daemon& daemon) { daemon.remove(creating); }},
        {"evict the newest version", three,
         [](Daemon& daemon) { daemon.evict(entry_of(daemon, "points", 3)); }},
        {"evict the last version that can be read",
         [=](Daemon& daemon) {
           three(daemon);
           evict({2, 3})(daemon);
         },
         [](Daemon& daemon) { daemon.evict(entry_of(daemon, "points", 1)); }},
        {"forget the tombstone that speaks for the id",
         [=](Daemon& daemon) {
           three(daemon);
           evict({1, 2, 3})(daemon);
         },
         [](Daemon& daemon) { daemon.forget(entry_of(daemon, "points", 3)); }},
        {"forget the only tombstone", [](Daemon& daemon) { daemon.evict(daemon.put("points", 1)); },
         [](Daemon& daemon) { daemon.forget(entry_of(daemon, "points", 1)); }},
        {"seal while the buckets grow",
         [](Daemon& daemon) {
           for (int i = 0; i < 22; ++i) daemon.put("more/" + std::to_string(i), 1);
           // The next one is the one too many for the lines in use.
           const shm::IndexLive& live = *daemon.table().index().live;
           int next = 22;
           while (daemon.table().sealed_count() < 3 * live.exact_lines.load())
             daemon.put("more/" + std::to_string(next++), 1);
           creating = daemon.begin("points", 1);
         },
         [](Daemon& daemon) { daemon.table().seal(creating, 7); }},
    };
  }

  TEST_CASE(
      "a daemon that is killed behind any instruction leaves what was before or what is after") {
    for (const Operation& operation : operations()) {
      CAPTURE(operation.name);
      IndexMemory memory(tiny_limits, 1);
      Daemon daemon(memory, memory.table());
      for (int i = 0; i < 5; ++i) daemon.put("bystander", static_cast<std::uint64_t>(i) + 1);
      operation.prepare(daemon);
      // So that no memory is asked for in the child, where this process would not see it.
      REQUIRE(memory.reserve(shm::regions_of(tiny_limits).annexes, shm::page_bytes * 2));
      const Truth before = truth_of(memory);
      const bool readable_before = look(memory.map(), "points", 0).probe == Probe::pinned;
      IndexMemory last(memory);
      std::vector<Truth> seen{before};
      bool missed = false;
      std::uint64_t changes = 0;
      const int outcome = test::step_through(
          [&] { operation.perform(daemon); },
          [&] {
            if (memory.same_as(last)) return;
            ++changes;
            last.take(memory);
            const Truth truth = truth_of(memory);
            if (truth != seen.back()) seen.push_back(truth);
            // A reader that comes right now finds what nobody has touched.
            for (std::uint64_t version = 0; version <= 5; ++version)
              REQUIRE(look(memory.map(), "bystander", version).probe == Probe::pinned);
            const Probe probe = look(memory.map(), "points", 0).probe;
            missed = missed || probe == Probe::mismatch || probe == Probe::tombstone;
            // And so does the daemon that comes after, and goes on.
            IndexMemory left(memory);
            Daemon next(left, recovered(left));
            next.put("after", 1);
            next.put("bystander", 6);
            check_against(truth_of(left), left, next.table());
          });
      REQUIRE(outcome == 0);
      REQUIRE(changes >= 2);
      // At every moment it was one or the other: no version was ever lost, doubled or half there.
      // (Removals have a third state, in which the segment is out of sight and not yet gone.)
      CHECK(seen.size() <= 3);
      // An id that had a version before and has one after was never without.
      const bool readable_after = look(memory.map(), "points", 0).probe == Probe::pinned;
      if (readable_before && readable_after) CHECK_FALSE(missed);
    }
  }

  TEST_CASE("a daemon that is killed while it moves a place leaves the old one or the new one") {
    IndexMemory memory(small_limits);
    SegmentTable table = memory.table();
    memory.grow(table);
    const auto entry = table.begin({.id = "a", .key = table.key_of("a"), .version = 1, .size = 9});
    REQUIRE(entry);
    table.seal(*entry, 7);
    const auto place_of = [](std::uint64_t number) {
      SpillPlace place;
      place.copies[0] = {number, number, number, 1, 0};
      place.item = place.inner = place.stored = place.size = number;
      place.sum = static_cast<std::uint32_t>(number);
      return place;
    };
    REQUIRE(table.set_place(*entry, place_of(1)));
    table.mark_evicting(*entry);
    table.put_away(*entry);
    bool moved = false;
    const int ended = test::step_through([&] { (void)table.set_place(*entry, place_of(2)); },
                                   [&] {
                                     REQUIRE(table.has_place(*entry));
                                     const SpillPlace place = table.place(*entry);
                                     const bool after = place == place_of(2);
                                     REQUIRE((after || place == place_of(1)));
                                     REQUIRE((after || !moved));
                                     moved = after;
                                   });
    CHECK(ended == 0);
    CHECK(moved);
  }

  TEST_CASE("a restart that is killed behind any instruction can be made again") {
    IndexMemory memory(tiny_limits, 1);
    Daemon daemon(memory, memory.table());
    for (const std::uint64_t version : {1U, 2U, 3U, 4U}) daemon.put("points", version);
    for (int i = 0; i < 8; ++i) daemon.put("more/" + std::to_string(i), 1);
    daemon.evict(entry_of(daemon, "points", 3));
    daemon.begin("points", 5);
    daemon.begin_removal(entry_of(daemon, "more/3", 1));
    // A little of everything that a restart has to put right.
    const shm::IndexMap index = memory.map();
    index.newest.lines[0].slots[0].store(shm::make_slot(5, 1));
    index.exact.lines[0].slots[3].store(0);
    index.exact.lines[1].overflow.store(9999);
    index.records[2].newer.store(7);
    const Truth truth = truth_of(memory);
    IndexMemory last(memory);
    std::uint64_t changes = 0;
    const int outcome = test::step_through(
        [&] {
          SegmentTable table = memory.table();
          (void)table.recover();
        },
        [&] {
          if (memory.same_as(last)) return;
          ++changes;
          last.take(memory);
          REQUIRE(truth_of(memory) == truth);
          IndexMemory left(memory);
          (void)recovered(left);
        });
    REQUIRE(outcome == 0);
    CHECK(changes >= 3);
    check_against(truth, memory, recovered(memory));
  }

  TEST_CASE(
      "an index that grows is not stuck, whichever instruction its daemon was killed behind") {
    IndexMemory memory(tiny_limits, 1);
    SegmentTable table = memory.table();
    const auto growth = table.wants_growth(true);
    REQUIRE(growth);
    for (const shm::Range& range : growth->ranges)
      REQUIRE(memory.reserve(range.offset, range.bytes));
    IndexMemory last(memory);
    std::uint64_t changes = 0;
    const int outcome = test::step_through([&] { table.grown(*growth, true); },
                                           [&] {
                                             if (memory.same_as(last)) return;
                                             ++changes;
                                             last.take(memory);
                                             IndexMemory left(memory);
                                             SegmentTable next = recovered(left);
                                             left.grow(next, true);
                                             REQUIRE(next.has_room());
                                             // And all the entries that were promised can be used.
                                             Daemon daemon(left, std::move(next));
                                             for (std::uint32_t i = 1; i < tiny_limits.entries; ++i)
                                               daemon.put("id/" + std::to_string(i), 1);
                                             check_against(truth_of(left), left, daemon.table());
                                           });
    REQUIRE(outcome == 0);
    CHECK(changes >= 4);
  }
}

}  // namespace
}  // namespace forebay::daemon
