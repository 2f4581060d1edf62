// SPDX-License-Identifier: Apache-2.0
// What becomes of a store when its tiers, or its daemon, fail in the middle of it: who waits is
// answered soon, by another copy or with a reason; nothing that was sealed is lost, and no byte is
// wrong; and when the tier is back, all goes on by itself.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "store/shm/failpoint.h"
#include "tests/support/random.h"
#include "tests/support/spilling.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr std::size_t piece = mib / 2;

// How a get ended, and how long it took.
struct Answered {
  std::string outcome;
  milliseconds took{};
};
milliseconds slowest{0};

Answered timed_get(const Client& client, const std::string& id, std::size_t size) {
  const auto begun = Clock::now();
  const auto view = client.get(id);
  const auto took = std::chrono::duration_cast<milliseconds>(Clock::now() - begun);
  slowest = std::max(slowest, took);
  std::string ended = outcome(view);
  if (view && !wrong_bytes(view->bytes(), size, id, 1).empty()) ended = "wrong bytes";
  return {ended, took};
}

// Gets what is in memory, all the time, and remembers the slowest.
class ResidentReader {
 public:
  ResidentReader(const SpillingStore& store, std::string id, std::size_t size)
      : client_(store.connect()), id_(std::move(id)), size_(size), held_(must(client_.get(id_))) {
    thread_ = std::thread([this] {
      while (!stop_) {
        // Not get_resident, which may miss in the moment in which the daemon looks for its pins.
        const auto view = client_.get(id_);
        if (!view) ++missed_;
        else if (!wrong_bytes(view->bytes(), size_, id_, 1).empty()) ++wrong_;
        ++gets_;
        std::this_thread::yield();
      }
    });
  }
  ~ResidentReader() { end(); }
  // Nothing, if no get failed.
  std::string end() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    if (missed_ == 0 && wrong_ == 0 && gets_ > 0) return {};
    return std::to_string(missed_) + " of " + std::to_string(gets_) + " gets missed, " +
           std::to_string(wrong_) + " were wrong";
  }

 private:
  Client client_;
  std::string id_;
  std::size_t size_;
  View held_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> gets_{0};
  std::atomic<std::uint64_t> missed_{0};
  std::atomic<std::uint64_t> wrong_{0};
  std::thread thread_;
};

// Puts and gets until it is told to end; what was put is there for good. A tier that is down is no
// reason to give up, a loss is.
class Workload {
 public:
  // At most `most` segments of `size` bytes.
  Workload(const SpillingStore& store, std::string prefix, std::size_t size, std::size_t most,
           std::uint64_t seed)
      : client_(store.connect()), prefix_(std::move(prefix)), size_(size), most_(most),
        random_("workload", seed), thread_([this] { run(); }) {}
  ~Workload() { (void)end(); }
  std::string end() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    return error_;
  }
  std::size_t put() const { return put_; }
  std::uint64_t fetched() const { return fetched_; }

 private:
  void run() {
    while (!stop_ && error_.empty()) {
      if (put_ < most_ && (put_ < 4 || random_.chance(0.3))) {
        const std::string id = numbered(prefix_, put_);
        const auto put = client_.put(id, payload(size_, id, 1),
                                     {.version = 1, .timeout = seconds(1), .exist_ok = true});
        const std::string ended = outcome(put);
        if (put) ++put_;
        else if (ended != "store_full" && ended != "disconnected" && ended != "timed_out")
          error_ = put.error().message();
        continue;
      }
      const std::string id = numbered(prefix_, random_.below(static_cast<std::uint32_t>(put_)));
      const auto view = client_.get(id);
      const std::string ended = outcome(view);
      if (view) {
        error_ = wrong_bytes(view->bytes(), size_, id, 1);
        ++fetched_;
      } else if (ended != "tier_down" && ended != "store_full" && ended != "disconnected" &&
                 ended != "timed_out") {
        error_ = view.error().message();
      } else {
        // The others of a small machine need its time.
        std::this_thread::sleep_for(milliseconds(1));
      }
    }
  }

  Client client_;
  std::string prefix_;
  std::size_t size_;
  std::size_t most_;
  Random random_;
  std::atomic<bool> stop_{false};
  std::atomic<std::size_t> put_{0};
  std::atomic<std::uint64_t> fetched_{0};
  std::string error_;  // the thread's, until it has ended
  std::thread thread_;
};

