// SPDX-License-Identifier: Apache-2.0
#include "store/shm/bytes_hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace forebay::shm {

std::uint64_t bytes_hash(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace forebay::shm
