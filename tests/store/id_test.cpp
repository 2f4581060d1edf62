// SPDX-License-Identifier: Apache-2.0
#include "store/id.h"

#include <doctest/doctest.h>

#include <string>

namespace forebay {
namespace {

TEST_SUITE("id") {
  TEST_CASE("an id is 1 to 255 bytes of any kind, and others are refused with their length") {
    CHECK(check_id("a"));
    CHECK(check_id(std::string(255, '\0')));
    const auto empty = check_id("");
    REQUIRE_FALSE(empty);
    CHECK(empty.error().is(Errc::bad_id));
    CHECK(empty.error().detail.find("0 bytes") != std::string::npos);
    const auto long_one = check_id(std::string(256, 'x'));
    REQUIRE_FALSE(long_one);
    CHECK(long_one.error().detail.find("256 bytes") != std::string::npos);
    CHECK(long_one.error().detail.size() < 200);
  }

  TEST_CASE("an id is shown as people can read it") {
    CHECK(shown("points/3") == "'points/3'");
    CHECK(shown("points/3", 7) == "'points/3' version 7");
    CHECK(shown(std::string("a\0\xff", 3)) == "'a\\x00\\xff'");
    CHECK(shown(std::string(64, 'x')) == "'" + std::string(64, 'x') + "'");
    CHECK(shown(std::string(65, 'x')) == "'" + std::string(64, 'x') + "…'");
  }
}

}  // namespace
}  // namespace forebay
