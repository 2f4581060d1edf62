// SPDX-License-Identifier: Apache-2.0
// Retention: how many versions of an id stay (keep), how long one stays (ttl), and removing many.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <thread>
#include <variant>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;
using Versions = std::vector<std::uint64_t>;

constexpr seconds slack{5};  // for "at once" and "within a second" on a loaded machine
constexpr std::size_t small = 100;
constexpr std::size_t large = 300'000;

Ref put(Client& client, const std::string& id, std::uint64_t version, PutOptions options = {},
        std::size_t size = small) {
  options.version = version;
  return must(client.put(id, payload(size, id, version), options));
}

void put_up_to(Client& client, const std::string& id, std::uint64_t last,
               const PutOptions& options = {}, std::size_t size = small) {
  for (std::uint64_t version = 1; version <= last; ++version)
    put(client, id, version, options, size);
}

// Which versions there are, as list, contains and get all say.
Versions versions(const Client& client, const std::string& id, std::uint64_t up_to = 20) {
  Versions found;
  std::string wrong;
  const bool agree = eventually([&] {
    found.clear();
    wrong.clear();
    for (const SegmentInfo& info : must(client.list(id)).segments)
      if (info.id == id) found.push_back(info.version);
    for (std::uint64_t version = 1; version <= up_to && wrong.empty(); ++version) {
      const bool listed = std::find(found.begin(), found.end(), version) != found.end();
      const std::string got = outcome(client.get(id, {.version = version}));
      if (must(client.contains(id, version)) != listed || got != (listed ? "ok" : "not_found"))
        wrong = "list, contains and get do not agree: get says " + got;
    }
    // One may have gone between two looks; what is not so remains.
    return wrong.empty();
  }, slack);
  require(agree, wrong);
  return found;
}

bool becomes(const Client& client, const std::string& id, const Versions& wanted) {
  return eventually([&] { return versions(client, id) == wanted; }, slack);
}

// What get says of a version, with its bytes checked.
std::string look(const Client& client, const std::string& id, std::uint64_t version,
                 std::size_t size = small) {
  const auto view = client.get(id, {.version = version});
  if (!view) return outcome(view);
  const std::string wrong = wrong_bytes(view->bytes(), size, id, view->version());
  return wrong.empty() ? "ok" : wrong;
}

std::string outcomes(const auto& results) {
  std::string words;
  for (const auto& result : results) words += (words.empty() ? "" : " ") + outcome(result);
  return words;
}

// Sealed with a time to live, and pinned without a moment in which it could have gone.
View put_and_pin(Client& client, const std::string& id, Timeout ttl, std::size_t size) {
  Builder builder = must(client.create(id, size, {.version = 1, .ttl = ttl}));
  fill(builder.bytes(), id, 1);
  return must(builder.seal_and_get());
}

const Holder* holder_of(const std::vector<Holder>& holders, pid_t pid) {
  for (const Holder& holder : holders)
    if (holder.pid == static_cast<std::uint32_t>(pid)) return &holder;
  return nullptr;
}

