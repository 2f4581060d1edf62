// SPDX-License-Identifier: Apache-2.0
// View: the bytes of one sealed segment, in place, for as long as the view lives.
//
// A view pins its segment: until it is destroyed (or the process ends) the bytes stay where they are
// and what they are, whatever happens to the daemon, the connection or the client that made it. Both
// making and destroying a view of a resident segment cost no system call. Views may be moved and
// destroyed on any thread; one view is not to be used by two threads while one of them moves it. In
// a forked child, views inherited from the parent are valid and are released there for the child
// alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "store/array_type.h"
#include "store/error.h"
#include "store/group.h"
#include "store/ref.h"

namespace forebay {

namespace client {
class Attachment;
class Access;
}  // namespace client

class FOREBAY_API View {
 public:
  View() = default;  // of nothing: empty bytes, no pin
  View(View&& other) noexcept
      : home_(std::exchange(other.home_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        entry_(other.entry_) {}
  View& operator=(View&& other) noexcept {
    if (this != &other) {
      release();
      home_ = std::exchange(other.home_, nullptr);
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      entry_ = other.entry_;
    }
    return *this;
  }
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  ~View() { release(); }

  // The payload, 64-byte aligned, read-only: writing through it is a fault in this process.
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  // The payload as elements of T, in the order in which they lie. Fails with type_mismatch if the
  // segment is an array of another dtype, or if its size is no multiple of sizeof(T).
  template <class T>
  Result<std::span<const T>> as() const {
    static_assert(std::is_trivially_copyable_v<T>);
    std::string_view dtype;
    if constexpr (std::is_arithmetic_v<T>) dtype = dtype_of<T>();
    if (auto fits = check_elements(sizeof(T), alignof(T), dtype); !fits)
      return fail(std::move(fits.error()));
    return std::span<const T>(reinterpret_cast<const T*>(data_), size_ / sizeof(T));
  }

  // What the bytes are. Fails with type_mismatch if they are no array, saying what they are.
  Result<ArrayType> type() const;

  // The members of a group, in the order in which they were put. Fails with type_mismatch if it is none.
  Result<std::vector<GroupMember>> group() const;

  // The parts of an object, in the segment, each 64-byte aligned; valid as long as the view. Fails with
  // type_mismatch if it is none.
  Result<std::vector<std::span<const std::byte>>> object() const;

  // The same in short, as 64 bits that bindings can decide on without an allocation: see the entry
  // in LAYOUT.md.
  std::uint64_t brief() const;

  std::uint64_t version() const;
  std::uint64_t serial() const;
  Ref ref() const;

  // Ends the pin now; the view is then of nothing.
  void release() noexcept {
    if (home_ != nullptr) release_pin();
  }
  explicit operator bool() const noexcept { return home_ != nullptr; }

 private:
  friend class client::Access;
  View(client::Attachment* home, std::uint32_t entry, const std::byte* data, std::uint64_t size)
      : home_(home), data_(data), size_(size), entry_(entry) {}

  void release_pin() noexcept;
  Result<void> check_elements(std::size_t size, std::size_t alignment,
                              std::string_view dtype) const;

  client::Attachment* home_ = nullptr;  // kept alive by this view's share in it
  const std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
  std::uint32_t entry_ = 0;
};

}  // namespace forebay
