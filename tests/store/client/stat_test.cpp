// SPDX-License-Identifier: Apache-2.0
// stat and holders: everything about one segment, and who pins what.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

const Holder* holder_of(const std::vector<Holder>& holders, pid_t pid) {
  for (const Holder& holder : holders)
    if (holder.pid == static_cast<std::uint32_t>(pid)) return &holder;
  return nullptr;
}

TEST_SUITE("stat") {
  TEST_CASE("stat tells what was put, of the newest version or of the one that is named") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100, "a", 1)));
    const Ref second = must(client.put(
        "a", payload(800, "a", 2), {.evictable = true, .type = array_of<double>({4, 25})}));
    for (const std::uint64_t version : {0U, 2U}) {
      const SegmentStat stat = must(client.stat("a", version));
      CHECK(stat.state == "sealed");
      CHECK(stat.info.id == "a");
      CHECK(stat.info.version == 2);
      CHECK(stat.info.serial == second.serial);
      CHECK(stat.info.size == 800);
      CHECK(stat.info.evictable);
      CHECK(stat.info.type == array_of<double>({4, 25}));
      CHECK(stat.holders.empty());
    }
    CHECK(must(client.stat("a", 1)).info.size == 100);
  }

  TEST_CASE("stat names the processes that pin it, and how often") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100, "a", 1)));
    must(client.put("b", payload(100, "b", 1)));
    ChildProcess reader([&](Moments& moments) {
      const Client own = daemon.connect();
      const View one = must(own.get("a"));
      View two = must(own.get("a"));
      const View three = must(own.get("a"));
      moments.reached();
      moments.wait();
      two.release();
      moments.reached();
      moments.wait();
    });
    reader.await();
    const View own = must(client.get("a"));
    {
      const SegmentStat stat = must(client.stat("a"));
      CHECK(stat.holders.size() == 2);
      const Holder* other = holder_of(stat.holders, reader.pid());
      REQUIRE(other != nullptr);
      CHECK(other->pins == 3);
      CHECK(other->name == "process_tests");
      const Holder* self = holder_of(stat.holders, ::getpid());
      REQUIRE(self != nullptr);
      CHECK(self->pins == 1);
    }
    CHECK(must(client.stat("b")).holders.empty());
    reader.release();
    reader.await();
    const SegmentStat less = must(client.stat("a"));
    const Holder* other = holder_of(less.holders, reader.pid());
    REQUIRE(other != nullptr);
    CHECK(other->pins == 2);
    reader.kill();
    CHECK(eventually([&] { return must(client.stat("a")).holders.size() == 1; }));
  }

  TEST_CASE("what is not there has no stat, and the error names it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100, "a", 1)));
    CHECK(outcome(client.stat("b")) == "not_found");
    CHECK(outcome(client.stat("a", 2)) == "not_found");
    CHECK(why(client.stat("a", 2)).find("'a' version 2") != std::string::npos);
    must(client.remove("a"));
    CHECK(outcome(client.stat("a")) == "not_found");
  }

  TEST_CASE("holders sums up the pins and bytes of each process") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(1000, "a", 1)));
    must(client.put("b", payload(100000, "b", 1)));
    CHECK(must(client.holders()).empty());
    ChildProcess reader([&](Moments& moments) {
      const Client own = daemon.connect();
      const View one = must(own.get("a"));
      const View two = must(own.get("a"));
      const View three = must(own.get("b"));
      moments.reached();
      moments.wait();
    });
    reader.await();
    const auto holders = must(client.holders());
    REQUIRE(holders.size() == 1);
    CHECK(holders[0].pid == static_cast<std::uint32_t>(reader.pid()));
    CHECK(holders[0].pins == 3);
    CHECK(holders[0].bytes == 101000);
    // A removed segment that is pinned still costs its holder.
    must(client.remove("b"));
    CHECK(must(client.holders()).at(0).bytes == 101000);
    reader.kill();
    CHECK(eventually([&] { return must(client.holders()).empty(); }));
  }

  TEST_CASE("status counts segments, ids, versions and gets") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (int i = 0; i < 3; ++i) {
      must(client.put("a", payload(10, "a", 1)));
      must(client.put("b", payload(100000, "b", 1)));
    }
    Builder open = must(client.create("c", 10));
    for (int i = 0; i < 5; ++i) must(client.get("a"));
    CHECK(outcome(client.get("none")) == "not_found");
    const Status status(client);
    CHECK(status["segments"] == 6);
    CHECK(status["ids"] == 2);
    CHECK(status["creating"] == 1);
    CHECK(status["removing"] == 0);
    CHECK(status["gets"] == 5);
    CHECK(status["get_misses"] == 1);
    CHECK(status["get_bytes"] == 50);
    CHECK(status["puts"] == 6);
    CHECK(status["sessions"] == 1);
    CHECK(status["daemon_starts"] == 1);
    CHECK(status["daemon_pid"] == static_cast<std::uint64_t>(daemon.pid()));
    CHECK(status["capacity_bytes"] == 256ULL * 1024 * 1024);
    CHECK(client.capacity_bytes() == 256ULL * 1024 * 1024);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a dump shows every segment, over as many pages as it takes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (int i = 0; i < 3000; ++i)
      must(client.put("dumped/" + std::to_string(i), payload(10, "", 1)));
    std::string text;
    int pages = 0;
    must(client.dump([&](std::string_view page) {
      text += page;
      ++pages;
    }));
    CHECK(pages > 1);
    for (int i = 0; i < 3000; ++i)
      REQUIRE(text.find("dumped/" + std::to_string(i) + "\n") != std::string::npos);
  }
}

}  // namespace
}  // namespace forebay::test