TEST_SUITE("keep") {
  TEST_CASE("of an id so many of the newest versions stay, and the others give their memory back") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client other = daemon.connect();
    for (const std::size_t size : {small, large})
      for (const std::uint32_t keep : {1U, 3U}) {
        CAPTURE(size);
        CAPTURE(keep);
        const std::uint64_t before = Status(client).segment_bytes();
        std::uint64_t one = 0;
        for (std::uint64_t version = 1; version <= 10; ++version) {
          put(client, "a", version, {.keep = keep}, size);
          if (version == 1) one = Status(client).segment_bytes() - before;
          Versions wanted;
          for (std::uint64_t v = version > keep ? version - keep + 1 : 1; v <= version; ++v)
            wanted.push_back(v);
          CHECK(versions(client, "a") == wanted);
          CHECK(versions(other, "a") == wanted);
          CHECK(look(other, "a", 0, size) == "ok");
          CHECK(Status(client).segment_bytes() - before == wanted.size() * one);
        }
        must(client.remove("a"));
      }
    CHECK(Status(client)["removing"] == 0);
    CHECK(Status(client)["tombstones"] == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("an id that says nothing, and one that says all, keep every version") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_up_to(client, "a", 10);
    put_up_to(client, "b", 10, {.keep = keep_all});
    CHECK(versions(client, "a").size() == 10);
    CHECK(versions(client, "b").size() == 10);
  }

  TEST_CASE("what was said last of an id counts, until something else is said") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1, {.keep = 1});
    put(client, "a", 2, {.keep = 3});
    put(client, "a", 3, {.keep = 3});
    CHECK(versions(client, "a") == Versions{1, 2, 3});
    put(client, "a", 4, {.keep = keep_all});
    put(client, "a", 5, {.keep = keep_all});
    CHECK(versions(client, "a") == Versions{1, 2, 3, 4, 5});
    put(client, "a", 6, {.keep = 2});
    CHECK(versions(client, "a") == Versions{5, 6});
    put(client, "a", 7);
    put(client, "a", 8);
    CHECK(versions(client, "a") == Versions{7, 8});
    CHECK(must(client.stat("a")).keep == 2);
    must(must(client.update("a")).seal());
    CHECK(versions(client, "a") == Versions{8, 9});
    // Another id, of which nothing was said.
    put_up_to(client, "b", 3);
    CHECK(versions(client, "b").size() == 3);
  }

  TEST_CASE("what was said of an id is forgotten when its last version is removed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const bool by_age : {false, true}) {
      CAPTURE(by_age);
      put_up_to(client, "a", 2, {.keep = 2});
      put(client, "a", 3, {.ttl = by_age ? milliseconds(50) : milliseconds(0)});
      must(client.remove("a", 2));
      if (!by_age) must(client.remove("a", 3));
      CHECK(becomes(client, "a", {}));
      put_up_to(client, "a", 5);
      CHECK(must(client.stat("a")).keep == 0);
      CHECK(versions(client, "a").size() == 5);
      must(client.remove("a"));
    }
  }

  TEST_CASE("of an id that says nothing so many stay as the daemon was told") {
    DaemonProcess daemon({.arguments = {"--keep", "2"}});
    Client client = daemon.connect();
    put_up_to(client, "a", 5);
    CHECK(versions(client, "a") == Versions{4, 5});
    CHECK(must(client.stat("a")).keep == 0);
    put_up_to(client, "three", 5, {.keep = 3});
    CHECK(versions(client, "three") == Versions{3, 4, 5});
    put_up_to(client, "all", 5, {.keep = keep_all});
    CHECK(versions(client, "all").size() == 5);
    View pinned = must(client.get("a"));
    put(client, "a", 6);
    put(client, "a", 7);
    CHECK(versions(client, "a") == Versions{5, 6, 7});
    pinned.release();
    CHECK(becomes(client, "a", {6, 7}));
    must(client.keep("a", keep_all));
    put(client, "a", 8);
    CHECK(versions(client, "a") == Versions{6, 7, 8});
  }

  TEST_CASE("what an older version says that is put late does not count") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::uint64_t version : {5U, 7U, 9U}) put(client, "a", version, {.keep = 4});
    put(client, "a", 6, {.keep = 1});
    CHECK(versions(client, "a") == Versions{5, 6, 7, 9});
  }

  TEST_CASE("an older version that is put late takes its place among those that stay") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 5, {.keep = 2});
    put(client, "a", 7, {.keep = 2});
    put(client, "a", 6, {.keep = 2});
    CHECK(versions(client, "a") == Versions{6, 7});
    CHECK(look(client, "a", 6) == "ok");
  }

  TEST_CASE("an older version that is put late and is too old is put, and goes at once") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      put(client, "a", 5, {.keep = 2}, size);
      put(client, "a", 7, {.keep = 2}, size);
      const std::uint64_t used = Status(client).segment_bytes();
      CHECK(outcome(client.put("a", payload(size, "a", 3), {.version = 3, .keep = 2})) == "ok");
      CHECK(versions(client, "a") == Versions{5, 7});
      CHECK(Status(client).segment_bytes() == used);
      // Who makes it may look at it for as long as they like.
      Builder builder = must(client.create("a", size, {.version = 4, .keep = 2}));
      fill(builder.bytes(), "a", 4);
      View view = must(builder.seal_and_get());
      put(client, "noise", 1, {}, size);
      CHECK(wrong_bytes(view.bytes(), size, "a", 4) == "");
      CHECK(versions(client, "a").size() == 3);
      view.release();
      CHECK(becomes(client, "a", {5, 7}));
      must(client.remove("a"));
      must(client.remove("noise"));
    }
  }

  TEST_CASE("what is being made is not counted until it is sealed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_up_to(client, "a", 3, {.keep = 2});
    Builder one = must(client.create("a", large, {.keep = 2}));
    Builder two = must(client.create("a", large, {.keep = 2}));
    CHECK(versions(client, "a") == Versions{2, 3});
    must(two.seal());
    CHECK(versions(client, "a") == Versions{3, 5});
    must(one.abort());
    CHECK(versions(client, "a") == Versions{3, 5});
  }

  TEST_CASE("keep of the client holds for what is there, and keep_all lifts it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    put_up_to(client, "a", 6);
    put_up_to(client, "ab", 6);
    must(other.keep("a", 2));
    CHECK(versions(client, "a") == Versions{5, 6});
    CHECK(versions(client, "ab").size() == 6);
    CHECK(must(client.stat("a")).keep == 2);
    must(client.keep("a", keep_all));
    CHECK(must(client.stat("a")).keep == keep_all);
    // Older ones do not come back.
    put(client, "a", 3);
    put(client, "a", 4);
    CHECK(versions(client, "a") == Versions{3, 4, 5, 6});
    must(client.keep("a", 3));
    CHECK(versions(client, "a") == Versions{4, 5, 6});
    must(client.keep("a", keep_max));
    CHECK(versions(client, "a") == Versions{4, 5, 6});
  }

  TEST_CASE("stat tells how many stay") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1);
    CHECK(must(client.stat("a")).keep == 0);
    put(client, "a", 2, {.keep = 7});
    CHECK(must(client.stat("a")).keep == 7);
    CHECK(must(client.stat("a", 1)).keep == 7);
    put(client, "a", 3, {.keep = keep_max});
    CHECK(must(client.stat("a")).keep == keep_max);
    put(client, "a", 4, {.keep = keep_all});
    CHECK(must(client.stat("a")).keep == keep_all);
  }

  TEST_CASE("that the newest is removed brings nothing back, and drops nothing") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_up_to(client, "a", 4, {.keep = 4});
    put(client, "a", 5, {.keep = keep_all});
    must(client.remove("a", 5));
    CHECK(versions(client, "a") == Versions{1, 2, 3, 4});
    put(client, "a", 6, {.keep = 3});
    CHECK(versions(client, "a") == Versions{3, 4, 6});
  }

  TEST_CASE("items of one batch are counted like puts one by one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto bytes = payload(small, "a", 1);
    const auto long_bytes = payload(large, "a", 1);
    std::vector<PutItem> items;
    for (int i = 0; i < 5; ++i) {
      items.push_back({"a", bytes});
      items.push_back({"a", long_bytes});
      items.push_back({"b", bytes});
    }
    for (const auto& ref : must(client.put_many(items, {.keep = 2}))) CHECK(outcome(ref) == "ok");
    CHECK(versions(client, "a") == Versions{9, 10});
    CHECK(versions(client, "b") == Versions{4, 5});
  }

  TEST_CASE("a version that somebody pins can be read by all until the last pin ends, and then goes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client other = daemon.connect();
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      put(client, "a", 1, {.keep = 1}, size);
      View one = must(client.get("a"));
      View two = must(other.get("a"));
      for (std::uint64_t version = 2; version <= 6; ++version) {
        put(client, "a", version, {.keep = 1}, size);
        CHECK(versions(client, "a") == Versions{1, version});
        CHECK(versions(other, "a") == Versions{1, version});
        CHECK(look(other, "a", 1, size) == "ok");
        CHECK(must(other.get("a")).version() == version);
      }
      one.release();
      CHECK(look(client, "a", 1, size) == "ok");
      CHECK(wrong_bytes(two.bytes(), size, "a", 1) == "");
      two.release();
      // Silently: nothing tells it from what was never there.
      CHECK(becomes(client, "a", {6}));
      CHECK(look(client, "a", 1) == "not_found");
      CHECK(outcome(client.stat("a", 1)) == "not_found");
      CHECK(outcome(client.get("a", {.version = 1, .timeout = milliseconds(20)})) == "timed_out");
      CHECK(must(client.remove("a")) == 1);
    }
    CHECK(Status(client)["removing"] == 0);
    CHECK(Status(client)["tombstones"] == 0);
    CHECK(Status(client)["slab_item_bytes"] == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what another process pins stays until its release, or until it dies") {
    DaemonProcess daemon;
    for (const std::size_t size : {small, large})
      for (const bool dies : {false, true}) {
        CAPTURE(size);
        CAPTURE(dies);
        ChildProcess reader([&](Moments& moments) {
          const Client own = daemon.connect();
          View view = must(own.get("a", {.timeout = seconds(20)}));
          moments.reached();
          moments.wait();
          const std::string wrong = wrong_bytes(view.bytes(), size, "a", 1);
          require(wrong.empty(), wrong);
          view.release();
          moments.reached();
          moments.wait();
        });
        Client client = daemon.connect();
        put(client, "a", 1, {.keep = 1}, size);
        const std::uint64_t used = Status(client).segment_bytes();
        reader.await();
        put(client, "a", 2, {.keep = 1}, size);
        put(client, "a", 3, {.keep = 1}, size);
        CHECK(versions(client, "a") == Versions{1, 3});
        CHECK(look(client, "a", 1, size) == "ok");
        if (dies) {
          reader.kill();
        } else {
          reader.release();
          reader.await();
        }
        CHECK(becomes(client, "a", {3}));
        CHECK(status_becomes(client, "removing", 0, slack) == 0);
        CHECK(Status(client).segment_bytes() == used);
        must(client.remove("a"));
      }
  }

  TEST_CASE("a version that is pinned while it is too old goes at its unpin, whatever came after") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    std::vector<View> views;
    for (std::uint64_t version = 1; version <= 6; ++version) {
      put(client, "a", version, {.keep = 2}, version % 2 == 0 ? large : small);
      views.push_back(must(client.get("a")));
    }
    CHECK(versions(client, "a") == Versions{1, 2, 3, 4, 5, 6});
    views[3].release();
    CHECK(becomes(client, "a", {1, 2, 3, 5, 6}));
    views[5].release();  // is among those that stay
    views[0].release();
    CHECK(becomes(client, "a", {2, 3, 5, 6}));
    // There is room for one more now; those that are too old are not saved by being few.
    must(client.keep("a", 3));
    views[1].release();
    CHECK(becomes(client, "a", {3, 5, 6}));
    views[2].release();
    CHECK(look(client, "a", 3) == "ok");
    views.clear();
    CHECK(versions(client, "a") == Versions{3, 5, 6});
  }

  TEST_CASE("a pinned version that keep_all saves in time does not go") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1, {.keep = 1});
    View view = must(client.get("a"));
    put(client, "a", 2, {.keep = 1});
    must(client.keep("a", keep_all));
    view.release();
    must(client.put("other", payload(small, "other", 1)));
    CHECK(versions(client, "a") == Versions{1, 2});
  }

  TEST_CASE("who reads the newest while older ones go finds one every time, with its own bytes") {
    DaemonProcess daemon({.capacity = "32MiB"});
    const auto size_of = [](std::uint64_t version) { return version % 3 == 0 ? 100'000U : 700U; };
    const auto read = [&](Moments& moments) {
      const Client own = daemon.connect();
      moments.reached();
      moments.wait();
      std::uint64_t seen = 0;
      while (!must(own.contains("end"))) {
        const View view = must(own.get("a"));
        const std::uint64_t version = view.version();
        require(version >= seen, "an older version after a newer one");
        seen = version;
        std::string wrong = wrong_bytes(view.bytes(), size_of(version), "a", version);
        require(wrong.empty(), wrong);
        if (version > 2) {
          const auto former = own.get("a", {.version = version - 2});
          require(former || outcome(former) == "not_found", outcome(former));
          if (former) wrong = wrong_bytes(former->bytes(), size_of(version - 2), "a", version - 2);
          require(wrong.empty(), wrong);
        }
      }
    };
    ChildProcess one(read);
    ChildProcess two(read);
    one.await();
    two.await();
    Client client = daemon.connect();
    const auto put_version = [&](std::uint64_t version) {
      must(client.put("a", payload(size_of(version), "a", version),
                      {.version = version, .timeout = seconds(20), .keep = 2}));
    };
    put_version(1);
    one.release();
    two.release();
    for (std::uint64_t version = 2; version <= 3000; ++version) put_version(version);
    must(client.put("end", payload(1, "end", 1)));
    CHECK(one.join() == 0);
    CHECK(two.join() == 0);
    CHECK(eventually([&] { return must(client.list("a")).segments.size() == 2; }, slack));
    CHECK(Status(client)["segments"] == 3);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what can be no number of versions is refused, and nothing changes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_up_to(client, "a", 3, {.keep = 3});
    CHECK(outcome(client.keep("a", 0)) == "bad_argument");
    CHECK(outcome(client.keep("a", keep_all + 1)) == "bad_argument");
    CHECK(outcome(client.keep("a", 0xFFFFFFFFU)) == "bad_argument");
    CHECK(outcome(client.keep("none", 2)) == "not_found");
    CHECK(why(client.keep("none", 2)).find("'none'") != std::string::npos);
    for (const std::uint32_t keep : {keep_all + 1, 0xFFFFFFFFU})
      for (const std::size_t size : {small, large}) {
        CHECK(outcome(client.put("a", payload(size, "a", 4), {.keep = keep})) == "bad_argument");
        CHECK(outcome(client.create("a", size, {.keep = keep})) == "bad_argument");
        CHECK(outcome(client.update("a", {.keep = keep})) == "bad_argument");
      }
    CHECK(versions(client, "a") == Versions{1, 2, 3});
    CHECK(must(client.stat("a")).keep == 3);
    CHECK(Status(client)["creating"] == 0);
  }
}

