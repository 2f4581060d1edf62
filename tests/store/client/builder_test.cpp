// SPDX-License-Identifier: Apache-2.0
// create, fill in place, seal or abort.
#include "store/builder.h"

#include <doctest/doctest.h>

#include <cstdint>
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

TEST_SUITE("builder") {
  TEST_CASE("what is filled in place and sealed is what is got") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {0UL, 1UL, 64UL, 4096UL, 65536UL, 100001UL, 9 * mebibytes}) {
      const std::string id = "built/" + std::to_string(size);
      Builder builder = must(client.create(id, size));
      REQUIRE(builder.bytes().size() == size);
      CHECK(reinterpret_cast<std::uintptr_t>(builder.bytes().data()) % 4096 == 0);
      CHECK(builder.version() == 1);
      fill(builder.bytes(), id, 1);
      const Ref ref = must(builder.seal());
      CHECK(ref.id == id);
      CHECK(ref.version == 1);
      const View view = must(client.get(id));
      CHECK(view.ref() == ref);
      CHECK(wrong_bytes(view.bytes(), size, id, 1) == "");
    }
  }

  TEST_CASE("until it is sealed, nobody sees it, and then everybody does") {
    DaemonProcess daemon;
    ChildProcess other([&](Moments& moments) {
      Client client = daemon.connect();
      moments.reached();
      moments.wait();
      require(outcome(client.get("a")) == "not_found", "get saw it");
      require(outcome(client.get("a", {.version = 1})) == "not_found", "get of the version saw it");
      require(!must(client.contains("a")), "contains saw it");
      require(!must(client.contains("a", 1)), "contains saw the version");
      require(must(client.list("")).segments.empty(), "list saw it");
      require(outcome(client.stat("a")) == "not_found", "stat saw it");
      require(outcome(client.stat("a", 1)) == "not_found", "stat of the version saw it");
      require(outcome(client.remove("a")) == "not_found", "remove saw it");
      require(outcome(client.remove("a", 1)) == "not_found", "remove of the version saw it");
      moments.reached();
      moments.wait();
      const std::string wrong = wrong_bytes(must(client.get("a")).bytes(), 200000, "a", 1);
      require(wrong.empty(), wrong);
      require(must(client.list("")).segments.size() == 1, "list does not see it");
    });
    other.await();
    Client client = daemon.connect();
    Builder builder = must(client.create("a", 200000));
    fill(builder.bytes(), "a", 1);
    other.release();
    other.await();
    CHECK(outcome(client.get("a")) == "not_found");
    CHECK_FALSE(must(client.contains("a")));
    must(builder.seal());
    other.release();
    CHECK(other.join() == 0);
  }

  TEST_CASE("seal_and_get holds on to what was sealed") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Builder builder = must(client.create("a", 3 * mebibytes));
    fill(builder.bytes(), "a", 1);
    const View view = must(builder.seal_and_get());
    CHECK(view.version() == 1);
    must(client.remove("a"));
    for (std::uint64_t i = 1; i < 20; ++i) {
      must(client.put("noise", payload(3 * mebibytes, "noise", i)));
      must(client.remove("noise"));
    }
    CHECK(wrong_bytes(view.bytes(), 3 * mebibytes, "a", 1) == "");
  }

  TEST_CASE("an abort gives the memory back, and the version was never seen") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const std::uint64_t before = Status(client)["used_bytes"];
    Builder builder = must(client.create("a", 20 * mebibytes));
    CHECK(Status(client)["used_bytes"] >= before + 20 * mebibytes);
    must(builder.abort());
    CHECK(status_becomes(client, "used_bytes", before) == before);
    CHECK(outcome(client.get("a")) == "not_found");
    CHECK(Status(client)["creating"] == 0);
  }

  TEST_CASE("a builder that is destroyed open aborts") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    {
      Builder builder = must(client.create("a", 20 * mebibytes, {.version = 5}));
      CHECK(Status(client)["used_bytes"] >= 20 * mebibytes);
    }
    CHECK(status_becomes(client, "used_bytes", 0) == 0);
    CHECK(Status(client)["creating"] == 0);
    // And the version is free again.
    CHECK(outcome(client.put("a", payload(10, "a", 5), {.version = 5})) == "ok");
  }

  TEST_CASE("a builder that another one is moved into aborts what it had open") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Builder one = must(client.create("one", 5 * mebibytes));
    Builder two = must(client.create("two", 6 * mebibytes));
    fill(two.bytes(), "two", 1);
    one = std::move(two);
    CHECK(eventually([&] { return Status(client)["creating"] == 1; }));
    must(one.seal());
    CHECK(outcome(client.get("one")) == "not_found");
    CHECK(wrong_bytes(must(client.get("two")).bytes(), 6 * mebibytes, "two", 1) == "");
  }

  TEST_CASE("memory of an aborted segment is nobody else's while it is held") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Builder builder = must(client.create("a", 8 * mebibytes));
    fill(builder.bytes(), "a", 1);
    {
      const View held = must(builder.abort_and_hold());
      CHECK(outcome(client.get("a")) == "not_found");
      CHECK(must(client.list("")).segments.empty());
      CHECK(outcome(client.put("b", payload(9 * mebibytes, "b", 1))) == "store_full");
      for (std::uint64_t i = 1; i < 10; ++i) {
        must(client.put("noise", payload(6 * mebibytes, "noise", i)));
        must(client.remove("noise"));
      }
      CHECK(wrong_bytes(held.bytes(), 8 * mebibytes, "a", 1) == "");
    }
    CHECK(outcome(client.put("b", payload(9 * mebibytes, "b", 1),
                             {.timeout = std::chrono::seconds(20)})) == "ok");
  }

  TEST_CASE("several builders are open at once, and are sealed in any order") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    std::vector<Builder> builders;
    const auto id = [](std::size_t i) { return "b/" + std::to_string(i); };
    for (std::size_t i = 0; i < 20; ++i) {
      builders.push_back(must(client.create(id(i), 50000 + i * 4097)));
      fill(builders.back().bytes(), id(i), 1);
    }
    for (std::size_t step = 0; step < 20; ++step) {
      const std::size_t i = step * 7 % 20;
      if (i % 5 == 4) {
        must(builders[i].abort());
      } else {
        must(builders[i].seal());
      }
    }
    for (std::size_t i = 0; i < 20; ++i) {
      if (i % 5 == 4) {
        CHECK(outcome(client.get(id(i))) == "not_found");
      } else {
        CHECK(wrong_bytes(must(client.get(id(i))).bytes(), 50000 + i * 4097, id(i), 1) == "");
      }
    }
  }

  TEST_CASE("neighbours of an open builder are not writable through it") {
    // Small ones and large ones next to each other, each sealed while the others are open.
    DaemonProcess daemon;
    Client client = daemon.connect();
    Builder first = must(client.create("first", 1));
    Builder second = must(client.create("second", 1));
    first.bytes()[0] = std::byte{1};
    second.bytes()[0] = std::byte{2};
    const View sealed = must(first.seal_and_get());
    second.bytes()[0] = std::byte{3};
    CHECK(sealed.bytes()[0] == std::byte{1});
    const View other = must(second.seal_and_get());
    CHECK(sealed.bytes()[0] == std::byte{1});
    CHECK(other.bytes()[0] == std::byte{3});
  }

  TEST_CASE("a builder's elements are of the type that is asked for") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Builder builder = must(client.create("a", 80, {.type = array_of<double>({10})}));
    const auto doubles = must(builder.as<double>());
    REQUIRE(doubles.size() == 10);
    for (std::size_t i = 0; i < 10; ++i) doubles[i] = static_cast<double>(i) / 4;
    must(builder.seal());
    const View view = must(client.get("a"));
    CHECK(must(view.type()) == array_of<double>({10}));
    CHECK(must(view.as<double>())[9] == 2.25);
    Builder odd = must(client.create("odd", 81));
    CHECK(outcome(odd.as<double>()) == "type_mismatch");
  }

  TEST_CASE("a builder outlives its client object being moved about") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Builder builder = must(client.create("a", 100000));
    Client moved = std::move(client);
    fill(builder.bytes(), "a", 1);
    must(builder.seal());
    CHECK(wrong_bytes(must(moved.get("a")).bytes(), 100000, "a", 1) == "");
  }

  TEST_CASE("an open builder's memory is its own until the builder ends, also when its client closes") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client observer = daemon.connect();
    Client client = daemon.connect();
    {
      Builder builder = must(client.create("a", 4 * mebibytes));
      fill(builder.bytes(), "a", 1);
      client.close();
      CHECK(outcome(builder.seal()) == "bad_state");
      for (std::uint64_t i = 1; i < 20; ++i) {
        must(observer.put("noise", payload(4 * mebibytes, "noise", i)));
        must(observer.remove("noise"));
      }
      CHECK(wrong_bytes(builder.bytes(), 4 * mebibytes, "a", 1) == "");
    }
    CHECK(status_becomes(observer, "used_bytes", 0) == 0);
    CHECK(Status(observer)["creating"] == 0);
    CHECK(outcome(observer.get("a")) == "not_found");
  }
}

}  // namespace
}  // namespace forebay::test
