// SPDX-License-Identifier: Apache-2.0
// Harness: rows of a benchmark, each a thing of ours beside its floor, measured in turn in one run,
// so that a machine whose speed drifts still gives honest ratios.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "store/error.h"

namespace forebay::bench {

// Runs once and returns how long one operation took, in nanoseconds.
using Sample = std::function<double()>;

struct Row {
  std::string name;
  std::string floor_name;
  Sample ours;
  Sample floor;
};

// Nanoseconds per operation of `body`, called `operations` times.
template <class Body>
double time_per(std::uint64_t operations, Body&& body) {
  const auto start = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < operations; ++i) body(i);
  const auto elapsed = std::chrono::steady_clock::now() - start;
  return std::chrono::duration<double, std::nano>(elapsed).count() /
         static_cast<double>(operations);
}

// What an operation of the library's gave; ends the program with its error if it failed.
template <class T>
T value(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "bench: %s\n", result.error().message().c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(result).value();
}

// Keeps the compiler from leaving out what nobody looks at.
template <class T>
void keep(const T& value) {
  asm volatile("" : : "g"(&value) : "memory");
}

// Measures ours and floor in turn, `rounds` times after one warm-up, and prints one JSON object a
// row: all samples, in nanoseconds.
inline void run(const Row& row, int rounds) {
  row.floor();
  row.ours();
  std::vector<double> ours;
  std::vector<double> floors;
  for (int i = 0; i < rounds; ++i) {
    floors.push_back(row.floor());
    ours.push_back(row.ours());
  }
  const auto list = [](const std::vector<double>& samples) {
    std::string text;
    for (const double sample : samples) {
      char number[32];
      std::snprintf(number, sizeof number, "%s%.3f", text.empty() ? "" : ", ", sample);
      text += number;
    }
    return text;
  };
  std::printf("{\"name\": \"%s\", \"floor\": \"%s\", \"ours_ns\": [%s], \"floor_ns\": [%s]}\n",
              row.name.c_str(), row.floor_name.c_str(), list(ours).c_str(), list(floors).c_str());
  std::fflush(stdout);
}

}  // namespace forebay::bench
