// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/scratch.h"

#include <doctest/doctest.h>

#include <atomic>
#include <optional>

#include "tests/support/eventually.h"

namespace forebay::spill {
namespace {

using namespace std::chrono_literals;

TEST_SUITE("scratch") {
  TEST_CASE("who finds no room gets some when it is given back, in the order of asking") {
    Workers workers(1);
    Scratch scratch(workers, 100, [](std::span<const std::byte>) {});
    auto first = scratch.try_take(80);
    CHECK(first.bytes().size() == 80);
    CHECK(scratch.try_take(30).bytes().empty());
    std::atomic<int> second{0};
    std::atomic<int> third{0};
    const auto later = TierClock::now() + test::patience;
    scratch.take(60, later, [&](Result<Scratch::Piece> piece) { second = piece ? 1 : -1; });
    scratch.take(10, later, [&](Result<Scratch::Piece> piece) { third = piece ? 1 : -1; });
    CHECK(second == 0);
    CHECK(third == 0);
    first = {};
    CHECK(test::eventually([&] { return second == 1 && third == 1; }));
    workers.finish();
  }

  TEST_CASE("who waits too long is told so, and the next is served") {
    Workers workers(1);
    Scratch scratch(workers, 100, [](std::span<const std::byte>) {});
    auto first = scratch.try_take(50);
    std::atomic<int> late{0};
    std::atomic<int> next{0};
    scratch.take(90, TierClock::now() + 20ms, [&](Result<Scratch::Piece> piece) {
      late = !piece && piece.error().is(Errc::timed_out) ? 1 : -1;
    });
    scratch.take(40, TierClock::now() + test::patience,
                 [&](Result<Scratch::Piece> piece) { next = piece ? 1 : -1; });
    CHECK(test::eventually([&] { return late != 0 && next != 0; }));
    CHECK(late == 1);
    CHECK(next == 1);
    workers.finish();
  }

  TEST_CASE("tiers are told of memory before it goes, and small pieces stay") {
    Workers workers(1);
    std::vector<std::span<const std::byte>> left;
    Scratch scratch(workers, 10'000'000, [&](std::span<const std::byte> bytes) {
      left.push_back(bytes);
    });
    const std::byte* const small = scratch.try_take(100).bytes().data();
    CHECK(reinterpret_cast<std::uintptr_t>(small) % 4096 == 0);
    CHECK(scratch.take_little(200'000)->bytes().data() == small);
    CHECK(left.empty());
    const std::byte* const large = scratch.try_take(1'000'000).bytes().data();
    REQUIRE(left.size() == 1);
    CHECK(left[0].data() == large);
    CHECK(left[0].size() == 1'000'000);
    workers.finish();
  }

  TEST_CASE("one piece that is larger than all is given alone") {
    Workers workers(1);
    Scratch scratch(workers, 100, [](std::span<const std::byte>) {});
    std::optional<Scratch::Piece> large;
    scratch.take(500, TierClock::now() + 1s, [&](Result<Scratch::Piece> piece) {
      REQUIRE(piece);
      large = std::move(*piece);
    });
    REQUIRE(large.has_value());
    CHECK(large->bytes().size() == 500);
    CHECK(scratch.try_take(1).bytes().empty());
    large.reset();
    CHECK(scratch.try_take(1).bytes().size() == 1);
    workers.finish();
  }
}

}  // namespace
}  // namespace forebay::spill
