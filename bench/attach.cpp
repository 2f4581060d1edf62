// SPDX-License-Identifier: Apache-2.0
// A fresh process that sums one large segment, or, as the floor, a file that it maps by itself.
// Whoever starts it takes the time.
//
// Usage: attach SOCKET ID | attach --bare FILE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <string_view>

#include "bench/harness.h"
#include "store/client.h"

namespace {

// Eight sums at a time: the memory is the limit, not the adding.
double sum_of(const double* numbers, std::size_t count) {
  double sums[8] = {};
  for (std::size_t i = 0; i + 8 <= count; i += 8)
    for (std::size_t j = 0; j < 8; ++j) sums[j] += numbers[i + j];
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

double bare(const char* path) {
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file < 0 || ::fstat(file, &status) != 0) std::exit(1);
  const auto bytes = static_cast<std::size_t>(status.st_size);
  void* const data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
  if (data == MAP_FAILED) std::exit(1);
  return sum_of(static_cast<const double*>(data), bytes / sizeof(double));
}

double attached(const char* socket, const char* id) {
  using namespace forebay;
  Client client = bench::value(Client::connect({.address = socket}));
  const View view = bench::value(client.get(id));
  const auto numbers = bench::value(view.as<double>());
  return sum_of(numbers.data(), numbers.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const double sum = std::string_view(argv[1]) == "--bare" ? bare(argv[2]) : attached(argv[1], argv[2]);
  std::printf("%.0f\n", sum);
}
