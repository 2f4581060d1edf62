// SPDX-License-Identifier: Apache-2.0
// Attachment: a store's shared memory in this process, and this process's pins in it.
//
// Views hold shares in it, and so does the client; the mappings go when nobody can reach them any
// more: when the client has turned away from it (it was closed, or the daemon serves another store
// now) and the last view has gone. Any thread may use it.
//
// The object itself is never freed but used again for a later attachment: a thread that has given
// its share back may still look at `retired_` once.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "store/array_type.h"
#include "store/error.h"
#include "store/ref.h"
#include "store/shm/index_map.h"
#include "store/shm/mapping.h"
#include "store/wire/message.h"
#include "store/wire/socket.h"

namespace forebay::client {

class Core;
using EntryNumber = std::uint32_t;

class Attachment {
 public:
  // Maps what came with the greeting: index, arena and pin table. The caller has the first share,
  // and gives it back by `leave`.
  static Result<Attachment*> map(const wire::HelloReply& hello,
                                 std::span<Descriptor> descriptors,
                                 std::weak_ptr<Core> core);

  // --- shares

  void add_share() { shares_.fetch_add(1, std::memory_order_seq_cst); }
  void drop_share() {
    const std::uint64_t left = shares_.fetch_sub(1, std::memory_order_acq_rel) - 1;
    if (left <= 1 && retired_.load(std::memory_order_acquire)) [[unlikely]]
      tidy();
  }
  bool has_other_shares() const { return shares_.load(std::memory_order_acquire) > 1; }
  // The client turns away: no new views will be made here, but a thread may still hold the pointer.
  void retire();
  // The client has gone, and every such thread with it. Retires first if need be.
  void leave();

  // --- reading

  const shm::IndexMap& index() const { return index_; }
  const shm::Entry& entry(EntryNumber number) const { return index_.entries[number]; }
  std::uint64_t hash_seed() const { return hash_seed_; }
  bool epoch_is_current() const {
    return index_.live->epoch.load(std::memory_order_relaxed) == epoch_;
  }
  // The pin count of an entry; null if its chunk has not been granted yet.
  std::atomic<std::uint32_t>* count_of(EntryNumber number) const {
    const std::uint32_t chunk = number / shm::chunk_entries;
    const std::uint64_t granted = granted_[chunk / 64].load(std::memory_order_acquire);
    return (granted >> (chunk % 64) & 1U) != 0 ? &counts_[number] : nullptr;
  }
  void note_granted(std::uint32_t chunk) {
    granted_[chunk / 64].fetch_or(std::uint64_t{1} << (chunk % 64), std::memory_order_release);
  }
  const std::byte* address_of(shm::Location location) const {
    return arena_.data() + location.offset();
  }
  // A second, writable mapping of a pinned segment that has its pages for itself; what is written to
  // it is this process's own. See shm::map_private.
  Result<std::byte*> map_private(shm::Location location, std::uint64_t bytes) const {
    return shm::map_private(arena_object_.get(), location.offset(), bytes);
  }
  // Ends a pin, and tells the daemon if it waits for that.
  void release(EntryNumber number) noexcept;

  // The description of a pinned segment. `room`, of record_description_bytes, is for one that lies
  // in the record and must be copied.
  std::span<const std::byte> description_of(EntryNumber number, std::span<std::byte> room) const;
  // What a pinned segment is, from its entry and description.
  Result<std::optional<ArrayType>> type_of(EntryNumber number) const;
  Ref ref_of(EntryNumber number) const;

  // Notes a first pin for the eviction policy, and counts. Lossy where threads meet.
  void note_get(EntryNumber number, std::uint64_t bytes) const {
    constexpr auto relaxed = std::memory_order_relaxed;
    auto& tallies = head_->tallies;
    tallies.gets.store(tallies.gets.load(relaxed) + 1, relaxed);
    tallies.bytes.store(tallies.bytes.load(relaxed) + bytes, relaxed);
    if (counts_[number].load(relaxed) != 1) return;
    const std::uint64_t at = head_->access_head.load(relaxed);
    head_->access_log[at % shm::access_log_slots].store(number, relaxed);
    head_->access_head.store(at + 1, std::memory_order_release);
  }
  void note_miss() const {
    constexpr auto relaxed = std::memory_order_relaxed;
    head_->tallies.misses.store(head_->tallies.misses.load(relaxed) + 1, relaxed);
  }
  void note_put() const {
    constexpr auto relaxed = std::memory_order_relaxed;
    head_->tallies.puts.store(head_->tallies.puts.load(relaxed) + 1, relaxed);
  }

