// SPDX-License-Identifier: Apache-2.0
// A forked child that runs a piece of the test, and a way to agree on moments with it.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>

namespace forebay::test {

// Two pipes: either side names a moment, the other waits for it.
class Moments {
 public:
  Moments() {
    if (::pipe(to_child_) != 0 || ::pipe(to_parent_) != 0) throw std::runtime_error("no pipe");
  }
  ~Moments() {
    for (const int end : {to_child_[0], to_child_[1], to_parent_[0], to_parent_[1]}) ::close(end);
  }
  Moments(const Moments&) = delete;
  Moments& operator=(const Moments&) = delete;

  // In the child:
  void reached(char moment = '.') { (void)!::write(to_parent_[1], &moment, 1); }
  void wait() {
    char go = 0;
    (void)!::read(to_child_[0], &go, 1);
  }
  // In the parent:
  char await() {
    char moment = 0;
    if (::read(to_parent_[0], &moment, 1) != 1) throw std::runtime_error("the child is gone");
    return moment;
  }
  void release() {
    const char go = '!';
    (void)!::write(to_child_[1], &go, 1);
  }
  // So that await ends when the child does.
  void in_parent() {
    ::close(to_parent_[1]);
    to_parent_[1] = -1;
  }

 private:
  int to_child_[2]{};
  int to_parent_[2]{};
};

class ChildProcess {
 public:
  // Runs `body(moments)` in a forked child; the child ends with 0, or with 1 and a message if the
  // body throws.
  explicit ChildProcess(const std::function<void(Moments&)>& body) {
    std::fflush(nullptr);
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("cannot fork");
    if (pid_ == 0) {
      // A test that is killed for taking too long leaves no children.
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      int status = 0;
      try {
        body(moments_);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "child: %s\n", error.what());
        status = 1;
      }
      std::fflush(nullptr);
      ::_exit(status);
    }
    moments_.in_parent();
  }
  ~ChildProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGCONT);
      kill();
    }
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  char await() { return moments_.await(); }
  void release() { moments_.release(); }
  void signal(int number) { ::kill(pid_, number); }
  void kill() {
    ::kill(pid_, SIGKILL);
    join();
  }
  // Exit status, or minus the signal.
  int join() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  Moments moments_;
  pid_t pid_ = -1;
};

// For claims in a child, where doctest's would not be counted.
inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

}  // namespace forebay::test
