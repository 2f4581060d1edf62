// SPDX-License-Identifier: Apache-2.0
// HMAC-SHA256 with one key, random bytes, and a comparison that takes the same time whatever
// differs. An Hmac is used by one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>

struct evp_mac_ctx_st;

namespace forebay::spill::pool {

using Digest = std::array<std::uint8_t, 32>;

class Hmac {
 public:
  explicit Hmac(std::span<const std::uint8_t> key);  // not empty
  // Of the parts, one behind the other.
  Digest of(std::initializer_list<std::span<const std::byte>> parts);

 private:
  struct Free {
    void operator()(evp_mac_ctx_st* context) const;
  };
  std::unique_ptr<evp_mac_ctx_st, Free> context_;
};

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

bool same(std::span<const std::byte> one, std::span<const std::byte> other);
void fill_random(std::span<std::byte> bytes);
std::uint64_t random_number();  // never 0

}  // namespace forebay::spill::pool
