// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/codec.h"

#include <doctest/doctest.h>

#include "tests/spill/support/stack_rig.h"
#include "tests/support/random.h"

namespace forebay::spill {
namespace {

using test::Bytes;
using test::bytes_of;

TEST_SUITE("codec") {
  TEST_CASE("what was encoded is decoded to the same bytes") {
    for (const SpillCodec codec : {SpillCodec::lz4, SpillCodec::zstd}) {
      for (const std::size_t size :
           {std::size_t{200}, std::size_t{70'000}, std::size_t{1'000'000}}) {
        const Bytes bytes = bytes_of(size, size, true);
        Bytes encoded(size);
        const auto length = encode(codec, bytes, encoded);
        REQUIRE(length.has_value());
        CHECK(*length < size);
        Bytes decoded(size);
        CHECK(decode(codec, std::span(encoded).first(*length), decoded));
        CHECK(decoded == bytes);
      }
    }
  }

  TEST_CASE("what does not become smaller is left as it is") {
    const Bytes bytes = bytes_of(1, 10'000);
    Bytes encoded(bytes.size());
    CHECK(!encode(SpillCodec::lz4, bytes, encoded));
    CHECK(!encode(SpillCodec::zstd, bytes, encoded));
    CHECK(!encode(SpillCodec::none, bytes_of(1, 10'000, true), encoded));
  }

  TEST_CASE("a length that is not the right one is an error and never overruns") {
    const Bytes bytes = bytes_of(3, 50'000, true);
    for (const SpillCodec codec : {SpillCodec::lz4, SpillCodec::zstd}) {
      Bytes encoded(bytes.size());
      const auto length = encode(codec, bytes, encoded);
      REQUIRE(length.has_value());
      const auto sound = std::span(encoded).first(*length);
      Bytes shorter(bytes.size() - 1);
      Bytes longer(bytes.size() + 1);
      Bytes exact(bytes.size());
      CHECK(!decode(codec, sound, shorter));
      CHECK(!decode(codec, sound, longer));
      CHECK(!decode(codec, sound.first(*length - 1), exact));
      CHECK(!decode(codec, {}, exact));
    }
  }

  TEST_CASE("any bytes can be given to decode") {
    test::Random random("codec");
    const Bytes bytes = bytes_of(3, 20'000, true);
    for (int round = 0; round < 2'000; ++round) {
      const SpillCodec codec = random.chance(0.5) ? SpillCodec::lz4 : SpillCodec::zstd;
      Bytes encoded(bytes.size());
      auto length = *encode(codec, bytes, encoded);
      for (unsigned flips = 1 + random.below(4); flips > 0; --flips)
        encoded[random.below(static_cast<std::uint32_t>(length))] ^=
            static_cast<std::byte>(1U << random.below(8));
      Bytes decoded(bytes.size());
      (void)decode(codec, std::span(encoded).first(length), decoded);  // the sanitizers judge
    }
  }
}

}  // namespace
}  // namespace forebay::spill
