// SPDX-License-Identifier: Apache-2.0
// exec: what the old program held is given back, and the new one inherits nothing of it.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds slack{5};  // for "within a second" on a loaded machine
constexpr std::size_t large = 3 * 1024 * 1024;
constexpr std::size_t small = 700;

// What a process has open, by number: "socket:[1234]", "/dev/shm/forebay…", ….
std::map<int, std::string> descriptors(pid_t pid) {
  std::map<int, std::string> found;
  std::error_code ignored;
  const std::string directory = "/proc/" + std::to_string(pid) + "/fd";
  for (const auto& item : std::filesystem::directory_iterator(directory, ignored)) {
    const auto target = std::filesystem::read_symlink(item.path(), ignored);
    if (!ignored) found[std::stoi(item.path().filename())] = target;
  }
  return found;
}

// Whether the library, or the daemon, may have opened it: not the pipes and files of the test.
bool is_of_the_store(const std::string& target) {
  for (const char* part : {"forebay", "socket:", "memfd:", "anon_inode:"})
    if (target.find(part) != std::string::npos) return true;
  return false;
}

std::string those_of_the_store(pid_t pid) {
  std::string text;
  for (const auto& [number, target] : descriptors(pid))
    if (number > 2 && is_of_the_store(target)) text += target + "\n";
  return text;
}

// Those that an exec would keep open.
std::string kept_by_exec(pid_t pid) {
  std::string text;
  for (const auto& [number, target] : descriptors(pid)) {
    if (number <= 2 || !is_of_the_store(target)) continue;
    std::ifstream info("/proc/" + std::to_string(pid) + "/fdinfo/" + std::to_string(number));
    std::string word;
    while (info >> word)
      if (word == "flags:" && info >> word && (std::stoul(word, nullptr, 8) & O_CLOEXEC) == 0)
        text += target + "\n";
  }
  return text;
}

std::string program_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

