// SPDX-License-Identifier: Apache-2.0
// The daemon goes, and comes back: what it finds, and what its clients notice of it.
#include <doctest/doctest.h>

#include <algorithm>
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
#include "tests/support/shared.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr std::size_t mebibytes = 1024 * 1024;
constexpr seconds slack{5};

std::size_t size_of(std::uint64_t i) {
  return i % 4 == 0 ? 0 : i % 4 == 1 ? 100 + i : i % 4 == 2 ? 66000 + i : 700000 + i;
}
std::string id_of(std::uint64_t i) { return "s/" + std::to_string(i); }

void put_segments(Client& client, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i)
    for (std::uint64_t version = 1; version <= 1 + i % 3; ++version)
      must(client.put(id_of(i), payload(size_of(i), id_of(i), version),
                      {.evictable = i % 5 == 0,
                       .type = i % 4 == 1
                                   ? std::optional(array_of<std::uint8_t>({size_of(i)}))
                                   : std::nullopt}));
}

// Nothing, if all of them are there as they were put.
std::string damage(const Client& client, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    for (std::uint64_t version = 1; version <= 1 + i % 3; ++version) {
      const auto view = client.get(id_of(i), {.version = version});
      if (!view) return view.error().message();
      std::string wrong = wrong_bytes(view->bytes(), size_of(i), id_of(i), version);
      if (!wrong.empty()) return wrong;
      if (i % 4 == 1 && must(view->type()) != array_of<std::uint8_t>({size_of(i)}))
        return "the type of '" + id_of(i) + "' is wrong";
    }
    if (must(client.get(id_of(i))).version() != 1 + i % 3)
      return "the newest of '" + id_of(i) + "' is wrong";
  }
  return {};
}

