// SPDX-License-Identifier: Apache-2.0
#include "tests/spill/support/fake_tier.h"

#include <doctest/doctest.h>

#include "tests/spill/support/tier_calls.h"

using namespace forebay;
using namespace forebay::test;

namespace {
const std::vector<std::byte> some(1000, std::byte{7});
TierKey key(std::uint64_t number) { return {.store = {1}, .number = number}; }
}  // namespace

TEST_SUITE("fake tier") {
  TEST_CASE("it fails as many operations as it was told, of the kind it was told") {
    FakeTier tier;
    tier.fail_next(2, Errc::denied, {TierVerb::put});
    CHECK(list_now(tier, key(1).store));
    CHECK(put_now(tier, put_of(key(1), some)).error().is(Errc::denied));
    CHECK(put_now(tier, put_of(key(1), some)).error().is(Errc::denied));
    CHECK(tier.items() == 0);
    CHECK(put_now(tier, put_of(key(1), some)));
    CHECK(tier.holds(key(1)));
    CHECK(tier.count(TierVerb::put) == 3);
    CHECK(tier.count(TierVerb::list) == 1);
  }

  TEST_CASE("stalled, it answers at the deadline or when it is released") {
    FakeTier tier;
    tier.stall({TierVerb::put});
    Answer<TierPlace> late, patient;
    tier.put(put_of(key(1), some), in(std::chrono::milliseconds(20)), late.done());
    tier.put(put_of(key(2), some), soon(), patient.done());
    CHECK(late.await().error().is(Errc::timed_out));
    CHECK(list_now(tier, key(1).store).value().empty());
    CHECK(patient.times() == 0);
    tier.release();
    CHECK(patient.await());
    CHECK(!tier.holds(key(1)));
  }

  TEST_CASE("what it brings back can be wrong once, or for good") {
    FakeTier tier;
    const TierPlace place = put_now(tier, put_of(key(1), some)).value();
    tier.corrupt_next(1);
    CHECK(get_now(tier, key(1), place).value() != some);
    CHECK(get_now(tier, key(1), place).value() == some);
    CHECK(tier.rot(key(1), 999));
    CHECK(get_now(tier, key(1), place).value() != some);
    CHECK(tier.lose(key(1)));
    CHECK(get_now(tier, key(1), place).error().is(Errc::lost));
    CHECK(tier.status().used_bytes == 0);
  }

  TEST_CASE("it loses its peer and gets it back, with what it held or without") {
    FakeTier tier;
    const TierPlace place = put_now(tier, put_of(key(1), some)).value();
    tier.stall();
    Answer<void> open;
    std::vector<std::byte> into(1000);
    tier.get({.key = key(1), .place = place, .into = into}, soon(), open.done());
    tier.go_down();
    CHECK(open.await().error().is(Errc::tier_down));
    tier.release();
    CHECK(get_now(tier, key(1), place).error().is(Errc::tier_down));
    CHECK(!tier.status().up);
    CHECK(!tier.status().why_down.empty());
    tier.come_back();
    CHECK(tier.status().up);
    CHECK(get_now(tier, key(1), place).value() == some);
    tier.go_down();
    tier.come_back(FakeTier::Incarnation::other);
    CHECK(tier.status().incarnation != place.incarnation);
    CHECK(get_now(tier, key(1), place).error().is(Errc::lost));
    CHECK(put_now(tier, put_of(key(1), some)));
    tier.go_down(FakeTier::Items::lost);
    tier.come_back();
    CHECK(tier.items() == 0);
  }
}
