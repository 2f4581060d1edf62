// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/scratch.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace forebay::spill {

namespace {

constexpr std::size_t page_bytes = 4096;
// All pieces up to this size are of this size.
constexpr std::size_t small_bytes = 256 * 1024;
constexpr std::size_t small_kept = 16;

}  // namespace

Scratch::Piece& Scratch::Piece::operator=(Piece&& other) noexcept {
  if (this == &other) return *this;
  give_back();
  bytes_ = std::move(other.bytes_);
  size_ = other.size_;
  owner_ = other.owner_;
  counted_ = other.counted_;
  return *this;
}

void Scratch::Piece::give_back() {
  if (!bytes_) return;
  const std::size_t size = std::exchange(size_, 0);
  owner_->free(std::move(bytes_), size);
  if (counted_) owner_->put_back(size);
}

void Scratch::free(Pages pages, std::size_t bytes) {
  if (bytes <= small_bytes) {
    const std::lock_guard lock(mutex_);
    if (kept_.size() < small_kept) {
      kept_.push_back(std::move(pages));
      return;
    }
  }
  leaves_({pages.get(), std::max(bytes, small_bytes)});
}

Result<Scratch::Piece> Scratch::allocate(std::size_t bytes, bool counted) {
  Piece piece;
  if (bytes <= small_bytes) {
    const std::lock_guard lock(mutex_);
    if (!kept_.empty()) {
      piece.bytes_ = std::move(kept_.back());
      kept_.pop_back();
    }
  }
  if (!piece.bytes_) {
    const std::size_t whole =
        (std::max(bytes, small_bytes) + page_bytes - 1) / page_bytes * page_bytes;
    piece.bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(page_bytes, whole)));
  }
  if (!piece.bytes_) {
    if (counted) put_back(bytes);
    return fail(Errc::store_full, "no memory for " + std::to_string(bytes) +
                                      " bytes of scratch; the system has none left");
  }
  piece.size_ = bytes;
  piece.owner_ = this;
  piece.counted_ = counted;
  return piece;
}

Scratch::Piece Scratch::try_take(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (bytes > bytes_max_ || !waiters_.empty() || !has_room(bytes)) return {};
    out_ += bytes;
  }
  auto piece = allocate(bytes);
  return piece ? std::move(*piece) : Piece{};
}

void Scratch::take(std::size_t bytes, TierDeadline deadline, Given given) {
  {
    const std::lock_guard lock(mutex_);
    if (!waiters_.empty() || !has_room(bytes)) {
      waiters_.push_back({bytes, deadline, std::move(given)});
      workers_.run_at(deadline, [this] { expire(); });
      return;
    }
    out_ += bytes;
  }
  given(allocate(bytes));
}

void Scratch::put_back(std::size_t bytes) {
  std::vector<Waiter> served;
  {
    const std::lock_guard lock(mutex_);
    out_ -= bytes;
    while (!waiters_.empty() && has_room(waiters_.front().bytes)) {
      out_ += waiters_.front().bytes;
      served.push_back(std::move(waiters_.front()));
      waiters_.pop_front();
    }
  }
  // Whoever gives back is in the middle of something of his own.
  for (Waiter& waiter : served)
    workers_.run(TierPriority::demand,
                 [this, bytes = waiter.bytes, given = std::move(waiter.given)] {
                   given(allocate(bytes));
                 });
}

void Scratch::expire() {
  std::vector<Waiter> late;
  std::vector<Waiter> served;
  {
    const std::lock_guard lock(mutex_);
    const auto now = TierClock::now();
    for (auto at = waiters_.begin(); at != waiters_.end();) {
      if (at->deadline > now) {
        ++at;
        continue;
      }
      late.push_back(std::move(*at));
      at = waiters_.erase(at);
    }
    // One that waited behind a large one may fit now.
    while (!waiters_.empty() && has_room(waiters_.front().bytes)) {
      out_ += waiters_.front().bytes;
      served.push_back(std::move(waiters_.front()));
      waiters_.pop_front();
    }
  }
  for (Waiter& waiter : late)
    waiter.given(fail(Errc::timed_out, "no scratch memory became free before the deadline"));
  for (Waiter& waiter : served) waiter.given(allocate(waiter.bytes));
}

}  // namespace forebay::spill
