// SPDX-License-Identifier: Apache-2.0
// Random puts, gets and forgets from several threads while tiers fail, stall, corrupt, go and come
// back; against a plain map.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "spill/stack/tier_stack.h"
#include "tests/spill/support/stack_rig.h"
#include "tests/support/random.h"

namespace forebay::spill {
namespace {

using namespace std::chrono_literals;
using test::Bytes;
using test::bytes_of;
using test::eventually;
using test::FakeTier;
using test::Rig;
using test::TierVerb;

enum class Weather : std::uint8_t { calm, rough, destructive };

class Campaign {
 public:
  Campaign(Weather weather, std::uint64_t seed) : weather_(weather), seed_(seed) {
    places_.follow(*rig_.stack);
  }
  // Moves are told to places_ until the stack is gone.
  ~Campaign() { rig_.stack.reset(); }

  void run(unsigned threads, unsigned steps) {
    std::vector<std::thread> drivers;
    std::atomic<unsigned> driving{threads};
    for (unsigned i = 0; i < threads; ++i)
      drivers.emplace_back([this, i, steps, &driving] {
        drive(i, steps);
        --driving;
      });
    if (weather_ != Weather::calm) break_things(driving);
    for (std::thread& driver : drivers) driver.join();
    for (FakeTier* fake : rig_.fakes) {
      fake->release();
      fake->come_back();
      use_up_cues(*fake);
    }
    settle();
  }

 private:
  struct Living {
    std::uint64_t serial;
    std::uint64_t seed;
    std::size_t size;
    bool repetitive;
    Bytes bytes() const { return bytes_of(seed, size, repetitive); }
  };

  // Each answer is awaited, and is given once.
  template <class T>
  std::function<void(Result<T>)> once(std::function<void(Result<T>)> then) {
    ++open_;
    return [this, answered = std::make_shared<std::atomic<bool>>(false),
            then = std::move(then)](Result<T> result) {
      if (answered->exchange(true)) ++twice_;
      then(std::move(result));
      --open_;
    };
  }

  TierDeadline deadline(test::Random& random) const {
    if (weather_ == Weather::calm) return test::soon();
    return TierClock::now() + std::chrono::milliseconds(5 + random.below(150));
  }

  void drive(unsigned number, unsigned steps) {
    test::Random random("driver", seed_ + number);
    std::vector<Living> living;
    std::mutex mutex;  // guards living: answers add to it
    for (unsigned step = 0; step < steps; ++step) {
      while (open_ > 40) std::this_thread::sleep_for(50us);
      const auto dice = random.below(10);
      std::unique_lock lock(mutex);
      if (dice < 4 || living.empty()) {
        lock.unlock();
        put(random, living, mutex);
        continue;
      }
      const auto at = random.below(static_cast<std::uint32_t>(living.size()));
      const Living chosen = living[at];
      if (dice < 7) {
        lock.unlock();
        get(random, chosen);
      } else {
        living.erase(living.begin() + at);
        lock.unlock();
        rig_.stack->forget(places_.take(chosen.serial));
      }
    }
    REQUIRE(eventually([&] { return open_ == 0; }, 60s));
    const std::lock_guard lock(left_mutex_);
    left_.insert(left_.end(), living.begin(), living.end());
  }

