// SPDX-License-Identifier: Apache-2.0
// Scopes: what a process has put under a prefix, or had others put there, goes when it says so or ends.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "store/daemon/rules.h"
#include "tests/support/outcome.h"
#include "tests/support/rules_store.h"

namespace forebay::daemon {
namespace {

using shm::Reason;
using shm::State;
using std::chrono::milliseconds;
using std::chrono::seconds;
using test::Answer;
using test::outcome;
using test::pages;
using test::reader;
using test::room_for;
using test::writer;
using Store = test::RulesStore;

constexpr std::uint32_t third = 3;

std::uint64_t segments(const Store& store) { return store.rules->usage().segments; }

// Begun, or the test ends.
void begin(Store& store, std::string_view prefix, std::uint32_t slot = writer) {
  REQUIRE(store.heard(store.begin_scope(prefix, slot)) == "scoped");
}
// Ended, and as empty as it gets; how many went.
std::uint64_t end(Store& store, std::string_view prefix, std::uint32_t slot = writer) {
  const Ticket ticket = store.end_scope(prefix, slot);
  store.empty_scopes();
  return store.removed(ticket);
}

TEST_SUITE("rules_scopes") {
  // ---------------------------------------------------------------------------- beginning, ending

  TEST_CASE("everything under the prefix goes, whoever put it, and nothing else does") {
    Store store(room_for(64));
    store.put({.id = "job/before", .size = 100});
    begin(store, "job/");
    const std::uint64_t used = segments(store);
    store.put({.id = "job/a", .size = 100});
    store.put({.id = "job/a", .size = 100});
    store.put({.id = "job/b", .size = 100, .owner_slot = reader});
    store.put({.id = "job/kept", .size = 100, .persistent = true});
    store.put({.id = "job/" + std::string(200, 'x'), .size = 100});
    store.put({.id = "job", .size = 100});
    store.put({.id = "jobs", .size = 100});
    REQUIRE(store.rules->hold("job/b", 0, 0, third));
    CHECK(used == 1);
    CHECK(end(store, "job/") == 6);
    CHECK(segments(store) == 2);
    CHECK(store.finds("job"));
    CHECK(store.finds("jobs"));
    CHECK(store.rules->usage().scopes == 0);
    CHECK(store.adds_up());
    // It is ordinary from now on.
    store.put({.id = "job/a", .size = 100});
    store.die(writer);
    store.empty_scopes();
    CHECK(store.finds("job/a"));
  }

  TEST_CASE("when its process ends, a scope ends") {
    Store store(room_for(64));
    begin(store, "a/");
    begin(store, "b/");
    begin(store, "c/", reader);
    for (const char* id : {"a/1", "b/1", "c/1", "d/1"})
      store.put({.id = id, .size = 100, .owner_slot = third});
    store.die(writer);
    store.empty_scopes();
    CHECK_FALSE(store.finds("a/1"));
    CHECK_FALSE(store.finds("b/1"));
    CHECK(store.finds("c/1"));
    CHECK(store.finds("d/1"));
    store.die(third);
    store.empty_scopes();
    CHECK(segments(store) == 2);
    store.rules->end_scopes(reader);
    store.empty_scopes();
    CHECK(segments(store) == 1);
    CHECK(store.rules->usage().scopes == 0);
  }

  TEST_CASE("a scope is no segment, and stands in nobody's way") {
    Store store(room_for(64));
    begin(store, "job");
    CHECK(segments(store) == 0);
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.rules->usage().used == 0);
    CHECK(outcome(store.rules->find("job", 0)) == "not_found");
    CHECK(outcome(store.rules->find("job", 1)) == "not_found");
    const EntryNumber entry = store.rules->scopes().at("job").entry;
    const std::uint64_t serial = store.table->serial(entry);
    CHECK(outcome(store.rules->seal(entry, serial, writer, false, store.wall_ns)) == "bad_state");
    CHECK(outcome(store.rules->abort(entry, serial, writer, false)) == "bad_state");
    CHECK(outcome(store.rules->abort(entry, serial, writer, true)) == "ok");
    CHECK(store.put({.id = "job", .size = 100}).version == 1);
    CHECK(end(store, "job") == 1);
    CHECK(store.table->word(entry).state() == State::free);
  }

