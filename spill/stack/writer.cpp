// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/writer.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <string>
#include <utility>

namespace forebay::spill {
namespace {

// Of several errors, the one that says best what to do about it.
int telling(const Error& error) {
  if (error.is(Errc::cancelled)) return 6;
  if (error.is(Errc::store_full)) return 5;
  if (error.is(Errc::denied)) return 4;
  if (error.code.category() == std::system_category()) return 3;
  if (error.is(Errc::timed_out)) return 1;
  if (error.is(Errc::tier_down)) return 2;
  return 3;
}

}  // namespace

struct Writer::State {
  Writing writing;
  std::mutex mutex;
  std::deque<std::size_t> pools;  // Guarded by mutex, as all below.
  std::deque<std::size_t> disks;
  unsigned open = 0;
  unsigned got = 0;
  std::array<TierPlace, 2> copies{};
  std::optional<Error> error;
};

void Writer::write(Writing writing) {
  std::uint64_t bytes = 0;
  for (const auto part : writing.parts) bytes += part.size();
  const bool pools_only = !writing.label.name.empty();
  const auto rooms = tiers_.rooms();
  Candidates candidates;
  {
    const std::lock_guard lock(mutex_);
    candidates = candidates_for(rooms, bytes, pools_only, random_);
  }
  if (tiers_.closed()) return writing.done(closed_failure());
  if (candidates.pools.empty() && candidates.disks.empty())
    return writing.done(fail(no_tier_for(rooms, bytes, pools_only)));
  const auto state = std::make_shared<State>();
  state->writing = std::move(writing);
  state->writing.replicas = std::clamp(state->writing.replicas, 1U, 2U);
  state->pools.assign(candidates.pools.begin(), candidates.pools.end());
  state->disks.assign(candidates.disks.begin(), candidates.disks.end());
  advance(state, nullptr);
}

void Writer::advance(const std::shared_ptr<State>& state, Result<TierPlace>* answer) {
  struct Attempt {
    std::size_t tier;
    TierDeadline deadline;
  };
  std::vector<Attempt> attempts;
  {
    // One section, so that exactly one answer finds that nothing is open any more.
    const std::lock_guard lock(state->mutex);
    if (answer != nullptr) note(*state, *answer);
    const auto now = TierClock::now();
    const bool late = now >= state->writing.deadline;
    const auto next_of = [&](std::deque<std::size_t>& tiers) {
      attempts.push_back({tiers.front(), state->writing.deadline});
      tiers.pop_front();
      ++state->open;
    };
    while (!late && state->open + state->got < state->writing.replicas && !state->pools.empty())
      next_of(state->pools);
    if (!late && state->open == 0 && state->got == 0 && !state->disks.empty())
      next_of(state->disks);
    // A tier that hangs must leave time for those that would be asked after it.
    if (!state->pools.empty() || !state->disks.empty())
      for (Attempt& attempt : attempts) attempt.deadline = now + (attempt.deadline - now) / 2;
    if (state->open > 0 && attempts.empty()) return;
  }
  if (attempts.empty()) {
    if (state->got > 0) return state->writing.done(state->copies);
    return state->writing.done(
        state->error ? fail(std::move(*state->error))
                     : fail(Errc::timed_out, "the deadline had passed before a tier was asked"));
  }
  for (const Attempt& attempt : attempts)
    tiers_.put(attempt.tier,
               {.key = state->writing.key,
                .parts = state->writing.parts,
                .crc32c = state->writing.crc32c,
                .label = state->writing.label,
                .priority = TierPriority::background},
               attempt.deadline,
               [this, state](Result<TierPlace> result) { advance(state, &result); });
}

void Writer::note(State& state, Result<TierPlace>& answer) {
  --state.open;
  if (answer) {
    state.copies[state.got++] = *answer;
  } else if (!state.error) {
    state.error = std::move(answer.error());
  } else {
    Error& error = answer.error();
    std::string both = state.error->detail + "; " + error.detail;
    if (telling(error) > telling(*state.error)) state.error = std::move(error);
    state.error->detail = std::move(both);
  }
}

}  // namespace forebay::spill
