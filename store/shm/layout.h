// SPDX-License-Identifier: Apache-2.0
// The bytes that processes share. LAYOUT.md draws them; layout_test.cpp freezes the offsets.
//
// Three kinds of shared-memory objects, each with one writer:
//   index      daemon writes, clients map it read-only: which segments there are, and where
//   arena      creators and the daemon write, everybody maps it read-only: the payloads
//   pin table  one per client process, which alone writes it: what that process holds
//
// Every field that changes after a peer can see it is an atomic. The structs are templates over the
// atomic type so that the tests can run the same code under a memory-model explorer; the product
// uses std::atomic (the aliases without "Basic").
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "store/id.h"
#include "store/shm/word.h"

namespace forebay::shm {

template <class T>
using StdAtomic = std::atomic<T>;

// Any change of a struct below is a new layout: peers of another version are refused by name.
inline constexpr std::uint32_t layout_version = 4;
inline constexpr std::array<char, 8> index_magic{'F', 'B', 'Y', 'I', 'N', 'D', 'E', 'X'};
inline constexpr std::array<char, 8> pin_table_magic{'F', 'B', 'Y', 'P', 'I', 'N', 'S', '\0'};

inline constexpr std::uint64_t page_bytes = 4096;
// Payloads start on a cache line at least, as Arrow, NPY and AVX-512 like it.
inline constexpr std::uint64_t payload_alignment = 64;
// Entry number 0 is never used: it stands for "none" in slots and links.
inline constexpr std::uint32_t no_entry = 0;

// ------------------------------------------------------------------------------------- the entry

// One version of one id. One cache line: a reader that hits touches no other line of the index but
// the bucket line that named the entry.
template <template <class> class Atomic>
struct alignas(64) BasicEntry {
  Atomic<std::uint64_t> word;       // state, flags and generation: see word.h
  Atomic<std::uint64_t> hash_low;   // 128-bit hash of the id, keyed by the stamp's hash_seed
  Atomic<std::uint64_t> hash_high;  //
  Atomic<std::uint64_t> version;    // 1 and up
  Atomic<std::uint64_t> serial;     // store-wide, never reused: what a ref holds on to
  Atomic<std::uint64_t> location;   // arena number and offset: see Location
  Atomic<std::uint64_t> size;       // payload bytes
  Atomic<std::uint64_t> brief;      // what the bytes are, in short: see Brief
};
using Entry = BasicEntry<StdAtomic>;
static_assert(sizeof(Entry) == 64);

class Location {
 public:
  constexpr explicit Location(std::uint64_t bits = 0) : bits_(bits) {}
  constexpr Location(std::uint16_t arena, std::uint64_t offset)
      : bits_(std::uint64_t{arena} << offset_width | offset) {}
  constexpr std::uint64_t bits() const { return bits_; }
  constexpr std::uint16_t arena() const { return static_cast<std::uint16_t>(bits_ >> offset_width); }
  constexpr std::uint64_t offset() const {
    return bits_ & ((std::uint64_t{1} << offset_width) - 1);
  }
  // Of a segment that has no memory: its bytes are in a tier.
  static constexpr Location none() { return Location(~std::uint64_t{0}); }
  constexpr bool operator==(const Location&) const = default;

 private:
  static constexpr unsigned offset_width = 48;
  std::uint64_t bits_;
};

// What a segment's bytes are. Plain arrays of up to two dimensions are described completely by
// these 64 bits, so that a get reads the entry alone; the rest is in the description (see Record).
//
//   63          32 31    24 23    16 15     8 7      0
//   +-------------+--------+--------+--------+--------+
//   | first dim   | flags  | ndim   | dtype  | kind   |
//   +-------------+--------+--------+--------+--------+
enum class Kind : std::uint8_t {
  bytes = 0,     // nothing is known
  array = 1,     // an n-dimensional array
  object = 2,    // what a language's serializer made: parts, see shm/object.h
  table = 3,     // reserved: an Arrow table
  group = 4,     // several named arrays; the description says which and where
  manifest = 5,  // the payload is a list of (id, version, serial): see shm/manifest.h
};

enum class BriefFlag : std::uint8_t {
  fortran_order = 1U << 0U,
  dims_in_description = 1U << 1U,   // dtype is a code; the description holds ndim dims
  dtype_in_description = 1U << 2U,  // both dims and the dtype's text are in the description
};

struct Brief {
  Kind kind = Kind::bytes;
  std::uint8_t dtype = 0;  // code of a plain dtype: see store/array_type.cpp
  std::uint8_t ndim = 0;
  std::uint8_t flags = 0;
  std::uint32_t first_dim = 0;

