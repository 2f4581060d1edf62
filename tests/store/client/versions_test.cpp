// SPDX-License-Identifier: Apache-2.0
// Versions: numbers, their order, and which one is the newest.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"

namespace forebay::test {
namespace {

Ref put(Client& client, const std::string& id, std::uint64_t version, std::size_t size = 100) {
  return must(client.put(id, payload(size, id, version), {.version = version}));
}

// Which version a get of the newest shows; 0: none. Its bytes are checked as well.
std::uint64_t newest(const Client& client, const std::string& id, std::size_t size = 100) {
  const auto view = client.get(id);
  if (!view) return 0;
  CHECK(wrong_bytes(view->bytes(), size, id, view->version()) == "");
  return view->version();
}

TEST_SUITE("versions") {
  TEST_CASE("a put takes the next number, and get shows the newest") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::uint64_t version = 1; version <= 300; ++version) {
      const Ref ref = must(client.put("a", payload(100, "a", version)));
      REQUIRE(ref.version == version);
      REQUIRE(newest(client, "a") == version);
    }
    for (std::uint64_t version = 1; version <= 300; ++version)
      REQUIRE(wrong_bytes(must(client.get("a", {.version = version})).bytes(), 100, "a", version) ==
              "");
    CHECK(must(client.put("b", payload(100, "b", 1))).version == 1);
  }

