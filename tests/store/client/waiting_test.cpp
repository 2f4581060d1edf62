// SPDX-License-Identifier: Apache-2.0
// get with a timeout: waits for what is not there yet, and not for longer.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr seconds long_enough{20};
// What "on time" allows a loaded machine. A wait that is never woken takes `long_enough`, or for ever.
constexpr seconds slack{5};

TEST_SUITE("waiting") {
  TEST_CASE("a get with a timeout gets what another process puts later") {
    DaemonProcess daemon;
    for (const std::size_t size : {std::size_t{100}, std::size_t{500000}}) {
      CAPTURE(size);
      const std::string id = "later/" + std::to_string(size);
      ChildProcess writer([&](Moments& moments) {
        Client client = daemon.connect();
        moments.reached();
        moments.wait();
        must(client.put(id, payload(size, id, 1)));
      });
      writer.await();
      const Client client = daemon.connect();
      const Client observer = daemon.connect();
      std::thread release([&] {
        // Not before the get is parked with the daemon.
        CHECK(status_becomes(observer, "waiters", 1) == 1);
        writer.release();
      });
      const auto start = Clock::now();
      const auto view = client.get(id, {.timeout = long_enough});
      const auto took = Clock::now() - start;
      release.join();
      REQUIRE(outcome(view) == "ok");
      CHECK(wrong_bytes(view->bytes(), size, id, 1) == "");
      CHECK(took < long_enough);
      CHECK(writer.join() == 0);
    }
  }

  TEST_CASE("a get with a timeout is woken by a seal, and not by the create") {
    DaemonProcess daemon;
    ChildProcess writer([&](Moments& moments) {
      Client client = daemon.connect();
      Builder builder = must(client.create("a", 300000));
      moments.reached();
      moments.wait();
      fill(builder.bytes(), "a", 1);
      must(builder.seal());
    });
    writer.await();
    const Client client = daemon.connect();
    CHECK(outcome(client.get("a", {.timeout = milliseconds(50)})) == "timed_out");
    const Client observer = daemon.connect();
    std::thread release([&] {
      CHECK(status_becomes(observer, "waiters", 1) == 1);
      writer.release();
    });
    const auto view = client.get("a", {.timeout = long_enough});
    release.join();
    REQUIRE(outcome(view) == "ok");
    CHECK(wrong_bytes(view->bytes(), 300000, "a", 1) == "");
    CHECK(writer.join() == 0);
  }

  TEST_CASE("a get with a timeout gets at once what is there") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(10, "a", 1)));
    const auto start = Clock::now();
    CHECK(outcome(client.get("a", {.timeout = long_enough})) == "ok");
    CHECK(Clock::now() - start < slack);
  }

  TEST_CASE("a wait for an exact version is not ended by another one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    std::thread putter([&] {
      CHECK(status_becomes(client, "waiters", 1) == 1);
      must(client.put("a", payload(100, "a", 1), {.version = 1}));
      must(client.put("a", payload(100, "a", 3), {.version = 3}));
      must(client.put("b", payload(100, "b", 2), {.version = 2}));
      CHECK(Status(client)["waiters"] == 1);
      must(client.put("a", payload(100, "a", 2), {.version = 2}));
    });
    const auto view = waiting.get("a", {.version = 2, .timeout = long_enough});
    putter.join();
    REQUIRE(outcome(view) == "ok");
    CHECK(view->version() == 2);
    CHECK(wrong_bytes(view->bytes(), 100, "a", 2) == "");
  }

  TEST_CASE("a wait for what comes after a version is not ended by that one or an older one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    must(client.put("a", payload(100, "a", 5), {.version = 5}));
    CHECK(outcome(waiting.get("a", {.after = 4})) == "ok");
    CHECK(outcome(waiting.get("a", {.after = 5})) == "not_found");
    std::thread putter([&] {
      CHECK(status_becomes(client, "waiters", 1) == 1);
      must(client.put("a", payload(100, "a", 3), {.version = 3}));
      CHECK(Status(client)["waiters"] == 1);
      must(client.put("a", payload(100, "a", 9), {.version = 9}));
    });
    const auto view = waiting.get("a", {.after = 5, .timeout = long_enough});
    putter.join();
    REQUIRE(outcome(view) == "ok");
    CHECK(view->version() == 9);
  }

  TEST_CASE("a reader that always waits for the next version misses none that it waits for") {
    DaemonProcess daemon;
    constexpr std::uint64_t last = 500;
    ChildProcess writer([&](Moments& moments) {
      Client client = daemon.connect();
      moments.reached();
      moments.wait();
      for (std::uint64_t version = 1; version <= last; ++version)
        must(client.put("steps", payload(200, "steps", version)));
    });
    writer.await();
    const Client client = daemon.connect();
    writer.release();
    std::uint64_t seen = 0;
    while (seen < last) {
      const View view = must(client.get("steps", {.after = seen, .timeout = long_enough}));
      REQUIRE(view.version() > seen);
      seen = view.version();
      REQUIRE(wrong_bytes(view.bytes(), 200, "steps", seen) == "");
    }
    CHECK(writer.join() == 0);
  }

  TEST_CASE("a timeout ends on time, and never early") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(10, "a", 1)));
    for (const milliseconds timeout : {milliseconds(1), milliseconds(30), milliseconds(250)}) {
      for (const GetOptions& options :
           {GetOptions{.timeout = timeout}, GetOptions{.version = 7, .timeout = timeout},
            GetOptions{.after = 1, .timeout = timeout}}) {
        const std::string id = options.after == 1 ? "a" : "b";
        const auto start = Clock::now();
        const auto view = client.get(id, options);
        const auto took = Clock::now() - start;
        CHECK(outcome(view) == "timed_out");
        CHECK(why(view).find("'" + id + "'") != std::string::npos);
        CHECK(took >= timeout);
        CHECK(took < timeout + slack);
      }
    }
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("without a timeout nothing waits") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    const auto start = Clock::now();
    CHECK(outcome(client.get("a")) == "not_found");
    CHECK(outcome(client.get("a", {.after = 3})) == "not_found");
    CHECK(Clock::now() - start < slack);
  }

  TEST_CASE("one seal wakes all who wait for it, in several processes and threads") {
    DaemonProcess daemon;
    const auto wait_for_it = [&](Moments&) {
      const Client client = daemon.connect();
      std::atomic<int> right{0};
      std::vector<std::thread> threads;
      for (int i = 0; i < 10; ++i)
        threads.emplace_back([&] {
          const auto view = client.get("a", {.timeout = long_enough});
          if (view && wrong_bytes(view->bytes(), 100000, "a", 1).empty()) ++right;
        });
      for (std::thread& thread : threads) thread.join();
      require(right == 10, "not all threads got it");
    };
    ChildProcess one(wait_for_it);
    ChildProcess two(wait_for_it);
    ChildProcess three(wait_for_it);
    Client client = daemon.connect();
    CHECK(status_becomes(client, "waiters", 30) == 30);
    must(client.put("a", payload(100000, "a", 1)));
    CHECK(one.join() == 0);
    CHECK(two.join() == 0);
    CHECK(three.join() == 0);
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("a thread that waits holds up no other thread of its client") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client observer = daemon.connect();
    std::thread waiting([&] {
      const auto view = client.get("late", {.timeout = long_enough});
      CHECK(outcome(view) == "ok");
    });
    CHECK(status_becomes(observer, "waiters", 1) == 1);
    const auto start = Clock::now();
    for (int i = 0; i < 100; ++i) {
      must(client.put("quick", payload(100, "quick", 1)));
      must(client.put("quick", payload(100000, "quick", 2)));
      must(client.get("quick"));
      must(client.remove("quick"));
    }
    CHECK(Clock::now() - start < long_enough / 2);
    CHECK(Status(observer)["waiters"] == 1);
    must(client.put("late", payload(10, "late", 1)));
    waiting.join();
  }

  TEST_CASE("the wait of a killed process ends with it") {
    DaemonProcess daemon;
    ChildProcess waiting([&](Moments&) {
      const Client client = daemon.connect();
      (void)client.get("never", {.timeout = std::chrono::hours(1)});
    });
    const Client observer = daemon.connect();
    CHECK(status_becomes(observer, "waiters", 1) == 1);
    waiting.kill();
    // A second, says the contract; the rest is for a loaded machine.
    CHECK(status_becomes(observer, "waiters", 0, slack) == 0);
  }

  TEST_CASE("a wait for a removed ref ends at once: its segment never comes back") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = must(client.put("a", payload(10, "a", 1)));
    must(client.remove(ref));
    const auto start = Clock::now();
    CHECK(outcome(client.get(ref, {.timeout = long_enough})) == "stale_ref");
    CHECK(Clock::now() - start < slack);
  }

  TEST_CASE("an endless timeout is one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client observer = daemon.connect();
    std::thread putter([&] {
      CHECK(status_becomes(observer, "waiters", 1) == 1);
      must(client.put("a", payload(10, "a", 1)));
    });
    CHECK(outcome(client.get("a", {.timeout = Timeout::max()})) == "ok");
    putter.join();
  }

  TEST_CASE("closing the client ends its other threads' waits") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client observer = daemon.connect();
    std::string ended;
    std::thread waiting([&] { ended = outcome(client.get("never", {.timeout = long_enough})); });
    CHECK(status_becomes(observer, "waiters", 1) == 1);
    const auto start = Clock::now();
    client.close();
    waiting.join();
    CHECK(Clock::now() - start < slack);
    CHECK(ended == "bad_state");
  }
}

}  // namespace
}  // namespace forebay::test
