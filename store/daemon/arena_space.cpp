// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/arena_space.h"

#include <algorithm>

#include "store/check.h"
#include "store/shm/layout.h"

namespace forebay::daemon {
namespace {

constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}
constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) {
  return value & ~(alignment - 1);
}

// The first aligned `bytes` inside a run, if they fit.
std::optional<Extent> fit(Extent run, std::uint64_t bytes, std::uint64_t alignment) {
  const std::uint64_t start = align_up(run.offset, alignment);
  if (start - run.offset > run.bytes || run.bytes - (start - run.offset) < bytes)
    return std::nullopt;
  return Extent{start, bytes};
}

constexpr std::uint64_t end_of(Extent extent) { return extent.offset + extent.bytes; }

}  // namespace

void ArenaSpace::Runs::insert(Extent extent) {
  by_offset_.emplace(extent.offset, extent.bytes);
  by_size_.emplace(extent.bytes, extent.offset);
  bytes_ += extent.bytes;
}

void ArenaSpace::Runs::erase(std::map<std::uint64_t, std::uint64_t>::iterator run) {
  by_size_.erase({run->second, run->first});
  bytes_ -= run->second;
  by_offset_.erase(run);
}

void ArenaSpace::Runs::add(Extent extent) {
  if (extent.bytes == 0) return;
  auto after = by_offset_.lower_bound(extent.offset);
  STORE_CHECK(after == by_offset_.end() || end_of(extent) <= after->first,
              "free runs do not overlap");
  if (after != by_offset_.begin()) {
    const auto before = std::prev(after);
    STORE_CHECK(before->first + before->second <= extent.offset, "free runs do not overlap");
    if (before->first + before->second == extent.offset) {
      extent = {before->first, before->second + extent.bytes};
      erase(before);
    }
  }
  after = by_offset_.lower_bound(extent.offset);
  if (after != by_offset_.end() && end_of(extent) == after->first) {
    extent.bytes += after->second;
    erase(after);
  }
  insert(extent);
}

void ArenaSpace::Runs::remove(Extent extent) {
  if (extent.bytes == 0) return;
  auto run = by_offset_.upper_bound(extent.offset);
  STORE_CHECK(run != by_offset_.begin(), "what is taken was free");
  --run;
  const Extent whole{run->first, run->second};
  STORE_CHECK(whole.offset <= extent.offset && end_of(extent) <= end_of(whole),
              "what is taken was free");
  erase(run);
  if (whole.offset < extent.offset) insert({whole.offset, extent.offset - whole.offset});
  if (end_of(extent) < end_of(whole)) insert({end_of(extent), end_of(whole) - end_of(extent)});
}

std::optional<Extent> ArenaSpace::Runs::best_fit(std::uint64_t bytes,
                                                 std::uint64_t alignment) const {
  for (auto run = by_size_.lower_bound({bytes, 0}); run != by_size_.end(); ++run)
    if (const auto found = fit({run->second, run->first}, bytes, alignment)) return found;
  return std::nullopt;
}

std::optional<Extent> ArenaSpace::Runs::first_fit(std::uint64_t bytes,
                                                  std::uint64_t alignment) const {
  for (const auto& [offset, size] : by_offset_)
    if (const auto found = fit({offset, size}, bytes, alignment)) return found;
  return std::nullopt;
}

std::vector<Extent> ArenaSpace::Runs::inside(Extent extent) const {
  std::vector<Extent> found;
  auto run = by_offset_.upper_bound(extent.offset);
  if (run != by_offset_.begin()) --run;
  for (; run != by_offset_.end() && run->first < end_of(extent); ++run) {
    const std::uint64_t start = std::max(run->first, extent.offset);
    const std::uint64_t end = std::min(run->first + run->second, end_of(extent));
    if (start < end) found.push_back({start, end - start});
  }
  return found;
}

std::vector<Extent> ArenaSpace::Runs::largest_first(std::size_t most) const {
  std::vector<Extent> runs;
  for (auto run = by_size_.rbegin(); run != by_size_.rend() && runs.size() < most; ++run)
    runs.push_back({run->second, run->first});
  return runs;
}

std::vector<Extent> ArenaSpace::Runs::smallest_first() const {
  std::vector<Extent> runs;
  for (const auto& [bytes, offset] : by_size_) runs.push_back({offset, bytes});
  return runs;
}

std::vector<Extent> ArenaSpace::Runs::all() const {
  std::vector<Extent> runs;
  for (const auto& [offset, bytes] : by_offset_) runs.push_back({offset, bytes});
  return runs;
}

ArenaSpace::ArenaSpace(std::uint64_t address_bytes, std::uint64_t capacity_bytes)
    : address_bytes_(align_down(address_bytes, shm::page_bytes)),
      capacity_(align_down(capacity_bytes, shm::page_bytes)) {
  cold_.add({0, address_bytes_});
}

std::optional<Extent> ArenaSpace::take_warm(std::uint64_t bytes, std::uint64_t alignment) {
  const auto found = warm_.best_fit(bytes, alignment);
  if (!found) return std::nullopt;
  warm_.remove(*found);
  used_ += bytes;
  return found;
}

