// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/sums.h"

#include <doctest/doctest.h>

#include "spill/checksum.h"
#include "tests/spill/support/stack_rig.h"
#include "tests/support/random.h"

namespace forebay::spill {
namespace {

using test::Bytes;
using test::bytes_of;

TEST_SUITE("sums") {
  TEST_CASE("the sum of two strings follows from the sums of both") {
    test::Random random("joined");
    for (int round = 0; round < 200; ++round) {
      const Bytes bytes = bytes_of(random.next(), 1 + random.below(200'000));
      const std::size_t cut = random.below(static_cast<std::uint32_t>(bytes.size() + 1));
      const std::span<const std::byte> all(bytes);
      CHECK(crc32c_joined(crc32c(all.first(cut)), crc32c(all.subspan(cut)), bytes.size() - cut) ==
            crc32c(all));
    }
  }

  TEST_CASE("the item's sum is that of all its bytes, table included") {
    for (const std::size_t size :
         {std::size_t{1}, std::size_t{65'535}, std::size_t{65'536}, std::size_t{65'537},
          std::size_t{131'072}, std::size_t{700'001}}) {
      CAPTURE(size);
      Bytes item = bytes_of(size, size);
      const BlockSums sums = BlockSums::of(item);
      CHECK(sums.table().size() == table_bytes_of(size));
      item.insert(item.end(), sums.table().begin(), sums.table().end());
      CHECK(sums.item_sum() == crc32c(item));
      CHECK(stored_of_item(item.size()) == size);
      if (!sums.table().empty())
        CHECK(BlockSums::from_table(sums.table(), size).item_sum() == sums.item_sum());
    }
  }

  TEST_CASE("no item has a length that no segment gives") {
    CHECK(!stored_of_item(0));
    CHECK(!stored_of_item(65'537));
    CHECK(!stored_of_item(65'536 + 8));
    CHECK(stored_of_item(65'536 + 9) == 65'537);
    for (std::uint64_t bytes = 1; bytes < 300'000; ++bytes)
      if (const auto stored = stored_of_item(bytes))
        REQUIRE(*stored + table_bytes_of(*stored) == bytes);
  }

  TEST_CASE("the sum of a place binds the key, both sizes, the codec and the bytes") {
    const TierKey key{{1, 2, 3}, 42};
    const std::uint32_t sum = place_sum(key, 100, 90, SpillCodec::lz4, 5);
    CHECK(place_sum({{1, 2, 3}, 42}, 100, 90, SpillCodec::lz4, 5) == sum);
    CHECK(place_sum({{1, 2, 4}, 42}, 100, 90, SpillCodec::lz4, 5) != sum);
    CHECK(place_sum({{1, 2, 3}, 43}, 100, 90, SpillCodec::lz4, 5) != sum);
    CHECK(place_sum(key, 101, 90, SpillCodec::lz4, 5) != sum);
    CHECK(place_sum(key, 100, 91, SpillCodec::lz4, 5) != sum);
    CHECK(place_sum(key, 100, 90, SpillCodec::zstd, 5) != sum);
    CHECK(place_sum(key, 100, 90, SpillCodec::lz4, 6) != sum);
  }
}

}  // namespace
}  // namespace forebay::spill
