// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/arena.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "spill/checksum.h"
#include "spill/pool/hmac.h"
#include "store/shm/failpoint.h"
#include "store/units.h"

namespace forebay::spill::pool {
namespace {

constexpr std::uint64_t line_bytes = 64;
constexpr std::uint64_t page_bytes = 4096;
constexpr std::uint64_t bytes_per_entry = 32 * kibibyte;
constexpr std::uint32_t least_entries = 1024;
constexpr std::uint64_t entry_free = 0;
constexpr std::uint64_t entry_committed = 0x64657474696d6f63;
constexpr std::uint64_t superblock_magic = 0x324c4f4f50424546;
constexpr std::uint32_t layout_version = 1;
constexpr std::uint64_t populate_step = 256 * mebibyte;

// The journal's first page. The magic is written last: without it, there is nothing here.
struct Superblock {
  std::atomic<std::uint64_t> magic{0};
  std::uint32_t layout = 0;
  std::uint32_t entries = 0;
  std::uint64_t capacity_bytes = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t crc = 0;  // of layout to incarnation
  std::uint32_t reserved = 0;
  std::atomic<std::uint64_t> epoch{0};
};
static_assert(sizeof(Superblock) == 48);

std::uint32_t sum_of(const Superblock& block) {
  const std::uint64_t fields[] = {block.layout, block.entries, block.capacity_bytes,
                                  block.incarnation};
  return crc32c(std::as_bytes(std::span(fields)));
}

std::uint32_t sum_of(const ItemRecord& record) {
  return crc32c(std::as_bytes(std::span(&record, 1)));
}

std::uint64_t journal_size(std::uint64_t entries) {
  return page_bytes + (entries * sizeof(JournalEntry) + page_bytes - 1) / page_bytes * page_bytes;
}

Result<std::span<std::byte>> map(int object, std::uint64_t size) {
  void* const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, object, 0);
  if (at == MAP_FAILED)
    return fail_errno(errno, "cannot map " + format_size(size) + " of the pool");
  // Neither a child nor a core file of many gigabytes.
  ::madvise(at, size, MADV_DONTFORK);
  ::madvise(at, size, MADV_DONTDUMP);
  return std::span(static_cast<std::byte*>(at), size);
}

// Pages and their entries now, and not one by one while data comes in.
void populate(std::span<std::byte> bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += populate_step) {
    const auto step = bytes.subspan(at, std::min<std::size_t>(populate_step, bytes.size() - at));
    if (::madvise(step.data(), step.size(), MADV_POPULATE_WRITE) == 0) continue;
    for (std::size_t page = 0; page < step.size(); page += page_bytes)
      std::atomic_ref(reinterpret_cast<std::uint8_t&>(step[page])).fetch_or(0);
  }
}

std::uint64_t in_lines(std::uint64_t bytes) {
  return (bytes + line_bytes - 1) / line_bytes * line_bytes;
}

}  // namespace

std::uint64_t allocated_bytes(std::uint64_t size, std::uint64_t label_size) {
  if (size > (std::uint64_t{1} << 62U)) return 0;
  return in_lines(size) + in_lines(label_size);
}

std::uint64_t ItemRecord::label_offset() const { return offset + in_lines(size); }
std::uint64_t ItemRecord::allocated_bytes() const {
  return pool::allocated_bytes(size, label_size());
}

Result<std::unique_ptr<Arena>> Arena::open(const ArenaOptions& options) {
  std::unique_ptr<Arena> arena(new Arena());
  if (auto opened = arena->open_objects(options); !opened) return fail(opened.error());
  if (auto reserved = arena->reserve(options); !reserved) return fail(reserved.error());
  return arena;
}

Arena::~Arena() {
  // While the lock is still held: nobody can have taken the name over.
  if (drop_ && !name_.empty() && journal_) {
    ::shm_unlink((name_ + ".arena").c_str());
    ::shm_unlink((name_ + ".journal").c_str());
  }
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
  if (!journal_bytes_.empty()) ::munmap(journal_bytes_.data(), journal_bytes_.size());
}

