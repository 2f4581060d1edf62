// SPDX-License-Identifier: Apache-2.0
// Transfers: what is on its way between memory and the tiers, and who waits for it.
//
// Bookkeeping of the rules, in their terms; whoever does the work answers with the job's number.
// Owned by the daemon's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "store/daemon/arena_space.h"
#include "store/daemon/clock.h"
#include "store/daemon/segment_table.h"
#include "store/daemon/ticket.h"
#include "store/spill.h"
#include "store/tiers.h"

namespace forebay::daemon {

// Bytes of the arena that are to be copied into a tier. Answered by Rules::copied.
struct CopyJob {
  std::uint64_t number = 0;
  std::uint64_t serial = 0;
  std::uint64_t offset = 0;  // in the arena
  std::uint64_t bytes = 0;   // payload, and the description behind it
  bool urgent = false;       // somebody waits for the memory
  TierLabel label;           // named: published under that name
};

// A segment whose bytes are to come back, to this place in the arena. Answered by Rules::fetched.
struct FetchJob {
  std::uint64_t number = 0;
  SpillPlace place;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  TierPriority priority = TierPriority::demand;
};

// Memory that is to be free again.
struct Memory {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;  // stored
  bool in_slab = false;
};

// A copy on its way.
struct Copying {
  EntryNumber entry = no_entry;
  std::uint64_t serial = 0;
  std::uint64_t bytes = 0;
  bool put_away = false;            // and give its memory back then
  bool publish = false;
  std::vector<Ticket> batches;      // requests that wait for it
  // What was copied is in the store no more; its memory is free as soon as nobody reads it.
  std::optional<Memory> orphan;
};

// A segment that somebody wants back.
struct Restoring {
  EntryNumber entry = no_entry;
  bool demand = false;
  bool growing = false;             // its memory is on its way
  std::optional<Memory> memory;     // then the fetch runs
  std::vector<Ticket> batches;      // requests that wait for it; gets are among the waiters
};

struct Transfers {
  std::unordered_map<std::uint64_t, Copying> copies;       // by job
  std::unordered_map<EntryNumber, std::uint64_t> copy_of;  // the job that copies it
  std::uint64_t copying_bytes = 0;
  // By serial: the entry may have another life before its former one's bytes have arrived.
  std::unordered_map<std::uint64_t, Restoring> restores;
  std::unordered_map<std::uint64_t, std::uint64_t> fetches;  // serials by job
  std::uint64_t fetching_bytes = 0;
  // Serials of those without memory, in order of arrival; also some that have it by now, or that
  // nobody wants any more, or as the other kind.
  std::deque<std::uint64_t> demanded;
  std::deque<std::uint64_t> prefetched;
  // What has just come back stays until somebody has pinned it, or for so long.
  std::unordered_map<EntryNumber, TimePoint> fresh_until;
  std::unordered_map<std::uint64_t, EntryNumber> by_serial;  // of segments that have a place
  std::uint64_t clean_bytes = 0;                             // in memory and in a tier
  std::uint64_t spilled_bytes = 0;                           // in a tier alone
  std::uint64_t spilled = 0;
};

// A request about several segments, answered when all of them are dealt with.
struct TransferBatch {
  std::uint64_t left = 0;
  std::uint64_t done = 0;
  std::optional<Error> error;  // the first
};

enum class TransferVerb : std::uint8_t {
  prefetch = 1,  // into memory, when there is time; not waited for
  restore = 2,   // into memory, now
  spill = 3,     // into a tier, and out of memory if nobody pins it
  publish = 4,   // into the pool, where other nodes find it by its id
};

struct TransferItem {
  std::string_view id;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
};

}  // namespace forebay::daemon
