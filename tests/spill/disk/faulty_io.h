// SPDX-License-Identifier: Apache-2.0
// FaultyIo: the system's calls for files, of which a test can have any one fail, move fewer bytes
// than asked, wait, or be the process's last.
#pragma once

#include <errno.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "spill/disk/file_io.h"
#include "tests/support/eventually.h"

namespace forebay::test {

enum class IoCall {
  open,
  close,
  stat,
  allocate,
  read,
  write,
  sync_data,
  sync_folder,
  rename,
  remove
};

class FaultyIo : public spill::FileIo {
 public:
  // What a rule returns: go on, fail with that errno, or move only that many bytes.
  struct Fate {
    int error = 0;
    std::size_t at_most = ~std::size_t{0};
  };
  // Asked before each call; `count` starts at 1 and goes over calls of all kinds.
  using Rule = std::function<Fate(IoCall call, unsigned count)>;

  void set_rule(Rule rule) {
    const std::lock_guard lock(mutex_);
    rule_ = std::move(rule);
    count_ = 0;
  }
  unsigned count() const {
    const std::lock_guard lock(mutex_);
    return count_;
  }
  unsigned count(IoCall call) const {
    const std::lock_guard lock(mutex_);
    return counts_[static_cast<std::size_t>(call)];
  }
  // Calls of this kind wait until `go_on`. They are counted in `stuck`.
  void stall(IoCall call) {
    const std::lock_guard lock(mutex_);
    stalled_[static_cast<std::size_t>(call)] = true;
  }
  void go_on() {
    const std::lock_guard lock(mutex_);
    stalled_ = {};
    released_.notify_all();
  }
  bool wait_stuck(unsigned least) {
    std::unique_lock lock(mutex_);
    return released_.wait_for(lock, patience, [&] { return stuck_ >= least; });
  }

  int open(int folder, const char* name, int flags, mode_t mode) override {
    const Fate fate = fate_of(IoCall::open);
    return fate.error != 0 ? -fate.error : FileIo::open(folder, name, flags, mode);
  }
  int close(int file) override {
    const Fate fate = fate_of(IoCall::close);
    const int closed = FileIo::close(file);
    return fate.error != 0 ? -fate.error : closed;
  }
  int stat(int file, struct ::stat& about) override {
    const Fate fate = fate_of(IoCall::stat);
    return fate.error != 0 ? -fate.error : FileIo::stat(file, about);
  }
  int allocate(int file, off_t size) override {
    const Fate fate = fate_of(IoCall::allocate);
    return fate.error != 0 ? -fate.error : FileIo::allocate(file, size);
  }
  ssize_t read(int file, std::span<std::byte> into, off_t offset) override {
    const Fate fate = fate_of(IoCall::read);
    if (fate.error != 0) return -fate.error;
    // The kernel's short read is not of a whole number of pages when it likes.
    const ssize_t size = FileIo::read(file, into, offset);
    return std::min(size, static_cast<ssize_t>(std::min(fate.at_most, into.size())));
  }
  ssize_t write(int file, std::span<const std::byte> bytes, off_t offset) override {
    const Fate fate = fate_of(IoCall::write);
    if (fate.error != 0) return -fate.error;
    if (fate.at_most >= bytes.size()) return FileIo::write(file, bytes, offset);
    // What was not written is not there: whole pages of it, as the file may be open for such.
    const std::size_t pages = fate.at_most / 4096 * 4096;
    if (pages > 0 && FileIo::write(file, bytes.first(pages), offset) < 0) return -EIO;
    return static_cast<ssize_t>(fate.at_most);
  }
  int sync_data(int file) override {
    const Fate fate = fate_of(IoCall::sync_data);
    return fate.error != 0 ? -fate.error : FileIo::sync_data(file);
  }
  int sync_folder(int folder) override {
    const Fate fate = fate_of(IoCall::sync_folder);
    return fate.error != 0 ? -fate.error : FileIo::sync_folder(folder);
  }
  int rename(int from_folder, const char* from, int to_folder, const char* to) override {
    const Fate fate = fate_of(IoCall::rename);
    return fate.error != 0 ? -fate.error : FileIo::rename(from_folder, from, to_folder, to);
  }
  int remove(int folder, const char* name) override {
    const Fate fate = fate_of(IoCall::remove);
    return fate.error != 0 ? -fate.error : FileIo::remove(folder, name);
  }

 private:
  Fate fate_of(IoCall call) {
    std::unique_lock lock(mutex_);
    ++count_;
    ++counts_[static_cast<std::size_t>(call)];
    const auto kind = static_cast<std::size_t>(call);
    if (stalled_[kind]) {
      ++stuck_;
      released_.notify_all();
      released_.wait(lock, [&] { return !stalled_[kind]; });
      --stuck_;
    }
    return rule_ ? rule_(call, count_) : Fate{};
  }

  mutable std::mutex mutex_;
  std::condition_variable released_;
  Rule rule_;
  unsigned count_ = 0;
  std::array<unsigned, 10> counts_{};
  std::array<bool, 10> stalled_{};
  unsigned stuck_ = 0;
};

}  // namespace forebay::test
