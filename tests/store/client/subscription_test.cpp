// SPDX-License-Identifier: Apache-2.0
// Subscriptions: what happened, in order, and never less than that without saying so.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "store/wire/socket.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr seconds long_enough{60};
// What "on time" allows a loaded machine.
constexpr seconds slack{5};
// How many events the daemon remembers.
constexpr std::uint64_t remembered = 65536;

// "sealed a@1", "removed a@1", "missed 7".
std::string shown_event(const Event& event) {
  switch (event.kind) {
    case EventKind::sealed:
      return "sealed " + event.id + "@" + std::to_string(event.version);
    case EventKind::removed:
      return "removed " + event.id + "@" + std::to_string(event.version);
    case EventKind::missed:
      return "missed " + std::to_string(event.missed);
    default:
      return "kind " + std::to_string(static_cast<int>(event.kind));
  }
}

// The next so many events, as text.
std::vector<std::string> next_events(Subscription& subscription, std::size_t count) {
  std::vector<std::string> events;
  while (events.size() < count)
    for (const Event& event : must(subscription.next(long_enough)))
      events.push_back(shown_event(event));
  return events;
}

bool readable(const Subscription& subscription) {
  return wire::wait_readable(subscription.fd(), Clock::now());
}

// How many events it is told of until the one of `last`, those that it missed included.
struct Told {
  std::uint64_t missed = 0;
  std::uint64_t events = 0;
};
Told told_until(Subscription& subscription, const std::string& last) {
  Told told;
  while (true)
    for (const Event& event : must(subscription.next(long_enough))) {
      if (event.kind == EventKind::missed) {
        told.missed += event.missed;
        continue;
      }
      ++told.events;
      if (event.id == last) return told;
    }
}

// Small segments put and removed again: two events for each.
void put_and_remove(Client& client, const std::string& prefix, std::size_t count) {
  constexpr std::size_t batch = 500;
  const auto bytes = payload(8, "any", 1);
  for (std::size_t done = 0; done < count; done += batch) {
    std::vector<std::string> ids;
    for (std::size_t i = done; i < std::min(done + batch, count); ++i)
      ids.push_back(prefix + std::to_string(i));
    std::vector<PutItem> items;
    for (const std::string& id : ids) items.push_back({id, bytes});
    const auto refs = must(client.put_many(items));
    for (const auto& ref : refs) must(client.remove(*ref));
  }
}

