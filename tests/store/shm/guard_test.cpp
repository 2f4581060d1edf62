// SPDX-License-Identifier: Apache-2.0
// Each case runs in a child: the handler is the whole process's, and some of them must die of it.
#include "store/shm/guard.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>

#include "store/shm/layout.h"
#include "store/shm/mapping.h"
#include "store/shm/object_home.h"
#include "tests/support/child_process.h"
#include "tests/support/temp_dir.h"

namespace forebay::shm {
namespace {

using test::ChildProcess;
using test::Moments;
using test::require;

constexpr std::uint64_t pages = 4;

// An object that its peers can cut, as a pin table is, with the page's number on each page.
struct Object {
  explicit Object(Descriptor file) : descriptor(std::move(file)) {
    require(::ftruncate(descriptor.get(), pages * page_bytes) == 0, "sized");
    mapping = Mapping::map(descriptor.get(), pages * page_bytes, Protection::read_write).value();
    for (std::uint64_t page = 0; page < pages; ++page)
      mapping.data()[page * page_bytes] = static_cast<std::byte>(page + 1);
  }
  Object() : Object(Descriptor(::memfd_create("guard-test", MFD_CLOEXEC))) {}

  void cut_to(std::uint64_t left) {
    require(::ftruncate(descriptor.get(), static_cast<off_t>(left * page_bytes)) == 0, "cut");
  }
  // volatile: the compiler must not remember what it has read before the cut.
  unsigned first_of(std::uint64_t page) const {
    return static_cast<unsigned>(
        *static_cast<const volatile std::byte*>(mapping.data() + page * page_bytes));
  }

