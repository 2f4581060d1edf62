// SPDX-License-Identifier: Apache-2.0
// PoolTier: the memory of a forebay-poold as a Tier.
//
// It connects by itself, again and again, and says so in its status; while it is not connected all
// that is asked ends at once with tier_down. A pool that stops to answer, by whatever cause, is
// given up after three heartbeats, 1.5 s: then the data links are closed and everything open is
// answered.
//
// A put is answered with success only when the pool has acknowledged its commit. If that
// acknowledgement is lost with the connection, the put has failed, and what it left is freed when
// the pool is there again. What the pool holds for this store is known here, so that a get of what
// has been removed fails with lost without asking, and a remove waits for the gets that are under
// way.
//
// `store` is one daemon's own: a later session of the same store ends the earlier one.
// One control thread, and one for each data link. Reads that somebody waits for have a link of their
// own. The bytes of puts are spread over two: to send them is what takes longest, and one thread that
// sends is not enough to keep the pool's busy that receives.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "spill/pool/backend.h"
#include "store/tier.h"

namespace forebay::spill {

struct PoolTierOptions {
  std::string address;  // host:port of the pool; a number is better than a name
  std::string key_file;
  bool insecure = false;  // no key; the pool has to be --insecure, too
  std::array<std::uint8_t, 16> store{};
  std::vector<Backend> backends;  // that may be used; empty: plain TCP
  // Told in one line, from the control thread: connected, lost and why. Must not wait.
  std::function<void(const std::string&)> log;
};

class PoolTier final : public Tier {
 public:
  // Does not wait for the pool. Fails when address or key file are not what they should be.
  static Result<std::unique_ptr<PoolTier>> start(PoolTierOptions options);
  ~PoolTier() override;

  // Fails with tier_down, and why, when it is not up by then.
  Result<void> wait_until_up(TierDeadline deadline);

  void put(TierPut put, TierDeadline deadline, PutDone done) override;
  void get(TierGet get, TierDeadline deadline, Done done) override;
  void remove(TierKey key, TierPlace place, TierDeadline deadline, Done done) override;
  void list(std::array<std::uint8_t, 16> store, TierDeadline deadline, ListDone done) override;
  void find(std::string name, std::uint64_t version, TierDeadline deadline, FindDone done) override;
  TierStatus status() const override;
  void memory_leaves(std::span<const std::byte> bytes) override;

 private:
  class Core;
  explicit PoolTier(std::unique_ptr<Core> core);
  std::unique_ptr<Core> core_;
};

}  // namespace forebay::spill
