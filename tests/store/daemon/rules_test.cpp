// SPDX-License-Identifier: Apache-2.0
// The rules over memory laid out as an index, with everything around them made up: the test does
// the memory thread's work when it likes, and pins for processes that do not exist.
#include "store/daemon/rules.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "store/shm/object_home.h"
#include "store/units.h"
#include "tests/support/outcome.h"
#include "tests/support/rules_store.h"

namespace forebay::daemon {
namespace {

using shm::State;
using std::chrono::milliseconds;
using std::chrono::seconds;
using test::Answer;
using test::nanoseconds;
using test::no_memory;
using test::outcome;
using test::page_bytes;
using test::pages;
using test::reader;
using test::room_for;
using test::writer;
using Store = test::RulesStore;

constexpr shm::Limits limits = test::small_index;

TEST_SUITE("rules") {
  // ------------------------------------------------------------------------ create, seal, abort

  TEST_CASE("a segment is nobody's to see until it is sealed, and then everybody's") {
    Store store(room_for(16));
    const Ticket waiter = store.await("points", {}, seconds(1));
    const Answer made = store.made_by(store.create({.id = "points", .size = 5000}));
    CHECK(made.version == 1);
    CHECK(made.location.offset() % page_bytes == 0);
    CHECK(store.rules->creating(made.entry));
    CHECK_FALSE(store.rules->find("points", 0));
    CHECK_FALSE(store.rules->find("points", 1));
    CHECK(store.heard(waiter) == "nothing");
    store.seal(made);
    CHECK_FALSE(store.rules->creating(made.entry));
    CHECK(store.heard(waiter) == "awaited");
    CHECK(*store.rules->find("points", 0) == made.entry);
    CHECK(*store.rules->find("points", 1) == made.entry);
    CHECK(store.rules->usage().used == pages(2));
    CHECK(store.rules->usage().segments == 1);
  }

  TEST_CASE("a create waits for the memory thread, and no longer") {
    Store store(room_for(16));
    const Ticket first = store.create({.id = "a", .size = 5000});
    CHECK(store.heard(first) == "nothing");
    REQUIRE(store.outside.jobs.size() == 1);
    CHECK(store.outside.jobs[0].urgent);
    CHECK(store.outside.jobs[0].arena.grow == std::vector<Extent>{{0, pages(2)}});
    CHECK(store.rules->usage().growing == pages(2));
    CHECK(store.rules->usage().parked == 1);
    store.do_job();
    CHECK(store.heard(first) == "created");
    CHECK(store.rules->usage().parked == 0);
    CHECK(outcome(store.rules->abort(store.outside.answers[0].entry,
                                     store.outside.answers[0].serial, writer, false)) == "ok");
    // The memory is warm now: the next one needs nobody.
    CHECK(store.heard(store.create({.id = "b", .size = 5000})) == "created");
  }

  TEST_CASE("an empty segment needs no memory") {
    Store store(room_for(1));
    const Ticket ticket = store.create({.id = "nothing in it", .size = 0});
    CHECK(store.heard(ticket) == "created");
    CHECK(store.rules->usage().used == 0);
    store.seal(store.made_by(ticket));
    CHECK(*store.rules->remove("nothing in it", 0, 0, false) == 1);
  }

  TEST_CASE("small segments that the daemon copies share a slab") {
    Store store(room_for(64));
    const Answer first = store.put({.id = "a", .size = 100, .packed = true});
    const Ticket second = store.create({.id = "b", .size = 100, .packed = true});
    CHECK(store.heard(second) == "created");
    CHECK(store.made_by(second).location.offset() != first.location.offset());
    CHECK(store.rules->usage().used == Slabs::slab_bytes(100));
    CHECK(store.rules->usage().slab_items == 256);
  }

  TEST_CASE("only the creator's process seals or aborts") {
    Store store(room_for(16));
    const Answer made = store.made_by(store.create({.id = "a", .size = 10}));
    CHECK(outcome(store.rules->seal(made.entry, made.serial, reader, false, 1)) == "not_found");
    CHECK(outcome(store.rules->seal(made.entry, made.serial + 1, writer, false, 1)) ==
          "not_found");
    CHECK(outcome(store.rules->seal(made.entry + 1, made.serial, writer, false, 1)) ==
          "not_found");
    CHECK(outcome(store.rules->seal(no_entry, made.serial, writer, false, 1)) == "not_found");
    CHECK(outcome(store.rules->seal(~0U, made.serial, writer, false, 1)) == "not_found");
    CHECK(outcome(store.rules->abort(made.entry, made.serial, reader, false)) == "bad_state");
    CHECK(outcome(store.rules->abort(~0U, made.serial, writer, false)) == "bad_state");
    CHECK(store.state(made) == State::creating);
    store.outside.twins.insert({writer, 7});
    CHECK(outcome(store.rules->seal(made.entry, made.serial, 7, false, 1)) == "ok");
  }

  TEST_CASE("a segment is sealed once; the same request sent again works again") {
    Store store(room_for(16));
    const Answer made = store.put({.id = "a", .size = 10});
    CHECK(outcome(store.rules->seal(made.entry, made.serial, writer, false, 2)) == "bad_state");
    CHECK(outcome(store.rules->seal(made.entry, made.serial, writer, true, 2)) == "ok");
    CHECK(outcome(store.rules->abort(made.entry, made.serial, writer, false)) == "bad_state");
    CHECK(store.finds("a"));
  }

  TEST_CASE("a seal sent again has worked, even if what it sealed was dropped since") {
    Store store(room_for(1));
    const Answer made = store.put({.id = "a", .size = 10, .evictable = true});
    store.put({.id = "b", .size = 10});
    REQUIRE(store.state(made) == State::tombstone);
    CHECK(outcome(store.rules->seal(made.entry, made.serial, writer, true, 2)) == "ok");
    CHECK(outcome(store.rules->seal(made.entry, made.serial, writer, false, 2)) == "bad_state");
  }

  TEST_CASE("an aborted segment leaves no trace but warm memory") {
    Store store(room_for(16));
    const Answer made = store.made_by(store.create({.id = "a", .size = 10}));
    CHECK(outcome(store.rules->abort(made.entry, made.serial, writer, false)) == "ok");
    CHECK(outcome(store.rules->seal(made.entry, made.serial, writer, false, 1)) == "bad_state");
    CHECK(outcome(store.rules->abort(made.entry, made.serial, writer, false)) == "bad_state");
    CHECK(outcome(store.rules->abort(made.entry, made.serial, writer, true)) == "ok");
    CHECK(store.rules->usage().used == 0);
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.rules->usage().warm == page_bytes);
    CHECK(store.put({.id = "a", .version = 1, .size = 10}).serial > made.serial);
  }

  // -------------------------------------------------------------------------------- versions

  TEST_CASE("without a version, a segment gets the next, above what is sealed or being created") {
    Store store(room_for(16));
    CHECK(store.put({.id = "a", .version = 7, .size = 10}).version == 7);
    const Answer eighth = store.made_by(store.create({.id = "a", .size = 10}));
    CHECK(eighth.version == 8);
    const Answer ninth = store.put({.id = "a", .size = 10});
    CHECK(ninth.version == 9);
    store.seal(eighth);
    CHECK(*store.rules->find("a", 0) == ninth.entry);
    CHECK(store.put({.id = "b", .size = 10}).version == 1);
  }

