// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/reader.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "spill/checksum.h"
#include "spill/stack/codec.h"
#include "spill/stack/sums.h"

namespace forebay::spill {
namespace {

// Checked where they arrive: a way through another thread would take longer.
constexpr std::uint64_t checked_at_once_bytes = 128 * 1024;

enum class Way : std::uint8_t {
  whole,    // one piece, straight into the destination
  staged,   // one piece, the whole into scratch; decoded or cut out there
  blocks,   // the table and the blocks that are touched
};

// Encoded bytes, and behind them room for decoding where only a part is wanted.
struct Plan {
  Way way = Way::whole;
  std::uint64_t scratch_bytes = 0;
};

Result<Plan> plan_for(const SpillPlace& place, std::uint64_t offset, std::uint64_t bytes) {
  const bool encoded = place.codec != SpillCodec::none;
  const bool sound =
      place.stored > 0 &&
      (encoded ? place.stored < place.size && place.size <= encoded_segment_bytes_max
               : place.stored == place.size) &&
      static_cast<unsigned>(place.codec) <= static_cast<unsigned>(SpillCodec::zstd) &&
      std::all_of(place.copies.begin(), place.copies.end(), [&](const TierPlace& copy) {
        if (copy.incarnation == 0) return true;
        const std::uint64_t table = place.packed != 0 ? 0 : table_bytes_of(place.stored);
        return place.inner <= copy.size && place.stored <= copy.size - place.inner &&
               table <= copy.size - place.inner - place.stored;
      });
  if (!sound || (place.packed != 0 && place.stored > sum_block_bytes))
    return fail(Errc::bad_argument, "the place of the segment contradicts itself; it is not one "
                                    "that a put was answered with");
  if (bytes == 0 || offset > place.size || bytes > place.size - offset)
    return fail(Errc::bad_argument,
                std::to_string(bytes) + " bytes from " + std::to_string(offset) +
                    " were asked for of a segment of " + std::to_string(place.size));
  const bool whole = bytes == place.size;
  if (encoded) return Plan{Way::staged, place.stored + (whole ? 0 : place.size)};
  if (whole) return Plan{Way::whole, 0};
  if (place.stored <= sum_block_bytes) return Plan{Way::staged, place.stored};
  return Plan{Way::blocks, 2 * sum_block_bytes + table_bytes_of(place.stored)};
}

}  // namespace

struct Reader::Reading {
  struct Piece {
    std::uint64_t at;  // in the item
    std::span<std::byte> into;
  };
  struct Candidate {
    unsigned copy;
    std::size_t tier;
    bool again;
  };

  SpillPlace place;
  std::uint64_t offset = 0;
  std::span<std::byte> into;
  TierPriority priority = TierPriority::demand;
  TierDeadline deadline{};
  Spill::Done done;

  Plan plan;
  Scratch::Piece scratch;
  std::vector<Piece> pieces;

  std::deque<Candidate> candidates;
  std::optional<Candidate> asked;
  bool shortened = false;          // what was asked got less than all the time
  bool silent = false;             // a tier that may hold it does not answer
  bool after_failure = false;
  std::array<bool, 2> bad{};       // copies that are corrupt or gone
  std::string why;
  std::optional<Error> final_error;

  std::mutex mutex;
  unsigned open = 0;               // Guarded by mutex.
  std::optional<Error> error;      // Guarded by mutex. The first of this attempt

