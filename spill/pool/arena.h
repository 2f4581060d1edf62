// SPDX-License-Identifier: Apache-2.0
// Arena: the memory that a pool lends, and beside it the journal of what is committed there: two
// POSIX-shm objects, or two anonymous ones when the arena has no name.
//
// The memory is reserved and populated before open() returns, so that a machine that has too little
// says so at the start and not with a SIGBUS in the middle of a transfer. Objects with a name
// outlive the process. Whoever opens them again finds every entry whose state word was written,
// under the same incarnation and a new epoch. A lock keeps two pools from having the same arena.
//
// An entry is filled, then its state word says that it is there; clearing the word ends it. There
// is no moment at which a killed process would leave anything else than an entry or none. Not
// thread-safe, except that data may come and go in bytes() at any time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "store/descriptor.h"
#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill::pool {

struct ArenaOptions {
  std::string name;  // empty: the memory goes with the process
  std::uint64_t capacity_bytes = 0;
  std::uint32_t entries = 0;  // 0: one for each 32 KiB, at least 1024
  bool fresh = false;         // drop what a former pool of that name left
};

// One committed item. Its label lies in the arena, behind it (label_offset()).
struct ItemRecord {
  TierKey key;
  std::uint64_t slab_offset = 0;  // in the arena
  std::uint64_t slab_size = 0;
  std::uint64_t offset = 0;       // in the slab
  std::uint64_t size = 0;
  std::uint64_t version = 0;      // of its label
  std::uint64_t sequence = 0;     // of its commit: the higher the later
  std::uint32_t crc32c = 0;
  std::uint32_t label_crc = 0;
  std::uint16_t name_size = 0;
  std::uint16_t about_size = 0;
  std::uint32_t reserved = 0;

  std::uint64_t label_size() const { return std::uint64_t{name_size} + about_size; }
  std::uint64_t label_offset() const;     // in the slab
  std::uint64_t allocated_bytes() const;  // with the label, in whole cache lines
};

// What an item takes. 0: it would be too large for any pool.
std::uint64_t allocated_bytes(std::uint64_t size, std::uint64_t label_size);

struct JournalEntry {
  std::atomic<std::uint64_t> state{0};  // entry_free or entry_committed
  ItemRecord record;
  std::uint32_t crc = 0;  // of the record
  std::uint32_t reserved = 0;
};
static_assert(sizeof(JournalEntry) == 104);

class Arena {
 public:
  static Result<std::unique_ptr<Arena>> open(const ArenaOptions& options);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::span<std::byte> bytes() const { return bytes_; }
  std::uint64_t incarnation() const { return incarnation_; }
  std::uint64_t epoch() const { return epoch_; }
  bool was_there() const { return was_there_; }

  // Entries that were found, and how many were none: their sums do not fit, or they lie outside.
  std::vector<std::pair<std::uint32_t, ItemRecord>> recover();
  std::uint64_t torn() const { return torn_; }

  // Returns the entry; store_full when there is none left.
  Result<std::uint32_t> commit(ItemRecord record);
  void clear(std::uint32_t entry);
  std::uint64_t sequence() const { return sequence_; }  // of the last commit

  // When it ends, nothing is left under its name.
  void drop() { drop_ = true; }

 private:
  Arena() = default;
  Result<void> open_objects(const ArenaOptions& options);
  Result<void> reserve(const ArenaOptions& options);
  std::span<JournalEntry> entries() const;

  std::string name_;
  Descriptor arena_;
  Descriptor journal_;  // the lock is on this one
  std::span<std::byte> bytes_;
  std::span<std::byte> journal_bytes_;
  std::vector<std::uint32_t> free_entries_;
  std::uint64_t incarnation_ = 0;
  std::uint64_t epoch_ = 0;
  std::uint64_t sequence_ = 0;
  std::uint64_t torn_ = 0;
  bool was_there_ = false;
  bool drop_ = false;
};

}  // namespace forebay::spill::pool
