// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/spill_port.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

#include "store/check.h"

namespace forebay::daemon {
namespace {

// Tiers say sooner that they are down; these are for one that is slow in silence. Whoever waits for a
// fetch is answered within two seconds, whatever becomes of the peer, and later by what the slowest
// disk takes for the bytes.
constexpr auto fetch_patience = std::chrono::milliseconds(1700);
constexpr auto copy_patience = std::chrono::seconds(10);
constexpr std::uint64_t slowest_bytes_per_ms = 50'000;

TierDeadline deadline_for(std::chrono::milliseconds patience, std::uint64_t bytes) {
  return TierClock::now() + patience + std::chrono::milliseconds(bytes / slowest_bytes_per_ms);
}

}  // namespace

SpillPort::SpillPort(std::unique_ptr<Spill> spill, std::span<std::byte> arena,
                     const SpillOptions& options)
    : arena_(arena),
      options_(options),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      spill_(std::move(spill)) {
  STORE_CHECK(static_cast<bool>(wake_), "an event descriptor can be had");
  spill_->on_moved([this](SpillMove move, std::function<void(bool)> taken) {
    answer(Moved{std::move(move), std::move(taken)});
  });
}

SpillPort::~SpillPort() = default;

void SpillPort::copy(const CopyJob& job) {
  SpillSource source;
  source.serial = job.serial;
  source.bytes = arena_.subspan(job.offset, job.bytes);
  source.options = options_;
  source.label = job.label;
  // Each after all that were asked for before it.
  const std::uint64_t under_way = copying_bytes_.fetch_add(job.bytes) + job.bytes;
  spill_->put(std::move(source), deadline_for(copy_patience, under_way),
              [this, number = job.number, bytes = job.bytes](Result<SpillPlace> place) {
                copying_bytes_.fetch_sub(bytes);
                answer(Copied{number, std::move(place)});
              });
}

void SpillPort::fetch(const FetchJob& job) {
  spill_->get(job.place, arena_.subspan(job.offset, job.bytes), job.priority,
              deadline_for(fetch_patience, job.bytes),
              [this, number = job.number](Result<void> outcome) {
                answer(Fetched{number, std::move(outcome)});
              });
}

void SpillPort::read_range(std::uint64_t number, const SpillPlace& place, std::uint64_t offset,
                           std::span<std::byte> into) {
  spill_->get_range(place, offset, into, deadline_for(fetch_patience, into.size()),
                    [this, number](Result<void> outcome) {
                      answer(RangeRead{number, std::move(outcome)});
                    });
}

void SpillPort::find(std::uint64_t number, std::string name, std::uint64_t version) {
  spill_->find(std::move(name), version, deadline_for(fetch_patience, 0),
               [this, number](Result<SpillFound> found) {
                 answer(Found{number, std::move(found)});
               });
}

void SpillPort::answer(Answer answer) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = answers_.empty();
    answers_.push_back(std::move(answer));
  }
  if (!first) return;
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

std::vector<SpillPort::Answer> SpillPort::take_answers() {
  std::uint64_t count = 0;
  (void)!::read(wake_.get(), &count, sizeof count);
  const std::lock_guard lock(mutex_);
  return std::exchange(answers_, {});
}

}  // namespace forebay::daemon
