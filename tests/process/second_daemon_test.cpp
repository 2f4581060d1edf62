// SPDX-License-Identifier: Apache-2.0
// One instance, one daemon.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {
namespace {

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

TEST_SUITE("second daemon") {
  TEST_CASE("a second daemon on the same socket is refused, by the pid of the first") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100000, "a", 1)));
    const Ran second = run({program("forebayd"), "--socket", daemon.socket()});
    CHECK(second.status == 1);
    CHECK(mentions(second.output, std::to_string(daemon.pid())));
    CHECK(mentions(second.output, daemon.socket()));
    const Ran fresh = run({program("forebayd"), "--socket", daemon.socket(), "--fresh"});
    CHECK(fresh.status == 1);
    // The first one, and what it holds, has not noticed.
    CHECK(wrong_bytes(must(daemon.connect().get("a")).bytes(), 100000, "a", 1) == "");
    CHECK(Status(client)["daemon_starts"] == 1);
  }

  TEST_CASE("a stale socket and a stale lock file are no obstacle") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100000, "a", 1)));
    daemon.kill();
    // kill -9 leaves both behind.
    CHECK(::access(daemon.socket().c_str(), F_OK) == 0);
    CHECK(::access((daemon.socket() + ".lock").c_str(), F_OK) == 0);
    daemon.start();
    CHECK(wrong_bytes(must(daemon.connect().get("a")).bytes(), 100000, "a", 1) == "");
    CHECK(daemon.terminate() == 0);
    // And so do a lock file that names a living process of another kind, and a socket of nobody's.
    std::ofstream(daemon.socket() + ".lock") << ::getpid() << "\n";
    const int stale = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, daemon.socket().c_str(), sizeof address.sun_path - 1);
    REQUIRE(::bind(stale, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    ::close(stale);
    daemon.start();
    CHECK(wrong_bytes(must(daemon.connect().get("a")).bytes(), 100000, "a", 1) == "");
  }

  TEST_CASE("a stale note of a store that is gone is no obstacle") {
    DaemonProcess daemon;
    CHECK(daemon.terminate() == 0);
    for (const std::string& object : daemon.objects()) ::unlink(("/dev/shm/" + object).c_str());
    daemon.start();
    Client client = daemon.connect();
    CHECK(outcome(client.put("a", payload(10, "a", 1))) == "ok");
    CHECK(daemon.terminate() == 0);
    std::ofstream(daemon.socket() + ".state") << "nonsense";
    daemon.start();
    CHECK(outcome(daemon.connect().put("a", payload(10, "a", 1))) == "ok");
  }

  TEST_CASE("of ten daemons that are started at once, exactly one serves") {
    TempDir directory;
    const std::string socket = directory / "forebay.sock";
    std::vector<std::unique_ptr<ChildProcess>> daemons;
    Moments start;
    for (int i = 0; i < 10; ++i)
      daemons.push_back(std::make_unique<ChildProcess>([&](Moments& moments) {
        moments.reached();
        moments.wait();
        const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
        ::dup2(null, 1);
        ::dup2(null, 2);
        const std::string path = program("forebayd");
        ::execl(path.c_str(), path.c_str(), "--socket", socket.c_str(), "--capacity", "32MiB",
                "--reserve", "1MiB", static_cast<char*>(nullptr));
        throw std::runtime_error("cannot start forebayd");
      }));
    for (auto& daemon : daemons) daemon->await();
    for (auto& daemon : daemons) daemon->release();
    ConnectOptions options;
    options.address = socket;
    CHECK(eventually([&] { return outcome(Client::connect(options)) == "ok"; }));
    Client client = must(Client::connect(options));
    const auto serving = static_cast<pid_t>(Status(client)["daemon_pid"]);
    int refused = 0;
    for (auto& daemon : daemons) {
      if (daemon->pid() == serving) continue;
      CHECK(daemon->join() == 1);
      ++refused;
    }
    CHECK(refused == 9);
    must(client.put("a", payload(100000, "a", 1)));
    CHECK(wrong_bytes(must(must(Client::connect(options)).get("a")).bytes(), 100000, "a", 1) == "");
    must(client.stop_daemon(true));
    for (auto& daemon : daemons)
      if (daemon->pid() == serving) CHECK(daemon->join() == 0);
  }

  TEST_CASE("two instances side by side share nothing") {
    DaemonProcess one;
    DaemonProcess two;
    Client first = one.connect();
    Client second = two.connect();
    must(first.put("a", payload(100, "a", 1, 1)));
    must(second.put("a", payload(100, "a", 1, 2)));
    CHECK(first.store() != second.store());
    CHECK(wrong_bytes(must(first.get("a")).bytes(), 100, "a", 1, 1) == "");
    CHECK(wrong_bytes(must(second.get("a")).bytes(), 100, "a", 1, 2) == "");
    one.kill();
    CHECK(outcome(second.put("b", payload(10, "b", 1))) == "ok");
    must(second.stop_daemon(true));
    one.start();
    CHECK(wrong_bytes(must(first.get("a")).bytes(), 100, "a", 1, 1) == "");
  }
}

}  // namespace
}  // namespace forebay::test
