// SPDX-License-Identifier: Apache-2.0
// ArrayType: what the bytes of a segment are, when they are an array.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace forebay {

struct ArrayType {
  // In NumPy's array-interface form: "<f8", "|u1", "<M8[ns]", or for structured types the text of
  // its `descr` list. Little-endian where it matters, on the machines that Forebay runs on.
  std::string dtype;
  std::vector<std::uint64_t> shape;  // empty: one element, of no dimension
  bool fortran_order = false;        // first index fastest; otherwise the last (C order)

  bool operator==(const ArrayType&) const = default;
};

inline constexpr std::size_t array_dims_max = 32;

// The dtype of a C++ arithmetic type: dtype_of<double>() is "<f8".
template <class T>
constexpr std::string_view dtype_of() {
  static_assert(std::is_arithmetic_v<T> || std::is_same_v<T, std::byte>);
  if constexpr (std::is_same_v<T, std::byte>) return "|u1";
  if constexpr (std::is_same_v<T, bool>) return "|b1";
  if constexpr (std::is_floating_point_v<T>)
    return sizeof(T) == 4 ? "<f4" : sizeof(T) == 8 ? "<f8" : "<f16";
  if constexpr (std::is_signed_v<T>)
    return sizeof(T) == 1 ? "|i1" : sizeof(T) == 2 ? "<i2" : sizeof(T) == 4 ? "<i4" : "<i8";
  return sizeof(T) == 1 ? "|u1" : sizeof(T) == 2 ? "<u2" : sizeof(T) == 4 ? "<u4" : "<u8";
}

// The array type of `shape` elements of T, in C order.
template <class T>
ArrayType array_of(std::vector<std::uint64_t> shape) {
  return {.dtype = std::string(dtype_of<T>()), .shape = std::move(shape)};
}

}  // namespace forebay
