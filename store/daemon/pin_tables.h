// SPDX-License-Identifier: Apache-2.0
// PinTables: the pin tables of all processes, and what they say together.
//
// A table is registered here before its descriptor is sent, so that no pin can be missed. Clients
// write their tables: every read of one is a single load, range-checked, and guarded against pages
// that were taken away. Owned by the daemon's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store/daemon/pin_census.h"
#include "store/error.h"
#include "store/shm/guard.h"
#include "store/shm/layout.h"
#include "store/shm/mapping.h"
#include "store/shm/object_home.h"

namespace forebay::daemon {

using Slot = std::uint32_t;

class PinTables final : public PinCensus {
 public:
  PinTables(shm::ObjectHome& home, const shm::IndexStamp& stamp);

  // A new, empty table under this number.
  Result<void> create(Slot slot, std::uint64_t number);
  // One that another daemon made. Its granted chunks are those that have memory.
  Result<void> open(Slot slot, std::uint64_t number);
  // What the process held is held no more.
  void remove(Slot slot);
  bool has(Slot slot) const { return slot < tables_.size() && tables_[slot] != nullptr; }

  // Reserves memory under a chunk's counts; fine if it has it. Fails with bad_argument for a chunk
  // beyond the last entry.
  Result<void> grant(Slot slot, std::uint32_t chunk);
  // Lets `to` hold what `from` holds.
  Result<void> copy(Slot from, Slot to);

  bool holds_any(Slot slot) const;
  // Its process has taken pages of it away.
  bool broken(Slot slot) const { return tables_[slot]->guard.broken(); }
  const Descriptor& descriptor(Slot slot) const { return tables_[slot]->object; }
  shm::PinTableHead& head(Slot slot) const { return *tables_[slot]->head; }
  void describe(Slot slot, std::uint32_t pid, std::string name);

  bool pinned(EntryNumber entry) override;
  std::vector<PinHolder> holders(EntryNumber entry) override;
  std::vector<PinHolder> holders_of_all(
      const std::function<std::uint64_t(EntryNumber)>& size_of) override;
  void drain_accesses(const std::function<void(EntryNumber)>& accessed) override;

  struct Tallies {
    std::uint64_t gets = 0;
    std::uint64_t misses = 0;
    std::uint64_t bytes = 0;
    std::uint64_t puts = 0;
  };
  // Of all tables that there are and were.
  Tallies tallies() const;

  static std::string object_name(std::uint64_t number);

 private:
  struct Table {
    Table(Descriptor object, shm::Mapping mapping, std::uint64_t number);
    Descriptor object;
    shm::Mapping mapping;
    shm::Guard guard;
    shm::PinTableHead* head;
    std::atomic<std::uint32_t>* counts;
    std::vector<bool> granted;  // by chunk
    std::uint64_t number;
    std::uint64_t accesses_seen = 0;
    std::uint32_t pid = 0;
    std::string name;
  };

  void add(Slot slot, std::unique_ptr<Table> table);
  void note_granted(Table& table, std::uint32_t chunk);
  static void add_tallies(Tallies& sum, const Table& table);

  shm::ObjectHome& home_;
  shm::Limits limits_;
  std::array<std::uint8_t, 16> store_uuid_;
  std::vector<std::unique_ptr<Table>> tables_;   // by slot
  std::vector<std::vector<Table*>> by_chunk_;    // who can hold a pin in the chunk
  Tallies tallies_of_the_gone_;
};

}  // namespace forebay::daemon
