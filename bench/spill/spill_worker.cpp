// SPDX-License-Identifier: Apache-2.0
// What spilling costs, against a plain TCP stream between two processes, in a daemon and a pool
// that run already. Each figure and its floor are measured in turn, round by round; prints one JSON
// object a row, with all samples. bench/spill/run.py starts it.
//
//   spill_worker SOCKET POOL KEY_FILE TRANSPORT DAEMON_PID POOL_PID ROUNDS MEBIBYTES
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>
#include <random>
#include <semaphore>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "bench/harness.h"
#include "spill/backends.h"
#include "spill/pool/pool_tier.h"
#include "spill/stack/tier_stack.h"
#include "store/client.h"

namespace {

using namespace forebay;
using bench::value;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;
constexpr std::size_t small = 4 * kib;
constexpr auto patience = std::chrono::seconds(60);

void must(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::_Exit(1);
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double gigabytes(std::size_t bytes) { return static_cast<double>(bytes) / 1e9; }

// The rank that `share` of the values do not exceed.
double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const auto rank = static_cast<std::size_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(rank),
                   values.end());
  return values[rank];
}

// --- the plain stream ---

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

std::span<std::byte> faulted(std::size_t size) {
  void* const start = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  must(start != MAP_FAILED, "mmap");
  std::memset(start, 0x5a, size);
  return {static_cast<std::byte*>(start), size};
}

// A process at the other end, and memory at both.
class Stream {
 public:
  explicit Stream(std::size_t bytes) {
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
    must(child >= 0, "fork");
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const auto memory = faulted(bytes);
      const int socket = ::accept(listener, nullptr, nullptr);
      must(socket >= 0, "accept");
      ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      serve(socket, memory);
      std::_Exit(0);
    }
    ::clock_getcpuclockid(child, &other_end_);
    socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(::connect(socket_, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0, "connect");
    ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ::close(listener);
    memory_ = faulted(bytes);
  }

  void write(std::size_t size, std::size_t count) {
    ask('w', size, count);
    for (std::size_t i = 0; i < count; ++i) send_all(socket_, piece(size));
    std::byte done{};
    must(receive_all(socket_, {&done, 1}), "recv");
  }
  void read(std::size_t size, std::size_t count) {
    ask('r', size, count);
    for (std::size_t i = 0; i < count; ++i) must(receive_all(socket_, piece(size)), "recv");
  }
  clockid_t other_end() const { return other_end_; }

 private:
  struct Request {
    char what = 0;  // 'w': so many pieces come; 'r': so many are wanted
    std::size_t size = 0;
    std::size_t count = 0;
  };
  static void serve(int socket, std::span<std::byte> memory) {
    Request request;
    std::size_t at = 0;
    while (receive_all(socket, std::as_writable_bytes(std::span(&request, 1)))) {
      for (std::size_t i = 0; i < request.count; ++i) {
        if (at + request.size > memory.size()) at = 0;
        const auto piece = memory.subspan(std::exchange(at, at + request.size), request.size);
        if (request.what == 'w')
          must(receive_all(socket, piece), "recv");
        else
          send_all(socket, piece);
      }
      if (request.what == 'w') send_all(socket, memory.first(1));
    }
  }
  void ask(char what, std::size_t size, std::size_t count) {
    const Request request{what, size, count};
    send_all(socket_, std::as_bytes(std::span(&request, 1)));
  }
  std::span<std::byte> piece(std::size_t size) {
    if (at_ + size > memory_.size()) at_ = 0;
    return memory_.subspan(std::exchange(at_, at_ + size), size);
  }

  int socket_ = -1;
  clockid_t other_end_{};
  std::span<std::byte> memory_;
  std::size_t at_ = 0;
};

// --- processor time ---

class ProcessorTime {
 public:
  explicit ProcessorTime(std::vector<clockid_t> of) : of_(std::move(of)) {}
  static clockid_t of(pid_t process) {
    clockid_t clock{};
    must(::clock_getcpuclockid(process, &clock) == 0, "the processor time of a process");
    return clock;
  }
  double seconds() const {
    double sum = 0;
    for (const clockid_t clock : of_) {
      timespec time{};
      ::clock_gettime(clock, &time);
      sum += static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    }
    return sum;
  }

