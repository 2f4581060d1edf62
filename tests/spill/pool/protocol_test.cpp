// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/protocol.h"

#include <doctest/doctest.h>

#include "spill/pool/frames.h"
#include "tests/support/random.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::spill::pool;
using forebay::test::Random;

namespace {

CommitRequest commit_of_two() {
  TierItem item;
  item.key = {.store = {1, 2, 3}, .number = 7};
  item.place = {.incarnation = 8, .offset = 64, .size = 100, .slab = 3};
  item.crc32c = 99;
  item.label = {.name = "a name", .version = 5, .about = std::vector<std::byte>(30, std::byte{4})};
  CommitRequest request;
  request.items = {item, item};
  return request;
}

template <class Message>
void unpack_all_of(std::span<const std::byte> bytes, int& understood) {
  if (unpack<Message>(bytes)) ++understood;
}

}  // namespace

TEST_SUITE("pool protocol") {
  TEST_CASE("a message comes out as it went in, and not with a byte more or less") {
    const CommitRequest request = commit_of_two();
    auto bytes = pack(request);
    const auto back = unpack<CommitRequest>(bytes);
    REQUIRE(back.has_value());
    REQUIRE(back->items.size() == 2);
    CHECK(back->items[1].key == request.items[1].key);
    CHECK(back->items[1].place == request.items[1].place);
    CHECK(back->items[1].crc32c == 99);
    CHECK(back->items[1].label.name == "a name");
    CHECK((back->items[1].label.about == request.items[1].label.about));
    for (std::size_t size = 0; size < bytes.size(); ++size)
      CHECK_FALSE(unpack<CommitRequest>(std::span(bytes).first(size)).has_value());
    bytes.push_back(std::byte{0});
    CHECK_FALSE(unpack<CommitRequest>(bytes).has_value());
  }

  TEST_CASE("a count that cannot be is refused before anything is made of it") {
    auto bytes = pack(commit_of_two());
    for (std::size_t i = 0; i < 4; ++i) bytes[i] = std::byte{0xff};
    CHECK_FALSE(unpack<CommitRequest>(bytes).has_value());
  }

  TEST_CASE("mutated and random messages are refused or understood, and nothing else happens") {
    Random random("messages");
    const auto whole = pack(commit_of_two());
    int understood = 0;
    for (int round = 0; round < 20000; ++round) {
      auto bytes = whole;
      if (random.chance(0.5)) bytes.resize(random.below(static_cast<std::uint32_t>(bytes.size())));
      if (random.chance(0.3))
        for (auto& byte : bytes) byte = static_cast<std::byte>(random.next());
      for (std::uint32_t i = random.below(4); i > 0 && !bytes.empty(); --i)
        bytes[random.below(static_cast<std::uint32_t>(bytes.size()))] =
            static_cast<std::byte>(random.next());
      unpack_all_of<ClientHello>(bytes, understood);
      unpack_all_of<ServerHello>(bytes, understood);
      unpack_all_of<Welcome>(bytes, understood);
      unpack_all_of<AllocRequest>(bytes, understood);
      unpack_all_of<AllocAnswer>(bytes, understood);
      unpack_all_of<CommitRequest>(bytes, understood);
      unpack_all_of<FreeRequest>(bytes, understood);
      unpack_all_of<Outcomes>(bytes, understood);
      unpack_all_of<ListAnswer>(bytes, understood);
      unpack_all_of<FindAnswer>(bytes, understood);
      unpack_all_of<OpenAnswer>(bytes, understood);
    }
    CHECK(understood > 0);
  }

  TEST_CASE("frames come through in any pieces, in their order") {
    const Digest key{1, 2, 3};
    for (const bool secured : {false, true}) {
      FrameWriter writer;
      FrameReader reader;
      if (secured) {
        writer.secure(key);
        reader.secure(key);
      }
      std::vector<std::byte> stream;
      for (std::uint64_t number = 1; number <= 50; ++number) {
        const std::vector<std::byte> body(number * 17, static_cast<std::byte>(number));
        const auto frame = writer.frame(Kind::alloc, number, body);
        stream.insert(stream.end(), frame.begin(), frame.end());
      }
      std::uint64_t seen = 0;
      for (std::size_t at = 0; at < stream.size(); at += 13) {
        reader.feed(std::span(stream).subspan(at, std::min<std::size_t>(13, stream.size() - at)));
        while (true) {
          auto frame = reader.next();
          REQUIRE(frame.has_value());
          if (!*frame) break;
          CHECK((*frame)->number == ++seen);
          CHECK((*frame)->body.size() == seen * 17);
        }
      }
      CHECK(seen == 50);
    }
  }

  TEST_CASE("a frame that is changed, repeated, left out or of another session ends it") {
    const Digest key{1, 2, 3};
    const std::vector<std::byte> body(40, std::byte{5});
    FrameWriter writer;
    writer.secure(key);
    const auto first = writer.frame(Kind::alloc, 1, body);
    const auto second = writer.frame(Kind::alloc, 2, body);
    const auto refused = [&](std::initializer_list<std::vector<std::byte>> frames,
                             const Digest& with) {
      FrameReader reader;
      reader.secure(with);
      for (const auto& frame : frames) reader.feed(frame);
      while (true) {
        auto next = reader.next();
        if (!next) return true;
        if (!*next) return false;
      }
    };
    CHECK_FALSE(refused({first, second}, key));
    CHECK(refused({first, first}, key));
    CHECK(refused({second}, key));
    CHECK(refused({first}, Digest{1, 2, 4}));
    for (std::size_t at = 4; at < first.size(); ++at) {
      auto changed = first;
      changed[at] ^= std::byte{1};
      CHECK(refused({changed}, key));
    }
  }

  TEST_CASE("a frame larger than any may be is refused at its first bytes") {
    FrameReader reader;
    const std::vector<std::byte> start{std::byte{0xff}, std::byte{0xff}, std::byte{0xff},
                                       std::byte{0x7f}};
    reader.feed(start);
    CHECK(reader.next().error().is(Errc::bad_message));
  }
}
