// SPDX-License-Identifier: Apache-2.0
// What an id may be, and how one is shown to people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "store/error.h"

namespace forebay {

// Ids are 1 to 255 bytes, any bytes.
inline constexpr std::size_t id_bytes_max = 255;

inline bool is_id(std::string_view id) { return !id.empty() && id.size() <= id_bytes_max; }
// Fails with bad_id and the length that it has.
FOREBAY_API Result<void> check_id(std::string_view id);

// 'points' or 'points' version 3: long ids cut, bytes that do not print escaped. Version 0: none.
FOREBAY_API std::string shown(std::string_view id, std::uint64_t version = 0);

}  // namespace forebay