  TEST_CASE("a version that waits for its memory has its number already") {
    Store store(room_for(16));
    const Ticket first = store.create({.id = "a", .size = 10});
    const Ticket second = store.create({.id = "a", .size = 10});
    CHECK(store.heard(store.create({.id = "a", .version = 2, .size = 10})) == "conflict");
    store.do_job(1);
    store.do_job(0);
    CHECK(store.made_by(first).version == 1);
    CHECK(store.made_by(second).version == 2);
  }

  TEST_CASE("a version that is sealed or being made cannot be put; any other can") {
    Store store(room_for(16));
    store.put({.id = "a", .version = 4, .size = 10});
    const Answer second = store.made_by(store.create({.id = "a", .version = 2, .size = 10}));
    CHECK(store.heard(store.create({.id = "a", .version = 4, .size = 10})) == "exists");
    CHECK(store.heard(store.create({.id = "a", .version = 2, .size = 10})) == "conflict");
    CHECK(store.put({.id = "a", .version = 3, .size = 10}).version == 3);
    store.seal(second);
    CHECK(store.heard(store.create({.id = "a", .version = 2, .size = 10})) == "exists");
    CHECK(store.table->version(*store.rules->find("a", 0)) == 4);
    CHECK(store.rules->usage().creating == 0);
  }

  TEST_CASE("the number of a buried version is not given again, but the version can be put") {
    Store store(room_for(4));
    store.put({.id = "a", .size = pages(4), .evictable = true});
    store.put({.id = "b", .size = pages(4), .evictable = true});
    CHECK_FALSE(store.finds("a"));
    CHECK(store.put({.id = "a", .size = pages(1), .evictable = true}).version == 2);
    CHECK(store.put({.id = "a", .version = 1, .size = pages(1)}).version == 1);
    CHECK(store.finds("a", 1));
  }

  TEST_CASE("there is no version behind the last") {
    Store store(room_for(16));
    const std::uint64_t last = ~std::uint64_t{0} - 1;
    CHECK(store.heard(store.create({.id = "a", .version = last + 1, .size = 10})) ==
          "bad_argument");
    store.put({.id = "a", .version = last, .size = 10});
    CHECK(store.heard(store.create({.id = "a", .size = 10})) == "bad_argument");
    CHECK(store.rules->usage().creating == 0);
  }

  TEST_CASE("what can never work is refused at once") {
    Store store(room_for(16));
    const std::string long_id(255, 'x');
    CHECK(store.heard(store.create({.id = "", .size = 10})) == "bad_id");
    CHECK(store.heard(store.create({.id = long_id + "x", .size = 10})) == "bad_id");
    const std::vector<std::byte> essay(shm::description_bytes_max + 1);
    CHECK(store.heard(store.create({.id = "a", .size = 10, .description = essay})) ==
          "bad_argument");
    CHECK(store.rules->usage().creating == 0);
    store.put({.id = long_id, .size = 10});
    CHECK(store.finds(long_id));
  }

  TEST_CASE("what is larger than the store is refused at once, however long one would wait") {
    Store store(room_for(16));
    const std::uint64_t patience = nanoseconds(seconds(100));
    for (const std::uint64_t size : {pages(16) + 1, pages(17), ~std::uint64_t{0}}) {
      const Ticket ticket = store.create({.id = "a", .size = size, .timeout_ns = patience});
      CHECK(store.heard(ticket) == "too_large");
      CHECK(store.detail(ticket).find("'a'") != std::string::npos);
    }
    // The description counts, where it lies behind the payload.
    const std::vector<std::byte> essay(5000);
    CHECK(store.heard(store.create({.id = "a", .size = pages(15), .description = essay})) ==
          "too_large");
    CHECK(store.outside.jobs.empty());
    CHECK(store.made_by(store.create({.id = "a", .size = pages(16)})).version == 1);
  }

  // ----------------------------------------------------------------------------------- removing

  TEST_CASE("a removal takes one version, or all, or the one that a ref names") {
    Store store(room_for(16));
    for (int version = 1; version <= 4; ++version) store.put({.id = "a", .size = 10});
    const Answer fifth = store.put({.id = "a", .size = 10});
    CHECK(*store.rules->remove("a", 4, 0, false) == 1);
    CHECK_FALSE(store.finds("a", 4));
    CHECK(*store.rules->find("a", 0) == fifth.entry);
    CHECK(outcome(store.rules->remove("a", 4, 0, false)) == "not_found");
    CHECK(*store.rules->remove("a", 4, 0, true) == 0);
    CHECK(outcome(store.rules->remove("a", 5, fifth.serial + 1, false)) == "stale_ref");
    CHECK(*store.rules->remove("a", 5, fifth.serial, false) == 1);
    CHECK(store.table->version(*store.rules->find("a", 0)) == 3);
    CHECK(*store.rules->remove("a", 0, 0, false) == 3);
    CHECK_FALSE(store.rules->find("a", 0));
    CHECK(outcome(store.rules->remove("a", 0, 0, false)) == "not_found");
    CHECK(store.rules->usage().used == 0);
    CHECK(store.rules->usage().ids == 0);
  }

  TEST_CASE("what is being made is not removed") {
    Store store(room_for(16));
    const Answer made = store.made_by(store.create({.id = "a", .size = 10}));
    CHECK(outcome(store.rules->remove("a", 0, 0, false)) == "not_found");
    CHECK(outcome(store.rules->remove("a", 1, made.serial, false)) == "stale_ref");
    store.seal(made);
    CHECK(store.finds("a"));
  }

  TEST_CASE("a pinned segment is out of sight when it is removed; its memory goes with the pin") {
    Store store(room_for(16));
    const Answer made = store.put({.id = "a", .size = pages(3)});
    store.pin(made);
    store.pin(made);
    CHECK(*store.rules->remove("a", 0, 0, false) == 1);
    CHECK_FALSE(store.finds("a", 1));
    // Only who asks what has become of it is told.
    CHECK(*store.rules->find("a", 1) == made.entry);
    CHECK(store.state(made) == State::removing);
    CHECK(store.table->word(made.entry).wanted());
    CHECK(store.rules->usage().removing == 1);
    CHECK(store.rules->usage().used == pages(3));

    const Answer again = store.put({.id = "a", .version = 1, .size = pages(3)});
    CHECK(again.entry != made.entry);
    CHECK(again.location.offset() != made.location.offset());

    store.unpin(made);
    store.rules->nudge(made.entry);
    CHECK(store.state(made) == State::removing);
    store.unpin(made);
    SUBCASE("because who held the last pin says so") { store.rules->nudge(made.entry); }
    SUBCASE("because the rules look again, should nobody say so") {
      CHECK(store.rules->next_wakeup());
      store.pass(milliseconds(100));
    }
    CHECK(store.state(made) == State::free);
    CHECK_FALSE(store.table->word(made.entry).wanted());
    CHECK(store.rules->deferred().empty());
    CHECK(store.rules->usage().used == pages(3));
    CHECK_FALSE(store.rules->next_wakeup());
  }

