// SPDX-License-Identifier: Apache-2.0
// Operations of a link, waited for: each answered once, in time, or the test says which was not.
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "spill/pool/data_link.h"
#include "tests/support/eventually.h"

namespace forebay::test {

// Copies share one answer.
class Answered {
 public:
  spill::DataLink::Done callback() const {
    return [state = state_](Result<void> result) {
      const std::lock_guard lock(state->mutex);
      ++state->times;
      state->result = std::move(result);
      state->at = TierClock::now();
      state->changed.notify_all();
    };
  }
  Result<void> wait(std::chrono::milliseconds within = patience) const {
    std::unique_lock lock(state_->mutex);
    if (!state_->changed.wait_for(lock, within, [&] { return state_->times > 0; }))
      return fail(Errc::cancelled, "the test waited in vain for an answer");
    return *state_->result;
  }
  int times() const {
    const std::lock_guard lock(state_->mutex);
    return state_->times;
  }
  TierDeadline at() const {
    const std::lock_guard lock(state_->mutex);
    return state_->at;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    int times = 0;
    std::optional<Result<void>> result;
    TierDeadline at;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

inline TierDeadline in(std::chrono::milliseconds time) { return TierClock::now() + time; }

inline Answered start_write(spill::DataLink& link, const spill::SlabKey& key, std::uint64_t offset,
                            std::vector<std::span<const std::byte>> parts,
                            TierDeadline deadline = in(patience)) {
  Answered answered;
  link.write(key, offset, std::move(parts), deadline, answered.callback());
  return answered;
}
inline Answered start_read(spill::DataLink& link, const spill::SlabKey& key, std::uint64_t offset,
                           std::span<std::byte> into, TierDeadline deadline = in(patience)) {
  Answered answered;
  link.read(key, offset, into, deadline, answered.callback());
  return answered;
}

inline std::string message_of(const Result<void>& result) {
  return result ? std::string("ok") : result.error().message();
}

}  // namespace forebay::test
