// SPDX-License-Identifier: Apache-2.0
// The first put into a store, into memory that nobody has used before. Prints one JSON object: the
// time of the put, of memcpy into memory that was faulted in before, and into memory never touched.
//
// Usage: first_put SOCKET MEBIBYTES
#include <cstdlib>

#include "bench/harness.h"
#include "bench/warm_shm.h"
#include "store/client.h"

int main(int argc, char** argv) {
  using namespace forebay;
  if (argc != 3) return 2;
  const std::size_t size = std::strtoull(argv[2], nullptr, 10) << 20U;
  const std::vector<char> payload(size, 'x');
  Client client = bench::value(Client::connect({.address = argv[1]}));
  const double put = bench::time_per(1, [&](std::uint64_t) {
    bench::value(client.put("first", std::as_bytes(std::span(payload))));
  });
  const bench::WarmShm warm(size);
  const double faulted = bench::time_per(
      1, [&](std::uint64_t) { std::memcpy(warm.data(), payload.data(), size); });
  const bench::ColdShm cold(size);
  const double untouched = bench::time_per(
      1, [&](std::uint64_t) { std::memcpy(cold.data(), payload.data(), size); });
  std::printf("{\"put_ns\": %.0f, \"faulted_ns\": %.0f, \"untouched_ns\": %.0f}\n", put, faulted,
              untouched);
}
