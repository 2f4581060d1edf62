// SPDX-License-Identifier: Apache-2.0
// The C++ worker of the matmul benchmark: C += A @ B, with A and B got by handle.
//
// A task is "A B FILE SIDE": the refs of two blocks, and the file of the block of C, which is mapped
// and added to in place.
#include "worker.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#ifdef BENCH_BLAS
// Of any BLAS, by its Fortran name: not each has a CBLAS header.
extern "C" void dgemm_(const char* transpose_a, const char* transpose_b, const int* rows,
                       const int* columns, const int* inner, const double* alpha, const double* a,
                       const int* a_stride, const double* b, const int* b_stride, const double* beta,
                       double* c, const int* c_stride);
#endif

namespace {

using forebay::Client;

#ifdef BENCH_BLAS

constexpr const char* how = "multiply with " BENCH_BLAS;

void multiply(const double* a, const double* b, double* c, int side) {
  // Fortran's matrices are ours transposed: C' += B' A'.
  const double one = 1;
  dgemm_("N", "N", &side, &side, &side, &one, b, &side, a, &side, &one, c, &side);
}

#else

constexpr const char* how = "multiply with plain loops, for CMake found no BLAS";

void multiply(const double* a, const double* b, double* c, int side) {
  constexpr int tile = 64;  // three tiles stay in the first-level cache, or near it
  for (int row_tile = 0; row_tile < side; row_tile += tile)
    for (int inner_tile = 0; inner_tile < side; inner_tile += tile)
      for (int row = row_tile; row < std::min(row_tile + tile, side); ++row)
        for (int inner = inner_tile; inner < std::min(inner_tile + tile, side); ++inner) {
          const double factor = a[static_cast<std::ptrdiff_t>(row) * side + inner];
          const double* from = b + static_cast<std::ptrdiff_t>(inner) * side;
          double* to = c + static_cast<std::ptrdiff_t>(row) * side;
          for (int column = 0; column < side; ++column) to[column] += factor * from[column];
        }
}

#endif

[[noreturn]] void give_up(const std::string& what) {
  bench::give_up({std::error_code(errno, std::system_category()), what});
}

// A file, mapped for reading and writing.
class Mapping {
 public:
  Mapping(const std::string& path, std::size_t size) : size_(size) {
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor < 0) give_up(path);
    data_ = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (data_ == MAP_FAILED) give_up(path);
    ::close(descriptor);
  }
  ~Mapping() { ::munmap(data_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  double* numbers() const { return static_cast<double*>(data_); }

 private:
  void* data_;
  std::size_t size_;
};

std::string task(Client& client, const bench::Words& words) {
  if (words.size() != 4) bench::give_up({forebay::Errc::bad_argument, "a task is A B FILE SIDE"});
  const int side = std::stoi(words[3]);
  const std::size_t count = static_cast<std::size_t>(side) * static_cast<std::size_t>(side);
  const forebay::View a = bench::get(client, words[0]);
  const forebay::View b = bench::get(client, words[1]);
  const auto a_numbers = bench::value_or_exit(a.as<double>());
  const auto b_numbers = bench::value_or_exit(b.as<double>());
  if (a_numbers.size() != count || b_numbers.size() != count)
    bench::give_up({forebay::Errc::bad_argument, "a block is not of that side"});
  const Mapping c(words[2], count * sizeof(double));
  multiply(a_numbers.data(), b_numbers.data(), c.numbers(), side);
  return {};
}

}  // namespace

int main(int argc, char** argv) { return bench::serve(argc, argv, how, task); }
