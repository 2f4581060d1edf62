// SPDX-License-Identifier: Apache-2.0
// In children, for the environment and the user are the whole process's.
#include "store/wire/address.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "tests/support/child_process.h"
#include "tests/support/temp_dir.h"

namespace forebay::wire {
namespace {

using test::require;

mode_t mode_of(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 ? status.st_mode : 0;
}

// Runs `body` in a child whose environment names no place at all.
int run_in_child(const std::function<void()>& body) {
  test::ChildProcess child([&body](test::Moments&) {
    ::unsetenv("FOREBAY_SOCKET");
    ::unsetenv("XDG_RUNTIME_DIR");
    ::umask(022);
    body();
  });
  return child.join();
}

void require_denied(const std::string& directory) {
  const auto refused = resolve_address("");
  require(!refused && refused.error().is(Errc::denied), "denied");
  require(refused.error().detail.find(directory) != std::string::npos, "names the directory");
  require(refused.error().detail.find("FOREBAY_SOCKET") != std::string::npos, "and the way out");
}

TEST_SUITE("address") {
  TEST_CASE("what is given goes before the environment, and the environment before the default") {
    test::TempDir runtime;
    CHECK(run_in_child([&] {
            ::setenv("FOREBAY_SOCKET", "/some/where.sock", 1);
            ::setenv("XDG_RUNTIME_DIR", runtime.path().c_str(), 1);
            Address address = resolve_address("/given.sock").value();
            require(address.path == "/given.sock" && !address.is_default, "given");
            address = resolve_address("").value();
            require(address.path == "/some/where.sock" && !address.is_default, "environment");
            require(mode_of(runtime / "forebay") == 0, "neither makes a directory");
            ::setenv("FOREBAY_SOCKET", "", 1);
            address = resolve_address("").value();
            require(address.path == runtime / "forebay/default.sock" && address.is_default,
                    "an empty variable is none");
          }) == 0);
  }

  TEST_CASE("the default directory is made for this user alone, and found again") {
    test::TempDir runtime;
    CHECK(run_in_child([&] {
            ::setenv("XDG_RUNTIME_DIR", runtime.path().c_str(), 1);
            ::umask(0);
            const Address address = resolve_address("").value();
            require(address.is_default, "nobody named it");
            require(mode_of(runtime / "forebay") == (S_IFDIR | 0700), "0700 whatever the mask");
            require(resolve_address("").value().path == address.path, "the same the second time");
          }) == 0);
  }

  TEST_CASE("without a runtime directory it lies in /tmp, under the user's number") {
    test::TempDir directory;
    CHECK(run_in_child([&] {
            // As root, under a number that nobody has, so that nobody's own directory is touched.
            constexpr uid_t nobody_at_all = 1'234'567;
            const bool other = ::geteuid() == 0 && ::seteuid(nobody_at_all) == 0;
            const std::string expected = "/tmp/forebay-" + std::to_string(::geteuid());
            const bool there_before = mode_of(expected) != 0;
            const std::string file = directory / "file";
            const std::string unusable[] = {"", directory / "nothing", file};
            ::close(::open(file.c_str(), O_WRONLY | O_CREAT, 0600));
            for (const std::string& runtime : unusable) {
              ::setenv("XDG_RUNTIME_DIR", runtime.c_str(), 1);
              const auto address = resolve_address("");
              const mode_t mode = mode_of(expected);
              if (!there_before) ::rmdir(expected.c_str());
              require(address.has_value(), address ? "" : address.error().message());
              require(address->path == expected + "/default.sock" && address->is_default, runtime);
              require(mode == (S_IFDIR | 0700), "private");
            }
            ::unsetenv("XDG_RUNTIME_DIR");
            const auto address = resolve_address("");
            if (!there_before) ::rmdir(expected.c_str());
            require(address.has_value() && address->path == expected + "/default.sock", "unset");
            if (other) require(::seteuid(0) == 0, "root again");
          }) == 0);
  }

  TEST_CASE("a directory that others may enter is refused") {
    for (const mode_t mode : {0777, 0755, 0701, 0710}) {
      test::TempDir runtime;
      CHECK(run_in_child([&] {
              ::setenv("XDG_RUNTIME_DIR", runtime.path().c_str(), 1);
              require(::mkdir((runtime / "forebay").c_str(), 0700) == 0, "made");
              require(::chmod((runtime / "forebay").c_str(), mode) == 0, "opened");
              require_denied(runtime / "forebay");
              require(::chmod((runtime / "forebay").c_str(), 0700) == 0, "closed");
              require(resolve_address("").has_value(), "closed again, it will do");
            }) == 0);
    }
  }

  TEST_CASE("a link in the directory's place is refused, wherever it leads") {
    test::TempDir runtime;
    CHECK(run_in_child([&] {
            ::setenv("XDG_RUNTIME_DIR", runtime.path().c_str(), 1);
            require(::mkdir((runtime / "mine").c_str(), 0700) == 0, "made");
            require(::symlink((runtime / "mine").c_str(), (runtime / "forebay").c_str()) == 0,
                    "linked");
            require_denied(runtime / "forebay");
          }) == 0);
  }

  TEST_CASE("a file in the directory's place is refused") {
    test::TempDir runtime;
    CHECK(run_in_child([&] {
            ::setenv("XDG_RUNTIME_DIR", runtime.path().c_str(), 1);
            ::close(::open((runtime / "forebay").c_str(), O_WRONLY | O_CREAT, 0600));
            require_denied(runtime / "forebay");
          }) == 0);
  }

  TEST_CASE("a directory of another user's is refused") {
    // Only root can give one away.
    if (::geteuid() != 0) return;
    test::TempDir runtime;
    CHECK(run_in_child([&] {
            ::setenv("XDG_RUNTIME_DIR", runtime.path().c_str(), 1);
            require(::mkdir((runtime / "forebay").c_str(), 0700) == 0, "made");
            require(::chown((runtime / "forebay").c_str(), 65534, 65534) == 0, "given away");
            require_denied(runtime / "forebay");
          }) == 0);
  }

  TEST_CASE("a trap that somebody else has laid in /tmp is seen") {
    // As root, under a number that nobody has, so that nobody's own directory is touched.
    if (::geteuid() != 0) return;
    CHECK(run_in_child([] {
            constexpr uid_t victim = 1'234'568;
            const std::string trap = "/tmp/forebay-" + std::to_string(victim);
            require(::symlink("/tmp", trap.c_str()) == 0, "laid by somebody else");
            const bool changed = ::seteuid(victim) == 0;
            const auto refused = resolve_address("");
            require(::seteuid(0) == 0 && ::unlink(trap.c_str()) == 0, "gone");
            require(changed && !refused && refused.error().is(Errc::denied), "denied");
          }) == 0);
  }
}

}  // namespace
}  // namespace forebay::wire
