// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/workers.h"

#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <utility>

namespace forebay::spill {

Workers::Workers(unsigned threads) {
  for (unsigned i = 0; i < std::max(threads, 1U); ++i) threads_.emplace_back([this] { serve(); });
}

void Workers::run(TierPriority priority, Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (!ended_) {
      (priority == TierPriority::demand ? demand_ : background_).push_back(std::move(task));
      arrived_.notify_one();
      return;
    }
  }
  task();
}

void Workers::run_at(TierClock::time_point due, Task task) {
  const std::lock_guard lock(mutex_);
  if (ending_) return;
  const auto at = timed_.emplace(due, std::move(task));
  // All look at the same first one; who sleeps until a later one need not know.
  if (at == timed_.begin()) arrived_.notify_one();
}

void Workers::finish() {
  std::multimap<TierClock::time_point, Task> forgotten;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    ending_ = true;
    forgotten.swap(timed_);
  }
  arrived_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  const std::lock_guard lock(mutex_);
  ended_ = true;
}

void Workers::serve() {
  // Signals are the event loop's.
  sigset_t all;
  sigfillset(&all);
  sigdelset(&all, SIGBUS);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);

  std::unique_lock lock(mutex_);
  while (true) {
    Task task;
    if (!demand_.empty()) {
      task = std::move(demand_.front());
      demand_.pop_front();
    } else if (!timed_.empty() && timed_.begin()->first <= TierClock::now()) {
      // Before the background: what is due must not starve behind a long queue of puts.
      task = std::move(timed_.begin()->second);
      timed_.erase(timed_.begin());
    } else if (!background_.empty()) {
      task = std::move(background_.front());
      background_.pop_front();
    } else if (ending_ && busy_ == 0) {
      arrived_.notify_all();
      return;
    } else if (timed_.empty()) {
      arrived_.wait(lock);
      continue;
    } else {
      const TierClock::time_point due = timed_.begin()->first;
      arrived_.wait_until(lock, due);
      continue;
    }
    ++busy_;
    lock.unlock();
    task();
    task = nullptr;  // what it holds goes without the lock
    lock.lock();
    --busy_;
    if (ending_) arrived_.notify_all();
  }
}

}  // namespace forebay::spill