  TEST_CASE("prefixes that overlap are refused, with the name of whose it is") {
    Store store(room_for(64));
    begin(store, "job/1/");
    for (const char* prefix : {"job/1/", "job/1/x", "job/", "j"}) {
      CAPTURE(prefix);
      const Ticket ticket = store.begin_scope(prefix, reader);
      CHECK(store.heard(ticket) == "conflict");
      CHECK(store.detail(ticket).find("process 1") != std::string::npos);
      CHECK(store.heard(store.begin_scope(prefix)) == "conflict");
    }
    begin(store, "job/10/", reader);
    begin(store, "k", reader);
    CHECK(store.heard(store.begin_scope("")) == "bad_id");
    CHECK(store.heard(store.begin_scope(std::string(256, 'x'))) == "bad_id");
    begin(store, std::string(255, 'x'));
    CHECK(store.heard(store.end_scope("job/1/", reader)) == "bad_state");
    CHECK(store.heard(store.end_scope("job/", writer)) == "bad_state");
    CHECK(store.heard(store.end_scope("none")) == "bad_state");
    CHECK(store.rules->usage().scopes == 4);
    // An ended one is in nobody's way, even before it is empty.
    store.put({.id = "job/1/a", .size = 100});
    const Ticket ending = store.end_scope("job/1/");
    begin(store, "job/1/", reader);
    store.put({.id = "job/1/b", .size = 100});
    CHECK(store.heard(ending) == "nothing");
    store.empty_scopes();
    CHECK(store.removed(ending) == 1);
    CHECK(store.finds("job/1/b"));
  }

  TEST_CASE("a process may have 1024 of them") {
    Store store(room_for(64));
    for (int i = 0; i < 1024; ++i) begin(store, "s/" + std::to_string(i) + "/");
    CHECK(store.heard(store.begin_scope("t/")) == "limit_reached");
    begin(store, "t/", reader);
    CHECK(end(store, "s/7/") == 0);
    begin(store, "u/");
    store.die(writer);
    store.empty_scopes();
    CHECK(store.rules->usage().scopes == 1);
    for (int i = 0; i < 1024; ++i) begin(store, "s/" + std::to_string(i) + "/");
  }

  TEST_CASE("what is asked again after a lost answer is done once") {
    Store store(room_for(64));
    begin(store, "a/");
    CHECK(store.heard(store.begin_scope("a/", writer, true)) == "scoped");
    CHECK(store.heard(store.begin_scope("a/", reader, true)) == "conflict");
    store.put({.id = "a/1", .size = 100});
    const Ticket first = store.end_scope("a/");
    const Ticket again = store.end_scope("a/", writer, true);
    store.put({.id = "a/2", .size = 100});
    store.empty_scopes();
    CHECK(store.removed(first) == 1);
    CHECK(store.removed(again) == 1);
    CHECK(store.removed(store.end_scope("a/", writer, true)) == 0);
    CHECK(store.finds("a/2"));
    begin(store, "a/", reader);
    CHECK(store.removed(store.end_scope("a/", writer, true)) == 0);
    CHECK(store.rules->usage().scopes == 1);
    store.rules->forget_scope("a/", writer);
    CHECK(store.rules->usage().scopes == 1);
    store.rules->forget_scope("a/", reader);
    CHECK(store.rules->usage().scopes == 0);
    CHECK(store.finds("a/2"));
  }

