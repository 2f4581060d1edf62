// SPDX-License-Identifier: Apache-2.0
// claim and get_or_create: one makes a version, and the others wait for it.
#include "store/claim.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "store/client.h"
#include "store/units.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/shared.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;
using Counter = std::atomic<int>;

constexpr seconds slack{5};  // for "at once" and "within a second" on a loaded machine
constexpr std::size_t small = 500;
constexpr std::size_t large = 300'000;
// Long enough for whatever should happen, and short enough that what hangs fails the test.
constexpr ClaimOptions patient{.timeout = seconds(20)};

Claim claimed(Result<ViewOrClaim> result) {
  ViewOrClaim got = must(std::move(result));
  require(std::holds_alternative<Claim>(got), "there is a version already, and no claim");
  return std::get<Claim>(std::move(got));
}
View viewed(Result<ViewOrClaim> result) {
  ViewOrClaim got = must(std::move(result));
  require(std::holds_alternative<View>(got), "a claim, and no version");
  return std::get<View>(std::move(got));
}
// "view", "claim", or the name of the error.
std::string kind(const Result<ViewOrClaim>& result) {
  if (!result) return outcome(result);
  return std::holds_alternative<View>(*result) ? "view" : "claim";
}

Loader loader_of(const std::string& id, std::size_t size, Counter& runs, std::uint64_t version = 1) {
  return [=, &runs]() -> Result<Loaded> {
    ++runs;
    return Loaded{.bytes = payload(size, id, version)};
  };
}
// For calls that must not come so far.
Result<Loaded> never() { return fail(Errc::bad_state, "a second loader ran"); }

std::uint64_t waiting(const Client& client) { return Status(client)["waiting_claims"]; }
void await_waiting(const Client& client, std::uint64_t count) {
  const std::uint64_t last = status_becomes(client, "waiting_claims", count);
  require(last == count, std::to_string(last) + " wait for a claim, not " + std::to_string(count));
}

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

// Asks in a thread. When the constructor returns, it waits.
class Asking {
 public:
  Asking(Client& client, const Client& observer, const std::string& id,
         const ClaimOptions& options = patient)
      : thread_([this, &client, id, options] { got_ = client.claim(id, options); }) {
    await_waiting(observer, ++count_);
  }
  ~Asking() { (void)get(); }
  Result<ViewOrClaim> get() {
    if (thread_.joinable()) {
      thread_.join();
      --count_;
    }
    return std::move(got_);
  }

 private:
  inline static std::uint64_t count_ = 0;  // of those that have been made and not been got
  Result<ViewOrClaim> got_ = fail(Errc::cancelled, "nothing yet");
  std::jthread thread_;  // the last, so that it ends before what it writes to goes
};

