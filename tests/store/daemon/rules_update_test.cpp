// SPDX-License-Identifier: Apache-2.0
// One version after another: memory that is taken over, versions that were copied and superseded,
// old versions removed together.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
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
using test::no_memory;
using test::outcome;
using test::pages;
using test::reader;
using test::room_for;
using test::writer;
using Store = test::RulesStore;

const std::uint64_t ten_seconds = nanoseconds(seconds(10));

std::vector<std::byte> bytes(std::size_t count) {
  std::vector<std::byte> all(count);
  for (std::size_t i = 0; i < count; ++i) all[i] = std::byte(i * 7 + 1);
  return all;
}

// "1 sealed, 1 superseded, …" of all ids.
std::string history(Store& store) {
  std::string text;
  for (const StoreEvent& event : store.told(store.read_events("", 0, seconds(0))).events)
    text += (text.empty() ? "" : ", ") + std::to_string(event.version) +
            (event.kind == EventKind::sealed              ? " sealed"
             : event.cause == RemovalCause::superseded ? " superseded"
                                                           : " gone");
  return text;
}

TEST_SUITE("rules_update") {
  // -------------------------------------------------------------------------------------- take-over

  TEST_CASE("the next version takes the memory of the former one over, as it is") {
    Store store(room_for(16));
    std::size_t described = 12;
    SUBCASE("with what it is in the record") {}
    SUBCASE("with what it is behind the payload") { described = 5000; }
    const std::vector<std::byte> description = bytes(described);
    const Answer former = store.put({.id = "a",
                                     .size = pages(3),
                                     .brief = 0x1234'0000'0001,
                                     .description = description,
                                     .evictable = true,
                                     .keep = 5});
    const std::uint64_t used = store.rules->usage().used;
    const Ticket ticket =
        store.create({.id = "a", .token = 7, .keep = 2, .ttl_ns = ten_seconds, .take_from = 1});
    // Nobody is asked for memory.
    CHECK(store.outside.jobs.empty());
    const Answer made = store.made_by(ticket);
    CHECK(made.version == 2);
    CHECK(made.location == former.location);
    CHECK(made.serial > former.serial);
    CHECK(store.rules->usage().used == used);
    CHECK(store.rules->usage().creating == 1);
    CHECK(store.table->size(made.entry) == pages(3));
    CHECK(store.table->brief(made.entry) == 0x1234'0000'0001);
    CHECK(store.table->description_size(made.entry) == described);
    if (shm::description_in_record(described)) {
      std::vector<std::byte> loaded(described);
      shm::load_description(store.memory.map().records[made.entry], loaded);
      CHECK(loaded == description);
    }
    CHECK(store.table->keep(made.entry) == 2);
    CHECK_FALSE(store.table->has_flag(made.entry, RecordFlag::evictable));
    // From now on the former one is gone, for ever.
    CHECK_FALSE(store.finds("a"));
    CHECK(store.why_gone("a", 1) == Reason::superseded);
    CHECK(store.heard(store.await("a", {.exact = 1}, seconds(0))) == "awaited");
    CHECK(outcome(store.rules->hold("a", 1, 0, writer)) == "not_found");

    store.seal(made);
    CHECK(store.versions("a") == "2");
    CHECK(store.rules->expiry(made.entry) == store.now + seconds(10));
    CHECK(history(store) == "1 sealed, 1 superseded, 2 sealed");
    CHECK(store.rules->usage().used == used);
    REQUIRE(store.rules->remove("a", 0, 0, false));
    CHECK(store.rules->usage().used == 0);
    CHECK(store.adds_up());
  }

  TEST_CASE("a version that is aborted, or whose maker dies, does not bring back what it took over") {
    Store store(room_for(16));
    store.put({.id = "a", .size = pages(3)});
    const Answer first_taken = store.made_by(store.create({.id = "a", .take_from = 1}));
    store.seal(first_taken);
    const Answer made = store.made_by(store.create({.id = "a", .token = 7, .take_from = 2}));
    CHECK(made.version == 3);
    SUBCASE("aborted") { CHECK(store.abort(made) == "ok"); }
    SUBCASE("cancelled") { store.rules->cancel(7, writer); }
    SUBCASE("dead") { store.die(writer); }
    CHECK(store.versions("a").empty());
    for (const std::uint64_t version : {1U, 2U})
      CHECK(store.why_gone("a", version) == Reason::superseded);
    CHECK(store.why_gone("a", 3) == Reason::none);
    CHECK(store.rules->usage().used == 0);
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.adds_up());
    CHECK(store.heard(store.create({.id = "a", .take_from = 2})) == "superseded");
    CHECK(store.put({.id = "a", .size = 100}).version == 3);
    // A version that was taken over can be made again.
    CHECK(store.put({.id = "a", .version = 1, .size = 100}).version == 1);
    CHECK(store.versions("a") == "1 3");
  }

  TEST_CASE("what is in use cannot be taken over; who uses it is named, and it stays as it is") {
    Store store(room_for(16));
    const Answer former = store.put({.id = "a", .size = pages(3), .persistent = false});
    std::string named;
    SUBCASE("pinned") {
      store.pin(former, 4);
      store.pin(former, 5);
      named = "pinned by pid 1004 (process 4), pid 1005 (process 5)";
    }
    SUBCASE("pinned by many") {
      for (std::uint32_t slot = 2; slot < 8; ++slot) store.pin(former, slot);
      named = "pid 1002 (process 2), pid 1003 (process 3), pid 1004 (process 4) and 3 others";
    }
    SUBCASE("pinned by who asks") {
      store.pin(former, writer);
      named = "pid 1001";
    }
    SUBCASE("held") {
      REQUIRE(store.rules->hold("a", 1, 0, reader));
      named = "held";
    }
    SUBCASE("to stay") {
      REQUIRE(store.rules->persist("a", 1, 0));
      named = "until it is removed";
    }
    SUBCASE("listed") {
      store.put_manifest({.id = "batch"}, {store.member("a", former)});
      named = "'batch'";
    }
    const Ticket ticket = store.create({.id = "a", .timeout_ns = ten_seconds, .take_from = 1});
    CHECK(store.heard(ticket) == "conflict");
    CHECK(store.detail(ticket).find(named) != std::string::npos);
    CHECK(store.detail(ticket).find("'a' version 1") != std::string::npos);
    const auto superseded = store.rules->supersede("a", 1, former.serial, false);
    CHECK(outcome(superseded) == "conflict");
    CHECK(superseded.error().detail.find(named) != std::string::npos);
    CHECK(store.state(former) == State::sealed);
    CHECK(store.versions("a") == "1");
    CHECK(store.rules->usage().creating == 0);
    CHECK(store.table->family(store.table->key_of("a")).size() == 1);
    // Without taking over, the next version comes.
    CHECK(store.put({.id = "a", .size = 100}).version == 2);
  }

  TEST_CASE("only a version with pages of its own is taken over") {
    Store store(room_for(32));
    CHECK(store.heard(store.create({.id = "a", .take_from = 1})) == "not_found");
    store.put({.id = "a", .size = 100, .packed = true});
    CHECK(store.heard(store.create({.id = "a", .take_from = 1})) == "bad_argument");
    store.put({.id = "a", .size = 0});
    CHECK(store.heard(store.create({.id = "a", .take_from = 2})) == "bad_argument");
    store.made_by(store.create({.id = "a", .size = pages(1)}));
    CHECK(store.heard(store.create({.id = "a", .take_from = 3})) == "not_found");
    store.put({.id = "b", .size = pages(15), .evictable = true});
    store.put({.id = "c", .size = pages(15)});
    CHECK(store.heard(store.create({.id = "b", .take_from = 1})) == "evicted");
    CHECK(store.versions("a") == "1 2");
    CHECK(store.rules->usage().creating == 1);
  }

  TEST_CASE("of two who take the same version over, one has it") {
    Store store(room_for(16));
    store.put({.id = "a", .size = pages(3)});
    const Answer made = store.made_by(store.create({.id = "a", .token = 1, .take_from = 1}));
    CHECK(store.heard(store.create({.id = "a", .version = 2, .token = 2, .take_from = 1})) ==
          "conflict");
    CHECK(store.heard(store.create({.id = "a", .token = 3, .take_from = 1})) == "superseded");
    store.seal(made);
    CHECK(store.heard(store.create({.id = "a", .version = 2, .token = 2, .take_from = 1})) ==
          "exists");
  }

  TEST_CASE("a take-over sent again is answered as it was") {
    Store store(room_for(16));
    store.put({.id = "a", .size = pages(3)});
    const NewSegment take{.id = "a", .token = 7, .take_from = 1};
    const Answer made = store.made_by(store.create(take));
    const Answer again = store.made_by(store.create(take, 2));
    CHECK(again.serial == made.serial);
    CHECK(again.location == made.location);
    store.seal(made);
    const Answer late = store.made_by(store.create(take, 2));
    CHECK(late.serial == made.serial);
    CHECK(late.sealed_before);
  }

  TEST_CASE("a surplus version, or one whose time would be up, can be taken over") {
    Store store(room_for(16));
    const Answer former =
        store.put({.id = "a", .size = pages(3), .keep = 1, .ttl_ns = ten_seconds});
    store.pin(former);
    store.put({.id = "a", .size = pages(1), .keep = 1});
    REQUIRE(store.wanted(former));
    store.unpin(former);
    const Answer made = store.made_by(store.create({.id = "a", .keep = 1, .take_from = 1}));
    CHECK(made.location == former.location);
    CHECK_FALSE(store.wanted(former));
    store.rules->nudge(former.entry);
    store.pass(seconds(20));
    CHECK(store.why_gone("a", 1) == Reason::superseded);
    store.seal(made);
    CHECK(store.versions("a") == "3");
    CHECK(store.adds_up());
  }

  TEST_CASE("who takes a manifest over lets its members go") {
    Store store(room_for(16));
    const Answer member = store.put({.id = "a", .size = 100});
    store.put_manifest({.id = "batch"}, {store.member("a", member)});
    const Answer made = store.made_by(store.create({.id = "batch", .take_from = 1}));
    CHECK(store.rules->manifests_of(member.entry) == 0);
    CHECK(*store.rules->remove("a", 0, 0, false) == 1);
    store.seal(made);
    CHECK(store.versions("batch") == "2");
  }

  TEST_CASE("a take-over waits for the index to grow, and looks again then") {
    constexpr shm::Limits small{
        .entries = 16384, .lines = 8192, .overflow_lines = 4096, .processes = 16};
    Store store(room_for(16), small);
    const Answer former = store.put({.id = "a", .size = pages(3)});
    std::vector<EntryNumber> filling;
    while (store.table->has_room())
      filling.push_back(
          *store.table->begin({.id = "f", .key = store.table->key_of("f"), .version = 1}));
    const Ticket ticket = store.create({.id = "a", .take_from = 1});
    CHECK(store.heard(ticket) == "nothing");
    CHECK(store.finds("a", 1));
    std::string heard = "created";
    SUBCASE("") {}
    SUBCASE("it is pinned by now") {
      store.pin(former);
      heard = "conflict";
    }
    SUBCASE("it is held by now") {
      REQUIRE(store.rules->hold("a", 1, 0, reader));
      heard = "conflict";
    }
    SUBCASE("it is gone by now") {
      REQUIRE(store.rules->remove("a", 1, 0, false));
      heard = "not_found";
    }
    SUBCASE("somebody else was faster") {
      REQUIRE(store.rules->supersede("a", 1, former.serial, false));
      heard = "superseded";
    }
    store.do_jobs();
    store.pass(milliseconds(0));
    CHECK(store.heard(ticket) == heard);
    if (heard != "created") {
      CHECK(store.rules->usage().creating == 0);
      CHECK(store.detail(ticket).find("'a' version 1") != std::string::npos);
    }
    CHECK(store.adds_up());
  }

  TEST_CASE("a take-over for which there is no entry, or no memory for a long id, changes nothing") {
    constexpr shm::Limits tiny{.entries = 3, .lines = 64, .overflow_lines = 60, .processes = 1};
    SUBCASE("no entry") {
      Store store(room_for(16), tiny);
      store.put({.id = "a", .size = pages(3)});
      store.put({.id = "b", .size = pages(3)});
      CHECK(store.heard(store.create({.id = "a", .take_from = 1})) == "limit_reached");
      CHECK(store.versions("a") == "1");
    }
    SUBCASE("no memory for the id") {
      Store store(room_for(16));
      const std::string id(200, 'x');
      // Ids of as many entries share a page.
      for (int i = 0; i < 16; ++i) store.put({.id = id, .size = pages(1), .keep = 1});
      std::vector<EntryNumber> filling;
      store.memory.refuses = true;
      std::string heard = "created";
      std::uint64_t version = 16;
      for (int i = 0; i < 20 && heard == "created"; ++i) {
        const Ticket ticket = store.create({.id = id, .take_from = version});
        heard = store.heard(ticket);
        if (heard != "created") break;
        store.seal(store.made_by(ticket));
        ++version;
      }
      CHECK(heard == "store_full");
      CHECK(store.versions(id) == std::to_string(version));
      CHECK(store.rules->usage().used == pages(1));
    }
  }

  TEST_CASE("no more tombstones are kept than asked for, also of what was taken over") {
    RulesOptions options = room_for(16);
    options.tombstones_max = 1;
    Store store(options);
    store.put({.id = "a", .size = pages(1)});
    for (std::uint64_t version = 1; version <= 3; ++version)
      store.seal(store.made_by(store.create({.id = "a", .take_from = version})));
    CHECK(store.versions("a") == "4");
    CHECK(store.rules->usage().tombstones == 1);
    CHECK(store.why_gone("a", 3) == Reason::superseded);
    CHECK(store.why_gone("a", 2) == Reason::none);
  }

  TEST_CASE("a claim may be fulfilled by a take-over") {
    Store store(room_for(16));
    const Answer former = store.put({.id = "a", .size = pages(3)});
    const Answer claim =
        store.claimed_by(store.claim({.id = "a", .version = 5, .token = 11}, seconds(0)));
    const Ticket waits =
        store.claim({.id = "a", .version = 5, .token = 12, .owner_slot = reader}, seconds(10), 2);
    SUBCASE("it works") {
      const Answer made =
          store.made_by(store.create({.id = "a", .token = 21, .claim = 11, .take_from = 1}));
      CHECK(made.version == 5);
      CHECK(made.location == former.location);
      CHECK(store.state(claim) == State::free);
      store.seal(made);
      CHECK(store.heard(waits) == "there");
    }
    SUBCASE("it does not") {
      store.pin(former);
      CHECK(store.heard(store.create({.id = "a", .token = 21, .claim = 11, .take_from = 1})) ==
            "conflict");
      CHECK(store.state(claim) == State::creating);
      CHECK(store.heard(waits) == "nothing");
      CHECK(store.put({.id = "a", .size = 100, .claim = 11}).version == 5);
    }
  }

  TEST_CASE("a daemon that follows one that was killed in a take-over finds one owner of the memory") {
    Store store(room_for(16));
    const Answer former = store.put({.id = "a", .size = pages(3)});
    store.put({.id = "b", .size = pages(3)});
    const NewSegment take{.id = "a", .token = 7, .take_from = 1};
    SegmentFields fields;
    fields.id = "a";
    fields.key = store.table->key_of("a");
    fields.version = 2;
    fields.size = pages(3);
    fields.location = former.location;
    fields.flags = shm::flag_bit(RecordFlag::taken);
    fields.owner_slot = writer;
    fields.token = 7;
    std::vector<bool> living{false, true, true};
    bool taken = false;
    bool by_the_dead = false;
    SUBCASE("marked") { store.table->mark_evicting(former.entry); }
    SUBCASE("begun") {
      store.table->mark_evicting(former.entry);
      store.table->begin(fields).value();
    }
    SUBCASE("begun by who has died") {
      store.table->mark_evicting(former.entry);
      store.table->begin(fields).value();
      living[writer] = false;
    }
    SUBCASE("done") {
      store.made_by(store.create(take));
      taken = true;
    }
    SUBCASE("done by who has died") {
      store.made_by(store.create(take));
      living[writer] = false;
      taken = true;
      by_the_dead = true;
    }
    SUBCASE("and given up") {
      store.table->begin_removal(store.made_by(store.create(take)).entry);
      taken = true;
      by_the_dead = true;
    }
    // And the one that follows may be killed, too.
    for (int restarts = 0; restarts < 2; ++restarts) {
      CHECK(store.restart(living) == 0);
      CHECK(store.versions("a") == (taken ? "" : "1"));
      CHECK(store.why_gone("a", 1) == (taken ? Reason::superseded : Reason::none));
      CHECK(store.rules->usage().used == pages(by_the_dead ? 3 : 6));
      CHECK(store.rules->usage().creating == (taken && !by_the_dead ? 1 : 0));
      CHECK(store.adds_up());
    }
    if (by_the_dead) return;
    const Answer made = store.made_by(store.create(take, 5));
    CHECK(made.location == former.location);
    CHECK(made.version == 2);
    store.seal(made);
    CHECK(store.versions("a") == "2");
    CHECK(store.rules->usage().used == pages(6));
  }

  // -------------------------------------------------------------------------------------- supersede

  TEST_CASE("a version that was copied into the next is superseded, and its memory is free") {
    Store store(room_for(64));
    bool packed = false;
    SUBCASE("pages of its own") {}
    SUBCASE("in a slab") { packed = true; }
    const Answer former = store.put({.id = "a", .size = 1000, .packed = packed});
    store.put({.id = "a", .size = 1000, .packed = packed});
    const std::uint64_t used = store.rules->usage().used;
    const std::uint64_t items = store.rules->usage().slab_items;
    CHECK(outcome(store.rules->supersede("a", 1, former.serial, false)) == "ok");
    CHECK(store.versions("a") == "2");
    CHECK(store.why_gone("a", 1) == Reason::superseded);
    CHECK(store.rules->usage().used == used - (packed ? 0 : pages(1)));
    CHECK(store.rules->usage().slab_items == items - (packed ? 1024 : 0));
    CHECK(store.adds_up());
    CHECK(history(store) == "1 sealed, 2 sealed, 1 superseded");
    // The same request sent again has worked; another one has not.
    CHECK(outcome(store.rules->supersede("a", 1, former.serial, true)) == "ok");
    CHECK(outcome(store.rules->supersede("a", 1, former.serial, false)) == "superseded");
    CHECK(history(store) == "1 sealed, 2 sealed, 1 superseded");
  }

  TEST_CASE("only the very segment that was copied is superseded") {
    Store store(room_for(4));
    CHECK(outcome(store.rules->supersede("a", 1, 1, false)) == "not_found");
    const Answer first = store.put({.id = "a", .size = 100});
    REQUIRE(store.rules->remove("a", 1, 0, false));
    const Answer again = store.put({.id = "a", .version = 1, .size = 100});
    CHECK(outcome(store.rules->supersede("a", 1, first.serial, true)) == "stale_ref");
    CHECK(outcome(store.rules->supersede("a", 2, again.serial, false)) == "not_found");
    CHECK(store.versions("a") == "1");
    const Answer dropped = store.put({.id = "b", .size = pages(1), .evictable = true});
    store.put({.id = "c", .size = pages(3)});
    CHECK(outcome(store.rules->supersede("b", 1, dropped.serial, true)) == "evicted");
  }

  TEST_CASE("what is superseded makes room for who waits") {
    Store store(room_for(4));
    const Answer first = store.put({.id = "a", .size = pages(2)});
    store.put({.id = "a", .size = pages(2)});
    const Ticket parked = store.create({.id = "b", .size = pages(2), .timeout_ns = ten_seconds});
    CHECK(store.heard(parked) == "nothing");
    REQUIRE(store.rules->supersede("a", 1, first.serial, false));
    CHECK(store.heard(parked) == "created");
  }

  TEST_CASE("tombstones of what is superseded are bounded") {
    RulesOptions options = room_for(16);
    options.tombstones_max = 0;
    Store store(options);
    const Answer first = store.put({.id = "a", .size = 100});
    store.put({.id = "a", .size = 100});
    REQUIRE(store.rules->supersede("a", 1, first.serial, false));
    CHECK(store.rules->usage().tombstones == 0);
    CHECK(store.state(first) == State::free);
    CHECK(store.versions("a") == "2");
  }

  // ---------------------------------------------------------------------------------- remove_before

  TEST_CASE("all versions below one are removed, but for what a manifest lists") {
    Store store(room_for(16));
    std::vector<Answer> made;
    for (int i = 0; i < 6; ++i) made.push_back(store.put({.id = "a", .size = pages(1)}));
    store.put({.id = "b", .size = pages(1)});
    CHECK(*store.rules->remove_before("a", 1) == 0);
    CHECK(*store.rules->remove_before("c", 9) == 0);
    const Answer batch = store.put_manifest({.id = "batch"}, {store.member("a", made[1])});
    REQUIRE(store.rules->hold("a", 3, 0, writer));
    REQUIRE(store.rules->persist("a", 1, 0));
    store.pin(made[3]);
    CHECK(*store.rules->remove_before("a", 5) == 3);
    CHECK(store.versions("a") == "2 5 6");
    CHECK(store.versions("b") == "1");
    CHECK(store.state(made[3]) == State::removing);
    store.release(made[3]);
    CHECK(store.state(made[3]) == State::free);
    REQUIRE(store.rules->remove("batch", 0, batch.serial, false));
    CHECK(*store.rules->remove_before("a", ~std::uint64_t{0}) == 3);
    CHECK(store.rules->usage().used == pages(1));
  }

  TEST_CASE("what remains of versions that are gone is removed with the others, and not counted") {
    Store store(room_for(4));
    const Answer first = store.put({.id = "a", .size = pages(1)});
    store.put({.id = "a", .size = pages(1)});
    store.put({.id = "a", .size = pages(1)});
    REQUIRE(store.rules->supersede("a", 1, first.serial, false));
    CHECK(*store.rules->remove_before("a", 3) == 1);
    CHECK(store.rules->usage().tombstones == 0);
    CHECK(store.why_gone("a", 1) == Reason::none);
    CHECK(store.versions("a") == "3");
  }

  TEST_CASE("a manifest of the same id frees what it lists when it goes with the others") {
    Store store(room_for(16));
    const Answer member = store.put({.id = "a", .size = pages(1)});
    store.put_manifest({.id = "a"}, {store.member("a", member)});
    store.put({.id = "a", .size = pages(1)});
    CHECK(*store.rules->remove_before("a", 3) == 2);
    CHECK(store.versions("a") == "3");
  }

  TEST_CASE("a removal of all below one takes nothing of who waited for the room") {
    RulesOptions options = room_for(4);
    options.tombstones_max = 0;
    Store store(options);
    std::vector<Answer> made;
    for (int i = 0; i < 3; ++i)
      made.push_back(store.put({.id = "a", .size = pages(1), .evictable = true}));
    store.put({.id = "b", .size = pages(1)});
    for (const Answer& segment : made) store.pin(segment);
    const Ticket parked = store.create({.id = "a", .size = pages(3), .timeout_ns = ten_seconds});
    CHECK(store.heard(parked) == "nothing");
    store.outside.on_created = [&](const Answer& answer) { store.seal(answer); };
    for (const Answer& segment : made) store.unpin(segment);
    REQUIRE(store.rules->remove_before("a", 4));
    CHECK(store.heard(parked) == "created");
    CHECK(store.versions("a") == "4");
    CHECK(store.adds_up());
  }
}

}  // namespace
}  // namespace forebay::daemon
