// SPDX-License-Identifier: Apache-2.0
// Freezes the bytes. A test that fails here means: another layout. Raise layout_version, and change
// LAYOUT.md in the same commit.
#include "store/shm/layout.h"

#include <doctest/doctest.h>

#include <cstddef>

namespace forebay::shm {
namespace {

TEST_SUITE("layout") {
  TEST_CASE("the entry is one cache line with its fields in place") {
    CHECK(sizeof(Entry) == 64);
    CHECK(offsetof(Entry, word) == 0);
    CHECK(offsetof(Entry, hash_low) == 8);
    CHECK(offsetof(Entry, hash_high) == 16);
    CHECK(offsetof(Entry, version) == 24);
    CHECK(offsetof(Entry, serial) == 32);
    CHECK(offsetof(Entry, location) == 40);
    CHECK(offsetof(Entry, size) == 48);
    CHECK(offsetof(Entry, brief) == 56);
  }

  TEST_CASE("the record is two cache lines with its fields in place") {
    CHECK(sizeof(Record) == 128);
    CHECK(offsetof(Record, id) == 0);
    CHECK(offsetof(Record, description_size) == 32);
    CHECK(offsetof(Record, description) == 36);
    CHECK(offsetof(Record, flags) == 56);
    CHECK(offsetof(Record, expires_s) == 60);
    CHECK(offsetof(Record, owner_slot) == 64);
    CHECK(offsetof(Record, writer_uid) == 68);
    CHECK(offsetof(Record, sealed_ns) == 72);
    CHECK(offsetof(Record, token) == 80);
    CHECK(offsetof(Record, in_tier) == 116);
    CHECK(offsetof(Record, older) == 120);
    CHECK(offsetof(Record, newer) == 124);
  }

  TEST_CASE("a bucket line is one cache line of seven slots") {
    CHECK(sizeof(Line) == 64);
    CHECK(offsetof(Line, slots) == 0);
    CHECK(offsetof(Line, overflow) == 56);
  }

  TEST_CASE("the stamp, the live page and the process slots are in place") {
    CHECK(offsetof(IndexStamp, magic) == 0);
    CHECK(offsetof(IndexStamp, layout_version) == 8);
    CHECK(offsetof(IndexStamp, store_uuid) == 24);
    CHECK(offsetof(IndexStamp, hash_seed) == 56);
    CHECK(offsetof(IndexStamp, limits) == 72);
    CHECK(offsetof(IndexStamp, regions) == 88);
    CHECK(sizeof(IndexStamp) <= page_bytes);
    CHECK(offsetof(IndexLive, newest_lines) == 0);
    CHECK(offsetof(IndexLive, exact_lines) == 4);
    CHECK(offsetof(IndexLive, epoch) == 8);
    CHECK(offsetof(IndexLive, entries_end) == 16);
    CHECK(offsetof(IndexLive, entries_backed) == 64);
    CHECK(offsetof(IndexLive, next_serial) == 80);
    CHECK(offsetof(IndexLive, arenas) == 128);
    CHECK(sizeof(ProcessSlot) == 64);
  }

  TEST_CASE("the pin table's head fits before its counts") {
    CHECK(offsetof(PinTableHead, magic) == 0);
    CHECK(offsetof(PinTableHead, co_owners) == 64);
    CHECK(offsetof(PinTableHead, tallies) == 576);
    CHECK(offsetof(PinTableHead, access_head) == 640);
    CHECK(offsetof(PinTableHead, access_log) == 704);
    CHECK(sizeof(PinTableHead) <= pin_counts_offset);
    CHECK(chunk_bytes == 64 * 1024);
  }

  TEST_CASE("shared atomics need no lock of their own") {
    CHECK(std::atomic<std::uint64_t>::is_always_lock_free);
    CHECK(std::atomic<std::uint32_t>::is_always_lock_free);
    CHECK(std::atomic<std::uint16_t>::is_always_lock_free);
    CHECK(std::atomic<std::uint8_t>::is_always_lock_free);
  }

  TEST_CASE("regions follow each other on whole pages and do not overlap") {
    for (const Limits& limits : {Limits{}, Limits{1024, 1024, 1024, 1}, Limits{4099, 1031, 17, 3}}) {
      const Regions regions = regions_of(limits);
      const std::uint64_t starts[] = {regions.processes,      regions.newest_lines,
                                      regions.exact_lines,    regions.overflow_lines,
                                      regions.entries,        regions.records,
                                      regions.annexes,        regions.extensions,
                                      regions.total};
      const std::uint64_t sizes[] = {limits.processes * sizeof(ProcessSlot),
                                     limits.lines * sizeof(Line),
                                     limits.lines * sizeof(Line),
                                     limits.overflow_lines * sizeof(Line),
                                     limits.entries * sizeof(Entry),
                                     limits.entries * sizeof(Record),
                                     limits.entries * sizeof(Annex),
                                     limits.entries * extension_bytes};
      CHECK(starts[0] == 2 * page_bytes);
      for (std::size_t i = 0; i < std::size(sizes); ++i) {
        CHECK(starts[i] % page_bytes == 0);
        CHECK(starts[i] + sizes[i] <= starts[i + 1]);
      }
    }
  }

  TEST_CASE("a word keeps state, generation and flag apart") {
    const Word word(State::sealed, 41, true);
    CHECK(word.state() == State::sealed);
    CHECK(word.generation() == 41);
    CHECK(word.wanted());
    CHECK(word.with(State::evicting).generation() == 41);
    CHECK(word.with(State::evicting).wanted());
    CHECK(word.with_wanted(false).state() == State::sealed);
    CHECK(word.reborn() == Word(State::free, 42));
    CHECK(word.frames_same_segment(word.with_wanted(false)));
    CHECK_FALSE(word.frames_same_segment(word.with(State::evicting)));
    CHECK_FALSE(word.frames_same_segment(word.reborn().with(State::sealed)));
    CHECK(word.same_life(word.with(State::evicting)));
    CHECK_FALSE(word.same_life(word.reborn().with(State::sealed)));
  }

  TEST_CASE("a location keeps arena and offset apart") {
    const Location location(7, (std::uint64_t{1} << 48U) - 64);
    CHECK(location.arena() == 7);
    CHECK(location.offset() == (std::uint64_t{1} << 48U) - 64);
    CHECK(Location(location.bits()) == location);
  }
}

}  // namespace
}  // namespace forebay::shm
