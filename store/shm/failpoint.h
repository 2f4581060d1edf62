// SPDX-License-Identifier: Apache-2.0
// Failpoints: named moments at which a test can have the process killed, stopped or delayed.
//
// Armed only by FOREBAY_FAILPOINTS when the process starts, as a list of name=action or
// name:n=action (the nth time), separated by commas. Actions: kill (SIGKILL), stop (SIGSTOP), abort,
// delay/MILLISECONDS. Unarmed, a failpoint costs one load and one predicted branch.
#pragma once

#include <array>
#include <atomic>
#include <string_view>

namespace forebay::shm {

struct Failpoint {
  std::string_view name;
};

// Every step of the daemon that writes shared memory, and of a client between create and seal and
// around a pin. The tests kill at each of them.
namespace points {
inline constexpr Failpoint index_backed{"index.backed"};
inline constexpr Failpoint serial_taken{"serial.taken"};
inline constexpr Failpoint create_begun{"create.begun"};
inline constexpr Failpoint create_filled{"create.filled"};
inline constexpr Failpoint create_written{"create.written"};
inline constexpr Failpoint put_copied{"put.copied"};
inline constexpr Failpoint seal_exact_linked{"seal.exact_linked"};
inline constexpr Failpoint seal_written{"seal.written"};
inline constexpr Failpoint seal_newest_linked{"seal.newest_linked"};
inline constexpr Failpoint remove_newest_unlinked{"remove.newest_unlinked"};
inline constexpr Failpoint remove_exact_unlinked{"remove.exact_unlinked"};
inline constexpr Failpoint remove_marked{"remove.marked"};
inline constexpr Failpoint remove_freed{"remove.freed"};
inline constexpr Failpoint evict_marked{"evict.marked"};
inline constexpr Failpoint evict_tombstone{"evict.tombstone"};
inline constexpr Failpoint evict_unlinked{"evict.unlinked"};
inline constexpr Failpoint place_written{"place.written"};
inline constexpr Failpoint place_counts{"place.counts"};
inline constexpr Failpoint spill_put_away{"spill.put_away"};
inline constexpr Failpoint restore_begun{"restore.begun"};
inline constexpr Failpoint restore_located{"restore.located"};
inline constexpr Failpoint restore_done{"restore.done"};
inline constexpr Failpoint take_begun{"take.begun"};
inline constexpr Failpoint claim_fulfilled{"claim.fulfilled"};
inline constexpr Failpoint buckets_copied{"buckets.copied"};
inline constexpr Failpoint buckets_published{"buckets.published"};
inline constexpr Failpoint process_slot_filled{"process.slot_filled"};
inline constexpr Failpoint process_slot_held{"process.slot_held"};
inline constexpr Failpoint process_table_removed{"process.table_removed"};
inline constexpr Failpoint chunk_backed{"chunk.backed"};
inline constexpr Failpoint arena_grown{"arena.grown"};
inline constexpr Failpoint arena_punched{"arena.punched"};
inline constexpr Failpoint fork_copied{"fork.copied"};
inline constexpr Failpoint recover_entries{"recover.entries"};
inline constexpr Failpoint recover_buckets{"recover.buckets"};
inline constexpr Failpoint recover_relinked{"recover.relinked"};
inline constexpr Failpoint recover_done{"recover.done"};

inline constexpr std::array daemon{
    index_backed,          serial_taken,       create_begun,       create_filled,
    create_written,        put_copied,         seal_exact_linked,  seal_written,
    seal_newest_linked,    remove_newest_unlinked, remove_exact_unlinked, remove_marked,
    remove_freed,          evict_marked,       evict_tombstone,    evict_unlinked,
    buckets_copied,        buckets_published,  process_slot_filled, process_slot_held,
    process_table_removed, chunk_backed,       arena_grown,        arena_punched,
    fork_copied,           recover_entries,    recover_buckets,    recover_relinked,
    recover_done,          take_begun,         claim_fulfilled,
};
// Those that only a daemon with tiers gets to.
inline constexpr std::array tiers{
    place_written, place_counts, spill_put_away, restore_begun, restore_located, restore_done,
};

inline constexpr Failpoint client_created{"client.created"};
inline constexpr Failpoint client_window_open{"client.window_open"};
inline constexpr Failpoint client_written{"client.written"};
inline constexpr Failpoint client_window_closed{"client.window_closed"};
inline constexpr Failpoint client_sealed{"client.sealed"};
inline constexpr Failpoint client_pinned{"client.pinned"};
inline constexpr Failpoint client_unpinned{"client.unpinned"};

inline constexpr std::array client{
    client_created, client_window_open, client_written,  client_window_closed,
    client_sealed,  client_pinned,      client_unpinned,
};

// Every step of forebay-poold between an allocation and the end of an item.
inline constexpr Failpoint pool_allocated{"pool.allocated"};
inline constexpr Failpoint pool_write_received{"pool.write_received"};
inline constexpr Failpoint pool_entry_filled{"pool.entry_filled"};
inline constexpr Failpoint pool_entry_committed{"pool.entry_committed"};
inline constexpr Failpoint pool_entry_cleared{"pool.entry_cleared"};
inline constexpr Failpoint pool_freed{"pool.freed"};
inline constexpr Failpoint pool_recovered{"pool.recovered"};

inline constexpr std::array pool{
    pool_allocated,     pool_write_received, pool_entry_filled, pool_entry_committed,
    pool_entry_cleared, pool_freed,          pool_recovered,
};
}  // namespace points

namespace failpoints {
extern std::atomic<bool> armed;
void hit(std::string_view name);
// Reads the environment. False: it names no such point or action (said on standard error).
bool arm_from_environment();
}  // namespace failpoints

inline void reached(const Failpoint& point) {
  if (failpoints::armed.load(std::memory_order_relaxed)) [[unlikely]]
    failpoints::hit(point.name);
}

}  // namespace forebay::shm