// A program that does nothing until its standard input ends.
class Idle {
 public:
  Idle() {
    if (::pipe2(ends_, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  }
  ~Idle() { end(); }
  Idle(const Idle&) = delete;
  Idle& operator=(const Idle&) = delete;

  // In the process that is to become it; does not come back.
  void become() const {
    ::dup2(ends_[0], 0);
    // The test's own pipes end with whoever was to answer on them.
    for (const auto& [number, target] : descriptors(::getpid()))
      if (number > 2 && target.starts_with("pipe:")) ::fcntl(number, F_SETFD, FD_CLOEXEC);
    ::execlp("cat", "cat", static_cast<char*>(nullptr));
    throw std::runtime_error("cannot execute cat");
  }
  // In the parent.
  static bool runs_in(pid_t pid) {
    return eventually([pid] { return program_of(pid) == "cat"; });
  }
  void end() {
    for (int& descriptor : ends_) {
      if (descriptor >= 0) ::close(descriptor);
      descriptor = -1;
    }
  }

 private:
  int ends_[2]{-1, -1};
};

// Pins and open builders of a process.
struct Holdings {
  explicit Holdings(const DaemonProcess& daemon) : client(daemon.connect()) {
    views.push_back(must(client.get("large")));
    views.push_back(must(client.get("small")));
    views.push_back(must(client.get("small")));
    builders.push_back(must(client.create("built/large", large)));
    builders.push_back(must(client.create("built/small", small)));
    fill(builders.front().bytes(), "built/large", 1);
    // Through the alias, too.
    must(client.put("put", payload(large, "put", 1)));
    must(client.remove("put"));
  }
  Client client;
  std::vector<View> views;
  std::vector<Builder> builders;
};

void put_both(Client& client) {
  must(client.put("large", payload(large, "large", 1)));
  must(client.put("small", payload(small, "small", 1)));
}

TEST_SUITE("exec") {
  TEST_CASE("a process that executes another program gives back what it held") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    put_both(client);
    const std::uint64_t used = Status(client).segment_bytes();
    const Idle idle;
    ChildProcess child([&](Moments& moments) {
      const Holdings holdings(daemon);
      moments.reached();
      moments.wait();
      idle.become();
    });
    child.await();
    CHECK(Status(client)["creating"] == 2);
    CHECK(must(client.stat("small")).holders.at(0).pins == 2);
    must(client.remove("large"));
    CHECK(Status(client)["removing"] == 1);
    child.release();
    REQUIRE(Idle::runs_in(child.pid()));
    CHECK(status_becomes(client, "creating", 0, slack) == 0);
    CHECK(status_becomes(client, "removing", 0, slack) == 0);
    CHECK(must(client.holders()).empty());
    CHECK(Status(client).segment_bytes() < used);
    // It is the exec that gave it back, and no death.
    CHECK(program_of(child.pid()) == "cat");
    must(client.remove("small"));
    CHECK(Status(client).segment_bytes() == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("the executed program inherits no descriptor of the store's") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    put_both(client);
    const Idle idle;
    ChildProcess child([&](Moments& moments) {
      const Holdings holdings(daemon);
      moments.reached();
      moments.wait();
      idle.become();
    });
    child.await();
    const std::string before = those_of_the_store(child.pid());
    CHECK(before.find("socket:") != std::string::npos);
    CHECK(before.find("arena") != std::string::npos);
    CHECK(before.find("pins") != std::string::npos);
    CHECK(kept_by_exec(child.pid()) == "");
    child.release();
    REQUIRE(Idle::runs_in(child.pid()));
    CHECK(those_of_the_store(child.pid()) == "");
  }

  TEST_CASE("a forked child that executes a program leaves its parent's views and builders alone") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client observer = daemon.connect();
    put_both(observer);
    const Idle idle;
    // As subprocess.Popen and os.system do; with the daemon there, and without an answer from it.
    bool answers = true;
    SUBCASE("while the daemon answers") {}
    SUBCASE("while the daemon is stopped") { answers = false; }
    ChildProcess parent([&](Moments& moments) {
      Holdings holdings(daemon);
      moments.reached();
      moments.wait();
      const pid_t child = ::fork();
      if (child == 0) idle.become();
      require(Idle::runs_in(child), "the child executes nothing");
      require(those_of_the_store(child).empty(), "the child has " + those_of_the_store(child));
      moments.reached();
      moments.wait();
      std::string wrong = wrong_bytes(holdings.views[0].bytes(), large, "large", 1);
      require(wrong.empty(), wrong);
      wrong = wrong_bytes(holdings.views[1].bytes(), small, "small", 1);
      require(wrong.empty(), wrong);
      must(holdings.builders[0].seal());
      fill(holdings.builders[1].bytes(), "built/small", 1);
      must(holdings.builders[1].seal());
      holdings.builders.clear();
      holdings.views.clear();
      moments.reached();
      moments.wait();
      require(program_of(child) == "cat", "the child has ended");
    });
    parent.await();
    if (!answers) daemon.stop();
    parent.release();
    parent.await();
    if (!answers) daemon.resume();
    // Only the parent is left as a holder.
    CHECK(eventually(
        [&] {
          const auto holders = must(observer.stat("small")).holders;
          return holders.size() == 1 &&
                 holders.front().pid == static_cast<std::uint32_t>(parent.pid());
        },
        slack));
    must(observer.remove("large"));
    must(observer.remove("small"));
    for (std::uint64_t i = 1; i <= 10; ++i) {
      must(observer.put("noise", payload(i % 2 == 0 ? large : small, "noise", i)));
      must(observer.remove("noise"));
    }
    CHECK(Status(observer)["removing"] == 2);
    CHECK(Status(observer)["creating"] == 2);
    parent.release();
    parent.await();
    CHECK(wrong_bytes(must(observer.get("built/large")).bytes(), large, "built/large", 1) == "");
    CHECK(wrong_bytes(must(observer.get("built/small")).bytes(), small, "built/small", 1) == "");
    // While what the child became still runs.
    if (answers) CHECK(status_becomes(observer, "removing", 0, slack) == 0);
    parent.release();
    CHECK(parent.join() == 0);
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
    CHECK(must(observer.holders()).empty());
    CHECK(adds_up(observer) == "");
  }

  TEST_CASE("a spawned program inherits nothing, and costs its parent nothing") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client observer = daemon.connect();
    put_both(observer);
    ChildProcess parent([&](Moments&) {
      Holdings holdings(daemon);
      int ends[2];
      require(::pipe2(ends, O_CLOEXEC) == 0, "no pipe");
      posix_spawn_file_actions_t actions;
      ::posix_spawn_file_actions_init(&actions);
      ::posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
      const char* const arguments[] = {"ls", "-l", "/proc/self/fd", nullptr};
      pid_t child = -1;
      require(::posix_spawnp(&child, "ls", &actions, nullptr, const_cast<char**>(arguments),
                             environ) == 0,
              "cannot spawn ls");
      ::posix_spawn_file_actions_destroy(&actions);
      ::close(ends[1]);
      std::string listed;
      char buffer[4096];
      ssize_t size = 0;
      while ((size = ::read(ends[0], buffer, sizeof buffer)) > 0)
        listed.append(buffer, static_cast<std::size_t>(size));
      ::waitpid(child, nullptr, 0);
      require(listed.find(" 0 -> ") != std::string::npos, "it lists nothing: " + listed);
      for (const char* part : {"forebay.", "socket:", "anon_inode:"})
        require(listed.find(part) == std::string::npos, "it has " + listed);
      const std::string wrong = wrong_bytes(holdings.views[0].bytes(), large, "large", 1);
      require(wrong.empty(), wrong);
      must(holdings.builders[0].seal());
    });
    CHECK(parent.join() == 0);
    CHECK(wrong_bytes(must(observer.get("built/large")).bytes(), large, "built/large", 1) == "");
  }

