// SPDX-License-Identifier: Apache-2.0
// What the daemon lets go on its own, and what keeps it from that: keep, time to live, holds,
// persistence, manifests.
#include <doctest/doctest.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "store/daemon/rules.h"
#include "tests/support/outcome.h"
#include "tests/support/rules_store.h"

namespace forebay::daemon {
namespace {

using shm::Reason;
using shm::RecordFlag;
using shm::State;
using std::chrono::milliseconds;
using std::chrono::seconds;
using test::Answer;
using test::nanoseconds;
using test::outcome;
using test::pages;
using test::reader;
using test::room_for;
using test::writer;
using Store = test::RulesStore;

const std::uint64_t ten_seconds = nanoseconds(seconds(10));

// What subscribers are told about the versions of one id: "1 sealed, 1 kept_newer, …".
std::string history(Store& store, std::string_view id) {
  std::string text;
  for (const StoreEvent& event : store.told(store.read_events(id, 0, seconds(0))).events) {
    if (event.id != id) continue;
    if (!text.empty()) text += ", ";
    text += std::to_string(event.version) + " ";
    constexpr std::array causes{"?", "removed", "kept_newer", "expired", "evicted", "superseded"};
    text += event.kind == EventKind::sealed ? "sealed"
                                            : causes.at(static_cast<std::size_t>(event.cause));
  }
  return text;
}

TEST_SUITE("rules_retention") {
  // ----------------------------------------------------------------------------- how many versions

  TEST_CASE("of an id stay the newest so many versions as its newest says") {
    Store store(room_for(64));
    for (int i = 0; i < 5; ++i) store.put({.id = "a", .size = 100, .keep = 3});
    CHECK(store.versions("a") == "3 4 5");
    CHECK(history(store, "a") ==
          "1 sealed, 2 sealed, 3 sealed, 4 sealed, 1 kept_newer, 5 sealed, 2 kept_newer");
    // Gaps do not count, and no other id does.
    store.put({.id = "b", .size = 100});
    store.put({.id = "a", .version = 90, .size = 100, .keep = 2});
    CHECK(store.versions("a") == "5 90");
    CHECK(store.versions("b") == "1");
    store.put({.id = "a", .size = 100, .keep = 1});
    CHECK(store.versions("a") == "91");
    CHECK(store.rules->usage().segments == 2);
    CHECK(store.rules->usage().used == pages(2));
    CHECK(store.adds_up());
  }

  TEST_CASE("what the newest version says counts, and what the others said does not") {
    Store store(room_for(64));
    for (int i = 0; i < 4; ++i) store.put({.id = "a", .size = 100});
    store.put({.id = "a", .version = 9, .size = 100, .keep = shm::keep_all});
    CHECK(store.versions("a") == "1 2 3 4 9");
    store.put({.id = "a", .version = 5, .size = 100, .keep = 1});
    CHECK(store.versions("a") == "1 2 3 4 5 9");
    store.put({.id = "a", .size = 100, .keep = 3});
    CHECK(store.versions("a") == "5 9 10");
  }

  TEST_CASE("what was said of an id goes on until something else is said, or nothing is left of it") {
    Store store(room_for(8));
    for (int i = 0; i < 3; ++i) store.put({.id = "a", .size = pages(1)});
    REQUIRE(store.rules->keep("a", 2));
    for (int i = 0; i < 2; ++i) store.put({.id = "a", .size = pages(1)});
    CHECK(store.versions("a") == "4 5");
    store.put({.id = "a", .size = pages(1), .keep = 3});
    store.put({.id = "a", .size = pages(1)});
    CHECK(store.versions("a") == "5 6 7");
    // An old version that says nothing has no part in it, and one that does has none, either.
    store.put({.id = "a", .version = 2, .size = pages(1), .keep = 1});
    CHECK(store.versions("a") == "5 6 7");
    SUBCASE("a tombstone still says it") {
      store.put({.id = "b", .size = pages(1), .evictable = true, .keep = 1});
      store.put({.id = "c", .size = pages(5)});
      REQUIRE(store.why_gone("b", 1) == Reason::evicted);
      REQUIRE(store.rules->remove("c", 0, 0, false));
      for (int i = 0; i < 2; ++i) store.put({.id = "b", .size = pages(1)});
      CHECK(store.versions("b") == "3");
    }
    SUBCASE("a restart changes nothing") {
      store.restart({false, true});
      store.put({.id = "a", .size = pages(1)});
      CHECK(store.versions("a") == "6 7 8");
    }
    SUBCASE("nothing is left") {
      REQUIRE(store.rules->remove("a", 0, 0, false));
      for (int i = 0; i < 4; ++i) store.put({.id = "a", .size = pages(1)});
      CHECK(store.versions("a") == "1 2 3 4");
    }
  }

  TEST_CASE("an id whose versions say nothing is as the namespace says") {
    RulesOptions options = room_for(64);
    options.keep = 2;
    Store store(options);
    for (int i = 0; i < 4; ++i) store.put({.id = "a", .size = 100});
    CHECK(store.versions("a") == "3 4");
    store.put({.id = "a", .size = 100, .keep = shm::keep_all});
    CHECK(store.versions("a") == "3 4 5");
    store.put({.id = "a", .size = 100});
    CHECK(store.versions("a") == "3 4 5 6");
    for (int i = 0; i < 3; ++i) store.put({.id = "b", .size = 100});
    CHECK(store.versions("b") == "2 3");
  }

  TEST_CASE("keep says it of an id that is there") {
    Store store(room_for(64));
    CHECK(outcome(store.rules->keep("a", 2)) == "not_found");
    for (int i = 0; i < 4; ++i) store.put({.id = "a", .size = 100});
    CHECK(outcome(store.rules->keep("a", 0)) == "bad_argument");
    CHECK(outcome(store.rules->keep("a", shm::keep_all + 1)) == "bad_argument");
    CHECK(outcome(store.rules->keep("a", 3)) == "ok");
    CHECK(store.versions("a") == "2 3 4");
    CHECK(store.rules->keep_of_id(*store.rules->find("a", 2)) == 3);
    CHECK(outcome(store.rules->keep("a", shm::keep_all)) == "ok");
    CHECK(outcome(store.rules->keep("a", shm::keep_all - 1)) == "ok");
    CHECK(store.versions("a") == "2 3 4");
    CHECK(outcome(store.rules->keep("a", 1)) == "ok");
    CHECK(store.versions("a") == "4");
    // A tombstone says nothing.
    store.put({.id = "b", .size = pages(63), .evictable = true});
    store.put({.id = "c", .size = pages(63)});
    CHECK(store.why_gone("b", 1) == Reason::evicted);
    CHECK(outcome(store.rules->keep("b", 1)) == "not_found");
  }

  TEST_CASE("what is being made, or was buried, does not count as a version") {
    Store store(room_for(4));
    store.put({.id = "a", .size = pages(1), .evictable = true});
    store.put({.id = "a", .size = pages(1)});
    store.put({.id = "a", .size = pages(1), .evictable = true, .keep = 2});
    CHECK(store.versions("a") == "2 3");
    // The third is dropped to make room, and the second is then the newest there is.
    store.put({.id = "b", .size = pages(3)});
    CHECK(store.why_gone("a", 3) == Reason::evicted);
    CHECK(store.versions("a") == "2");
    store.rules->remove("b", 0, 0, false).value();
    const Answer making = store.made_by(store.create({.id = "a", .size = pages(1), .keep = 2}));
    store.put({.id = "a", .size = pages(1), .keep = 2});
    CHECK(store.versions("a") == "2 5");
    store.seal(making);
    CHECK(store.versions("a") == "4 5");
  }

  TEST_CASE("a recomputed version that is older than what stays goes as soon as it is sealed") {
    Store store(room_for(64));
    store.put({.id = "a", .version = 7, .size = 100, .keep = 2});
    store.put({.id = "a", .version = 8, .size = 100, .keep = 2});
    const Ticket waiter = store.await("a", {.exact = 3}, seconds(9));
    const Answer third = store.made_by(store.create({.id = "a", .version = 3, .size = 100}));
    // Who pins it in time has it. (Somebody may: from the seal on it is seen.)
    SUBCASE("unpinned") {
      store.seal(third);
      CHECK(store.state(third) == State::free);
      CHECK(store.heard(waiter) == "awaited");
    }
    SUBCASE("pinned") {
      store.pin(third);
      store.seal(third);
      CHECK(store.versions("a") == "3 7 8");
      CHECK(store.wanted(third));
      store.release(third);
      CHECK(store.state(third) == State::free);
    }
    CHECK(store.versions("a") == "7 8");
    CHECK(history(store, "a") == "7 sealed, 8 sealed, 3 sealed, 3 kept_newer");
  }

  TEST_CASE("a version in between pushes the oldest out") {
    Store store(room_for(64));
    for (const std::uint64_t version : {1U, 5U, 3U})
      store.put({.id = "a", .version = version, .size = 100, .keep = 2});
    CHECK(store.versions("a") == "3 5");
  }

  TEST_CASE("a surplus version stays readable while it is pinned, and goes with the last pin") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = pages(3), .keep = 1});
    store.pin(first);
    store.pin(first, 5);
    const Answer second = store.put({.id = "a", .size = pages(2), .keep = 1});
    CHECK(store.versions("a") == "1 2");
    CHECK(*store.rules->find("a", 1) == first.entry);
    CHECK(store.state(first) == State::sealed);
    CHECK(store.wanted(first));
    CHECK_FALSE(store.wanted(second));
    CHECK(store.rules->usage().removing == 0);
    CHECK(store.rules->usage().used == pages(5));
    // The next look is due at once, and then every 100 ms.
    store.pass(milliseconds(1));
    CHECK(store.rules->next_wakeup() == store.now + milliseconds(100));
    store.release(first, 5);
    CHECK(store.versions("a") == "1 2");

