// SPDX-License-Identifier: Apache-2.0
#include "store/shm/mapping.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <string>

#include "store/shm/layout.h"
#include "store/shm/object_home.h"
#include "tests/support/child_process.h"

namespace forebay::shm {
namespace {

using test::ChildProcess;
using test::Moments;
using test::require;

constexpr std::uint64_t pages = 8;

Descriptor some_object(std::byte fill = std::byte{0}) {
  Descriptor object(::memfd_create("mapping-test", MFD_CLOEXEC));
  REQUIRE(object);
  REQUIRE(::ftruncate(object.get(), pages * page_bytes) == 0);
  if (fill == std::byte{0}) return object;
  const std::vector<std::byte> bytes(pages * page_bytes, fill);
  REQUIRE(::pwrite(object.get(), bytes.data(), bytes.size(), 0) ==
          static_cast<ssize_t>(bytes.size()));
  return object;
}

Mapping map_all(const Descriptor& object, Protection protection) {
  return Mapping::map(object.get(), pages * page_bytes, protection).value();
}

// The kernel is asked to read or to write there: it answers EFAULT where this process could not.
bool readable(const std::byte* at) {
  const Descriptor null(::open("/dev/zero", O_WRONLY | O_CLOEXEC));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return false;
  const Descriptor in(ends[0]);
  const Descriptor out(ends[1]);
  return ::write(out.get(), at, 1) == 1;
}
// Leaves a zero there.
bool writable(std::byte* at) {
  const Descriptor zeros(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  return ::read(zeros.get(), at, 1) == 1;
}

std::byte byte_of(const Descriptor& object, std::uint64_t offset) {
  std::byte byte{};
  REQUIRE(::pread(object.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
  return byte;
}

// The kernel's flags of the mapping at `at`, as in /proc/self/smaps: "rd sh mr mw me dd".
std::string flags_of(const std::byte* at) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool here = false;
  while (std::getline(maps, line)) {
    std::uintptr_t start = 0;
    std::uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2)
      here = reinterpret_cast<std::uintptr_t>(at) >= start &&
             reinterpret_cast<std::uintptr_t>(at) < end;
    if (here && line.starts_with("VmFlags:")) return line.substr(8) + " ";
  }
  return {};
}

TEST_SUITE("mapping") {
  TEST_CASE("what one mapping of an object writes, another one reads") {
    const Descriptor object = some_object();
    Mapping writer = map_all(object, Protection::read_write);
    const Mapping reader = map_all(object, Protection::read);
    CHECK(writer.size() == pages * page_bytes);
    CHECK(writer.data() != reader.data());
    writer.data()[5000] = std::byte{7};
    CHECK(reader.data()[5000] == std::byte{7});
    CHECK(writable(writer.data()));
    CHECK(readable(reader.data()));
    CHECK_FALSE(writable(reader.data()));
  }

  TEST_CASE("through a read-only descriptor nothing can be mapped for writing, then or later") {
    const Descriptor object = some_object();
    const Descriptor read_only = reopen_read_only(object).value();
    const auto refused = Mapping::map(read_only.get(), pages * page_bytes, Protection::read_write);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code.value() == EACCES);

    Mapping mapping = map_all(read_only, Protection::read);
    CHECK_FALSE(mapping.protect(0, page_bytes, Protection::read_write));
    CHECK_FALSE(writable(mapping.data()));
  }

  TEST_CASE("what cannot be mapped is an error with the system's number") {
    const auto refused = Mapping::map(-1, page_bytes, Protection::read);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code.category() == std::system_category());
    CHECK(refused.error().code.value() != 0);
  }

  TEST_CASE(
      "a range can be made writable and read-only again, and its neighbours stay as they are") {
    const Descriptor object = some_object();
    Mapping mapping = map_all(object, Protection::read_write);
    REQUIRE(mapping.protect(0, pages * page_bytes, Protection::read));
    for (std::uint64_t page = 0; page < pages; ++page)
      CHECK_FALSE(writable(mapping.data() + page * page_bytes));
    REQUIRE(mapping.protect(2 * page_bytes, 2 * page_bytes - 10, Protection::read_write));
    for (std::uint64_t page = 0; page < pages; ++page)
      CHECK(writable(mapping.data() + page * page_bytes) == (page == 2 || page == 3));
    REQUIRE(mapping.protect(2 * page_bytes, 2 * page_bytes, Protection::read));
    CHECK_FALSE(writable(mapping.data() + 2 * page_bytes));
    CHECK(readable(mapping.data() + 2 * page_bytes));
  }

  TEST_CASE("a stray write to a read-only range is a fault in the process that makes it") {
    const Descriptor object = some_object(std::byte{9});
    Mapping mapping = map_all(object, Protection::read_write);
    ChildProcess child([&](Moments&) {
      std::signal(SIGSEGV, SIG_DFL);
      require(mapping.protect(page_bytes, page_bytes, Protection::read).has_value(), "closed");
      *static_cast<volatile std::byte*>(mapping.data()) = std::byte{1};
      *static_cast<volatile std::byte*>(mapping.data() + page_bytes) = std::byte{1};
    });
    CHECK(child.join() == -SIGSEGV);
    CHECK(byte_of(object, 0) == std::byte{1});
    CHECK(byte_of(object, page_bytes) == std::byte{9});
  }

