// SPDX-License-Identifier: Apache-2.0
#include "tests/support/daemon_in_thread.h"

namespace forebay::test {

DaemonInThread::DaemonInThread(std::uint64_t capacity_bytes)
    : socket_(directory_ / "forebay.sock") {
  daemon::StoreMemoryOptions options;
  options.limits.entries = 1U << 16U;
  options.limits.lines = 1U << 15U;
  options.limits.overflow_lines = 1U << 14U;
  options.limits.processes = 64;
  options.address_bytes = capacity_bytes * 16;
  memory_ = std::move(daemon::StoreMemory::create(options).value());
  daemon::ServerOptions server_options;
  server_options.rules.capacity_bytes = capacity_bytes;
  server_options.rules.address_bytes = options.address_bytes;
  server_options.rules.reserve_bytes = 1U << 20U;
  server_options.rules.keep_warm_bytes = capacity_bytes / 2;
  server_ = std::make_unique<daemon::Server>(
      *memory_, std::move(wire::listen_at(socket_).value()), server_options);
  server_->adopt().value();
  thread_ = std::thread([this] { (void)server_->serve(); });
}

DaemonInThread::~DaemonInThread() {
  server_->stop();
  thread_.join();
  server_.reset();
  memory_->remove_all();
}

}  // namespace forebay::test
