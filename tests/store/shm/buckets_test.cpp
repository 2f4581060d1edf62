// SPDX-License-Identifier: Apache-2.0
// The buckets against a std::map, growth and repair included. What readers see meanwhile is the
// business of protocol_explorer_test and protocol_stress_test.
#include "store/shm/buckets.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "tests/support/random.h"

namespace forebay::shm {
namespace {

struct Table {
  explicit Table(std::uint32_t lines_max) : lines(lines_max), overflow(lines_max) {
    in_use.store(1);
    pool.set_backed(lines_max);
  }
  std::atomic<std::uint32_t> in_use;
  std::vector<Line> lines;
  std::vector<Line> overflow;
  OverflowPool pool;
  Buckets<std::atomic<std::uint32_t>, Line> buckets() {
    return {&in_use, lines.data(), overflow.data()};
  }
  BucketWriter<std::atomic<std::uint32_t>, Line> writer() { return {buckets(), pool}; }
  // All entries that a reader finds under a hash.
  std::set<std::uint32_t> find_all(std::uint32_t hash) {
    std::set<std::uint32_t> found;
    (void)search(buckets(), hash, [&](std::uint32_t entry) {
      found.insert(entry);
      return Probe::mismatch;
    });
    return found;
  }
};

TEST_SUITE("buckets") {
  TEST_CASE("a home is within the lines in use, and moves only when its line is split") {
    for (std::uint32_t lines = 1; lines < 300; ++lines)
      for (std::uint32_t hash = 0; hash < 2000; hash += 7) {
        const std::uint32_t home = home_of(hash, lines);
        const std::uint32_t after = home_of(hash, lines + 1);
        CHECK(home < lines);
        CHECK((after == home || after == lines));
      }
  }

  TEST_CASE("random inserts, replacements, removals and growth agree with a map") {
    test::Random random("buckets");
    Table table(4096);
    auto writer = table.writer();
    std::multimap<std::uint32_t, std::uint32_t> model;  // hash -> entry
    std::uint32_t next_entry = 1;
    for (int step = 0; step < 60'000; ++step) {
      const std::uint32_t hash = random.below(2) != 0 ? random.below(40) : random.next32();
      switch (random.below(5)) {
        case 0:
        case 1:
          writer.insert(hash, next_entry);
          model.emplace(hash, next_entry++);
          break;
        case 2:
          if (const auto found = model.find(hash); found != model.end()) {
            CHECK(writer.erase(hash, found->second));
            model.erase(found);
          } else {
            CHECK_FALSE(writer.erase(hash, next_entry));
          }
          break;
        case 3:
          if (const auto found = model.find(hash); found != model.end()) {
            CHECK(writer.replace(hash, found->second, next_entry));
            found->second = next_entry++;
          }
          break;
        default:
          if (writer.lines() < 4000 && model.size() > 3 * writer.lines()) writer.grow();
      }
      if (step % 64 == 0) {
        const auto [first, last] = model.equal_range(hash);
        std::set<std::uint32_t> expected;
        for (auto it = first; it != last; ++it) expected.insert(it->second);
        REQUIRE(table.find_all(hash) == expected);
      }
    }
    for (const auto& [hash, entry] : model) REQUIRE(table.find_all(hash).contains(entry));
    CHECK(writer.lines() > 100);
  }

  TEST_CASE("when everything is removed, all overflow lines are free again") {
    Table table(256);
    auto writer = table.writer();
    const std::uint32_t before = table.pool.available();
    for (std::uint32_t entry = 1; entry <= 100; ++entry) writer.insert(5, entry);
    CHECK(table.pool.available() < before);
    for (std::uint32_t entry = 1; entry <= 100; ++entry) CHECK(writer.erase(5, entry));
    CHECK(table.pool.available() == before);
  }

  TEST_CASE("repair drops the slots that the caller disowns and cuts links that cannot be") {
    Table table(64);
    auto writer = table.writer();
    for (std::uint32_t entry = 1; entry <= 30; ++entry) writer.insert(entry * 77, entry);
    table.overflow[60].overflow.store(3);
    Line* last = &table.lines[0];
    while (last->overflow.load() != 0) last = &table.overflow[last->overflow.load()];
    last->overflow.store(9999);  // out of range
    std::vector<bool> used(64);
    int seen = 0;
    writer.repair(used, [&](std::uint32_t line, std::uint64_t slot) {
      CHECK(line == 0);
      ++seen;
      return slot_entry(slot) % 2 == 0;
    });
    CHECK(seen == 30);
    CHECK(last->overflow.load() == 0);
    for (std::uint32_t entry = 1; entry <= 30; ++entry)
      CHECK(table.find_all(entry * 77).contains(entry) == (entry % 2 == 0));
    OverflowPool adopted;
    adopted.set_backed(64);
    adopted.adopt(used);
    const auto hanging = static_cast<std::uint32_t>(std::count(used.begin(), used.end(), true));
    CHECK(hanging == 4);
    CHECK(adopted.available() == 63 - hanging);
  }
}

}  // namespace
}  // namespace forebay::shm
