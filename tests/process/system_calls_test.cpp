// SPDX-License-Identifier: Apache-2.0
// That reading costs no system call, and so no message: each one that a process makes is counted.
#include <doctest/doctest.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

constexpr std::uint64_t ids = 300;
constexpr std::uint64_t rounds = 20;

std::string id_of(std::uint64_t i) { return "s/" + std::to_string(i); }
std::string long_id(std::uint64_t i) { return std::string(200, 'l') + std::to_string(i); }
std::size_t size_of(std::uint64_t i) { return i % 3 == 0 ? 0 : i % 3 == 1 ? 100 + i : 70'000 + i; }

// The process under count marks the beginning and the end of a window by a system call that means
// nothing to the system.
constexpr long marker = SYS_getpgid;
constexpr long marked = 0x464f5245;

// Counts what the process does between them. The calls themselves are not counted.
template <class Body>
void window(long number, Body&& body) {
  (void)::syscall(marker, marked, number);
  body();
  (void)::syscall(marker, marked, 0L);
}

// How often each system call was made in each window, by its number.
using Counts = std::map<long, std::map<long, std::uint64_t>>;

struct Counted {
  Counts windows;
  int end = 0;  // exit status, or minus the signal
  std::uint64_t in(long number) const {
    std::uint64_t sum = 0;
    const auto found = windows.find(number);
    if (found == windows.end()) throw std::runtime_error("there was no such window");
    for (const auto& [call, count] : found->second) sum += count;
    return sum;
  }
  std::uint64_t in(long number, long call) const {
    const auto& calls = windows.at(number);
    const auto found = calls.find(call);
    return found == calls.end() ? 0 : found->second;
  }
  // Which they were, for people.
  std::string shown(long number) const {
    std::string text;
    for (const auto& [call, count] : windows.at(number))
      text += "system call " + std::to_string(call) + ": " + std::to_string(count) + " times\n";
    return text;
  }
};

// Runs `body` in a child under ptrace, which stops it at the beginning and end of each system call.
Counted count_system_calls(const std::function<void()>& body) {
  ChildProcess child([&](Moments&) {
    require(::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0, "cannot be traced");
    ::raise(SIGSTOP);
    body();
  });
  const pid_t pid = child.pid();
  Counted counted;
  long open = 0;
  int status = 0;
  bool first = true;
  while (true) {
    if (::waitpid(pid, &status, 0) != pid) throw std::runtime_error("cannot wait for a child");
    if (!WIFSTOPPED(status)) break;
    int signal = WSTOPSIG(status);
    if (first) {
      if (::ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) != 0)
        throw std::runtime_error("cannot trace a child");
      first = false;
      signal = 0;
    } else if (signal == (SIGTRAP | 0x80)) {
      signal = 0;
      __ptrace_syscall_info info{};
      ::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info);
      if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        const auto call = static_cast<long>(info.entry.nr);
        if (call == marker && static_cast<long>(info.entry.args[0]) == marked) {
          open = static_cast<long>(info.entry.args[1]);
          if (open != 0) counted.windows[open];
        } else if (open != 0) {
          ++counted.windows[open][call];
        }
      }
    }
    if (::ptrace(PTRACE_SYSCALL, pid, nullptr, signal) != 0)
      throw std::runtime_error("cannot go on with a child");
  }
  counted.end = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return counted;
}

void put_all(Client& client) {
  for (std::uint64_t i = 0; i < ids; ++i) {
    for (std::uint64_t version = 1; version <= 2; ++version)
      must(client.put(id_of(i), payload(size_of(i), id_of(i), version)));
    must(client.put(long_id(i), payload(100, long_id(i), 1)));
  }
}

// Every way of finding a resident segment.
struct Reader {
  const Client& client;
  std::vector<std::string> newest;
  std::vector<std::string> longer;
  std::vector<std::string> absent;
  std::vector<Ref> refs;
  std::vector<Ref> stale;
  std::uint64_t sum = 0;

  explicit Reader(const Client& reading) : client(reading) {
    for (std::uint64_t i = 0; i < ids; ++i) {
      newest.push_back(id_of(i));
      longer.push_back(long_id(i));
      absent.push_back("absent/" + std::to_string(i));
      refs.push_back(must(client.get(id_of(i), {.version = 1 + i % 2})).ref());
      stale.push_back(refs.back());
      stale.back().serial += 1'000'000;
    }
  }

