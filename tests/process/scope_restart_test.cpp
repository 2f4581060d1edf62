// SPDX-License-Identifier: Apache-2.0
// Scopes, when the daemon is killed and started again meanwhile.
#include <doctest/doctest.h>
#include <signal.h>
#include <unistd.h>

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
#include "tests/support/shared.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds slack{5};  // for "within a second" on a loaded machine
constexpr std::size_t small = 1'000;
constexpr std::size_t large = 300'000;

Ref put(Client& client, const std::string& id, std::size_t size = small) {
  return must(client.put(id, payload(size, id, 1)));
}
bool there(const Client& client, const std::string& id) { return must(client.contains(id)); }
bool goes(const Client& client, const std::string& id) {
  return eventually([&] { return !there(client, id); }, slack);
}

// Begins "a/", puts, and lives until it is killed; reconnects when it is told to.
void own(const DaemonProcess& daemon, Moments& moments) {
  Client client = daemon.connect();
  must(client.begin_scope("a/"));
  put(client, "a/small");
  put(client, "a/large", large);
  moments.reached();
  moments.wait();
  put(client, "a/again");
  moments.reached();
  moments.wait();
}

TEST_SUITE("scope_restart") {
  TEST_CASE("a scope survives the daemon") {
    DaemonProcess daemon;
    ChildProcess owner([&](Moments& moments) { own(daemon, moments); });
    owner.await();
    daemon.kill();
    daemon.start();
    Client client = daemon.connect();
    CHECK(there(client, "a/small"));
    CHECK(outcome(client.begin_scope("a/")) == "conflict");
    SUBCASE("its process has called again") {
      owner.release();
      owner.await();
      CHECK(there(client, "a/small"));
      CHECK(there(client, "a/again"));
    }
    SUBCASE("its process never does") {}
    put(client, "a/others");
    owner.kill();
    CHECK(goes(client, "a/others"));
    CHECK(goes(client, "a/small"));
    CHECK(goes(client, "a/large"));
    CHECK(goes(client, "a/again"));
    CHECK(status_becomes(client, "scopes_ending", 0) == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("the request that finds the daemon come back may be the one to begin or end a scope") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    daemon.kill();
    daemon.start();
    must(client.begin_scope("one/"));
    put(client, "one/a");
    daemon.kill();
    daemon.start();
    CHECK(outcome(client.end_scope("one/")) == "ok");
    CHECK_FALSE(must(client.contains("one/a")));
    ChildProcess child([&](Moments&) {
      must(client.begin_scope("child/"));
      must(client.end_scope("child/"));
    });
    CHECK(child.join() == 0);
    CHECK(Status(client)["scopes"] == 0);
  }

  TEST_CASE("a process that ends while no daemon runs has ended its scopes") {
    DaemonProcess daemon;
    ChildProcess owner([&](Moments& moments) { own(daemon, moments); });
    // Its table is its child's when it dies; its scope is not.
    Shared<std::atomic<pid_t>> heir;
    ChildProcess parent([&](Moments& moments) {
      Client client = daemon.connect();
      must(client.begin_scope("b/"));
      put(client, "b/1");
      const View view = must(client.get("b/1"));
      daemon.stop();
      if (const pid_t child = ::fork(); child != 0) {
        *heir = child;
      } else {
        ::alarm(60);
        while (true) ::pause();
      }
      daemon.resume();
      moments.reached();
      moments.wait();
    });
    owner.await();
    parent.await();
    daemon.kill();
    owner.kill();
    parent.kill();
    daemon.start();
    Client client = daemon.connect();
    put(client, "a/later");
    CHECK(goes(client, "a/small"));
    CHECK(goes(client, "a/large"));
    CHECK(goes(client, "b/1"));
    CHECK(status_becomes(client, "scopes_ending", 0) == 0);
    CHECK(there(client, "a/later"));
    CHECK(Status(client)["scopes"] == 0);
    // What it pinned is the heir's.
    CHECK(Status(client)["removing"] == 1);
    ::kill(*heir, SIGKILL);
    CHECK(status_becomes(client, "removing", 0) == 0);
  }

  TEST_CASE("a scope is begun anew in the store that follows one that is gone") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.begin_scope("a/"));
    must(client.begin_scope("b/"));
    put(client, "a/1");
    {
      Client other = daemon.connect();
      must(other.stop_daemon(true));
    }
    REQUIRE(daemon.wait_for_end(slack));
    daemon.start();
    Client other = daemon.connect();
    must(other.begin_scope("b/x"));
    put(client, "a/2");
    put(other, "a/3");
    CHECK(outcome(client.end_scope("b/")) == "bad_state");
    CHECK(outcome(other.begin_scope("a/")) == "conflict");
    CHECK(must(client.end_scope("a/")) == 2);
    must(other.begin_scope("a/"));
    CHECK(must(other.end_scope("b/x")) == 0);
  }

  TEST_CASE("an end is asked for until it is answered, and takes nothing that came after it") {
    DaemonProcess daemon;
    Client client = daemon.connect(milliseconds(300));
    must(client.begin_scope("a/"));
    put(client, "a/1");
    daemon.stop();
    CHECK(outcome(client.end_scope("a/")) == "timed_out");
    SUBCASE("the daemon hears of it later") { daemon.resume(); }
    SUBCASE("another daemon is told") {
      daemon.kill();
      daemon.start();
    }
    Client other = daemon.connect();
    // Says so on the way, if that is needed.
    CHECK(eventually([&] { return outcome(client.put("noise", {})) == "ok"; }, slack));
    CHECK(goes(other, "a/1"));
    CHECK(status_becomes(other, "scopes", 0) == 0);
    put(other, "a/2");
    CHECK(eventually([&] { return outcome(client.end_scope("a/")) == "ok"; }, slack));
    CHECK(there(other, "a/2"));
    must(client.begin_scope("a/"));
  }

  TEST_CASE("a beginning that was given up is no scope") {
    DaemonProcess daemon;
    Client client = daemon.connect(milliseconds(300));
    Client other = daemon.connect();
    daemon.stop();
    CHECK(outcome(client.begin_scope("a/")) == "timed_out");
    daemon.resume();
    CHECK(status_becomes(other, "scopes", 0) == 0);
    put(other, "a/1");
    CHECK(outcome(client.end_scope("a/")) == "bad_state");
    must(other.begin_scope("a/"));
    CHECK(there(other, "a/1"));
  }

  TEST_CASE("a daemon that is killed while it empties a scope goes on when it is back") {
    using namespace shm::points;
    for (const shm::Failpoint& point :
         {remove_newest_unlinked, remove_exact_unlinked, remove_marked, remove_freed}) {
      CAPTURE(point.name);
      for (const bool killed : {false, true}) {
        CAPTURE(killed);
        DaemonProcess daemon(
            {.environment = {{"FOREBAY_FAILPOINTS", std::string(point.name) + ":7=kill"}}});
        ChildProcess owner([&](Moments& moments) {
          Client client = daemon.connect();
          must(client.begin_scope("a/"));
          for (int i = 0; i < 20; ++i)
            put(client, "a/" + std::to_string(i), i % 2 == 0 ? small : large);
          put(client, "b");
          moments.reached();
          moments.wait();
          if (killed) ::_exit(0);
          must(client.end_scope("a/"));
          moments.reached();
          moments.wait();
        });
        owner.await();
        owner.release();
        REQUIRE(daemon.wait_for_end(seconds(20)));
        daemon.start({});
        Client client = daemon.connect();
        put(client, "a/later");
        CHECK(eventually([&] { return must(client.list("a/")).segments.size() == 1; }, slack));
        CHECK(status_becomes(client, "scopes_ending", 0) == 0);
        if (!killed) owner.await();
        CHECK(Status(client)["scopes"] == 0);
        CHECK(there(client, "a/later"));
        CHECK(there(client, "b"));
        CHECK(status_becomes(client, "removing", 0) == 0);
        CHECK(adds_up(client) == "");
      }
    }
  }
}

}  // namespace
}  // namespace forebay::test
