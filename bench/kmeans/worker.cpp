// SPDX-License-Identifier: Apache-2.0
// The C++ worker of the k-means benchmark: the vector kernel, on segments that it gets by handle.
//
// A task is "POINTS CENTRES ID": the refs of a fragment and of the centres, and the id under which the
// counts and sums are put. The answer is their ref.
#include "worker.h"

#include <algorithm>

namespace {

using forebay::Client;
using forebay::View;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// As NumPy does: the best that this processor has, chosen when the program starts.
#define FOR_THIS_PROCESSOR \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_THIS_PROCESSOR
#endif

// Adds, for each centre, how many points are nearest to it, and their sum: a row of 1 + dimensions.
// The nearest is the one with the largest p.c - |c|^2 / 2.
FOR_THIS_PROCESSOR
void add_sums(const double* points, std::size_t point_count, const double* centres,
              const double* half_norms, std::size_t centre_count, std::size_t dimensions,
              double* sums) {
  for (std::size_t number = 0; number < point_count; ++number) {
    const double* point = points + number * dimensions;
    std::size_t nearest = 0;
    double best = 0;
    for (std::size_t centre = 0; centre < centre_count; ++centre) {
      const double* coordinates = centres + centre * dimensions;
      double score = 0;
#pragma omp simd reduction(+ : score)
      for (std::size_t d = 0; d < dimensions; ++d) score += point[d] * coordinates[d];
      score -= half_norms[centre];
      if (centre == 0 || score > best) {
        best = score;
        nearest = centre;
      }
    }
    double* sum = sums + nearest * (1 + dimensions);
    sum[0] += 1;
#pragma omp simd
    for (std::size_t d = 0; d < dimensions; ++d) sum[1 + d] += point[d];
  }
}

std::string task(Client& client, const bench::Words& words) {
  if (words.size() != 3) bench::give_up({forebay::Errc::bad_argument, "a task is POINTS CENTRES ID"});
  const View points = bench::get(client, words[0]);
  const View centres = bench::get(client, words[1]);
  const auto shape = bench::value_or_exit(centres.type()).shape;
  const std::size_t centre_count = shape.at(0);
  const std::size_t dimensions = shape.at(1);
  const auto coordinates = bench::value_or_exit(centres.as<double>());
  const auto numbers = bench::value_or_exit(points.as<double>());

  std::vector<double> half_norms(centre_count);
  for (std::size_t centre = 0; centre < centre_count; ++centre)
    for (const double number : coordinates.subspan(centre * dimensions, dimensions))
      half_norms[centre] += number * number / 2;
  std::vector<double> sums(centre_count * (1 + dimensions));
  add_sums(numbers.data(), numbers.size() / dimensions, coordinates.data(), half_norms.data(),
           centre_count, dimensions, sums.data());

  forebay::PutOptions put;
  put.type = forebay::array_of<double>({centre_count, 1 + dimensions});
  return bench::value_or_exit(client.put(words[2], std::as_bytes(std::span(sums)), put)).to_string();
}

}  // namespace

int main(int argc, char** argv) { return bench::serve(argc, argv, "", task); }
