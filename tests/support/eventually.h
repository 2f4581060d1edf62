// SPDX-License-Identifier: Apache-2.0
// Waiting for what must become true, without guessing how long it takes.
#pragma once

#include <chrono>
#include <thread>

namespace forebay::test {

// Generous: a loaded machine must not fail a test. What must be fast is measured in bench/.
inline constexpr std::chrono::seconds patience{20};

template <class Condition>
bool eventually(Condition&& condition, std::chrono::milliseconds within = patience) {
  const auto deadline = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace forebay::test
