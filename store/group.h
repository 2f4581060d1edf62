// SPDX-License-Identifier: Apache-2.0
// Groups: several named arrays in one segment.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "store/array_type.h"

namespace forebay {

// One member. Given to put_group, `bytes` are the caller's; got from View::group, they lie in the
// segment, 64-byte aligned, and are valid as long as the view.
struct GroupMember {
  std::string name;  // 1 to 255 bytes
  std::span<const std::byte> bytes;
  std::optional<ArrayType> type = std::nullopt;
};

// Of one group; and their names and types take at most 64 KiB together.
inline constexpr std::size_t group_members_max = 1024;

}  // namespace forebay
