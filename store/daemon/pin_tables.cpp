// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/pin_tables.h"

#include <algorithm>

#include "store/shm/failpoint.h"
#include "store/shm/protocol.h"

namespace forebay::daemon {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

std::uint32_t chunk_of(EntryNumber entry) { return entry / shm::chunk_entries; }

std::uint64_t chunk_offset(std::uint32_t chunk) {
  return shm::pin_counts_offset + chunk * shm::chunk_bytes;
}

}  // namespace

PinTables::Table::Table(Descriptor object_in, shm::Mapping mapping_in,
                        std::uint64_t number_in)
    : object(std::move(object_in)),
      mapping(std::move(mapping_in)),
      guard(mapping.data(), mapping.size()),
      head(reinterpret_cast<shm::PinTableHead*>(mapping.data())),
      counts(reinterpret_cast<std::atomic<std::uint32_t>*>(mapping.data() +
                                                           shm::pin_counts_offset)),
      number(number_in) {}

PinTables::PinTables(shm::ObjectHome& home, const shm::IndexStamp& stamp)
    : home_(home), limits_(stamp.limits), store_uuid_(stamp.store_uuid) {
  tables_.resize(limits_.processes);
  by_chunk_.resize((limits_.entries + shm::chunk_entries - 1) / shm::chunk_entries);
}

std::string PinTables::object_name(std::uint64_t number) {
  return "pins." + std::to_string(number);
}

Result<void> PinTables::create(Slot slot, std::uint64_t number) {
  const std::uint64_t bytes = shm::pin_table_bytes(limits_);
  auto object = home_.create(object_name(number), bytes);
  if (!object) return fail(std::move(object.error()));
  auto mapping = shm::Mapping::map(object->get(), bytes, shm::Protection::read_write);
  auto reserved = shm::reserve(*object, 0, shm::pin_counts_offset);
  if (!mapping || !reserved) {
    home_.remove(object_name(number));
    return fail(std::move(mapping ? reserved.error() : mapping.error()));
  }
  auto table = std::make_unique<Table>(std::move(*object), std::move(*mapping), number);
  table->head->magic = shm::pin_table_magic;
  table->head->layout_version = shm::layout_version;
  table->head->slot = slot;
  table->head->store_uuid = store_uuid_;
  table->head->entries = limits_.entries;
  table->granted.resize(by_chunk_.size());
  add(slot, std::move(table));
  return {};
}

Result<void> PinTables::open(Slot slot, std::uint64_t number) {
  const std::uint64_t bytes = shm::pin_table_bytes(limits_);
  auto object = home_.open(object_name(number));
  if (!object) return fail(std::move(object.error()));
  auto mapping = shm::Mapping::map(object->get(), bytes, shm::Protection::read_write);
  if (!mapping) return fail(std::move(mapping.error()));
  auto table = std::make_unique<Table>(std::move(*object), std::move(*mapping), number);
  table->granted.resize(by_chunk_.size());
  Table* added = table.get();
  add(slot, std::move(table));
  const shm::Range counts{shm::pin_counts_offset, bytes - shm::pin_counts_offset};
  for (const shm::Range& range : shm::touched_ranges(added->object, counts)) {
    const std::uint64_t first = (range.offset - shm::pin_counts_offset) / shm::chunk_bytes;
    const std::uint64_t last =
        (range.offset + range.bytes - 1 - shm::pin_counts_offset) / shm::chunk_bytes;
    for (std::uint64_t chunk = first; chunk <= last && chunk < by_chunk_.size(); ++chunk)
      note_granted(*added, static_cast<std::uint32_t>(chunk));
  }
  return {};
}

void PinTables::add(Slot slot, std::unique_ptr<Table> table) { tables_[slot] = std::move(table); }

void PinTables::note_granted(Table& table, std::uint32_t chunk) {
  if (table.granted[chunk]) return;
  table.granted[chunk] = true;
  by_chunk_[chunk].push_back(&table);
}

void PinTables::remove(Slot slot) {
  if (!has(slot)) return;
  Table& table = *tables_[slot];
  for (std::uint32_t chunk = 0; chunk < by_chunk_.size(); ++chunk)
    if (table.granted[chunk]) std::erase(by_chunk_[chunk], &table);
  add_tallies(tallies_of_the_gone_, table);
  home_.remove(object_name(table.number));
  tables_[slot] = nullptr;
}

