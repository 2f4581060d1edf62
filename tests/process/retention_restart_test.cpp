// SPDX-License-Identifier: Apache-2.0
// Retention, holds, claims and updates, when the daemon is killed and started again meanwhile.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "store/client.h"
#include "store/shm/failpoint.h"
#include "store/units.h"
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

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;
using Counter = std::atomic<int>;
using Versions = std::vector<std::uint64_t>;

constexpr seconds slack{5};  // for "within a second" on a loaded machine
constexpr ClaimOptions patient{.timeout = seconds(20)};
constexpr std::size_t small = 500;
constexpr std::size_t large = 300'000;

void restart(DaemonProcess& daemon) {
  daemon.kill();
  daemon.start();
}

// Kills the daemon again only when its clients have got somewhere with the last one: on a slow machine
// they would otherwise reach no daemon before their deadlines.
template <class Progress>
void restart_and_let_work(DaemonProcess& daemon, Progress&& progress) {
  daemon.kill();
  const auto before = progress();
  daemon.start();
  (void)eventually([&] { return progress() != before; }, std::chrono::seconds(5));
}

Ref put(Client& client, const std::string& id, std::uint64_t version, std::size_t size,
        PutOptions options = {}) {
  options.version = version;
  return must(client.put(id, payload(size, id, version), options));
}

// Sealed with a time to live, and pinned without a moment in which it could have gone.
View put_and_pin(Client& client, const std::string& id, Timeout ttl, std::size_t size) {
  Builder builder = must(client.create(id, size, {.version = 1, .ttl = ttl}));
  fill(builder.bytes(), id, 1);
  return must(builder.seal_and_get());
}

std::string look(const Client& client, const std::string& id, std::uint64_t version,
                 std::size_t size) {
  const auto view = client.get(id, {.version = version});
  if (!view) return outcome(view);
  const std::string wrong = wrong_bytes(view->bytes(), size, id, view->version());
  return wrong.empty() ? "ok" : wrong;
}

Versions versions(const Client& client, const std::string& id) {
  Versions found;
  for (const SegmentInfo& info : must(client.list(id)).segments)
    if (info.id == id) found.push_back(info.version);
  return found;
}
bool becomes(const Client& client, const std::string& id, const Versions& wanted) {
  return eventually([&] { return versions(client, id) == wanted; }, slack);
}
bool goes(const Client& client, const std::string& id, std::uint64_t version = 0) {
  return eventually([&] { return outcome(client.get(id, {.version = version})) == "not_found"; },
                    slack);
}

// Puts twice as much as a store of 16 MiB holds, so that all goes that can be dropped for it.
void want_room(Client& client, std::size_t size = 10'000) {
  const auto bytes = payload(size, "flood", 1);
  for (std::size_t i = 0; i < 32 * mebibyte / size; ++i)
    must(client.put("flood/" + std::to_string(i), bytes, {.evictable = true}));
  must(client.remove_prefix("flood/"));
}

std::vector<pid_t> lease_pids(const Client& client, const std::string& id,
                              std::uint64_t version = 0) {
  std::vector<pid_t> pids;
  for (const Holder& holder : must(client.stat(id, version)).leases)
    pids.push_back(static_cast<pid_t>(holder.pid));
  return pids;
}

Claim claimed(Result<ViewOrClaim> result) {
  ViewOrClaim got = must(std::move(result));
  require(std::holds_alternative<Claim>(got), "there is a version already, and no claim");
  return std::get<Claim>(std::move(got));
}
Result<Loaded> never() { return fail(Errc::bad_state, "a second loader ran"); }
void await_waiting(const Client& client, std::uint64_t count) {
  const std::uint64_t last = status_becomes(client, "waiting_claims", count);
  require(last == count, std::to_string(last) + " wait for a claim, not " + std::to_string(count));
}

// Waits in a process of its own until somebody else has made version 1 of an id.
class Waiter {
 public:
  Waiter(const DaemonProcess& daemon, const std::string& id, std::size_t size)
      : child_([&daemon, id, size](Moments&) {
          Client own = daemon.connect();
          const View view = must(own.get_or_create(id, never, patient));
          const std::string wrong = wrong_bytes(view.bytes(), size, id, 1);
          require(wrong.empty(), wrong);
        }) {}
  int join() { return child_.join(); }

 private:
  ChildProcess child_;
};

