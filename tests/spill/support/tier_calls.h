// SPDX-License-Identifier: Apache-2.0
// A tier's calls, awaited: each returns what the callback brought, or says that it did not come.
//
// Answer<T> is a callback's other end. It may outlive its callbacks and they it; a second answer to
// the same operation is counted, and times() shows it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "spill/checksum.h"
#include "store/tier.h"
#include "tests/support/eventually.h"

namespace forebay::test {

inline TierDeadline in(std::chrono::milliseconds time) { return TierClock::now() + time; }

template <class T>
class Answer {
 public:
  // What to give the tier as `done`.
  auto done() {
    return [state = state_](Result<T> result) {
      const std::lock_guard lock(state->mutex);
      if (state->times++ == 0) state->result.emplace(std::move(result));
      state->came.notify_all();
    };
  }
  // The first answer; cancelled if there is none `within` that time.
  Result<T> await(std::chrono::milliseconds within = patience) const {
    std::unique_lock lock(state_->mutex);
    if (!state_->came.wait_for(lock, within, [&] { return state_->times > 0; }))
      return fail(Errc::cancelled, "the tier has not answered");
    return *state_->result;
  }
  unsigned times() const {
    const std::lock_guard lock(state_->mutex);
    return state_->times;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable came;
    unsigned times = 0;                // Guarded by mutex.
    std::optional<Result<T>> result;   // Guarded by mutex.
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// For operations whose own deadline is not what the test is about.
inline TierDeadline soon() { return in(patience); }

inline TierPut put_of(TierKey key, std::span<const std::byte> bytes, TierLabel label = {}) {
  TierPut put;
  put.key = key;
  put.parts = {bytes};
  put.crc32c = spill::crc32c(bytes);
  put.label = std::move(label);
  return put;
}

inline Result<TierPlace> put_now(Tier& tier, TierPut put, TierDeadline deadline = soon()) {
  Answer<TierPlace> answer;
  tier.put(std::move(put), deadline, answer.done());
  return answer.await();
}

inline Result<void> get_now(Tier& tier, TierKey key, TierPlace place, std::uint64_t offset,
                            std::span<std::byte> into, TierDeadline deadline = soon()) {
  Answer<void> answer;
  tier.get({.key = key, .place = place, .offset = offset, .into = into}, deadline, answer.done());
  return answer.await();
}

// The whole item.
inline Result<std::vector<std::byte>> get_now(Tier& tier, TierKey key, TierPlace place) {
  std::vector<std::byte> into(place.size);
  Result<void> got = get_now(tier, key, place, 0, into);
  if (!got) return fail(std::move(got).error());
  return into;
}

inline Result<void> remove_now(Tier& tier, TierKey key, TierPlace place,
                               TierDeadline deadline = soon()) {
  Answer<void> answer;
  tier.remove(key, place, deadline, answer.done());
  return answer.await();
}

inline Result<std::vector<TierItem>> list_now(Tier& tier, std::array<std::uint8_t, 16> store,
                                              TierDeadline deadline = soon()) {
  Answer<std::vector<TierItem>> answer;
  tier.list(store, deadline, answer.done());
  return answer.await();
}

inline Result<TierItem> find_now(Tier& tier, std::string name, std::uint64_t version,
                                 TierDeadline deadline = soon()) {
  Answer<TierItem> answer;
  tier.find(std::move(name), version, deadline, answer.done());
  return answer.await();
}

}  // namespace forebay::test
