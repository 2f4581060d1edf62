// SPDX-License-Identifier: Apache-2.0
// How an ArrayType is written into a segment's brief and description, and read back.
//
// A plain dtype (a code) with up to two dimensions, the first below 2^32, needs the brief alone:
// dims are first_dim and size / itemsize / first_dim. Up to five such dims go into the record.
// Everything else is a text of dtype and dims behind the payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "store/array_type.h"
#include "store/error.h"
#include "store/shm/layout.h"

namespace forebay::shm {

struct Description {
  Brief brief;
  std::vector<std::byte> bytes;  // empty: the brief says it all
};

struct PlainDtype {
  std::string_view text;
  std::uint32_t item_bytes;
};
// The plain dtypes by code; code 0 is none of them.
std::span<const PlainDtype> plain_dtypes();
std::uint8_t plain_dtype_code(std::string_view text);  // 0: not plain

// Fails with bad_argument: too many dims, too long a dtype, or a size that does not fit dtype and
// shape (for a plain dtype; what else a dtype needs, its own language knows).
Result<Description> describe(const std::optional<ArrayType>& type, std::uint64_t size_bytes);

// What `describe` was given; nothing for plain bytes. Fails with type_mismatch if the description is
// not one of ours.
Result<std::optional<ArrayType>> read_description(Brief brief, std::uint64_t size_bytes,
                                                  std::span<const std::byte> description);

}  // namespace forebay::shm
