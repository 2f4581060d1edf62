// SPDX-License-Identifier: Apache-2.0
// hold, unhold and persist: what the daemon does not let go on its own.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "store/client.h"
#include "store/units.h"
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

constexpr seconds slack{5};  // for "at once" and "within a second" on a loaded machine
constexpr std::size_t small = 10'000;
constexpr std::size_t large = 300'000;

Ref put(Client& client, const std::string& id, std::uint64_t version, PutOptions options = {},
        std::size_t size = small) {
  options.version = version;
  return must(client.put(id, payload(size, id, version), options));
}

// What get says of a version, with its bytes checked.
std::string look(const Client& client, const std::string& id, std::uint64_t version = 0,
                 std::size_t size = small) {
  const auto view = client.get(id, {.version = version});
  if (!view) return outcome(view);
  const std::string wrong = wrong_bytes(view->bytes(), size, id, view->version());
  return wrong.empty() ? "ok" : wrong;
}

bool goes(const Client& client, const std::string& id, std::uint64_t version = 0) {
  return eventually([&] { return look(client, id, version) == "not_found"; }, slack);
}

// Puts twice as much as a store of 16 MiB holds, so that all goes that can be dropped for it.
void want_room(Client& client) {
  const auto bytes = payload(small, "flood", 1);
  for (std::size_t i = 0; i < 32 * mebibyte / small; ++i)
    must(client.put("flood/" + std::to_string(i), bytes, {.evictable = true}));
  must(client.remove_prefix("flood/"));
}

std::vector<pid_t> lease_pids(const Client& client, const std::string& id,
                              std::uint64_t version = 0) {
  std::vector<pid_t> pids;
  for (const Holder& holder : must(client.stat(id, version)).leases)
    pids.push_back(static_cast<pid_t>(holder.pid));
  std::sort(pids.begin(), pids.end());
  return pids;
}

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

