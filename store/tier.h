// SPDX-License-Identifier: Apache-2.0
// Tier: one place where the bytes of evicted segments may live: the memory of a pool, a disk.
//
// Every operation is answered exactly once, by its callback: with what was asked for, or with an
// error, at the latest soon after its deadline, whatever has become of the tier. Once a callback has
// been called, the tier touches neither the source nor the destination of that operation any more;
// until then both must stay as they are. Callbacks come from the tier's own threads (or from within
// the call), must not wait for anything, and may call the tier again.
//
// A tier does not look into what it keeps. That what comes back is what was given is for the caller
// to check: it keeps a checksum of its own. Errors: store_full (no room there; the tier itself is
// well), lost (what the place names is there no more, and will not come back), timed_out and
// tier_down (the tier does not answer; what it holds may be there when it does again), denied, and
// the system's own (ENOSPC, EIO, …). All calls may come from any thread.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "store/error.h"

namespace forebay {

using TierClock = std::chrono::steady_clock;
using TierDeadline = TierClock::time_point;

// Names an item for good: the store whose it is, and a number that this store never uses twice.
struct TierKey {
  std::array<std::uint8_t, 16> store{};
  std::uint64_t number = 0;

  bool operator==(const TierKey&) const = default;
};

// Where an item lies. Words of the tier's own; whoever put the item keeps them, also over a restart
// of either side, and shows them again.
struct TierPlace {
  std::uint64_t incarnation = 0;  // random, of the memory or folder that holds it
  std::uint64_t offset = 0;
  std::uint64_t size = 0;  // bytes of the item
  std::uint32_t slab = 0;
  std::uint32_t reserved = 0;

  bool operator==(const TierPlace&) const = default;
};
static_assert(sizeof(TierPlace) == 32);

// Under what an item can be found by who does not have its place; kept beside the item as it is.
struct TierLabel {
  std::string name;              // empty: it cannot be found. At most 512 bytes.
  std::uint64_t version = 0;
  std::vector<std::byte> about;  // whatever the caller wants to know about it; at most 1 KiB
};

enum class TierPriority : std::uint8_t { demand, background };

struct TierPut {
  TierKey key;
  std::vector<std::span<const std::byte>> parts;  // the item, in order; together at least one byte
  std::uint32_t crc32c = 0;                       // of the item; kept beside it for list and find
  TierLabel label;
  TierPriority priority = TierPriority::background;
};

struct TierGet {
  TierKey key;
  TierPlace place;
  std::uint64_t offset = 0;  // within the item; with `into`, inside its size
  std::span<std::byte> into;
  TierPriority priority = TierPriority::demand;
};

struct TierItem {
  TierKey key;
  TierPlace place;
  std::uint32_t crc32c = 0;
  TierLabel label;
};

struct TierStatus {
  std::string name;      // as configured: "pool 10.0.0.7:7117", "disk /var/spill"
  bool up = false;
  std::string why_down;  // one sentence; empty while up
  std::uint64_t incarnation = 0;  // of what it holds now; 0: not known yet
  std::uint64_t capacity_bytes = 0;
  std::uint64_t used_bytes = 0;   // by everybody, as far as is known
  std::string transport;  // "tcp;ofi_rxm", "plain tcp", "files"
};

class Tier {
 public:
  using PutDone = std::function<void(Result<TierPlace>)>;
  using Done = std::function<void(Result<void>)>;
  using ListDone = std::function<void(Result<std::vector<TierItem>>)>;
  using FindDone = std::function<void(Result<TierItem>)>;

  // Answers everything that is open, waits for its threads, and not for any peer.
  virtual ~Tier() = default;

  // The item is there, whole, and survives a crash of the tier's process, once the callback has its
  // place. A put that failed leaves nothing that anybody could get.
  virtual void put(TierPut put, TierDeadline deadline, PutDone done) = 0;
  // Fails with lost when the item is not (any more) at that place.
  virtual void get(TierGet get, TierDeadline deadline, Done done) = 0;
  // What is not there is removed already.
  virtual void remove(TierKey key, TierPlace place, TierDeadline deadline, Done done) = 0;
  // All items of that store.
  virtual void list(std::array<std::uint8_t, 16> store, TierDeadline deadline, ListDone done) = 0;
  // The item of that name, whichever store put it; version 0: the highest. Fails with not_found.
  virtual void find(std::string name, std::uint64_t version, TierDeadline deadline,
                    FindDone done) = 0;
  virtual TierStatus status() const = 0;
  // These bytes, sources and destinations of no open operation, are about to lose their memory:
  // whatever the tier has registered of them is given up before this returns. Does not wait for
  // any peer.
  virtual void memory_leaves(std::span<const std::byte> bytes) { (void)bytes; }
};

}  // namespace forebay