TEST_SUITE("retention over a restart") {
  TEST_CASE("what was said of an id still counts after a restart") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::uint64_t version = 1; version <= 5; ++version) {
      put(client, "two", version, small, {.keep = 2});
      put(client, "all", version, small, {.keep = keep_all});
      put(client, "said", version, small);
    }
    must(client.keep("said", 3));
    for (int round = 0; round < 2; ++round) {
      restart(daemon);
      CHECK(must(client.stat("two")).keep == 2);
      CHECK(must(client.stat("all")).keep == keep_all);
      CHECK(must(client.stat("said")).keep == 3);
      CHECK(versions(client, "two").size() == 2);
      CHECK(versions(client, "all").size() == 5);
      CHECK(versions(client, "said").size() == 3);
    }
    for (const std::string id : {"two", "all", "said"}) put(client, id, 6, small);
    CHECK(versions(client, "two") == Versions{5, 6});
    CHECK(versions(client, "all").size() == 6);
    CHECK(versions(client, "said") == Versions{4, 5, 6});
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a daemon that is told to keep fewer drops what is too old, and nothing that is pinned") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::uint64_t version = 1; version <= 5; ++version) {
      put(client, "a", version, small);
      put(client, "all", version, small, {.keep = keep_all});
    }
    View pinned = must(client.get("a", {.version = 2}));
    daemon.kill();
    daemon.start({.arguments = {"--keep", "2"}});
    put(client, "a", 6, small);
    put(client, "all", 6, small);
    CHECK(becomes(client, "a", {2, 5, 6}));
    CHECK(versions(client, "all").size() == 6);
    CHECK(wrong_bytes(pinned.bytes(), small, "a", 2) == "");
    pinned.release();
    CHECK(becomes(client, "a", {5, 6}));
  }

  TEST_CASE("a version that was too old but pinned goes at its unpin after a restart") {
    for (const std::size_t size : {small, large})
      for (const bool dies : {false, true}) {
        CAPTURE(size);
        CAPTURE(dies);
        DaemonProcess daemon;
        Client client = daemon.connect();
        put(client, "a", 1, size, {.keep = 1});
        ChildProcess reader([&](Moments& moments) {
          const Client own = daemon.connect();
          View view = must(own.get("a", {.version = 1}));
          moments.reached();
          moments.wait();
          const std::string wrong = wrong_bytes(view.bytes(), size, "a", 1);
          require(wrong.empty(), wrong);
          view.release();
          moments.reached();
          moments.wait();
        });
        reader.await();
        put(client, "a", 2, size, {.keep = 1});
        put(client, "a", 3, size, {.keep = 1});
        restart(daemon);
        CHECK(look(client, "a", 1, size) == "ok");
        CHECK(versions(client, "a") == Versions{1, 3});
        put(client, "a", 4, size);
        CHECK(versions(client, "a") == Versions{1, 4});
        if (dies) {
          daemon.kill();
          reader.kill();
          daemon.start();
        } else {
          reader.release();
          reader.await();
        }
        CHECK(becomes(client, "a", {4}));
        CHECK(status_becomes(client, "removing", 0, slack) == 0);
        CHECK(adds_up(client) == "");
      }
  }

  TEST_CASE("a removed version that is pinned is told of with its holders after a restart") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 3, large);
    ChildProcess reader([&](Moments& moments) {
      const Client own = daemon.connect();
      const View view = must(own.get("a"));
      moments.reached();
      moments.wait();
    });
    reader.await();
    must(client.remove("a"));
    restart(daemon);
    CHECK(outcome(client.get("a")) == "not_found");
    const SegmentStat stat = must(client.stat("a", 3));
    CHECK(stat.state == "removing");
    REQUIRE(stat.holders.size() == 1);
    CHECK(stat.holders[0].pid == static_cast<std::uint32_t>(reader.pid()));
    reader.kill();
    CHECK(eventually([&] { return outcome(client.stat("a", 3)) == "not_found"; }, slack));
  }

  TEST_CASE("a time to live goes on over restarts, and ends at most a second late and never early") {
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      DaemonProcess daemon;
      Client client = daemon.connect();
      for (const milliseconds ttl : {milliseconds(900), milliseconds(2000), milliseconds(3100)}) {
        CAPTURE(ttl.count());
        const auto before = Clock::now();
        put(client, "a", 1, size, {.ttl = ttl});
        put(client, "b", 1, size);
        int restarts = 0;
        while (look(client, "a", 1, size) != "not_found") {
          REQUIRE(Clock::now() - before < ttl + slack);
          if (++restarts <= 4) restart(daemon);
        }
        const auto took = Clock::now() - before;
        CHECK(restarts > 1);
        CHECK(took >= ttl);
        CHECK(took < ttl + seconds(1) + slack);
        CHECK(look(client, "b", 1, size) == "ok");
        must(client.remove("b"));
      }
      CHECK(Status(client)["segments"] == 0);
      CHECK(adds_up(client) == "");
    }
  }

  TEST_CASE("a segment whose time ends while no daemon runs is gone soon after one does") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto before = Clock::now();
    put(client, "a", 1, small, {.ttl = milliseconds(500)});
    put(client, "b", 1, small, {.ttl = seconds(1000)});
    View pinned = put_and_pin(client, "c", milliseconds(500), large);
    daemon.kill();
    // Nobody is there to take it away.
    CHECK(eventually([&] { return Clock::now() - before > seconds(2); }));
    CHECK(look(client, "a", 1, small) == "ok");
    daemon.start();
    CHECK(goes(client, "a"));
    CHECK(goes(client, "c"));
    CHECK(look(client, "b", 1, small) == "ok");
    const auto left = must(client.stat("b")).expires_in;
    REQUIRE(left);
    CHECK(*left > seconds(900));
    CHECK(*left <= seconds(1000));
    CHECK(wrong_bytes(pinned.bytes(), large, "c", 1) == "");
    CHECK(must(client.stat("c", 1)).state == "removing");
    restart(daemon);
    CHECK(wrong_bytes(pinned.bytes(), large, "c", 1) == "");
    pinned.release();
    CHECK(status_becomes(client, "removing", 0, slack) == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what is being made with a time to live begins to live when it is sealed after a restart") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr milliseconds ttl(1500);
    Builder builder = must(client.create("a", large, {.keep = 7, .ttl = ttl}));
    fill(builder.bytes(), "a", 1);
    const auto created = Clock::now();
    restart(daemon);
    CHECK(eventually([&] { return Clock::now() - created > ttl + milliseconds(100); }));
    const auto before = Clock::now();
    must(builder.seal());
    CHECK(look(client, "a", 1, large) == "ok");
    CHECK(must(client.stat("a")).keep == 7);
    CHECK(eventually([&] { return look(client, "a", 1, large) == "not_found"; }));
    CHECK(Clock::now() - before >= ttl);
  }
}

