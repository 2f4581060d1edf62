// SPDX-License-Identifier: Apache-2.0
// Who makes a version that others wait for is killed at each step of it: the version is made once all
// the same, by the next of those who wait.
#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "store/client.h"
#include "store/shm/failpoint.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/random.h"
#include "tests/support/shared.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;
using Counter = std::atomic<int>;

constexpr seconds slack{5};  // for "within a second" on a loaded machine
constexpr ClaimOptions patient{.timeout = seconds(20)};
constexpr std::size_t large = 300'000;
constexpr std::size_t small = 500;

// Bytes tell who made them.
constexpr std::uint64_t by_victim = 1;
constexpr std::uint64_t by_next = 2;

// The ways of making good a claim.
enum class Way { put, builder, sealed_and_got, loader };
struct Making {
  const char* id;
  std::size_t size;
  Way way;
};
constexpr std::array makings{
    Making{"put/small", small, Way::put},
    Making{"put/large", large, Way::put},
    Making{"built/small", small, Way::builder},
    Making{"built/large", large, Way::builder},
    Making{"built/small/got", small, Way::sealed_and_got},
    Making{"built/large/got", large, Way::sealed_and_got},
    Making{"loaded/small", small, Way::loader},
    Making{"loaded/large", large, Way::loader},
};

Claim claimed(Result<ViewOrClaim> result) {
  ViewOrClaim got = must(std::move(result));
  require(std::holds_alternative<Claim>(got), "there is a version already, and no claim");
  return std::get<Claim>(std::move(got));
}

// Makes it, with a halt when the claim is had and nothing is made yet.
void make_and_die(Client& client, const Making& making, Moments& moments) {
  const auto bytes = payload(making.size, making.id, 1, by_victim);
  if (making.way == Way::loader) {
    const View view = must(client.get_or_create(making.id, [&]() -> Result<Loaded> {
      moments.reached();
      moments.wait();
      return Loaded{.bytes = bytes};
    }));
    return;
  }
  Claim claim = claimed(client.claim(making.id));
  moments.reached();
  moments.wait();
  if (making.way == Way::put) {
    const View view = must(claim.put(bytes, {}));
    return;
  }
  Builder builder = must(claim.create(making.size, {}));
  fill(builder.bytes(), making.id, 1, by_victim);
  if (making.way == Way::builder) {
    must(builder.seal());
  } else {
    const View view = must(builder.seal_and_get());
  }
}

// Waits for the version, and makes it if it is the next.
void wait_or_make(const DaemonProcess& daemon, const Making& making, Counter& runs) {
  Client own = daemon.connect();
  const View view = must(own.get_or_create(making.id, [&]() -> Result<Loaded> {
    ++runs;
    return Loaded{.bytes = payload(making.size, making.id, 1, by_next)};
  }, patient));
  require(view.version() == 1, "another version");
  const std::string wrong =
      wrong_bytes(view.bytes(), making.size, making.id, 1, runs == 0 ? by_victim : by_next);
  require(wrong.empty(), wrong);
}