  Descriptor descriptor;
  Mapping mapping;
};

TEST_SUITE("guard") {
  TEST_CASE("a guarded range whose object was cut reads zeros there, and is known to be broken") {
    ChildProcess child([](Moments&) {
      Guard::install();
      Object cut;
      Object whole;
      const Guard guard(cut.mapping.data(), cut.mapping.size());
      const Guard other(whole.mapping.data(), whole.mapping.size());
      cut.cut_to(1);
      require(!guard.broken(), "nothing is broken before it is touched");
      require(cut.first_of(0) == 1, "what is left is left");
      require(!guard.broken(), "a page that is there breaks nothing");
      require(cut.first_of(3) == 0, "a page that is gone reads as zeros");
      require(guard.broken(), "and the guard knows");
      require(cut.first_of(2) == 0, "so does the next one");
      require(cut.first_of(0) == 1, "what is left is still left");
      require(whole.first_of(3) == 4 && !other.broken(), "another range is none of its business");
    });
    CHECK(child.join() == 0);
  }

  TEST_CASE("the daemon may also write to a page that is gone, and nobody sees it") {
    ChildProcess child([](Moments&) {
      Guard::install();
      Object object;
      const Guard guard(object.mapping.data(), object.mapping.size());
      object.cut_to(0);
      auto* count = reinterpret_cast<std::atomic<std::uint32_t>*>(object.mapping.data());
      count->fetch_add(5);
      require(count->load() == 5, "the page takes writes");
      require(guard.broken(), "and the guard knows");
      object.cut_to(pages);
      Mapping again =
          Mapping::map(object.descriptor.get(), page_bytes, Protection::read_write).value();
      require(again.data()[0] == std::byte{0}, "the object has nothing of them");
    });
    CHECK(child.join() == 0);
  }

  TEST_CASE("a hole punched into a guarded range reads zeros and kills nobody") {
    ChildProcess child([](Moments&) {
      Guard::install();
      Object object;
      const Guard guard(object.mapping.data(), object.mapping.size());
      punch(object.descriptor, 2 * page_bytes, page_bytes);
      require(object.first_of(2) == 0, "the hole reads as zeros");
      require(object.first_of(3) == 4, "its neighbour is as it was");
    });
    CHECK(child.join() == 0);
  }

  TEST_CASE("a hole that can get no memory again reads zeros, and its range is broken") {
    test::TempDir directory;
    constexpr char cannot_mount = 'm';
    constexpr char done = 'd';
    ChildProcess child([&directory](Moments& moments) {
      // A file system of four pages of its own, which somebody else fills once there is a hole.
      const bool mounted =
          (::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
          ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
          ::mount("none", directory.path().c_str(), "tmpfs", 0, "size=16k") == 0;
      if (!mounted) return moments.reached(cannot_mount);
      Guard::install();
      Object object(
          Descriptor(::open((directory / "table").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)));
      const Guard guard(object.mapping.data(), object.mapping.size());
      punch(object.descriptor, 2 * page_bytes, page_bytes);
      const Descriptor filler(
          ::open((directory / "filler").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      require(::posix_fallocate(filler.get(), 0, page_bytes) == 0, "the hole's memory is taken");
      require(object.first_of(3) == 4 && !guard.broken(), "what has memory is whole");
      require(object.first_of(2) == 0, "the hole reads as zeros");
      require(guard.broken(), "and the guard knows that it is none of the object's pages");
      moments.reached(done);
    });
    // Where nobody may mount, the case of an object that was cut must speak for this one.
    const char reached = child.await();
    if (reached == cannot_mount) MESSAGE("no mount allowed here: a full file system not tried");
    CHECK((reached == done || reached == cannot_mount));
    CHECK(child.join() == 0);
  }

  TEST_CASE("a bus error outside of every guarded range stays deadly") {
    ChildProcess child([](Moments&) {
      Guard::install();
      Object guarded;
      Object unguarded;
      const Guard guard(guarded.mapping.data(), guarded.mapping.size());
      unguarded.cut_to(0);
      (void)unguarded.first_of(1);
    });
    CHECK(child.join() == -SIGBUS);
  }

  TEST_CASE("the first byte behind a guarded range is not guarded") {
    ChildProcess child([](Moments&) {
      Guard::install();
      Object object;
      const Guard guard(object.mapping.data(), 2 * page_bytes);
      object.cut_to(0);
      require(object.first_of(1) == 0, "the last page of the range is guarded");
      (void)object.first_of(2);
    });
    CHECK(child.join() == -SIGBUS);
  }

  TEST_CASE("a range is guarded no longer than its guard lives") {
    ChildProcess child([](Moments&) {
      Guard::install();
      Object object;
      { const Guard guard(object.mapping.data(), object.mapping.size()); }
      object.cut_to(0);
      (void)object.first_of(1);
    });
    CHECK(child.join() == -SIGBUS);
  }

  TEST_CASE("a new guard in the place of a broken one starts whole") {
    ChildProcess child([](Moments&) {
      Guard::install();
      Object object;
      {
        const Guard guard(object.mapping.data(), object.mapping.size());
        object.cut_to(0);
        (void)object.first_of(0);
        require(guard.broken(), "broken");
      }
      Object next;
      const Guard guard(next.mapping.data(), next.mapping.size());
      require(!guard.broken(), "whole");
      next.cut_to(0);
      (void)next.first_of(0);
      require(guard.broken(), "and watched over");
    });
    CHECK(child.join() == 0);
  }

  TEST_CASE("there are guards for the pin tables of more than a thousand processes") {
    ChildProcess child([](Moments&) {
      Guard::install();
      Object object;
      std::vector<std::unique_ptr<Guard>> guards;
      std::vector<char> elsewhere(5000);
      for (const char& byte : elsewhere) guards.push_back(std::make_unique<Guard>(&byte, 1));
      const Guard last(object.mapping.data(), object.mapping.size());
      object.cut_to(0);
      require(object.first_of(0) == 0 && last.broken(), "the last of many guards as the first");
    });
    CHECK(child.join() == 0);
  }
}

}  // namespace
}  // namespace forebay::shm
