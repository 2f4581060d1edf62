// SPDX-License-Identifier: Apache-2.0
#include "store/error.h"

#include <doctest/doctest.h>

#include <memory>
#include <set>

namespace forebay {
namespace {

TEST_SUITE("error") {
  TEST_CASE("every code has a name and a text of its own") {
    std::set<std::string> names;
    for (int code = 1; code <= errc_last; ++code) {
      const std::string name(errc_name(static_cast<Errc>(code)));
      CHECK(name != "unknown");
      CHECK(names.insert(name).second);
      CHECK_FALSE(make_error_code(static_cast<Errc>(code)).message().empty());
    }
    CHECK(errc_name(static_cast<Errc>(errc_last + 1)) == "unknown");
  }

  TEST_CASE("a message names the code and the thing") {
    CHECK(fail(Errc::not_found, "no segment 'a'").error.message() == "not_found: no segment 'a'");
    CHECK(fail_errno(2, "cannot open x").error.message() ==
          "No such file or directory: cannot open x");
  }

  TEST_CASE("a result holds a value or an error") {
    const Result<int> good = 3;
    CHECK(good);
    CHECK(*good == 3);
    const Result<int> bad = fail(Errc::timed_out, "late");
    CHECK_FALSE(bad);
    CHECK(bad.error().is(Errc::timed_out));
    const Result<void> done;
    CHECK(done);
  }

  TEST_CASE("a result of something that can only be moved gives it out") {
    Result<std::unique_ptr<int>> result = std::make_unique<int>(5);
    const std::unique_ptr<int> taken = std::move(result).value();
    CHECK(*taken == 5);
  }
}

}  // namespace
}  // namespace forebay