  TEST_CASE("while a removal waits, the rules look at its pins every 100 ms") {
    Store store(room_for(16));
    const Answer made = store.put({.id = "a", .size = 10});
    store.pin(made);
    REQUIRE(store.rules->remove("a", 0, 0, false));
    store.pass(seconds(1));
    CHECK(store.rules->next_wakeup() == store.now + milliseconds(100));
    store.unpin(made);
    store.pass(milliseconds(99));
    CHECK(store.rules->usage().removing == 1);
    store.pass(milliseconds(1));
    CHECK(store.rules->usage().removing == 0);
  }

  TEST_CASE("a nudge for what nobody wants is ignored") {
    Store store(room_for(16));
    const Answer made = store.put({.id = "a", .size = 10});
    for (const EntryNumber entry : {no_entry, made.entry, made.entry + 1, ~0U})
      store.rules->nudge(entry);
    CHECK(store.finds("a"));
  }

  TEST_CASE("a removal of all versions lets creates go on, and takes none of them for its own") {
    // A removal frees memory; a create that waited for it takes memory and entries while the
    // removal is still under way, and may drop versions that the removal has yet to come to.
    RulesOptions options = room_for(4);
    options.tombstones_max = 0;
    Store store(options);
    store.put({.id = "a", .size = pages(1), .evictable = true});
    const Answer second = store.put({.id = "a", .size = pages(1), .evictable = true});
    store.put({.id = "b", .size = pages(2)});
    store.pin(second);
    store.pin(*std::find_if(store.outside.answers.begin(), store.outside.answers.end(),
                            [](const Answer& answer) { return answer.version == 1; }));
    const Ticket parked = store.create(
        {.id = "c", .size = pages(2), .timeout_ns = nanoseconds(seconds(10))});
    CHECK(store.heard(parked) == "nothing");
    store.census.process_died(reader);
    CHECK(store.rules->remove("a", 0, 0, false));
    const Answer made = store.made_by(parked);
    CHECK(store.state(made) == State::creating);
    store.seal(made);
    CHECK(store.finds("c"));
    CHECK_FALSE(store.finds("a"));
    CHECK(store.rules->usage().used == pages(4));
  }

  TEST_CASE("dropping all takes what nobody pins, and persistent segments only if told so") {
    Store store(room_for(16));
    store.put({.id = "a", .size = 10});
    store.put({.id = "b", .size = 10, .persistent = true});
    const Answer pinned = store.put({.id = "c", .size = 10});
    store.pin(pinned);
    store.rules->drop_all(true);
    CHECK_FALSE(store.finds("a"));
    CHECK(store.finds("b"));
    CHECK_FALSE(store.finds("c"));
    CHECK(store.state(pinned) == State::removing);
    store.rules->drop_all(false);
    CHECK_FALSE(store.finds("b"));
    CHECK(store.rules->usage().used == page_bytes);
  }

  // ------------------------------------------------------------------------------------ waiting

  TEST_CASE("a wait is over at once if what it wants is there") {
    Store store(room_for(16));
    store.put({.id = "a", .version = 3, .size = 10});
    CHECK(store.heard(store.await("a", {}, seconds(1))) == "awaited");
    CHECK(store.heard(store.await("a", {.exact = 3}, seconds(1))) == "awaited");
    CHECK(store.heard(store.await("a", {.after = 2}, seconds(0))) == "awaited");
    CHECK(store.heard(store.await("a", {.exact = 2}, seconds(0))) == "not_found");
    CHECK(store.heard(store.await("a", {.after = 3}, seconds(0))) == "not_found");
    CHECK(store.heard(store.await("b", {}, seconds(0))) == "not_found");
    CHECK(store.rules->usage().waiters == 0);
  }

  TEST_CASE("a seal ends the waits that it satisfies, the deadline ends the others") {
    Store store(room_for(16));
    const Ticket first = store.await("a", {.exact = 1}, seconds(1));
    const Ticket any = store.await("a", {}, seconds(2));
    const Ticket later = store.await("a", {.after = 1}, seconds(3));
    CHECK(store.rules->next_wakeup() == store.now + seconds(1));
    store.put({.id = "a", .size = 10});
    CHECK(store.heard(first) == "awaited");
    CHECK(store.heard(any) == "awaited");
    CHECK(store.rules->next_wakeup() == store.now + seconds(3));
    store.pass(seconds(3) - milliseconds(1));
    CHECK(store.heard(later) == "nothing");
    store.pass(milliseconds(1));
    CHECK(store.heard(later) == "timed_out");
    CHECK(store.rules->usage().waiters == 0);
    CHECK_FALSE(store.rules->next_wakeup());
  }

  // --------------------------------------------------------------------------------- repetitions

  TEST_CASE("a create sent again while it waits is answered once, to who asked last") {
    Store store(room_for(16));
    SUBCASE("for memory") {
      const Ticket lost = store.create({.id = "a", .size = 10, .token = 99}, 1);
      const Ticket repeated = store.create({.id = "a", .size = 10, .token = 99}, 2);
      CHECK(store.outside.jobs.size() == 1);
      store.do_jobs();
      CHECK(store.heard(lost) == "nothing");
      CHECK(store.made_by(repeated).version == 1);
    }
    SUBCASE("for room") {
      store.put({.id = "b", .size = pages(16)});
      const NewSegment wish{
          .id = "a", .size = 10, .timeout_ns = nanoseconds(seconds(9)), .token = 99};
      const Ticket lost = store.create(wish, 1);
      const Ticket repeated = store.create(wish, 2);
      // What the lost session waited for is not its to end any more.
      store.rules->session_ended(1);
      REQUIRE(store.rules->remove("b", 0, 0, false));
      CHECK(store.heard(lost) == "nothing");
      CHECK(store.made_by(repeated).version == 1);
    }
    CHECK(store.rules->usage().creating == 1);
  }

  TEST_CASE("a create sent again after it worked is answered as it was") {
    Store store(room_for(16));
    const Answer made = store.made_by(store.create({.id = "a", .size = 10, .token = 99}, 1));
    const Answer again = store.made_by(store.create({.id = "a", .size = 10, .token = 99}, 2));
    CHECK(again.entry == made.entry);
    CHECK(again.version == made.version);
    CHECK(again.serial == made.serial);
    CHECK(again.location.bits() == made.location.bits());
    CHECK_FALSE(again.sealed_before);
    CHECK(store.rules->usage().creating == 1);
    store.seal(made);
    const Answer late = store.made_by(store.create({.id = "a", .size = 10, .token = 99}, 2));
    CHECK(late.serial == made.serial);
    CHECK(late.sealed_before);
    // Without a token, and with another, it is another segment.
    CHECK(store.made_by(store.create({.id = "a", .size = 10}, 2)).version == 2);
    CHECK(store.made_by(store.create({.id = "a", .size = 10, .token = 98}, 2)).version == 3);
  }

  TEST_CASE("a daemon that follows another knows what was asked for and answers alike") {
    Store store(room_for(16));
    const Answer made = store.made_by(store.create({.id = "a", .size = 10, .token = 98}));
    const Answer sealed = store.put({.id = "a", .size = 10, .token = 99});
    store.restart({false, true});
    CHECK(store.made_by(store.create({.id = "a", .size = 10, .token = 98}, 5)).serial ==
          made.serial);
    const Answer again = store.made_by(store.create({.id = "a", .size = 10, .token = 99}, 5));
    CHECK(again.serial == sealed.serial);
    CHECK(again.sealed_before);
    store.seal(made);
    CHECK(store.finds("a", 1));
  }

