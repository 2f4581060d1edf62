// SPDX-License-Identifier: Apache-2.0
// wait: until so many of several segments are there.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
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

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;
using Indices = std::vector<std::size_t>;

constexpr seconds long_enough{20};
constexpr seconds slack{5};  // for "at once" and "within a second" on a loaded machine

Ref put(Client& client, const std::string& id, std::uint64_t version, std::size_t size = 100) {
  return must(client.put(id, payload(size, id, version), {.version = version}));
}

WaitItem item_of(const Ref& ref) {
  return {.id = ref.id, .version = ref.version, .serial = ref.serial};
}

// Which of so many ids have been put, and items that ask for them.
struct Many {
  explicit Many(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      ids.push_back("many/" + std::string(i % 150, 'x') + std::to_string(i));
    for (const std::string& id : ids) items.push_back({.id = id});
  }
  std::vector<std::string> ids;
  std::vector<WaitItem> items;
};

// A wait in a thread, which has reached the daemon when the constructor returns.
class Waiting {
 public:
  Waiting(const Client& client, const Client& observer, std::vector<WaitItem> items,
          std::size_t needed, Timeout timeout = long_enough)
      : items_(std::move(items)), thread_([this, &client, needed, timeout] {
          result_ = client.wait(items_, needed, timeout);
          done_ = true;
        }) {
    CHECK(eventually([&] { return Status(observer)["waiters"] > 0; }));
  }
  ~Waiting() {
    if (thread_.joinable()) thread_.join();
  }
  bool done() const { return done_; }
  Result<Indices> result() {
    thread_.join();
    return result_;
  }

 private:
  std::vector<WaitItem> items_;
  Result<Indices> result_ = Indices();
  std::atomic<bool> done_{false};
  std::thread thread_;
};

