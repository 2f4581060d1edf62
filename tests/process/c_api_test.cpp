// SPDX-License-Identifier: Apache-2.0
// Runs c_api_test.c, which is C, against a daemon.
#include <doctest/doctest.h>

#include "tests/support/daemon_process.h"

namespace forebay::test {
namespace {

TEST_SUITE("c api") {
  TEST_CASE("the C API does what its header says, from C") {
    const DaemonProcess daemon;
    const Ran ran = run({program("c_api_test"), daemon.socket()});
    CHECK_MESSAGE(ran.status == 0, ran.output);
    CHECK(ran.output.find("checks") != std::string::npos);
  }
}

}  // namespace
}  // namespace forebay::test
