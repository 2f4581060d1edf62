// SPDX-License-Identifier: Apache-2.0
#include "tests/support/daemon_in_thread.h"

#include <unistd.h>

#include "store/daemon/log.h"

namespace forebay::test {
namespace {

constexpr std::uint64_t address_share = 16;  // address space of the arena: so many times its memory

}  // namespace

DaemonInThread::DaemonInThread(std::uint64_t capacity_bytes)
    : socket_(directory_ / "forebay.sock"), capacity_bytes_(capacity_bytes) {
  // Once, and no more than what is wrong: a test's own output is to be seen.
  static const bool quiet = (daemon::log::open({}, daemon::log::Level::warning), true);
  (void)quiet;
  create_memory();
  start();
}

DaemonInThread::~DaemonInThread() {
  stop();
  memory_->remove_all();
}

void DaemonInThread::restart() {
  stop();
  const StoreUuid store = memory_->uuid();
  memory_.reset();
  memory_ = std::move(daemon::StoreMemory::open(store, daemon::MemoryKind::named).value());
  start();
}

void DaemonInThread::replace() {
  stop();
  memory_->remove_all();
  create_memory();
  start();
}

void DaemonInThread::create_memory() {
  daemon::StoreMemoryOptions options;
  options.limits.entries = 1U << 16U;
  options.limits.lines = 1U << 15U;
  options.limits.overflow_lines = 1U << 14U;
  options.limits.processes = 64;
  options.address_bytes = capacity_bytes_ * address_share;
  memory_ = std::move(daemon::StoreMemory::create(options).value());
}

void DaemonInThread::start() {
  daemon::ServerOptions options;
  options.rules.capacity_bytes = capacity_bytes_;
  options.rules.address_bytes = capacity_bytes_ * address_share;
  options.rules.reserve_bytes = 1U << 20U;
  options.rules.keep_warm_bytes = capacity_bytes_ / 2;
  ::unlink(socket_.c_str());
  server_ = std::make_unique<daemon::Server>(
      *memory_, std::move(wire::listen_at(socket_).value()), options);
  server_->adopt().value();
  thread_ = std::thread([this] { (void)server_->serve(); });
}

void DaemonInThread::stop() {
  server_->stop();
  thread_.join();
  server_.reset();
}

}  // namespace forebay::test
