// SPDX-License-Identifier: Apache-2.0
// Runs a piece of code in a child one machine instruction at a time, so that a test can look at
// what the child would leave behind if it were killed right there.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <stdexcept>

namespace forebay::test {

// Calls `look` in this process after each instruction of `body`, which runs in a forked child. Ends
// with the child's exit status (0: body has returned), or minus the signal that ended it.
inline int step_through(const std::function<void()>& body, const std::function<void()>& look) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("cannot fork");
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(100);
    ::raise(SIGSTOP);
    body();
    ::_exit(0);
  }
  // Whatever `look` throws, the child goes.
  struct Ended {
    pid_t pid;
    bool already = false;
    ~Ended() {
      if (already) return;
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  } ended{child};
  while (true) {
    int status = 0;
    if (::waitpid(child, &status, 0) != child) throw std::runtime_error("cannot wait for a child");
    if (!WIFSTOPPED(status)) {
      ended.already = true;
      return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }
    const int signal = WSTOPSIG(status);
    look();
    const int passed_on = signal == SIGTRAP || signal == SIGSTOP ? 0 : signal;
    if (::ptrace(PTRACE_SINGLESTEP, child, nullptr, passed_on) != 0)
      throw std::runtime_error("cannot step a child");
  }
}

}  // namespace forebay::test
