// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/tier_stack.h"

#include <doctest/doctest.h>

#include "spill/stack/sums.h"
#include "tests/spill/support/stack_rig.h"
#include "tests/support/random.h"

namespace forebay::spill {
namespace {

using namespace std::chrono_literals;
using test::Answered;
using test::Bytes;
using test::bytes_of;
using test::eventually;
using test::FakeTier;
using test::Rig;
using test::soon;
using test::TierVerb;

constexpr std::size_t large = 300'000;

TEST_SUITE("tier stack") {
  TEST_CASE("segments of any size come back as they went, whole and in parts") {
    Rig rig({.pools = 2, .disks = 1});
    test::Random random("sizes");
    for (const std::size_t size :
         {std::size_t{1}, std::size_t{7}, std::size_t{4'096}, std::size_t{65'535},
          std::size_t{65'536}, std::size_t{65'537}, std::size_t{131'072}, std::size_t{1'000'003}}) {
      for (const SpillCodec codec : {SpillCodec::none, SpillCodec::lz4, SpillCodec::zstd}) {
        for (const bool repetitive : {false, true}) {
          CAPTURE(size);
          CAPTURE(static_cast<int>(codec));
          const Bytes bytes = bytes_of(size, size, repetitive);
          const auto place = rig.put(bytes, {.codec = codec});
          REQUIRE(place);
          CHECK(place->size == size);
          CHECK((place->stored < size) == (place->codec != SpillCodec::none));
          if (codec != SpillCodec::none && repetitive && size > 1'000) CHECK(place->codec == codec);
          const auto back = rig.get(*place);
          REQUIRE(back);
          CHECK(*back == bytes);
          for (int part = 0; part < 12; ++part) {
            const auto from = random.below(static_cast<std::uint32_t>(size));
            const auto count = 1 + random.below(static_cast<std::uint32_t>(size - from));
            const auto some = rig.range(*place, from, count);
            REQUIRE(some);
            CHECK(std::equal(some->begin(), some->end(), bytes.begin() + from));
          }
        }
      }
    }
  }

  TEST_CASE("a part of a large segment is read from the blocks it touches and the table") {
    Rig rig({});
    const Bytes bytes = bytes_of(1, 10 * sum_block_bytes + 5);
    const auto place = rig.put(bytes);
    REQUIRE(place);
    // Every other block may rot without being noticed here; one that is touched may not.
    for (const std::uint64_t block : {0, 1, 2, 5, 6, 7, 8, 9, 10})
      REQUIRE(rig.fakes[0]->rot(Rig::key(*place), block * sum_block_bytes));
    const std::uint64_t from = 3 * sum_block_bytes + 11;
    const auto part = rig.range(*place, from, sum_block_bytes);
    REQUIRE(part);
    CHECK(std::equal(part->begin(), part->end(), bytes.begin() + static_cast<long>(from)));
    CHECK(rig.range(*place, 2 * sum_block_bytes + 5, 10).error().is(Errc::lost));
    CHECK(rig.range(*place, 3 * sum_block_bytes, 7 * sum_block_bytes).error().is(Errc::lost));
    CHECK(rig.stack->status().corrupt == 2);
  }

  TEST_CASE("a table that does not fit is noticed") {
    Rig rig({});
    const auto place = rig.put(bytes_of(1, large));
    REQUIRE(place);
    CHECK(rig.range(*place, 5, 100));
    REQUIRE(rig.fakes[0]->rot(Rig::key(*place), large + 9));
    const auto part = rig.range(*place, 5, 100);
    CHECK(part.error().is(Errc::lost));
    CHECK(part.error().detail.find("pool 0") != std::string::npos);
    // The whole needs no table.
    CHECK(rig.get(*place));
  }

  TEST_CASE("small segments share an item, each with a place of its own") {
    Rig rig({});
    std::vector<Answered<SpillPlace>> answers(20);
    std::vector<Bytes> segments;
    for (std::size_t i = 0; i < answers.size(); ++i)
      segments.push_back(bytes_of(i, 100 + i * 50));
    for (std::size_t i = 0; i < answers.size(); ++i)
      rig.stack->put({i + 1, segments[i], {}, {}}, soon(), answers[i].done());
    rig.stack->flush();
    std::set<std::uint64_t> items;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      const auto place = answers[i].wait();
      REQUIRE(place);
      CHECK(place->packed == 1);
      CHECK((place->item >> 63U) == 1);
      items.insert(place->item);
      CHECK(*rig.get(*place) == segments[i]);
    }
    // One, unless the timer was quicker than this loop.
    CHECK(items.size() < 4);
    CHECK(rig.fakes[0]->count(TierVerb::put) == items.size());
    CHECK(rig.stack->status().packs == items.size());
    CHECK(rig.fakes[0]->count(TierVerb::get) == answers.size());
  }

  TEST_CASE("a pack goes out by itself, and is answered when a tier has it") {
    Rig rig({});
    rig.fakes[0]->stall({TierVerb::put});
    const Bytes bytes = bytes_of(1, 500);
    Answered<SpillPlace> answer;
    rig.stack->put({1, bytes, {}, {}}, soon(), answer.done());
    REQUIRE(eventually([&] { return rig.fakes[0]->count(TierVerb::put) == 1; }));
    CHECK(!answer.there());
    rig.fakes[0]->release();
    CHECK(answer.wait());
  }

  TEST_CASE("one pack fills while the other travels; then a bounded number waits") {
    Rig rig({.options = {.packs = {.pack_bytes = 16'384, .wait = 10s, .waiting_max = 3}}});
    rig.fakes[0]->stall({TierVerb::put});
    const Bytes bytes = bytes_of(1, 4'096);
    std::vector<Answered<SpillPlace>> answers(12);
    for (std::size_t i = 0; i < 11; ++i)
      rig.stack->put({i + 1, bytes, {}, {}}, i == 10 ? TierClock::now() + 50ms : soon(),
                     answers[i].done());
    // Four in each pack, three wait.
    rig.stack->put({12, bytes, {}, {}}, soon(), answers[11].done());
    CHECK(answers[11].wait().error().is(Errc::store_full));
    CHECK(answers[10].wait().error().is(Errc::timed_out));
    CHECK(!answers[0].there());
    CHECK(!answers[9].there());
    rig.fakes[0]->release();
    for (std::size_t i = 0; i < 8; ++i) CHECK(answers[i].wait());
    REQUIRE(eventually([&] {
      rig.stack->flush();
      return answers[8].there() && answers[9].there();
    }));
    CHECK(answers[8].wait());
    CHECK(answers[9].wait());
  }

  TEST_CASE("a segment whose deadline passes while its pack travels leaves nothing") {
    Rig rig({});
    rig.fakes[0]->stall({TierVerb::put});
    const Bytes bytes = bytes_of(1, 500);
    Answered<SpillPlace> brief;
    Answered<SpillPlace> patient;
    rig.stack->put({1, bytes, {}, {}}, TierClock::now() + 60ms, brief.done());
    rig.stack->put({2, bytes, {}, {}}, soon(), patient.done());
    CHECK(brief.wait().error().is(Errc::timed_out));
    rig.fakes[0]->release();
    const auto place = patient.wait();
    REQUIRE(place);
    rig.stack->forget(*place);
    CHECK(eventually([&] { return rig.items() == 0; }));
  }

  TEST_CASE("a pack goes when its last segment is forgotten, also from within an answer") {
    Rig rig({});
    std::vector<Bytes> segments;
    for (std::uint64_t i = 0; i < 8; ++i) segments.push_back(bytes_of(i, 1'000));
    std::atomic<unsigned> answered{0};
    for (std::uint64_t i = 0; i < 8; ++i)
      rig.stack->put({i + 1, segments[i], {}, {}}, soon(), [&](Result<SpillPlace> place) {
        REQUIRE(place);
        rig.stack->forget(*place);
        rig.stack->forget(*place);  // twice is once
        ++answered;
      });
    rig.stack->flush();
    CHECK(eventually([&] { return answered == 8 && rig.items() == 0; }));
    CHECK(rig.stack->status().packs == 0);
    CHECK(rig.stack->status().packed_bytes == 0);
    CHECK(rig.stack->status().packs_bytes == 0);
  }

  TEST_CASE("a pack that is mostly dead is moved, and each segment's new place is offered") {
    test::Places places;  // who is told must outlive who tells
    Rig rig({.options = {.packs = {.wait = 10s}}});
    const auto put_pack = [&] {
      std::vector<Answered<SpillPlace>> answers(10);
      std::vector<Bytes> segments;
      for (std::uint64_t i = 0; i < 10; ++i) segments.push_back(bytes_of(i, 1'000 + i));
      for (std::uint64_t i = 0; i < 10; ++i)
        rig.stack->put({i, segments[i], {}, {}}, soon(), answers[i].done());
      rig.stack->flush();
      std::vector<SpillPlace> found;
      for (auto& answer : answers) found.push_back(*answer.wait());
      return found;
    };
    const auto found = put_pack();
    for (std::uint64_t i = 0; i < 10; ++i) places.set(i, found[i]);
    for (std::uint64_t i = 0; i < 7; ++i) rig.stack->forget(places.take(i));
    SUBCASE("taken over") {
      places.follow(*rig.stack);
      REQUIRE(eventually([&] {
        rig.stack->flush();
        return places.moves() == 3 && rig.items() == 1;
      }));
      for (std::uint64_t i = 7; i < 10; ++i) {
        const SpillPlace place = places.at(i);
        CHECK(place.item != found[i].item);
        CHECK(*rig.get(place) == bytes_of(i, 1'000 + i));
      }
      CHECK(rig.stack->status().compactions == 1);
      for (std::uint64_t i = 7; i < 10; ++i) rig.stack->forget(places.take(i));
      CHECK(eventually([&] {
        rig.stack->flush();
        return rig.items() == 0 && rig.stack->removals_waiting() == 0;
      }));
    }
    SUBCASE("not taken: the new place is forgotten") {
      std::atomic<int> offered{0};
      rig.stack->on_moved([&](const SpillMove&, const std::function<void(bool)>& answer) {
        ++offered;
        answer(false);
      });
      REQUIRE(eventually([&] {
        rig.stack->flush();
        return offered == 3 && rig.items() == 1;
      }));
      CHECK(*rig.get(found[8]) == bytes_of(8, 1'008));
    }
    SUBCASE("forgotten while it moves, and the question dropped") {
      std::atomic<int> offered{0};
      rig.stack->on_moved([&](const SpillMove& move, const std::function<void(bool)>&) {
        ++offered;
        rig.stack->forget(move.from);
      });
      CHECK(eventually([&] {
        rig.stack->flush();
        return offered == 3 && rig.items() == 0;
      }));
    }
    rig.stack.reset();
  }

  TEST_CASE("compaction moves no wrong byte, and is tried again when a tier fails") {
    test::Places places;
    Rig rig({.pools = 1, .options = {.packs = {.wait = 500us}}});
    std::vector<Answered<SpillPlace>> answers(4);
    const Bytes bytes = bytes_of(9, 2'000);
    for (std::uint64_t i = 0; i < 4; ++i)
      rig.stack->put({i, bytes, {}, {}}, soon(), answers[i].done());
    for (std::uint64_t i = 0; i < 4; ++i) places.set(i, *answers[i].wait());
    if (places.at(0).item != places.at(3).item) return;  // the timer was quicker
    rig.fakes[0]->fail_next(1, Errc::tier_down, {TierVerb::get});
    rig.fakes[0]->corrupt_next(1);  // in the middle: of the third
    rig.fakes[0]->fail_next(1, Errc::store_full, {TierVerb::put});
    places.follow(*rig.stack);
    for (std::uint64_t i = 0; i < 3; ++i) rig.stack->forget(places.take(i));
    CHECK(eventually([&] { return places.moves() == 1 && rig.stack->removals_waiting() == 0; }));
    CHECK(*rig.get(places.at(3)) == bytes);
    CHECK(rig.items() == 1);
    rig.stack.reset();
  }

  TEST_CASE("two copies go to two pools, and one that is all there is will do") {
    Rig rig({.pools = 3, .disks = 1});
    const Bytes bytes = bytes_of(1, large);
    const auto two = rig.put(bytes, {.replicas = 2});
    REQUIRE(two);
    const auto tiers = rig.stack->tiers_of(*two);
    CHECK(tiers[0] >= 0);
    CHECK(tiers[1] >= 0);
    CHECK(tiers[0] != tiers[1]);
    CHECK(tiers[0] < 3);
    CHECK(tiers[1] < 3);
    // A pool that fails is replaced by the third.
    for (int i = 0; i < 10; ++i) {
      rig.fakes[0]->fail_next(1, Errc::store_full, {TierVerb::put});
      const auto place = rig.put(bytes, {.replicas = 2});
      REQUIRE(place);
      CHECK(place->copies[1].incarnation != 0);
    }
    rig.fakes[0]->go_down();
    rig.fakes[1]->go_down();
    const auto one = rig.put(bytes, {.replicas = 2});
    REQUIRE(one);
    CHECK(one->copies[1].incarnation == 0);
    CHECK(rig.stack->tiers_of(*one) == std::array<int, 2>{2, -1});
  }

  TEST_CASE("a put waits for both copies") {
    Rig rig({.pools = 2});
    rig.fakes[1]->stall({TierVerb::put});
    const Bytes bytes = bytes_of(1, large);
    Answered<SpillPlace> answer;
    rig.stack->put({1, bytes, {.replicas = 2}, {}}, soon(), answer.done());
    REQUIRE(eventually([&] { return rig.fakes[0]->items() == 1; }));
    CHECK(!answer.there());
    rig.fakes[1]->release();
    CHECK(answer.wait()->copies[1].incarnation != 0);
  }

  TEST_CASE("what no pool takes goes to disk, and otherwise the error tells what is wanting") {
    Rig rig({.pools = 1, .disks = 1});
    const Bytes bytes = bytes_of(1, large);
    rig.fakes[0]->set_capacity(1'000);
    auto place = rig.put(bytes);
    REQUIRE(place);
    CHECK(rig.stack->tiers_of(*place) == std::array<int, 2>{1, -1});
    // One that says it has room, and has none after all.
    rig.fakes[0]->set_capacity(1'000'000);
    rig.fakes[0]->fail_next(1, Errc::store_full, {TierVerb::put});
    place = rig.put(bytes);
    REQUIRE(place);
    CHECK(rig.stack->tiers_of(*place)[0] == 1);
    rig.fakes[0]->fail_next(1, Errc::store_full, {TierVerb::put});
    rig.fakes[1]->fail_next(1, Errc::tier_down, {TierVerb::put});
    CHECK(rig.put(bytes).error().is(Errc::store_full));
    rig.fakes[0]->go_down();
    rig.fakes[1]->set_capacity(1);
    CHECK(rig.put(bytes).error().is(Errc::store_full));
    rig.fakes[1]->go_down();
    const auto none = rig.put(bytes);
    CHECK(none.error().is(Errc::tier_down));
    CHECK(none.error().detail.find("disk 0") != std::string::npos);
    CHECK(rig.put(bytes_of(1, 10)).error().is(Errc::tier_down));
  }

  TEST_CASE("a pool that hangs leaves the disk its share of the time") {
    Rig rig({.pools = 1, .disks = 1});
    rig.fakes[0]->stall();
    const auto place = rig.put(bytes_of(1, large), {}, {}, TierClock::now() + 400ms);
    REQUIRE(place);
    CHECK(rig.stack->tiers_of(*place)[0] == 1);
    rig.fakes[1]->stall();
    CHECK(!rig.put(bytes_of(1, large), {}, {}, TierClock::now() + 100ms));
    rig.fakes[0]->release();
  }

  TEST_CASE("what is published is an item of its own, in a pool, and found by its name") {
    Rig rig({.pools = 2, .disks = 1});
    const Bytes small = bytes_of(1, 100, true);
    const Bytes big = bytes_of(2, large, true);
    const auto first = rig.put(small, {.codec = SpillCodec::lz4}, {"points", 1, Bytes(5)});
    const auto second = rig.put(big, {.codec = SpillCodec::zstd, .replicas = 2}, {"points", 2, {}});
    REQUIRE(first);
    REQUIRE(second);
    CHECK(first->packed == 0);
    const auto found = rig.find("points", 1);
    REQUIRE(found);
    CHECK(found->place == *first);
    CHECK(found->label.about.size() == 5);
    const auto newest = rig.find("points");
    REQUIRE(newest);
    CHECK(newest->label.version == 2);
    CHECK(newest->place.size == big.size());
    CHECK(newest->place.copies[1].incarnation != 0);
    CHECK(*rig.get(newest->place) == big);
    CHECK(*rig.range(newest->place, 70'000, 1'000) ==
          Bytes(big.begin() + 70'000, big.begin() + 71'000));
    CHECK(rig.find("lines").error().is(Errc::not_found));
    CHECK(rig.find("points", 3).error().is(Errc::not_found));
    rig.fakes[0]->go_down();
    rig.fakes[1]->go_down();
    CHECK(rig.find("points").error().is(Errc::tier_down));
    CHECK(rig.put(small, {}, {"no", 1, {}}).error().is(Errc::tier_down));
    CHECK(rig.put(small, {}, {std::string(513, 'x'), 1, {}}).error().is(Errc::bad_argument));
  }

  TEST_CASE("a place of another store is read, and forgetting it removes nothing") {
    Rig rig({});
    const Bytes bytes = bytes_of(3, large);
    const BlockSums sums = BlockSums::of(bytes);
    Answered<TierPlace> put;
    rig.fakes[0]->put({.key = {{9}, 77}, .parts = {bytes, sums.table()},
                       .crc32c = sums.item_sum(), .label = {"theirs", 4, {}}},
                      soon(), put.done());
    REQUIRE(put.wait());
    const auto found = rig.find("theirs");
    REQUIRE(found);
    CHECK(*rig.get(found->place) == bytes);
    rig.stack->forget(found->place);
    rig.stack->adopt({{1, found->place}});
    CHECK(eventually([&] { return rig.fakes[0]->count(TierVerb::list) == 1; }));
    CHECK(rig.stack->removals_waiting() == 0);
    CHECK(rig.items() == 1);
  }

  TEST_CASE("a copy that is bad is answered by the other one, and dropped") {
    test::Places places;
    Rig rig({.pools = 2});
    places.follow(*rig.stack);
    const Bytes bytes = bytes_of(1, large);
    const auto place = rig.put(bytes, {.replicas = 2});
    REQUIRE(place);
    places.set(1, *place);
    const bool rotten = rig.serial == 1;
    SUBCASE("corrupt") {
      REQUIRE(rig.holder(*place).rot(Rig::key(*place), 100'000));
      CHECK(*rig.get(*place) == bytes);
      CHECK(rig.stack->status().corrupt == 1);
    }
    SUBCASE("corrupt in a part that is read") {
      REQUIRE(rig.holder(*place).rot(Rig::key(*place), 100'000));
      CHECK(*rig.range(*place, 99'000, 2'000) ==
            Bytes(bytes.begin() + 99'000, bytes.begin() + 101'000));
      CHECK(rig.stack->status().corrupt == 1);
    }
    SUBCASE("gone") {
      REQUIRE(rig.holder(*place).lose(Rig::key(*place)));
      CHECK(*rig.get(*place) == bytes);
      CHECK(rig.stack->status().corrupt == 0);
    }
    CHECK(rotten);
    CHECK(rig.stack->status().repaired == 1);
    CHECK(eventually([&] { return places.at(1).copies[1].incarnation == 0; }));
    CHECK(places.at(1).copies[0] == place->copies[1]);
    CHECK(eventually([&] { return rig.items() == 1; }));
    CHECK(*rig.get(places.at(1)) == bytes);
    CHECK(rig.stack->status().repaired == 1);
    rig.stack.reset();
  }

  TEST_CASE("a pack with a bad copy is written anew from the other one") {
    test::Places places;
    Rig rig({.pools = 2});
    places.follow(*rig.stack);
    const Bytes bytes = bytes_of(1, 3'000);
    const auto place = rig.put(bytes, {.replicas = 2});
    REQUIRE(place);
    places.set(1, *place);
    REQUIRE(rig.holder(*place).rot(Rig::key(*place), place->inner + 5));
    CHECK(*rig.get(*place) == bytes);
    CHECK(eventually([&] { return places.at(1).item != place->item && rig.items() == 2; }));
    CHECK(places.at(1).copies[1].incarnation != 0);
    CHECK(*rig.get(places.at(1)) == bytes);
    rig.stack.reset();
  }

  TEST_CASE("when no copy is sound the answer is lost, and names tiers and reasons") {
    Rig rig({.pools = 2});
    const Bytes bytes = bytes_of(1, large);
    const auto place = rig.put(bytes, {.replicas = 2});
    REQUIRE(place);
    REQUIRE(rig.holder(*place, 0).rot(Rig::key(*place), 5));
    REQUIRE(rig.holder(*place, 1).lose(Rig::key(*place)));
    const auto lost = rig.get(*place);
    CHECK(lost.error().is(Errc::lost));
    CHECK(lost.error().detail.find("pool 0") != std::string::npos);
    CHECK(lost.error().detail.find("pool 1") != std::string::npos);
    CHECK(lost.error().detail.find("checksum") != std::string::npos);
  }

  TEST_CASE("a tier that does not answer may have it still; one that has come back empty has not") {
    Rig rig({.pools = 1});
    const Bytes bytes = bytes_of(1, large);
    const auto place = rig.put(bytes);
    REQUIRE(place);
    rig.fakes[0]->stall({TierVerb::get});
    CHECK(rig.get(*place, TierClock::now() + 50ms).error().is(Errc::tier_down));
    rig.fakes[0]->release();
    rig.fakes[0]->go_down();
    CHECK(rig.get(*place).error().is(Errc::tier_down));
    rig.fakes[0]->come_back();
    CHECK(*rig.get(*place) == bytes);
    rig.fakes[0]->go_down();
    rig.fakes[0]->come_back(FakeTier::Incarnation::other);
    CHECK(rig.get(*place).error().is(Errc::lost));
    CHECK(rig.stack->tiers_of(*place) == std::array<int, 2>{-1, -1});
  }

  TEST_CASE("the second copy answers when the first one hangs or is down") {
    Rig rig({.pools = 2});
    const Bytes bytes = bytes_of(1, large);
    const auto place = rig.put(bytes, {.replicas = 2});
    REQUIRE(place);
    rig.holder(*place).stall({TierVerb::get});
    const auto start = TierClock::now();
    CHECK(*rig.get(*place, start + 4s) == bytes);
    CHECK(TierClock::now() - start < 3s);
    CHECK(rig.stack->status().repaired == 1);
    rig.holder(*place).go_down();
    CHECK(*rig.get(*place) == bytes);
    CHECK(rig.stack->status().repaired == 2);
    CHECK(rig.stack->status().corrupt == 0);
  }

  TEST_CASE("a first copy that is only slow is asked again when the second one is gone") {
    Rig rig({.pools = 2});
    const Bytes bytes = bytes_of(1, large);
    const auto place = rig.put(bytes, {.replicas = 2});
    REQUIRE(place);
    FakeTier& slow = rig.holder(*place, 0);
    FakeTier& gone = rig.holder(*place, 1);
    REQUIRE(gone.lose(Rig::key(*place)));
    slow.stall({TierVerb::get});
    Bytes into(large);
    Answered<void> answer;
    rig.stack->get(*place, into, TierPriority::demand, TierClock::now() + 2s, answer.done());
    REQUIRE(eventually([&] { return gone.count(TierVerb::get) == 1 && slow.open() == 1; }));
    slow.release();
    CHECK(answer.wait());
    CHECK(into == bytes);
  }

  TEST_CASE("what is forgotten is removed as soon as its tier answers again") {
    Rig rig({.pools = 1});
    const auto place = rig.put(bytes_of(1, large));
    const auto small = rig.put(bytes_of(2, 10));
    REQUIRE(place);
    REQUIRE(small);
    rig.fakes[0]->go_down();
    rig.stack->forget(*place);
    rig.stack->forget(*small);
    CHECK(rig.stack->removals_waiting() == 2);
    rig.fakes[0]->come_back();
    CHECK(eventually([&] { return rig.items() == 0; }));
    const auto other = rig.put(bytes_of(1, large));
    REQUIRE(other);
    rig.fakes[0]->fail_next(3, Errc::timed_out, {TierVerb::remove});
    rig.stack->forget(*other);
    CHECK(eventually([&] { return rig.items() == 0; }));
    CHECK(eventually([&] { return rig.stack->removals_waiting() == 0; }));
    // With another incarnation everything has gone already.
    const auto last = rig.put(bytes_of(1, large));
    REQUIRE(last);
    rig.fakes[0]->go_down();
    rig.stack->forget(*last);
    rig.fakes[0]->come_back(FakeTier::Incarnation::other);
    CHECK(eventually([&] { return rig.stack->removals_waiting() == 0; }));
  }

  TEST_CASE("what is forgotten while it is read is removed when that has ended") {
    Rig rig({.pools = 1});
    const Bytes bytes = bytes_of(1, large);
    const auto place = rig.put(bytes);
    REQUIRE(place);
    rig.fakes[0]->stall({TierVerb::get});
    Bytes into(large);
    Answered<void> answer;
    rig.stack->get(*place, into, TierPriority::background, soon(), answer.done());
    rig.stack->forget(*place);
    CHECK(rig.fakes[0]->count(TierVerb::remove) == 0);
    rig.fakes[0]->release();
    CHECK(answer.wait());
    CHECK(into == bytes);
    CHECK(eventually([&] { return rig.items() == 0; }));
  }

  TEST_CASE("removals that are too many to note are made up for by a sweep") {
    Rig rig({.pools = 1, .options = {.removals_max = 2}});
    std::vector<SpillPlace> places;
    for (std::uint64_t i = 0; i < 6; ++i) places.push_back(*rig.put(bytes_of(i, large)));
    rig.fakes[0]->go_down();
    for (std::size_t i = 0; i < 5; ++i) rig.stack->forget(places[i]);
    CHECK(rig.stack->removals_waiting() == 2);
    rig.fakes[0]->come_back();
    CHECK(eventually([&] { return rig.items() == 1; }));
    CHECK(*rig.get(places[5]) == bytes_of(5, large));
  }

  TEST_CASE("a successor knows what it is told and removes the rest, but for what is published") {
    // The tiers stay when a stack goes; so here they are refilled from what it had.
    Rig rig({.pools = 1});
    const auto keep = [&](std::uint64_t number, const Bytes& bytes, const std::string& name) {
      Answered<TierPlace> put;
      const BlockSums sums = BlockSums::of(bytes);
      TierPut item{.key = {{7}, number}, .parts = {bytes}, .crc32c = sums.item_sum(), .label = {}};
      if (!sums.table().empty()) item.parts.push_back(sums.table());
      item.label.name = name;
      rig.fakes[0]->put(item, soon(), put.done());
      return *put.wait();
    };
    const auto place_of = [](std::uint64_t number, const TierPlace& at, const Bytes& bytes,
                             std::uint64_t inner) {
      SpillPlace place;
      place.copies[0] = at;
      place.store[0] = 7;
      place.item = number;
      place.inner = inner;
      place.size = place.stored = bytes.size();
      place.packed = (number & pack_bit) != 0 ? 1 : 0;
      place.sum = place_sum(place, BlockSums::of(bytes).item_sum());
      return place;
    };
    const Bytes whole = bytes_of(1, large);
    const Bytes pack = bytes_of(2, 4'000);
    const Bytes one(pack.begin(), pack.begin() + 1'600);
    const Bytes other(pack.begin() + 1'600, pack.begin() + 3'000);
    const auto whole_place = place_of(5, keep(5, whole, ""), whole, 0);
    const TierPlace pack_at = keep(pack_bit | 6, pack, "");
    const auto one_place = place_of(pack_bit | 6, pack_at, one, 0);
    const auto other_place = place_of(pack_bit | 6, pack_at, other, 1'600);
    keep(100, whole, "");
    keep(pack_bit | 101, pack, "");
    keep(102, whole, "published");

    // A put of this process is on its way meanwhile.
    rig.fakes[0]->stall({TierVerb::list});
    rig.stack->adopt({{1, whole_place}, {2, one_place}, {3, other_place}});
    const Bytes fresh_bytes = bytes_of(8, large);
    const auto fresh = rig.put(fresh_bytes);
    REQUIRE(fresh);
    rig.fakes[0]->release();
    CHECK(eventually([&] { return rig.items() == 4; }));
    CHECK(rig.fakes[0]->holds({{7}, 102}));
    CHECK(*rig.get(*fresh) == fresh_bytes);
    CHECK(*rig.get(whole_place) == whole);
    CHECK(*rig.get(one_place) == one);
    CHECK(*rig.get(other_place) == other);
    CHECK(rig.stack->status().packs == 1);
    CHECK(rig.stack->status().packed_bytes == 3'000);
    CHECK(rig.stack->status().packs_bytes == 4'000);
    rig.stack->forget(one_place);
    rig.stack->forget(other_place);
    CHECK(eventually([&] { return rig.items() == 3; }));
  }

  TEST_CASE("a tier that is down when a successor starts is swept when it is back") {
    Rig rig({.pools = 2});
    Answered<TierPlace> put;
    const Bytes bytes = bytes_of(1, 100);
    rig.fakes[1]->put({.key = {{7}, 50}, .parts = {bytes}, .crc32c = 1, .label = {}}, soon(),
                      put.done());
    REQUIRE(put.wait());
    rig.fakes[1]->go_down();
    rig.stack->adopt({});
    CHECK(eventually([&] { return rig.fakes[0]->count(TierVerb::list) == 1; }));
    CHECK(rig.items() == 1);
    rig.fakes[1]->come_back();
    CHECK(eventually([&] { return rig.items() == 0; }));
  }

  TEST_CASE("everything that is open is answered when the stack goes") {
    Rig rig({.pools = 2, .options = {.packs = {.pack_bytes = 8'192, .wait = 10s}}});
    const Bytes big = bytes_of(1, large);
    const Bytes small = bytes_of(2, 3'000);
    const auto place = rig.put(big, {.replicas = 2});
    REQUIRE(place);
    for (FakeTier* fake : rig.fakes) fake->stall();
    std::vector<Answered<SpillPlace>> puts(12);
    for (std::size_t i = 0; i < puts.size(); ++i)
      rig.stack->put({10 + i, i % 2 == 0 ? small : big, {.codec = SpillCodec::none, .replicas = 2},
                      {}},
                     soon(), puts[i].done());
    Bytes into(large);
    Bytes part(10);
    Answered<void> get;
    Answered<void> range;
    Answered<SpillFound> find;
    rig.stack->get(*place, into, TierPriority::demand, soon(), get.done());
    rig.stack->get_range(*place, 70'000, part, soon(), range.done());
    rig.stack->find("x", 0, soon(), find.done());
    rig.stack->forget(*place);
    const auto start = TierClock::now();
    rig.stack.reset();
    CHECK(TierClock::now() - start < 10s);
    for (auto& answer : puts) CHECK(!answer.wait());
    CHECK(!get.wait());
    CHECK(!range.wait());
    CHECK(!find.wait());
  }

  TEST_CASE("a place or range that cannot be is refused and allocates nothing") {
    Rig rig({});
    const auto place = rig.put(bytes_of(1, large));
    REQUIRE(place);
    const auto is_bad = [&](const SpillPlace& bad) {
      Bytes into(10);
      Answered<void> answer;
      rig.stack->get_range(bad, 0, into, soon(), answer.done());
      return answer.wait().error().is(Errc::bad_argument);
    };
    CHECK(rig.range(*place, large - 5, 6).error().is(Errc::bad_argument));
    CHECK(rig.range(*place, ~std::uint64_t{0} - 2, 6).error().is(Errc::bad_argument));
    SpillPlace bad = *place;
    bad.stored = bad.size = std::uint64_t{1} << 60U;
    CHECK(is_bad(bad));
    bad = *place;
    bad.codec = SpillCodec::zstd;
    bad.size = std::uint64_t{1} << 60U;
    CHECK(is_bad(bad));
    bad.codec = static_cast<SpillCodec>(9);
    bad.size = large + 1;
    CHECK(is_bad(bad));
    bad = *place;
    bad.inner = ~std::uint64_t{0};
    CHECK(is_bad(bad));
    Answered<void> answer;
    Bytes small(5);
    rig.stack->get(*place, small, TierPriority::demand, soon(), answer.done());
    CHECK(answer.wait().error().is(Errc::bad_argument));
    CHECK(rig.put({}).error().is(Errc::bad_argument));
    // A sum that binds something else.
    bad = *place;
    bad.sum ^= 1U;
    CHECK(rig.get(bad).error().is(Errc::lost));
  }

  TEST_CASE("every tier is told that memory leaves, and each is shown as it is") {
    Rig rig({.pools = 2, .disks = 1});
    const Bytes bytes = bytes_of(1, 10);
    rig.stack->memory_leaves(bytes);
    for (FakeTier* fake : rig.fakes) CHECK(fake->left().size() == 1);
    rig.fakes[1]->go_down();
    const SpillStatus status = rig.stack->status();
    REQUIRE(status.tiers.size() == 3);
    CHECK(status.tiers[0].name == "pool 0");
    CHECK(!status.tiers[1].up);
    CHECK(status.tiers[2].name == "disk 0");
  }
}

}  // namespace
}  // namespace forebay::spill
