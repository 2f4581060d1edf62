// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/holds.h"

#include <doctest/doctest.h>

#include <vector>

namespace forebay::daemon {
namespace {

using Entries = std::vector<EntryNumber>;
using Slots = std::vector<Holds::Slot>;

TEST_SUITE("holds") {
  TEST_CASE("what a process holds is held until it has let go as often") {
    Holds holds;
    CHECK_FALSE(holds.held(7));
    CHECK_FALSE(holds.unhold(7, 1));
    holds.hold(7, 1);
    holds.hold(7, 1);
    CHECK(holds.held(7));
    CHECK_FALSE(holds.unhold(7, 2));
    CHECK(holds.unhold(7, 1));
    CHECK(holds.held(7));
    CHECK(holds.unhold(7, 1));
    CHECK_FALSE(holds.held(7));
    CHECK_FALSE(holds.unhold(7, 1));
  }

  TEST_CASE("holders are named once each, the lowest slot first") {
    Holds holds;
    for (const Holds::Slot slot : {5U, 2U, 5U, 9U}) holds.hold(7, slot);
    CHECK(holds.holders(7) == Slots{2, 5, 9});
    CHECK(holds.unhold(7, 5));
    CHECK(holds.holders(7) == Slots{2, 5, 9});
    CHECK(holds.unhold(7, 5));
    CHECK(holds.holders(7) == Slots{2, 9});
    CHECK(holds.holders(8).empty());
  }

  TEST_CASE("a process that ends lets go of all, and what nobody else holds is named") {
    Holds holds;
    for (const EntryNumber entry : {9U, 3U, 7U, 5U}) holds.hold(entry, 1);
    holds.hold(3, 1);
    holds.hold(7, 2);
    holds.list(20, {5});
    CHECK(holds.process_ended(1) == Entries{3, 9});
    CHECK(holds.held(7));
    CHECK(holds.held(5));
    CHECK_FALSE(holds.held(3));
    CHECK(holds.process_ended(1).empty());
    CHECK(holds.process_ended(2) == Entries{7});
    CHECK(holds.process_ended(3).empty());
  }

  TEST_CASE("what a process says again is all that it holds") {
    Holds holds;
    for (const EntryNumber entry : {3U, 4U, 5U}) holds.hold(entry, 1);
    holds.hold(5, 2);
    const Entries said{4, 4, 6};
    CHECK(holds.say_again(1, said) == Entries{3});
    CHECK(holds.holders(5) == Slots{2});
    CHECK(holds.held(6));
    // Said twice, held twice.
    CHECK(holds.unhold(4, 1));
    CHECK(holds.held(4));
    CHECK(holds.unhold(4, 1));
    CHECK_FALSE(holds.held(4));
    CHECK(holds.say_again(1, {}) == Entries{6});
    CHECK(holds.say_again(7, {}).empty());
  }

  TEST_CASE("a manifest holds what it lists until it goes") {
    Holds holds;
    holds.list(20, {3, 4, 5});
    holds.list(21, {4});
    holds.hold(5, 1);
    CHECK(holds.manifests_of(3) == Entries{20});
    CHECK(holds.manifests_of(4) == Entries{20, 21});
    CHECK(holds.manifests_of(6).empty());
    CHECK_FALSE(holds.held(20));
    CHECK(holds.holders(3).empty());
    CHECK_FALSE(holds.unhold(3, 1));
    CHECK(holds.unlist(20) == Entries{3});
    CHECK(holds.held(4));
    CHECK(holds.held(5));
    CHECK(holds.unlist(20).empty());
    CHECK(holds.unhold(5, 1));
    CHECK_FALSE(holds.held(5));
    CHECK(holds.unlist(21) == Entries{4});
  }

  TEST_CASE("a segment that has gone is nobody's, and its entry's next one begins anew") {
    Holds holds;
    holds.hold(3, 1);
    holds.hold(3, 2);
    holds.hold(4, 1);
    holds.list(20, {3, 5});
    holds.forget(3);
    holds.forget(9);
    CHECK_FALSE(holds.held(3));
    CHECK(holds.manifests_of(3).empty());
    holds.hold(3, 7);
    CHECK(holds.unlist(20) == Entries{5});
    CHECK(holds.held(3));
    CHECK(holds.process_ended(1) == Entries{4});
    CHECK(holds.process_ended(2).empty());
    CHECK(holds.holders(3) == Slots{7});
  }

  TEST_CASE("a manifest's entry may be listed itself") {
    Holds holds;
    holds.list(20, {3});
    holds.list(21, {20});
    CHECK(holds.held(20));
    holds.forget(20);
    CHECK(holds.held(3));
    CHECK(holds.unlist(20) == Entries{3});
    CHECK(holds.unlist(21).empty());
  }
}

}  // namespace
}  // namespace forebay::daemon
