// SPDX-License-Identifier: Apache-2.0
#include "store/private_view.h"

#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "store/client.h"
#include "store/client/core.h"
#include "store/shm/mapping.h"

namespace forebay {
namespace {

// Below this, a copy costs less than a mapping. From here on, what is not in a slab starts on a
// page of its own, and nobody else's bytes lie behind it.
constexpr std::uint64_t mapped_bytes_min = 64 * 1024;

constexpr std::align_val_t alignment{shm::payload_alignment};

}  // namespace

PrivateView& PrivateView::operator=(PrivateView&& other) noexcept {
  if (this == &other) return *this;
  release();
  pin_ = std::move(other.pin_);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  mapped_ = std::exchange(other.mapped_, 0);
  brief_ = std::exchange(other.brief_, 0);
  type_ = std::exchange(other.type_, std::nullopt);
  ref_ = std::exchange(other.ref_, Ref{});
  return *this;
}

void PrivateView::release() noexcept {
  std::byte* const data = std::exchange(data_, nullptr);
  if (mapped_ > 0) {
    // Before the pin ends: behind it, these pages become another segment's.
    shm::unmap_private(data, mapped_);
  } else {
    ::operator delete(data, alignment);
  }
  pin_.release();
  size_ = 0;
  mapped_ = 0;
  brief_ = 0;
  type_.reset();
  ref_ = {};
}

Result<ArrayType> PrivateView::type() const {
  if (ref_.version == 0) return fail(Errc::bad_state, "the view is of nothing");
  if (!type_) return client::no_array(brief_);
  return *type_;
}

Result<PrivateView> client::Access::private_view(View view) {
  PrivateView made;
  made.brief_ = view.brief();
  made.ref_ = view.ref();
  made.type_ = made.ref_.type;
  const auto bytes = view.bytes();
  const Attachment& home = *view.home_;
  const std::uint32_t flags =
      home.index().records[view.entry_].flags.load(std::memory_order_relaxed);
  const bool in_slab = (flags & shm::flag_bit(shm::RecordFlag::in_slab)) != 0;
  if (bytes.size() >= mapped_bytes_min && !in_slab) {
    const shm::Location location(
        home.entry(view.entry_).location.load(std::memory_order_relaxed));
    auto mapped = home.map_private(location, bytes.size());
    if (!mapped) return fail(std::move(mapped.error()));
    made.data_ = *mapped;
    made.mapped_ = bytes.size();
    made.pin_ = std::move(view);
  } else if (!bytes.empty()) {
    void* const copy = ::operator new(bytes.size(), alignment, std::nothrow);
    if (copy == nullptr)
      return fail_errno(ENOMEM, "no memory for a private copy of " + std::to_string(bytes.size()) +
                                    " bytes");
    made.data_ = static_cast<std::byte*>(copy);
    std::memcpy(made.data_, bytes.data(), bytes.size());
  }
  made.size_ = bytes.size();
  return made;
}

Result<PrivateView> Client::get_private(std::string_view id, const GetOptions& options) const {
  auto view = core_->get(id, options, nullptr);
  if (!view) return fail(std::move(view.error()));
  return client::Access::private_view(std::move(*view));
}

}  // namespace forebay
