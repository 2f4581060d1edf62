// SPDX-License-Identifier: Apache-2.0
// A worker of the k-means job in C++: it attaches to the same segments by handle, and does what
// worker.py does.
//
// Usage: demo_worker SOCKET PREFIX NAME REF...
#include <forebay/client.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

namespace {

using forebay::Client;
using forebay::Error;
using forebay::Ref;
using forebay::View;

constexpr auto patience = std::chrono::seconds(120);

[[noreturn]] void give_up(const Error& error) {
  std::fprintf(stderr, "demo_worker: %s\n", error.message().c_str());
  std::exit(1);
}

template <class T>
T value_or_exit(forebay::Result<T> result) {
  if (!result) give_up(result.error());
  return std::move(result).value();
}

// Centres laid out for the loop over points: one row for each dimension, and |c|^2 / 2.
struct Centres {
  Centres(std::span<const double> numbers, std::size_t dimension_count)
      : dimensions(dimension_count), count(numbers.size() / dimension_count) {
    rows.resize(dimensions * count);
    half_norms.resize(count);
    for (std::size_t centre = 0; centre < count; ++centre)
      for (std::size_t d = 0; d < dimensions; ++d) {
        const double number = numbers[centre * dimensions + d];
        rows[d * count + centre] = number;
        half_norms[centre] += number * number / 2;
      }
  }
  std::size_t dimensions;
  std::size_t count;
  std::vector<double> rows;
  std::vector<double> half_norms;
};

// Adds count and sums of the points nearest to each centre to `sums`, as kernel.py does: the nearest
// is the one with the largest p.c - |c|^2 / 2.
void add_partial_sums(std::span<const double> points, const Centres& centres,
                      std::vector<double>& sums) {
  const std::size_t dimensions = centres.dimensions;
  std::vector<double> scores(centres.count);
  for (std::size_t at = 0; at < points.size(); at += dimensions) {
    for (std::size_t centre = 0; centre < centres.count; ++centre)
      scores[centre] = -centres.half_norms[centre];
    for (std::size_t d = 0; d < dimensions; ++d)
      for (std::size_t centre = 0; centre < centres.count; ++centre)
        scores[centre] += points[at + d] * centres.rows[d * centres.count + centre];
    const auto nearest = static_cast<std::size_t>(
        std::max_element(scores.begin(), scores.end()) - scores.begin());
    double* sum = &sums[nearest * (1 + dimensions)];
    sum[0] += 1;
    for (std::size_t d = 0; d < dimensions; ++d) sum[1 + d] += points[at + d];
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: demo_worker SOCKET PREFIX NAME REF...\n");
    return 2;
  }
  const std::string prefix = argv[2];
  const std::string name = argv[3];
  forebay::ConnectOptions options;
  options.address = argv[1];
  Client client = value_or_exit(Client::connect(options));

  std::vector<View> fragments;
  for (int i = 4; i < argc; ++i)
    fragments.push_back(value_or_exit(client.get(value_or_exit(Ref::parse(argv[i])))));

  value_or_exit(client.put(prefix + "/ready/" + name, {}));
  for (std::uint64_t round = 0;;) {
    const View centres = value_or_exit(
        client.get(prefix + "/centres", {.version = 0, .after = round, .timeout = patience}));
    ++round;
    const auto numbers = value_or_exit(centres.as<double>());
    if (numbers.empty()) return 0;  // no more rounds
    const Centres laid_out(numbers, value_or_exit(centres.type()).shape.at(1));
    std::vector<double> sums(laid_out.count * (1 + laid_out.dimensions));
    for (const View& fragment : fragments)
      add_partial_sums(value_or_exit(fragment.as<double>()), laid_out, sums);
    forebay::PutOptions put;
    put.version = round;
    put.type = forebay::array_of<double>({laid_out.count, 1 + laid_out.dimensions});
    value_or_exit(client.put(prefix + "/sums/" + name, std::as_bytes(std::span(sums)), put));
  }
}
