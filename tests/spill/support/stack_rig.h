// SPDX-License-Identifier: Apache-2.0
// A stack of fake tiers, and calls that wait for their answer.
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "spill/stack/tier_stack.h"
#include "tests/spill/support/fake_tier.h"
#include "tests/support/eventually.h"

namespace forebay::test {

using Bytes = std::vector<std::byte>;

// Bytes that depend on every bit of the seed; repetitive ones can be made smaller.
inline Bytes bytes_of(std::uint64_t seed, std::size_t size, bool repetitive = false) {
  Bytes bytes(size);
  std::uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
  for (std::size_t i = 0; i < size; ++i) {
    if (!repetitive || i % 64 == 0) {
      state ^= state << 13U;
      state ^= state >> 7U;
      state ^= state << 17U;
    }
    bytes[i] = static_cast<std::byte>(state >> 32U);
  }
  return bytes;
}

inline TierDeadline soon(std::chrono::milliseconds within = patience) {
  return TierClock::now() + within;
}

// An answer that can be waited for, and that notices when it is given twice.
template <class T>
class Answered {
 public:
  std::function<void(Result<T>)> done() {
    return [state = state_](Result<T> result) {
      const std::lock_guard lock(state->mutex);
      REQUIRE_MESSAGE(!state->result.has_value(), "answered twice");
      state->result.emplace(std::move(result));
      state->arrived.notify_all();
    };
  }
  bool there() const {
    const std::lock_guard lock(state_->mutex);
    return state_->result.has_value();
  }
  Result<T> wait() {
    std::unique_lock lock(state_->mutex);
    REQUIRE_MESSAGE(
        state_->arrived.wait_for(lock, 2 * patience, [&] { return state_->result.has_value(); }),
        "not answered");
    return *state_->result;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable arrived;
    std::optional<Result<T>> result;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

struct Rig {
  struct Wanted {
    unsigned pools = 1;
    unsigned disks = 0;
    spill::StackOptions options{};
  };

  explicit Rig(Wanted wanted) {
    std::vector<spill::StackTier> tiers;
    for (unsigned i = 0; i < wanted.pools + wanted.disks; ++i) {
      const bool pool = i < wanted.pools;
      const std::string name = pool ? "pool " + std::to_string(i)
                                    : "disk " + std::to_string(i - wanted.pools);
      auto fake = std::make_unique<FakeTier>(FakeTier::Options{.name = name});
      fakes.push_back(fake.get());
      tiers.push_back({std::move(fake), pool ? spill::TierKind::pool : spill::TierKind::disk, 1});
    }
    wanted.options.store[0] = 7;
    stack = std::make_unique<spill::TierStack>(std::move(tiers), wanted.options);
  }

  Result<SpillPlace> put(const Bytes& bytes, SpillOptions options = {}, TierLabel label = {},
                         TierDeadline deadline = soon()) {
    Answered<SpillPlace> answer;
    stack->put({++serial, bytes, options, std::move(label)}, deadline, answer.done());
    return answer.wait();
  }
  Result<Bytes> get(const SpillPlace& place, TierDeadline deadline = soon()) {
    Bytes into(place.size);
    Answered<void> answer;
    stack->get(place, into, TierPriority::demand, deadline, answer.done());
    const auto result = answer.wait();
    if (!result) return fail(result.error());
    return into;
  }
  Result<Bytes> range(const SpillPlace& place, std::uint64_t offset, std::uint64_t bytes,
                      TierDeadline deadline = soon()) {
    Bytes into(bytes);
    Answered<void> answer;
    stack->get_range(place, offset, into, deadline, answer.done());
    const auto result = answer.wait();
    if (!result) return fail(result.error());
    return into;
  }
  Result<SpillFound> find(const std::string& name, std::uint64_t version = 0) {
    Answered<SpillFound> answer;
    stack->find(name, version, soon(), answer.done());
    return answer.wait();
  }
  std::size_t items() const {
    std::size_t items = 0;
    for (const FakeTier* fake : fakes) items += fake->items();
    return items;
  }
  // Where the given copy of a place lies.
  FakeTier& holder(const SpillPlace& place, unsigned copy = 0) {
    const int tier = stack->tiers_of(place)[copy];
    REQUIRE(tier >= 0);
    return *fakes[static_cast<std::size_t>(tier)];
  }
  static TierKey key(const SpillPlace& place) { return {place.store, place.item}; }

  std::vector<FakeTier*> fakes;  // pools, then disks; they live as long as the stack
  std::unique_ptr<spill::TierStack> stack;
  std::uint64_t serial = 0;
};

// Keeps places up to date as the daemon would.
class Places {
 public:
  void follow(spill::TierStack& stack) {
    stack.on_moved([this](const SpillMove& move, const std::function<void(bool)>& answer) {
      bool taken = false;
      {
        const std::lock_guard lock(mutex_);
        const auto found = places_.find(move.serial);
        taken = found != places_.end() && found->second == move.from;
        if (taken) found->second = move.to;
        ++moves_;
      }
      answer(taken);
    });
  }
  void set(std::uint64_t serial, const SpillPlace& place) {
    const std::lock_guard lock(mutex_);
    places_[serial] = place;
  }
  SpillPlace at(std::uint64_t serial) const {
    const std::lock_guard lock(mutex_);
    return places_.at(serial);
  }
  SpillPlace take(std::uint64_t serial) {
    const std::lock_guard lock(mutex_);
    const SpillPlace place = places_.at(serial);
    places_.erase(serial);
    return place;
  }
  unsigned moves() const {
    const std::lock_guard lock(mutex_);
    return moves_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::uint64_t, SpillPlace> places_;
  unsigned moves_ = 0;
};

}  // namespace forebay::test
