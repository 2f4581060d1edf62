// SPDX-License-Identifier: Apache-2.0
// One client, many threads: every call from everywhere, and each get checked by its content.
#include <doctest/doctest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "tests/support/daemon_in_thread.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/random.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr std::size_t mebibytes = 1024 * 1024;
constexpr seconds slack{5};

// A segment says in its first bytes with which number it was made; id and number make the rest.
constexpr std::size_t number_bytes = sizeof(std::uint64_t);

void fill_numbered(std::span<std::byte> bytes, const std::string& id, std::uint64_t number) {
  std::memcpy(bytes.data(), &number, number_bytes);
  fill(bytes.subspan(number_bytes), id, number);
}
std::vector<std::byte> numbered(std::size_t size, const std::string& id, std::uint64_t number) {
  std::vector<std::byte> bytes(size);
  fill_numbered(bytes, id, number);
  return bytes;
}
std::string wrong_numbered(std::span<const std::byte> bytes, const std::string& id) {
  if (bytes.size() < number_bytes) return "'" + id + "' is too short";
  std::uint64_t number = 0;
  std::memcpy(&number, bytes.data(), number_bytes);
  return wrong_bytes(bytes.subspan(number_bytes), bytes.size() - number_bytes, id, number);
}

// What went wrong in any thread; the first few are enough.
class Complaints {
 public:
  void add(const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (texts_.size() < 5) texts_.push_back(text);
  }
  std::string text() {
    const std::lock_guard lock(mutex_);
    std::string all;
    for (const std::string& text : texts_) all += text + "\n";
    return all;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> texts_;
};

std::string id_of(std::uint32_t i) { return "t/" + std::to_string(i); }

// One thread's part in the crowd.
class Worker {
 public:
  Worker(Client& client, Random random, std::uint64_t first_number, Complaints& complaints)
      : client_(client), random_(random), number_(first_number), complaints_(complaints) {}

  void act() {
    const std::string id = id_of(random_.below(8));
    switch (random_.below(16)) {
      case 0:
      case 1:
        expect("put", outcome(client_.put(id, numbered(small(), id, ++number_))), {"store_full"});
        break;
      case 2:
        expect("large put", outcome(client_.put(id, numbered(large(), id, ++number_))),
               {"store_full"});
        break;
      case 3:
        expect("put by filling", outcome(client_.put(id, large(),
                                                     [&](std::span<std::byte> bytes) {
                                                       fill_numbered(bytes, id, ++number_);
                                                       return true;
                                                     })),
               {"store_full"});
        break;
      case 4:
        build(id);
        break;
      case 5:
        expect("remove", outcome(client_.remove(id)), {"not_found"});
        break;
      case 6: {
        const auto page = client_.list("t/", {}, 50);
        expect("list", outcome(page), {});
        if (page)
          for (const SegmentInfo& info : page->segments)
            if (!info.id.starts_with("t/")) complaints_.add("list shows '" + info.id + "'");
        break;
      }
      case 7:
        expect("stat", outcome(client_.stat(id)), {"not_found"});
        break;
      case 8:
        expect("status", outcome(client_.status()), {});
        break;
      case 9:
        expect("a wait", outcome(client_.get("never", {.timeout = milliseconds(1)})),
               {"timed_out"});
        break;
      case 10:
        many(id);
        break;
      case 11:
        expect("contains", outcome(client_.contains(id)), {});
        break;
      default:
        look(id);
    }
  }

 private:
  std::size_t small() { return number_bytes + random_.below(3000); }
  std::size_t large() { return 66000 + random_.below(200000); }

  void expect(const char* what, const std::string& ended,
              std::initializer_list<const char*> besides) {
    if (ended == "ok") return;
    for (const char* allowed : besides)
      if (ended == allowed) return;
    complaints_.add(std::string(what) + ": " + ended);
  }

  void build(const std::string& id) {
    auto builder = client_.create(id, large());
    expect("create", outcome(builder), {"store_full"});
    if (!builder) return;
    fill_numbered(builder->bytes(), id, ++number_);
    switch (random_.below(4)) {
      case 0:
        expect("abort", outcome(builder->abort()), {});
        break;
      case 1:
        break;  // as it goes, it aborts
      case 2: {
        const auto view = builder->seal_and_get();
        expect("seal_and_get", outcome(view), {});
        if (view) check(*view, id);
        break;
      }
      default:
        expect("seal", outcome(builder->seal()), {});
    }
  }

