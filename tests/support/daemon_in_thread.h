// SPDX-License-Identifier: Apache-2.0
// The daemon's server in a thread of the test process, for ThreadSanitizer, which sees no other
// process. Clients connect to it as to any other.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "store/client.h"
#include "store/daemon/server.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {

class DaemonInThread {
 public:
  explicit DaemonInThread(std::uint64_t capacity_bytes = std::uint64_t{64} << 20U);
  ~DaemonInThread();

  ConnectOptions connect_options() const {
    ConnectOptions options;
    options.address = socket_;
    return options;
  }
  Client connect() const { return std::move(Client::connect(connect_options()).value()); }

  // Ends it and starts it again on the same memory, as after an orderly end; or on a new, empty store.
  void restart();
  void replace();

 private:
  void create_memory();
  void start();
  void stop();

  TempDir directory_;
  std::string socket_;
  std::uint64_t capacity_bytes_;
  std::unique_ptr<daemon::StoreMemory> memory_;
  std::unique_ptr<daemon::Server> server_;
  std::thread thread_;
};

}  // namespace forebay::test
