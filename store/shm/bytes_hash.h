// SPDX-License-Identifier: Apache-2.0
// A fast hash of many bytes, to see whether they are still the same. Not for adversaries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace forebay::shm {

// XXH3, 64 bits.
std::uint64_t bytes_hash(std::span<const std::byte> bytes);

}  // namespace forebay::shm