TEST_SUITE("restart") {
  TEST_CASE("sealed segments survive kill -9 of the daemon, for old clients and new ones") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_segments(client, 100);
    const std::uint64_t segments = Status(client)["segments"];
    const StoreUuid store = client.store();
    for (int round = 0; round < 3; ++round) {
      daemon.kill();
      daemon.start();
      CHECK(damage(client, 100) == "");
      const Client fresh = daemon.connect();
      CHECK(damage(fresh, 100) == "");
      CHECK(fresh.store() == store);
      CHECK(Status(fresh)["segments"] == segments);
      CHECK(adds_up(fresh) == "");
      CHECK(must(fresh.list("")).segments.size() == segments);
    }
    CHECK(Status(client)["daemon_starts"] == 4);
    // And it goes on as before.
    must(client.remove(id_of(7)));
    must(client.put(id_of(7), payload(10, id_of(7), 1)));
    CHECK(must(client.get(id_of(7))).version() == 1);
  }

  TEST_CASE("an orderly end keeps the segments, too") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_segments(client, 40);
    CHECK(daemon.terminate() == 0);
    CHECK_FALSE(daemon.objects().empty());
    daemon.start();
    CHECK(damage(client, 40) == "");
    must(client.stop_daemon(false));
    CHECK(daemon.wait_for_end(patience) == 0);
    daemon.start();
    CHECK(damage(client, 40) == "");
    CHECK(damage(daemon.connect(), 40) == "");
  }

  TEST_CASE("a stop that drops takes every object out of /dev/shm") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_segments(client, 40);
    ChildProcess reader([&](Moments& moments) {
      const Client own = daemon.connect();
      const View view = must(own.get(id_of(3)));
      moments.reached();
      moments.wait();
      const std::string wrong = wrong_bytes(view.bytes(), size_of(3), id_of(3), view.version());
      require(wrong.empty(), wrong);
    });
    reader.await();
    CHECK_FALSE(daemon.objects().empty());
    must(client.stop_daemon(true));
    CHECK(daemon.wait_for_end(patience) == 0);
    CHECK(daemon.objects().empty());
    reader.release();
    CHECK(reader.join() == 0);
    daemon.start();
    CHECK(must(daemon.connect().list("")).segments.empty());
  }

  TEST_CASE("a daemon that is started fresh drops what was left") {
    DaemonProcess daemon;
    {
      Client client = daemon.connect();
      put_segments(client, 10);
    }
    daemon.kill();
    const auto left = daemon.objects();
    daemon.start({.arguments = {"--fresh"}});
    CHECK(must(daemon.connect().list("")).segments.empty());
    for (const std::string& object : daemon.objects())
      CHECK(std::find(left.begin(), left.end(), object) == left.end());
  }

  TEST_CASE("a daemon that is to drop at its end does") {
    DaemonProcess daemon({.arguments = {"--drop"}});
    {
      Client client = daemon.connect();
      put_segments(client, 10);
    }
    CHECK(daemon.terminate() == 0);
    CHECK(daemon.objects().empty());
  }

  TEST_CASE("pins of living processes hold over a restart, and end with the processes") {
    DaemonProcess daemon({.capacity = "64MiB"});
    ChildProcess reader([&](Moments& moments) {
      Client own = daemon.connect();
      must(own.put("a", payload(20 * mebibytes, "a", 1)));
      must(own.put("b", payload(3000, "b", 1)));
      const View large = must(own.get("a"));
      const View small = must(own.get("b"));
      moments.reached();
      moments.wait();
      std::string wrong = wrong_bytes(large.bytes(), 20 * mebibytes, "a", 1);
      require(wrong.empty(), wrong);
      wrong = wrong_bytes(small.bytes(), 3000, "b", 1);
      require(wrong.empty(), wrong);
      moments.reached();
      moments.wait();
    });
    reader.await();
    daemon.kill();
    daemon.start();
    Client client = daemon.connect();
    CHECK(must(client.stat("a")).holders.at(0).pid == static_cast<std::uint32_t>(reader.pid()));
    must(client.remove("a"));
    must(client.remove("b"));
    for (std::uint64_t i = 1; i < 20; ++i) {
      must(client.put("noise", payload(i % 2 == 0 ? 15 * mebibytes : 3000, "noise", i)));
      must(client.remove("noise"));
    }
    CHECK(Status(client)["removing"] == 2);
    CHECK(outcome(client.put("c", payload(50 * mebibytes, "c", 1))) == "store_full");
    // Again, with both removals under way.
    daemon.kill();
    daemon.start();
    CHECK(Status(client)["removing"] == 2);
    for (std::uint64_t i = 1; i < 20; ++i) {
      must(client.put("noise", payload(i % 2 == 0 ? 15 * mebibytes : 3000, "noise", i)));
      must(client.remove("noise"));
    }
    reader.release();
    reader.await();
    reader.kill();
    CHECK(status_becomes(client, "removing", 0, slack) == 0);
    CHECK(outcome(client.put("c", payload(50 * mebibytes, "c", 1))) == "ok");
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what a process pinned that died while no daemon ran is given back") {
    DaemonProcess daemon({.capacity = "64MiB"});
    ChildProcess reader([&](Moments& moments) {
      Client own = daemon.connect();
      must(own.put("a", payload(20 * mebibytes, "a", 1)));
      const View view = must(own.get("a"));
      must(own.remove("a"));
      Builder builder = must(own.create("b", 10 * mebibytes));
      moments.reached();
      moments.wait();
    });
    reader.await();
    daemon.kill();
    reader.kill();
    daemon.start();
    const Client client = daemon.connect();
    CHECK(status_becomes(client, "used_bytes", 0, slack) == 0);
    CHECK(Status(client)["creating"] == 0);
    CHECK(Status(client)["removing"] == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what a living process was making can be filled, sealed or aborted after a restart") {
    DaemonProcess daemon({.capacity = "64MiB"});
    Client client = daemon.connect();
    Builder sealed = must(client.create("sealed", 5 * mebibytes));
    Builder small = must(client.create("small", 50));
    Builder aborted = must(client.create("aborted", 5 * mebibytes, {.version = 9}));
    fill(sealed.bytes().first(1000000), "sealed", 1);
    daemon.kill();
    fill(sealed.bytes(), "sealed", 1);
    daemon.start();
    Client other = daemon.connect();
    CHECK(Status(other)["creating"] == 3);
    CHECK(outcome(other.get("sealed")) == "not_found");
    CHECK(outcome(other.put("aborted", payload(1, "", 1), {.version = 9})) == "conflict");
    for (std::uint64_t i = 1; i < 20; ++i) {
      must(other.put("noise", payload(i % 2 == 0 ? 20 * mebibytes : 50, "noise", i)));
      must(other.remove("noise"));
    }
    fill(small.bytes(), "small", 1);
    must(sealed.seal());
    must(small.seal());
    must(aborted.abort());
    CHECK(wrong_bytes(must(other.get("sealed")).bytes(), 5 * mebibytes, "sealed", 1) == "");
    CHECK(wrong_bytes(must(other.get("small")).bytes(), 50, "small", 1) == "");
    CHECK(outcome(other.put("aborted", payload(1, "", 1), {.version = 9})) == "ok");
    CHECK(Status(other)["creating"] == 0);
    CHECK(adds_up(other) == "");
  }

  TEST_CASE("clients of every kind go on by themselves when the daemon is back") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_segments(client, 20);
    daemon.kill();
    daemon.start();
    SUBCASE("get of what is there") { CHECK(outcome(client.get(id_of(3))) == "ok"); }
    SUBCASE("get of what is not there") {
      CHECK(outcome(client.get("none")) == "not_found");
    }
    SUBCASE("a waiting get") {
      CHECK(outcome(client.get("none", {.timeout = milliseconds(20)})) == "timed_out");
    }
    SUBCASE("put") { CHECK(outcome(client.put("new", payload(10, "new", 1))) == "ok"); }
    SUBCASE("a large put") {
      CHECK(outcome(client.put("new", payload(mebibytes, "new", 1))) == "ok");
    }
    SUBCASE("create") { CHECK(outcome(client.create("new", 10)) == "ok"); }
    SUBCASE("remove") { CHECK(must(client.remove(id_of(0))) == 1); }
    SUBCASE("stat") { CHECK(outcome(client.stat(id_of(0))) == "ok"); }
    SUBCASE("list") { CHECK(must(client.list("")).segments.size() == 39); }
    SUBCASE("status") { CHECK(outcome(client.status()) == "ok"); }
    SUBCASE("a batch") {
      const auto bytes = payload(10, "new", 1);
      const std::vector<PutItem> items{{"new", bytes}};
      CHECK(outcome(must(client.put_many(items)).at(0)) == "ok");
    }
  }

  TEST_CASE("a request that is made while no daemon runs ends well once one does") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_segments(client, 4);
    std::atomic<bool> begun{false};
    for (const bool large : {false, true}) {
      CAPTURE(large);
      const std::size_t size = large ? 2 * mebibytes : 10;
      daemon.kill();
      begun = false;
      std::thread putter([&] {
        begun = true;
        const auto ref = client.put("while away", payload(size, "while away", 1));
        CHECK(outcome(ref) == "ok");
      });
      CHECK(eventually([&] { return begun.load(); }));
      daemon.start();
      putter.join();
      CHECK(outcome(client.get("while away")) == "ok");
      must(client.remove("while away"));
    }
  }

  TEST_CASE("a wait goes on over a restart and ends by its own deadline or by a seal") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    std::thread sealed([&] {
      const auto view = waiting.get("late", {.timeout = seconds(30)});
      CHECK(outcome(view) == "ok");
    });
    CHECK(status_becomes(client, "waiters", 1) == 1);
    daemon.kill();
    daemon.start();
    CHECK(status_becomes(client, "waiters", 1) == 1);
    must(client.put("late", payload(10, "late", 1)));
    sealed.join();

    std::string ended;
    const auto start = Clock::now();
    std::thread late(
        [&] { ended = outcome(waiting.get("never", {.timeout = milliseconds(1500)})); });
    CHECK(status_becomes(client, "waiters", 1) == 1);
    daemon.kill();
    daemon.start();
    late.join();
    const auto took = Clock::now() - start;
    CHECK(ended == "timed_out");
    CHECK(took >= milliseconds(1500));
    CHECK(took < milliseconds(1500) + slack);
  }

  TEST_CASE("gets of resident segments go on while the daemon is dead, and while it is stopped") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_segments(client, 30);
    CHECK(damage(client, 30) == "");
    SUBCASE("dead") { daemon.kill(); }
    SUBCASE("stopped") { daemon.stop(); }
    const auto start = Clock::now();
    for (int round = 0; round < 50; ++round) CHECK(damage(client, 30) == "");
    CHECK(must(client.contains(id_of(3))));
    CHECK_FALSE(must(client.contains("none")));
    CHECK(outcome(client.get("none")) == "not_found");
    CHECK(must(client.list("")).segments.size() == 60);
    CHECK(Clock::now() - start < seconds(60));
    if (daemon.running()) daemon.resume();
  }

  TEST_CASE("requests to a dead daemon fail with disconnected, by their deadline") {
    DaemonProcess daemon;
    Client client = daemon.connect(milliseconds(400));
    put_segments(client, 4);
    Builder builder = must(client.create("open", 100000));
    Builder destroyed = must(client.create("destroyed", 100000));
    const View view = must(client.get(id_of(3)));
    daemon.kill();
    const auto bytes = payload(10, "a", 1);
    const auto large = payload(mebibytes, "a", 1);
    const std::vector<PutItem> items{{"a", bytes}, {"b", bytes}};
    const auto within_deadline = [](auto&& call) {
      const auto start = Clock::now();
      const std::string ended = outcome(call());
      const auto took = Clock::now() - start;
      CHECK(took < milliseconds(400) + slack);
      return ended;
    };
    CHECK(within_deadline([&] { return client.put("a", bytes); }) == "disconnected");
    CHECK(within_deadline([&] { return client.put("a", large); }) == "disconnected");
    CHECK(within_deadline([&] { return client.create("a", 10); }) == "disconnected");
    CHECK(within_deadline([&] { return client.remove(id_of(3)); }) == "disconnected");
    CHECK(within_deadline([&] { return client.stat(id_of(3)); }) == "disconnected");
    CHECK(within_deadline([&] { return client.status(); }) == "disconnected");
    CHECK(within_deadline([&] { return client.holders(); }) == "disconnected");
    CHECK(within_deadline([&] { return client.put_many(items); }) == "disconnected");
    CHECK(within_deadline([&] { return builder.seal(); }) == "disconnected");
    CHECK(within_deadline([&] {
            return client.get("none", {.timeout = milliseconds(300)});
          }) != "ok");
    const auto start = Clock::now();
    { const Builder gone = std::move(destroyed); }
    CHECK(Clock::now() - start < milliseconds(400) + slack);
    CHECK(wrong_bytes(view.bytes(), size_of(3), id_of(3), 1) == "");
    // The builder is still open: it may try again.
    daemon.start();
    CHECK(eventually([&] { return outcome(builder.seal()) != "disconnected"; }));
    CHECK(outcome(client.get("open")) == "ok");
  }

  TEST_CASE("requests to a stopped daemon fail by their deadline, and do no harm later") {
    DaemonProcess daemon;
    Client client = daemon.connect(milliseconds(400));
    put_segments(client, 4);
    Builder builder = must(client.create("open", 100000));
    daemon.stop();
    const auto bytes = payload(10, "a", 1);
    const auto large = payload(mebibytes, "a", 1);
    const auto within_deadline = [](auto&& call) {
      const auto start = Clock::now();
      const std::string ended = outcome(call());
      const auto took = Clock::now() - start;
      CHECK(took < milliseconds(400) + slack);
      return ended;
    };
    CHECK(within_deadline([&] { return client.put("small", bytes); }) == "timed_out");
    CHECK(within_deadline([&] { return client.put("large", large); }) == "timed_out");
    CHECK(within_deadline([&] { return client.create("created", 10); }) == "timed_out");
    CHECK(within_deadline([&] { return client.status(); }) == "timed_out");
    CHECK(within_deadline([&] { return builder.seal(); }) != "ok");
    ConnectOptions options = daemon.connect_options();
    options.timeout = milliseconds(300);
    CHECK(within_deadline([&] { return Client::connect(options); }) != "ok");
    daemon.resume();
    // What was asked for may have been done, or not; but nothing is left half done.
    Client other = daemon.connect();
    (void)other.status();
    CHECK(eventually([&] { return outcome(client.status()) == "ok"; }));
    const auto small = client.get("small");
    CHECK((small ? wrong_bytes(small->bytes(), 10, "a", 1) : std::string()) == "");
    CHECK(outcome(other.get("large")) == "not_found");
    CHECK(outcome(other.get("created")) == "not_found");
    (void)builder.seal();
    CHECK(outcome(other.get("open")) == "ok");
    CHECK(status_becomes(other, "creating", 0) == 0);
    CHECK(adds_up(other) == "");
  }

  TEST_CASE("readers notice nothing of a daemon that is killed and started over and over") {
    DaemonProcess daemon;
    Shared<std::atomic<std::uint64_t>> gets;
    ChildProcess reader([&](Moments& moments) {
      const Client own = daemon.connect();
      moments.reached();
      moments.wait();
      while (!must(own.contains("end"))) {
        const std::string wrong = damage(own, 30);
        require(wrong.empty(), wrong);
        *gets += 30;
      }
    });
    reader.await();
    Client client = daemon.connect();
    put_segments(client, 30);
    reader.release();
    // Once round, and there is nothing left to ask the daemon for.
    REQUIRE(eventually([&] { return *gets > 0; }));
    for (int round = 0; round < 15; ++round) {
      daemon.kill();
      const std::uint64_t before = *gets;
      // It goes on with nobody there.
      REQUIRE(eventually([&] { return *gets > before + 30; }));
      daemon.start();
      must(client.put("round", payload(100000, "round", 1)));
    }
    must(client.put("end", payload(1, "end", 1)));
    CHECK(reader.join() == 0);
    CHECK(damage(client, 30) == "");
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("putters lose nothing and double nothing while the daemon is killed over and over") {
    DaemonProcess daemon;
    ChildProcess writer([&](Moments& moments) {
      Client own = daemon.connect();
      moments.reached();
      for (std::uint64_t version = 1; version <= 400; ++version) {
        const std::size_t size = size_of(version);
        const Ref ref = must(own.put("log", payload(size, "log", version)));
        require(ref.version == version, "a number was used twice or left out");
      }
    });
    writer.await();
    const Client client = daemon.connect();
    int restarts = 0;
    while (!must(client.contains("log", 400)) && restarts < 100) {
      daemon.kill();
      daemon.start();
      ++restarts;
      const std::uint64_t seen = [&] {
        const auto view = client.get("log");
        return view ? view->version() : 0;
      }();
      (void)client.get("log", {.after = seen, .timeout = milliseconds(500)});
    }
    CHECK(writer.join() == 0);
    for (std::uint64_t version = 1; version <= 400; ++version)
      REQUIRE(wrong_bytes(must(client.get("log", {.version = version})).bytes(),
                          size_of(version), "log", version) == "");
    CHECK(Status(client)["segments"] == 400);
    CHECK(Status(client)["creating"] == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a store whose memory is gone is replaced by an empty one, and clients say so") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_segments(client, 10);
    const View view = must(client.get(id_of(3)));
    const Ref ref = view.ref();
    Builder builder = must(client.create("open", 1000));
    must(daemon.connect().stop_daemon(true));
    CHECK(daemon.wait_for_end(patience) == 0);
    daemon.start();
    CHECK(eventually([&] { return outcome(client.put("new", payload(10, "new", 1))) == "ok"; }));
    CHECK(outcome(client.get(id_of(3))) == "not_found");
    CHECK(outcome(client.get(ref)) == "wrong_store");
    CHECK(wrong_bytes(view.bytes(), size_of(3), id_of(3), 1) == "");
    CHECK(client.store() != ref.store);
    CHECK(outcome(builder.seal()) == "wrong_store");
    CHECK(outcome(client.get("open")) == "not_found");
    CHECK(outcome(client.get("new")) == "ok");
  }

  TEST_CASE("what was put first is evicted first after a restart") {
    DaemonProcess daemon({.capacity = "64MiB"});
    Client client = daemon.connect();
    for (const char* id : {"first", "second", "third"})
      must(client.put(id, payload(20 * mebibytes, id, 1), {.evictable = true}));
    daemon.kill();
    daemon.start();
    must(client.put("new", payload(20 * mebibytes, "new", 1), {.timeout = seconds(20)}));
    CHECK(outcome(client.get("first")) == "evicted");
    CHECK(outcome(client.get("second")) == "ok");
    CHECK(outcome(client.get("third")) == "ok");
  }

  TEST_CASE("a smaller capacity at a restart keeps what is there, and fills up no further") {
    DaemonProcess daemon({.capacity = "64MiB"});
    Client client = daemon.connect();
    must(client.put("a", payload(40 * mebibytes, "a", 1)));
    daemon.kill();
    daemon.start({.capacity = "32MiB"});
    CHECK(wrong_bytes(must(client.get("a")).bytes(), 40 * mebibytes, "a", 1) == "");
    CHECK(outcome(client.put("b", payload(mebibytes, "b", 1))) == "store_full");
    must(client.remove("a"));
    CHECK(outcome(client.put("b", payload(20 * mebibytes, "b", 1), {.timeout = seconds(20)})) ==
          "ok");
    CHECK(adds_up(client) == "");
  }
}

}  // namespace
}  // namespace forebay::test
