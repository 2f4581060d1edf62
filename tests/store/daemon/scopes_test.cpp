// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/scopes.h"

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace forebay::daemon {
namespace {

// The begun prefix that overlaps this one; "" if none does.
std::string overlap(const Scopes& scopes, std::string_view prefix) {
  const auto found = scopes.overlapping(prefix);
  return found == scopes.begun().end() ? "" : found->first;
}

TEST_SUITE("scopes") {
  TEST_CASE("prefixes overlap when one starts with the other, and only then") {
    Scopes scopes;
    for (const char* prefix : {"a/", "b/x/", "b/y", "c", "job"}) scopes.add(prefix, {1, 1});
    CHECK(overlap(scopes, "a/") == "a/");
    CHECK(overlap(scopes, "a") == "a/");
    CHECK(overlap(scopes, "a/b/c") == "a/");
    CHECK(overlap(scopes, "a0") == "");
    CHECK(overlap(scopes, "b/") == "b/x/");
    CHECK(overlap(scopes, "b/x") == "b/x/");
    CHECK(overlap(scopes, "b/x/\xff") == "b/x/");
    CHECK(overlap(scopes, "b/z") == "");
    CHECK(overlap(scopes, "cc") == "c");
    CHECK(overlap(scopes, "j") == "job");
    CHECK(overlap(scopes, "joc") == "");
    CHECK(overlap(scopes, "\x01") == "");
    CHECK(overlap(scopes, "z") == "");
    scopes.remove("c");
    CHECK(overlap(scopes, "cc") == "");
  }

  TEST_CASE("each is one process's, until it is moved to another") {
    Scopes scopes;
    scopes.add("a", {7, 1});
    scopes.add("b", {8, 1});
    scopes.add("c", {9, 2});
    CHECK(scopes.count(1) == 2);
    CHECK(scopes.count(3) == 0);
    CHECK(scopes.of(1) == std::vector<std::string>{"a", "b"});
    CHECK(scopes.find("a")->entry == 7);
    CHECK(scopes.find("ab") == nullptr);
    scopes.move("a", 2);
    scopes.move("c", 2);
    CHECK(scopes.of(1) == std::vector<std::string>{"b"});
    CHECK(scopes.of(2) == std::vector<std::string>{"a", "c"});
    scopes.remove("b");
    CHECK(scopes.count(1) == 0);
    CHECK(scopes.of(1).empty());
  }

  TEST_CASE("of those that end together, an id is that one's which it starts with") {
    Emptying emptying;
    for (const char* prefix : {"a/", "ba", "z\xff"})
      emptying.scopes.emplace(prefix, std::make_shared<EndedScope>());
    CHECK(emptying.scope_of("a/1") == emptying.scopes.at("a/"));
    CHECK(emptying.scope_of("a/") == emptying.scopes.at("a/"));
    CHECK(emptying.scope_of("a/\xff\xff") == emptying.scopes.at("a/"));
    CHECK(emptying.scope_of("bad") == emptying.scopes.at("ba"));
    CHECK(emptying.scope_of("z\xff\x01") == emptying.scopes.at("z\xff"));
    for (const char* other : {"a", "a0", "b", "bb", "z", "z\xfe", "\x01"})
      CHECK(emptying.scope_of(other) == nullptr);
  }
}

}  // namespace
}  // namespace forebay::daemon