TEST_SUITE("hold") {
  TEST_CASE("a held segment is not dropped for room, and may be again after unhold") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (const std::size_t size : {small, 6 * mebibyte}) {
      CAPTURE(size);
      put(client, "held", 1, {.evictable = true}, size);
      put(client, "free", 1, {.evictable = true}, size);
      const Ref ref = must(client.hold("held"));
      CHECK(ref == must(client.get("held")).ref());
      want_room(client);
      CHECK(look(client, "free", 1, size) == "evicted");
      CHECK(look(client, "held", 1, size) == "ok");
      CHECK(outcome(client.put("room", payload(16 * mebibyte, "room", 1))) == "store_full");
      must(client.unhold(ref));
      CHECK(look(client, "held", 1, size) == "ok");
      want_room(client);
      CHECK(look(client, "held", 1, size) == "evicted");
      for (const std::string id : {"held", "free"}) (void)client.remove(id);
    }
  }

  TEST_CASE("a held version is not among those that keep drops, until unhold") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client other = daemon.connect();
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      put(client, "a", 1, {.keep = 1}, size);
      const Ref ref = must(client.hold("a"));
      for (std::uint64_t version = 2; version <= 5; ++version)
        put(client, "a", version, {.keep = 1}, size);
      CHECK(look(client, "a", 1, size) == "ok");
      CHECK(look(other, "a", 1, size) == "ok");
      for (const std::uint64_t version : {2U, 3U, 4U}) CHECK(look(other, "a", version) == "not_found");
      CHECK(look(other, "a", 0, size) == "ok");
      must(client.unhold(ref));
      CHECK(goes(client, "a", 1));
      CHECK(must(client.get("a")).version() == 5);
      must(client.remove("a"));
    }
    CHECK(Status(client)["removing"] == 0);
    CHECK(Status(client)["segments"] == 0);
  }

  TEST_CASE("a held segment lives on beyond its time, and goes at the unhold") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      Builder builder = must(client.create("a", size, {.ttl = milliseconds(400)}));
      fill(builder.bytes(), "a", 1);
      View view = must(builder.seal_and_get());
      const Ref ref = must(client.hold(view.ref()));
      view.release();
      put(client, "b", 1, {.ttl = milliseconds(400)}, size);
      CHECK(goes(client, "b"));
      CHECK(look(client, "a", 0, size) == "ok");
      must(client.unhold(ref));
      CHECK(goes(client, "a"));
    }
    CHECK(Status(client)["segments"] == 0);
  }

  TEST_CASE("an unhold before the time is over takes nothing of it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto before = Clock::now();
    put(client, "a", 1, {.ttl = seconds(2)});
    must(client.unhold(must(client.hold("a"))));
    CHECK(look(client, "a") == "ok");
    CHECK(eventually([&] { return look(client, "a") == "not_found"; }));
    CHECK(Clock::now() - before >= seconds(2));
  }

  TEST_CASE("holds are counted") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = put(client, "a", 1, {.keep = 1});
    must(client.hold("a"));
    must(client.hold("a", 1));
    must(client.hold(ref));
    put(client, "a", 2, {.keep = 1});
    must(client.unhold(ref));
    must(client.unhold(ref));
    put(client, "a", 3, {.keep = 1});
    CHECK(look(client, "a", 1) == "ok");
    CHECK(must(client.stat("a", 1)).leases.size() == 1);
    must(client.unhold(ref));
    CHECK(goes(client, "a", 1));
  }

  TEST_CASE("hold without a version holds the newest") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::uint64_t version = 1; version <= 3; ++version) put(client, "a", version);
    CHECK(must(client.hold("a")).version == 3);
    CHECK(must(client.hold("a", 2)).version == 2);
    must(client.keep("a", 1));
    put(client, "a", 4, {.keep = 1});
    CHECK(look(client, "a", 1) == "not_found");
    CHECK(look(client, "a", 2) == "ok");
    CHECK(look(client, "a", 3) == "ok");
  }

  TEST_CASE("stat names the processes that hold it") {
    DaemonProcess daemon;
    ChildProcess holder([&](Moments& moments) {
      Client own = daemon.connect();
      moments.reached();
      moments.wait();
      must(own.hold("a"));
      must(own.hold("a"));
      moments.reached();
      moments.wait();
    });
    holder.await();
    Client client = daemon.connect();
    const Ref ref = put(client, "a", 1);
    put(client, "b", 1);
    CHECK(must(client.stat("a")).leases.empty());
    holder.release();
    holder.await();
    {
      const SegmentStat stat = must(client.stat("a"));
      REQUIRE(stat.leases.size() == 1);
      CHECK(stat.leases[0].pid == static_cast<std::uint32_t>(holder.pid()));
      CHECK(stat.leases[0].name == "process_tests");
      CHECK(stat.holders.empty());  // no pin
    }
    must(client.hold(ref));
    std::vector<pid_t> both{holder.pid(), ::getpid()};
    std::sort(both.begin(), both.end());
    CHECK(lease_pids(client, "a") == both);
    CHECK(lease_pids(client, "b").empty());
    must(client.unhold(ref));
    CHECK(lease_pids(client, "a") == std::vector<pid_t>{holder.pid()});
    holder.kill();
    CHECK(eventually([&] { return lease_pids(client, "a").empty(); }, slack));
    CHECK(look(client, "a") == "ok");
  }

  TEST_CASE("a process may unhold what it holds itself, and nothing else") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = put(client, "a", 1, {.keep = 1});
    ChildProcess holder([&](Moments& moments) {
      Client own = daemon.connect();
      must(own.hold("a", 1));
      moments.reached();
      moments.wait();
      must(own.unhold(must(own.get("a", {.version = 1})).ref()));
      moments.reached();
      moments.wait();
    });
    holder.await();
    put(client, "a", 2, {.keep = 1});
    const auto refused = client.unhold(ref);
    CHECK(outcome(refused) == "bad_state");
    CHECK(mentions(why(refused), "'a' version 1"));
    CHECK(look(client, "a", 1) == "ok");
    // Held twice, by two: both must let it go.
    must(client.hold(ref));
    must(client.unhold(ref));
    CHECK(look(client, "a", 1) == "ok");
    holder.release();
    holder.await();
    CHECK(goes(client, "a", 1));
    CHECK(outcome(client.unhold(ref)) != "ok");
  }

  TEST_CASE("what is not held cannot be let go") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = put(client, "a", 1);
    CHECK(outcome(client.unhold(ref)) == "bad_state");
    must(client.hold(ref));
    must(client.unhold(ref));
    CHECK(outcome(client.unhold(ref)) == "bad_state");
    CHECK(look(client, "a") == "ok");
  }

  TEST_CASE("when the process that holds dies, what would have gone goes") {
    DaemonProcess daemon({.capacity = "16MiB"});
    for (const std::size_t size : {small, mebibyte}) {
      CAPTURE(size);
      ChildProcess holder([&](Moments& moments) {
        Client own = daemon.connect();
        moments.wait();
        must(own.hold("kept", 1));
        must(own.hold("aged"));
        must(own.hold("room"));
        must(own.hold("stays"));
        moments.reached();
        moments.wait();
      });
      Client client = daemon.connect();
      must(client.put("stays", payload(size, "stays", 1)));
      put(client, "room", 1, {.evictable = true}, size);
      Builder builder = must(client.create("aged", size, {.ttl = milliseconds(300)}));
      fill(builder.bytes(), "aged", 1);
      View aged = must(builder.seal_and_get());
      must(client.hold(aged.ref()));
      put(client, "kept", 1, {.keep = 1}, size);
      holder.release();
      holder.await();
      must(client.unhold(aged.ref()));
      aged.release();
      put(client, "kept", 2, {.keep = 1}, size);
      put(client, "clock", 1, {.ttl = milliseconds(300)}, size);
      CHECK(goes(client, "clock"));
      want_room(client);
      CHECK(look(client, "kept", 1, size) == "ok");
      CHECK(look(client, "aged", 1, size) == "ok");
      CHECK(look(client, "room", 1, size) == "ok");
      holder.kill();
      CHECK(goes(client, "kept", 1));
      CHECK(goes(client, "aged"));
      CHECK(look(client, "room", 1, size) == "ok");  // nobody wants it yet
      CHECK(look(client, "stays", 1, size) == "ok");
      CHECK(lease_pids(client, "stays").empty());
      want_room(client);
      CHECK(look(client, "room", 1, size) == "evicted");
      CHECK(look(client, "stays", 1, size) == "ok");
      for (const std::string id : {"kept", "stays"}) must(client.remove(id));
      (void)client.remove("room");
      CHECK(Status(client)["segments"] == 0);
    }
  }

  TEST_CASE("what two processes hold stays until the last of them has let it go or died") {
    DaemonProcess daemon;
    const auto hold_it = [&](Moments& moments) {
      Client own = daemon.connect();
      must(own.hold("a", 1));
      moments.reached();
      moments.wait();
    };
    Client client = daemon.connect();
    put(client, "a", 1, {.keep = 1});
    ChildProcess one(hold_it);
    ChildProcess two(hold_it);
    one.await();
    two.await();
    put(client, "a", 2, {.keep = 1});
    one.kill();
    CHECK(eventually([&] { return lease_pids(client, "a", 1).size() == 1; }, slack));
    CHECK(look(client, "a", 1) == "ok");
    two.kill();
    CHECK(goes(client, "a", 1));
  }

  TEST_CASE("a forked child's end takes nothing of what its parent holds") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = put(client, "a", 1, {.keep = 1});
    must(client.hold(ref));
    put(client, "a", 2, {.keep = 1});
    ChildProcess child([&](Moments&) {
      require(look(client, "a", 1) == "ok", "the child does not see it");
      require(outcome(client.unhold(ref)) == "bad_state", "the child lets go what its parent holds");
    });
    CHECK(child.join() == 0);
    put(client, "a", 3, {.keep = 1});
    CHECK(look(client, "a", 1) == "ok");
    CHECK(lease_pids(client, "a", 1) == std::vector<pid_t>{::getpid()});
    must(client.unhold(ref));
    CHECK(goes(client, "a", 1));
  }

  TEST_CASE("a process that executes another program holds nothing any more") {
    DaemonProcess daemon;
    ChildProcess holder([&](Moments& moments) {
      Client own = daemon.connect();
      moments.wait();
      must(own.hold("a"));
      moments.reached();
      moments.wait();
      ::execlp("sleep", "sleep", "1000", static_cast<char*>(nullptr));
    });
    Client client = daemon.connect();
    put(client, "a", 1, {.keep = 1});
    holder.release();
    holder.await();
    put(client, "a", 2, {.keep = 1});
    CHECK(look(client, "a", 1) == "ok");
    holder.release();
    CHECK(goes(client, "a", 1));
  }

  TEST_CASE("a hold is no pin: the segment may be removed all the same") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      const Ref ref = put(client, "a", 1, {}, size);
      must(client.hold(ref));
      CHECK(must(client.stat("a")).holders.empty());
      CHECK(must(client.holders()).empty());
      CHECK(must(client.remove("a")) == 1);
      CHECK(look(client, "a") == "not_found");
      CHECK(Status(client)["removing"] == 0);
      CHECK(Status(client).segment_bytes() == 0);
      // And what is put under its name then is not held.
      put(client, "a", 1, {.keep = 1}, size);
      CHECK(must(client.stat("a")).leases.empty());
      put(client, "a", 2, {.keep = 1}, size);
      CHECK(look(client, "a", 1) == "not_found");
      must(client.remove("a"));
      for (const std::string id : {"b", "c", "d"}) must(client.hold(put(client, id, 1, {}, size)));
      put(client, "b", 2);
      CHECK(must(client.remove_before("b", 2)) == 1);
      const std::vector<std::string_view> ids{"c"};
      CHECK(must(must(client.remove_many(ids)).at(0)) == 1);
      CHECK(must(client.remove_prefix("")) == 2);
      CHECK(Status(client)["segments"] == 0);
    }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a held version that is pinned as well goes when both have ended") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const bool pin_ends_first : {false, true}) {
      CAPTURE(pin_ends_first);
      put(client, "a", 1, {.keep = 1}, large);
      View view = must(client.get("a"));
      const Ref ref = must(client.hold("a"));
      put(client, "a", 2, {.keep = 1}, large);
      if (pin_ends_first) {
        view.release();
        put(client, "noise", 1);
        CHECK(look(client, "a", 1, large) == "ok");
        must(client.unhold(ref));
      } else {
        must(client.unhold(ref));
        CHECK(wrong_bytes(view.bytes(), large, "a", 1) == "");
        view.release();
      }
      CHECK(goes(client, "a", 1));
      CHECK(look(client, "a", 0, large) == "ok");
      must(client.remove("a"));
      (void)client.remove("noise");
    }
    CHECK(Status(client)["removing"] == 0);
  }

  TEST_CASE("keep of the client spares what is held") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::uint64_t version = 1; version <= 5; ++version) put(client, "a", version);
    const Ref ref = must(client.hold("a", 2));
    must(client.keep("a", 1));
    CHECK(look(client, "a", 1) == "not_found");
    CHECK(look(client, "a", 2) == "ok");
    CHECK(look(client, "a", 4) == "not_found");
    CHECK(look(client, "a", 5) == "ok");
    // Enough stay now, so that the unhold is no reason to go.
    must(client.keep("a", 2));
    must(client.unhold(ref));
    put(client, "other", 1);
    CHECK(look(client, "a", 2) == "ok");
  }

  TEST_CASE("thousands may be held at a time, and all of them go with the process") {
    DaemonProcess daemon;
    constexpr int count = 3000;
    const auto id = [](int i) { return "h/" + std::to_string(i); };
    Client client = daemon.connect();
    for (int i = 0; i < count; ++i) put(client, id(i), 1, {.keep = 1});
    ChildProcess holder([&](Moments& moments) {
      Client own = daemon.connect();
      for (int i = 0; i < count; ++i) must(own.hold(id(i)));
      moments.reached();
      moments.wait();
    });
    holder.await();
    for (int i = 0; i < count; ++i) put(client, id(i), 2, {.keep = 1});
    CHECK(Status(client)["segments"] == 2 * count);
    for (int i = 0; i < count; ++i) REQUIRE(look(client, id(i), 1) == "ok");
    holder.kill();
    CHECK(status_becomes(client, "segments", count) == count);
    for (int i = 0; i < count; ++i) REQUIRE(look(client, id(i)) == "ok");
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what is not there cannot be held, and the error says why") {
    DaemonProcess daemon;
    DaemonProcess elsewhere;
    Client client = daemon.connect();
    Client other = elsewhere.connect();
    put(client, "a", 1);
    const auto missing = client.hold("a", 2);
    CHECK(outcome(missing) == "not_found");
    CHECK(mentions(why(missing), "'a' version 2"));
    CHECK(outcome(client.hold("none")) == "not_found");
    CHECK(outcome(client.persist("none")) == "not_found");
    CHECK(outcome(client.persist("a", 2)) == "not_found");
    Builder open = must(client.create("open", 10));
    CHECK(outcome(client.hold("open")) == "not_found");
    CHECK(outcome(client.hold("open", 1)) == "not_found");
    const Ref stale = put(client, "b", 1);
    must(client.remove("b"));
    put(client, "b", 1);
    CHECK(outcome(client.hold(stale)) == "stale_ref");
    CHECK(must(client.stat("b")).leases.empty());
    const Ref foreign = put(other, "a", 1);
    CHECK(outcome(client.hold(foreign)) == "wrong_store");
    CHECK(outcome(client.unhold(foreign)) == "wrong_store");
    Ref elsewhere_named = must(client.get("a")).ref();
    elsewhere_named.namespace_name = "other";
    CHECK(outcome(client.hold(elsewhere_named)) == "wrong_store");
    CHECK(outcome(client.unhold(elsewhere_named)) == "wrong_store");
    CHECK(outcome(client.unhold(Ref())) != "ok");
    CHECK(must(client.stat("a")).leases.empty());
    for (const std::string& id : {std::string(), std::string(256, 'x'), std::string(300'000, 'x')}) {
      CAPTURE(id.size());
      CHECK(outcome(client.hold(id)) == "bad_id");
      CHECK(outcome(client.hold(id, 3)) == "bad_id");
      CHECK(outcome(client.persist(id)) == "bad_id");
      Ref ref = must(client.get("a")).ref();
      ref.id = id;
      CHECK(outcome(client.hold(ref)) == "bad_id");
      CHECK(outcome(client.unhold(ref)) == "bad_id");
    }
  }

  TEST_CASE("an evicted segment cannot be held, and is not held when it is put again") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    put(client, "e", 1, {.evictable = true}, mebibyte);
    want_room(client);
    REQUIRE(look(client, "e", 1, mebibyte) == "evicted");
    CHECK(outcome(client.hold("e")) == "not_found");
    CHECK(outcome(client.persist("e")) == "not_found");
    put(client, "e", 1, {.evictable = true}, mebibyte);
    want_room(client);
    CHECK(look(client, "e", 1, mebibyte) == "evicted");
  }
}

