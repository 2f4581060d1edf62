// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/event_log.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <string>
#include <vector>

#include "tests/support/random.h"

namespace forebay::daemon {
namespace {

constexpr std::size_t plenty = 1 << 20;

StoreEvent sealed(std::string id, std::uint64_t version) {
  return {.kind = EventKind::sealed, .id = std::move(id), .version = version};
}

std::vector<std::uint64_t> versions(const EventLog::Batch& batch) {
  std::vector<std::uint64_t> found;
  for (const StoreEvent* event : batch.events) found.push_back(event->version);
  return found;
}
using Versions = std::vector<std::uint64_t>;

TEST_SUITE("event_log") {
  TEST_CASE("Events are read as they were recorded, in order, from the cursor on") {
    EventLog log(4, 10);
    CHECK(log.next() == 10);
    log.record({EventKind::sealed, RemovalCause::none, "points", 3, 77, 4096});
    log.record({EventKind::removed, RemovalCause::evicted, "labels", 1, 76, 64});
    CHECK(log.next() == 12);
    const EventLog::Batch all = log.read("", 10, plenty);
    CHECK(all.cursor == 12);
    CHECK(all.missed == 0);
    REQUIRE(all.events.size() == 2);
    CHECK(all.events[0]->kind == EventKind::sealed);
    CHECK(all.events[0]->cause == RemovalCause::none);
    CHECK(all.events[0]->id == "points");
    CHECK(all.events[0]->version == 3);
    CHECK(all.events[0]->serial == 77);
    CHECK(all.events[0]->size == 4096);
    CHECK(all.events[1]->kind == EventKind::removed);
    CHECK(all.events[1]->cause == RemovalCause::evicted);
    CHECK(all.events[1]->id == "labels");
    const EventLog::Batch second = log.read("", 11, plenty);
    REQUIRE(second.events.size() == 1);
    CHECK(second.events[0]->id == "labels");
    CHECK(log.read("", 12, plenty).events.empty());
  }

  TEST_CASE("A reader who comes when nothing has happened yet has missed what came before") {
    const EventLog log(4, 10);
    const EventLog::Batch late = log.read("", 3, plenty);
    CHECK(late.cursor == 10);
    CHECK(late.missed == 7);
    CHECK(late.events.empty());
    CHECK(log.read("", 10, plenty).missed == 0);
  }

  TEST_CASE("The newest events are remembered, and a late reader is told how many are not") {
    EventLog log(4, 1);
    for (std::uint64_t version = 1; version <= 11; ++version) log.record(sealed("id", version));
    const EventLog::Batch late = log.read("", 3, plenty);
    CHECK(versions(late) == Versions{8, 9, 10, 11});
    CHECK(late.missed == 5);  // 3 to 7
    CHECK(late.cursor == 12);
    const EventLog::Batch just_in_time = log.read("", 8, plenty);
    CHECK(versions(just_in_time) == Versions{8, 9, 10, 11});
    CHECK(just_in_time.missed == 0);
    CHECK(log.read("", 7, plenty).missed == 1);
  }

  TEST_CASE("What was forgotten counts as missed whatever its id, even if nothing else matches") {
    EventLog log(2, 1);
    for (std::uint64_t version = 1; version <= 5; ++version) log.record(sealed("other", version));
    const EventLog::Batch batch = log.read("mine", 2, plenty);
    CHECK(batch.missed == 2);
    CHECK(batch.events.empty());
    CHECK(batch.cursor == 6);
  }

  TEST_CASE("Only ids that start with the prefix are read, and the cursor passes the others") {
    EventLog log(16, 1);
    log.record(sealed("run/1", 1));
    log.record(sealed("run", 2));
    log.record(sealed("rerun/1", 3));
    log.record(sealed("run/2", 4));
    log.record(sealed("", 5));
    const EventLog::Batch runs = log.read("run/", 1, plenty);
    CHECK(versions(runs) == Versions{1, 4});
    CHECK(runs.cursor == 6);
    CHECK(versions(log.read("", 1, plenty)) == Versions{1, 2, 3, 4, 5});
    const EventLog::Batch none = log.read("run/33", 1, plenty);
    CHECK(none.events.empty());
    CHECK(none.cursor == 6);
  }

  TEST_CASE("An answer ends before the event that would be too much, and the next begins with it") {
    EventLog log(16, 1);
    log.record(sealed("abcd", 1));   // 44 bytes
    log.record(sealed("other", 2));  // none, for it does not match
    log.record(sealed("ab", 3));     // 42
    log.record(sealed("a", 4));      // 41
    const EventLog::Batch exact = log.read("a", 1, 44 + 42);
    CHECK(versions(exact) == Versions{1, 3});
    CHECK(exact.cursor == 4);
    CHECK(versions(log.read("a", exact.cursor, 44 + 42)) == Versions{4});
    const EventLog::Batch one_less = log.read("a", 1, 44 + 41);
    CHECK(versions(one_less) == Versions{1});
    CHECK(one_less.cursor == 3);
    CHECK(versions(log.read("a", 1, 44 + 42 + 41)) == Versions{1, 3, 4});
  }

  TEST_CASE("A reader gets on even where a single event is too much") {
    EventLog log(16, 1);
    log.record(sealed("other", 1));
    log.record(sealed("a long id", 2));
    log.record(sealed("a longer id", 3));
    const EventLog::Batch batch = log.read("a", 1, 10);
    CHECK(versions(batch) == Versions{2});
    CHECK(batch.cursor == 3);
  }

  TEST_CASE("A cursor from the future is taken for now") {
    EventLog log(4, 1);
    log.record(sealed("id", 1));
    const EventLog::Batch batch = log.read("", 99, plenty);
    CHECK(batch.cursor == 2);
    CHECK(batch.missed == 0);
    CHECK(batch.events.empty());
  }

  TEST_CASE("An event keeps nothing of the one whose memory it got") {
    EventLog log(1, 1);
    log.record({EventKind::removed, RemovalCause::expired, std::string(200, 'x'), 9, 9, 9});
    const StoreEvent* place = log.read("", 1, plenty).events.at(0);
    const char* memory = place->id.data();
    log.record(sealed(std::string(100, 'y'), 2));
    const EventLog::Batch batch = log.read("", 2, plenty);
    REQUIRE(batch.events.size() == 1);
    CHECK(batch.events[0]->id == std::string(100, 'y'));
    CHECK(batch.events[0]->kind == EventKind::sealed);
    CHECK(batch.events[0]->cause == RemovalCause::none);
    CHECK(batch.events[0]->serial == 0);
    CHECK(batch.events[0]->size == 0);
    CHECK(batch.events[0]->id.data() == memory);
  }

  TEST_CASE("A log that could remember more than there is memory for takes none before it must") {
    EventLog log(std::size_t{1} << 60, 1);
    log.record(sealed("id", 1));
    CHECK(versions(log.read("", 1, plenty)) == Versions{1});
  }

  TEST_CASE("Random reads agree with a plain list of all events") {
    test::Random random("event_log");
    for (int round = 0; round < 20; ++round) {
      const std::size_t capacity = 1 + random.below(40);
      const std::uint64_t first = random.below(1000);
      EventLog log(capacity, first);
      std::deque<StoreEvent> model;  // those that are remembered
      std::uint64_t oldest = first;
      for (int step = 0; step < 2000; ++step) {
        if (random.chance(0.6)) {
          const char* const ids[] = {"a", "ab", "b", "ba", "bab"};
          const StoreEvent event = sealed(ids[random.below(5)], random.next());
          log.record(event);
          model.push_back(event);
          if (model.size() > capacity) {
            model.pop_front();
            ++oldest;
          }
          continue;
        }
        const char* const prefixes[] = {"", "a", "b", "ba", "c"};
        const std::string prefix = prefixes[random.below(5)];
        const std::uint64_t cursor = random.between(oldest > 20 ? oldest - 20 : 0, log.next());
        const std::size_t bytes_max = 50 + random.below(500);
        Versions expected;
        std::size_t bytes = 0;
        std::uint64_t number = std::max(cursor, oldest);
        for (; number < oldest + model.size(); ++number) {
          const StoreEvent& event = model[number - oldest];
          if (event.id.rfind(prefix, 0) != 0) continue;
          if (bytes + 40 + event.id.size() > bytes_max) break;
          bytes += 40 + event.id.size();
          expected.push_back(event.version);
        }
        const EventLog::Batch batch = log.read(prefix, cursor, bytes_max);
        REQUIRE(versions(batch) == expected);
        REQUIRE(batch.cursor == number);
        REQUIRE(batch.missed == (cursor < oldest ? oldest - cursor : 0));
      }
      REQUIRE(log.next() == oldest + model.size());
    }
  }
}

}  // namespace
}  // namespace forebay::daemon