  TEST_CASE("what a process held that executed a program while no daemon ran is given back") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    put_both(client);
    const Idle idle;
    ChildProcess child([&](Moments& moments) {
      const Holdings holdings(daemon);
      moments.reached();
      moments.wait();
      idle.become();
    });
    child.await();
    daemon.kill();
    child.release();
    REQUIRE(Idle::runs_in(child.pid()));
    daemon.start();
    must(client.remove("large"));
    must(client.remove("small"));
    CHECK(status_becomes(client, "creating", 0, slack) == 0);
    CHECK(status_becomes(client, "removing", 0, slack) == 0);
    CHECK(program_of(child.pid()) == "cat");
    CHECK(Status(client).segment_bytes() == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("everything that a daemon has open is closed by an exec") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    put_both(client);
    const View view = must(client.get("large"));
    ChildProcess forked([&](Moments& moments) {
      moments.reached();
      moments.wait();
    });
    forked.await();
    REQUIRE(status_becomes(client, "sessions", 2) == 2);
    const std::string all = those_of_the_store(daemon.pid());
    for (const char* part : {"socket:", "arena", "index", "pins", "pidfd", "eventpoll", "eventfd",
                             "signalfd", ".lock"}) {
      CAPTURE(part);
      CHECK(all.find(part) != std::string::npos);
    }
    CHECK(kept_by_exec(daemon.pid()) == "");
  }

  TEST_CASE("so is everything of a daemon whose memory a keeper keeps") {
    DaemonProcess keeper({.capacity = "16MiB", .arguments = {"--supervise"}, .wait = false});
    std::optional<Client> client;
    REQUIRE(eventually([&] {
      if (auto connected = Client::connect(keeper.connect_options()))
        client.emplace(std::move(*connected));
      return client.has_value();
    }));
    put_both(*client);
    const auto daemon_pid = [&] { return static_cast<pid_t>(Status(*client)["daemon_pid"]); };
    const pid_t first = daemon_pid();
    CHECK(those_of_the_store(first).find("memfd:") != std::string::npos);
    CHECK(kept_by_exec(first) == "");
    CHECK(kept_by_exec(keeper.pid()) == "");
    // And of the next one, which gets the memory handed on.
    ::kill(first, SIGKILL);
    REQUIRE(eventually([&] { return daemon_pid() != first; }));
    CHECK(wrong_bytes(must(client->get("large")).bytes(), large, "large", 1) == "");
    CHECK(kept_by_exec(daemon_pid()) == "");
    CHECK(those_of_the_store(::getpid()).find("memfd:") != std::string::npos);
    CHECK(kept_by_exec(::getpid()) == "");
    CHECK(keeper.terminate() == 0);
  }
}

}  // namespace
}  // namespace forebay::test
