// SPDX-License-Identifier: Apache-2.0
// The link against pools in processes of their own, over what libfabric has on any machine.
#include "spill/fabric/fabric_link.h"

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "tests/spill/fabric/support/answers.h"
#include "tests/spill/fabric/support/server_process.h"
#include "tests/support/payload.h"
#include "tests/support/random.h"

namespace {

using namespace forebay;
using namespace forebay::test;
using namespace std::chrono_literals;
using spill::DataLink;
using spill::SlabKey;

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;

// What a machine under load may add to a deadline.
constexpr auto slack = 1500ms;

std::chrono::microseconds processor_time() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto of = [](const timeval& time) {
    return std::chrono::seconds(time.tv_sec) + std::chrono::microseconds(time.tv_usec);
  };
  return of(used.ru_utime) + of(used.ru_stime);
}

bool all_are(std::span<const std::byte> bytes, std::byte value) {
  return std::all_of(bytes.begin(), bytes.end(), [=](std::byte one) { return one == value; });
}

TEST_SUITE("fabric link") {
  TEST_CASE("what is written is in the pool's memory when it is done, and is read back") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, 40 * mib);
      const auto link = pool.link();
      std::uint64_t version = 0;
      for (const std::size_t size : {1UL, 7UL, 64UL, 65UL, 128UL, 4 * kib, 4 * kib + 1, 64 * kib,
                                     mib - 1, mib, mib + 1, 5 * mib + 3, 33 * mib}) {
        CAPTURE(size);
        const std::uint64_t offset = ++version * 4099;
        const auto bytes = payload(size, "written", version);
        const auto written = start_write(*link, pool.key(), offset, {bytes}).wait();
        REQUIRE_MESSAGE(written, message_of(written));
        // Not merely sent: seen from here, at once.
        CHECK(wrong_bytes(pool.slab().subspan(offset, size), size, "written", version) == "");
        std::vector<std::byte> back(size);
        const auto read = start_read(*link, pool.key(), offset, back).wait();
        REQUIRE_MESSAGE(read, message_of(read));
        CHECK(wrong_bytes(back, size, "written", version) == "");
      }
    }
  }

  TEST_CASE("parts arrive one behind the other, however many and however small") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, 8 * mib);
      const auto link = pool.link();
      Random random("parts");
      for (const unsigned count : {2U, 4U, 5U, 17U, 100U}) {
        std::vector<std::vector<std::byte>> owned;
        std::vector<std::span<const std::byte>> parts;
        std::vector<std::byte> whole;
        for (unsigned i = 0; i < count; ++i) {
          // Some are empty.
          const std::size_t size = i % 5 == 3 ? 0 : random.between(1, i % 7 == 0 ? mib : 999);
          owned.push_back(payload(size, "part", i));
          whole.insert(whole.end(), owned.back().begin(), owned.back().end());
        }
        if (whole.size() > pool.slab().size()) continue;
        for (const auto& one : owned) parts.emplace_back(one);
        const auto written = start_write(*link, pool.key(), 0, parts).wait();
        REQUIRE_MESSAGE(written, message_of(written));
        CHECK(std::equal(whole.begin(), whole.end(), pool.slab().begin()));
      }
      CHECK(start_write(*link, pool.key(), 0, {}).wait());
    }
  }

  TEST_CASE("many threads write and read at once, on two links beside each other") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      constexpr unsigned threads = 4;
      constexpr std::size_t share = 4 * mib;
      FabricServerProcess pool(provider, threads * share);
      const std::array links{pool.link(), pool.link(256 * kib)};
      const std::uint64_t seed = Random("threads").seed();
      std::atomic<int> wrong{0};
      std::vector<std::thread> running;
      for (unsigned thread = 0; thread < threads; ++thread)
        running.emplace_back([&, thread] {
          std::mt19937_64 engine(seed + thread);
          DataLink& link = *links[thread % 2];
          for (std::uint64_t round = 1; round <= 40; ++round) {
            const std::size_t size = 1 + engine() % (round % 4 == 0 ? share : 20 * kib);
            const std::uint64_t offset = thread * share + engine() % (share - size + 1);
            const auto bytes = payload(size, "thread", round, thread);
            std::vector<std::byte> back(size);
            if (!start_write(link, pool.key(), offset, {bytes}).wait()) ++wrong;
            if (!start_read(link, pool.key(), offset, back).wait()) ++wrong;
            if (!wrong_bytes(back, size, "thread", round, thread).empty()) ++wrong;
          }
        });
      for (auto& thread : running) thread.join();
      CHECK(wrong == 0);
    }
  }

  TEST_CASE("a wrong key, or an offset outside, moves no byte and ends the link") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, mib);
      const auto bytes = payload(64 * kib, "wrong", 1);
      std::vector<std::byte> destination(64 * kib, std::byte{0x77});
      struct Attempt {
        const char* what;
        SlabKey key;
        std::uint64_t offset;
      };
      const SlabKey key = pool.key();
      for (const Attempt& attempt : {Attempt{"another key", {key.key ^ 1U, key.base}, 0},
                                     Attempt{"no key", {0, key.base}, 0},
                                     Attempt{"behind the end", key, mib},
                                     Attempt{"across the end", key, mib - 4 * kib},
                                     Attempt{"before the start", key, std::uint64_t{0} - 4096}}) {
        CAPTURE(attempt.what);
        {
          const auto link = pool.link();
          const auto result = start_write(*link, attempt.key, attempt.offset, {bytes}).wait();
          REQUIRE(!result);
          CHECK_MESSAGE(result.error().is(Errc::tier_down), message_of(result));
          CHECK(!link->is_open());
          // Nor does anything else go over it any more.
          CHECK(start_write(*link, key, 0, {bytes}).wait().error().is(Errc::tier_down));
        }
        {
          const auto link = pool.link();
          const auto result =
              start_read(*link, attempt.key, attempt.offset, destination).wait();
          REQUIRE(!result);
          CHECK(!link->is_open());
        }
        CHECK(all_are(pool.slab(), std::byte{0}));
        CHECK(all_are(destination, std::byte{0x77}));
      }
      // The pool is none the worse for it.
      const auto link = pool.link();
      CHECK(start_write(*link, key, 0, {bytes}).wait());
    }
  }

  TEST_CASE("a slab that is withdrawn is reached no more, also by what was under way") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, 64 * mib);
      const auto link = pool.link();
      const std::vector<std::byte> bytes(64 * mib, std::byte{0x11});
      const Answered first = start_write(*link, pool.key(), 0, {std::span(bytes).first(4 * kib)});
      REQUIRE(first.wait());
      const Answered under_way = start_write(*link, pool.key(), 0, {bytes});
      pool.withdraw();
      // Whatever became of it, from here on the memory is the pool's alone.
      std::fill(pool.slab().begin(), pool.slab().end(), std::byte{0x22});
      (void)under_way.wait();
      CHECK(all_are(pool.slab(), std::byte{0x22}));
      const auto after = pool.link();
      CHECK(!start_write(*after, pool.key(), 0, {std::span(bytes).first(4 * kib)}).wait());
      CHECK(all_are(pool.slab(), std::byte{0x22}));
    }
  }

  TEST_CASE("when the pool is killed, everything in flight is answered at once") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, 64 * mib);
      const auto link = pool.link();
      const std::vector<std::byte> source(16 * mib, std::byte{0x33});
      REQUIRE(start_write(*link, pool.key(), 0, {std::span(source).first(kib)}).wait());
      stand_still(pool.process());
      std::vector<std::byte> destination(16 * mib, std::byte{0x44});
      std::vector<Answered> open;
      for (int i = 0; i < 4; ++i) open.push_back(start_write(*link, pool.key(), 0, {source}));
      for (int i = 0; i < 4; ++i)
        open.push_back(start_read(*link, pool.key(), 16 * mib,
                                  std::span(destination).subspan(i * 4 * mib, 4 * mib)));
      pool.process().kill();
      for (const Answered& one : open) {
        const auto result = one.wait(5s);
        REQUIRE(!result);
        CHECK_MESSAGE(result.error().is(Errc::tier_down), message_of(result));
      }
      CHECK(!link->is_open());
      for (const Answered& one : open) CHECK(one.times() == 1);
    }
  }

  TEST_CASE("a pool that died while nothing went on costs one operation its deadline at most") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, mib);
      const auto link = pool.link();
      const std::vector<std::byte> source(4 * kib, std::byte{0x33});
      REQUIRE(start_write(*link, pool.key(), 0, {source}).wait());
      pool.process().kill();
      const auto start = TierClock::now();
      const Answered answered = start_write(*link, pool.key(), 0, {source}, start + 400ms);
      const auto result = answered.wait(5s);
      REQUIRE(!result);
      CHECK_MESSAGE((result.error().is(Errc::tier_down) || result.error().is(Errc::timed_out)),
                    message_of(result));
      CHECK(answered.at() - start < 400ms + slack);
      CHECK(!link->is_open());
    }
  }

  TEST_CASE("an operation that comes as the link goes to sleep is not left lying") {
    Random random("going to sleep");
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, mib);
      const auto link = pool.link();
      std::vector<std::byte> into(kib);
      auto slowest = TierClock::duration::zero();
      for (int i = 0; i < 8000; ++i) {
        const auto start = TierClock::now();
        REQUIRE(start_read(*link, pool.key(), 0, into, start + 5s).wait());
        slowest = std::max(slowest, TierClock::now() - start);
        // Around the moment at which the link has looked for more long enough.
        const auto next = TierClock::now() + std::chrono::microseconds(random.below(60));
        while (TierClock::now() < next) {
        }
      }
      CHECK(slowest < 1s);
    }
  }

  TEST_CASE("a pool that stands still: answers at the deadline, and nothing arrives later") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, 64 * mib);
      const auto link = pool.link();
      std::vector<std::byte> source(16 * mib, std::byte{0x33});
      REQUIRE(start_write(*link, pool.key(), 0, {std::span(source).first(kib)}).wait());
      std::fill(pool.slab().begin(), pool.slab().end(), std::byte{0x55});
      stand_still(pool.process());
      std::vector<std::byte> destination(8 * mib, std::byte{0x44});
      const auto start = TierClock::now();
      const auto deadline = start + 500ms;
      std::vector<Answered> open;
      // The whole destination is asked for, a piece each.
      for (int i = 0; i < 8; ++i)
        open.push_back(start_read(*link, pool.key(), 32 * mib,
                                  std::span(destination).subspan(i * mib, mib), deadline));
      for (int i = 0; i < 3; ++i)
        open.push_back(start_write(*link, pool.key(), 0, {source}, deadline + i * 1s));
      int late = 0;
      for (const Answered& one : open) {
        const auto result = one.wait(8s);
        REQUIRE(!result);
        late += result.error().is(Errc::timed_out) ? 1 : 0;
        CHECK_MESSAGE((result.error().is(Errc::timed_out) || result.error().is(Errc::tier_down)),
                      message_of(result));
        CHECK(one.at() >= deadline);
        CHECK(one.at() - deadline < slack);
      }
      CHECK(late >= 1);
      CHECK(!link->is_open());
      // Both are somebody else's now.
      std::fill(destination.begin(), destination.end(), std::byte{0x66});
      std::fill(source.begin(), source.end(), std::byte{0x99});
      pool.process().signal(SIGCONT);
      // The pool reads what lies in its sockets, and answers whom nobody is behind any more; when
      // it has done something for somebody else it has done that, too.
      const auto other = pool.link();
      const std::vector<std::byte> probe(kib, std::byte{0x12});
      REQUIRE(start_write(*other, pool.key(), 63 * mib, {probe}).wait());
      REQUIRE(start_write(*other, pool.key(), 62 * mib, {probe}).wait());
      CHECK(all_are(destination, std::byte{0x66}));
      // And of the sources it has got what they were.
      CHECK(std::none_of(pool.slab().begin(), pool.slab().end(),
                         [](std::byte one) { return one == std::byte{0x99}; }));
      for (const Answered& one : open) CHECK(one.times() == 1);
    }
  }

  TEST_CASE("closing, and going, waits for no pool and answers everything") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, 32 * mib);
      auto link = pool.link();
      const std::vector<std::byte> source(8 * mib, std::byte{0x33});
      std::vector<std::byte> destination(8 * mib);
      REQUIRE(start_write(*link, pool.key(), 0, {std::span(source).first(kib)}).wait());
      stand_still(pool.process());
      std::vector<Answered> open;
      for (int i = 0; i < 8; ++i) {
        open.push_back(start_write(*link, pool.key(), 0, {source}));
        open.push_back(start_read(*link, pool.key(), 0,
                                  std::span(destination).subspan(i * mib, mib)));
      }
      const auto start = TierClock::now();
      SUBCASE("closing") { link->close(); }
      SUBCASE("going") { link.reset(); }
      SUBCASE("closing twice") {
        std::thread other([&] { link->close(); });
        link->close();
        other.join();
      }
      CHECK(TierClock::now() - start < slack);
      for (const Answered& one : open) {
        // All of them before close() came back.
        REQUIRE(one.times() == 1);
        CHECK(one.wait(0ms).error().is(Errc::tier_down));
      }
      if (link) {
        CHECK(!link->is_open());
        CHECK(start_write(*link, pool.key(), 0, {source}).wait().error().is(Errc::tier_down));
      }
    }
  }

  TEST_CASE("a callback may submit, close the link and let it go") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, mib);
      const auto bytes = payload(4 * kib, "callback", 1);
      auto link = pool.link();
      Answered second;
      link->write(pool.key(), 0, {bytes}, in(patience), [&](Result<void> first) {
        if (!first) return second.callback()(std::move(first));
        link->write(pool.key(), 4 * kib, {bytes}, in(patience), second.callback());
      });
      CHECK(second.wait());
      Answered open;
      std::vector<std::byte> destination(4 * kib);
      std::atomic<bool> gone{false};
      link->write(pool.key(), 0, {bytes}, in(patience), [&](Result<void>) {
        DataLink& mine = *link;
        mine.read(pool.key(), 0, destination, in(patience), open.callback());
        mine.close();
        link.reset();
        gone = true;
      });
      CHECK(open.wait().has_value() == false);
      CHECK(eventually([&] { return gone.load(); }));
      CHECK(open.times() == 1);
    }
  }

  TEST_CASE("a pool that came back at the same address knows the old keys no more") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      auto pool = std::make_unique<FabricServerProcess>(provider, mib);
      auto successor = std::make_unique<FabricServerProcess>(provider, mib, FabricServerProcess::Starts::later);
      const std::string port = pool->port();
      const SlabKey stale = pool->key();
      const auto bytes = payload(64 * kib, "stale", 1);
      auto link = pool->link();
      REQUIRE(start_write(*link, stale, 0, {bytes}).wait());
      pool->process().kill();
      pool = std::move(successor);
      pool->start(port);
      CHECK(pool->key().key != stale.key);
      // Over the old link and a new one.
      CHECK(!start_write(*link, stale, 0, {bytes}, in(2s)).wait());
      link = pool->link();
      CHECK(!start_write(*link, stale, 0, {bytes}, in(2s)).wait());
      CHECK(all_are(pool->slab(), std::byte{0}));
      link = pool->link();
      CHECK(start_write(*link, pool->key(), 0, {bytes}).wait());
    }
  }

  TEST_CASE("under random load, and the pool's death in it, each operation is answered once") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      Random random("random load");
      constexpr std::size_t size = 32 * mib;
      FabricServerProcess pool(provider, size);
      auto link = pool.link();
      std::vector<std::vector<std::byte>> buffers(16, std::vector<std::byte>(2 * mib));
      std::vector<Answered> answers;
      const unsigned operations = 400;
      const unsigned dies_at = 200 + random.below(150);
      for (unsigned i = 0; i < operations; ++i) {
        auto& buffer = buffers[random.below(16)];
        const std::size_t bytes = random.chance(0.7) ? random.between(1, 8 * kib)
                                                     : random.between(1, buffer.size());
        const std::uint64_t offset = random.next() % (size - bytes);
        if (random.chance(0.5))
          answers.push_back(start_write(*link, pool.key(), offset, {std::span(buffer).first(bytes)},
                                        in(3s)));
        else
          answers.push_back(
              start_read(*link, pool.key(), offset, std::span(buffer).first(bytes), in(3s)));
        if (i == dies_at) pool.process().signal(random.chance(0.5) ? SIGKILL : SIGSTOP);
        if (random.chance(0.3)) (void)answers[random.below(i + 1)].wait(1ms);
      }
      int failed = 0;
      for (const Answered& one : answers) {
        const auto result = one.wait(10s);
        if (result) continue;
        ++failed;
        CHECK(!result.error().is(Errc::cancelled));
      }
      CHECK(failed > 0);
      CHECK(!link->is_open());
      link.reset();
      for (const Answered& one : answers) CHECK(one.times() == 1);
    }
  }

  TEST_CASE("an idle link takes no processor time, whether its pool lives or not") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, mib);
      const auto link = pool.link();
      const auto bytes = payload(4 * kib, "idle", 1);
      REQUIRE(start_write(*link, pool.key(), 0, {bytes}).wait());
      // Time that passes is what is measured: there is no event to wait for.
      for (const bool alive : {true, false}) {
        CAPTURE(alive);
        if (!alive) pool.process().kill();
        const auto before = processor_time();
        std::this_thread::sleep_for(500ms);
        CHECK((processor_time() - before).count() < 50'000);
      }
    }
  }

  TEST_CASE("an operation behind others whose deadline comes first is answered alone") {
    for (const std::string& provider : providers_here()) {
      CAPTURE(provider);
      FabricServerProcess pool(provider, 32 * mib);
      const auto link = pool.link();
      const std::vector<std::byte> source(16 * mib, std::byte{0x33});
      REQUIRE(start_write(*link, pool.key(), 0, {std::span(source).first(kib)}).wait());
      stand_still(pool.process());
      const Answered before = start_write(*link, pool.key(), 0, {source});
      const Answered behind = start_write(*link, pool.key(), 0, {source}, in(100ms));
      const Answered past = start_write(*link, pool.key(), 0, {source}, in(-1ms));
      CHECK(past.wait().error().is(Errc::timed_out));
      CHECK(behind.wait().error().is(Errc::timed_out));
      CHECK(link->is_open());
      pool.process().signal(SIGCONT);
      CHECK(before.wait());
    }
  }
}

}  // namespace
