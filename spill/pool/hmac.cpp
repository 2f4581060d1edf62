// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/hmac.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "store/check.h"

namespace forebay::spill::pool {

void Hmac::Free::operator()(evp_mac_ctx_st* context) const { ::EVP_MAC_CTX_free(context); }

Hmac::Hmac(std::span<const std::uint8_t> key) {
  EVP_MAC* const mac = ::EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  STORE_CHECK(mac != nullptr, "libcrypto has HMAC");
  context_.reset(::EVP_MAC_CTX_new(mac));
  ::EVP_MAC_free(mac);
  std::string digest = "SHA256";
  const std::array<OSSL_PARAM, 2> parameters{
      ::OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest.data(), 0),
      ::OSSL_PARAM_construct_end()};
  STORE_CHECK(
      context_ && ::EVP_MAC_init(context_.get(), key.data(), key.size(), parameters.data()) == 1,
      "HMAC-SHA256 takes this key");
}

Digest Hmac::of(std::initializer_list<std::span<const std::byte>> parts) {
  // Without a key: from the start again with the one that it has.
  bool sound = ::EVP_MAC_init(context_.get(), nullptr, 0, nullptr) == 1;
  for (const auto& part : parts)
    sound = sound &&
            ::EVP_MAC_update(context_.get(), reinterpret_cast<const unsigned char*>(part.data()),
                             part.size()) == 1;
  Digest digest{};
  std::size_t size = 0;
  sound = sound && ::EVP_MAC_final(context_.get(), digest.data(), &size, digest.size()) == 1 &&
          size == digest.size();
  STORE_CHECK(sound, "HMAC-SHA256 of bytes in memory cannot fail");
  return digest;
}

bool same(std::span<const std::byte> one, std::span<const std::byte> other) {
  return one.size() == other.size() && ::CRYPTO_memcmp(one.data(), other.data(), one.size()) == 0;
}

void fill_random(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::getrandom(bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    STORE_CHECK(got > 0, "the kernel gives random bytes");
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
}

std::uint64_t random_number() {
  std::uint64_t number = 0;
  while (number == 0) fill_random(std::as_writable_bytes(std::span(&number, 1)));
  return number;
}

}  // namespace forebay::spill::pool