  void look(const std::string& id) {
    auto view = client_.get(id);
    expect("get", outcome(view), {"not_found"});
    if (!view) return;
    check(*view, id);
    const Ref ref = view->ref();
    // One is held for a while, and given up in the place of the next.
    held_ = std::move(*view);
    held_id_ = id;
    expect("get by ref", outcome(client_.get(ref)), {"stale_ref"});
    check(held_, held_id_);
  }

  void many(const std::string& id) {
    const auto one = numbered(small(), id, ++number_);
    const auto two = numbered(large(), "t/0", ++number_);
    const std::vector<PutItem> items{{id, one}, {"t/0", two}};
    const auto put = client_.put_many(items);
    expect("put_many", outcome(put), {});
    if (put)
      for (const auto& item : *put) expect("put_many's item", outcome(item), {"store_full"});
    const std::vector<std::string_view> ids{id, "t/0", "never"};
    const auto got = client_.get_many(ids);
    expect("get_many", outcome(got), {});
    if (!got) return;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      expect("get_many's item", outcome(got->at(i)), {"not_found"});
      if (got->at(i)) check(*got->at(i), std::string(ids[i]));
    }
  }

  void check(const View& view, const std::string& id) {
    const std::string wrong = wrong_numbered(view.bytes(), id);
    if (!wrong.empty()) complaints_.add(wrong);
  }

  Client& client_;
  Random random_;
  std::uint64_t number_;
  Complaints& complaints_;
  View held_;
  std::string held_id_;
};

