// SPDX-License-Identifier: Apache-2.0
// The pin protocol and the buckets, the very templates that ship, under every interleaving and every
// weak-memory outcome up to a bound. Each claim is also shown to fail on a machine without seq_cst,
// or with a step left out, so that none of these tests can pass by looking away.
#include <cstdlib>
#include <memory>

#include <doctest/doctest.h>

#include "store/shm/buckets.h"
#include "store/shm/protocol.h"
#include "tests/support/explorer.h"

namespace {

using namespace forebay::shm;
using explorer::claim;
using explorer::Options;
using explorer::Program;
using explorer::Strength;

// Small enough to explore: two slots a line, two lines, two entries.
using XEntry = BasicEntry<explorer::Atomic>;
using XLine = BasicLine<explorer::Atomic, 2>;
using XCount = explorer::Atomic<std::uint32_t>;
using XCounter = explorer::Atomic<std::uint32_t>;
using XBuckets = Buckets<XCounter, XLine>;

struct Store {
  XEntry entries[4];
  explorer::Atomic<std::uint64_t> payload[4];  // stands for the bytes; holds the serial they belong to
  XCounter in_use;
  XLine lines[4];
  XLine overflow[3];
  XCount counts[2][4];  // one pin table for each reader
  OverflowPool pool;
  bool nudged = false;
  bool deferred = false;

  XBuckets buckets() { return {&in_use, lines, overflow}; }
  BucketWriter<XCounter, XLine> writer() { return {buckets(), pool}; }

  // Daemon: fills and seals a segment the way the daemon does.
  void make(std::uint32_t number, std::uint64_t key, std::uint64_t version, std::uint64_t serial) {
    XEntry& entry = entries[number];
    begin_life(entry);
    entry.hash_low.store(key, std::memory_order_release);
    entry.hash_high.store(0, std::memory_order_release);
    entry.version.store(version, std::memory_order_release);
    entry.serial.store(serial, std::memory_order_release);
    set_state(entry, State::creating);
    payload[number].store(serial, std::memory_order_relaxed);
    set_state(entry, State::sealed);
  }

  bool pinned(std::uint32_t number) {
    return look_at(counts[0][number]) != 0 || look_at(counts[1][number]) != 0;
  }

