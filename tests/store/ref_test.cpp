// SPDX-License-Identifier: Apache-2.0
#include "store/ref.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace forebay {
namespace {

Ref some_ref() {
  Ref ref;
  ref.store = {0x3f, 0x2a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
  ref.id = "points/0";
  ref.version = 3;
  ref.serial = 17;
  return ref;
}

TEST_SUITE("ref") {
  TEST_CASE("a ref as text names store, namespace, id, version and serial") {
    CHECK(some_ref().to_string() ==
          "forebay:3f2a0102-0304-0506-0708-090a0b0c0d0e/default/points/0@3#17");
  }

  TEST_CASE("any id survives the way through text") {
    for (const std::string& id :
         {std::string("a"), std::string("a@b#c%d/e f"), std::string("\0\xff\n", 3),
          std::string("ünïcödé"), std::string(255, 'x'), std::string(255, '\0')}) {
      Ref ref = some_ref();
      ref.id = id;
      const auto parsed = Ref::parse(ref.to_string());
      REQUIRE(parsed);
      CHECK(*parsed == ref);
    }
  }

  TEST_CASE("what is not a ref is refused, and the part that is wrong is named") {
    const std::string uuid = "3f2a0102-0304-0506-0708-090a0b0c0d0e";
    for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
             {"", "forebay:"},
             {"forebax:" + uuid + "/default/a@1#1", "forebay:"},
             {"forebay:" + uuid, "namespace"},
             {"forebay:" + uuid + "/default", "id"},
             {"forebay:" + uuid + "/default/a", "version"},
             {"forebay:" + uuid + "/default/a@1", "serial"},
             {"forebay:" + uuid + "/default/a#1@1", "version"},
             {"forebay:" + uuid + "/default/@1#1", "id"},
             {"forebay:" + uuid + "/default/%zz@1#1", "id"},
             {"forebay:" + uuid + "/default/a%2@1#1", "id"},
             {"forebay:" + uuid + "/default/" + std::string(256, 'a') + "@1#1", "id"},
             {"forebay:" + uuid + "/default/a@0#1", "version"},
             {"forebay:" + uuid + "/default/a@1#0", "serial"},
             {"forebay:" + uuid + "/default/a@x#1", "version"},
             {"forebay:" + uuid + "/default/a@99999999999999999999#1", "version"},
             {"forebay:zz/default/a@1#1", "uuid"},
             {"forebay:" + uuid + "00/default/a@1#1", "uuid"}}) {
      const auto parsed = Ref::parse(text);
      REQUIRE_FALSE(parsed);
      CHECK(parsed.error().is(Errc::bad_argument));
      CHECK_MESSAGE(parsed.error().detail.find(part) != std::string::npos, text, " -> ",
                    parsed.error().detail);
    }
  }

  TEST_CASE("what a ref says of dtype and shape is a hint and no part of its identity") {
    Ref with = some_ref();
    with.type = ArrayType{"<f8", {2, 3}, false};
    CHECK(with == some_ref());
    CHECK(with.to_string() == some_ref().to_string());
  }
}

}  // namespace
}  // namespace forebay
