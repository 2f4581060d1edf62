// SPDX-License-Identifier: Apache-2.0
// The store's memory in a process: it goes exactly when nobody can reach it any more, and until then
// it is right, whatever becomes of the client and of the store.
#include <doctest/doctest.h>
#include <dirent.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "tests/support/daemon_in_thread.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t mebibytes = 1024 * 1024;

// Mappings of a store's shared memory in this process, the daemon's own among them.
int mappings(const std::string& store) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  int found = 0;
  while (std::getline(maps, line))
    if (line.find("forebay." + store) != std::string::npos) ++found;
  return found;
}
int mappings(const StoreUuid& store) { return mappings(format_uuid(store)); }

int descriptors() {
  DIR* directory = ::opendir("/proc/self/fd");
  int found = 0;
  while (::readdir(directory) != nullptr) ++found;
  ::closedir(directory);
  return found;
}

std::size_t size_of(std::uint64_t i) { return i % 2 == 0 ? 900 + i : 70000 + i; }
std::string id_of(std::uint64_t i) { return "s/" + std::to_string(i); }

void put_segments(Client& client, std::uint64_t count, std::uint64_t seed = 0) {
  for (std::uint64_t i = 0; i < count; ++i)
    must(client.put(id_of(i), payload(size_of(i), id_of(i), 1, seed)));
}