  TEST_CASE("what a process says again is what it has begun, and no more") {
    Store store(room_for(64));
    for (const char* prefix : {"a/", "b/", "c/"}) {
      begin(store, prefix);
      store.put({.id = std::string(prefix) + "1", .size = 100});
    }
    begin(store, "theirs/", reader);
    using Said = std::vector<std::pair<std::string, bool>>;
    SUBCASE("one is new, one ends, one was given up, one is another's") {
      store.rules->scopes_again(
          writer, Said{{"a/", false}, {"b/", true}, {"d/", false}, {"e/", true}, {"theirs/", false}});
      store.empty_scopes();
      CHECK(store.finds("a/1"));
      CHECK_FALSE(store.finds("b/1"));
      CHECK(store.finds("c/1"));
      CHECK(store.rules->scopes().size() == 3);
      CHECK(store.rules->scopes().contains("a/"));
      CHECK(store.rules->scopes().at("d/").slot == writer);
      CHECK(store.rules->scopes().at("theirs/").slot == reader);
    }
    SUBCASE("from another slot that the process has got since") {
      store.outside.twins.insert({writer, third});
      store.rules->scopes_again(third, Said{{"a/", false}, {"b/", false}, {"c/", false}});
      store.die(writer);
      store.empty_scopes();
      CHECK(segments(store) == 3);
      store.restart({false, false, true, true});
      CHECK(store.rules->scopes().size() == 4);
      store.die(third);
      store.empty_scopes();
      CHECK(segments(store) == 0);
    }
  }

  // --------------------------------------------------------------------------------- what it takes

  TEST_CASE("what is pinned is out of sight at once, and goes with its pin") {
    Store store(room_for(64));
    begin(store, "a/");
    const Answer pinned = store.put({.id = "a/1", .size = pages(2)});
    store.put({.id = "a/2", .size = pages(1)});
    store.pin(pinned);
    CHECK(end(store, "a/") == 2);
    CHECK_FALSE(store.finds("a/1"));
    CHECK(store.rules->usage().used == pages(2));
    store.release(pinned);
    CHECK(store.rules->usage().used == 0);
    CHECK(store.adds_up());
  }

  TEST_CASE("what is being made goes as soon as it is sealed") {
    Store store(room_for(4));
    begin(store, "a/");
    const Answer open = store.made_by(
        store.create({.id = "a/open", .size = pages(2), .owner_slot = reader}));
    const Answer aborted =
        store.made_by(store.create({.id = "a/aborted", .size = 100, .owner_slot = reader}));
    const Answer claimed = store.claimed_by(
        store.claim({.id = "a/claimed", .token = 5, .owner_slot = reader}, seconds(1)));
    store.put({.id = "b", .size = pages(1)});
    const Ticket waits = store.create(
        {.id = "a/waits", .size = pages(2), .timeout_ns = test::nanoseconds(seconds(9)),
         .owner_slot = reader});
    REQUIRE(store.heard(waits) == "nothing");
    const Ticket ended = store.end_scope("a/");
    const Answer later =
        store.made_by(store.create({.id = "a/later", .size = 0, .owner_slot = reader}));
    store.empty_scopes();
    CHECK(store.removed(ended) == 0);
    SUBCASE("a daemon later") {
      store.restart({false, true, true});
    }
    CHECK(store.abort(aborted, {}, reader) == "ok");
    CHECK(store.try_seal(open, reader) == "ok");
    CHECK_FALSE(store.finds("a/open"));
    CHECK(store.try_seal(later, reader) == "ok");
    CHECK(store.finds("a/later"));
    const Answer made = store.made_by(
        store.create({.id = "a/claimed", .size = 100, .owner_slot = reader, .claim = 5}));
    CHECK(store.try_seal(made, reader) == "ok");
    CHECK_FALSE(store.finds("a/claimed"));
    (void)claimed;
    if (store.heard(waits) == "created") {
      CHECK(store.try_seal(store.made_by(waits), reader) == "ok");
      CHECK_FALSE(store.finds("a/waits"));
    }
    CHECK(segments(store) == 2);
  }

