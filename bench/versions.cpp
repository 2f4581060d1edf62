// SPDX-License-Identifier: Apache-2.0
// The life of versions: wake-ups, batches, taking over, events; each beside its floor.
//
// Usage: versions SOCKET ROUNDS MEBIBYTES
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "bench/harness.h"
#include "bench/warm_shm.h"
#include "store/client.h"
#include "store/wire/codec.h"
#include "store/wire/socket.h"

namespace {

using namespace forebay;
using bench::keep;
using bench::time_per;
using bench::value;

std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

std::uint64_t status(const Client& client, std::string_view name) {
  const std::string text = value(client.status());
  const std::size_t at = text.find(name);
  return std::strtoull(text.c_str() + at + name.size(), nullptr, 10);
}

// What the processes of one measurement share.
constexpr int waiters_max = 64;
struct Board {
  std::atomic<std::uint64_t> round{0};
  std::atomic<int> woken{0};
  std::array<std::atomic<std::uint64_t>, waiters_max> woken_at{};
};

Board* shared_board() {
  void* const memory = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return new (memory) Board;
}

// ---------------------------------------------------------------------------------------- wake-ups

// Waits for version after version until it is killed.
[[noreturn]] void wait_for_ever(const std::string& socket, Board& board, int number,
                                const std::string& id) {
  ConnectOptions options;
  options.address = socket;
  Client client = value(Client::connect(options));
  for (std::uint64_t version = 1;; ++version) {
    value(client.get(id, {.version = version, .timeout = std::chrono::hours(1)}));
    board.woken_at[static_cast<std::size_t>(number)] = now_ns();
    board.woken.fetch_add(1);
  }
}

class Waiters {
 public:
  Waiters(const std::string& socket, Client& client, int count)
      : client_(client), count_(count), id_("woken/" + std::to_string(count)) {
    for (int i = 0; i < count; ++i) {
      const pid_t pid = ::fork();
      if (pid == 0) wait_for_ever(socket, *board_, i, id_);
      pids_.push_back(pid);
    }
  }
  ~Waiters() {
    for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
    for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
    value(client_.remove(id_));
  }
  // From the seal to the moment at which the last of them goes on.
  double wake() {
    while (status(client_, "\nwaiters ") < static_cast<std::uint64_t>(count_)) ::usleep(200);
    ::usleep(1000);  // asleep, all of them
    board_->woken = 0;
    const std::uint64_t start = now_ns();
    value(client_.put(id_, std::span<const std::byte>(payload_)));
    while (board_->woken < count_) ::usleep(50);
    std::uint64_t last = 0;
    for (int i = 0; i < count_; ++i)
      last = std::max(last, board_->woken_at[static_cast<std::size_t>(i)].load());
    return static_cast<double>(last - start);
  }
  double median_wake() {
    std::vector<double> times;
    for (int i = 0; i < 15; ++i) times.push_back(wake());
    std::nth_element(times.begin(), times.begin() + 7, times.end());
    return times[7];
  }

