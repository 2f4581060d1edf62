// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/eviction.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "tests/support/random.h"

namespace forebay::daemon {
namespace {

TEST_SUITE("eviction") {
  TEST_CASE("what was sealed first goes first") {
    Eviction eviction;
    for (const EntryNumber entry : {5U, 3U, 9U}) eviction.add(entry);
    CHECK(eviction.count() == 3);
    CHECK(eviction.coldest() == 5);
    eviction.remove(5);
    CHECK(eviction.coldest() == 3);
    eviction.remove(3);
    eviction.remove(9);
    CHECK(eviction.coldest() == no_entry);
    CHECK(eviction.count() == 0);
  }

  TEST_CASE("what was read since goes last") {
    Eviction eviction;
    for (const EntryNumber entry : {1U, 2U, 3U}) eviction.add(entry);
    eviction.touch(1);
    eviction.touch(2);
    CHECK(eviction.coldest() == 3);
    eviction.touch(3);
    CHECK(eviction.coldest() == 1);
  }

  TEST_CASE("who passes over the coldest meets all others in their order") {
    Eviction eviction;
    for (const EntryNumber entry : {4U, 2U, 3U}) eviction.add(entry);
    CHECK(eviction.next_warmer(4) == 2);
    CHECK(eviction.next_warmer(2) == 3);
    CHECK(eviction.next_warmer(3) == no_entry);
  }

  TEST_CASE("to touch or remove what is not there does nothing") {
    Eviction eviction;
    eviction.touch(7);
    eviction.remove(7);
    CHECK(eviction.count() == 0);
    eviction.add(1);
    eviction.touch(7);
    CHECK(eviction.coldest() == 1);
    CHECK(eviction.count() == 1);
  }

  TEST_CASE("random uses agree with a plain list, coldest first") {
    test::Random random("eviction");
    Eviction eviction;
    std::vector<EntryNumber> model;
    for (int step = 0; step < 20'000; ++step) {
      const EntryNumber entry = 1 + random.below(50);
      const auto place = std::find(model.begin(), model.end(), entry);
      switch (random.below(3)) {
        case 0:
          if (place != model.end()) break;
          eviction.add(entry);
          model.push_back(entry);
          break;
        case 1:
          eviction.remove(entry);
          if (place != model.end()) model.erase(place);
          break;
        default:
          eviction.touch(entry);
          if (place != model.end()) {
            model.erase(place);
            model.push_back(entry);
          }
      }
      REQUIRE(eviction.count() == model.size());
      REQUIRE(eviction.coldest() == (model.empty() ? no_entry : model.front()));
    }
    // And the rest is in the model's order.
    for (const EntryNumber entry : model) {
      REQUIRE(eviction.coldest() == entry);
      eviction.remove(entry);
    }
  }
}

}  // namespace
}  // namespace forebay::daemon
