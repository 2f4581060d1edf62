// SPDX-License-Identifier: Apache-2.0
// get and put of the C++ client, each beside its floor.
//
// Usage: put_get SOCKET ROUNDS KEYS MEBIBYTES
#include <sched.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#include "bench/harness.h"
#include "bench/warm_shm.h"
#include "store/client.h"
#include "store/wire/codec.h"
#include "store/wire/socket.h"

namespace {

using namespace forebay;
using bench::keep;
using bench::Row;
using bench::time_per;
using bench::value;
using bench::WarmShm;

std::span<const std::byte> bytes_of(const std::vector<char>& data) {
  return std::as_bytes(std::span(data));
}

std::uint64_t daemon_pid(const Client& client) {
  const std::string status = value(client.status());
  const std::size_t at = status.find("daemon_pid ");
  return std::strtoull(status.c_str() + at + 11, nullptr, 10);
}

void pin_to_first_core(pid_t pid) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(0, &set);
  ::sched_setaffinity(pid, sizeof set, &set);
}
void pin_to_any_core(pid_t pid) {
  cpu_set_t set;
  std::memset(&set, 0xff, sizeof set);
  ::sched_setaffinity(pid, sizeof set, &set);
}

// ------------------------------------------------------------------------------------------- get

void get_hot(Client& client, int rounds) {
  constexpr std::uint64_t operations = 200'000;
  value(client.put("hot", bytes_of(std::vector<char>(64))));
  struct alignas(64) Line {
    std::atomic<std::uint32_t> word{0};
  };
  static Line pins;
  static Line shares;
  bench::run({"get + release, one hot key", "two locked add pairs",
              [&] {
                return time_per(operations, [&](std::uint64_t) {
                  const auto view = client.get("hot");
                  keep(view);
                });
              },
              [&] {
                return time_per(operations, [&](std::uint64_t) {
                  shares.word.fetch_add(1);
                  pins.word.fetch_add(1);
                  pins.word.fetch_sub(1);
                  shares.word.fetch_sub(1);
                });
              }},
             rounds);
}

void get_random(Client& client, int rounds, std::uint64_t keys) {
  std::vector<std::string> ids;
  for (std::uint64_t i = 0; i < keys; ++i) ids.push_back("key/" + std::to_string(i));
  const std::vector<char> payload(64);
  std::vector<PutItem> items;
  for (const std::string& id : ids) items.push_back({id, bytes_of(payload)});
  value(client.put_many(items));

  // The keys in the order in which they are asked for lie one after another.
  struct Asked {
    char id[24];
    std::size_t size;
  };
  std::mt19937_64 random(1);
  std::vector<Asked> asked(std::min<std::uint64_t>(keys, 1'000'000));
  for (Asked& one : asked) {
    const std::string& id = ids[random() % keys];
    one.size = id.size();
    std::memcpy(one.id, id.data(), id.size());
  }
  // The floor: a chain of loads through a table as large as the index of so many keys.
  constexpr std::size_t index_bytes_per_key = 64 + 128 + 2 * 64 / 3;
  const std::size_t lines = keys * index_bytes_per_key / 64;
  const WarmShm table(lines * 64);
  {
    std::vector<std::uint32_t> order(lines);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (std::size_t i = 0; i < lines; ++i) {
      const std::uint64_t next = order[(i + 1) % lines];
      std::memcpy(table.data() + std::size_t{order[i]} * 64, &next, 8);
    }
  }
  bench::run({"get + release, random of " + std::to_string(keys) + " keys",
              "one dependent random load",
              [&] {
                return time_per(asked.size(), [&](std::uint64_t i) {
                  const auto view = client.get({asked[i].id, asked[i].size});
                  keep(view);
                });
              },
              [&] {
                std::uint64_t at = 0;
                const double time = time_per(asked.size(), [&](std::uint64_t) {
                  std::memcpy(&at, table.data() + at * 64, 8);
                });
                keep(at);
                return time;
              }},
             rounds);
  // The same in batches, beside one by one.
  std::vector<std::string_view> batch(std::min<std::size_t>(asked.size(), 1000));
  const std::size_t batches = asked.size() / batch.size();
  bench::run({"get_many of " + std::to_string(batch.size()) + ", random of " +
                  std::to_string(keys) + " keys, each",
              "get, one by one, kept as long",
              [&] {
                return time_per(batches, [&](std::uint64_t n) {
                         for (std::size_t i = 0; i < batch.size(); ++i) {
                           const Asked& one = asked[n * batch.size() + i];
                           batch[i] = {one.id, one.size};
                         }
                         const auto views = client.get_many(batch);
                         keep(views);
                       }) /
                       static_cast<double>(batch.size());
              },
              [&] {
                return time_per(batches, [&](std::uint64_t n) {
                         std::vector<Result<View>> views;
                         views.reserve(batch.size());
                         for (std::size_t i = 0; i < batch.size(); ++i) {
                           const Asked& one = asked[n * batch.size() + i];
                           views.push_back(client.get({one.id, one.size}));
                         }
                         keep(views);
                       }) /
                       static_cast<double>(batch.size());
              }},
             rounds);
  value(client.remove("hot"));
  for (const std::string& id : ids) value(client.remove(id));
}

