// SPDX-License-Identifier: Apache-2.0
// Puts an array and reads it back through the installed library. Usage: consumer_cxx SOCKET
#include <forebay/client.h>

#include <cstdio>
#include <numeric>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto complain = [](const forebay::Error& error) {
    std::fprintf(stderr, "consumer_cxx: %s\n", error.message().c_str());
    return 1;
  };
  auto client = forebay::Client::connect({.address = argv[1]});
  if (!client) return complain(client.error());
  std::vector<double> numbers(1000);
  std::iota(numbers.begin(), numbers.end(), 0.0);
  const auto ref = client->put("numbers", std::as_bytes(std::span(numbers)),
                               {.type = forebay::array_of<double>({10, 100})});
  if (!ref) return complain(ref.error());
  const auto view = client->get(*ref);
  if (!view) return complain(view.error());
  const auto read = view->as<double>();
  if (!read) return complain(read.error());
  const double sum = std::accumulate(read->begin(), read->end(), 0.0);
  std::printf("%s sum %.0f\n", ref->id.c_str(), sum);
  // An error crosses the library's border as itself.
  const auto none = client->get("none");
  return sum == 499500.0 && !none && none.error().is(forebay::Errc::not_found) ? 0 : 1;
}
