// SPDX-License-Identifier: Apache-2.0
// What every tier must do, by a pool in a process of its own. The suite's stores
// are tenants of their own here, each with its own session.
#include "tests/spill/support/pool_process.h"
#include "tests/spill/support/tier_suite.h"

using namespace forebay;
using namespace forebay::test;

namespace {

class SeveralStores final : public Tier {
 public:
  explicit SeveralStores(const PoolProcess& pool) {
    for (std::uint8_t store = 1; store <= 4; ++store) tiers_.push_back(pool.tier(store));
  }
  void put(TierPut put, TierDeadline deadline, PutDone done) override {
    Tier& tier = of(put.key.store);
    tier.put(std::move(put), deadline, std::move(done));
  }
  void get(TierGet get, TierDeadline deadline, Done done) override {
    of(get.key.store).get(std::move(get), deadline, std::move(done));
  }
  void remove(TierKey key, TierPlace place, TierDeadline deadline, Done done) override {
    of(key.store).remove(key, place, deadline, std::move(done));
  }
  void list(std::array<std::uint8_t, 16> store, TierDeadline deadline, ListDone done) override {
    of(store).list(store, deadline, std::move(done));
  }
  void find(std::string name, std::uint64_t version, TierDeadline deadline,
            FindDone done) override {
    tiers_[0]->find(std::move(name), version, deadline, std::move(done));
  }
  TierStatus status() const override { return tiers_[0]->status(); }

 private:
  Tier& of(const std::array<std::uint8_t, 16>& store) { return *tiers_.at(store[0] - 1U); }
  std::vector<std::unique_ptr<Tier>> tiers_;
};

class PoolOver {
 public:
  PoolOver(std::uint64_t capacity_bytes, const std::string& transport)
      : pool_({.capacity = std::to_string(capacity_bytes),
               .arguments = {"--slab", "16MiB", "--log-level", "warning", "--transport",
                             transport}}) {}
  std::unique_ptr<Tier> open() { return std::make_unique<SeveralStores>(pool_); }
  static constexpr bool keeps_items = true;
  void lose_items() {
    pool_.kill();
    pool_.forget();
    pool_.start();
  }

 private:
  PoolProcess pool_;
};

struct PlainPool : PoolOver {
  explicit PlainPool(std::uint64_t capacity_bytes) : PoolOver(capacity_bytes, "plain tcp") {}
};
// By the best of libfabric's providers that works here.
struct FabricPool : PoolOver {
  explicit FabricPool(std::uint64_t capacity_bytes) : PoolOver(capacity_bytes, "auto") {}
  // Nothing but the end of the endpoint makes sure that its bytes do not come later.
  static constexpr bool late_takes_others_along = true;
};

}  // namespace

TEST_SUITE("pool tier") {
  TEST_CASE("a pool over plain TCP: bytes") { tier_suite::bytes<PlainPool>(); }
  TEST_CASE("a pool over plain TCP: names") { tier_suite::names<PlainPool>(); }
  TEST_CASE("a pool over plain TCP: refusals") { tier_suite::refusals<PlainPool>(); }
  TEST_CASE("a pool over plain TCP: crowds") { tier_suite::crowds<PlainPool>(); }
  TEST_CASE("a pool over plain TCP: restarts") { tier_suite::restarts<PlainPool>(); }
  TEST_CASE("a pool over libfabric: bytes") { tier_suite::bytes<FabricPool>(); }
  TEST_CASE("a pool over libfabric: names") { tier_suite::names<FabricPool>(); }
  TEST_CASE("a pool over libfabric: refusals") { tier_suite::refusals<FabricPool>(); }
  TEST_CASE("a pool over libfabric: crowds") { tier_suite::crowds<FabricPool>(); }
  TEST_CASE("a pool over libfabric: restarts") { tier_suite::restarts<FabricPool>(); }
}
