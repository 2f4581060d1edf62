// SPDX-License-Identifier: Apache-2.0
// Objects: what a language's own serializer made of a value, as one segment of several parts.
//
// What the parts mean is that language's affair. Python's first part is a pickle, and the others are
// the buffers that it refers to: see docs/objects.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace forebay {

// One part, given to put_object: the caller's bytes, or, with `fill`, bytes that are made in place.
struct ObjectPart {
  std::span<const std::byte> bytes;
  std::uint64_t size_bytes = 0;                        // with `fill` only
  // Writes all of its target; false: it could not, and nothing is put. Must not throw.
  std::function<bool(std::span<std::byte>)> fill = {};

  std::uint64_t size() const { return fill ? size_bytes : bytes.size(); }
};

inline constexpr std::size_t object_parts_max = std::size_t{1} << 20U;

}  // namespace forebay
