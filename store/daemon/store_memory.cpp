// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/store_memory.h"

#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <set>

#include "store/check.h"
#include "store/daemon/pin_tables.h"
#include "store/daemon/process.h"
#include "store/daemon/processes.h"

namespace forebay::daemon {
namespace {

constexpr const char* index_name = "index";
constexpr const char* arena_name = "arena.0";
constexpr std::uint32_t first_lines = 64;  // of each bucket array, in use from the start

std::unique_ptr<shm::ObjectHome> home_of(const StoreUuid& uuid, MemoryKind kind) {
  const std::string text = format_uuid(uuid);
  return kind == MemoryKind::named ? shm::named_home(text) : shm::kept_home(text);
}

std::uint64_t object_bytes(const Descriptor& object) {
  struct stat status {};
  return ::fstat(object.get(), &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

Result<void> check_stamp(const shm::IndexStamp& stamp, const StoreUuid& uuid,
                         std::uint64_t bytes) {
  if (stamp.magic != shm::index_magic)
    return fail(Errc::layout_mismatch, "what was left behind is no index of Forebay's");
  if (stamp.layout_version != shm::layout_version)
    return fail(Errc::layout_mismatch,
                "the store that was left behind has layout " +
                    std::to_string(stamp.layout_version) + ", this forebayd has layout " +
                    std::to_string(shm::layout_version) +
                    ": run the version that made it, or drop it with --fresh");
  if (stamp.entry_bytes != sizeof(shm::Entry) || stamp.record_bytes != sizeof(shm::Record) ||
      stamp.line_bytes != sizeof(shm::Line) || stamp.regions != shm::regions_of(stamp.limits) ||
      stamp.regions.total != bytes || stamp.store_uuid != uuid)
    return fail(Errc::layout_mismatch, "the stamp of the store that was left behind is damaged");
  return {};
}

}  // namespace

bool gives_huge_pages(MemoryKind kind) {
  return kind == MemoryKind::named ? shm::named_gives_huge_pages() : shm::kept_gives_huge_pages();
}

Result<void> StoreMemory::map_all(std::uint64_t index_bytes, std::uint64_t arena_bytes) {
  auto read_only = shm::reopen_read_only(index_object_);
  if (!read_only) return fail(std::move(read_only.error()));
  index_read_only_ = std::move(*read_only);
  auto index = shm::Mapping::map(index_object_.get(), index_bytes, shm::Protection::read_write);
  if (!index) return fail(std::move(index.error()));
  auto arena = shm::Mapping::map(arena_object_.get(), arena_bytes, shm::Protection::read_write);
  if (!arena) return fail(std::move(arena.error()));
  index_mapping_ = std::move(*index);
  arena_mapping_ = std::move(*arena);
  arena_mapping_.keep_from_dumps();
  index_guard_ = std::make_unique<shm::Guard>(index_mapping_.data(), index_mapping_.size());
  arena_guard_ = std::make_unique<shm::Guard>(arena_mapping_.data(), arena_mapping_.size());
  return {};
}

Result<std::unique_ptr<StoreMemory>> StoreMemory::create(const StoreMemoryOptions& options) {
  std::unique_ptr<StoreMemory> memory(new StoreMemory);
  STORE_CHECK(::getrandom(memory->uuid_.data(), memory->uuid_.size(), 0) ==
                  static_cast<ssize_t>(memory->uuid_.size()),
              "the system has random numbers");
  memory->home_ = home_of(memory->uuid_, options.kind);
  const shm::Regions regions = shm::regions_of(options.limits);
  const auto give_up = [&](Error& error) {
    memory->remove_all();
    return fail(std::move(error));
  };
  auto index = memory->home_->create(index_name, regions.total);
  if (!index) return give_up(index.error());
  memory->index_object_ = std::move(*index);
  auto arena = memory->home_->create(arena_name, options.address_bytes);
  if (!arena) return give_up(arena.error());
  memory->arena_object_ = std::move(*arena);
  if (auto mapped = memory->map_all(regions.total, options.address_bytes); !mapped)
    return give_up(mapped.error());

  // Stamp, live page and process slots have memory from the start, and so have the first lines.
  const std::uint64_t lines_bytes = shm::page_align(first_lines * sizeof(shm::Line));
  for (const shm::Range range : {shm::Range{0, regions.newest_lines},
                                 shm::Range{regions.newest_lines, lines_bytes},
                                 shm::Range{regions.exact_lines, lines_bytes}})
    if (auto reserved = shm::reserve(memory->index_object_, range.offset, range.bytes); !reserved)
      return give_up(reserved.error());

  auto* stamp = new (memory->index_mapping_.data()) shm::IndexStamp{};
  stamp->layout_version = shm::layout_version;
  stamp->entry_bytes = sizeof(shm::Entry);
  stamp->record_bytes = sizeof(shm::Record);
  stamp->line_bytes = sizeof(shm::Line);
  stamp->store_uuid = memory->uuid_;
  stamp->boot_id = boot_id();
  stamp->hash_seed = random_number();
  stamp->born_ns = now_ns();
  stamp->limits = options.limits;
  stamp->regions = regions;
  stamp->namespace_generation = 1;
  stamp->owner_uid = ::geteuid();
  stamp->mode = 0700;
  std::strcpy(stamp->namespace_name.data(), "default");
  memory->index_ = shm::IndexMap::over(memory->index_mapping_.data(), regions);
  shm::IndexLive& live = *memory->index_.live;
  live.newest_lines.store(first_lines);
  live.exact_lines.store(first_lines);
  live.newest_lines_backed.store(first_lines);
  live.exact_lines_backed.store(first_lines);
  live.entries_end.store(1);  // number 0 is nobody's
  live.next_serial.store(1);
  live.epoch.store(1);
  live.arenas[0].generation.store(1);
  live.arenas[0].bytes.store(options.address_bytes);
  // Last: a daemon that dies before this leaves no store.
  stamp->magic = shm::index_magic;
  return memory;
}

Result<std::unique_ptr<StoreMemory>> StoreMemory::open(const StoreUuid& uuid, MemoryKind kind) {
  std::unique_ptr<StoreMemory> memory(new StoreMemory);
  memory->uuid_ = uuid;
  memory->home_ = home_of(uuid, kind);
  auto index = memory->home_->open(index_name);
  if (!index) return fail(std::move(index.error()));
  memory->index_object_ = std::move(*index);
  auto arena = memory->home_->open(arena_name);
  if (!arena) return fail(std::move(arena.error()));
  memory->arena_object_ = std::move(*arena);
  const std::uint64_t index_bytes = object_bytes(memory->index_object_);
  const std::uint64_t arena_bytes = object_bytes(memory->arena_object_);
  if (index_bytes < 2 * shm::page_bytes || arena_bytes == 0)
    return fail(Errc::layout_mismatch, "the store that was left behind was cut short");
  if (auto mapped = memory->map_all(index_bytes, arena_bytes); !mapped)
    return fail(std::move(mapped.error()));
  const auto* stamp = reinterpret_cast<const shm::IndexStamp*>(memory->index_mapping_.data());
  if (auto checked = check_stamp(*stamp, uuid, index_bytes); !checked)
    return fail(std::move(checked.error()));
  memory->index_ = shm::IndexMap::over(memory->index_mapping_.data(), stamp->regions);
  return memory;
}

std::optional<StoreUuid> StoreMemory::kept() {
  for (const std::string& text : shm::kept_stores()) {
    const auto ref = Ref::parse("forebay:" + text + "/default/x@1#1");
    if (ref) return ref->store;
  }
  return std::nullopt;
}

void StoreMemory::remove_all() {
  for (const std::string& name : home_->list()) home_->remove(name);
  if (index_.stamp != nullptr)
    for (std::uint32_t slot = 0; slot < index_.stamp->limits.processes; ++slot)
      if (index_.processes[slot].state.load() == static_cast<std::uint32_t>(shm::SlotState::held))
        home_->remove(PinTables::object_name(index_.processes[slot].table.load()));
  home_->remove(index_name);
  home_->remove(arena_name);
}

void StoreMemory::remove_strays() {
  std::set<std::string> known{index_name, arena_name};
  for (std::uint32_t slot = 0; slot < index_.stamp->limits.processes; ++slot)
    if (index_.processes[slot].state.load() == static_cast<std::uint32_t>(shm::SlotState::held))
      known.insert(PinTables::object_name(index_.processes[slot].table.load()));
  for (const std::string& name : home_->list())
    if (!known.contains(name)) home_->remove(name);
}

}  // namespace forebay::daemon