 private:
  Client& client_;
  int count_;
  std::string id_;
  Board* board_ = shared_board();
  std::vector<pid_t> pids_;
  std::vector<std::byte> payload_ = std::vector<std::byte>(64);
};

// The floor: what A sends goes through an epoll loop B, which answers A and tells C.
class Relay {
 public:
  Relay() {
    std::vector<std::byte> frame;
    wire::PutRequest request;
    const std::vector<std::byte> payload(64);
    request.segment.id = "woken/1";
    request.segment.size = payload.size();
    request.payload = payload;
    value(wire::encode_request(request, 1, frame));
    request_bytes_ = frame.size();
    value(wire::encode_reply(wire::Empty{}, wire::Op::await, 1, frame));
    told_bytes_ = frame.size();
    value(wire::encode_reply(wire::PutReply{}, wire::Op::put, 1, frame));
    reply_bytes_ = frame.size();
    ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, a_);
    ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, c_);
    b_pid_ = ::fork();
    if (b_pid_ == 0) relay();
    c_pid_ = ::fork();
    if (c_pid_ == 0) listen();
  }
  ~Relay() {
    ::kill(b_pid_, SIGKILL);
    ::kill(c_pid_, SIGKILL);
    ::waitpid(b_pid_, nullptr, 0);
    ::waitpid(c_pid_, nullptr, 0);
  }
  double median_wake() {
    std::vector<double> times;
    for (int i = 0; i < 15; ++i) {
      ::usleep(1000);
      board_->woken = 0;
      std::vector<char> buffer(request_bytes_ + reply_bytes_);
      const std::uint64_t start = now_ns();
      (void)!::send(a_[0], buffer.data(), request_bytes_, 0);
      (void)!::recv(a_[0], buffer.data(), buffer.size(), 0);
      while (board_->woken < 1) ::usleep(50);
      times.push_back(static_cast<double>(board_->woken_at[0] - start));
    }
    std::nth_element(times.begin(), times.begin() + 7, times.end());
    return times[7];
  }

 private:
  [[noreturn]] void relay() {
    const int poll = ::epoll_create1(0);
    epoll_event event{};
    event.events = EPOLLIN;
    ::epoll_ctl(poll, EPOLL_CTL_ADD, a_[1], &event);
    std::vector<char> buffer(4096);
    while (true) {
      if (::epoll_wait(poll, &event, 1, -1) != 1) continue;
      if (::recv(a_[1], buffer.data(), buffer.size(), 0) <= 0) ::_exit(0);
      (void)!::send(c_[0], buffer.data(), told_bytes_, 0);
      (void)!::send(a_[1], buffer.data(), reply_bytes_, 0);
    }
  }
  [[noreturn]] void listen() {
    std::vector<char> buffer(4096);
    while (::recv(c_[1], buffer.data(), buffer.size(), 0) > 0) {
      board_->woken_at[0] = now_ns();
      board_->woken.fetch_add(1);
    }
    ::_exit(0);
  }

  std::size_t request_bytes_ = 0;
  std::size_t told_bytes_ = 0;
  std::size_t reply_bytes_ = 0;
  int a_[2] = {-1, -1};
  int c_[2] = {-1, -1};
  pid_t b_pid_ = 0;
  pid_t c_pid_ = 0;
  Board* board_ = shared_board();
};

void wake_ups(const std::string& socket, Client& client, int rounds) {
  {
    Waiters one(socket, client, 1);
    Relay relay;
    bench::run({"one waiter woken by a seal", "relay A to B to C over sockets",
                [&] { return one.median_wake(); }, [&] { return relay.median_wake(); }},
               rounds);
  }
  // One kind at a time: who waits is counted.
  const auto measure = [&](int count) {
    Waiters waiters(socket, client, count);
    return waiters.median_wake() / count;
  };
  bench::run({"the last of 64 waiters woken by a seal, each", "the one waiter",
              [&] { return measure(waiters_max); }, [&] { return measure(1); }},
             rounds);
}

// ----------------------------------------------------------------------------------------- batches

void batches(Client& client, int rounds) {
  constexpr std::size_t count = 1000;
  const std::vector<std::byte> payload(64);
  std::vector<std::string> ids;
  std::vector<std::string_view> views;
  std::vector<PutItem> items;
  for (std::size_t i = 0; i < count; ++i) ids.push_back("batch/" + std::to_string(i));
  for (const std::string& id : ids) {
    views.push_back(id);
    items.push_back({id, payload});
  }
  constexpr std::uint64_t times = 20;
  bench::run({"put_many of 1000 x 64 B, each", "put, one by one",
              [&] {
                double time = 0;
                for (std::uint64_t i = 0; i < times; ++i) {
                  time += time_per(1, [&](std::uint64_t) { keep(value(client.put_many(items))); });
                  keep(value(client.remove_many(views)));
                }
                return time / times / count;
              },
              [&] {
                const double time = time_per(count, [&](std::uint64_t i) {
                  value(client.put(ids[i], payload));
                });
                keep(value(client.remove_many(views)));
                return time;
              }},
             rounds);
  value(client.put_many(items));
  bench::run({"get_many of 1000 resident, each", "get, one by one",
              [&] {
                return time_per(times, [&](std::uint64_t) { keep(value(client.get_many(views))); }) /
                       count;
              },
              [&] {
                return time_per(times, [&](std::uint64_t) {
                         for (const std::string_view id : views) keep(value(client.get(id)));
                       }) /
                       count;
              }},
             rounds);
  keep(value(client.remove_many(views)));
}

// ------------------------------------------------------------------------------------------- INOUT

