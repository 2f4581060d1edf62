// SPDX-License-Identifier: Apache-2.0
// The fake keeps the contract as the real ones do: or tests on top of it would prove nothing.
#include "tests/spill/support/fake_tier.h"
#include "tests/spill/support/tier_suite.h"

using namespace forebay;
using namespace forebay::test;

namespace {
class FakeFixture {
 public:
  explicit FakeFixture(std::uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}
  std::unique_ptr<Tier> open() {
    return std::make_unique<FakeTier>(FakeTier::Options{.capacity_bytes = capacity_bytes_});
  }
  static constexpr bool keeps_items = false;
  void lose_items() {}

 private:
  std::uint64_t capacity_bytes_;
};
}  // namespace

TEST_SUITE("fake tier") {
  TEST_CASE("a fake tier: bytes") { tier_suite::bytes<FakeFixture>(); }
  TEST_CASE("a fake tier: names") { tier_suite::names<FakeFixture>(); }
  TEST_CASE("a fake tier: refusals") { tier_suite::refusals<FakeFixture>(); }
  TEST_CASE("a fake tier: crowds") { tier_suite::crowds<FakeFixture>(); }
  TEST_CASE("a fake tier: restarts") { tier_suite::restarts<FakeFixture>(); }
}
