// SPDX-License-Identifier: Apache-2.0
// crc32c, as iSCSI and most storage has it (Castagnoli's polynomial), by isa-l at memory speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace forebay::spill {

// Of `bytes`, going on from `so_far`: the sum of what came before, 0 at the start.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t so_far = 0);

}  // namespace forebay::spill