  void touch(const View& view) {
    for (const std::byte byte : view.bytes().first(std::min<std::size_t>(1, view.bytes().size())))
      sum += static_cast<std::uint64_t>(byte);
  }
  void touch(const Result<View>& view) { touch(must_have(view)); }
  static const View& must_have(const Result<View>& view) {
    require(view.has_value(), "a get failed");
    return *view;
  }

  void by_id() {
    for (std::uint64_t round = 0; round < rounds; ++round)
      for (std::uint64_t i = 0; i < ids; ++i) {
        touch(client.get(newest[i]));
        touch(client.get(longer[i]));
        const View view = client.get_resident(newest[i]);
        require(static_cast<bool>(view), "not resident");
        touch(view);
      }
  }
  void by_version() {
    for (std::uint64_t round = 0; round < rounds; ++round)
      for (std::uint64_t i = 0; i < ids; ++i)
        for (std::uint64_t version = 1; version <= 2; ++version) {
          touch(client.get(newest[i], {.version = version}));
          const View view = client.get_resident(newest[i], version);
          require(static_cast<bool>(view) && view.version() == version, "not resident");
        }
  }
  void by_ref() {
    for (std::uint64_t round = 0; round < rounds; ++round)
      for (const Ref& ref : refs) {
        touch(client.get(ref));
        const View view = client.get_resident(ref);
        require(static_cast<bool>(view) && view.serial() == ref.serial, "not resident");
      }
  }
  // With a timeout that is not needed.
  void by_waiting() {
    for (std::uint64_t round = 0; round < rounds; ++round)
      for (std::uint64_t i = 0; i < ids; ++i)
        touch(client.get(newest[i], {.timeout = std::chrono::seconds(5)}));
  }
  void misses() {
    for (std::uint64_t round = 0; round < rounds; ++round)
      for (std::uint64_t i = 0; i < ids; ++i) {
        require(!client.get_resident(absent[i]), "it is there");
        require(!client.get_resident(absent[i], 7), "it is there");
        require(!client.get_resident(newest[i], 3), "it is there");
        require(!client.get_resident(stale[i]), "it is there");
        require(!client.get(absent[i]), "it is there");
      }
  }
  void contains() {
    for (std::uint64_t round = 0; round < rounds; ++round)
      for (std::uint64_t i = 0; i < ids; ++i) {
        require(must(client.contains(newest[i])), "it is not there");
        require(must(client.contains(newest[i], 2)), "it is not there");
        require(!must(client.contains(absent[i])), "it is there");
        require(!must(client.contains(newest[i], 3)), "it is there");
      }
  }
  // All of them at once.
  void many() {
    std::vector<View> views;
    views.reserve(ids);
    for (std::uint64_t round = 0; round < rounds; ++round) {
      for (std::uint64_t i = 0; i < ids; ++i) views.push_back(must(client.get(newest[i])));
      for (View& view : views) view.release();
      views.clear();
    }
  }
};

