// SPDX-License-Identifier: Apache-2.0
// MemoryWorker: the thread that gets memory from the system and gives it back, so that the event
// loop never waits for either.
//
// Growing is reserving (so that nothing can die of SIGBUS) and then touching every page (so that
// nobody else pays for zeroing it). Urgent jobs go before the others. `submit` and `take_done` may
// be called from one other thread; `wake_descriptor` becomes readable when something is done.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <system_error>
#include <thread>
#include <vector>

#include "store/daemon/outside.h"
#include "store/shm/mapping.h"
#include "store/shm/object_home.h"

namespace forebay::daemon {

class MemoryWorker {
 public:
  struct Done {
    std::uint64_t number;
    std::error_code error;
  };

  // The objects and the writable mappings must outlive the worker. With `huge_pages`, memory comes in by
  // touching it through the mappings, which were advised: `fallocate` alone gets small pages.
  // `before_punch` is told of the bytes of the arena that are about to lose their memory.
  using BeforePunch = std::function<void(std::span<const std::byte>)>;
  MemoryWorker(const Descriptor& index, const Descriptor& arena,
               shm::Mapping& index_mapping, shm::Mapping& arena_mapping, bool huge_pages,
               BeforePunch before_punch = {});
  ~MemoryWorker();

  void submit(MemoryJob job);
  std::vector<Done> take_done();
  int wake_descriptor() const { return wake_.get(); }

 private:
  void run();
  std::error_code perform(const MemoryJob& job);
  std::error_code grow(const Extent& extent);

  const Descriptor& index_;
  const Descriptor& arena_;
  shm::Mapping& index_mapping_;
  shm::Mapping& arena_mapping_;
  bool huge_pages_;
  BeforePunch before_punch_;
  Descriptor wake_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<MemoryJob> urgent_;      // Guarded by mutex_.
  std::deque<MemoryJob> background_;  // Guarded by mutex_.
  std::vector<Done> done_;            // Guarded by mutex_.
  bool ending_ = false;               // Guarded by mutex_.
  std::thread thread_;                // last: it starts when everything else is there
};

}  // namespace forebay::daemon
