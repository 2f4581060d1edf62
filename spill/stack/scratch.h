// SPDX-License-Identifier: Apache-2.0
// Scratch: memory for a while, for encoded bytes and for the edges of ranges, bounded in all.
//
// One piece larger than the bound is given alone, when nothing else is out. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>

#include "spill/stack/workers.h"
#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill {

class Scratch {
 public:
  // Gives itself back. Must not outlive its Scratch.
  class Piece {
   public:
    Piece() = default;
    Piece(Piece&&) noexcept = default;
    Piece& operator=(Piece&& other) noexcept;
    ~Piece() { give_back(); }

    std::span<std::byte> bytes() const { return {bytes_.get(), size_}; }

   private:
    friend class Scratch;
    void give_back();

    std::unique_ptr<std::byte[]> bytes_;
    std::size_t size_ = 0;
    Scratch* owner_ = nullptr;
  };
  using Given = std::function<void(Result<Piece>)>;

  Scratch(Workers& workers, std::uint64_t bytes_max) : workers_(workers), bytes_max_(bytes_max) {}

  // Now, or not at all (then it is empty).
  Piece try_take(std::size_t bytes);
  // As soon as there is room, in the order of asking; within the call if there is some. Fails with
  // timed_out, or store_full when the system has no memory.
  void take(std::size_t bytes, TierDeadline deadline, Given given);

 private:
  struct Waiter {
    std::size_t bytes;
    TierDeadline deadline;
    Given given;
  };

  bool has_room(std::size_t bytes) const {
    return out_ == 0 || (out_ <= bytes_max_ && bytes <= bytes_max_ - out_);
  }
  Result<Piece> allocate(std::size_t bytes);
  void put_back(std::size_t bytes);
  void expire();

  Workers& workers_;
  const std::uint64_t bytes_max_;
  std::mutex mutex_;
  std::uint64_t out_ = 0;     // Guarded by mutex_.
  std::list<Waiter> waiters_; // Guarded by mutex_.
};

}  // namespace forebay::spill
