// SPDX-License-Identifier: Apache-2.0
#include "store/client/attachment.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "store/client/core.h"
#include "store/shm/description.h"
#include "store/shm/failpoint.h"

namespace forebay::client {
namespace {

std::uint64_t object_bytes(const Descriptor& object) {
  struct stat status {};
  return ::fstat(object.get(), &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

constexpr std::uint64_t touched_block_bytes = 2 * 1024 * 1024;

// What the daemon sent is checked all the same: it may be another version, or somebody else.
Result<void> check_stamps(const shm::IndexStamp& stamp, const shm::PinTableHead& head,
                          const wire::HelloReply& hello) {
  if (stamp.magic != shm::index_magic || head.magic != shm::pin_table_magic)
    return fail(Errc::layout_mismatch, "the daemon's shared memory is not Forebay's");
  if (stamp.layout_version != shm::layout_version || head.layout_version != shm::layout_version)
    return fail(Errc::layout_mismatch,
                "the store has layout " + std::to_string(stamp.layout_version) +
                    ", this client layout " + std::to_string(shm::layout_version) +
                    ": use the same version of Forebay on both sides");
  if (stamp.entry_bytes != sizeof(shm::Entry) || stamp.record_bytes != sizeof(shm::Record) ||
      stamp.line_bytes != sizeof(shm::Line) || stamp.regions != shm::regions_of(stamp.limits) ||
      stamp.regions.total != hello.index_bytes || stamp.store_uuid != hello.store ||
      head.store_uuid != hello.store || head.entries != stamp.limits.entries)
    return fail(Errc::layout_mismatch, "the stamps of the store's shared memory do not agree");
  return {};
}

// All attachments, and those that nobody uses now. Never destroyed: threads may outlive static destructors.
struct Pool {
  std::mutex mutex;
  std::vector<Attachment*> spares;
  std::vector<Attachment*> all;
};
Pool& pool() {
  static Pool* const all = new Pool;
  return *all;
}

}  // namespace

Attachment* Attachment::fresh() {
  Pool& all = pool();
  const std::lock_guard lock(all.mutex);
  Attachment* attachment = nullptr;
  if (all.spares.empty()) {
    attachment = new Attachment;
    all.all.push_back(attachment);
  } else {
    attachment = all.spares.back();
    all.spares.pop_back();
  }
  for (auto& chunks : attachment->granted_) chunks.store(0);
  attachment->windows_.clear();
  attachment->frozen_ = false;
  attachment->spare_ = false;
  attachment->client_holds_ = true;
  attachment->retired_.store(false);
  attachment->shares_.store(1);
  return attachment;
}

Result<Attachment*> Attachment::map(const wire::HelloReply& hello,
                                    std::span<Descriptor> descriptors,
                                    std::weak_ptr<Core> core) {
  if (descriptors.size() != 3)
    return fail(Errc::bad_message, "the daemon's greeting came without its descriptors");
  const auto leave = [](Attachment* unfinished) { unfinished->leave(); };
  std::unique_ptr<Attachment, decltype(leave)> attachment(fresh());
  Descriptor index = std::move(descriptors[0]);
  attachment->arena_object_ = std::move(descriptors[1]);
  attachment->table_object_ = std::move(descriptors[2]);
  const std::uint64_t table_bytes = object_bytes(attachment->table_object_);
  if (object_bytes(index) != hello.index_bytes ||
      object_bytes(attachment->arena_object_) != hello.arena_bytes ||
      table_bytes < shm::pin_counts_offset)
    return fail(Errc::bad_message, "the daemon's shared memory is not as large as it says");

  auto index_mapping =
      shm::Mapping::map(index.get(), hello.index_bytes, shm::Protection::read);
  if (!index_mapping) return fail(std::move(index_mapping.error()));
  auto arena = shm::Mapping::map(attachment->arena_object_.get(), hello.arena_bytes,
                                 shm::Protection::read);
  if (!arena) return fail(std::move(arena.error()));
  auto table = shm::Mapping::map(attachment->table_object_.get(), table_bytes,
                                 shm::Protection::read_write);
  if (!table) return fail(std::move(table.error()));
  attachment->index_mapping_ = std::move(*index_mapping);
  attachment->arena_ = std::move(*arena);
  attachment->table_ = std::move(*table);
  attachment->arena_.keep_from_dumps();

  const auto& stamp =
      *reinterpret_cast<const shm::IndexStamp*>(attachment->index_mapping_.data());
  attachment->head_ = reinterpret_cast<shm::PinTableHead*>(attachment->table_.data());
  if (auto checked = check_stamps(stamp, *attachment->head_, hello); !checked)
    return fail(std::move(checked.error()));
  attachment->counts_ = reinterpret_cast<std::atomic<std::uint32_t>*>(attachment->table_.data() +
                                                                      shm::pin_counts_offset);
  attachment->index_ = shm::IndexMap::over(attachment->index_mapping_.data(), stamp.regions);
  attachment->hash_seed_ = stamp.hash_seed;
  attachment->epoch_ = attachment->index_.live->epoch.load();
  attachment->store_ = hello.store;
  attachment->slot_ = hello.slot;
  attachment->token_ = hello.token;
  attachment->capacity_bytes_ = hello.capacity_bytes;
  attachment->may_create_ = hello.may_create != 0;
  attachment->namespace_name_ = stamp.namespace_name.data();
  attachment->core_ = std::move(core);
  return attachment.release();
}

void Attachment::retire() {
  {
    const std::lock_guard lock(pool().mutex);
    retired_.store(true, std::memory_order_seq_cst);
  }
  tidy();
}

void Attachment::leave() {
  {
    const std::lock_guard lock(pool().mutex);
    retired_.store(true, std::memory_order_seq_cst);
    client_holds_ = false;
    shares_.fetch_sub(1, std::memory_order_acq_rel);
  }
  tidy();
}

// Looks what can go, and lets it go. May be called by anybody at any time.
void Attachment::tidy() {
  Pool& all = pool();
  const std::lock_guard lock(all.mutex);
  // In one order with the shares that are taken and the look at the current attachment behind each.
  const std::uint64_t shares = shares_.load(std::memory_order_seq_cst);
  if (!retired_.load() || spare_) return;
  if (shares == 0) {
    unmap();
    core_.reset();
    spare_ = true;
    all.spares.push_back(this);
  } else if (shares == 1 && client_holds_) {
    // A get that came too late takes a share now and then, sees that it is late, and gives it back
    // without touching the memory.
    unmap();
  }
}

void Attachment::unmap() {
  alias_base_.store(nullptr);
  alias_ = {};
  table_ = {};
  arena_ = {};
  index_mapping_ = {};
  arena_object_.reset();
  table_object_.reset();
}

void Attachment::release(EntryNumber number) noexcept {
  if (shm::release_pin(index_.entries[number], counts_[number])) {
    shm::reached(shm::points::client_unpinned);
    if (const auto core = core_.lock()) core->nudge(number);
  }
}

std::span<const std::byte> Attachment::description_of(EntryNumber number,
                                                      std::span<std::byte> room) const {
  const shm::Entry& entry = index_.entries[number];
  const shm::Record& record = index_.records[number];
  const std::uint32_t bytes = record.description_size.load(std::memory_order_relaxed);
  if (shm::description_in_record(bytes)) {
    shm::load_description(record, room);
    return room.first(bytes);
  }
  const std::uint64_t size = entry.size.load(std::memory_order_relaxed);
  const shm::Location location(entry.location.load(std::memory_order_relaxed));
  return {address_of(location) + shm::description_offset(size), bytes};
}

Result<std::optional<ArrayType>> Attachment::type_of(EntryNumber number) const {
  const shm::Entry& entry = index_.entries[number];
  std::array<std::byte, shm::record_description_bytes> room{};
  return shm::read_description(
      shm::Brief::from_bits(entry.brief.load(std::memory_order_relaxed)),
      entry.size.load(std::memory_order_relaxed), description_of(number, room));
}

Ref Attachment::ref_of(EntryNumber number) const {
  const shm::Entry& entry = index_.entries[number];
  Ref ref;
  ref.store = store_;
  ref.namespace_name = namespace_name_;
  ref.id = shm::load_id(index_.records[number], index_.annexes[number]);
  ref.version = entry.version.load(std::memory_order_relaxed);
  ref.serial = entry.serial.load(std::memory_order_relaxed);
  if (auto type = type_of(number)) ref.type = std::move(*type);
  return ref;
}

Result<std::byte*> Attachment::writable_alias(shm::Location location) {
  std::byte* base = alias_base_.load(std::memory_order_acquire);
  if (base == nullptr) {
    const std::lock_guard lock(mutex_);
    if (!alias_) {
      auto alias =
          shm::Mapping::map(arena_object_.get(), arena_.size(), shm::Protection::read_write);
      if (!alias) return fail(std::move(alias.error()));
      alias_ = std::move(*alias);
      touched_.assign(alias_.size() / touched_block_bytes + 1, false);
      alias_.keep_from_children();
      alias_.keep_from_dumps();
      alias_base_.store(alias_.data(), std::memory_order_release);
    }
    base = alias_.data();
  }
  return base + location.offset();
}

bool Attachment::take_cold(shm::Location location, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t first = location.offset() / touched_block_bytes;
  const std::uint64_t end = (location.offset() + bytes) / touched_block_bytes + 1;
  std::uint64_t cold = 0;
  for (std::uint64_t block = first; block < end; ++block) {
    if (!touched_[block]) ++cold;
    touched_[block] = true;
  }
  return cold * 2 > end - first;
}

Result<std::span<std::byte>> Attachment::open_window(shm::Location location,
                                                     std::uint64_t bytes) {
  if (bytes == 0) return std::span<std::byte>{};
  const std::lock_guard lock(mutex_);
  if (auto opened =
          arena_.protect(location.offset(), bytes, shm::Protection::read_write);
      !opened)
    return fail(std::move(opened.error()));
  windows_.push_back({location.offset(), bytes});
  return std::span(arena_.data() + location.offset(), bytes);
}

Result<void> Attachment::close_window(shm::Location location, std::uint64_t bytes) {
  if (bytes == 0) return {};
  const std::lock_guard lock(mutex_);
  if (auto closed = arena_.protect(location.offset(), bytes, shm::Protection::read); !closed)
    return closed;
  std::erase_if(windows_, [&](const Window& window) {
    return window.offset == location.offset();
  });
  return {};
}

void Attachment::close_windows_in_child() {
  for (const Window& window : windows_)
    ::mprotect(arena_.data() + window.offset, shm::page_align(window.bytes), PROT_READ);
  windows_.clear();
  alias_base_.store(nullptr);
  alias_.forget();
}

void Attachment::adopt_in_child(int table, std::uint32_t slot, std::uint64_t token) {
  close_windows_in_child();
  shm::remap_in_place(table_.data(), table_.size(), table, false);
  table_object_ = Descriptor(table);
  slot_ = slot;
  token_ = token;
  // A restarted daemon that never heard of this child finds it here.
  head_->co_owners[0].pid.store(static_cast<std::uint32_t>(::getpid()));
}

// Guarded by the pool's mutex.
bool Attachment::has_views() const {
  return !spare_ && shares_.load(std::memory_order_acquire) > (client_holds_ ? 1U : 0U);
}

void Attachment::freeze_table() {
  if (frozen_) return;
  shm::remap_in_place(table_.data(), table_.size(), table_object_.get(), true);
  frozen_ = true;
}

void Attachment::note_co_owner(std::uint32_t pid) {
  auto head = shm::Mapping::map(table_object_.get(), shm::pin_counts_offset,
                                shm::Protection::read_write);
  if (!head) return;  // Nothing can be reported from here; the parent's life keeps the pins, too.
  for (auto& co_owner : reinterpret_cast<shm::PinTableHead*>(head->data())->co_owners) {
    std::uint32_t nobody = 0;
    if (co_owner.pid.compare_exchange_strong(nobody, pid)) return;
  }
}

void Attachment::freeze_retired_and_lock() {
  Pool& pool = client::pool();
  pool.mutex.lock();
  for (Attachment* attachment : pool.all)
    if (attachment->retired_.load() && attachment->has_views()) attachment->freeze_table();
  // A thread that is opening or closing a window does not exist in the child to finish that.
  for (Attachment* attachment : pool.all) attachment->mutex_.lock();
}

void Attachment::unlock_after_fork() {
  Pool& pool = client::pool();
  for (Attachment* attachment : pool.all) attachment->mutex_.unlock();
  pool.mutex.unlock();
}

void Attachment::own_frozen_in_child() {
  const auto pid = static_cast<std::uint32_t>(::getpid());
  for (Attachment* attachment : pool().all) {
    if (!attachment->frozen_ || !attachment->has_views()) continue;
    attachment->close_windows_in_child();
    attachment->note_co_owner(pid);
  }
}

}  // namespace forebay::client
