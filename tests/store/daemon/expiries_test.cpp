// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/expiries.h"

#include <doctest/doctest.h>

#include <map>
#include <vector>

#include "tests/support/random.h"

namespace forebay::daemon {
namespace {

using std::chrono::seconds;
using Entries = std::vector<EntryNumber>;

constexpr TimePoint at(int second) { return TimePoint(seconds(second)); }

TEST_SUITE("expiries") {
  TEST_CASE("those whose time is up are taken out, the earliest first") {
    Expiries expiries;
    CHECK_FALSE(expiries.next());
    CHECK(expiries.take_due(at(100)).empty());
    expiries.add(1, at(30));
    expiries.add(2, at(10));
    expiries.add(3, at(20));
    expiries.add(4, at(20));
    CHECK(expiries.next() == at(10));
    CHECK(expiries.of(3) == at(20));
    CHECK_FALSE(expiries.of(5));
    CHECK(expiries.take_due(at(9)).empty());
    // Of two at the same time the one that was added first.
    CHECK(expiries.take_due(at(20)) == Entries{2, 3, 4});
    CHECK_FALSE(expiries.of(3));
    CHECK(expiries.next() == at(30));
    CHECK(expiries.take_due(at(20)).empty());
    CHECK(expiries.take_due(at(31)) == Entries{1});
    CHECK_FALSE(expiries.next());
  }

  TEST_CASE("what is taken away has no end any more") {
    Expiries expiries;
    expiries.add(1, at(10));
    expiries.add(2, at(10));
    expiries.remove(1);
    expiries.remove(1);
    expiries.remove(7);
    CHECK_FALSE(expiries.of(1));
    CHECK(expiries.take_due(at(99)) == Entries{2});
  }

  TEST_CASE("a later word replaces an earlier one") {
    Expiries expiries;
    expiries.add(1, at(10));
    expiries.add(1, at(30));
    expiries.add(2, at(30));
    expiries.add(2, at(10));
    CHECK(expiries.take_due(at(20)) == Entries{2});
    CHECK(expiries.next() == at(30));
    CHECK(expiries.take_due(at(30)) == Entries{1});
  }

  TEST_CASE("whatever comes and goes, the earliest is known") {
    test::Random random("expiries");
    Expiries expiries;
    std::map<EntryNumber, TimePoint> model;
    for (int i = 0; i < 3000; ++i) {
      const EntryNumber entry = random.below(40);
      if (random.chance(0.6)) {
        model[entry] = at(static_cast<int>(random.below(1000)));
        expiries.add(entry, model[entry]);
      } else if (random.chance(0.6)) {
        model.erase(entry);
        expiries.remove(entry);
      } else {
        const TimePoint now = at(static_cast<int>(random.below(300)));
        TimePoint last{};
        for (const EntryNumber due : expiries.take_due(now)) {
          REQUIRE(model.contains(due));
          CHECK(model[due] <= now);
          CHECK(last <= model[due]);
          last = model[due];
          model.erase(due);
        }
        for (const auto& [left, end] : model) CHECK(end > now);
      }
      std::optional<TimePoint> next;
      for (const auto& [left, end] : model) {
        CHECK(expiries.of(left) == end);
        if (!next || end < *next) next = end;
      }
      CHECK(expiries.next() == next);
    }
  }
}

}  // namespace
}  // namespace forebay::daemon