TEST_SUITE("system calls") {
  TEST_CASE("gets of resident segments and their releases make no system call") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_all(client);
    enum Window : long { by_id = 1, by_version, by_ref, by_waiting, misses, contains, many, put,
                         looked, waited };
    const Counted counted = count_system_calls([&] {
      Client own = daemon.connect();
      Reader reader(own);
      const auto all = [&](auto&& each) {
        each(by_id, [&] { reader.by_id(); });
        each(by_version, [&] { reader.by_version(); });
        each(by_ref, [&] { reader.by_ref(); });
        each(by_waiting, [&] { reader.by_waiting(); });
        each(misses, [&] { reader.misses(); });
        each(contains, [&] { reader.contains(); });
        each(many, [&] { reader.many(); });
      };
      // Once before: the chunk of the pin table is granted then, and the heap has what it needs.
      all([](Window, auto&& read) { read(); });
      all([](Window number, auto&& read) { window(number, read); });
      window(put, [&] { must(own.put("counted", bytes_of("x"))); });
      window(looked, [&] { must(own.status()); });
      window(waited, [&] {
        (void)own.get("never", {.timeout = std::chrono::milliseconds(1)});
      });
    });
    REQUIRE(counted.end == 0);
    for (const Window number : {by_id, by_version, by_ref, by_waiting, misses, contains, many}) {
      CAPTURE(number);
#ifdef __SANITIZE_ADDRESS__
      // The sanitizer's heap, which an error's text comes from, asks for memory in its own way.
      CHECK_MESSAGE(counted.in(number) == counted.in(number, SYS_mmap), counted.shown(number));
#else
      CHECK_MESSAGE(counted.in(number) == 0, counted.shown(number));
#endif
    }
    // And the counter does count.
    CHECK(counted.in(put) >= 2);
    CHECK(counted.in(put, SYS_sendmsg) == 1);
    CHECK(counted.in(put, SYS_recvmsg) >= 1);
    CHECK(counted.in(looked, SYS_sendmsg) == 1);
    CHECK(counted.in(waited, SYS_sendmsg) >= 1);
    CHECK(outcome(client.get("counted")) == "ok");
  }

  TEST_CASE("the first pin in a new chunk of the pin table makes a call, and no later one does") {
    constexpr std::uint64_t entries = 16384;  // of one chunk
    DaemonProcess daemon;
    Client client = daemon.connect();
    std::vector<std::string> names;
    std::vector<PutItem> items;
    for (std::uint64_t i = 0; i < entries + 500; ++i) names.push_back("n/" + std::to_string(i));
    for (const std::string& name : names) items.push_back({name, bytes_of(name)});
    for (const auto& put : must(client.put_many(items))) must(put);
    enum Window : long { first_chunk = 1, first_again, second_chunk, second_again, both };
    const Counted counted = count_system_calls([&] {
      const Client own = daemon.connect();
      const auto get = [&](std::uint64_t i) {
        const auto view = own.get(names[i]);
        require(view && text_of(view->bytes()) == names[i], "wrong bytes");
      };
      window(first_chunk, [&] { get(5); });
      window(first_again, [&] {
        for (std::uint64_t i = 0; i < 1000; ++i) get(i);
      });
      window(second_chunk, [&] { get(entries + 400); });
      window(second_again, [&] {
        for (std::uint64_t i = entries; i < entries + 500; ++i) get(i);
      });
      window(both, [&] {
        for (std::uint64_t i = 0; i < entries + 500; ++i) get(i);
      });
    });
    REQUIRE(counted.end == 0);
    CHECK(counted.in(first_chunk, SYS_sendmsg) == 1);
    CHECK_MESSAGE(counted.in(first_again) == 0, counted.shown(first_again));
    CHECK(counted.in(second_chunk, SYS_sendmsg) == 1);
    CHECK_MESSAGE(counted.in(second_again) == 0, counted.shown(second_again));
    CHECK_MESSAGE(counted.in(both) == 0, counted.shown(both));
  }

  TEST_CASE("only the last release of a segment that is being removed sends a word") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_all(client);
    enum Window : long { not_the_last = 1, the_last, others };
    const Counted counted = count_system_calls([&] {
      Client own = daemon.connect();
      View one = must(own.get(id_of(1)));
      View two = must(own.get(id_of(1)));
      View other = must(own.get(id_of(2)));
      must(own.remove(id_of(1)));
      window(not_the_last, [&] { one.release(); });
      window(the_last, [&] { two.release(); });
      window(others, [&] { other.release(); });
    });
    REQUIRE(counted.end == 0);
    CHECK_MESSAGE(counted.in(not_the_last) == 0, counted.shown(not_the_last));
    CHECK(counted.in(the_last) == 1);
    CHECK(counted.in(the_last, SYS_sendmsg) == 1);
    CHECK_MESSAGE(counted.in(others) == 0, counted.shown(others));
    CHECK(status_becomes(client, "removing", 0) == 0);
  }

  TEST_CASE("listing and describing what is resident send no message") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_all(client);
    enum Window : long { read = 1 };
    const Counted counted = count_system_calls([&] {
      const Client own = daemon.connect();
      const View view = must(own.get(id_of(1)));
      window(read, [&] {
        for (int i = 0; i < 10; ++i) {
          require(must(own.list("s/")).segments.size() == 2 * ids, "some are not listed");
          require(view.ref().id == id_of(1), "another id");
          require(outcome(view.type()) == "type_mismatch", "it has a type");
        }
      });
    });
    REQUIRE(counted.end == 0);
    // Memory for the answer may be asked of the system; of the daemon nothing is.
    for (const long call : {SYS_sendmsg, SYS_recvmsg, SYS_poll, SYS_sendto, SYS_write, SYS_read})
      CHECK(counted.in(read, call) == 0);
  }
}

}  // namespace
}  // namespace forebay::test
