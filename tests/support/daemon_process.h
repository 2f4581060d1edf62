// SPDX-License-Identifier: Apache-2.0
// A real forebayd in a process of its own, on a socket of the test's own. Whatever the test does to
// it, nothing is left behind in /dev/shm.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {

class DaemonProcess {
 public:
  struct Options {
    std::string capacity = "256MiB";
    std::vector<std::string> arguments = {};              // besides --socket and --capacity
    std::map<std::string, std::string> environment = {};  // added to this process's
    bool wait = true;                                     // until it listens
    std::vector<std::string> launcher = {};  // a program, by its path, that runs the daemon
  };

  DaemonProcess();  // with default options
  explicit DaemonProcess(Options options);
  ~DaemonProcess();
  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;

  const std::string& socket() const { return socket_; }
  pid_t pid() const { return pid_; }
  bool running();  // reaps it if it has ended
  // Its exit status (or minus the signal that ended it), once it has ended.
  std::optional<int> wait_for_end(std::chrono::milliseconds within);

  void kill();                              // SIGKILL, and waits for its end
  void stop();                              // SIGSTOP
  void resume();                            // SIGCONT
  int terminate();                          // SIGTERM; its exit status
  // Starts it again on the same instance; with other options if given.
  void start();
  void start(Options options);

  Client connect(std::chrono::milliseconds timeout = std::chrono::seconds(10)) const;
  ConnectOptions connect_options() const;

  std::string log() const;
  // Shared-memory objects of this instance's stores, as /dev/shm lists them.
  std::vector<std::string> objects() const;
  // A number from its status.
  static std::uint64_t status(const Client& client, const std::string& name);

 private:
  bool listening() const;
  void note_store();

  TempDir directory_;
  std::string socket_;
  Options options_;
  pid_t pid_ = -1;
  std::vector<std::string> stores_;  // uuids that were seen
};

// The path of a program that was built.
std::string program(const std::string& name);

// Runs a program to its end; what it printed, both streams together.
struct Ran {
  int status = 0;
  std::string output;
};
Ran run(const std::vector<std::string>& arguments,
        const std::map<std::string, std::string>& environment = {});

}  // namespace forebay::test
