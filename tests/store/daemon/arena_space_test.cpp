// SPDX-License-Identifier: Apache-2.0
// The arena's accounts against a model that knows each page by itself.
#include "store/daemon/arena_space.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "store/shm/layout.h"
#include "tests/support/random.h"

namespace forebay::daemon {
namespace {

using shm::page_bytes;

enum class Page : std::uint8_t { cold, warm, used, growing };

std::uint64_t offset_of(std::size_t page) { return page * page_bytes; }
std::size_t first_of(const Extent& extent) { return extent.offset / page_bytes; }
std::size_t end_of(const Extent& extent) { return (extent.offset + extent.bytes) / page_bytes; }
std::uint64_t bytes_of(const std::vector<Extent>& extents) {
  std::uint64_t bytes = 0;
  for (const Extent& extent : extents) bytes += extent.bytes;
  return bytes;
}

Extent pages(std::size_t first, std::size_t count) {
  return {offset_of(first), count * page_bytes};
}

// What the space must be, page by page.
class Model {
 public:
  explicit Model(std::size_t addresses) : pages_(addresses, Page::cold) {}

  void move(const Extent& extent, Page from, Page to) {
    REQUIRE(extent.offset % page_bytes == 0);
    REQUIRE(extent.bytes % page_bytes == 0);
    REQUIRE(extent.bytes > 0);
    REQUIRE(end_of(extent) <= pages_.size());
    for (std::size_t page = first_of(extent); page < end_of(extent); ++page) {
      REQUIRE(pages_[page] == from);
      pages_[page] = to;
    }
  }
  Page at(std::size_t page) const { return pages_[page]; }
  std::size_t size() const { return pages_.size(); }

  std::uint64_t bytes(Page state) const {
    return static_cast<std::uint64_t>(std::count(pages_.begin(), pages_.end(), state)) * page_bytes;
  }
  // The parts of an extent in one state.
  std::vector<Extent> parts(const Extent& extent, Page state) const {
    std::vector<Extent> found;
    for (std::size_t page = first_of(extent); page < end_of(extent); ++page) {
      if (pages_[page] != state) continue;
      if (!found.empty() && found.back().offset + found.back().bytes == offset_of(page))
        found.back().bytes += page_bytes;
      else
        found.push_back(pages(page, 1));
    }
    return found;
  }
  std::vector<Extent> runs(Page state) const { return parts(pages(0, pages_.size()), state); }

  // The shortest run into which so many bytes fit; 0: none.
  std::uint64_t shortest_fit(Page state, std::uint64_t bytes, std::uint64_t alignment) const {
    std::uint64_t shortest = 0;
    for (const Extent& run : runs(state)) {
      const std::uint64_t start = (run.offset + alignment - 1) / alignment * alignment;
      if (start + bytes > run.offset + run.bytes) continue;
      if (shortest == 0 || run.bytes < shortest) shortest = run.bytes;
    }
    return shortest;
  }
  std::uint64_t run_around(const Extent& extent, Page state) const {
    for (const Extent& run : runs(state))
      if (run.offset <= extent.offset && extent.offset < run.offset + run.bytes) return run.bytes;
    return 0;
  }

 private:
  std::vector<Page> pages_;
};

// A space and its model, with all that is under way between them.
struct Bench {
  Bench(std::size_t addresses, std::size_t capacity)
      : space(offset_of(addresses), offset_of(capacity)), model(addresses) {}

  void take_warm(std::uint64_t bytes, std::uint64_t alignment) {
    const std::uint64_t shortest = model.shortest_fit(Page::warm, bytes, alignment);
    const auto taken = space.take_warm(bytes, alignment);
    REQUIRE(taken.has_value() == (shortest != 0));
    if (!taken) return;
    REQUIRE(taken->bytes == bytes);
    REQUIRE(taken->offset % alignment == 0);
    REQUIRE(model.run_around(*taken, Page::warm) == shortest);
    model.move(*taken, Page::warm, Page::used);
    used.push_back(*taken);
  }

