// SPDX-License-Identifier: Apache-2.0
#include "store/shm/group.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "store/shm/packed.h"
#include "tests/support/payload.h"
#include "tests/support/random.h"

namespace forebay::shm {
namespace {

// Members and the bytes that they are views of.
struct Members {
  std::vector<std::vector<std::byte>> bytes;
  std::vector<GroupMember> list;
  void add(const std::string& name, std::size_t size,
           std::optional<ArrayType> type = std::nullopt) {
    bytes.push_back(test::payload(size, name, 1));
    list.push_back({name, bytes.back(), std::move(type)});
  }
};

Members of_each_kind() {
  Members members;
  members.add("positions", 240, array_of<float>({20, 3}));
  members.add("plain", 100);
  members.add("nothing", 0, array_of<double>({0}));
  members.add("cube", 48, ArrayType{"<f8", {1, 2, 3}, true});
  members.add("times", 16, ArrayType{"<M8[ns]", {2}, false});
  members.add("one", 8, ArrayType{"<f8", {}, false});
  members.add("last", 1);
  return members;
}

// What reading gives is what a reader may rely on, whoever wrote the description.
void check_sane(const std::vector<GroupEntry>& entries, std::uint64_t size_bytes) {
  std::set<std::string> names;
  std::uint64_t end = 0;
  for (const GroupEntry& entry : entries) {
    REQUIRE(!entry.name.empty());
    REQUIRE(entry.name.size() <= group_name_bytes_max);
    REQUIRE(names.insert(entry.name).second);
    REQUIRE(entry.offset % payload_alignment == 0);
    REQUIRE(entry.offset >= end);
    REQUIRE(entry.size <= size_bytes);
    REQUIRE(entry.offset <= size_bytes - entry.size);
    end = entry.offset + entry.size;
    if (!entry.type) continue;
    REQUIRE(entry.type->shape.size() <= array_dims_max);
    const std::uint8_t code = plain_dtype_code(entry.type->dtype);
    if (code == 0) continue;
    std::uint64_t bytes = plain_dtypes()[code].item_bytes;
    for (const std::uint64_t dim : entry.type->shape) bytes *= dim;
    REQUIRE(bytes == entry.size);
  }
}

void check_round_trip(const std::vector<GroupMember>& members) {
  const auto plan = plan_group(members);
  REQUIRE_MESSAGE(plan, plan.error().message());
  const Brief brief = Brief::from_bits(plan->description.brief.bits());
  const auto read = read_group(brief, plan->size_bytes, plan->description.bytes);
  REQUIRE_MESSAGE(read, read.error().message());
  check_sane(*read, plan->size_bytes);
  REQUIRE(read->size() == members.size());
  // Every byte of the payload is written, whatever was there.
  std::vector<std::byte> payload(plan->size_bytes, std::byte{0xaa});
  write_group(*plan, members, payload);
  for (std::size_t i = 0; i < members.size(); ++i) {
    const GroupEntry& entry = (*read)[i];
    CHECK(entry.name == members[i].name);
    CHECK(entry.type == members[i].type);
    CHECK(entry.offset == plan->offsets[i]);
    CHECK(std::ranges::equal(std::span(payload).subspan(entry.offset, entry.size),
                             members[i].bytes));
  }
}

std::string refusal(const std::vector<GroupMember>& members) {
  const auto plan = plan_group(members);
  REQUIRE_FALSE(plan);
  CHECK(plan.error().is(Errc::bad_argument));
  return plan.error().detail;
}

// A description as somebody else may have written it.
struct Head {
  std::uint64_t offset;
  std::uint64_t size;
  std::uint64_t brief;
  std::uint32_t name_bytes;
  std::uint32_t description_bytes;
};

std::vector<std::byte> described_as(
    const std::vector<std::pair<Head, std::string>>& members_with_what_follows) {
  std::vector<std::byte> bytes;
  for (const auto& [head, text] : members_with_what_follows) {
    append(bytes, head);
    append_text(bytes, text);
  }
  return bytes;
}

Brief group_of(std::uint32_t count) { return {Kind::group, 0, 0, 0, count}; }

TEST_SUITE("group") {
  TEST_CASE("members are read back with their names, places and types") {
    check_round_trip(of_each_kind().list);
  }

  TEST_CASE("members lie in their order, each on the next 64 bytes, and the payload ends with the last") {
    Members members;
    members.add("a", 1);
    members.add("b", 64);
    members.add("c", 65);
    members.add("d", 0);
    members.add("e", 10);
    const auto plan = plan_group(members.list);
    REQUIRE(plan);
    CHECK(plan->offsets == std::vector<std::uint64_t>{0, 64, 128, 256, 256});
    CHECK(plan->size_bytes == 266);
    CHECK(plan->description.brief.kind == Kind::group);
    CHECK(plan->description.brief.first_dim == 5);
  }

  TEST_CASE("a group of nothing, and one of members without bytes, are groups") {
    check_round_trip({});
    Members members;
    members.add("a", 0);
    members.add("b", 0, array_of<double>({0, 3}));
    check_round_trip(members.list);
    CHECK(plan_group(members.list)->size_bytes == 0);
    members.add("c", 5);
    members.add("d", 0);
    check_round_trip(members.list);
    CHECK(plan_group(members.list)->size_bytes == 64);
  }

  TEST_CASE("a name is any 1 to 255 bytes") {
    Members members;
    for (const std::string& name :
         {std::string("x"), std::string("\0", 1), std::string("\0\0", 2), std::string("a/b c\n"),
          std::string("größe"), std::string(group_name_bytes_max, 'n')})
      members.add(name, 3);
    check_round_trip(members.list);
  }

  TEST_CASE("between members there are zeros, so that equal groups have equal bytes") {
    const Members members = of_each_kind();
    const auto plan = plan_group(members.list);
    REQUIRE(plan);
    std::vector<std::byte> one(plan->size_bytes, std::byte{0xaa});
    std::vector<std::byte> two(plan->size_bytes, std::byte{0x55});
    write_group(*plan, members.list, one);
    write_group(*plan, members.list, two);
    CHECK(one == two);
    CHECK(one[plan->offsets[1] - 1] == std::byte{0});
  }

  TEST_CASE("a name that comes twice is refused, and named") {
    Members members = of_each_kind();
    members.add("plain", 100);
    CHECK(refusal(members.list).find("'plain'") != std::string::npos);
  }

  TEST_CASE("no name, too long a name, and a type that does not fit are refused") {
    Members nameless;
    nameless.add("a", 1);
    nameless.add("", 1);
    (void)refusal(nameless.list);
    Members long_name;
    long_name.add(std::string(group_name_bytes_max + 1, 'n'), 1);
    CHECK(refusal(long_name.list).find("256") != std::string::npos);
    Members typed;
    typed.add("fits", 80, array_of<double>({10}));
    typed.add("wrong", 80, array_of<double>({11}));
    CHECK(refusal(typed.list).find("'wrong'") != std::string::npos);
  }

  TEST_CASE("a thousand and some members are a group, and more are not") {
    Members members;
    for (std::size_t i = 0; i < group_members_max; ++i)
      members.add("m" + std::to_string(i), i % 7, array_of<std::uint8_t>({i % 7}));
    check_round_trip(members.list);
    members.add("one more", 1);
    CHECK(refusal(members.list).find(std::to_string(group_members_max)) != std::string::npos);
  }

  TEST_CASE("names and types that are too long together are refused, and not before") {
    Members members;
    // 32 bytes of head, 5 of name.
    const std::size_t each = 2000;
    for (std::size_t left = description_bytes_max; left > 0;) {
      const std::size_t text = std::min(left, each) - 32 - 5 - 4;
      members.add(std::to_string(10000 + members.list.size()), 1,
                  ArrayType{std::string(text, 'x'), {}, false});
      left -= std::min(left, each);
    }
    check_round_trip(members.list);
    CHECK(plan_group(members.list)->description.bytes.size() == description_bytes_max);
    members.list.back().type->dtype += "x";
    (void)refusal(members.list);
  }

  TEST_CASE("sizes that do not add up in 64 bits are refused") {
    const std::byte byte{};
    const std::span<const std::byte> endless(&byte, ~std::size_t{0});
    const std::span<const std::byte> some(&byte, 1);
    for (const auto& members : std::vector<std::vector<GroupMember>>{
             {{"a", endless}, {"b", some}},
             {{"a", some}, {"b", endless}},
             {{"a", endless}, {"b", {}}}}) {
      const auto plan = plan_group(members);
      REQUIRE_FALSE(plan);
      CHECK(plan.error().is(Errc::too_large));
    }
  }

  TEST_CASE("random groups are read back as they were made") {
    test::Random random("groups");
    for (int round = 0; round < 300; ++round) {
      Members members;
      const std::uint32_t count = random.below(40);
      for (std::uint32_t i = 0; i < count; ++i) {
        const std::string name =
            std::to_string(i) + std::string(random.below(200), static_cast<char>(random.next32()));
        const std::uint64_t size = 8 * random.below(40);
        std::optional<ArrayType> type;
        if (random.chance(0.6))
          type = random.chance(0.5) ? array_of<double>({size / 8})
                                    : ArrayType{"|u1", {1, 1, size}, random.chance(0.5)};
        if (random.chance(0.1)) type = ArrayType{"<M8[ns]", {size / 8}, false};
        members.add(name, size, type);
      }
      check_round_trip(members.list);
    }
  }

  TEST_CASE("what is no group is not read as one") {
    for (const Kind kind : {Kind::bytes, Kind::array, Kind::object, Kind::table, Kind::manifest}) {
      Brief brief = group_of(0);
      brief.kind = kind;
      const auto read = read_group(brief, 100, {});
      REQUIRE_FALSE(read);
      CHECK(read.error().is(Errc::type_mismatch));
    }
  }

  TEST_CASE("a description that nobody can have made is told from a group") {
    const std::uint64_t none = Brief{}.bits();
    const std::uint64_t f8 = Brief{Kind::array, plain_dtype_code("<f8"), 1, 0, 0}.bits();
    const std::uint64_t nested = group_of(0).bits();
    const std::uint64_t end = ~std::uint64_t{0};
    struct Lie {
      std::string what;
      std::uint32_t count;
      std::uint64_t size;
      std::vector<std::byte> bytes;
    };
    std::vector<std::byte> cut = described_as({{{0, 8, none, 1, 0}, "a"}});
    cut.resize(31);
    std::vector<std::byte> many(group_members_max * 33 + 33);
    for (const Lie& lie : std::vector<Lie>{
             {"a member in no bytes", 1, 100, {}},
             {"half a head", 1, 100, cut},
             {"fewer members than there are", 1, 100,
              described_as({{{0, 8, none, 1, 0}, "a"}, {{64, 8, none, 1, 0}, "b"}})},
             {"more members than there are", 2, 100, described_as({{{0, 8, none, 1, 0}, "a"}})},
             {"more members than a group can have",
              static_cast<std::uint32_t>(group_members_max + 1), 100, many},
             {"four thousand million members", 0xffffffffU, 100, many},
             {"no name", 1, 100, described_as({{{0, 8, none, 0, 0}, ""}})},
             {"a name of 256 bytes", 1, 100,
              described_as({{{0, 8, none, 256, 0}, std::string(256, 'n')}})},
             {"a name that ends early", 1, 100, described_as({{{0, 8, none, 3, 0}, "ab"}})},
             {"an endless name", 1, 100, described_as({{{0, 8, none, 0xffffffffU, 0}, "ab"}})},
             {"a name twice", 2, 100,
              described_as({{{0, 8, none, 1, 0}, "a"}, {{64, 8, none, 1, 0}, "a"}})},
             {"bytes off the alignment", 1, 100, described_as({{{8, 8, none, 1, 0}, "a"}})},
             {"bytes behind the end", 1, 100, described_as({{{128, 0, none, 1, 0}, "a"}})},
             {"bytes across the end", 1, 100, described_as({{{64, 37, none, 1, 0}, "a"}})},
             {"bytes that wrap around", 1, 100, described_as({{{64, end - 63, none, 1, 0}, "a"}})},
             {"a place that wraps around", 1, 100,
              described_as({{{end - 63, 100, none, 1, 0}, "a"}})},
             {"bytes of the one before", 2, 200,
              described_as({{{0, 65, none, 1, 0}, "a"}, {{64, 8, none, 1, 0}, "b"}})},
             {"bytes before the one before", 2, 200,
              described_as({{{64, 8, none, 1, 0}, "a"}, {{0, 8, none, 1, 0}, "b"}})},
             {"a group in a group", 1, 100, described_as({{{0, 8, nested, 1, 0}, "a"}})},
             {"a kind that is none", 1, 100, described_as({{{0, 8, 200, 1, 0}, "a"}})},
             {"half an element", 1, 100, described_as({{{0, 12, f8, 1, 0}, "a"}})},
             {"a description that ends early", 1, 100,
              described_as({{{0, 8, f8, 1, 4}, "adim"}})},
             {"an endless description", 1, 100,
              described_as({{{0, 8, f8, 1, 0xffffffffU}, "adim"}})},
         }) {
      const auto read = read_group(group_of(lie.count), lie.size, lie.bytes);
      CHECK_MESSAGE(!read.has_value(), lie.what);
      if (!read) CHECK(read.error().is(Errc::type_mismatch));
    }
    // None of them was refused for something else that is wrong with all of them.
    CHECK(read_group(group_of(1), 100, described_as({{{64, 36, none, 1, 0}, "a"}})));
  }

  TEST_CASE("a group whose description was cut off anywhere is none") {
    const auto plan = plan_group(of_each_kind().list);
    REQUIRE(plan);
    for (std::size_t size = 0; size < plan->description.bytes.size(); ++size) {
      // In memory of its own, so that a sanitizer sees a read behind the end.
      const std::vector<std::byte> cut(plan->description.bytes.begin(),
                                       plan->description.bytes.begin() +
                                           static_cast<std::ptrdiff_t>(size));
      const auto read = read_group(plan->description.brief, plan->size_bytes, cut);
      REQUIRE_FALSE(read);
      REQUIRE(read.error().is(Errc::type_mismatch));
    }
  }

  TEST_CASE("a group in a smaller payload than its own is none") {
    const auto plan = plan_group(of_each_kind().list);
    REQUIRE(plan);
    for (std::uint64_t size = 0; size < plan->size_bytes; ++size)
      REQUIRE_FALSE(read_group(plan->description.brief, size, plan->description.bytes));
  }

  TEST_CASE("a group with flipped bits is refused, or one within its payload, and never crashes") {
    test::Random random("flipped groups");
    int groups = 0;
    for (int round = 0; round < 50'000; ++round) {
      auto plan = plan_group(of_each_kind().list);
      std::vector<std::byte> bytes = plan->description.bytes;
      for (std::uint32_t flips = 1 + random.below(3); flips > 0; --flips) {
        std::byte& byte = bytes[random.below(static_cast<std::uint32_t>(bytes.size()))];
        byte ^= static_cast<std::byte>(1U << random.below(8));
      }
      if (random.chance(0.1)) bytes.resize(random.below(static_cast<std::uint32_t>(bytes.size())));
      if (random.chance(0.1)) plan->description.brief.first_dim ^= 1U << random.below(32);
      const auto read = read_group(plan->description.brief, plan->size_bytes, bytes);
      if (!read) {
        REQUIRE(read.error().is(Errc::type_mismatch));
        continue;
      }
      ++groups;
      check_sane(*read, plan->size_bytes);
    }
    CHECK(groups > 1000);
  }

  TEST_CASE("random bytes are read as a group within its payload, or as none, and never crash") {
    test::Random random("lying groups");
    int groups = 0;
    for (int round = 0; round < 100'000; ++round) {
      // Heads that may be true, so that more than the first check is met.
      std::vector<std::byte> bytes;
      const std::uint32_t count = random.below(4);
      for (std::uint32_t i = 0; i < count; ++i) {
        Brief brief = Brief::from_bits(random.chance(0.5) ? 0 : random.next());
        if (random.chance(0.8)) brief.kind = random.chance(0.5) ? Kind::bytes : Kind::array;
        append(bytes, Head{random.chance(0.9) ? 64 * random.below(6) : random.next(),
                           random.chance(0.9) ? 8 * random.below(8) : random.next(), brief.bits(),
                           random.chance(0.95) ? 1 + random.below(2) : random.next32(),
                           random.chance(0.9) ? 0 : random.below(30)});
        for (std::uint32_t more = 1 + random.below(2); more > 0; --more)
          bytes.push_back(static_cast<std::byte>(random.next32()));
      }
      const std::uint64_t size = random.chance(0.9) ? random.below(600) : random.next();
      const auto read =
          read_group(group_of(random.chance(0.9) ? count : random.next32()), size, bytes);
      if (!read) continue;
      ++groups;
      check_sane(*read, size);
    }
    CHECK(groups > 1000);
  }
}

}  // namespace
}  // namespace forebay::shm