 private:
  std::vector<clockid_t> of_;
};

// --- rows ---

struct Row {
  std::string name;
  std::string unit;
  std::string floor_name;
  std::vector<double> ours = {};
  std::vector<double> floor = {};

  void add(double ours_now, double floor_now) {
    ours.push_back(ours_now);
    floor.push_back(floor_now);
  }
  // The first round warms up, and is not said.
  void print() const {
    const auto list = [](const std::vector<double>& samples) {
      std::string text;
      for (std::size_t i = samples.size() > 1 ? 1 : 0; i < samples.size(); ++i) {
        char number[32];
        std::snprintf(number, sizeof number, "%s%.6g", text.empty() ? "" : ", ", samples[i]);
        text += number;
      }
      return text;
    };
    std::printf("{\"name\": \"%s\", \"unit\": \"%s\", \"floor_name\": \"%s\", \"ours\": [%s], "
                "\"floor\": [%s]}\n",
                name.c_str(), unit.c_str(), floor_name.c_str(), list(ours).c_str(),
                list(floor).c_str());
    std::fflush(stdout);
  }
};

struct Setting {
  std::string socket, pool, key_file, transport;
  pid_t daemon = 0;
  pid_t pool_process = 0;
  int rounds = 0;
  std::size_t total = 0;  // bytes moved in each sample
};

// Segments of one size, all under one prefix.
class Segments {
 public:
  Segments(Client& client, std::string prefix, std::size_t size, std::size_t count)
      : client_(client), prefix_(std::move(prefix)), size_(size), bytes_(size) {
    std::mt19937_64 random(size);
    for (std::size_t at = 0; at + 8 <= size; at += 8) {
      const std::uint64_t word = random();
      std::memcpy(bytes_.data() + at, &word, 8);
    }
    for (std::size_t i = 0; i < count; ++i) ids_.push_back(prefix_ + std::to_string(i));
    for (const std::string& id : ids_) names_.push_back({.id = id});
  }
  ~Segments() { remove(); }
  Segments(const Segments&) = delete;
  Segments& operator=(const Segments&) = delete;

  void put() {
    for (const std::string& id : ids_) value(client_.put(id, bytes_, {.timeout = patience}));
  }
  void spill() const { value(client_.spill(names_, patience)); }
  void restore() const { value(client_.restore(names_, patience)); }
  void get(std::size_t i) const {
    const auto view = value(client_.get(ids_[i]));
    must(view.bytes().size() == size_ && view.bytes()[size_ - 1] == bytes_[size_ - 1],
         "a segment has its bytes");
  }
  void remove() { value(client_.remove_prefix(prefix_)); }
  std::size_t count() const { return ids_.size(); }
  std::size_t bytes() const { return ids_.size() * size_; }

 private:
  Client& client_;
  std::string prefix_;
  std::size_t size_;
  std::vector<std::byte> bytes_;
  std::vector<std::string> ids_;
  std::vector<SegmentName> names_;
};

// The store's memory as it is after a while of use: each page has been written to.
void touch_all(Client& client, std::size_t bytes) {
  Segments all(client, "touch/", 16 * mib, bytes / (16 * mib));
  all.put();
}

class Bench {
 public:
  explicit Bench(const Setting& setting)
      : setting_(setting),
        stream_(std::min<std::size_t>(setting.total, 256 * mib)),
        client_(value(Client::connect({.address = setting.socket, .timeout = patience}))),
        both_ends_({ProcessorTime::of(setting.daemon), ProcessorTime::of(setting.pool_process)}),
        stream_ends_({CLOCK_PROCESS_CPUTIME_ID, stream_.other_end()}) {}

  void run() {
    idle();
    touch_all(client_, 3 * setting_.total);
    for (const std::size_t size : {mib, 4 * mib, 16 * mib}) bandwidth(size);
    small_fetch();
    tier_level();
    while_spilling();
  }

