// SPDX-License-Identifier: Apache-2.0
// The rules of the tiers, with tiers that do what the test says when the test says it.
#include <doctest/doctest.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "tests/support/random.h"
#include "tests/support/rules_store.h"

using namespace forebay;
using namespace forebay::daemon;
using namespace forebay::test;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

class TieredStore : public RulesStore {
 public:
  explicit TieredStore(std::uint64_t page_count, std::uint64_t clean_above_pages = 0)
      : RulesStore(with_tiers(page_count, clean_above_pages)) {}
  explicit TieredStore(const RulesOptions& options) : RulesStore(options) {}

  static RulesOptions with_tiers(std::uint64_t page_count, std::uint64_t clean_above_pages) {
    RulesOptions options = room_for(page_count);
    options.has_tiers = true;
    options.spill_when_full = true;
    options.clean_above_bytes = pages(clean_above_pages);
    return options;
  }

  Answer put_pages(std::string_view id, std::uint64_t count) {
    return put({.id = id, .size = pages(count)});
  }
  // The oldest copy that was begun arrives.
  SpillPlace finish_copy() {
    REQUIRE(!outside.copies.empty());
    const CopyJob job = outside.copies.front();
    outside.copies.erase(outside.copies.begin());
    const SpillPlace place = place_of(job.serial, job.bytes);
    rules->copied(job.number, place, now);
    return place;
  }
  void fail_copy(Errc code) {
    REQUIRE(!outside.copies.empty());
    const CopyJob job = outside.copies.front();
    outside.copies.erase(outside.copies.begin());
    rules->copied(job.number, fail(code, "as the test says"), now);
  }
  void finish_copies() {
    while (!outside.copies.empty()) finish_copy();
  }
  void finish_fetch(Result<void> outcome = {}) {
    REQUIRE(!outside.fetches.empty());
    const FetchJob job = outside.fetches.front();
    outside.fetches.erase(outside.fetches.begin());
    rules->fetched(job.number, std::move(outcome), now);
  }
  static SpillPlace place_of(std::uint64_t serial, std::uint64_t bytes) {
    SpillPlace place;
    place.copies[0].incarnation = 7;
    place.item = serial;
    place.size = bytes;
    place.stored = bytes;
    return place;
  }
  // In a tier alone.
  Answer put_spilled(std::string_view id, std::uint64_t count) {
    const Answer made = put_pages(id, count);
    const Ticket ticket = transfer(TransferVerb::spill, {{id, made.version, made.serial}});
    finish_copy();
    REQUIRE(heard(ticket) == "transferred");
    REQUIRE(state(made) == shm::State::spilled);
    return made;
  }
  Ticket transfer(TransferVerb verb, const std::vector<TransferItem>& items) {
    const Ticket ticket{1, ++last_, 0};
    rules->transfer(ticket, verb, items, now);
    return ticket;
  }
  std::uint32_t last_ = 1'000'000;
};

}  // namespace

