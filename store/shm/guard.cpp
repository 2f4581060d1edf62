// SPDX-License-Identifier: Apache-2.0
#include "store/shm/guard.h"

#include <sys/mman.h>

#include <array>
#include <csignal>

#include "store/check.h"
#include "store/shm/layout.h"

namespace forebay::shm {
namespace {

// Read by the signal handler, so: plain atomics, never moved.
struct Range {
  std::atomic<std::uintptr_t> start{0};
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<bool> broken{false};
};
std::array<Range, Guard::guards_max> ranges;
std::atomic<std::size_t> ranges_end{0};

void on_sigbus(int signal, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (std::size_t i = 0; i < ranges_end.load(); ++i) {
    Range& range = ranges[i];
    const std::uintptr_t start = range.start.load();
    if (start == 0 || address < start || address >= start + range.bytes.load()) continue;
    range.broken.store(true);
    void* page = reinterpret_cast<void*>(address & ~(std::uintptr_t{page_bytes} - 1));
    constexpr int sharing = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (::mmap(page, page_bytes, PROT_READ | PROT_WRITE, sharing, -1, 0) == page) return;
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

Guard::Guard(const void* start, std::uint64_t bytes) : slot_(0) {
  for (; slot_ < ranges.size(); ++slot_) {
    std::uintptr_t expected = 0;
    Range& range = ranges[slot_];
    if (range.start.load() != 0) continue;
    range.broken.store(false);
    range.bytes.store(bytes);
    if (range.start.compare_exchange_strong(expected, reinterpret_cast<std::uintptr_t>(start))) {
      std::size_t end = ranges_end.load();
      while (end < slot_ + 1 && !ranges_end.compare_exchange_weak(end, slot_ + 1)) {
      }
      return;
    }
  }
  STORE_CHECK(false, "no more guarded ranges than pin tables");
}

Guard::~Guard() { ranges[slot_].start.store(0); }

bool Guard::broken() const { return ranges[slot_].broken.load(); }

void Guard::install() {
  struct sigaction action {};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace forebay::shm
