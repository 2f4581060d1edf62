// SPDX-License-Identifier: Apache-2.0
// Scratch: memory for a while, for encoded bytes and for the edges of ranges, bounded in all.
//
// One piece larger than the bound is given alone, when nothing else is out. Pieces are whole pages,
// since tiers register what they read and write by pages: small ones are used again and again, and
// of others the tiers are told before they go back to the system. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "spill/stack/workers.h"
#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill {

class Scratch {
  struct Free {
    void operator()(std::byte* pages) const { std::free(pages); }
  };
  using Pages = std::unique_ptr<std::byte[], Free>;

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

    Pages bytes_;
    std::size_t size_ = 0;      // that were asked for
    bool counted_ = true;
    Scratch* owner_ = nullptr;
  };
  using Given = std::function<void(Result<Piece>)>;
  using Leaves = std::function<void(std::span<const std::byte>)>;

  // `leaves` is told of memory that is about to go.
  Scratch(Workers& workers, std::uint64_t bytes_max, Leaves leaves)
      : workers_(workers), bytes_max_(bytes_max), leaves_(std::move(leaves)) {}

  // Now, or not at all (then it is empty).
  Piece try_take(std::size_t bytes);
  // Now, whatever is out, for what is small beside the segment it belongs to.
  Result<Piece> take_little(std::size_t bytes) { return allocate(bytes, false); }
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
  Result<Piece> allocate(std::size_t bytes, bool counted = true);
  void free(Pages pages, std::size_t bytes);
  void put_back(std::size_t bytes);
  void expire();

  Workers& workers_;
  const std::uint64_t bytes_max_;
  const Leaves leaves_;
  std::mutex mutex_;
  std::vector<Pages> kept_;   // Guarded by mutex_. Small ones, for the next
  std::uint64_t out_ = 0;     // Guarded by mutex_.
  std::list<Waiter> waiters_; // Guarded by mutex_.
};

}  // namespace forebay::spill