TEST_SUITE("ttl") {
  TEST_CASE("a segment goes so long after it was sealed, never early, and leaves nothing") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {small, large})
      for (const milliseconds ttl : {milliseconds(1), milliseconds(60), milliseconds(700)}) {
        CAPTURE(size);
        CAPTURE(ttl.count());
        const auto before = Clock::now();
        put(client, "a", 1, {.ttl = ttl}, size);
        const auto after = Clock::now();
        CHECK(eventually([&] { return look(client, "a", 1, size) == "not_found"; }));
        const auto gone = Clock::now();
        CHECK(gone - before >= ttl);
        CHECK(gone - after < ttl + slack);
        CHECK(look(client, "a", 0) == "not_found");
        CHECK_FALSE(must(client.contains("a")));
        CHECK(must(client.list("")).segments.empty());
        CHECK(outcome(client.stat("a")) == "not_found");
        // It may be put again, as if it had never been.
        put(client, "a", 1, {}, size);
        CHECK(look(client, "a", 0, size) == "ok");
        must(client.remove("a"));
      }
    CHECK(Status(client)["tombstones"] == 0);
    CHECK(Status(client)["removing"] == 0);
    CHECK(Status(client).segment_bytes() == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("the time to live begins with the seal") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr milliseconds ttl(400);
    Builder builder = must(client.create("a", large, {.ttl = ttl}));
    fill(builder.bytes(), "a", 1);
    const auto created = Clock::now();
    CHECK(eventually([&] { return Clock::now() > created + ttl + milliseconds(100); }));
    const auto before = Clock::now();
    must(builder.seal());
    CHECK(eventually([&] { return look(client, "a", 1, large) == "not_found"; }));
    CHECK(Clock::now() - before >= ttl);
  }

  TEST_CASE("stat tells how long a segment still has") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1, {.ttl = seconds(100)});
    put(client, "b", 1);
    const auto left = must(client.stat("a")).expires_in;
    REQUIRE(left);
    CHECK(*left <= seconds(100));
    CHECK(*left > seconds(60));
    CHECK(eventually([&] { return *must(client.stat("a")).expires_in < *left; }));
    CHECK_FALSE(must(client.stat("b")).expires_in);
  }

  TEST_CASE("a long time to live is not cut short") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr auto year = hours(24 * 365);
    put(client, "a", 1, {.ttl = 10 * year});
    CHECK(look(client, "a", 1) == "ok");
    const auto left = must(client.stat("a")).expires_in;
    REQUIRE(left);
    CHECK(*left > 9 * year);
    // As long as a time can be: for ever, for all that anybody will see of it.
    put(client, "b", 1, {.ttl = Timeout::max()});
    CHECK(look(client, "b", 1) == "ok");
    const auto most = must(client.stat("b")).expires_in;
    CHECK((!most || *most > 9 * year));
  }

  TEST_CASE("the newest version may expire before an older one, and the older one is the newest then") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1);
    put(client, "a", 2, {.ttl = seconds(2)});
    CHECK(must(client.get("a")).version() == 2);
    CHECK(eventually([&] { return must(client.get("a")).version() == 1; }));
    CHECK(versions(client, "a") == Versions{1});
  }

  TEST_CASE("a pinned segment that expires is out of sight, and its bytes stay until the unpin") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      View view = put_and_pin(client, "a", milliseconds(150), size);
      const std::uint64_t used = Status(client).segment_bytes();
      CHECK(eventually([&] { return look(client, "a", 1, size) == "not_found"; }));
      CHECK(must(client.list("")).segments.empty());
      const SegmentStat stat = must(client.stat("a", 1));
      CHECK(stat.state == "removing");
      const Holder* holder = holder_of(stat.holders, ::getpid());
      REQUIRE(holder != nullptr);
      CHECK(holder->pins == 1);
      put(client, "noise", 1, {}, size);
      must(client.remove("noise"));
      CHECK(wrong_bytes(view.bytes(), size, "a", 1) == "");
      CHECK(Status(client).segment_bytes() == used);
      CHECK(Status(client)["removing"] == 1);
      view.release();
      CHECK(status_becomes(client, "removing", 0, slack) == 0);
      CHECK(Status(client).segment_bytes() == 0);
      CHECK(outcome(client.stat("a", 1)) == "not_found");
    }
  }

  TEST_CASE("the memory of an expired segment comes back when the process that pins it dies") {
    DaemonProcess daemon;
    ChildProcess reader([&](Moments& moments) {
      Client own = daemon.connect();
      const View view = put_and_pin(own, "a", milliseconds(300), large);
      moments.reached();
      moments.wait();
    });
    reader.await();
    const Client client = daemon.connect();
    CHECK(eventually([&] { return look(client, "a", 1, large) == "not_found"; }));
    CHECK(Status(client)["removing"] == 1);
    reader.kill();
    CHECK(status_becomes(client, "removing", 0, slack) == 0);
    CHECK(Status(client).segment_bytes() == 0);
  }

  TEST_CASE("thousands of segments each go in their own time, and none early") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr int count = 3000;
    const auto id = [](int i) { return "t/" + std::to_string(i); };
    const auto ttl = [](int i) { return milliseconds(mixed(static_cast<std::uint64_t>(i)) % 1500); };
    std::vector<Clock::time_point> put_at;
    for (int i = 0; i < count; ++i) {
      put_at.push_back(Clock::now());
      put(client, id(i), 1, {.ttl = ttl(i) + milliseconds(1)});
    }
    put(client, "stays", 1);
    CHECK(eventually([&] {
      for (int i = 0; i < count; ++i) {
        const bool gone = !must(client.contains(id(i)));
        const auto now = Clock::now();
        if (gone && now - put_at[static_cast<std::size_t>(i)] < ttl(i))
          throw std::runtime_error(id(i) + " went early");
      }
      return must(client.list("t/")).segments.empty();
    }));
    CHECK(look(client, "stays", 1) == "ok");
    CHECK(Status(client)["segments"] == 1);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what goes by its age makes place for no older version, and keep for no longer life") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1, {.keep = 2, .ttl = milliseconds(300)});
    put(client, "a", 2, {.keep = 2});
    put(client, "a", 3, {.keep = 2});
    CHECK(versions(client, "a") == Versions{2, 3});
    put(client, "b", 1, {.keep = 5, .ttl = milliseconds(200)});
    CHECK(eventually([&] { return look(client, "b", 1) == "not_found"; }));
    CHECK(versions(client, "a") == Versions{2, 3});
  }

  TEST_CASE("who waits for a version after an expired one gets the next that is put") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    put(client, "a", 1, {.ttl = milliseconds(50)});
    CHECK(eventually([&] { return look(client, "a", 1) == "not_found"; }));
    std::thread putter([&] {
      CHECK(status_becomes(client, "waiters", 1) == 1);
      put(client, "a", 2);
    });
    const auto view = waiting.get("a", {.timeout = seconds(20)});
    putter.join();
    REQUIRE(outcome(view) == "ok");
    CHECK(view->version() == 2);
  }

  TEST_CASE("a time to live below zero is refused") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const Timeout ttl : {Timeout(-1), Timeout(milliseconds(-5)), Timeout::min()}) {
      CHECK(outcome(client.put("a", payload(small, "a", 1), {.ttl = ttl})) == "bad_argument");
      CHECK(outcome(client.put("a", payload(large, "a", 1), {.ttl = ttl})) == "bad_argument");
      CHECK(outcome(client.create("a", large, {.ttl = ttl})) == "bad_argument");
    }
    CHECK(Status(client)["segments"] == 0);
    CHECK(Status(client)["creating"] == 0);
    put(client, "a", 1);
    CHECK(outcome(client.update("a", {.ttl = nanoseconds(-1)})) == "bad_argument");
    // A nanosecond is a time to live.
    put(client, "b", 1, {.ttl = nanoseconds(1)});
    CHECK(eventually([&] { return look(client, "b", 1) == "not_found"; }));
  }
}