 private:
  void idle() {
    Row row{"processor time of daemon and pool, idle", "percent", ""};
    const double seconds = setting_.total >= 128 * mib ? 1.0 : 0.3;
    for (int round = 0; round <= setting_.rounds; ++round) {
      const double before = both_ends_.seconds();
      const auto start = Clock::now();
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
      row.ours.push_back(100 * (both_ends_.seconds() - before) / seconds_since(start));
    }
    row.print();
  }

  void bandwidth(std::size_t size) {
    const std::size_t count = std::max<std::size_t>(setting_.total / size, 1);
    const std::string what = std::to_string(size / mib) + " MiB";
    Row spill{"spill of " + what, "GB/s", "TCP stream"};
    Row restore{"restore of " + what, "GB/s", "TCP stream"};
    Row spill_time{"processor time of both ends, spill of " + what, "s/GB", "TCP stream"};
    Row restore_time{"processor time of both ends, restore of " + what, "s/GB", "TCP stream"};
    Segments segments(client_, "b/", size, count);
    const double volume = gigabytes(segments.bytes());
    const auto measure = [&](Row& speed, Row& time, auto&& ours, auto&& floor) {
      double seconds[2], used[2];
      const auto one = [&](int which, const ProcessorTime& clock, auto&& body) {
        const double before = clock.seconds();
        const auto start = Clock::now();
        body();
        seconds[which] = seconds_since(start);
        used[which] = clock.seconds() - before;
      };
      one(1, stream_ends_, floor);
      one(0, both_ends_, ours);
      speed.add(volume / seconds[0], volume / seconds[1]);
      time.add(used[0] / volume, used[1] / volume);
    };
    for (int round = 0; round <= setting_.rounds; ++round) {
      segments.put();
      measure(spill, spill_time, [&] { segments.spill(); }, [&] { stream_.write(size, count); });
      measure(restore, restore_time, [&] { segments.restore(); },
              [&] { stream_.read(size, count); });
      segments.remove();
    }
    for (const Row* row : {&spill, &restore, &spill_time, &restore_time}) row->print();
  }

  double request_reply() {
    std::vector<double> each;
    for (std::size_t i = 0; i < fetches(); ++i) {
      const auto start = Clock::now();
      stream_.read(small, 1);
      each.push_back(1e6 * seconds_since(start));
    }
    return quantile(std::move(each), 0.5);
  }
  std::size_t fetches() const { return setting_.total >= 128 * mib ? 2000 : 200; }

  void small_fetch() {
    Row row{"get of a spilled 4 KiB, p50", "us", "TCP request and reply of 4 KiB"};
    Row packed{"spill of 4 KiB each, one call", "objects/s", ""};
    Segments segments(client_, "s/", small, fetches());
    for (int round = 0; round <= setting_.rounds; ++round) {
      segments.put();
      const auto begun = Clock::now();
      segments.spill();
      packed.ours.push_back(static_cast<double>(segments.count()) / seconds_since(begun));
      const double floor = request_reply();
      std::vector<double> each;
      for (std::size_t i = 0; i < segments.count(); ++i) {
        const auto start = Clock::now();
        segments.get(i);
        each.push_back(1e6 * seconds_since(start));
      }
      row.add(quantile(std::move(each), 0.5), floor);
      segments.remove();
    }
    row.print();
    packed.print();
  }

  std::unique_ptr<spill::TierStack> stack(std::uint8_t store, std::uint64_t pack_below) const {
    spill::PoolTierOptions pool;
    pool.address = setting_.pool;
    pool.key_file = setting_.key_file;
    pool.store.fill(store);
    for (auto& backend : spill::all_backends())
      if (setting_.transport == "auto" || setting_.transport == backend.transport)
        pool.backends.push_back(std::move(backend));
    auto tier = value(spill::PoolTier::start(std::move(pool)));
    value(tier->wait_until_up(Clock::now() + std::chrono::seconds(10)));
    std::vector<spill::StackTier> tiers;
    tiers.push_back({std::move(tier), spill::TierKind::pool, 1});
    spill::StackOptions options;
    options.store.fill(store);
    options.pack_below_bytes = pack_below;
    auto made = std::make_unique<spill::TierStack>(std::move(tiers), options);
    made->adopt({});
    return made;
  }