TEST_SUITE("attach and detach") {
  TEST_CASE("views stay right when their client goes, and the last one takes the memory with it") {
    DaemonInThread daemon;
    StoreUuid store;
    {
      Client client = daemon.connect();
      put_segments(client, 8);
      store = client.store();
    }
    CHECK(eventually([&] { return mappings(store) > 0; }));
    int before = 0;
    // Without a client there are only the daemon's own.
    CHECK(eventually([&] {
      const int now = mappings(store);
      return std::exchange(before, now) == now && now <= 3;
    }));

    enum class End { close, destroy, both };
    for (const End end : {End::close, End::destroy, End::both}) {
      CAPTURE(static_cast<int>(end));
      constexpr std::uint64_t crowd = 4;
      std::optional<Client> client(daemon.connect());
      std::barrier held(crowd + 1);
      std::barrier gone(crowd + 1);
      std::vector<std::string> wrong(crowd);
      std::vector<std::thread> threads;
      for (std::uint64_t t = 0; t < crowd; ++t)
        threads.emplace_back([&, t] {
          std::vector<View> views;
          for (std::uint64_t i = 0; i < 8; ++i) views.push_back(must(client->get(id_of(i))));
          held.arrive_and_wait();
          // While the client is closing, some views go at the same time; the others see it gone.
          while (views.size() > 4) views.pop_back();
          gone.arrive_and_wait();
          for (std::uint64_t i = 0; i < views.size(); ++i)
            wrong[t] += wrong_bytes(views[i].bytes(), size_of(i), id_of(i), 1);
          for (const View& view : views) wrong[t] += view.ref().store == store ? "" : "a wrong ref";
        });
      held.arrive_and_wait();
      if (end != End::destroy) client->close();
      if (end != End::close) client.reset();
      gone.arrive_and_wait();
      for (std::thread& thread : threads) thread.join();
      for (const std::string& text : wrong) CHECK(text == "");
      // Although a closed client is still there.
      CHECK(eventually([&] { return mappings(store) == before; }));
    }
  }

  TEST_CASE("while a single view lives, the memory of a client that has gone stays, and its pin") {
    DaemonInThread daemon;
    Client watching = daemon.connect();
    put_segments(watching, 2);
    const int before = mappings(watching.store());
    std::optional<View> view(must(daemon.connect().get(id_of(1))));
    CHECK(mappings(watching.store()) > before);
    CHECK(must(watching.remove(id_of(1))) == 1);
    for (std::uint64_t i = 0; i < 20; ++i) {
      must(watching.put("noise", payload(size_of(1), "noise", i)));
      must(watching.remove("noise"));
    }
    CHECK(Status(watching)["removing"] == 1);
    CHECK(wrong_bytes(view->bytes(), size_of(1), id_of(1), 1) == "");
    std::thread([&] { view.reset(); }).join();
    CHECK(status_becomes(watching, "removing", 0) == 0);
    CHECK(eventually([&] { return mappings(watching.store()) == before; }));
  }

  TEST_CASE("connecting and closing many times leaves no mapping and no descriptor behind") {
    DaemonInThread daemon;
    Client watching = daemon.connect();
    put_segments(watching, 4);
    const auto cycle = [&](int i) {
      Client client = daemon.connect();
      const View view = must(client.get(id_of(1)));
      must(client.put("mine", payload(i % 2 == 0 ? 100 : 70000, "mine", 1)));
      if (i % 3 == 0) (void)must(client.create("made", 5000));
      if (i % 4 == 0) client.close();
      must(watching.remove("mine"));
    };
    const int mapped_before = mappings(watching.store());
    const int open_before = descriptors();
    for (int i = 0; i < 150; ++i) cycle(i);
    CHECK(status_becomes(watching, "sessions", 1) == 1);
    // The daemon lets go of a table a moment after its client's goodbye.
    CHECK(eventually([&] { return mappings(watching.store()) <= mapped_before; }));
    CHECK(eventually([&] { return descriptors() <= open_before; }));
    CHECK(Status(watching)["creating"] == 0);
    CHECK(adds_up(watching) == "");
  }

  TEST_CASE("a client keeps its memory and its views when the daemon is back with the same store") {
    DaemonInThread daemon;
    Client client = daemon.connect();
    put_segments(client, 4);
    const View view = must(client.get(id_of(1)));
    const std::byte* const address = view.bytes().data();
    Builder builder = must(client.create("open", 5000));
    for (int round = 0; round < 3; ++round) {
      daemon.restart();
      must(client.put("round", payload(100, "round", 1)));
      CHECK(wrong_bytes(view.bytes(), size_of(1), id_of(1), 1) == "");
      CHECK(must(client.get(id_of(1))).bytes().data() == address);
      CHECK(must(client.stat(id_of(1))).holders.size() == 1);
    }
    fill(builder.bytes(), "open", 1);
    must(builder.seal());
    CHECK(wrong_bytes(must(client.get("open")).bytes(), 5000, "open", 1) == "");
  }

  TEST_CASE("a store that was replaced stays for the views into it, and goes with the last of them") {
    DaemonInThread daemon;
    Client client = daemon.connect();
    put_segments(client, 4);
    const StoreUuid old = client.store();
    std::vector<View> views;
    for (std::uint64_t i = 0; i < 4; ++i) views.push_back(must(client.get(id_of(i))));
    std::optional<Builder> builder(must(client.create("open", 70000)));
    daemon.replace();
    must(client.put("new", payload(100, "new", 1)));
    CHECK(client.store() != old);
    CHECK(outcome(client.get(id_of(1))) == "not_found");
    fill(builder->bytes(), "open", 1);
    CHECK(outcome(builder->seal()) == "wrong_store");
    CHECK(mappings(old) > 0);

    std::vector<std::string> wrong(views.size());
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < 4; ++i)
      threads.emplace_back([&, i] {
        wrong[i] = wrong_bytes(views[i].bytes(), size_of(i), id_of(i), 1);
        views[i].release();
      });
    for (std::thread& thread : threads) thread.join();
    for (const std::string& text : wrong) CHECK(text == "");
    // The builder is still open, if in vain.
    CHECK(mappings(old) > 0);
    builder.reset();
    CHECK(mappings(old) == 0);
    CHECK(wrong_bytes(must(client.get("new")).bytes(), 100, "new", 1) == "");
  }

  TEST_CASE("gets go on from many threads while the store is restarted and replaced under them") {
    DaemonInThread daemon;
    Client client = daemon.connect();
    put_segments(client, 4, 0);
    std::atomic<bool> ended{false};
    std::atomic<std::uint64_t> got{0};
    constexpr std::uint64_t crowd = 4;
    constexpr std::uint64_t rounds = 6;
    std::vector<std::string> wrong(crowd);
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < crowd; ++t)
      threads.emplace_back([&, t] {
        View held;
        std::uint64_t held_id = 0;
        const auto check = [&](const View& view, std::uint64_t i) {
          // The stores differ by the seed of their bytes.
          for (std::uint64_t seed = 0; seed <= rounds; ++seed)
            if (wrong_bytes(view.bytes(), size_of(i), id_of(i), 1, seed).empty()) return;
          wrong[t] = "bytes of no store under " + id_of(i);
        };
        for (std::uint64_t step = t; !ended.load(); ++step) {
          const std::uint64_t i = step % 4;
          auto view = client.get(id_of(i));
          if (!view) {
            if (outcome(view) != "not_found") wrong[t] = view.error().message();
            continue;
          }
          check(*view, i);
          if (step % 3 == 0) {
            held = std::move(*view);
            held_id = i;
          }
          if (held) check(held, held_id);
          got.fetch_add(1);
        }
      });
    for (std::uint64_t round = 1; round <= rounds; ++round) {
      const std::uint64_t before = got.load();
      if (round % 2 == 0) {
        daemon.restart();
        must(client.put("after", payload(100, "after", round)));
      } else {
        daemon.replace();
        put_segments(client, 4, round);
      }
      CHECK(eventually([&] { return got.load() > before + 20; }));
    }
    ended = true;
    for (std::thread& thread : threads) thread.join();
    for (const std::string& text : wrong) CHECK(text == "");
    // Of all the stores, one is left.
    CHECK(eventually([&] { return mappings(std::string()) == mappings(client.store()); }));
  }

  TEST_CASE("closing while the store is being replaced leaves nothing reachable") {
    DaemonInThread daemon;
    for (int round = 0; round < 8; ++round) {
      Client client = daemon.connect();
      put_segments(client, 2);
      std::atomic<bool> begun{false};
      std::thread reader([&] {
        std::string last;
        do {
          last = outcome(client.put("x", payload(100, "x", 1)));
          begun = true;
        } while (last != "bad_state");
      });
      CHECK(eventually([&] { return begun.load(); }));
      daemon.replace();
      if (round % 2 == 0) (void)client.get("x");
      client.close();
      reader.join();
      CHECK(outcome(client.get("x")) == "bad_state");
      CHECK_FALSE(client.get_resident("x"));
    }
  }

  TEST_CASE("memory that a thread is still filling is nobody else's, though the client was closed") {
    DaemonInThread daemon(16 * mebibytes);
    Client other = daemon.connect();
    // So much at a time that the same extents must be used again.
    constexpr std::size_t size = 5 * mebibytes;
    Client client = daemon.connect();
    const auto refill = [&] {
      (void)other.remove("theirs");
      for (std::uint64_t i = 1; i <= 3; ++i)
        (void)other.put("theirs", payload(size, "theirs", i), {.version = i});
    };
    const auto damage = [&] {
      std::string all;
      for (std::uint64_t i = 1; i <= 3; ++i)
        if (const auto view = other.get("theirs", {.version = i}))
          all += wrong_bytes(view->bytes(), size, "theirs", i);
      return all;
    };
    std::string ended;
    SUBCASE("by a put") {
      ended = outcome(client.put("mine", size, [&](std::span<std::byte> bytes) {
        client.close();
        // Until the daemon has dealt with the goodbye.
        CHECK(status_becomes(other, "sessions", 1) == 1);
        refill();
        std::memset(bytes.data(), 0xee, bytes.size());
        CHECK(damage() == "");
        return true;
      }));
    }
    SUBCASE("by a builder") {
      Builder builder = must(client.create("mine", size));
      client.close();
      CHECK(status_becomes(other, "sessions", 1) == 1);
      refill();
      std::memset(builder.bytes().data(), 0xee, size);
      CHECK(damage() == "");
      ended = outcome(builder.seal());
    }
    CHECK(ended == "bad_state");
    CHECK(outcome(other.get("mine")) == "not_found");
    // When it is done, the memory comes back.
    CHECK(status_becomes(other, "creating", 0) == 0);
    (void)other.remove("theirs");
    CHECK(outcome(other.put("all", payload(15 * mebibytes, "all", 1), {.timeout = seconds(20)})) ==
          "ok");
    CHECK(adds_up(other) == "");
  }
}

}  // namespace
}  // namespace forebay::test
