// SPDX-License-Identifier: Apache-2.0
// What a link over libfabric moves, against a plain TCP stream between the same two processes,
// measured in turn: ratios are of each round, and their medians are printed.
//
//   link [--provider NAME] [--rounds N] [--quick]
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "spill/fabric/factory.h"

namespace {

using namespace forebay;
using Clock = std::chrono::steady_clock;

constexpr std::size_t mib = std::size_t{1} << 20U;

template <class T>
T value(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "link: %s\n", result.error().message().c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(result).value();
}
void must(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::_Exit(1);
}

std::span<std::byte> arena(std::size_t size) {
  void* const start = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  must(start != MAP_FAILED, "mmap");
  std::memset(start, 0x5a, size);
  return {static_cast<std::byte*>(start), size};
}

void send_all(int socket, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    must(sent > 0, "send");
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
}
bool receive_all(int socket, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::recv(socket, bytes.data(), bytes.size(), 0);
    if (got <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

struct Request {
  char what = 0;  // 'w': count pieces come; 'r': count pieces are wanted, one request
  std::size_t size = 0;
  std::size_t count = 0;
};

// The pool's end of the plain stream.
void serve(int socket, std::span<std::byte> slab) {
  Request request;
  std::size_t at = 0;
  const auto next = [&](std::size_t size) {
    if (at + size > slab.size()) at = 0;
    return slab.subspan(std::exchange(at, at + size), size);
  };
  while (receive_all(socket, std::as_writable_bytes(std::span(&request, 1)))) {
    for (std::size_t i = 0; i < request.count; ++i) {
      const auto piece = next(request.size);
      if (request.what == 'w')
        must(receive_all(socket, piece), "recv");
      else
        send_all(socket, piece);
    }
    if (request.what == 'w') send_all(socket, slab.first(1));
  }
}

double processor_seconds(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Sample {
  double seconds = 0;
  double processor = 0;  // of both ends
  std::size_t bytes = 0;
  double gigabytes_per_second() const { return static_cast<double>(bytes) / seconds / 1e9; }
  double processor_per_gigabyte() const { return processor / (static_cast<double>(bytes) / 1e9); }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Bench {
 public:
  Bench(spill::DataLink& link, spill::SlabKey key, int socket, std::span<std::byte> mine,
        std::size_t slab_bytes, pid_t child)
      : link_(link), key_(key), socket_(socket), mine_(mine), slab_bytes_(slab_bytes) {
    ::clock_getcpuclockid(child, &child_clock_);
  }

  Sample fabric(bool writes, std::size_t size, std::size_t total, unsigned depth) {
    return timed(total, [&] {
      to_start_ = to_end_ = total / size;
      writes_ = writes;
      size_ = size;
      for (unsigned i = 0; i < depth; ++i) next();
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return to_end_ == 0; });
    });
  }
  Sample stream(bool writes, std::size_t size, std::size_t total) {
    return timed(total, [&] {
      const Request request{writes ? 'w' : 'r', size, total / size};
      send_all(socket_, std::as_bytes(std::span(&request, 1)));
      for (std::size_t i = 0; i < request.count; ++i)
        if (writes)
          send_all(socket_, piece(size));
        else
          must(receive_all(socket_, piece(size)), "recv");
      std::byte done{};
      if (writes) must(receive_all(socket_, {&done, 1}), "recv");
    });
  }
  // Microseconds, median. Either from a thread that waits for each, or one out of the other's
  // callback.
  double fabric_read_p50(std::size_t size, unsigned count, bool waits) {
    latencies_.clear();
    if (!waits) {
      to_end_ = count;
      chain(size);
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return to_end_ == 0; });
    } else {
      for (unsigned i = 0; i < count; ++i) {
        const auto start = Clock::now();
        bool done = false;
        link_.read(key_, offset(size), piece(size), Clock::now() + std::chrono::seconds(10),
                   [&](Result<void> result) {
                     value(std::move(result));
                     const std::lock_guard lock(mutex_);
                     done = true;
                     changed_.notify_one();
                   });
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return done; });
        latencies_.push_back(since(start));
      }
    }
    return median(latencies_);
  }
  double request_reply_p50(std::size_t size, unsigned count) {
    latencies_.clear();
    const Request request{'r', size, 1};
    for (unsigned i = 0; i < count; ++i) {
      const auto start = Clock::now();
      send_all(socket_, std::as_bytes(std::span(&request, 1)));
      must(receive_all(socket_, piece(size)), "recv");
      latencies_.push_back(since(start));
    }
    return median(latencies_);
  }

 private:
  template <class Body>
  Sample timed(std::size_t total, Body&& body) {
    const double used =
        processor_seconds(CLOCK_PROCESS_CPUTIME_ID) + processor_seconds(child_clock_);
    const auto start = Clock::now();
    body();
    const double seconds = since(start) / 1e6;
    return {seconds,
            processor_seconds(CLOCK_PROCESS_CPUTIME_ID) + processor_seconds(child_clock_) - used,
            total};
  }
  static double since(Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  }
  std::span<std::byte> piece(std::size_t size) {
    if (at_ + size > mine_.size()) at_ = 0;
    return mine_.subspan(std::exchange(at_, at_ + size), size);
  }
  std::uint64_t offset(std::size_t size) {
    if (offset_ + size > slab_bytes_) offset_ = 0;
    return std::exchange(offset_, offset_ + size);
  }
  void next() {
    std::span<std::byte> bytes;
    std::uint64_t to = 0;
    {
      const std::lock_guard lock(mutex_);
      if (to_start_ == 0) return;
      --to_start_;
      bytes = piece(size_);
      to = offset(size_);
    }
    const auto done = [this](Result<void> result) {
      value(std::move(result));
      next();
      const std::lock_guard lock(mutex_);
      if (--to_end_ == 0) changed_.notify_one();
    };
    const auto deadline = Clock::now() + std::chrono::seconds(30);
    if (writes_)
      link_.write(key_, to, {bytes}, deadline, done);
    else
      link_.read(key_, to, bytes, deadline, done);
  }
  void chain(std::size_t size) {
    const auto start = Clock::now();
    link_.read(key_, offset(size), piece(size), start + std::chrono::seconds(10),
               [this, start, size](Result<void> result) {
                 value(std::move(result));
                 latencies_.push_back(since(start));
                 {
                   const std::lock_guard lock(mutex_);
                   if (--to_end_ == 0) return changed_.notify_one();
                 }
                 chain(size);
               });
  }

  spill::DataLink& link_;
  spill::SlabKey key_;
  int socket_;
  std::span<std::byte> mine_;
  std::size_t slab_bytes_;
  clockid_t child_clock_{};
  std::size_t at_ = 0;
  std::uint64_t offset_ = 0;
  bool writes_ = false;
  std::size_t size_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t to_start_ = 0;
  std::size_t to_end_ = 0;
  std::vector<double> latencies_;
};

