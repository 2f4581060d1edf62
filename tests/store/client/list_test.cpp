// SPDX-License-Identifier: Apache-2.0
// list: what is there, in order, in pages.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using Listed = std::vector<std::pair<std::string, std::uint64_t>>;

Listed list_all(const Client& client, const std::string& prefix, std::size_t limit = 1000) {
  Listed listed;
  ListCursor cursor;
  while (true) {
    const ListPage page = must(client.list(prefix, cursor, limit));
    if (page.segments.size() > limit) throw std::runtime_error("a page is too long");
    for (const SegmentInfo& info : page.segments) listed.emplace_back(info.id, info.version);
    if (!page.next) return listed;
    if (page.segments.empty()) throw std::runtime_error("an empty page that is not the last");
    cursor = *page.next;
  }
}

// Bytewise, as unsigned.
bool before(const std::pair<std::string, std::uint64_t>& a,
            const std::pair<std::string, std::uint64_t>& b) {
  const auto less = [](char x, char y) {
    return static_cast<unsigned char>(x) < static_cast<unsigned char>(y);
  };
  if (a.first != b.first)
    return std::lexicographical_compare(a.first.begin(), a.first.end(), b.first.begin(),
                                        b.first.end(), less);
  return a.second < b.second;
}

TEST_SUITE("list") {
  TEST_CASE("an empty store lists nothing") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    const ListPage page = must(client.list(""));
    CHECK(page.segments.empty());
    CHECK_FALSE(page.next);
  }

  TEST_CASE("segments come by id bytewise, then by version, whatever bytes the ids have") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Listed put;
    const std::vector<std::string> ids{"b",
                                       "a",
                                       "a/b",
                                       "a/",
                                       "B",
                                       std::string("\0", 1),
                                       std::string("a\0b", 3),
                                       std::string("a\0", 2),
                                       "\xff",
                                       "\x7f",
                                       "\x80",
                                       std::string(255, '\xff'),
                                       std::string(255, 'a'),
                                       std::string(24, 'a'),
                                       std::string(64, 'a'),
                                       "\n",
                                       " ",
                                       "ü"};
    for (const std::string& id : ids)
      for (const std::uint64_t version : {3ULL, 1ULL, 18446744073709551614ULL, 2ULL}) {
        must(client.put(id, payload(10, id, version), {.version = version}));
        put.emplace_back(id, version);
      }
    std::sort(put.begin(), put.end(), before);
    CHECK(list_all(client, "") == put);
    for (const std::size_t limit : {1UL, 2UL, 7UL, 71UL, 72UL, 73UL}) {
      CAPTURE(limit);
      CHECK(list_all(client, "", limit) == put);
    }
    for (const std::string& prefix : ids) {
      Listed wanted;
      for (const auto& item : put)
        if (item.first.starts_with(prefix)) wanted.push_back(item);
      CHECK(list_all(client, prefix) == wanted);
      CHECK(list_all(client, prefix, 3) == wanted);
    }
    CHECK(list_all(client, "nothing").empty());
    CHECK(list_all(client, std::string(300, 'a')).empty());
  }

  TEST_CASE("the last page says that it is the last, also when it is full") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (int i = 0; i < 10; ++i) must(client.put("a/" + std::to_string(i), payload(1, "", 1)));
    CHECK_FALSE(must(client.list("a/", {}, 10)).next);
    const ListPage first = must(client.list("a/", {}, 5));
    REQUIRE(first.next);
    CHECK(first.segments.size() == 5);
    const ListPage second = must(client.list("a/", *first.next, 5));
    CHECK(second.segments.size() == 5);
    CHECK_FALSE(second.next);
    CHECK(outcome(client.list("a/", {}, 0)) == "bad_argument");
  }

  TEST_CASE("a listing goes on behind a cursor whose segment has gone") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (int i = 0; i < 10; ++i) must(client.put("a/" + std::to_string(i), payload(1, "", 1)));
    const ListPage first = must(client.list("a/", {}, 4));
    REQUIRE(first.next);
    for (const SegmentInfo& info : first.segments) must(client.remove(info.id));
    CHECK(must(client.list("a/", *first.next, 100)).segments.size() == 6);
  }

  TEST_CASE("each segment is listed with what is known about it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto start = std::chrono::system_clock::now();
    const Ref plain = must(client.put("plain", payload(123, "plain", 1)));
    const Ref array = must(client.put("array", payload(800, "array", 5),
                                      {.version = 5,
                                       .evictable = true,
                                       .persistent = true,
                                       .type = array_of<double>({10, 10})}));
    Builder builder = must(client.create("built", 70000, {.evictable = true}));
    must(builder.seal());
    const auto end = std::chrono::system_clock::now();
    const ListPage page = must(client.list(""));
    REQUIRE(page.segments.size() == 3);
    const SegmentInfo& first = page.segments[0];
    CHECK(first.id == "array");
    CHECK(first.version == 5);
    CHECK(first.serial == array.serial);
    CHECK(first.size == 800);
    CHECK(first.type == array_of<double>({10, 10}));
    CHECK(first.evictable);
    CHECK(first.persistent);
    const SegmentInfo& second = page.segments[1];
    CHECK(second.id == "built");
    CHECK(second.size == 70000);
    CHECK(second.evictable);
    CHECK_FALSE(second.persistent);
    const SegmentInfo& third = page.segments[2];
    CHECK(third.id == "plain");
    CHECK(third.serial == plain.serial);
    CHECK_FALSE(third.type);
    CHECK_FALSE(third.evictable);
    CHECK_FALSE(third.persistent);
    for (const SegmentInfo& info : page.segments) {
      CHECK(info.sealed_at >= start);
      CHECK(info.sealed_at <= end);
    }
  }

  TEST_CASE("listing pins nothing and needs no daemon") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (int i = 0; i < 10; ++i) must(client.put("a/" + std::to_string(i), payload(1, "", 1)));
    must(client.list(""));
    CHECK(must(client.holders()).empty());
    daemon.stop();
    CHECK(must(client.list("")).segments.size() == 10);
    daemon.resume();
  }

  TEST_CASE("what stays because it is pinned is listed while the daemon looks for its pins") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(20, "a", 1), {.keep = 1}));
    const View pinned = must(client.get("a"));
    must(client.put("a", payload(20, "a", 2), {.keep = 1}));
    // Each of its releases makes the daemon look whether that was the last.
    ChildProcess reader([&](Moments& moments) {
      const Client own = daemon.connect();
      moments.reached();
      while (true) (void)own.get("a", {.version = 1});
    });
    reader.await();
    std::size_t missed = 0;
    for (int i = 0; i < 500'000; ++i)
      missed += must(client.list("a")).segments.size() != 2;
    CHECK(missed == 0);
  }

  TEST_CASE("what is there all the time is listed exactly once, whatever comes and goes meanwhile") {
    DaemonProcess daemon;
    // The noise lies between, before and behind the ids that stay.
    ChildProcess noise([&](Moments& moments) {
      Client client = daemon.connect();
      std::vector<std::string> ids;
      for (int i = 0; i < 100; ++i) ids.push_back("stay/" + std::to_string(i) + "/noise");
      ids.push_back("a");
      ids.push_back("z");
      moments.reached();
      for (std::uint64_t round = 1;; ++round) {
        for (const std::string& id : ids)
          must(client.put(id, payload(round % 2 == 0 ? 50 : 5000, id, round)));
        for (const std::string& id : ids) must(client.remove(id));
      }
    });
    Client client = daemon.connect();
    Listed stay;
    for (int i = 0; i < 100; ++i)
      for (const std::uint64_t version : {1U, 2U, 3U}) {
        const std::string id = "stay/" + std::to_string(i);
        must(client.put(id, payload(20, id, version)));
        stay.emplace_back(id, version);
      }
    std::sort(stay.begin(), stay.end(), before);
    noise.await();
    for (int round = 0; round < 200; ++round) {
      Listed found;
      for (const auto& item : list_all(client, "", round % 2 == 0 ? 1000 : 17))
        if (item.first.starts_with("stay/") && !item.first.ends_with("/noise"))
          found.push_back(item);
      REQUIRE(found == stay);
    }
    noise.kill();
  }

  TEST_CASE("what is listed has the size of its own id, never of its successor in the same place") {
    DaemonProcess daemon;
    const auto size_of = [](const std::string& id) { return id.size() * 10; };
    ChildProcess noise([&](Moments& moments) {
      Client client = daemon.connect();
      moments.reached();
      for (std::size_t round = 0;; ++round) {
        const std::string id(1 + round % 200, 'n');
        must(client.put(id, payload(size_of(id), id, 1)));
        must(client.remove(id));
      }
    });
    noise.await();
    const Client client = daemon.connect();
    for (int round = 0; round < 3000; ++round)
      for (const SegmentInfo& info : must(client.list("n")).segments) {
        REQUIRE(info.size == size_of(info.id));
        REQUIRE(info.id == std::string(info.id.size(), 'n'));
        REQUIRE(info.version == 1);
      }
    noise.kill();
  }
}

}  // namespace
}  // namespace forebay::test