  constexpr bool has(BriefFlag flag) const {
    return (flags & static_cast<std::uint8_t>(flag)) != 0;
  }
  constexpr std::uint64_t bits() const {
    return std::uint64_t{static_cast<std::uint8_t>(kind)} | std::uint64_t{dtype} << 8U |
           std::uint64_t{ndim} << 16U | std::uint64_t{flags} << 24U |
           std::uint64_t{first_dim} << 32U;
  }
  static constexpr Brief from_bits(std::uint64_t bits) {
    return {static_cast<Kind>(bits & 0xffU), static_cast<std::uint8_t>(bits >> 8U),
            static_cast<std::uint8_t>(bits >> 16U), static_cast<std::uint8_t>(bits >> 24U),
            static_cast<std::uint32_t>(bits >> 32U)};
  }
};

// ------------------------------------------------------------------------------------ the record

inline constexpr std::size_t record_id_words = 4;            // 1 length byte and 31 bytes of id
inline constexpr std::size_t record_id_bytes = record_id_words * 8 - 1;
inline constexpr std::size_t record_description_words = 5;   // 20 bytes
inline constexpr std::size_t record_description_bytes = record_description_words * 4;
inline constexpr std::uint32_t description_bytes_max = 64 * 1024;

enum class RecordFlag : std::uint32_t {
  evictable = 1U << 0U,   // may be dropped without a tier
  persistent = 1U << 1U,  // outlives an embedded daemon that ends for want of clients
  in_slab = 1U << 2U,     // shares its pages with other small segments
  held = 1U << 3U,        // some process, or some manifest, holds it
  claim = 1U << 4U,       // creating: nothing but the right to make this version
  taken = 1U << 5U,       // its memory was another version's, which died for it
  scope = 1U << 6U,       // creating: no segment, but a prefix that some process has begun
  doomed = 1U << 7U,      // of a scope that has ended: goes as soon as it is sealed, or not listed
  reason_shift = 8,       // bits 8..15: Reason of a tombstone (a shift, not a flag)
  keep_shift = 16,        // bits 16..31: how many versions of the id stay (a shift, not a flag)
};
// Of keep: 0 is what the namespace says.
inline constexpr std::uint32_t keep_all = 65535;

// The rest of what is known about the segment of the same number. Cold: no get needs it.
template <template <class> class Atomic>
struct alignas(128) BasicRecord {
  Atomic<std::uint64_t> id[record_id_words];  // byte 0: length; longer than 31: the id is in the annex
  Atomic<std::uint32_t> description_size;     // bytes of description
  Atomic<std::uint32_t> description[record_description_words];  // if it fits; else behind the payload
  Atomic<std::uint32_t> flags;                // RecordFlag, Reason
  Atomic<std::uint32_t> expires_s;            // seconds after the stamp's born_ns; 0: never
  Atomic<std::uint32_t> owner_slot;           // process slot of the creator, while creating
  Atomic<std::uint32_t> writer_uid;           // who wrote it, for ever
  Atomic<std::uint64_t> sealed_ns;            // CLOCK_REALTIME
  Atomic<std::uint64_t> token;                // the request that made it: a retry finds it again
  Atomic<std::uint64_t> reserved_a[2];
  Atomic<std::uint32_t> reserved_b[3];
  Atomic<std::uint16_t> in_tier;              // 1 or 2: the place in the extension that counts; 0: it is in no tier
  Atomic<std::uint16_t> reserved_c;
  Atomic<std::uint32_t> older;                // next lower version of the id, any state but creating
  Atomic<std::uint32_t> newer;                // next higher one
};
using Record = BasicRecord<StdAtomic>;
static_assert(sizeof(Record) == 128);

// Ids that do not fit into the record, by the same number. Sparse: a page exists once it is needed.
template <template <class> class Atomic>
struct alignas(256) BasicAnnex {
  Atomic<std::uint64_t> id[32];  // byte 0: length
};
using Annex = BasicAnnex<StdAtomic>;
static_assert(sizeof(Annex) == 256 && id_bytes_max == 255);

// Where the bytes of a segment lie in the tiers, by the same number: twice 15 words that are the
// daemon's alone (a SpillPlace, see store/spill.h), so that a new place can be written while the old
// one counts. Sparse, like the annexes.
inline constexpr std::uint64_t extension_bytes = 256;
inline constexpr std::size_t place_words = 15;
template <template <class> class Atomic>
struct alignas(256) BasicExtension {
  struct Place {
    Atomic<std::uint64_t> words[place_words];
    Atomic<std::uint64_t> reserved;
  };
  Place places[2];
};
using Extension = BasicExtension<StdAtomic>;
static_assert(sizeof(Extension) == extension_bytes);

// ---------------------------------------------------------------------------------- bucket lines

inline constexpr std::size_t line_slots = 7;

// Seven slots and a link: one cache line answers most look-ups, and all misses but a few.
// A slot is (32 bits of hash) << 32 | entry number; 0 is an empty slot.
template <template <class> class Atomic, std::size_t Slots = line_slots>
struct alignas(64) BasicLine {
  Atomic<std::uint64_t> slots[Slots];
  Atomic<std::uint32_t> overflow;  // number of an overflow line; 0: none
  Atomic<std::uint32_t> reserved;
};
using Line = BasicLine<StdAtomic>;
static_assert(sizeof(Line) == 64);

// ------------------------------------------------------------------------------------- the stamp

inline constexpr std::size_t uuid_bytes = 16;
inline constexpr std::size_t namespace_bytes_max = 64;

// How large the regions may grow. They are sparse: only what is used is backed by memory.
struct Limits {
  std::uint32_t entries = 1U << 24U;
  std::uint32_t lines = 1U << 23U;  // of each of the two bucket arrays
  std::uint32_t overflow_lines = 1U << 22U;
  std::uint32_t processes = 4096;

