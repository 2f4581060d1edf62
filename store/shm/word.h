// SPDX-License-Identifier: Apache-2.0
// The word of an entry: its state, its flags and its generation in 64 bits, so that a reader can
// check with one load that nothing about the entry has changed.
//
//   63                                16 15      8 7       0
//   +-----------------------------------+---------+---------+
//   | generation                        | flags   | state   |
//   +-----------------------------------+---------+---------+
//
// The generation grows at every reuse of the entry, before any other field changes: two equal words
// (flags apart) therefore frame an unchanged entry. 48 bits last for 89 years at 100 000 reuses of
// one entry per second.
#pragma once

#include <cstdint>

namespace forebay::shm {

enum class State : std::uint8_t {
  free = 0,       // belongs to nobody; its fields mean nothing
  creating = 1,   // has memory and an owner, who may be writing; nobody else may see it
  sealed = 2,     // readable by everybody, for ever the same bytes
  evicting = 3,   // the daemon is looking for pins; becomes sealed again, spilled or a tombstone
  spilled = 4,    // its bytes live in a tier; the record says where
  restoring = 5,  // its bytes are on their way back into memory
  removing = 6,   // nobody finds it any more; its memory is given back when the last pin ends
  tombstone = 7,  // says why a version is gone; holds no memory
};
inline constexpr unsigned state_count = 8;

enum class WordFlag : std::uint8_t {
  // Somebody waits for the last pin of this entry: who releases it tells the daemon.
  wanted = 1U << 0U,
};

// Why a tombstone stands where a version was; in the record's flags.
enum class Reason : std::uint8_t { none = 0, evicted = 1, lost = 2, superseded = 3 };

class Word {
 public:
  constexpr explicit Word(std::uint64_t bits = 0) : bits_(bits) {}
  constexpr Word(State state, std::uint64_t generation, bool wanted = false)
      : bits_(generation << generation_shift |
              (wanted ? std::uint64_t{static_cast<std::uint8_t>(WordFlag::wanted)} << flag_shift
                      : 0) |
              static_cast<std::uint8_t>(state)) {}

  constexpr std::uint64_t bits() const { return bits_; }
  constexpr State state() const { return static_cast<State>(bits_ & 0xffU); }
  constexpr std::uint64_t generation() const { return bits_ >> generation_shift; }
  constexpr bool wanted() const {
    return (bits_ >> flag_shift & static_cast<std::uint8_t>(WordFlag::wanted)) != 0;
  }

  constexpr Word with(State state) const {
    return Word((bits_ & ~std::uint64_t{0xff}) | static_cast<std::uint8_t>(state));
  }
  constexpr Word with_wanted(bool wanted) const { return Word(state(), generation(), wanted); }
  // The word under which the entry's next life begins.
  constexpr Word reborn() const { return Word(State::free, generation() + 1); }

  // Equal apart from the flags: WANTED comes and goes while a segment stays what it is.
  constexpr bool frames_same_segment(Word other) const {
    return ((bits_ ^ other.bits_) & ~(std::uint64_t{0xff} << flag_shift)) == 0;
  }
  // The same segment, in whatever state.
  constexpr bool same_life(Word other) const { return generation() == other.generation(); }
  constexpr bool operator==(const Word&) const = default;

 private:
  static constexpr unsigned flag_shift = 8;
  static constexpr unsigned generation_shift = 16;
  std::uint64_t bits_;
};

}  // namespace forebay::shm
