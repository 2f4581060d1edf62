// SPDX-License-Identifier: Apache-2.0
// A store without room: who is told what, who waits, and what may be dropped.
#include <doctest/doctest.h>
#include <unistd.h>

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

constexpr std::size_t mebibytes = 1024 * 1024;
constexpr seconds slack{5};

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

TEST_SUITE("full") {
  TEST_CASE("what would not fit into an empty store either is too large, and both sizes are named") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    const auto create = client.create("a", 17 * mebibytes);
    CHECK(outcome(create) == "too_large");
    CHECK(mentions(why(create), "17 MiB"));
    CHECK(mentions(why(create), "16 MiB"));
    CHECK(outcome(client.put("a", payload(16 * mebibytes + 1, "a", 1))) == "too_large");
    for (const std::uint64_t size : {1ULL << 40U, 1ULL << 63U, ~0ULL, ~0ULL - 4095, ~0ULL - 100})
      CHECK(outcome(client.create("a", size)) == "too_large");
    CHECK(outcome(client.create("a", ~0ULL, {.timeout = seconds(60)})) == "too_large");
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a segment may take the whole store") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (std::uint64_t round = 0; round < 3; ++round) {
      must(client.put("a", payload(16 * mebibytes, "a", round)));
      CHECK(wrong_bytes(must(client.get("a")).bytes(), 16 * mebibytes, "a", round) == "");
      CHECK(outcome(client.put("b", payload(1, "b", 1))) == "store_full");
      must(client.remove("a"));
    }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a full store says how much was asked for, how much is free, and who holds how much") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("a", payload(5 * mebibytes, "a", 1)));
    must(client.put("b", payload(4 * mebibytes, "b", 1)));
    ChildProcess reader([&](Moments& moments) {
      const Client own = daemon.connect();
      const View view = must(own.get("a"));
      moments.reached();
      moments.wait();
    });
    reader.await();
    const View own = must(client.get("b"));
    const auto start = Clock::now();
    const auto put = client.put("c", payload(8 * mebibytes, "c", 1));
    CHECK(Clock::now() - start < slack);
    REQUIRE(outcome(put) == "store_full");
    const std::string text = why(put);
    CAPTURE(text);
    CHECK(mentions(text, "8 MiB asked"));
    CHECK(mentions(text, "'c'"));
    CHECK(mentions(text, "7 MiB of 16 MiB free"));
    CHECK(mentions(text, "5 MiB pinned by pid " + std::to_string(reader.pid()) +
                             " (process_tests)"));
    CHECK(mentions(text, "4 MiB pinned by pid " + std::to_string(::getpid()) + " (process_tests)"));
    CHECK(outcome(client.get("c")) == "not_found");
    CHECK(Status(client)["creating"] == 0);
    reader.kill();
  }

  TEST_CASE("what is not evictable is never dropped, pinned or not") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (std::uint64_t i = 1; i <= 3; ++i) must(client.put("a", payload(5 * mebibytes, "a", i)));
    CHECK(outcome(client.put("b", payload(5 * mebibytes, "b", 1))) == "store_full");
    CHECK(outcome(client.put("b", payload(5 * mebibytes, "b", 1), {.evictable = true})) ==
          "store_full");
    for (std::uint64_t i = 1; i <= 3; ++i)
      CHECK(wrong_bytes(must(client.get("a", {.version = i})).bytes(), 5 * mebibytes, "a", i) ==
            "");
  }

  TEST_CASE("a put that may wait gets the room that another process gives up") {
    DaemonProcess daemon({.capacity = "16MiB"});
    for (const bool by_death : {false, true}) {
      CAPTURE(by_death);
      ChildProcess reader([&](Moments& moments) {
        Client own = daemon.connect();
        must(own.put("a", payload(10 * mebibytes, "a", 1)));
        View view = must(own.get("a"));
        must(own.remove("a"));
        moments.reached();
        moments.wait();
        view.release();
        moments.reached();
        moments.wait();
      });
      reader.await();
      Client client = daemon.connect();
      const Client observer = daemon.connect();
      std::thread releaser([&] {
        CHECK(status_becomes(observer, "parked_creates", 1) == 1);
        if (by_death) {
          reader.kill();
        } else {
          reader.release();
        }
      });
      const auto put =
          client.put("b", payload(10 * mebibytes, "b", 1), {.timeout = seconds(20)});
      releaser.join();
      CHECK(outcome(put) == "ok");
      CHECK(wrong_bytes(must(client.get("b")).bytes(), 10 * mebibytes, "b", 1) == "");
      must(client.remove("b"));
    }
  }

  TEST_CASE("puts that wait for room get it by removes, small and large, one after the other") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (int i = 0; i < 8; ++i)
      must(client.put("a/" + std::to_string(i), payload(2 * mebibytes, "a", 1)));
    std::vector<ChildProcess*> writers;
    for (int i = 0; i < 4; ++i)
      writers.push_back(new ChildProcess([&, i](Moments&) {
        Client own = daemon.connect();
        const std::string id = "w/" + std::to_string(i);
        const std::size_t size = i % 2 == 0 ? 1000 : 3 * mebibytes;
        must(own.put(id, payload(size, id, 1), {.timeout = seconds(60)}));
      }));
    CHECK(status_becomes(client, "parked_creates", 4) == 4);
    for (int i = 0; i < 8; ++i) must(client.remove("a/" + std::to_string(i)));
    for (ChildProcess* writer : writers) {
      CHECK(writer->join() == 0);
      delete writer;
    }
    for (int i = 0; i < 4; ++i) {
      const std::string id = "w/" + std::to_string(i);
      CHECK(wrong_bytes(must(client.get(id)).bytes(), i % 2 == 0 ? 1000 : 3 * mebibytes, id, 1) ==
            "");
    }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a put that waited in vain says store_full, on time and never early") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("a", payload(10 * mebibytes, "a", 1)));
    for (const std::size_t size : {7 * mebibytes, std::size_t{10 * mebibytes}}) {
      const auto start = Clock::now();
      const auto put = client.put("b", payload(size, "b", 1), {.timeout = milliseconds(300)});
      const auto took = Clock::now() - start;
      CHECK(outcome(put) == "store_full");
      CHECK(took >= milliseconds(300));
      CHECK(took < milliseconds(300) + slack);
    }
    CHECK(Status(client)["parked_creates"] == 0);
    CHECK(Status(client)["creating"] == 0);
    CHECK(outcome(client.put("b", payload(100, "b", 1))) == "ok");
  }

  TEST_CASE("the wait for room of a killed process ends with it") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("a", payload(10 * mebibytes, "a", 1)));
    ChildProcess writer([&](Moments&) {
      Client own = daemon.connect();
      (void)own.put("b", payload(10 * mebibytes, "b", 1), {.timeout = std::chrono::hours(1)});
    });
    CHECK(status_becomes(client, "parked_creates", 1) == 1);
    writer.kill();
    CHECK(status_becomes(client, "parked_creates", 0, slack) == 0);
    CHECK(Status(client)["creating"] == 0);
    CHECK(outcome(client.put("b", payload(10, "b", 1), {.version = 1})) == "ok");
  }

  TEST_CASE("evictable segments make room, the longest unused first, and say that they were evicted") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (int i = 0; i < 5; ++i) {
      const std::string id = "e/" + std::to_string(i);
      must(client.put(id, payload(3 * mebibytes, id, 1), {.evictable = true}));
    }
    // Used just now: goes last.
    must(client.get("e/0"));
    must(client.put("new", payload(6 * mebibytes, "new", 1)));
    CHECK(wrong_bytes(must(client.get("new")).bytes(), 6 * mebibytes, "new", 1) == "");
    CHECK(outcome(client.get("e/1")) == "evicted");
    CHECK(outcome(client.get("e/1", {.version = 1})) == "evicted");
    CHECK(mentions(why(client.get("e/1")), "e/1"));
    CHECK_FALSE(must(client.contains("e/1")));
    CHECK(must(client.list("e/1")).segments.empty());
    CHECK(outcome(client.get("e/0")) == "ok");
    CHECK(outcome(client.get("e/4")) == "ok");
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("small evictable segments make room, too") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    const auto id = [](std::uint64_t i) { return "e/" + std::to_string(i); };
    constexpr std::uint64_t count = 6000;
    for (std::uint64_t i = 0; i < count; ++i)
      REQUIRE(outcome(client.put(id(i), payload(10000, id(i), 1), {.evictable = true})) == "ok");
    std::uint64_t there = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto view = client.get(id(i));
      if (!view) {
        REQUIRE(outcome(view) == "evicted");
        continue;
      }
      REQUIRE(wrong_bytes(view->bytes(), 10000, id(i), 1) == "");
      ++there;
    }
    CHECK(there > 500);
    CHECK(there < 1700);
    CHECK(must(client.put("large", payload(12 * mebibytes, "large", 1))).version == 1);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a pinned evictable segment is not dropped") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("pinned", payload(6 * mebibytes, "pinned", 1), {.evictable = true}));
    must(client.put("free", payload(6 * mebibytes, "free", 1), {.evictable = true}));
    const View view = must(client.get("pinned"));
    must(client.put("new", payload(8 * mebibytes, "new", 1)));
    CHECK(outcome(client.get("free")) == "evicted");
    CHECK(wrong_bytes(view.bytes(), 6 * mebibytes, "pinned", 1) == "");
    CHECK(outcome(client.get("pinned")) == "ok");
    CHECK(outcome(client.put("newer", payload(8 * mebibytes, "newer", 1))) == "store_full");
    CHECK(outcome(client.get("pinned")) == "ok");
  }

  TEST_CASE("a put that waits for room gets that of an evictable segment once its pin ends") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("e", payload(10 * mebibytes, "e", 1), {.evictable = true}));
    View view = must(client.get("e"));
    const Client observer = daemon.connect();
    std::thread releaser([&] {
      CHECK(status_becomes(observer, "parked_creates", 1) == 1);
      view.release();
    });
    const auto put = client.put("new", payload(10 * mebibytes, "new", 1), {.timeout = seconds(20)});
    releaser.join();
    CHECK(outcome(put) == "ok");
    CHECK(outcome(client.get("e")) == "evicted");
  }

  TEST_CASE("an evicted version can be put again, and is then got") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    const Ref old =
        must(client.put("e", payload(6 * mebibytes, "e", 1, 1), {.version = 4, .evictable = true}));
    must(client.put("x", payload(12 * mebibytes, "x", 1)));
    CHECK(outcome(client.get(old)) == "evicted");
    CHECK(outcome(client.get("e")) == "evicted");
    must(client.remove("x"));
    const Ref again = must(
        client.put("e", payload(5 * mebibytes, "e", 1, 2), {.version = 4, .exist_ok = true}));
    CHECK(wrong_bytes(must(client.get("e")).bytes(), 5 * mebibytes, "e", 1, 2) == "");
    CHECK(outcome(client.get(again)) == "ok");
    CHECK(outcome(client.get(old)) == "stale_ref");
  }

  TEST_CASE("an evicted newest version hides no older one, and the next number goes on behind it") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("e", payload(1 * mebibytes, "e", 1)));
    must(client.put("e", payload(6 * mebibytes, "e", 2), {.evictable = true}));
    must(client.put("x", payload(10 * mebibytes, "x", 1)));
    CHECK(outcome(client.get("e", {.version = 2})) == "evicted");
    CHECK(outcome(client.get("e", {.version = 1})) == "ok");
    must(client.remove("x"));
    CHECK(must(client.put("e", payload(10, "e", 3))).version == 3);
    CHECK(must(client.get("e")).version() == 3);
  }

  TEST_CASE("a tombstone may be removed, and then it is not found") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("e", payload(10 * mebibytes, "e", 1), {.evictable = true}));
    must(client.put("x", payload(10 * mebibytes, "x", 1)));
    CHECK(outcome(client.get("e")) == "evicted");
    (void)client.remove("e");
    CHECK(outcome(client.get("e")) == "not_found");
  }

  TEST_CASE("waiting for an evicted version again gets it when it is put again") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("e", payload(10 * mebibytes, "e", 1), {.evictable = true}));
    must(client.put("x", payload(10 * mebibytes, "x", 1)));
    // Evicted is an answer, not a reason to wait: who asks can make it again.
    const auto start = Clock::now();
    CHECK(outcome(client.get("e", {.timeout = seconds(20)})) == "evicted");
    CHECK(Clock::now() - start < slack);
  }

  TEST_CASE("readers and eviction race, and no reader ever sees wrong bytes") {
    DaemonProcess daemon({.capacity = "16MiB"});
    const auto id = [](std::uint64_t i) { return "r/" + std::to_string(i); };
    const auto size = [](std::uint64_t i) { return i % 3 == 0 ? 20000 : 700000 + i * 4096; };
    const auto read = [&](Moments& moments) {
      const Client own = daemon.connect();
      moments.reached();
      std::uint64_t number = static_cast<std::uint64_t>(::getpid());
      while (!must(own.contains("end"))) {
        number = mixed(number);
        const std::uint64_t i = number % 40;
        const auto view = own.get(id(i));
        if (!view) {
          require(outcome(view) == "evicted" || outcome(view) == "not_found", why(view));
          continue;
        }
        const std::string wrong = wrong_bytes(view->bytes(), size(i), id(i), view->version());
        require(wrong.empty(), wrong);
      }
    };
    ChildProcess one(read);
    ChildProcess two(read);
    one.await();
    two.await();
    Client client = daemon.connect();
    for (std::uint64_t round = 1; round <= 60; ++round)
      for (std::uint64_t i = 0; i < 40; ++i)
        REQUIRE(outcome(client.put(id(i), payload(size(i), id(i), round),
                                   {.version = round,
                                    .timeout = seconds(20),
                                    .evictable = true})) == "ok");
    must(client.put("end", payload(1, "end", 1), {.timeout = seconds(20)}));
    CHECK(one.join() == 0);
    CHECK(two.join() == 0);
    CHECK(adds_up(client) == "");
  }
}

}  // namespace
}  // namespace forebay::test
