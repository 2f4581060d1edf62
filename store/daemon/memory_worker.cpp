// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/memory_worker.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <utility>

#include "store/check.h"
#include "store/shm/failpoint.h"
#include "store/shm/layout.h"
#include "store/units.h"

namespace forebay::daemon {
namespace {

// So much at a time: what was just reserved is still in the cache when it is touched.
constexpr std::uint64_t step_bytes = 8 * mebibyte;

void touch_pages(std::byte* start, std::uint64_t bytes) {
  for (std::uint64_t at = 0; at < bytes; at += shm::page_bytes)
    reinterpret_cast<std::atomic<std::uint64_t>*>(start + at)->fetch_or(0);
}

}  // namespace

MemoryWorker::MemoryWorker(const Descriptor& index, const Descriptor& arena,
                           shm::Mapping& index_mapping, shm::Mapping& arena_mapping,
                           bool huge_pages, BeforePunch before_punch)
    : index_(index),
      arena_(arena),
      index_mapping_(index_mapping),
      arena_mapping_(arena_mapping),
      huge_pages_(huge_pages),
      before_punch_(std::move(before_punch)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { run(); }) {
  STORE_CHECK(static_cast<bool>(wake_), "an event descriptor can be had");
}

MemoryWorker::~MemoryWorker() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  arrived_.notify_one();
  thread_.join();
}

void MemoryWorker::submit(MemoryJob job) {
  {
    const std::lock_guard lock(mutex_);
    (job.urgent ? urgent_ : background_).push_back(std::move(job));
  }
  arrived_.notify_one();
}

std::vector<MemoryWorker::Done> MemoryWorker::take_done() {
  std::uint64_t count = 0;
  (void)!::read(wake_.get(), &count, sizeof count);
  const std::lock_guard lock(mutex_);
  return std::exchange(done_, {});
}

void MemoryWorker::run() {
  // Signals are the event loop's.
  sigset_t all;
  sigfillset(&all);
  sigdelset(&all, SIGBUS);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);

  std::unique_lock lock(mutex_);
  while (true) {
    arrived_.wait(lock, [this] { return ending_ || !urgent_.empty() || !background_.empty(); });
    if (ending_) return;
    auto& queue = urgent_.empty() ? background_ : urgent_;
    const MemoryJob job = std::move(queue.front());
    queue.pop_front();
    lock.unlock();
    const std::error_code error = perform(job);
    lock.lock();
    done_.push_back({job.number, error});
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
  }
}

std::error_code MemoryWorker::perform(const MemoryJob& job) {
  for (const Extent& extent : job.arena.punch) {
    // Whatever is registered with a network card keeps its pages, and would show others later.
    if (before_punch_) before_punch_({arena_mapping_.data() + extent.offset, extent.bytes});
    shm::punch(arena_, extent.offset, extent.bytes);
    shm::reached(shm::points::arena_punched);
  }
  for (const shm::Range& range : job.index_ranges) {
    // What fails here, `reserve` will say.
    if (huge_pages_)
      (void)index_mapping_.populate(range.offset, range.bytes, shm::Protection::read_write);
    if (auto reserved = shm::reserve(index_, range.offset, range.bytes); !reserved)
      return reserved.error().code;
  }
  for (std::size_t i = 0; i < job.arena.grow.size(); ++i) {
    const std::error_code error = grow(job.arena.grow[i]);
    if (!error) continue;
    // All or nothing: the accounts say that these addresses have no memory.
    for (std::size_t undo = 0; undo <= i; ++undo)
      shm::punch(arena_, job.arena.grow[undo].offset, job.arena.grow[undo].bytes);
    return error;
  }
  return {};
}

std::error_code MemoryWorker::grow(const Extent& extent) {
  for (std::uint64_t done = 0; done < extent.bytes; done += step_bytes) {
    const std::uint64_t offset = extent.offset + done;
    const std::uint64_t bytes = std::min(step_bytes, extent.bytes - done);
    // Only whole ones: a part would bring in more memory than was asked for.
    if (huge_pages_ && offset % shm::huge_page_bytes == 0 && bytes % shm::huge_page_bytes == 0)
      (void)arena_mapping_.populate(offset, bytes, shm::Protection::read_write);
    if (auto reserved = shm::reserve(arena_, offset, bytes); !reserved)
      return reserved.error().code;
    if (!arena_mapping_.populate(offset, bytes, shm::Protection::read_write))
      touch_pages(arena_mapping_.data() + offset, bytes);
    // The pages stay; only this process's view of them goes, which it does not need.
    ::madvise(arena_mapping_.data() + offset, bytes, MADV_DONTNEED);
    shm::reached(shm::points::arena_grown);
  }
  return {};
}

}  // namespace forebay::daemon
