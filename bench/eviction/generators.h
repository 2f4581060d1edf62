// SPDX-License-Identifier: Apache-2.0
// Generators: traces as task frameworks make them, the same ones for the same seed.
//
// Each with every read and with the last use of everything that a framework could know of; sizes
// and the order of tasks vary as they do on a cluster.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/eviction/trace.h"

namespace forebay::bench {

struct NamedTrace {
  std::string name;
  Trace trace;
};

// Blocks of points, all read in each iteration; small partial results and centroids that live for
// one iteration.
Trace kmeans_trace(std::uint64_t seed, unsigned scale);
// C = A * B in blocks: rows of A and columns of B are read again and again, a partial result for
// each block of C is taken over by the next step.
Trace matmul_trace(std::uint64_t seed, unsigned scale);
// Maps write one part for each reduce; reduces, some time later, read one part of every map.
Trace shuffle_trace(std::uint64_t seed, unsigned scale);
// Tasks that read what one to three earlier ones made, mostly recent ones, and some of a set that
// everybody reads.
Trace dag_trace(std::uint64_t seed, unsigned scale);

// All of them. Scale 1 is for tests, 2 for the table.
std::vector<NamedTrace> all_traces(std::uint64_t seed, unsigned scale);

}  // namespace forebay::bench
