// SPDX-License-Identifier: Apache-2.0
#include "store/shm/manifest.h"

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

#include "store/id.h"
#include "store/shm/packed.h"
#include "tests/support/random.h"

namespace forebay::shm {
namespace {

std::vector<ManifestMember> some_members() {
  return {{"points/1", 1, 17},
          {"points/1", 2, 18},
          {std::string("\0/", 2), 3, 1},
          {std::string(id_bytes_max, 'x'), ~std::uint64_t{0} - 1, ~std::uint64_t{0}},
          {"a", 1, 2}};
}

// What reading gives is what the daemon may rely on, whoever wrote the bytes.
void check_sane(const std::vector<ManifestMember>& members) {
  std::set<std::uint64_t> serials;
  for (const ManifestMember& member : members) {
    REQUIRE(is_id(member.id));
    REQUIRE(member.version != 0);
    REQUIRE(member.serial != 0);
    REQUIRE(serials.insert(member.serial).second);
  }
}

void append_member(std::vector<std::byte>& bytes, std::uint64_t version, std::uint64_t serial,
                   std::uint8_t id_bytes, const std::string& id) {
  append(bytes, version);
  append(bytes, serial);
  append(bytes, id_bytes);
  append_text(bytes, id);
}

TEST_SUITE("manifest") {
  TEST_CASE("what was listed is read back, in its order") {
    const auto members = some_members();
    const auto read = read_manifest(write_manifest(members));
    REQUIRE(read);
    CHECK(*read == members);
  }

  TEST_CASE("a list of nothing is a manifest, and no bytes are none") {
    const auto read = read_manifest(write_manifest({}));
    REQUIRE(read);
    CHECK(read->empty());
    CHECK_FALSE(read_manifest({}));
  }

  TEST_CASE("random lists are read back as they were made") {
    test::Random random("manifests");
    for (int round = 0; round < 200; ++round) {
      std::vector<ManifestMember> members(random.below(300));
      std::uint64_t serial = 0;
      for (ManifestMember& member : members) {
        member.id.resize(1 + random.below(id_bytes_max));
        for (char& c : member.id) c = static_cast<char>(random.next32());
        member.version = random.between(1, random.chance(0.5) ? 3 : ~std::uint64_t{0} - 1);
        member.serial = serial += 1 + random.below(100);
      }
      const auto read = read_manifest(write_manifest(members));
      REQUIRE(read);
      REQUIRE(*read == members);
      REQUIRE(find_repeated(members) == nullptr);
    }
  }

  TEST_CASE("a segment that is listed twice is found") {
    auto members = some_members();
    CHECK(find_repeated(members) == nullptr);
    members.push_back(members[1]);
    const ManifestMember* const repeated = find_repeated(members);
    REQUIRE(repeated != nullptr);
    CHECK(*repeated == members[1]);
    CHECK_FALSE(read_manifest(write_manifest(members)));
  }

  TEST_CASE("bytes that nobody can have written are told from a manifest") {
    const auto listing = [](std::uint64_t count) {
      std::vector<std::byte> bytes;
      append(bytes, count);
      return bytes;
    };
    struct Lie {
      std::string what;
      std::vector<std::byte> bytes;
    };
    std::vector<Lie> lies{{"half a count", std::vector<std::byte>(7)},
                          {"a member in no bytes", listing(1)},
                          {"endless members", listing(~std::uint64_t{0})},
                          {"a byte too many", listing(0)}};
    lies.back().bytes.push_back({});
    const auto lie = [&](const std::string& what, std::uint64_t count, std::uint64_t version,
                         std::uint64_t serial, std::uint8_t id_bytes, const std::string& id) {
      lies.push_back({what, listing(count)});
      append_member(lies.back().bytes, version, serial, id_bytes, id);
    };
    lie("fewer members than there are", 0, 1, 1, 1, "a");
    lie("more members than there are", 2, 1, 1, 30, std::string(30, 'a'));
    lie("version 0", 1, 0, 1, 1, "a");
    lie("serial 0", 1, 1, 0, 1, "a");
    lie("no id", 1, 1, 1, 0, "");
    lie("no id, but bytes", 1, 1, 1, 0, "a");
    lie("an id that ends early", 1, 1, 1, 3, "ab");
    lie("an id that ends late", 1, 1, 1, 1, "ab");
    for (const Lie& told : lies) {
      const auto read = read_manifest(told.bytes);
      CHECK_MESSAGE(!read.has_value(), told.what);
      if (!read) CHECK(read.error().is(Errc::type_mismatch));
    }
    // None of them was refused for something else that is wrong with all of them.
    auto right = listing(1);
    append_member(right, 1, 1, 1, "a");
    CHECK(read_manifest(right));
  }

  TEST_CASE("a manifest that was cut off anywhere, or goes on, is none") {
    const auto whole = write_manifest(some_members());
    for (std::size_t size = 0; size < whole.size(); ++size) {
      // In memory of its own, so that a sanitizer sees a read behind the end.
      const std::vector<std::byte> cut(whole.begin(),
                                       whole.begin() + static_cast<std::ptrdiff_t>(size));
      const auto read = read_manifest(cut);
      REQUIRE_FALSE(read);
      REQUIRE(read.error().is(Errc::type_mismatch));
    }
    auto longer = whole;
    longer.push_back({});
    CHECK_FALSE(read_manifest(longer));
  }

  TEST_CASE("a manifest with flipped bits is refused, or lists what segments can be, and never crashes") {
    test::Random random("flipped manifests");
    const auto whole = write_manifest(some_members());
    int manifests = 0;
    for (int round = 0; round < 50'000; ++round) {
      auto bytes = whole;
      for (std::uint32_t flips = 1 + random.below(3); flips > 0; --flips) {
        std::byte& byte = bytes[random.below(static_cast<std::uint32_t>(bytes.size()))];
        byte ^= static_cast<std::byte>(1U << random.below(8));
      }
      if (random.chance(0.1)) bytes.resize(random.below(static_cast<std::uint32_t>(bytes.size())));
      const auto read = read_manifest(bytes);
      if (!read) {
        REQUIRE(read.error().is(Errc::type_mismatch));
        continue;
      }
      ++manifests;
      check_sane(*read);
    }
    CHECK(manifests > 1000);
  }

  TEST_CASE("random bytes list what segments can be, or are refused, and never crash") {
    test::Random random("lying manifests");
    int manifests = 0;
    for (int round = 0; round < 100'000; ++round) {
      const std::uint32_t count = random.below(4);
      std::vector<std::byte> bytes;
      append(bytes, random.chance(0.9) ? count : random.next());
      for (std::uint32_t i = 0; i < count; ++i) {
        const auto id_bytes = static_cast<std::uint8_t>(random.below(4));
        append_member(bytes, random.below(4), random.below(20), id_bytes,
                      std::string(random.chance(0.9) ? id_bytes : random.below(4), 'i'));
      }
      const auto read = read_manifest(bytes);
      if (!read) continue;
      ++manifests;
      check_sane(*read);
    }
    CHECK(manifests > 1000);
  }
}

}  // namespace
}  // namespace forebay::shm
