// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/claim_waiters.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace forebay::daemon {
namespace {

using std::chrono::seconds;
using Waiter = ClaimWaiters::Waiter;

constexpr shm::Key a{1, 2};
constexpr shm::Key b{1, 3};  // shares a hash bucket with the other

constexpr TimePoint at(int second) { return TimePoint(seconds(second)); }
const auto everybody = [](const Waiter&) { return true; };

Waiter waiter(std::uint32_t number, int second, std::uint64_t version = 0) {
  return {{1, number, 0}, {.id = "a", .version = version}, at(second)};
}
std::string numbers(const std::vector<Waiter>& waiters) {
  std::string text;
  for (const Waiter& one : waiters)
    text += (text.empty() ? "" : " ") + std::to_string(one.ticket.number);
  return text;
}

TEST_SUITE("claim_waiters") {
  TEST_CASE("those of an id are taken out in the order in which they came") {
    ClaimWaiters waiters;
    for (const std::uint32_t number : {3U, 1U, 2U}) waiters.park(a, waiter(number, 10));
    waiters.park(b, waiter(9, 10));
    CHECK(waiters.count() == 4);
    CHECK(numbers(waiters.take(a, everybody)) == "3 1 2");
    CHECK(waiters.take(a, everybody).empty());
    CHECK(waiters.count() == 1);
    CHECK(numbers(waiters.take(b, everybody)) == "9");
    CHECK(waiters.count() == 0);
    CHECK_FALSE(waiters.next_deadline());
  }

  TEST_CASE("those who are not meant stay, in their order") {
    ClaimWaiters waiters;
    for (const std::uint32_t number : {1U, 2U, 3U, 4U, 5U})
      waiters.park(a, waiter(number, 10, number % 2));
    const auto first = [](const Waiter& one) { return one.claim.version == 1; };
    CHECK(numbers(waiters.take(a, first)) == "1 3 5");
    waiters.park(a, waiter(1, 10));
    CHECK(numbers(waiters.take(a, everybody)) == "2 4 1");
  }

  TEST_CASE("what a waiter asked for comes back with him") {
    ClaimWaiters waiters;
    waiters.park(a, {{7, 8, 9},
                     {.id = "an id", .version = 3, .token = 4, .owner_slot = 5, .writer_uid = 6},
                     at(10)});
    const std::vector<Waiter> taken = waiters.take(a, everybody);
    REQUIRE(taken.size() == 1);
    CHECK(taken[0].ticket == Ticket{7, 8, 9});
    CHECK(taken[0].claim.id == "an id");
    CHECK(taken[0].claim.version == 3);
    CHECK(taken[0].claim.token == 4);
    CHECK(taken[0].claim.owner_slot == 5);
    CHECK(taken[0].claim.writer_uid == 6);
    CHECK(taken[0].deadline == at(10));
  }

  TEST_CASE("those whose time is up are taken out, and nobody else") {
    ClaimWaiters waiters;
    waiters.park(a, waiter(1, 30));
    waiters.park(a, waiter(2, 10));
    waiters.park(b, waiter(3, 20));
    waiters.park(a, waiter(4, 20));
    waiters.park(a, waiter(5, 20));
    CHECK(waiters.next_deadline() == at(10));
    CHECK(waiters.expire(at(9)).empty());
    CHECK(numbers(waiters.expire(at(10))) == "2");
    CHECK(waiters.next_deadline() == at(20));
    CHECK(waiters.expire(at(25)).size() == 3);
    CHECK(waiters.next_deadline() == at(30));
    CHECK(numbers(waiters.take(a, everybody)) == "1");
    CHECK(waiters.expire(at(99)).empty());
    CHECK(waiters.count() == 0);
  }

  TEST_CASE("whoever is taken out leaves the deadlines of others alone") {
    ClaimWaiters waiters;
    waiters.park(a, waiter(1, 10, 1));
    waiters.park(a, waiter(2, 10, 2));
    waiters.park(b, waiter(3, 10));
    CHECK(numbers(waiters.take(a, [](const Waiter& one) { return one.claim.version == 2; })) == "2");
    CHECK(waiters.next_deadline() == at(10));
    CHECK(waiters.expire(at(10)).size() == 2);
    CHECK_FALSE(waiters.next_deadline());
  }

  TEST_CASE("those of all ids are found by what they are") {
    ClaimWaiters waiters;
    for (std::uint32_t number = 1; number <= 6; ++number)
      waiters.park(number % 2 == 0 ? a : b, waiter(number, 10, number / 4));
    const auto late = [](const Waiter& one) { return one.claim.version == 1; };
    CHECK(waiters.take_of_all(late).size() == 3);
    CHECK(waiters.count() == 3);
    CHECK(numbers(waiters.take(a, everybody)) == "2");
    CHECK(numbers(waiters.take(b, everybody)) == "1 3");
  }
}

}  // namespace
}  // namespace forebay::daemon
