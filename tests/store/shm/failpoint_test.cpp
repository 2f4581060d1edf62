// SPDX-License-Identifier: Apache-2.0
// Arming is for the life of a process, so each case has a child of its own.
#include "store/shm/failpoint.h"

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <set>
#include <string>

#include "tests/support/child_process.h"

namespace forebay::shm {
namespace {

using test::ChildProcess;
using test::Moments;
using test::require;

// What becomes of a process that starts with this environment and passes these points.
int outcome_of(const char* environment, const std::function<void()>& passes) {
  ChildProcess child([&](Moments&) {
    ::setenv("FOREBAY_FAILPOINTS", environment, 1);
    require(failpoints::arm_from_environment(), "armed");
    passes();
  });
  return child.join();
}

TEST_SUITE("failpoint") {
  TEST_CASE("unarmed, a point is passed as if it were not there") {
    ChildProcess child([](Moments&) {
      ::unsetenv("FOREBAY_FAILPOINTS");
      require(failpoints::arm_from_environment(), "nothing to arm is fine");
      require(!failpoints::armed.load(), "and arms nothing");
      for (const Failpoint& point : points::daemon) reached(point);
      ::setenv("FOREBAY_FAILPOINTS", "", 1);
      require(failpoints::arm_from_environment() && !failpoints::armed.load(),
              "neither does an empty list");
    });
    CHECK(child.join() == 0);
  }

  TEST_CASE("kill ends the process at the point, and at no other") {
    CHECK(outcome_of("seal.written=kill", [] { reached(points::seal_written); }) == -SIGKILL);
    CHECK(outcome_of("seal.written=kill", [] {
            reached(points::seal_exact_linked);
            reached(points::seal_newest_linked);
          }) == 0);
  }

  TEST_CASE("the points of the client can be armed as the daemon's can") {
    CHECK(outcome_of("client.pinned=kill", [] { reached(points::client_pinned); }) == -SIGKILL);
  }

  TEST_CASE("abort ends the process as a broken invariant would") {
    CHECK(outcome_of("create.begun=abort", [] {
            std::signal(SIGABRT, SIG_DFL);
            reached(points::create_begun);
          }) == -SIGABRT);
  }

  TEST_CASE("with a number, it is the nth passing that ends the process") {
    const auto passes = [](int times) {
      return [times] {
        for (int i = 0; i < times; ++i) reached(points::create_written);
      };
    };
    CHECK(outcome_of("create.written:3=kill", passes(2)) == 0);
    CHECK(outcome_of("create.written:3=kill", passes(3)) == -SIGKILL);
  }

  TEST_CASE("several points are armed at once, each for itself") {
    const char* both = "remove.freed:2=abort,evict.marked=kill";
    CHECK(outcome_of(both, [] { reached(points::remove_freed); }) == 0);
    CHECK(outcome_of(both, [] { reached(points::evict_marked); }) == -SIGKILL);
    CHECK(outcome_of(both, [] {
            std::signal(SIGABRT, SIG_DFL);
            reached(points::remove_freed);
            reached(points::remove_freed);
          }) == -SIGABRT);
  }

  TEST_CASE("a delay holds the process up for at least as long as it says") {
    CHECK(outcome_of("put.copied=delay/20", [] {
            const auto before = std::chrono::steady_clock::now();
            reached(points::put_copied);
            reached(points::put_copied);
            require(std::chrono::steady_clock::now() - before >= std::chrono::milliseconds(40),
                    "each passing is delayed");
          }) == 0);
  }

  TEST_CASE("stop leaves the process standing there until it is told to go on") {
    ChildProcess child([](Moments&) {
      ::setenv("FOREBAY_FAILPOINTS", "fork.copied=stop", 1);
      require(failpoints::arm_from_environment(), "armed");
      reached(points::fork_copied);
    });
    int status = 0;
    REQUIRE(::waitpid(child.pid(), &status, WUNTRACED) == child.pid());
    CHECK(WIFSTOPPED(status));
    child.signal(SIGCONT);
    CHECK(child.join() == 0);
  }

  TEST_CASE("what names no point or action is refused, and arms nothing") {
    for (const char* text :
         {"no.such_point=kill", "seal.written", "seal.written=", "seal.written=explode",
          "seal.written=delay/", "seal.written=delay/soon", "seal.written:x=kill",
          "seal.written:=kill", "=kill", ",", "seal.written=kill,no.such_point=kill",
          "no.such_point=kill,seal.written=kill", " seal.written=kill"}) {
      ChildProcess child([text](Moments&) {
        ::setenv("FOREBAY_FAILPOINTS", text, 1);
        std::freopen("/dev/null", "w", stderr);
        require(!failpoints::arm_from_environment(), "refused");
        reached(points::seal_written);
      });
      CHECK_MESSAGE(child.join() == 0, std::string(text));
    }
  }

  TEST_CASE("every point has a name of its own") {
    std::set<std::string_view> names;
    for (const Failpoint& point : points::daemon) CHECK(names.insert(point.name).second);
    for (const Failpoint& point : points::client) CHECK(names.insert(point.name).second);
  }
}

}  // namespace
}  // namespace forebay::shm
