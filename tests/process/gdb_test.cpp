// SPDX-License-Identifier: Apache-2.0
// The gdb script that walks the index, on a daemon that is stopped in the middle of anything.
#include <doctest/doctest.h>

#include <string>

#include "store/client.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"

namespace forebay::test {
namespace {

TEST_SUITE("gdb script") {
  TEST_CASE("it shows the index of a daemon, entry by entry") {
    if (run({"/usr/bin/env", "gdb", "--version"}).status != 0) {
      MESSAGE("skipped: there is no gdb here");
      return;
    }
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("points/1", payload(1234, "points/1", 1)));
    const std::string long_id(200, 'x');
    must(client.put(long_id, payload(77, long_id, 1), {.version = 5}));
    const Ran ran = run({"/usr/bin/env", "gdb", "-q", "-batch", "-nx", "-x",
                         FOREBAY_SOURCE_DIR "/scripts/forebay-gdb.py", "-p",
                         std::to_string(daemon.pid()), "-ex", "forebay-index", "-ex",
                         "forebay-line 0", "-ex", "forebay-entry 1"});
    const auto says = [&](const std::string& text) {
      return ran.output.find(text) != std::string::npos;
    };
    if (says("ptrace: Operation not permitted")) {
      MESSAGE("skipped: this system lets nobody trace");
      return;
    }
    CAPTURE(ran.output);
    CHECK(says("2 entries were used"));
    CHECK(says("sealed     b'points/1' version 1 serial 1 size 1234"));
    CHECK(says(long_id + "' version 5"));
    CHECK(says("description_size"));
    // It goes on afterwards.
    CHECK(outcome(client.put("after", payload(10, "after", 1))) == "ok");
  }
}

}  // namespace
}  // namespace forebay::test