  // The places of `count` objects, put with at most `at_once` open.
  std::vector<SpillPlace> put_all(Spill& spill, std::span<const std::byte> memory,
                                  std::size_t count) {
    constexpr std::ptrdiff_t at_once = 1024;
    std::counting_semaphore<at_once> free(at_once);
    std::vector<SpillPlace> places(count);
    for (std::size_t i = 0; i < count; ++i) {
      free.acquire();
      SpillSource source;
      source.serial = ++serial_;
      source.bytes = memory.subspan(i * small, small);
      spill.put(std::move(source), Clock::now() + patience, [&, i](Result<SpillPlace> place) {
        places[i] = value(std::move(place));
        free.release();
      });
    }
    for (std::ptrdiff_t i = 0; i < at_once; ++i) free.acquire();
    return places;
  }

  // Without the daemon.
  void tier_level() {
    const auto packing = stack(0xa1, 64 * kib);
    const auto single = stack(0xa2, 0);
    const std::size_t count = setting_.total >= 128 * mib ? 8192 : 1024;
    const auto memory = faulted(count * small);
    Row rate{"4 KiB objects in packs", "objects/s", "one operation each"};
    Row fetch{"fetch of 4 KiB without the daemon, p50", "us", "TCP request and reply of 4 KiB"};
    for (int round = 0; round <= setting_.rounds; ++round) {
      double seconds[2];
      std::vector<SpillPlace> places[2];
      for (const int which : {1, 0}) {
        const auto start = Clock::now();
        places[which] = put_all(which == 0 ? *packing : *single, memory, count);
        seconds[which] = seconds_since(start);
      }
      rate.add(static_cast<double>(count) / seconds[0], static_cast<double>(count) / seconds[1]);
      const double floor = request_reply();
      std::vector<double> each;
      for (std::size_t i = 0; i < std::min(count, fetches()); ++i) {
        const auto start = Clock::now();
        std::binary_semaphore done(0);
        single->get(places[1][i], memory.subspan(i * small, small), TierPriority::demand,
                    start + patience, [&](Result<void> outcome) {
                      value(std::move(outcome));
                      done.release();
                    });
        done.acquire();
        each.push_back(1e6 * seconds_since(start));
      }
      fetch.add(quantile(std::move(each), 0.5), floor);
      for (const int which : {0, 1}) {
        Spill& spill = which == 0 ? static_cast<Spill&>(*packing) : *single;
        for (const SpillPlace& place : places[which]) spill.forget(place);
        spill.settle(Clock::now() + patience);
      }
    }
    rate.print();
    fetch.print();
  }

  // Nanoseconds of calls of `get`, as long as `go` says.
  template <class Get, class Go>
  double p99(Get&& get, Go&& go) {
    // To the nanosecond, and for few enough of them to stay out of the way of what is measured.
    static std::array<std::uint32_t, 8192> histogram;
    histogram.fill(0);
    std::uint64_t all = 0;
    while (go())
      for (int i = 0; i < 64; ++i) {
        const auto start = Clock::now();
        get();
        const auto took = static_cast<std::size_t>((Clock::now() - start).count());
        ++histogram[std::min(took, histogram.size() - 1)];
        ++all;
      }
    std::uint64_t below = 0;
    for (std::size_t i = 0; i < histogram.size(); ++i)
      if ((below += histogram[i]) >= all - all / 100) return static_cast<double>(i);
    return 0;
  }

  // Runs `body`, which is told whether that goes on, while the load is spilled. GB/s of the spill.
  template <class Body>
  double spilling(Segments& load, Body&& body) {
    load.put();
    std::atomic<bool> goes_on = true;
    double seconds = 0;
    std::thread thread([&] {
      const auto start = Clock::now();
      load.spill();
      seconds = seconds_since(start);
      goes_on = false;
    });
    body(goes_on);
    thread.join();
    load.remove();
    return gigabytes(load.bytes()) / seconds;
  }