    SUBCASE("at the nudge") { store.release(first); }
    SUBCASE("at the next look, should the nudge get lost") {
      store.unpin(first);
      store.pass(milliseconds(99));
      CHECK(store.versions("a") == "1 2");
      store.pass(milliseconds(1));
    }
    SUBCASE("at the death of who pinned it") { store.die(reader); }
    SUBCASE("at the next seal") {
      store.unpin(first);
      store.put({.id = "a", .version = 3, .size = pages(2), .keep = 1});
      REQUIRE(store.rules->remove("a", 3, 0, false));
    }
    CHECK(store.state(first) == State::free);
    CHECK_FALSE(store.wanted(first));
    CHECK_FALSE(store.finds("a", 1));
    CHECK(store.rules->usage().warm >= pages(3));
    CHECK_FALSE(store.rules->next_wakeup());
    CHECK(store.adds_up());
  }

  TEST_CASE("a pin that ends while the daemon asks for word of it is not missed") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 1});
    store.pin(first);
    // At the first look the flag has been set: whoever let go before would have said so.
    bool looked = false;
    store.census.before_look = [&] {
      if (std::exchange(looked, true)) return;
      CHECK(store.wanted(first));
      CHECK(store.state(first) == State::evicting);
      store.unpin(first);
    };
    store.put({.id = "a", .size = 100, .keep = 1});
    store.census.before_look = {};
    CHECK(store.state(first) == State::free);
  }

  TEST_CASE("a surplus version that is wanted again stays") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 1});
    store.pin(first);
    store.put({.id = "a", .size = 100, .keep = 1});
    REQUIRE(store.wanted(first));
    SUBCASE("because keep was raised") { REQUIRE(store.rules->keep("a", 2)); }
    SUBCASE("because all are kept now") { REQUIRE(store.rules->keep("a", shm::keep_all)); }
    SUBCASE("because the newest version says so") {
      store.put({.id = "a", .size = 100, .keep = 3});
    }
    SUBCASE("because the newest was removed") { REQUIRE(store.rules->remove("a", 2, 0, false)); }
    SUBCASE("because it is held") { REQUIRE(store.rules->hold("a", 1, 0, writer)); }
    SUBCASE("because it is to stay for ever") { REQUIRE(store.rules->persist("a", 1, 0)); }
    store.release(first);
    store.pass(seconds(1));
    CHECK(store.finds("a", 1));
    CHECK_FALSE(store.wanted(first));
    CHECK_FALSE(store.rules->next_wakeup());
  }

  TEST_CASE("a surplus version can be removed, pinned or not") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 1});
    store.pin(first);
    store.put({.id = "a", .size = 100, .keep = 1});
    CHECK(*store.rules->remove("a", 1, 0, false) == 1);
    CHECK(store.state(first) == State::removing);
    CHECK(store.wanted(first));
    store.release(first);
    CHECK(store.state(first) == State::free);
    CHECK(history(store, "a") == "1 sealed, 2 sealed, 1 removed");
  }

  TEST_CASE("a surplus version makes room like any other, if it may") {
    Store store(room_for(4));
    const Answer first =
        store.put({.id = "a", .size = pages(2), .evictable = true, .keep = 1});
    store.pin(first);
    store.put({.id = "a", .size = pages(2), .keep = 1});
    store.unpin(first);  // and the nudge has not come yet
    store.put({.id = "b", .size = pages(2)});
    CHECK(store.why_gone("a", 1) == Reason::evicted);
    CHECK_FALSE(store.table->word(*store.rules->find("a", 1)).wanted());
    store.rules->nudge(first.entry);
    CHECK_FALSE(store.rules->next_wakeup());
    CHECK(store.adds_up());
  }

  TEST_CASE("what surplus versions leave goes to who waits for room") {
    Store store(room_for(4));
    const Answer first = store.put({.id = "a", .size = pages(2), .keep = 1});
    store.pin(first);
    store.put({.id = "a", .size = pages(2), .keep = 1});
    const Ticket parked = store.create(
        {.id = "b", .size = pages(2), .timeout_ns = ten_seconds});
    CHECK(store.heard(parked) == "nothing");
    store.release(first);
    CHECK(store.heard(parked) == "created");
  }

  TEST_CASE("what is let go for a put that waited goes to others who wait, also to who came before") {
    Store store(room_for(4));
    store.put({.id = "a", .size = pages(2), .keep = 1});
    for (const char* id : {"x", "y"}) store.put({.id = id, .size = pages(1)});
    const Ticket large = store.create({.id = "b", .size = pages(2), .timeout_ns = ten_seconds});
    const Ticket small =
        store.create({.id = "a", .size = pages(1), .timeout_ns = ten_seconds, .keep = 1});
    store.outside.on_created = [&](const Answer& answer) {
      if (answer.ticket == small) store.seal(answer);
    };
    REQUIRE(store.rules->remove("x", 0, 0, false));
    CHECK(store.heard(small) == "created");
    CHECK(store.versions("a") == "2");
    CHECK(store.heard(large) == "created");
  }

  TEST_CASE("a daemon that follows another keeps as many") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 2});
    store.pin(first);
    for (int i = 0; i < 3; ++i) store.put({.id = "a", .size = 100, .keep = 2});
    CHECK(store.versions("a") == "1 3 4");
    SUBCASE("the pin is still there") {
      store.restart({false, true, true});
      CHECK(store.versions("a") == "1 3 4");
      CHECK(store.wanted(first));
      store.release(first);
    }
    SUBCASE("the pin has gone") {
      store.unpin(first);
      store.restart({false, true, true});
    }
    CHECK(store.versions("a") == "3 4");
    CHECK(store.rules->usage().used == pages(2));
    CHECK(store.adds_up());
  }

  TEST_CASE("a daemon with another default follows") {
    Store store(room_for(64));
    for (int i = 0; i < 3; ++i) store.put({.id = "a", .size = 100});
    for (int i = 0; i < 3; ++i) store.put({.id = "b", .size = 100, .keep = shm::keep_all});
    store.options.keep = 1;
    store.restart({false, true});
    CHECK(store.versions("a") == "3");
    CHECK(store.versions("b") == "1 2 3");
  }

  // ---------------------------------------------------------------------------------- time to live

  TEST_CASE("a segment is removed when its time is up, and never before") {
    Store store(room_for(64));
    const Answer made = store.put({.id = "a", .size = 100, .ttl_ns = ten_seconds});
    store.put({.id = "b", .size = 100});
    CHECK(store.rules->expiry(made.entry) == store.now + seconds(10));
    CHECK(store.rules->next_wakeup() == store.now + seconds(10));
    store.pass(seconds(10) - std::chrono::nanoseconds(1));
    CHECK(store.finds("a"));
    store.pass(std::chrono::nanoseconds(1));
    CHECK_FALSE(store.finds("a"));
    CHECK(store.state(made) == State::free);
    CHECK(store.finds("b"));
    CHECK(history(store, "a") == "1 sealed, 1 expired");
    CHECK_FALSE(store.rules->next_wakeup());
  }

  TEST_CASE("a segment's time begins with its seal") {
    Store store(room_for(64));
    const Answer made =
        store.made_by(store.create({.id = "a", .size = 100, .ttl_ns = ten_seconds}));
    store.pass(seconds(60));
    CHECK_FALSE(store.rules->expiry(made.entry));
    store.seal(made);
    CHECK(store.rules->expiry(made.entry) == store.now + seconds(10));
    store.pass(seconds(9));
    CHECK(store.finds("a"));
    store.pass(seconds(1));
    CHECK_FALSE(store.finds("a"));
  }

  TEST_CASE("an expired segment that is pinned is out of sight, and goes with the pin") {
    Store store(room_for(64));
    const Answer made = store.put({.id = "a", .size = pages(3), .ttl_ns = ten_seconds});
    store.pin(made);
    store.pass(seconds(10));
    CHECK_FALSE(store.finds("a"));
    CHECK(store.state(made) == State::removing);
    CHECK(store.rules->usage().removing == 1);
    CHECK(store.rules->usage().used == pages(3));
    store.release(made);
    CHECK(store.state(made) == State::free);
  }

  TEST_CASE("time that is up does nothing to a segment that is gone, or to what came in its place") {
    Store store(room_for(64));
    const Answer made = store.put({.id = "a", .size = 100, .ttl_ns = ten_seconds});
    REQUIRE(store.rules->remove("a", 0, 0, false));
    CHECK_FALSE(store.rules->next_wakeup());
    const Answer next = store.put({.id = "b", .size = 100});
    CHECK(next.entry == made.entry);
    CHECK_FALSE(store.rules->expiry(next.entry));
    store.pass(seconds(20));
    CHECK(store.finds("b"));
  }

  TEST_CASE("a held segment outlives its time, and goes when nobody holds it") {
    Store store(room_for(64));
    const Answer made = store.put({.id = "a", .size = 100, .ttl_ns = ten_seconds});
    REQUIRE(store.rules->hold("a", 0, 0, writer));
    REQUIRE(store.rules->hold("a", 0, 0, reader));
    store.pass(seconds(20));
    CHECK(store.finds("a"));
    CHECK_FALSE(store.rules->next_wakeup());
    REQUIRE(store.rules->unhold("a", 0, made.serial, reader));
    CHECK(store.finds("a"));
    SUBCASE("let go") { REQUIRE(store.rules->unhold("a", 0, made.serial, writer)); }
    SUBCASE("its holder dies") { store.die(writer); }
    SUBCASE("its holder says that it holds nothing") { store.rules->hold_again(writer, {}); }
    CHECK_FALSE(store.finds("a"));
    CHECK(history(store, "a") == "1 sealed, 1 expired");
  }

  TEST_CASE("a persistent segment has no end") {
    Store store(room_for(4));
    store.put({.id = "a", .size = pages(1), .evictable = true, .persistent = true, .keep = 1,
               .ttl_ns = ten_seconds});
    store.put({.id = "a", .size = pages(1), .keep = 1});
    store.pass(seconds(20));
    CHECK(store.heard(store.create({.id = "b", .size = pages(3)})) == "store_full");
    CHECK(store.versions("a") == "1 2");
    CHECK_FALSE(store.rules->next_wakeup());
    CHECK(*store.rules->remove("a", 1, 0, false) == 1);
  }

  TEST_CASE("a segment becomes persistent as it is") {
    Store store(room_for(64));
    CHECK(outcome(store.rules->persist("a", 0, 0)) == "not_found");
    const Answer made = store.put({.id = "a", .size = 100, .ttl_ns = ten_seconds});
    CHECK(outcome(store.rules->persist("a", 0, made.serial + 1)) == "stale_ref");
    CHECK(*store.rules->persist("a", 0, 0) == made.entry);
    store.pass(seconds(20));
    CHECK(store.finds("a"));
    store.restart({false, true});
    store.pass(seconds(20));
    CHECK(store.finds("a"));
    store.rules->drop_all(true);
    CHECK(store.finds("a"));
  }

  TEST_CASE("after a restart a segment's time goes on, never shorter, longer by two seconds at most") {
    // The record counts in seconds since the store was born, which is 10.9 s before the first moment.
    for (const auto ttl : {milliseconds(100), milliseconds(1900), milliseconds(10'000),
                           milliseconds(10'200), milliseconds(10'950)}) {
      for (const auto age : {milliseconds(0), milliseconds(50), milliseconds(500)}) {
        CAPTURE(ttl.count());
        CAPTURE(age.count());
        Store store(room_for(64));
        store.pass(age);
        const Answer made = store.put({.id = "a", .size = 100, .ttl_ns = nanoseconds(ttl)});
        const TimePoint end = store.now + ttl;
        store.pass(ttl / 2);
        store.restart({false, true});
        REQUIRE(store.rules->expiry(made.entry));
        CHECK(*store.rules->expiry(made.entry) >= end);
        CHECK(*store.rules->expiry(made.entry) <= end + seconds(2));
        store.pass(end - store.now - milliseconds(1));
        CHECK(store.finds("a"));
        store.pass(seconds(2) + milliseconds(1));
        CHECK_FALSE(store.finds("a"));
      }
    }
  }

  TEST_CASE("what expired while no daemon was there goes when one is") {
    Store store(room_for(64));
    store.put({.id = "a", .size = 100, .ttl_ns = ten_seconds});
    store.now += seconds(60);
    store.wall_ns += nanoseconds(seconds(60));
    store.restart({false, true});
    CHECK(*store.rules->next_wakeup() <= store.now);
    store.pass(milliseconds(0));
    CHECK_FALSE(store.finds("a"));
  }

  TEST_CASE("a clock that was set back makes a segment's time longer, not shorter") {
    Store store(room_for(64));
    store.put({.id = "a", .size = 100, .ttl_ns = ten_seconds});
    store.wall_ns -= nanoseconds(seconds(3600));
    store.restart({false, true});
    store.pass(seconds(10));
    CHECK(store.finds("a"));
    store.pass(seconds(3600 + 2));
    CHECK_FALSE(store.finds("a"));
  }

  TEST_CASE("a segment that was being made at a restart has its whole time before it") {
    Store store(room_for(64));
    const Answer made =
        store.made_by(store.create({.id = "a", .size = 100, .ttl_ns = ten_seconds + 1}));
    SUBCASE("the daemon died before the seal") {}
    SUBCASE("the daemon died in the seal") {
      // It had written when the segment's time is up, and when it was sealed, and not that it was.
      const std::uint64_t age_ns = store.wall_ns - store.memory.map().stamp->born_ns;
      store.table->set_expires(made.entry,
                               static_cast<std::uint32_t>(age_ns / 1'000'000'000 + 11));
      store.memory.map().records[made.entry].sealed_ns.store(store.wall_ns);
    }
    store.pass(seconds(5));
    store.restart({false, true});
    store.seal(made);
    CHECK(*store.rules->expiry(made.entry) >= store.now + seconds(10));
    CHECK(*store.rules->expiry(made.entry) <= store.now + seconds(12));
    store.pass(seconds(10));
    CHECK(store.finds("a"));
    store.pass(seconds(2));
    CHECK_FALSE(store.finds("a"));
  }

  TEST_CASE("when the time of several is up at once, nothing but these goes") {
    // What the first leaves goes to a put that waited. It drops the second, and has its entry.
    RulesOptions options = room_for(4);
    options.tombstones_max = 0;
    Store store(options);
    store.put({.id = "first", .size = pages(2), .ttl_ns = ten_seconds});
    const Answer second = store.put(
        {.id = "second", .size = pages(2), .evictable = true, .ttl_ns = ten_seconds});
    store.pin(second);
    const Ticket parked =
        store.create({.id = "new", .size = pages(4), .timeout_ns = 2 * ten_seconds});
    store.outside.on_created = [&](const Answer& answer) { store.seal(answer); };
    store.unpin(second);
    store.pass(seconds(10));
    CHECK(store.heard(parked) == "created");
    CHECK(store.finds("new"));
    CHECK_FALSE(store.finds("first"));
    CHECK_FALSE(store.finds("second"));
    CHECK(history(store, "new") == "1 sealed");
    CHECK(store.adds_up());
  }

  // ---------------------------------------------------------------------------------------- holding

  TEST_CASE("a hold keeps the daemon from letting a segment go, and nobody from removing it") {
    Store store(room_for(4));
    const Answer first = store.put({.id = "a", .size = pages(1), .evictable = true, .keep = 1});
    CHECK(*store.rules->hold("a", 0, 0, writer) == first.entry);
    CHECK(store.table->has_flag(first.entry, RecordFlag::held));
    CHECK(store.rules->leases(first.entry) == std::vector<std::uint32_t>{writer});
    store.put({.id = "a", .size = pages(1), .evictable = true, .keep = 1});
    CHECK(store.versions("a") == "1 2");
    CHECK_FALSE(store.wanted(first));
    CHECK(store.heard(store.create({.id = "b", .size = pages(4)})) == "store_full");
    CHECK(store.versions("a") == "1");
    CHECK(*store.rules->remove("a", 1, 0, false) == 1);
    CHECK(store.state(first) == State::free);
    CHECK(store.rules->leases(first.entry).empty());
    CHECK(outcome(store.rules->unhold("a", 1, first.serial, writer)) == "stale_ref");
  }

  TEST_CASE("a hold names what it holds") {
    Store store(room_for(64));
    CHECK(outcome(store.rules->hold("a", 0, 0, writer)) == "not_found");
    const Answer making = store.made_by(store.create({.id = "a", .size = 100}));
    CHECK(outcome(store.rules->hold("a", 1, 0, writer)) == "not_found");
    store.seal(making);
    const Answer second = store.put({.id = "a", .size = 100});
    CHECK(*store.rules->hold("a", 0, 0, writer) == second.entry);
    CHECK(*store.rules->hold("a", 1, making.serial, writer) == making.entry);
    CHECK(outcome(store.rules->hold("a", 1, second.serial, writer)) == "stale_ref");
    CHECK(outcome(store.rules->hold("a", 3, 0, writer)) == "not_found");
    CHECK(outcome(store.rules->hold("a", 3, 77, writer)) == "stale_ref");
  }

  TEST_CASE("holds are counted, for each process by itself") {
    Store store(room_for(64));
    const Answer made = store.put({.id = "a", .size = 100, .keep = 1});
    for (int i = 0; i < 2; ++i) REQUIRE(store.rules->hold("a", 1, 0, writer));
    REQUIRE(store.rules->hold("a", 1, 0, reader));
    store.put({.id = "a", .size = 100, .keep = 1});
    const auto unhold = [&](std::uint32_t slot) {
      return outcome(store.rules->unhold("a", 1, made.serial, slot));
    };
    CHECK(unhold(5) == "bad_state");
    CHECK(unhold(reader) == "ok");
    CHECK(unhold(reader) == "bad_state");
    CHECK(unhold(writer) == "ok");
    CHECK(store.finds("a", 1));
    CHECK(store.table->has_flag(made.entry, RecordFlag::held));
    CHECK(unhold(writer) == "ok");
    CHECK_FALSE(store.finds("a", 1));
  }

  TEST_CASE("a process's holds end with it, however many it had") {
    Store store(room_for(64));
    const Answer alone = store.put({.id = "a", .size = 100, .keep = 1});
    for (int i = 0; i < 3; ++i) REQUIRE(store.rules->hold("a", 1, 0, writer));
    const Answer shared = store.put({.id = "b", .size = 100, .keep = 1});
    REQUIRE(store.rules->hold("b", 1, 0, writer));
    REQUIRE(store.rules->hold("b", 1, 0, reader));
    const Answer newest = store.put({.id = "c", .size = 100, .keep = 1});
    REQUIRE(store.rules->hold("c", 1, 0, writer));
    for (const char* id : {"a", "b"}) store.put({.id = id, .size = 100, .keep = 1});
    store.die(writer);
    CHECK(store.state(alone) == State::free);
    CHECK(store.state(shared) == State::sealed);
    CHECK(store.state(newest) == State::sealed);
    CHECK_FALSE(store.table->has_flag(newest.entry, RecordFlag::held));
    store.die(reader);
    CHECK(store.state(shared) == State::free);
  }

  TEST_CASE("what is held no more and still pinned goes with the pin") {
    Store store(room_for(64));
    const Answer made = store.put({.id = "a", .size = 100, .keep = 1});
    REQUIRE(store.rules->hold("a", 1, 0, writer));
    store.put({.id = "a", .size = 100, .keep = 1});
    store.pin(made);
    REQUIRE(store.rules->unhold("a", 1, 0, writer));
    CHECK(store.finds("a", 1));
    CHECK(store.wanted(made));
    store.release(made);
    CHECK_FALSE(store.finds("a", 1));
  }

  TEST_CASE("after a restart each living process holds all that was held, until it says what it holds") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 1});
    const Answer other = store.put({.id = "b", .size = 100, .keep = 1});
    REQUIRE(store.rules->hold("a", 1, 0, writer));
    REQUIRE(store.rules->hold("a", 1, 0, writer));
    REQUIRE(store.rules->hold("b", 1, 0, reader));
    for (const char* id : {"a", "b"}) store.put({.id = id, .size = 100, .keep = 1});
    const std::vector<std::pair<EntryNumber, std::uint64_t>> of_writer{
        {first.entry, first.serial}, {first.entry, first.serial}};
    const std::vector<std::pair<EntryNumber, std::uint64_t>> of_reader{
        {other.entry, other.serial}};

    store.restart({false, true, true, false, true});
    CHECK(store.versions("a") == "1 2");
    CHECK(store.versions("b") == "1 2");
    CHECK(store.rules->leases(first.entry) == std::vector<std::uint32_t>{1, 2, 4});

    SUBCASE("they say it, one by one") {
      store.rules->hold_again(writer, of_writer);
      CHECK(store.rules->leases(other.entry) == std::vector<std::uint32_t>{2, 4});
      store.rules->hold_again(4, {});
      CHECK(store.finds("b", 1));
      store.rules->hold_again(reader, of_reader);
      CHECK(store.rules->leases(first.entry) == std::vector<std::uint32_t>{writer});
      CHECK(store.rules->leases(other.entry) == std::vector<std::uint32_t>{reader});
      // Counted as before.
      REQUIRE(store.rules->unhold("a", 1, first.serial, writer));
      CHECK(store.finds("a", 1));
      REQUIRE(store.rules->unhold("a", 1, first.serial, writer));
      CHECK_FALSE(store.finds("a", 1));
      CHECK(store.finds("b", 1));
    }
    SUBCASE("nobody who is left holds the second one") {
      store.rules->hold_again(writer, of_writer);
      store.rules->hold_again(4, {});
      store.die(reader);
      CHECK(store.finds("a", 1));
      CHECK_FALSE(store.finds("b", 1));
    }
    SUBCASE("they die without a word") {
      for (const std::uint32_t slot : {1U, 2U, 4U}) {
        CHECK(store.finds("a", 1));
        store.die(slot);
      }
      CHECK(store.versions("a") == "2");
      CHECK(store.versions("b") == "2");
    }
    SUBCASE("another restart comes before they could say it") {
      store.restart({false, true, true, false, true});
      store.rules->hold_again(4, {});
      store.rules->hold_again(reader, {});
      CHECK(store.finds("a", 1));
      CHECK(store.finds("b", 1));
      store.rules->hold_again(writer, of_writer);
      CHECK(store.finds("a", 1));
      CHECK_FALSE(store.finds("b", 1));
    }
  }

  TEST_CASE("holds of processes that died with the daemon are nobody's") {
    Store store(room_for(64));
    const Answer made = store.put({.id = "a", .size = 100, .keep = 1});
    REQUIRE(store.rules->hold("a", 1, 0, writer));
    store.put({.id = "a", .size = 100, .keep = 1});
    store.restart({});
    CHECK_FALSE(store.finds("a", 1));
    CHECK(store.state(made) == State::free);
  }

  TEST_CASE("what a process says that it holds is believed only as far as it is there") {
    Store store(room_for(64));
    const Answer made = store.put({.id = "a", .size = 100});
    const Answer gone = store.put({.id = "b", .size = 100});
    REQUIRE(store.rules->remove("b", 0, 0, false));
    const Answer making = store.made_by(store.create({.id = "c", .size = 100}));
    const std::vector<std::pair<EntryNumber, std::uint64_t>> said{
        {made.entry, made.serial},       {made.entry, made.serial + 1}, {gone.entry, gone.serial},
        {making.entry, making.serial},   {no_entry, 0},                 {no_entry, made.serial},
        {~EntryNumber{0}, made.serial},  {4000, 0}};
    store.rules->hold_again(writer, said);
    CHECK(store.rules->leases(made.entry) == std::vector<std::uint32_t>{writer});
    CHECK(store.rules->leases(making.entry).empty());
    CHECK(store.rules->leases(gone.entry).empty());
    REQUIRE(store.rules->unhold("a", 1, 0, writer));
    CHECK(outcome(store.rules->unhold("a", 1, 0, writer)) == "bad_state");
  }

  TEST_CASE("saying it again without a restart changes nothing") {
    Store store(room_for(64));
    const Answer made = store.put({.id = "a", .size = 100, .keep = 1});
    REQUIRE(store.rules->hold("a", 1, 0, writer));
    store.put({.id = "a", .size = 100, .keep = 1});
    const std::vector<std::pair<EntryNumber, std::uint64_t>> held{{made.entry, made.serial}};
    store.rules->hold_again(writer, held);
    CHECK(store.finds("a", 1));
    REQUIRE(store.rules->unhold("a", 1, 0, writer));
    CHECK_FALSE(store.finds("a", 1));
  }

  // -------------------------------------------------------------------------------------- manifests

  TEST_CASE("a manifest keeps what it lists") {
    Store store(room_for(8));
    const Answer kept = store.put({.id = "a", .size = pages(1), .keep = 1});
    const Answer timed = store.put({.id = "b", .size = pages(1), .ttl_ns = ten_seconds});
    const Answer evictable = store.put({.id = "c", .size = pages(1), .evictable = true});
    const Answer manifest = store.put_manifest(
        {.id = "batch"},
        {store.member("a", kept), store.member("b", timed), store.member("c", evictable)});
    for (const Answer& member : {kept, timed, evictable}) {
      CHECK(store.rules->manifests_of(member.entry) == 1);
      CHECK(store.table->has_flag(member.entry, RecordFlag::held));
    }
    store.put({.id = "a", .size = pages(1), .keep = 1});
    store.pass(seconds(20));
    CHECK(store.heard(store.create({.id = "d", .size = pages(5)})) == "store_full");
    CHECK(store.versions("a") == "1 2");
    CHECK(store.finds("b"));
    CHECK(store.finds("c"));

    // Nor can they be removed, and the refusal says why.
    for (const char* id : {"a", "b", "c"}) {
      const auto refused = store.rules->remove(id, 1, 0, false);
      CHECK(outcome(refused) == "conflict");
      CHECK(refused.error().detail.find("'batch'") != std::string::npos);
    }
    // All or nothing, where all versions are meant.
    CHECK(outcome(store.rules->remove("a", 0, 0, false)) == "conflict");
    CHECK(store.versions("a") == "1 2");
    CHECK(*store.rules->remove_before("a", 3) == 1);
    CHECK(store.versions("a") == "1");

    SUBCASE("until it is removed") { REQUIRE(store.rules->remove("batch", 0, 0, false)); }
    SUBCASE("until all goes") {
      store.rules->drop_all(false);
      CHECK(store.rules->usage().segments == 0);
      return;
    }
    CHECK(store.state(manifest) == State::free);
    CHECK(store.versions("a") == "1");
    CHECK(store.rules->manifests_of(kept.entry) == 0);
    CHECK_FALSE(store.table->has_flag(kept.entry, RecordFlag::held));
    CHECK_FALSE(store.finds("b"));
    CHECK(store.finds("c"));
    CHECK(history(store, "b") == "1 sealed, 1 expired");
    CHECK(*store.rules->remove("a", 0, 0, false) == 1);
    store.put({.id = "d", .size = pages(8)});
    CHECK(store.why_gone("c", 1) == Reason::evicted);
  }

  TEST_CASE("the end of a manifest lets go what keep would have") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 1});
    store.put_manifest({.id = "batch"}, {store.member("a", first)});
    store.put({.id = "a", .size = 100, .keep = 1});
    REQUIRE(store.rules->remove("batch", 0, 0, false));
    CHECK(store.versions("a") == "2");
    CHECK(history(store, "a") == "1 sealed, 2 sealed, 1 kept_newer");
  }

  TEST_CASE("what several hold stays until none of them does") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 1});
    store.put_manifest({.id = "one"}, {store.member("a", first)});
    store.put_manifest({.id = "two"}, {store.member("a", first)});
    REQUIRE(store.rules->hold("a", 1, 0, reader));
    store.put({.id = "a", .size = 100, .keep = 1});
    CHECK(store.rules->manifests_of(first.entry) == 2);
    REQUIRE(store.rules->remove("one", 0, 0, false));
    CHECK(store.rules->manifests_of(first.entry) == 1);
    REQUIRE(store.rules->unhold("a", 1, 0, reader));
    CHECK(outcome(store.rules->remove("a", 1, 0, false)) == "conflict");
    CHECK(store.finds("a", 1));
    REQUIRE(store.rules->hold("a", 1, 0, reader));
    REQUIRE(store.rules->remove("two", 0, 0, false));
    CHECK(store.finds("a", 1));
    store.die(reader);
    CHECK_FALSE(store.finds("a", 1));
  }

  TEST_CASE("a manifest is sealed only if all that it lists is there") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100});
    const Answer gone = store.put({.id = "b", .size = 100});
    const Answer making = store.made_by(store.create({.id = "c", .size = 100}));
    REQUIRE(store.rules->remove("b", 0, 0, false));
    shm::ManifestMember missing = store.member("b", gone);
    SUBCASE("one was removed") {}
    SUBCASE("one was removed and put again") {
      store.put({.id = "b", .version = 1, .size = 100});
    }
    SUBCASE("one is not sealed") { missing = store.member("c", making); }
    SUBCASE("one was evicted") {
      missing = store.member("d", store.put({.id = "d", .size = pages(60), .evictable = true}));
      store.put({.id = "e", .size = pages(60)});
      REQUIRE(store.why_gone("d", 1) == Reason::evicted);
    }
    const Answer manifest =
        store.make_manifest({.id = "batch"}, {store.member("a", first), missing});
    const auto sealed = store.rules->seal(manifest.entry, manifest.serial, writer, false, 1, {},
                                          std::vector{store.member("a", first), missing});
    CHECK(outcome(sealed) == "not_found");
    CHECK(sealed.error().detail.find("'batch'") != std::string::npos);
    CHECK(sealed.error().detail.find("'" + missing.id + "'") != std::string::npos);
    CHECK(store.state(manifest) == State::creating);
    CHECK_FALSE(store.finds("batch"));
    CHECK_FALSE(store.table->has_flag(first.entry, RecordFlag::held));
    CHECK(*store.rules->remove("a", 0, 0, false) == 1);
    // Its maker may abort it, or try again with what is there.
    CHECK(store.abort(manifest) == "ok");
  }

  TEST_CASE("a manifest that is removed while it is pinned holds its members as long") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 1});
    const Answer manifest = store.put_manifest({.id = "batch"}, {store.member("a", first)});
    store.put({.id = "a", .size = 100, .keep = 1});
    store.pin(manifest);
    REQUIRE(store.rules->remove("batch", 0, 0, false));
    CHECK_FALSE(store.finds("batch"));
    CHECK(store.versions("a") == "1 2");
    CHECK(outcome(store.rules->remove("a", 1, 0, false)) == "conflict");
    SUBCASE("and no restart changes that") {
      store.restart({false, true, true});
      store.rules->hold_again(writer, {});
      store.rules->hold_again(reader, {});
      CHECK(store.state(manifest) == State::removing);
      CHECK(store.versions("a") == "1 2");
      CHECK(outcome(store.rules->remove("a", 1, 0, false)) == "conflict");
    }
    SUBCASE("") {}
    store.release(manifest);
    CHECK(store.state(manifest) == State::free);
    CHECK(store.versions("a") == "2");
  }

  TEST_CASE("a manifest that goes on its own frees its members") {
    Store store(room_for(8));
    const Answer first = store.put({.id = "a", .size = pages(1), .keep = 1});
    NewSegment batch{.id = "batch", .size = pages(1)};
    SUBCASE("because its time is up") { batch.ttl_ns = ten_seconds; }
    SUBCASE("to make room") { batch.evictable = true; }
    SUBCASE("because there is a newer one") { batch.keep = 1; }
    store.put_manifest(batch, {store.member("a", first)});
    store.put({.id = "a", .size = pages(1), .keep = 1});
    CHECK(store.versions("a") == "1 2");
    if (batch.ttl_ns != 0) store.pass(seconds(10));
    if (batch.evictable) store.put({.id = "b", .size = pages(6)});
    if (batch.keep != 0) store.put({.id = "batch", .size = pages(1), .keep = 1});
    CHECK_FALSE(store.finds("batch", 1));
    CHECK(store.versions("a") == "2");
    CHECK(store.adds_up());
  }

  TEST_CASE("a version that its next one listed is the newest when that has gone") {
    Store store(room_for(8));
    const Answer first = store.put({.id = "a", .size = pages(1), .keep = 1});
    const Answer second = store.put_manifest(
        {.id = "a", .size = pages(1), .evictable = true, .keep = 1}, {store.member("a", first)});
    CHECK(store.versions("a") == "1 2");
    SUBCASE("to make room") { store.put({.id = "b", .size = pages(7)}); }
    SUBCASE("superseded") { REQUIRE(store.rules->supersede("a", 2, second.serial, false)); }
    SUBCASE("taken over") { store.made_by(store.create({.id = "a", .take_from = 2})); }
    SUBCASE("removed") { REQUIRE(store.rules->remove("a", 2, 0, false)); }
    CHECK(store.versions("a") == "1");
    CHECK_FALSE(store.table->has_flag(first.entry, RecordFlag::held));
  }

  TEST_CASE("a manifest may list a manifest") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 1});
    const Answer inner = store.put_manifest({.id = "inner", .size = 100, .keep = 1},
                                            {store.member("a", first)});
    store.put_manifest({.id = "outer"}, {store.member("inner", inner)});
    store.put({.id = "a", .size = 100, .keep = 1});
    store.put({.id = "inner", .size = 100, .keep = 1});
    CHECK(store.versions("inner") == "1 2");
    CHECK(store.versions("a") == "1 2");
    REQUIRE(store.rules->remove("outer", 0, 0, false));
    CHECK(store.versions("inner") == "2");
    CHECK(store.versions("a") == "2");
  }

  TEST_CASE("a daemon that follows another reads the manifests again") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .keep = 1});
    const Answer lost = store.put({.id = "b", .size = 100});
    store.put_manifest({.id = "batch"}, {store.member("a", first), store.member("b", lost)});
    store.put({.id = "a", .size = 100, .keep = 1});
    std::vector<bool> living;
    SUBCASE("nobody is left") {}
    SUBCASE("somebody is") { living = {false, true, true}; }
    // The other member was lost with something that the former daemon had to give up.
    store.table->begin_removal(lost.entry);
    store.restart(living);
    store.rules->hold_again(writer, {});
    store.rules->hold_again(reader, {});
    CHECK(store.versions("a") == "1 2");
    CHECK(store.rules->manifests_of(first.entry) == 1);
    CHECK(store.table->has_flag(first.entry, RecordFlag::held));
    CHECK(outcome(store.rules->remove("a", 1, 0, false)) == "conflict");
    REQUIRE(store.rules->remove("batch", 0, 0, false));
    CHECK(store.versions("a") == "2");
  }

  // --------------------------------------------------------------------------------------- eviction

  TEST_CASE("to make room, what is held, listed or persistent is passed over") {
    Store store(room_for(6));
    const Answer held = store.put({.id = "held", .size = pages(1), .evictable = true});
    REQUIRE(store.rules->hold("held", 0, 0, writer));
    store.put({.id = "persistent", .size = pages(1), .evictable = true, .persistent = true});
    const Answer listed = store.put({.id = "listed", .size = pages(1), .evictable = true});
    store.put_manifest({.id = "batch"}, {store.member("listed", listed)});
    const Answer cold = store.put({.id = "cold", .size = pages(1), .evictable = true});
    store.put({.id = "new", .size = pages(2)});
    CHECK(store.state(cold) == State::tombstone);
    CHECK(store.heard(store.create({.id = "more", .size = pages(1)})) == "store_full");
    for (const char* id : {"held", "persistent", "listed"}) CHECK(store.finds(id));
    const Ticket parked =
        store.create({.id = "more", .size = pages(1), .timeout_ns = ten_seconds});
    CHECK(store.heard(parked) == "nothing");
    SUBCASE("held no more") { REQUIRE(store.rules->unhold("held", 0, held.serial, writer)); }
    SUBCASE("its holder is dead") { store.die(writer); }
    store.pass(milliseconds(100));
    CHECK(store.heard(parked) == "created");
    CHECK(store.state(held) == State::tombstone);
  }

  TEST_CASE("a manifest that makes room may take members along that were passed over") {
    // The member is colder than its manifest, and cannot go while that is there; its time is up.
    Store store(room_for(6));
    const Answer member = store.put(
        {.id = "a", .size = pages(1), .evictable = true, .ttl_ns = ten_seconds});
    store.put_manifest({.id = "batch", .size = pages(1), .evictable = true},
                       {store.member("a", member)});
    store.put({.id = "c", .size = pages(2), .evictable = true});
    store.pass(seconds(20));
    CHECK(store.finds("a"));
    store.put({.id = "d", .size = pages(5)});
    CHECK(store.finds("d"));
    CHECK(store.why_gone("batch", 1) == Reason::evicted);
    CHECK(store.why_gone("c", 1) == Reason::evicted);
    CHECK(history(store, "a") == "1 sealed, 1 expired");
    CHECK(store.adds_up());
  }

  TEST_CASE("what a manifest listed makes room when that has gone, though it was passed over") {
    Store store(room_for(6));
    const Answer member = store.put({.id = "a", .size = pages(2), .evictable = true});
    store.put_manifest({.id = "batch", .size = pages(1), .evictable = true},
                       {store.member("a", member)});
    CHECK(store.made_by(store.create({.id = "d", .size = pages(6)})).version == 1);
    CHECK(store.why_gone("batch", 1) == Reason::evicted);
    CHECK(store.why_gone("a", 1) == Reason::evicted);
  }

  TEST_CASE("what was passed over and is let go meanwhile does not stop the search for room") {
    // A create drops what it can. What that leaves goes to one that waited, which finds that somebody
    // has let go of what the first had to pass over, and drops that.
    Store store(room_for(6));
    const Answer pinned = store.put({.id = "pinned", .size = pages(1), .evictable = true});
    store.pin(pinned);
    store.put({.id = "a", .size = pages(1), .evictable = true});
    for (const char* id : {"b", "c", "d", "e"})
      store.put({.id = id, .size = pages(1), .evictable = true});
    for (std::uint32_t number = 2; number <= 6; ++number)
      store.pin(*store.outside.to({1, number, 0}).begin(), 5);
    const Ticket waits =
        store.create({.id = "waits", .size = pages(2), .timeout_ns = ten_seconds});
    REQUIRE(store.heard(waits) == "nothing");
    store.census.process_died(5);
    int looks = 0;
    store.census.before_look = [&] {
      if (++looks == 2) store.unpin(pinned);
    };
    const Ticket comes = store.create({.id = "comes", .size = pages(2)});
    store.census.before_look = {};
    store.do_jobs();
    CHECK(store.heard(waits) == "created");
    CHECK(store.heard(comes) == "created");
    CHECK(store.state(pinned) == State::tombstone);
    CHECK(store.adds_up());
  }
}

}  // namespace
}  // namespace forebay::daemon
