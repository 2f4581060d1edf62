// SPDX-License-Identifier: Apache-2.0
// Codec: bytes made smaller for the way, and back.
//
// Nothing here trusts a length: decoding fills exactly what it is given or says that it cannot. A
// segment is encoded as a whole, so that reading a part of one decodes all of it; hence the limit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "store/spill.h"

namespace forebay::spill {

// Larger segments stay as they are: both sides need room for one whole.
inline constexpr std::uint64_t encoded_segment_bytes_max = std::uint64_t{256} << 20U;

// How many bytes of `into` the encoded `from` takes; nothing if that is not fewer than it has
// (`into` need not have more than that), or with a codec that is none.
std::optional<std::size_t> encode(SpillCodec codec, std::span<const std::byte> from,
                                  std::span<std::byte> into);
// Whether `from` is sound and is exactly `into.size()` bytes decoded.
bool decode(SpillCodec codec, std::span<const std::byte> from, std::span<std::byte> into);

}  // namespace forebay::spill
