// SPDX-License-Identifier: Apache-2.0
// put_many and get_many: one result for each item, in order.
#include <doctest/doctest.h>

#include <chrono>
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

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

// Ids and bytes that stay alive while a batch is put.
struct Batch {
  std::vector<std::string> ids;
  std::vector<std::vector<std::byte>> bytes;
  void add(const std::string& id, std::size_t size) {
    ids.push_back(id);
    bytes.push_back(payload(size, id, 1));
  }
  std::vector<PutItem> items() const {
    std::vector<PutItem> all;
    for (std::size_t i = 0; i < ids.size(); ++i) all.push_back({ids[i], bytes[i]});
    return all;
  }
  std::vector<std::string_view> names() const { return {ids.begin(), ids.end()}; }
};

TEST_SUITE("batch") {
  TEST_CASE("a batch puts and gets every item, in order, whatever their sizes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Batch batch;
    const std::vector<std::size_t> sizes{0, 1, 100, 65536, 65537, 64 * 1024, 3, 400000, 60000};
    for (std::size_t i = 0; i < 200; ++i)
      batch.add("b/" + std::to_string(i), sizes[i % sizes.size()]);
    const auto refs = must(client.put_many(batch.items()));
    REQUIRE(refs.size() == batch.ids.size());
    for (std::size_t i = 0; i < refs.size(); ++i) {
      REQUIRE(outcome(refs[i]) == "ok");
      CHECK(refs[i]->id == batch.ids[i]);
      CHECK(refs[i]->version == 1);
    }
    const auto views = must(client.get_many(batch.names()));
    REQUIRE(views.size() == batch.ids.size());
    for (std::size_t i = 0; i < views.size(); ++i) {
      REQUIRE(outcome(views[i]) == "ok");
      CHECK(views[i]->ref() == *refs[i]);
      CHECK(wrong_bytes(views[i]->bytes(), batch.bytes[i].size(), batch.ids[i], 1) == "");
    }
  }

  TEST_CASE("an empty batch is fine") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK(must(client.put_many({})).empty());
    CHECK(must(client.get_many({})).empty());
  }

  TEST_CASE("the failure of an item does not touch the others") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("taken", payload(10, "taken", 4), {.version = 4}));
    Batch batch;
    batch.add("one", 100);
    batch.add("", 100);
    batch.add("two", 70000);
    batch.add(std::string(256, 'x'), 100);
    batch.add("taken", 100);
    batch.add("huge", 17 * 1024 * 1024);
    batch.add(std::string(300000, 'y'), 100);  // an id larger than a message
    batch.add("three", 0);
    batch.add("", 100000);
    batch.add("four", 65536);
    const auto refs = must(client.put_many(batch.items(), {.version = 4}));
    REQUIRE(refs.size() == batch.ids.size());
    const std::vector<std::string> wanted{"ok",        "bad_id", "ok", "bad_id", "exists",
                                          "too_large", "bad_id", "ok", "bad_id", "ok"};
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      CAPTURE(i);
      CHECK(outcome(refs[i]) == wanted[i]);
    }
    const auto views = must(client.get_many(batch.names()));
    const std::vector<std::string> found{"ok",        "bad_id", "ok", "bad_id", "ok",
                                         "not_found", "bad_id", "ok", "bad_id", "ok"};
    for (std::size_t i = 0; i < found.size(); ++i) {
      CAPTURE(i);
      CHECK(outcome(views[i]) == found[i]);
    }
    CHECK(wrong_bytes(views[4]->bytes(), 10, "taken", 4) == "");
  }

  TEST_CASE("a batch of nothing but failures ends") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Batch batch;
    for (int i = 0; i < 5; ++i) batch.add("", 10);
    batch.add(std::string(500000, 'y'), 10);
    for (const auto& ref : must(client.put_many(batch.items()))) CHECK(outcome(ref) == "bad_id");
    for (const auto& view : must(client.get_many(batch.names()))) CHECK(outcome(view) == "bad_id");
  }

  TEST_CASE("a large batch of which every item fails says so for each of them") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    // The whole store, pinned: not a byte is left.
    Builder all = must(client.create("all", 16 * 1024 * 1024));
    Batch batch;
    for (int i = 0; i < 3000; ++i) batch.add("failing/item/number/" + std::to_string(i), 1);
    const auto refs = must(client.put_many(batch.items()));
    REQUIRE(refs.size() == 3000);
    for (const auto& ref : refs) REQUIRE(outcome(ref) == "store_full");
    CHECK(why(refs[0]).find("failing/item/number/0'") != std::string::npos);
  }

  TEST_CASE("items of the same id become versions in the order of the batch") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Batch batch;
    for (const std::size_t size : {10UL, 70000UL, 20UL, 30UL, 80000UL}) batch.add("same", size);
    const auto refs = must(client.put_many(batch.items()));
    for (std::size_t i = 0; i < refs.size(); ++i) {
      REQUIRE(outcome(refs[i]) == "ok");
      CHECK(refs[i]->version == i + 1);
      CHECK(must(client.get(*refs[i])).bytes().size() == batch.bytes[i].size());
    }
  }

  TEST_CASE("options hold for every item of a batch, small or large") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Batch batch;
    for (int i = 0; i < 4; ++i) batch.add("e/" + std::to_string(i), 800);
    must(client.put_many(batch.items(), {.evictable = true, .type = array_of<double>({100})}));
    for (const std::string& id : batch.ids) {
      const SegmentStat stat = must(client.stat(id));
      CHECK(stat.info.evictable);
      CHECK(stat.info.type == array_of<double>({100}));
      CHECK(must(must(client.get(id)).type()) == array_of<double>({100}));
    }
    Batch large;
    for (int i = 0; i < 4; ++i) large.add("l/" + std::to_string(i), 80000);
    must(client.put_many(large.items(), {.persistent = true, .type = array_of<double>({10000})}));
    for (const std::string& id : large.ids) {
      const SegmentStat stat = must(client.stat(id));
      CHECK(stat.info.persistent);
      CHECK(stat.info.type == array_of<double>({10000}));
    }
    // A type that fits some of the items fails for the others.
    Batch mixed;
    mixed.add("m/0", 800);
    mixed.add("m/1", 801);
    const auto refs = must(client.put_many(mixed.items(), {.type = array_of<double>({100})}));
    CHECK(outcome(refs[0]) == "ok");
    CHECK(outcome(refs[1]) == "bad_argument");
  }

  TEST_CASE("a ref from a batch says of the type what the record says") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Batch batch;
    batch.add("a", 80);
    const auto refs = must(client.put_many(batch.items(), {.type = array_of<double>({10})}));
    CHECK(refs[0]->type == must(client.get("a")).ref().type);
    CHECK(refs[0]->type == array_of<double>({10}));
  }

  TEST_CASE("a batch may be put again with exist_ok") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Batch batch;
    for (const std::size_t size : {10UL, 70000UL, 20UL}) batch.add("x" + std::to_string(size), size);
    const auto first = must(client.put_many(batch.items(), {.version = 1, .exist_ok = true}));
    const auto second = must(client.put_many(batch.items(), {.version = 1, .exist_ok = true}));
    for (std::size_t i = 0; i < batch.ids.size(); ++i) {
      REQUIRE(outcome(second[i]) == "ok");
      CHECK(*first[i] == *second[i]);
    }
    batch.bytes[1][500] ^= std::byte{1};
    batch.bytes[2][5] ^= std::byte{1};
    const auto third = must(client.put_many(batch.items(), {.version = 1, .exist_ok = true}));
    CHECK(outcome(third[0]) == "ok");
    CHECK(outcome(third[1]) == "exists");
    CHECK(outcome(third[2]) == "exists");
  }

  TEST_CASE("get_many waits for all of them together, not for one after the other") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("there", payload(10, "there", 1)));
    const std::vector<std::string> ids{"there", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};
    const std::vector<std::string_view> names(ids.begin(), ids.end());
    const auto start = Clock::now();
    const auto views = must(client.get_many(names, {.timeout = milliseconds(1000)}));
    const auto took = Clock::now() - start;
    CHECK(outcome(views[0]) == "ok");
    for (std::size_t i = 1; i < views.size(); ++i) CHECK(outcome(views[i]) == "timed_out");
    CHECK(took >= milliseconds(1000));
    CHECK(took < milliseconds(6000));  // one after the other: 10 s
  }

  TEST_CASE("put_many waits for room for all of them together, not for one after the other") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put("big", payload(15 * 1024 * 1024, "big", 1)));
    const View pinned = must(client.get("big"));
    Batch batch;
    for (int i = 0; i < 8; ++i) batch.add("x" + std::to_string(i), 2 * 1024 * 1024);
    const auto start = Clock::now();
    const auto refs = must(client.put_many(batch.items(), {.timeout = milliseconds(1000)}));
    const auto took = Clock::now() - start;
    for (const auto& ref : refs) CHECK(outcome(ref) == "store_full");
    CHECK(took >= milliseconds(1000));
    CHECK(took < milliseconds(5000));  // one after the other: 8 s
  }

  TEST_CASE("get_many gets what another process puts meanwhile") {
    DaemonProcess daemon;
    ChildProcess writer([&](Moments& moments) {
      Client client = daemon.connect();
      moments.reached();
      moments.wait();
      // In the other order than they are waited for.
      for (const std::string id : {"c", "b", "a"}) must(client.put(id, payload(100, id, 1)));
    });
    writer.await();
    const Client client = daemon.connect();
    const std::vector<std::string_view> names{"a", "b", "c"};
    writer.release();
    const auto views = must(client.get_many(names, {.timeout = seconds(20)}));
    for (std::size_t i = 0; i < 3; ++i) {
      REQUIRE(outcome(views[i]) == "ok");
      CHECK(wrong_bytes(views[i]->bytes(), 100, names[i], 1) == "");
    }
    CHECK(writer.join() == 0);
  }
}

}  // namespace
}  // namespace forebay::test