  bool operator==(const Limits&) const = default;
};

// Where the regions of an index lie, from its limits alone. Each starts on a page.
struct Regions {
  std::uint64_t processes;
  std::uint64_t newest_lines;
  std::uint64_t exact_lines;
  std::uint64_t overflow_lines;
  std::uint64_t entries;
  std::uint64_t records;
  std::uint64_t annexes;
  std::uint64_t extensions;
  std::uint64_t total;

  bool operator==(const Regions&) const = default;
};

// The first page of an index. Written once, before anybody else can see it.
struct IndexStamp {
  std::array<char, 8> magic;
  std::uint32_t layout_version;
  std::uint32_t entry_bytes;
  std::uint32_t record_bytes;
  std::uint32_t line_bytes;
  std::array<std::uint8_t, uuid_bytes> store_uuid;
  std::array<std::uint8_t, uuid_bytes> boot_id;  // pids and start times mean something within one boot
  std::uint64_t hash_seed;
  std::uint64_t born_ns;  // CLOCK_REALTIME
  Limits limits;
  Regions regions;
  std::uint64_t namespace_generation;
  std::uint32_t owner_uid;
  std::uint32_t mode;  // UNIX rwx of the namespace
  std::array<char, namespace_bytes_max + 1> namespace_name;  // ends with a NUL
};
static_assert(sizeof(IndexStamp) <= page_bytes);

inline constexpr std::size_t arenas_max = 64;

template <template <class> class Atomic>
struct BasicArenaSlot {
  Atomic<std::uint64_t> bytes;       // address space; 0: no such arena
  Atomic<std::uint64_t> generation;  // of the namespace, when it was made
};

// The second page of an index: what the daemon changes as it goes.
template <template <class> class Atomic>
struct BasicIndexLive {
  // One line that every reader has in its cache: it changes only when the index grows.
  Atomic<std::uint32_t> newest_lines;  // bucket lines in use, by id
  Atomic<std::uint32_t> exact_lines;   // bucket lines in use, by (id, version)
  Atomic<std::uint64_t> epoch;         // grows when rights are revoked
  Atomic<std::uint32_t> entries_end;   // entries from this number on were never used
  Atomic<std::uint32_t> reserved_a;
  Atomic<std::uint64_t> reserved_b[5];
  // What is backed by memory. Nobody touches anything beyond: a hole in a full tmpfs is a SIGBUS.
  alignas(64) Atomic<std::uint32_t> entries_backed;
  Atomic<std::uint32_t> newest_lines_backed;
  Atomic<std::uint32_t> exact_lines_backed;
  Atomic<std::uint32_t> overflow_lines_backed;
  Atomic<std::uint64_t> next_serial;
  Atomic<std::uint32_t> daemon_pid;
  Atomic<std::uint32_t> daemon_starts;   // how often a daemon has taken over this store
  Atomic<std::uint64_t> next_event;      // number of the next event: cursors mean it
  Atomic<std::uint64_t> reserved_c[3];
  BasicArenaSlot<Atomic> arenas[arenas_max];
};
using IndexLive = BasicIndexLive<StdAtomic>;
static_assert(offsetof(IndexLive, entries_backed) == 64 && sizeof(IndexLive) <= page_bytes);

enum class SlotState : std::uint32_t { free = 0, held = 1 };

// One process that has, or had, a pin table. Written by the daemon alone, so that after a restart
// it can tell whose table is whose, whatever clients wrote into their tables.
template <template <class> class Atomic>
struct alignas(64) BasicProcessSlot {
  Atomic<std::uint32_t> state;       // SlotState
  Atomic<std::uint32_t> pid;         // 0: a fork's child that has not said yet who it is
  Atomic<std::uint32_t> uid;
  Atomic<std::uint32_t> gid;
  Atomic<std::uint64_t> start_time;  // clock ticks after boot, as in /proc/PID/stat
  Atomic<std::uint64_t> token;       // a secret: who shows it after a reconnect gets the table back
  Atomic<std::uint64_t> table;       // number of the pin table's object, never reused
  Atomic<std::uint64_t> pid_namespace;  // inode of the daemon's own view; reserved
  Atomic<std::uint64_t> reserved[2];
};
using ProcessSlot = BasicProcessSlot<StdAtomic>;
static_assert(sizeof(ProcessSlot) == 64);

constexpr std::uint64_t page_align(std::uint64_t bytes) {
  return (bytes + page_bytes - 1) & ~(page_bytes - 1);
}

constexpr Regions regions_of(const Limits& limits) {
  Regions regions{};
  std::uint64_t at = 2 * page_bytes;
  const auto place = [&at](std::uint64_t count, std::uint64_t bytes) {
    const std::uint64_t start = at;
    at += page_align(count * bytes);
    return start;
  };
  regions.processes = place(limits.processes, sizeof(ProcessSlot));
  regions.newest_lines = place(limits.lines, sizeof(Line));
  regions.exact_lines = place(limits.lines, sizeof(Line));
  regions.overflow_lines = place(limits.overflow_lines, sizeof(Line));
  regions.entries = place(limits.entries, sizeof(Entry));
  regions.records = place(limits.entries, sizeof(Record));
  regions.annexes = place(limits.entries, sizeof(Annex));
  regions.extensions = place(limits.entries, extension_bytes);
  regions.total = at;
  return regions;
}

// --------------------------------------------------------------------------------- the pin table

inline constexpr std::uint32_t chunk_entries = 16384;  // one grant: 64 KiB of counts
inline constexpr std::uint64_t chunk_bytes = std::uint64_t{chunk_entries} * 4;
inline constexpr std::size_t co_owners_max = 32;
inline constexpr std::uint32_t access_log_slots = 4096;

// A process that shares a table it inherited at a fork, because no daemon answered in time.
template <template <class> class Atomic>
struct BasicCoOwner {
  Atomic<std::uint32_t> pid;  // 0: nobody
  Atomic<std::uint32_t> reserved;
  Atomic<std::uint64_t> start_time;  // 0: not known, the pid alone must do
};

// What a process tells about its reads, for metrics. Lossy: plain load-add-store, no locked add.
template <template <class> class Atomic>
struct BasicTallies {
  Atomic<std::uint64_t> gets;
  Atomic<std::uint64_t> misses;
  Atomic<std::uint64_t> bytes;
  Atomic<std::uint64_t> puts;
  Atomic<std::uint64_t> reserved[4];
};

// The first 64 KiB of a pin table; the counts follow, one u32 for each entry.
template <template <class> class Atomic>
struct BasicPinTableHead {
  std::array<char, 8> magic;
  std::uint32_t layout_version;
  std::uint32_t slot;
  std::array<std::uint8_t, uuid_bytes> store_uuid;
  std::uint32_t entries;  // how many counts there is address space for
  std::uint32_t reserved;
  alignas(64) BasicCoOwner<Atomic> co_owners[co_owners_max];
  alignas(64) BasicTallies<Atomic> tallies;
  // First pins, oldest overwritten: how the eviction policy learns of reads.
  alignas(64) Atomic<std::uint64_t> access_head;
  alignas(64) Atomic<std::uint32_t> access_log[access_log_slots];
};
using PinTableHead = BasicPinTableHead<StdAtomic>;
inline constexpr std::uint64_t pin_counts_offset = 64 * 1024;
static_assert(sizeof(PinTableHead) <= pin_counts_offset);

// In whole chunks: a grant is one, also where the last entries fill it in part.
constexpr std::uint64_t pin_table_bytes(const Limits& limits) {
  const std::uint64_t chunks = (std::uint64_t{limits.entries} + chunk_entries - 1) / chunk_entries;
  return pin_counts_offset + chunks * chunk_bytes;
}

}  // namespace forebay::shm
