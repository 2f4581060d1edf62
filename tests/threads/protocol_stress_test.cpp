// SPDX-License-Identifier: Apache-2.0
// The pin protocol under real threads: one daemon that makes, evicts, removes and reuses without
// pause, readers that get without pause. Payloads are plain memory, so ThreadSanitizer checks that
// nobody reads bytes that somebody may write.
#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "store/daemon/segment_table.h"
#include "tests/support/random.h"

namespace forebay {
namespace {

using daemon::EntryNumber;
using daemon::SegmentTable;
using shm::Probe;

constexpr int readers = 3;
constexpr int ids = 12;
constexpr std::size_t entries = 1024;
constexpr std::size_t payload_words = 8;

struct Payload {
  std::uint64_t words[payload_words];
};

struct Arena {
  Arena() : memory(regions.total + shm::page_bytes) {
    auto* base = memory.data() + shm::page_bytes -
                 reinterpret_cast<std::uintptr_t>(memory.data()) % shm::page_bytes;
    auto* stamp = new (base) shm::IndexStamp{};
    stamp->limits = limits;
    stamp->regions = regions;
    index = shm::IndexMap::over(base, regions);
    index.live->newest_lines.store(1);
    index.live->exact_lines.store(1);
    index.live->newest_lines_backed.store(limits.lines);
    index.live->exact_lines_backed.store(limits.lines);
    index.live->overflow_lines_backed.store(limits.overflow_lines);
    index.live->entries_backed.store(limits.entries);
    index.live->entries_end.store(1);
    index.live->next_serial.store(1);
  }
  shm::Limits limits{entries, 512, 512, 1};
  shm::Regions regions = shm::regions_of(limits);
  std::vector<std::byte> memory;
  shm::IndexMap index;
  std::vector<Payload> payloads = std::vector<Payload>(entries);
  std::vector<std::atomic<std::uint32_t>> counts[readers] = {
      std::vector<std::atomic<std::uint32_t>>(entries),
      std::vector<std::atomic<std::uint32_t>>(entries),
      std::vector<std::atomic<std::uint32_t>>(entries)};
  std::atomic<std::uint64_t> nudges{0};
  std::atomic<bool> ended{false};

  bool pinned(EntryNumber entry) {
    for (auto& table : counts)
      if (shm::look_at(table[entry]) != 0) return true;
    return false;
  }
};

std::string id_of(int number) { return "id" + std::to_string(number); }

// Gets at random until told to stop; returns how many segments it read.
std::uint64_t read(Arena& arena, int reader, test::Random random, std::atomic<int>& wrong) {
  std::uint64_t read = 0;
  while (!arena.ended.load()) {
    const int number = static_cast<int>(random.below(ids));
    const shm::Key key = shm::key_of(id_of(number), 0);
    EntryNumber held = 0;
    const Probe probe =
        shm::search(arena.index.newest, shm::newest_hash(key), [&](EntryNumber entry) {
          auto& count = arena.counts[reader][entry];
          const Probe answer =
              shm::try_pin(arena.index.entries[entry], count, {key.low, key.high, 0});
          if (answer == Probe::pinned) held = entry;
          if (answer == Probe::changed &&
              shm::release_pin(arena.index.entries[entry], count))
            arena.nudges.fetch_add(1);
          return answer;
        });
    if (probe != Probe::pinned) {
      // Id 0 always has a version: it is only ever replaced by a newer one.
      if (number == 0 && probe == Probe::mismatch) wrong.fetch_add(1);
      continue;
    }
    const std::uint64_t serial = arena.index.entries[held].serial.load(std::memory_order_relaxed);
    for (int again = 0; again < 3; ++again)
      for (const std::uint64_t word : arena.payloads[held].words)
        if (word != serial) wrong.fetch_add(1);
    ++read;
    if (shm::release_pin(arena.index.entries[held], arena.counts[reader][held]))
      arena.nudges.fetch_add(1);
  }
  return read;
}

TEST_SUITE("protocol stress") {
  TEST_CASE("readers never see bytes of another segment while the daemon reuses everything") {
    test::Random random("protocol stress");
    auto arena = std::make_unique<Arena>();
    SegmentTable table(arena->index, [](std::uint64_t, std::uint64_t) { return Result<void>(); });
    std::vector<EntryNumber> deferred;
    std::uint64_t versions[ids] = {};

    const auto put = [&](int number) {
      const std::string id = id_of(number);
      daemon::SegmentFields fields;
      fields.id = id;
      fields.key = shm::key_of(id, 0);
      fields.version = ++versions[number];
      const EntryNumber entry = table.begin(fields).value();
      for (std::uint64_t& word : arena->payloads[entry].words) word = table.serial(entry);
      table.seal(entry, 0);
    };
    const auto remove = [&](EntryNumber entry) {
      table.begin_removal(entry);
      if (arena->pinned(entry)) {
        table.set_wanted(entry, true);
        if (arena->pinned(entry)) {
          deferred.push_back(entry);
          return;
        }
      }
      table.finish_removal(entry);
    };

    put(0);
    std::atomic<int> wrong{0};
    std::atomic<std::uint64_t> segments_read{0};
    std::vector<std::thread> threads;
    for (int reader = 0; reader < readers; ++reader)
      threads.emplace_back([&, reader] {
        segments_read += read(*arena, reader,
                              test::Random("reader", random.seed() + 1 + static_cast<unsigned>(reader)),
                              wrong);
      });

    constexpr int steps = 300'000;
    for (int step = 0; step < steps; ++step) {
      const int number = static_cast<int>(random.below(ids));
      const auto newest = table.find_newest(shm::key_of(id_of(number), 0));
      if (!newest || number == 0) {
        put(number);
        if (number == 0) {
          // The versions before go: what is replaced is reused at once.
          const auto family = table.family(shm::key_of(id_of(0), 0));
          for (std::size_t i = 1; i < family.size(); ++i) remove(family[i]);
        }
      } else if (random.below(2) == 0) {
        remove(*newest);
      } else {
        table.mark_evicting(*newest);
        if (arena->pinned(*newest)) {
          table.unmark_evicting(*newest);
        } else {
          table.bury(*newest, shm::Reason::evicted);
          table.forget(*newest);
        }
      }
      if (step % 64 == 0)
        std::erase_if(deferred, [&](EntryNumber entry) {
          if (arena->pinned(entry)) return false;
          table.finish_removal(entry);
          return true;
        });
    }
    arena->ended.store(true);
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong.load() == 0);
    CHECK(segments_read.load() > 1000);
    for (const EntryNumber entry : deferred) {
      CHECK_FALSE(arena->pinned(entry));
      // Whoever ended the last pin of a wanted entry was told to say so.
      CHECK(arena->nudges.load() > 0);
    }
    MESSAGE("segments read: ", segments_read.load(), ", nudges: ", arena->nudges.load());
  }
}

}  // namespace
}  // namespace forebay
