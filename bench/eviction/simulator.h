// SPDX-License-Identifier: Apache-2.0
// Simulator: replays a trace with a policy and a bounded memory, and counts what it costs.
//
// A segment that was not spilled before goes out when it is evicted, unless it is known to be used
// no more; one that is read and not in memory is fetched again: 30 us and its bytes at 10 GB/s.
// Online policies may not evict what is being made or read; the bound may.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/eviction/trace.h"

namespace forebay::bench {

enum class PolicyKind : std::uint8_t {
  lru,
  lru_hints,
  greedy_dual,
  greedy_dual_hints,
  belady,  // the better one of: farthest next use; farthest, by what a byte costs to fetch
};
inline constexpr PolicyKind all_policies[] = {PolicyKind::lru, PolicyKind::lru_hints,
                                              PolicyKind::greedy_dual,
                                              PolicyKind::greedy_dual_hints, PolicyKind::belady};

std::string name_of(PolicyKind policy);

struct Outcome {
  std::uint64_t reads = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t refetches = 0;
  std::uint64_t refetched_bytes = 0;
  std::uint64_t spilled_bytes = 0;
  double refetch_seconds = 0;
};

Outcome simulate(const Trace& trace, std::uint64_t capacity_bytes, PolicyKind policy);

}  // namespace forebay::bench