  TEST_CASE("another process's token repeats nothing") {
    Store store(room_for(16));
    const Answer made = store.made_by(store.create({.id = "a", .size = 10, .token = 99}));
    const Answer other =
        store.made_by(store.create({.id = "a", .size = 10, .token = 99, .owner_slot = 7}));
    CHECK(other.entry != made.entry);
    store.outside.twins.insert({writer, 8});
    const Answer twin =
        store.made_by(store.create({.id = "a", .size = 10, .token = 99, .owner_slot = 8}));
    CHECK(twin.entry == made.entry);
  }

  // ----------------------------------------------------------------------------- the full store

  TEST_CASE("a full store says at once how full it is and who holds what") {
    Store store(room_for(16));
    store.put({.id = "a", .size = pages(9)});
    const Answer pinned = store.put({.id = "b", .size = pages(5)});
    store.pin(pinned, 4);
    store.pin(pinned, 4);
    store.pin(store.put({.id = "c", .size = pages(1)}), 5);
    const Ticket refused = store.create({.id = "d", .size = pages(2)});
    CHECK(store.heard(refused) == "store_full");
    const std::string text = store.detail(refused);
    CHECK(text.find("8 KiB asked for 'd', 4 KiB of 64 KiB free") != std::string::npos);
    CHECK(text.find("20 KiB pinned by pid 1004 (process 4), 4 KiB pinned by pid 1005") !=
          std::string::npos);
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.rules->usage().parked == 0);
    // A removal that waits for its reader holds memory, too.
    REQUIRE(store.rules->remove("b", 0, 0, false));
    CHECK(store.detail(store.create({.id = "d", .size = pages(2)}))
              .find("20 KiB pinned by pid 1004") != std::string::npos);
    CHECK(store.heard(store.create({.id = "d", .size = pages(1)})) == "nothing");
  }

  TEST_CASE("who brought time waits for room, and is told at the deadline if there was none") {
    Store store(room_for(16));
    store.put({.id = "a", .size = pages(16)});
    const NewSegment wish{
        .id = "b", .size = pages(2), .timeout_ns = nanoseconds(milliseconds(500))};
    const Ticket ticket = store.create(wish);
    CHECK(store.heard(ticket) == "nothing");
    CHECK(store.rules->usage().parked == 1);
    CHECK(store.rules->next_wakeup() == store.now + milliseconds(500));
    SUBCASE("room comes") {
      store.pass(milliseconds(499));
      REQUIRE(store.rules->remove("a", 0, 0, false));
      CHECK(store.heard(ticket) == "created");
    }
    SUBCASE("time runs out") {
      store.pass(milliseconds(499));
      CHECK(store.heard(ticket) == "nothing");
      store.pass(milliseconds(1));
      CHECK(store.heard(ticket) == "store_full");
      CHECK(store.detail(ticket).find("8 KiB asked for 'b'") != std::string::npos);
      CHECK(store.rules->usage().creating == 0);
      REQUIRE(store.rules->remove("a", 0, 0, false));
      CHECK(store.heard(ticket) == "store_full");
    }
    SUBCASE("who asked has gone") {
      store.rules->session_ended(1);
      CHECK(store.rules->usage().creating == 0);
      store.pass(seconds(1));
      CHECK(store.heard(ticket) == "nothing");
    }
    SUBCASE("room comes when a pin ends") {
      const Answer a = store.outside.answers[0];
      store.pin(a);
      REQUIRE(store.rules->remove("a", 0, 0, false));
      CHECK(store.heard(ticket) == "nothing");
      store.unpin(a);
      store.rules->nudge(a.entry);
      CHECK(store.heard(ticket) == "created");
    }
    CHECK(store.rules->usage().parked == 0);
    CHECK(store.adds_up());
    CHECK_FALSE(store.rules->next_wakeup());
  }

  TEST_CASE("room is given in order of arrival; what does not fit lets others pass") {
    Store store(room_for(16));
    std::vector<std::string> ids;
    for (int i = 0; i < 16; ++i) {
      ids.push_back("block " + std::to_string(i));
      store.put({.id = ids.back(), .size = pages(1)});
    }
    const auto wish = [&](std::string_view id, std::uint64_t count) {
      return store.create(
          {.id = id, .size = pages(count), .timeout_ns = nanoseconds(seconds(100))});
    };
    const Ticket large = wish("large", 3);
    const Ticket first = wish("first", 1);
    const Ticket second = wish("second", 1);
    REQUIRE(store.rules->remove(ids[0], 0, 0, false));
    CHECK(store.heard(large) == "nothing");
    CHECK(store.heard(first) == "created");
    CHECK(store.heard(second) == "nothing");
    const Ticket third = wish("third", 1);
    REQUIRE(store.rules->remove(ids[1], 0, 0, false));
    CHECK(store.heard(second) == "created");
    CHECK(store.heard(third) == "nothing");
    REQUIRE(store.rules->remove(ids[2], 0, 0, false));
    CHECK(store.heard(third) == "created");
    for (const std::size_t i : {3U, 4U, 5U}) {
      CHECK(store.heard(large) == "nothing");
      REQUIRE(store.rules->remove(ids[i], 0, 0, false));
    }
    CHECK(store.made_by(large).version == 1);
  }

  TEST_CASE("of equal creates that wait, nobody is overtaken, whatever frees the room") {
    Store store(room_for(8));
    for (int i = 0; i < 8; ++i) store.put({.id = "a", .size = pages(1)});
    std::vector<Ticket> tickets;
    std::vector<std::string> ids;
    for (int i = 0; i < 24; ++i) {
      ids.push_back("b" + std::to_string(i));
      tickets.push_back(store.create(
          {.id = ids.back(), .size = pages(1), .timeout_ns = nanoseconds(seconds(100))}));
    }
    for (std::uint64_t version = 1; version <= 8; ++version) {
      REQUIRE(store.rules->remove("a", version, 0, false));
      store.do_jobs();
      store.pass(milliseconds(1));
    }
    for (std::size_t served = 8; served < tickets.size(); ++served) {
      const std::vector<Answer> made = store.outside.to(tickets[served - 8]);
      REQUIRE(made.size() == 1);
      CHECK(store.heard(tickets[served]) == "nothing");
      REQUIRE(store.rules->abort(made[0].entry, made[0].serial, writer, false));
      CHECK(store.heard(tickets[served]) == "created");
    }
  }

  TEST_CASE("a store whose memory is being tidied is not called full") {
    RulesOptions options = room_for(16);
    options.keep_warm_bytes = pages(2);
    Store store(options);
    store.put({.id = "a", .size = pages(16)});
    REQUIRE(store.rules->remove("a", 0, 0, false));
    REQUIRE(store.outside.jobs.size() == 1);
    CHECK(store.outside.jobs[0].arena.punch == std::vector<Extent>{{0, pages(14)}});
    CHECK(store.rules->usage().warm == pages(2));
    CHECK(store.rules->usage().growing == pages(14));
    const Ticket ticket = store.create({.id = "b", .size = pages(12)});
    CHECK(store.heard(ticket) == "nothing");
    store.pass(seconds(1));
    CHECK(store.heard(ticket) == "nothing");
    CHECK(store.made_by(ticket).version == 1);
    CHECK(store.adds_up());
  }

