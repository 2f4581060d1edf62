// SPDX-License-Identifier: Apache-2.0
// Random numbers for tests: the seed is printed when a test fails, and --seed=N (or FOREBAY_SEED)
// brings a run back.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

namespace forebay::test {

inline std::uint64_t seed_of_run() {
  if (const char* given = std::getenv("FOREBAY_SEED")) return std::strtoull(given, nullptr, 10);
  return std::random_device{}();
}

class Random {
 public:
  explicit Random(const std::string& name, std::uint64_t seed = seed_of_run())
      : seed_(seed), engine_(seed) {
    // Doctest shows it only if the test fails; the run can then be repeated.
    MESSAGE(name, ": to repeat, --seed=", seed_);
  }
  std::uint64_t seed() const { return seed_; }
  std::uint64_t next() { return engine_(); }
  std::uint32_t next32() { return static_cast<std::uint32_t>(engine_()); }
  // In [0, end).
  std::uint32_t below(std::uint32_t end) { return static_cast<std::uint32_t>(engine_() % end); }
  std::uint64_t between(std::uint64_t least, std::uint64_t most) {
    return least + engine_() % (most - least + 1);
  }
  bool chance(double probability) {
    return std::uniform_real_distribution<double>(0, 1)(engine_) < probability;
  }

 private:
  std::uint64_t seed_;
  std::mt19937_64 engine_;
};

}  // namespace forebay::test
