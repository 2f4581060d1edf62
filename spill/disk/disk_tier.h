// SPDX-License-Identifier: Apache-2.0
// DiskTier: a tier in a folder of a local disk, one file for each item.
//
// Keeps the contract of store/tier.h. What was put survives a crash of the process and of the
// machine; what was removed may come back after a crash of the machine, as an item that nobody
// knows. Files that are gone, cut, swapped or changed under us are lost, never wrong bytes: a get
// of a whole item checks all of them, a get of a range checks that the file is that item's. A file
// that is of no use is moved to damaged/ and reported.
//
// Threads of its own: `threads` that read and write, one that makes names durable, for all puts
// that wait for it at once, and one that watches the deadlines. Gets on demand go before all else,
// and one thread is always kept for them when there are two. When the disk is stuck, operations are
// answered at their deadlines all the same, and new ones, after a while, with tier_down at once.
// Callbacks come from these threads; those of list and find, and refusals, from within the call.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "spill/disk/file_io.h"
#include "spill/disk/item_directory.h"
#include "store/tier.h"

namespace forebay::spill {

enum class DirectIo : std::uint8_t {
  automatic,  // where the file system can do it
  on,         // or fail
  off,        // through the page cache
};

struct DiskTierOptions {
  std::string directory;  // made if it is not there; the folder above it must be
  std::uint64_t capacity_bytes = 0;  // of files, with their first pages
  unsigned threads = 2;
  DirectIo direct_io = DirectIo::automatic;
  Report report;  // may be empty; called from any thread
  // A thread that is that much longer in a call than anybody waits for it is stuck.
  std::chrono::milliseconds stuck_after{2000};
  // How long a closing tier waits for its threads before it leaves them to the disk.
  std::chrono::milliseconds close_within{5000};
  std::shared_ptr<FileIo> io;  // tests: instead of the system's
};

class DiskTier final : public Tier {
 public:
  // Reads the first page of every item there. Fails with denied (the folder cannot be trusted),
  // already_running (another process uses it), bad_argument, bad_state, and the system's errors.
  static Result<std::unique_ptr<DiskTier>> open(DiskTierOptions options);
  ~DiskTier() override;
  DiskTier(const DiskTier&) = delete;
  DiskTier& operator=(const DiskTier&) = delete;

  void put(TierPut put, TierDeadline deadline, PutDone done) override;
  void get(TierGet get, TierDeadline deadline, Done done) override;
  void remove(TierKey key, TierPlace place, TierDeadline deadline, Done done) override;
  void list(std::array<std::uint8_t, 16> store, TierDeadline deadline, ListDone done) override;
  void find(std::string name, std::uint64_t version, TierDeadline deadline,
            FindDone done) override;
  TierStatus status() const override;

  bool direct_io() const;

 private:
  class Core;
  explicit DiskTier(std::shared_ptr<Core> core) : core_(std::move(core)) {}

  std::shared_ptr<Core> core_;  // its threads hold it, too
};

}  // namespace forebay::spill
