// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/placement.h"

#include <doctest/doctest.h>

#include <array>

namespace forebay::spill {
namespace {

TierRoom room(TierKind kind, bool up, std::uint64_t capacity, std::uint64_t used,
              double weight = 1) {
  return {kind, weight,
          {.name = "it", .up = up, .why_down = up ? "" : "its cable is out", .incarnation = 1,
           .capacity_bytes = capacity, .used_bytes = used, .transport = ""}};
}

TEST_SUITE("placement") {
  TEST_CASE("pools come before disks; who is down or full is not asked") {
    std::mt19937_64 random(1);
    const std::vector<TierRoom> tiers{
        room(TierKind::disk, true, 100, 0), room(TierKind::pool, false, 100, 0),
        room(TierKind::pool, true, 100, 95), room(TierKind::pool, true, 100, 0)};
    const Candidates found = candidates_for(tiers, 10, false, random);
    CHECK(found.pools == std::vector<std::size_t>{3});
    CHECK(found.disks == std::vector<std::size_t>{0});
    CHECK(candidates_for(tiers, 10, true, random).disks.empty());
    CHECK(candidates_for(tiers, 5, false, random).pools.size() == 2);
  }

  TEST_CASE("a pool that does not know its size is asked") {
    std::mt19937_64 random(1);
    CHECK(candidates_for({room(TierKind::pool, true, 0, 0)}, 10, false, random).pools.size() == 1);
  }

  TEST_CASE("free bytes and weight decide how often a pool comes first") {
    std::mt19937_64 random(4);
    const std::vector<TierRoom> tiers{room(TierKind::pool, true, 4'000, 3'000),
                                      room(TierKind::pool, true, 4'000, 1'000),
                                      room(TierKind::pool, true, 4'000, 3'000, 2)};
    std::array<int, 3> first{};
    for (int i = 0; i < 6'000; ++i) {
      const auto pools = candidates_for(tiers, 10, false, random).pools;
      REQUIRE(pools.size() == 3);
      ++first[pools.front()];
    }
    // 1 : 3 : 2.
    CHECK(first[0] == doctest::Approx(1'000).epsilon(0.15));
    CHECK(first[1] == doctest::Approx(3'000).epsilon(0.15));
    CHECK(first[2] == doctest::Approx(2'000).epsilon(0.15));
  }

  TEST_CASE("when none can be asked, the error says whether room or a tier is wanting") {
    const auto full = room(TierKind::pool, true, 100, 100);
    const auto down = room(TierKind::disk, false, 100, 0);
    CHECK(no_tier_for({full, down}, 10, false).is(Errc::store_full));
    const Error both = no_tier_for({full, down}, 10, false);
    CHECK(both.detail.find("its cable is out") != std::string::npos);
    CHECK(no_tier_for({down}, 10, false).is(Errc::tier_down));
    CHECK(no_tier_for({down}, 10, true).detail.find("no pool is configured") != std::string::npos);
  }
}

}  // namespace
}  // namespace forebay::spill
