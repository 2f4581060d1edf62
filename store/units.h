// SPDX-License-Identifier: Apache-2.0
// Sizes as people write them. All sizes in Forebay are bytes in a std::uint64_t.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "store/error.h"

namespace forebay {

inline constexpr std::uint64_t kibibyte = 1024;
inline constexpr std::uint64_t mebibyte = 1024 * kibibyte;
inline constexpr std::uint64_t gibibyte = 1024 * mebibyte;
inline constexpr std::uint64_t tebibyte = 1024 * gibibyte;

// "8GiB", "512 MiB", "64k", "1000000", and "50%" of `whole_bytes`. k, M, G, T (with or without iB or
// B) are powers of 1024. Fails with bad_argument and the accepted forms.
FOREBAY_API Result<std::uint64_t> parse_size(std::string_view text, std::uint64_t whole_bytes = 0);

// "64 MiB", "1.5 GiB", "12 B": at most one decimal.
FOREBAY_API std::string format_size(std::uint64_t bytes);

}  // namespace forebay
