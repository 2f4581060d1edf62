// SPDX-License-Identifier: Apache-2.0
// Objects: the parts that a language's serializer made of a value, as one segment.
#include "store/object.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "store/client.h"
#include "store/units.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"

namespace forebay::test {
namespace {

using Bytes = std::vector<std::byte>;

// A head and three buffers, the one in the middle as large as wanted; the last is made in place.
struct Made {
  Bytes head = payload(30, "head", 1);
  Bytes middle;
  Bytes last = payload(1000, "last", 1);
  explicit Made(std::size_t size) : middle(payload(size, "middle", 1)) {}
  std::vector<ObjectPart> parts() const {
    return {{.bytes = head},
            {.bytes = middle},
            {.bytes = {}},
            {.bytes = {}, .size_bytes = last.size(), .fill = [this](std::span<std::byte> target) {
               std::ranges::copy(last, target.begin());
               return true;
             }}};
  }
  bool is_what(const View& view) const {
    const auto found = must(view.object());
    return found.size() == 4 && std::ranges::equal(found[0], head) &&
           std::ranges::equal(found[1], middle) && found[2].empty() &&
           std::ranges::equal(found[3], last);
  }
};

// As messages, by parts, and into cold memory.
const std::vector<std::size_t> sizes{0, 100, 65536, 1000001, 9 * mebibyte};

TEST_SUITE("object in parts") {
  TEST_CASE("an object comes back as it was put, here and in another process") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : sizes) {
      CAPTURE(size);
      const std::string id = "o/" + std::to_string(size);
      const Made made(size);
      const Ref ref = must(client.put_object(id, made.parts()));
      CHECK(made.is_what(must(client.get(ref))));
      ChildProcess reader([&](Moments&) {
        require(made.is_what(must(daemon.connect().get(ref))), "something else is there");
      });
      CHECK(reader.join() == 0);
    }
  }

  TEST_CASE("it is no array and no group, and an array is no object") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put_object("o", Made(10).parts()));
    must(client.put("a", payload(10, "a", 1)));
    CHECK(outcome(must(client.get("o")).group()) == "type_mismatch");
    CHECK(outcome(must(client.get("o")).type()) == "type_mismatch");
    CHECK(why(must(client.get("o")).type()).find("an object in parts") != std::string::npos);
    CHECK(why(must(client.get_private("o")).type()).find("an object in parts") !=
          std::string::npos);
    CHECK(outcome(must(client.get("a")).object()) == "type_mismatch");
    CHECK(outcome(View().object()) == "bad_state");
  }

  TEST_CASE("put again, equal parts are fine, and others are refused") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const PutOptions again{.version = 1, .exist_ok = true};
    for (const std::size_t size : {std::size_t{10}, std::size_t{100'000}}) {
      const std::string id = "o/" + std::to_string(size);
      const Made made(size);
      const Ref ref = must(client.put_object(id, made.parts(), again));
      CHECK(must(client.put_object(id, made.parts(), again)) == ref);
      Made other(size);
      other.middle.back() ^= std::byte{1};
      CHECK(outcome(client.put_object(id, other.parts(), again)) == "exists");
      CHECK(outcome(client.put(id, must(client.get(id)).bytes(), again)) == "ok");
      CHECK(outcome(client.put_group(id, {}, again)) == "exists");
    }
  }

  TEST_CASE("a part that cannot be made leaves nothing, and lets the next who has a claim try") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {std::size_t{10}, std::size_t{1'000'000}}) {
      const std::vector<ObjectPart> parts{
          {.bytes = {}, .size_bytes = size, .fill = [](std::span<std::byte>) { return false; }}};
      CHECK(outcome(client.put_object("o", parts)) == "bad_argument");
      {
        auto claimed = must(client.claim("o"));
        CHECK(outcome(std::get<Claim>(claimed).put_object(parts, {})) == "bad_argument");
      }
      CHECK_FALSE(must(client.contains("o")));
      CHECK(std::holds_alternative<Claim>(must(client.claim("o"))));
    }
  }

  TEST_CASE("no part, too many, and an array type are refused, and leave nothing") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK(outcome(client.put_object("o", {})) == "bad_argument");
    CHECK(outcome(client.put_object("o", std::vector<ObjectPart>(object_parts_max + 1))) ==
          "bad_argument");
    PutOptions typed;
    typed.type = array_of<std::uint8_t>({10});
    CHECK(outcome(client.put_object("o", Made(10).parts(), typed)) == "bad_argument");
    CHECK_FALSE(must(client.contains("o")));
  }

  TEST_CASE("who has a claim makes an object or a group as anything else") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : sizes) {
      CAPTURE(size);
      const Made made(size);
      auto claimed = must(client.claim("o/" + std::to_string(size)));
      const View object = must(std::get<Claim>(claimed).put_object(made.parts(), {}));
      CHECK(made.is_what(object));
      CHECK(made.is_what(must(client.get(object.ref()))));
      const std::vector<GroupMember> members{{"x", made.middle}, {"y", made.last}};
      auto of_group = must(client.claim("g/" + std::to_string(size)));
      const View group = must(std::get<Claim>(of_group).put_group(members, {}));
      const auto found = must(group.group());
      REQUIRE(found.size() == 2);
      CHECK(std::ranges::equal(found[0].bytes, made.middle));
      CHECK(std::ranges::equal(found[1].bytes, made.last));
    }
  }
}

}  // namespace
}  // namespace forebay::test
