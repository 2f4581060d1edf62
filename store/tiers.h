// SPDX-License-Identifier: Apache-2.0
// What callers see of the tiers: where a segment's bytes are, and a part of one that is not in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "store/view.h"

namespace forebay {

// Which segment: that of an id and version, or (with its serial) that of a ref and no other.
struct SegmentName {
  std::string_view id;
  std::uint64_t version = 0;  // 0: the newest
  std::uint64_t serial = 0;
};

// A copy of a segment's bytes in a tier.
struct TierCopy {
  std::string tier;  // "pool 10.0.0.7:7117", "disk /var/spill"
  bool up = false;   // it answers
};

struct Whereabouts {
  std::uint64_t version = 0;
  std::uint64_t size_bytes = 0;
  bool in_memory = false;
  bool published = false;           // other nodes find it in the pool by its id
  std::uint64_t stored_bytes = 0;   // in each tier: less than size_bytes when compressed
  std::vector<TierCopy> copies;
};

// What a framework knows of the future of a segment.
struct UseHint {
  bool last_use = false;       // nobody is going to read it any more
  std::uint64_t next_use = 0;  // so many other segments are read before it; 0: not known
  int priority = 0;            // above 0: keep it in memory rather than others
};

// Bytes of a segment, read-only: of its memory, which stays pinned while this lives, or memory of the
// caller's own, where the segment was in a tier. May be moved and destroyed on any thread.
class FOREBAY_API SegmentRange {
 public:
  SegmentRange() = default;
  SegmentRange(SegmentRange&& other) noexcept { *this = std::move(other); }
  SegmentRange& operator=(SegmentRange&& other) noexcept;
  ~SegmentRange() { release(); }

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  bool pins() const { return static_cast<bool>(pin_); }
  void release() noexcept;

 private:
  friend class client::Access;
  View pin_;
  std::vector<std::byte> small_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t mapped_ = 0;
};

}  // namespace forebay
