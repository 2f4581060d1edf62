// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/process.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <string>

#include "store/ref.h"
#include "store/wire/socket.h"
#include "tests/support/child_process.h"
#include "tests/support/temp_dir.h"

namespace forebay::daemon {
namespace {

using test::ChildProcess;
using test::Moments;
using test::require;

// A child that is there until it is killed.
ChildProcess idle_child() {
  return ChildProcess([](Moments& moments) {
    moments.reached();
    moments.wait();
  });
}

// A child that has become `sh` under another command line, and sits there until it is killed.
class Program {
 public:
  explicit Program(std::vector<const char*> arguments) {
    int gone[2];
    REQUIRE(::pipe2(gone, O_CLOEXEC) == 0);
    const Descriptor out(gone[0]);
    Descriptor in(gone[1]);
    child_ = std::make_unique<ChildProcess>([&](Moments&) {
      int input[2];
      require(::pipe(input) == 0, "a pipe");  // nobody ever writes into it
      ::dup2(input[0], 0);
      std::vector<char*> argv;
      for (const char* argument : arguments) argv.push_back(const_cast<char*>(argument));
      argv.push_back(nullptr);
      ::execv("/bin/sh", argv.data());
    });
    in.reset();
    char byte = 0;
    REQUIRE(::read(out.get(), &byte, 1) == 0);  // it has exec'ed
  }
  pid_t pid() const { return child_->pid(); }

 private:
  std::unique_ptr<ChildProcess> child_;
};

pid_t pid_of_a_dead_process() {
  ChildProcess child([](Moments&) {});
  const pid_t pid = child.pid();
  (void)child.join();
  return pid;
}

TEST_SUITE("process") {
  TEST_CASE("the kernel says who connected, whatever process accepts") {
    test::TempDir directory;
    const auto listener = wire::listen_at(directory / "s");
    REQUIRE(listener);
    ChildProcess client([&directory](Moments& moments) {
      const auto socket = wire::connect_to(directory / "s", wire::Deadline::max());
      require(socket.has_value(), "connected");
      moments.reached();
      moments.wait();
    });
    client.await();
    const Descriptor served(::accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
    const auto peer = peer_of(served.get());
    REQUIRE(peer);
    CHECK(peer->pid == client.pid());
    CHECK(peer->uid == ::geteuid());
    CHECK(peer->gid == ::getegid());

    const auto pidfd = watch_peer(served.get(), *peer);
    REQUIRE(pidfd);
    CHECK_FALSE(has_ended(*pidfd));
    CHECK((::fcntl(pidfd->get(), F_GETFD) & FD_CLOEXEC) != 0);
    client.kill();
    CHECK(has_ended(*pidfd));
  }

  TEST_CASE("what is no socket has no peer") {
    const Descriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    CHECK_FALSE(peer_of(null.get()));
    CHECK_FALSE(peer_of(-1));
  }

  TEST_CASE("a watched process has ended when it is dead, also before its parent knows") {
    ChildProcess child = idle_child();
    child.await();
    const auto pidfd = watch_process(child.pid());
    REQUIRE(pidfd);
    CHECK_FALSE(has_ended(*pidfd));
    child.signal(SIGKILL);
    siginfo_t info{};
    REQUIRE(::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT) == 0);
    CHECK(has_ended(*pidfd));  // a zombie is dead
    child.join();
    CHECK(has_ended(*pidfd));
  }

  TEST_CASE("what does not exist cannot be watched and has neither start time nor user") {
    const pid_t pid = pid_of_a_dead_process();
    const auto pidfd = watch_process(pid);
    REQUIRE_FALSE(pidfd);
    CHECK(pidfd.error().code.value() == ESRCH);
    CHECK_FALSE(start_time_of(pid));
    CHECK_FALSE(uid_of(pid));
    CHECK(program_of(pid).empty());
  }

  TEST_CASE("a process keeps its start time, whatever it calls itself") {
    const auto mine = start_time_of(::getpid());
    REQUIRE(mine);
    CHECK(*mine > 0);
    CHECK(start_time_of(::getpid()) == mine);
    for (const char* name : {"x", "a b c", "a) R 1 2 3", ") (", "))))"}) {
      ChildProcess child([name](Moments& moments) {
        const auto before = start_time_of(::getpid());
        ::prctl(PR_SET_NAME, name);
        require(start_time_of(::getpid()) == before && before, "unmoved");
        moments.reached();
        moments.wait();
      });
      child.await();
      const auto theirs = start_time_of(child.pid());
      REQUIRE(theirs);
      CHECK(*theirs >= *mine);
      child.release();
      CHECK(child.join() == 0);
    }
  }

  TEST_CASE("a process has the user whom it acts for") {
    CHECK(uid_of(::getpid()) == ::geteuid());
    // Only root can become somebody else.
    if (::geteuid() != 0) return;
    ChildProcess child([](Moments& moments) {
      require(::setuid(65534) == 0, "somebody else");
      require(::prctl(PR_SET_DUMPABLE, 1) == 0, "and visible as such");
      moments.reached();
      moments.wait();
    });
    child.await();
    CHECK(uid_of(child.pid()) == 65534U);
  }

  TEST_CASE("people are told the program, and of an interpreter its script") {
    CHECK(program_of(Program({"/usr/local/bin/worker", "-s"}).pid()) == "worker");
    CHECK(program_of(Program({"worker"}).pid()) == "worker");
    CHECK(program_of(Program({"/usr/bin/python3.11", "-s", "/home/me/kmeans.py"}).pid()) ==
          "kmeans.py");
    CHECK(program_of(Program({"python3"}).pid()) == "python3");
    const std::string long_name(300, 'w');
    CHECK(program_of(Program({long_name.c_str()}).pid()) == std::string(64, 'w'));
  }

  TEST_CASE("whether a process maps an object is seen from outside") {
    Descriptor object(::memfd_create("process-test", MFD_CLOEXEC));
    const Descriptor another(::memfd_create("process-test", MFD_CLOEXEC));
    REQUIRE(::ftruncate(object.get(), 4096) == 0);
    ChildProcess child([&object](Moments& moments) {
      void* const memory = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, object.get(), 0);
      require(memory != MAP_FAILED, "mapped");
      object.reset();
      moments.reached();
      moments.wait();
      ::munmap(memory, 4096);
      moments.reached();
      moments.wait();
    });
    child.await();
    CHECK(maps_object(child.pid(), object) == true);
    CHECK(maps_object(child.pid(), another) == false);
    CHECK(maps_object(::getpid(), object) == false);
    child.release();
    child.await();
    CHECK(maps_object(child.pid(), object) == false);
    child.kill();
  }