struct Facts {
  spill::SlabKey key;
  char transport[64] = {};
  std::size_t address_size = 0;
  std::byte address[1024] = {};
};

}  // namespace

int main(int argc, char** argv) {
  std::string provider;
  int rounds = 9;
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--quick") quick = true;
    if (option == "--provider" && i + 1 < argc) provider = argv[++i];
    if (option == "--rounds" && i + 1 < argc) rounds = std::atoi(argv[++i]);
  }
  if (quick) rounds = 1;
  const std::size_t arena_bytes = quick ? 16 * mib : 512 * mib;
  const std::size_t total = quick ? 32 * mib : 1024 * mib;
  const unsigned reads = quick ? 100 : 4000;

  int facts_pipe[2];
  must(::pipe(facts_pipe) == 0, "pipe");
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof where;
  must(::bind(listener, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0, "bind");
  must(::listen(listener, 1) == 0, "listen");
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&where), &length);

  const int one = 1;
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const auto slab = arena(arena_bytes);
    auto server = value(spill::make_fabric_server({.provider = provider}));
    Facts facts;
    facts.key = value(server->expose(slab, spill::SlabAccess::read_write));
    const auto address = server->address();
    facts.address_size = address.size();
    std::memcpy(facts.address, address.data(), address.size());
    std::strncpy(facts.transport, server->transport().c_str(), sizeof facts.transport - 1);
    must(::write(facts_pipe[1], &facts, sizeof facts) == sizeof facts, "write");
    const int socket = ::accept(listener, nullptr, nullptr);
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    serve(socket, slab);
    server.reset();
    std::_Exit(0);
  }
  ::close(facts_pipe[1]);
  Facts facts;
  must(::read(facts_pipe[0], &facts, sizeof facts) == sizeof facts, "the server's process");
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  must(::connect(socket, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0, "connect");
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  const auto mine = arena(arena_bytes);
  const std::span<const std::byte> address(facts.address, facts.address_size);
  for (const std::size_t chunk : {mib, 4 * mib}) {
    const auto link =
        value(spill::make_fabric_link(facts.transport, address, {.chunk_bytes = chunk}));
    Bench bench(*link, facts.key, socket, mine, arena_bytes, child);
    for (const bool writes : {true, false}) {
      std::vector<double> ours, floor, ratio, our_processor, floor_processor;
      for (int round = -1; round < rounds; ++round) {
        const Sample stream = bench.stream(writes, chunk, total);
        const Sample fabric = bench.fabric(writes, chunk, total, 4);
        if (round < 0 && !quick) continue;  // warm-up
        ours.push_back(fabric.gigabytes_per_second());
        floor.push_back(stream.gigabytes_per_second());
        ratio.push_back(ours.back() / floor.back());
        our_processor.push_back(fabric.processor_per_gigabyte());
        floor_processor.push_back(stream.processor_per_gigabyte());
      }
      std::printf("%s %s %zu MiB: %.2f GB/s, stream %.2f, ratio %.2f; CPU s/GB %.3f, stream %.3f\n",
                  facts.transport, writes ? "write" : "read", chunk / mib, median(ours),
                  median(floor), median(ratio), median(our_processor), median(floor_processor));
      std::fflush(stdout);
    }
    if (chunk != mib) continue;
    std::vector<double> chained, waiting, floor, chained_ratio, waiting_ratio;
    for (int round = 0; round < rounds; ++round) {
      floor.push_back(bench.request_reply_p50(4096, reads));
      chained.push_back(bench.fabric_read_p50(4096, reads, false));
      waiting.push_back(bench.fabric_read_p50(4096, reads, true));
      chained_ratio.push_back(chained.back() / floor.back());
      waiting_ratio.push_back(waiting.back() / floor.back());
    }
    std::printf("%s read 4 KiB p50: %.1f us from callbacks, %.1f us from a waiting thread, request "
                "and reply %.1f us; ratios %.2f, %.2f\n",
                facts.transport, median(chained), median(waiting), median(floor),
                median(chained_ratio), median(waiting_ratio));
    std::fflush(stdout);
  }
  ::close(socket);
  ::waitpid(child, nullptr, 0);
}
