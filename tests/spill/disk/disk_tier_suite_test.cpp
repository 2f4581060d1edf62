// SPDX-License-Identifier: Apache-2.0
#include <filesystem>

#include "spill/disk/disk_tier.h"
#include "tests/spill/support/tier_suite.h"
#include "tests/support/temp_dir.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::test;

namespace {
template <DirectIo direct_io>
class DiskFixture {
 public:
  explicit DiskFixture(std::uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}
  std::unique_ptr<Tier> open() {
    auto tier = DiskTier::open({.directory = directory_ / "spill",
                                .capacity_bytes = capacity_bytes_,
                                .direct_io = direct_io,
                                .report = {},
                                .io = {}});
    INFO((tier ? "" : tier.error().message()));
    REQUIRE(tier.has_value());
    return std::move(*tier);
  }
  static constexpr bool keeps_items = true;
  void lose_items() { std::filesystem::remove_all(directory_ / "spill"); }

 private:
  TempDir directory_;
  std::uint64_t capacity_bytes_;
};
using Direct = DiskFixture<DirectIo::automatic>;
using Buffered = DiskFixture<DirectIo::off>;
}  // namespace

TEST_SUITE("disk tier") {
  TEST_CASE("a disk tier: bytes") { tier_suite::bytes<Direct>(); }
  TEST_CASE("a disk tier: names") { tier_suite::names<Direct>(); }
  TEST_CASE("a disk tier: refusals") { tier_suite::refusals<Direct>(); }
  TEST_CASE("a disk tier: crowds") { tier_suite::crowds<Direct>(); }
  TEST_CASE("a disk tier: restarts") { tier_suite::restarts<Direct>(); }
  TEST_CASE("a disk tier through the page cache: bytes") { tier_suite::bytes<Buffered>(); }
  TEST_CASE("a disk tier through the page cache: crowds") { tier_suite::crowds<Buffered>(); }
  TEST_CASE("a disk tier through the page cache: restarts") { tier_suite::restarts<Buffered>(); }
}
