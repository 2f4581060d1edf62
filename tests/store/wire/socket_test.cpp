// SPDX-License-Identifier: Apache-2.0
#include "store/wire/socket.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/child_process.h"
#include "tests/support/temp_dir.h"

namespace forebay::wire {
namespace {

using Clock = std::chrono::steady_clock;
using Kind = Received::Kind;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

struct Pair {
  Pair() {
    auto ends = connected_pair();
    REQUIRE(ends);
    ours = std::move(ends->first);
    theirs = std::move(ends->second);
  }
  Received receive(std::size_t descriptors_expected = 0) {
    return receive_frame(theirs.get(), buffer, descriptors_expected);
  }
  std::string received_text(const Received& received) const {
    return {reinterpret_cast<const char*>(buffer.data()), received.bytes};
  }
  Descriptor ours;
  Descriptor theirs;
  std::vector<std::byte> buffer = std::vector<std::byte>(1000);
};

// A pipe whose writing end can be sent away: when all copies of it are closed, the reading end says
// so.
struct Pipe {
  Pipe() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    out = Descriptor(ends[0]);
    in = Descriptor(ends[1]);
  }
  bool closed_everywhere() {
    in.reset();
    char byte = 0;
    return ::read(out.get(), &byte, 1) == 0;
  }
  Descriptor out;
  Descriptor in;
};

// As a peer that does not keep to our limits would send it.
void send_raw(int socket, std::size_t bytes, const std::vector<int>& descriptors) {
  std::vector<char> data(bytes, 'x');
  iovec part{data.data(), data.size()};
  std::vector<char> control(CMSG_SPACE(sizeof(int) * descriptors.size()));
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
    std::memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
  }
  REQUIRE(::sendmsg(socket, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes));
}

void fill(const Descriptor& socket) {
  const std::vector<std::byte> frame(1000);
  while (send_frame(socket.get(), frame, {}) == Sent::all) {
  }
}

