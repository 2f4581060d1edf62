// SPDX-License-Identifier: Apache-2.0
// Workers: the stack's own threads. They make and check sums, encode and decode, and do what is due
// at a time, so that neither callers nor the tiers' threads wait for that.
//
// Calls may come from any thread. Tasks must not throw and must not wait.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "store/tier.h"

namespace forebay::spill {

class Workers {
 public:
  using Task = std::function<void()>;

  explicit Workers(unsigned threads);
  ~Workers() { finish(); }

  // Demand goes before background, and each in its order.
  void run(TierPriority priority, Task task);
  void run_at(TierClock::time_point due, Task task);
  // Does what was given to `run`, also by other such tasks; forgets what is not due. Then there are
  // no threads any more, and what is given later is done within the call.
  void finish();

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Task> demand_;                          // Guarded by mutex_.
  std::deque<Task> background_;                      // Guarded by mutex_.
  std::multimap<TierClock::time_point, Task> timed_; // Guarded by mutex_.
  unsigned busy_ = 0;                                // Guarded by mutex_.
  bool ending_ = false;                              // Guarded by mutex_.
  bool ended_ = false;                               // Guarded by mutex_.
  std::vector<std::thread> threads_;  // last: they start when everything else is there
};

}  // namespace forebay::spill