TEST_SUITE("hold over a restart") {
  TEST_CASE("what a process holds stays over restarts, and goes when it is let go or the process dies") {
    for (const std::size_t size : {small, mebibyte})
      for (const bool dies : {false, true}) {
        CAPTURE(size);
        CAPTURE(dies);
        DaemonProcess daemon({.capacity = "16MiB"});
        ChildProcess holder([&](Moments& moments) {
          Client own = daemon.connect();
          moments.wait();
          std::vector<Ref> held;
          for (const std::string id : {"kept", "room", "aged"}) held.push_back(must(own.hold(id)));
          moments.reached();
          moments.wait();
          for (const Ref& ref : held) must(own.unhold(ref));
          moments.reached();
          moments.wait();
        });
        Client client = daemon.connect();
        put(client, "kept", 1, size, {.keep = 1});
        put(client, "room", 1, size, {.evictable = true});
        View aged = put_and_pin(client, "aged", milliseconds(600), size);
        holder.release();
        holder.await();
        aged.release();
        const auto is_held = [&] {
          CHECK(look(client, "kept", 1, size) == "ok");
          CHECK(look(client, "room", 1, size) == "ok");
          CHECK(look(client, "aged", 1, size) == "ok");
        };
        for (std::uint64_t round = 1; round <= 3; ++round) {
          restart(daemon);
          put(client, "kept", 1 + round, size, {.keep = 1});
          want_room(client);
          is_held();
          CHECK(versions(client, "kept") == Versions{1, 1 + round});
        }
        put(client, "clock", 1, small, {.ttl = milliseconds(1600)});
        CHECK(goes(client, "clock"));
        is_held();
        CHECK(lease_pids(client, "aged") == std::vector<pid_t>{holder.pid()});
        if (dies) {
          holder.kill();
        } else {
          holder.release();
          holder.await();
        }
        CHECK(goes(client, "kept", 1));
        CHECK(goes(client, "aged"));
        // What is small is worth more for each byte: only what is no larger pushes it out soon.
        want_room(client, size);
        CHECK(look(client, "room", 1, size) == "evicted");
        CHECK(versions(client, "kept") == Versions{4});
        CHECK(adds_up(client) == "");
      }
  }

  TEST_CASE("nothing held is dropped before its holder has come back, which may take it long") {
    DaemonProcess daemon({.capacity = "16MiB"});
    ChildProcess holder([&](Moments& moments) {
      Client own = daemon.connect();
      moments.wait();
      const Ref kept = must(own.hold("kept"));
      const Ref room = must(own.hold("room"));
      const Ref old = must(own.hold("aged"));
      moments.reached();
      moments.wait();
      for (const Ref& ref : {kept, room, old}) must(own.unhold(ref));
      moments.reached();
      moments.wait();
    });
    Client client = daemon.connect();
    put(client, "kept", 1, mebibyte, {.keep = 1});
    put(client, "room", 1, mebibyte, {.evictable = true});
    put(client, "other", 1, mebibyte, {.evictable = true});
    View aged = put_and_pin(client, "aged", milliseconds(600), mebibyte);
    holder.release();
    holder.await();
    aged.release();
    // It cannot connect while it is stopped; but it lives.
    holder.signal(SIGSTOP);
    for (std::uint64_t round = 1; round <= 2; ++round) {
      restart(daemon);
      put(client, "kept", 1 + round, mebibyte, {.keep = 1});
      want_room(client);
      put(client, "clock", 1, small, {.ttl = milliseconds(1600)});
      CHECK(goes(client, "clock"));
      CHECK(look(client, "kept", 1, mebibyte) == "ok");
      CHECK(look(client, "room", 1, mebibyte) == "ok");
      CHECK(look(client, "aged", 1, mebibyte) == "ok");
    }
    CHECK(look(client, "other", 1, mebibyte) == "evicted");
    SUBCASE("it comes back and lets go") {
      holder.signal(SIGCONT);
      holder.release();
      holder.await();
    }
    SUBCASE("it dies without having come back") { holder.kill(); }
    SUBCASE("it dies while no daemon runs") {
      daemon.kill();
      holder.kill();
      daemon.start();
      must(client.status());
    }
    CHECK(goes(client, "kept", 1));
    CHECK(goes(client, "aged"));
    want_room(client);
    CHECK(look(client, "room", 1, mebibyte) == "evicted");
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("holds are counted over a restart, also those of one segment by two processes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = put(client, "a", 1, small, {.keep = 1});
    must(client.hold(ref));
    must(client.hold(ref));
    ChildProcess other([&](Moments& moments) {
      Client own = daemon.connect();
      must(own.hold(ref));
      moments.reached();
      moments.wait();
    });
    other.await();
    restart(daemon);
    must(client.unhold(ref));
    put(client, "a", 2, small, {.keep = 1});
    CHECK(look(client, "a", 1, small) == "ok");
    restart(daemon);
    must(client.unhold(ref));
    CHECK(outcome(client.unhold(ref)) == "bad_state");
    put(client, "a", 3, small, {.keep = 1});
    CHECK(look(client, "a", 1, small) == "ok");
    CHECK(lease_pids(client, "a", 1) == std::vector<pid_t>{other.pid()});
    other.kill();
    CHECK(goes(client, "a", 1));
  }

  TEST_CASE("a held segment that was removed stays removed over a restart") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = put(client, "a", 1, large);
    must(client.hold(ref));
    must(client.remove("a"));
    restart(daemon);
    CHECK(outcome(client.get("a")) == "not_found");
    // Nor is what has its name now held.
    put(client, "a", 1, large, {.keep = 1});
    restart(daemon);
    CHECK(lease_pids(client, "a").empty());
    put(client, "a", 2, large, {.keep = 1});
    CHECK(versions(client, "a") == Versions{2});
    CHECK(Status(client)["segments"] == 1);
  }

  TEST_CASE("holds and their ends are each counted once while the daemon is killed over and over") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client holder = daemon.connect();
    Random random("holds over restarts");
    constexpr std::size_t count = 8;
    std::vector<Ref> refs;
    std::array<int, count> held{};
    for (std::size_t i = 0; i < count; ++i)
      refs.push_back(put(client, "h/" + std::to_string(i), 1, small, {.keep = 1}));
    std::atomic<bool> done{false};
    std::atomic<int> steps{0};
    std::string wrong;
    {
      const std::jthread work([&] {
        for (; steps < 600 && wrong.empty(); ++steps) {
          const std::size_t i = random.below(count);
          if (random.chance(0.5)) {
            wrong = outcome(holder.hold(refs[i]));
            ++held[i];
          } else {
            wrong = outcome(holder.unhold(refs[i]));
            if (held[i] > 0) {
              --held[i];
            } else {
              wrong = wrong == "bad_state" ? "ok" : wrong + " of what is not held";
            }
          }
          if (wrong == "ok") wrong.clear();
        }
        done = true;
      });
      for (int restarts = 0; restarts < 300 && !done; ++restarts)
        restart_and_let_work(daemon, [&] { return done ? -1 : steps.load(); });
    }
    CHECK(wrong == "");
    for (std::size_t i = 0; i < count; ++i)
      put(client, "h/" + std::to_string(i), 2, small, {.keep = 1});
    for (std::size_t i = 0; i < count; ++i) {
      CAPTURE(i);
      CAPTURE(held[i]);
      if (held[i] == 0) {
        CHECK(goes(client, "h/" + std::to_string(i), 1));
        continue;
      }
      for (; held[i] > 0; --held[i]) {
        CHECK(look(client, "h/" + std::to_string(i), 1, small) == "ok");
        CHECK(outcome(holder.unhold(refs[i])) == "ok");
      }
      CHECK(goes(client, "h/" + std::to_string(i), 1));
    }
  }

  TEST_CASE("thousands of holds are known again after a restart") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr int count = 3000;
    const auto id = [](int i) { return "h/" + std::string(200, 'x') + std::to_string(i); };
    for (int i = 0; i < count; ++i) put(client, id(i), 1, 10, {.keep = 1});
    ChildProcess holder([&](Moments& moments) {
      Client own = daemon.connect();
      for (int i = 0; i < count; i += 2) must(own.hold(id(i)));
      moments.reached();
      moments.wait();
    });
    holder.await();
    restart(daemon);
    for (int i = 0; i < count; ++i) put(client, id(i), 2, 10);
    for (int i = 0; i < count; ++i)
      REQUIRE(look(client, id(i), 1, 10) == (i % 2 == 0 ? "ok" : "not_found"));
    holder.kill();
    CHECK(status_becomes(client, "segments", count) == count);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what is persistent is so for ever") {
    DaemonProcess daemon({.capacity = "16MiB"});
    {
      Client client = daemon.connect();
      put(client, "put", 1, mebibyte, {.evictable = true, .persistent = true, .keep = 1});
      put(client, "said", 1, mebibyte, {.evictable = true, .keep = 1});
      must(client.persist("said"));
    }
    restart(daemon);
    Client client = daemon.connect();
    for (const std::string id : {"put", "said"}) {
      put(client, id, 2, mebibyte, {.keep = 1});
      CHECK(must(client.stat(id, 1)).info.persistent);
    }
    want_room(client);
    CHECK(look(client, "put", 1, mebibyte) == "ok");
    CHECK(look(client, "said", 1, mebibyte) == "ok");
    CHECK(must(client.remove("put", 1)) == 1);
    CHECK(must(client.remove("said", 1)) == 1);
  }
}

