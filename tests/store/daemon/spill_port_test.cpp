// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/spill_port.h"

#include <doctest/doctest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace forebay::daemon {
namespace {

using namespace std::chrono_literals;

// Notes what it is asked for, and answers when it is told to.
struct NotingSpill final : Spill {
  struct Asked {
    TierDeadline deadline;
    SpillDone done;
  };

  void adopt(std::vector<std::pair<std::uint64_t, SpillPlace>>) override {}
  void on_moved(Moved) override {}
  void put(SpillSource, TierDeadline deadline, SpillDone done) override {
    puts.push_back({deadline, std::move(done)});
  }
  void get(SpillPlace, std::span<std::byte>, TierPriority, TierDeadline, Done done) override {
    done({});
  }
  void get_range(SpillPlace, std::uint64_t, std::span<std::byte>, TierDeadline, Done done) override {
    done({});
  }
  void forget(SpillPlace) override {}
  void settle(TierDeadline) override {}
  void find(std::string, std::uint64_t, TierDeadline, FindDone done) override {
    done(fail(Errc::not_found, "nothing was published"));
  }
  std::array<int, 2> tiers_of(const SpillPlace&) const override { return {-1, -1}; }
  SpillStatus status() const override { return {}; }
  void memory_leaves(std::span<const std::byte>) override {}

  std::vector<Asked> puts;
};

TEST_SUITE("spill port") {
  TEST_CASE("what is to be copied behind much else has as much more time") {
    auto owned = std::make_unique<NotingSpill>();
    NotingSpill& spill = *owned;
    // Nothing looks at the bytes.
    constexpr std::uint64_t size = 50'000'000;
    std::vector<std::byte> arena(size);
    SpillPort port(std::move(owned), arena, {});
    const auto copy = [&](std::uint64_t number) {
      CopyJob job;
      job.number = number;
      job.bytes = size;
      port.copy(job);
      return spill.puts.back().deadline;
    };
    const TierDeadline first = copy(1);
    TierDeadline last = first;
    for (std::uint64_t number = 2; number <= 20; ++number) last = copy(number);
    CHECK(last - first >= 19s);
    for (auto& asked : spill.puts) asked.done(SpillPlace{});
    CHECK(port.take_answers().size() == 20);
    // And no more, when that is done.
    const TierDeadline next = copy(21);
    CHECK(next - TierClock::now() <= first - TierClock::now() + 5s);
    spill.puts.back().done(SpillPlace{});
  }
}

}  // namespace
}  // namespace forebay::daemon