  // ----------------------------------------------------------------------------------- eviction

  TEST_CASE("what was used longest ago is dropped first, and leaves word of it") {
    Store store(room_for(4));
    for (const char* id : {"a", "b", "c", "d"})
      store.put({.id = id, .size = pages(1), .evictable = true});
    store.census.accesses = {*store.rules->find("a", 0)};
    store.put({.id = "e", .size = pages(2)});
    CHECK(store.finds("a"));
    CHECK_FALSE(store.finds("b"));
    CHECK_FALSE(store.finds("c"));
    CHECK(store.finds("d"));
    const auto grave = store.rules->find("b", 1);
    REQUIRE(grave);
    CHECK(store.table->word(*grave).state() == State::tombstone);
    CHECK(shm::reason_of(store.table->flags(*grave)) == shm::Reason::evicted);
    CHECK(store.rules->usage().tombstones == 2);
    // Who waits for it is sent to look, and finds out.
    CHECK(store.heard(store.await("b", {.exact = 1}, seconds(1))) == "awaited");
  }

  TEST_CASE("what is pinned, or was not put as evictable, is never dropped") {
    Store store(room_for(4));
    store.put({.id = "a", .size = pages(1)});
    const Answer pinned = store.put({.id = "b", .size = pages(1), .evictable = true});
    store.pin(pinned);
    store.put({.id = "c", .size = pages(1), .evictable = true});
    const Answer making =
        store.made_by(store.create({.id = "d", .size = pages(1), .evictable = true}));
    CHECK(store.heard(store.create({.id = "e", .size = pages(2)})) == "store_full");
    CHECK(store.finds("a"));
    CHECK(store.finds("b"));
    CHECK(store.state(pinned) == State::sealed);
    CHECK(store.state(making) == State::creating);
  }

  TEST_CASE("a create that waits is served when something becomes evictable") {
    Store store(room_for(4));
    const Answer pinned = store.put({.id = "a", .size = pages(2), .evictable = true});
    store.pin(pinned);
    const Answer making =
        store.made_by(store.create({.id = "b", .size = pages(2), .evictable = true}));
    const Ticket ticket = store.create(
        {.id = "c", .size = pages(2), .timeout_ns = nanoseconds(seconds(10))});
    SUBCASE("because it is sealed") { store.seal(making); }
    SUBCASE("because its last reader let it go") { store.unpin(pinned); }
    // Evictable memory is nobody's to announce, so the rules look for it themselves.
    REQUIRE(store.rules->next_wakeup());
    CHECK(*store.rules->next_wakeup() <= store.now + milliseconds(100));
    store.pass(milliseconds(100));
    CHECK(store.heard(ticket) == "created");
  }

  TEST_CASE("no more tombstones are kept than asked for, the oldest go first") {
    RulesOptions options = room_for(1);
    options.tombstones_max = 2;
    Store store(options);
    for (const char* id : {"a", "b", "c", "d"})
      store.put({.id = id, .size = pages(1), .evictable = true});
    CHECK_FALSE(store.rules->find("a", 0));
    CHECK(store.rules->find("b", 0));
    CHECK(store.rules->find("c", 0));
    CHECK(store.rules->usage().tombstones == 2);
    CHECK(store.rules->usage().ids == 3);
    // A removed tombstone is no removed segment.
    CHECK(outcome(store.rules->remove("b", 0, 0, false)) == "not_found");
    CHECK_FALSE(store.rules->find("b", 0));
  }

  TEST_CASE("a tombstone whose version was made again is not counted") {
    Store store(room_for(1));
    store.put({.id = "a", .size = pages(1), .evictable = true});
    store.put({.id = "b", .size = pages(1), .evictable = true});
    CHECK(store.rules->usage().tombstones == 1);
    store.put({.id = "a", .version = 1, .size = pages(1), .evictable = true});
    CHECK(store.rules->usage().tombstones == 1);
    REQUIRE(store.rules->remove("b", 0, 0, true));
    CHECK(store.rules->usage().tombstones == 0);
  }

  TEST_CASE("one small segment is dropped for another of its size, and not a slab full of them") {
    Store store(room_for(16));
    std::vector<Answer> items;
    for (int i = 0; i < 64; ++i)
      items.push_back(store.put({.id = "a", .size = 1024, .evictable = true, .packed = true}));
    REQUIRE(store.rules->usage().used == store.rules->usage().capacity);
    // The slab cannot go while one of its items is pinned, but a slot in it can.
    store.pin(items[7]);
    const Ticket ticket = store.create({.id = "b", .size = 1000, .packed = true});
    CHECK(store.heard(ticket) == "created");
    CHECK(store.rules->usage().tombstones == 1);
    CHECK(store.state(items[0]) == State::tombstone);
    CHECK(store.adds_up());
  }

  TEST_CASE("a slab whose segments were dropped makes room for a large segment") {
    Store store(room_for(32));
    for (int i = 0; i < 128; ++i)
      store.put({.id = "a", .size = 1024, .evictable = true, .packed = true});
    REQUIRE(store.rules->usage().used == store.rules->usage().capacity);
    const Ticket ticket = store.create({.id = "b", .size = pages(16)});
    CHECK(store.heard(ticket) == "created");
    // The other slab has no part in it.
    CHECK(store.rules->usage().tombstones == 64);
    CHECK(store.adds_up());
  }

  TEST_CASE("nothing is dropped for a create whose room is on its way") {
    RulesOptions options = room_for(8);
    options.keep_warm_bytes = 0;
    Store store(options);
    store.put({.id = "a", .size = pages(2), .evictable = true});
    store.put({.id = "b", .size = pages(6)});
    REQUIRE(store.rules->remove("b", 0, 0, false));
    REQUIRE(store.outside.jobs.size() == 1);
    const Ticket ticket = store.create({.id = "c", .size = pages(6)});
    CHECK(store.finds("a"));
    CHECK(store.made_by(ticket).version == 1);
    CHECK(store.finds("a"));
  }

  // ----------------------------------------------------------------------- deaths and farewells

  TEST_CASE("what a dead process was making goes, and so do its pins") {
    Store store(room_for(16));
    const Answer sealed = store.put({.id = "sealed", .size = pages(1)});
    const Answer made = store.made_by(store.create({.id = "a", .size = pages(3)}));
    const Answer others =
        store.made_by(store.create({.id = "b", .size = pages(2), .owner_slot = 7}));
    const Answer held = store.put({.id = "held", .size = pages(4)});
    store.pin(held, writer);
    REQUIRE(store.rules->remove("held", 0, 0, false));
    const Ticket parked = store.create({.id = "c",
                                        .size = pages(10),
                                        .timeout_ns = nanoseconds(seconds(10)),
                                        .owner_slot = 7},
                                       2);
    store.rules->session_ended(1);
    CHECK(store.state(made) == State::creating);
    CHECK(store.rules->usage().used == pages(10));
    store.census.process_died(writer);
    store.rules->process_ended(writer);
    CHECK(store.state(made) == State::free);
    CHECK(store.state(held) == State::free);
    CHECK(store.state(others) == State::creating);
    CHECK(store.state(sealed) == State::sealed);
    CHECK(store.rules->usage().removing == 0);
    // Who waited for that room has it.
    store.do_jobs();
    CHECK(store.heard(parked) == "created");
    CHECK(store.rules->usage().used == pages(13));
    CHECK(store.adds_up());
  }