TEST_SUITE("claim over a restart") {
  TEST_CASE("a claim is made good after a restart, in every way, and those who wait get it") {
    enum class Way { put, builder, builder_open, fail, give_up };
    for (const std::size_t size : {small, large})
      for (const Way way : {Way::put, Way::builder, Way::builder_open}) {
        CAPTURE(size);
        CAPTURE(static_cast<int>(way));
        DaemonProcess daemon;
        Client client = daemon.connect();
        const Client observer = daemon.connect();
        Claim claim = claimed(client.claim("a"));
        std::optional<Builder> builder;
        if (way == Way::builder_open) builder = must(claim.create(size, {}));
        Waiter one(daemon, "a", size);
        Waiter two(daemon, "a", size);
        await_waiting(observer, 2);
        for (int round = 0; round < 3; ++round) {
          restart(daemon);
          await_waiting(observer, 2);
        }
        CHECK(claim.version() == 1);
        if (way == Way::put) {
          CHECK(must(claim.put(payload(size, "a", 1), {})).version() == 1);
        } else {
          if (!builder) builder = must(claim.create(size, {}));
          fill(builder->bytes(), "a", 1);
          CHECK(must(builder->seal()).version == 1);
        }
        CHECK(one.join() == 0);
        CHECK(two.join() == 0);
        CHECK(versions(observer, "a") == Versions{1});
        CHECK(Status(observer)["waiting_claims"] == 0);
        CHECK(Status(observer)["creating"] == 0);
        CHECK(adds_up(observer) == "");
      }
  }

  TEST_CASE("nobody takes over from a maker that lives and has not come back yet") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    Client impatient = daemon.connect();
    ChildProcess maker([&](Moments& moments) {
      Client own = daemon.connect();
      Claim claim = claimed(own.claim("a"));
      Claim built = claimed(own.claim("b"));
      Builder builder = must(built.create(large, {}));
      moments.reached();
      moments.wait();
      must(claim.put(payload(small, "a", 1), {}));
      fill(builder.bytes(), "b", 1);
      must(builder.seal());
    });
    maker.await();
    Waiter one(daemon, "a", small);
    Waiter two(daemon, "b", large);
    await_waiting(client, 2);
    maker.signal(SIGSTOP);
    restart(daemon);
    for (const std::string id : {"a", "b"}) {
      CHECK(outcome(impatient.claim(id, {.timeout = milliseconds(700)})) == "timed_out");
      CHECK(outcome(impatient.put(id, payload(small, id, 1), {.version = 1})) == "conflict");
    }
    await_waiting(client, 2);
    restart(daemon);
    await_waiting(client, 2);
    maker.signal(SIGCONT);
    maker.release();
    CHECK(maker.join() == 0);
    CHECK(one.join() == 0);
    CHECK(two.join() == 0);
  }

  TEST_CASE("a maker that dies while no daemon runs is followed by one of those who wait") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    Shared<Counter> runs;
    for (const bool built : {false, true}) {
      CAPTURE(built);
      *runs = 0;
      const std::string id = built ? "built" : "plain";
      ChildProcess maker([&](Moments& moments) {
        Client own = daemon.connect();
        Claim claim = claimed(own.claim(id));
        std::optional<Builder> builder;
        if (built) builder = must(claim.create(large, {}));
        moments.reached();
        moments.wait();
      });
      maker.await();
      const auto wait_for_it = [&](Moments&) {
        Client own = daemon.connect();
        const View view = must(own.get_or_create(id, [&]() -> Result<Loaded> {
          ++*runs;
          return Loaded{.bytes = payload(large, id, 1)};
        }, patient));
        const std::string wrong = wrong_bytes(view.bytes(), large, id, 1);
        require(wrong.empty(), wrong);
      };
      ChildProcess one(wait_for_it);
      ChildProcess two(wait_for_it);
      await_waiting(client, 2);
      daemon.kill();
      maker.kill();
      daemon.start();
      CHECK(one.join() == 0);
      CHECK(two.join() == 0);
      CHECK(*runs == 1);
      CHECK(versions(client, id) == Versions{1});
      CHECK(Status(client)["creating"] == 0);
    }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("thousands of claims are known again after a restart") {
    DaemonProcess daemon;
    constexpr int count = 2000;
    const auto id = [](int i) { return "c/" + std::string(200, '\0') + std::to_string(i); };
    ChildProcess maker([&](Moments& moments) {
      Client own = daemon.connect();
      std::vector<Claim> claims;
      for (int i = 0; i < count; ++i) claims.push_back(claimed(own.claim(id(i))));
      moments.reached();
      moments.wait();
      for (int i = 0; i < count; i += 2)
        must(claims[static_cast<std::size_t>(i)].put(payload(10, id(i), 1), {}));
      claims.clear();
      moments.reached();
      moments.wait();
    });
    maker.await();
    restart(daemon);
    Client client = daemon.connect();
    for (int i = 0; i < count; i += 50)
      CHECK(outcome(client.claim(id(i), {.timeout = Timeout(0)})) == "timed_out");
    restart(daemon);
    maker.release();
    maker.await();
    for (int i = 0; i < count; ++i) {
      const auto got = client.claim(id(i), {.timeout = Timeout(0)});
      REQUIRE(outcome(got) == "ok");
      REQUIRE(std::holds_alternative<View>(*got) == (i % 2 == 0));
    }
    CHECK(Status(client)["segments"] == count / 2);
    CHECK(Status(client)["creating"] == 0);
  }

  TEST_CASE("a claim that fails or is given up after a restart tells those who wait, as ever") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    const Client observer = daemon.connect();
    for (const bool gives_up : {false, true}) {
      CAPTURE(gives_up);
      Claim claim = claimed(client.claim("a"));
      Result<ViewOrClaim> got = fail(Errc::cancelled, "nothing yet");
      {
        const std::jthread asking([&] { got = other.claim("a", patient); });
        await_waiting(observer, 1);
        restart(daemon);
        await_waiting(observer, 1);
        if (gives_up) {
          claim.give_up();
        } else {
          claim.fail("the disk is on fire");
        }
      }
      if (gives_up) {
        CHECK(claimed(std::move(got)).version() == 1);
      } else {
        CHECK(outcome(got) == "loader_failed");
        CHECK(why(got).find("the disk is on fire") != std::string::npos);
      }
    }
  }

  TEST_CASE("a claim that ends while no daemon runs is over when one does") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    const Client observer = daemon.connect();
    for (const bool made : {false, true}) {
      CAPTURE(made);
      std::optional<Claim> claim = claimed(client.claim("a"));
      Result<ViewOrClaim> got = fail(Errc::cancelled, "nothing yet");
      {
        const std::jthread asking([&] { got = other.claim("a", patient); });
        await_waiting(observer, 1);
        daemon.kill();
        std::atomic<bool> begun{false};
        const std::jthread ending([&] {
          begun = true;
          if (made) {
            CHECK(outcome(claim->put(payload(small, "a", 1), {})) == "ok");
          } else {
            claim.reset();
          }
        });
        CHECK(eventually([&] { return begun.load(); }));
        daemon.start();
      }
      REQUIRE(outcome(got) == "ok");
      CHECK(std::holds_alternative<View>(*got) == made);
    }
  }

  TEST_CASE("who waits for a claim over a restart waits no longer and no shorter than was said") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    const Client observer = daemon.connect();
    const Claim claim = claimed(client.claim("a"));
    std::string ended;
    const auto start = Clock::now();
    {
      const std::jthread asking(
          [&] { ended = outcome(other.claim("a", {.timeout = milliseconds(1500)})); });
      await_waiting(observer, 1);
      restart(daemon);
    }
    const auto took = Clock::now() - start;
    CHECK(ended == "timed_out");
    CHECK(took >= milliseconds(1500));
    CHECK(took < milliseconds(1500) + slack);
  }

  TEST_CASE("at whatever step of making a claimed version the daemon is killed, it is made once") {
    for (const shm::Failpoint& point :
         {shm::points::serial_taken, shm::points::create_begun, shm::points::create_filled,
          shm::points::create_written, shm::points::put_copied, shm::points::seal_exact_linked,
          shm::points::seal_written, shm::points::seal_newest_linked,
          shm::points::claim_fulfilled}) {
      int reached = 0;
      for (const int nth : {1, 2})
        for (const std::size_t size : {small, large})
          for (const bool by_builder : {false, true}) {
            CAPTURE(point.name);
            CAPTURE(nth);
            CAPTURE(size);
            CAPTURE(by_builder);
            DaemonProcess daemon(
                {.environment = {{"FOREBAY_FAILPOINTS", std::string(point.name) + ":" +
                                                            std::to_string(nth) + "=kill"}}});
            Counter runs{0};
            std::atomic<int> done{0};
            const auto ask = [&](Client& own) {
              const auto made = own.claim("a", patient);
              std::string ended = outcome(made);
              if (made && std::holds_alternative<Claim>(*made)) {
                ++runs;
                Claim& claim = const_cast<Claim&>(std::get<Claim>(*made));
                if (by_builder) {
                  Builder builder = must(claim.create(size, {}));
                  fill(builder.bytes(), "a", 1);
                  ended = outcome(builder.seal());
                } else {
                  ended = outcome(claim.put(payload(size, "a", 1), {}));
                }
              }
              CHECK(ended == "ok");
              ++done;
            };
            Client first = daemon.connect();
            Client second = daemon.connect();
            {
              const std::jthread one([&] { ask(first); });
              const std::jthread two([&] { ask(second); });
              // Whoever looks after it starts it again, without the failpoint.
              CHECK(eventually([&] {
                if (!daemon.running()) {
                  ++reached;
                  daemon.start(DaemonProcess::Options{});
                }
                return done == 2;
              }));
            }
            CHECK(runs == 1);
            CHECK(versions(first, "a") == Versions{1});
            CHECK(look(first, "a", 1, size) == "ok");
            CHECK(status_becomes(first, "creating", 0, slack) == 0);
            CHECK(Status(first)["waiting_claims"] == 0);
            CHECK(adds_up(first) == "");
          }
      CAPTURE(point.name);
      CHECK_MESSAGE(reached > 0, "this failpoint was not reached: give it a workload here");
    }
  }

  TEST_CASE("processes that load while the daemon is killed over and over load each version once") {
    DaemonProcess daemon;
    constexpr int ids = 400;
    Shared<std::array<Counter, ids>> runs;
    Shared<Counter> ended;
    Shared<Counter> steps;
    const auto size_of = [](int i) {
      return i % 3 == 0 ? std::size_t{80'000} : static_cast<std::size_t>(i) * 10;
    };
    const auto id_of = [](int i) { return "c/" + std::to_string(i); };
    const auto ask_for_all = [&](Moments& moments) {
      Client own = daemon.connect();
      moments.reached();
      for (int i = 0; i < ids; ++i) {
        const View view = must(own.get_or_create(id_of(i), [&]() -> Result<Loaded> {
          ++(*runs)[static_cast<std::size_t>(i)];
          return Loaded{.bytes = payload(size_of(i), id_of(i), 1)};
        }, patient));
        const std::string wrong = wrong_bytes(view.bytes(), size_of(i), id_of(i), 1);
        require(wrong.empty(), wrong);
        ++*steps;
      }
      ++*ended;
    };
    std::vector<std::unique_ptr<ChildProcess>> children;
    for (int i = 0; i < 4; ++i) children.push_back(std::make_unique<ChildProcess>(ask_for_all));
    for (auto& child : children) child->await();
    for (int restarts = 0; *ended < 4 && restarts < 300; ++restarts)
      restart_and_let_work(daemon, [&] { return static_cast<int>(*steps); });
    for (auto& child : children) CHECK(child->join() == 0);
    const Client client = daemon.connect();
    for (int i = 0; i < ids; ++i) {
      CAPTURE(i);
      CHECK((*runs)[static_cast<std::size_t>(i)] == 1);
      CHECK(look(client, id_of(i), 1, size_of(i)) == "ok");
      CHECK(versions(client, id_of(i)) == Versions{1});
    }
    CHECK(status_becomes(client, "creating", 0, slack) == 0);
    CHECK(Status(client)["waiting_claims"] == 0);
    CHECK(adds_up(client) == "");
  }
}