Result<void> PinTables::grant(Slot slot, std::uint32_t chunk) {
  if (chunk >= by_chunk_.size())
    return fail(Errc::bad_argument, "there is no chunk " + std::to_string(chunk));
  Table& table = *tables_[slot];
  if (table.granted[chunk]) return {};
  if (auto reserved = shm::reserve(table.object, chunk_offset(chunk), shm::chunk_bytes); !reserved)
    return reserved;
  // Touched, so that a restarted daemon sees by the memory itself that the chunk was granted.
  for (std::uint64_t at = 0; at < shm::chunk_bytes; at += shm::page_bytes)
    reinterpret_cast<std::atomic<std::uint32_t>*>(table.mapping.data() + chunk_offset(chunk) + at)
        ->fetch_add(0, relaxed);
  note_granted(table, chunk);
  shm::reached(shm::points::chunk_backed);
  return {};
}

Result<void> PinTables::copy(Slot from, Slot to) {
  for (std::uint32_t chunk = 0; chunk < by_chunk_.size(); ++chunk) {
    if (!tables_[from]->granted[chunk]) continue;
    if (auto granted = grant(to, chunk); !granted) return granted;
    const std::uint32_t first = chunk * shm::chunk_entries;
    const std::uint32_t end = std::min(first + shm::chunk_entries, limits_.entries);
    for (std::uint32_t entry = first; entry < end; ++entry)
      tables_[to]->counts[entry].store(shm::look_at(tables_[from]->counts[entry]), relaxed);
  }
  shm::reached(shm::points::fork_copied);
  return {};
}

bool PinTables::holds_any(Slot slot) const {
  const Table& table = *tables_[slot];
  for (std::uint32_t chunk = 0; chunk < by_chunk_.size(); ++chunk) {
    if (!table.granted[chunk]) continue;
    const std::uint32_t first = chunk * shm::chunk_entries;
    const std::uint32_t end = std::min(first + shm::chunk_entries, limits_.entries);
    for (std::uint32_t entry = first; entry < end; ++entry)
      if (shm::look_at(table.counts[entry]) != 0) return true;
  }
  return false;
}

void PinTables::describe(Slot slot, std::uint32_t pid, std::string name) {
  tables_[slot]->pid = pid;
  tables_[slot]->name = std::move(name);
}

bool PinTables::pinned(EntryNumber entry) {
  for (const Table* table : by_chunk_[chunk_of(entry)])
    if (shm::look_at(table->counts[entry]) != 0) return true;
  return false;
}

std::vector<PinHolder> PinTables::holders(EntryNumber entry) {
  std::vector<PinHolder> found;
  for (const Table* table : by_chunk_[chunk_of(entry)]) {
    const std::uint32_t pins = shm::look_at(table->counts[entry]);
    if (pins != 0) found.push_back({table->pid, table->name, pins, 0});
  }
  return found;
}

std::vector<PinHolder> PinTables::holders_of_all(
    const std::function<std::uint64_t(EntryNumber)>& size_of) {
  std::vector<PinHolder> found;
  for (const auto& table : tables_) {
    if (table == nullptr) continue;
    PinHolder holder{table->pid, table->name, 0, 0};
    for (std::uint32_t chunk = 0; chunk < by_chunk_.size(); ++chunk) {
      if (!table->granted[chunk]) continue;
      const std::uint32_t first = chunk * shm::chunk_entries;
      const std::uint32_t end = std::min(first + shm::chunk_entries, limits_.entries);
      for (std::uint32_t entry = first; entry < end; ++entry) {
        const std::uint32_t pins = shm::look_at(table->counts[entry]);
        if (pins == 0 || entry == no_entry) continue;
        holder.pins += pins;
        holder.bytes += size_of(entry);
      }
    }
    if (holder.pins > 0) found.push_back(std::move(holder));
  }
  return found;
}

void PinTables::drain_accesses(const std::function<void(EntryNumber)>& accessed) {
  for (const auto& table : tables_) {
    if (table == nullptr) continue;
    const std::uint64_t head = table->head->access_head.load(std::memory_order_acquire);
    // Overwritten ones are lost; a head that runs backwards is a client's lie and is believed to be
    // empty.
    std::uint64_t from = table->accesses_seen;
    if (head < from) from = head;
    if (head - from > shm::access_log_slots) from = head - shm::access_log_slots;
    for (; from < head; ++from) {
      const EntryNumber entry =
          table->head->access_log[from % shm::access_log_slots].load(relaxed);
      if (entry != no_entry && entry < limits_.entries) accessed(entry);
    }
    table->accesses_seen = head;
  }
}

void PinTables::add_tallies(Tallies& sum, const Table& table) {
  sum.gets += table.head->tallies.gets.load(relaxed);
  sum.misses += table.head->tallies.misses.load(relaxed);
  sum.bytes += table.head->tallies.bytes.load(relaxed);
  sum.puts += table.head->tallies.puts.load(relaxed);
}

PinTables::Tallies PinTables::tallies() const {
  Tallies sum = tallies_of_the_gone_;
  for (const auto& table : tables_)
    if (table != nullptr) add_tallies(sum, *table);
  return sum;
}

}  // namespace forebay::daemon
