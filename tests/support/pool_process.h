// SPDX-License-Identifier: Apache-2.0
// A real forebay-poold in a process of its own, on a free port. Whatever the test does to it,
// nothing is left behind in /dev/shm.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {

class PoolServerProcess {
 public:
  struct Options {
    std::string capacity = "64MiB";
    std::vector<std::string> arguments = {};
    std::map<std::string, std::string> environment = {};
    bool named = true;  // its memory outlives it
    bool secured = true;
    std::string key_file = {};               // empty: one of its own
    std::string listen = "127.0.0.1:0";
    std::vector<std::string> launcher = {};  // a program, by its path, that runs the pool
  };

  PoolServerProcess() : PoolServerProcess(Options()) {}
  explicit PoolServerProcess(Options options)
      : options_(std::move(options)), address_(options_.listen) {
    static std::atomic<int> made{0};
    name_ = "test-" + std::to_string(::getpid()) + "-" + std::to_string(++made);
    if (options_.key_file.empty()) {
      options_.key_file = directory_ / "key";
      const Ran ran = run({program("forebay-poold"), "--make-key", options_.key_file});
      if (ran.status != 0) throw std::runtime_error(ran.output);
    }
    start();
  }
  ~PoolServerProcess() {
    if (pid_ > 0) kill();
    forget();
  }
  PoolServerProcess(const PoolServerProcess&) = delete;
  PoolServerProcess& operator=(const PoolServerProcess&) = delete;

  const std::string& address() const { return address_; }
  const std::string& key_file() const { return options_.key_file; }
  const std::string& name() const { return name_; }
  std::string arena_path() const { return "/dev/shm/forebay-pool-" + name_ + ".arena"; }
  bool secured() const { return options_.secured; }
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
    return eventually([this] { return ended(); });
  }
  bool ended() {
    if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
    return pid_ < 0;
  }
  // Some of each page of what it holds is something else from now on, its labels perhaps included.
  void damage() const {
    const int file = ::open(arena_path().c_str(), O_RDWR | O_CLOEXEC);
    struct stat status{};
    if (file < 0 || ::fstat(file, &status) != 0) throw std::runtime_error("no arena");
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    if (memory == MAP_FAILED) throw std::runtime_error("the arena cannot be mapped");
    auto* const bytes = static_cast<unsigned char*>(memory);
    for (std::size_t at = 100; at < size; at += 1024) bytes[at] ^= 0x10U;
    ::munmap(memory, size);
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

 private:
  // False: it has ended before it was ready, as when the port is not free again yet.
  bool start_once() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    std::vector<std::string> arguments = options_.launcher;
    arguments.insert(arguments.end(), {program("forebay-poold"), "--listen", address_,
                                       "--capacity", options_.capacity});
    if (options_.named) arguments.insert(arguments.end(), {"--name", name_});
    if (options_.secured)
      arguments.insert(arguments.end(), {"--key", options_.key_file});
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
