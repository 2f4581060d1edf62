// SPDX-License-Identifier: Apache-2.0
// Fixed-size values and runs of bytes, one after the other without gaps, in bytes that somebody
// else may have written: each is taken off the front, and only if it is all there.
#pragma once

#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "store/shm/layout.h"

namespace forebay::shm {

// The next multiple of payload_alignment, unless that is beyond 64 bits.
inline std::optional<std::uint64_t> aligned(std::uint64_t offset) {
  if (__builtin_add_overflow(offset, payload_alignment - 1, &offset)) return std::nullopt;
  return offset / payload_alignment * payload_alignment;
}

template <class T>
void append(std::vector<std::byte>& bytes, const T& value) {
  static_assert(std::has_unique_object_representations_v<T>);
  const std::size_t before = bytes.size();
  bytes.resize(before + sizeof(T));
  std::memcpy(bytes.data() + before, &value, sizeof(T));
}
inline void append_run(std::vector<std::byte>& bytes, std::span<const std::byte> run) {
  bytes.insert(bytes.end(), run.begin(), run.end());
}
inline void append_text(std::vector<std::byte>& bytes, std::string_view text) {
  append_run(bytes, std::as_bytes(std::span(text.data(), text.size())));
}

template <class T>
std::optional<T> take(std::span<const std::byte>& bytes) {
  static_assert(std::has_unique_object_representations_v<T>);
  if (bytes.size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes = bytes.subspan(sizeof(T));
  return value;
}
inline std::optional<std::span<const std::byte>> take_run(std::span<const std::byte>& bytes,
                                                          std::size_t size) {
  if (bytes.size() < size) return std::nullopt;
  const auto run = bytes.first(size);
  bytes = bytes.subspan(size);
  return run;
}
inline std::optional<std::string_view> take_text(std::span<const std::byte>& bytes,
                                                 std::size_t size) {
  const auto run = take_run(bytes, size);
  if (!run) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(run->data()), run->size());
}

}  // namespace forebay::shm