TEST_SUITE("socket") {
  TEST_CASE("whoever sees a socket can connect to it") {
    const test::TempDir directory;
    const std::string path = directory / "s";
    constexpr int rounds = 3000;
    std::atomic<int> refused{0};
    std::atomic<int> seen{0};
    std::atomic<int> gone{0};
    std::thread looking([&] {
      for (int round = 1; round <= rounds; ++round) {
        while (::access(path.c_str(), F_OK) != 0) {
        }
        if (!connect_to(path, Clock::now() + std::chrono::seconds(5))) ++refused;
        seen = round;
        while (gone != round) std::this_thread::yield();
      }
    });
    for (int round = 1; round <= rounds; ++round) {
      const auto listener = listen_at(path);
      CHECK(listener.has_value());
      while (seen != round) std::this_thread::yield();
      CHECK(!std::filesystem::exists(path + "~"));
      ::unlink(path.c_str());
      gone = round;
    }
    looking.join();
    CHECK(refused == 0);
  }

  TEST_CASE("frames arrive whole, one at a time and in order") {
    Pair pair;
    for (const char* text : {"one", "two-two", "three"})
      CHECK(send_frame(pair.ours.get(), bytes_of(text), {}) == Sent::all);
    for (const char* text : {"one", "two-two", "three"}) {
      const Received received = pair.receive();
      CHECK(received.kind == Kind::frame);
      CHECK(pair.received_text(received) == text);
      CHECK(received.descriptors.empty());
    }
    CHECK(pair.receive().kind == Kind::nothing);
  }

  TEST_CASE("the largest frame there is passes") {
    Pair pair;
    const std::vector<std::byte> frame(frame_bytes_max, std::byte{7});
    pair.buffer.resize(frame_bytes_max + 1);
    REQUIRE(send_frame(pair.ours.get(), frame, {}) == Sent::all);
    const Received received = pair.receive();
    CHECK(received.kind == Kind::frame);
    CHECK(received.bytes == frame_bytes_max);
    CHECK(pair.buffer[frame_bytes_max - 1] == std::byte{7});
  }

  TEST_CASE("a frame that is larger than the buffer is malformed, and the next one is not") {
    Pair pair;
    send_raw(pair.ours.get(), pair.buffer.size() + 1, {});
    CHECK(send_frame(pair.ours.get(), bytes_of("next"), {}) == Sent::all);
    CHECK(pair.receive().kind == Kind::malformed);
    const Received received = pair.receive();
    CHECK(received.kind == Kind::frame);
    CHECK(pair.received_text(received) == "next");
  }

  TEST_CASE("a frame that just fits into the buffer is a frame") {
    Pair pair;
    send_raw(pair.ours.get(), pair.buffer.size(), {});
    const Received received = pair.receive();
    CHECK(received.kind == Kind::frame);
    CHECK(received.bytes == pair.buffer.size());
  }

  TEST_CASE("descriptors arrive with their frame, work, and are kept from other programs") {
    Pair pair;
    Pipe first;
    Pipe second;
    const int descriptors[] = {first.in.get(), second.in.get()};
    REQUIRE(send_frame(pair.ours.get(), bytes_of("two pipes"), descriptors) == Sent::all);
    const Received received = pair.receive(2);
    CHECK(received.kind == Kind::frame);
    CHECK(pair.received_text(received) == "two pipes");
    REQUIRE(received.descriptors.size() == 2);
    for (const Descriptor& descriptor : received.descriptors)
      CHECK((::fcntl(descriptor.get(), F_GETFD) & FD_CLOEXEC) != 0);
    REQUIRE(::write(received.descriptors[1].get(), "2", 1) == 1);
    REQUIRE(::write(received.descriptors[0].get(), "1", 1) == 1);
    char byte = 0;
    CHECK((::read(first.out.get(), &byte, 1) == 1 && byte == '1'));
    CHECK((::read(second.out.get(), &byte, 1) == 1 && byte == '2'));
  }

  TEST_CASE("as many descriptors as a message may have arrive in order") {
    Pair pair;
    std::array<Pipe, descriptors_max> pipes;
    std::vector<int> descriptors;
    for (const Pipe& pipe : pipes) descriptors.push_back(pipe.in.get());
    REQUIRE(send_frame(pair.ours.get(), bytes_of("all"), descriptors) == Sent::all);
    const Received received = pair.receive(descriptors_max);
    REQUIRE(received.descriptors.size() == descriptors_max);
    for (std::size_t i = 0; i < descriptors_max; ++i) {
      struct stat sent {};
      struct stat arrived {};
      REQUIRE(::fstat(descriptors[i], &sent) == 0);
      REQUIRE(::fstat(received.descriptors[i].get(), &arrived) == 0);
      CHECK(sent.st_ino == arrived.st_ino);
    }
  }

  TEST_CASE("descriptors that nobody asked for make the frame malformed and are closed") {
    // 1 where none is expected; a few more than fit into a message; more than there is room for.
    for (const std::size_t count : {1U, 5U, 16U, 40U, 253U}) {
      Pair pair;
      Pipe pipe;
      send_raw(pair.ours.get(), 10, std::vector<int>(count, pipe.in.get()));
      const Received received = pair.receive(count == 1 ? 0 : descriptors_max);
      CHECK(received.kind == Kind::malformed);
      CHECK(received.descriptors.empty());
      CHECK(pipe.closed_everywhere());
    }
  }

  TEST_CASE("the descriptors of a frame that was cut are closed") {
    Pair pair;
    Pipe pipe;
    send_raw(pair.ours.get(), pair.buffer.size() + 1, {pipe.in.get()});
    CHECK(pair.receive(descriptors_max).kind == Kind::malformed);
    CHECK(pipe.closed_everywhere());
  }

  TEST_CASE("a received descriptor is closed by who lets go of it") {
    Pair pair;
    Pipe pipe;
    const int descriptor[] = {pipe.in.get()};
    REQUIRE(send_frame(pair.ours.get(), bytes_of("x"), descriptor) == Sent::all);
    { const Received received = pair.receive(1); }
    CHECK(pipe.closed_everywhere());
  }

  TEST_CASE("a socket that asks for credentials gets them from the kernel") {
    Pair pair;
    const int yes = 1;
    REQUIRE(::setsockopt(pair.theirs.get(), SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes) == 0);
    Pipe pipe;
    const int descriptor[] = {pipe.in.get()};
    REQUIRE(send_frame(pair.ours.get(), bytes_of("x"), descriptor) == Sent::all);
    const Received received = pair.receive(1);
    REQUIRE(received.credentials);
    CHECK(received.credentials->pid == ::getpid());
    CHECK(received.credentials->uid == ::getuid());
    CHECK(received.descriptors.size() == 1);
  }

  TEST_CASE("a peer that has gone is told from one that says nothing") {
    Pair pair;
    CHECK(pair.receive().kind == Kind::nothing);
    CHECK(send_frame(pair.ours.get(), bytes_of("last words"), {}) == Sent::all);
    pair.ours.reset();
    CHECK(pair.receive().kind == Kind::frame);
    CHECK(pair.receive().kind == Kind::closed);
  }

  TEST_CASE("an empty frame, which nobody sends in good faith, ends the connection") {
    Pair pair;
    send_raw(pair.ours.get(), 0, {});
    CHECK(pair.receive().kind == Kind::closed);
  }

  TEST_CASE("sending to a peer that has gone is closed, and no signal") {
    Pair pair;
    pair.theirs.reset();
    CHECK(send_frame(pair.ours.get(), bytes_of("x"), {}) == Sent::closed);
    const auto sent = send_frame_by(pair.ours.get(), bytes_of("x"), Clock::now());
    REQUIRE_FALSE(sent);
    CHECK(sent.error().is(Errc::disconnected));
  }

  TEST_CASE("a peer that does not read blocks nobody, and the deadline ends the attempt") {
    Pair pair;
    fill(pair.ours);
    CHECK(send_frame(pair.ours.get(), bytes_of(std::string(1000, 'x')), {}) == Sent::would_block);
    const auto late = send_frame_by(pair.ours.get(), bytes_of("x"), Clock::now());
    REQUIRE_FALSE(late);
    CHECK(late.error().is(Errc::timed_out));
    CHECK_FALSE(wait_writable(pair.ours.get(), Clock::now()));
  }

  TEST_CASE("a frame that had no room is sent as soon as the peer reads") {
    Pair pair;
    fill(pair.ours);
    std::thread reader([&pair] {
      while (wait_readable(pair.theirs.get(), Clock::now() + std::chrono::seconds(20))) {
        const Received received = pair.receive();
        if (received.kind == Kind::frame && pair.received_text(received) == "at last") return;
      }
    });
    CHECK(send_frame_by(pair.ours.get(), bytes_of("at last"),
                        Clock::now() + std::chrono::seconds(20)));
    reader.join();
    CHECK(pair.receive().kind == Kind::nothing);
  }

  TEST_CASE("waiting for a frame ends with the frame, with the peer or with the deadline") {
    Pair pair;
    CHECK_FALSE(wait_readable(pair.theirs.get(), Clock::now()));
    CHECK_FALSE(wait_readable(pair.theirs.get(), Clock::now() - std::chrono::hours(1)));
    CHECK_FALSE(wait_readable(pair.theirs.get(), Clock::now() + std::chrono::milliseconds(1)));
    CHECK(send_frame(pair.ours.get(), bytes_of("x"), {}) == Sent::all);
    CHECK(wait_readable(pair.theirs.get(), Clock::now()));
    CHECK(wait_readable(pair.theirs.get(), Clock::time_point::max()));
    (void)pair.receive();
    pair.ours.reset();
    CHECK(wait_readable(pair.theirs.get(), Clock::time_point::max()));
  }

  TEST_CASE("what listens is for its owner alone, from the first moment") {
    test::TempDir directory;
    const mode_t mask = ::umask(0);
    const auto listener = listen_at(directory / "s");
    CHECK(::umask(mask) == 0);  // and the process's own mask is as it was
    REQUIRE(listener);
    struct stat status {};
    REQUIRE(::stat((directory / "s").c_str(), &status) == 0);
    CHECK(S_ISSOCK(status.st_mode));
    CHECK((status.st_mode & 0777) == 0600);
  }

  TEST_CASE("who connects is connected to who listens") {
    test::TempDir directory;
    const auto listener = listen_at(directory / "s");
    REQUIRE(listener);
    const auto client = connect_to(directory / "s", Clock::now());
    REQUIRE(client);
    const Descriptor served(::accept4(listener->get(), nullptr, nullptr, SOCK_NONBLOCK));
    REQUIRE(served);
    CHECK(send_frame(client->get(), bytes_of("hello"), {}) == Sent::all);
    std::array<std::byte, 100> buffer{};
    CHECK(receive_frame(served.get(), buffer, 0).bytes == 5);
  }

  TEST_CASE("nobody listens where there is something already") {
    test::TempDir directory;
    const auto first = listen_at(directory / "s");
    REQUIRE(first);
    const auto second = listen_at(directory / "s");
    REQUIRE_FALSE(second);
    CHECK(second.error().code.value() == EADDRINUSE);
    CHECK(connect_to(directory / "s", Clock::now()));
  }

  TEST_CASE("a daemon that cannot be reached is disconnected, with path and reason") {
    test::TempDir directory;
    const std::string path = directory / "s";
    auto refused = connect_to(path, Clock::now());
    REQUIRE_FALSE(refused);
    CHECK(refused.error().is(Errc::disconnected));
    CHECK(refused.error().detail.find(path) != std::string::npos);
    CHECK(refused.error().detail.find("no such socket") != std::string::npos);

    { const auto listener = listen_at(path); }  // what a dead daemon leaves
    refused = connect_to(path, Clock::now());
    REQUIRE_FALSE(refused);
    CHECK(refused.error().is(Errc::disconnected));
    CHECK(refused.error().detail.find("nobody listens") != std::string::npos);
  }

  TEST_CASE("a daemon that accepts nobody lets the deadline pass") {
    test::TempDir directory;
    const std::string path = directory / "s";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    const Descriptor listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
            0);
    REQUIRE(::listen(listener.get(), 0) == 0);
    std::vector<Descriptor> waiting;
    while (true) {
      auto client = connect_to(path, Clock::now());
      if (!client) {
        CHECK(client.error().is(Errc::disconnected));
        CHECK(client.error().detail.find("does not answer") != std::string::npos);
        break;
      }
      REQUIRE(waiting.size() < 100);
      waiting.push_back(std::move(*client));
    }
    CHECK_FALSE(waiting.empty());
    // As soon as somebody is accepted, there is room for who waits.
    std::thread daemon([&listener] { Descriptor(::accept(listener.get(), nullptr, nullptr)); });
    CHECK(connect_to(path, Clock::now() + std::chrono::seconds(20)));
    daemon.join();
  }

  TEST_CASE("a socket of another user's is denied") {
    // Root may connect to anything; only it can become somebody who may not.
    if (::geteuid() != 0) return;
    test::TempDir directory;
    const auto listener = listen_at(directory / "s");
    REQUIRE(listener);
    test::ChildProcess child([&directory](test::Moments&) {
      test::require(::setuid(65534) == 0, "somebody else");
      const auto refused = connect_to(directory / "s", Clock::now());
      test::require(!refused && refused.error().is(Errc::denied), "denied");
    });
    CHECK(child.join() == 0);
  }

  TEST_CASE("a path that is too long for a socket is refused with its length and the limit") {
    test::TempDir directory;
    constexpr std::size_t longest = sizeof(sockaddr_un::sun_path) - 1;
    std::string path = directory.path() + "/";
    while (path.size() + 20 < longest) path += "subdirectory/";
    std::filesystem::create_directories(path);
    path.append(longest - path.size(), 's');
    {
      const auto listener = listen_at(path);
      REQUIRE(listener);
      CHECK(connect_to(path, Clock::now()));
    }
    path += 's';
    for (const std::string& bad : {path, std::string(5000, 'x'), std::string()}) {
      const auto listener = listen_at(bad);
      REQUIRE_FALSE(listener);
      CHECK(listener.error().is(Errc::bad_argument));
      CHECK(listener.error().detail.find(std::to_string(bad.size())) != std::string::npos);
      CHECK(listener.error().detail.find(std::to_string(longest)) != std::string::npos);
      const auto client = connect_to(bad, Clock::now());
      REQUIRE_FALSE(client);
      CHECK(client.error().is(Errc::bad_argument));
    }
  }

  TEST_CASE("both ends of a connected pair are closed on exec and block nobody") {
    Pair pair;
    for (const int end : {pair.ours.get(), pair.theirs.get()}) {
      CHECK((::fcntl(end, F_GETFD) & FD_CLOEXEC) != 0);
      CHECK((::fcntl(end, F_GETFL) & O_NONBLOCK) != 0);
    }
  }
}

}  // namespace
}  // namespace forebay::wire
