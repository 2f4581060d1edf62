// SPDX-License-Identifier: Apache-2.0
// DiskOperation: one put, get or remove on its way through a disk tier, answered once.
//
// Whoever closes it answers it: the thread that did it, the one that watches deadlines, or the end
// of the tier. The bytes of the caller are touched only within `touch`, which does nothing once the
// operation is closed, and holds off whoever would close it for no longer than one copy takes.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "store/tier.h"

namespace forebay::spill {

class DiskOperation;
// Open operations by their deadlines.
using OpenOperations = std::multimap<TierDeadline, std::shared_ptr<DiskOperation>>;

class DiskOperation {
 public:
  enum class Kind : std::uint8_t { put, get, remove };

  DiskOperation(TierPut asked, std::uint64_t bytes, Tier::PutDone done)
      : kind(Kind::put), put(std::move(asked)), size(bytes), put_done_(std::move(done)) {}
  DiskOperation(TierGet asked, Tier::Done done)
      : kind(Kind::get), get(asked), done_(std::move(done)) {}
  DiskOperation(TierKey removed, TierPlace at, Tier::Done done)
      : kind(Kind::remove), key(removed), place(at), done_(std::move(done)) {}

  const Kind kind;
  const TierPut put;
  const std::uint64_t size = 0;  // of the item that is put
  const TierGet get;
  const TierKey key{};     // of the item that is removed
  const TierPlace place{};

  // The next three are guarded by the tier's mutex.
  std::optional<OpenOperations::iterator> open;
  bool begun = false;      // a thread has taken it
  int thread = -1;         // that has it now

  // True, once: the caller is the one to answer it.
  bool close() {
    const std::lock_guard lock(mutex_);
    return std::exchange(open_, false);
  }
  bool is_open() const {
    const std::lock_guard lock(mutex_);
    return open_;
  }
  template <class Copy>
  bool touch(Copy&& copy) const {
    const std::lock_guard lock(mutex_);
    if (open_) copy();
    return open_;
  }
  // After close.
  void answer(Result<TierPlace> result) {
    if (kind == Kind::put) return std::exchange(put_done_, nullptr)(std::move(result));
    Tier::Done done = std::exchange(done_, nullptr);
    done(result ? Result<void>() : Result<void>(fail(std::move(result).error())));
  }

 private:
  mutable std::mutex mutex_;
  bool open_ = true;  // Guarded by mutex_.
  Tier::PutDone put_done_;
  Tier::Done done_;
};

}  // namespace forebay::spill
