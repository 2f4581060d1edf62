// SPDX-License-Identifier: Apache-2.0
// Both ends of the plain-TCP data plane.
#include "spill/pool/tcp_data_link.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "spill/pool/socket.h"
#include "spill/pool/tcp_data_frames.h"
#include "spill/pool/tcp_data_server.h"
#include "tests/spill/support/tier_calls.h"
#include "tests/support/random.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::test;
using namespace std::chrono_literals;

namespace {

using Bytes = std::vector<std::byte>;
constexpr LinkToken token{1, 2, 3};

struct Plane {
  explicit Plane(std::size_t size = 8 << 20) : arena(size) {
    server = std::move(TcpDataServer::listen("127.0.0.1", 0).value());
    key = server->expose(arena, SlabAccess::read_write).value();
    server->admit(token);
  }
  std::unique_ptr<DataLink> connect(const LinkToken& shown = token) const {
    return std::move(
        TcpDataLink::connect({.host = "127.0.0.1", .address = server->address(), .token = shown})
            .value());
  }
  Bytes arena;
  std::unique_ptr<DataServer> server;
  SlabKey key;
};

Result<void> write_now(DataLink& link, const SlabKey& key, std::uint64_t offset,
                       std::vector<std::span<const std::byte>> parts) {
  Answer<void> answer;
  link.write(key, offset, std::move(parts), soon(), answer.done());
  return answer.await();
}
Result<void> read_now(DataLink& link, const SlabKey& key, std::uint64_t offset,
                      std::span<std::byte> into) {
  Answer<void> answer;
  link.read(key, offset, into, soon(), answer.done());
  return answer.await();
}
Bytes random_bytes(Random& random, std::size_t size) {
  Bytes bytes(size);
  for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
    const std::uint64_t next = random.next();
    std::memcpy(bytes.data() + at, &next, std::min(sizeof next, size - at));
  }
  return bytes;
}

// A data port of which nobody takes anything.
struct Silent {
  pool::Listening listening = std::move(pool::listen_at({.host = "127.0.0.1"}).value());
  Descriptor accept() const {
    pollfd ready{.fd = listening.socket.get(), .events = POLLIN, .revents = 0};
    REQUIRE(::poll(&ready, 1, 10000) == 1);
    return Descriptor(::accept(listening.socket.get(), nullptr, nullptr));
  }
  std::unique_ptr<DataLink> connect() const {
    const auto port = std::as_bytes(std::span(&listening.port, 1));
    return std::move(TcpDataLink::connect({.host = "127.0.0.1",
                                           .address = {port.begin(), port.end()},
                                           .token = token})
                         .value());
  }
};

void welcome(const Descriptor& socket) {
  pool::LinkOpening opening;
  REQUIRE(::recv(socket.get(), &opening, sizeof opening, MSG_WAITALL) == sizeof opening);
  const pool::DataHead head{.op = pool::DataOp::welcome};
  REQUIRE(::send(socket.get(), &head, sizeof head, 0) == sizeof head);
}

}  // namespace

