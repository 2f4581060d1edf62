// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/waiters.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "tests/support/random.h"

namespace forebay::daemon {
namespace {

using std::chrono::milliseconds;
using Tickets = std::vector<Ticket>;

constexpr shm::Key points{1, 2};
constexpr shm::Key labels{3, 4};
const TimePoint start{};

Tickets expired(Waiters& waiters, TimePoint now) {
  Tickets tickets;
  for (const Waiters::Late& late : waiters.expire(now)) tickets.push_back(late.ticket);
  return tickets;
}

TEST_SUITE("waiters") {
  TEST_CASE("somebody waits for a version as long as it would wake him, and late ones are named") {
    Waiters waiters;
    waiters.park({1, 1}, points, {.exact = 3}, start + milliseconds(10));
    waiters.park({1, 2}, points, {.after = 5}, start + milliseconds(20));
    CHECK(waiters.anybody_waits_for(points, 3));
    CHECK_FALSE(waiters.anybody_waits_for(points, 4));
    CHECK(waiters.anybody_waits_for(points, 6));
    CHECK_FALSE(waiters.anybody_waits_for(labels, 3));
    const auto late = waiters.expire(start + milliseconds(10));
    REQUIRE(late.size() == 1);
    CHECK(late[0].ticket == Ticket{1, 1});
    CHECK(late[0].key == points);
    CHECK(late[0].wish.exact == 3);
    CHECK_FALSE(waiters.anybody_waits_for(points, 3));
    waiters.cancel(1, 2);
    CHECK_FALSE(waiters.anybody_waits_for(points, 6));
  }

  TEST_CASE("a version wakes exactly those whom it satisfies, in order of arrival") {
    Waiters waiters;
    const TimePoint late = start + milliseconds(100);
    waiters.park({1, 1}, points, {.exact = 3}, late);
    waiters.park({1, 2}, points, {.exact = 4}, late);
    waiters.park({2, 1}, points, {.after = 0}, late);
    waiters.park({2, 2}, points, {.after = 3}, late);
    waiters.park({2, 3}, labels, {.after = 0}, late);
    waiters.park({3, 1}, points, {.exact = 3, .after = 9}, late);
    CHECK(waiters.count() == 6);
    CHECK(waiters.wake(points, 3) == Tickets{{1, 1}, {2, 1}, {3, 1}});
    CHECK(waiters.count() == 3);
    CHECK(waiters.wake(points, 3).empty());
    CHECK(waiters.wake(points, 4) == Tickets{{1, 2}, {2, 2}});
    CHECK(waiters.wake(labels, 1) == Tickets{{2, 3}});
    CHECK(waiters.count() == 0);
    CHECK_FALSE(waiters.next_deadline());
  }

  TEST_CASE("whose time is up is told so, and nobody else is") {
    Waiters waiters;
    waiters.park({1, 1}, points, {.exact = 1}, start + milliseconds(30));
    waiters.park({1, 2}, labels, {.exact = 1}, start + milliseconds(10));
    waiters.park({1, 3}, points, {.exact = 1}, start + milliseconds(20));
    CHECK(waiters.next_deadline() == start + milliseconds(10));
    CHECK(expired(waiters, start + milliseconds(9)).empty());
    CHECK(expired(waiters, start + milliseconds(20)) == Tickets{{1, 2}, {1, 3}});
    CHECK(waiters.next_deadline() == start + milliseconds(30));
    CHECK(waiters.wake(points, 1) == Tickets{{1, 1}});
    CHECK(expired(waiters, start + milliseconds(99)).empty());
  }

  TEST_CASE("the waits of a session end with it, and nobody is told") {
    Waiters waiters;
    waiters.park({1, 1}, points, {.exact = 1}, start + milliseconds(10));
    waiters.park({2, 1}, points, {.exact = 1}, start + milliseconds(20));
    waiters.park({1, 2}, labels, {.exact = 1}, start + milliseconds(30));
    waiters.park({1, 3}, points, {.exact = 2}, start + milliseconds(40));
    waiters.drop(1);
    CHECK(waiters.count() == 1);
    CHECK(waiters.next_deadline() == start + milliseconds(20));
    CHECK(waiters.wake(labels, 1).empty());
    CHECK(waiters.wake(points, 1) == Tickets{{2, 1}});
    waiters.drop(1);
    waiters.drop(77);
  }

  TEST_CASE("a session that gives the same number to several waits loses none and blocks nobody") {
    // Which of them an answer means is that client's own problem; the daemon must only end them
    // all.
    const TimePoint deadline = start + milliseconds(10);
    SUBCASE("for two ids, one of which is sealed") {
      Waiters waiters;
      waiters.park({1, 1}, points, {.exact = 1}, deadline);
      waiters.park({1, 1}, labels, {.exact = 1}, deadline);
      CHECK(waiters.wake(labels, 1) == Tickets{{1, 1}});
      CHECK(waiters.count() == 1);
      CHECK(expired(waiters, deadline) == Tickets{{1, 1}});
      CHECK(waiters.count() == 0);
      CHECK_FALSE(waiters.next_deadline());
    }
    SUBCASE("for two ids, neither of which is") {
      Waiters waiters;
      waiters.park({1, 1}, points, {.exact = 1}, deadline);
      waiters.park({1, 1}, labels, {.exact = 1}, deadline);
      CHECK(expired(waiters, deadline).size() == 2);
      CHECK(waiters.count() == 0);
    }
    SUBCASE("for one id with two deadlines") {
      Waiters waiters;
      waiters.park({1, 1}, points, {.exact = 1}, deadline);
      waiters.park({1, 1}, points, {.exact = 2}, deadline + milliseconds(10));
      CHECK(expired(waiters, deadline) == Tickets{{1, 1}});
      CHECK(expired(waiters, deadline + milliseconds(20)) == Tickets{{1, 1}});
      CHECK(waiters.count() == 0);
      CHECK_FALSE(waiters.next_deadline());
    }
    SUBCASE("and goes away") {
      Waiters waiters;
      waiters.park({1, 1}, points, {.exact = 1}, deadline);
      waiters.park({1, 1}, points, {.exact = 1}, deadline);
      waiters.park({1, 1}, labels, {.exact = 1}, deadline);
      waiters.drop(1);
      CHECK(waiters.count() == 0);
      CHECK_FALSE(waiters.next_deadline());
      CHECK(expired(waiters, deadline).empty());
    }
    SUBCASE("and cancels it") {
      Waiters waiters;
      waiters.park({1, 1}, points, {.exact = 1}, deadline);
      waiters.park({1, 1}, points, {.exact = 1}, deadline);
      waiters.park({1, 1}, labels, {.exact = 2}, deadline);
      waiters.cancel(1, 1);
      CHECK(waiters.count() == 0);
      CHECK_FALSE(waiters.next_deadline());
      CHECK(waiters.wake(points, 1).empty());
    }
  }

  TEST_CASE("a request that is cancelled takes all its items along, and no other request") {
    constexpr std::uint32_t last = 0xffffffff;
    Waiters waiters;
    const TimePoint deadline = start + milliseconds(10);
    waiters.park({1, 4, 9}, points, {.exact = 1}, deadline);
    waiters.park({1, 5, 0}, points, {.exact = 1}, start);
    waiters.park({1, 5, 1}, labels, {.exact = 1}, deadline);
    waiters.park({1, 5, last}, points, {.exact = 1}, deadline);
    waiters.park({1, 6, 0}, points, {.exact = 1}, deadline);
    waiters.park({2, 5, 1}, points, {.exact = 1}, deadline);
    waiters.park({1, last, 1}, points, {.exact = 1}, deadline);
    waiters.cancel(1, 5);
    CHECK(waiters.count() == 4);
    CHECK(waiters.next_deadline() == deadline);
    waiters.cancel(1, last);
    CHECK(waiters.count() == 3);
    waiters.cancel(1, 5);
    waiters.cancel(77, 5);
    CHECK(waiters.wake(labels, 1).empty());
    CHECK(waiters.wake(points, 1) == Tickets{{1, 4, 9}, {1, 6, 0}, {2, 5, 1}});
  }

  TEST_CASE("a crowd that waits for one id until one deadline is taken apart without a search") {
    // Were any of these steps to pass the others by, this would take a minute, not half a second.
    constexpr std::uint32_t crowd = 100'000;
    const TimePoint deadline = start + milliseconds(10);
    Waiters waiters;
    SUBCASE("when they are of one request") {
      for (std::uint32_t item = 1; item <= crowd; ++item)
        waiters.park({1, 1, item}, points, {.exact = 1}, deadline);
      SUBCASE("and the version comes") { CHECK(waiters.wake(points, 1).size() == crowd); }
      SUBCASE("and their time is up") {
        const Tickets late = expired(waiters, deadline);
        CHECK(late.size() == crowd);
        CHECK(std::is_sorted(late.begin(), late.end()));
      }
      SUBCASE("and it is cancelled") { waiters.cancel(1, 1); }
      SUBCASE("and its session ends") { waiters.drop(1); }
    }
    SUBCASE("when they all have the same ticket") {
      for (std::uint32_t i = 0; i < crowd; ++i)
        waiters.park({1, 1}, points, {.exact = 1}, deadline);
      SUBCASE("and the version comes") { CHECK(waiters.wake(points, 1).size() == crowd); }
      SUBCASE("and their time is up") { CHECK(expired(waiters, deadline).size() == crowd); }
      SUBCASE("and it is cancelled") { waiters.cancel(1, 1); }
    }
    // The last comes first, for a search from the front to go all the way.
    SUBCASE("when they are requests of one session that are cancelled one by one") {
      for (std::uint32_t number = 1; number <= crowd; ++number)
        waiters.park({1, number}, points, {.exact = 1}, deadline);
      for (std::uint32_t number = crowd; number > 0; --number) waiters.cancel(1, number);
    }
    SUBCASE("when they are sessions that end one by one") {
      for (std::uint32_t session = 1; session <= crowd; ++session)
        waiters.park({session, 1}, points, {.exact = 1}, deadline);
      for (std::uint32_t session = crowd; session > 0; --session) waiters.drop(session);
    }
    SUBCASE("when they come with deadlines one after the other, and go by them") {
      std::size_t late = 0;
      for (std::uint32_t item = 1; item <= crowd; ++item)
        waiters.park({1, 1, item}, points, {.exact = 1}, deadline + milliseconds(crowd - item));
      for (std::uint32_t i = 0; i < crowd; ++i)
        late += expired(waiters, deadline + milliseconds(i)).size();
      CHECK(late == crowd);
    }
    SUBCASE("when they are of one session and wait for different ids that come one by one") {
      std::size_t woken = 0;
      for (std::uint32_t item = 1; item <= crowd; ++item)
        waiters.park({1, 1, item}, {item, 7}, {.exact = 1}, deadline);
      for (std::uint32_t item = crowd; item > 0; --item)
        woken += waiters.wake({item, 7}, 1).size();
      CHECK(woken == crowd);
    }
    CHECK(waiters.count() == 0);
    CHECK_FALSE(waiters.next_deadline());
    CHECK(waiters.wake(points, 1).empty());
  }

  TEST_CASE("random waits agree with a plain list of them") {
    struct Wait {
      Ticket ticket;
      shm::Key key;
      VersionWish wish;
      TimePoint deadline;
    };
    test::Random random("waiters");
    Waiters waiters;
    std::vector<Wait> model;  // in order of arrival
    TimePoint now = start;
    const auto some_key = [&random] { return shm::Key{random.below(20), 7}; };
    const auto take = [&model](auto&& leaves) {
      Tickets taken;
      std::erase_if(model, [&](const Wait& wait) {
        if (!leaves(wait)) return false;
        taken.push_back(wait.ticket);
        return true;
      });
      return taken;
    };
    for (int step = 0; step < 50'000; ++step) {
      switch (random.below(9)) {
        case 0:
        case 1:
        case 2: {
          // Few enough numbers and items for tickets to be used twice.
          Wait wait{{random.below(30), random.below(3), random.below(2)}, some_key(), {}, {}};
          if (random.chance(0.5))
            wait.wish.exact = 1 + random.below(6);
          else
            wait.wish.after = random.below(6);
          wait.deadline = now + milliseconds(random.below(40));
          waiters.park(wait.ticket, wait.key, wait.wish, wait.deadline);
          model.push_back(wait);
          break;
        }
        case 3:
        case 4: {
          const shm::Key key = some_key();
          const std::uint64_t version = 1 + random.below(7);
          REQUIRE(waiters.wake(key, version) == take([&](const Wait& wait) {
                    return wait.key == key && wait.wish.satisfied_by(version);
                  }));
          break;
        }
        case 5: {
          const SessionId session = random.below(30);
          waiters.drop(session);
          (void)take([&](const Wait& wait) { return wait.ticket.session == session; });
          break;
        }
        case 6: {
          const SessionId session = random.below(30);
          const std::uint32_t number = random.below(3);
          waiters.cancel(session, number);
          (void)take([&](const Wait& wait) {
            return wait.ticket.session == session && wait.ticket.number == number;
          });
          break;
        }
        default: {
          now += milliseconds(random.below(10));
          Tickets late = expired(waiters, now);
          Tickets expected = take([&](const Wait& wait) { return wait.deadline <= now; });
          std::sort(late.begin(), late.end());
          std::sort(expected.begin(), expected.end());
          REQUIRE(late == expected);
        }
      }
      REQUIRE(waiters.count() == model.size());
      const auto earliest =
          std::min_element(model.begin(), model.end(),
                           [](const Wait& a, const Wait& b) { return a.deadline < b.deadline; });
      REQUIRE(waiters.next_deadline().has_value() == (earliest != model.end()));
      if (earliest != model.end()) REQUIRE(*waiters.next_deadline() == earliest->deadline);
    }
  }
}

}  // namespace
}  // namespace forebay::daemon
