// SPDX-License-Identifier: Apache-2.0
// What the disk tier costs: puts and gets of several sizes, one and several at a time, past the page
// cache and through it, each beside plain files written and read by as many threads in the same way.
// The page cache is emptied of the files before they are read.
//
//   spill_disk FOLDER [MiB of each sample = 256] [rounds = 3]
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

#include "bench/harness.h"
#include "spill/checksum.h"
#include "spill/disk/disk_tier.h"

using namespace forebay;
using namespace forebay::bench;

namespace {

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;
constexpr std::size_t chunk = mib;

struct Setting {
  std::string folder;
  std::size_t size = 0;     // of an item
  std::uint64_t items = 0;  // of a sample
  std::uint64_t at_once = 0;
  bool direct = false;
};

void require(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::exit(1);
}

// Counts what is open, so that no more than so many are.
class Gate {
 public:
  explicit Gate(std::uint64_t most) : most_(most) {}
  void enter() {
    std::unique_lock lock(mutex_);
    left_.wait(lock, [&] { return open_ < most_; });
    ++open_;
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    --open_;
    left_.notify_all();
  }
  void drain() {
    std::unique_lock lock(mutex_);
    left_.wait(lock, [&] { return open_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable left_;
  std::uint64_t most_;
  std::uint64_t open_ = 0;
};

// Page-aligned, as segments are.
std::span<std::byte> pages(std::size_t size) {
  void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  require(memory != MAP_FAILED, "mmap");
  std::memset(memory, 0x5a, size);
  return {static_cast<std::byte*>(memory), size};
}

class Ours {
 public:
  explicit Ours(const Setting& setting)
      : setting_(setting),
        tier_(value(spill::DiskTier::open(
            {.directory = setting.folder + "/tier",
             .capacity_bytes = std::uint64_t{1} << 50U,
             .direct_io = setting.direct ? spill::DirectIo::on : spill::DirectIo::off,
             .report = {},
             .io = {}}))),
        bytes_(pages(setting.size * setting.at_once)),
        sum_(spill::crc32c(bytes_.first(setting.size))) {}
  ~Ours() {
    tier_.reset();
    std::filesystem::remove_all(setting_.folder + "/tier");
    ::munmap(bytes_.data(), bytes_.size());
  }
  Ours(const Ours&) = delete;
  Ours& operator=(const Ours&) = delete;

  double put() {
    forget();
    places_.resize(setting_.items);
    Gate gate(setting_.at_once);
    const double time = time_per(1, [&](std::uint64_t) {
      for (std::uint64_t i = 0; i < setting_.items; ++i) {
        gate.enter();
        TierPut put;
        put.key = {.store = {1}, .number = ++last_};
        put.parts = {bytes_.subspan(i % setting_.at_once * setting_.size, setting_.size)};
        put.crc32c = sum_;
        tier_->put(std::move(put), TierDeadline::max(), [&, i](Result<TierPlace> place) {
          places_[i] = value(std::move(place));
          gate.leave();
        });
      }
      gate.drain();
    });
    return time / static_cast<double>(setting_.items);
  }
  double get() {
    if (places_.empty()) put();
    for (const auto& entry :
         std::filesystem::directory_iterator(setting_.folder + "/tier/items")) {
      const int file = ::open(entry.path().c_str(), O_RDONLY);
      ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
      ::close(file);
    }
    Gate gate(setting_.at_once);
    const double time = time_per(1, [&](std::uint64_t) {
      for (std::uint64_t i = 0; i < setting_.items; ++i) {
        gate.enter();
        tier_->get({.key = key(i),
                    .place = places_[i],
                    .into = bytes_.subspan(i % setting_.at_once * setting_.size, setting_.size)},
                   TierDeadline::max(), [&](Result<void> done) {
                     value(std::move(done));
                     gate.leave();
                   });
      }
      gate.drain();
    });
    return time / static_cast<double>(setting_.items);
  }

 private:
  TierKey key(std::uint64_t i) const {
    return {.store = {1}, .number = last_ - setting_.items + 1 + i};
  }
  void forget() {
    Gate gate(16);
    for (std::uint64_t i = 0; i < places_.size(); ++i) {
      gate.enter();
      tier_->remove(key(i), places_[i], TierDeadline::max(), [&](Result<void> done) {
        value(std::move(done));
        gate.leave();
      });
    }
    gate.drain();
  }

  const Setting setting_;
  std::unique_ptr<spill::DiskTier> tier_;
  std::span<std::byte> bytes_;
  std::uint32_t sum_;
  std::uint64_t last_ = 0;
  std::vector<TierPlace> places_;
};

// The same bytes in plain files, synced one by one, by at most two threads.
class Plain {
 public:
  explicit Plain(const Setting& setting) : setting_(setting), chunk_(pages(2 * chunk)) {}
  ~Plain() {
    for (std::uint64_t i = 0; i < setting_.items; ++i) ::unlink(name(i).c_str());
    ::munmap(chunk_.data(), chunk_.size());
  }
  Plain(const Plain&) = delete;
  Plain& operator=(const Plain&) = delete;

  double put() {
    for (std::uint64_t i = 0; i < setting_.items; ++i) ::unlink(name(i).c_str());
    return each([&](std::uint64_t i, std::span<std::byte> buffer) {
      const int file = ::open(name(i).c_str(), O_CREAT | O_WRONLY | flag(), 0600);
      require(file >= 0, "open");
      require(::fallocate(file, 0, 0, static_cast<off_t>(setting_.size)) == 0, "fallocate");
      move(buffer, [&](std::span<std::byte> part, off_t at) {
        return ::pwrite(file, part.data(), part.size(), at);
      });
      require(::fdatasync(file) == 0, "fdatasync");
      ::close(file);
    });
  }
  double get() {
    if (::access(name(0).c_str(), F_OK) != 0) put();
    for (std::uint64_t i = 0; i < setting_.items; ++i) {
      const int file = ::open(name(i).c_str(), O_RDONLY);
      ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
      ::close(file);
    }
    return each([&](std::uint64_t i, std::span<std::byte> buffer) {
      const int file = ::open(name(i).c_str(), O_RDONLY | flag());
      require(file >= 0, "open");
      move(buffer, [&](std::span<std::byte> part, off_t at) {
        return ::pread(file, part.data(), part.size(), at);
      });
      ::close(file);
    });
  }

 private:
  std::string name(std::uint64_t i) const {
    return setting_.folder + "/plain." + std::to_string(i);
  }
  int flag() const { return setting_.direct ? O_DIRECT : 0; }
  template <class Call>
  void move(std::span<std::byte> buffer, Call&& call) {
    for (std::size_t at = 0; at < setting_.size; at += chunk) {
      const std::size_t size = std::min(chunk, setting_.size - at);
      require(call(buffer.first(size), static_cast<off_t>(at)) == static_cast<ssize_t>(size),
              "moving bytes");
    }
  }
  template <class Body>
  double each(Body&& body) {
    const std::uint64_t count = std::min<std::uint64_t>(2, setting_.at_once);
    const double time = time_per(1, [&](std::uint64_t) {
      std::vector<std::thread> threads;
      for (std::uint64_t t = 0; t < count; ++t)
        threads.emplace_back([&, t] {
          for (std::uint64_t i = t; i < setting_.items; i += count)
            body(i, chunk_.subspan(t * chunk, chunk));
        });
      for (std::thread& thread : threads) thread.join();
    });
    return time / static_cast<double>(setting_.items);
  }

  const Setting setting_;
  std::span<std::byte> chunk_;
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: %s FOLDER [MiB of each sample] [rounds]\n", arguments[0]);
    return 2;
  }
  const std::size_t total = (count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 256) * mib;
  const int rounds = count > 3 ? std::atoi(arguments[3]) : 3;
  for (const std::size_t size : {64 * kib, mib, 8 * mib, 64 * mib})
    for (const std::uint64_t at_once : {1U, 4U})
      for (const bool direct : {true, false}) {
        Setting setting{.folder = arguments[1], .size = size, .at_once = at_once,
                        .direct = direct};
        // Small ones are bound by syncs, not by bytes.
        setting.items = std::clamp<std::uint64_t>(total / size, 1, 256);
        Ours ours(setting);
        Plain plain(setting);
        const std::string what = std::to_string(size / kib) + " KiB, " + std::to_string(at_once) +
                                 " at once, " + (direct ? "direct" : "cached");
        run({.name = "disk put " + what, .floor_name = "plain files",
             .ours = [&] { return ours.put(); }, .floor = [&] { return plain.put(); }},
            rounds);
        run({.name = "disk get " + what, .floor_name = "plain files",
             .ours = [&] { return ours.get(); }, .floor = [&] { return plain.get(); }},
            rounds);
      }
}
