// SPDX-License-Identifier: Apache-2.0
// A client is killed at each of its failpoints, and at random moments: what it held comes back by
// itself, and nothing half-made is ever seen.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <string>
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
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr seconds slack{5};  // for "within a second" on a loaded machine
constexpr std::size_t large = 300'000;
constexpr std::size_t small = 500;

// How many processes hold pin tables, as /dev/shm shows it: to look is no traffic.
std::size_t tables(const DaemonProcess& daemon) {
  const auto objects = daemon.objects();
  return static_cast<std::size_t>(
      std::count_if(objects.begin(), objects.end(), [](const std::string& name) {
        return name.find(".pins.") != std::string::npos;
      }));
}

// Waits until the daemon has given back what dead processes held, without a word to it.
bool given_back(const DaemonProcess& daemon, std::size_t living) {
  return eventually([&] { return tables(daemon) == living; }, slack);
}

std::string ids(const Client& client) {
  std::string text;
  for (const SegmentInfo& segment : must(client.list("")).segments)
    text += segment.id + "@" + std::to_string(segment.version) + " ";
  return text;
}

// The ways of making a segment that have a client's failpoints in them: for each a name and a size.
struct Making {
  const char* id;
  std::size_t size;
  bool by_builder;
};
constexpr std::array makings{
    Making{"built/small", small, true},
    Making{"built/large", large, true},
    Making{"put/large", large, false},
};

void make(Client& client, const Making& making) {
  if (!making.by_builder) {
    must(client.put(making.id, payload(making.size, making.id, 1)));
    return;
  }
  Builder builder = must(client.create(making.id, making.size));
  fill(builder.bytes(), making.id, 1);
  must(builder.seal());
}

// One that dies at the failpoint, at the latest in `body`.
class Victim {
 public:
  Victim(const DaemonProcess& daemon, const shm::Failpoint& point, int nth,
         const std::function<void(Client&, Moments&)>& body)
      : child_([&daemon, point, nth, &body](Moments& moments) {
          const std::string armed =
              std::string(point.name) + ":" + std::to_string(nth) + "=kill";
          ::setenv("FOREBAY_FAILPOINTS", armed.c_str(), 1);
          Client client = daemon.connect();
          body(client, moments);
        }) {}
  void go_on() { child_.release(); }
  char await() { return child_.await(); }
  int join() { return child_.join(); }

 private:
  ChildProcess child_;
};