Result<void> Arena::open_objects(const ArenaOptions& options) {
  if (options.name.empty()) {
    arena_ = Descriptor(::memfd_create("forebay-pool.arena", MFD_CLOEXEC));
    journal_ = Descriptor(::memfd_create("forebay-pool.journal", MFD_CLOEXEC));
    if (!arena_ || !journal_) return fail_errno(errno, "cannot make memory for the pool");
    return {};
  }
  if (options.name.size() > 128 || options.name.find('/') != std::string::npos)
    return fail(Errc::bad_argument,
                "--name is at most 128 bytes without a slash, not '" + options.name + "'");
  name_ = "/forebay-pool-" + options.name;
  while (true) {
    journal_ = Descriptor(::shm_open((name_ + ".journal").c_str(), O_RDWR | O_CREAT, 0600));
    if (!journal_) return fail_errno(errno, "cannot open the pool's shared memory " + name_);
    if (::flock(journal_.get(), LOCK_EX | LOCK_NB) != 0)
      return fail(Errc::already_running,
                  "another forebay-poold has the arena '" + options.name +
                      "'; give another --name");
    // Its former owner may have dropped it between our opening and locking.
    struct stat status{};
    if (::fstat(journal_.get(), &status) != 0) return fail_errno(errno, "cannot look at " + name_);
    if (status.st_uid != ::geteuid())
      return fail(Errc::denied, "the shared memory " + name_ + " belongs to another user");
    if (status.st_nlink > 0) break;
  }
  arena_ = Descriptor(::shm_open((name_ + ".arena").c_str(), O_RDWR | O_CREAT, 0600));
  if (!arena_) return fail_errno(errno, "cannot open the pool's shared memory " + name_);
  return {};
}

Result<void> Arena::reserve(const ArenaOptions& options) {
  const std::uint64_t capacity = options.capacity_bytes / page_bytes * page_bytes;
  if (capacity < page_bytes || capacity > 8 * tebibyte)
    return fail(Errc::bad_argument, "--capacity: a pool has 4 KiB to 8 TiB");
  const std::uint64_t wanted = std::max<std::uint64_t>(capacity / bytes_per_entry, least_entries);
  const std::uint32_t count =
      options.entries != 0 ? options.entries
                           : static_cast<std::uint32_t>(std::min<std::uint64_t>(wanted, 1U << 30U));
  const std::uint64_t journal_bytes = journal_size(count);
  struct stat journal{};
  struct stat arena{};
  if (::fstat(journal_.get(), &journal) != 0 || ::fstat(arena_.get(), &arena) != 0)
    return fail_errno(errno, "cannot look at the pool's memory");
  if (options.fresh) {
    // Cut off before it is looked at: a killed start must not find old entries under a new block.
    if (::ftruncate(journal_.get(), 0) != 0 || ::ftruncate(arena_.get(), 0) != 0)
      return fail_errno(errno, "cannot drop what the last pool left");
    journal.st_size = 0;
  }
  if (static_cast<std::uint64_t>(journal.st_size) >= page_bytes) {
    auto first = map(journal_.get(), page_bytes);
    if (!first) return fail(first.error());
    const auto& block = *reinterpret_cast<const Superblock*>(first->data());
    const bool begun = block.magic.load(std::memory_order_acquire) == superblock_magic;
    const bool sound = begun && block.layout == layout_version && block.crc == sum_of(block);
    const bool fits = sound && block.capacity_bytes == capacity && block.entries == count &&
                      static_cast<std::uint64_t>(journal.st_size) == journal_bytes &&
                      static_cast<std::uint64_t>(arena.st_size) == capacity;
    const std::string size_there = sound ? format_size(block.capacity_bytes) : "";
    ::munmap(first->data(), first->size());
    if (begun && !fits)
      return fail(Errc::layout_mismatch,
                  "the arena '" + options.name + "' that the last pool left " +
                      (sound ? "has " + size_there + " and not " + format_size(capacity)
                             : "is of another version or damaged") +
                      "; start as before, or with --fresh to drop what is in it");
    was_there_ = begun;
  }
  if (!was_there_ && (::ftruncate(journal_.get(), 0) != 0 || ::ftruncate(arena_.get(), 0) != 0))
    return fail_errno(errno, "cannot empty the pool's memory");
  for (const auto& [object, size] : {std::pair(arena_.get(), capacity),
                                     std::pair(journal_.get(), journal_bytes)}) {
    int why = 0;
    while ((why = ::posix_fallocate(object, 0, static_cast<off_t>(size))) == EINTR) {
    }
    if (why != 0)
      return fail_errno(why, "cannot reserve " + format_size(size) +
                                 " of shared memory for the pool; give a smaller --capacity or a "
                                 "larger /dev/shm");
  }
  auto arena_mapped = map(arena_.get(), capacity);
  if (!arena_mapped) return fail(arena_mapped.error());
  bytes_ = *arena_mapped;
  auto journal_mapped = map(journal_.get(), journal_bytes);
  if (!journal_mapped) return fail(journal_mapped.error());
  journal_bytes_ = *journal_mapped;
  populate(bytes_);
  populate(journal_bytes_);
  auto& block = *reinterpret_cast<Superblock*>(journal_bytes_.data());
  if (!was_there_) {
    block.layout = layout_version;
    block.entries = count;
    block.capacity_bytes = capacity;
    block.incarnation = random_number();
    block.crc = sum_of(block);
    block.magic.store(superblock_magic, std::memory_order_release);
  }
  incarnation_ = block.incarnation;
  epoch_ = block.epoch.fetch_add(1) + 1;
  return {};
}

