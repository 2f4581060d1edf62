// SPDX-License-Identifier: Apache-2.0
#include "spill/checksum.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace forebay::spill {

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t so_far) {
  // isa-l takes an int for the length, a pointer to what it does not change, and leaves the
  // inversions to its caller.
  constexpr std::size_t at_once = std::size_t{1} << 30U;
  std::uint32_t sum = ~so_far;
  while (!bytes.empty()) {
    const std::size_t size = std::min(bytes.size(), at_once);
    auto* const data =
        const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    sum = crc32_iscsi(data, static_cast<int>(size), sum);
    bytes = bytes.subspan(size);
  }
  return ~sum;
}

}  // namespace forebay::spill
