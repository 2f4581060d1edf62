// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/instance.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>

#include "tests/support/child_process.h"
#include "tests/support/temp_dir.h"

namespace forebay::daemon {
namespace {

bool exists(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

void write_file(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

StoreUuid some_uuid() { return {0x3f, 0x2a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}; }

TEST_SUITE("instance") {
  TEST_CASE("an instance is one daemon's, and a second one is told whose") {
    test::TempDir directory;
    const std::string path = directory / "s.sock";
    auto first = Instance::claim(path);
    REQUIRE(first);
    CHECK(first->socket_path() == path);
    const auto second = Instance::claim(path);
    REQUIRE_FALSE(second);
    CHECK(second.error().is(Errc::already_running));
    CHECK(second.error().detail.find("pid " + std::to_string(::getpid())) != std::string::npos);
    CHECK(second.error().detail.find(path) != std::string::npos);
    // Another socket in the same directory is another instance.
    CHECK(Instance::claim(directory / "other.sock"));
  }

  TEST_CASE("an instance is free again when its daemon lets go, and when it is killed") {
    test::TempDir directory;
    const std::string path = directory / "s.sock";
    {
      auto claimed = Instance::claim(path);
      REQUIRE(claimed);
      const Instance moved = std::move(*claimed);
      CHECK_FALSE(Instance::claim(path));
    }
    CHECK(Instance::claim(path));
    test::ChildProcess daemon([&path](test::Moments& moments) {
      const auto claimed = Instance::claim(path);
      test::require(claimed.has_value(), "claimed");
      moments.reached();
      moments.wait();
    });
    daemon.await();
    const auto refused = Instance::claim(path);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().detail.find("pid " + std::to_string(daemon.pid())) != std::string::npos);
    daemon.kill();
    CHECK(Instance::claim(path));
  }

  TEST_CASE("whatever stands in a lock file, who holds it is running") {
    for (const std::string& text : {std::string(), std::string("4711"), std::string(100, 'x'),
                                    std::string("\n"), std::string("\0\0", 2)}) {
      test::TempDir directory;
      const std::string path = directory / "s.sock";
      write_file(path + ".lock", text);
      const Descriptor lock(::open((path + ".lock").c_str(), O_RDWR | O_CLOEXEC));
      REQUIRE(::flock(lock.get(), LOCK_EX | LOCK_NB) == 0);
      const auto refused = Instance::claim(path);
      REQUIRE_FALSE(refused);
      CHECK(refused.error().is(Errc::already_running));
    }
  }

  TEST_CASE("a lock file that nobody holds is taken, and says whose it is now") {
    test::TempDir directory;
    const std::string path = directory / "s.sock";
    write_file(path + ".lock", "99999999999 and a good deal more\n");
    REQUIRE(Instance::claim(path));
    std::ifstream file(path + ".lock");
    std::string text;
    std::getline(file, text, '\0');
    CHECK(text == std::to_string(::getpid()) + "\n");
  }

  TEST_CASE("the store of an instance is remembered until it is forgotten") {
    test::TempDir directory;
    const std::string path = directory / "s.sock";
    auto instance = Instance::claim(path);
    REQUIRE(instance);
    CHECK_FALSE(instance->stored());
    REQUIRE(instance->remember(some_uuid()));
    CHECK(instance->stored() == some_uuid());
    const mode_t open_to_nobody = 0600;
    struct stat status {};
    REQUIRE(::stat((path + ".state").c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == open_to_nobody);
    CHECK_FALSE(exists(path + ".state.new"));

    StoreUuid next = some_uuid();
    next[0] = 0xff;
    REQUIRE(instance->remember(next));
    CHECK(instance->stored() == next);
    instance->forget();
    CHECK_FALSE(instance->stored());
    CHECK_FALSE(exists(path + ".state"));
    instance->forget();
  }

  TEST_CASE("the next daemon of the instance finds what the last one remembered") {
    test::TempDir directory;
    REQUIRE(Instance::claim(directory / "s.sock")->remember(some_uuid()));
    CHECK(Instance::claim(directory / "s.sock")->stored() == some_uuid());
    CHECK_FALSE(Instance::claim(directory / "t.sock")->stored());
  }

  TEST_CASE("a note that is no note names no store") {
    test::TempDir directory;
    const std::string path = directory / "s.sock";
    auto instance = Instance::claim(path);
    for (const std::string& text :
         {std::string(), std::string("store"), std::string("store \n"), std::string("store zz\n"),
          std::string("stare 3f2a0102-0304-0506-0708-090a0b0c0d0e\n"),
          std::string("store 3f2a0102-0304-0506-0708-090a0b0c0d\n"), std::string(100'000, 'a')}) {
      write_file(path + ".state", text);
      CHECK_FALSE(instance->stored());
    }
  }

  TEST_CASE("the socket that a dead daemon left is removed, and nothing else") {
    test::TempDir directory;
    const std::string path = directory / "s.sock";
    auto instance = Instance::claim(path);
    REQUIRE(instance->remember(some_uuid()));
    write_file(path, "");
    instance->remove_socket();
    CHECK_FALSE(exists(path));
    CHECK(exists(path + ".lock"));
    CHECK(instance->stored() == some_uuid());
    instance->remove_socket();
  }

  TEST_CASE("a directory that others can write to is denied, unless nobody can replace there") {
    for (const auto& [mode, fine] : std::vector<std::pair<mode_t, bool>>{
             {0700, true}, {0755, true}, {0775, false}, {0722, false}, {01777, true}}) {
      test::TempDir directory;
      REQUIRE(::chmod(directory.path().c_str(), mode) == 0);
      const auto claimed = Instance::claim(directory / "s.sock");
      CHECK(claimed.has_value() == fine);
      if (claimed) continue;
      CHECK(claimed.error().is(Errc::denied));
      CHECK(claimed.error().detail.find(directory.path()) != std::string::npos);
      CHECK_FALSE(exists(directory / "s.sock.lock"));
    }
  }

  TEST_CASE("a directory of another user's is denied") {
    // Only root can give one away.
    if (::geteuid() != 0) return;
    test::TempDir directory;
    REQUIRE(::chown(directory.path().c_str(), 65534, 65534) == 0);
    const auto refused = Instance::claim(directory / "s.sock");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().is(Errc::denied));
    REQUIRE(::chown(directory.path().c_str(), 0, 0) == 0);
  }

  TEST_CASE("a directory that is not there, or is none, is an error that names it") {
    test::TempDir directory;
    auto refused = Instance::claim(directory / "nothing/s.sock");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code.value() == ENOENT);
    CHECK(refused.error().detail.find("nothing") != std::string::npos);
    write_file(directory / "file", "");
    CHECK_FALSE(Instance::claim(directory / "file/s.sock"));
  }

  TEST_CASE("a path without a directory is in the current one") {
    test::TempDir directory;
    test::ChildProcess child([&directory](test::Moments&) {
      test::require(::chdir(directory.path().c_str()) == 0, "there");
      test::require(Instance::claim("s.sock").has_value(), "claimed");
    });
    CHECK(child.join() == 0);
    CHECK(exists(directory / "s.sock.lock"));
  }

  TEST_CASE("links in the place of lock or note are not followed") {
    test::TempDir directory;
    const std::string path = directory / "s.sock";
    write_file(directory / "precious", "precious");
    REQUIRE(::symlink((directory / "precious").c_str(), (path + ".lock").c_str()) == 0);
    CHECK_FALSE(Instance::claim(path));
    REQUIRE(::unlink((path + ".lock").c_str()) == 0);
    auto instance = Instance::claim(path);
    REQUIRE(instance);
    REQUIRE(::symlink((directory / "precious").c_str(), (path + ".state.new").c_str()) == 0);
    CHECK_FALSE(instance->remember(some_uuid()));
    std::ifstream file(directory / "precious");
    std::string text;
    std::getline(file, text);
    CHECK(text == "precious");
  }
}

}  // namespace
}  // namespace forebay::daemon
