// SPDX-License-Identifier: Apache-2.0
// How well eviction chooses: replays traces with several policies and memory sizes.
//
// Usage: eviction [--seed N] [--scale N] [--check] [--write DIRECTORY] [TRACE.csv...]
// Without files it makes its own traces; --write keeps them. With --check it fails where GreedyDual
// costs more than 1.02 times LRU, or, with hints, more than twice the bound.
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "bench/eviction/generators.h"
#include "bench/eviction/simulator.h"

namespace {

using namespace forebay::bench;

struct Wanted {
  std::uint64_t seed = 1;
  std::uint64_t scale = 2;
  bool check = false;
  std::string write_to;
  std::vector<std::string> files;
};

bool parse_number(const char* text, std::uint64_t& number) {
  const char* const end = text + std::strlen(text);
  return std::from_chars(text, end, number).ptr == end && end != text;
}

bool parse(int count, char** arguments, Wanted& wanted) {
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const bool more = i + 1 < count;
    if (argument == "--check")
      wanted.check = true;
    else if (argument == "--seed" && more && parse_number(arguments[i + 1], wanted.seed))
      ++i;
    else if (argument == "--scale" && more && parse_number(arguments[i + 1], wanted.scale) &&
             wanted.scale >= 1 && wanted.scale <= 16)
      ++i;
    else if (argument == "--write" && more)
      wanted.write_to = arguments[++i];
    else if (argument.starts_with("--"))
      return false;
    else
      wanted.files.push_back(argument);
  }
  return true;
}

double ratio(double one, double other) { return other > 0 ? one / other : one > 0 ? 1e9 : 1; }

std::string shown(double of) {
  char text[32];
  std::snprintf(text, sizeof text, of >= 1e6 ? "inf" : "%.2f", of);
  return text;
}

// Of the time to fetch everything: less is not worth judging, and a bound of nothing makes every
// ratio infinite.
constexpr double negligible_share = 0.002;

bool show(const NamedTrace& trace) {
  const std::uint64_t working_set = working_set_bytes(trace.trace);
  bool sound = true;
  for (const unsigned percent : {5U, 10U, 20U, 50U}) {
    const std::uint64_t capacity = working_set / 100 * percent;
    std::map<PolicyKind, Outcome> outcomes;
    for (const PolicyKind policy : all_policies)
      outcomes[policy] = simulate(trace.trace, capacity, policy);
    const double lru = outcomes[PolicyKind::lru].refetch_seconds;
    const double bound = outcomes[PolicyKind::belady].refetch_seconds;
    for (const PolicyKind policy : all_policies) {
      const Outcome& outcome = outcomes[policy];
      const double all = static_cast<double>(outcome.reads) * 30e-6 +
                         static_cast<double>(outcome.read_bytes) / 10e9;
      const double slack = negligible_share * all;
      const double to_lru = ratio(outcome.refetch_seconds, lru);
      const double to_bound = ratio(outcome.refetch_seconds, bound);
      const bool greedy =
          policy == PolicyKind::greedy_dual || policy == PolicyKind::greedy_dual_hints;
      const bool worse = greedy && outcome.refetch_seconds > 1.02 * lru + slack;
      const bool far = policy == PolicyKind::greedy_dual_hints &&
                       outcome.refetch_seconds > 2 * bound + slack;
      std::printf("| %s | %u %% | %s | %.3f | %.3f | %.3f | %s | %s | %.2f |%s%s\n",
                  trace.name.c_str(), percent, name_of(policy).c_str(),
                  ratio(static_cast<double>(outcome.refetches), static_cast<double>(outcome.reads)),
                  ratio(static_cast<double>(outcome.refetched_bytes),
                        static_cast<double>(outcome.read_bytes)),
                  outcome.refetch_seconds, shown(to_lru).c_str(), shown(to_bound).c_str(),
                  static_cast<double>(outcome.spilled_bytes) / 1e9, worse ? " worse than LRU" : "",
                  far ? " far from the bound" : "");
      sound &= !worse && !far;
    }
  }
  return sound;
}

}  // namespace

int main(int count, char** arguments) {
  Wanted wanted;
  if (!parse(count, arguments, wanted)) {
    std::fprintf(stderr, "usage: %s [--seed N] [--scale 1..16] [--check] [--write DIRECTORY] "
                         "[TRACE.csv...]\n", arguments[0]);
    return 2;
  }
  std::vector<NamedTrace> traces;
  for (const std::string& file : wanted.files) {
    std::ifstream from(file);
    std::string error = "it cannot be opened";
    auto trace = from ? read_trace(from, error) : std::nullopt;
    if (!trace) {
      std::fprintf(stderr, "%s: %s\n", file.c_str(), error.c_str());
      return 2;
    }
    traces.push_back({file, std::move(*trace)});
  }
  if (traces.empty()) traces = all_traces(wanted.seed, static_cast<unsigned>(wanted.scale));
  std::printf("| trace | memory | policy | refetched reads | refetched bytes | seconds | of LRU | "
              "of Belady | spilled GB |\n|---|---|---|---|---|---|---|---|---|\n");
  bool sound = true;
  for (const NamedTrace& trace : traces) {
    if (!wanted.write_to.empty()) {
      std::ofstream to(wanted.write_to + "/" + trace.name + ".csv");
      write_trace(to, trace.trace);
      if (!to) {
        std::fprintf(stderr, "%s: the trace cannot be written there\n", wanted.write_to.c_str());
        return 2;
      }
    }
    sound &= show(trace);
  }
  return wanted.check && !sound ? 1 : 0;
}
