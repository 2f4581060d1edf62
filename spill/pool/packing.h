// SPDX-License-Identifier: Apache-2.0
// How the pool's control messages become bytes and back: little-endian numbers, counted sequences,
// no padding. A message names its members once, in a `serialize(archive)`.
//
// Unpacking trusts nothing: a count is checked against the bytes that are left before anything is
// made of it, and after the first thing that does not fit all is refused.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace forebay::spill::pool {

static_assert(std::endian::native == std::endian::little, "numbers cross the wire as they lie");

template <class T>
concept Number = std::is_integral_v<T> || std::is_enum_v<T>;

class Packer {
 public:
  template <class... T>
  void operator()(const T&... values) {
    (put(values), ...);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void put_bytes(const void* from, std::size_t size) {
    const auto* const bytes = static_cast<const std::byte*>(from);
    bytes_.insert(bytes_.end(), bytes, bytes + size);
  }
  template <Number T>
  void put(T value) {
    put_bytes(&value, sizeof value);
  }
  template <class T, std::size_t n>
    requires(sizeof(T) == 1)
  void put(const std::array<T, n>& value) {
    put_bytes(value.data(), n);
  }
  void put(const std::string& value) {
    put(static_cast<std::uint32_t>(value.size()));
    put_bytes(value.data(), value.size());
  }
  template <class T>
  void put(const std::vector<T>& values) {
    put(static_cast<std::uint32_t>(values.size()));
    if constexpr (sizeof(T) == 1)
      put_bytes(values.data(), values.size());
    else
      for (const T& value : values) put(value);
  }
  template <class T>
    requires std::is_class_v<T>
  void put(const T& value) {
    serialize(*this, const_cast<T&>(value));
  }

  std::vector<std::byte> bytes_;
};

class Unpacker {
 public:
  explicit Unpacker(std::span<const std::byte> bytes) : left_(bytes) {}
  template <class... T>
  void operator()(T&... values) {
    (get(values), ...);
  }
  // Everything was there, and nothing else.
  bool exact() const { return sound_ && left_.empty(); }

 private:
  std::span<const std::byte> take(std::size_t size) {
    if (!sound_ || size > left_.size()) {
      sound_ = false;
      return {};
    }
    const auto taken = left_.first(size);
    left_ = left_.subspan(size);
    return taken;
  }
  void get_bytes(void* to, std::size_t size) {
    const auto taken = take(size);
    if (!taken.empty()) std::memcpy(to, taken.data(), taken.size());
  }
  std::uint32_t get_count() {
    std::uint32_t count = 0;
    get(count);
    // Every element takes a byte at least.
    if (count > left_.size()) sound_ = false;
    return sound_ ? count : 0;
  }
  template <Number T>
    requires(!std::same_as<T, bool>)
  void get(T& value) {
    get_bytes(&value, sizeof value);
  }
  void get(bool& value) {
    std::uint8_t byte = 0;
    get(byte);
    value = byte == 1;
    if (byte > 1) sound_ = false;
  }
  template <class T, std::size_t n>
    requires(sizeof(T) == 1)
  void get(std::array<T, n>& value) {
    get_bytes(value.data(), n);
  }
  void get(std::string& value) {
    const auto taken = take(get_count());
    value.assign(reinterpret_cast<const char*>(taken.data()), taken.size());
  }
  template <class T>
  void get(std::vector<T>& values) {
    const std::uint32_t count = get_count();
    values.clear();
    if constexpr (sizeof(T) == 1) {
      values.resize(count);
      get_bytes(values.data(), count);
    } else {
      for (std::uint32_t i = 0; sound_ && i < count; ++i) get(values.emplace_back());
    }
  }
  template <class T>
    requires std::is_class_v<T>
  void get(T& value) {
    serialize(*this, value);
  }

  std::span<const std::byte> left_;
  bool sound_ = true;
};

template <class Message>
std::vector<std::byte> pack(const Message& message) {
  Packer packer;
  packer(message);
  return packer.take();
}

template <class Message>
std::optional<Message> unpack(std::span<const std::byte> bytes) {
  Unpacker unpacker(bytes);
  Message message;
  unpacker(message);
  if (!unpacker.exact()) return std::nullopt;
  return message;
}

}  // namespace forebay::spill::pool