TEST_SUITE("tcp data link") {
  TEST_CASE("what is written in many parts is in the arena when it is acknowledged") {
    Random random("parts");
    Plane plane;
    const auto link = plane.connect();
    for (int round = 0; round < 30; ++round) {
      const Bytes source = random_bytes(random, 1 + random.below(3 << 20));
      const std::uint64_t offset = random.below(4 << 20);
      std::vector<std::span<const std::byte>> parts;
      for (std::size_t at = 0; at < source.size();) {
        const std::size_t size = std::min<std::size_t>(random.below(300000), source.size() - at);
        parts.push_back(std::span(source).subspan(at, size));
        at += size;
      }
      REQUIRE(write_now(*link, plane.key, offset, parts).has_value());
      CHECK(std::memcmp(plane.arena.data() + offset, source.data(), source.size()) == 0);
      Bytes back(source.size());
      REQUIRE(read_now(*link, plane.key, offset, back).has_value());
      CHECK(std::memcmp(back.data(), source.data(), source.size()) == 0);
    }
  }

  TEST_CASE("many operations at a time, of several links, each end once with their own bytes") {
    Plane plane(32 << 20);
    plane.server->admit({4});
    std::vector<std::unique_ptr<DataLink>> links;
    links.push_back(plane.connect());
    links.push_back(plane.connect({4}));
    Random random("many");
    const Bytes content = random_bytes(random, plane.arena.size());
    std::memcpy(plane.arena.data(), content.data(), content.size());
    std::vector<Bytes> intos(300);
    std::vector<Answer<void>> answers(300);
    std::vector<std::uint64_t> offsets;
    for (std::size_t i = 0; i < intos.size(); ++i) {
      intos[i].resize(random.chance(0.1) ? 1 + random.below(3 << 20) : 1 + random.below(5000));
      offsets.push_back(random.between(0, plane.arena.size() - intos[i].size()));
      links[i % 2]->read(plane.key, offsets[i], intos[i], soon(), answers[i].done());
    }
    for (std::size_t i = 0; i < intos.size(); ++i) {
      REQUIRE(answers[i].await().has_value());
      CHECK(answers[i].times() == 1);
      CHECK(std::memcmp(intos[i].data(), plane.arena.data() + offsets[i], intos[i].size()) == 0);
    }
  }

  TEST_CASE("wrong keys, bounds and rights are denied, end that link, and no other") {
    Plane plane;
    plane.server->admit({4});
    const auto other = plane.connect({4});
    const SlabKey reading =
        plane.server->expose(std::span(plane.arena).first(4096), SlabAccess::read).value();
    Bytes bytes(4096, std::byte{0x77});
    const auto link = plane.connect();
    const auto denied = [&](const Result<void>& result) {
      REQUIRE_FALSE(result.has_value());
      CHECK(result.error().is(Errc::denied));
    };
    SUBCASE("another key") { denied(write_now(*link, {.key = plane.key.key ^ 1}, 0, {bytes})); }
    SUBCASE("beyond the end") {
      denied(read_now(*link, plane.key, plane.arena.size() - 4095, bytes));
    }
    SUBCASE("far beyond the end") { denied(read_now(*link, plane.key, ~0ULL - 5, bytes)); }
    SUBCASE("a write where there is only reading") {
      REQUIRE(read_now(*link, reading, 0, bytes).has_value());
      denied(write_now(*link, reading, 0, {bytes}));
    }
    SUBCASE("a key that was withdrawn") {
      plane.server->withdraw(reading);
      denied(read_now(*link, reading, 0, bytes));
    }
    CHECK_FALSE(link->is_open());
    CHECK(read_now(*link, plane.key, 0, bytes).error().is(Errc::tier_down));
    CHECK(std::ranges::count(plane.arena, std::byte{0x77}) == 0);
    CHECK(read_now(*other, plane.key, 0, bytes).has_value());
  }

  TEST_CASE("a token is good for one link, and none once it is dismissed") {
    Plane plane;
    Bytes bytes(10);
    // Denied, or down when the link had ended before it was asked.
    const auto refused = [&](DataLink& link) {
      const auto got = read_now(link, plane.key, 0, bytes);
      return !got && (got.error().is(Errc::denied) || got.error().is(Errc::tier_down)) &&
             !link.is_open();
    };
    const auto stranger = plane.connect({9, 9});
    CHECK(refused(*stranger));
    const auto link = plane.connect();
    CHECK(read_now(*link, plane.key, 0, bytes).has_value());
    const auto second = plane.connect();
    CHECK(refused(*second));
    CHECK(read_now(*link, plane.key, 0, bytes).has_value());
    CHECK(plane.server->dismiss(token));
    CHECK_FALSE(read_now(*link, plane.key, 0, bytes).has_value());
    const auto third = plane.connect();
    CHECK(refused(*third));
  }

  TEST_CASE("a peer that takes nothing: operations time out, and close answers the rest at once") {
    const Silent silent;
    const auto link = silent.connect();
    const auto socket = silent.accept();
    welcome(socket);
    Bytes into(1 << 20, std::byte{1});
    const Bytes source(32 << 20);
    Answer<void> late;
    Answer<void> open;
    Answer<void> writing;
    link->read({}, 0, into, in(50ms), late.done());
    link->read({}, 0, std::span(into).first(10), soon(), open.done());
    link->write({}, 0, {source}, in(50ms), writing.done());
    CHECK(late.await().error().is(Errc::timed_out));
    CHECK(writing.await().error().is(Errc::timed_out));
    CHECK(open.times() == 0);
    link->close();
    CHECK(open.times() == 1);
    CHECK(open.await().error().is(Errc::tier_down));
    CHECK(late.times() == 1);
    CHECK((into == Bytes(1 << 20, std::byte{1})));
  }

  TEST_CASE("bytes that come after the deadline reach nobody, and the link goes on") {
    const Silent silent;
    const auto link = silent.connect();
    const auto socket = silent.accept();
    welcome(socket);
    Bytes into(1000, std::byte{1});
    Answer<void> late;
    link->read({.key = 5}, 0, into, in(100ms), late.done());
    pool::DataHead asked;
    REQUIRE(::recv(socket.get(), &asked, sizeof asked, MSG_WAITALL) == sizeof asked);
    asked.op = pool::DataOp::data;
    const Bytes answer(1000, std::byte{2});
    // Half of it before, half of it after.
    REQUIRE(::send(socket.get(), &asked, sizeof asked, 0) == sizeof asked);
    REQUIRE(::send(socket.get(), answer.data(), 500, 0) == 500);
    CHECK(late.await().error().is(Errc::timed_out));
    std::ranges::fill(into, std::byte{3});
    REQUIRE(::send(socket.get(), answer.data(), 500, 0) == 500);
    Bytes next(10);
    Answer<void> well;
    link->read({.key = 5}, 0, next, soon(), well.done());
    REQUIRE(::recv(socket.get(), &asked, sizeof asked, MSG_WAITALL) == sizeof asked);
    asked.op = pool::DataOp::data;
    REQUIRE(::send(socket.get(), &asked, sizeof asked, 0) == sizeof asked);
    REQUIRE(::send(socket.get(), answer.data(), 10, 0) == 10);
    CHECK(well.await().has_value());
    CHECK(next[9] == std::byte{2});
    CHECK((into == Bytes(1000, std::byte{3})));
  }

  TEST_CASE("what of a late write has begun is filled up, and not from its memory") {
    const Silent silent;
    const auto link = silent.connect();
    const auto socket = silent.accept();
    welcome(socket);
    Bytes source(64 << 20, std::byte{1});
    Answer<void> late;
    link->write({.key = 5}, 0, {source}, in(100ms), late.done());
    CHECK(late.await().error().is(Errc::timed_out));
    // Quickly, also where every access is watched: a peer that takes nothing for two seconds is gone.
    std::memset(source.data(), 2, source.size());
    // Whole pieces come, and then what is asked afterwards.
    Answer<void> after;
    Bytes byte(1);
    link->read({.key = 5}, 0, byte, soon(), after.done());
    std::uint64_t pieces = 0;
    Bytes piece(pool::piece_bytes_max);
    while (true) {
      pool::DataHead head;
      REQUIRE(::recv(socket.get(), &head, sizeof head, MSG_WAITALL) == sizeof head);
      if (head.op == pool::DataOp::read) break;
      REQUIRE(head.op == pool::DataOp::write);
      REQUIRE(::recv(socket.get(), piece.data(), head.length, MSG_WAITALL) ==
              static_cast<ssize_t>(head.length));
      CHECK(std::memchr(piece.data(), 2, piece.size()) == nullptr);
      head.op = pool::DataOp::written;
      REQUIRE(::send(socket.get(), &head, sizeof head, 0) == sizeof head);
      ++pieces;
    }
    CHECK(pieces > 0);
    CHECK(pieces < 64);
    CHECK(link->is_open());
  }

  TEST_CASE("whoever speaks garbage ends a link, on either side, and writes nowhere") {
    Random random("garbage");
    for (int round = 0; round < 60; ++round) {
      const Silent silent;
      const auto link = silent.connect();
      const auto socket = silent.accept();
      Bytes into(4096, std::byte{1});
      Answer<void> answer;
      const bool polite = random.chance(0.7);
      if (polite) welcome(socket);
      link->read({}, 0, into, in(5000ms), answer.done());
      Bytes garbage = random_bytes(random, 1 + random.below(3000));
      if (polite && garbage.size() > 32) {
        // With a sound start, now and then.
        pool::DataHead head{.op = static_cast<pool::DataOp>(1 + random.below(7)),
                            .length = random.below(10000),
                            .number = random.below(3),
                            .offset = random.below(5000)};
        std::memcpy(garbage.data(), &head, sizeof head);
      }
      (void)::send(socket.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
      ::shutdown(socket.get(), SHUT_WR);
      (void)answer.await();
      CHECK(answer.times() == 1);
    }
    Plane plane;
    for (int round = 0; round < 60; ++round) {
      std::uint16_t port = 0;
      std::memcpy(&port, plane.server->address().data(), sizeof port);
      auto socket = pool::start_to_connect({.host = "127.0.0.1", .port = port});
      REQUIRE(socket.has_value());
      pollfd ready{.fd = socket->get(), .events = POLLOUT, .revents = 0};
      REQUIRE(::poll(&ready, 1, 5000) == 1);
      const LinkToken shown{static_cast<std::uint8_t>(round), 77};
      plane.server->admit(shown);
      pool::LinkOpening opening{.token = shown};
      (void)::send(socket->get(), &opening, sizeof opening, MSG_NOSIGNAL);
      const Bytes garbage = random_bytes(random, 1 + random.below(3000));
      (void)::send(socket->get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
      ::shutdown(socket->get(), SHUT_WR);
      char c = 0;
      ready.events = POLLIN;
      ssize_t got = 1;
      while (got > 0) {
        REQUIRE(::poll(&ready, 1, 5000) == 1);
        got = ::recv(socket->get(), &c, 1, 0);
      }
    }
    Bytes bytes(10);
    CHECK(read_now(*plane.connect(), plane.key, 0, bytes).has_value());
    CHECK(std::ranges::all_of(plane.arena, [](std::byte byte) { return byte == std::byte{}; }));
  }
}