  TierKey key() const { return {place.store, place.item}; }
  void say(const std::string& what) { why += (why.empty() ? "" : "; ") + what; }
  void make_pieces();
  bool sound();
  bool blocks_sound();
};

void Reader::Reading::make_pieces() {
  const auto memory = scratch.bytes();
  switch (plan.way) {
    case Way::whole: pieces = {{place.inner, into}}; return;
    case Way::staged: pieces = {{place.inner, memory.first(place.stored)}}; return;
    case Way::blocks: break;
  }
  const std::uint64_t end = offset + into.size();
  const auto end_of_block = [&](std::uint64_t number) {
    return std::min((number + 1) * sum_block_bytes, place.stored);
  };
  const std::uint64_t first = offset / sum_block_bytes;
  const std::uint64_t last = (end - 1) / sum_block_bytes;
  // Blocks that are wanted as a whole come to where they are wanted; the first and the last may
  // have to come through the scratch: its first and its second block.
  const bool head = offset % sum_block_bytes != 0 || (first == last && end != end_of_block(last));
  const bool tail = last != first && end != end_of_block(last);
  const std::uint64_t direct_from = first + (head ? 1 : 0);
  const std::uint64_t direct_to = last + 1 - (tail ? 1 : 0);
  if (head)
    pieces.push_back({first * sum_block_bytes,
                      memory.first(end_of_block(first) - first * sum_block_bytes)});
  if (tail) {
    const std::uint64_t from = last * sum_block_bytes;
    pieces.push_back({from, memory.subspan(sum_block_bytes, end_of_block(last) - from)});
  }
  if (direct_from < direct_to) {
    const std::uint64_t from = direct_from * sum_block_bytes;
    pieces.push_back({from, into.subspan(from - offset, end_of_block(direct_to - 1) - from)});
  }
  pieces.push_back({place.stored, memory.subspan(2 * sum_block_bytes)});  // the table; last
  for (Piece& piece : pieces) piece.at += place.inner;
}

bool Reader::Reading::blocks_sound() {
  const BlockSums sums = BlockSums::from_table(pieces.back().into, place.stored);
  if (place_sum(place, sums.item_sum()) != place.sum) return false;
  for (const Piece& piece : std::span(pieces).first(pieces.size() - 1)) {
    const std::uint64_t start = piece.at - place.inner;
    for (std::uint64_t at = 0; at < piece.into.size(); at += sum_block_bytes) {
      const auto block = piece.into.subspan(
          at, std::min<std::uint64_t>(sum_block_bytes, piece.into.size() - at));
      if (crc32c(block) != sums.block((start + at) / sum_block_bytes)) return false;
    }
  }
  for (const Piece& piece : std::span(pieces).first(pieces.size() - 1)) {
    const std::uint64_t start = piece.at - place.inner;
    if (piece.into.data() < scratch.bytes().data() ||
        piece.into.data() >= scratch.bytes().data() + scratch.bytes().size())
      continue;
    const std::uint64_t from = std::max(start, offset);
    const std::uint64_t to = std::min(start + piece.into.size(), offset + into.size());
    std::memcpy(into.data() + (from - offset), piece.into.data() + (from - start), to - from);
  }
  return true;
}

// Whether what has come is what went; then the destination has it.
bool Reader::Reading::sound() {
  if (plan.way == Way::blocks) return blocks_sound();
  const auto stored = pieces.front().into;
  if (place_sum(place, BlockSums::of(stored).item_sum()) != place.sum) return false;
  if (plan.way == Way::whole) return true;
  if (place.codec == SpillCodec::none) {
    std::memcpy(into.data(), stored.data() + offset, into.size());
    return true;
  }
  if (into.size() == place.size) return decode(place.codec, stored, into);
  const auto decoded = scratch.bytes().subspan(place.stored, place.size);
  if (!decode(place.codec, stored, decoded)) return false;
  std::memcpy(into.data(), decoded.data() + offset, into.size());
  return true;
}

void Reader::read(const SpillPlace& place, std::uint64_t offset, std::span<std::byte> into,
                  TierPriority priority, TierDeadline deadline, Spill::Done done) {
  const auto plan = plan_for(place, offset, into.size());
  if (!plan) return done(fail(plan.error()));
  const auto reading = std::make_shared<Reading>();
  reading->place = place;
  reading->offset = offset;
  reading->into = into;
  reading->priority = priority;
  reading->deadline = deadline;
  reading->done = std::move(done);
  reading->plan = *plan;
  remover_.hold(reading->key());
  const auto start = [this, reading](Result<Scratch::Piece> scratch) {
    if (!scratch) return finish(reading, fail(scratch.error()));
    reading->scratch = std::move(*scratch);
    reading->make_pieces();
    find_copies(*reading);
    attempt(reading);
  };
  if (plan->scratch_bytes == 0) return start(Scratch::Piece{});
  scratch_.take(plan->scratch_bytes, deadline, start);
}

void Reader::find_copies(Reading& reading) {
  bool any = false;
  for (unsigned copy = 0; copy < reading.place.copies.size(); ++copy) {
    const std::uint64_t incarnation = reading.place.copies[copy].incarnation;
    if (incarnation == 0) continue;
    any = true;
    const TierSet::Holder holder = tiers_.holder_of(incarnation);
    if (holder.tier && holder.up) {
      reading.candidates.push_back({copy, *holder.tier, false});
      continue;
    }
    reading.silent |= holder.may_return;
    reading.after_failure = true;
    reading.say(holder.why);
  }
  if (!any) reading.say("its place names no copy");
}

void Reader::attempt(const Open& reading) {
  if (tiers_.closed()) return finish(reading, closed_failure());
  const auto now = TierClock::now();
  if (reading->candidates.empty() || now >= reading->deadline) {
    // What was not asked for want of time may well be there.
    const bool silent = reading->silent || !reading->candidates.empty();
    if (now >= reading->deadline && reading->why.empty()) reading->say("the deadline has passed");
    return finish(reading, fail(silent ? Errc::tier_down : Errc::lost,
                                std::string(silent ? "no tier that holds the segment answers: "
                                                   : "no sound copy of the segment is left: ") +
                                    reading->why));
  }
  const Reading::Candidate candidate = reading->candidates.front();
  reading->candidates.pop_front();
  reading->asked = candidate;
  // Somebody waits for a demand get, so that another copy should be tried sooner.
  const int share = reading->priority == TierPriority::demand ? 4 : 2;
  reading->shortened = !reading->candidates.empty();
  const TierDeadline deadline =
      reading->shortened ? now + (reading->deadline - now) / share : reading->deadline;
  {
    const std::lock_guard lock(reading->mutex);
    reading->open = static_cast<unsigned>(reading->pieces.size());
    reading->error.reset();
  }
  // The last answer may start another attempt, or end it all, within the call.
  const std::vector<Reading::Piece> pieces = reading->pieces;
  for (const Reading::Piece& piece : pieces)
    tiers_.get(candidate.tier,
               {.key = reading->key(),
                .place = reading->place.copies[candidate.copy],
                .offset = piece.at,
                .into = piece.into,
                .priority = reading->priority},
               deadline,
               [this, reading](Result<void> result) { arrived(reading, std::move(result)); });
}

void Reader::arrived(const Open& reading, Result<void> result) {
  std::optional<Error> error;
  {
    const std::lock_guard lock(reading->mutex);
    if (!result && !reading->error) reading->error = std::move(result.error());
    if (--reading->open > 0) return;
    error = std::move(reading->error);
    reading->error.reset();
  }
  if (error) return failed(reading, *error);
  std::uint64_t bytes = 0;
  for (const auto& piece : reading->pieces) bytes += piece.into.size();
  if (bytes <= checked_at_once_bytes && reading->place.codec == SpillCodec::none)
    return check(reading);
  workers_.run(reading->priority, [this, reading] { check(reading); });
}

void Reader::check(const Open& reading) {
  if (reading->sound()) {
    const bool repaired = reading->after_failure;
    if (repaired) repaired_.fetch_add(1);
    const auto bad = reading->bad;
    const SpillPlace place = reading->place;
    finish(reading, {});
    if (bad_copy_)
      for (unsigned copy = 0; copy < bad.size(); ++copy)
        if (bad[copy]) bad_copy_(place, copy);
    return;
  }
  corrupt_.fetch_add(1);
  reading->after_failure = true;
  reading->bad[reading->asked->copy] = true;
  const auto rooms = tiers_.rooms();
  reading->say((reading->asked->tier < rooms.size() ? rooms[reading->asked->tier].status.name
                                                    : std::string("a tier")) +
               " gave bytes that do not fit their checksum");
  attempt(reading);
}

void Reader::failed(const Open& reading, const Error& error) {
  reading->after_failure = true;
  reading->say(error.message());
  const bool gone = error.is(Errc::lost) || error.is(Errc::not_found);
  const bool broken = error.code.category() == std::system_category();
  if (gone) {
    reading->bad[reading->asked->copy] = true;
  } else if (error.is(Errc::timed_out) && reading->shortened && !reading->asked->again) {
    reading->candidates.push_back({reading->asked->copy, reading->asked->tier, true});
  } else if (!broken) {
    reading->silent = true;
  }
  attempt(reading);
}

void Reader::finish(const Open& reading, Result<void> result) {
  remover_.release(reading->key());
  // Before the answer, so that who asks next within it finds room.
  reading->scratch = {};
  const Spill::Done done = std::move(reading->done);
  done(std::move(result));
}

}  // namespace forebay::spill
