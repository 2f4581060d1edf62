// SPDX-License-Identifier: Apache-2.0
// Scopes: what is put under a prefix goes when the process that began it says so, or ends.
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

constexpr seconds slack{5};  // for "within a second" on a loaded machine
constexpr std::size_t small = 1'000;
constexpr std::size_t large = 300'000;

Ref put(Client& client, const std::string& id, std::size_t size = small, PutOptions options = {}) {
  return must(client.put(id, payload(size, id, 1), options));
}
bool there(const Client& client, const std::string& id) { return must(client.contains(id)); }
bool goes(const Client& client, const std::string& id) {
  return eventually([&] { return !there(client, id); }, slack);
}
bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

TEST_SUITE("scope") {
  TEST_CASE("everything inside goes at the end, whoever put it, and what comes later stays") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client worker = daemon.connect();
    put(client, "job/before");
    must(client.begin_scope("job/"));
    put(client, "job/small");
    put(client, "job/large", large);
    put(worker, "job/others");
    put(worker, "job/persistent", small, {.persistent = true});
    must(worker.hold("job/others"));
    put(client, "jobs");
    CHECK(Status(client)["scopes"] == 1);
    CHECK(must(client.end_scope("job/")) == 5);
    CHECK(Status(client)["scopes"] == 0);
    CHECK(must(client.list("")).segments.size() == 1);
    CHECK(there(worker, "jobs"));
    put(worker, "job/later");
    CHECK(outcome(client.end_scope("job/")) == "bad_state");
    CHECK(there(client, "job/later"));
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a worker puts into the scope of another process, and may still be writing at its end") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.begin_scope("job/"));
    ChildProcess worker([&](Moments& moments) {
      Client own = daemon.connect();
      put(own, "job/1");
      Builder small_one = must(own.create("job/2", small));
      Builder large_one = must(own.create("job/3", large));
      moments.reached();
      moments.wait();
      must(small_one.seal());
      require(outcome(large_one.seal()) == "ok", "its memory was taken away");
      put(own, "job/4");
      moments.reached();
      moments.wait();
    });
    worker.await();
    CHECK(must(client.end_scope("job/")) == 1);
    worker.release();
    worker.await();
    CHECK_FALSE(there(client, "job/1"));
    CHECK_FALSE(there(client, "job/2"));
    CHECK_FALSE(there(client, "job/3"));
    CHECK(there(client, "job/4"));
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a process that ends in any way ends its scopes") {
    DaemonProcess daemon;
    enum class End { killed, exited, returned, closed, executed };
    for (const End end : {End::killed, End::exited, End::returned, End::closed, End::executed}) {
      CAPTURE(static_cast<int>(end));
      Client client = daemon.connect();
      ChildProcess owner([&](Moments& moments) {
        Client own = daemon.connect();
        must(own.begin_scope("a/"));
        must(own.begin_scope("b/"));
        put(own, "a/own", large);
        moments.reached();
        moments.wait();
        if (end == End::exited) ::_exit(3);
        if (end == End::executed)
          ::execlp("sleep", "sleep", "1000", static_cast<char*>(nullptr));
        if (end == End::closed) {
          // Its view, and so its process's slot, goes on.
          const View view = must(own.get("a/own"));
          own.close();
          moments.wait();
        }
      });
      owner.await();
      put(client, "a/1");
      put(client, "b/1", large);
      put(client, "c/1");
      CHECK(outcome(client.begin_scope("a/x")) == "conflict");
      if (end == End::killed) {
        owner.kill();
      } else {
        owner.release();
      }
      CHECK(goes(client, "a/own"));
      CHECK(goes(client, "a/1"));
      CHECK(goes(client, "b/1"));
      CHECK(there(client, "c/1"));
      must(client.begin_scope("a/"));
      CHECK(must(client.end_scope("a/")) == 0);
      if (end == End::closed) owner.release();
      must(client.remove("c/1"));
    }
    Client client = daemon.connect();
    CHECK(status_becomes(client, "removing", 0) == 0);
    CHECK(Status(client)["segments"] == 0);
    CHECK(Status(client)["scopes"] == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what somebody pins is out of sight, and readable until it is let go") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    must(client.begin_scope("a/"));
    for (const std::string id : {"a/small", "a/large"})
      put(client, id, id == "a/large" ? large : small);
    View small_view = must(other.get("a/small"));
    View large_view = must(other.get("a/large"));
    CHECK(must(client.end_scope("a/")) == 2);
    CHECK_FALSE(there(other, "a/small"));
    CHECK(must(other.stat("a/large")).state == "removing");
    CHECK(wrong_bytes(small_view.bytes(), small, "a/small", 1) == "");
    CHECK(wrong_bytes(large_view.bytes(), large, "a/large", 1) == "");
    CHECK(Status(client)["removing"] == 2);
    small_view.release();
    large_view.release();
    CHECK(status_becomes(client, "removing", 0) == 0);
    CHECK(Status(client)["used_bytes"] == Status(client)["slab_bytes"]);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("overlapping prefixes are refused, and the error names whose they are") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    ChildProcess owner([&](Moments& moments) {
      Client own = daemon.connect();
      must(own.begin_scope("job/1/"));
      require(outcome(own.begin_scope("job/1/")) == "conflict", "begun twice");
      require(outcome(own.begin_scope("job/")) == "conflict", "overlaps its own");
      moments.reached();
      moments.wait();
    });
    owner.await();
    for (const std::string prefix : {"job/1/", "job/1/2", "job/", "j"}) {
      CAPTURE(prefix);
      const auto refused = client.begin_scope(prefix);
      CHECK(outcome(refused) == "conflict");
      CHECK(mentions(why(refused), "pid " + std::to_string(owner.pid())));
      CHECK(outcome(client.end_scope(prefix)) == "bad_state");
    }
    must(client.begin_scope("job/2/"));
    for (const std::string& bad : {std::string(), std::string(256, 'x'), std::string(300'000, 'x')}) {
      CHECK(outcome(client.begin_scope(bad)) == "bad_id");
      CHECK(outcome(client.end_scope(bad)) == "bad_id");
    }
    const std::string longest(255, '\xff');
    must(client.begin_scope(longest));
    put(client, longest);
    CHECK(must(client.end_scope(longest)) == 1);
    owner.kill();
    CHECK(eventually([&] { return outcome(client.begin_scope("job/1/")) == "ok"; }, slack));
  }

  TEST_CASE("a forked child has none of its parent's scopes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.begin_scope("a/"));
    put(client, "a/1");
    const View view = must(client.get("a/1"));
    ChildProcess child([&](Moments&) {
      require(outcome(client.end_scope("a/")) == "bad_state", "it ends its parent's");
      require(outcome(client.begin_scope("a/")) == "conflict", "it has it anew");
      must(client.begin_scope("child/"));
      put(client, "a/2");
      put(client, "child/1");
    });
    CHECK(child.join() == 0);
    CHECK(goes(client, "child/1"));
    CHECK(there(client, "a/1"));
    CHECK(there(client, "a/2"));
    CHECK(must(client.end_scope("a/")) == 2);
  }

  TEST_CASE("a parent whose fork no daemon answered still has its scopes, and its child does not") {
    DaemonProcess daemon;
    Client other = daemon.connect();
    ChildProcess parent([&](Moments& moments) {
      Client own = daemon.connect();
      must(own.begin_scope("a/"));
      must(own.begin_scope("b/"));
      put(own, "a/1");
      put(own, "b/1");
      const View view = must(own.get("a/1"));
      daemon.stop();
      ChildProcess child([&](Moments& in_child) {
        in_child.reached();
        in_child.wait();
      });
      child.await();
      daemon.resume();
      put(own, "a/2");
      child.kill();
      require(must(own.end_scope("b/")) == 1, "its scope is lost");
      moments.reached();
      moments.wait();
    });
    parent.await();
    CHECK(there(other, "a/1"));
    CHECK(there(other, "a/2"));
    CHECK_FALSE(there(other, "b/1"));
    parent.kill();
    CHECK(goes(other, "a/1"));
    CHECK(goes(other, "a/2"));
  }

  TEST_CASE("manifests inside go with what they list; what one outside lists stays") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.begin_scope("in/"));
    const std::vector<Ref> all{put(client, "in/1"), put(client, "in/2"), put(client, "in/3")};
    const std::vector<Ref> two{all[0], all[1]};
    const std::vector<Ref> last{all[2]};
    must(client.put_manifest("in/m", two));
    must(client.put_manifest("out", last));
    CHECK(must(client.end_scope("in/")) == 3);
    CHECK(there(client, "in/3"));
    CHECK(must(client.list("in/")).segments.size() == 1);
    must(client.remove("out"));
    CHECK(there(client, "in/3"));
  }

  TEST_CASE("ten thousand go, while others are served") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr int count = 10'000;
    const auto bytes = payload(small, "x", 1);
    for (const bool killed : {false, true}) {
      CAPTURE(killed);
      ChildProcess owner([&](Moments& moments) {
        Client own = daemon.connect();
        must(own.begin_scope("s/"));
        std::vector<std::string> ids;
        for (int i = 0; i < count; ++i) ids.push_back("s/" + std::to_string(i));
        std::vector<PutItem> items;
        for (const std::string& id : ids) items.push_back({id, bytes});
        for (const auto& done : must(own.put_many(items))) must(done);
        moments.reached();
        moments.wait();
        if (killed) moments.wait();
        require(must(own.end_scope("s/")) == count, "not all of them went");
      });
      owner.await();
      CHECK(Status(client)["segments"] == count);
      if (killed)
        owner.kill();
      else
        owner.release();
      CHECK(status_becomes(client, "segments", 0) == 0);
      CHECK(status_becomes(client, "scopes_ending", 0) == 0);
      if (!killed) CHECK(owner.join() == 0);
    }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("subscribers hear that each was removed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.begin_scope("a/"));
    put(client, "a/1");
    put(client, "a/2");
    Subscription subscription = must(client.subscribe("a/"));
    CHECK(must(client.end_scope("a/")) == 2);
    std::vector<Event> events;
    while (events.size() < 2) {
      const auto more = must(subscription.next(slack));
      REQUIRE_FALSE(more.empty());
      events.insert(events.end(), more.begin(), more.end());
    }
    for (const Event& event : events) {
      CHECK(event.kind == EventKind::removed);
      CHECK(event.cause == RemovalCause::removed);
    }
  }

  TEST_CASE("a dump lists the scopes with their processes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.begin_scope("a/"));
    std::string text;
    must(client.dump([&](std::string_view part) { text += part; }));
    CHECK(mentions(text, "# scopes: pid prefix\n" + std::to_string(::getpid()) + " 'a/'\n"));
    CHECK(mentions(text, "\nscopes 1\n"));
  }

  TEST_CASE("a process has 1024 scopes at most, and all of them end with it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto prefix = [](int i) { return std::string(240, 'x') + std::to_string(1000 + i) + "/"; };
    ChildProcess owner([&](Moments& moments) {
      Client own = daemon.connect();
      for (int i = 0; i < 1024; ++i) must(own.begin_scope(prefix(i)));
      require(outcome(own.begin_scope("one more/")) == "limit_reached", "there is no limit");
      moments.reached();
      moments.wait();
      put(own, "noise");
      moments.reached();
      moments.wait();
    });
    owner.await();
    must(client.begin_scope("one more/"));
    for (const int i : {0, 511, 1023}) put(client, prefix(i) + "1");
    SUBCASE("at once") {}
    SUBCASE("after the daemon was started anew, and told of them again") {
      daemon.kill();
      daemon.start();
      owner.release();
      owner.await();
      CHECK(Status(client)["scopes"] == 1025);
      CHECK(there(client, prefix(1023) + "1"));
    }
    owner.kill();
    CHECK(status_becomes(client, "scopes", 1) == 1);
    for (const int i : {0, 511, 1023}) CHECK(goes(client, prefix(i) + "1"));
  }
}

}  // namespace
}  // namespace forebay::test