  TEST_CASE("a process that has executed another program maps nothing of ours any more") {
    const Descriptor object(::memfd_create("process-test", MFD_CLOEXEC));
    REQUIRE(::ftruncate(object.get(), 4096) == 0);
    void* const memory = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, object.get(), 0);
    const Program program({"worker"});
    CHECK(maps_object(program.pid(), object) == false);
    CHECK(maps_object(::getpid(), object) == true);
    ::munmap(memory, 4096);
  }

  TEST_CASE("what a dead process maps is not known") {
    const Descriptor object(::memfd_create("process-test", MFD_CLOEXEC));
    CHECK_FALSE(maps_object(pid_of_a_dead_process(), object).has_value());
    ChildProcess zombie = idle_child();
    zombie.await();
    zombie.signal(SIGKILL);
    siginfo_t info{};
    REQUIRE(::waitid(P_PID, static_cast<id_t>(zombie.pid()), &info, WEXITED | WNOWAIT) == 0);
    CHECK_FALSE(maps_object(zombie.pid(), object).has_value());
    CHECK_FALSE(maps_object(::getpid(), Descriptor()).has_value());
  }

  TEST_CASE("the boot has the id that the kernel gave it") {
    std::ifstream file("/proc/sys/kernel/random/boot_id");
    std::string text;
    REQUIRE(std::getline(file, text));
    CHECK(format_uuid(boot_id()) == text);
  }
}

}  // namespace
}  // namespace forebay::daemon