// ------------------------------------------------------------------------------------ small puts

// The other end of the floor: what an epoll loop that only echoes costs.
[[noreturn]] void echo(int socket, std::size_t request_bytes, std::size_t reply_bytes) {
  const int poll = ::epoll_create1(0);
  epoll_event event{};
  event.events = EPOLLIN;
  ::epoll_ctl(poll, EPOLL_CTL_ADD, socket, &event);
  std::vector<char> buffer(std::max(request_bytes, reply_bytes));
  while (true) {
    if (::epoll_wait(poll, &event, 1, -1) != 1) continue;
    if (::recv(socket, buffer.data(), buffer.size(), 0) <= 0) ::_exit(0);
    if (::send(socket, buffer.data(), reply_bytes, 0) <= 0) ::_exit(0);
  }
}

void put_small(Client& client, int rounds, std::size_t size) {
  constexpr std::uint64_t operations = 5'000;
  const std::vector<char> payload(size, 'x');
  // Identical frame sizes.
  std::vector<std::byte> frame;
  wire::PutRequest request;
  request.segment.id = "small/12345";
  request.segment.size = size;
  request.payload = bytes_of(payload);
  value(wire::encode_request(request, 1, frame));
  const std::size_t request_bytes = frame.size();
  value(wire::encode_reply(wire::PutReply{}, wire::Op::put, 1, frame));
  const std::size_t reply_bytes = frame.size();

  auto ends = value(wire::connected_pair());
  pin_to_first_core(0);
  const pid_t echoer = ::fork();
  if (echoer == 0) {
    ends.first.reset();
    echo(ends.second.get(), request_bytes, reply_bytes);
  }
  ends.second.reset();
  const auto daemon = static_cast<pid_t>(daemon_pid(client));
  pin_to_first_core(daemon);

  std::vector<char> buffer(std::max(request_bytes, reply_bytes));
  const auto far = [] { return std::chrono::steady_clock::now() + std::chrono::seconds(10); };
  bench::run({"put " + std::to_string(size) + " B", "echo of the same frames, same core",
              [&] {
                const double time = time_per(operations, [&](std::uint64_t i) {
                  value(client.put("small/" + std::to_string(i), bytes_of(payload)));
                });
                for (std::uint64_t i = 0; i < operations; ++i)
                  value(client.remove("small/" + std::to_string(i)));
                return time;
              },
              [&] {
                return time_per(operations, [&](std::uint64_t) {
                  const auto bytes = std::as_bytes(std::span(buffer));
                  value(wire::send_frame_by(ends.first.get(), bytes.first(request_bytes), far()));
                  wire::wait_readable(ends.first.get(), far());
                  (void)wire::receive_frame(
                      ends.first.get(), std::as_writable_bytes(std::span(buffer)), 0);
                });
              }},
             rounds);
  ends.first.reset();
  ::waitpid(echoer, nullptr, 0);
  pin_to_any_core(0);
  pin_to_any_core(daemon);
}

// ------------------------------------------------------------------------------------ large ones

void put_large(Client& client, int rounds, std::size_t mebibytes) {
  const std::size_t size = mebibytes << 20U;
  const std::vector<char> payload(size, 'x');
  const WarmShm warm(size);
  bench::run({"put " + std::to_string(mebibytes) + " MiB, steady", "memcpy into warm shared memory",
              [&] {
                const double time =
                    time_per(1, [&](std::uint64_t) { value(client.put("large", bytes_of(payload))); });
                value(client.remove("large"));
                return time;
              },
              [&] {
                return time_per(1, [&](std::uint64_t) {
                  std::memcpy(warm.data(), payload.data(), size);
                });
              }},
             rounds);

  if (mebibytes > 64) return;
  std::vector<char> own(size, 'y');
  bench::run({"create, fill, seal " + std::to_string(mebibytes) + " MiB",
              "the same writes into private warm memory",
              [&] {
                const double time = time_per(1, [&](std::uint64_t) {
                  Builder builder = value(client.create("filled", size));
                  std::memset(builder.bytes().data(), 'z', size);
                  value(builder.seal());
                });
                value(client.remove("filled"));
                return time;
              },
              [&] {
                return time_per(1, [&](std::uint64_t) {
                  std::memset(own.data(), 'z', size);
                  keep(own[0]);
                });
              }},
             rounds);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: put_get SOCKET ROUNDS KEYS MEBIBYTES\n");
    return 2;
  }
  ConnectOptions options;
  options.address = argv[1];
  Client client = value(Client::connect(options));
  const int rounds = std::atoi(argv[2]);
  get_hot(client, rounds);
  get_random(client, rounds, std::strtoull(argv[3], nullptr, 10));
  put_small(client, rounds, 64);
  put_small(client, rounds, 4096);
  const std::size_t mebibytes = std::strtoull(argv[4], nullptr, 10);
  put_large(client, rounds, mebibytes);
  if (mebibytes >= 64) put_large(client, rounds, 1024);
}
