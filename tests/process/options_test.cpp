// SPDX-License-Identifier: Apache-2.0
// What forebayd can be told, and how it says no.
#include <doctest/doctest.h>

#include <fstream>
#include <string>
#include <vector>

#include "store/client.h"
#include "store/units.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/status.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {
namespace {

const std::string forebayd = program("forebayd");

class File {
 public:
  explicit File(const std::string& text) : path_(directory_ / "forebayd.toml") {
    std::ofstream(path_) << text;
  }
  const std::string& path() const { return path_; }

 private:
  TempDir directory_;
  std::string path_;
};

Ran printed(const std::string& file, std::vector<std::string> flags = {},
            const std::map<std::string, std::string>& environment = {}) {
  std::vector<std::string> arguments{forebayd, "--print-config"};
  if (!file.empty()) arguments.insert(arguments.end(), {"--config", file});
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  return run(arguments, environment);
}

bool says(const Ran& ran, const std::string& text) {
  const bool found = ran.output.find(text) != std::string::npos;
  if (!found) MESSAGE("it said: " << ran.output);
  return found;
}

TEST_SUITE("options") {
  TEST_CASE("a flag wins over a variable, and a variable over the file") {
    const File file("capacity = \"1GiB\"\nlog-level = \"error\"\nmax-segments = 5000\ndrop = true\n");
    const Ran all = printed(file.path(), {"--capacity", "3GiB"},
                            {{"FOREBAY_CAPACITY", "2GiB"}, {"FOREBAY_LOG_LEVEL", "warning"}});
    CHECK(all.status == 0);
    CHECK(says(all, "capacity = '3GiB'  # --capacity"));
    CHECK(says(all, "log-level = 'warning'  # FOREBAY_LOG_LEVEL"));
    CHECK(says(all, "max-segments = 5000  # " + file.path() + ": line 3"));
    CHECK(says(all, "drop = true  # " + file.path() + ": line 4"));
    CHECK(says(all, "memory = 'named'  # default"));
    CHECK(says(printed("", {}, {{"FOREBAY_CONFIG", file.path()}}), "capacity = '1GiB'"));
  }

  TEST_CASE("--keep is the default of ids that say nothing themselves") {
    DaemonProcess daemon({.arguments = {"--keep", "2"}});
    Client client = daemon.connect();
    const std::vector<std::byte> bytes(10);
    for (int i = 0; i < 4; ++i) {
      must(client.put("a", bytes));
      must(client.put("b", bytes, {.keep = keep_all}));
    }
    CHECK(must(client.list("a")).segments.size() == 2);
    CHECK(must(client.list("b")).segments.size() == 4);
    CHECK(printed("", {"--keep", "0"}).status == 2);
  }

  TEST_CASE("huge pages are used only where the kernel gives any, and can be declined") {
    CHECK(says(printed(""), "huge-pages = 'auto'  # default"));
    CHECK(says(printed("", {"--huge-pages", "never"}), "huge-pages = 'never'  # --huge-pages"));
    CHECK(printed("", {"--huge-pages", "always"}).status == 2);
    DaemonProcess daemon({.arguments = {"--huge-pages", "never"}});
    CHECK(Status(daemon.connect())["huge_pages"] == 0);
  }

  TEST_CASE("what is printed can be given back as a file") {
    const Ran first = printed("", {"--capacity", "50%", "--idle-exit", "7", "--log-file", "a 'b' c"});
    REQUIRE(first.status == 0);
    const File file(first.output);
    const Ran second = printed(file.path());
    CHECK(second.status == 0);
    CHECK(says(second, "capacity = '50%'"));
    CHECK(says(second, "idle-exit = 7"));
    CHECK(says(second, "a 'b' c"));
  }

  TEST_CASE("an unknown key is refused with its line and the nearest name") {
    const Ran ran = printed(File("memory = \"named\"\n\nkeep-worm = \"1GiB\"\n").path());
    CHECK(ran.status == 2);
    CHECK(says(ran, "line 3: there is no setting 'keep-worm'; the nearest is 'keep-warm'"));
  }

  TEST_CASE("an unknown flag is refused with the nearest name") {
    const Ran ran = printed("", {"--capcity", "1GiB"});
    CHECK(ran.status == 2);
    CHECK(says(ran, "'--capcity'; the nearest is '--capacity'"));
  }

  TEST_CASE("a bad unit is refused with the place where it stands and the accepted forms") {
    const Ran file = printed(File("# sizes\ncapacity = \"8 parsecs\"\n").path());
    CHECK(file.status == 2);
    CHECK(says(file, "line 2: --capacity: size '8 parsecs' has an unknown unit"));
    CHECK(says(file, "as in 512MiB"));
    const Ran variable = printed("", {}, {{"FOREBAY_RESERVE", "12x"}});
    CHECK(variable.status == 2);
    CHECK(says(variable, "FOREBAY_RESERVE: --reserve: size '12x'"));
    const Ran flag = printed("", {"--keep-warm", "much"});
    CHECK(flag.status != 0);
    CHECK(says(flag, "--keep-warm: size 'much'"));
  }

  TEST_CASE("what is no TOML, no text or no file is refused by name") {
    const Ran syntax = printed(File("capacity = 8GiB\n").path());
    CHECK(syntax.status == 2);
    CHECK(says(syntax, "line 1: "));
    const Ran kind = printed(File("capacity = [1]\n").path());
    CHECK(kind.status == 2);
    CHECK(says(kind, "line 1: 'capacity' is text, a whole number, or true or false"));
    const Ran range = printed(File("max-segments = 3\n").path());
    CHECK(range.status == 2);
    CHECK(says(range, "line 1: --max-segments"));
    // More processes than there are guarded ranges for their tables would end the daemon later.
    CHECK(printed("", {"--max-processes", "8191"}).status == 2);
    CHECK(printed("", {"--max-processes", "8190"}).status == 0);
    const Ran none = printed("/nowhere/forebayd.toml");
    CHECK(none.status == 2);
    CHECK(says(none, "/nowhere/forebayd.toml: "));
  }

  TEST_CASE("a daemon runs with what its file says") {
    const File file("capacity = \"48MiB\"\nmax-segments = 2000\n");
    DaemonProcess daemon({.capacity = "", .environment = {{"FOREBAY_CONFIG", file.path()}}});
    CHECK(daemon.connect().capacity_bytes() == 48 * mebibyte);
  }
}

}  // namespace
}  // namespace forebay::test
