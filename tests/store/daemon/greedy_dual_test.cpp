// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/greedy_dual.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "tests/support/random.h"

namespace forebay::daemon {
namespace {

constexpr std::uint64_t mebibyte = 1 << 20U;

std::vector<EntryNumber> order_of(const GreedyDual& policy) {
  std::vector<EntryNumber> order;
  for (EntryNumber entry = policy.coldest(); entry != no_entry; entry = policy.next_warmer(entry))
    order.push_back(entry);
  return order;
}

TEST_SUITE("greedy dual") {
  TEST_CASE("among segments of one size the least recently used goes first") {
    GreedyDual policy;
    for (const EntryNumber entry : {5U, 3U, 9U}) policy.add(entry, mebibyte);
    policy.touch(5);
    CHECK(order_of(policy) == std::vector<EntryNumber>{3, 9, 5});
    CHECK(policy.count() == 3);
    CHECK(policy.coldest() == 3);
  }

  TEST_CASE("a small segment costs more time for each of its bytes, and stays longer") {
    GreedyDual policy;
    policy.add(1, 4'096);
    policy.add(2, 64 * mebibyte);
    policy.add(3, 64 * 1'024);
    CHECK(order_of(policy) == std::vector<EntryNumber>{2, 3, 1});
  }

  TEST_CASE("among segments whose transfer takes longer than the latency the last use decides") {
    GreedyDual policy;
    policy.add(1, mebibyte);
    policy.add(2, 64 * mebibyte);
    policy.add(3, 512 * 1'024);
    CHECK(order_of(policy) == std::vector<EntryNumber>{1, 2, 3});
  }

  TEST_CASE("what is not used sinks while others go") {
    GreedyDual policy;
    policy.add(1, 64 * 1'024);
    for (EntryNumber entry = 2; entry < 100; ++entry) {
      policy.add(entry, mebibyte);
      if (policy.coldest() == 1) break;
      policy.evict(policy.coldest());
    }
    CHECK(policy.coldest() == 1);
  }

  TEST_CASE("what is removed for a reason of its own lets nobody sink") {
    GreedyDual policy;
    policy.add(1, 64 * 1'024);
    for (EntryNumber entry = 2; entry < 100; ++entry) {
      policy.add(entry, mebibyte);
      REQUIRE(policy.coldest() == entry);
      policy.remove(entry);
    }
    CHECK(policy.count() == 1);
  }

  TEST_CASE("who was used for the last time goes first, until he is used after all") {
    GreedyDual policy;
    for (const EntryNumber entry : {1U, 2U, 3U}) policy.add(entry, mebibyte);
    policy.hint(3, GreedyDual::LastUse{});
    CHECK(policy.is_dead(3));
    CHECK(policy.coldest() == 3);
    policy.touch(3);
    CHECK(!policy.is_dead(3));
    CHECK(order_of(policy) == std::vector<EntryNumber>{1, 2, 3});
  }

  TEST_CASE("how often counts only where last uses are told") {
    for (const bool told : {false, true}) {
      GreedyDual policy;
      for (const EntryNumber entry : {1U, 2U, 3U}) policy.add(entry, mebibyte);
      if (told) {
        policy.add(4, mebibyte);
        policy.hint(4, GreedyDual::LastUse{});
        policy.evict(4);
      }
      for (int i = 0; i < 5; ++i) policy.touch(1);
      policy.touch(2);
      policy.touch(3);
      CHECK(policy.coldest() == (told ? 2 : 1));
    }
  }

  TEST_CASE("a count fades") {
    GreedyDual policy;
    policy.add(9, mebibyte);
    policy.hint(9, GreedyDual::LastUse{});
    for (const EntryNumber entry : {1U, 2U}) policy.add(entry, mebibyte);
    for (int i = 0; i < 10; ++i) policy.touch(1);
    for (int i = 0; i < 1'000; ++i) policy.touch(2);
    policy.touch(1);
    policy.touch(2);
    policy.evict(9);
    CHECK(policy.coldest() == 1);
  }

  TEST_CASE("who is said to be needed sooner stays longer") {
    GreedyDual policy;
    for (const EntryNumber entry : {1U, 2U, 3U, 4U}) policy.add(entry, mebibyte);
    policy.hint(1, GreedyDual::NextUse{1});
    policy.hint(4, GreedyDual::NextUse{1'000'000});
    policy.hint(2, GreedyDual::NextUse{0});
    CHECK(policy.coldest() == 4);
    policy.evict(4);
    CHECK(policy.coldest() == 3);
    // Said of what comes for ever.
    policy.hint(3, GreedyDual::NextUse{~std::uint64_t{0}});
    CHECK(policy.coldest() == 3);
  }

  TEST_CASE("each step of priority doubles the worth") {
    GreedyDual policy;
    for (const EntryNumber entry : {1U, 2U, 3U}) policy.add(entry, mebibyte);
    policy.hint(1, GreedyDual::Priority{1});
    policy.hint(3, GreedyDual::Priority{-1});
    CHECK(order_of(policy) == std::vector<EntryNumber>{3, 2, 1});
    policy.touch(3);  // it stays what it is
    CHECK(order_of(policy) == std::vector<EntryNumber>{3, 2, 1});
    policy.hint(1, GreedyDual::Priority{1'000'000});
    policy.hint(3, GreedyDual::Priority{-1'000'000});
    CHECK(order_of(policy) == std::vector<EntryNumber>{3, 2, 1});
  }

  TEST_CASE("a use of little weight lifts a little") {
    GreedyDual policy;
    policy.add(1, mebibyte);
    for (EntryNumber entry = 10; entry < 20; ++entry) {
      policy.add(entry, 512 * 1'024);
      policy.evict(entry);  // lifts the floor
    }
    policy.add(2, mebibyte);
    policy.touch(1, 0);
    CHECK(order_of(policy) == std::vector<EntryNumber>{1, 2});
    policy.touch(1, 0.5);
    CHECK(order_of(policy) == std::vector<EntryNumber>{1, 2});
    policy.touch(1, 1);
    CHECK(order_of(policy) == std::vector<EntryNumber>{2, 1});
  }

  TEST_CASE("what is not there is passed over; an empty segment is one of a byte") {
    GreedyDual policy;
    policy.remove(7);
    policy.evict(7);
    policy.touch(7);
    policy.hint(7, GreedyDual::LastUse{});
    policy.hint(7, GreedyDual::NextUse{1});
    policy.hint(7, GreedyDual::Priority{1});
    CHECK(policy.coldest() == no_entry);
    CHECK(!policy.is_dead(7));
    policy.add(1, 0);
    policy.add(2, mebibyte);
    CHECK(order_of(policy) == std::vector<EntryNumber>{2, 1});
  }

  TEST_CASE("random uses agree with the definition, computed anew each time") {
    test::Random random("greedy dual");
    GreedyDual policy;
    struct Modelled {
      double worth;
      std::uint64_t when;
      std::uint64_t size;
    };
    std::map<EntryNumber, Modelled> model;
    double floor = 0;
    std::uint64_t when = 0;
    const auto credit = [](std::uint64_t size) {
      const double transfer = static_cast<double>(size) / 10;
      return (transfer + (transfer > 30'000 ? 0 : 30'000)) / static_cast<double>(size);
    };
    for (int step = 0; step < 20'000; ++step) {
      const EntryNumber entry = 1 + random.below(60);
      const auto place = model.find(entry);
      switch (random.below(4)) {
        case 0: {
          const std::uint64_t size = random.between(1, mebibyte);
          policy.add(entry, size);
          model[entry] = {floor + credit(size), ++when, size};
          break;
        }
        case 1:
          policy.remove(entry);
          model.erase(entry);
          break;
        case 2:
          if (place != model.end()) floor = std::max(floor, place->second.worth);
          policy.evict(entry);
          model.erase(entry);
          break;
        default:
          policy.touch(entry);
          if (place != model.end())
            place->second = {floor + credit(place->second.size), ++when, place->second.size};
      }
      std::vector<std::pair<std::pair<double, std::uint64_t>, EntryNumber>> wanted;
      for (const auto& [number, it] : model) wanted.push_back({{it.worth, it.when}, number});
      std::sort(wanted.begin(), wanted.end());
      const auto order = order_of(policy);
      REQUIRE(order.size() == wanted.size());
      for (std::size_t i = 0; i < order.size(); ++i) {
        const double worth = model.at(order[i]).worth;
        // Sums may differ in their last bit; the order of what is not equal may not.
        REQUIRE(worth == doctest::Approx(wanted[i].first.first).epsilon(1e-12));
      }
    }
  }
}

}  // namespace
}  // namespace forebay::daemon
