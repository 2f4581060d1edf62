// SPDX-License-Identifier: Apache-2.0
// Two network namespaces with a wire between them, as two nodes of a cluster: what is sent over the
// wire while it is cut is dropped, and nobody is told.
#pragma once

#include <unistd.h>

#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "tests/support/daemon_process.h"

namespace forebay::test {

class TwoNodes {
 public:
  TwoNodes() {
    static std::atomic<int> made{0};
    for (const char* const path : {"/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"})
      if (::access(path, X_OK) == 0 && ip_.empty()) ip_ = path;
    if (ip_.empty()) {
      why_not_ = "there is no program ip";
      return;
    }
    const int number = ++made;
    const std::string net = "10.77." + std::to_string(number) + ".";
    for (std::size_t i = 0; i < 2; ++i) {
      const std::string end = std::to_string(::getpid()) + (i == 0 ? "a" : "b");
      names_[i] = "forebay-" + std::to_string(number) + "-" + end;
      wires_[i] = "f" + std::to_string(number % 1000) + "-" + end;
      hosts_[i] = net + std::to_string(i + 1);
      do_it({"netns", "add", names_[i]});
    }
    do_it({"link", "add", "name", wires_[0], "netns", names_[0], "type", "veth", "peer", "name",
           wires_[1], "netns", names_[1]});
    for (std::size_t i = 0; i < 2; ++i) {
      do_it({"-n", names_[i], "addr", "add", hosts_[i] + "/24", "dev", wires_[i]});
      do_it({"-n", names_[i], "link", "set", "lo", "up"});
      do_it({"-n", names_[i], "link", "set", wires_[i], "up"});
    }
  }
  ~TwoNodes() {
    for (const std::string& name : names_)
      if (!name.empty()) (void)run({ip_, "netns", "del", name});
  }
  TwoNodes(const TwoNodes&) = delete;
  TwoNodes& operator=(const TwoNodes&) = delete;

  // Empty: they are there. Else everything runs on this machine's own network.
  const std::string& why_not() const { return why_not_; }
  std::string host(std::size_t node) const {
    return why_not_.empty() ? hosts_.at(node) : "127.0.0.1";
  }
  std::vector<std::string> launcher(std::size_t node) const {
    if (!why_not_.empty()) return {};
    return {ip_, "netns", "exec", names_.at(node)};
  }
  void cut() { do_it({"-n", names_[1], "link", "set", wires_[1], "down"}); }
  void mend() { do_it({"-n", names_[1], "link", "set", wires_[1], "up"}); }

 private:
  void do_it(std::vector<std::string> arguments) {
    if (!why_not_.empty()) return;
    arguments.insert(arguments.begin(), ip_);
    if (const Ran ran = run(arguments); ran.status != 0) why_not_ = ran.output;
  }

  std::string ip_;
  std::string why_not_;
  std::array<std::string, 2> names_;
  std::array<std::string, 2> wires_;
  std::array<std::string, 2> hosts_;
};

}  // namespace forebay::test