  TEST_CASE("manifests go first, so that what they list can go; what others list stays") {
    Store store(room_for(64));
    begin(store, "in/");
    const Answer one = store.put({.id = "in/1", .size = 100});
    const Answer two = store.put({.id = "in/2", .size = 100});
    const Answer three = store.put({.id = "in/3", .size = 100});
    const Answer out = store.put({.id = "out/1", .size = 100});
    const Answer inner = store.put_manifest({.id = "in/m"}, {Store::member("in/1", one),
                                                             Store::member("out/1", out)});
    const Answer listed =
        store.put_manifest({.id = "in/listed"}, {Store::member("in/3", three)});
    const Answer nested = store.put_manifest({.id = "in/mm"}, {Store::member("in/m", inner)});
    store.put_manifest({.id = "out/m"},
                       {Store::member("in/2", two), Store::member("in/listed", listed)});
    SUBCASE("nobody pins anything") {
      CHECK(end(store, "in/") == 3);
      CHECK_FALSE(store.finds("in/1"));
      CHECK_FALSE(store.finds("in/m"));
      CHECK_FALSE(store.finds("in/mm"));
    }
    SUBCASE("a manifest is pinned, and keeps what it lists until its pin ends") {
      store.pin(inner);
      CHECK(end(store, "in/") == 2);
      CHECK_FALSE(store.finds("in/mm"));
      CHECK_FALSE(store.finds("in/m"));
      CHECK(store.finds("in/1"));
      SUBCASE("soon") {}
      SUBCASE("after a restart") { store.restart({false, true, true}); }
      REQUIRE(store.rules->hold("in/1", 0, 0, third));
      store.release(inner);
      store.pass(milliseconds(200));
      CHECK_FALSE(store.finds("in/1"));
    }
    SUBCASE("a nested one is, at both levels") {
      store.pin(nested);
      CHECK(end(store, "in/") == 1);
      CHECK(store.finds("in/m"));
      CHECK(store.finds("in/1"));
      store.release(nested);
      store.pass(milliseconds(200));
      CHECK_FALSE(store.finds("in/m"));
      store.pass(milliseconds(1));
      CHECK_FALSE(store.finds("in/1"));
    }
    CHECK(store.finds("in/2"));
    CHECK(store.finds("in/3"));
    CHECK(store.finds("in/listed"));
    CHECK(store.finds("out/1"));
    // What has stayed is ordinary, and outlives what listed it.
    REQUIRE(store.rules->remove("out/m", 0, 0, false));
    store.pass(milliseconds(200));
    CHECK(store.finds("in/2"));
    CHECK(store.finds("in/listed"));
    REQUIRE(store.rules->remove("in/listed", 0, 0, false));
    CHECK(store.finds("in/3"));
    CHECK(store.adds_up());
  }

  TEST_CASE("tombstones under the prefix go, too") {
    Store store(room_for(4));
    begin(store, "a/");
    store.put({.id = "a/1", .size = pages(2), .evictable = true});
    store.put({.id = "b/1", .size = pages(2), .evictable = true});
    store.put({.id = "c", .size = pages(4)});
    REQUIRE(store.why_gone("a/1", 1) == Reason::evicted);
    CHECK(end(store, "a/") == 0);
    CHECK(store.why_gone("a/1", 1) == Reason::none);
    CHECK(store.why_gone("b/1", 1) == Reason::evicted);
  }

  TEST_CASE("subscribers hear that each was removed") {
    Store store(room_for(64));
    begin(store, "a/");
    for (int i = 0; i < 3; ++i) store.put({.id = "a/" + std::to_string(i), .size = 100});
    CHECK(end(store, "a/") == 3);
    const Answer told = store.told(store.read_events("a/", 0, seconds(0)));
    REQUIRE(told.events.size() == 6);
    for (std::size_t i = 3; i < 6; ++i) {
      CHECK(told.events[i].kind == EventKind::removed);
      CHECK(told.events[i].cause == RemovalCause::removed);
    }
  }

  // ----------------------------------------------------------------------------- turns, restarts