// Whether a thread of this process sleeps in a system call.
bool sleeps(pid_t thread) {
  std::ifstream stat("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string text;
  std::getline(stat, text);
  const std::size_t name_end = text.rfind(')');
  return name_end != std::string::npos && text.substr(name_end + 2, 1) == "S";
}

TEST_SUITE("client threads") {
  TEST_CASE("every call from many threads at once ends well, and every get has the right bytes") {
    DaemonInThread daemon;
    Client client = daemon.connect();
    Random random("client threads");
    Complaints complaints;
    constexpr int crowd = 6;
    std::vector<std::thread> threads;
    std::atomic<std::uint64_t> acts{0};
    const auto end = Clock::now() + milliseconds(1200);
    for (int i = 0; i < crowd; ++i)
      threads.emplace_back(
          [&, worker = Worker(client, Random("worker", random.seed() + 1 + std::uint64_t(i)),
                              std::uint64_t(i) << 32U, complaints)]() mutable {
            while (Clock::now() < end) {
              worker.act();
              acts.fetch_add(1);
            }
          });
    for (std::thread& thread : threads) thread.join();
    threads.clear();  // and the views that they held
    CHECK(complaints.text() == "");
    CHECK(acts.load() > 100);
    CHECK(status_becomes(client, "removing", 0) == 0);
    const Status status(client);
    CHECK(status["creating"] == 0);
    CHECK(status["waiters"] == 0);
    CHECK(must(client.holders()).empty());
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("the versions of an id that many threads put are numbered without a gap") {
    DaemonInThread daemon;
    Client client = daemon.connect();
    constexpr std::uint64_t each = 60;
    constexpr std::uint64_t crowd = 4;
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < crowd; ++t)
      threads.emplace_back([&, t] {
        for (std::uint64_t i = 0; i < each; ++i)
          (void)client.put("log", numbered(i % 10 == 0 ? 70000 : 100, "log", t * each + i));
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(must(client.get("log")).version() == crowd * each);
    std::vector<bool> seen(crowd * each);
    for (std::uint64_t version = 1; version <= crowd * each; ++version) {
      const View view = must(client.get("log", {.version = version}));
      CHECK(wrong_numbered(view.bytes(), "log") == "");
      std::uint64_t number = 0;
      std::memcpy(&number, view.bytes().data(), number_bytes);
      REQUIRE(number < seen.size());
      CHECK_FALSE(seen[number]);
      seen[number] = true;
    }
  }

  TEST_CASE("what one thread waits for another puts, and every waiter wakes") {
    DaemonInThread daemon;
    Client client = daemon.connect();
    std::vector<std::thread> waiters;
    std::array<std::string, 6> ended;
    for (std::size_t i = 0; i < ended.size(); ++i)
      waiters.emplace_back([&, i] {
        const auto view = client.get("late", {.after = i / 3, .timeout = seconds(30)});
        ended[i] = view ? wrong_numbered(view->bytes(), "late") : outcome(view);
      });
    CHECK(status_becomes(client, "waiters", 6) == 6);
    must(client.put("late", numbered(100, "late", 1)));
    CHECK(status_becomes(client, "waiters", 3) == 3);
    must(client.put("late", numbered(100000, "late", 2)));
    for (std::thread& waiter : waiters) waiter.join();
    for (const std::string& text : ended) CHECK(text == "");
  }

  TEST_CASE("a long wait of one thread holds up no other") {
    DaemonInThread daemon;
    Client client = daemon.connect();
    std::string got;
    std::string made;
    must(client.put("large", payload(40 * mebibytes, "large", 1)));
    View pinned = must(client.get("large"));
    must(client.remove("large"));
    std::thread for_segment([&] { got = outcome(client.get("never", {.timeout = seconds(60)})); });
    std::thread for_room(
        [&] { made = outcome(client.create("room", 40 * mebibytes, {.timeout = seconds(60)})); });
    CHECK(status_becomes(client, "waiters", 1) == 1);
    CHECK(status_becomes(client, "parked_creates", 1) == 1);
    const auto start = Clock::now();
    for (int i = 0; i < 100; ++i) {
      must(client.put("a", numbered(100, "a", 1)));
      must(client.put("b", numbered(70000, "b", 1)));
      CHECK(wrong_numbered(must(client.get("b")).bytes(), "b") == "");
      must(client.remove("b"));
      must(client.stat("a"));
      CHECK(outcome(client.get("none", {.timeout = Timeout(1)})) == "timed_out");
    }
    CHECK(Clock::now() - start < seconds(20));
    CHECK(Status(client)["waiters"] == 1);
    CHECK(Status(client)["parked_creates"] == 1);
    pinned.release();
    for_room.join();
    CHECK(made == "ok");
    must(client.put("never", numbered(100, "never", 1)));
    for_segment.join();
    CHECK(got == "ok");
  }

  TEST_CASE("a thread that gives up waiting leaves the reading to the others") {
    DaemonProcess daemon({.capacity = "32MiB"});
    const Client client = daemon.connect();
    daemon.stop();
    // The impatient one sends first, so it is the one who reads.
    std::atomic<pid_t> reader{0};
    std::thread impatient([&] {
      reader = ::gettid();
      (void)client.get("none", {.timeout = milliseconds(300)});
    });
    CHECK(eventually([&] { return reader != 0 && sleeps(reader); }));
    std::string ended;
    Clock::duration took{};
    std::atomic<bool> asks{false};
    std::thread patient([&] {
      asks = true;
      const auto start = Clock::now();
      ended = outcome(client.status());
      took = Clock::now() - start;
    });
    CHECK(eventually([&] { return asks.load(); }));
    impatient.join();
    daemon.resume();
    patient.join();
    CHECK(ended == "ok");
    CHECK(took < slack);
  }

  TEST_CASE("while one thread waits for the daemon to come back, another's deadline still holds") {
    DaemonProcess daemon({.capacity = "32MiB"});
    Client client = daemon.connect();
    daemon.kill();
    std::atomic<pid_t> waits{0};
    std::string put;
    std::thread patient([&] {
      waits = ::gettid();
      put = outcome(client.put("a", numbered(100, "a", 1), {.timeout = seconds(20)}));
    });
    CHECK(eventually([&] { return waits != 0 && sleeps(waits); }));
    const auto start = Clock::now();
    CHECK(outcome(client.get("none", {.timeout = milliseconds(100)})) != "ok");
    CHECK(Clock::now() - start < slack);
    daemon.start();
    patient.join();
    CHECK(put == "ok");
    CHECK(outcome(client.get("a")) == "ok");
  }

  TEST_CASE("close ends the calls of all other threads at once") {
    DaemonInThread daemon;
    Client watching = daemon.connect();
    Client client = daemon.connect();
    must(client.put("a", numbered(100, "a", 1)));
    must(client.put("large", payload(40 * mebibytes, "large", 1)));
    const View pinned = must(watching.get("large"));
    std::vector<std::thread> threads;
    std::array<std::string, 6> ended;
    std::atomic<int> rounds{0};
    threads.emplace_back(
        [&] { ended[0] = outcome(client.get("never", {.timeout = seconds(60)})); });
    threads.emplace_back(
        [&] { ended[1] = outcome(client.get("a", {.after = 1, .timeout = seconds(60)})); });
    threads.emplace_back([&] {
      ended[2] = outcome(client.put("room", payload(40 * mebibytes, "room", 1),
                                    {.timeout = seconds(60)}));
    });
    const auto until_it_fails = [&](std::size_t i, auto&& call) {
      threads.emplace_back([&, i, call] {
        do {
          ended[i] = outcome(call());
          rounds.fetch_add(1);
        } while (ended[i] == "ok" || ended[i] == "timed_out");
      });
    };
    until_it_fails(3, [&] { return client.status(); });
    until_it_fails(4, [&] { return client.get("a"); });
    until_it_fails(5, [&] { return client.put("b", numbered(100, "b", 1)); });
    CHECK(status_becomes(watching, "waiters", 2) == 2);
    CHECK(status_becomes(watching, "parked_creates", 1) == 1);
    CHECK(eventually([&] { return rounds.load() > 30; }));
    const auto start = Clock::now();
    client.close();
    for (std::thread& thread : threads) thread.join();
    CHECK(Clock::now() - start < slack);
    for (const std::string& text : ended) CHECK(text == "bad_state");
    CHECK(client.closed());
    CHECK(outcome(client.list("")) == "bad_state");
    CHECK(outcome(client.get("a")) == "bad_state");
    // What it waited for, the daemon has forgotten.
    CHECK(status_becomes(watching, "waiters", 0) == 0);
    CHECK(status_becomes(watching, "parked_creates", 0) == 0);
    CHECK(status_becomes(watching, "creating", 0) == 0);
    CHECK(adds_up(watching) == "");
  }

  TEST_CASE("threads may close one client at the same time") {
    DaemonInThread daemon;
    for (int round = 0; round < 20; ++round) {
      Client client = daemon.connect();
      std::atomic<int> ready{0};
      std::vector<std::thread> threads;
      for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
          ready.fetch_add(1);
          while (ready.load() < 4) std::this_thread::yield();
          client.close();
        });
      for (std::thread& thread : threads) thread.join();
      CHECK(client.closed());
    }
  }

  TEST_CASE("clients may be made and destroyed by many threads at once") {
    DaemonInThread daemon;
    Client watching = daemon.connect();
    must(watching.put("shared", numbered(70000, "shared", 1)));
    Complaints complaints;
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        const std::string own = "own/" + std::to_string(t);
        for (std::uint64_t round = 0; round < 15; ++round) {
          View view;
          {
            Client client = daemon.connect();
            auto shared = client.get("shared");
            if (!shared) return complaints.add(outcome(shared));
            if (auto ref = client.put(own, numbered(100 + 10000 * round, own, round)); !ref)
              complaints.add(outcome(ref));
            auto mine = client.get(own);
            if (!mine || !wrong_numbered(mine->bytes(), own).empty())
              complaints.add("'" + own + "' is not as it was put");
            if (round % 3 == 0) client.close();
            if (round % 3 == 1) client = daemon.connect();
            view = std::move(*shared);
          }
          // The view outlives the client that made it.
          const std::string wrong = wrong_numbered(view.bytes(), "shared");
          if (!wrong.empty()) complaints.add(wrong);
        }
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(complaints.text() == "");
    // The daemon has let go of all but the one that watches.
    CHECK(status_becomes(watching, "sessions", 1) == 1);
    CHECK(must(watching.holders()).empty());
    CHECK(adds_up(watching) == "");
  }
}

}  // namespace
}  // namespace forebay::test