  void plan(std::uint64_t bytes, std::uint64_t alignment) {
    const std::uint64_t ungrown = space.ungrown();
    const bool enough = bytes <= ungrown + space.warm();
    const bool placeable = model.shortest_fit(Page::cold, bytes, alignment) != 0;
    const auto growth = space.plan(bytes, alignment);
    if (!enough) REQUIRE_FALSE(growth);
    if (enough && placeable) REQUIRE(growth);
    if (!growth) return;
    REQUIRE(growth->extent.bytes == bytes);
    REQUIRE(growth->extent.offset % alignment == 0);
    // Exactly what has no memory is grown, and no more is taken from elsewhere than is missing.
    REQUIRE(growth->work.grow == model.parts(growth->extent, Page::cold));
    const std::uint64_t to_grow = bytes_of(growth->work.grow);
    REQUIRE(bytes_of(growth->work.punch) == (to_grow > ungrown ? to_grow - ungrown : 0));
    for (const Extent& part : growth->work.grow) model.move(part, Page::cold, Page::growing);
    for (const Extent& part : model.parts(growth->extent, Page::warm))
      model.move(part, Page::warm, Page::growing);
    // Until it is settled, a page that is punched is nobody's; it must not be given to anybody.
    for (const Extent& part : growth->work.punch) model.move(part, Page::warm, Page::growing);
    punched_unsettled += bytes_of(growth->work.punch);
    plans.push_back(*growth);
  }

  void settle(std::size_t which, bool succeeded) {
    const Growth growth = plans[which];
    plans.erase(plans.begin() + static_cast<std::ptrdiff_t>(which));
    space.settle(growth, succeeded);
    for (const Extent& part : growth.work.punch) model.move(part, Page::growing, Page::cold);
    punched_unsettled -= bytes_of(growth.work.punch);
    if (succeeded) {
      model.move(growth.extent, Page::growing, Page::used);
      used.push_back(growth.extent);
    } else {
      model.move(growth.extent, Page::growing, Page::warm);
      for (const Extent& part : growth.work.grow) model.move(part, Page::warm, Page::cold);
    }
  }

  void plan_reserve(std::uint64_t bytes) {
    const std::uint64_t ungrown = space.ungrown();
    const std::uint64_t possible = std::min(shm::page_align(bytes), ungrown);
    const auto extent = space.plan_reserve(bytes);
    if (possible == 0) REQUIRE_FALSE(extent);
    if (possible != 0 && model.shortest_fit(Page::cold, possible, page_bytes) != 0) REQUIRE(extent);
    if (!extent) return;
    REQUIRE(extent->bytes == possible);
    model.move(*extent, Page::cold, Page::growing);
    reserves.push_back(*extent);
  }

  void settle_reserve(std::size_t which, bool succeeded) {
    const Extent extent = reserves[which];
    reserves.erase(reserves.begin() + static_cast<std::ptrdiff_t>(which));
    space.settle_reserve(extent, succeeded);
    model.move(extent, Page::growing, succeeded ? Page::warm : Page::cold);
  }

  void release(std::size_t which) {
    const Extent extent = used[which];
    used.erase(used.begin() + static_cast<std::ptrdiff_t>(which));
    space.release(extent);
    model.move(extent, Page::used, Page::warm);
  }

  void trim(std::uint64_t budget) {
    const std::uint64_t warm = space.warm();
    const std::vector<Extent> trimmed = space.trim(budget);
    REQUIRE(bytes_of(trimmed) == (warm > budget ? warm - budget : 0));
    for (const Extent& extent : trimmed) {
      model.move(extent, Page::warm, Page::growing);
      trims.push_back(extent);
    }
  }

  void punched(std::size_t which) {
    const Extent extent = trims[which];
    trims.erase(trims.begin() + static_cast<std::ptrdiff_t>(which));
    space.punched(extent);
    model.move(extent, Page::growing, Page::cold);
  }

  void check_accounts() {
    REQUIRE(space.used() + space.warm() + space.growing() + space.ungrown() == space.capacity());
    REQUIRE(space.used() == model.bytes(Page::used));
    REQUIRE(space.warm() == model.bytes(Page::warm));
    REQUIRE(space.growing() == model.bytes(Page::growing) - punched_unsettled);
  }

  void check_runs() {
    REQUIRE(space.cold_runs() == model.runs(Page::cold));
    const std::vector<Extent> warm = model.runs(Page::warm);
    REQUIRE(space.warm_runs() == warm.size());
    std::uint64_t largest = 0;
    for (const Extent& run : warm) largest = std::max(largest, run.bytes);
    REQUIRE(space.largest_warm() == largest);
  }

