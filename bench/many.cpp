// SPDX-License-Identifier: Apache-2.0
// Many small segments: what one costs, in time and memory, as the store fills from ten to ten
// million. Prints one JSON object for each size.
//
// Usage: many SOCKET MOST
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "bench/harness.h"
#include "bench/warm_shm.h"
#include "store/client.h"

namespace {

using namespace forebay;
using bench::time_per;
using bench::value;

std::uint64_t field(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line))
    if (line.starts_with(name + " ") || line.starts_with(name + ":"))
      return std::strtoull(line.c_str() + name.size() + 1, nullptr, 10);
  std::fprintf(stderr, "many: no %s in:\n%s", name.c_str(), text.c_str());
  std::exit(1);
}

// The daemon's own memory and the index: all but the payloads.
std::uint64_t bytes_beside_payload(const Client& client) {
  const std::string status = value(client.status());
  std::ifstream file("/proc/" + std::to_string(field(status, "daemon_pid")) + "/status");
  std::stringstream process;
  process << file.rdbuf();
  return field(process.str(), "RssAnon") * 1024 + field(status, "index_backed_bytes");
}

std::string id_of(std::uint64_t number) { return "many/" + std::to_string(number); }

// The floor of a random get: a chain of loads through as many lines as the index of so many has.
double dependent_load(std::uint64_t segments) {
  const std::size_t lines = std::max<std::size_t>(segments * (64 + 128 + 43) / 64, 64);
  const bench::WarmShm table(lines * 64);
  std::vector<std::uint32_t> order(lines);
  for (std::size_t i = 0; i < lines; ++i) order[i] = static_cast<std::uint32_t>(i);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  for (std::size_t i = 0; i < lines; ++i) {
    const std::uint64_t next = order[(i + 1) % lines];
    std::memcpy(table.data() + std::size_t{order[i]} * 64, &next, 8);
  }
  std::uint64_t at = 0;
  const double time = time_per(300'000, [&](std::uint64_t) {
    std::memcpy(&at, table.data() + at * 64, 8);
  });
  bench::keep(at);
  return time;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::uint64_t most = std::strtoull(argv[2], nullptr, 10);
  Client client = value(Client::connect({.address = argv[1]}));
  const std::vector<char> payload(64);
  const auto bytes = std::as_bytes(std::span(payload));
  value(client.put("warm", bytes));
  const std::uint64_t memory_before = bytes_beside_payload(client);
  std::uint64_t there = 0;
  for (std::uint64_t segments = 10; segments <= most; segments *= 10) {
    constexpr std::uint64_t batch = 1000;
    std::vector<std::string> ids;
    std::vector<PutItem> items;
    const std::uint64_t added = segments - there;
    const auto start = std::chrono::steady_clock::now();
    while (there < segments) {
      ids.clear();
      items.clear();
      for (std::uint64_t i = 0; i < batch && there + i < segments; ++i) ids.push_back(id_of(there + i));
      for (const std::string& id : ids) items.push_back({id, bytes});
      for (const auto& put : value(client.put_many(items)))
        if (!put) value(Result<void>(fail(put.error())));
      there += ids.size();
    }
    const double put_ns =
        std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() /
        static_cast<double>(added);
    const std::uint64_t memory = bytes_beside_payload(client);

    std::mt19937_64 random(segments);
    std::vector<std::string> asked(300'000);
    for (std::string& id : asked) id = id_of(random() % segments);
    const double get_ns = time_per(asked.size(), [&](std::uint64_t i) {
      const auto view = client.get(asked[i]);
      bench::keep(view);
    });
    const double load_ns = dependent_load(segments);
    // Single puts and removals at this fill.
    constexpr std::uint64_t singles = 5000;
    const double put_one_ns = time_per(singles, [&](std::uint64_t i) {
      value(client.put("one/" + std::to_string(i), bytes));
    });
    const double remove_one_ns = time_per(
        singles, [&](std::uint64_t i) { value(client.remove("one/" + std::to_string(i))); });
    double list_ns = 0;
    if (segments <= 1'000'000) {
      std::uint64_t listed = 0;
      ListCursor cursor;
      list_ns = time_per(1, [&](std::uint64_t) {
        while (true) {
          const ListPage page = value(client.list("many/", cursor, 100'000));
          listed += page.segments.size();
          if (!page.next) break;
          cursor = *page.next;
        }
      });
      if (listed != segments) {
        std::fprintf(stderr, "many: listed %zu of %zu\n", listed, segments);
        return 1;
      }
    }
    std::printf(
        "{\"segments\": %zu, \"put_many_ns\": %.0f, \"get_ns\": %.1f, \"load_ns\": %.1f, "
        "\"put_ns\": %.0f, \"remove_ns\": %.0f, \"list_all_ns\": %.0f, \"bytes_each\": %.1f}\n",
        segments, put_ns, get_ns, load_ns, put_one_ns, remove_one_ns, list_ns,
        static_cast<double>(memory - memory_before) / static_cast<double>(segments));
    std::fflush(stdout);
  }
}
