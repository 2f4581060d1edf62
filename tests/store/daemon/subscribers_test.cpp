// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/subscribers.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "tests/support/random.h"

namespace forebay::daemon {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t plenty = 1 << 20;
const TimePoint start{};
const TimePoint late = start + milliseconds(100);

StoreEvent sealed(std::string id, std::uint64_t version) {
  return {.kind = EventKind::sealed, .id = std::move(id), .version = version};
}

struct Answered {
  Ticket ticket;
  std::uint64_t cursor = 0;
  std::uint64_t missed = 0;
  std::vector<std::uint64_t> versions{};
  bool operator==(const Answered&) const = default;
};
using Answers = std::vector<Answered>;

Subscribers::Answer into(Answers& answers) {
  return [&answers](Ticket ticket, const EventLog::Batch& batch) {
    Answered answered{ticket, batch.cursor, batch.missed};
    for (const StoreEvent* event : batch.events) answered.versions.push_back(event->version);
    answers.push_back(answered);
  };
}

Answers serve(Subscribers& subscribers, const EventLog& log, std::size_t bytes_max = plenty) {
  Answers answers;
  subscribers.serve(log, bytes_max, into(answers));
  return answers;
}

Answers expire(Subscribers& subscribers, TimePoint now) {
  Answers answers;
  subscribers.expire(now, into(answers));
  return answers;
}

TEST_SUITE("subscribers") {
  TEST_CASE("An event answers those whose prefix it matches, in order of arrival, and only once") {
    Subscribers subscribers;
    EventLog log(16, 1);
    subscribers.park({2, 1}, "run/", 1, late);
    subscribers.park({1, 1}, "", 1, late);
    subscribers.park({1, 2}, "model/", 1, late);
    CHECK(subscribers.count() == 3);
    CHECK(serve(subscribers, log).empty());
    log.record(sealed("run/1", 7));
    CHECK(serve(subscribers, log) == Answers{{{2, 1}, 2, 0, {7}}, {{1, 1}, 2, 0, {7}}});
    CHECK(subscribers.count() == 1);
    CHECK(serve(subscribers, log).empty());
    log.record(sealed("model/1", 8));
    CHECK(serve(subscribers, log) == Answers{{{1, 2}, 3, 0, {8}}});
    CHECK(subscribers.count() == 0);
    CHECK_FALSE(subscribers.next_deadline());
  }

  TEST_CASE("A subscriber who comes back is answered at once with what happened meanwhile") {
    Subscribers subscribers;
    EventLog log(16, 1);
    log.record(sealed("a", 1));
    log.record(sealed("b", 2));
    log.record(sealed("a", 3));
    CHECK(serve(subscribers, log).empty());
    subscribers.park({1, 1}, "a", 2, late);
    CHECK(serve(subscribers, log) == Answers{{{1, 1}, 4, 0, {3}}});
    subscribers.park({1, 2}, "a", 4, late);
    CHECK(serve(subscribers, log).empty());
    CHECK(subscribers.count() == 1);
  }

  TEST_CASE("An answer holds what fits, and its cursor goes on with the rest") {
    Subscribers subscribers;
    EventLog log(16, 1);
    for (std::uint64_t version = 1; version <= 3; ++version) log.record(sealed("a", version));
    subscribers.park({1, 1}, "", 1, late);
    CHECK(serve(subscribers, log, 2 * 41) == Answers{{{1, 1}, 3, 0, {1, 2}}});
    subscribers.park({1, 2}, "", 3, late);
    CHECK(serve(subscribers, log, 2 * 41) == Answers{{{1, 2}, 4, 0, {3}}});
  }

  TEST_CASE("A subscriber whose cursor fell out of the log is told how many events it missed") {
    Subscribers subscribers;
    EventLog log(2, 1);
    for (std::uint64_t version = 1; version <= 5; ++version) log.record(sealed("a", version));
    subscribers.park({1, 1}, "a", 2, late);
    subscribers.park({1, 2}, "b", 3, late);
    CHECK(serve(subscribers, log) == Answers{{{1, 1}, 6, 2, {4, 5}}, {{1, 2}, 6, 1, {}}});
    CHECK(subscribers.count() == 0);
  }

  TEST_CASE("A subscriber who waits misses nothing of what others are asked to look at first") {
    Subscribers subscribers;
    EventLog log(2, 1);
    subscribers.park({1, 1}, "a", 1, late);
    CHECK(serve(subscribers, log).empty());
    SUBCASE("while the log is served in time") {
      for (std::uint64_t version = 1; version <= 9; ++version) {
        log.record(sealed("b", version));
        CHECK(serve(subscribers, log).empty());
      }
      log.record(sealed("a", 10));
      CHECK(serve(subscribers, log) == Answers{{{1, 1}, 11, 0, {10}}});
    }
    SUBCASE("and is told so if more happened at once than is remembered") {
      for (std::uint64_t version = 1; version <= 9; ++version) log.record(sealed("b", version));
      CHECK(serve(subscribers, log) == Answers{{{1, 1}, 10, 7, {}}});
    }
  }

  TEST_CASE("A subscriber moves on past events not for it, and expires at its new cursor") {
    Subscribers subscribers;
    EventLog log(16, 1);
    subscribers.park({1, 1}, "a", 1, start + milliseconds(20));
    subscribers.park({1, 2}, "a", 1, start + milliseconds(10));
    for (std::uint64_t version = 1; version <= 4; ++version) log.record(sealed("b", version));
    CHECK(serve(subscribers, log).empty());
    CHECK(subscribers.next_deadline() == start + milliseconds(10));
    CHECK(expire(subscribers, start + milliseconds(9)).empty());
    CHECK(expire(subscribers, start + milliseconds(20)) ==
          Answers{{{1, 2}, 5, 0, {}}, {{1, 1}, 5, 0, {}}});
    CHECK(subscribers.count() == 0);
    CHECK_FALSE(subscribers.next_deadline());
    log.record(sealed("a", 5));
    CHECK(serve(subscribers, log).empty());
  }

  TEST_CASE("A subscriber that expires before it is served loses no event") {
    Subscribers subscribers;
    EventLog log(16, 1);
    subscribers.park({1, 1}, "a", 1, start);
    log.record(sealed("a", 1));
    const Answers expired = expire(subscribers, start);
    CHECK(expired == Answers{{{1, 1}, 1, 0, {}}});
    subscribers.park({1, 2}, "a", expired.at(0).cursor, late);
    CHECK(serve(subscribers, log) == Answers{{{1, 2}, 2, 0, {1}}});
  }

  TEST_CASE("A subscriber with a cursor from the future gets what happens from now on") {
    Subscribers subscribers;
    EventLog log(16, 1);
    subscribers.park({1, 1}, "", 99, late);
    CHECK(serve(subscribers, log).empty());
    log.record(sealed("a", 1));
    CHECK(serve(subscribers, log) == Answers{{{1, 1}, 2, 0, {1}}});
  }

  TEST_CASE("The subscriptions of a session end with it, those of a request with its cancel") {
    Subscribers subscribers;
    EventLog log(16, 1);
    subscribers.park({1, 1}, "", 1, start + milliseconds(10));
    subscribers.park({1, 1}, "a", 1, start + milliseconds(10));  // a number may be used twice
    subscribers.park({1, 2}, "", 1, start + milliseconds(20));
    subscribers.park({2, 1}, "", 1, start + milliseconds(30));
    subscribers.park({3, 0xffffffff}, "", 1, start + milliseconds(40));
    log.record(sealed("a", 1));
    SUBCASE("a cancel") {
      subscribers.cancel(1, 1);
      CHECK(subscribers.count() == 3);
      CHECK(subscribers.next_deadline() == start + milliseconds(20));
      subscribers.cancel(3, 0xffffffff);
      subscribers.cancel(77, 1);
      CHECK(serve(subscribers, log) == Answers{{{1, 2}, 2, 0, {1}}, {{2, 1}, 2, 0, {1}}});
    }
    SUBCASE("an end") {
      subscribers.drop(1);
      subscribers.drop(77);
      CHECK(subscribers.count() == 2);
      CHECK(subscribers.next_deadline() == start + milliseconds(30));
      CHECK(serve(subscribers, log) == Answers{{{2, 1}, 2, 0, {1}}, {{3, 0xffffffff}, 2, 0, {1}}});
    }
  }

  TEST_CASE("Subscribers with the same ticket each get an answer") {
    Subscribers subscribers;
    EventLog log(16, 1);
    subscribers.park({1, 1}, "a", 1, start);
    subscribers.park({1, 1}, "a", 1, start);
    SUBCASE("when there is an event") {
      log.record(sealed("a", 1));
      CHECK(serve(subscribers, log).size() == 2);
    }
    SUBCASE("when their time is up") { CHECK(expire(subscribers, start).size() == 2); }
    CHECK(subscribers.count() == 0);
    CHECK_FALSE(subscribers.next_deadline());
  }

  TEST_CASE("An event that an answer brings about reaches those who were served before it") {
    Subscribers subscribers;
    EventLog log(16, 1);
    subscribers.park({1, 1}, "b", 1, late);
    subscribers.park({1, 2}, "a", 1, late);
    log.record(sealed("a", 1));
    subscribers.serve(log, plenty, [&log](Ticket, const EventLog::Batch&) {
      log.record(sealed("b", 2));
    });
    CHECK(serve(subscribers, log) == Answers{{{1, 1}, 3, 0, {2}}});
  }

  TEST_CASE("A crowd of subscribers that come back one by one is not looked through each time") {
    // Were each serve to pass all others by, or each event to be looked at again, this would take
    // minutes.
    constexpr std::uint32_t crowd = 50'000;
    Subscribers subscribers;
    EventLog log(crowd, 1);
    for (std::uint64_t version = 1; version <= 100; ++version) log.record(sealed("b", version));
    for (std::uint32_t number = 1; number <= crowd; ++number) {
      subscribers.park({1, number}, "a", 1, late);
      REQUIRE(serve(subscribers, log).empty());
    }
    SUBCASE("when they are answered") {
      log.record(sealed("a", 101));
      CHECK(serve(subscribers, log).size() == crowd);
    }
    SUBCASE("when their time is up") { CHECK(expire(subscribers, late).size() == crowd); }
    SUBCASE("when they are cancelled") {
      for (std::uint32_t number = crowd; number > 0; --number) subscribers.cancel(1, number);
    }
    CHECK(subscribers.count() == 0);
  }

  TEST_CASE("Random subscribers get each event of theirs once, in order, or know how many not") {
    // Each client asks again as soon as it is answered. The events' numbers are their versions.
    struct Client {
      std::string prefix;
      std::uint64_t cursor = 1;
      bool parked = false;
    };
    constexpr std::uint64_t capacity = 12;
    test::Random random("subscribers");
    EventLog log(capacity, 1);
    Subscribers subscribers;
    std::vector<std::string> happened{""};  // the ids, by number
    std::map<SessionId, Client> clients;
    TimePoint now = start;
    for (SessionId session = 1; session <= 20; ++session) {
      const char* const prefixes[] = {"", "a", "b", "ab", "c"};
      clients[session].prefix = prefixes[session % 5];
    }
    // The numbers from `cursor` up to `end` that are for him.
    const auto expected = [&happened](const Client& client, std::uint64_t cursor,
                                      std::uint64_t end) {
      std::vector<std::uint64_t> numbers;
      for (; cursor < end; ++cursor)
        if (happened[cursor].rfind(client.prefix, 0) == 0) numbers.push_back(cursor);
      return numbers;
    };
    const auto answer = [&](Ticket ticket, const EventLog::Batch& batch) {
      Client& client = clients.at(ticket.session);
      REQUIRE(client.parked);
      client.parked = false;
      // What he passed while he waited was not for him, and does not count as missed.
      const std::uint64_t oldest = log.next() > capacity ? log.next() - capacity : 1;
      if (batch.missed > 0) REQUIRE(client.cursor + batch.missed <= oldest);
      std::vector<std::uint64_t> got;
      for (const StoreEvent* event : batch.events) got.push_back(event->version);
      REQUIRE(got == expected(client, batch.missed > 0 ? oldest : client.cursor, batch.cursor));
      client.cursor = batch.cursor;
    };
    for (int step = 0; step < 50'000; ++step) {
      switch (random.below(6)) {
        case 0:
        case 1: {
          const char* const ids[] = {"a", "ab", "b", "ba"};
          happened.emplace_back(ids[random.below(4)]);
          log.record(sealed(happened.back(), happened.size() - 1));
          break;
        }
        case 2: {
          const SessionId session = 1 + random.below(20);
          Client& client = clients.at(session);
          if (client.parked) {
            subscribers.drop(session);  // and comes back with the cursor that it knows
            client.parked = false;
          }
          break;
        }
        case 3: {
          now += milliseconds(random.below(3));
          subscribers.expire(now, answer);
          break;
        }
        default: {
          const SessionId session = 1 + random.below(20);
          Client& client = clients.at(session);
          if (!client.parked) {
            subscribers.park({session, 1}, client.prefix, client.cursor,
                             now + milliseconds(random.below(20)));
            client.parked = true;
          }
          subscribers.serve(log, 100 + random.below(400), answer);
          for (const auto& [of, waits] : clients)
            if (waits.parked) REQUIRE(expected(waits, waits.cursor, log.next()).empty());
        }
      }
      REQUIRE(subscribers.count() ==
              static_cast<std::size_t>(std::count_if(
                  clients.begin(), clients.end(), [](const auto& c) { return c.second.parked; })));
    }
  }
}

}  // namespace
}  // namespace forebay::daemon
