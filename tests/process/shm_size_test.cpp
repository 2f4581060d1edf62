// SPDX-License-Identifier: Apache-2.0
// A /dev/shm that is too small, or that others fill: an error that says what to do, and nobody dies.
// In a mount namespace of the test's own, with a small tmpfs in the place of /dev/shm.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "store/daemon/capacity.h"
#include "store/units.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;

constexpr int not_permitted = 77;

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

void write_file(const std::string& path, const std::string& text) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  (void)!::write(file, text.data(), text.size());
  ::close(file);
}

// A /dev/shm of this process and its children alone.
bool enter_small_shm(const std::string& size) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWNS) != 0) {
    // Who is not root may be it in a user namespace, where that is allowed.
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    write_file("/proc/self/setgroups", "deny");
    write_file("/proc/self/uid_map", std::to_string(uid) + " " + std::to_string(uid) + " 1");
    write_file("/proc/self/gid_map", std::to_string(gid) + " " + std::to_string(gid) + " 1");
  }
  return ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV,
                 ("mode=1777,size=" + size).c_str()) == 0;
}

// Runs `body` with a /dev/shm of that size. False: this system does not permit it, which is said.
bool in_small_shm(const std::string& size, const std::function<void()>& body) {
  ChildProcess child([&](Moments&) {
    if (!enter_small_shm(size)) ::_exit(not_permitted);
    body();
  });
  const int status = child.join();
  if (status == not_permitted) {
    MESSAGE("no mount namespace of one's own is permitted here: not tested");
    return false;
  }
  CHECK(status == 0);
  return true;
}

void require_mentions(const std::string& text, std::initializer_list<std::string> parts) {
  for (const std::string& part : parts)
    require(mentions(text, part), "'" + part + "' is not in: " + text);
}

std::uint64_t free_bytes() {
  struct statvfs status {};
  return ::statvfs("/dev/shm", &status) == 0 ? std::uint64_t{status.f_bfree} * status.f_frsize : 0;
}

