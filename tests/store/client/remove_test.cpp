// SPDX-License-Identifier: Apache-2.0
// remove: out of sight at once, out of memory when the last pin has ended.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

constexpr std::size_t mebibytes = 1024 * 1024;
constexpr std::chrono::seconds slack{5};  // for "within a second" on a loaded machine

bool seen(const Client& client, const std::string& id) {
  return outcome(client.get(id)) != "not_found" || must(client.contains(id)) ||
         !must(client.list(id)).segments.empty() || outcome(client.stat(id)) != "not_found";
}

TEST_SUITE("remove") {
  TEST_CASE("a removed segment is out of sight at once, and its memory is back") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client other = daemon.connect();
    for (const std::size_t size : {0UL, 100UL, 70000UL, 10 * mebibytes}) {
      const std::string id = "a/" + std::to_string(size);
      must(client.put(id, payload(size, id, 1)));
      CHECK(seen(other, id));
      CHECK(must(client.remove(id)) == 1);
      CHECK_FALSE(seen(client, id));
      CHECK_FALSE(seen(other, id));
    }
    CHECK(Status(client)["segments"] == 0);
    CHECK(Status(client)["removing"] == 0);
    CHECK(Status(client)["slab_item_bytes"] == 0);
    CHECK(Status(client)["used_bytes"] == Status(client)["slab_bytes"]);
  }

  TEST_CASE("remove takes all versions, or the one that was named, and says how many") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::uint64_t version = 1; version <= 10; ++version)
      must(client.put("a", payload(100, "a", version)));
    must(client.put("ab", payload(100, "ab", 1)));
    CHECK(must(client.remove("a", 3)) == 1);
    CHECK(outcome(client.remove("a", 3)) == "not_found");
    CHECK(must(client.list("a")).segments.size() == 10);
    CHECK(must(client.remove("a")) == 9);
    CHECK(must(client.list("")).segments.size() == 1);
    CHECK(wrong_bytes(must(client.get("ab")).bytes(), 100, "ab", 1) == "");
  }

  TEST_CASE("what is not there cannot be removed, and the error names it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(10, "a", 1)));
    CHECK(outcome(client.remove("b")) == "not_found");
    CHECK(outcome(client.remove("a", 2)) == "not_found");
    CHECK(why(client.remove("a", 2)).find("'a' version 2") != std::string::npos);
    CHECK(must(client.remove("a")) == 1);
    CHECK(outcome(client.remove("a")) == "not_found");
  }

  TEST_CASE("while it is pinned, the bytes stay; memory comes back with the last release elsewhere") {
    DaemonProcess daemon({.capacity = "64MiB"});
    for (const std::size_t size : {1000UL, 20 * mebibytes}) {
      CAPTURE(size);
      ChildProcess reader([&](Moments& moments) {
        const Client client = daemon.connect();
        moments.reached();
        moments.wait();
        View one = must(client.get("a"));
        View two = must(client.get("a"));
        moments.reached();
        moments.wait();
        std::string wrong = wrong_bytes(one.bytes(), size, "a", 1);
        require(wrong.empty(), wrong);
        one.release();
        moments.reached();
        moments.wait();
        wrong = wrong_bytes(two.bytes(), size, "a", 1);
        require(wrong.empty(), wrong);
        two.release();
        moments.reached();
        moments.wait();
      });
      reader.await();
      Client client = daemon.connect();
      must(client.put("a", payload(size, "a", 1)));
      const std::string name = size < 65536 ? "slab_item_bytes" : "used_bytes";
      const std::uint64_t held = Status(client)[name];
      REQUIRE(held >= size);
      reader.release();
      reader.await();
      CHECK(must(client.remove("a")) == 1);
      CHECK_FALSE(seen(client, "a"));
      CHECK(Status(client)["removing"] == 1);
      for (std::uint64_t i = 1; i < 30; ++i) {
        must(client.put("noise", payload(size, "noise", i)));
        must(client.remove("noise"));
      }
      reader.release();
      reader.await();
      CHECK(Status(client)[name] == held);
      CHECK(Status(client)["removing"] == 1);
      reader.release();
      reader.await();
      CHECK(status_becomes(client, "removing", 0, slack) == 0);
      CHECK(Status(client)[name] < held);
      CHECK(adds_up(client) == "");
      reader.release();
      CHECK(reader.join() == 0);
    }
  }

  TEST_CASE("the memory of a removed segment comes back when the process that pins it is killed") {
    DaemonProcess daemon({.capacity = "64MiB"});
    ChildProcess reader([&](Moments& moments) {
      const Client client = daemon.connect();
      moments.reached();
      moments.wait();
      const View view = must(client.get("a"));
      moments.reached();
      moments.wait();
    });
    reader.await();
    Client client = daemon.connect();
    must(client.put("a", payload(40 * mebibytes, "a", 1)));
    reader.release();
    reader.await();
    must(client.remove("a"));
    CHECK(Status(client)["used_bytes"] >= 40 * mebibytes);
    CHECK(outcome(client.put("b", payload(40 * mebibytes, "b", 1))) == "store_full");
    reader.kill();
    CHECK(status_becomes(client, "used_bytes", 0, slack) == 0);
    CHECK(outcome(client.put("b", payload(40 * mebibytes, "b", 1))) == "ok");
  }

  TEST_CASE("an id that is put again at once is another segment than the pinned one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(5000, "a", 1, 1)));
    const View old = must(client.get("a"));
    must(client.remove("a"));
    must(client.put("a", payload(6000, "a", 1, 2)));
    const View now = must(client.get("a"));
    CHECK(wrong_bytes(old.bytes(), 5000, "a", 1, 1) == "");
    CHECK(wrong_bytes(now.bytes(), 6000, "a", 1, 2) == "");
    CHECK(old.ref().id == "a");
    CHECK(old.serial() < now.serial());
    CHECK(old.version() == 1);
  }

  TEST_CASE("a removed segment's view still tells all about itself") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = must(
        client.put("a", payload(80, "a", 1), {.version = 7, .type = array_of<double>({10})}));
    const View view = must(client.get("a"));
    must(client.remove("a"));
    CHECK(view.ref() == ref);
    CHECK(view.version() == 7);
    CHECK(must(view.type()) == array_of<double>({10}));
    CHECK(must(view.as<double>()).size() == 10);
  }

  TEST_CASE("what is being made is not removed, and may be sealed afterwards") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100, "a", 1)));
    Builder builder = must(client.create("a", 100000));
    fill(builder.bytes(), "a", 2);
    CHECK(must(client.remove("a")) == 1);
    CHECK(outcome(client.remove("a")) == "not_found");
    must(builder.seal());
    CHECK(wrong_bytes(must(client.get("a")).bytes(), 100000, "a", 2) == "");
  }

  TEST_CASE("any client may remove what another one has put") {
    DaemonProcess daemon;
    ChildProcess writer([&](Moments&) {
      Client client = daemon.connect();
      must(client.put("a", payload(100, "a", 1)));
    });
    CHECK(writer.join() == 0);
    Client client = daemon.connect();
    CHECK(must(client.remove("a")) == 1);
  }

  TEST_CASE("put and remove in turn do not use up memory") {
    DaemonProcess daemon({.capacity = "32MiB"});
    Client client = daemon.connect();
    for (std::uint64_t i = 0; i < 500; ++i) {
      const std::size_t size = i % 3 == 0 ? 100 : i % 3 == 1 ? 60000 : 9 * mebibytes;
      must(client.put("a", payload(size, "a", i)));
      must(client.remove("a"));
    }
    CHECK(adds_up(client) == "");
    CHECK(Status(client)["slab_item_bytes"] == 0);
    CHECK(outcome(client.create("whole", 30 * mebibytes)) == "ok");
  }
}

}  // namespace
}  // namespace forebay::test