  TEST_CASE("numbers may leave gaps, and the next one goes on behind the highest") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK(put(client, "a", 5).version == 5);
    CHECK(put(client, "a", 1000).version == 1000);
    CHECK(must(client.put("a", payload(100, "a", 1001))).version == 1001);
    CHECK(outcome(client.get("a", {.version = 6})) == "not_found");
    CHECK(outcome(client.get("a", {.version = 999})) == "not_found");
    CHECK(newest(client, "a") == 1001);
  }

  TEST_CASE("versions may be put in any order, and the newest is the highest") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 50);
    for (const std::uint64_t version : {10U, 40U, 30U, 1U, 49U, 20U}) {
      put(client, "a", version);
      CHECK(newest(client, "a") == 50);
    }
    put(client, "a", 51);
    CHECK(newest(client, "a") == 51);
    for (const std::uint64_t version : {1U, 10U, 20U, 30U, 40U, 49U, 50U, 51U})
      CHECK(wrong_bytes(must(client.get("a", {.version = version})).bytes(), 100, "a", version) ==
            "");
  }

  TEST_CASE("a version that is sealed already exists, and keeps its bytes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 3);
    put(client, "a", 4);
    const auto again = client.put("a", payload(100, "other", 3), {.version = 3});
    CHECK(outcome(again) == "exists");
    CHECK(why(again).find("'a' version 3") != std::string::npos);
    CHECK(outcome(client.put("a", payload(200000, "other", 3), {.version = 3})) == "exists");
    CHECK(outcome(client.create("a", 100, {.version = 3})) == "exists");
    CHECK(wrong_bytes(must(client.get("a", {.version = 3})).bytes(), 100, "a", 3) == "");
  }

  TEST_CASE("a version that is being made is a conflict, here and in another process") {
    DaemonProcess daemon;
    ChildProcess other([&](Moments& moments) {
      Client client = daemon.connect();
      moments.reached();
      moments.wait();
      require(outcome(client.put("a", payload(10, "a", 7), {.version = 7})) == "conflict",
              "a put of a version that is being made is not a conflict");
      require(outcome(client.create("a", 100000, {.version = 7})) == "conflict",
              "a create of a version that is being made is not a conflict");
      moments.reached();
      moments.wait();
      require(outcome(client.put("a", payload(10, "a", 7), {.version = 7})) == "ok",
              "an aborted version cannot be put");
    });
    other.await();
    Client client = daemon.connect();
    Builder builder = must(client.create("a", 100000, {.version = 7}));
    CHECK(outcome(client.put("a", payload(10, "a", 7), {.version = 7})) == "conflict");
    other.release();
    other.await();
    must(builder.abort());
    other.release();
    CHECK(other.join() == 0);
    CHECK(wrong_bytes(must(client.get("a", {.version = 7})).bytes(), 10, "a", 7) == "");
  }

  TEST_CASE("the number is taken at create, and what is sealed late is not the newest") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Builder first = must(client.create("a", 100));
    Builder second = must(client.create("a", 100));
    CHECK(first.version() == 1);
    CHECK(second.version() == 2);
    CHECK(must(client.put("a", payload(100, "a", 3))).version == 3);
    fill(second.bytes(), "a", 2);
    must(second.seal());
    CHECK(newest(client, "a") == 3);
    fill(first.bytes(), "a", 1);
    must(first.seal());
    CHECK(newest(client, "a") == 3);
    for (const std::uint64_t version : {1U, 2U, 3U})
      CHECK(wrong_bytes(must(client.get("a", {.version = version})).bytes(), 100, "a", version) ==
            "");
  }

  TEST_CASE("an aborted number leaves a gap that may be filled") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Builder builder = must(client.create("a", 100));
    put(client, "a", 2);
    must(builder.abort());
    CHECK(outcome(client.get("a", {.version = 1})) == "not_found");
    put(client, "a", 1);
    CHECK(newest(client, "a") == 2);
    CHECK(wrong_bytes(must(client.get("a", {.version = 1})).bytes(), 100, "a", 1) == "");
  }

  TEST_CASE("the newest falls back when it is removed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::uint64_t version : {2U, 4U, 8U, 16U}) put(client, "a", version);
    must(client.remove("a", 8));
    CHECK(newest(client, "a") == 16);
    must(client.remove("a", 16));
    CHECK(newest(client, "a") == 4);
    put(client, "a", 3);
    CHECK(newest(client, "a") == 4);
    must(client.remove("a", 4));
    CHECK(newest(client, "a") == 3);
    must(client.remove("a", 2));
    CHECK(newest(client, "a") == 3);
    must(client.remove("a", 3));
    CHECK(newest(client, "a") == 0);
    put(client, "a", 1);
    CHECK(newest(client, "a") == 1);
  }

  TEST_CASE("a lost version is made again while a newer one lives") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::uint64_t version : {1U, 2U, 3U, 4U}) put(client, "a", version);
    must(client.remove("a", 3));
    CHECK(outcome(client.get("a", {.version = 3})) == "not_found");
    Builder builder = must(client.create("a", 100, {.version = 3}));
    fill(builder.bytes(), "a", 3);
    CHECK(newest(client, "a") == 4);
    must(builder.seal());
    CHECK(newest(client, "a") == 4);
    CHECK(wrong_bytes(must(client.get("a", {.version = 3})).bytes(), 100, "a", 3) == "");
  }

  TEST_CASE("a next number is above all that are sealed or being made") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 10);
    Builder builder = must(client.create("a", 10, {.version = 20}));
    CHECK(must(client.put("a", payload(100, "a", 21))).version == 21);
    must(builder.abort());
    must(client.remove("a", 10));
    CHECK(must(client.put("a", payload(100, "a", 22))).version == 22);
  }

  TEST_CASE("ids are apart, whatever their versions do") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const std::vector<std::string> ids{"a", "b", "a/", "a/b", std::string("a\0", 2), "A"};
    for (std::uint64_t version = 1; version <= 5; ++version)
      for (const std::string& id : ids) put(client, id, version * ids.size());
    must(client.remove("a"));
    CHECK(newest(client, "a") == 0);
    for (std::size_t i = 1; i < ids.size(); ++i) CHECK(newest(client, ids[i]) == 5 * ids.size());
  }

  TEST_CASE("two processes that put the next number never get the same one") {
    DaemonProcess daemon;
    const auto put_many = [&](Moments& moments, std::uint64_t seed) {
      Client client = daemon.connect();
      moments.reached();
      moments.wait();
      for (int i = 0; i < 300; ++i) {
        // The version is known only afterwards, so these bytes are of the seed.
        const Ref ref = must(client.put("a", payload(100, "a", 0, seed)));
        const View view = must(client.get(ref));
        const std::string wrong = wrong_bytes(view.bytes(), 100, "a", 0, seed);
        require(wrong.empty(), wrong);
      }
    };
    ChildProcess one([&](Moments& moments) { put_many(moments, 1); });
    ChildProcess two([&](Moments& moments) { put_many(moments, 2); });
    one.await();
    two.await();
    one.release();
    two.release();
    CHECK(one.join() == 0);
    CHECK(two.join() == 0);
    const Client client = daemon.connect();
    CHECK(must(client.get("a")).version() == 600);
  }
}

}  // namespace
}  // namespace forebay::test
