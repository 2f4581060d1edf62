// SPDX-License-Identifier: Apache-2.0
// All test programs. Beyond doctest's own options: --seed=N repeats a random test, --steps=N makes
// its runs as long; the same as FOREBAY_SEED and FOREBAY_STEPS, which processes under test inherit.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

int main(int argc, char** argv) {
  constexpr std::array<std::pair<std::string_view, const char*>, 2> variables{
      {{"--seed=", "FOREBAY_SEED"}, {"--steps=", "FOREBAY_STEPS"}}};
  std::vector<char*> others;
  for (char* const argument : std::vector<char*>(argv, argv + argc)) {
    bool known = false;
    for (const auto& [option, variable] : variables) {
      if (!std::string_view(argument).starts_with(option)) continue;
      ::setenv(variable, argument + option.size(), 1);
      known = true;
    }
    if (!known) others.push_back(argument);
  }
  return doctest::Context(static_cast<int>(others.size()), others.data()).run();
}
