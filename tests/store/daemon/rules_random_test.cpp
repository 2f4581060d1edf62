// SPDX-License-Identifier: Apache-2.0
// The rules against a model, at random: see tests/support/rules_campaign.h.
//
// A long run, and the same again:
//   unit_tests -tc="whatever happens*" --steps=1000000
//   unit_tests -tc="whatever happens*: a crowded store" --steps=1000000 --seed=4711
// --steps is for each kind of store.
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "store/daemon/rules.h"
#include "tests/support/random.h"
#include "tests/support/rules_campaign.h"

namespace forebay::daemon {
namespace {

using test::pages;
using test::RulesCampaign;

int steps_of_run(int usually) {
  const char* given = std::getenv("FOREBAY_STEPS");
  return given != nullptr ? std::atoi(given) : usually;
}

RulesOptions room_for(std::uint64_t page_count) {
  return {.capacity_bytes = pages(page_count),
          .address_bytes = pages(page_count * 16),
          .reserve_bytes = 0,
          .keep_warm_bytes = pages(page_count),
          .events_max = 300};
}
constexpr shm::Limits limits{
    .entries = 4096, .lines = 2048, .overflow_lines = 1024, .processes = 16};

void run(const RulesCampaign::Kind& kind) {
  test::Random random(kind.name);
  const int steps = steps_of_run(2500);
  RulesCampaign campaign(kind, random);
  campaign.run(steps);
  std::string tally;
  for (const auto& [what, times] : campaign.done)
    tally += (tally.empty() ? "" : ", ") + std::to_string(times) + " " + what;
  MESSAGE(kind.name, ": ", tally);
  // Short runs need not meet everything.
  if (steps < 20'000) return;
  for (const char* what :
       {"created", "sealed", "aborted", "removed", "removed before", "pinned", "repeated", "died",
        "sessions ended", "killed", "killed while taking over", "jobs done", "jobs failed",
        "store_full", "exists", "conflict", "timed_out", "taken over", "superseded", "claimed",
        "claims fulfilled", "claims failed", "claims given up", "held", "let go", "said again",
        "keep said", "cancelled", "waited for several", "let go midway", "surplus pinned",
        "all dropped", "events told", "gone: removed", "gone: kept_newer", "gone: expired",
        "gone: evicted", "gone: superseded"})
    CHECK_MESSAGE(campaign.done[what] > 0, what);
}

TEST_SUITE("rules_random") {
  TEST_CASE("whatever happens, each byte and each request is accounted for: a store with room") {
    run({.name = "a store with room", .options = room_for(1024), .limits = limits});
  }

  TEST_CASE("whatever happens, each byte and each request is accounted for: a crowded store") {
    run({.name = "a crowded store", .options = room_for(256), .limits = limits});
  }

  TEST_CASE("whatever happens, each byte and each request is accounted for: fickle memory") {
    RulesOptions options = room_for(512);
    options.reserve_bytes = pages(30);
    options.keep_warm_bytes = pages(50);
    options.growth_bytes = pages(8);
    options.tombstones_max = 3;
    run({.name = "fickle memory", .options = options, .limits = limits, .refusals = 0.3});
  }

  TEST_CASE("whatever happens, each byte and each request is accounted for: a tiny index") {
    run({.name = "a tiny index",
         .options = room_for(512),
         .limits = {.entries = 24, .lines = 64, .overflow_lines = 100, .processes = 16}});
  }

  TEST_CASE("whatever happens, each byte and each request is accounted for: no tombstones") {
    RulesOptions options = room_for(200);
    options.tombstones_max = 0;
    options.keep_warm_bytes = pages(20);
    run({.name = "no tombstones", .options = options, .limits = limits});
  }

  TEST_CASE("whatever happens, each byte and each request is accounted for: few versions") {
    RulesOptions options = room_for(300);
    options.keep = 2;
    run({.name = "few versions", .options = options, .limits = limits});
  }
}

}  // namespace
}  // namespace forebay::daemon