TEST_SUITE("update over a restart") {
  TEST_CASE("what was taken before a restart is sealed after it, and the former one stays superseded") {
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      DaemonProcess daemon;
      Client client = daemon.connect();
      put(client, "taken", 1, size, {.type = array_of<std::uint8_t>({size})});
      put(client, "copied", 1, size, {.type = array_of<std::uint8_t>({size})});
      Builder taken = must(client.update("taken", {.take = true}));
      Builder copied = must(client.update("copied"));
      for (int round = 0; round < 2; ++round) {
        restart(daemon);
        CHECK(look(client, "taken", 1, size) == "superseded");
        CHECK(look(client, "taken", 0, size) == "superseded");
        CHECK(look(client, "taken", 2, size) == "not_found");
        CHECK(look(client, "copied", 0, size) == "ok");
        CHECK(outcome(client.update("taken", {.from_version = 1})) == "superseded");
        CHECK(wrong_bytes(taken.bytes(), size, "taken", 1) == "");
        CHECK(wrong_bytes(copied.bytes(), size, "copied", 1) == "");
      }
      fill(taken.bytes(), "taken", 2);
      fill(copied.bytes(), "copied", 2);
      must(taken.seal());
      must(copied.seal());
      for (int round = 0; round < 2; ++round) {
        CHECK(look(client, "taken", 0, size) == "ok");
        CHECK(look(client, "taken", 2, size) == "ok");
        CHECK(look(client, "taken", 1, size) == "superseded");
        CHECK(look(client, "copied", 1, size) == "ok");
        CHECK(look(client, "copied", 2, size) == "ok");
        for (const std::string id : {"taken", "copied"})
          CHECK(must(must(client.get(id)).type()) == array_of<std::uint8_t>({size}));
        CHECK(adds_up(client) == "");
        restart(daemon);
      }
      for (const std::string id : {"taken", "copied"}) must(client.remove(id));
      CHECK(Status(client).segment_bytes() == 0);
    }
  }

  TEST_CASE("what a taker held that is aborted or dies around a restart stays superseded") {
    for (const std::size_t size : {small, large})
      for (const bool dies : {false, true}) {
        CAPTURE(size);
        CAPTURE(dies);
        DaemonProcess daemon;
        ChildProcess taker([&](Moments& moments) {
          Client own = daemon.connect();
          put(own, "a", 4, size);
          Builder builder = must(own.update("a", {.take = true}));
          fill(builder.bytes(), "half", 1);
          moments.reached();
          moments.wait();
          must(builder.abort());
          moments.reached();
          moments.wait();
        });
        taker.await();
        daemon.kill();
        if (dies) taker.kill();
        daemon.start();
        Client client = daemon.connect();
        if (!dies) {
          taker.release();
          taker.await();
        }
        CHECK(status_becomes(client, "creating", 0, slack) == 0);
        for (int round = 0; round < 2; ++round) {
          CHECK(look(client, "a", 4, size) == "superseded");
          CHECK(look(client, "a", 5, size) == "not_found");
          CHECK(versions(client, "a").empty());
          CHECK(Status(client).segment_bytes() == 0);
          CHECK(adds_up(client) == "");
          restart(daemon);
        }
        put(client, "a", 5, size);
        CHECK(look(client, "a", 0, size) == "ok");
      }
  }

  TEST_CASE("at whatever step of a take the daemon is killed, nobody sees wrong bytes, and it goes on") {
    for (const shm::Failpoint& point :
         {shm::points::serial_taken, shm::points::create_begun, shm::points::create_filled,
          shm::points::create_written, shm::points::take_begun, shm::points::evict_marked,
          shm::points::evict_tombstone, shm::points::evict_unlinked,
          shm::points::seal_exact_linked, shm::points::seal_written,
          shm::points::seal_newest_linked}) {
      for (const int nth : {2, 3, 4})  // the first is of the put
        for (const std::size_t size : {small, large}) {
          CAPTURE(point.name);
          CAPTURE(nth);
          CAPTURE(size);
          DaemonProcess daemon(
              {.environment = {{"FOREBAY_FAILPOINTS", std::string(point.name) + ":" +
                                                          std::to_string(
                                                              point.name == "take.begun" ||
                                                                      point.name.starts_with("evict")
                                                                  ? nth - 1
                                                                  : nth) +
                                                          "=kill"}}});
          Client client = daemon.connect();
          std::atomic<bool> done{false};
          std::string taken;
          std::string sealed;
          std::string wrong;
          {
            const std::jthread taker([&] {
              put(client, "a", 1, size);
              for (std::uint64_t version = 1; version <= 3; ++version) {
                auto builder = client.update("a", {.take = true});
                taken = outcome(builder);
                if (!builder) break;
                wrong = wrong_bytes(builder->bytes(), size, "a", version);
                fill(builder->bytes(), "a", version + 1);
                sealed = outcome(builder->seal());
                if (sealed != "ok" || !wrong.empty()) break;
                if (look(client, "a", version, size) != "superseded")
                  wrong = "the former one says " + look(client, "a", version, size);
                if (look(client, "a", 0, size) != "ok")
                  wrong = "the new one says " + look(client, "a", 0, size);
              }
              done = true;
            });
            CHECK(eventually([&] {
              if (!daemon.running()) daemon.start(DaemonProcess::Options{});
              return done.load();
            }));
          }
          CHECK(taken == "ok");
          CHECK(sealed == "ok");
          CHECK(wrong == "");
          CHECK(versions(client, "a") == Versions{4});
          CHECK(look(client, "a", 4, size) == "ok");
          for (std::uint64_t version = 1; version <= 3; ++version)
            CHECK(look(client, "a", version, size) == "superseded");
          CHECK(Status(client)["creating"] == 0);
          CHECK(adds_up(client) == "");
        }
    }
  }

  TEST_CASE("versions that are taken one from the other lose nothing while the daemon is killed over and over") {
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      DaemonProcess daemon;
      constexpr std::uint64_t last = 120;
      Client client = daemon.connect();
      put(client, "a", 1, size);
      Shared<Counter> taken;
      ChildProcess taker([&](Moments& moments) {
        Client own = daemon.connect();
        moments.reached();
        for (std::uint64_t version = 1; version < last; ++version) {
          Builder builder = must(own.update("a", {.from_version = version, .take = true}));
          const std::string wrong = wrong_bytes(builder.bytes(), size, "a", version);
          require(wrong.empty(), wrong);
          fill(builder.bytes(), "a", version + 1);
          require(must(builder.seal()).version == version + 1, "another version");
          ++*taken;
        }
      });
      taker.await();
      for (int restarts = 0; restarts < 300 && !must(client.contains("a", last)); ++restarts)
        restart_and_let_work(daemon, [&] { return static_cast<int>(*taken); });
      CHECK(taker.join() == 0);
      CHECK(versions(client, "a") == Versions{last});
      CHECK(look(client, "a", last, size) == "ok");
      CHECK(look(client, "a", last / 2, size) == "superseded");
      CHECK(status_becomes(client, "creating", 0, slack) == 0);
      CHECK(adds_up(client) == "");
    }
  }
}