  void put(test::Random& random, std::vector<Living>& living, std::mutex& mutex) {
    Living made{++serial_, random.next(), 0, random.chance(0.5)};
    made.size = random.chance(0.8) ? random.between(1, 9'000) : random.between(60'000, 400'000);
    const auto bytes = std::make_shared<Bytes>(made.bytes());
    const auto codec = static_cast<SpillCodec>(random.below(4) < 2 ? 0 : random.below(3));
    rig_.stack->put({made.serial, *bytes, {codec, 1 + random.below(2)}, {}}, deadline(random),
                    once<SpillPlace>([this, made, bytes, &living, &mutex](auto place) {
                      if (!place) {
                        if (weather_ == Weather::calm) ++wrong_;
                        return;
                      }
                      places_.set(made.serial, *place);
                      const std::lock_guard lock(mutex);
                      living.push_back(made);
                    }));
  }

  void get(test::Random& random, const Living& of) {
    const bool part = random.chance(0.4);
    const std::size_t from = part ? random.below(static_cast<std::uint32_t>(of.size)) : 0;
    const std::size_t count =
        part ? 1 + random.below(static_cast<std::uint32_t>(of.size - from)) : of.size;
    const auto into = std::make_shared<Bytes>(count);
    auto done = once<void>([this, of, into, from](Result<void> result) {
      if (!result) {
        // A segment may have moved between the look at its place and the get.
        if (!result.error().is(Errc::lost) && !result.error().is(Errc::tier_down) &&
            !result.error().is(Errc::timed_out))
          ++wrong_;
        return;
      }
      ++read_;
      const Bytes wanted = of.bytes();
      if (!std::equal(into->begin(), into->end(), wanted.begin() + static_cast<long>(from)))
        ++wrong_;
    });
    const SpillPlace place = places_.at(of.serial);
    if (part)
      rig_.stack->get_range(place, from, *into, deadline(random), std::move(done));
    else
      rig_.stack->get(place, *into,
                      random.chance(0.5) ? TierPriority::demand : TierPriority::background,
                      deadline(random), std::move(done));
  }

  void break_things(const std::atomic<unsigned>& driving) {
    test::Random random("weather", seed_ + 99);
    while (driving > 0) {
      const auto number = random.below(static_cast<std::uint32_t>(rig_.fakes.size()));
      FakeTier& fake = *rig_.fakes[number];
      // Not more trouble than operations that could meet it.
      const std::uint64_t asked = fake.count(TierVerb::get);
      if (asked < asked_[number] + 10) {
        std::this_thread::sleep_for(1ms);
        continue;
      }
      asked_[number] = asked;
      switch (random.below(weather_ == Weather::destructive ? 8 : 6)) {
        case 0: fake.fail_next(1 + random.below(5), Errc::tier_down); break;
        case 1: fake.fail_next(1 + random.below(3), Errc::store_full, {TierVerb::put}); break;
        case 2:
          fake.stall();
          std::this_thread::sleep_for(std::chrono::milliseconds(random.below(40)));
          fake.release();
          break;
        case 3: fake.corrupt_next(1 + random.below(3)); break;
        case 4:
          fake.go_down();
          std::this_thread::sleep_for(std::chrono::milliseconds(random.below(20)));
          fake.come_back();
          break;
        case 5: fake.fail_next(2, Errc::timed_out, {TierVerb::get, TierVerb::remove}); break;
        case 6:
          fake.go_down();
          fake.come_back(FakeTier::Incarnation::other);
          break;
        default: fake.corrupt_next(100);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(random.below(8)));
    }
  }

  // Failures that were asked for and met no operation yet: removals are tried again ever less
  // often, so that a few of these would keep the last ones from ending for long.
  void use_up_cues(FakeTier& fake) {
    for (bool left = true; left;) {
      test::Answered<void> removed;
      fake.remove({}, {}, test::soon(), removed.done());
      left = !removed.wait();
    }
    for (bool left = true; left;) {
      test::Answered<TierPlace> put;
      const Bytes bytes(1);
      fake.put({.key = {{99}, 1}, .parts = {bytes}, .crc32c = 0, .label = {}}, test::soon(),
               put.done());
      const auto place = put.wait();
      left = !place;
      test::Answered<void> removed;
      if (place) fake.remove({{99}, 1}, *place, test::soon(), removed.done());
      if (place) CHECK(removed.wait());
    }
  }

  void settle() {
    CHECK(wrong_ == 0);
    CHECK(twice_ == 0);
    CHECK(read_ > 0);
    unsigned lost = 0;
    for (const Living& of : left_) {
      Result<Bytes> bytes = fail(Errc::lost, "not read");
      // Left over cues fail some, and moves go on.
      const bool found = eventually(
          [&] {
            bytes = rig_.get(places_.at(of.serial));
            return bytes || (weather_ == Weather::destructive && bytes.error().is(Errc::lost));
          },
          10s);
      if (bytes) {
        CHECK(*bytes == of.bytes());
      } else {
        CHECK(found);
        ++lost;
      }
    }
    MESSAGE("read ", read_.load(), ", left ", left_.size(), ", lost ", lost, ", compactions ",
            rig_.stack->status().compactions, ", corrupt ", rig_.stack->status().corrupt,
            ", repaired ", rig_.stack->status().repaired, ", moves ", places_.moves());
    for (const Living& of : left_) rig_.stack->forget(places_.take(of.serial));
    const bool empty = eventually([&] {
      rig_.stack->flush();
      return rig_.items() == 0 && rig_.stack->removals_waiting() == 0;
    });
    CHECK_MESSAGE(empty, "left behind: ", rig_.items(), ", packs ", rig_.stack->status().packs,
                  ", removals ", rig_.stack->removals_waiting());
    CHECK(rig_.stack->status().packs == 0);
    CHECK(rig_.stack->status().packed_bytes == 0);
    CHECK(rig_.stack->status().packs_bytes == 0);
  }

  const Weather weather_;
  const std::uint64_t seed_;
  test::Places places_;
  Rig rig_{{.pools = 2,
            .disks = 1,
            .options = {.packs = {.pack_bytes = 64 * 1024, .wait = 500us, .waiting_max = 64},
                        .scratch_bytes = 1'000'000}}};
  std::atomic<std::uint64_t> serial_{0};
  std::atomic<unsigned> open_{0};
  std::atomic<unsigned> wrong_{0};
  std::atomic<unsigned> twice_{0};
  std::atomic<unsigned> read_{0};
  std::array<std::uint64_t, 3> asked_{};  // gets of each tier when it was last broken
  std::mutex left_mutex_;
  std::vector<Living> left_;  // Guarded by left_mutex_ until the drivers have ended.
};

TEST_SUITE("tier stack at random") {
  TEST_CASE("in calm weather every segment comes back and nothing is left behind") {
    const test::Random random("calm");
    Campaign(Weather::calm, random.seed()).run(2, 3'000);
  }
  TEST_CASE("whatever fails for a while, no byte is wrong and nothing is lost for good") {
    const test::Random random("rough");
    Campaign(Weather::rough, random.seed()).run(2, 3'000);
  }
  TEST_CASE("when tiers lose what they hold, what comes back is still what went") {
    const test::Random random("destructive");
    Campaign(Weather::destructive, random.seed()).run(2, 3'000);
  }
}

}  // namespace
}  // namespace forebay::spill