TEST_SUITE("loader failpoints") {
  TEST_CASE("at whatever step of making a claimed version its process is killed, it is made once") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("base", payload(large, "base", 1)));
    const std::uint64_t used = Status(client).segment_bytes();
    Shared<Counter> runs;
    for (const shm::Failpoint& point : shm::points::client) {
      // A maker pins what it makes before anybody can see it; these two are of gets and removals.
      if (point.name == shm::points::client_unpinned.name ||
          point.name == shm::points::client_pinned.name)
        continue;
      int reached = 0;
      for (const Making& making : makings) {
        CAPTURE(point.name);
        CAPTURE(making.id);
        *runs = 0;
        ChildProcess victim([&](Moments& moments) {
          const std::string armed = std::string(point.name) + "=kill";
          ::setenv("FOREBAY_FAILPOINTS", armed.c_str(), 1);
          Client own = daemon.connect();
          make_and_die(own, making, moments);
        });
        victim.await();
        const auto wait_for_it = [&](Moments&) { wait_or_make(daemon, making, *runs); };
        ChildProcess one(wait_for_it);
        ChildProcess two(wait_for_it);
        REQUIRE(status_becomes(client, "waiting_claims", 2) == 2);
        CHECK(*runs == 0);
        victim.release();
        const int end = victim.join();
        reached += end == -SIGKILL ? 1 : 0;
        REQUIRE((end == -SIGKILL || end == 0));
        const bool sealed = end == 0 || point.name == shm::points::client_sealed.name;
        CHECK(one.join() == 0);
        CHECK(two.join() == 0);
        CHECK(*runs == (sealed ? 0 : 1));
        // There is one version, and it is whole.
        const auto segments = must(client.list(making.id)).segments;
        std::size_t versions = 0;
        for (const SegmentInfo& info : segments) versions += info.id == making.id ? 1 : 0;
        CHECK(versions == 1);
        CHECK(wrong_bytes(must(client.get(making.id)).bytes(), making.size, making.id, 1,
                          sealed ? by_victim : by_next) == "");
        const Status status(client);
        CHECK(status["creating"] == 0);
        CHECK(status["waiting_claims"] == 0);
        CHECK(status["waiters"] == 0);
        CHECK(must(client.remove(making.id)) == 1);
        CHECK(Status(client)["removing"] == 0);
        CHECK(Status(client).segment_bytes() == used);
      }
      CAPTURE(point.name);
      CHECK_MESSAGE(reached > 0, "this failpoint was not reached: give it a workload here");
    }
    CHECK(wrong_bytes(must(client.get("base")).bytes(), large, "base", 1) == "");
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("at whatever step the second maker is killed as well, the third makes it") {
    DaemonProcess daemon({.capacity = "16MiB"});
    const Client client = daemon.connect();
    Shared<Counter> runs;
    for (const shm::Failpoint& point : shm::points::client)
      for (const Making& making : makings) {
        if (making.way != Way::loader) continue;
        CAPTURE(point.name);
        CAPTURE(making.id);
        const std::string id = std::string(point.name) + making.id;
        const Making same{id.c_str(), making.size, making.way};
        *runs = 0;
        const auto die = [&](Moments& moments) {
          const std::string armed = std::string(point.name) + "=kill";
          ::setenv("FOREBAY_FAILPOINTS", armed.c_str(), 1);
          Client own = daemon.connect();
          make_and_die(own, same, moments);
        };
        ChildProcess first(die);
        first.await();
        ChildProcess second(die);
        REQUIRE(status_becomes(client, "waiting_claims", 1) == 1);
        ChildProcess third([&](Moments&) { wait_or_make(daemon, same, *runs); });
        REQUIRE(status_becomes(client, "waiting_claims", 2) == 2);
        // Whoever is asked to make it goes on at once.
        first.release();
        second.release();
        const int first_end = first.join();
        const int second_end = second.join();
        CHECK((first_end == -SIGKILL || first_end == 0));
        CHECK((second_end == -SIGKILL || second_end == 0));
        CHECK(third.join() == 0);
        CHECK(*runs <= 1);
        CHECK(wrong_bytes(must(client.get(id)).bytes(), same.size, id, 1,
                          *runs == 0 ? by_victim : by_next) == "");
        CHECK(must(client.list(id)).segments.size() == 1);
        CHECK(status_becomes(client, "creating", 0, slack) == 0);
        CHECK(Status(client)["waiting_claims"] == 0);
      }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a maker that is stopped is not dead: those who wait go on waiting, and get what it makes") {
    DaemonProcess daemon;
    for (const shm::Failpoint& point :
         {shm::points::client_created, shm::points::client_written,
          shm::points::client_window_closed}) {
      CAPTURE(point.name);
      const Making& making = makings[3];
      ChildProcess stopped([&](Moments& moments) {
        const std::string armed = std::string(point.name) + "=stop";
        ::setenv("FOREBAY_FAILPOINTS", armed.c_str(), 1);
        Client own = daemon.connect();
        make_and_die(own, making, moments);
      });
      stopped.await();
      stopped.release();
      int status = 0;
      REQUIRE(::waitpid(stopped.pid(), &status, WUNTRACED) == stopped.pid());
      if (!WIFSTOPPED(status)) continue;  // not on the way of a builder
      Client client = daemon.connect();
      Shared<Counter> runs;
      const auto start = Clock::now();
      CHECK(outcome(client.claim(making.id, {.timeout = milliseconds(1500)})) == "timed_out");
      CHECK(Clock::now() - start >= milliseconds(1500));
      ChildProcess waiter([&](Moments&) { wait_or_make(daemon, making, *runs); });
      CHECK(status_becomes(client, "waiting_claims", 1) == 1);
      stopped.signal(SIGCONT);
      CHECK(stopped.join() == 0);
      CHECK(waiter.join() == 0);
      CHECK(*runs == 0);
      must(client.remove(making.id));
    }
  }

  TEST_CASE("a claim that falls to a stopped process is its own until it dies, and then another's") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Making& making = makings[6];
    Shared<Counter> runs;
    std::optional<Claim> claim = claimed(client.claim(making.id));
    ChildProcess stopped([&](Moments&) { wait_or_make(daemon, making, *runs); });
    REQUIRE(status_becomes(client, "waiting_claims", 1) == 1);
    ChildProcess next([&](Moments&) { wait_or_make(daemon, making, *runs); });
    REQUIRE(status_becomes(client, "waiting_claims", 2) == 2);
    stopped.signal(SIGSTOP);
    claim->give_up();
    // Whoever has waited longest has it; and that is the one that cannot know it yet.
    CHECK(status_becomes(client, "waiting_claims", 1) == 1);
    CHECK(outcome(client.claim(making.id, {.timeout = milliseconds(700)})) == "timed_out");
    CHECK(*runs == 0);
    SUBCASE("it goes on") {
      stopped.signal(SIGCONT);
      CHECK(stopped.join() == 0);
    }
    SUBCASE("it dies") { stopped.kill(); }
    CHECK(next.join() == 0);
    CHECK(*runs == 1);
  }

  TEST_CASE("makers that are killed at any moment: every version is made, once, and nobody hangs") {
    constexpr int ids = 400;
    DaemonProcess daemon({.capacity = "64MiB"});
    const Client client = daemon.connect();
    Random random("loader failpoints");
    const auto size_of = [](int i) {
      return i % 3 == 0 ? std::size_t{80'000} : static_cast<std::size_t>(i) * 10;
    };
    constexpr int rounds = 12;
    constexpr int victims = 3;
    int cut = 0;
    for (int round = 0; round < rounds; ++round) {
      CAPTURE(round);
      const auto id_of = [&](int i) { return std::to_string(round) + "/" + std::to_string(i); };
      Shared<std::array<Counter, ids>> runs;
      const auto ask_for_all = [&](Moments& moments) {
        Client own = daemon.connect();
        moments.reached();
        moments.wait();
        for (int i = 0; i < ids; ++i) {
          const std::string id = id_of(i);
          const View view = must(own.get_or_create(id, [&]() -> Result<Loaded> {
            ++(*runs)[static_cast<std::size_t>(i)];
            return Loaded{.bytes = payload(size_of(i), id, 1)};
          }, patient));
          const std::string wrong = wrong_bytes(view.bytes(), size_of(i), id, 1);
          require(wrong.empty(), wrong);
        }
      };
      std::vector<std::unique_ptr<ChildProcess>> dying;
      for (int i = 0; i < victims; ++i)
        dying.push_back(std::make_unique<ChildProcess>(ask_for_all));
      ChildProcess survivor(ask_for_all);
      for (auto& child : dying) child->await();
      survivor.await();
      for (auto& child : dying) child->release();
      survivor.release();
      for (auto& child : dying) {
        const auto until = Clock::now() + microseconds(random.below(20'000));
        while (Clock::now() < until) {
        }
        child->signal(SIGKILL);
      }
      for (auto& child : dying) cut += child->join() == -SIGKILL ? 1 : 0;
      CHECK(survivor.join() == 0);
      int twice = 0;
      for (int i = 0; i < ids; ++i) {
        const int count = (*runs)[static_cast<std::size_t>(i)];
        REQUIRE(count >= 1);
        twice += count - 1;
        const std::string id = id_of(i);
        REQUIRE(wrong_bytes(must(client.get(id)).bytes(), size_of(i), id, 1) == "");
      }
      // A loader ran in vain only where its process was killed.
      CHECK(twice <= victims);
      CHECK(must(client.list(std::to_string(round) + "/")).segments.size() == ids);
      CHECK(status_becomes(client, "creating", 0, slack) == 0);
      CHECK(Status(client)["waiting_claims"] == 0);
      CHECK(must(client.holders()).empty());
      Client remover = daemon.connect();
      must(remover.remove_prefix(std::to_string(round) + "/"));
    }
    CHECK(cut > 0);
    CHECK(adds_up(client) == "");
  }
}

}  // namespace
}  // namespace forebay::test
