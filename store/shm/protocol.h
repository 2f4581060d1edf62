// SPDX-License-Identifier: Apache-2.0
// The pin protocol: how readers and the daemon agree, without a message, on which segments are in
// use. Everything that decides whether bytes may be reused is in this file, and this file is what
// the model-order tests (tests/store/shm/protocol_explorer_test.cpp) and the Promela model
// (tests/model/pins.pml) check.
//
//   reader                                    daemon
//   ------                                    ------
//   w1 = word; key matches?                   word := EVICTING (or REMOVING)      (seq_cst)
//   count += 1              (seq_cst)         look at every process's count       (seq_cst)
//   w2 = word               (seq_cst)         any pin: back, or defer
//   w2 frames w1? else count -= 1, again      none: free; reuse bumps the generation first
//
// Both sides write first and look second, all four in the single total order of seq_cst: either the
// daemon sees the pin or the reader sees the mark. Release and the WANTED flag are the same game
// with the roles swapped.
//
// The field loads are acquire and the field stores release, so that a reader that saw any field of
// the entry's next life also sees the word's next generation in w2.
#pragma once

#include <atomic>
#include <cstdint>

#include "store/shm/layout.h"
#include "store/shm/word.h"

namespace forebay::shm {

// Which segment a reader asks for; zero: whichever.
struct Wanted {
  std::uint64_t hash_low = 0;
  std::uint64_t hash_high = 0;
  std::uint64_t version = 0;
};

enum class Probe : std::uint8_t {
  pinned,     // the caller now holds one pin
  mismatch,   // another id or version, or nothing at all
  changed,    // something happened meanwhile: look again
  unsealed,   // being created; nobody's business but its creator's
  busy,       // the daemon has it in its hands (evicting, removing): look again shortly
  spilled,    // its bytes are in a tier; the daemon can bring them back
  tombstone,  // it is gone, and the record says why
};

// Reader: pins the segment in `entry` if it is the wanted one and readable. On `pinned`, location,
// size, serial and brief of the entry and the record are stable until the pin is released.
template <class Entry, class Count>
Probe try_pin(const Entry& entry, Count& count, const Wanted& wanted) {
  const Word before{entry.word.load(std::memory_order_acquire)};
  if (entry.hash_low.load(std::memory_order_acquire) != wanted.hash_low ||
      entry.hash_high.load(std::memory_order_acquire) != wanted.hash_high)
    return Probe::mismatch;
  if (wanted.version != 0 &&
      entry.version.load(std::memory_order_acquire) != wanted.version)
    return Probe::mismatch;
  switch (before.state()) {
    case State::sealed:
      break;
    case State::creating:
      return Probe::unsealed;
    case State::spilled:
    case State::restoring:
      return Probe::spilled;
    case State::evicting:
    case State::removing:
      return Probe::busy;
    case State::tombstone:
      return Probe::tombstone;
    case State::free:
      return Probe::mismatch;
  }
  count.fetch_add(1, std::memory_order_seq_cst);
  const Word after{entry.word.load(std::memory_order_seq_cst)};
  if (after.frames_same_segment(before)) return Probe::pinned;
  // The mistaken pin may just have made the daemon put off a removal, so its end must be told like
  // any other: the caller releases through release_pin and nudges if that says so.
  return Probe::changed;
}

// Reader: ends one pin. True: the daemon waits for this one and must be told.
template <class Entry, class Count>
bool release_pin(const Entry& entry, Count& count) {
  if (count.fetch_sub(1, std::memory_order_seq_cst) != 1) return false;
  return Word{entry.word.load(std::memory_order_seq_cst)}.wanted();
}

// Daemon: the entry's next life begins. Comes before any other field of it is written.
template <class Entry>
void begin_life(Entry& entry) {
  const Word word{entry.word.load(std::memory_order_relaxed)};
  entry.word.store(word.reborn().bits(), std::memory_order_release);
}

// Daemon: moves the entry to `state`; what was written to its fields before is visible to whoever
// sees the new state. Seq_cst, so that it also serves as the mark before a look at the pins.
template <class Entry>
void set_state(Entry& entry, State state) {
  const Word word{entry.word.load(std::memory_order_relaxed)};
  entry.word.store(word.with(state).bits(), std::memory_order_seq_cst);
}

// Daemon: asks for (or ends) nudges at the last release. Look at the pins after asking.
template <class Entry>
void set_wanted(Entry& entry, bool wanted) {
  const Word word{entry.word.load(std::memory_order_relaxed)};
  entry.word.store(word.with_wanted(wanted).bits(), std::memory_order_seq_cst);
}

// Daemon: one look at one process's count.
template <class Count>
std::uint32_t look_at(const Count& count) {
  return count.load(std::memory_order_seq_cst);
}

template <class Entry>
Word word_of(const Entry& entry) {
  return Word{entry.word.load(std::memory_order_acquire)};
}

}  // namespace forebay::shm