TEST_SUITE("rules of spilling") {
  TEST_CASE("a full store copies its coldest segment into a tier, and takes its memory") {
    TieredStore store(4);
    const Answer cold = store.put_pages("cold", 2);
    const Answer warm = store.put_pages("warm", 2);
    const Ticket ticket = store.create({.id = "new", .size = pages(2)});
    CHECK(store.heard(ticket) == "nothing");
    REQUIRE(store.outside.copies.size() == 1);
    CHECK(store.outside.copies[0].serial == cold.serial);
    CHECK(store.outside.copies[0].urgent);
    store.finish_copy();
    store.do_jobs();
    CHECK(store.heard(ticket) == "created");
    CHECK(store.state(cold) == shm::State::spilled);
    CHECK(store.state(warm) == shm::State::sealed);
    CHECK(store.finds("cold"));
    CHECK(store.adds_up());
    CHECK(store.rules->usage().spilled == 1);
    CHECK(store.rules->usage().spilled_bytes == pages(2));
  }

  TEST_CASE("what is read while the store is full is not what goes") {
    TieredStore store(4);
    const Answer first = store.put_pages("first", 2);
    const Answer second = store.put_pages("second", 2);
    store.census.accesses.push_back(first.entry);
    store.create({.id = "new", .size = pages(2)});
    REQUIRE(store.outside.copies.size() == 1);
    CHECK(store.outside.copies[0].serial == second.serial);
  }

  TEST_CASE("what is pinned is neither copied in vain nor evicted") {
    TieredStore store(4);
    const Answer pinned = store.put_pages("pinned", 2);
    const Answer other = store.put_pages("other", 2);
    store.pin(pinned);
    const Ticket ticket =
        store.create({.id = "new", .size = pages(2), .timeout_ns = 10 * second_ns});
    REQUIRE(store.outside.copies.size() == 1);
    CHECK(store.outside.copies[0].serial == other.serial);
    // Somebody pins it while it travels: its memory stays.
    store.pin(other);
    store.finish_copy();
    CHECK(store.heard(ticket) == "nothing");
    CHECK(store.state(other) == shm::State::sealed);
    CHECK(store.rules->usage().clean_bytes == pages(2));
    store.unpin(other);
    store.pass(milliseconds(200));
    store.do_jobs();
    CHECK(store.heard(ticket) == "created");
    CHECK(store.state(other) == shm::State::spilled);
    CHECK(store.state(pinned) == shm::State::sealed);
  }

  TEST_CASE("a create that finds everything pinned waits to its deadline, and is told by whom") {
    TieredStore store(2);
    const Answer pinned = store.put_pages("pinned", 2);
    store.pin(pinned);
    const Ticket ticket = store.create({.id = "new", .size = pages(1), .timeout_ns = second_ns});
    CHECK(store.heard(ticket) == "nothing");
    store.pass(seconds(2));
    CHECK(store.heard(ticket) == "store_full");
    CHECK(store.detail(ticket).find("pinned by pid 1002") != std::string::npos);
  }

  TEST_CASE("above the watermark, cold segments are copied ahead of need and stay in memory") {
    TieredStore store(8, 4);
    const Answer a = store.put_pages("a", 2);
    store.put_pages("b", 2);
    CHECK(store.outside.copies.empty());
    store.put_pages("c", 2);
    REQUIRE(store.outside.copies.size() == 1);
    CHECK(store.outside.copies[0].serial == a.serial);
    CHECK_FALSE(store.outside.copies[0].urgent);
    store.finish_copy();
    CHECK(store.state(a) == shm::State::sealed);
    CHECK(store.rules->usage().clean_bytes == pages(2));
    CHECK(store.outside.copies.empty());
    // What is clean goes at once when memory is wanted.
    store.put_pages("d", 2);
    store.finish_copies();
    const Ticket ticket = store.create({.id = "e", .size = pages(2)});
    store.do_jobs();
    CHECK(store.heard(ticket) == "created");
    CHECK(store.state(a) == shm::State::spilled);
    CHECK(store.adds_up());
  }

  TEST_CASE("a get of a spilled segment brings it back, once for all who wait") {
    TieredStore store(8);
    const Answer made = store.put_spilled("a", 2);
    const Ticket first = store.await("a", {}, seconds(0));
    const Ticket second = store.await("a", {.exact = 1}, seconds(5));
    store.do_jobs();
    CHECK(store.heard(first) == "nothing");
    REQUIRE(store.outside.fetches.size() == 1);
    CHECK(store.outside.fetches[0].priority == TierPriority::demand);
    CHECK(store.state(made) == shm::State::restoring);
    CHECK(store.finds("a"));
    store.finish_fetch();
    CHECK(store.heard(first) == "awaited");
    CHECK(store.heard(second) == "awaited");
    CHECK(store.state(made) == shm::State::sealed);
    CHECK(store.rules->usage().spilled == 0);
    CHECK(store.rules->usage().clean_bytes == pages(2));
    CHECK(store.adds_up());
  }

  TEST_CASE("what came back is clean: it goes again without a copy, but not before it was seen") {
    TieredStore store(2);
    const Answer made = store.put_spilled("a", 2);
    const Ticket get = store.await("a", {}, seconds(5));
    store.do_jobs();
    store.finish_fetch();
    CHECK(store.heard(get) == "awaited");
    const Ticket ticket = store.create({.id = "new", .size = pages(2)});
    CHECK(store.heard(ticket) == "nothing");
    CHECK(store.state(made) == shm::State::sealed);
    store.pass(milliseconds(100));
    store.do_jobs();
    CHECK(store.heard(ticket) == "created");
    CHECK(store.state(made) == shm::State::spilled);
    CHECK(store.outside.copies.empty());
  }

  TEST_CASE("a get makes room by evicting what is clean, and by copying what is not") {
    TieredStore store(4);
    const Answer a = store.put_spilled("a", 2);
    const Answer b = store.put_pages("b", 2);
    const Answer c = store.put_pages("c", 2);
    const Ticket get = store.await("a", {}, seconds(5));
    CHECK(store.heard(get) == "nothing");
    REQUIRE(store.outside.copies.size() == 1);
    CHECK(store.outside.copies[0].serial == b.serial);
    store.finish_copy();
    store.do_jobs();
    store.finish_fetch();
    CHECK(store.heard(get) == "awaited");
    CHECK(store.state(a) == shm::State::sealed);
    CHECK(store.state(b) == shm::State::spilled);
    CHECK(store.state(c) == shm::State::sealed);
    CHECK(store.adds_up());
  }

  TEST_CASE("a get without a timeout finds everything pinned: it is told so, in seconds") {
    TieredStore store(2);
    store.put_spilled("a", 2);
    const Answer pinned = store.put_pages("pinned", 2);
    store.pin(pinned);
    const Ticket get = store.await("a", {}, seconds(0));
    store.pass(seconds(1));
    CHECK(store.heard(get) == "nothing");
    store.pass(seconds(2));
    CHECK(store.heard(get) == "store_full");
    CHECK(store.detail(get).find("pinned by pid") != std::string::npos);
    // The next one is served when the pin has ended.
    const Ticket again = store.await("a", {}, seconds(60));
    store.unpin(pinned);
    store.pass(milliseconds(200));
    store.finish_copies();
    store.do_jobs();
    store.finish_fetch();
    CHECK(store.heard(again) == "awaited");
  }

  TEST_CASE("a tier that is down is an error now, and the segment is still there later") {
    TieredStore store(8);
    const Answer made = store.put_spilled("a", 2);
    const Ticket get = store.await("a", {}, seconds(5));
    store.do_jobs();
    store.finish_fetch(fail(Errc::tier_down, "as the test says"));
    CHECK(store.heard(get) == "tier_down");
    CHECK(store.detail(get).find("'a' version 1") != std::string::npos);
    CHECK(store.state(made) == shm::State::spilled);
    CHECK(store.adds_up());
    const Ticket again = store.await("a", {}, seconds(5));
    store.do_jobs();
    store.finish_fetch();
    CHECK(store.heard(again) == "awaited");
  }

  TEST_CASE("what its tier has lost is lost, and says so for ever") {
    TieredStore store(8);
    store.put_spilled("a", 2);
    const Ticket get = store.await("a", {}, seconds(5));
    store.do_jobs();
    store.finish_fetch(fail(Errc::lost, "as the test says"));
    CHECK(store.heard(get) == "lost");
    CHECK(store.why_gone("a", 1) == shm::Reason::lost);
    CHECK(store.rules->usage().spilled == 0);
    CHECK(store.adds_up());
    // A framework makes it again.
    const Answer again = store.put({.id = "a", .version = 1, .size = pages(1)});
    CHECK(store.state(again) == shm::State::sealed);
  }

  TEST_CASE("while the tiers take nothing, creates are refused, and what may be dropped is") {
    TieredStore store(4);
    const Answer kept = store.put_pages("kept", 2);
    const Answer droppable = store.put({.id = "droppable", .size = pages(2), .evictable = true});
    const Ticket first = store.create({.id = "new", .size = pages(2)});
    REQUIRE(store.outside.copies.size() == 1);
    store.fail_copy(Errc::store_full);
    store.do_jobs();
    CHECK(store.heard(first) == "created");
    CHECK(store.state(kept) == shm::State::sealed);
    CHECK(store.why_gone("droppable", 1) == shm::Reason::evicted);
    const Ticket second = store.create({.id = "newer", .size = pages(2)});
    store.pass(milliseconds(1));
    CHECK(store.heard(second) == "store_full");
    CHECK(store.detail(second).find("nothing can be spilled now") != std::string::npos);
    // After a while it is tried again.
    store.pass(seconds(1));
    const Ticket third = store.create({.id = "newest", .size = pages(2)});
    REQUIRE(store.outside.copies.size() == 1);
    store.finish_copy();
    store.do_jobs();
    CHECK(store.heard(third) == "created");
    CHECK(store.state(kept) == shm::State::spilled);
    (void)droppable;
  }

  TEST_CASE("a segment removed while it is copied gives its memory back when nobody reads it") {
    TieredStore store(4);
    const Answer made = store.put_pages("a", 2);
    store.transfer(TransferVerb::spill, {{"a", 1, made.serial}});
    CHECK(outcome(store.rules->remove("a", 1, 0, false)) == "ok");
    CHECK_FALSE(store.finds("a"));
    CHECK(store.rules->usage().used == pages(2));
    const SpillPlace place = store.finish_copy();
    CHECK(store.rules->usage().used == 0);
    REQUIRE(store.outside.forgotten.size() == 1);
    CHECK(store.outside.forgotten[0] == place);
    CHECK(store.adds_up());
  }

  TEST_CASE("a segment removed while it is copied and pinned goes with its pin, and its copy with it") {
    TieredStore store(4);
    const Answer made = store.put_pages("a", 2);
    store.pin(made);
    store.transfer(TransferVerb::spill, {{"a", 1, made.serial}});
    CHECK(outcome(store.rules->remove("a", 1, 0, false)) == "ok");
    const SpillPlace place = store.finish_copy();
    CHECK(store.outside.forgotten == std::vector<SpillPlace>{place});
    CHECK(store.rules->usage().clean_bytes == 0);
    CHECK(store.rules->places().empty());
    CHECK(store.rules->usage().used == pages(2));
    store.release(made);
    CHECK(store.rules->usage().used == 0);
    CHECK(store.adds_up());
    // Nothing of it is left that a create could stumble over.
    const Answer next = store.put_pages("b", 4);
    CHECK(store.state(next) == shm::State::sealed);
  }

  TEST_CASE("what cannot come back for want of room lets what can pass") {
    TieredStore store(4);
    store.put_spilled("large", 4);
    store.put_spilled("small", 1);
    const Answer pinned = store.put_pages("pinned", 2);
    store.pin(pinned);
    const Ticket large = store.await("large", {}, seconds(60));
    const Ticket small = store.await("small", {}, seconds(60));
    store.do_jobs();
    REQUIRE(store.outside.fetches.size() == 1);
    store.finish_fetch();
    CHECK(store.heard(small) == "awaited");
    CHECK(store.heard(large) == "nothing");
  }

  TEST_CASE("what nobody waits for any more is not brought back on demand") {
    TieredStore store(4);
    const Answer made = store.put_spilled("a", 4);
    const Answer pinned = store.put_pages("pinned", 2);
    store.pin(pinned);
    Ticket ticket{};
    SUBCASE("a get whose caller has gone") {
      store.await("a", {}, seconds(60), 7);
      store.rules->session_ended(7);
    }
    SUBCASE("a get that was cancelled") {
      ticket = store.await("a", {}, seconds(60));
      store.rules->cancel_wait(ticket.session, ticket.number);
    }
    SUBCASE("a restore that was cancelled") {
      ticket = store.transfer(TransferVerb::restore, {{"a", 1, 0}});
      store.rules->cancel_wait(ticket.session, ticket.number);
    }
    CHECK(outcome(store.rules->remove("pinned", 0, 0, false)) == "ok");
    store.release(pinned);
    store.pass(seconds(1));
    store.do_jobs();
    CHECK(store.outside.fetches.empty());
    CHECK(store.state(made) == shm::State::spilled);
    CHECK(store.rules->usage().restoring == 0);
    CHECK(store.heard(ticket) == "nothing");
  }

  TEST_CASE("memory that comes for what nobody waits for any more is nobody's") {
    RulesOptions options = TieredStore::with_tiers(4, 0);
    options.keep_warm_bytes = 0;
    TieredStore store(options);
    const Answer made = store.put_spilled("a", 4);
    store.do_jobs();
    REQUIRE(store.rules->usage().warm == 0);
    const Ticket ticket = store.await("a", {}, seconds(60));
    store.rules->cancel_wait(ticket.session, ticket.number);
    store.do_jobs();
    CHECK(store.outside.fetches.empty());
    CHECK(store.state(made) == shm::State::spilled);
    CHECK(store.rules->usage().restoring == 0);
    CHECK(store.rules->usage().used == 0);
    CHECK(store.adds_up());
  }

  TEST_CASE("a segment removed on its way back frees its memory when its bytes have come") {
    TieredStore store(4);
    const Answer made = store.put_spilled("a", 2);
    const Ticket get = store.await("a", {}, seconds(5));
    store.do_jobs();
    CHECK(outcome(store.rules->remove("a", 1, 0, false)) == "ok");
    CHECK(store.heard(get) == "awaited");  // and finds nothing when it looks
    CHECK(store.rules->usage().used == pages(2));
    CHECK(store.outside.forgotten.size() == 1);
    // Its entry has another life already.
    const Answer next = store.put_pages("b", 1);
    CHECK(next.entry == made.entry);
    store.finish_fetch();
    CHECK(store.state(next) == shm::State::sealed);
    CHECK(store.rules->usage().used == pages(1));
    CHECK(store.adds_up());
  }

  TEST_CASE("a removed segment is forgotten by its tier, clean or spilled") {
    TieredStore store(8);
    store.put_spilled("spilled", 2);
    const Answer clean = store.put_pages("clean", 2);
    store.pin(clean);
    store.transfer(TransferVerb::spill, {{"clean", 1, 0}});
    store.finish_copy();
    store.unpin(clean);
    CHECK(store.state(clean) == shm::State::sealed);
    CHECK(outcome(store.rules->remove("spilled", 0, 0, false)) == "ok");
    CHECK(outcome(store.rules->remove("clean", 0, 0, false)) == "ok");
    CHECK(store.outside.forgotten.size() == 2);
    const Usage usage = store.rules->usage();
    CHECK(usage.used == 0);
    CHECK(usage.spilled == 0);
    CHECK(usage.spilled_bytes == 0);
    CHECK(usage.clean_bytes == 0);
  }

  TEST_CASE("taking over waits for the copy that reads the memory, and forgets its outcome") {
    TieredStore store(4);
    const Answer made = store.put_pages("a", 2);
    store.transfer(TransferVerb::spill, {{"a", 1, made.serial}});
    const Ticket ticket = store.create({.id = "a", .version = 2, .take_from = 1});
    CHECK(store.heard(ticket) == "nothing");
    // The copy evicts it: what is taken over is gone from memory by then.
    store.finish_copy();
    CHECK(store.heard(ticket) == "bad_argument");
    CHECK(store.finds("a", 1));
  }

  TEST_CASE("a restarted daemon knows what is clean, what is spilled, and what was on its way") {
    TieredStore store(8);
    const Answer spilled = store.put_spilled("spilled", 2);
    const Answer coming = store.put_spilled("coming", 2);
    const Answer clean = store.put_pages("clean", 2);
    store.pin(clean);
    store.transfer(TransferVerb::spill, {{"clean", 1, 0}});
    store.finish_copy();
    store.unpin(clean);
    const Answer copied = store.put_pages("copied", 1);
    store.transfer(TransferVerb::spill, {{"copied", 1, 0}});
    store.await("coming", {}, seconds(5));
    store.do_jobs();
    CHECK(store.state(coming) == shm::State::restoring);

    store.outside.copies.clear();
    store.outside.fetches.clear();
    CHECK(store.restart(std::vector<bool>(16)) == 0);
    CHECK(store.state(spilled) == shm::State::spilled);
    CHECK(store.state(coming) == shm::State::spilled);
    CHECK(store.state(clean) == shm::State::sealed);
    CHECK(store.state(copied) == shm::State::sealed);
    const Usage usage = store.rules->usage();
    CHECK(usage.spilled == 2);
    CHECK(usage.spilled_bytes == pages(4));
    CHECK(usage.clean_bytes == pages(2));
    CHECK(usage.used == pages(3));
    CHECK(store.adds_up());
    CHECK(store.rules->places().size() == 3);
    const Ticket get = store.await("coming", {}, seconds(5));
    store.do_jobs();
    REQUIRE(store.outside.fetches.size() == 1);
    CHECK(store.outside.fetches[0].place == TieredStore::place_of(coming.serial, pages(2)));
    store.finish_fetch();
    CHECK(store.heard(get) == "awaited");
  }

  TEST_CASE("prefetch fills what is free, goes behind demand, and copies nothing away for it") {
    TieredStore store(4);
    const Answer a = store.put_spilled("a", 2);
    const Answer b = store.put_spilled("b", 2);
    const Answer c = store.put_pages("c", 2);
    const Ticket ticket = store.transfer(TransferVerb::prefetch, {{"a", 1, 0}, {"b", 1, 0}});
    CHECK(store.heard(ticket) == "transferred");
    store.do_jobs();
    REQUIRE(store.outside.fetches.size() == 1);
    CHECK(store.outside.fetches[0].priority == TierPriority::background);
    CHECK(store.outside.copies.empty());
    CHECK(store.state(c) == shm::State::sealed);
    store.finish_fetch();
    CHECK(store.state(a) == shm::State::sealed);
    CHECK(store.state(b) == shm::State::spilled);
    // A demand for the same overtakes.
    const Ticket get = store.await("b", {}, seconds(5));
    REQUIRE(store.outside.copies.size() == 1);
    store.finish_copy();
    store.do_jobs();
    REQUIRE(store.outside.fetches.size() == 1);
    CHECK(store.outside.fetches[0].priority == TierPriority::demand);
    store.finish_fetch();
    CHECK(store.heard(get) == "awaited");
  }

  TEST_CASE("restore waits for all, spill for the copies, and the first error is told") {
    TieredStore store(16);
    store.put_spilled("a", 2);
    store.put_spilled("b", 2);
    const Ticket both = store.transfer(TransferVerb::restore, {{"a", 1, 0}, {"b", 1, 0}});
    store.do_jobs();
    store.finish_fetch();
    CHECK(store.heard(both) == "nothing");
    store.finish_fetch();
    CHECK(store.heard(both) == "transferred");
    CHECK(store.outside.to(both)[0].removed == 2);
    const Ticket missing = store.transfer(TransferVerb::restore, {{"a", 1, 0}, {"none", 1, 0}});
    CHECK(store.heard(missing) == "not_found");
    const Answer c = store.put_pages("c", 2);
    store.pin(c);
    const Ticket spill = store.transfer(TransferVerb::spill, {{"c", 1, 0}});
    CHECK(store.heard(spill) == "nothing");
    store.finish_copy();
    // A copy is there; the memory stays with who pins it.
    CHECK(store.heard(spill) == "transferred");
    CHECK(store.state(c) == shm::State::sealed);
  }

  TEST_CASE("small segments come back into slabs") {
    TieredStore store(64);
    std::vector<Answer> made;
    for (int i = 0; i < 20; ++i) {
      const std::string id = "small/" + std::to_string(i);
      made.push_back(store.put({.id = id, .size = 1000, .packed = true}));
      store.transfer(TransferVerb::spill, {{id, 1, 0}});
    }
    store.finish_copies();
    for (const Answer& answer : made) CHECK(store.state(answer) == shm::State::spilled);
    CHECK(store.rules->usage().slab_items == 0);
    std::vector<Ticket> gets;
    for (int i = 0; i < 20; ++i) gets.push_back(store.await("small/" + std::to_string(i), {}, seconds(5)));
    for (int turn = 0; turn < 40; ++turn) {
      store.do_jobs();
      while (!store.outside.fetches.empty()) store.finish_fetch();
    }
    for (const Ticket ticket : gets) CHECK(store.heard(ticket) == "awaited");
    CHECK(store.rules->usage().slabs == pages(16));
    CHECK(store.adds_up());
  }

  TEST_CASE("holding and persisting keep a segment, not its memory") {
    TieredStore store(4);
    const Answer held = store.put_pages("held", 2);
    CHECK(outcome(store.rules->hold("held", 1, 0, reader)) == "ok");
    const Answer stays = store.put({.id = "stays", .size = pages(2), .persistent = true});
    const Ticket ticket = store.create({.id = "new", .size = pages(4)});
    store.finish_copies();
    store.do_jobs();
    CHECK(store.heard(ticket) == "created");
    CHECK(store.state(held) == shm::State::spilled);
    CHECK(store.state(stays) == shm::State::spilled);
  }

  TEST_CASE("a version that keep wants no more goes from its tier, too") {
    TieredStore store(8);
    store.put_spilled("a", 1);
    store.put({.id = "a", .size = pages(1), .keep = 1});
    CHECK(store.versions("a") == "2");
    CHECK(store.outside.forgotten.size() == 1);
  }

  TEST_CASE("what another store has published becomes a segment without memory") {
    TieredStore store(64);
    const SpillPlace place = TieredStore::place_of(99, pages(2));
    const Ticket waiting = store.await("theirs", {.exact = 3}, seconds(5));
    auto entry = store.rules->import({.id = "theirs", .version = 3, .size = pages(2)}, place, 1,
                                     store.now);
    REQUIRE(entry.has_value());
    CHECK(store.heard(waiting) == "awaited");
    CHECK(store.table->word(*entry).state() == shm::State::spilled);
    const Ticket get = store.await("theirs", {}, seconds(5));
    store.do_jobs();
    REQUIRE(store.outside.fetches.size() == 1);
    CHECK(store.outside.fetches[0].place == place);
    store.finish_fetch();
    CHECK(store.heard(get) == "awaited");
    // Once more changes nothing.
    auto again = store.rules->import({.id = "theirs", .version = 3, .size = pages(2)}, place, 1,
                                     store.now);
    REQUIRE(again.has_value());
    CHECK(*again == *entry);
  }

  TEST_CASE("a place that compaction moved is the segment's, unless it has gone meanwhile") {
    TieredStore store(4);
    const Answer made = store.put_spilled("a", 2);
    const SpillPlace from = TieredStore::place_of(made.serial, pages(2));
    SpillPlace to = from;
    to.item = 1234;
    CHECK(store.rules->moved({made.serial, from, to}));
    CHECK_FALSE(store.rules->moved({made.serial, from, to}));
    CHECK(outcome(store.rules->remove("a", 0, 0, false)) == "ok");
    REQUIRE(store.outside.forgotten.size() == 1);
    CHECK(store.outside.forgotten[0] == to);
    CHECK_FALSE(store.rules->moved({made.serial, to, from}));
  }

  TEST_CASE("whatever the tiers do, nothing is lost that they did not lose, and all adds up") {
    test::Random random("rules of spilling");
    for (int round = 0; round < 20; ++round) {
      TieredStore store(64, 32);
      struct Known {
        Answer made;
        std::uint64_t bytes = 0;
        int pins = 0;
        shm::Location location{};  // while it is pinned
      };
      std::map<std::string, Known> known;
      std::vector<Ticket> asked;
      int next = 0;
      const auto pick = [&]() -> Known* {
        if (known.empty()) return nullptr;
        auto at = known.begin();
        std::advance(at, static_cast<std::ptrdiff_t>(random.below(static_cast<std::uint32_t>(known.size()))));
        return &at->second;
      };
      const auto name_of = [&](const Known& one) {
        for (const auto& [id, other] : known)
          if (&other == &one) return id;
        return std::string();
      };
      const auto drop_lost = [&] {
        std::erase_if(known, [&](const auto& item) {
          return store.why_gone(item.first, 1) == shm::Reason::lost;
        });
      };
      const auto settle_some = [&](bool all) {
        while (!store.outside.copies.empty() && (all || random.below(2) == 0)) {
          const std::uint64_t how = all ? 9 : random.below(10);
          if (how < 1) store.fail_copy(Errc::store_full);
          else if (how < 2) store.fail_copy(Errc::tier_down);
          else store.finish_copy();
        }
        while (!store.outside.fetches.empty() && (all || random.below(2) == 0)) {
          const std::uint64_t how = all ? 9 : random.below(12);
          if (how < 1) store.finish_fetch(fail(Errc::tier_down, "as the test says"));
          else if (how < 2) store.finish_fetch(fail(Errc::lost, "as the test says"));
          else store.finish_fetch();
        }
        drop_lost();
      };
      for (int step = 0; step < 300; ++step) {
        switch (random.below(14)) {
          case 12:
            if (!asked.empty()) {
              const std::size_t which = random.below(static_cast<std::uint32_t>(asked.size()));
              if (store.heard(asked[which]) == "nothing") {
                store.rules->cancel_wait(asked[which].session, asked[which].number);
                asked.erase(asked.begin() + static_cast<std::ptrdiff_t>(which));
              }
            }
            break;
          case 13:
            if (Known* one = pick(); one != nullptr && random.below(4) == 0) {
              store.await(name_of(*one), {.exact = 1}, seconds(random.below(3)), 77);
              store.rules->session_ended(77);
            }
            break;
          case 0:
          case 1:
          case 2: {
            const bool small = random.below(3) == 0;
            const std::string id = "id/" + std::to_string(next++);
            const std::uint64_t bytes =
                small ? 1 + random.below(2000) : pages(1 + random.below(8));
            const Ticket ticket =
                store.create({.id = id, .size = bytes, .packed = small});
            store.do_jobs();
            for (int turn = 0; turn < 6 && store.heard(ticket) == "nothing"; ++turn) {
              settle_some(true);
              store.pass(milliseconds(150));
              store.do_jobs();
            }
            const auto answers = store.outside.to(ticket);
            REQUIRE(answers.size() == 1);
            if (answers[0].kind != Answer::Kind::created) break;
            store.seal(answers[0]);
            known[id] = {answers[0], bytes, 0, shm::Location()};
            break;
          }
          case 3:
            if (Known* one = pick(); one != nullptr && store.state(one->made) == shm::State::sealed) {
              store.pin(one->made);
              ++one->pins;
              one->location = store.table->location(one->made.entry);
            }
            break;
          case 4:
          case 5:
            if (Known* one = pick(); one != nullptr && one->pins > 0) {
              store.release(one->made);
              --one->pins;
            }
            break;
          case 6:
            if (Known* one = pick(); one != nullptr && one->pins == 0) {
              const std::string id = name_of(*one);
              CHECK(outcome(store.rules->remove(id, 0, 0, false)) == "ok");
              known.erase(id);
            }
            break;
          case 7:
          case 8:
            if (Known* one = pick(); one != nullptr)
              asked.push_back(store.await(name_of(*one), {.exact = 1}, seconds(random.below(3))));
            break;
          case 9:
            if (Known* one = pick(); one != nullptr) {
              const std::string id = name_of(*one);
              const auto verb = static_cast<TransferVerb>(1 + random.below(3));
              asked.push_back(store.transfer(verb, {{id, 1, one->made.serial}}));
            }
            break;
          case 10:
            settle_some(false);
            break;
          default:
            store.pass(milliseconds(random.below(400)));
            store.do_jobs();
            if (random.below(20) == 0) {
              // What was under way has come to nothing, and nobody is told by the next daemon.
              std::vector<shm::Range> touched;
              for (auto& [id, one] : known) one.pins = 0;
              store.census.process_died(reader);
              store.outside.copies.clear();
              store.outside.fetches.clear();
              asked.clear();
              REQUIRE(store.restart(std::vector<bool>(16)) == 0);
            }
        }
        REQUIRE(store.adds_up());
        for (const auto& [id, one] : known) {
          INFO("round " << round << " step " << step << " " << id);
          REQUIRE(store.finds(id, 1));
          if (one.pins > 0) {
            REQUIRE(store.state(one.made) == shm::State::sealed);
            REQUIRE(store.table->location(one.made.entry) == one.location);
          }
        }
      }
      for (auto& [id, one] : known)
        for (; one.pins > 0; --one.pins) store.release(one.made);
      for (int turn = 0; turn < 200; ++turn) {
        settle_some(true);
        store.pass(milliseconds(150));
        store.do_jobs();
      }
      for (const Ticket ticket : asked) {
        INFO("round " << round);
        CHECK(store.outside.to(ticket).size() == 1);
      }
      // The sums are those of what there is.
      std::uint64_t spilled = 0;
      std::uint64_t clean = 0;
      for (const auto& [id, one] : known) {
        if (store.state(one.made) == shm::State::spilled) spilled += one.bytes;
        else if (store.table->has_place(one.made.entry)) clean += one.bytes;
      }
      const Usage usage = store.rules->usage();
      CHECK(usage.spilled_bytes == spilled);
      CHECK(usage.clean_bytes == clean);
      CHECK(usage.copying_bytes == 0);
      CHECK(usage.fetching_bytes == 0);
      for (const auto& [id, one] : known)
        CHECK(outcome(store.rules->remove(id, 0, 0, false)) == "ok");
      store.pass(seconds(1));
      store.do_jobs();
      settle_some(true);
      CHECK(store.rules->usage().used == store.rules->usage().slabs);
      CHECK(store.rules->usage().slab_items == 0);
      CHECK(store.rules->places().empty());
    }
  }
}
