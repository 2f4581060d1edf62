// SPDX-License-Identifier: Apache-2.0
// Who waits for what: for several versions, for whoever makes one, for events.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "store/daemon/rules.h"
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
using test::pages;
using test::reader;
using test::room_for;
using test::writer;
using Store = test::RulesStore;
using Indices = std::vector<std::uint32_t>;

constexpr std::uint32_t other = 3;  // a third process
const std::uint64_t ten_seconds = nanoseconds(seconds(10));

TEST_SUITE("rules_waiting") {
  // --------------------------------------------------------------------------- for several versions

  TEST_CASE("a wait for several is over when enough of them are there, and says which") {
    Store store(room_for(64));
    store.put({.id = "b", .version = 3, .size = 100});
    const std::vector<WaitWish> items{{"a", {}}, {"b", {.exact = 3}}, {"c", {.after = 1}}, {"d", {}}};
    const Ticket three = store.wait(items, 3, seconds(10));
    CHECK(store.rules->usage().waiters == 3);
    store.put({.id = "c", .version = 1, .size = 100});
    store.put({.id = "c", .version = 2, .size = 100});
    CHECK(store.heard(three) == "nothing");
    // More of an item that is ready is no more.
    store.put({.id = "c", .version = 3, .size = 100});
    store.put({.id = "b", .version = 4, .size = 100});
    CHECK(store.heard(three) == "nothing");
    store.put({.id = "a", .size = 100});
    CHECK(store.ready(three) == Indices{0, 1, 2});
    store.put({.id = "d", .size = 100});
    store.pass(seconds(20));
    CHECK(store.heard(three) == "waited");
    CHECK(store.rules->usage().waiters == 0);
    CHECK_FALSE(store.rules->next_wakeup());
  }

  TEST_CASE("a wait for what is there is answered at once, with all that is there") {
    Store store(room_for(64));
    for (const char* id : {"a", "b"}) store.put({.id = id, .size = 100});
    const std::vector<WaitWish> items{{"a", {}}, {"c", {}}, {"b", {.exact = 1}}};
    CHECK(store.ready(store.wait(items, 1, seconds(10))) == Indices{0, 2});
    CHECK(store.ready(store.wait(items, 2, seconds(0))) == Indices{0, 2});
    CHECK(store.ready(store.wait(items, 3, seconds(0))) == Indices{0, 2});
    CHECK(store.ready(store.wait(items, 0, seconds(10))) == Indices{0, 2});
    CHECK(store.ready(store.wait({}, 0, seconds(10))).empty());
    CHECK(store.rules->usage().waiters == 0);
  }

  TEST_CASE("a wait for several ends at its deadline with what is there by then") {
    Store store(room_for(64));
    const std::vector<WaitWish> items{{"a", {}}, {"b", {}}, {"c", {}}};
    const Ticket ticket = store.wait(items, 3, seconds(10));
    store.put({.id = "c", .size = 100});
    CHECK(store.rules->next_wakeup() == store.now + seconds(10));
    store.pass(seconds(10) - milliseconds(1));
    CHECK(store.heard(ticket) == "nothing");
    // What went meanwhile was there.
    REQUIRE(store.rules->remove("c", 0, 0, false));
    store.pass(milliseconds(1));
    CHECK(store.ready(ticket) == Indices{2});
    CHECK(store.rules->usage().waiters == 0);
    store.put({.id = "a", .size = 100});
    CHECK(store.heard(ticket) == "waited");
  }

  TEST_CASE("a wait for several is not over because of what is gone") {
    Store store(room_for(4));
    store.put({.id = "a", .size = pages(4), .evictable = true});
    const Answer big = store.put({.id = "b", .size = pages(4)});
    const Ticket ticket = store.wait({{"a", {.exact = 1}}}, 1, seconds(10));
    CHECK(store.heard(ticket) == "nothing");
    REQUIRE(store.rules->remove("b", 0, big.serial, false));
    store.put({.id = "a", .version = 1, .size = 100});
    CHECK(store.ready(ticket) == Indices{0});
  }

  TEST_CASE("a wait for more than it names is over when all of it is there, or time is up") {
    Store store(room_for(64));
    store.put({.id = "a", .size = 100});
    CHECK(store.ready(store.wait({{"a", {}}}, 2, seconds(10))) == Indices{0});
    CHECK(store.ready(store.wait({}, 1, seconds(10))).empty());
    const Ticket both = store.wait({{"a", {}}, {"b", {}}}, 7, seconds(10));
    const Ticket late = store.wait({{"a", {}}, {"c", {}}}, 7, seconds(10));
    store.put({.id = "b", .size = 100});
    CHECK(store.ready(both) == Indices{0, 1});
    store.pass(seconds(10));
    CHECK(store.ready(late) == Indices{0});
  }

  TEST_CASE("the same wish twice counts twice") {
    Store store(room_for(64));
    const Ticket ticket = store.wait({{"a", {}}, {"a", {}}, {"b", {}}}, 2, seconds(10));
    store.put({.id = "a", .size = 100});
    CHECK(store.ready(ticket) == Indices{0, 1});
  }

  TEST_CASE("nobody hears of a wait that was cancelled, or whose session has ended") {
    Store store(room_for(64));
    const Ticket gone = store.wait({{"a", {}}, {"b", {}}}, 2, seconds(10), 7);
    const Ticket stays = store.wait({{"a", {}}, {"b", {}}}, 2, seconds(10), 8);
    store.put({.id = "a", .size = 100});
    SUBCASE("cancelled") {
      // A number is its session's own.
      store.rules->cancel_wait(8, gone.number);
      store.rules->cancel_wait(7, gone.number);
    }
    SUBCASE("ended") { store.rules->session_ended(7); }
    CHECK(store.rules->usage().waiters == 1);
    store.put({.id = "b", .size = 100});
    store.pass(seconds(20));
    CHECK(store.heard(gone) == "nothing");
    CHECK(store.ready(stays) == Indices{0, 1});
  }

  TEST_CASE("a wait for one that was cancelled is not answered either") {
    Store store(room_for(64));
    const Ticket gone = store.await("a", {}, seconds(10));
    store.rules->cancel_wait(gone.session, gone.number);
    store.put({.id = "a", .size = 100});
    store.pass(seconds(20));
    CHECK(store.heard(gone) == "nothing");
  }

  // ------------------------------------------------------------------------------------------ claims

  TEST_CASE("of all that claim a version one has it, and the others have what that one makes") {
    Store store(room_for(64));
    const Answer mine = store.claimed_by(store.claim({.id = "a", .version = 4, .token = 11}, seconds(0)));
    CHECK(mine.version == 4);
    CHECK_FALSE(store.finds("a", 4));
    CHECK(store.rules->usage().used == 0);
    CHECK(store.rules->usage().creating == 0);
    const Ticket second =
        store.claim({.id = "a", .version = 4, .token = 12, .owner_slot = reader}, seconds(10), 2);
    const Ticket third =
        store.claim({.id = "a", .version = 4, .token = 13, .owner_slot = other}, seconds(10), 3);
    CHECK(store.heard(second) == "nothing");
    CHECK(store.rules->usage().claims_waiting == 2);
    CHECK(store.heard(store.claim({.id = "a", .version = 4, .token = 14}, seconds(0))) ==
          "timed_out");
    // Another version is another matter, and so is another id.
    CHECK(store.claimed_by(store.claim({.id = "a", .version = 5, .token = 15}, seconds(0))).version ==
          5);
    CHECK(store.claimed_by(store.claim({.id = "b", .token = 16}, seconds(0))).version == 1);

    const Answer made = store.made_by(
        store.create({.id = "a", .size = 100, .token = 21, .claim = 11}));
    CHECK(made.version == 4);
    CHECK(made.entry != mine.entry);
    CHECK(store.state(mine) == State::free);
    CHECK(store.rules->usage().creating == 1);
    CHECK(store.heard(second) == "nothing");
    store.seal(made);
    for (const Ticket ticket : {second, third}) {
      CHECK(store.heard(ticket) == "there");
      CHECK(store.outside.to(ticket)[0].serial == made.serial);
      CHECK(store.outside.to(ticket)[0].version == 4);
    }
    CHECK(store.rules->usage().claims_waiting == 0);
    CHECK(store.heard(store.claim({.id = "a", .version = 4, .token = 17}, seconds(0))) == "there");
  }

  TEST_CASE("a claim of no version is of the newest, or of the next if there is none") {
    Store store(room_for(4));
    const Ticket first = store.claim({.id = "a", .token = 11}, seconds(0));
    CHECK(store.claimed_by(first).version == 1);
    const Ticket waits = store.claim({.id = "a", .token = 12}, seconds(10));
    // Whatever version comes is the newest.
    store.put({.id = "a", .version = 7, .size = 100});
    CHECK(store.heard(waits) == "there");
    CHECK(store.outside.to(waits)[0].version == 7);
    CHECK(store.heard(store.claim({.id = "a", .token = 13}, seconds(0))) == "there");
    // Where all is gone, it is the next.
    store.put({.id = "b", .version = 3, .size = pages(3), .evictable = true});
    store.put({.id = "c", .size = pages(3)});
    REQUIRE(store.why_gone("b", 3) == shm::Reason::evicted);
    CHECK(store.claimed_by(store.claim({.id = "b", .token = 14}, seconds(0))).version == 4);
    CHECK(store.claimed_by(store.claim({.id = "b", .version = 3, .token = 15}, seconds(0))).version ==
          3);
  }

  TEST_CASE("who claims no version waits for any that is being made, and who claims one for that") {
    Store store(room_for(64));
    const Answer making = store.made_by(store.create({.id = "a", .version = 5, .size = 100}));
    const Ticket any = store.claim({.id = "a", .token = 11}, seconds(10));
    const Ticket exact = store.claim({.id = "a", .version = 5, .token = 12}, seconds(10));
    CHECK(store.claimed_by(store.claim({.id = "a", .version = 6, .token = 13}, seconds(0))).version ==
          6);
    SUBCASE("it is made") {
      store.seal(making);
      CHECK(store.heard(any) == "there");
      CHECK(store.heard(exact) == "there");
    }
    SUBCASE("it is not") {
      CHECK(store.abort(making) == "ok");
      CHECK(store.heard(any) == "nothing");
      CHECK(store.claimed_by(exact).version == 5);
    }
  }

  TEST_CASE("a claim that can never work is refused") {
    Store store(room_for(64));
    CHECK(store.heard(store.claim({.id = "", .token = 11}, seconds(9))) == "bad_id");
    CHECK(store.heard(store.claim({.id = "a", .version = ~std::uint64_t{0}, .token = 11},
                                  seconds(9))) == "bad_argument");
    CHECK(store.rules->usage().claims_waiting == 0);
  }

  TEST_CASE("a claim is no segment: nobody seals it, and nobody else puts its version") {
    Store store(room_for(64));
    const Answer mine = store.claimed_by(store.claim({.id = "a", .version = 1, .token = 11}, seconds(0)));
    CHECK(store.try_seal(mine) == "bad_state");
    CHECK(store.heard(store.create({.id = "a", .version = 1, .size = 100})) == "conflict");
    CHECK(store.put({.id = "a", .size = 100}).version == 2);
    CHECK(outcome(store.rules->hold("a", 1, 0, writer)) == "not_found");
    CHECK(outcome(store.rules->remove("a", 1, 0, false)) == "not_found");
    CHECK(store.abort(mine, {}, reader) == "bad_state");
    CHECK(store.abort(mine) == "ok");
    CHECK(store.put({.id = "a", .version = 1, .size = 100}).version == 1);
  }

  TEST_CASE("of those who wait for a claim that was given up the first takes over") {
    Store store(room_for(64));
    const Answer mine = store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0)));
    std::vector<Ticket> waiting;
    for (const std::uint32_t slot : {2U, 3U, 4U})
      waiting.push_back(
          store.claim({.id = "a", .token = 100 + slot, .owner_slot = slot}, seconds(10), slot));
    SUBCASE("aborted") { CHECK(store.abort(mine) == "ok"); }
    SUBCASE("by its token") { store.rules->cancel(11, writer); }
    SUBCASE("its process died") { store.die(writer); }
    const Answer second = store.claimed_by(waiting[0]);
    CHECK(second.serial != mine.serial);
    CHECK(store.rules->usage().claims_waiting == 2);
    CHECK(store.heard(waiting[1]) == "nothing");
    // And so on, past one who is not there any more.
    store.rules->session_ended(3);
    store.die(2);
    CHECK(store.heard(waiting[1]) == "nothing");
    const Answer last = store.claimed_by(waiting[2]);
    CHECK(store.abort(last, {}, 4) == "ok");
    CHECK(store.rules->usage().claims_waiting == 0);
    CHECK(store.table->family(store.table->key_of("a")).empty());
  }

  TEST_CASE("those who wait for a claim that failed are told why, and the next who asks may try") {
    Store store(room_for(64));
    const Answer mine =
        store.claimed_by(store.claim({.id = "a", .version = 2, .token = 11}, seconds(0)));
    const Answer third =
        store.claimed_by(store.claim({.id = "a", .version = 3, .token = 12}, seconds(0)));
    const Ticket exact = store.claim({.id = "a", .version = 2, .token = 13}, seconds(10));
    const Ticket any = store.claim({.id = "a", .token = 14}, seconds(10));
    const Ticket of_third = store.claim({.id = "a", .version = 3, .token = 15}, seconds(10));
    CHECK(store.abort(mine, "no such file") == "ok");
    for (const Ticket ticket : {exact, any}) {
      CHECK(store.heard(ticket) == "loader_failed");
      CHECK(store.detail(ticket) == "no such file");
    }
    CHECK(store.heard(of_third) == "nothing");
    CHECK(store.claimed_by(store.claim({.id = "a", .version = 2, .token = 16}, seconds(0))).version ==
          2);
    CHECK(store.abort(third) == "ok");
    CHECK(store.claimed_by(of_third).version == 3);
  }

  TEST_CASE("a claim that a session waits for ends with the session, at its deadline, or when told") {
    Store store(room_for(64));
    const Answer mine = store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0)));
    const Ticket waits = store.claim({.id = "a", .token = 12}, seconds(10), 2);
    const Ticket next = store.claim({.id = "a", .token = 13}, seconds(20), 3);
    std::string heard = "nothing";
    CHECK(store.rules->next_wakeup() == store.now + seconds(10));
    SUBCASE("session") { store.rules->session_ended(2); }
    SUBCASE("deadline") {
      store.pass(seconds(10) - milliseconds(1));
      CHECK(store.heard(waits) == "nothing");
      store.pass(milliseconds(1));
      heard = "timed_out";
    }
    SUBCASE("number") {
      store.rules->cancel_wait(3, waits.number);
      store.rules->cancel_wait(2, waits.number);
    }
    SUBCASE("token") {
      store.rules->cancel(12, reader);  // not the one who asked
      CHECK(store.rules->usage().claims_waiting == 2);
      store.rules->cancel(12, writer);
      heard = "timed_out";
    }
    CHECK(store.heard(waits) == heard);
    CHECK(store.rules->usage().claims_waiting == 1);
    CHECK(store.abort(mine) == "ok");
    CHECK(store.heard(waits) == heard);
    CHECK(store.heard(next) == "claimed");
  }

  TEST_CASE("a claim stays when its session ends: it is the process's") {
    Store store(room_for(64));
    const Answer mine = store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0)));
    store.rules->session_ended(1);
    CHECK(store.state(mine) == State::creating);
    CHECK(store.heard(store.claim({.id = "a", .token = 12}, seconds(0))) == "timed_out");
    CHECK(store.made_by(store.create({.id = "a", .size = 100, .claim = 11}, 2)).version == 1);
  }

  TEST_CASE("only a claim's process fulfils it, once, by its token") {
    Store store(room_for(64));
    store.claimed_by(store.claim({.id = "a", .version = 3, .token = 11}, seconds(0)));
    CHECK(store.heard(store.create({.id = "a", .size = 1, .owner_slot = reader, .claim = 11})) ==
          "conflict");
    CHECK(store.heard(store.create({.id = "a", .size = 1, .claim = 12})) == "conflict");
    CHECK(store.heard(store.create({.id = "b", .size = 1, .claim = 11})) == "conflict");
    store.outside.twins.insert({writer, 7});
    const Answer made = store.made_by(
        store.create({.id = "a", .size = 1, .owner_slot = 7, .claim = 11}));
    CHECK(made.version == 3);
    CHECK(store.heard(store.create({.id = "a", .size = 1, .claim = 11})) == "conflict");
    store.seal(made);
    CHECK(store.heard(store.create({.id = "a", .size = 1, .claim = 11})) == "conflict");
    CHECK(store.versions("a") == "3");
  }

  TEST_CASE("a put that fails leaves the claim that it was to fulfil") {
    Store store(room_for(4));
    const Answer mine = store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0)));
    const Ticket waits = store.claim({.id = "a", .token = 12}, seconds(100));
    store.put({.id = "b", .size = pages(3)});
    NewSegment put{.id = "a", .size = pages(2), .token = 21, .claim = 11};
    std::string heard = "store_full";
    SUBCASE("at once") {
      const Ticket ticket = store.create(put);
      CHECK(store.heard(ticket) == heard);
    }
    SUBCASE("at its deadline") {
      put.timeout_ns = ten_seconds;
      const Ticket ticket = store.create(put);
      CHECK(store.heard(ticket) == "nothing");
      CHECK(store.rules->usage().creating == 1);
      store.pass(seconds(10));
      CHECK(store.heard(ticket) == heard);
    }
    SUBCASE("because the system has no memory") {
      put.size = pages(1);
      const Ticket ticket = store.create(put);
      store.do_job(0, no_memory);
      CHECK(store.heard(ticket) == heard);
    }
    SUBCASE("because its caller gives up while it waits for room") {
      put.timeout_ns = ten_seconds;
      const Ticket ticket = store.create(put);
      store.rules->cancel(21, writer);
      CHECK(store.heard(ticket) == "timed_out");
    }
    SUBCASE("because its caller gives up while it waits for memory") {
      put.size = pages(1);
      const Ticket ticket = store.create(put);
      store.rules->cancel(21, writer);
      CHECK(store.heard(ticket) == "timed_out");
      store.do_jobs();
      CHECK(store.heard(ticket) == "timed_out");
    }
    SUBCASE("because its session ends while it waits for room") {
      put.timeout_ns = ten_seconds;
      store.create(put);
      store.rules->session_ended(1);
    }
    SUBCASE("because its session ends while it waits for memory") {
      put.size = pages(1);
      store.create(put);
      store.rules->session_ended(1);
      store.do_jobs();
    }
    const bool session_ended = store.rules->usage().claims_waiting == 0;
    CHECK(store.heard(waits) == "nothing");
    CHECK(store.state(mine) == State::creating);
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.rules->usage().parked == 0);
    CHECK(store.adds_up());
    // It can be claimed as before by who has it, and fulfilled.
    const Answer again = store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0), 5));
    CHECK(again.serial == mine.serial);
    const Answer made =
        store.made_by(store.create({.id = "a", .size = pages(1), .token = 22, .claim = 11}));
    CHECK(made.version == mine.version);
    store.seal(made);
    CHECK(store.heard(waits) == (session_ended ? "nothing" : "there"));
    CHECK(store.state(mine) == State::free);
    CHECK(store.adds_up());
  }

  TEST_CASE("a claim that ends while what is to fulfil it waits takes that along") {
    Store store(room_for(4));
    const Answer mine = store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0)));
    const Ticket waits =
        store.claim({.id = "a", .token = 12, .owner_slot = reader}, seconds(100), 2);
    const auto put = [&](bool for_room) {
      if (for_room) store.put({.id = "b", .size = pages(3)});
      return store.create({.id = "a", .size = pages(2), .timeout_ns = ten_seconds, .claim = 11});
    };
    Ticket ticket;
    SUBCASE("for room: aborted") {
      ticket = put(true);
      CHECK(store.abort(mine) == "ok");
    }
    SUBCASE("for room: failed") {
      ticket = put(true);
      CHECK(store.abort(mine, "no such file") == "ok");
      CHECK(store.heard(waits) == "loader_failed");
    }
    SUBCASE("for room: its process died") {
      // (A session of its that only waits may still be there.)
      ticket = put(true);
      store.die(writer);
    }
    SUBCASE("for room: its process died, and leaves room") {
      store.made_by(store.create({.id = "c", .size = pages(1)}));
      ticket = put(true);
      store.die(writer);
    }
    SUBCASE("for memory: aborted") {
      ticket = put(false);
      CHECK(store.abort(mine) == "ok");
    }
    SUBCASE("for memory: its process died") {
      ticket = put(false);
      store.die(writer);
    }
    CHECK(store.heard(ticket) == "conflict");
    CHECK(store.rules->usage().creating == 0);
    if (store.finds("b")) REQUIRE(store.rules->remove("b", 0, 0, false));
    store.do_jobs();
    store.pass(seconds(20));
    CHECK(store.heard(ticket) == "conflict");
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.rules->usage().parked == 0);
    CHECK(store.rules->usage().used == 0);
    CHECK(store.adds_up());
    if (store.heard(waits) == "loader_failed") return;
    store.claimed_by(waits);
    CHECK(store.made_by(store.create({.id = "a", .size = 1, .owner_slot = reader, .claim = 12}, 2))
              .version == 1);
  }

  TEST_CASE("what fulfils a claim and is aborted ends the claim") {
    Store store(room_for(64));
    store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0)));
    const Ticket waits = store.claim({.id = "a", .token = 12}, seconds(10));
    const Answer made = store.made_by(store.create({.id = "a", .size = 100, .token = 21, .claim = 11}));
    SUBCASE("aborted") { CHECK(store.abort(made) == "ok"); }
    SUBCASE("by its token") { store.rules->cancel(21, writer); }
    CHECK(store.claimed_by(waits).version == 1);
    CHECK(store.heard(store.create({.id = "a", .size = 1, .claim = 11})) == "conflict");
  }

  TEST_CASE("a claim sent again is answered as it was, whatever has become of it") {
    Store store(room_for(4));
    const NewClaim claim{.id = "a", .version = 2, .token = 11};
    SUBCASE("it is granted") {
      const Answer mine = store.claimed_by(store.claim(claim, seconds(10), 1));
      const Answer again = store.claimed_by(store.claim(claim, seconds(10), 2));
      CHECK(again.serial == mine.serial);
      CHECK(again.entry == mine.entry);
      CHECK(again.version == 2);
    }
    SUBCASE("it waits") {
      const Answer making = store.made_by(store.create({.id = "a", .version = 2, .size = 100}));
      const Ticket lost = store.claim(claim, seconds(10), 1);
      const Ticket again = store.claim(claim, seconds(10), 2);
      store.rules->session_ended(1);
      CHECK(store.abort(making) == "ok");
      CHECK(store.heard(lost) == "nothing");
      CHECK(store.heard(again) == "claimed");
    }
    SUBCASE("it waits, and the old session has not ended yet") {
      const Answer making = store.made_by(store.create({.id = "a", .version = 2, .size = 100}));
      const Ticket lost = store.claim(claim, seconds(10), 1);
      const Ticket again = store.claim(claim, seconds(10), 2);
      CHECK(store.abort(making) == "ok");
      CHECK(store.claimed_by(lost).serial == store.claimed_by(again).serial);
    }
    SUBCASE("it is being fulfilled") {
      store.claimed_by(store.claim(claim, seconds(10)));
      const Answer made = store.made_by(store.create({.id = "a", .size = 100, .claim = 11}));
      CHECK(store.heard(store.claim(claim, seconds(0), 2)) == "timed_out");
      const Ticket waits = store.claim(claim, seconds(10), 2);
      CHECK(store.heard(waits) == "nothing");
      store.seal(made);
      CHECK(store.heard(waits) == "there");
    }
    SUBCASE("it is fulfilled") {
      store.claimed_by(store.claim(claim, seconds(10)));
      const Answer made = store.put({.id = "a", .size = 100, .claim = 11});
      const Ticket again = store.claim(claim, seconds(10), 2);
      CHECK(store.heard(again) == "there");
      CHECK(store.outside.to(again)[0].serial == made.serial);
    }
    SUBCASE("it was given up") {
      const Answer mine = store.claimed_by(store.claim(claim, seconds(10)));
      CHECK(store.abort(mine) == "ok");
      CHECK(store.claimed_by(store.claim(claim, seconds(10), 2)).serial > mine.serial);
    }
    SUBCASE("another process has the same token") {
      store.claimed_by(store.claim(claim, seconds(10)));
      NewClaim others = claim;
      others.owner_slot = reader;
      CHECK(store.heard(store.claim(others, seconds(0), 2)) == "timed_out");
    }
  }

  TEST_CASE("a put that fulfils a claim and is sent again is answered as it was") {
    Store store(room_for(64));
    store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0)));
    const NewSegment put{.id = "a", .size = pages(1), .token = 21, .claim = 11};
    SUBCASE("while it waits") {
      const Ticket lost = store.create(put, 1);
      const Ticket again = store.create(put, 2);
      store.rules->session_ended(1);
      CHECK(store.made_by(again).version == 1);
      CHECK(store.heard(lost) == "nothing");
    }
    SUBCASE("after it worked") {
      const Answer made = store.made_by(store.create(put));
      CHECK(store.made_by(store.create(put, 2)).serial == made.serial);
      store.seal(made);
      const Answer late = store.made_by(store.create(put, 3));
      CHECK(late.serial == made.serial);
      CHECK(late.sealed_before);
    }
    CHECK(store.rules->usage().creating <= 1);
  }

  TEST_CASE("a claim waits for the index to grow like any create") {
    Store store(room_for(64), test::small_index, false);
    const Ticket first = store.claim({.id = "a", .token = 11}, seconds(10));
    REQUIRE(store.outside.jobs.size() == 1);
    const Ticket again = store.claim({.id = "a", .token = 11}, seconds(10), 2);
    const Ticket second = store.claim({.id = "a", .token = 12}, seconds(10));
    SUBCASE("it grows") {
      CHECK(store.claimed_by(again).version == 1);
      CHECK(store.heard(first) == "nothing");
      CHECK(store.heard(second) == "nothing");
    }
    SUBCASE("it cannot") {
      store.do_job(0, no_memory);
      CHECK(store.heard(first) == "nothing");
      CHECK(store.heard(again) == "store_full");
      // The next one tries, too.
      CHECK(store.heard(second) == "nothing");
      store.pass(seconds(1));
      CHECK(store.claimed_by(second).version == 1);
    }
    SUBCASE("the sessions end") {
      store.rules->session_ended(1);
      store.rules->session_ended(2);
      store.do_jobs();
      CHECK(store.claimed_by(store.claim({.id = "a", .token = 13}, seconds(0))).version == 1);
    }
  }

  TEST_CASE("claims are no way around a full index") {
    constexpr shm::Limits tiny{.entries = 4, .lines = 64, .overflow_lines = 60, .processes = 1};
    Store store(room_for(64), tiny);
    for (const char* id : {"a", "b"}) store.put({.id = id, .size = 100});
    const Answer mine = store.claimed_by(store.claim({.id = "c", .token = 11}, seconds(10)));
    const Ticket waits = store.claim({.id = "c", .token = 12}, seconds(10));
    CHECK(store.heard(store.claim({.id = "d", .token = 13}, seconds(10))) == "limit_reached");
    CHECK(store.heard(store.create({.id = "c", .size = 100, .claim = 11})) == "limit_reached");
    CHECK(store.state(mine) == State::creating);
    CHECK(store.heard(waits) == "nothing");
    REQUIRE(store.rules->remove("a", 0, 0, false));
    CHECK(store.put({.id = "c", .size = 100, .claim = 11}).version == 1);
    CHECK(store.heard(waits) == "there");
  }

  TEST_CASE("a daemon that follows another knows who has claimed what") {
    Store store(room_for(64));
    const Answer mine =
        store.claimed_by(store.claim({.id = "a", .version = 2, .token = 11}, seconds(0)));
    const Answer dead = store.claimed_by(
        store.claim({.id = "b", .token = 12, .owner_slot = other}, seconds(0)));
    store.restart({false, true, true});
    CHECK(store.state(mine) == State::creating);
    CHECK(store.state(dead) == State::free);
    CHECK(store.rules->usage().creating == 0);
    const Ticket waits =
        store.claim({.id = "a", .version = 2, .token = 13, .owner_slot = reader}, seconds(10));
    CHECK(store.heard(waits) == "nothing");
    CHECK(store.try_seal(mine) == "bad_state");
    SUBCASE("its process asks again") {
      CHECK(store.claimed_by(store.claim({.id = "a", .version = 2, .token = 11}, seconds(0), 5))
                .serial == mine.serial);
    }
    SUBCASE("its process fulfils it") {
      const Answer made = store.put({.id = "a", .size = 100, .claim = 11});
      CHECK(made.version == 2);
      CHECK(store.heard(waits) == "there");
      CHECK(store.state(mine) == State::free);
    }
    SUBCASE("its process gives it up") {
      CHECK(store.abort(mine) == "ok");
      CHECK(store.claimed_by(waits).version == 2);
    }
    SUBCASE("its process dies") {
      store.die(writer);
      CHECK(store.claimed_by(waits).version == 2);
    }
  }

  TEST_CASE("a claim that a killed daemon left beside what fulfils it is not there any more") {
    Store store(room_for(64));
    const Answer mine = store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0)));
    const EntryNumber entry = *store.table->begin({.id = "a",
                                                   .key = store.table->key_of("a"),
                                                   .version = 1,
                                                   .owner_slot = writer,
                                                   .token = 21});
    std::vector<bool> living{false, true};
    SUBCASE("the process lives") {
      store.restart({false, true});
      CHECK(store.state(mine) == State::free);
      CHECK(store.rules->usage().creating == 1);
      const Answer made = store.made_by(store.create({.id = "a", .token = 21, .claim = 11}));
      CHECK(made.entry == entry);
      store.seal(made);
      CHECK(store.versions("a") == "1");
    }
    SUBCASE("the process has died") {
      store.restart({});
      CHECK(store.state(mine) == State::free);
      CHECK(store.table->word(entry).state() == State::free);
      CHECK(store.claimed_by(store.claim({.id = "a", .token = 12}, seconds(0))).version == 1);
    }
  }

  TEST_CASE("a claim that a killed daemon was ending is finished") {
    Store store(room_for(64));
    const Answer mine = store.claimed_by(store.claim({.id = "a", .token = 11}, seconds(0)));
    store.table->begin_removal(mine.entry);
    store.restart({false, true});
    CHECK(store.state(mine) == State::free);
    CHECK(store.claimed_by(store.claim({.id = "a", .token = 12}, seconds(0))).version == 1);
  }

  TEST_CASE("a session that ends takes nothing from who makes the same version by now") {
    // The first gave its create up while the memory thread was at it. When that session ends, the
    // version is another's.
    Store store(room_for(64));
    store.create({.id = "a", .version = 1, .size = pages(1), .token = 11}, 1);
    store.rules->cancel(11, writer);
    const Ticket second =
        store.create({.id = "a", .version = 1, .size = pages(2), .owner_slot = reader}, 2);
    SUBCASE("which waits for memory, too") { store.rules->session_ended(1); }
    SUBCASE("which is writing") {
      store.do_job(1);
      REQUIRE(store.heard(second) == "created");
      store.rules->session_ended(1);
      CHECK(store.heard(store.create({.id = "a", .version = 1, .size = 1}, 3)) == "conflict");
    }
    store.do_jobs();
    const Answer made = store.made_by(second);
    store.seal(made, reader);
    CHECK(store.versions("a") == "1");
    CHECK(store.rules->usage().used == pages(2));
  }

  // ------------------------------------------------------------------------------------------ events

  TEST_CASE("a subscriber hears of each seal and each removal, in order, and why") {
    Store store(room_for(4));
    const Ticket begin = store.read_events("", {}, seconds(10));
    const std::uint64_t start = store.told(begin).cursor;
    CHECK(store.told(begin).events.empty());
    const Ticket first = store.read_events("", start, seconds(10));
    CHECK(store.heard(first) == "nothing");
    CHECK(store.rules->usage().subscribers_waiting == 1);

    const Answer a = store.put({.id = "a", .size = pages(1), .evictable = true});
    store.pass(milliseconds(0));
    REQUIRE(store.told(first).events.size() == 1);
    const StoreEvent event = store.told(first).events[0];
    CHECK(event.kind == EventKind::sealed);
    CHECK(event.id == "a");
    CHECK(event.version == 1);
    CHECK(event.serial == a.serial);
    CHECK(event.size == pages(1));

    store.put({.id = "b", .size = pages(1), .keep = 1});
    store.put({.id = "b", .size = pages(1), .keep = 1, .ttl_ns = ten_seconds});
    store.put({.id = "c", .size = pages(3)});
    store.pass(seconds(10));
    REQUIRE(store.rules->remove("c", 0, 0, false));
    const Answer d = store.put({.id = "d", .size = pages(1)});
    REQUIRE(store.rules->supersede("d", 1, d.serial, false));
    // What is aborted, claimed or forgotten is no news.
    CHECK(store.abort(store.made_by(store.create({.id = "e", .size = 1}))) == "ok");
    store.claimed_by(store.claim({.id = "f", .token = 1}, seconds(0)));
    CHECK(outcome(store.rules->remove("d", 0, 0, false)) == "not_found");

    const Answer told = store.told(store.read_events("", store.told(first).cursor, seconds(0)));
    std::string text;
    for (const StoreEvent& happened : told.events)
      text += happened.id + std::to_string(happened.version) + ":" +
              std::to_string(static_cast<int>(happened.kind)) + "/" +
              std::to_string(static_cast<int>(happened.cause)) + " ";
    CHECK(text == "b1:1/0 b2:1/0 b1:2/2 a1:2/4 c1:1/0 b2:2/3 c1:2/1 d1:1/0 d1:2/5 ");
    CHECK(told.missed == 0);
    CHECK(told.cursor == start + 10);
    CHECK(store.rules->usage().events == told.cursor);
    // What was heard can be heard again.
    CHECK(store.told(store.read_events("", start + 9, seconds(0))).events.size() == 1);
    CHECK(store.told(store.read_events("", told.cursor, seconds(0))).events.empty());
  }

  TEST_CASE("a subscriber hears only of ids with his prefix, and his cursor goes on meanwhile") {
    Store store(room_for(64));
    const Ticket ticket = store.read_events("results/", 0, seconds(10));
    store.put({.id = "other", .size = 100});
    store.pass(milliseconds(1));
    CHECK(store.heard(ticket) == "nothing");
    store.put({.id = "results/1", .size = 100});
    store.put({.id = "other", .size = 100});
    store.put({.id = "results/2", .size = 100});
    store.pass(milliseconds(1));
    const Answer told = store.told(ticket);
    REQUIRE(told.events.size() == 2);
    CHECK(told.events[0].id == "results/1");
    CHECK(told.events[1].id == "results/2");
    CHECK(told.cursor == 4);
  }

  TEST_CASE("a subscriber who hears nothing until his deadline is told so") {
    Store store(room_for(64));
    const Ticket ticket = store.read_events("a", 0, seconds(10));
    store.put({.id = "b", .size = 100});
    CHECK(store.rules->next_wakeup() == store.now + seconds(10));
    store.pass(seconds(10) - milliseconds(1));
    CHECK(store.heard(ticket) == "nothing");
    store.pass(milliseconds(1));
    CHECK(store.told(ticket).events.empty());
    CHECK(store.told(ticket).cursor == 1);
    CHECK_FALSE(store.rules->next_wakeup());
  }

  TEST_CASE("a subscriber who has gone is told nothing") {
    Store store(room_for(64));
    const Ticket cancelled = store.read_events("", 0, seconds(10), 1);
    const Ticket ended = store.read_events("", 0, seconds(10), 2);
    store.rules->cancel_wait(1, cancelled.number);
    store.rules->session_ended(2);
    store.put({.id = "a", .size = 100});
    store.pass(seconds(20));
    CHECK(store.heard(cancelled) == "nothing");
    CHECK(store.heard(ended) == "nothing");
    CHECK(store.rules->usage().subscribers_waiting == 0);
  }

  TEST_CASE("a subscriber who is too slow is told how many he missed") {
    RulesOptions options = room_for(64);
    options.events_max = 3;
    Store store(options);
    const Ticket parked = store.read_events("zzz", 0, seconds(10));
    for (int i = 0; i < 5; ++i) store.put({.id = "a", .size = 100});
    const Answer told = store.told(store.read_events("", 0, seconds(10)));
    CHECK(told.missed == 2);
    REQUIRE(told.events.size() == 3);
    CHECK(told.events[0].version == 3);
    CHECK(told.cursor == 5);
    // Whoever waits is told as well, though nothing was for him: it might have been.
    store.pass(milliseconds(1));
    CHECK(store.told(parked).missed == 2);
    CHECK(store.told(parked).events.empty());
    CHECK(store.told(parked).cursor == 5);
  }

  TEST_CASE("cursors go on over a restart; what only the former daemon remembered is missed") {
    Store store(room_for(64));
    for (int i = 0; i < 3; ++i) store.put({.id = "a", .size = 100});
    CHECK(store.told(store.read_events("", 1, seconds(0))).events.size() == 2);
    store.restart({false, true});
    CHECK(store.told(store.read_events("", {}, seconds(0))).cursor == 3);
    const Ticket all_heard = store.read_events("", 3, seconds(10));
    CHECK(store.heard(all_heard) == "nothing");
    const Answer behind = store.told(store.read_events("", 1, seconds(10)));
    CHECK(behind.missed == 2);
    CHECK(behind.events.empty());
    CHECK(behind.cursor == 3);
    store.put({.id = "b", .size = 100});
    store.pass(milliseconds(1));
    CHECK(store.told(all_heard).missed == 0);
    REQUIRE(store.told(all_heard).events.size() == 1);
    CHECK(store.told(all_heard).events[0].id == "b");
    CHECK(store.told(all_heard).cursor == 4);
  }

  TEST_CASE("what a daemon lets go while it takes over is an event, too") {
    Store store(room_for(64));
    for (int i = 0; i < 3; ++i) store.put({.id = "a", .size = 100});
    store.options.keep = 1;
    store.restart({false, true});
    const Answer told = store.told(store.read_events("", 3, seconds(0)));
    REQUIRE(told.events.size() == 2);
    for (const StoreEvent& event : told.events) CHECK(event.cause == RemovalCause::kept_newer);
  }

  TEST_CASE("a cursor of the future is refused") {
    Store store(room_for(64));
    store.put({.id = "a", .size = 100});
    CHECK(store.heard(store.read_events("", 2, seconds(10))) == "bad_argument");
    CHECK(store.heard(store.read_events("", ~std::uint64_t{0}, seconds(10))) == "bad_argument");
    CHECK(store.heard(store.read_events("", 1, seconds(10))) == "nothing");
  }

  TEST_CASE("one answer has a bounded number of events, and the next one goes on behind them") {
    Store store(room_for(64));
    const std::string id(200, 'x');
    for (int i = 0; i < 1000; ++i) {
      store.put({.id = id, .size = 0, .keep = 1});
    }
    std::uint64_t cursor = 0;
    std::uint64_t heard = 0;
    int answers = 0;
    while (cursor < store.rules->usage().events) {
      const Answer told = store.told(store.read_events("", cursor, seconds(0)));
      CHECK(told.cursor == cursor + told.events.size());
      CHECK(told.events.size() <= 128 * 1024 / 240);
      cursor = told.cursor;
      heard += told.events.size();
      ++answers;
    }
    CHECK(heard == 1999);
    CHECK(answers == 4);
  }
}

}  // namespace
}  // namespace forebay::daemon
