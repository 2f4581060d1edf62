// SPDX-License-Identifier: Apache-2.0
#include "store/units.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace forebay {
namespace {

TEST_SUITE("units") {
  TEST_CASE("sizes are read as people write them") {
    for (const auto& [text, bytes] : std::vector<std::pair<std::string, std::uint64_t>>{
             {"0", 0},
             {"1000000", 1000000},
             {"12B", 12},
             {"64k", 64 * kibibyte},
             {"64KB", 64 * kibibyte},
             {"8GiB", 8 * gibibyte},
             {"512 MiB", 512 * mebibyte},
             {"1.5G", gibibyte + gibibyte / 2},
             {"2tib", 2 * tebibyte}}) {
      const auto parsed = parse_size(text);
      REQUIRE_MESSAGE(parsed, text);
      CHECK(*parsed == bytes);
    }
  }

  TEST_CASE("a percentage is a share of the whole") {
    CHECK(*parse_size("50%", 1000) == 500);
    CHECK(*parse_size("100%", 1000) == 1000);
    CHECK(parse_size("50%").error().is(Errc::bad_argument));
    CHECK(parse_size("101%", 1000).error().is(Errc::bad_argument));
  }

  TEST_CASE("what is no size is refused with the text and the accepted forms") {
    for (const char* text : {"", "x", "-1", "1X", "1GiBs", "GiB", "1e30", "99999999T", "1 2"}) {
      const auto parsed = parse_size(text);
      REQUIRE_FALSE_MESSAGE(parsed.has_value(), text);
      CHECK(parsed.error().is(Errc::bad_argument));
      CHECK(parsed.error().detail.find(text) != std::string::npos);
      CHECK(parsed.error().detail.find("512MiB") != std::string::npos);
    }
  }

  TEST_CASE("sizes are shown with one decimal at most") {
    CHECK(format_size(0) == "0 B");
    CHECK(format_size(12) == "12 B");
    CHECK(format_size(64 * mebibyte) == "64 MiB");
    CHECK(format_size(gibibyte + gibibyte / 2) == "1.5 GiB");
    CHECK(format_size(3 * gibibyte + 100 * mebibyte) == "3.1 GiB");
    CHECK(format_size(1023 * kibibyte + 512) == "1024 KiB");
  }
}

}  // namespace
}  // namespace forebay