TEST_SUITE("client failpoints") {
  TEST_CASE("a client that is killed while it makes a segment leaves no bytes and no half of it") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("base", payload(large, "base", 1)));
    const std::uint64_t used = Status(client).segment_bytes();
    const auto is_for_making = [](const shm::Failpoint& point) {
      return point.name != shm::points::client_pinned.name &&
             point.name != shm::points::client_unpinned.name;
    };
    for (const shm::Failpoint& point : shm::points::client) {
      if (!is_for_making(point)) continue;
      int reached = 0;
      for (const Making& making : makings) {
        CAPTURE(point.name);
        CAPTURE(making.id);
        Victim victim(daemon, point, 1, [&](Client& own, Moments&) { make(own, making); });
        const int end = victim.join();
        reached += end == -SIGKILL ? 1 : 0;
        REQUIRE((end == -SIGKILL || end == 0));
        CHECK(given_back(daemon, 1));
        // The first request after its death finds everything given back already.
        const Status status(client);
        CHECK(status["creating"] == 0);
        CHECK(status["removing"] == 0);
        const bool sealed = end == 0 || point.name == shm::points::client_sealed.name;
        CHECK(outcome(client.get(making.id)) == (sealed ? "ok" : "not_found"));
        CHECK(must(client.contains(making.id)) == sealed);
        CHECK(ids(client) == (sealed ? std::min("base@1 " + std::string(making.id) + "@1 ",
                                                std::string(making.id) + "@1 base@1 ",
                                                [](const std::string& a, const std::string& b) {
                                                  return a < b;
                                                })
                                     : "base@1 "));
        if (sealed) {
          CHECK(wrong_bytes(must(client.get(making.id)).bytes(), making.size, making.id, 1) == "");
          CHECK(must(client.remove(making.id)) == 1);
        }
        CHECK(Status(client).segment_bytes() == used);
        // The version is free again.
        make(client, making);
        CHECK(must(client.get(making.id)).version() == 1);
        CHECK(must(client.remove(making.id)) == 1);
        CHECK(adds_up(client) == "");
      }
      CAPTURE(point.name);
      CHECK_MESSAGE(reached > 0, "this failpoint was not reached: give it a workload here");
    }
    CHECK(wrong_bytes(must(client.get("base")).bytes(), large, "base", 1) == "");
  }

  TEST_CASE("a client that is killed between a pin and its view leaves no pin") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (int nth = 1; nth <= 3; ++nth) {
      CAPTURE(nth);
      must(client.put("a", payload(large, "a", 1)));
      must(client.put("b", payload(small, "b", 1)));
      Victim victim(daemon, shm::points::client_pinned, nth, [](Client& own, Moments&) {
        // The first get asks for its chunk of the table, and does not come by the failpoint.
        const View first = must(own.get("b"));
        const View kept = must(own.get("a"));
        const View again = must(own.get("a", {.version = 1}));
        const View other = must(own.get("b", {.version = 1}));
      });
      REQUIRE(victim.join() == -SIGKILL);
      CHECK(given_back(daemon, 1));
      CHECK(must(client.holders()).empty());
      CHECK(must(client.remove("a")) == 1);
      CHECK(must(client.remove("b")) == 1);
      // Nothing is left that had to wait for a pin.
      const Status status(client);
      CHECK(status["removing"] == 0);
      CHECK(status.segment_bytes() == 0);
    }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a client that is killed between a release and its word of it keeps no memory") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("a", payload(large, "a", 1)));
    must(client.put("b", payload(small, "b", 1)));
    Victim victim(daemon, shm::points::client_unpinned, 1, [](Client& own, Moments& moments) {
      const View kept = must(own.get("b"));
      View view = must(own.get("a"));
      moments.reached();
      moments.wait();
      view.release();
    });
    victim.await();
    CHECK(must(client.remove("a")) == 1);
    CHECK(must(client.remove("b")) == 1);
    CHECK(Status(client)["removing"] == 2);
    victim.go_on();
    REQUIRE(victim.join() == -SIGKILL);
    CHECK(given_back(daemon, 1));
    const Status status(client);
    CHECK(status["removing"] == 0);
    CHECK(status.segment_bytes() == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a client that is stopped after a release and before its word of it delays nothing") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("a", payload(large, "a", 1)));
    ChildProcess stopped([&](Moments& moments) {
      ::setenv("FOREBAY_FAILPOINTS", "client.unpinned=stop", 1);
      Client own = daemon.connect();
      View view = must(own.get("a"));
      moments.reached();
      moments.wait();
      view.release();
    });
    stopped.await();
    CHECK(must(client.remove("a")) == 1);
    CHECK(Status(client)["removing"] == 1);
    stopped.release();
    int status = 0;
    REQUIRE(::waitpid(stopped.pid(), &status, WUNTRACED) == stopped.pid());
    REQUIRE(WIFSTOPPED(status));
    CHECK(status_becomes(client, "removing", 0, slack) == 0);
    CHECK(Status(client).segment_bytes() == 0);
    stopped.signal(SIGCONT);
    CHECK(stopped.join() == 0);
  }

  TEST_CASE("what many dead clients held at once all comes back") {
    DaemonProcess daemon({.capacity = "64MiB"});
    Client client = daemon.connect();
    must(client.put("shared", payload(large, "shared", 1)));
    const std::uint64_t used = Status(client).segment_bytes();
    std::vector<std::unique_ptr<ChildProcess>> children;
    for (int i = 0; i < 20; ++i)
      children.push_back(std::make_unique<ChildProcess>([&, i](Moments& moments) {
        Client own = daemon.connect();
        const View view = must(own.get("shared"));
        const std::string id = "own/" + std::to_string(i);
        Builder builder = must(own.create(id, large));
        fill(builder.bytes(), id, 1);
        moments.reached();
        moments.wait();
      }));
    for (auto& child : children) child->await();
    CHECK(must(client.stat("shared")).holders.size() == 20);
    CHECK(Status(client)["creating"] == 20);
    for (auto& child : children) child->signal(SIGKILL);
    for (auto& child : children) child->join();
    CHECK(given_back(daemon, 1));
    const Status status(client);
    CHECK(status["creating"] == 0);
    CHECK(status.segment_bytes() == used);
    CHECK(must(client.holders()).empty());
    CHECK(ids(client) == "shared@1 ");
  }

  TEST_CASE("a client that is killed at any moment between create and seal leaves all or nothing") {
    struct Board {
      std::atomic<std::uint64_t> attempted;
      std::atomic<std::uint64_t> acknowledged;
    };
    DaemonProcess daemon({.capacity = "64MiB"});
    Client client = daemon.connect();
    Random random("client failpoints");
    const auto size_of = [](std::uint64_t seed, std::uint64_t version) {
      return mixed(seed + version) % 3 == 0 ? mixed(version) % 1000 : mixed(version) % 400'000;
    };
    constexpr int rounds = 60;
    std::uint64_t cut = 0;
    for (int round = 0; round < rounds; ++round) {
      CAPTURE(round);
      Shared<Board> board;
      const std::string id = "r/" + std::to_string(round);
      const std::uint64_t seed = random.next();
      const microseconds life(random.below(4000));
      ChildProcess child([&](Moments& moments) {
        Client own = daemon.connect();
        moments.reached();
        for (std::uint64_t version = 1; version < 1000; ++version) {
          const std::size_t size = size_of(seed, version);
          board->attempted = version;
          if (version % 4 == 0) {
            must(own.put(id, payload(size, id, version)));
          } else {
            Builder builder = must(own.create(id, size));
            fill(builder.bytes(), id, version);
            must(builder.seal());
          }
          board->acknowledged = version;
          // One that is kept, and one at a time that is not.
          if (version > 1) must(own.remove(id, version - 1));
        }
      });
      child.await();
      const auto until = Clock::now() + life;
      while (Clock::now() < until) {
      }
      child.kill();
      CHECK(given_back(daemon, 1));
      const std::uint64_t attempted = board->attempted;
      const std::uint64_t acknowledged = board->acknowledged;
      cut += attempted != acknowledged ? 1 : 0;
      CHECK(Status(client)["creating"] == 0);
      for (std::uint64_t version = 1; version <= attempted + 1; ++version) {
        const auto view = client.get(id, {.version = version});
        if (view)
          CHECK(wrong_bytes(view->bytes(), size_of(seed, version), id, version) == "");
        else
          CHECK(outcome(view) == "not_found");
        if (version > attempted || version + 2 <= acknowledged) CHECK_FALSE(view);
        if (version == acknowledged && attempted == acknowledged) CHECK(view);
      }
      (void)client.remove(id);
      CHECK(Status(client).segment_bytes() == 0);
      CHECK(adds_up(client) == "");
    }
    // Most of them died in the middle of one.
    CHECK(cut > rounds / 4);
    CHECK(ids(client).empty());
  }
}

}  // namespace
}  // namespace forebay::test
