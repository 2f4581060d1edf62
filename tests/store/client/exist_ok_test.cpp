// SPDX-License-Identifier: Apache-2.0
// put with exist_ok: the same bytes again are fine, others are not.
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

TEST_SUITE("exist_ok") {
  TEST_CASE("the same bytes again are as good as put, and give the ref of what is there") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {0UL, 100UL, 65536UL, 65537UL, 3000000UL}) {
      const std::string id = "a/" + std::to_string(size);
      const auto bytes = payload(size, id, 2);
      const Ref first = must(client.put(id, bytes, {.version = 2, .exist_ok = true}));
      const std::uint64_t used = Status(client)["used_bytes"];
      const Ref second = must(client.put(id, bytes, {.version = 2, .exist_ok = true}));
      CHECK(first == second);
      CHECK(Status(client)["used_bytes"] == used);
    }
    CHECK(must(client.holders()).empty());
  }

  TEST_CASE("other bytes, or another number of them, exist already") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {100UL, 3000000UL}) {
      const std::string id = "a/" + std::to_string(size);
      auto bytes = payload(size, id, 1);
      must(client.put(id, bytes, {.version = 1}));
      bytes[size - 1] ^= std::byte{1};
      CHECK(outcome(client.put(id, bytes, {.version = 1, .exist_ok = true})) == "exists");
      bytes.pop_back();
      CHECK(outcome(client.put(id, bytes, {.version = 1, .exist_ok = true})) == "exists");
      CHECK(wrong_bytes(must(client.get(id)).bytes(), size, id, 1) == "");
    }
  }

  TEST_CASE("with the next number there is nothing to exist") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK(must(client.put("a", payload(10, "a", 1), {.exist_ok = true})).version == 1);
    CHECK(must(client.put("a", payload(10, "a", 1), {.exist_ok = true})).version == 2);
  }

  TEST_CASE("while somebody makes the version, it is a conflict") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Builder builder = must(client.create("a", 100, {.version = 1}));
    fill(builder.bytes(), "a", 1);
    CHECK(outcome(client.put("a", payload(100, "a", 1), {.version = 1, .exist_ok = true})) ==
          "conflict");
    must(builder.seal());
    CHECK(outcome(client.put("a", payload(100, "a", 1), {.version = 1, .exist_ok = true})) == "ok");
  }

  TEST_CASE("processes that all put the same versions all succeed, or are told to wait for them") {
    DaemonProcess daemon;
    const auto size = [](std::uint64_t version) { return version % 3 == 0 ? 100000 : 100; };
    const auto put = [&](Moments& moments) {
      Client client = daemon.connect();
      moments.reached();
      moments.wait();
      for (std::uint64_t version = 1; version <= 200; ++version) {
        const auto ref = client.put("a", payload(size(version), "a", version),
                                    {.version = version, .exist_ok = true});
        require(ref || outcome(ref) == "conflict", "neither put nor in conflict");
        const View view = must(
            client.get("a", {.version = version, .timeout = std::chrono::seconds(20)}));
        const std::string wrong = wrong_bytes(view.bytes(), size(version), "a", version);
        require(wrong.empty(), wrong);
      }
    };
    ChildProcess one(put);
    ChildProcess two(put);
    ChildProcess three(put);
    for (ChildProcess* child : {&one, &two, &three}) child->await();
    for (ChildProcess* child : {&one, &two, &three}) child->release();
    for (ChildProcess* child : {&one, &two, &three}) CHECK(child->join() == 0);
    CHECK(Status(daemon.connect())["segments"] == 200);
  }

  TEST_CASE("create has no bytes to compare") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK(outcome(client.create("a", 10, {.version = 1, .exist_ok = true})) == "bad_argument");
  }
}

}  // namespace
}  // namespace forebay::test