  ArenaSpace space;
  Model model;
  std::vector<Extent> used;
  std::vector<Growth> plans;
  std::vector<Extent> reserves;
  std::vector<Extent> trims;
  std::uint64_t punched_unsettled = 0;
};

void run_randomly(test::Random& random, std::size_t addresses, std::size_t capacity, int steps) {
  Bench bench(addresses, capacity);
  const auto some_size = [&] {
    const std::size_t largest = random.chance(0.1) ? capacity + 2 : capacity / 6;
    return offset_of(1 + random.below(static_cast<std::uint32_t>(largest)));
  };
  const auto some_alignment = [&] {
    return random.chance(0.7) ? page_bytes : page_bytes << random.below(5);
  };
  const auto one_of = [&](const auto& things) {
    return random.below(static_cast<std::uint32_t>(things.size()));
  };
  std::map<std::string, int> done;
  for (int step = 0; step < steps; ++step) {
    switch (random.below(16)) {
      case 0:
      case 1:
      case 2:
        bench.take_warm(some_size(), some_alignment());
        break;
      case 3:
      case 4:
      case 5:
        bench.plan(some_size(), some_alignment());
        break;
      case 6:
      case 7:
      case 8:
        if (!bench.plans.empty()) bench.settle(one_of(bench.plans), random.chance(0.8));
        break;
      case 9:
        bench.plan_reserve(some_size() - random.below(page_bytes));
        break;
      case 10:
        if (!bench.reserves.empty())
          bench.settle_reserve(one_of(bench.reserves), random.chance(0.8));
        break;
      case 11:
      case 12:
      case 13:
        if (!bench.used.empty()) bench.release(one_of(bench.used));
        break;
      case 14:
        if (random.chance(0.3))
          bench.trim(offset_of(random.below(static_cast<std::uint32_t>(capacity))));
        break;
      default:
        if (!bench.trims.empty()) bench.punched(one_of(bench.trims));
    }
    ++done[bench.used.size() > 5 ? "many in use" : "few in use"];
    bench.check_accounts();
    if (step % 8 == 0) bench.check_runs();
  }
  CHECK(done["many in use"] > steps / 10);
  // Whatever happened, everything can be given back, and then all addresses are one cold run.
  while (!bench.plans.empty()) bench.settle(0, true);
  while (!bench.reserves.empty()) bench.settle_reserve(0, false);
  while (!bench.used.empty()) bench.release(0);
  bench.trim(0);
  while (!bench.trims.empty()) bench.punched(0);
  bench.check_accounts();
  CHECK(bench.space.ungrown() == bench.space.capacity());
  CHECK(bench.space.cold_runs() == std::vector<Extent>{pages(0, addresses)});
}

TEST_SUITE("arena_space") {
  TEST_CASE("the accounts add up after each step, and no page is anybody's twice: much room") {
    test::Random random("arena space");
    run_randomly(random, 1024, 100, 100'000);
  }

  TEST_CASE("the accounts add up after each step, and no page is anybody's twice: little room") {
    test::Random random("crowded arena space");
    run_randomly(random, 140, 100, 50'000);
  }

  TEST_CASE("a fresh space is cold, and all its capacity is yet to be grown") {
    const ArenaSpace space(offset_of(100) + 17, offset_of(10) + 4095);
    CHECK(space.capacity() == offset_of(10));
    CHECK(space.ungrown() == offset_of(10));
    CHECK(space.cold_runs() == std::vector<Extent>{pages(0, 100)});
    CHECK(space.largest_warm() == 0);
  }

  TEST_CASE("an extent next to warm memory is grown by what is missing only") {
    Bench bench(100, 20);
    bench.plan(offset_of(8), page_bytes);
    bench.settle(0, true);
    bench.release(0);
    const auto growth = bench.space.plan(offset_of(11), page_bytes);
    REQUIRE(growth);
    CHECK(bytes_of(growth->work.grow) == offset_of(3));
    CHECK(growth->work.punch.empty());
  }

  TEST_CASE("memory is taken away from elsewhere when the capacity demands it") {
    Bench bench(100, 20);
    for (int i = 0; i < 2; ++i) {
      bench.plan(offset_of(10), page_bytes);
      bench.settle(0, true);
    }
    const Extent first = bench.used.front();
    bench.release(0);
    // Nine of these ten pages are warm elsewhere; a large alignment makes them useless in place.
    const auto growth = bench.space.plan(offset_of(10), page_bytes * 32);
    REQUIRE(growth);
    const std::vector<Extent> punched = growth->work.punch;
    CHECK(bytes_of(punched) == bytes_of(growth->work.grow));
    for (const Extent& part : punched) {
      CHECK(part.offset >= first.offset);
      CHECK(part.offset + part.bytes <= first.offset + first.bytes);
    }
    bench.space.settle(*growth, true);
    CHECK(bench.space.used() == offset_of(20));
    CHECK(bench.space.warm() + bench.space.growing() + bench.space.ungrown() == 0);
  }

  TEST_CASE("what failed to grow is as it was, but for what was punched") {
    Bench bench(100, 20);
    bench.plan(offset_of(12), page_bytes);
    bench.settle(0, true);
    bench.release(0);
    // Warm: 0..11. The new extent reaches over its end; nothing need be punched for it.
    bench.plan(offset_of(18), page_bytes);
    CHECK(bench.space.growing() == offset_of(18));
    bench.settle(0, false);
    CHECK(bench.space.warm() == offset_of(12));
    CHECK(bench.space.growing() == 0);
    CHECK(bench.space.ungrown() == offset_of(8));
    bench.check_runs();
  }

  TEST_CASE("what is planned and not yet settled can be planned by nobody else") {
    ArenaSpace space(offset_of(100), offset_of(20));
    REQUIRE(space.plan(offset_of(20), page_bytes));
    CHECK_FALSE(space.plan(page_bytes, page_bytes));
    CHECK_FALSE(space.plan_reserve(page_bytes));
    CHECK_FALSE(space.take_warm(page_bytes, page_bytes));
  }

  TEST_CASE("trimming takes the smallest runs first, and they count until they are punched") {
    ArenaSpace space(offset_of(100), offset_of(40));
    for (const std::size_t first : {0U, 10U, 30U})
      REQUIRE(space.adopt_used(pages(first, first == 0 ? 4 : first == 10 ? 9 : 2)));
    for (const std::size_t first : {0U, 10U, 30U})
      space.release(pages(first, first == 0 ? 4 : first == 10 ? 9 : 2));
    CHECK(space.warm() == offset_of(15));
    const std::vector<Extent> trimmed = space.trim(offset_of(11));
    CHECK(trimmed == std::vector<Extent>{pages(30, 2), pages(0, 2)});
    CHECK(space.warm() == offset_of(11));
    CHECK(space.growing() == offset_of(4));
    CHECK(space.ungrown() == offset_of(25));
    for (const Extent& extent : trimmed) space.punched(extent);
    CHECK(space.ungrown() == offset_of(29));
    CHECK(space.trim(offset_of(11)).empty());
  }

  TEST_CASE("after a restart, each page is what was found on it") {
    test::Random random("adoption");
    for (int round = 0; round < 300; ++round) {
      const std::size_t addresses = 200;
      const std::size_t capacity = 40 + random.below(160);
      ArenaSpace space(offset_of(addresses), offset_of(capacity));
      Model model(addresses);
      for (int i = 0; i < 40; ++i) {
        const Extent found = pages(random.below(addresses), 1 + random.below(12));
        bool free = end_of(found) <= addresses;
        for (std::size_t page = first_of(found); free && page < end_of(found); ++page)
          free = model.at(page) == Page::cold;
        REQUIRE(space.adopt_used(found) == free);
        if (free) model.move(found, Page::cold, Page::used);
      }
      REQUIRE(space.used() == model.bytes(Page::used));
      for (std::size_t at = 0; at < addresses; at += 1 + random.below(20)) {
        const Extent touched =
            pages(at, std::min<std::size_t>(1 + random.below(15), addresses - at));
        const std::uint64_t before = space.ungrown();
        const std::vector<Extent> cold = model.parts(touched, Page::cold);
        space.adopt_warm(touched);
        std::uint64_t left = before;
        for (const Extent& part : cold) {
          const Extent warm{part.offset, std::min(part.bytes, left)};
          left -= warm.bytes;
          if (warm.bytes > 0) model.move(warm, Page::cold, Page::warm);
        }
        REQUIRE(space.warm() == model.bytes(Page::warm));
      }
      REQUIRE(space.cold_runs() == model.runs(Page::cold));
      // A smaller capacity than what is in use leaves nothing to grow and nothing warm.
      if (space.used() <= space.capacity())
        REQUIRE(space.used() + space.warm() + space.ungrown() == space.capacity());
      else
        REQUIRE(space.warm() + space.ungrown() == 0);
    }
  }

  TEST_CASE("an extent that cannot be is adopted by nobody") {
    ArenaSpace space(offset_of(100), offset_of(50));
    CHECK_FALSE(space.adopt_used(pages(99, 2)));
    CHECK_FALSE(space.adopt_used(pages(100, 1)));
    CHECK_FALSE(space.adopt_used({offset_of(4), ~std::uint64_t{0} & ~(page_bytes - 1)}));
    CHECK_FALSE(space.adopt_used({(std::uint64_t{1} << 48U) - page_bytes, page_bytes}));
    CHECK(space.adopt_used(pages(98, 2)));
    CHECK_FALSE(space.adopt_used(pages(97, 2)));
    CHECK(space.used() == offset_of(2));
  }
}

}  // namespace
}  // namespace forebay::daemon
