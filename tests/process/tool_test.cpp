// SPDX-License-Identifier: Apache-2.0
// forebay, the tool: what people see.
#include <doctest/doctest.h>
#include <unistd.h>

#include <sstream>
#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {
namespace {

Ran tool(const DaemonProcess& daemon, std::vector<std::string> arguments) {
  std::vector<std::string> all{program("forebay"), "--socket", daemon.socket()};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return run(all);
}

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  std::string line;
  while (std::getline(stream, line)) lines.push_back(line);
  return lines;
}

TEST_SUITE("tool") {
  TEST_CASE("status shows numbers that add up, line by line") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100000, "a", 1)));
    const Ran ran = tool(daemon, {"status"});
    CHECK(ran.status == 0);
    CHECK(mentions(ran.output, "socket " + daemon.socket() + "\n"));
    CHECK(mentions(ran.output, "store " + format_uuid(client.store()) + "\n"));
    CHECK(mentions(ran.output, "\ncapacity_bytes 268435456\n"));
    CHECK(mentions(ran.output, "\nsegments 1\n"));
    CHECK(mentions(ran.output, "\ndaemon_pid " + std::to_string(daemon.pid()) + "\n"));
    for (const std::string& line : lines_of(ran.output)) CHECK(line.find(' ') != std::string::npos);
  }

  TEST_CASE("ls lists segments one a line, sorted, with ids as one printable word") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("points/1", payload(800, "", 1), {.type = array_of<double>({4, 25})}));
    must(client.put("points/0", payload(3 * 1024, "", 1)));
    must(client.put("points/0", payload(3 * 1024, "", 2)));
    must(client.put(std::string("odd id\n\xff\\", 9), payload(1, "", 1)));
    const Ran all = tool(daemon, {"ls"});
    CHECK(all.status == 0);
    const auto lines = lines_of(all.output);
    REQUIRE(lines.size() == 4);
    CHECK(lines[0].starts_with("odd\\x20id\\x0a\\xff\\x5c@1 1 B - "));
    CHECK(lines[1].starts_with("points/0@1 3 KiB - "));
    CHECK(lines[2].starts_with("points/0@2 3 KiB - "));
    CHECK(lines[3].starts_with("points/1@1 800 B <f8(4,25) "));
    CHECK(lines_of(tool(daemon, {"ls", "points/0"}).output).size() == 2);
    CHECK(tool(daemon, {"ls", "none"}).output.empty());
  }

  TEST_CASE("ls lists more segments than fit on a page") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (int i = 0; i < 2500; ++i) must(client.put("n/" + std::to_string(i), payload(1, "", 1)));
    CHECK(lines_of(tool(daemon, {"ls"}).output).size() == 2500);
  }

  TEST_CASE("stat and pins name the processes that hold a segment") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100000, "a", 1), {.evictable = true}));
    const View one = must(client.get("a"));
    const View two = must(client.get("a"));
    const Ran stat = tool(daemon, {"stat", "a"});
    CHECK(stat.status == 0);
    CHECK(mentions(stat.output, "id a\n"));
    CHECK(mentions(stat.output, "\nversion 1\n"));
    CHECK(mentions(stat.output, "\nstate sealed\n"));
    CHECK(mentions(stat.output, "\nsize 100000\n"));
    CHECK(mentions(stat.output, "\nevictable yes\n"));
    CHECK(mentions(stat.output,
                   "\npinned_by " + std::to_string(::getpid()) + " process_tests 2\n"));
    CHECK(tool(daemon, {"stat", "a", "1"}).output == stat.output);
    const Ran pins = tool(daemon, {"pins"});
    CHECK(pins.status == 0);
    CHECK(mentions(pins.output, std::to_string(::getpid()) + " process_tests 2 pins "));
  }

  TEST_CASE("what is not there is an error with a name and a status") {
    DaemonProcess daemon;
    const Ran stat = tool(daemon, {"stat", "none"});
    CHECK(stat.status == 1);
    CHECK(mentions(stat.output, "not_found"));
    CHECK(mentions(stat.output, "none"));
    CHECK(tool(daemon, {"nonsense"}).status != 0);
    CHECK(tool(daemon, {}).status != 0);
  }

  TEST_CASE("dump shows segments, processes and sessions") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("dumped", payload(100000, "dumped", 1)));
    const Ran ran = tool(daemon, {"dump"});
    CHECK(ran.status == 0);
    CHECK(mentions(ran.output, "dumped"));
    CHECK(mentions(ran.output, std::to_string(::getpid())));
    CHECK(mentions(ran.output, "capacity_bytes"));
  }

  TEST_CASE("events shows what happens, from a cursor on, and how to go on behind it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const std::string start = must(client.subscribe("")).cursor().to_string();
    must(client.put("a/1", payload(2048, "a", 1)));
    must(client.put("other", payload(1, "o", 1)));
    must(client.put("a/1", payload(2048, "a", 2), {.keep = 1}));
    must(client.remove("a/1"));
    const Ran ran = tool(daemon, {"events", "a/", "--from", start, "--count", "4"});
    CHECK(ran.status == 0);
    const auto lines = lines_of(ran.output);
    REQUIRE(lines.size() >= 4);
    CHECK(lines[0] == "sealed a/1@1 2 KiB");
    CHECK(lines[1] == "sealed a/1@2 2 KiB");
    CHECK(lines[2] == "removed:kept_newer a/1@1 2 KiB");
    CHECK(lines[3] == "removed a/1@2 2 KiB");
    CHECK(mentions(ran.output, "cursor " + format_uuid(client.store()) + ":"));
    const Ran other = tool(daemon, {"events", "--from", "nonsense"});
    CHECK(other.status == 1);
    CHECK(mentions(other.output, "bad_argument"));
  }

  TEST_CASE("stat shows who holds a segment, how many versions stay, and when it expires") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(10, "a", 1), {.keep = 3, .ttl = std::chrono::hours(1)}));
    must(client.hold("a"));
    const Ran ran = tool(daemon, {"stat", "a"});
    CHECK(mentions(ran.output, "held_by " + std::to_string(::getpid()) + " "));
    CHECK(mentions(ran.output, "keep 3\n"));
    CHECK(mentions(ran.output, "expires_in_ms 3"));
  }

  TEST_CASE("stop ends the daemon and keeps the segments; with --drop they go") {
    DaemonProcess daemon;
    {
      Client client = daemon.connect();
      must(client.put("a", payload(100000, "a", 1)));
    }
    CHECK(tool(daemon, {"stop"}).status == 0);
    CHECK(daemon.wait_for_end(patience) == 0);
    CHECK_FALSE(daemon.objects().empty());
    daemon.start();
    CHECK(outcome(daemon.connect().get("a")) == "ok");
    CHECK(tool(daemon, {"stop", "--drop"}).status == 0);
    CHECK(daemon.wait_for_end(patience) == 0);
    CHECK(daemon.objects().empty());
  }

  TEST_CASE("without a daemon the tool says so, and starts none") {
    TempDir directory;
    const std::string socket = directory / "forebay.sock";
    for (const std::string verb : {"status", "ls", "pins", "dump", "stop"}) {
      const Ran ran = run({program("forebay"), "--socket", socket, verb});
      CHECK(ran.status == 1);
      CHECK(mentions(ran.output, socket));
    }
    const Ran by_default =
        run({program("forebay"), "status"}, {{"XDG_RUNTIME_DIR", directory.path()}});
    CHECK(by_default.status == 1);
    CHECK(mentions(by_default.output, directory.path()));
    CHECK(::access((directory / "forebay/default.sock").c_str(), F_OK) != 0);
  }

  TEST_CASE("both programs tell their version, and refuse what they do not know") {
    for (const std::string name : {"forebay", "forebayd"}) {
      const Ran version = run({program(name), "--version"});
      CHECK(version.status == 0);
      CHECK(version.output.starts_with(name + " "));
      CHECK(run({program(name), "--help"}).status == 0);
      CHECK(run({program(name), "--nonsense"}).status != 0);
    }
    TempDir directory;
    const std::string socket = directory / "forebay.sock";
    for (const std::string capacity : {"0", "nonsense", "-5", "1KiB", "101%", "99999TiB"}) {
      CAPTURE(capacity);
      const Ran ran = run({program("forebayd"), "--socket", socket, "--capacity", capacity});
      CHECK(ran.status != 0);
      CHECK(mentions(ran.output, "--capacity"));
    }
    CHECK(run({program("forebayd"), "--socket", socket},
              {{"FOREBAY_FAILPOINTS", "nonsense=kill"}})
              .status == 2);
    CHECK(run({program("forebayd"), "--socket", socket},
              {{"FOREBAY_FAILPOINTS", "seal.written=nonsense"}})
              .status == 2);
  }
}

}  // namespace
}  // namespace forebay::test