  // Reader: get and release; checks that the bytes are those of the segment it was told of.
  // Returns the version, 0 for a miss.
  std::uint64_t get(int reader, std::uint64_t key, std::uint64_t version = 0) {
    std::uint32_t held = no_entry;
    const Probe probe =
        search(buckets(), static_cast<std::uint32_t>(key), [&](std::uint32_t number) {
          const Probe answer =
              try_pin(entries[number], counts[reader][number], {key, 0, version});
          if (answer == Probe::pinned) held = number;
          if (answer == Probe::changed && release_pin(entries[number], counts[reader][number]))
            nudged = true;
          // A reader that finds the daemon at work would wait; here it is enough that it does not err.
          return answer;
        });
    if (probe == Probe::changed || probe == Probe::busy) return undecided;
    if (probe != Probe::pinned) return 0;
    const std::uint64_t found_version = entries[held].version.load(std::memory_order_relaxed);
    const std::uint64_t serial = entries[held].serial.load(std::memory_order_relaxed);
    claim(payload[held].load(std::memory_order_relaxed) == serial, "wrong bytes at first sight");
    claim(payload[held].load(std::memory_order_relaxed) == serial, "wrong bytes while pinned");
    if (release_pin(entries[held], counts[reader][held])) nudged = true;
    return found_version;
  }
  static constexpr std::uint64_t undecided = ~std::uint64_t{0};
};

constexpr std::uint64_t key_a = 0;
constexpr std::uint64_t key_b = 1;
constexpr std::uint64_t key_c = 2;  // in one line with key_a until there are four lines

std::shared_ptr<Store> fresh_store() {
  auto store = std::make_shared<Store>();
  store->in_use.store(2);
  store->pool.set_backed(3);
  return store;
}

// How much further than in an everyday run; `make check-model` asks for one more.
int extra_preemptions() {
  const char* extra = std::getenv("FOREBAY_EXPLORE_DEEPER");
  return extra == nullptr ? 0 : std::atoi(extra);
}

template <class Scenario>
void holds(int preemptions_max, const Scenario& scenario) {
  const auto outcome = explorer::explore(
      {.preemptions_max = preemptions_max + extra_preemptions(), .executions_max = 1'000'000'000},
      scenario);
  INFO("executions: ", outcome.executions);
  CHECK_MESSAGE(outcome.violations == 0, outcome.first_violation);
  CHECK(outcome.exhausted);
  MESSAGE("explored ", outcome.executions, " executions");
}

template <class Scenario>
void fails(const Scenario& scenario, Strength strength = Strength::as_written) {
  const auto outcome = explorer::explore(
      {.preemptions_max = 3, .strength = strength, .stop_at_first_violation = true}, scenario);
  INFO("executions: ", outcome.executions);
  CHECK(outcome.violations > 0);
}

// Evict segment 1 and let another id have its entry, while readers get it.
template <class Look>
auto evict_and_reuse(int readers, Look look) {
  return [readers, look] {
    auto store = fresh_store();
    store->make(1, key_a, 1, 100);
    store->writer().insert(key_a, 1);
    Program program;
    for (int reader = 0; reader < readers; ++reader)
      program.threads.push_back([store, reader] { store->get(reader, key_a); });
    program.threads.push_back([store, look] {
      XEntry& entry = store->entries[1];
      set_state(entry, State::evicting);
      if (look(*store)) {
        set_state(entry, State::sealed);
        return;
      }
      store->writer().erase(key_a, 1);
      set_state(entry, State::free);
      store->make(1, key_a, 2, 200);
    });
    return program;
  };
}

TEST_SUITE("protocol under the memory model") {
  TEST_CASE("an evicted and reused segment is never read through an old pin") {
    const auto scenario = evict_and_reuse(1, [](Store& store) { return store.pinned(1); });
    holds(3, scenario);
    fails(scenario, Strength::no_seq_cst);
    fails(evict_and_reuse(1, [](Store&) { return false; }));  // a daemon that does not look
  }

  TEST_CASE("two readers and an evictor agree") {
    holds(2, evict_and_reuse(2, [](Store& store) { return store.pinned(1); }));
  }

  TEST_CASE("the last release of a wanted segment is always told or seen") {
    const auto scenario = [] {
      auto store = fresh_store();
      store->make(1, key_a, 1, 100);
      store->writer().insert(key_a, 1);
      Program program;
      program.threads.push_back([store] { store->get(0, key_a); });
      program.threads.push_back([store] { store->get(1, key_a); });
      program.threads.push_back([store] {
        store->writer().erase(key_a, 1);
        set_state(store->entries[1], State::removing);
        set_wanted(store->entries[1], true);
        store->deferred = store->pinned(1);
      });
      program.at_end = [store] {
        claim(!store->deferred || store->nudged, "a deferred removal that nobody will finish");
        claim(!store->pinned(1), "a pin left behind");
      };
      return program;
    };
    holds(3, scenario);
    fails(scenario, Strength::no_seq_cst);
  }

  TEST_CASE("a version behind keep goes at once, or its last release is told") {
    const auto scenario = [](bool asks_first) {
      return [asks_first] {
        auto store = fresh_store();
        store->make(1, key_a, 1, 100);
        store->writer().insert(key_a, 1);
        Program program;
        program.threads.push_back([store] { store->get(0, key_a); });
        program.threads.push_back([store] { store->get(1, key_a); });
        program.threads.push_back([store, asks_first] {
          XEntry& entry = store->entries[1];
          if (asks_first) set_wanted(entry, true);
          set_state(entry, State::evicting);
          store->deferred = store->pinned(1);
          // It stays readable while it is pinned.
          set_state(entry, store->deferred ? State::sealed : State::removing);
          if (!asks_first) set_wanted(entry, true);
        });
        program.at_end = [store] {
          claim(!store->deferred || store->nudged, "a surplus version that nobody lets go");
          claim(!store->pinned(1), "a pin left behind");
        };
        return program;
      };
    };
    holds(2, scenario(true));
    fails(scenario(true), Strength::no_seq_cst);
    fails(scenario(false));  // a daemon that asks for nudges only after it has looked
  }

  TEST_CASE("memory that a version takes over is never read as the former one's") {
    const auto scenario = [](bool looks) {
      return [looks] {
        auto store = fresh_store();
        store->make(1, key_a, 1, 100);
        store->writer().insert(key_a, 1);
        Program program;
        program.threads.push_back([store] { store->get(0, key_a, 1); });
        // The daemon, and then the writer of the next version, whom its answer reaches.
        program.threads.push_back([store, looks] {
          XEntry& entry = store->entries[1];
          set_state(entry, State::evicting);
          if (looks && store->pinned(1)) {
            set_state(entry, State::sealed);
            return;
          }
          begin_life(store->entries[2]);
          set_state(store->entries[2], State::creating);
          set_state(entry, State::tombstone);
          store->payload[1].store(200, std::memory_order_relaxed);
        });
        return program;
      };
    };
    holds(3, scenario(true));
    fails(scenario(true), Strength::no_seq_cst);
    fails(scenario(false));  // a daemon that does not look
  }

  TEST_CASE("the newest version is found at every moment of its replacement") {
    const auto scenario = [](bool slot_is_checked_again) {
      return [slot_is_checked_again] {
        auto store = fresh_store();
        store->make(1, key_a, 1, 100);
        store->writer().insert(key_a, 1);
        Program program;
        program.threads.push_back([store, slot_is_checked_again] {
          std::uint64_t found = 0;
          if (slot_is_checked_again) {
            found = store->get(0, key_a);
          } else {
            // The careless reader: believes a mismatch without looking at the slot again.
            const std::uint64_t slot = store->lines[0].slots[0].load(std::memory_order_acquire);
            XEntry& entry = store->entries[slot_entry(slot)];
            const Probe probe = try_pin(entry, store->counts[0][slot_entry(slot)], {key_a, 0, 0});
            found = probe == Probe::mismatch ? 0 : 1;
          }
          claim(found != 0, "the id was there all the time and was not found");
        });
        program.threads.push_back([store] {
          store->make(2, key_a, 2, 200);
          store->writer().replace(key_a, 1, 2);
          set_state(store->entries[1], State::removing);
          if (store->pinned(1)) return;
          set_state(store->entries[1], State::free);
          store->make(1, key_b, 1, 300);  // version 1's entry gets another id
        });
        return program;
      };
    };
    holds(3, scenario(true));
    fails(scenario(false));
  }

  TEST_CASE("removing the newest version uncovers the one before it without a gap") {
    const auto scenario = [] {
      auto store = fresh_store();
      store->make(1, key_a, 1, 100);
      store->make(2, key_a, 2, 200);
      store->writer().insert(key_a, 2);
      Program program;
      program.threads.push_back([store] {
        const std::uint64_t first = store->get(0, key_a);
        const std::uint64_t second = store->get(0, key_a);
        claim(first != 0 && second != 0, "the id was there all the time and was not found");
        claim(first == Store::undecided || second == Store::undecided || second <= first,
              "a removed version came back");
      });
      program.threads.push_back([store] {
        store->writer().replace(key_a, 2, 1);
        set_state(store->entries[2], State::removing);
      });
      return program;
    };
    holds(3, scenario);
  }

  TEST_CASE("a key is found at every moment of the table's growth") {
    // Line 0 holds keys 0 and 2; the third line takes key 2 away from it.
    const auto scenario = [](bool publish_first) {
      return [publish_first] {
        auto store = fresh_store();
        store->make(1, key_a, 1, 100);
        store->make(2, key_c, 1, 200);
        store->writer().insert(key_a, 1);
        store->writer().insert(key_c, 2);
        Program program;
        program.threads.push_back([store] {
          claim(store->get(0, key_c) != 0, "a key was lost to growth");
        });
        program.threads.push_back([store, publish_first] {
          if (!publish_first) {
            store->writer().grow();
            return;
          }
          store->in_use.store(3, std::memory_order_release);
          store->writer().erase(key_c, 2);
          store->writer().insert(key_c, 2);
        });
        program.at_end = [store] {
          claim(store->in_use.load() == 3, "three lines now");
          claim(store->get(1, key_a) == 1 && store->get(1, key_c) == 1, "both keys still there");
        };
        return program;
      };
    };
    holds(4, scenario(false));
    fails(scenario(true));  // a growth that publishes before it copies
  }

  TEST_CASE("a key in the line is found while overflow lines come, go and change owners") {
    const auto scenario = [] {
      auto store = fresh_store();
      // Line 0: keys 0, 2 and, in an overflow line, 4.
      store->make(1, key_a, 1, 100);
      store->make(2, key_c, 1, 200);
      store->make(3, 4, 1, 300);
      store->writer().insert(key_a, 1);
      store->writer().insert(key_c, 2);
      store->writer().insert(4, 3);
      Program program;
      program.threads.push_back([store] {
        claim(store->get(0, 6) == 0, "found what was never there");
        claim(store->get(0, key_c) != 0, "a key was lost to an overflow line");
      });
      program.threads.push_back([store] {
        store->writer().erase(4, 3);
        // The overflow line goes to line 1.
        store->writer().insert(1, 3);
        store->writer().insert(3, 3);
        store->writer().insert(5, 3);
      });
      return program;
    };
    holds(3, scenario);
  }
}

}  // namespace