// Something else that lies in /dev/shm, and takes all that is left of it.
class Filler {
 public:
  Filler() : file_(::open("/dev/shm/filler", O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    for (std::uint64_t step = mebibyte; step >= 4096; step /= 2)
      while (::posix_fallocate(file_, size_, static_cast<off_t>(step)) == 0)
        size_ += static_cast<off_t>(step);
  }
  ~Filler() { empty(); }
  Filler(const Filler&) = delete;
  Filler& operator=(const Filler&) = delete;
  void empty() {
    if (file_ < 0) return;
    ::close(file_);
    ::unlink("/dev/shm/filler");
    file_ = -1;
  }

 private:
  int file_;
  off_t size_ = 0;
};

std::string damage(const Client& client, std::uint64_t count, std::size_t size) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string id = "s/" + std::to_string(i);
    const auto view = client.get(id);
    if (!view) return view.error().message();
    std::string wrong = wrong_bytes(view->bytes(), size, id, 1);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

TEST_SUITE("size of /dev/shm") {
  TEST_CASE("more than /dev/shm has is refused, with the sizes and the line that makes it fit") {
    const bool tested = in_small_shm("32m", [] {
      TempDir directory;
      const std::string socket = directory / "forebay.sock";
      const Ran refused = run({program("forebayd"), "--socket", socket, "--capacity", "64MiB"});
      require(refused.status == 1, "refused");
      // 64 MiB, and 16 MiB for the index; 32 MiB are there.
      require_mentions(refused.output, {"--capacity 64MiB", "/dev/shm has 32 MiB",
                                        "32 MiB of it free",
                                        "mount -o remount,size=80M /dev/shm"});
      require(::access(socket.c_str(), F_OK) != 0, "no socket");
      require(free_bytes() == 32 * mebibyte, "nothing was taken");
      // And it is true.
      require(::mount("none", "/dev/shm", nullptr, MS_REMOUNT | MS_NOSUID | MS_NODEV,
                      "size=80M") == 0,
              "remounted");
      DaemonProcess daemon({.capacity = "64MiB"});
      Client client = daemon.connect();
      must(client.put("a", payload(60 * mebibyte, "a", 1)));
      const std::string wrong =
          wrong_bytes(must(client.get("a")).bytes(), 60 * mebibyte, "a", 1);
      require(wrong.empty(), wrong);
    });
    if (tested) return;
    // The same by the numbers alone.
    const auto refused = daemon::choose_capacity(
        "64MiB",
        {.ram_bytes = gibibyte, .shm_total_bytes = 32 * mebibyte, .shm_free_bytes = 32 * mebibyte},
        0);
    CHECK(mentions(why(refused), "/dev/shm has 32 MiB"));
    CHECK(mentions(why(refused), "mount -o remount,size=80M /dev/shm"));
  }

  TEST_CASE("a /dev/shm that is too small for any store is refused without being asked for a size") {
    in_small_shm("20m", [] {
      TempDir directory;
      const std::string socket = directory / "forebay.sock";
      const Ran refused = run({program("forebayd"), "--socket", socket});
      require(refused.status == 1, "refused");
      require_mentions(refused.output,
                       {"too little shared memory", "/dev/shm has 20 MiB",
                        "mount -o remount,size=272M /dev/shm"});
      require(::mount("none", "/dev/shm", nullptr, MS_REMOUNT | MS_NOSUID | MS_NODEV,
                      "size=272M") == 0,
              "remounted");
      // Unasked, it takes what is decent.
      const Ran detached = run({program("forebayd"), "--socket", socket, "--detach",
                                "--idle-exit", "20"});
      require(detached.status == 0, detached.output);
      ConnectOptions options;
      options.address = socket;
      {
        Client client = must(Client::connect(options));
        require(client.capacity_bytes() <= 256 * mebibyte, "decent");
        must(client.put("a", payload(mebibyte, "a", 1)));
        must(client.stop_daemon(true));
      }
      require(eventually([] { return free_bytes() == 272 * mebibyte; }), "all of it given back");
    });
  }

  TEST_CASE("a client that would start a daemon in too small a /dev/shm is told the same") {
    in_small_shm("20m", [] {
      TempDir runtime;
      ::setenv("XDG_RUNTIME_DIR", runtime.path().c_str(), 1);
      ::setenv("FOREBAY_DAEMON", program("forebayd").c_str(), 1);
      ::unsetenv("FOREBAY_SOCKET");
      require_mentions(why(Client::connect()), {"too little shared memory", "/dev/shm has 20 MiB",
                                                "mount -o remount,size=272M /dev/shm"});
    });
  }

  TEST_CASE("something else that fills /dev/shm makes the store full, and kills nobody") {
    in_small_shm("128m", [] {
      DaemonProcess daemon({.capacity = "96MiB"});
      Client client = daemon.connect();
      constexpr std::size_t size = 2 * mebibyte;
      for (std::uint64_t i = 0; i < 10; ++i) {
        const std::string id = "s/" + std::to_string(i);
        must(client.put(id, payload(size, id, 1)));
      }
      Filler filler;
      require(free_bytes() == 0, "/dev/shm is full");
      // What is there, and what lies warm, can still be used; the rest is an error.
      std::string ended;
      std::uint64_t more = 0;
      while (more < 200) {
        const std::string id = "s/" + std::to_string(10 + more);
        ended = outcome(client.put(id, payload(size, id, 1)));
        if (ended != "ok") break;
        ++more;
      }
      require(ended == "store_full", "a put: " + ended);
      ended = outcome(client.create("open", 20 * mebibyte));
      require(ended == "store_full", "a create: " + ended);
      ended = outcome(client.put("w", payload(size, "w", 1), {.timeout = milliseconds(200)}));
      require(ended == "store_full", "a put that waits: " + ended);
      // Small ones until their slab and the index are full, too.
      std::uint64_t small = 0;
      for (ended = "ok"; ended == "ok" && small < 200'000; ++small) {
        const std::string id = "small/" + std::to_string(small);
        ended = outcome(client.put(id, payload(60000, id, 1)));
      }
      require(ended == "store_full", "a small put: " + ended);
      const std::string wrong = damage(client, 10 + more, size);
      require(wrong.empty(), wrong);
      require(daemon.running(), "the daemon lives");
      // What is removed can be used again.
      must(client.remove("s/3"));
      must(client.put("s/3", payload(size, "s/3", 1)));
      const std::string still_wrong = damage(client, 10 + more, size);
      require(still_wrong.empty(), still_wrong);
      // When the other one goes, so does the trouble.
      filler.empty();
      must(client.put("late", payload(8 * mebibyte, "late", 1)));
      const std::string late =
          wrong_bytes(must(client.get("late")).bytes(), 8 * mebibyte, "late", 1);
      require(late.empty(), late);
      const std::string sum = adds_up(client);
      require(sum.empty(), sum);
    });
  }

  TEST_CASE("who comes while /dev/shm is full is told so, and comes in when it is not") {
    in_small_shm("64m", [] {
      DaemonProcess daemon({.capacity = "32MiB"});
      Client client = daemon.connect();
      must(client.put("s/0", payload(mebibyte, "s/0", 1)));
      Filler filler;
      require(free_bytes() == 0, "/dev/shm is full");
      const auto refused = Client::connect(daemon.connect_options());
      if (!refused) {
        require(outcome(refused) == "store_full" || mentions(why(refused), "/dev/shm") ||
                    mentions(why(refused), "No space left"),
                why(refused));
      }
      require(daemon.running(), "the daemon lives");
      std::string wrong = damage(client, 1, mebibyte);
      require(wrong.empty(), wrong);
      // It may even be killed and started again: what it needs, it has.
      daemon.kill();
      daemon.start();
      wrong = damage(client, 1, mebibyte);
      require(wrong.empty(), wrong);
      filler.empty();
      const Client other = daemon.connect();
      wrong = damage(other, 1, mebibyte);
      require(wrong.empty(), wrong);
    });
  }

  TEST_CASE("writers and readers outlive a /dev/shm that fills and empties all the time") {
    in_small_shm("96m", [] {
      DaemonProcess daemon({.capacity = "64MiB", .arguments = {"--keep-warm", "0"}});
      std::atomic<bool> ended{false};
      std::vector<std::thread> threads;
      std::atomic<int> wrong{0};
      std::atomic<int> done{0};
      for (int t = 0; t < 2; ++t)
        threads.emplace_back([&, t] {
          Client client = daemon.connect();
          const std::string id = "t/" + std::to_string(t);
          for (std::uint64_t step = 0; !ended.load(); ++step) {
            const std::size_t size = step % 3 == 0 ? 1000 : step % 3 == 1 ? 100000 : 9 * mebibyte;
            auto put = client.put(id, payload(size, id, step), {.version = step + 1});
            if (!put && outcome(put) != "store_full") wrong.fetch_add(1);
            if (!put) continue;
            const auto view = client.get(id);
            if (!view || !wrong_bytes(view->bytes(), size, id, step).empty()) wrong.fetch_add(1);
            if (!client.remove(id)) wrong.fetch_add(1);
            done.fetch_add(1);
          }
        });
      for (int round = 0; round < 20; ++round) {
        const int before = done.load();
        { const Filler filler; }
        require(eventually([&] { return done.load() > before + 4; }), "it goes on");
      }
      ended = true;
      for (std::thread& thread : threads) thread.join();
      require(wrong.load() == 0, "nothing but store_full");
      require(daemon.running(), "the daemon lives");
      const std::string sum = adds_up(daemon.connect());
      require(sum.empty(), sum);
    });
  }
}

}  // namespace
}  // namespace forebay::test
