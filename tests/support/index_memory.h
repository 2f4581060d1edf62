// SPDX-License-Identifier: Apache-2.0
// Memory laid out as a fresh index, where a touch of anything that nobody has reserved is a fault.
//
// A child that is forked off shares it; a copy is what a restarted daemon finds after a kill at
// that moment.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "store/daemon/segment_table.h"
#include "store/shm/index_map.h"

namespace forebay::test {

class IndexMemory {
 public:
  // A new store begins with 64 lines of each bucket array; fewer make growth come sooner.
  explicit IndexMemory(const shm::Limits& limits, std::uint32_t first_lines = 64,
                       std::uint64_t hash_seed = 42)
      : regions_(shm::regions_of(limits)) {
    map_all();
    open(0, regions_.newest_lines);
    open(regions_.newest_lines, first_lines * sizeof(shm::Line));
    open(regions_.exact_lines, first_lines * sizeof(shm::Line));
    auto* stamp = new (base_) shm::IndexStamp{};
    stamp->magic = shm::index_magic;
    stamp->layout_version = shm::layout_version;
    stamp->hash_seed = hash_seed;
    stamp->limits = limits;
    stamp->regions = regions_;
    shm::IndexLive& live = *map().live;
    live.newest_lines.store(first_lines);
    live.exact_lines.store(first_lines);
    live.newest_lines_backed.store(first_lines);
    live.exact_lines_backed.store(first_lines);
    live.entries_end.store(1);
    live.next_serial.store(1);
  }
  IndexMemory(const IndexMemory& other) : regions_(other.regions_) {
    map_all();
    for (const auto& [offset, bytes] : other.opened_) {
      open(offset, bytes);
      std::memcpy(base_ + offset, other.base_ + offset, bytes);
    }
  }
  ~IndexMemory() { ::munmap(base_, regions_.total); }
  IndexMemory& operator=(const IndexMemory&) = delete;

  shm::IndexMap map() { return shm::IndexMap::over(base_, regions_); }
  // A table over it, as a daemon has one.
  daemon::SegmentTable table() {
    return {map(),
            [this](std::uint64_t offset, std::uint64_t bytes) { return reserve(offset, bytes); }};
  }

  Result<void> reserve(std::uint64_t offset, std::uint64_t bytes) {
    if (refuses) return fail_errno(ENOSPC, "the test gives no memory");
    open(offset, bytes);
    return {};
  }
  // Does what a memory thread does for the table, whenever the table asks for it.
  void grow(daemon::SegmentTable& table, bool urgent = false) {
    const auto growth = table.wants_growth(urgent);
    if (!growth) return;
    for (const shm::Range& range : growth->ranges) open(range.offset, range.bytes);
    table.grown(*growth, true);
  }

  // Whether everything that has memory here is the same there.
  bool same_as(const IndexMemory& other) const {
    for (const auto& [offset, bytes] : opened_)
      if (std::memcmp(base_ + offset, other.base_ + offset, bytes) != 0) return false;
    return true;
  }
  // Takes over all that has memory here from there, where no less has it.
  void take(const IndexMemory& other) {
    for (const auto& [offset, bytes] : opened_)
      std::memcpy(base_ + offset, other.base_ + offset, bytes);
  }

  bool refuses = false;

 private:
  void map_all() {
    void* const memory = ::mmap(nullptr, regions_.total, PROT_NONE,
                                MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no memory for an index");
    base_ = static_cast<std::byte*>(memory);
  }
  void open(std::uint64_t offset, std::uint64_t bytes) {
    const std::uint64_t start = offset / shm::page_bytes * shm::page_bytes;
    const std::uint64_t end = shm::page_align(offset + bytes);
    ::mprotect(base_ + start, end - start, PROT_READ | PROT_WRITE);
    // Each page once, so that a copy has it once.
    for (std::uint64_t at = start; at < end; at += shm::page_bytes) {
      const std::uint64_t page = at / shm::page_bytes;
      if (page >= is_open_.size()) is_open_.resize(page + 1);
      if (is_open_[page]) continue;
      is_open_[page] = true;
      if (!opened_.empty() && opened_.back().first + opened_.back().second == at)
        opened_.back().second += shm::page_bytes;
      else
        opened_.emplace_back(at, shm::page_bytes);
    }
  }

  shm::Regions regions_;
  std::byte* base_ = nullptr;
  std::vector<bool> is_open_;                                    // by page
  std::vector<std::pair<std::uint64_t, std::uint64_t>> opened_;  // offset, bytes
};

}  // namespace forebay::test
