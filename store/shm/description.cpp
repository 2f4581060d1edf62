// SPDX-License-Identifier: Apache-2.0
#include "store/shm/description.h"

#include <array>
#include <cstring>
#include <limits>

namespace forebay::shm {
namespace {

constexpr std::array<PlainDtype, 17> dtypes{{
    {"", 0},     {"|b1", 1},  {"|i1", 1},  {"|u1", 1},  {"<i2", 2},   {"<u2", 2},
    {"<i4", 4},  {"<u4", 4},  {"<i8", 8},  {"<u8", 8},  {"<f2", 2},   {"<f4", 4},
    {"<f8", 8},  {"<c8", 8},  {"<c16", 16}, {"<f16", 16}, {"<c32", 32}
}};

constexpr std::uint64_t small_dim_max = std::numeric_limits<std::uint32_t>::max();

void append(std::vector<std::byte>& bytes, const void* data, std::size_t size) {
  const auto* from = static_cast<const std::byte*>(data);
  bytes.insert(bytes.end(), from, from + size);
}

template <class T>
std::optional<T> take(std::span<const std::byte>& bytes) {
  if (bytes.size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes = bytes.subspan(sizeof(T));
  return value;
}

// The number of elements, or nothing if it does not fit into 64 bits.
std::optional<std::uint64_t> count_elements(std::span<const std::uint64_t> shape) {
  std::uint64_t count = 1;
  for (const std::uint64_t dim : shape)
    if (__builtin_mul_overflow(count, dim, &count)) return std::nullopt;
  return count;
}

// Whether so many bytes are exactly the elements of that shape.
bool fills(std::span<const std::uint64_t> shape, std::uint32_t item_bytes,
           std::uint64_t size_bytes) {
  const auto count = count_elements(shape);
  return count && *count <= size_bytes / item_bytes && *count * item_bytes == size_bytes;
}

std::string shape_text(std::span<const std::uint64_t> shape) {
  std::string text = "(";
  for (const std::uint64_t dim : shape) text += std::to_string(dim) + ",";
  return text + ")";
}

Failure broken() {
  return fail(Errc::type_mismatch, "the segment's description is not one of an array");
}

}  // namespace

std::span<const PlainDtype> plain_dtypes() { return dtypes; }

std::uint8_t plain_dtype_code(std::string_view text) {
  for (std::size_t code = 1; code < dtypes.size(); ++code)
    if (dtypes[code].text == text) return static_cast<std::uint8_t>(code);
  return 0;
}

Result<Description> describe(const std::optional<ArrayType>& type, std::uint64_t size_bytes) {
  Description out;
  if (!type) return out;
  const auto& shape = type->shape;
  if (shape.size() > array_dims_max)
    return fail(Errc::bad_argument, "an array of " + std::to_string(shape.size()) +
                                        " dimensions; the most is " +
                                        std::to_string(array_dims_max));
  if (type->dtype.empty()) return fail(Errc::bad_argument, "an array without a dtype");

  out.brief.kind = Kind::array;
  out.brief.ndim = static_cast<std::uint8_t>(shape.size());
  if (type->fortran_order) out.brief.flags |= static_cast<std::uint8_t>(BriefFlag::fortran_order);
  out.brief.dtype = plain_dtype_code(type->dtype);
  bool small = true;
  for (const std::uint64_t dim : shape) small = small && dim <= small_dim_max;

  if (out.brief.dtype != 0) {
    if (!fills(shape, dtypes[out.brief.dtype].item_bytes, size_bytes))
      return fail(Errc::bad_argument, std::to_string(size_bytes) + " bytes are not an array of " +
                                          type->dtype + " " + shape_text(shape));
    // A zero dim hides the others from division, so only full arrays are brief.
    const bool brief = shape.size() <= 1 || (shape.size() == 2 && shape[0] != 0);
    if (brief && (shape.size() < 2 || shape[0] <= small_dim_max)) {
      if (shape.size() == 2) out.brief.first_dim = static_cast<std::uint32_t>(shape[0]);
      return out;
    }
    if (small && shape.size() <= record_description_words) {
      out.brief.flags |= static_cast<std::uint8_t>(BriefFlag::dims_in_description);
      for (const std::uint64_t dim : shape) {
        const auto narrow = static_cast<std::uint32_t>(dim);
        append(out.bytes, &narrow, sizeof narrow);
      }
      return out;
    }
  }
  if (type->dtype.size() > description_bytes_max / 2)
    return fail(Errc::bad_argument, "a dtype of " + std::to_string(type->dtype.size()) +
                                        " bytes of text; the most is " +
                                        std::to_string(description_bytes_max / 2));
  out.brief.flags |= static_cast<std::uint8_t>(BriefFlag::dtype_in_description);
  const auto text_bytes = static_cast<std::uint32_t>(type->dtype.size());
  append(out.bytes, &text_bytes, sizeof text_bytes);
  append(out.bytes, type->dtype.data(), type->dtype.size());
  append(out.bytes, shape.data(), shape.size() * sizeof(std::uint64_t));
  return out;
}

Result<std::optional<ArrayType>> read_description(Brief brief, std::uint64_t size_bytes,
                                                  std::span<const std::byte> description) {
  if (brief.kind != Kind::array) return std::optional<ArrayType>{};
  ArrayType type;
  type.fortran_order = brief.has(BriefFlag::fortran_order);
  if (brief.ndim > array_dims_max) return broken();

  if (brief.has(BriefFlag::dtype_in_description)) {
    const auto text_bytes = take<std::uint32_t>(description);
    if (!text_bytes || *text_bytes == 0 || *text_bytes > description.size()) return broken();
    type.dtype.assign(reinterpret_cast<const char*>(description.data()), *text_bytes);
    description = description.subspan(*text_bytes);
    for (unsigned i = 0; i < brief.ndim; ++i) {
      const auto dim = take<std::uint64_t>(description);
      if (!dim) return broken();
      type.shape.push_back(*dim);
    }
    const std::uint8_t code = plain_dtype_code(type.dtype);
    if (code != 0 && !fills(type.shape, dtypes[code].item_bytes, size_bytes)) return broken();
    return std::optional{type};
  }

  if (brief.dtype == 0 || brief.dtype >= dtypes.size()) return broken();
  type.dtype = dtypes[brief.dtype].text;
  const std::uint32_t item = dtypes[brief.dtype].item_bytes;
  const std::uint64_t count = size_bytes / item;
  if (brief.has(BriefFlag::dims_in_description)) {
    for (unsigned i = 0; i < brief.ndim; ++i) {
      const auto dim = take<std::uint32_t>(description);
      if (!dim) return broken();
      type.shape.push_back(*dim);
    }
  } else if (brief.ndim == 1) {
    type.shape = {count};
  } else if (brief.ndim == 2) {
    if (brief.first_dim == 0) return broken();
    type.shape = {brief.first_dim, count / brief.first_dim};
  } else if (brief.ndim > 2) {
    return broken();
  }
  // Whoever wrote it may have lied; a reader that believed it would run over the segment's end.
  if (!fills(type.shape, item, size_bytes)) return broken();
  return std::optional{type};
}

}  // namespace forebay::shm
