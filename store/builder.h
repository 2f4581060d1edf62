// SPDX-License-Identifier: Apache-2.0
// Builder: a segment that is being made. Fill its bytes in place, then seal it, or abort it.
//
// Until it is sealed, nobody else can see the segment. When it is sealed, its pages become read-only
// in this process before the version becomes visible, so a later stray write is a fault here and
// nowhere else. (Direct I/O or RDMA into the bytes that is still in flight at seal bypasses the MMU:
// let it end first.) A builder belongs to one thread at a time. It survives the daemon: after a
// reconnect it can still be sealed. Destroying an open builder aborts it; in a forked child, the
// parent's builder is read-only and cannot be sealed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>

#include "store/array_type.h"
#include "store/error.h"
#include "store/ref.h"
#include "store/view.h"

namespace forebay {

namespace client {
class BuilderState;
}

class FOREBAY_API Builder {
 public:
  Builder(Builder&&) noexcept;
  Builder& operator=(Builder&&) noexcept;
  ~Builder();

  // The writable payload, page aligned. Its first contents are arbitrary, not zero. Valid until
  // seal, abort or destruction.
  std::span<std::byte> bytes();

  // The same as elements of T; fails with type_mismatch as View::as does.
  template <class T>
  Result<std::span<T>> as() {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto whole = bytes();
    if (whole.size() % sizeof(T) != 0)
      return fail(Errc::type_mismatch, std::to_string(whole.size()) +
                                           " bytes are no whole number of elements of " +
                                           std::to_string(sizeof(T)) + " bytes");
    return std::span<T>(reinterpret_cast<T*>(whole.data()), whole.size() / sizeof(T));
  }

  std::uint64_t version() const;

  // Makes the version visible to everybody. Fails with bad_state after seal or abort, and with
  // disconnected if the daemon does not come back in time (the builder stays open: try again, or
  // abort; its bytes are read-only from the first attempt on, for the daemon may have heard).
  Result<Ref> seal();

  // The same, and returns a view of what was sealed: no moment passes in which it is not pinned.
  Result<View> seal_and_get();

  // Gives the memory back; the version was never seen. Fails with bad_state after seal or abort.
  Result<void> abort();

  // The same, but the memory is not given to anybody else while the returned view lives: for callers
  // that cannot take back every pointer into it.
  Result<View> abort_and_hold();

 private:
  friend class client::Access;
  explicit Builder(std::unique_ptr<client::BuilderState> state);
  std::unique_ptr<client::BuilderState> state_;
};

}  // namespace forebay
