// SPDX-License-Identifier: Apache-2.0
// Transfers: what is in flight on one link, each under a number that is never used twice, so that a
// completion that comes again, or late, is known for one. Belongs to the link's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "spill/fabric/memory.h"

namespace forebay::spill::fabric {

struct Operation;

struct Transfer {
  Operation* operation = nullptr;  // null: not in flight
  std::size_t bytes = 0;
  std::vector<std::shared_ptr<Registration>> held;  // until it has ended
};

class Transfers {
 public:
  explicit Transfers(std::size_t most);

  bool full() const { return free_.empty(); }
  std::size_t count() const { return slots_.size() - free_.size(); }
  std::size_t bytes() const { return bytes_; }

  // The number, for libfabric to give back. Not when full.
  void* begin(Operation* operation, std::size_t bytes,
              std::vector<std::shared_ptr<Registration>>& held);
  // What it was, once; null: nothing that is in flight has that number.
  Operation* end(void* context);
  // Who it is, still in flight.
  Operation* find(void* context) const;
  // The endpoint is closed: none is in flight any more.
  void clear();

 private:
  struct Slot {
    std::uint64_t generation = 0;
    Transfer transfer;
  };
  const Slot* slot_of(void* context) const;

  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::size_t bytes_ = 0;
};

}  // namespace forebay::spill::fabric
