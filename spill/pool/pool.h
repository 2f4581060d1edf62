// SPDX-License-Identifier: Apache-2.0
// Pool: the rules of a memory pool: what a session may allocate, commit, free, list, find and open.
//
// An allocation belongs to the session that asked for it until it is committed or given back. When
// the session ends it is reclaimed, and not before whoever wrote into it can write no more: its
// data links are ended, or, where links cannot be told apart, the slab gets another key. Items stay
// until they are freed, also when their tenant does not come back, unless the pool is told to
// forget tenants after some time.
//
// Owned by the control thread; sees no socket and takes the time as an argument.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "spill/pool/arena.h"
#include "spill/pool/data_link.h"
#include "spill/pool/item_table.h"
#include "spill/pool/protocol.h"
#include "spill/pool/slabs.h"

namespace forebay::spill::pool {

struct PoolOptions {
  std::uint64_t slab_bytes = 64ULL << 20U;
  std::uint64_t tenant_bytes_max = 0;                // 0: no limit
  std::chrono::milliseconds uncommitted_for{60000};  // then the session ends
  std::chrono::milliseconds shared_for{2000};        // a freed item that others may be reading
  std::chrono::seconds forget_tenants_after{0};      // 0: never
};

class Pool {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using SessionId = std::uint64_t;
  struct Recovered {
    std::uint64_t items = 0;
    std::uint64_t bytes = 0;
    std::uint64_t dropped = 0;  // torn, damaged or overlapping
  };

  Pool(Arena& arena, DataServer& server, PoolOptions options);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // First of all: what is committed in the arena.
  Recovered recover(Time now);

  SessionId begin(const StoreUuid& tenant);
  // `links_ended`: the session's data links are gone, no byte of theirs arrives any more.
  void end(SessionId session, bool links_ended, Time now);

  Result<Granted> allocate(SessionId session, const Wanted& wanted, Time now);
  Result<void> commit(SessionId session, const TierItem& item);
  Result<void> free(SessionId session, const Named& named, Time now);
  ListAnswer list(SessionId session, const ListRequest& request) const;
  Result<TierItem> find(const FindRequest& request);
  Result<OpenAnswer> open(SessionId session, const Named& named);
  Stat stat(SessionId session) const;

  // Sessions whose allocations were not committed in time, and which have to be ended.
  std::vector<SessionId> overdue(Time now) const;
  void tick(Time now);

  std::uint64_t used_bytes() const { return slabs_.used_bytes(); }
  const Arena& arena() const { return arena_; }

 private:
  struct Pending {
    ItemRecord record;
    std::uint32_t slab = 0;
    Time since;
  };
  using Spot = std::pair<std::uint32_t, std::uint64_t>;  // slab, offset
  struct Session {
    StoreUuid tenant{};
    std::map<Spot, Pending> pending;
  };
  struct Tenant {
    unsigned sessions = 0;
    std::uint64_t pending_bytes = 0;
    Time seen;
  };
  // Freed, but for a while somebody may still be reading it.
  struct Draining {
    Time until;
    SlabKey shared;
    std::uint32_t slab = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };

  void remove(Item& item, Time now);

  Arena& arena_;
  DataServer& server_;
  PoolOptions options_;
  Slabs slabs_;
  ItemTable items_;
  std::map<SessionId, Session> sessions_;
  std::map<StoreUuid, Tenant> tenants_;
  std::vector<Draining> draining_;
  SessionId last_session_ = 0;
};

}  // namespace forebay::spill::pool