TEST_SUITE("subscription") {
  TEST_CASE("a subscriber is told of each seal and each removal, in order, with what there is to know") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("before", payload(10, "before", 1)));
    Subscription subscription = must(client.subscribe(""));
    const Ref first = must(client.put("a", payload(100, "a", 1)));
    const Ref second = must(client.put("b", payload(300000, "b", 1)));
    must(client.put("a", payload(200, "a", 2)));
    must(client.remove(first));
    must(client.put_many(std::vector<PutItem>{{"c", {}}, {"d", {}}}));
    must(client.remove("before"));
    const std::vector<std::string> expected{"sealed a@1",  "sealed b@1", "sealed a@2",
                                            "removed a@1", "sealed c@1", "sealed d@1",
                                            "removed before@1"};
    std::vector<Event> events;
    while (events.size() < expected.size())
      for (Event& event : must(subscription.next(long_enough))) events.push_back(std::move(event));
    REQUIRE(events.size() == expected.size());
    for (std::size_t i = 0; i < events.size(); ++i) CHECK(shown_event(events[i]) == expected[i]);
    CHECK(events[0].serial == first.serial);
    CHECK(events[0].size == 100);
    CHECK(events[0].cause == RemovalCause::none);
    CHECK(events[1].serial == second.serial);
    CHECK(events[1].size == 300000);
    CHECK(events[3].serial == first.serial);
    CHECK(events[3].size == 100);
    CHECK(events[3].cause == RemovalCause::removed);
    CHECK(events[0].missed == 0);
  }

  TEST_CASE("only ids with the prefix count, bytewise") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Subscription steps = must(client.subscribe("step/"));
    Subscription all = must(client.subscribe(""));
    Subscription odd = must(client.subscribe(std::string("\0\xff", 2)));
    const std::string strange("\0\xff/x", 4);
    for (const std::string& id : {std::string("step"), std::string("step/1"), std::string("Step/2"),
                                  std::string("other"), std::string("step/2"), strange})
      must(client.put(id, payload(10, id, 1)));
    must(client.remove("other"));
    must(client.remove("step/1"));
    CHECK(next_events(steps, 3) ==
          std::vector<std::string>{"sealed step/1@1", "sealed step/2@1", "removed step/1@1"});
    CHECK(next_events(odd, 1) == std::vector<std::string>{"sealed " + strange + "@1"});
    CHECK(next_events(all, 8).size() == 8);
    CHECK(outcome(client.subscribe(std::string(255, 'x'))) == "ok");
    CHECK(outcome(client.subscribe(std::string(256, 'x'))) == "bad_argument");
  }

  TEST_CASE("a subscriber sees the events of a process that works meanwhile, all and in order") {
    DaemonProcess daemon;
    constexpr std::uint64_t last = 3000;
    ChildProcess writer([&](Moments& moments) {
      Client client = daemon.connect();
      moments.reached();
      moments.wait();
      for (std::uint64_t version = 1; version <= last; ++version) {
        must(client.put("steps", payload(20, "steps", version)));
        if (version > 1) must(client.remove("steps", version - 1));
      }
    });
    writer.await();
    const Client client = daemon.connect();
    Subscription subscription = must(client.subscribe("st"));
    writer.release();
    const auto events = next_events(subscription, 2 * last - 1);
    std::size_t at = 0;
    for (std::uint64_t version = 1; version <= last; ++version) {
      REQUIRE(events[at++] == "sealed steps@" + std::to_string(version));
      if (version > 1) REQUIRE(events[at++] == "removed steps@" + std::to_string(version - 1));
    }
    CHECK(writer.join() == 0);
  }

  TEST_CASE("nothing is told of a create that was aborted") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Subscription subscription = must(client.subscribe(""));
    {
      Builder builder = must(client.create("a", 1000));
      must(builder.abort());
    }
    must(client.put("b", payload(10, "b", 1)));
    CHECK(next_events(subscription, 1) == std::vector<std::string>{"sealed b@1"});
  }

  TEST_CASE("next waits no longer than it may, and says for what") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Subscription subscription = must(client.subscribe("step/"));
    must(client.put("other", payload(10, "other", 1)));
    for (const milliseconds timeout : {milliseconds(0), milliseconds(1), milliseconds(200)}) {
      const auto start = Clock::now();
      const auto events = subscription.next(timeout);
      CHECK(outcome(events) == "timed_out");
      CHECK(why(events).find("'step/'") != std::string::npos);
      CHECK(why(events).find(std::to_string(timeout.count()) + " ms") != std::string::npos);
      CHECK(Clock::now() - start >= timeout);
      CHECK(Clock::now() - start < timeout + slack);
    }
    CHECK(outcome(subscription.next(milliseconds(-1))) == "bad_argument");
    std::thread putter([&] { must(client.put("step/1", payload(10, "step/1", 1))); });
    CHECK(next_events(subscription, 1) == std::vector<std::string>{"sealed step/1@1"});
    putter.join();
  }

  TEST_CASE("the descriptor is readable when there is something, and only then") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Subscription subscription = must(client.subscribe("step/"));
    const int fd = subscription.fd();
    must(client.put("other", payload(10, "other", 1)));
    must(client.status());
    CHECK_FALSE(readable(subscription));
    CHECK(must(subscription.poll()).empty());
    for (int i = 0; i < 3; ++i) {
      const std::string id = "step/" + std::to_string(i);
      must(client.put(id, payload(10, id, 1)));
      CHECK(eventually([&] { return readable(subscription); }));
      const auto events = must(subscription.poll());
      REQUIRE(events.size() == 1);
      CHECK(shown_event(events[0]) == "sealed " + id + "@1");
      must(client.status());
      CHECK_FALSE(readable(subscription));
    }
    CHECK(subscription.fd() == fd);
  }

  TEST_CASE("a cursor is a text and back, and nothing else is one") {
    EventCursor cursor;
    for (std::size_t i = 0; i < cursor.store.size(); ++i)
      cursor.store[i] = static_cast<std::uint8_t>(17 * i);
    cursor.number = 18446744073709551615U;
    const std::string text = cursor.to_string();
    CHECK(text == "00112233-4455-6677-8899-aabbccddeeff:18446744073709551615");
    CHECK(must(EventCursor::parse(text)) == cursor);
    CHECK(must(EventCursor::parse(EventCursor{}.to_string())) == EventCursor{});
    for (const std::string& wrong :
         {std::string(), std::string(":"), text + "0", text + " ", " " + text,
          text.substr(0, text.find(':')), text.substr(0, text.find(':') + 1),
          text.substr(text.find(':')), std::string("00112233445566778899aabbccddeeff:1"),
          std::string("00112233-4455-6677-8899-aabbccddeeff:01"),
          std::string("00112233-4455-6677-8899-aabbccddeeff:-1"),
          std::string("00112233-4455-6677-8899-AABBCCDDEEFF:1"),
          std::string("00112233-4455-6677-8899-aabbccddeefg:1"),
          std::string("00112233-4455-6677-8899-aabbccddeeff00:1")}) {
      CAPTURE(wrong);
      CHECK(outcome(EventCursor::parse(wrong)) == "bad_argument");
    }
  }

  TEST_CASE("whoever stores the cursor goes on behind the last event that it was given") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    std::string stored;
    {
      Subscription subscription = must(client.subscribe("s/"));
      must(client.put("s/1", payload(10, "s/1", 1)));
      CHECK(next_events(subscription, 1) == std::vector<std::string>{"sealed s/1@1"});
      must(client.put("s/2", payload(10, "s/2", 1)));
      // It has come, but was not returned.
      CHECK(eventually([&] { return readable(subscription); }));
      stored = subscription.cursor().to_string();
    }
    must(client.put("s/3", payload(10, "s/3", 1)));
    must(client.put("other", payload(10, "other", 1)));
    for (int round = 0; round < 2; ++round) {
      const Client again = daemon.connect();
      Subscription subscription = must(again.subscribe("s/", must(EventCursor::parse(stored))));
      CHECK(subscription.cursor().to_string() == stored);
      CHECK(eventually([&] { return readable(subscription); }));
      CHECK(next_events(subscription, 2) ==
            std::vector<std::string>{"sealed s/2@1", "sealed s/3@1"});
    }
  }

  TEST_CASE("a subscription survives the daemon, and is told exactly how much was forgotten with it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Subscription subscription = must(client.subscribe("s/"));
    const int fd = subscription.fd();
    const std::string at_first = subscription.cursor().to_string();
    for (int round = 0; round < 3; ++round) {
      CAPTURE(round);
      const std::string id = "s/" + std::to_string(round);
      must(client.put(id, payload(10, id, 1)));
      CHECK(next_events(subscription, 1) == std::vector<std::string>{"sealed " + id + "@1"});
      const auto before = subscription.cursor();
      if (round == 1) {
        // Nobody looks before the daemon dies, but the answer has come.
        for (int i = 0; i < 7; ++i) must(client.put("other", payload(10, "other", 1)));
        must(client.put("s/x", payload(10, "s/x", 1)));
        CHECK(eventually([&] { return readable(subscription); }));
      }
      daemon.kill();
      CHECK(outcome(subscription.next(milliseconds(20))) ==
            (round == 1 ? "ok" : "disconnected"));
      daemon.start();
      if (round == 1) CHECK(subscription.cursor() != before);
      CHECK(subscription.fd() == fd);
    }
    must(client.put("s/end", payload(10, "s/end", 1)));
    CHECK(next_events(subscription, 1) == std::vector<std::string>{"sealed s/end@1"});

    // What the daemons before this one had seen is forgotten: 12 events since the first cursor.
    Subscription again =
        must(client.subscribe("s/", must(EventCursor::parse(at_first))));
    CHECK(next_events(again, 2) == std::vector<std::string>{"missed 11", "sealed s/end@1"});
  }

  TEST_CASE("a cursor of another store, or of what has not happened yet, is refused") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const EventCursor here = must(client.subscribe("")).cursor();
    CHECK(here.store == client.store());
    EventCursor elsewhere = here;
    elsewhere.store[3] ^= 1U;
    CHECK(outcome(client.subscribe("", elsewhere)) == "wrong_store");
    EventCursor beyond = here;
    beyond.number += 1;
    CHECK(outcome(client.subscribe("", beyond)) == "bad_argument");
    CHECK(outcome(client.subscribe("", here)) == "ok");
  }

  TEST_CASE("when the daemon comes back with another store, the subscription has ended for good") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Subscription subscription = must(client.subscribe(""));
    daemon.kill();
    daemon.start({.arguments = {"--fresh"}});
    CHECK(outcome(subscription.next(long_enough)) == "wrong_store");
    must(client.put("a", payload(10, "a", 1)));
    CHECK(outcome(subscription.next(long_enough)) == "wrong_store");
    CHECK(outcome(subscription.poll()) == "wrong_store");
    CHECK_FALSE(readable(subscription));
    CHECK(outcome(client.subscribe("")) == "ok");
  }

  TEST_CASE("a subscriber that is too slow is told how many events it missed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Subscription slow = must(client.subscribe("s/"));
    Subscription other = must(client.subscribe("never/"));
    constexpr std::size_t count = 70000;
    put_and_remove(client, "s/", count);
    must(client.put("s/end", payload(8, "end", 1)));
    const Told told = told_until(slow, "s/end");
    CHECK(told.missed + told.events == 2 * count + 1);
    CHECK(told.missed > 0);
    CHECK(told.events >= remembered);
    // One that waits has looked at them all, and missed none.
    CHECK(outcome(other.next(milliseconds(0))) == "timed_out");
    must(client.put("never/say", payload(8, "never/say", 1)));
    CHECK(next_events(other, 1) == std::vector<std::string>{"sealed never/say@1"});
  }

  TEST_CASE("subscribers that never read cost the daemon neither time nor memory") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::size_t count = 5000;
    const auto timed = [&](const std::string& prefix) {
      const auto start = Clock::now();
      put_and_remove(client, prefix, count);
      return Clock::now() - start;
    };
    timed("warm/");
    const auto alone = timed("alone/");
    std::vector<Subscription> mute;
    for (int i = 0; i < 50; ++i) mute.push_back(must(client.subscribe("")));
    const auto watched = timed("watched/");
    // Far apart, so that a busy machine does not decide it.
    CHECK(watched < 5 * alone + slack);
    // Each is owed one answer, of one event or a few, and can still catch up.
    for (Subscription& subscription : mute) {
      const auto events = must(subscription.next(long_enough));
      REQUIRE_FALSE(events.empty());
      CHECK(shown_event(events[0]) == "sealed watched/0@1");
      CHECK(events.size() < count);
    }
    CHECK(Status(client)["segments"] == 0);
  }

  TEST_CASE("closing the client ends a subscription that waits") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Subscription subscription = must(client.subscribe(""));
    std::string ended;
    const auto start = Clock::now();
    std::thread waiting([&] { ended = outcome(subscription.next(long_enough)); });
    client.close();
    waiting.join();
    CHECK(Clock::now() - start < slack);
    CHECK(ended == "bad_state");
    CHECK(outcome(subscription.poll()) == "bad_state");
    CHECK(outcome(client.subscribe("")) == "bad_state");
  }

  TEST_CASE("without a daemon, next fails with disconnected, and poll with nothing") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    Subscription subscription = must(client.subscribe(""));
    daemon.kill();
    const auto start = Clock::now();
    CHECK(outcome(subscription.next(milliseconds(100))) == "disconnected");
    CHECK(Clock::now() - start >= milliseconds(100));
    for (int i = 0; i < 20; ++i) CHECK(must(subscription.poll()).empty());
    CHECK(Clock::now() - start < slack);
    daemon.start();
    Client other = daemon.connect();
    must(other.put("a", payload(10, "a", 1)));
    CHECK(next_events(subscription, 1) == std::vector<std::string>{"sealed a@1"});
  }

  TEST_CASE("a forked child can neither use nor disturb its parent's subscription") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    auto subscription = std::make_unique<Subscription>(must(client.subscribe("")));
    ChildProcess child([&](Moments&) {
      require(outcome(subscription->next(long_enough)) == "bad_state", "next in a child");
      require(outcome(subscription->poll()) == "bad_state", "poll in a child");
      subscription.reset();
      Subscription own = must(client.subscribe(""));
      must(client.put("child", payload(10, "child", 1)));
      require(next_events(own, 1)[0] == "sealed child@1", "the child's own subscription");
    });
    CHECK(child.join() == 0);
    must(client.put("parent", payload(10, "parent", 1)));
    CHECK(next_events(*subscription, 2) ==
          std::vector<std::string>{"sealed child@1", "sealed parent@1"});
  }
}

}  // namespace
}  // namespace forebay::test
