// SPDX-License-Identifier: Apache-2.0
#include "store/shm/object.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/payload.h"
#include "tests/support/random.h"

namespace forebay::shm {
namespace {

using Bytes = std::vector<std::byte>;

std::vector<ObjectPart> parts_of(std::vector<Bytes>&&) = delete;
std::vector<ObjectPart> parts_of(const std::vector<Bytes>& contents) {
  std::vector<ObjectPart> parts;
  for (const Bytes& content : contents) parts.push_back({.bytes = content});
  return parts;
}

Bytes written(const ObjectPlan& plan, const std::vector<ObjectPart>& parts, std::byte before) {
  Bytes payload(plan.size_bytes, before);
  write_object(plan, parts, payload);
  return payload;
}

Brief object_of(std::uint32_t count) { return {Kind::object, 0, 0, 0, count}; }

TEST_SUITE("object") {
  TEST_CASE("parts are read back, each on 64 bytes, and equal objects have equal bytes") {
    const std::vector<std::vector<std::size_t>> shapes{{0}, {5}, {64, 0, 1, 100'000}, {0, 0, 0}};
    for (const auto& sizes : shapes) {
      std::vector<Bytes> contents;
      for (std::size_t i = 0; i < sizes.size(); ++i)
        contents.push_back(test::payload(sizes[i], "part", i + 1));
      const auto parts = parts_of(contents);
      const auto plan = plan_object(parts);
      REQUIRE(plan);
      const Bytes payload = written(*plan, parts, std::byte{0xaa});
      CHECK(payload == written(*plan, parts, std::byte{0x55}));
      const auto read = read_object(plan->description.brief, payload);
      REQUIRE(read);
      REQUIRE(read->size() == contents.size());
      for (std::size_t i = 0; i < contents.size(); ++i) {
        CHECK(std::ranges::equal((*read)[i], contents[i]));
        CHECK(((*read)[i].data() - payload.data()) % payload_alignment == 0);
      }
    }
  }

  TEST_CASE("a part that is made in place lies where its bytes would") {
    const Bytes head = test::payload(100, "head", 1);
    const Bytes body = test::payload(5000, "body", 1);
    const std::vector<ObjectPart> in_place{
        {.bytes = head},
        {.bytes = {}, .size_bytes = body.size(), .fill = [&](std::span<std::byte> target) {
           std::ranges::copy(body, target.begin());
           return true;
         }}};
    const std::vector<Bytes> contents{head, body};
    const auto parts = parts_of(contents);
    const auto plan = plan_object(in_place);
    REQUIRE(plan);
    CHECK(plan->size_bytes == plan_object(parts)->size_bytes);
    CHECK(written(*plan, in_place, std::byte{1}) == written(*plan, parts, std::byte{1}));
  }

  TEST_CASE("no part, too many, and sizes beyond 64 bits are refused") {
    CHECK(plan_object({}).error().is(Errc::bad_argument));
    CHECK(plan_object(std::vector<ObjectPart>(object_parts_max + 1)).error().is(Errc::bad_argument));
    const auto nothing = [](std::span<std::byte>) { return true; };
    const std::vector<ObjectPart> huge(
        2, {.bytes = {}, .size_bytes = std::numeric_limits<std::uint64_t>::max() / 2 + 100,
            .fill = nothing});
    CHECK(plan_object(huge).error().is(Errc::too_large));
  }

  TEST_CASE("another kind, no part, or a payload that ends too soon is no object") {
    const std::vector<Bytes> contents{Bytes(10), Bytes(100)};
    const auto parts = parts_of(contents);
    const auto plan = plan_object(parts);
    REQUIRE(plan);
    const Bytes payload = written(*plan, parts, std::byte{0});
    const std::span<const std::byte> whole(payload);
    CHECK(read_object(object_of(2), whole));
    CHECK(read_object({Kind::group, 0, 0, 0, 2}, whole).error().is(Errc::type_mismatch));
    CHECK(read_object(object_of(0), whole).error().is(Errc::type_mismatch));
    CHECK(read_object(object_of(0xffffffff), whole).error().is(Errc::type_mismatch));
    for (std::size_t size = 0; size < payload.size(); ++size)
      REQUIRE(read_object(object_of(2), whole.first(size)).error().is(Errc::type_mismatch));
  }

  TEST_CASE("whatever sizes somebody wrote, the parts lie in the payload, apart") {
    test::Random random("sizes of objects");
    for (int round = 0; round < 20'000; ++round) {
      Bytes payload(random.below(600));
      for (std::byte& byte : payload)
        byte = static_cast<std::byte>(random.chance(0.8) ? 0 : random.below(256));
      const auto count = static_cast<std::uint32_t>(random.below(10));
      const auto read = read_object(object_of(count), payload);
      if (!read) continue;
      REQUIRE(read->size() == count);
      const std::byte* end = payload.data() + count * sizeof(std::uint64_t);
      for (const auto& part : *read) {
        REQUIRE(part.data() >= end);
        REQUIRE(part.data() + part.size() <= payload.data() + payload.size());
        end = part.data() + part.size();
      }
    }
  }
}

}  // namespace
}  // namespace forebay::shm