TEST_SUITE("wait for many") {
  TEST_CASE("what is there already is told at once, all of it, in order") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1);
    put(client, "b", 3);
    put(client, "b", 5);
    const Ref ref = put(client, "c", 1, 200'000);
    const std::vector<WaitItem> items{{.id = "none"},
                                      {.id = "a"},
                                      {.id = "b", .version = 3},
                                      {.id = "b", .version = 4},
                                      {.id = "b", .after = 4},
                                      {.id = "b", .after = 5},
                                      item_of(ref),
                                      {.id = "a", .version = 1}};
    const Indices there{1, 2, 4, 6, 7};
    const auto start = Clock::now();
    for (std::size_t needed = 0; needed <= there.size(); ++needed) {
      CAPTURE(needed);
      CHECK(must(client.wait(items, needed, long_enough)) == there);
    }
    CHECK(Clock::now() - start < slack);
    CHECK(must(client.holders()).empty());
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("a wait for nothing ends at once") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    CHECK(must(client.wait({}, 0, long_enough)).empty());
    const std::vector<WaitItem> items{{.id = "a"}, {.id = "b"}};
    const auto start = Clock::now();
    CHECK(must(client.wait(items, 0, long_enough)).empty());
    CHECK(Clock::now() - start < slack);
  }

  TEST_CASE("a wait ends with as many as are needed, and not before") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    put(client, "b", 1);
    Waiting wait(waiting, client, {{.id = "a"}, {.id = "b"}, {.id = "c"}, {.id = "d"}, {.id = "e"}},
                 3);
    put(client, "d", 1, 100'000);
    Builder open = must(client.create("e", 10));
    put(client, "other", 1);
    must(open.abort());
    CHECK(Status(client)["waiters"] > 0);
    CHECK_FALSE(wait.done());
    put(client, "a", 1);
    CHECK(must(wait.result()) == Indices{0, 1, 3});
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("a wait is ended by another process's seal, and not by its create") {
    DaemonProcess daemon;
    ChildProcess writer([&](Moments& moments) {
      Client own = daemon.connect();
      moments.reached();
      moments.wait();
      Builder builder = must(own.create("a", 100'000));
      must(own.put("b", payload(10, "b", 1)));
      moments.reached();
      moments.wait();
      must(builder.seal());
    });
    writer.await();
    const Client client = daemon.connect();
    const Client observer = daemon.connect();
    Waiting wait(client, observer, {{.id = "a"}, {.id = "b"}}, 2);
    writer.release();
    writer.await();
    CHECK(Status(observer)["waiters"] > 0);
    CHECK_FALSE(wait.done());
    writer.release();
    CHECK(must(wait.result()) == Indices{0, 1});
    CHECK(writer.join() == 0);
  }

  TEST_CASE("exact versions, versions after one, and the newest are each waited for as such") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    put(client, "a", 5);
    Waiting exact(waiting, client, {{.id = "a", .version = 7}}, 1);
    Waiting after(waiting, client, {{.id = "a", .after = 5}}, 1);
    Waiting fresh(waiting, client, {{.id = "b"}}, 1);
    put(client, "a", 3);
    put(client, "c", 7);
    CHECK(status_becomes(client, "waiters", 3) == 3);
    put(client, "a", 6);
    CHECK(must(after.result()) == Indices{0});
    CHECK_FALSE(exact.done());
    put(client, "a", 7);
    CHECK(must(exact.result()) == Indices{0});
    put(client, "b", 18446744073709551614ULL);
    CHECK(must(fresh.result()) == Indices{0});
  }

  TEST_CASE("the same item may be asked for twice, and counts twice") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    Waiting wait(waiting, client, {{.id = "a"}, {.id = "b"}, {.id = "a", .version = 1}}, 2);
    put(client, "a", 1);
    CHECK(must(wait.result()) == Indices{0, 2});
  }

  TEST_CASE("at the timeout those are told that are there by then, and never earlier") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1);
    const std::vector<WaitItem> items{{.id = "none"}, {.id = "a"}, {.id = "late"}};
    for (const milliseconds timeout : {milliseconds(0), milliseconds(1), milliseconds(200)}) {
      const auto start = Clock::now();
      const auto there = client.wait(items, 3, timeout);
      const auto took = Clock::now() - start;
      CHECK(must(there) == Indices{1});
      CHECK(took >= timeout);
      CHECK(took < timeout + slack);
    }
    const Client waiting = daemon.connect();
    Waiting wait(waiting, client, items, 3, seconds(2));
    put(client, "late", 1);
    CHECK(must(wait.result()) == Indices{1, 2});
    CHECK(must(client.wait(std::vector<WaitItem>{{.id = "none"}}, 1, milliseconds(10))).empty());
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("an endless timeout is one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    Waiting wait(waiting, client, {{.id = "a"}}, 1, Timeout::max());
    put(client, "a", 1);
    CHECK(must(wait.result()) == Indices{0});
  }

  TEST_CASE("a wait for a removed ref is an error that names it, also beside what is there") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref stale = put(client, "a", 1);
    must(client.remove(stale));
    const Ref there = put(client, "b", 1);
    const auto start = Clock::now();
    const auto check = [&](const std::vector<WaitItem>& items, std::size_t needed) {
      const auto refused = client.wait(items, needed, long_enough);
      CHECK(outcome(refused) == "stale_ref");
      CHECK(why(refused).find("'a' version 1") != std::string::npos);
    };
    check({item_of(stale)}, 1);
    check({item_of(there), item_of(stale)}, 2);
    check({item_of(stale), {.id = "none"}}, 1);
    // Put again, it is another segment: the ref stays stale.
    put(client, "a", 1);
    check({item_of(stale)}, 1);
    check({item_of(there), {.id = "a"}, item_of(stale)}, 3);
    CHECK(Clock::now() - start < slack);
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("what was there and was removed again does not stand for what is needed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1);
    must(client.remove("a"));
    CHECK(must(client.wait(std::vector<WaitItem>{{.id = "a"}}, 1, milliseconds(20))).empty());
    const Client waiting = daemon.connect();
    Waiting wait(waiting, client, {{.id = "a"}}, 1);
    put(client, "a", 2);
    CHECK(must(wait.result()) == Indices{0});
  }

  TEST_CASE("five thousand are waited for in one call, and none is missed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Many many(5000);
    const Client waiting = daemon.connect();
    Waiting all(waiting, client, many.items, 5000);
    Waiting some(waiting, client, many.items, 1234);
    const auto bytes = payload(20, "", 1);
    // From the last to the first, so that no order of the items helps.
    for (std::size_t i = 5000; i > 5000 - 1233; --i)
      must(client.put(many.ids[i - 1], bytes, {.version = 1}));
    CHECK_FALSE(some.done());
    must(client.put(many.ids[5000 - 1234], bytes, {.version = 1}));
    const Indices first = must(some.result());
    REQUIRE(first.size() >= 1234);
    CHECK(first.back() == 4999);
    for (std::size_t i = 5000 - 1234; i > 1; --i)
      must(client.put(many.ids[i - 1], bytes, {.version = 1}));
    CHECK_FALSE(all.done());
    must(client.put(many.ids[0], bytes, {.version = 1}));
    const Indices whole = must(all.result());
    REQUIRE(whole.size() == 5000);
    for (std::size_t i = 0; i < 5000; ++i) REQUIRE(whole[i] == i);
    CHECK(Status(client)["waiters"] == 0);
    // And now that they are there, at once.
    CHECK(must(client.wait(many.items, 5000, Timeout(0))) == whole);
  }

  TEST_CASE("of five thousand those are told that are there at the timeout") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Many many(5000);
    Indices wanted;
    for (std::size_t i = 0; i < many.ids.size(); i += 7) {
      put(client, many.ids[i], 1, 10);
      wanted.push_back(i);
    }
    CHECK(must(client.wait(many.items, 0, long_enough)) == wanted);
    CHECK(must(client.wait(many.items, wanted.size(), long_enough)) == wanted);
    CHECK(must(client.wait(many.items, 5000, milliseconds(100))) == wanted);
    CHECK(Status(client)["waiters"] == 0);
    // A stale one in the last of the frames is found, too.
    const Ref stale = put(client, "stale", 1);
    must(client.remove("stale"));
    auto items = many.items;
    items.push_back(item_of(stale));
    CHECK(outcome(client.wait(items, 5000, long_enough)) == "stale_ref");
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("as many as one call may ask for are waited for, and one more is refused") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Many many(wait_items_max + 1);
    CHECK(outcome(client.wait(many.items, 1, long_enough)) == "bad_argument");
    many.items.pop_back();
    const Client waiting = daemon.connect();
    Waiting wait(waiting, client, many.items, 2);
    put(client, many.ids[wait_items_max - 1], 1);
    put(client, many.ids[wait_items_max / 2], 1);
    CHECK(must(wait.result()) == Indices{wait_items_max / 2, wait_items_max - 1});
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("the wait of a killed process ends with it, however many it waits for") {
    DaemonProcess daemon;
    const Many many(5000);
    ChildProcess waiting([&](Moments&) {
      const Client own = daemon.connect();
      std::thread other([&] { (void)own.get("never", {.timeout = std::chrono::hours(1)}); });
      (void)own.wait(many.items, 3, std::chrono::hours(1));
    });
    const Client observer = daemon.connect();
    CHECK(eventually([&] { return Status(observer)["waiters"] >= 2; }));
    waiting.kill();
    CHECK(status_becomes(observer, "waiters", 0, slack) == 0);
  }

  TEST_CASE("a thread that waits holds up no other thread of its client") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client observer = daemon.connect();
    Waiting wait(client, observer, {{.id = "late"}, {.id = "later"}}, 2);
    const auto start = Clock::now();
    for (std::uint64_t i = 1; i <= 50; ++i) {
      put(client, "quick", i, i % 2 == 0 ? 100 : 100'000);
      must(client.wait(std::vector<WaitItem>{{.id = "quick", .version = i}}, 1, long_enough));
      must(client.remove("quick"));
    }
    CHECK(Clock::now() - start < long_enough / 2);
    CHECK_FALSE(wait.done());
    put(client, "late", 1);
    put(client, "later", 1);
    CHECK(must(wait.result()) == Indices{0, 1});
  }

  TEST_CASE("one seal ends the waits of many threads and processes") {
    DaemonProcess daemon;
    const auto wait_for_it = [&](Moments&) {
      const Client own = daemon.connect();
      std::atomic<int> right{0};
      std::vector<std::thread> threads;
      for (int i = 0; i < 8; ++i)
        threads.emplace_back([&] {
          const std::vector<WaitItem> items{{.id = "a"}};
          const auto there = own.wait(items, 1, long_enough);
          if (there && *there == Indices{0}) ++right;
        });
      for (std::thread& thread : threads) thread.join();
      require(right == 8, "not all threads were told");
    };
    ChildProcess one(wait_for_it);
    ChildProcess two(wait_for_it);
    Client client = daemon.connect();
    CHECK(status_becomes(client, "waiters", 16) == 16);
    put(client, "a", 1);
    CHECK(one.join() == 0);
    CHECK(two.join() == 0);
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("closing the client ends its other threads' waits") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client observer = daemon.connect();
    Waiting wait(client, observer, {{.id = "never"}}, 1);
    const auto start = Clock::now();
    client.close();
    CHECK(outcome(wait.result()) == "bad_state");
    CHECK(Clock::now() - start < slack);
    CHECK(outcome(client.wait(std::vector<WaitItem>{{.id = "a"}}, 1, long_enough)) == "bad_state");
  }

  TEST_CASE("a wait goes on over kill -9 of the daemon, and ends by a seal or by its own timeout") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    const Many many(5000);
    put(client, many.ids[17], 1);
    const auto start = Clock::now();
    Waiting few(waiting, client, {{.id = "late"}, {.id = many.ids[17]}}, 2);
    Waiting all(waiting, client, many.items, 2);
    Waiting late(waiting, client, {{.id = "never"}, {.id = many.ids[17]}}, 2, seconds(3));
    for (int round = 0; round < 2; ++round) {
      daemon.kill();
      daemon.start();
      CHECK(eventually([&] { return Status(client)["waiters"] > 0; }));
    }
    put(client, "late", 1);
    CHECK(must(few.result()) == Indices{0, 1});
    put(client, many.ids[4711], 1);
    CHECK(must(all.result()) == Indices{17, 4711});
    CHECK(must(late.result()) == Indices{1});
    CHECK(Clock::now() - start >= seconds(3));
    CHECK(Clock::now() - start < seconds(3) + slack);
    CHECK(status_becomes(client, "waiters", 0, slack) == 0);
  }

  TEST_CASE("what was sealed while no daemon answered a wait is not missed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    for (std::uint64_t round = 1; round <= 5; ++round) {
      CAPTURE(round);
      Builder builder = must(client.create("a", 100'000, {.version = round}));
      Waiting wait(waiting, client, {{.id = "a", .version = round}, {.id = "none"}}, 1);
      daemon.kill();
      std::thread sealer([&] { CHECK(outcome(builder.seal()) == "ok"); });
      daemon.start();
      CHECK(must(wait.result()) == Indices{0});
      sealer.join();
    }
  }

  TEST_CASE("a reader that waits for two writers misses nothing while the daemon is killed over and over") {
    DaemonProcess daemon;
    constexpr std::uint64_t last = 150;
    const auto write = [&](const std::string& id) {
      return [&daemon, id](Moments& moments) {
        Client own = daemon.connect();
        moments.reached();
        for (std::uint64_t version = 1; version <= last; ++version)
          put(own, id, version, version % 5 == 0 ? 70'000 : 10);
      };
    };
    ChildProcess reader([&](Moments& moments) {
      const Client own = daemon.connect();
      moments.reached();
      for (std::uint64_t version = 1; version <= last; ++version) {
        const std::vector<WaitItem> items{{.id = "one", .version = version},
                                          {.id = "none"},
                                          {.id = "two", .after = version - 1}};
        const Indices there = must(own.wait(items, 2, long_enough));
        require(there == Indices{0, 2}, "something else is there");
      }
    });
    reader.await();
    ChildProcess one(write("one"));
    ChildProcess two(write("two"));
    one.await();
    two.await();
    const Client client = daemon.connect();
    const auto newest = [&] {
      const auto version_of = [&](const char* id) {
        const View view = client.get_resident(id);
        return view ? view.version() : 0;
      };
      return std::pair(version_of("one"), version_of("two"));
    };
    for (int restarts = 0; restarts < 200 && !must(client.contains("two", last)); ++restarts) {
      daemon.kill();
      const auto before = newest();
      daemon.start();
      // On a slow machine they would otherwise reach no daemon before their deadlines.
      (void)eventually([&] { return newest() != before; }, std::chrono::seconds(5));
    }
    CHECK(one.join() == 0);
    CHECK(two.join() == 0);
    CHECK(reader.join() == 0);
    CHECK(status_becomes(client, "waiters", 0, slack) == 0);
  }

  TEST_CASE("what can never be is refused, and names what is wrong") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1);
    const std::vector<WaitItem> one{{.id = "a"}};
    CHECK(outcome(client.wait(one, 2, long_enough)) == "bad_argument");
    CHECK(outcome(client.wait({}, 1, long_enough)) == "bad_argument");
    CHECK(outcome(client.wait(one, static_cast<std::size_t>(-1), long_enough)) == "bad_argument");
    CHECK(outcome(client.wait(one, 1, Timeout(-1))) == "bad_argument");
    CHECK(outcome(client.wait(one, 1, Timeout::min())) == "bad_argument");
    CHECK(outcome(client.wait({}, 0, milliseconds(-1))) == "bad_argument");
    const auto start = Clock::now();
    for (const std::string& id : {std::string(), std::string(256, 'x'), std::string(300'000, 'x')}) {
      CAPTURE(id.size());
      CHECK(outcome(client.wait(std::vector<WaitItem>{{.id = id}}, 1, long_enough)) == "bad_id");
      CHECK(outcome(client.wait(std::vector<WaitItem>{{.id = "a"}, {.id = id}}, 1, long_enough)) ==
            "bad_id");
      CHECK(outcome(client.wait(std::vector<WaitItem>{{.id = "none"}, {.id = id}}, 1,
                                long_enough)) == "bad_id");
    }
    CHECK(Clock::now() - start < slack);
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("random items, random puts and removals: every wait ends with what it needs") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client waiting = daemon.connect();
    constexpr std::uint64_t ids = 40;
    const auto id = [](std::uint64_t i) { return "r/" + std::to_string(i % ids); };
    std::atomic<bool> enough{false};
    std::thread putter([&] {
      for (std::uint64_t n = 1; !enough; ++n) {
        const std::string name = id(mixed(n));
        (void)client.put(name, payload(mixed(n) % 3 == 0 ? 70'000 : 10, name, n), {.keep = 2});
        if (n % 11 == 0) (void)client.remove(id(mixed(n + 5)));
      }
    });
    std::uint64_t seed = 1;
    for (int round = 0; round < 3000; ++round) {
      std::vector<std::string> names;
      std::vector<WaitItem> items;
      const std::uint64_t count = 1 + mixed(++seed) % 30;
      for (std::uint64_t i = 0; i < count; ++i) names.push_back(id(mixed(++seed)));
      for (const std::string& name : names) items.push_back({.id = name});
      const std::size_t needed = static_cast<std::size_t>(mixed(++seed) % (count + 1));
      const auto there = waiting.wait(items, needed, long_enough);
      REQUIRE(outcome(there) == "ok");
      REQUIRE(there->size() >= needed);
      for (std::size_t i = 0; i < there->size(); ++i) {
        REQUIRE((*there)[i] < count);
        REQUIRE((i == 0 || (*there)[i - 1] < (*there)[i]));
      }
    }
    enough = true;
    putter.join();
    CHECK(status_becomes(client, "waiters", 0, slack) == 0);
  }
}

}  // namespace
}  // namespace forebay::test
