// SPDX-License-Identifier: Apache-2.0
// SegmentTable: the daemon's hand on the index. Which segments there are, in which state, and how
// readers find them.
//
// The entries are the truth; slots, links and everything private here are derived from them, and
// each step is ordered so that a daemon that dies behind any store leaves an index from which
// `recover` makes the same again. All versions of an id that are not being created form its family:
// a list by version, one member of which, the representative, stands in the newest buckets: the
// highest readable version, or the highest tombstone where nothing is readable.
//
// Owned by the daemon's thread. Works on any memory laid out as an index.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "store/error.h"
#include "store/shm/buckets.h"
#include "store/shm/index_map.h"
#include "store/shm/object_home.h"
#include "store/spill.h"

namespace forebay::daemon {

using EntryNumber = std::uint32_t;
inline constexpr EntryNumber no_entry = shm::no_entry;

// What a new segment is, but for its memory.
struct SegmentFields {
  std::string_view id = {};
  shm::Key key = {};
  std::uint64_t version = 0;
  std::uint64_t size = 0;
  std::uint64_t brief = 0;
  std::span<const std::byte> description = {};  // written here only if it fits into the record
  shm::Location location{};
  std::uint32_t flags = 0;  // RecordFlag
  std::uint32_t expires_s = 0;  // while it is made: its time to live
  std::uint32_t owner_slot = 0;
  std::uint32_t writer_uid = 0;
  std::uint64_t token = 0;
};

// A step of growth: ranges of the index object that need memory, and what is backed then.
struct IndexGrowth {
  std::vector<shm::Range> ranges;
  std::uint32_t entries_backed = 0;
  std::uint32_t lines_backed = 0;  // of each bucket array
  std::uint32_t overflow_lines_backed = 0;
};

class SegmentTable {
 public:
  // Reserves memory for a range of the index object, at once.
  using Reserve = std::function<Result<void>(std::uint64_t offset, std::uint64_t bytes)>;

  SegmentTable(shm::IndexMap index, Reserve reserve);

  // --- room for entries

  // Whether one more segment can be begun and sealed.
  bool has_room() const;
  // Whether one that was begun can be sealed: others may have used up what was there for it.
  bool can_link() const;
  // What to reserve next, if it is time to; not asked again until `grown`.
  std::optional<IndexGrowth> wants_growth(bool urgent);
  void grown(const IndexGrowth& growth, bool succeeded);
  // Entries that the index can ever have.
  std::uint32_t entries_max() const { return limits_.entries; }
  bool at_limit() const { return live_->entries_backed.load() >= limits_.entries; }

  // --- looking

  std::optional<EntryNumber> find_exact(const shm::Key& key, std::uint64_t version) const;
  // The representative of an id's family.
  std::optional<EntryNumber> find_newest(const shm::Key& key) const;
  // All members of a family, highest version first.
  std::vector<EntryNumber> family(const shm::Key& key) const;
  // The highest version of the family, whatever its state; 0 if there is none.
  std::uint64_t highest_version(const shm::Key& key) const;

  shm::Key key_of(std::string_view id) const { return shm::key_of(id, hash_seed_); }
  shm::Word word(EntryNumber entry) const { return shm::word_of(index_.entries[entry]); }
  shm::Key key(EntryNumber entry) const;
  std::uint64_t version(EntryNumber entry) const;
  std::uint64_t serial(EntryNumber entry) const;
  std::uint64_t size(EntryNumber entry) const;
  shm::Location location(EntryNumber entry) const;
  std::uint32_t description_size(EntryNumber entry) const;
  std::uint32_t flags(EntryNumber entry) const;
  std::uint64_t brief(EntryNumber entry) const;
  std::uint32_t keep(EntryNumber entry) const { return shm::keep_of(flags(entry)); }
  std::uint32_t owner_slot(EntryNumber entry) const;
  std::uint64_t token(EntryNumber entry) const;
  std::string id(EntryNumber entry) const;
  bool has_flag(EntryNumber entry, shm::RecordFlag flag) const {
    return (flags(entry) & shm::flag_bit(flag)) != 0;
  }
  static bool readable(shm::State state) {
    return state == shm::State::sealed || state == shm::State::evicting ||
           state == shm::State::spilled || state == shm::State::restoring;
  }

  // --- the life of a segment

