// SPDX-License-Identifier: Apache-2.0
// connect() to a daemon that runs, and to one that it has to start. Prints one JSON object.
//
// Usage: connect SOCKET ROUNDS FOREBAYD FOLDER
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "bench/harness.h"
#include "store/client.h"

int main(int argc, char** argv) {
  using namespace forebay;
  if (argc != 5) return 2;
  std::string running;
  std::string starting;
  for (int round = 0; round < std::atoi(argv[2]); ++round) {
    constexpr std::uint64_t connects = 20;
    const double one = bench::time_per(connects, [&](std::uint64_t) {
      const Client client = bench::value(Client::connect({.address = argv[1]}));
      bench::keep(client);
    });
    // A runtime directory of its own has no daemon yet.
    const std::string folder = std::string(argv[4]) + "/runtime-" + std::to_string(round);
    ::mkdir(folder.c_str(), 0700);
    ::setenv("XDG_RUNTIME_DIR", folder.c_str(), 1);
    ::unsetenv("FOREBAY_SOCKET");
    const auto start = std::chrono::steady_clock::now();
    Client client = bench::value(Client::connect({.daemon_path = argv[3]}));
    const auto took = std::chrono::steady_clock::now() - start;
    bench::value(client.stop_daemon(true));
    const std::string comma = round == 0 ? "" : ", ";
    running += comma + std::to_string(one);
    starting += comma + std::to_string(std::chrono::duration<double, std::nano>(took).count());
  }
  std::printf("{\"running_ns\": [%s], \"starting_ns\": [%s]}\n", running.c_str(), starting.c_str());
}