  // --- writing

  bool may_create() const { return may_create_; }
  // Where to copy a put's bytes to: a second, writable view of the arena, made when first needed,
  // whose addresses never leave the library.
  Result<std::byte*> writable_alias(shm::Location location);
  // Whether most of this range of the alias was never asked about before: its pages are not in this
  // process's page table yet, most likely.
  bool take_cold(shm::Location location, std::uint64_t bytes);
  // Opens (or closes) the pages of one segment for writing at the address where readers see them.
  Result<std::span<std::byte>> open_window(shm::Location location, std::uint64_t bytes);
  Result<void> close_window(shm::Location location, std::uint64_t bytes);

  // --- identity

  const StoreUuid& store() const { return store_; }
  std::uint32_t slot() const { return slot_; }
  std::uint64_t token() const { return token_; }
  std::uint64_t capacity_bytes() const { return capacity_bytes_; }
  const std::string& namespace_name() const { return namespace_name_; }

  // --- fork

  // In the child: this table instead of the parent's, at the same address; windows become read-only
  // and the alias is gone.
  void adopt_in_child(int table, std::uint32_t slot, std::uint64_t token);
  // In the child: nothing of this is its own to write to.
  void abandon_in_child() { close_windows_in_child(); }

  // For attachments whose pins no daemon copies for the child: no daemon answered before the fork, or
  // the client has turned away and its views live on. Pins stay in the table as they are then, for
  // the daemon to see, until parent and child have both ended; each goes on with a private copy.
  //
  // Before the fork, so that no release of another thread comes between it and the copy.
  void freeze_table();
  // All that are retired and have views. Holds the pool, and what the mutex of each attachment guards,
  // until `unlock_after_fork`.
  static void freeze_retired_and_lock();
  static void unlock_after_fork();
  // In the child: notes it as an owner of each frozen table.
  static void own_frozen_in_child();

 private:
  Attachment() = default;
  static Attachment* fresh();
  void tidy();
  void unmap();
  void close_windows_in_child();
  bool has_views() const;
  void note_co_owner(std::uint32_t pid);

  struct Window {
    std::uint64_t offset;
    std::uint64_t bytes;
  };

  StoreUuid store_{};
  std::string namespace_name_;
  std::uint64_t hash_seed_ = 0;
  std::uint64_t epoch_ = 0;
  std::uint32_t slot_ = 0;
  std::uint64_t token_ = 0;
  std::uint64_t capacity_bytes_ = 0;
  bool may_create_ = false;
  bool frozen_ = false;
  std::weak_ptr<Core> core_;
  shm::Mapping index_mapping_;
  shm::Mapping arena_;
  shm::Mapping table_;
  Descriptor arena_object_;
  Descriptor table_object_;
  shm::IndexMap index_;
  shm::PinTableHead* head_ = nullptr;
  std::atomic<std::uint32_t>* counts_ = nullptr;
  // One bit for each chunk of 16384 entries; as many as the largest index has.
  std::array<std::atomic<std::uint64_t>, 16> granted_{};
  std::mutex mutex_;
  shm::Mapping alias_;           // Guarded by mutex_ until made; then constant.
  std::atomic<std::byte*> alias_base_{nullptr};
  std::vector<Window> windows_;  // Guarded by mutex_.
  std::vector<bool> touched_;    // Guarded by mutex_. By block of the alias.
  // On a line of their own: these two are what threads of one process share in each get.
  alignas(64) std::atomic<std::uint64_t> shares_{1};
  std::atomic<bool> retired_{false};
  bool client_holds_ = false;  // Guarded by the pool's mutex.
  bool spare_ = false;         // Guarded by the pool's mutex.
};

}  // namespace forebay::client