std::span<JournalEntry> Arena::entries() const {
  const auto& block = *reinterpret_cast<const Superblock*>(journal_bytes_.data());
  return {reinterpret_cast<JournalEntry*>(journal_bytes_.data() + page_bytes), block.entries};
}

std::vector<std::pair<std::uint32_t, ItemRecord>> Arena::recover() {
  std::vector<std::pair<std::uint32_t, ItemRecord>> found;
  const auto all = entries();
  free_entries_.clear();
  for (std::size_t i = all.size(); i-- > 0;) {
    JournalEntry& entry = all[i];
    const auto number = static_cast<std::uint32_t>(i);
    const std::uint64_t state = entry.state.load(std::memory_order_acquire);
    if (state == entry_committed && entry.crc == sum_of(entry.record)) {
      found.emplace_back(number, entry.record);
      sequence_ = std::max(sequence_, entry.record.sequence);
      continue;
    }
    if (state != entry_free) {
      ++torn_;
      entry.state.store(entry_free, std::memory_order_release);
    }
    free_entries_.push_back(number);
  }
  return found;
}

Result<std::uint32_t> Arena::commit(ItemRecord record) {
  if (free_entries_.empty())
    return fail(Errc::store_full, "the pool has as many items as its journal holds, " +
                                      std::to_string(entries().size()) + "; put larger ones");
  const std::uint32_t number = free_entries_.back();
  free_entries_.pop_back();
  JournalEntry& entry = entries()[number];
  record.sequence = ++sequence_;
  entry.record = record;
  entry.crc = sum_of(record);
  shm::reached(shm::points::pool_entry_filled);
  entry.state.store(entry_committed, std::memory_order_release);
  shm::reached(shm::points::pool_entry_committed);
  return number;
}

void Arena::clear(std::uint32_t number) {
  entries()[number].state.store(entry_free, std::memory_order_release);
  shm::reached(shm::points::pool_entry_cleared);
  free_entries_.push_back(number);
}

}  // namespace forebay::spill::pool
