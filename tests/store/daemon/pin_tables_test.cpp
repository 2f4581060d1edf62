// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/pin_tables.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <string>
#include <vector>

#include "tests/support/child_process.h"
#include "tests/support/random.h"

namespace forebay::daemon {
namespace {

using shm::chunk_entries;
using test::require;

constexpr shm::Limits small_limits{.entries = 3 * chunk_entries, .processes = 8};

shm::IndexStamp stamp_of(const shm::Limits& limits) {
  shm::IndexStamp stamp{};
  stamp.limits = limits;
  stamp.store_uuid = {1, 2, 3};
  return stamp;
}

// The pin tables of a store that ends with the test.
struct Store {
  explicit Store(const shm::Limits& limits_in = small_limits)
      : limits(limits_in),
        stamp(stamp_of(limits)),
        home(shm::named_home("test-" + std::to_string(::getpid()) + "-" +
                             std::to_string(std::random_device{}()))),
        tables(*home, stamp) {}
  ~Store() {
    for (const std::string& name : home->list()) home->remove(name);
  }

  shm::Limits limits;
  shm::IndexStamp stamp;
  std::unique_ptr<shm::ObjectHome> home;
  PinTables tables;
};

// A client's own mapping of its table.
class Client {
 public:
  Client(const PinTables& tables, Slot slot) {
    struct stat status {};
    REQUIRE(::fstat(tables.descriptor(slot).get(), &status) == 0);
    mapping_ =
        shm::Mapping::map(tables.descriptor(slot).get(), static_cast<std::uint64_t>(status.st_size),
                          shm::Protection::read_write)
            .value();
  }
  std::atomic<std::uint32_t>& count(EntryNumber entry) {
    return reinterpret_cast<std::atomic<std::uint32_t>*>(mapping_.data() +
                                                         shm::pin_counts_offset)[entry];
  }
  shm::PinTableHead& head() { return *reinterpret_cast<shm::PinTableHead*>(mapping_.data()); }
  void log(EntryNumber entry) {
    const std::uint64_t at = head().access_head.load();
    head().access_log[at % shm::access_log_slots].store(entry);
    head().access_head.store(at + 1);
  }

