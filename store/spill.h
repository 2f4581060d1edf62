// SPDX-License-Identifier: Apache-2.0
// Spill: all tiers of a node together, as the daemon sees them: where segments go when memory runs
// short, and where they come back from.
//
// Behind it are the tiers in their order (pools, then disk), the choice between them, second copies,
// packs of small segments, compression and checksums. What comes back has been checked against the
// checksum in its place: it is exactly what went, or an error.
//
// As with a Tier, every operation is answered exactly once by its callback, soon after its deadline
// at the latest, and touches its source or destination until then and not after. Callbacks come from
// threads of its own (or from within the call) and must not wait. All calls may come from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "store/error.h"
#include "store/tier.h"

namespace forebay {

enum class SpillCodec : std::uint8_t { none = 0, lz4 = 1, zstd = 2 };

// Where a spilled segment lies. Plain bytes: the daemon keeps it in the index, so that a restarted
// one finds what its predecessor spilled. All zero: nowhere.
struct SpillPlace {
  std::array<TierPlace, 2> copies{};    // of the item that holds the segment; incarnation 0: none
  std::array<std::uint8_t, 16> store{}; // with `item`, the key of that item
  std::uint64_t item = 0;
  std::uint64_t inner = 0;              // where in the item the segment starts
  std::uint64_t stored = 0;             // bytes of it there: less than size when compressed
  std::uint64_t size = 0;               // bytes of the segment
  std::uint32_t sum = 0;                // checksum that binds key, size, codec and bytes
  SpillCodec codec = SpillCodec::none;
  std::uint8_t packed = 0;              // 1: it shares the item with others
  std::array<std::uint8_t, 2> reserved{};

  bool nowhere() const { return size == 0; }
  bool operator==(const SpillPlace&) const = default;
};
static_assert(sizeof(SpillPlace) == 120);

struct SpillOptions {
  SpillCodec codec = SpillCodec::none;
  unsigned replicas = 1;   // 1 or 2 pools; with fewer of them up, as many as there are
};

struct SpillSource {
  std::uint64_t serial = 0;  // of the segment: never used twice in a store
  std::span<const std::byte> bytes;
  SpillOptions options;
  TierLabel label;           // named: it goes into an item of its own, in a pool
};

struct SpillFound {
  SpillPlace place;
  TierLabel label;
};

// A segment whose bytes were put elsewhere, because its pack had become mostly empty or because the
// tier that held it is going.
struct SpillMove {
  std::uint64_t serial = 0;
  SpillPlace from;
  SpillPlace to;
};

struct SpillStatus {
  std::vector<TierStatus> tiers;  // in their order
  std::uint64_t packs = 0;
  std::uint64_t packed_bytes = 0;       // in packs, of living segments
  std::uint64_t packs_bytes = 0;        // of the packs as they lie there
  std::uint64_t compactions = 0;
  std::uint64_t repaired = 0;           // gets that the second copy answered
  std::uint64_t corrupt = 0;            // copies whose checksum did not fit
};

class Spill {
 public:
  using SpillDone = std::function<void(Result<SpillPlace>)>;
  using Done = std::function<void(Result<void>)>;
  using FindDone = std::function<void(Result<SpillFound>)>;
  // Returns whether the segment's place was `from` and is `to` from now on. If not, `to` is forgotten.
  using Moved = std::function<void(SpillMove move, std::function<void(bool taken)> answer)>;

  virtual ~Spill() = default;

  // Called before anything else, by a daemon that has taken over a store: what it still knows.
  // Whatever else the tiers hold for this store is removed in the background.
  virtual void adopt(std::vector<std::pair<std::uint64_t, SpillPlace>> segments) = 0;
  virtual void on_moved(Moved moved) = 0;

  virtual void put(SpillSource source, TierDeadline deadline, SpillDone done) = 0;
  // `into` has place.size bytes. Fails with lost when no copy is there or sound any more, tier_down
  // when the tiers that hold it do not answer.
  virtual void get(SpillPlace place, std::span<std::byte> into, TierPriority priority,
                   TierDeadline deadline, Done done) = 0;
  // Bytes [offset, offset + into.size()) of the segment, checked as well.
  virtual void get_range(SpillPlace place, std::uint64_t offset, std::span<std::byte> into,
                         TierDeadline deadline, Done done) = 0;
  // The segment is wanted no more, or never came to be. Not answered; retried until it is done.
  virtual void forget(SpillPlace place) = 0;
  // Waits until all that was forgotten is gone from the tiers that answer, at most to the deadline.
  virtual void settle(TierDeadline deadline) = 0;
  // What any node has published under that name; version 0: the newest.
  virtual void find(std::string name, std::uint64_t version, TierDeadline deadline,
                    FindDone done) = 0;
  // Which tiers hold it, in the order of the copies: indices into status().tiers; -1: none that is
  // known now.
  virtual std::array<int, 2> tiers_of(const SpillPlace& place) const = 0;
  virtual SpillStatus status() const = 0;
  virtual void memory_leaves(std::span<const std::byte> bytes) = 0;
};

}  // namespace forebay