// A get, again and again while its tier is down, at most so long.
std::string wrong_at_last(const Client& client, const std::string& id, std::size_t size) {
  std::string wrong;
  (void)eventually([&] {
    wrong = wrong_payload(client, id, size);
    return !wrong.starts_with("tier_down") && !wrong.starts_with("store_full");
  });
  return wrong;
}
std::string all_there(const Client& client, const std::string& prefix, std::size_t count,
                      std::size_t size) {
  for (std::size_t i = 0; i < count; ++i) {
    std::string wrong = wrong_at_last(client, numbered(prefix, i), size);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

// When everything is removed, nothing is left in the tier.
std::string left_over(Client& client, std::size_t tier = 0) {
  must(client.remove_prefix(""));
  if (eventually([&] { return tier_line(client, tier).up && tier_line(client, tier).used_bytes == 0; }))
    return {};
  return tier_line(client, tier).text;
}

void spill_all(Client& client, const std::string& prefix, std::size_t count) {
  std::vector<std::string> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(numbered(prefix, i));
  std::vector<SegmentName> names;
  for (const std::string& id : ids) names.push_back({.id = id});
  must(client.spill(names));
}

// A server that answers everything with noise.
class Babbler {
 public:
  explicit Babbler(std::uint64_t seed) : random_("babbler", seed) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(listener_, 8) != 0 ||
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
      throw std::runtime_error("no port");
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] { run(); });
  }
  ~Babbler() {
    stop_ = true;
    thread_.join();
    ::close(listener_);
  }
  const std::string& address() const { return address_; }
  int visitors() const { return visitors_; }

 private:
  void run() {
    while (!stop_) {
      pollfd ready{.fd = listener_, .events = POLLIN, .revents = 0};
      if (::poll(&ready, 1, 50) != 1) continue;
      const int visitor = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (visitor < 0) continue;
      ++visitors_;
      std::vector<std::uint64_t> noise(random_.between(1, 600));
      for (auto& word : noise) word = random_.next();
      // As short as a frame's beginning may be, too.
      const std::size_t size = random_.between(1, noise.size() * sizeof noise[0]);
      (void)::send(visitor, noise.data(), size, MSG_NOSIGNAL);
      ::close(visitor);
    }
  }

  Random random_;
  int listener_ = -1;
  std::string address_;
  std::atomic<bool> stop_{false};
  std::atomic<int> visitors_{0};
  std::thread thread_;
};

// --------------------------------------------------------------------------- the daemon is killed