 private:
  shm::Mapping mapping_;
};

std::vector<EntryNumber> drained(PinTables& tables) {
  std::vector<EntryNumber> entries;
  tables.drain_accesses([&entries](EntryNumber entry) { entries.push_back(entry); });
  return entries;
}

TEST_SUITE("pin_tables") {
  TEST_CASE("a new table says whose it is, and has memory for its head alone") {
    Store store;
    REQUIRE(store.tables.create(3, 4711));
    CHECK(store.tables.has(3));
    CHECK_FALSE(store.tables.has(2));
    CHECK_FALSE(store.tables.has(8));
    const shm::PinTableHead& head = store.tables.head(3);
    CHECK(head.magic == shm::pin_table_magic);
    CHECK(head.layout_version == shm::layout_version);
    CHECK(head.slot == 3);
    CHECK(head.store_uuid == store.stamp.store_uuid);
    CHECK(head.entries == small_limits.entries);
    CHECK(shm::backed_bytes(store.tables.descriptor(3)) == shm::pin_counts_offset);
    CHECK(store.home->list() == std::vector<std::string>{PinTables::object_name(4711)});
  }

  TEST_CASE("a pin counts in every chunk that was granted") {
    Store store;
    REQUIRE(store.tables.create(0, 1));
    Client client(store.tables, 0);
    for (std::uint32_t chunk = 0; chunk < 3; ++chunk) {
      REQUIRE(store.tables.grant(0, chunk));
      for (const EntryNumber entry :
           {chunk * chunk_entries + (chunk == 0 ? 1 : 0), chunk * chunk_entries + 77,
            (chunk + 1) * chunk_entries - 1}) {
        CHECK_FALSE(store.tables.pinned(entry));
        client.count(entry).fetch_add(2);
        CHECK(store.tables.pinned(entry));
        CHECK_FALSE(store.tables.pinned(entry == 1 ? 2 : entry - 1));
        client.count(entry).fetch_sub(1);
        CHECK(store.tables.pinned(entry));
        client.count(entry).fetch_sub(1);
        CHECK_FALSE(store.tables.pinned(entry));
      }
    }
  }

  TEST_CASE("a count in a chunk that nobody granted counts for nothing") {
    Store store;
    REQUIRE(store.tables.create(0, 1));
    REQUIRE(store.tables.grant(0, 0));
    Client client(store.tables, 0);
    client.count(chunk_entries + 5).store(1);
    CHECK_FALSE(store.tables.pinned(chunk_entries + 5));
    CHECK_FALSE(store.tables.holds_any(0));
  }

  TEST_CASE("a grant gives memory once, and none beyond the last entry") {
    Store store;
    REQUIRE(store.tables.create(0, 1));
    const std::uint64_t before = shm::backed_bytes(store.tables.descriptor(0));
    REQUIRE(store.tables.grant(0, 1));
    CHECK(shm::backed_bytes(store.tables.descriptor(0)) == before + shm::chunk_bytes);
    REQUIRE(store.tables.grant(0, 1));
    CHECK(shm::backed_bytes(store.tables.descriptor(0)) == before + shm::chunk_bytes);
    for (const std::uint32_t chunk : {3U, 4U, 0xffffffffU}) {
      const auto refused = store.tables.grant(0, chunk);
      REQUIRE_FALSE(refused);
      CHECK(refused.error().is(Errc::bad_argument));
    }
  }

  TEST_CASE("an index whose entries fill no whole chunk grants its last chunk like any other") {
    for (const std::uint32_t entries : {1024U, chunk_entries - 1, chunk_entries + 1, 50'000U}) {
      Store store({.entries = entries, .processes = 4});
      REQUIRE(store.tables.create(0, 1));
      const std::uint32_t last = (entries - 1) / chunk_entries;
      REQUIRE(store.tables.grant(0, last));
      CHECK_FALSE(store.tables.grant(0, last + 1));
      Client client(store.tables, 0);
      client.count(entries - 1).store(1);
      CHECK(store.tables.pinned(entries - 1));
      CHECK(store.tables.holds_any(0));
      REQUIRE(store.tables.create(1, 2));
      REQUIRE(store.tables.copy(0, 1));
      client.count(entries - 1).store(0);
      CHECK(store.tables.pinned(entries - 1));
      CHECK(store.tables.holders_of_all([](EntryNumber) { return 1; }).size() == 1);
      // And a restarted daemon finds it granted.
      PinTables again(*store.home, store.stamp);
      REQUIRE(again.open(1, 2));
      CHECK(again.pinned(entries - 1));
    }
  }

  TEST_CASE("who pins an entry is named, with how often") {
    Store store;
    for (const Slot slot : {0U, 1U, 2U}) {
      REQUIRE(store.tables.create(slot, 10 + slot));
      REQUIRE(store.tables.grant(slot, 0));
      store.tables.describe(slot, 100 + slot, "program-" + std::to_string(slot));
    }
    Client first(store.tables, 0);
    Client third(store.tables, 2);
    first.count(5).store(3);
    third.count(5).store(1);
    third.count(6).store(1);
    const auto holders = store.tables.holders(5);
    REQUIRE(holders.size() == 2);
    CHECK(holders[0].pid == 100);
    CHECK(holders[0].name == "program-0");
    CHECK(holders[0].pins == 3);
    CHECK(holders[1].pid == 102);
    CHECK(holders[1].pins == 1);
    CHECK(store.tables.holders(7).empty());

    const auto all = store.tables.holders_of_all(
        [](EntryNumber entry) -> std::uint64_t { return entry == 6 ? 0 : 1000; });
    REQUIRE(all.size() == 2);
    CHECK(all[0].pid == 100);
    CHECK(all[0].pins == 3);
    CHECK(all[0].bytes == 1000);
    CHECK(all[1].pins == 2);
    CHECK(all[1].bytes == 1000);
  }

  TEST_CASE("a removed table pins nothing, its name is gone, and its counters are not lost") {
    Store store;
    REQUIRE(store.tables.create(0, 1));
    REQUIRE(store.tables.create(1, 2));
    for (const Slot slot : {0U, 1U}) REQUIRE(store.tables.grant(slot, 0));
    {
      Client client(store.tables, 0);
      client.count(5).store(1);
      client.head().tallies.gets.store(10);
      client.head().tallies.bytes.store(4096);
    }
    Client other(store.tables, 1);
    other.head().tallies.gets.store(7);
    other.head().tallies.misses.store(2);
    other.head().tallies.puts.store(1);
    store.tables.remove(0);
    CHECK_FALSE(store.tables.has(0));
    CHECK_FALSE(store.tables.pinned(5));
    CHECK(store.home->list() == std::vector<std::string>{PinTables::object_name(2)});
    const PinTables::Tallies sum = store.tables.tallies();
    CHECK(sum.gets == 17);
    CHECK(sum.misses == 2);
    CHECK(sum.bytes == 4096);
    CHECK(sum.puts == 1);
    store.tables.remove(0);
    // The slot is another process's next, and starts with nothing.
    REQUIRE(store.tables.create(0, 3));
    REQUIRE(store.tables.grant(0, 0));
    CHECK_FALSE(store.tables.holds_any(0));
    CHECK(store.tables.tallies().gets == 17);
  }

  TEST_CASE("a table under a number that is taken is not made") {
    Store store;
    REQUIRE(store.tables.create(0, 1));
    CHECK_FALSE(store.tables.create(1, 1));
    CHECK_FALSE(store.tables.has(1));
    CHECK_FALSE(store.tables.open(1, 99));
    CHECK_FALSE(store.tables.has(1));
  }

  TEST_CASE("a restarted daemon finds the pins of each granted chunk again") {
    test::Random random("reopened pin tables");
    for (int round = 0; round < 20; ++round) {
      Store store;
      std::vector<EntryNumber> pinned;
      REQUIRE(store.tables.create(2, 77));
      std::vector<bool> granted(3);
      {
        Client client(store.tables, 2);
        for (std::uint32_t chunk = 0; chunk < 3; ++chunk) {
          if (random.chance(0.4)) continue;
          REQUIRE(store.tables.grant(2, chunk));
          granted[chunk] = true;
          if (random.chance(0.3)) continue;  // granted, and never used
          pinned.push_back(chunk * chunk_entries + 1 + random.below(chunk_entries - 1));
          client.count(pinned.back()).store(1 + random.below(3));
        }
      }
      PinTables again(*store.home, store.stamp);
      REQUIRE(again.open(2, 77));
      for (const EntryNumber entry : pinned) CHECK(again.pinned(entry));
      CHECK(again.holds_any(2) == !pinned.empty());
      // A chunk that was granted before is granted still: the client pins there without asking.
      Client client(again, 2);
      for (std::uint32_t chunk = 0; chunk < 3; ++chunk) {
        if (!granted[chunk]) continue;
        const EntryNumber entry = (chunk + 1) * chunk_entries - 1;
        client.count(entry).fetch_add(1);
        CHECK(again.pinned(entry));
      }
    }
  }

  TEST_CASE("a copied table holds what its original held, and then each goes its own way") {
    Store store;
    REQUIRE(store.tables.create(0, 1));
    REQUIRE(store.tables.create(1, 2));
    for (const std::uint32_t chunk : {0U, 2U}) REQUIRE(store.tables.grant(0, chunk));
    Client parent(store.tables, 0);
    parent.count(5).store(2);
    parent.count(3 * chunk_entries - 1).store(1);
    REQUIRE(store.tables.copy(0, 1));
    Client child(store.tables, 1);
    CHECK(child.count(5).load() == 2);
    CHECK(child.count(3 * chunk_entries - 1).load() == 1);
    parent.count(5).store(0);
    parent.count(3 * chunk_entries - 1).store(0);
    parent.count(6).store(1);
    CHECK(store.tables.pinned(5));
    CHECK(store.tables.holders(6).size() == 1);
    store.tables.remove(0);
    CHECK(store.tables.pinned(5));
    CHECK(store.tables.pinned(3 * chunk_entries - 1));
    CHECK_FALSE(store.tables.pinned(6));
  }

  TEST_CASE("first pins are drained once each, in order") {
    Store store;
    REQUIRE(store.tables.create(0, 1));
    Client client(store.tables, 0);
    CHECK(drained(store.tables).empty());
    for (const EntryNumber entry : {5U, 9U, 5U}) client.log(entry);
    CHECK(drained(store.tables) == std::vector<EntryNumber>{5, 9, 5});
    CHECK(drained(store.tables).empty());
    client.log(7);
    CHECK(drained(store.tables) == std::vector<EntryNumber>{7});
  }

  TEST_CASE("of more first pins than the log has room for, the last ones are drained") {
    Store store;
    REQUIRE(store.tables.create(0, 1));
    Client client(store.tables, 0);
    for (EntryNumber entry = 1; entry <= shm::access_log_slots + 10; ++entry) client.log(entry);
    const auto entries = drained(store.tables);
    REQUIRE(entries.size() == shm::access_log_slots);
    CHECK(entries.front() == 11);
    CHECK(entries.back() == shm::access_log_slots + 10);
  }

  TEST_CASE("a log that lies costs a bounded look, and names no entry that cannot be") {
    Store store;
    REQUIRE(store.tables.create(0, 1));
    Client client(store.tables, 0);
    for (const EntryNumber entry : {0U, small_limits.entries, 0xffffffffU, 3U}) client.log(entry);
    CHECK(drained(store.tables) == std::vector<EntryNumber>{3});
    client.head().access_head.store(~std::uint64_t{0});
    CHECK(drained(store.tables).size() <= shm::access_log_slots);
    client.head().access_head.store(2);  // backwards
    CHECK(drained(store.tables).empty());
    client.log(9);
    CHECK(drained(store.tables) == std::vector<EntryNumber>{9});
  }

  TEST_CASE("a table that its process has cut pins nothing there, and is known to be broken") {
    // In a child, for the handler is the whole process's.
    test::ChildProcess child([](test::Moments&) {
      shm::Guard::install();
      Store store;
      for (const Slot slot : {0U, 1U}) {
        require(store.tables.create(slot, 1 + slot).has_value(), "made");
        require(store.tables.grant(slot, 0).has_value(), "granted");
      }
      Client honest(store.tables, 1);
      honest.count(8).store(1);
      require(::ftruncate(store.tables.descriptor(0).get(), 0) == 0, "cut");
      require(!store.tables.pinned(5), "zeros pin nothing");
      require(store.tables.pinned(8), "the others' pins count");
      require(store.tables.broken(0), "it is known");
      require(!store.tables.broken(1), "and whose it is");
      require(drained(store.tables).empty(), "its log is empty");
      require(store.tables.tallies().gets == 0, "its counters are zero");
      require(!store.tables.holds_any(0), "it holds nothing");
      store.tables.remove(0);
    });
    CHECK(child.join() == 0);
  }
}

}  // namespace
}  // namespace forebay::daemon