TEST_SUITE("removing many") {
  TEST_CASE("stat of a removed version that is pinned says so and by whom, until the pin ends") {
    DaemonProcess daemon;
    for (const std::size_t size : {small, large})
      for (const bool dies : {false, true}) {
        CAPTURE(size);
        CAPTURE(dies);
        ChildProcess reader([&](Moments& moments) {
          const Client own = daemon.connect();
          const View one = must(own.get("a", {.timeout = seconds(20)}));
          View two = must(own.get("a"));
          moments.reached();
          moments.wait();
          const std::string wrong = wrong_bytes(one.bytes(), size, "a", 1);
          require(wrong.empty(), wrong);
        });
        Client client = daemon.connect();
        const Ref ref = put(client, "a", 1, {}, size);
        reader.await();
        CHECK(must(client.remove("a", 1)) == 1);
        CHECK(look(client, "a", 1) == "not_found");
        CHECK(outcome(client.get(ref)) == "stale_ref");
        CHECK(outcome(client.remove("a", 1)) == "not_found");
        {
          const SegmentStat stat = must(client.stat("a", 1));
          CHECK(stat.state == "removing");
          CHECK(stat.info.serial == ref.serial);
          CHECK(stat.info.size == size);
          REQUIRE(stat.holders.size() == 1);
          CHECK(stat.holders[0].pid == static_cast<std::uint32_t>(reader.pid()));
          CHECK(stat.holders[0].pins == 2);
        }
        // A new one of the same number is the one that stat shows.
        const Ref again = put(client, "a", 1, {}, size);
        CHECK(must(client.stat("a", 1)).info.serial == again.serial);
        CHECK(must(client.stat("a", 1)).state == "sealed");
        must(client.remove(again));
        if (dies) {
          reader.kill();
        } else {
          reader.release();
          CHECK(reader.join() == 0);
        }
        CHECK(eventually([&] { return outcome(client.stat("a", 1)) == "not_found"; }, slack));
        CHECK(Status(client)["removing"] == 0);
      }
  }

  TEST_CASE("remove_before takes the versions below one, and says how many") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::uint64_t version : {1U, 2U, 5U, 6U, 9U}) put(client, "a", version);
    put_up_to(client, "ab", 3);
    Builder open = must(client.create("a", large, {.version = 4}));
    View pinned = must(client.get("a", {.version = 2}));
    CHECK(must(client.remove_before("a", 1)) == 0);
    CHECK(must(client.remove_before("a", 6)) == 3);
    CHECK(versions(client, "a") == Versions{6, 9});
    CHECK(wrong_bytes(pinned.bytes(), small, "a", 2) == "");
    CHECK(must(client.stat("a", 2)).state == "removing");
    CHECK(must(client.remove_before("a", 6)) == 0);
    CHECK(must(client.remove_before("a", 18446744073709551614ULL)) == 2);
    CHECK(versions(client, "a").empty());
    CHECK(must(client.remove_before("a", 3)) == 0);
    CHECK(must(client.remove_before("none", 3)) == 0);
    CHECK(versions(client, "ab") == Versions{1, 2, 3});
    // What is being made is not there yet.
    must(open.seal());
    CHECK(versions(client, "a") == Versions{4});
  }

  TEST_CASE("remove_before takes more versions than one message could name") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::uint64_t last = 10'000;
    put_up_to(client, "a", last);
    CHECK(must(client.remove_before("a", last)) == last - 1);
    CHECK(must(client.get("a")).version() == last);
    CHECK(Status(client)["segments"] == 1);
  }

  TEST_CASE("remove_prefix takes what starts with it, all versions, and says how many") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const std::vector<std::string> ids{"job/1", "job/10", "job/2", "job/", "job", "jo",
                                       std::string("job/\0x", 6), "job/\xff\xff", "k"};
    for (const std::string& id : ids) put_up_to(client, id, 2);
    CHECK(must(client.remove_prefix("job/1")) == 4);
    CHECK(must(client.remove_prefix("job/1")) == 0);
    CHECK(must(client.remove_prefix("job/\xff")) == 2);
    CHECK(must(client.remove_prefix("job/")) == 6);
    CHECK(must(client.remove_prefix("none")) == 0);
    CHECK(must(client.remove_prefix(std::string(300, 'j'))) == 0);
    CHECK(must(client.list("")).segments.size() == 6);
    CHECK(must(client.remove_prefix("")) == 6);
    CHECK(must(client.list("")).segments.empty());
    CHECK(Status(client)["segments"] == 0);
    CHECK(Status(client)["removing"] == 0);
  }

  TEST_CASE("remove_prefix goes on over many pages, and leaves what is listed in a manifest") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::uint64_t count = 5000;
    std::vector<Ref> listed;
    for (std::uint64_t i = 0; i < count; ++i) {
      const Ref ref = put(client, "p/" + std::to_string(i), 1, {}, 10);
      if (i % 1000 == 7) listed.push_back(ref);
    }
    must(client.put_manifest("manifest", listed));
    const View view = must(client.get("p/3"));
    CHECK(must(client.remove_prefix("p/")) == count - listed.size());
    CHECK(must(client.list("p/")).segments.size() == listed.size());
    CHECK(must(client.get_manifest("manifest")).size() == listed.size());
    CHECK(wrong_bytes(view.bytes(), 10, "p/3", 1) == "");
    must(client.remove("manifest"));
    CHECK(must(client.remove_prefix("p/")) == listed.size());
  }

  TEST_CASE("remove_many tells for each id how many went, or why not") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_up_to(client, "a", 3);
    put(client, "b", 9);
    const std::string too_long(256, 'x');
    const std::string huge(300'000, 'y');  // larger than a message
    const std::vector<std::string_view> ids{"a", "none", "", "b", too_long, "a", huge, "b"};
    const auto results = must(client.remove_many(ids));
    CHECK(outcomes(results) == "ok not_found bad_id ok bad_id not_found bad_id not_found");
    CHECK(*results[0] == 3);
    CHECK(*results[3] == 1);
    CHECK(why(results[1]).find("'none'") != std::string::npos);
    CHECK(Status(client)["segments"] == 0);
    CHECK(must(client.remove_many(std::span<const std::string_view>())).empty());
    CHECK(must(client.remove_many(std::span<const Ref>())).empty());
  }

  TEST_CASE("remove_many of refs removes those very segments, and tells for each why not") {
    DaemonProcess daemon;
    DaemonProcess elsewhere;
    Client client = daemon.connect();
    Client other = elsewhere.connect();
    put_up_to(client, "a", 3);
    const Ref stale = put(client, "b", 1);
    must(client.remove("b"));
    const Ref again = put(client, "b", 1);
    const Ref listed = put(client, "c", 1);
    must(client.put_manifest("list", std::span(&listed, 1)));
    const Ref foreign = put(other, "a", 1);
    Ref second = must(client.get("a", {.version = 2})).ref();
    Ref bad = second;
    bad.id.clear();
    const std::vector<Ref> refs{second, stale, foreign, listed, again, bad, second};
    const auto results = must(client.remove_many(refs));
    CHECK(outcomes(results) == "ok stale_ref wrong_store conflict ok bad_id stale_ref");
    CHECK(versions(client, "a") == Versions{1, 3});
    CHECK(versions(client, "b").empty());
    CHECK(look(other, "a", 1) == "ok");
  }

  TEST_CASE("many thousand ids are removed, and looked for, in one call") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::size_t count = 6000;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < count; ++i)
      names.push_back("many/" + std::string(i % 200, 'x') + std::to_string(i));
    const std::vector<std::string_view> ids(names.begin(), names.end());
    for (std::size_t i = 0; i < count; ++i)
      if (i % 3 != 0) put_up_to(client, names[i], 1 + i % 2, {}, 1);
    const auto there = must(client.contains_many(ids));
    REQUIRE(there.size() == count);
    for (std::size_t i = 0; i < count; ++i) REQUIRE(there[i] == (i % 3 != 0));
    const auto results = must(client.remove_many(ids));
    REQUIRE(results.size() == count);
    for (std::size_t i = 0; i < count; ++i) {
      if (i % 3 == 0) {
        REQUIRE(outcome(results[i]) == "not_found");
      } else {
        REQUIRE(must(results[i]) == 1 + i % 2);
      }
    }
    for (const bool found : must(client.contains_many(ids))) REQUIRE_FALSE(found);
    CHECK(Status(client)["segments"] == 0);
  }

  TEST_CASE("contains_many tells for each id whether get would find it, and asks nobody") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 4);
    put(client, "gone", 1);
    must(client.remove("gone"));
    Builder open = must(client.create("open", 10));
    const std::vector<std::string_view> ids{"a", "gone", "open", "none", "a"};
    daemon.stop();
    CHECK(must(client.contains_many(ids)) == std::vector<bool>{true, false, false, false, true});
    CHECK(must(client.contains_many({})).empty());
    daemon.resume();
  }

  TEST_CASE("a pinned reader notices nothing of any way in which its version goes") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      std::vector<View> views;
      const auto pin = [&](const std::string& id) {
        views.push_back(must(client.get(id, {.version = 1})));
      };
      for (const std::string id : {"kept", "removed", "before", "prefix", "many", "copied"}) {
        put(client, id, 1, {}, size);
        pin(id);
      }
      views.push_back(put_and_pin(client, "aged", milliseconds(100), size));
      put(client, "kept", 2, {.keep = 1}, size);
      must(client.remove("removed"));
      CHECK(must(client.remove_before("before", 2)) == 1);
      CHECK(must(client.remove_prefix("pref")) == 1);
      const std::vector<std::string_view> many{"many"};
      CHECK(outcome(must(client.remove_many(many)).at(0)) == "ok");
      {
        Builder builder = must(client.update("copied"));
        fill(builder.bytes(), "other", 9);
        must(builder.seal());
      }
      CHECK(eventually([&] { return look(client, "aged", 1, size) == "not_found"; }));
      for (std::uint64_t i = 1; i <= 50; ++i) {
        put(client, "noise", i, {.keep = 1}, size);
        put(client, "noise", i + 100, {.keep = 1}, size * 2);
        must(client.remove("noise"));
      }
      for (const View& view : views)
        CHECK(wrong_bytes(view.bytes(), size, view.ref().id, 1) == "");
      views.clear();
      must(client.remove("kept"));
      must(client.remove("copied"));
      CHECK(status_becomes(client, "removing", 0, slack) == 0);
      CHECK(Status(client)["segments"] == 0);
    }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("every call takes ids of any length and of any bytes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::string& id :
         {std::string(1, '\0'), std::string(31, 'x'), std::string(32, 'x'),
          std::string(254, '\xff') + "/", std::string(255, '\0'), std::string("\n'%@#")}) {
      CAPTURE(id.size());
      {
        auto got = must(client.claim(id));
        REQUIRE(std::holds_alternative<Claim>(got));
        must(std::get<Claim>(got).put(payload(small, id, 1), {}));
      }
      CHECK(must(client.get_or_create(id, [] {
              return Result<Loaded>(fail(Errc::bad_state, "it is there"));
            })).version() == 1);
      must(client.hold(id));
      put(client, id, 2);
      must(client.keep(id, 1));
      CHECK(versions(client, id) == Versions{1, 2});
      CHECK(must(client.stat(id, 1)).leases.size() == 1);
      must(client.unhold(must(client.get(id, {.version = 1})).ref()));
      CHECK(becomes(client, id, {2}));
      {
        Builder builder = must(client.update(id, {.take = true}));
        CHECK(wrong_bytes(builder.bytes(), small, id, 2) == "");
        fill(builder.bytes(), id, 3);
        must(builder.seal());
      }
      CHECK(look(client, id, 0) == "ok");
      CHECK(look(client, id, 2) == "superseded");
      must(client.persist(id));
      const std::vector<WaitItem> items{{.id = id, .version = 3}};
      CHECK(must(client.wait(items, 1, Timeout(0))).size() == 1);
      put(client, id, 4, {.ttl = milliseconds(20)});
      CHECK(eventually([&] { return look(client, id, 4) == "not_found"; }));
      CHECK(must(client.remove_before(id, 4)) == 1);
      put(client, id, 5);
      const std::vector<std::string_view> ids{id};
      CHECK(must(client.contains_many(ids)) == std::vector<bool>{true});
      CHECK(outcomes(must(client.remove_many(ids))) == "ok");
      put(client, id, 6);
      CHECK(must(client.remove_prefix(id)) == 1);
      CHECK(Status(client)["segments"] == 0);
    }
  }

  TEST_CASE("ids and versions that cannot be are refused in every call that removes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_up_to(client, "a", 3);
    for (const std::string& id : {std::string(), std::string(256, 'x'), std::string(300'000, 'x')}) {
      CAPTURE(id.size());
      CHECK(outcome(client.remove_before(id, 2)) == "bad_id");
      CHECK(outcome(client.keep(id, 2)) == "bad_id");
      const std::vector<std::string_view> ids{"a", id};
      CHECK(outcome(client.contains_many(ids)) == "bad_id");
    }
    CHECK(outcome(client.remove_before("a", 0)) == "bad_argument");
    CHECK(versions(client, "a") == Versions{1, 2, 3});
  }
}

}  // namespace
}  // namespace forebay::test