TEST_SUITE("spilling daemon failpoints") {
  TEST_CASE("a daemon that is killed while it spills or fetches loses nothing") {
    Random random("daemon failpoints");
    for (const shm::Failpoint& point : shm::points::tiers) {
      const std::string nth = std::to_string(random.between(1, 12));
      const std::string armed = std::string(point.name) + ":" + nth + "=kill";
      CAPTURE(armed);
      SpillingStore store({.capacity = "16MiB",
                           .environment = {{"FOREBAY_FAILPOINTS", armed}},
                           .await_tiers = false});
      Workload large(store, "large", 300'000, 90, 1);
      Workload little(store, "little", 2000, 1500, 2);
      const auto end = store.daemon().wait_for_end(patience);
      REQUIRE_MESSAGE(end.has_value(), "this failpoint was not reached");
      CHECK_MESSAGE(*end == -SIGKILL, store.daemon().log());
      store.start_again();
      const std::uint64_t before = large.fetched();
      CHECK(eventually([&] { return large.fetched() > before + 20 && large.put() > 75; }));
      CHECK(large.end() == "");
      CHECK(little.end() == "");
      Client client = store.connect();
      CHECK(all_there(client, "large", large.put(), 300'000) == "");
      CHECK(all_there(client, "little", little.put(), 2000) == "");
      CHECK(status_becomes(client, "creating", 0) == 0);
      CHECK(adds_up(client) == "");
      CHECK(left_over(client) == "");
      CHECK(adds_up(client) == "");
    }
  }

  TEST_CASE("a daemon that is killed at any time while it spills loses nothing") {
    Random random("daemon kills");
    SpillingStore store({.disk = true, .capacity = "16MiB",
                         .arguments = {"--compress", "lz4"}});
    Workload large(store, "large", 300'000, 100, random.next());
    Workload little(store, "little", 2000, 3000, random.next());
    for (int kills = 0; kills < 6; ++kills) {
      const std::uint64_t wanted = large.fetched() + random.between(1, 40);
      REQUIRE(eventually([&] { return large.fetched() >= wanted; }));
      store.daemon().kill();
      store.start_again();
    }
    CHECK(large.end() == "");
    CHECK(little.end() == "");
    Client client = store.connect();
    CHECK(all_there(client, "large", large.put(), 300'000) == "");
    CHECK(all_there(client, "little", little.put(), 2000) == "");
    CHECK(status_becomes(client, "creating", 0) == 0);
    CHECK(adds_up(client) == "");
    CHECK(left_over(client, 0) == "");
    CHECK(left_over(client, 1) == "");
  }
}

// ----------------------------------------------------------------------------- the pool goes away

// Something that can happen to a pool, and how that ends.
struct Fault {
  const char* what;
  std::function<void(SpillingStore&)> begin;
  std::function<void(SpillingStore&)> end;
  bool lost;  // afterwards what was there is there no more
};
const std::vector<Fault>& faults() {
  static const std::vector<Fault> all{
      {"killed, and back with its memory", [](auto& store) { store.pool().kill(); },
       [](auto& store) { store.pool().start(); }, false},
      {"stopped, and going on", [](auto& store) { store.pool().stop(); },
       [](auto& store) { store.pool().resume(); }, false},
      {"killed, and back without its memory",
       [](auto& store) {
         store.pool().kill();
         store.pool().forget();
       },
       [](auto& store) { store.pool().start(); }, true},
  };
  return all;
}

TEST_SUITE("spilling faults") {
  TEST_CASE("with a pool that is gone, who waits is told soon, and when it is back all goes on") {
    for (const Fault& fault : faults()) {
      CAPTURE(std::string(fault.what));
      SpillingStore store;
      Client client = store.connect();
      put_payload(client, "resident", piece);
      put_many_payloads(client, "early", 8, piece);
      spill_all(client, "early", 8);
      ResidentReader reader(store, "resident", piece);

      fault.begin(store);
      // All at once, so that some are in the middle of their fetch when the pool is found to be gone.
      std::vector<std::thread> askers;
      std::vector<Answered> answers(4);
      for (std::size_t i = 0; i < answers.size(); ++i)
        askers.emplace_back([&, i] {
          const Client own = store.connect();
          answers[i] = timed_get(own, numbered("early", i), piece);
        });
      for (std::thread& asker : askers) asker.join();
      for (const Answered& answer : answers) {
        CHECK(answer.outcome == "tier_down");
        CHECK(answer.took < answered_within);
      }
      CHECK(outcome(client.get_range(SegmentName{.id = "early/5"}, 0, 100)) == "tier_down");
      CHECK(outcome(client.put("late/0", payload(piece, "late/0", 1))) == "ok");
      const auto spilled = spill_one(client, "late/0");
      CHECK(!spilled);
      CHECK(wrong_payload(client, "late/0", piece) == "");
      // Without a tier the store is full at some time, and says why.
      std::size_t late = 1;
      std::string full;
      for (; late < 64 && full.empty(); ++late) {
        const std::string id = numbered("late", late);
        const auto put = client.put(id, payload(piece, id, 1), {.timeout = milliseconds(500)});
        if (!put) full = put.error().message();
      }
      CHECK_MESSAGE(full.starts_with("store_full"), full);
      CHECK_MESSAGE(full.find("nothing can be spilled now") != std::string::npos, full);

      fault.end(store);
      CHECK_MESSAGE(tier_becomes(client, 0, true), tier_line(client, 0).text);
      put_many_payloads(client, "after", 60, piece);
      for (std::size_t i = 0; i < 8; ++i) {
        const auto [ended, took] = timed_get(client, numbered("early", i), piece);
        CHECK(ended == (fault.lost ? "lost" : "ok"));
      }
      if (!fault.lost) CHECK(all_there(client, "early", 8, piece) == "");
      CHECK(all_there(client, "after", 60, piece) == "");
      CHECK(all_there(client, "late", late - 1, piece) == "");
      CHECK(reader.end() == "");
      CHECK(adds_up(client) == "");
      CHECK(left_over(client) == "");
    }
    MESSAGE("slowest answer: " << slowest.count() << " ms");
  }

  TEST_CASE("a pool that goes while it is written to takes nothing with it") {
    for (const Fault& fault : faults()) {
      if (fault.lost) continue;
      CAPTURE(std::string(fault.what));
      SpillingStore store({.capacity = "16MiB"});
      Client client = store.connect();
      Workload workload(store, "w", piece, 60, 7);
      for (int times = 0; times < 2; ++times) {
        const std::uint64_t wanted = workload.fetched() + 15;
        REQUIRE(eventually([&] { return workload.fetched() >= wanted; }));
        fault.begin(store);
        CHECK_MESSAGE(tier_becomes(client, 0, false), tier_line(client, 0).text);
        fault.end(store);
        CHECK_MESSAGE(tier_becomes(client, 0, true), tier_line(client, 0).text);
      }
      CHECK(eventually([&] { return workload.put() >= 50; }));
      CHECK(workload.end() == "");
      CHECK(all_there(client, "w", workload.put(), piece) == "");
      CHECK(adds_up(client) == "");
      CHECK(left_over(client) == "");
    }
  }

  TEST_CASE("a pool that is killed at each of its failpoints takes nothing with it") {
    for (const shm::Failpoint& point : shm::points::pool) {
      CAPTURE(point.name);
      const bool at_start = point.name == shm::points::pool_recovered.name;
      const std::string armed = std::string(point.name) + (at_start ? "=kill" : ":5=kill");
      SpillingStore store({.capacity = "16MiB",
                           .pool = {.arguments = {"--transport", "plain tcp"},
                                    .environment = {{"FOREBAY_FAILPOINTS",
                                                     at_start ? std::string() : armed}}}});
      Workload workload(store, "w", 250'000, 100, 11);
      Client client = store.connect();
      std::size_t removed = 0;
      const auto died = [&] {
        // Points of removals are reached by removals.
        const std::string id = numbered("gone", removed++);
        if (!client.put(id, payload(5000, id, 1), {.timeout = seconds(1)})) return false;
        (void)spill_one(client, id).has_value();
        (void)client.remove(id).has_value();
        return store.pool().ended();
      };
      if (at_start) {
        store.pool().kill();
      } else {
        REQUIRE_MESSAGE(eventually(died), "this failpoint was not reached");
      }
      store.pool().start({});
      CHECK_MESSAGE(tier_becomes(client, 0, true), tier_line(client, 0).text);
      CHECK(eventually([&] { return workload.put() >= 90; }));
      CHECK(workload.end() == "");
      CHECK(all_there(client, "w", workload.put(), 250'000) == "");
      CHECK(left_over(client) == "");
    }
  }

  TEST_CASE("with a second pool, or a disk behind, nobody waits longer than two seconds for bytes") {
    for (const Fault& fault : faults()) {
      CAPTURE(std::string(fault.what));
      SpillingStore store({.pools = 2, .arguments = {"--replicas", "2"}});
      Client client = store.connect();
      put_payload(client, "resident", piece);
      put_many_payloads(client, "early", 30, piece);
      spill_all(client, "early", 30);
      ResidentReader reader(store, "resident", piece);
      fault.begin(store);
      for (std::size_t i = 0; i < 30; ++i) {
        const auto [ended, took] = timed_get(client, numbered("early", i), piece);
        CHECK(ended == "ok");
        CHECK(took < answered_within);
      }
      // What is spilled meanwhile goes to the other one.
      put_many_payloads(client, "late", 60, piece);
      CHECK(all_there(client, "late", 60, piece) == "");
      CHECK(reader.end() == "");
      fault.end(store);
      CHECK_MESSAGE(tier_becomes(client, 0, true), tier_line(client, 0).text);
      CHECK(all_there(client, "early", 30, piece) == "");
      CHECK(all_there(client, "late", 60, piece) == "");
      CHECK(left_over(client, 0) == "");
      CHECK(left_over(client, 1) == "");
    }
    MESSAGE("slowest answer: " << slowest.count() << " ms");
  }

  TEST_CASE("with a disk behind the pool, segments go there while the pool is gone") {
    SpillingStore store({.disk = true});
    Client client = store.connect();
    store.pool().stop();
    put_many_payloads(client, "d", 90, piece);
    CHECK(all_there(client, "d", 90, piece) == "");
    CHECK(tier_line(client, 1).used_bytes > 0);
    store.pool().resume();
    CHECK(tier_becomes(client, 0, true));
    put_many_payloads(client, "e", 60, piece);
    CHECK(tier_line(client, 0).used_bytes > 0);
    CHECK(all_there(client, "d", 90, piece) == "");
    CHECK(all_there(client, "e", 60, piece) == "");
    CHECK(left_over(client, 0) == "");
    CHECK(left_over(client, 1) == "");
  }

  TEST_CASE("a pool that is full refuses with a reason, keeps what it has, and takes more later") {
    SpillingStore store({.capacity = "16MiB",
                         .pool = {.capacity = "16MiB", .arguments = {"--slab", "2MiB"}}});
    Client client = store.connect();
    std::size_t count = 0;
    std::string full;
    for (; count < 100 && full.empty(); ++count) {
      const std::string id = numbered("f", count);
      const auto put = client.put(id, payload(piece, id, 1), {.timeout = milliseconds(800)});
      if (!put) full = put.error().message();
    }
    CHECK_MESSAGE(full.starts_with("store_full"), full);
    --count;
    CHECK(count > 40);
    // There is no room to bring anything back to, and ranges need none of the store's.
    std::size_t refused = 0;
    for (std::size_t i = 0; i < count; i += 6) {
      const std::string id = numbered("f", i);
      const auto bytes = payload(piece, id, 1);
      const auto range = must(client.get_range(SegmentName{.id = id}, 0, piece));
      CHECK(std::ranges::equal(range.bytes(), bytes));
      if (in_memory(client, id)) continue;
      CHECK(timed_get(client, id, piece).outcome == "store_full");
      ++refused;
    }
    CHECK(refused > 0);
    for (std::size_t i = 0; i < 10; ++i) must(client.remove(numbered("f", i)));
    CHECK(eventually([&] {
      const std::string id = "more/0";
      return client.put(id, payload(piece, id, 1), {.version = 1, .timeout = seconds(1),
                                                    .exist_ok = true}).has_value();
    }));
    put_many_payloads(client, "again", 5, piece);
    for (std::size_t i = 10; i < count; ++i)
      CHECK(wrong_at_last(client, numbered("f", i), piece) == "");
    CHECK(left_over(client) == "");
  }

  TEST_CASE("a pool with another key is a tier that is down, and says so") {
    TempDir directory;
    const std::string other = directory / "key";
    REQUIRE(run({program("forebay-poold"), "--make-key", other}).status == 0);
    SpillingStore store({.disk = true, .pool_key = other, .await_tiers = false});
    Client client = store.connect();
    CHECK(eventually([&] {
      return tier_line(client, 0).text.find("key") != std::string::npos;
    }));
    INFO(tier_line(client, 0).text);
    CHECK_FALSE(tier_line(client, 0).up);
    put_many_payloads(client, "k", 60, piece);
    CHECK(all_there(client, "k", 60, piece) == "");
    CHECK(tier_line(client, 0).used_bytes == 0);
  }

  TEST_CASE("noise on the pool's port disturbs nobody, and a pool that comes there is used") {
    Random random("noise");
    auto babbler = std::make_unique<Babbler>(random.next());
    const std::string address = babbler->address();
    DaemonProcess daemon({.capacity = "24MiB",
                          .arguments = {"--pools", address, "--pool-insecure"}});
    Client client = daemon.connect();
    put_many_payloads(client, "n", 8, piece);
    CHECK(eventually([&] { return babbler->visitors() >= 4; }));
    CHECK_FALSE(tier_line(client, 0).up);
    const auto begun = Clock::now();
    CHECK(!spill_one(client, "n/0"));
    CHECK(Clock::now() - begun < answered_within);
    CHECK(wrong_payloads(client, "n", 8, piece) == "");
    babbler.reset();
    PoolServerProcess pool({.secured = false, .listen = address});
    CHECK_MESSAGE(tier_becomes(client, 0, true), tier_line(client, 0).text);
    put_many_payloads(client, "m", 60, piece);
    CHECK(all_there(client, "n", 8, piece) == "");
    CHECK(all_there(client, "m", 60, piece) == "");
  }

  TEST_CASE("bytes that were changed in a pool are lost, and never got") {
    SpillingStore store;
    Client client = store.connect();
    put_many_payloads(client, "c", 6, piece);
    put_many_payloads(client, "small", 100, 2000);
    spill_all(client, "c", 6);
    spill_all(client, "small", 100);
    store.pool().damage();
    for (std::size_t i = 0; i < 6; ++i) CHECK(outcome(client.get(numbered("c", i))) == "lost");
    for (std::size_t i = 0; i < 100; ++i)
      CHECK(outcome(client.get(numbered("small", i))) == "lost");
    CHECK(Status(client)["copies_corrupt"] > 0);
    CHECK(adds_up(client) == "");
    CHECK(left_over(client) == "");
  }

  TEST_CASE("with a second copy, bytes that were changed in a pool are got from the other one") {
    SpillingStore store({.pools = 2, .arguments = {"--replicas", "2"}});
    Client client = store.connect();
    put_many_payloads(client, "c", 10, piece);
    spill_all(client, "c", 10);
    // The one that is asked first, at least for one of them.
    const std::string first = must(client.where({numbered("c", 0)})).copies.front().tier;
    const unsigned damaged =
        first.find(store.pool(0).address()) != std::string::npos ? 0 : 1;
    store.pool(damaged).damage();
    CHECK(all_there(client, "c", 10, piece) == "");
    CHECK(Status(client)["copies_repaired"] > 0);
    CHECK(left_over(client, 0) == "");
    CHECK(left_over(client, 1) == "");
  }

  TEST_CASE("pools that are killed again and again lose nothing that they acknowledged") {
    int kills = 10;
    if (const char* const given = std::getenv("FOREBAY_POOL_KILLS")) kills = std::atoi(given);
    Random random("pool kills");
    SpillingStore store({.capacity = "16MiB",
                         .pool = {.arguments = {"--log-level", "error", "--transport",
                                                "plain tcp"}}});
    Client client = store.connect();
    Workload large(store, "large", 200'000, 150, random.next());
    Workload little(store, "little", 3000, 2000, random.next());
    for (int killed = 1; killed <= kills; ++killed) {
      CAPTURE(killed);
      // Only who is connected can lose something.
      REQUIRE_MESSAGE(tier_becomes(client, 0, true), tier_line(client, 0).text);
      const std::uint64_t wanted = large.fetched() + random.between(1, 30);
      REQUIRE_MESSAGE(eventually([&] { return large.fetched() >= wanted; }),
                      tier_line(client, 0).text);
      store.pool().kill();
      store.pool().start();
      if (killed % 100 == 0) {
        CHECK(all_there(client, "large", large.put(), 200'000) == "");
        MESSAGE(killed << " kills, " << large.fetched() + little.fetched() << " gets");
      }
    }
    CHECK(large.end() == "");
    CHECK(little.end() == "");
    CHECK(all_there(client, "large", large.put(), 200'000) == "");
    CHECK(all_there(client, "little", little.put(), 3000) == "");
    CHECK(adds_up(client) == "");
    CHECK(left_over(client) == "");
  }
}

}  // namespace
}  // namespace forebay::test
