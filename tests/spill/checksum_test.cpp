// SPDX-License-Identifier: Apache-2.0
#include "spill/checksum.h"

#include <doctest/doctest.h>

#include <string>
#include <string_view>

using forebay::spill::crc32c;

namespace {
std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }
}  // namespace

TEST_SUITE("checksum") {
  TEST_CASE("the sum is the one that everybody has") {
    // RFC 3720, B.4, and the check value of the catalogue of CRCs.
    CHECK(crc32c(bytes_of("123456789")) == 0xe3069283U);
    const std::string zeros(32, '\0');
    CHECK(crc32c(bytes_of(zeros)) == 0x8a9136aaU);
    CHECK(crc32c({}) == 0);
  }

  TEST_CASE("sums go on from one part to the next") {
    CHECK(crc32c(bytes_of("6789"), crc32c(bytes_of("12345"))) == 0xe3069283U);
  }
}
