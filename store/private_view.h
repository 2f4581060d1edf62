// SPDX-License-Identifier: Apache-2.0
// PrivateView: one segment's content, writable, and nobody else's.
//
// Pages that are not written to are the segment's own; the first write to one copies it. So the segment
// stays pinned until the view is destroyed. Small segments (puts of up to 64 KiB) share their pages with
// others: they are copied to the heap whole, and not pinned. May be moved and destroyed on any thread; writing is
// the threads' own affair. A forked child has a private copy of its own of what was written.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "store/error.h"
#include "store/view.h"

namespace forebay {

class FOREBAY_API PrivateView {
 public:
  PrivateView() = default;  // of nothing
  PrivateView(PrivateView&& other) noexcept { *this = std::move(other); }
  PrivateView& operator=(PrivateView&& other) noexcept;
  ~PrivateView() { release(); }

  // The payload, 64-byte aligned.
  std::span<std::byte> bytes() const { return {data_, size_}; }
  // What they are: as View::type.
  Result<ArrayType> type() const;
  std::uint64_t brief() const { return brief_; }
  Ref ref() const { return ref_; }
  void release() noexcept;

 private:
  friend class client::Access;
  View pin_;                       // while pages are shared
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t mapped_ = 0;         // bytes of the mapping; 0: it is on the heap
  std::uint64_t brief_ = 0;
  std::optional<ArrayType> type_;
  Ref ref_;
};

}  // namespace forebay