void take_over(Client& client, int rounds, std::size_t mebibytes) {
  const std::size_t size = mebibytes << 20U;
  const std::vector<std::byte> payload(size);
  value(client.put("inout", payload));
  const bench::WarmShm warm(size);
  bench::run({"update(take), seal, " + std::to_string(mebibytes) + " MiB", "its mprotect pair",
              [&] {
                return time_per(1, [&](std::uint64_t) {
                  Builder builder = value(client.update("inout", {.take = true}));
                  value(builder.seal());
                });
              },
              [&] {
                return time_per(1, [&](std::uint64_t) {
                  ::mprotect(warm.data(), size, PROT_READ | PROT_WRITE);
                  ::mprotect(warm.data(), size, PROT_READ);
                });
              }},
             rounds);
  std::vector<std::byte> copy(size, std::byte{1});
  bench::run({"update by copy, seal, " + std::to_string(mebibytes) + " MiB", "memcpy, mprotect pair",
              [&] {
                const double time = time_per(1, [&](std::uint64_t) {
                  Builder builder = value(client.update("inout"));
                  value(builder.seal());
                });
                const std::uint64_t newest = value(client.get("inout")).version();
                value(client.remove_before("inout", newest));
                return time;
              },
              [&] {
                ::mprotect(warm.data(), size, PROT_READ | PROT_WRITE);
                return time_per(1, [&](std::uint64_t) {
                  std::memcpy(warm.data(), copy.data(), size);
                  ::mprotect(warm.data(), size, PROT_READ);
                  ::mprotect(warm.data(), size, PROT_READ | PROT_WRITE);
                });
              }},
             rounds);
  value(client.remove("inout"));
}

// ------------------------------------------------------------------------------------------ events

void events(Client& client, int rounds) {
  constexpr std::size_t batch = 1000;
  constexpr std::size_t count = 30 * batch;  // seals, and as many removals
  const std::vector<std::byte> payload(64);
  std::vector<std::string> ids;
  for (std::size_t i = 0; i < batch; ++i) ids.push_back("event/" + std::to_string(i));
  const auto happen = [&] {
    std::vector<PutItem> items;
    std::vector<std::string_view> views;
    for (const std::string& id : ids) {
      items.push_back({id, payload});
      views.push_back(id);
    }
    for (std::size_t done = 0; done < count; done += batch) {
      keep(value(client.put_many(items)));
      keep(value(client.remove_many(views)));
    }
  };
  // What is carried: all of it from the daemon's memory, as fast as a subscriber takes it.
  const auto carry = [&] {
    Subscription before = value(client.subscribe("event/"));
    const EventCursor start = before.cursor();
    happen();
    Subscription after = value(client.subscribe("event/", start));
    std::size_t seen = 0;
    const double time = time_per(1, [&](std::uint64_t) {
      while (seen < 2 * count) seen += value(after.next(std::chrono::seconds(10))).size();
    });
    return time / static_cast<double>(seen);
  };
  // The floor: so many bytes in frames of that size through a socket.
  const auto stream = [&] {
    constexpr std::size_t event_bytes = 52;
    constexpr std::size_t frame_bytes = 128 * 1024;
    const std::size_t frames = 2 * count * event_bytes / frame_bytes;
    int ends[2];
    ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
    const pid_t sender = ::fork();
    std::vector<char> buffer(frame_bytes);
    if (sender == 0) {
      for (std::size_t i = 0; i < frames; ++i) (void)!::send(ends[1], buffer.data(), frame_bytes, 0);
      ::_exit(0);
    }
    const double time = time_per(1, [&](std::uint64_t) {
      for (std::size_t i = 0; i < frames; ++i) (void)!::recv(ends[0], buffer.data(), frame_bytes, 0);
    });
    ::waitpid(sender, nullptr, 0);
    ::close(ends[0]);
    ::close(ends[1]);
    return time / static_cast<double>(2 * count);
  };
  bench::run({"an event, carried to one subscriber", "its bytes through a socket", carry, stream},
             rounds);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: versions SOCKET ROUNDS MEBIBYTES\n");
    return 2;
  }
  const std::string socket = argv[1];
  ConnectOptions options;
  options.address = socket;
  Client client = value(Client::connect(options));
  const int rounds = std::atoi(argv[2]);
  wake_ups(socket, client, rounds);
  batches(client, rounds);
  take_over(client, rounds, std::strtoull(argv[3], nullptr, 10));
  events(client, rounds);
}