bool ArenaSpace::is_free(Extent extent) const {
  std::uint64_t free = 0;
  for (const Extent& part : warm_.inside(extent)) free += part.bytes;
  for (const Extent& part : cold_.inside(extent)) free += part.bytes;
  return free == extent.bytes;
}

std::uint64_t ArenaSpace::warm_inside(Extent extent) const {
  std::uint64_t bytes = 0;
  for (const Extent& part : warm_.inside(extent)) bytes += part.bytes;
  return bytes;
}

std::optional<ArenaSpace::Placement> ArenaSpace::best_placement(std::uint64_t bytes,
                                                                std::uint64_t alignment) const {
  std::optional<Placement> best;
  const auto consider = [&](std::uint64_t start) {
    const Extent extent{start, bytes};
    if (start > address_bytes_ || address_bytes_ - start < bytes || !is_free(extent)) return;
    const std::uint64_t growth = bytes - warm_inside(extent);
    if (!best || growth < best->growth) best = Placement{extent, growth};
  };
  // Next to, or around, the largest warm runs: what they cover need not be grown.
  constexpr std::size_t runs_considered = 16;
  for (const Extent& run : warm_.largest_first(runs_considered)) {
    consider(align_up(run.offset, alignment));
    if (end_of(run) >= bytes) consider(align_down(end_of(run) - bytes, alignment));
  }
  if (const auto cold = cold_.first_fit(bytes, alignment)) consider(cold->offset);
  return best;
}

std::optional<Growth> ArenaSpace::plan(std::uint64_t bytes, std::uint64_t alignment) {
  const auto placement = best_placement(bytes, alignment);
  if (!placement) return std::nullopt;
  const std::uint64_t budget = ungrown();
  const std::uint64_t elsewhere = warm() - (bytes - placement->growth);
  if (placement->growth > budget + elsewhere) return std::nullopt;

  Growth growth;
  growth.extent = placement->extent;
  for (const Extent& part : warm_.inside(growth.extent)) warm_.remove(part);
  growth.work.grow = cold_.inside(growth.extent);
  for (const Extent& part : growth.work.grow) cold_.remove(part);
  growing_ += bytes;

  std::uint64_t missing = placement->growth > budget ? placement->growth - budget : 0;
  for (const Extent& run : warm_.smallest_first()) {
    if (missing == 0) break;
    const Extent punched{run.offset, std::min(missing, run.bytes)};
    warm_.remove(punched);
    growth.work.punch.push_back(punched);
    missing -= punched.bytes;
  }
  return growth;
}

void ArenaSpace::settle(const Growth& growth, bool succeeded) {
  growing_ -= growth.extent.bytes;
  for (const Extent& part : growth.work.punch) cold_.add(part);
  if (succeeded) {
    used_ += growth.extent.bytes;
    return;
  }
  // Everything that was to be grown is cold again; the rest of the extent was warm before.
  std::uint64_t at = growth.extent.offset;
  for (const Extent& part : growth.work.grow) {
    warm_.add({at, part.offset - at});
    cold_.add(part);
    at = end_of(part);
  }
  warm_.add({at, end_of(growth.extent) - at});
}

std::optional<Extent> ArenaSpace::plan_reserve(std::uint64_t bytes) {
  bytes = std::min(align_up(bytes, shm::page_bytes), ungrown());
  if (bytes == 0) return std::nullopt;
  const auto found = cold_.first_fit(bytes, shm::page_bytes);
  if (!found) return std::nullopt;
  cold_.remove(*found);
  growing_ += found->bytes;
  return found;
}

void ArenaSpace::settle_reserve(const Extent& extent, bool succeeded) {
  growing_ -= extent.bytes;
  (succeeded ? warm_ : cold_).add(extent);
}

void ArenaSpace::release(const Extent& extent) {
  STORE_CHECK(used_ >= extent.bytes, "what is released was in use");
  used_ -= extent.bytes;
  warm_.add(extent);
}

std::vector<Extent> ArenaSpace::trim(std::uint64_t budget_bytes) {
  std::vector<Extent> trimmed;
  for (const Extent& run : warm_.smallest_first()) {
    if (warm() <= budget_bytes) break;
    const Extent part{run.offset, std::min(run.bytes, warm() - budget_bytes)};
    warm_.remove(part);
    // Until it is punched it still is memory that nobody else may count on.
    growing_ += part.bytes;
    trimmed.push_back(part);
  }
  return trimmed;
}

void ArenaSpace::punched(const Extent& extent) {
  growing_ -= extent.bytes;
  cold_.add(extent);
}

bool ArenaSpace::adopt_used(const Extent& extent) {
  if (end_of(extent) > address_bytes_ || !is_free(extent)) return false;
  cold_.remove(extent);
  used_ += extent.bytes;
  return true;
}

void ArenaSpace::adopt_warm(const Extent& extent) {
  for (const Extent& part : cold_.inside(extent)) {
    const Extent kept{part.offset, std::min(part.bytes, ungrown())};
    if (kept.bytes == 0) return;
    cold_.remove(kept);
    warm_.add(kept);
  }
}

std::vector<Extent> ArenaSpace::cold_runs() const { return cold_.all(); }

}  // namespace forebay::daemon