  TEST_CASE("a large scope is emptied a turn at a time, and each turn asks for the next") {
    Store store(room_for(64));
    begin(store, "a/");
    constexpr int count = 3000;
    for (int i = 0; i < count; ++i) store.put({.id = "a/" + std::to_string(i), .size = 0});
    const Ticket ended = store.end_scope("a/");
    CHECK(segments(store) == count);
    int turns = 0;
    std::uint64_t before = segments(store);
    while (store.heard(ended) == "nothing") {
      CHECK(store.rules->next_wakeup() == store.now);
      store.rules->tick(store.now);
      CHECK(before - segments(store) <= 1024);
      before = segments(store);
      // What comes meanwhile stays.
      store.put({.id = "a/new" + std::to_string(turns++), .size = 0});
      ++before;
    }
    CHECK(turns == 3);
    CHECK(store.removed(ended) == count);
    CHECK(segments(store) == 3);
    CHECK(store.rules->next_wakeup() != store.now);
  }

  TEST_CASE("a daemon that follows knows what is begun, and goes on with what has ended") {
    Store store(room_for(64));
    begin(store, "a/");
    begin(store, "b/", reader);
    begin(store, "c/", third);
    for (int i = 0; i < 2000; ++i) store.put({.id = "a/" + std::to_string(i), .size = 0});
    store.put({.id = "b/1", .size = 100});
    store.put({.id = "c/1", .size = 100});
    SUBCASE("everybody lives") {
      store.restart({false, true, true, true});
      store.empty_scopes();
      CHECK(segments(store) == 2002);
      CHECK(store.rules->usage().scopes == 3);
      CHECK(store.heard(store.begin_scope("a/x", reader)) == "conflict");
      CHECK(end(store, "a/") == 2000);
    }
    SUBCASE("one of them has ended meanwhile") {
      store.restart({false, true, false, true});
      store.put({.id = "b/2", .size = 100});
      store.empty_scopes();
      CHECK_FALSE(store.finds("b/1"));
      CHECK(store.finds("b/2"));
      CHECK(segments(store) == 2002);
      CHECK(store.rules->usage().scopes == 2);
    }
    SUBCASE("one had ended, and was half empty") {
      const Ticket lost = store.end_scope("a/");
      store.rules->tick(store.now);
      CHECK(segments(store) == 978);
      store.put({.id = "a/later", .size = 0});
      store.restart({false, true, true, true});
      CHECK(store.rules->usage().scopes == 2);
      begin(store, "a/", reader);
      store.put({.id = "a/later still", .size = 0});
      const Ticket again = store.end_scope("a/", writer, true);
      store.empty_scopes();
      CHECK(store.heard(lost) == "nothing");
      CHECK(store.removed(again) == 976);
      CHECK(store.finds("a/later"));
      CHECK(store.finds("a/later still"));
      CHECK(store.finds("b/1"));
    }
    CHECK(store.adds_up());
  }

  TEST_CASE("a scope waits while the index grows, and is refused when it cannot") {
    Store store(room_for(64), test::small_index, false);
    const Ticket first = store.begin_scope("a/");
    const Ticket gone = store.begin_scope("b/", writer, false, 2);
    const Ticket dead = store.begin_scope("c/", reader);
    const Ticket overlaps = store.begin_scope("a/x", third);
    CHECK(store.heard(first) == "nothing");
    store.rules->session_ended(2);
    store.die(reader);
    SUBCASE("there is memory") {
      store.do_jobs();
      CHECK(store.heard(first) == "scoped");
      CHECK(store.heard(overlaps) == "conflict");
    }
    SUBCASE("there is none") {
      store.do_job(0, test::no_memory);
      CHECK(store.heard(first) == "store_full");
      CHECK(store.heard(overlaps) == "store_full");
    }
    CHECK(store.heard(gone) == "nothing");
    CHECK(store.heard(dead) == "nothing");
  }
}

}  // namespace
}  // namespace forebay::daemon