TEST_SUITE("claim") {
  TEST_CASE("whoever asks for what is not there gets the claim, makes it, and has it pinned") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    for (const std::size_t size : {0UL, small, large, 3 * mebibyte}) {
      CAPTURE(size);
      const std::string id = "a/" + std::to_string(size);
      Claim claim = claimed(client.claim(id));
      CHECK(claim.version() == 1);
      CHECK(outcome(other.get(id)) == "not_found");
      CHECK_FALSE(must(other.contains(id)));
      CHECK(must(other.list(id)).segments.empty());
      const View view = must(claim.put(payload(size, id, 1), {}));
      CHECK(view.version() == 1);
      CHECK(wrong_bytes(view.bytes(), size, id, 1) == "");
      CHECK(must(client.stat(id)).holders.at(0).pins == 1);
      // From now on it is there like any other.
      CHECK(wrong_bytes(must(other.get(id)).bytes(), size, id, 1) == "");
      CHECK(viewed(other.claim(id)).ref() == view.ref());
      CHECK(must(other.get_or_create(id, never)).ref() == view.ref());
    }
    CHECK(Status(client)["creating"] == 0);
  }

  TEST_CASE("a claim is made good by a builder as well") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {0UL, small, large}) {
      CAPTURE(size);
      for (const bool pinned : {false, true}) {
        Claim claim = claimed(client.claim("a"));
        Builder builder = must(claim.create(size, {.type = array_of<std::uint8_t>({size})}));
        CHECK(builder.version() == claim.version());
        CHECK(builder.bytes().size() == size);
        fill(builder.bytes(), "a", 1);
        CHECK(outcome(client.get("a")) == "not_found");
        if (pinned) {
          CHECK(must(builder.seal_and_get()).version() == 1);
        } else {
          CHECK(must(builder.seal()).version == 1);
        }
        const View view = viewed(client.claim("a"));
        CHECK(wrong_bytes(view.bytes(), size, "a", 1) == "");
        CHECK(must(view.type()) == array_of<std::uint8_t>({size}));
        must(client.remove("a"));
      }
    }
  }

  TEST_CASE("a claim is for the version that was asked for, whatever newer ones there are") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::uint64_t version : {1U, 2U, 4U})
      must(client.put("a", payload(small, "a", version), {.version = version}));
    CHECK(viewed(client.claim("a")).version() == 4);
    CHECK(viewed(client.claim("a", {.version = 2})).version() == 2);
    {
      Claim claim = claimed(client.claim("a", {.version = 3}));
      CHECK(claim.version() == 3);
      CHECK(must(claim.put(payload(small, "a", 3), {})).version() == 3);
    }
    CHECK(must(client.get("a")).version() == 4);
    {
      Claim claim = claimed(client.claim("a", {.version = 9}));
      CHECK(must(claim.put(payload(small, "a", 9), {})).version() == 9);
    }
    CHECK(viewed(client.claim("a")).version() == 9);
    for (const std::uint64_t version : {1U, 2U, 3U, 4U, 9U})
      CHECK(wrong_bytes(must(client.get("a", {.version = version})).bytes(), small, "a", version) ==
            "");
  }

  TEST_CASE("what a claim makes has the options that are given with it, and the claim's version") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {800UL, 80'000UL})
      for (const bool by_builder : {false, true}) {
        CAPTURE(size);
        CAPTURE(by_builder);
        const PutOptions options{.version = 77,
                                 .evictable = true,
                                 .persistent = true,
                                 .keep = 3,
                                 .ttl = seconds(1000),
                                 .type = array_of<double>({size / 8})};
        Claim claim = claimed(client.claim("a", {.version = 5}));
        if (by_builder) {
          must(must(claim.create(size, options)).seal());
        } else {
          CHECK(must(claim.put(payload(size, "a", 5), options)).version() == 5);
        }
        const SegmentStat stat = must(client.stat("a"));
        CHECK(stat.info.version == 5);
        CHECK(stat.info.evictable);
        CHECK(stat.info.persistent);
        CHECK(stat.info.type == options.type);
        CHECK(stat.keep == 3);
        CHECK(stat.expires_in);
        must(client.remove("a"));
      }
    Counter runs{0};
    const View loaded = must(client.get_or_create("b", [&]() -> Result<Loaded> {
      ++runs;
      return Loaded{.bytes = payload(800, "b", 1), .type = array_of<double>({10, 10})};
    }));
    CHECK(must(loaded.type()) == array_of<double>({10, 10}));
    CHECK(wrong_bytes(loaded.bytes(), 800, "b", 1) == "");
    CHECK(runs == 1);
  }

  TEST_CASE("while one thread of a process makes a version, its others wait, and get it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client observer = daemon.connect();
    constexpr std::size_t count = 16;
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      const std::string id = "a/" + std::to_string(size);
      Counter runs{0};
      Counter right{0};
      const Loader loader = [&]() -> Result<Loaded> {
        ++runs;
        // All others wait with the daemon, and none of them has begun to load.
        await_waiting(observer, count - 1);
        return Loaded{.bytes = payload(size, id, 1)};
      };
      std::vector<std::jthread> threads;
      for (std::size_t i = 0; i < count; ++i)
        threads.emplace_back([&] {
          const auto view = client.get_or_create(id, loader, patient);
          if (view && wrong_bytes(view->bytes(), size, id, 1).empty()) ++right;
        });
      for (std::jthread& thread : threads) thread.join();
      CHECK(runs == 1);
      CHECK(right == count);
      CHECK(waiting(observer) == 0);
      CHECK(must(client.holders()).empty());
      CHECK(must(client.list(id)).segments.size() == 1);
    }
  }

  TEST_CASE("among threads of several processes the loader runs once") {
    DaemonProcess daemon;
    Shared<Counter> runs;
    constexpr int processes = 4;
    constexpr int threads_each = 4;
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      *runs = 0;
      const std::string id = "a/" + std::to_string(size);
      const auto ask = [&](Moments&) {
        Client own = daemon.connect();
        const Client observer = daemon.connect();
        const Loader loader = [&]() -> Result<Loaded> {
          ++*runs;
          await_waiting(observer, processes * threads_each - 1);
          return Loaded{.bytes = payload(size, id, 1)};
        };
        Counter right{0};
        std::vector<std::jthread> threads;
        for (int i = 0; i < threads_each; ++i)
          threads.emplace_back([&] {
            const auto view = own.get_or_create(id, loader, patient);
            if (view && wrong_bytes(view->bytes(), size, id, 1).empty()) ++right;
          });
        for (std::jthread& thread : threads) thread.join();
        require(right == threads_each, "not all threads got it");
      };
      std::vector<std::unique_ptr<ChildProcess>> children;
      for (int i = 0; i < processes; ++i) children.push_back(std::make_unique<ChildProcess>(ask));
      for (auto& child : children) CHECK(child->join() == 0);
      CHECK(*runs == 1);
      const Client client = daemon.connect();
      CHECK(waiting(client) == 0);
      CHECK(must(client.list(id)).segments.size() == 1);
    }
  }

  TEST_CASE("processes that race for many ids load each of them once") {
    DaemonProcess daemon;
    constexpr int ids = 300;
    Shared<std::array<Counter, ids>> runs;
    const auto ask = [&](Moments& moments) {
      Client own = daemon.connect();
      moments.reached();
      moments.wait();
      for (int i = 0; i < ids; ++i) {
        const std::string id = "race/" + std::to_string(i);
        const std::size_t size = i % 3 == 0 ? 70'000 : static_cast<std::size_t>(i);
        const View view = must(own.get_or_create(
            id, loader_of(id, size, (*runs)[static_cast<std::size_t>(i)]), patient));
        const std::string wrong = wrong_bytes(view.bytes(), size, id, 1);
        require(wrong.empty(), wrong);
      }
    };
    ChildProcess one(ask);
    ChildProcess two(ask);
    ChildProcess three(ask);
    for (ChildProcess* child : {&one, &two, &three}) child->await();
    for (ChildProcess* child : {&one, &two, &three}) child->release();
    for (ChildProcess* child : {&one, &two, &three}) CHECK(child->join() == 0);
    for (const Counter& count : *runs) REQUIRE(count == 1);
    const Client client = daemon.connect();
    CHECK(Status(client)["segments"] == ids);
    CHECK(Status(client)["creating"] == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("who waits for a claim does nothing meanwhile") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Claim claim = claimed(client.claim("a"));
    ChildProcess waiter([&](Moments&) {
      Client own = daemon.connect();
      const View view = viewed(own.claim("a", patient));
      require(view.version() == 1, "another version");
    });
    await_waiting(client, 1);
    // How often its only thread has gone to sleep: more often means that it woke up in between.
    const auto sleeps = [&] {
      std::ifstream status("/proc/" + std::to_string(waiter.pid()) + "/status");
      std::string word;
      std::uint64_t count = 0;
      while (status >> word)
        if (word == "voluntary_ctxt_switches:") status >> count;
      return count;
    };
    CHECK(eventually([&] {
      const std::uint64_t before = sleeps();
      const auto until = Clock::now() + milliseconds(600);
      (void)eventually([&] { return Clock::now() >= until; });
      return before > 0 && sleeps() - before <= 1;
    }, slack));
    must(claim.put(payload(small, "a", 1), {}));
    CHECK(waiter.join() == 0);
  }

  TEST_CASE("who asks by number and who asks for the next are asking for the same version") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    for (const bool exact_first : {false, true}) {
      CAPTURE(exact_first);
      Claim claim = claimed(client.claim("a", {.version = exact_first ? 1U : 0U}));
      CHECK(claim.version() == 1);
      Asking asking(other, client, "a",
                    {.version = exact_first ? 0U : 1U, .timeout = patient.timeout});
      must(claim.put(payload(small, "a", 1), {}));
      CHECK(viewed(asking.get()).version() == 1);
      must(client.remove("a"));
    }
  }

  TEST_CASE("claims of other ids and of other versions hold up nobody") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Claim one = claimed(client.claim("a", {.version = 1}));
    Claim two = claimed(client.claim("a", {.version = 2, .timeout = Timeout(0)}));
    Claim three = claimed(client.claim("b", {.timeout = Timeout(0)}));
    must(two.put(payload(large, "a", 2), {}));
    must(three.put(payload(small, "b", 1), {}));
    must(one.put(payload(small, "a", 1), {}));
    CHECK(Status(client)["segments"] == 3);
    // A loader may need what another loader makes.
    Counter runs{0};
    const View outer = must(client.get_or_create("outer", [&]() -> Result<Loaded> {
      ++runs;
      const View inner = must(client.get_or_create("inner", loader_of("inner", large, runs)));
      return Loaded{.bytes = {inner.bytes().begin(), inner.bytes().end()}};
    }));
    CHECK(runs == 2);
    CHECK(wrong_bytes(outer.bytes(), large, "inner", 1) == "");
  }

  TEST_CASE("what is removed is loaded again") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Counter runs{0};
    for (int round = 1; round <= 5; ++round) {
      for (int again = 0; again < 3; ++again)
        CHECK(must(client.get_or_create("a", loader_of("a", small, runs))).version() == 1);
      CHECK(runs == round);
      must(client.remove("a"));
    }
  }

  TEST_CASE("what was evicted may be claimed, and is made again") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (const std::uint64_t asked : {0U, 4U}) {
      CAPTURE(asked);
      must(client.put("e", payload(6 * mebibyte, "e", 4), {.version = 4, .evictable = true}));
      must(client.put("room", payload(12 * mebibyte, "room", 1)));
      REQUIRE(outcome(client.get("e")) == "evicted");
      must(client.remove("room"));
      Claim claim = claimed(client.claim("e", {.version = asked}));
      CHECK(claim.version() >= 4);
      if (asked != 0) CHECK(claim.version() == asked);
      must(claim.put(payload(large, "e", 4), {}));
      CHECK(wrong_bytes(must(client.get("e")).bytes(), large, "e", 4) == "");
      must(client.remove("e"));
    }
  }

  TEST_CASE("a claimed version is nobody's to put, and a get with a timeout waits for it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    Claim claim = claimed(client.claim("a", {.version = 3}));
    for (const std::size_t size : {small, large}) {
      CHECK(outcome(other.put("a", payload(size, "a", 3), {.version = 3})) == "conflict");
      CHECK(outcome(other.create("a", size, {.version = 3})) == "conflict");
      CHECK(outcome(other.put("a", payload(size, "a", 3), {.version = 3, .exist_ok = true})) ==
            "conflict");
    }
    std::jthread reader([&] {
      const auto view = other.get("a", {.timeout = seconds(20)});
      CHECK(outcome(view) == "ok");
    });
    CHECK(status_becomes(client, "waiters", 1) == 1);
    CHECK(Status(client)["waiting_claims"] == 0);
    must(claim.put(payload(small, "a", 3), {}));
    reader.join();
    CHECK(outcome(other.put("a", payload(small, "a", 3), {.version = 3})) == "exists");
  }

  TEST_CASE("when the loader fails, each of those who wait is told why, once, and then one may try") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client observer = daemon.connect();
    constexpr int threads_each = 3;
    const auto wait_for_it = [&](Moments& moments) {
      Client own = daemon.connect();
      const auto fails = [&](const std::string& what) {
        const auto view = own.get_or_create("a", never, patient);
        require(outcome(view) == "loader_failed", "it says " + outcome(view));
        require(mentions(why(view), what), "another reason: " + why(view));
      };
      Counter told{0};
      std::vector<std::jthread> threads;
      for (int i = 0; i < threads_each; ++i)
        threads.emplace_back([&] {
          try {
            fails("the disk is on fire");
            ++told;
          } catch (const std::exception& error) {
            std::fprintf(stderr, "child: %s\n", error.what());
          }
        });
      for (std::jthread& thread : threads) thread.join();
      require(told == threads_each, "not all were told");
      moments.reached();
      moments.wait();
    };
    ChildProcess one([&](Moments& moments) {
      moments.wait();
      wait_for_it(moments);
    });
    ChildProcess two([&](Moments& moments) {
      moments.wait();
      wait_for_it(moments);
    });
    const auto failed = client.get_or_create(
        "a",
        [&]() -> Result<Loaded> {
          one.release();
          two.release();
          await_waiting(observer, 2 * threads_each);
          return fail(Errc::denied, "the disk is on fire");
        },
        patient);
    // Its own error for who ran it.
    CHECK(outcome(failed) == "denied");
    CHECK(mentions(why(failed), "the disk is on fire"));
    one.await();
    two.await();
    CHECK(waiting(observer) == 0);
    CHECK(Status(observer)["creating"] == 0);
    CHECK(outcome(client.get("a")) == "not_found");
    // It is over: nothing of it is told to whoever comes later.
    Counter runs{0};
    CHECK(must(client.get_or_create("a", loader_of("a", small, runs))).version() == 1);
    CHECK(runs == 1);
    one.release();
    two.release();
    CHECK(one.join() == 0);
    CHECK(two.join() == 0);
  }

  TEST_CASE("a reason may be of any length, and of any bytes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    for (const std::string& reason :
         {std::string(), std::string("with \0 and \xff", 12), std::string(1000, 'r'),
          std::string(300'000, 'r')}) {
      CAPTURE(reason.size());
      Claim claim = claimed(client.claim("a"));
      Asking asking(other, client, "a");
      claim.fail(reason);
      const auto told = asking.get();
      CHECK(outcome(told) == "loader_failed");
      // As much of it as is of use to anybody.
      CHECK(mentions(why(told), reason.substr(0, 200)));
    }
    CHECK(outcome(client.get("a")) == "not_found");
    CHECK(kind(client.claim("a")) == "claim");
  }

  TEST_CASE("a claim that failed, was given up or was made good is over") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto is_over = [&](Claim& claim) {
      CHECK(outcome(claim.put(payload(small, "other", 1), {})) == "bad_state");
      CHECK(outcome(claim.put(payload(large, "other", 1), {})) == "bad_state");
      CHECK(outcome(claim.create(small, {})) == "bad_state");
      claim.fail("too late");
      claim.give_up();
      CHECK(claim.version() == 1);
    };
    Claim failed = claimed(client.claim("a"));
    failed.fail("no");
    Claim given_up = claimed(client.claim("a", {.timeout = Timeout(0)}));
    is_over(failed);
    given_up.give_up();
    Claim good = claimed(client.claim("a", {.timeout = Timeout(0)}));
    is_over(failed);
    is_over(given_up);
    must(good.put(payload(small, "a", 1), {}));
    for (Claim* claim : {&failed, &given_up, &good}) is_over(*claim);
    CHECK(wrong_bytes(must(client.get("a")).bytes(), small, "a", 1) == "");
    CHECK(Status(client)["segments"] == 1);
  }

  TEST_CASE("whoever gives up, in whatever way, lets one of those who wait take over") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    // For each a way in which the claim goes.
    const std::vector<std::pair<std::string, std::function<void(Claim)>>> ways{
        {"give_up", [](Claim claim) { claim.give_up(); }},
        {"destructor", [](Claim) {}},
        {"moved over",
         [&](Claim claim) {
           Claim another = claimed(client.claim("another"));
           claim = std::move(another);
           claim.give_up();
         }},
        {"builder aborted",
         [](Claim claim) {
           Builder builder = must(claim.create(large, {}));
           must(builder.abort());
         }},
        {"builder destroyed",
         [](Claim claim) { const Builder builder = must(claim.create(small, {})); }},
        {"builder aborted after the claim object has gone",
         [](Claim claim) {
           Builder builder = must(claim.create(large, {}));
           { const Claim gone = std::move(claim); }
           must(builder.abort());
         }},
    };
    for (const auto& [name, way] : ways) {
      CAPTURE(name);
      Claim claim = claimed(client.claim("a"));
      CHECK(claim.version() == 1);
      Asking first(other, client, "a");
      Asking second(client, other, "a");
      way(std::move(claim));
      // One of the two has the claim, and the other waits on.
      await_waiting(client, 1);
      std::atomic<bool> made{false};
      const auto go_on = [&](Asking& asking) {
        auto got = asking.get();
        if (kind(got) == "claim") {
          CHECK_FALSE(made.exchange(true));
          Claim mine = claimed(std::move(got));
          CHECK(mine.version() == 1);
          must(mine.put(payload(large, "a", 1), {}));
        } else {
          CHECK(kind(got) == "view");
        }
      };
      std::jthread one([&] { go_on(first); });
      std::jthread two([&] { go_on(second); });
      one.join();
      two.join();
      CHECK(made);
      CHECK(wrong_bytes(must(client.get("a")).bytes(), large, "a", 1) == "");
      CHECK(waiting(client) == 0);
      must(client.remove("a"));
    }
    CHECK(Status(client)["creating"] == 0);
    CHECK(must(client.holders()).empty());
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a claim stays when what it is for goes: its process may make the version all the same") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    Claim claim = claimed(client.claim("a"));
    Asking asking(other, client, "a");
    // Nothing is there to be removed; and what others put is another version.
    CHECK(outcome(other.remove("a")) == "not_found");
    CHECK(must(other.remove_prefix("")) == 0);
    must(claim.put(payload(small, "a", 1), {}));
    CHECK(viewed(asking.get()).version() == 1);
  }

  TEST_CASE("a put of a claim that fails leaves the claim, which may then be made good or fail") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client other = daemon.connect();
    const View rest = must([&]() -> Result<View> {
      must(client.put("rest", payload(10 * mebibyte, "rest", 1)));
      return client.get("rest");
    }());
    for (const bool made_good : {false, true}) {
      CAPTURE(made_good);
      Claim claim = claimed(client.claim("a"));
      Asking asking(other, client, "a");
      CHECK(outcome(claim.put(payload(8 * mebibyte, "a", 1), {})) == "store_full");
      CHECK(outcome(claim.put(payload(8 * mebibyte, "a", 1), {.timeout = milliseconds(30)})) ==
            "store_full");
      CHECK(outcome(claim.create(8 * mebibyte, {})) == "store_full");
      CHECK(outcome(claim.put(payload(20 * mebibyte, "a", 1), {})) == "too_large");
      CHECK(outcome(claim.put(payload(small, "a", 1), {.timeout = Timeout(-1)})) ==
            "bad_argument");
      CHECK(outcome(claim.put(payload(small, "a", 1), {.keep = keep_all + 1})) == "bad_argument");
      CHECK(waiting(client) == 1);
      CHECK(outcome(other.put("a", payload(small, "a", 1), {.version = 1})) == "conflict");
      if (made_good) {
        CHECK(must(claim.put(payload(mebibyte, "a", 1), {})).version() == 1);
        CHECK(wrong_bytes(viewed(asking.get()).bytes(), mebibyte, "a", 1) == "");
      } else {
        claim.fail("no room");
        const auto told = asking.get();
        CHECK(outcome(told) == "loader_failed");
        CHECK(mentions(why(told), "no room"));
      }
    }
  }

  TEST_CASE("when there is no room for what was loaded, who loaded it is told so, and the others too") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client other = daemon.connect();
    must(client.put("rest", payload(10 * mebibyte, "rest", 1)));
    Result<View> made = fail(Errc::cancelled, "nothing yet");
    Result<View> waited = fail(Errc::cancelled, "nothing yet");
    Counter runs{0};
    std::jthread second;
    made = client.get_or_create(
        "a",
        [&]() -> Result<Loaded> {
          ++runs;
          second = std::jthread([&] { waited = other.get_or_create("a", never, patient); });
          await_waiting(client, 1);
          return Loaded{.bytes = payload(8 * mebibyte, "a", 1)};
        },
        patient);
    second.join();
    CHECK(outcome(made) == "store_full");
    CHECK(outcome(waited) == "loader_failed");
    CHECK(runs == 1);
    CHECK(Status(client)["creating"] == 0);
    // And nobody is in the way of the next.
    CHECK(must(client.get_or_create("a", loader_of("a", small, runs))).version() == 1);
  }

  TEST_CASE("when the process that loads is killed, one of those who wait takes over") {
    DaemonProcess daemon;
    Shared<Counter> runs;
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      *runs = 0;
      const std::string id = "a/" + std::to_string(size);
      ChildProcess victim([&](Moments& moments) {
        Client own = daemon.connect();
        (void)own.get_or_create(id, [&]() -> Result<Loaded> {
          ++*runs;
          moments.reached();
          moments.wait();
          return fail(Errc::bad_state, "it should be dead");
        });
      });
      victim.await();
      const auto wait_for_it = [&](Moments&) {
        Client own = daemon.connect();
        const View view = must(own.get_or_create(id, loader_of(id, size, *runs), patient));
        require(view.version() == 1, "another version");
        const std::string wrong = wrong_bytes(view.bytes(), size, id, 1);
        require(wrong.empty(), wrong);
      };
      ChildProcess one(wait_for_it);
      ChildProcess two(wait_for_it);
      ChildProcess three(wait_for_it);
      const Client client = daemon.connect();
      await_waiting(client, 3);
      CHECK(*runs == 1);
      victim.kill();
      CHECK(one.join() == 0);
      CHECK(two.join() == 0);
      CHECK(three.join() == 0);
      CHECK(*runs == 2);
      CHECK(waiting(client) == 0);
      CHECK(must(client.list(id)).segments.size() == 1);
    }
  }

  TEST_CASE("when one loader after another is killed, each time the next takes over") {
    DaemonProcess daemon;
    Shared<Counter> runs;
    constexpr int count = 6;
    const auto ask = [&](Moments& moments) {
      Client own = daemon.connect();
      const View view = must(own.get_or_create("a", [&]() -> Result<Loaded> {
        if (++*runs < count) {
          moments.reached('l');
          moments.wait();
        }
        return Loaded{.bytes = payload(large, "a", 1)};
      }, patient));
      const std::string wrong = wrong_bytes(view.bytes(), large, "a", 1);
      require(wrong.empty(), wrong);
      require(*runs == count, "the version is there before the last has loaded it");
    };
    Client client = daemon.connect();
    std::vector<std::unique_ptr<ChildProcess>> children;
    for (int i = 0; i < count; ++i) {
      children.push_back(std::make_unique<ChildProcess>(ask));
      if (i == 0) CHECK(children[0]->await() == 'l');
      await_waiting(client, static_cast<std::uint64_t>(i));
    }
    // In order: whoever has waited longest is next.
    for (int i = 0; i < count - 1; ++i) {
      CAPTURE(i);
      CHECK(*runs == i + 1);
      children[static_cast<std::size_t>(i)]->kill();
      CHECK(eventually([&] { return *runs == i + 2; }, slack));
    }
    CHECK(children.back()->join() == 0);
    CHECK(*runs == count);
    CHECK(waiting(client) == 0);
  }

  TEST_CASE("the wait of a killed process ends with it, and the claim passes it by") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    Claim claim = claimed(client.claim("a"));
    ChildProcess waiter([&](Moments&) {
      Client own = daemon.connect();
      (void)own.claim("a");
    });
    await_waiting(client, 1);
    waiter.kill();
    CHECK(status_becomes(client, "waiting_claims", 0, slack) == 0);
    Asking asking(other, client, "a");
    claim.give_up();
    CHECK(kind(asking.get()) == "claim");
  }

  TEST_CASE("who waits for a claim waits as long as was said, and never shorter") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    Claim claim = claimed(client.claim("a"));
    Builder open = must(client.create("b", large));
    for (const std::string id : {"a", "b"})
      for (const milliseconds timeout : {milliseconds(0), milliseconds(1), milliseconds(200)}) {
        const auto start = Clock::now();
        const auto got = other.claim(id, {.timeout = timeout});
        const auto loaded = other.get_or_create(id, never, {.timeout = timeout});
        const auto took = Clock::now() - start;
        CHECK(outcome(got) == "timed_out");
        CHECK(outcome(loaded) == "timed_out");
        CHECK(mentions(why(got), "'" + id + "'"));
        CHECK(took >= 2 * timeout);
        CHECK(took < 2 * timeout + slack);
      }
    CHECK(waiting(client) == 0);
    must(claim.put(payload(small, "a", 1), {}));
    must(open.seal());
    CHECK(viewed(other.claim("a", {.timeout = Timeout(0)})).version() == 1);
    CHECK(viewed(other.claim("b", {.timeout = Timeout(0)})).version() == 1);
    // The longest timeout is as good as none.
    Claim next = claimed(client.claim("c", {.timeout = Timeout::max()}));
    Asking asking(other, client, "c", {.timeout = Timeout::max()});
    must(next.put(payload(small, "c", 1), {}));
    CHECK(viewed(asking.get()).version() == 1);
  }

  TEST_CASE("who asks for what somebody makes without a claim waits for that, or makes it then") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    for (const std::size_t size : {small, large})
      for (const std::uint64_t asked : {0U, 1U}) {
        CAPTURE(size);
        CAPTURE(asked);
        const ClaimOptions options{.version = asked, .timeout = patient.timeout};
        {
          Builder builder = must(client.create("a", size));
          Asking asking(other, client, "a", options);
          fill(builder.bytes(), "a", 1);
          must(builder.seal());
          CHECK(wrong_bytes(viewed(asking.get()).bytes(), size, "a", 1) == "");
          must(client.remove("a"));
        }
        {
          Builder builder = must(client.create("a", size));
          Asking asking(other, client, "a", options);
          must(builder.abort());
          Claim claim = claimed(asking.get());
          CHECK(claim.version() == 1);
          CHECK(wrong_bytes(must(claim.put(payload(size, "a", 1), {})).bytes(), size, "a", 1) ==
                "");
          must(client.remove("a"));
        }
        {
          ChildProcess builder([&](Moments& moments) {
            Client own = daemon.connect();
            const Builder open = must(own.create("a", size));
            moments.reached();
            moments.wait();
          });
          builder.await();
          Asking asking(other, client, "a", options);
          builder.kill();
          CHECK(claimed(asking.get()).version() == 1);
        }
      }
    CHECK(Status(client)["creating"] == 0);
  }

  TEST_CASE("in a forked child the parent's claim is nobody's, and the child's end leaves it be") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    Claim claim = claimed(client.claim("a"));
    Asking asking(other, client, "a");
    {
      ChildProcess child([&](Moments&) {
        require(outcome(claim.put(payload(small, "x", 1), {})) == "bad_state",
                "the child puts what its parent is to make");
        require(outcome(claim.create(large, {})) == "bad_state",
                "the child creates what its parent is to make");
        claim.fail("from the child");
        claim.give_up();
        Client own = daemon.connect();
        require(outcome(own.claim("a", {.timeout = Timeout(0)})) == "timed_out",
                "the child may claim what its parent has claimed");
        const Claim gone = std::move(claim);
      });
      CHECK(child.join() == 0);
    }
    CHECK(waiting(client) == 1);
    CHECK(must(claim.put(payload(small, "a", 1), {})).version() == 1);
    CHECK(viewed(asking.get()).version() == 1);
  }

  TEST_CASE("closing a client ends its waits, and lets others have its claims") {
    DaemonProcess daemon;
    Client observer = daemon.connect();
    Client holder = daemon.connect();
    Client waiter = daemon.connect();
    Client next = daemon.connect();
    Claim claim = claimed(holder.claim("a"));
    Asking closed(waiter, observer, "a");
    Asking patient_one(next, observer, "a");
    waiter.close();
    CHECK(outcome(closed.get()) == "bad_state");
    CHECK(waiting(observer) == 1);
    holder.close();
    CHECK(outcome(claim.put(payload(small, "a", 1), {})) == "bad_state");
    CHECK(outcome(holder.claim("a")) == "bad_state");
    CHECK(outcome(holder.get_or_create("a", never)) == "bad_state");
    claim.give_up();
    CHECK(kind(patient_one.get()) == "claim");
  }

  TEST_CASE("who makes a version that is too old to be kept has it pinned all the same") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::uint64_t version : {8U, 9U})
      must(client.put("a", payload(small, "a", version), {.version = version, .keep = 2}));
    std::uint64_t version = 0;
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      {
        Claim claim = claimed(client.claim("a", {.version = ++version}));
        const auto view = claim.put(payload(size, "a", version), {});
        REQUIRE(outcome(view) == "ok");
        CHECK(view->version() == version);
        CHECK(wrong_bytes(view->bytes(), size, "a", version) == "");
      }
      Counter runs{0};
      ++version;
      const auto view = client.get_or_create("a", loader_of("a", size, runs, version),
                                             {.version = version, .timeout = patient.timeout});
      REQUIRE(outcome(view) == "ok");
      CHECK(runs == 1);
      CHECK(wrong_bytes(view->bytes(), size, "a", version) == "");
    }
    CHECK(eventually([&] { return must(client.list("a")).segments.size() == 2; }, slack));
  }

  TEST_CASE("who makes a version has it pinned, whatever others do with it at that moment") {
    DaemonProcess daemon;
    ChildProcess remover([&](Moments& moments) {
      Client own = daemon.connect();
      moments.reached();
      while (!must(own.contains("end"))) (void)own.remove("a");
    });
    remover.await();
    Client client = daemon.connect();
    Counter runs{0};
    std::string wrong;
    for (int round = 0; round < 2000 && wrong.empty(); ++round) {
      const std::size_t size = round % 10 == 0 ? 70'000 : small;
      const auto view = client.get_or_create("a", loader_of("a", size, runs, 7), patient);
      if (!view) {
        wrong = outcome(view);
      } else {
        // Of this size, or of that of the round before.
        wrong = wrong_bytes(view->bytes(), view->bytes().size(), "a", 7);
      }
    }
    must(client.put("end", payload(1, "end", 1)));
    CHECK(remover.join() == 0);
    CHECK(wrong == "");
    CHECK(runs > 1);
  }

  TEST_CASE("the memory of an open builder stays its own when its claim fails, and its number is free") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client other = daemon.connect();
    for (const std::size_t size : {small, 2 * mebibyte}) {
      CAPTURE(size);
      Claim claim = claimed(client.claim("a"));
      {
        Builder builder = must(claim.create(size, {}));
        fill(builder.bytes(), "a", 1);
        claim.fail("never mind");
        CHECK(must(other.get_or_create("a", [&]() -> Result<Loaded> {
                return Loaded{.bytes = payload(size, "a", 1, 5)};
              })).version() == 1);
        for (std::uint64_t i = 1; i <= 4; ++i)
          must(other.put("noise", payload(size, "noise", i), {.version = i}));
        fill(builder.bytes(), "stray", 1);
        for (std::uint64_t i = 1; i <= 4; ++i)
          CHECK(wrong_bytes(must(other.get("noise", {.version = i})).bytes(), size, "noise", i) ==
                "");
        CHECK(outcome(builder.seal()) == "bad_state");
        CHECK(wrong_bytes(must(other.get("a")).bytes(), size, "a", 1, 5) == "");
      }
      must(other.remove_prefix(""));
      CHECK(status_becomes(other, "removing", 0, slack) == 0);
      CHECK(Status(other)["creating"] == 0);
      CHECK(Status(other).segment_bytes() == 0);
    }
    CHECK(adds_up(other) == "");
  }

  TEST_CASE("a loader that throws leaves its claim to the next, and one that asks for itself waits") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK_THROWS_WITH((void)client.get_or_create(
                          "a", []() -> Result<Loaded> { throw std::runtime_error("thrown"); }),
                      "thrown");
    Counter runs{0};
    const View view = must(client.get_or_create("a", [&]() -> Result<Loaded> {
      CHECK(outcome(client.claim("a", {.timeout = milliseconds(20)})) == "timed_out");
      CHECK(outcome(client.get_or_create("a", never, {.timeout = milliseconds(20)})) ==
            "timed_out");
      return loader_of("a", small, runs)();
    }));
    CHECK(wrong_bytes(view.bytes(), small, "a", 1) == "");
    CHECK(runs == 1);
  }

  TEST_CASE("a version that was taken over may be claimed, and is made again") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(large, "a", 1)));
    {
      Builder taken = must(client.update("a", {.take = true}));
      // The next number is the taker's to make.
      CHECK(outcome(client.claim("a", {.timeout = Timeout(0)})) == "timed_out");
      must(taken.abort());
    }
    {
      Claim next = claimed(client.claim("a", {.timeout = Timeout(0)}));
      CHECK(next.version() == 2);
      must(next.put(payload(large, "a", 2), {}));
    }
    Claim again = claimed(client.claim("a", {.version = 1}));
    must(again.put(payload(small, "a", 1), {}));
    CHECK(wrong_bytes(must(client.get("a", {.version = 1})).bytes(), small, "a", 1) == "");
    CHECK(wrong_bytes(must(client.get("a")).bytes(), large, "a", 2) == "");
  }

  TEST_CASE("more claims than the index has entries are refused, and nothing of them is left") {
    DaemonProcess daemon({.arguments = {"--max-segments", "1024"}});
    Client client = daemon.connect();
    {
      std::vector<Claim> claims;
      std::string ended = "ok";
      while (claims.size() < 2000 && ended == "ok") {
        auto claim = client.claim("c/" + std::to_string(claims.size()), {.timeout = seconds(1)});
        ended = outcome(claim);
        if (claim) claims.push_back(claimed(std::move(claim)));
      }
      CHECK(ended == "limit_reached");
      CHECK(claims.size() > 500);
    }
    Counter runs{0};
    for (int i = 0; i < 500; ++i)
      REQUIRE(outcome(client.get_or_create("d/" + std::to_string(i), loader_of("d", 1, runs))) ==
              "ok");
  }

  TEST_CASE("a process that executes another program has given its claims up, and waits for none") {
    DaemonProcess daemon;
    const auto then_execute = [](Moments& moments) {
      moments.reached();
      moments.wait();
      ::execlp("sleep", "sleep", "1000", static_cast<char*>(nullptr));
    };
    ChildProcess maker([&](Moments& moments) {
      Client own = daemon.connect();
      Claim claim = claimed(own.claim("a"));
      Claim built = claimed(own.claim("b"));
      Builder builder = must(built.create(large, {}));
      then_execute(moments);
    });
    maker.await();
    Client client = daemon.connect();
    Client other = daemon.connect();
    Asking one(client, other, "a");
    Asking two(other, client, "b");
    maker.release();
    CHECK(kind(one.get()) == "claim");
    CHECK(kind(two.get()) == "claim");
    CHECK(Status(client)["creating"] == 0);
  }

  TEST_CASE("what can never be claimed is refused") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::string& id : {std::string(), std::string(256, 'x'), std::string(300'000, 'x')}) {
      CAPTURE(id.size());
      CHECK(outcome(client.claim(id)) == "bad_id");
      CHECK(outcome(client.claim(id, {.version = 3})) == "bad_id");
      CHECK(outcome(client.get_or_create(id, never)) == "bad_id");
    }
    for (const Timeout timeout : {Timeout(-1), Timeout::min()}) {
      CHECK(outcome(client.claim("a", {.timeout = timeout})) == "bad_argument");
      CHECK(outcome(client.get_or_create("a", never, {.timeout = timeout})) == "bad_argument");
    }
    constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    CHECK(outcome(client.claim("a", {.version = most})) == "bad_argument");
    CHECK(claimed(client.claim("a", {.version = most - 1})).version() == most - 1);
    CHECK(Status(client)["creating"] == 0);
    CHECK(waiting(client) == 0);
    CHECK(outcome(client.get("a")) == "not_found");
  }

  TEST_CASE("thousands of claims may be open at once, and end with their process") {
    DaemonProcess daemon;
    constexpr int count = 2000;
    const auto id = [](int i) { return "c/" + std::to_string(i); };
    ChildProcess holder([&](Moments& moments) {
      Client own = daemon.connect();
      std::vector<Claim> claims;
      for (int i = 0; i < count; ++i) claims.push_back(claimed(own.claim(id(i))));
      moments.reached();
      moments.wait();
    });
    holder.await();
    Client client = daemon.connect();
    for (int i = 0; i < count; i += 100)
      CHECK(outcome(client.claim(id(i), {.timeout = Timeout(0)})) == "timed_out");
    holder.kill();
    Counter runs{0};
    for (int i = 0; i < count; ++i)
      REQUIRE(must(client.get_or_create(id(i), loader_of(id(i), 10, runs), patient)).version() == 1);
    CHECK(runs == count);
    CHECK(Status(client)["segments"] == count);
    CHECK(Status(client)["creating"] == 0);
  }
}

}  // namespace
}  // namespace forebay::test
