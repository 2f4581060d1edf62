// SPDX-License-Identifier: Apache-2.0
// Outside: all that the rules can do to the world. The server implements it; so do the tests.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "store/daemon/arena_space.h"
#include "store/daemon/event_log.h"
#include "store/daemon/segment_table.h"
#include "store/daemon/ticket.h"
#include "store/daemon/transfers.h"
#include "store/error.h"

namespace forebay::daemon {

struct CreatedSegment {
  EntryNumber entry = no_entry;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  shm::Location location;
  bool sealed_before = false;  // a repeated put that had worked: nothing is left to do
  // To be written behind the payload, if it does not fit into the record. Valid during the call.
  std::uint64_t size = 0;
  std::span<const std::byte> description;
};

// What became of a claim: it is the caller's, or what it was for is there.
struct ClaimAnswer {
  bool yours = false;
  EntryNumber entry = no_entry;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
};

// Work for the memory thread. Answered by Rules::memory_done with the same number.
struct MemoryJob {
  std::uint64_t number = 0;
  bool urgent = false;                   // somebody waits for it
  MemoryWork arena;                      // punch first, then grow
  std::vector<shm::Range> index_ranges;  // of the index object, to reserve
};

class Outside {
 public:
  virtual ~Outside() = default;
  // A create (or the first half of a put) has its memory.
  virtual void created(Ticket ticket, const CreatedSegment& segment) = 0;
  // The same for a request that failed, at once or later.
  virtual void refused(Ticket ticket, Error error) = 0;
  // What an await waited for has happened.
  virtual void awaited(Ticket ticket) = 0;
  // Enough of what a wait was for has happened, or its time is up; the indices of what is there.
  virtual void waited(Ticket ticket, std::vector<std::uint32_t> ready) = 0;
  virtual void claimed(Ticket ticket, const ClaimAnswer& answer) = 0;
  // A scope is begun, or has ended and is empty; so many segments were removed.
  virtual void scoped(Ticket ticket, std::uint64_t removed) = 0;
  // Valid during the call.
  virtual void told(Ticket ticket, const EventLog::Batch& batch) = 0;
  virtual void start(MemoryJob job) = 0;
  virtual void start(CopyJob job) = 0;
  virtual void start(FetchJob job) = 0;
  // The bytes there are wanted no more.
  virtual void forget(const SpillPlace& place) = 0;
  // A request about several segments is done with; so many were dealt with.
  virtual void transferred(Ticket ticket, std::uint64_t done) = 0;
  // Of whoever has a slot: "pid 4711 (kmeans.py)".
  virtual std::string name_of(std::uint32_t slot) const { return "process " + std::to_string(slot); }
  // A process may have two slots: one that it froze at a fork which no daemon answered, and another
  // that it got when it connected again.
  virtual bool same_process(std::uint32_t slot, std::uint32_t other) const = 0;
};

}  // namespace forebay::daemon