  void while_spilling() {
    constexpr std::size_t size = 4 * mib;
    Segments load(client_, "l/", size, std::max<std::size_t>(2 * setting_.total / size, 1));
    Row fetch{"get of a spilled 4 KiB during a spill, p99", "us", "the same, idle"};
    Row rate{"rate of that spill", "GB/s", "the same with nobody else"};
    Segments cold(client_, "c/", small, 2 * fetches());
    for (int round = 0; round <= setting_.rounds; ++round) {
      cold.put();
      cold.spill();
      std::size_t next = 0;
      const auto timed = [&](const auto& goes_on, std::size_t end) {
        std::vector<double> each;
        while (goes_on && next < end) {
          const auto start = Clock::now();
          cold.get(next++);
          each.push_back(1e6 * seconds_since(start));
        }
        return quantile(std::move(each), 0.99);
      };
      const double idle = timed(true, cold.count() / 2);
      double busy = 0;
      const double ours = spilling(load, [&](const auto& on) { busy = timed(on, cold.count()); });
      fetch.add(busy, idle);
      rate.add(ours, spilling(load, [](const auto&) {}));
      cold.remove();
    }
    fetch.print();
    rate.print();

    Segments warm(client_, "w/", small, setting_.total >= 128 * mib ? 16384 : 256);
    warm.put();
    std::vector<std::string> ids;
    for (std::size_t i = 0; i < warm.count(); ++i) ids.push_back("w/" + std::to_string(i));
    std::shuffle(ids.begin(), ids.end(), std::mt19937_64(1));
    const auto compare = [&](const char* name, auto&& get) {
      Row row{name, "ns", "the same, idle"};
      const auto length = std::chrono::milliseconds(setting_.total >= 128 * mib ? 250 : 20);
      for (int round = 0; round <= setting_.rounds; ++round) {
        const auto end = Clock::now() + length;
        const double idle = p99(get, [&] { return Clock::now() < end; });
        double busy = 0;
        spilling(load, [&](const auto& on) { busy = p99(get, [&] { return on.load(); }); });
        row.add(busy, idle);
      }
      row.print();
    };
    std::size_t at = 0;
    const auto get = [&] {
      const auto view = client_.get(ids[at]);
      bench::keep(view);
    };
    compare("get of a hot resident segment during a spill, p99", get);
    compare("get of a random resident segment during a spill, p99", [&] {
      if (++at == ids.size()) at = 0;
      get();
    });
    // What memory alone makes of such a get: a bucket, an entry and a count are three lines, each
    // found through the one before, of about as many as there are of these segments.
    struct alignas(64) Line {
      std::uint32_t next = 0;
    };
    std::vector<Line> lines(3 * ids.size());
    std::vector<std::uint32_t> order(lines.size());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(2));
    for (std::size_t i = 0; i < order.size(); ++i)
      lines[order[i]].next = order[(i + 1) % order.size()];
    std::uint32_t line = 0;
    compare("three random loads instead of that get, p99", [&] {
      for (int step = 0; step < 3; ++step) line = lines[line].next;
      bench::keep(line);
    });
  }

  const Setting setting_;
  Stream stream_;  // before all that makes threads: it forks
  Client client_;
  ProcessorTime both_ends_;
  ProcessorTime stream_ends_;
  std::uint64_t serial_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 9) {
    std::fprintf(stderr, "usage: %s SOCKET POOL KEY_FILE TRANSPORT DAEMON_PID POOL_PID ROUNDS "
                         "MEBIBYTES\n", argv[0]);
    return 2;
  }
  Bench({.socket = argv[1],
         .pool = argv[2],
         .key_file = argv[3],
         .transport = argv[4],
         .daemon = std::atoi(argv[5]),
         .pool_process = std::atoi(argv[6]),
         .rounds = std::atoi(argv[7]),
         .total = std::strtoull(argv[8], nullptr, 10) * mib})
      .run();
}