TEST_SUITE("persist") {
  TEST_CASE("a persistent segment outlives room that is wanted, keep, its time, and who made it") {
    DaemonProcess daemon({.capacity = "16MiB"});
    for (const bool by_put : {false, true}) {
      CAPTURE(by_put);
      ChildProcess maker([&](Moments&) {
        Client own = daemon.connect();
        const auto make = [&](const std::string& id, PutOptions options) {
          options.persistent = by_put;
          put(own, id, 1, options, mebibyte);
          if (!by_put) require(must(own.persist(id)).version == 1, "another version");
          require(must(own.stat(id)).info.persistent, "it does not say so");
        };
        make("room", {.evictable = true});
        make("kept", {.keep = 1});
        make("aged", {.ttl = seconds(2)});
      });
      CHECK(maker.join() == 0);
      Client client = daemon.connect();
      put(client, "kept", 2, {.keep = 1}, mebibyte);
      put(client, "kept", 3, {.keep = 1}, mebibyte);
      put(client, "clock", 1, {.ttl = seconds(2)});
      CHECK(eventually([&] { return look(client, "clock") == "not_found"; }));
      want_room(client);
      CHECK(look(client, "room", 1, mebibyte) == "ok");
      CHECK(look(client, "kept", 1, mebibyte) == "ok");
      CHECK(look(client, "kept", 2, mebibyte) == "not_found");
      CHECK(look(client, "aged", 1, mebibyte) == "ok");
      CHECK(must(client.stat("room")).leases.empty());
      // And it is removed like any other.
      CHECK(must(client.remove("room")) == 1);
      CHECK(must(client.remove("kept", 1)) == 1);
      CHECK(must(client.remove_prefix("aged")) == 1);
      must(client.remove("kept"));
      CHECK(Status(client)["segments"] == 0);
    }
  }

  TEST_CASE("persist takes the newest version or the one that is named, as often as one likes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::uint64_t version = 1; version <= 4; ++version) put(client, "a", version);
    CHECK(must(client.persist("a")).version == 4);
    CHECK(must(client.persist("a", 2)).version == 2);
    CHECK(must(client.persist("a", 2)).version == 2);
    put(client, "a", 5, {.keep = 1});
    CHECK(look(client, "a", 1) == "not_found");
    CHECK(look(client, "a", 2) == "ok");
    CHECK(look(client, "a", 3) == "not_found");
    CHECK(look(client, "a", 4) == "ok");
    CHECK(must(client.stat("a", 2)).info.persistent);
    CHECK_FALSE(must(client.stat("a", 5)).info.persistent);
    for (const SegmentInfo& info : must(client.list("a")).segments)
      CHECK(info.persistent == (info.version != 5));
  }

  TEST_CASE("no hold that ends takes away that a segment is persistent") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1, {.keep = 1});
    must(client.persist("a"));
    const Ref ref = must(client.hold("a"));
    put(client, "a", 2, {.keep = 1});
    must(client.unhold(ref));
    CHECK(outcome(client.unhold(ref)) == "bad_state");
    put(client, "a", 3, {.keep = 1});
    CHECK(look(client, "a", 1) == "ok");
  }
}

}  // namespace
}  // namespace forebay::test
