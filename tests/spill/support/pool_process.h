// SPDX-License-Identifier: Apache-2.0
// A real forebay-poold in a process of its own, on a free port. Whatever the test does to it,
// nothing is left behind in /dev/shm.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "spill/pool/key_file.h"
#include "spill/pool/pool_tier.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {

class PoolProcess {
 public:
  struct Options {
    std::string capacity = "64MiB";
    std::vector<std::string> arguments = {};
    std::map<std::string, std::string> environment = {};
    bool named = true;  // its memory outlives it
    bool secured = true;
  };

  PoolProcess() : PoolProcess(Options()) {}
  explicit PoolProcess(Options options) : options_(std::move(options)) {
    static std::atomic<int> made{0};
    name_ = "test-" + std::to_string(::getpid()) + "-" + std::to_string(++made);
    if (auto key = spill::pool::make_key_file(key_file()); !key)
      throw std::runtime_error(key.error().message());
    start();
  }
  ~PoolProcess() {
    if (pid_ > 0) kill();
    forget();
  }
  PoolProcess(const PoolProcess&) = delete;
  PoolProcess& operator=(const PoolProcess&) = delete;

  const std::string& address() const { return address_; }
  std::string key_file() const { return directory_ / "key"; }
  const std::string& name() const { return name_; }
  pid_t pid() const { return pid_; }

  // Again, on the same port and, if it is named, the same memory.
  void start(std::map<std::string, std::string> environment) {
    options_.environment = std::move(environment);
    start();
  }
  void start() {
    if (!eventually([this] { return start_once(); }))
      throw std::runtime_error("forebay-poold did not start:\n" + log());
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    (void)reap();
  }
  void stop() { ::kill(pid_, SIGSTOP); }
  void resume() { ::kill(pid_, SIGCONT); }
  int terminate() {
    ::kill(pid_, SIGTERM);
    return reap();
  }
  // Until it has ended by itself, as at a failpoint; false if it does not.
  bool await_end() {
    return eventually([this] {
      if (pid_ < 0) return true;
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
      pid_ = -1;
      return true;
    });
  }
  // While it is not running: its memory is gone.
  void forget() {
    for (const char* part : {".arena", ".journal"})
      ::shm_unlink(("/forebay-pool-" + name_ + part).c_str());
  }
  std::string log() const {
    std::ifstream file(directory_ / "log");
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

  spill::PoolTierOptions tier_options(std::uint8_t store = 1) const {
    spill::PoolTierOptions options;
    options.address = address_;
    if (options_.secured)
      options.key_file = key_file();
    else
      options.insecure = true;
    options.store = {store, 0xfe, 0xb1};
    return options;
  }
  std::unique_ptr<spill::PoolTier> tier(std::uint8_t store = 1) const {
    auto tier = spill::PoolTier::start(tier_options(store));
    if (!tier) throw std::runtime_error(tier.error().message());
    if (auto up = (*tier)->wait_until_up(TierClock::now() + patience); !up)
      throw std::runtime_error(up.error().message() + "\n" + log());
    return std::move(*tier);
  }

 private:
  // False: it has ended before it was ready, as when the port is not free again yet.
  bool start_once() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    std::vector<std::string> arguments{program("forebay-poold"), "--listen",
                                       address_.empty() ? "127.0.0.1:0" : address_,
                                       "--capacity", options_.capacity};
    if (options_.named) arguments.insert(arguments.end(), {"--name", name_});
    if (options_.secured)
      arguments.insert(arguments.end(), {"--key", key_file()});
    else
      arguments.push_back("--insecure");
    arguments.insert(arguments.end(), options_.arguments.begin(), options_.arguments.end());
    std::vector<std::string> variables;
    for (const auto& [variable, value] : options_.environment)
      variables.push_back(variable + "=" + value);
    for (char** variable = environ; *variable != nullptr; ++variable)
      variables.emplace_back(*variable);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::vector<char*> envp;
    for (std::string& variable : variables) envp.push_back(variable.data());
    envp.push_back(nullptr);
    const int log =
        ::open((directory_ / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    pid_ = _Fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(ends[1], 1);
      ::dup2(log, 2);
      ::execve(argv[0], argv.data(), envp.data());
      ::_exit(127);
    }
    ::close(log);
    ::close(ends[1]);
    std::string line;
    char c = 0;
    while (::read(ends[0], &c, 1) == 1 && c != '\n') line += c;
    ::close(ends[0]);
    if (!line.starts_with("ready: ")) {
      (void)reap();
      return false;
    }
    address_ = line.substr(7, line.find(' ', 7) - 7);
    return true;
  }
  int reap() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  TempDir directory_;
  Options options_;
  std::string name_;
  std::string address_;
  pid_t pid_ = -1;
};

}  // namespace forebay::test