  TEST_CASE("memory that comes for a session that has gone is kept for the next") {
    Store store(room_for(16));
    bool in_slab = false;
    SUBCASE("pages of its own") {}
    SUBCASE("a slab") { in_slab = true; }
    const Ticket ticket = store.create({.id = "a", .size = 5000, .packed = in_slab});
    const Ticket waiter = store.await("a", {}, seconds(1));
    store.rules->session_ended(1);
    CHECK(store.rules->usage().creating == 0);
    store.do_jobs();
    store.pass(seconds(2));
    CHECK(store.heard(ticket) == "nothing");
    CHECK(store.heard(waiter) == "nothing");
    CHECK(store.rules->usage().used == 0);
    CHECK(store.rules->usage().warm == (in_slab ? pages(16) : pages(2)));
    CHECK(store.heard(store.create({.id = "a", .version = 1, .size = 5000}, 2)) == "created");
  }

  TEST_CASE("a version whose first maker has gone is made by the next, whose memory comes later") {
    Store store(room_for(16));
    const Ticket gone = store.create({.id = "a", .version = 1, .size = pages(1)}, 1);
    store.rules->session_ended(1);
    const Ticket next = store.create({.id = "a", .version = 1, .size = pages(2)}, 2);
    store.do_job(0);
    CHECK(store.heard(next) == "nothing");
    store.do_jobs();
    CHECK(store.heard(gone) == "nothing");
    CHECK(store.heard(next) == "created");
    CHECK(store.rules->usage().used == pages(2));
  }

  // ------------------------------------------------------------------------------------- memory

