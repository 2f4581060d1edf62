// SPDX-License-Identifier: Apache-2.0
// What a get of one hot segment costs each of many processes that all get it. Prints one JSON object
// for each number of readers: processor time per get, in nanoseconds.
//
// Usage: readers SOCKET ROUNDS GETS
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "bench/harness.h"
#include "store/client.h"

namespace {

using namespace forebay;

double processor_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

// The mean over all readers, who begin together.
double with_readers(const char* socket, int readers, std::uint64_t gets) {
  int start[2];
  int result[2];
  if (::pipe(start) != 0 || ::pipe(result) != 0) std::exit(1);
  for (int i = 0; i < readers; ++i) {
    if (::fork() != 0) continue;
    ::close(start[1]);
    const Client client = bench::value(Client::connect({.address = socket}));
    for (int warm = 0; warm < 1000; ++warm) bench::keep(client.get("readers/hot"));
    char go = 0;
    (void)!::write(result[1], &go, 0);
    (void)!::read(start[0], &go, 1);  // ends when the parent closes its end
    const double before = processor_ns();
    for (std::uint64_t n = 0; n < gets; ++n) {
      const auto view = client.get("readers/hot");
      bench::keep(view);
    }
    const double per_get = (processor_ns() - before) / static_cast<double>(gets);
    (void)!::write(result[1], &per_get, sizeof per_get);
    ::_exit(0);
  }
  ::close(start[0]);
  ::usleep(static_cast<useconds_t>(20000 + readers * 3000));  // all are connected, or late: no harm
  ::close(start[1]);
  double sum = 0;
  for (int i = 0; i < readers; ++i) {
    double one = 0;
    if (::read(result[0], &one, sizeof one) != sizeof one) std::exit(1);
    sum += one;
  }
  ::close(result[0]);
  ::close(result[1]);
  while (::wait(nullptr) > 0) {
  }
  return sum / readers;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  {
    Client client = bench::value(Client::connect({.address = argv[1]}));
    const std::vector<char> payload(4096);
    bench::value(client.put("readers/hot", std::as_bytes(std::span(payload))));
  }
  const std::uint64_t gets = std::strtoull(argv[3], nullptr, 10);
  for (const int readers : {2, 8, 64})
    bench::run({"get + release by " + std::to_string(readers) + " readers, processor time",
                "the same by one reader",
                [&] { return with_readers(argv[1], readers, gets / static_cast<unsigned>(readers)); },
                [&] { return with_readers(argv[1], 1, gets); }},
               std::atoi(argv[2]));
}
