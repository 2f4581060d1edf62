// SPDX-License-Identifier: Apache-2.0
// Bytes that tell whose they are: a function of id, version and a seed, so that any wrong byte of any
// segment is found without a copy of what was put.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace forebay::test {

inline std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31U);
}

// Where the bytes of (seed, id, version) start.
inline std::uint64_t payload_key(std::string_view id, std::uint64_t version, std::uint64_t seed) {
  std::uint64_t key = mixed(seed ^ id.size());
  for (const char c : id) key = mixed(key ^ static_cast<unsigned char>(c));
  return mixed(key ^ version);
}

inline void fill(std::span<std::byte> bytes, std::string_view id, std::uint64_t version,
                 std::uint64_t seed = 0) {
  const std::uint64_t key = payload_key(id, version, seed);
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    const std::uint64_t word = mixed(key + at);
    std::memcpy(bytes.data() + at, &word, std::min<std::size_t>(8, bytes.size() - at));
  }
}

inline std::vector<std::byte> payload(std::size_t size, std::string_view id, std::uint64_t version,
                                      std::uint64_t seed = 0) {
  std::vector<std::byte> bytes(size);
  fill(bytes, id, version, seed);
  return bytes;
}

// Nothing, if these are exactly `size` bytes of (seed, id, version); else what is wrong.
inline std::string wrong_bytes(std::span<const std::byte> bytes, std::size_t size,
                               std::string_view id, std::uint64_t version,
                               std::uint64_t seed = 0) {
  const std::string what = "'" + std::string(id) + "' version " + std::to_string(version);
  if (bytes.size() != size)
    return what + " has " + std::to_string(bytes.size()) + " bytes, not " + std::to_string(size);
  const std::uint64_t key = payload_key(id, version, seed);
  for (std::size_t at = 0; at < size; at += 8) {
    const std::uint64_t word = mixed(key + at);
    if (std::memcmp(bytes.data() + at, &word, std::min<std::size_t>(8, size - at)) != 0)
      return what + " is wrong at byte " + std::to_string(at) + " of " + std::to_string(size);
  }
  return {};
}

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace forebay::test
