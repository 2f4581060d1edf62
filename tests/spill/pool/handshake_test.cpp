// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/handshake.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "tests/support/random.h"
#include "tests/support/temp_dir.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::spill::pool;
using namespace forebay::test;

namespace {

ClusterKey key_of(std::uint8_t byte) {
  return {.bytes = std::vector<std::uint8_t>(32, byte), .secured = true};
}
const StoreUuid store{1, 2, 3};
const std::vector<std::string> transports{"plain tcp"};

}  // namespace

TEST_SUITE("pool handshake") {
  TEST_CASE("two that have one key agree on who they are and on fresh session keys") {
    Digest last{};
    for (int round = 0; round < 2; ++round) {
      ClientHandshake client(key_of(1), store, transports);
      ServerHandshake server(key_of(1), "plain tcp");
      auto hello = server.answer(client.hello());
      REQUIRE(hello.has_value());
      auto proof = client.answer(*hello);
      REQUIRE(proof.has_value());
      REQUIRE(server.finish(*proof).has_value());
      CHECK((server.client().store == store));
      CHECK(client.server().transport == "plain tcp");
      CHECK((client.keys().to_server == server.keys().to_server));
      CHECK((client.keys().to_client == server.keys().to_client));
      CHECK((client.keys().links == server.keys().links));
      CHECK((client.keys().to_server != client.keys().to_client));
      const auto& links = client.keys().links;
      CHECK(std::set(links.begin(), links.end()).size() == data_links);
      CHECK((client.keys().to_server != last));
      last = client.keys().to_server;
    }
  }

  TEST_CASE("another key is denied on both sides") {
    ClientHandshake client(key_of(1), store, transports);
    ServerHandshake server(key_of(2), "plain tcp");
    auto hello = server.answer(client.hello());
    REQUIRE(hello.has_value());
    CHECK(client.answer(*hello).error().is(Errc::denied));
    // A client that goes on all the same.
    CHECK(server.finish(pack(ClientProof{})).error().is(Errc::denied));
  }

  TEST_CASE("one side with a key and one without deny each other") {
    ClientHandshake client(ClusterKey::insecure(), store, transports);
    ServerHandshake server(key_of(2), "plain tcp");
    CHECK(server.answer(client.hello()).error().is(Errc::denied));
    ServerHandshake open(ClusterKey::insecure(), "plain tcp");
    ClientHandshake secured(key_of(1), store, transports);
    CHECK(open.answer(secured.hello()).error().is(Errc::denied));
  }

  TEST_CASE("a recorded handshake proves nothing to the next pool") {
    ClientHandshake client(key_of(1), store, transports);
    ServerHandshake server(key_of(1), "plain tcp");
    auto hello = server.answer(client.hello());
    auto proof = client.answer(*hello);
    REQUIRE(server.finish(*proof).has_value());
    ServerHandshake next(key_of(1), "plain tcp");
    REQUIRE(next.answer(client.hello()).has_value());
    CHECK(next.finish(*proof).error().is(Errc::denied));
    // Nor does the pool's half to the next client.
    ClientHandshake later(key_of(1), store, transports);
    CHECK(later.answer(*hello).error().is(Errc::denied));
  }

  TEST_CASE("the pool's own proof, sent back, does not make a client of anybody") {
    ClientHandshake client(key_of(1), store, transports);
    ServerHandshake server(key_of(1), "plain tcp");
    auto hello = server.answer(client.hello());
    const auto said = unpack<ServerHello>(*hello);
    CHECK(server.finish(pack(ClientProof{.proof = said->proof})).error().is(Errc::denied));
  }

  TEST_CASE("no byte of either hello can be changed on the way") {
    Random random("hellos");
    for (int round = 0; round < 400; ++round) {
      ClientHandshake client(key_of(1), store, transports);
      ServerHandshake server(key_of(1), "plain tcp");
      auto first = client.hello();
      const bool ours = random.chance(0.5);
      if (ours) first[random.below(static_cast<std::uint32_t>(first.size()))] ^= std::byte{4};
      auto hello = server.answer(first);
      if (!hello) continue;
      if (!ours) (*hello)[random.below(static_cast<std::uint32_t>(hello->size()))] ^= std::byte{4};
      CHECK_FALSE(client.answer(*hello).has_value());
    }
  }

  TEST_CASE("a transport that only one side has is refused by name") {
    ClientHandshake client(key_of(1), store, {"tcp;ofi_rxm"});
    ServerHandshake server(key_of(1), "plain tcp");
    const auto answer = server.answer(client.hello());
    REQUIRE_FALSE(answer.has_value());
    CHECK(answer.error().is(Errc::layout_mismatch));
    CHECK(answer.error().detail.find("plain tcp") != std::string::npos);
  }
}

TEST_SUITE("pool key file") {
  TEST_CASE("a key that was made can be read, by its owner alone") {
    const TempDir directory;
    const std::string path = directory / "key";
    REQUIRE(make_key_file(path).has_value());
    CHECK_FALSE(make_key_file(path).has_value());
    const auto key = read_key_file(path);
    REQUIRE(key.has_value());
    CHECK(key->bytes.size() == 32);
    CHECK(key->secured);
    ::chmod(path.c_str(), 0400);
    CHECK(read_key_file(path).has_value());
    for (const mode_t mode : {0640U, 0604U, 0620U, 0644U, 0700U}) {
      ::chmod(path.c_str(), mode);
      const auto read = read_key_file(path);
      REQUIRE_FALSE(read.has_value());
      CHECK(read.error().is(Errc::denied));
      CHECK(read.error().detail.find(path) != std::string::npos);
    }
  }

  TEST_CASE("what is no key file is refused by name") {
    const TempDir directory;
    CHECK_FALSE(read_key_file(directory / "none").has_value());
    CHECK_FALSE(read_key_file(directory.path()).has_value());
    const std::string path = directory / "short";
    std::ofstream(path) << "123456789012345";
    ::chmod(path.c_str(), 0600);
    CHECK(read_key_file(path).error().is(Errc::bad_argument));
    std::ofstream(path, std::ios::app) << "6";
    CHECK(read_key_file(path).has_value());
    std::filesystem::create_symlink(path, directory / "link");
    CHECK(read_key_file(directory / "link").error().is(Errc::denied));
    REQUIRE(::mkfifo((directory / "pipe").c_str(), 0600) == 0);
    CHECK(read_key_file(directory / "pipe").error().is(Errc::denied));
  }
}
