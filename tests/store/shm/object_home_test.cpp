// SPDX-License-Identifier: Apache-2.0
// Both homes. What a process inherits from a keeper is read once, at its start, so all that
// concerns kept objects runs in children.
#include "store/shm/object_home.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "store/shm/layout.h"
#include "store/shm/mapping.h"
#include "tests/support/child_process.h"
#include "tests/support/random.h"
#include "tests/support/temp_dir.h"

namespace forebay::shm {
namespace {

using test::ChildProcess;
using test::Moments;
using test::require;

constexpr std::uint64_t object_bytes = 64 * page_bytes;

std::string fresh_store() {
  return "test-" + std::to_string(::getpid()) + "-" + std::to_string(std::random_device{}());
}

// The named objects of a store that ends with the test.
struct NamedStore {
  NamedStore() : name(fresh_store()), home(named_home(name)) {}
  ~NamedStore() {
    for (const std::string& object : home->list()) home->remove(object);
  }
  std::string path_of(const std::string& object) const {
    return "/dev/shm/forebay." + name + "." + object;
  }
  std::string name;
  std::unique_ptr<ObjectHome> home;
};

ino_t inode_of(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 ? status.st_ino : 0;
}

std::byte* map(const Descriptor& object, int rights) {
  void* const memory = ::mmap(nullptr, object_bytes, rights, MAP_SHARED, object.get(), 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

template <class T>
bool failed_with(const Result<T>& result, int number) {
  return !result && result.error().code == std::error_code(number, std::system_category());
}

// The socket on which a keeper hears of descriptors.
class FakeKeeper {
 public:
  FakeKeeper() : path_(directory_ / "notify") {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    const Descriptor low(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    socket_ = Descriptor(::fcntl(low.get(), F_DUPFD_CLOEXEC, 100));  // out of the way of `inherit`
    require(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
            "the keeper's socket");
    ::setenv("NOTIFY_SOCKET", path_.c_str(), 1);
  }

  struct Message {
    std::string text;
    Descriptor descriptor;
  };
  // What it was told, if anything.
  Message take() {
    std::array<char, 4096> text{};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    iovec part{text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t size = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    Message taken;
    if (size < 0) return taken;
    taken.text.assign(text.data(), static_cast<std::size_t>(size));
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(header), sizeof number);
      taken.descriptor = Descriptor(number);
    }
    return taken;
  }

 private:
  test::TempDir directory_;
  std::string path_;
  Descriptor socket_;
};

// Makes this child one that a keeper has started with these objects: from descriptor 3 on, which
// are somebody else's, so the child must have no more use for them.
void inherit(const std::vector<std::pair<std::string, int>>& kept) {
  std::string names;
  std::vector<int> copies;
  for (const auto& [name, descriptor] : kept) {
    copies.push_back(::fcntl(descriptor, F_DUPFD, 200));
    names += names.empty() ? name : ":" + name;
  }
  for (std::size_t i = 0; i < copies.size(); ++i) ::dup2(copies[i], static_cast<int>(3 + i));
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::setenv("LISTEN_FDS", std::to_string(kept.size()).c_str(), 1);
  ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
}

int run_in_child(const std::function<void()>& body) {
  ChildProcess child([&body](Moments&) { body(); });
  return child.join();
}

TEST_SUITE("object_home") {
  TEST_CASE("a named object is found again by its name, and is the same memory") {
    NamedStore store;
    const Descriptor made = store.home->create("index", object_bytes).value();
    const Descriptor found = named_home(store.name)->open("index").value();
    std::byte* const one = map(made, PROT_READ | PROT_WRITE);
    std::byte* const other = map(found, PROT_READ | PROT_WRITE);
    REQUIRE(one != nullptr);
    REQUIRE(other != nullptr);
    one[12345] = std::byte{7};
    CHECK(other[12345] == std::byte{7});
    ::munmap(one, object_bytes);
    ::munmap(other, object_bytes);
  }

  TEST_CASE("a new object has its address space, no memory, and no rights for others") {
    NamedStore store;
    const mode_t mask = ::umask(0);
    const Descriptor object = store.home->create("arena.0", object_bytes).value();
    ::umask(mask);
    struct stat status {};
    REQUIRE(::fstat(object.get(), &status) == 0);
    CHECK(status.st_size == static_cast<off_t>(object_bytes));
    CHECK((status.st_mode & 07777) == 0600);
    CHECK(backed_bytes(object) == 0);
    CHECK((::fcntl(object.get(), F_GETFD) & FD_CLOEXEC) != 0);
  }

  TEST_CASE("what is there under the name already is never adopted, whoever made it") {
    NamedStore store;
    REQUIRE(store.home->create("index", object_bytes));
    CHECK(failed_with(store.home->create("index", object_bytes), EEXIST));

    const Descriptor squatter(
        ::open(store.path_of("arena.0").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    REQUIRE(squatter);
    CHECK(failed_with(store.home->create("arena.0", object_bytes), EEXIST));
  }

  TEST_CASE("opening what is not there fails with ENOENT") {
    NamedStore store;
    CHECK(failed_with(store.home->open("index"), ENOENT));
    REQUIRE(store.home->create("index", object_bytes));
    CHECK(failed_with(store.home->open("inde"), ENOENT));
    CHECK(failed_with(named_home(fresh_store())->open("index"), ENOENT));
  }

  TEST_CASE("a link in an object's place is not followed") {
    NamedStore store;
    REQUIRE(store.home->create("index", object_bytes));
    REQUIRE(::symlink(store.path_of("index").c_str(), store.path_of("arena.0").c_str()) == 0);
    CHECK(failed_with(store.home->open("arena.0"), ELOOP));
    CHECK(failed_with(store.home->create("arena.0", object_bytes), EEXIST));
  }

  TEST_CASE("an object that belongs to another user is not opened") {
    NamedStore store;
    REQUIRE(store.home->create("index", object_bytes));
    constexpr uid_t nobody = 65534;
    // Only root can make the situation; everybody else meets EACCES before.
    if (::geteuid() != 0) return;
    REQUIRE(::chown(store.path_of("index").c_str(), nobody, nobody) == 0);
    CHECK(failed_with(store.home->open("index"), EPERM));
  }

  TEST_CASE("a home lists the objects of its own store, and a removed one is gone") {
    NamedStore store;
    NamedStore other;
    REQUIRE(store.home->create("index", object_bytes));
    REQUIRE(store.home->create("pins.17", object_bytes));
    REQUIRE(other.home->create("arena.0", object_bytes));
    std::vector<std::string> names = store.home->list();
    std::sort(names.begin(), names.end());
    CHECK(names == std::vector<std::string>{"index", "pins.17"});
    store.home->remove("pins.17");
    CHECK(store.home->list() == std::vector<std::string>{"index"});
    store.home->remove("pins.17");  // once more does no harm
    CHECK(other.home->list() == std::vector<std::string>{"arena.0"});
  }

  TEST_CASE("the memory of a removed object stays with who has it open") {
    NamedStore store;
    const Descriptor object = store.home->create("pins.1", object_bytes).value();
    std::byte* const memory = map(object, PROT_READ | PROT_WRITE);
    memory[0] = std::byte{3};
    store.home->remove("pins.1");
    CHECK(memory[0] == std::byte{3});
    // The name is free for another object, which is another memory.
    const Descriptor next = store.home->create("pins.1", object_bytes).value();
    CHECK(inode_of(next.get()) != inode_of(object.get()));
    ::munmap(memory, object_bytes);
  }

  TEST_CASE(
      "through a read-only copy of a descriptor nobody can write, map for writing or resize") {
    NamedStore store;
    const Descriptor object = store.home->create("index", object_bytes).value();
    const Descriptor copy = reopen_read_only(object).value();
    CHECK(inode_of(copy.get()) == inode_of(object.get()));
    CHECK((::fcntl(copy.get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(map(copy, PROT_READ | PROT_WRITE) == nullptr);
    CHECK(errno == EACCES);
    std::byte* const memory = map(copy, PROT_READ);
    REQUIRE(memory != nullptr);
    CHECK(::mprotect(memory, object_bytes, PROT_READ | PROT_WRITE) != 0);
    CHECK(::write(copy.get(), "x", 1) < 0);
    CHECK(::ftruncate(copy.get(), 0) != 0);
    CHECK(::fallocate(copy.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page_bytes) != 0);
    ::munmap(memory, object_bytes);
  }

  TEST_CASE("reserved memory is there before it is touched, and a punched range has none") {
    NamedStore store;
    const Descriptor object = store.home->create("arena.0", object_bytes).value();
    REQUIRE(reserve(object, 8 * page_bytes, 4 * page_bytes));
    CHECK(backed_bytes(object) == 4 * page_bytes);
    REQUIRE(reserve(object, 8 * page_bytes, 4 * page_bytes));  // twice is once
    CHECK(backed_bytes(object) == 4 * page_bytes);

    std::byte* const memory = map(object, PROT_READ | PROT_WRITE);
    std::memset(memory + 8 * page_bytes, 7, 4 * page_bytes);
    punch(object, 9 * page_bytes, 2 * page_bytes);
    CHECK(backed_bytes(object) == 2 * page_bytes);
    struct stat status {};
    REQUIRE(::fstat(object.get(), &status) == 0);
    CHECK(status.st_size == static_cast<off_t>(object_bytes));
    REQUIRE(reserve(object, 9 * page_bytes, 2 * page_bytes));
    CHECK(memory[8 * page_bytes] == std::byte{7});
    CHECK(memory[9 * page_bytes] == std::byte{0});
    CHECK(memory[11 * page_bytes - 1] == std::byte{0});
    CHECK(memory[11 * page_bytes] == std::byte{7});
    ::munmap(memory, object_bytes);
  }

  TEST_CASE("more memory than there is cannot be reserved, and ENOSPC says so") {
    const ShmSpace space = shm_space().value();
    CHECK(space.free_bytes <= space.total_bytes);
    if (space.total_bytes == 0) return;  // a file system without a limit has nothing to refuse
    NamedStore store;
    const std::uint64_t bytes = page_align(2 * space.total_bytes);
    const Descriptor object = store.home->create("arena.0", bytes).value();
    CHECK(failed_with(reserve(object, 0, bytes), ENOSPC));
    CHECK(backed_bytes(object) == 0);
  }

  TEST_CASE("the touched parts of a range are found, however they lie") {
    NamedStore store;
    const Descriptor object = store.home->create("pins.1", object_bytes).value();
    std::byte* const memory = map(object, PROT_READ | PROT_WRITE);
    std::vector<bool> touched(64);
    test::Random random("touched pages");
    for (int round = 0; round < 200; ++round) {
      const std::uint32_t page = random.below(64);
      if (random.chance(0.5)) {
        memory[page * page_bytes + random.below(page_bytes)] = std::byte{1};
        touched[page] = true;
      } else {
        punch(object, page * page_bytes, page_bytes);
        touched[page] = false;
      }
      const std::uint64_t first = random.below(64);
      const std::uint64_t end = first + random.below(static_cast<std::uint32_t>(65 - first));
      std::vector<bool> found(64);
      std::uint64_t before = 0;
      for (const Range& range :
           touched_ranges(object, {first * page_bytes, (end - first) * page_bytes})) {
        REQUIRE(range.bytes > 0);
        REQUIRE(range.offset >= before);
        REQUIRE(range.offset >= first * page_bytes);
        before = range.offset + range.bytes;
        REQUIRE(before <= end * page_bytes);
        for (std::uint64_t at = range.offset / page_bytes; at * page_bytes < before; ++at)
          found[at] = true;
      }
      for (std::uint64_t at = 0; at < 64; ++at)
        REQUIRE(found[at] == (touched[at] && at >= first && at < end));
    }
    ::munmap(memory, object_bytes);
  }

  TEST_CASE("an object that nobody has touched has no touched ranges") {
    NamedStore store;
    const Descriptor object = store.home->create("pins.1", object_bytes).value();
    CHECK(touched_ranges(object, {0, object_bytes}).empty());
  }

  TEST_CASE("a kept object cannot be cut, made longer or unsealed by a peer that may write to it") {
    CHECK(run_in_child([] {
            FakeKeeper keeper;
            const auto home = kept_home("some-store");
            const Descriptor object = home->create("arena.0", object_bytes).value();
            require(backed_bytes(object) == 0, "it has no memory yet");
            require(::ftruncate(object.get(), page_bytes) != 0 && errno == EPERM, "cut");
            require(::ftruncate(object.get(), 2 * object_bytes) != 0 && errno == EPERM, "longer");
            require(::fcntl(object.get(), F_ADD_SEALS, F_SEAL_WRITE) != 0, "no more seals");
            require(
                ::fcntl(object.get(), F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
                "exactly these seals");
            require(map(object, PROT_READ | PROT_WRITE) != nullptr, "but it can be written");
            const Descriptor copy = reopen_read_only(object).value();
            require(map(copy, PROT_READ | PROT_WRITE) == nullptr, "and not through its copy");
            require(reserve(object, 0, page_bytes).has_value(), "and given memory");
          }) == 0);
  }

  TEST_CASE("a kept object is handed to the keeper under its name, and taken back from it") {
    CHECK(run_in_child([] {
            FakeKeeper keeper;
            const auto home = kept_home("some-store");
            const Descriptor object = home->create("index", object_bytes).value();
            const FakeKeeper::Message stored = keeper.take();
            require(stored.text == "FDSTORE=1\nFDNAME=forebay.some-store.index", stored.text);
            require(inode_of(stored.descriptor.get()) == inode_of(object.get()),
                    "the keeper has the same memory");
            home->remove("index");
            const FakeKeeper::Message removed = keeper.take();
            require(removed.text == "FDSTOREREMOVE=1\nFDNAME=forebay.some-store.index",
                    removed.text);
            require(!removed.descriptor, "a removal needs no descriptor");
          }) == 0);
  }

  TEST_CASE("without a keeper nothing is kept, and the error says what to do") {
    CHECK(run_in_child([] {
            ::unsetenv("NOTIFY_SOCKET");
            const auto made = kept_home("some-store")->create("index", object_bytes);
            require(!made && made.error().is(Errc::bad_argument), "refused");
            require(made.error().detail.find("--supervise") != std::string::npos,
                    made.error().detail);
            ::setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
            require(failed_with(kept_home("some-store")->create("index", object_bytes), ENOENT),
                    "a keeper that is not there is an error, too");
            ::setenv("NOTIFY_SOCKET", std::string(200, 'x').c_str(), 1);
            require(!kept_home("some-store")->create("index", object_bytes), "too long a path");
          }) == 0);
  }

  TEST_CASE("a restarted daemon finds in its inheritance the objects of each store") {
    CHECK(run_in_child([] {
            FakeKeeper keeper;
            const Descriptor first(::memfd_create("first", MFD_CLOEXEC));
            const Descriptor second(::memfd_create("second", MFD_CLOEXEC));
            const ino_t first_inode = inode_of(first.get());
            const ino_t second_inode = inode_of(second.get());
            inherit({{"forebay.store-a.index", first.get()},
                     {"somebody-else", first.get()},
                     {"forebay.store-a.arena.0", second.get()},
                     {"forebay.store-b.index", second.get()}});
            const auto home = kept_home("store-a");
            std::vector<std::string> names = home->list();
            std::sort(names.begin(), names.end());
            require(names == std::vector<std::string>{"arena.0", "index"}, "all of its own");
            require(kept_stores() == std::vector<std::string>{"store-a", "store-b"},
                    "each store once");
            const Descriptor index = home->open("index").value();
            require(inode_of(index.get()) == first_inode, "the first");
            require((::fcntl(index.get(), F_GETFD) & FD_CLOEXEC) != 0, "not for others");
            require((::fcntl(3, F_GETFD) & FD_CLOEXEC) != 0, "nor the inherited one");
            require(inode_of(home->open("arena.0").value().get()) == second_inode, "the second");
            require(inode_of(kept_home("store-b")->open("index").value().get()) == second_inode,
                    "each under the name of its store");
            require(failed_with(home->open("pins.1"), ENOENT), "and nothing that was not kept");
            require(failed_with(home->create("index", object_bytes), EEXIST),
                    "what is kept is not made again");
            home->remove("index");
            require(failed_with(home->open("index"), ENOENT), "what is removed is gone");
            require(keeper.take().text == "FDSTOREREMOVE=1\nFDNAME=forebay.store-a.index",
                    "for the keeper, too");
            require(home->create("index", object_bytes).has_value(), "and can be made again");
          }) == 0);
  }

  TEST_CASE("what was meant for another process is not inherited") {
    CHECK(run_in_child([] {
            const Descriptor object(::memfd_create("some", MFD_CLOEXEC));
            inherit({{"forebay.store-a.index", object.get()}});
            ::setenv("LISTEN_PID", std::to_string(::getppid()).c_str(), 1);
            require(kept_home("store-a")->list().empty(), "nothing is listed");
            require(kept_stores().empty(), "no store is found");
          }) == 0);
  }
}

}  // namespace
}  // namespace forebay::shm