  // Takes an entry and writes it as CREATING. Fails when a long id's memory cannot be reserved.
  Result<EntryNumber> begin(const SegmentFields& fields);
  // Makes it visible, exactly and, if it is the highest, as the newest. A tombstone of the same
  // version makes place for it.
  // `as`: spilled for one that comes into this store with its bytes in a tier.
  void seal(EntryNumber entry, std::uint64_t now_ns, shm::State as = shm::State::sealed);
  // CREATING, or sealed and out of sight at once: nobody finds it from now on. Then REMOVING.
  void begin_removal(EntryNumber entry);
  // Nobody pins it: the entry is free for another life.
  void finish_removal(EntryNumber entry);
  // The mark of the eviction protocol; look at the pins after it.
  void mark_evicting(EntryNumber entry);
  void unmark_evicting(EntryNumber entry);
  // EVICTING becomes a tombstone with a reason.
  void bury(EntryNumber entry, shm::Reason reason);
  // A tombstone goes.
  void forget(EntryNumber entry);

  // --- tiers

  // Notes where the bytes lie in the tiers, besides or instead of in memory. Fails when the index can
  // get no memory for it.
  Result<void> set_place(EntryNumber entry, const SpillPlace& place);
  void clear_place(EntryNumber entry);
  bool has_place(EntryNumber entry) const;
  // Of an entry that has one.
  SpillPlace place(EntryNumber entry) const;
  bool has_memory(EntryNumber entry) const { return location(entry) != shm::Location::none(); }
  // EVICTING, with a place, becomes SPILLED: what it had of memory is the caller's then.
  void put_away(EntryNumber entry);
  // SPILLED becomes RESTORING, and then either of SEALED, with this memory, or SPILLED again.
  void begin_restore(EntryNumber entry);
  void restore(EntryNumber entry, shm::Location location, bool in_slab);
  void abandon_restore(EntryNumber entry);

  void set_wanted(EntryNumber entry, bool wanted) {
    shm::set_wanted(index_.entries[entry], wanted);
  }
  void set_owner(EntryNumber entry, std::uint32_t slot);
  void set_token(EntryNumber entry, std::uint64_t token);
  void set_flag(EntryNumber entry, shm::RecordFlag flag, bool value);
  void set_keep(EntryNumber entry, std::uint32_t keep);
  // Seconds after the store was born; 0: never.
  void set_expires(EntryNumber entry, std::uint32_t seconds);
  std::uint32_t expires(EntryNumber entry) const;

  // --- a restart

  struct Found {
    std::vector<EntryNumber> creating;
    std::vector<EntryNumber> removing;
    std::vector<EntryNumber> evicting;
    std::vector<EntryNumber> resident;    // sealed, with memory
    std::vector<EntryNumber> spilled;     // or on their way back: without memory
    std::vector<EntryNumber> tombstones;
    std::uint64_t slots_repaired = 0;
  };
  // Makes an index that another daemon left behind consistent, under its readers. Does not decide
  // anything: what is found creating, removing or evicting is the caller's to finish.
  Found recover();

  // --- counting

  // Readable versions.
  std::uint64_t sealed_count() const { return sealed_count_; }
  // Ids with a readable version or a tombstone.
  std::uint64_t id_count() const { return newest_count_; }
  const shm::IndexMap& index() const { return index_; }

 private:
  std::uint16_t place_number(EntryNumber entry) const;
  using Writer = shm::BucketWriter<shm::Counter, shm::Line>;

  EntryNumber take_entry();
  std::uint64_t take_serial();
  void keep_load(Writer& writer, std::uint64_t count, const shm::Counter& backed);
  bool same_key(EntryNumber entry, const shm::Key& key) const;
  void join_family(EntryNumber entry, EntryNumber representative);
  void leave_family(EntryNumber entry);
  // The member that should represent the family if `leaving` does no more; no_entry: none is left.
  EntryNumber next_representative(EntryNumber leaving) const;
  void unlink_newest(EntryNumber entry);
  void unlink_exact(EntryNumber entry);
  EntryNumber older(EntryNumber entry) const;
  EntryNumber newer(EntryNumber entry) const;
  void set_older(EntryNumber entry, EntryNumber other);
  void set_newer(EntryNumber entry, EntryNumber other);
  void rebuild_families(Found& found);

  shm::IndexMap index_;
  shm::IndexLive* live_;
  shm::Limits limits_;
  shm::Regions regions_;
  std::uint64_t hash_seed_;
  Reserve reserve_;
  std::unique_ptr<shm::OverflowPool> overflow_ = std::make_unique<shm::OverflowPool>();  // the writers'
  Writer newest_;
  Writer exact_;
  std::vector<EntryNumber> free_;     // used before, free again
  std::vector<bool> annex_backed_;      // by page of the annex region
  std::vector<bool> extension_backed_;  // likewise
  std::uint64_t newest_count_ = 0;
  std::uint64_t exact_count_ = 0;  // tombstones included
  std::uint64_t sealed_count_ = 0;
  bool growing_ = false;
};

}  // namespace forebay::daemon