TEST_SUITE("versions without a daemon") {
  TEST_CASE("what needs the daemon fails by its deadline while it is dead, and while it is stopped") {
    DaemonProcess daemon;
    Client client = daemon.connect(milliseconds(300));
    const Ref ref = put(client, "a", 1, large);
    put(client, "b", 1, large);
    must(client.hold(ref));
    Claim to_put = claimed(client.claim("to_put"));
    Claim to_create = claimed(client.claim("to_create"));
    std::optional<Claim> to_drop = claimed(client.claim("to_drop"));
    const std::vector<std::string_view> ids{"a", "b"};
    const std::vector<Ref> refs{ref};
    const std::vector<WaitItem> items{{.id = "a"}, {.id = "none"}};
    std::string expected;
    SUBCASE("dead") {
      daemon.kill();
      expected = "disconnected";
    }
    SUBCASE("stopped") {
      daemon.stop();
      expected = "timed_out";
    }
    const auto within_deadline = [&](auto&& call) {
      const auto start = Clock::now();
      const std::string ended = outcome(call());
      CHECK(Clock::now() - start < milliseconds(700) + slack);
      return ended;
    };
    CHECK(within_deadline([&] { return client.hold("a"); }) == expected);
    CHECK(within_deadline([&] { return client.hold(ref); }) == expected);
    CHECK(within_deadline([&] { return client.persist("a"); }) == expected);
    CHECK(within_deadline([&] { return client.keep("a", 3); }) == expected);
    CHECK(within_deadline([&] { return client.remove_before("a", 1); }) == expected);
    CHECK(within_deadline([&] { return client.remove_prefix("b"); }) == expected);
    CHECK(within_deadline([&] { return client.remove_many(ids); }) == expected);
    CHECK(within_deadline([&] { return client.remove_many(refs); }) == expected);
    CHECK(within_deadline([&] { return client.update("a"); }) == expected);
    CHECK(within_deadline([&] { return client.update("a", {.take = true}); }) == expected);
    CHECK(within_deadline([&] {
            return client.claim("none", {.timeout = milliseconds(300)});
          }) != "ok");
    CHECK(within_deadline([&] {
            return client.get_or_create("none", never, {.timeout = milliseconds(300)});
          }) != "ok");
    CHECK(within_deadline([&] { return to_put.put(payload(small, "", 1), {}); }) == expected);
    CHECK(within_deadline([&] { return to_create.create(large, {}); }) == expected);
    CHECK(within_deadline([&] {
            to_drop.reset();
            return Result<void>();
          }) == "ok");
    (void)within_deadline([&] { return client.wait(items, 2, milliseconds(300)); });
    // What is there can be had without it.
    CHECK(must(client.wait(items, 1, seconds(20))) == std::vector<std::size_t>{0});
    CHECK(outcome(client.claim("a")) == "ok");
    CHECK(outcome(client.get_or_create("a", never)) == "ok");
    if (daemon.running()) {
      daemon.resume();
    } else {
      daemon.start();
    }
    // And afterwards all is as it should be.
    Client other = daemon.connect();
    CHECK(eventually([&] { return outcome(client.status()) == "ok"; }));
    CHECK(outcome(other.get("none")) == "not_found");
    CHECK(eventually([&] {
      const auto put_now = to_put.put(payload(small, "to_put", 1), {});
      return put_now.has_value() || must(other.contains("to_put"));
    }));
    CHECK(eventually([&] {
      return outcome(other.claim("to_drop", {.timeout = milliseconds(100)})) == "ok";
    }));
  }
}

}  // namespace
}  // namespace forebay::test