  TEST_CASE("a forked child has every mapping but those that are kept from it") {
    const Descriptor object = some_object(std::byte{5});
    Mapping shared = map_all(object, Protection::read_write);
    Mapping hidden = map_all(object, Protection::read_write);
    hidden.keep_from_children();
    ChildProcess child([&](Moments&) {
      require(readable(shared.data()), "it has what was not hidden");
      require(!readable(hidden.data()) && !readable(hidden.data() + (pages - 1) * page_bytes),
              "it has nothing of what was hidden");
      hidden.forget();
    });
    CHECK(child.join() == 0);
    CHECK(readable(hidden.data()));
  }

  TEST_CASE("a mapping that is forgotten leaves the addresses alone") {
    const Descriptor object = some_object(std::byte{5});
    std::byte* address = nullptr;
    {
      Mapping mapping = map_all(object, Protection::read);
      address = mapping.data();
      mapping.forget();
      CHECK_FALSE(mapping);
      CHECK(mapping.size() == 0);
    }
    CHECK(readable(address));
    ::munmap(address, pages * page_bytes);
  }

  TEST_CASE("a mapping ends with its owner, wherever it was moved to") {
    const Descriptor object = some_object(std::byte{5});
    std::byte* address = nullptr;
    {
      Mapping first = map_all(object, Protection::read);
      address = first.data();
      Mapping second(std::move(first));
      CHECK_FALSE(first);  // NOLINT
      CHECK(second.data() == address);
      Mapping third;
      third = std::move(second);
      CHECK(third.data() == address);
      CHECK(third.size() == pages * page_bytes);
      CHECK(readable(address));
    }
    CHECK_FALSE(readable(address));
  }

  TEST_CASE("the descriptor may be closed as soon as the mapping is made") {
    Descriptor object = some_object(std::byte{5});
    const Mapping mapping = map_all(object, Protection::read);
    object.reset();
    CHECK(mapping.data()[page_bytes] == std::byte{5});
  }

  TEST_CASE("what is kept from dumps says so to the kernel") {
    const Descriptor object = some_object();
    Mapping mapping = map_all(object, Protection::read_write);
    CHECK(flags_of(mapping.data()).find(" dd ") == std::string::npos);
    mapping.keep_from_dumps();
    CHECK(flags_of(mapping.data()).find(" dd ") != std::string::npos);
  }

  TEST_CASE("a mapping much larger than any memory costs none") {
    Descriptor object(::memfd_create("mapping-test", MFD_CLOEXEC));
    constexpr std::uint64_t tebibytes_16 = std::uint64_t{16} << 40U;
    REQUIRE(::ftruncate(object.get(), static_cast<off_t>(tebibytes_16)) == 0);
    auto mapping = Mapping::map(object.get(), tebibytes_16, Protection::read_write);
    REQUIRE(mapping);
    CHECK(backed_bytes(object) == 0);
    mapping->data()[tebibytes_16 - 1] = std::byte{1};
    CHECK(backed_bytes(object) == page_bytes);
  }

  TEST_CASE("populating a range for writing gives memory to it and to nothing else") {
    const Descriptor object = some_object();
    Mapping mapping = map_all(object, Protection::read_write);
    // An older kernel cannot, and says so.
    if (mapping.populate(2 * page_bytes, 3 * page_bytes - 1, Protection::read_write))
      CHECK(backed_bytes(object) == 3 * page_bytes);
    else
      CHECK(backed_bytes(object) == 0);
  }

  TEST_CASE("populating what has no memory to give is false, and no bus error") {
    const Descriptor object = some_object();
    Mapping mapping = map_all(object, Protection::read_write);
    REQUIRE(::ftruncate(object.get(), page_bytes) == 0);
    CHECK_FALSE(mapping.populate(2 * page_bytes, page_bytes, Protection::read_write));
  }

  TEST_CASE("another object can take the place of a mapping without moving it") {
    const Descriptor first = some_object(std::byte{1});
    const Descriptor second = some_object(std::byte{2});
    Mapping mapping = map_all(first, Protection::read_write);
    std::byte* const inside = mapping.data() + 3 * page_bytes;
    CHECK(*inside == std::byte{1});
    REQUIRE(remap_in_place(mapping.data(), mapping.size(), second.get(), false));
    CHECK(*inside == std::byte{2});
    *inside = std::byte{7};
    CHECK(byte_of(second, 3 * page_bytes) == std::byte{7});
    CHECK(byte_of(first, 3 * page_bytes) == std::byte{1});
  }

  TEST_CASE("what is written to a copy on write reaches nobody") {
    const Descriptor object = some_object(std::byte{1});
    Mapping mapping = map_all(object, Protection::read);
    const Mapping other = map_all(object, Protection::read);
    REQUIRE(remap_in_place(mapping.data(), mapping.size(), object.get(), true));
    mapping.data()[0] = std::byte{7};
    CHECK(mapping.data()[0] == std::byte{7});
    CHECK(other.data()[0] == std::byte{1});
    CHECK(byte_of(object, 0) == std::byte{1});
  }

  TEST_CASE("what cannot take the place of a mapping says so") {
    const Descriptor object = some_object();
    const Descriptor read_only = reopen_read_only(object).value();
    Mapping mapping = map_all(object, Protection::read_write);
    CHECK_FALSE(remap_in_place(mapping.data(), mapping.size(), read_only.get(), false));
    CHECK_FALSE(remap_in_place(mapping.data(), mapping.size(), -1, false));
  }
}

}  // namespace
}  // namespace forebay::shm