  TEST_CASE("memory that the system refuses is an answer, and nothing is lost") {
    Store store(room_for(16));
    bool in_slab = false;
    SUBCASE("pages of its own") {}
    SUBCASE("a slab") { in_slab = true; }
    const Ticket ticket = store.create({.id = "a",
                                        .size = 5000,
                                        .packed = in_slab,
                                        .timeout_ns = nanoseconds(seconds(10))});
    store.do_job(0, no_memory);
    CHECK(store.heard(ticket) == "store_full");
    CHECK(store.detail(ticket).find("asked for 'a', and the system gave no memory") !=
          std::string::npos);
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.rules->usage().used == 0);
    CHECK(store.rules->usage().growing == 0);
    CHECK(store.rules->usage().ungrown == pages(16));
    CHECK(store.rules->space().cold_runs() == std::vector<Extent>{{0, pages(256)}});
    CHECK(store.put({.id = "a", .version = 1, .size = 5000, .packed = in_slab}).version == 1);
  }

  TEST_CASE("a long id for which there is no memory is refused, and nothing is lost") {
    Store store(room_for(16));
    const std::string id(200, 'x');
    store.memory.refuses = true;
    bool in_slab = false;
    SUBCASE("pages of its own") {}
    SUBCASE("a slab") { in_slab = true; }
    const Ticket ticket = store.create({.id = id, .size = 5000, .packed = in_slab});
    store.do_jobs();
    CHECK(store.heard(ticket) == "store_full");
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.rules->usage().slab_items == 0);
    CHECK(store.rules->usage().used == store.rules->usage().slabs);
    store.memory.refuses = false;
    CHECK(store.put({.id = id, .version = 1, .size = 5000, .packed = in_slab}).version == 1);
    CHECK(store.adds_up());
  }

  TEST_CASE("a reserve is kept ahead of demand, and not asked for again at once if refused") {
    RulesOptions options = room_for(16);
    options.reserve_bytes = pages(4);
    Store store(options);
    store.rules->tick(store.now);
    REQUIRE(store.outside.jobs.size() == 1);
    CHECK_FALSE(store.outside.jobs[0].urgent);
    CHECK(store.rules->usage().growing == pages(4));
    store.do_job(0, no_memory);
    CHECK(store.outside.jobs.empty());
    CHECK(store.rules->usage().ungrown == pages(16));
    CHECK(store.rules->next_wakeup() == store.now + seconds(1));
    store.pass(milliseconds(999));
    CHECK(store.outside.jobs.empty());
    store.pass(milliseconds(1));
    REQUIRE(store.outside.jobs.size() == 1);
    store.do_job();
    CHECK(store.rules->usage().warm == pages(4));
    // A create takes from it at once, and it is filled up again.
    CHECK(store.heard(store.create({.id = "a", .size = pages(3)})) == "created");
    REQUIRE(store.outside.jobs.size() == 1);
    CHECK(store.outside.jobs[0].arena.grow == std::vector<Extent>{{pages(4), pages(3)}});
  }

  TEST_CASE("a create waits for the index to grow, however short its own time") {
    Store store(room_for(16), limits, false);
    const Ticket ticket = store.create({.id = "a", .size = 10});
    REQUIRE(store.outside.jobs.size() == 1);
    CHECK_FALSE(store.outside.jobs[0].index_ranges.empty());
    store.pass(seconds(1));
    CHECK(store.heard(ticket) == "nothing");
    CHECK(store.made_by(ticket).version == 1);
    CHECK(store.table->id(store.made_by(ticket).entry) == "a");
  }

  TEST_CASE("a create that waited for the index is told at once that the store is full") {
    Store store(room_for(16), limits, false);
    const Ticket first = store.create({.id = "a", .size = pages(16)});
    const Ticket second = store.create({.id = "b", .size = pages(16)});
    store.do_jobs();
    CHECK(store.heard(first) == "created");
    CHECK(store.rules->next_wakeup());
    CHECK(*store.rules->next_wakeup() <= store.now);
    store.pass(milliseconds(0));
    CHECK(store.heard(second) == "store_full");
  }

  TEST_CASE("before a create is refused for its time, the rules look what there is to be had") {
    Store store(room_for(4));
    const Answer made =
        store.made_by(store.create({.id = "a", .size = pages(2), .evictable = true}));
    const Answer held = store.put({.id = "b", .size = pages(2)});
    store.pin(held);
    REQUIRE(store.rules->remove("b", 0, 0, false));
    const Ticket ticket = store.create(
        {.id = "c", .size = pages(2), .timeout_ns = nanoseconds(milliseconds(50))});
    SUBCASE("what was sealed since may be dropped") { store.seal(made); }
    SUBCASE("a pin may have ended without a word") { store.unpin(held); }
    store.pass(milliseconds(50));
    CHECK(store.heard(ticket) == "created");
  }

  TEST_CASE("creates for which the index cannot grow are refused by name") {
    Store store(room_for(16), limits, false);
    const std::string long_id = "an id that is too long to be copied in place";
    const Ticket first = store.create({.id = "a", .size = 10});
    const Ticket second = store.create({.id = long_id, .size = 10}, 2);
    store.do_job(0, no_memory);
    CHECK(store.heard(first) == "store_full");
    CHECK(store.heard(second) == "store_full");
    CHECK(store.detail(first).find("asked for 'a', and") != std::string::npos);
    CHECK(store.detail(second).find("'" + long_id + "'") != std::string::npos);
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.rules->usage().parked == 0);
  }

  TEST_CASE("an index that cannot grow any more is a limit that was reached") {
    constexpr shm::Limits tiny{.entries = 4, .lines = 64, .overflow_lines = 60, .processes = 1};
    Store store(room_for(16), tiny);
    for (const char* id : {"a", "b"}) store.put({.id = id, .size = pages(1)});
    SUBCASE("for a create") {
      store.put({.id = "c", .size = pages(1)});
      const Ticket ticket = store.create({.id = "d", .size = pages(1)});
      CHECK(store.heard(ticket) == "limit_reached");
      CHECK(store.rules->usage().creating == 0);
      REQUIRE(store.rules->remove("a", 0, 0, false));
      CHECK(store.put({.id = "d", .size = pages(1)}).version == 1);
    }
    SUBCASE("for a create that finds the last entry taken when its memory has come") {
      const Ticket slow = store.create({.id = "c", .size = pages(3)});
      const Ticket quick = store.create({.id = "d", .size = 0});
      CHECK(store.heard(quick) == "created");
      store.do_jobs();
      CHECK(store.heard(slow) == "limit_reached");
      CHECK(store.rules->usage().creating == 1);
      CHECK(store.rules->usage().used == pages(2));
      CHECK(store.adds_up());
    }
  }

  TEST_CASE("tombstones make place when the index cannot grow") {
    constexpr shm::Limits tiny{.entries = 4, .lines = 64, .overflow_lines = 60, .processes = 1};
    Store store(room_for(1), tiny);
    for (const char* id : {"a", "b", "c"})
      store.put({.id = id, .size = pages(1), .evictable = true});
    CHECK(store.put({.id = "d", .size = pages(1)}).version == 1);
    CHECK_FALSE(store.rules->find("a", 0));
    CHECK(store.rules->find("c", 0));
  }

  // ----------------------------------------------------------------------------------- restarts

  TEST_CASE("a daemon that follows another takes over each segment as it finds it") {
    Store store(room_for(64));
    const Answer sealed = store.put({.id = "sealed", .size = pages(2)});
    const Answer small = store.put({.id = "small", .size = 100, .packed = true});
    const Answer evictable = store.put({.id = "evictable", .size = pages(3), .evictable = true});
    const Answer evicting = store.put({.id = "evicting", .size = pages(4), .evictable = true});
    const Answer buried = store.put({.id = "buried", .size = pages(5), .evictable = true});
    const Answer living = store.made_by(store.create({.id = "living", .size = pages(1)}));
    const Answer dead =
        store.made_by(store.create({.id = "dead", .size = pages(6), .owner_slot = 3}));
    const Answer pinned = store.put({.id = "pinned", .size = pages(7)});
    const Answer removing = store.put({.id = "removing", .size = pages(8)});
    store.pin(pinned);
    REQUIRE(store.rules->remove("pinned", 0, 0, false));
    store.table->mark_evicting(evicting.entry);
    store.table->mark_evicting(buried.entry);
    store.table->bury(buried.entry, shm::Reason::evicted);
    store.table->begin_removal(removing.entry);

    const shm::Range touched{0, pages(56)};
    CHECK(store.restart({false, true, true, false}, {touched}) == 0);
    CHECK(store.finds("sealed"));
    CHECK(store.finds("small"));
    CHECK(store.finds("evictable"));
    CHECK(store.finds("evicting"));
    CHECK(store.state(evicting) == State::sealed);
    CHECK(store.state(buried) == State::tombstone);
    CHECK(store.state(living) == State::creating);
    CHECK(store.state(dead) == State::free);
    CHECK(store.state(pinned) == State::removing);
    CHECK(store.state(removing) == State::free);

    const Usage usage = store.rules->usage();
    CHECK(usage.segments == 4);
    CHECK(usage.creating == 1);
    CHECK(usage.removing == 1);
    CHECK(usage.tombstones == 1);
    CHECK(usage.slab_items == 128);
    CHECK(usage.used == pages(2 + 16 + 3 + 4 + 1 + 7));
    CHECK(usage.warm == pages(56) - usage.used);
    CHECK(store.adds_up());

    // And life goes on with each of them.
    store.seal(living);
    CHECK(store.finds("living"));
    store.unpin(pinned);
    store.rules->nudge(pinned.entry);
    CHECK(store.state(pinned) == State::free);
    CHECK(store.rules->usage().warm == pages(56 - 26));
    const Ticket large = store.create({.id = "large", .size = pages(44)});
    store.do_jobs();
    CHECK(store.heard(large) == "created");
    CHECK_FALSE(store.finds("evictable"));
    CHECK_FALSE(store.finds("evicting"));
    CHECK(store.finds("sealed"));
    CHECK(store.state(sealed) == State::sealed);
    CHECK(store.state(small) == State::sealed);
    CHECK(store.state(evictable) == State::tombstone);
  }

  TEST_CASE("a slab found at a restart has room where no segment was found") {
    Store store(room_for(16));
    std::vector<Answer> items;
    for (int i = 0; i < 64; ++i)
      items.push_back(store.put({.id = "a", .size = 1024, .packed = true}));
    for (std::uint64_t version = 1; version <= 64; version += 2)
      REQUIRE(store.rules->remove("a", version, 0, false));
    CHECK(store.restart({false, true}) == 0);
    CHECK(store.rules->usage().slab_items == 32 * 1024);
    CHECK(store.rules->usage().used == pages(16));
    std::set<std::uint64_t> offsets;
    for (std::size_t i = 1; i < items.size(); i += 2)
      offsets.insert(items[i].location.offset());
    for (int i = 0; i < 32; ++i) {
      const Ticket ticket = store.create({.id = "b", .size = 1024, .packed = true});
      REQUIRE(store.heard(ticket) == "created");
      CHECK(offsets.insert(store.made_by(ticket).location.offset()).second);
    }
    CHECK(store.heard(store.create({.id = "b", .size = 1024, .packed = true})) == "store_full");
  }

  TEST_CASE("small creates that come together while memory is cold share a slab") {
    Store store(room_for(64));
    std::vector<Ticket> tickets;
    for (int i = 0; i < 100; ++i) {
      const std::string id = "s/" + std::to_string(i);
      tickets.push_back(store.create({.id = id, .size = 64, .packed = true}));
    }
    // One has asked the memory thread; the others wait for that, without a timeout of their own.
    CHECK(store.outside.jobs.size() == 1);
    store.do_jobs();
    for (const Ticket ticket : tickets) CHECK(store.heard(ticket) == "created");
    CHECK(store.rules->usage().slabs == Slabs::slab_bytes(64));
    CHECK(store.adds_up());
  }

  TEST_CASE("small creates that wait for a slab which cannot be had are told so") {
    Store store(room_for(64));
    const Ticket first = store.create({.id = "a", .size = 64, .packed = true});
    const Ticket second = store.create({.id = "b", .size = 64, .packed = true});
    while (!store.outside.jobs.empty()) store.do_job(0, no_memory);
    CHECK(store.heard(first) == "store_full");
    CHECK(store.heard(second) == "store_full");
    CHECK(store.adds_up());
  }

  TEST_CASE("a create whose caller has given up is undone, answered or not") {
    Store store(room_for(64));
    const Ticket pending =
        store.create({.id = "pending", .size = pages(3), .token = 11, .owner_slot = writer});
    store.rules->cancel(11, writer);
    CHECK(store.heard(pending) == "timed_out");
    store.do_jobs();
    CHECK(store.heard(pending) == "timed_out");
    const Answer made = store.made_by(
        store.create({.id = "made", .size = pages(3), .token = 12, .owner_slot = writer}));
    // Not by another process, and not by a token that is not known.
    store.rules->cancel(12, reader);
    store.rules->cancel(99, writer);
    CHECK(store.state(made) == State::creating);
    store.rules->cancel(12, writer);
    CHECK(store.state(made) == State::free);
    const Answer all = store.put({.id = "all", .size = pages(64)});
    const Ticket parked = store.create(
        {.id = "parked", .size = pages(3), .timeout_ns = nanoseconds(seconds(9)), .token = 13});
    CHECK(store.rules->usage().parked == 1);
    store.rules->cancel(13, writer);
    CHECK(store.rules->usage().parked == 0);
    CHECK(store.heard(parked) == "timed_out");
    CHECK(store.adds_up());
  }

  TEST_CASE("a create that finds everything pinned gets what is let go, wherever that stands") {
    constexpr std::uint64_t count = 60;
    Store store(room_for(count));
    std::vector<Answer> all;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::string id = "e/" + std::to_string(i);
      all.push_back(store.put({.id = id, .size = pages(1), .evictable = true}));
      store.pin(all.back());
    }
    const Ticket ticket = store.create(
        {.id = "new", .size = pages(1), .timeout_ns = nanoseconds(seconds(9))});
    store.do_jobs();
    CHECK(store.heard(ticket) == "nothing");
    // The one that is let go is found at the next rescan, wherever it stands.
    store.unpin(all[count / 2]);
    store.pass(milliseconds(1));
    store.pass(milliseconds(200));
    store.do_jobs();
    CHECK(store.heard(ticket) == "created");
    CHECK(store.state(all[count / 2]) == State::tombstone);
    CHECK(store.state(all[0]) == State::sealed);
    CHECK(store.adds_up());
  }

  TEST_CASE("of two segments over the same bytes, the one that came later is given up") {
    Store store(room_for(64));
    const std::uint32_t in_slab = shm::flag_bit(shm::RecordFlag::in_slab);
    const auto forge = [&](std::string_view id, std::uint64_t offset, std::uint64_t size,
                           std::uint32_t flags) {
      const EntryNumber entry = *store.table->begin({.id = id,
                                                     .key = store.table->key_of(id),
                                                     .version = 1,
                                                     .size = size,
                                                     .location = shm::Location(0, offset),
                                                     .flags = flags});
      store.table->seal(entry, 1);
    };
    SUBCASE("pages in pages") {
      forge("first", pages(4), pages(4), 0);
      forge("second", pages(3), pages(2), 0);
    }
    SUBCASE("a slot in a slot") {
      forge("first", 128, 90, in_slab);
      forge("second", 128, 100, in_slab);
    }
    SUBCASE("pages in a slab") {
      forge("first", 128, 100, in_slab);
      forge("second", pages(3), pages(2), 0);
    }
    SUBCASE("a slab in pages") {
      forge("first", pages(3), pages(20), 0);
      forge("second", 128, 100, in_slab);
    }
    SUBCASE("behind the end") {
      forge("first", 0, pages(1), 0);
      forge("second", pages(64 * 16), pages(1), 0);
    }
    CHECK(store.restart({}) == 1);
    CHECK(store.finds("first"));
    CHECK_FALSE(store.finds("second"));
    CHECK(store.adds_up());
    // Nothing that comes later lies where the first one does.
    const EntryNumber first = *store.rules->find("first", 0);
    const std::uint64_t first_offset = store.table->location(first).offset();
    const std::uint64_t first_end = first_offset + store.table->size(first);
    const std::uint64_t used = store.rules->usage().used;
    for (int i = 0; i < 200; ++i) {
      const Answer made = store.put({.id = "small", .size = 100, .packed = true});
      const std::uint64_t offset = made.location.offset();
      CHECK((offset + 100 <= first_offset || offset >= first_end));
    }
    REQUIRE(store.rules->remove("small", 0, 0, false));
    CHECK(store.rules->usage().used >= used);
    REQUIRE(store.rules->remove("first", 0, 0, false));
    CHECK(store.adds_up());
    CHECK(store.put({.id = "large", .size = pages(64)}).version == 1);
  }

  TEST_CASE("memory comes in whole huge pages, and what is not needed stays warm") {
    RulesOptions options = room_for(4 * 512);
    options.growth_bytes = shm::huge_page_bytes;
    Store store(options);
    const Ticket ticket = store.create({.id = "a", .size = 100'000});
    REQUIRE(store.outside.jobs.size() == 1);
    REQUIRE(store.outside.jobs[0].arena.grow.size() == 1);
    const Extent grown = store.outside.jobs[0].arena.grow[0];
    CHECK(grown.bytes == shm::huge_page_bytes);
    CHECK(grown.offset % shm::huge_page_bytes == 0);
    const Answer made = store.made_by(ticket);
    store.seal(made);
    CHECK(store.rules->usage().used == pages(25));
    CHECK(store.rules->usage().warm == shm::huge_page_bytes - pages(25));
    // A slab has its place in what is warm already.
    store.put({.id = "small", .size = 40, .packed = true});
    CHECK(store.rules->usage().warm + store.rules->usage().used == shm::huge_page_bytes);
  }

  TEST_CASE("where no whole huge page is free, memory comes as it is asked for") {
    RulesOptions options = room_for(100);
    options.growth_bytes = shm::huge_page_bytes;
    Store store(options);
    store.put({.id = "a", .size = 50 * page_bytes});
    store.put({.id = "b", .size = 50 * page_bytes});
    CHECK(store.rules->usage().used == pages(100));
  }

  TEST_CASE("with a smaller capacity than before, nothing is lost and nothing grows") {
    Store store(room_for(16));
    store.put({.id = "a", .size = pages(10)});
    auto smaller = room_for(8);
    smaller.address_bytes = pages(16 * 16);
    const auto table = std::make_unique<SegmentTable>(store.memory.table());
    Rules rules(*table, store.census, store.outside, smaller);
    CHECK(rules.adopt(table->recover(), {}) == 0);
    const std::vector<shm::Range> touched{{0, pages(16)}};
    const std::vector<Extent> to_punch = rules.adopt_memory(touched);
    CHECK(to_punch == std::vector<Extent>{{pages(10), pages(16 * 16 - 10)}});
    CHECK(rules.usage().used == pages(10));
    CHECK(rules.usage().warm == 0);
    CHECK(rules.usage().ungrown == 0);
    NewSegment wish{.id = "b", .size = pages(1), .owner_slot = writer};
    rules.create({9, 1, 0}, wish, store.now);
    CHECK(store.outside.heard({9, 1, 0}) == "store_full");
    REQUIRE(rules.remove("a", 0, 0, false));
    CHECK(rules.usage().warm <= pages(8));
    while (!store.outside.jobs.empty()) {
      const MemoryJob job = store.outside.jobs.front();
      store.outside.jobs.erase(store.outside.jobs.begin());
      rules.memory_done(job.number, {}, store.now);
    }
    const Usage usage = rules.usage();
    CHECK(usage.warm + usage.ungrown == pages(8));
  }
}

}  // namespace
}  // namespace forebay::daemon
