// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/wait_sets.h"

#include <doctest/doctest.h>

#include <cstdint>

namespace forebay::daemon {
namespace {

using Ready = WaitSets::Ready;

constexpr Ticket whole{1, 5};

constexpr Ticket item(std::uint32_t index) { return {whole.session, whole.number, index + 1}; }

TEST_SUITE("wait_sets") {
  TEST_CASE("A set is complete with the item that makes it enough, and names the ready ones") {
    WaitSets sets;
    sets.add_items(whole, 4);
    sets.begin(whole, 3);
    CHECK_FALSE(sets.note_ready(item(3)));
    CHECK_FALSE(sets.note_ready(item(0)));
    CHECK(sets.ready(whole) == 2);
    CHECK(sets.note_ready(item(2)) == Ready{0, 2, 3});
    CHECK(sets.count() == 0);
    CHECK(sets.items(whole) == 0);
    CHECK_FALSE(sets.note_ready(item(1)));
    CHECK_FALSE(sets.give_up(whole));
  }

  TEST_CASE("A request that comes in several frames is one set") {
    WaitSets sets;
    CHECK(sets.items(whole) == 0);
    sets.add_items(whole, 2);
    CHECK(sets.items(whole) == 2);
    CHECK_FALSE(sets.note_ready(item(1)));
    sets.add_items(whole, 3);
    CHECK(sets.items(whole) == 5);
    CHECK(sets.ready(whole) == 1);
    CHECK(sets.count() == 1);
    sets.begin(whole, 2);
    CHECK(sets.note_ready(item(4)) == Ready{1, 4});
  }

  TEST_CASE("Before all items are there, nothing is complete") {
    WaitSets sets;
    sets.add_items(whole, 3);
    CHECK_FALSE(sets.note_ready(item(0)));
    CHECK_FALSE(sets.note_ready(item(1)));
    sets.begin(whole, 1);
    CHECK(sets.ready(whole) == 2);  // enough: the owner sees it here
    CHECK(sets.give_up(whole) == Ready{0, 1});
    CHECK(sets.count() == 0);
  }

  TEST_CASE("An item that is ready twice counts once") {
    WaitSets sets;
    sets.add_items(whole, 2);
    sets.begin(whole, 2);
    CHECK_FALSE(sets.note_ready(item(1)));
    CHECK_FALSE(sets.note_ready(item(1)));
    CHECK(sets.ready(whole) == 1);
    CHECK(sets.note_ready(item(0)) == Ready{0, 1});
  }

  TEST_CASE("When its time is up a set answers with what is ready, once") {
    WaitSets sets;
    sets.add_items(whole, 3);
    sets.begin(whole, 3);
    CHECK_FALSE(sets.note_ready(item(2)));
    SUBCASE("by the ticket of the whole") { CHECK(sets.give_up(whole) == Ready{2}); }
    SUBCASE("by that of any of its items") { CHECK(sets.give_up(item(0)) == Ready{2}); }
    CHECK_FALSE(sets.give_up(item(1)));
    CHECK_FALSE(sets.give_up(whole));
    CHECK(sets.count() == 0);
  }

  TEST_CASE("A set with nothing ready, or nothing in it, is known until it is given up") {
    WaitSets sets;
    SUBCASE("nothing ready") { sets.add_items(whole, 3); }
    SUBCASE("no items") { sets.add_items(whole, 0); }
    SUBCASE("not even a frame with items") {}
    sets.begin(whole, 0);
    CHECK(sets.count() == 1);
    CHECK(sets.give_up(whole) == Ready{});
    CHECK_FALSE(sets.give_up(whole));
  }

  TEST_CASE("Items that no set has change nothing") {
    WaitSets sets;
    sets.add_items(whole, 2);
    sets.begin(whole, 1);
    CHECK_FALSE(sets.note_ready(whole));  // item 0 is none
    CHECK_FALSE(sets.note_ready(item(2)));
    CHECK_FALSE(sets.note_ready(item(0xfffffffe)));
    CHECK_FALSE(sets.note_ready({1, 6, 1}));
    CHECK_FALSE(sets.note_ready({2, 5, 1}));
    CHECK(sets.ready(whole) == 0);
    CHECK(sets.ready({1, 6}) == 0);
    CHECK(sets.count() == 1);
  }

  TEST_CASE("A number that a client uses twice at once is one set with the items of both") {
    WaitSets sets;
    sets.add_items(whole, 2);
    sets.begin(whole, 2);
    CHECK_FALSE(sets.note_ready(item(0)));
    sets.add_items(whole, 2);
    sets.begin(whole, 3);
    CHECK_FALSE(sets.note_ready(item(3)));
    CHECK(sets.note_ready(item(1)) == Ready{0, 1, 3});
    CHECK(sets.count() == 0);
  }

  TEST_CASE("Sets end with their session, or with the cancel of their request, and no others do") {
    constexpr std::uint32_t last = 0xffffffff;
    WaitSets sets;
    for (const Ticket each : {Ticket{1, 0}, Ticket{1, 5}, Ticket{1, last}, Ticket{2, 0},
                              Ticket{2, 5}, Ticket{0, last}})
      sets.add_items(each, 1);
    CHECK(sets.count() == 6);
    SUBCASE("a session") {
      sets.drop(1);
      CHECK(sets.count() == 3);
      CHECK(sets.items({2, 0}) == 1);
      CHECK(sets.items({0, last}) == 1);
      sets.drop(77);
      CHECK(sets.count() == 3);
    }
    SUBCASE("a request") {
      sets.cancel(1, 5);
      sets.cancel(1, 6);
      CHECK(sets.count() == 5);
      CHECK_FALSE(sets.note_ready(item(0)));
      CHECK(sets.items(whole) == 0);
    }
  }

  TEST_CASE("A number that has been answered can be used again and begins with nothing ready") {
    WaitSets sets;
    sets.add_items(whole, 2);
    sets.begin(whole, 1);
    CHECK(sets.note_ready(item(1)) == Ready{1});
    sets.add_items(whole, 2);
    CHECK(sets.ready(whole) == 0);
    CHECK_FALSE(sets.note_ready(item(0)));  // not begun yet
    sets.begin(whole, 2);
    CHECK(sets.note_ready(item(1)) == Ready{0, 1});
  }

  TEST_CASE("The items of a large set are noted without passing the others by") {
    // Were each to look at all, this would take minutes.
    constexpr std::uint32_t items = 1U << 20U;
    WaitSets sets;
    for (std::uint32_t frame = 0; frame < 16; ++frame) sets.add_items(whole, items / 16);
    sets.begin(whole, items);
    for (std::uint32_t index = items - 1; index > 0; --index)
      if (sets.note_ready(item(index))) FAIL("complete with an item missing");
    const auto ready = sets.note_ready(item(0));
    REQUIRE(ready);
    CHECK(ready->size() == items);
    CHECK(ready->front() == 0);
    CHECK(ready->back() == items - 1);
  }
}

}  // namespace
}  // namespace forebay::daemon
