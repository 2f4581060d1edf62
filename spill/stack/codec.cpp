// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/codec.h"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>

namespace forebay::spill {
namespace {

// Fast: what is spilled is waited for. Higher levels gain little on numbers.
constexpr int zstd_level = 1;

}  // namespace

std::optional<std::size_t> encode(SpillCodec codec, std::span<const std::byte> from,
                                  std::span<std::byte> into) {
  if (from.size() < 2 || from.size() > encoded_segment_bytes_max) return std::nullopt;
  const std::size_t room = std::min(into.size(), from.size() - 1);
  switch (codec) {
    case SpillCodec::lz4: {
      const int size = LZ4_compress_default(reinterpret_cast<const char*>(from.data()),
                                            reinterpret_cast<char*>(into.data()),
                                            static_cast<int>(from.size()), static_cast<int>(room));
      if (size <= 0) return std::nullopt;
      return static_cast<std::size_t>(size);
    }
    case SpillCodec::zstd: {
      const std::size_t size =
          ZSTD_compress(into.data(), room, from.data(), from.size(), zstd_level);
      if (ZSTD_isError(size) != 0) return std::nullopt;
      return size;
    }
    case SpillCodec::none: break;
  }
  return std::nullopt;
}

bool decode(SpillCodec codec, std::span<const std::byte> from, std::span<std::byte> into) {
  if (from.empty() || from.size() >= into.size() || into.size() > encoded_segment_bytes_max)
    return false;
  switch (codec) {
    case SpillCodec::lz4:
      return LZ4_decompress_safe(reinterpret_cast<const char*>(from.data()),
                                 reinterpret_cast<char*>(into.data()),
                                 static_cast<int>(from.size()), static_cast<int>(into.size())) ==
             static_cast<int>(into.size());
    case SpillCodec::zstd:
      return ZSTD_decompress(into.data(), into.size(), from.data(), from.size()) == into.size();
    case SpillCodec::none: break;
  }
  return false;
}

}  // namespace forebay::spill
