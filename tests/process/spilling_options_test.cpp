// SPDX-License-Identifier: Apache-2.0
// What forebayd and forebay-poold refuse to be told of tiers, and whether they say which option it was.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/daemon_process.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {
namespace {

using Words = std::vector<std::string>;

// A folder with a key that is well, and some that are not.
struct Files {
  Files() {
    if (run({program("forebay-poold"), "--make-key", key}).status != 0)
      throw std::runtime_error("no key");
    std::filesystem::copy_file(key, open_key);
    ::chmod(open_key.c_str(), 0644);
    std::ofstream(short_key) << "short";
    ::chmod(short_key.c_str(), 0600);
    std::filesystem::create_directory(directory / "open folder");
    ::chmod((directory / "open folder").c_str(), 0777);
    std::filesystem::create_directory(directory / "foreign");
    std::ofstream(directory / "foreign/letter") << "somebody else's";
    std::filesystem::create_directory(directory / "target");
    std::filesystem::create_directory_symlink(directory / "target", directory / "link");
    std::ofstream(directory / "file") << "a file";
  }
  TempDir directory;
  std::string key = directory / "key";
  std::string open_key = directory / "open";
  std::string short_key = directory / "short";
};

// Started, it ends soon with a failure, and says all of these; empty: so it was.
std::string not_refused(const Words& arguments, const Words& says) {
  Words all{"/usr/bin/timeout", "30"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const Ran ran = run(all);
  std::string shown;
  for (const std::string& word : arguments) shown += word + " ";
  if (ran.status == 0 || ran.status == 124)
    return shown + (ran.status == 0 ? "was taken" : "runs") + ": " + ran.output;
  for (const std::string& said : says)
    if (ran.output.find(said) == std::string::npos)
      return shown + "does not say '" + said + "' but: " + ran.output;
  return {};
}

std::string daemon_takes(const Files& files, const Words& options, const Words& says) {
  Words all{program("forebayd"), "--socket", files.directory / "socket", "--capacity", "16MiB",
            "--reserve", "1MiB", "--fresh", "--drop"};
  all.insert(all.end(), options.begin(), options.end());
  return not_refused(all, says);
}

std::string file_is_taken(const Files& files, const std::string& text, const Words& says) {
  const std::string path = files.directory / "forebayd.toml";
  std::ofstream(path) << text;
  return daemon_takes(files, {"--config", path}, says);
}

std::string pool_takes(const Words& options, const Words& says) {
  Words all{program("forebay-poold")};
  if (std::ranges::find(options, "--listen") == options.end())
    all.insert(all.end(), {"--listen", "127.0.0.1:0"});
  if (std::ranges::find(options, "--capacity") == options.end())
    all.insert(all.end(), {"--capacity", "4MiB"});
  all.insert(all.end(), options.begin(), options.end());
  return not_refused(all, says);
}

TEST_SUITE("spilling options") {
  TEST_CASE("pools that cannot be meant are refused with their option") {
    const Files files;
    const auto pools = [&](const std::string& text, const Words& says) {
      return daemon_takes(files, {"--pools", text, "--pool-key", files.key}, says);
    };
    CHECK(pools("nonsense", {"--pools: 'nonsense' is no pool", "host:port"}) == "");
    CHECK(pools("host:", {"--pools: 'host:'"}) == "");
    CHECK(pools("host:70000", {"--pools: 'host:70000'"}) == "");
    CHECK(pools(":7117", {"--pools: ':7117'"}) == "");
    CHECK(pools("host:1=heavy", {"--pools: 'host:1=heavy'", "weight"}) == "");
    CHECK(pools("host:1=0", {"--pools: 'host:1=0'", "weight"}) == "");
    CHECK(pools("host:1=nan", {"--pools: 'host:1=nan'", "weight"}) == "");
    CHECK(pools("host:1,,host:2", {"--pools: "}) == "");
    CHECK(pools("host:1,", {"--pools: "}) == "");
    CHECK(pools("host:1,host:1=2", {"--pools: the pool host:1 is named twice"}) == "");
    CHECK(daemon_takes(files, {"--pools", "127.0.0.1:1"}, {"--pool-key", "--pool-insecure"}) == "");
    CHECK(daemon_takes(files, {"--pools", "127.0.0.1:1", "--pool-insecure", "--pool-key", files.key},
                       {"--pool-key", "--pool-insecure"}) == "");
    CHECK(daemon_takes(files, {"--pool-key", files.key}, {"--pool-key", "--pools"}) == "");
    CHECK(daemon_takes(files, {"--replicas", "2"}, {"--replicas", "--pools"}) == "");
    CHECK(daemon_takes(files, {"--pools", "127.0.0.1:1", "--pool-insecure", "--replicas", "2"},
                       {"--replicas: two copies need two --pools"}) == "");
    CHECK(daemon_takes(files, {"--pools", "a:1,b:1", "--pool-insecure", "--replicas", "3"},
                       {"--replicas"}) == "");
  }

  TEST_CASE("a key that is no secret, or no key, is refused by name") {
    const Files files;
    const auto key = [&](const std::string& path, const Words& says) {
      return daemon_takes(files, {"--pools", "127.0.0.1:1", "--pool-key", path}, says);
    };
    CHECK(key(files.open_key, {"--pool-key: ", "chmod 0600"}) == "");
    CHECK(key(files.short_key, {"--pool-key: ", "5 bytes"}) == "");
    CHECK(key(files.directory / "nowhere", {"--pool-key: ", "nowhere"}) == "");
    CHECK(key(files.directory / "target", {"--pool-key: ", "not a regular file"}) == "");
    CHECK(file_is_taken(files, "pools = \"127.0.0.1:1\"\npool-key = \"" + files.open_key + "\"\n",
                        {"forebayd.toml: line 2: --pool-key: ", files.open_key}) == "");
  }

  TEST_CASE("only transports that there are may be named") {
    const Files files;
    for (const char* transport : {"carrier pigeon", "shm", "sockets", "TCP;"}) {
      CAPTURE(std::string(transport));
      CHECK(daemon_takes(files,
                         {"--pools", "127.0.0.1:1", "--pool-insecure", "--pool-transport",
                          transport},
                         {"--pool-transport: ", transport, "plain tcp"}) == "");
      CHECK(pool_takes({"--insecure", "--transport", transport},
                       {"--transport: ", transport, "plain tcp"}) == "");
    }
  }

  TEST_CASE("a folder that is not ours to spill to is refused and left as it is") {
    const Files files;
    const auto folder = [&](const std::string& path, const Words& says) {
      return daemon_takes(files, {"--spill-dir", path}, says);
    };
    if (::chown((files.directory / "foreign").c_str(), 54321, 54321) == 0) {
      CHECK(folder(files.directory / "foreign", {"--spill-dir: ", "belongs to user 54321"}) == "");
      CHECK(std::filesystem::exists(files.directory / "foreign/letter"));
    } else {
      CHECK(folder("/usr", {"--spill-dir: ", "belongs to user 0"}) == "");
    }
    CHECK(folder(files.directory / "open folder", {"--spill-dir: ", "open folder"}) == "");
    CHECK(folder(files.directory / "link", {"--spill-dir: ", "link"}) == "");
    CHECK(folder(files.directory / "none/spill", {"--spill-dir: ", "none"}) == "");
    CHECK(folder(files.directory / "file", {"--spill-dir: ", "file"}) == "");
    CHECK(folder("/proc/spill", {"--spill-dir: "}) == "");
    for (const char* size : {"0", "much", "-1"})
      CHECK(daemon_takes(files, {"--spill-dir", files.directory / "spill", "--disk-capacity", size},
                         {"--disk-capacity"}) == "");
    CHECK(file_is_taken(files, "# where\ndisk-capacity = \"some\"\n",
                        {"line 2: --disk-capacity"}) == "");
    CHECK(file_is_taken(files, "replicas = 5\n", {"line 1: --replicas"}) == "");
    CHECK(file_is_taken(files, "\ncompress = \"gzip\"\n", {"line 2: --compress"}) == "");
    CHECK(file_is_taken(files, "on-full = \"explode\"\n", {"line 1: --on-full"}) == "");
    CHECK(file_is_taken(files, "spill-folder = \"/tmp\"\n",
                        {"line 1: there is no setting 'spill-folder'; the nearest is"}) == "");
  }

  TEST_CASE("what only the tiers can judge is refused with the line of the file, or the variable, too") {
    const Files files;
    CHECK(file_is_taken(files, "pool-insecure = true\npools = \"nonsense\"\n",
                        {"forebayd.toml: line 2: --pools: 'nonsense' is no pool"}) == "");
    CHECK(file_is_taken(files, "\nreplicas = 2\n",
                        {"forebayd.toml: line 2: --replicas: two copies"}) == "");
    CHECK(file_is_taken(files,
                        "pools = \"127.0.0.1:1\"\npool-insecure = true\n"
                        "pool-transport = \"shm\"\n",
                        {"forebayd.toml: line 3: --pool-transport: "}) == "");
    CHECK(file_is_taken(files, "\n\nspill-dir = \"/proc/spill\"\n",
                        {"forebayd.toml: line 3: --spill-dir: "}) == "");
    ::setenv("FOREBAY_SPILL_DIR", "/proc/spill", 1);
    CHECK(daemon_takes(files, {}, {"FOREBAY_SPILL_DIR: --spill-dir: "}) == "");
    ::unsetenv("FOREBAY_SPILL_DIR");
  }

  TEST_CASE("forebay-poold refuses what it cannot do with the option that says so") {
    const Files files;
    CHECK(pool_takes({}, {"--key", "--insecure"}) == "");
    CHECK(pool_takes({"--key", files.key, "--insecure"}, {"--insecure", "--key"}) == "");
    CHECK(pool_takes({"--key", files.open_key}, {"--key: ", "chmod 0600"}) == "");
    CHECK(pool_takes({"--key", files.directory / "nowhere"}, {"--key: ", "nowhere"}) == "");
    CHECK(pool_takes({"--insecure", "--capacity", "12 bananas"}, {"--capacity: "}) == "");
    CHECK(pool_takes({"--insecure", "--capacity", "1KiB"}, {"--capacity: at least"}) == "");
    CHECK(pool_takes({"--insecure", "--slab", "1"}, {"--slab: at least"}) == "");
    CHECK(pool_takes({"--insecure", "--tenant-limit", "x"}, {"--tenant-limit: "}) == "");
    CHECK(pool_takes({"--insecure", "--name", "a/b"}, {"--name "}) == "");
    CHECK(pool_takes({"--insecure", "--listen", "nowhere"}, {"--listen: "}) == "");
    CHECK(pool_takes({"--insecure", "--listen", "192.0.2.1:0"}, {"--listen: "}) == "");
    CHECK(pool_takes({"--insecure", "--data-port", "99999"}, {"--data-port"}) == "");
    CHECK(pool_takes({"--insecure", "--sneaky"}, {"--sneaky"}) == "");
    CHECK(pool_takes({"--make-key", files.key}, {files.key, "remove the old one"}) == "");
  }
}

}  // namespace
}  // namespace forebay::test
