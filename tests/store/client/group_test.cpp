// SPDX-License-Identifier: Apache-2.0
// Groups: several named arrays in one segment, with one pin.
#include "store/group.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "store/client.h"
#include "store/units.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

// Members and the bytes that they are views of.
struct Members {
  std::vector<std::vector<std::byte>> bytes;
  std::vector<GroupMember> list;
  void add(const std::string& name, std::size_t size,
           std::optional<ArrayType> type = std::nullopt) {
    bytes.push_back(payload(size, name, 1));
    list.push_back({name, bytes.back(), std::move(type)});
  }
};

// Three members, the one in the middle as large as wanted.
Members around(std::size_t size) {
  Members members;
  members.add("ids", 40, array_of<std::int64_t>({5}));
  members.add("points", size, array_of<std::uint8_t>({size}));
  members.add("rest", 3);
  return members;
}

// As messages, by members, descriptions behind the payload or not, and into cold memory.
const std::vector<std::size_t> sizes{0, 100, 65000, 65536, 70000, 1000001, 9 * mebibyte};

// Nothing, if the view is of exactly these members; else what is wrong.
std::string difference(const View& view, const std::vector<GroupMember>& members) {
  const auto found = must(view.group());
  if (found.size() != members.size()) return "another number of members";
  for (std::size_t i = 0; i < members.size(); ++i) {
    const std::string what = "member '" + members[i].name + "' ";
    if (found[i].name != members[i].name) return what + "has another name: " + found[i].name;
    if (found[i].type != members[i].type) return what + "has another type";
    if (!std::ranges::equal(found[i].bytes, members[i].bytes)) return what + "has other bytes";
  }
  return {};
}

TEST_SUITE("group of arrays") {
  TEST_CASE("a group comes back as it was put: names, types and bytes, in order") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : sizes) {
      CAPTURE(size);
      const std::string id = "g/" + std::to_string(size);
      const Members members = around(size);
      const Ref ref = must(client.put_group(id, members.list));
      CHECK_FALSE(ref.type.has_value());
      const View view = must(client.get(ref));
      CHECK(difference(view, members.list) == "");
      CHECK(view.ref() == ref);
    }
  }

  TEST_CASE("another process takes it apart, and so does one that comes after a restart") {
    DaemonProcess daemon;
    ChildProcess reader([&](Moments& moments) {
      const Client client = daemon.connect();
      moments.reached();
      moments.wait();
      for (const std::size_t size : sizes) {
        const View view = must(client.get("g/" + std::to_string(size)));
        const std::string wrong = difference(view, around(size).list);
        require(wrong.empty(), wrong);
      }
    });
    reader.await();
    Client client = daemon.connect();
    for (const std::size_t size : sizes)
      must(client.put_group("g/" + std::to_string(size), around(size).list));
    reader.release();
    CHECK(reader.join() == 0);
    daemon.kill();
    daemon.start();
    const Client later = daemon.connect();
    for (const std::size_t size : sizes)
      CHECK(difference(must(later.get("g/" + std::to_string(size))), around(size).list) == "");
  }

  TEST_CASE("members lie in the segment, each on 64 bytes, behind one pin") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put_group("g", around(1000).list));
    const View view = must(client.get("g"));
    for (const GroupMember& member : must(view.group())) {
      CHECK(reinterpret_cast<std::uintptr_t>(member.bytes.data()) % 64 == 0);
      CHECK(member.bytes.data() >= view.bytes().data());
      CHECK(member.bytes.data() + member.bytes.size() <=
            view.bytes().data() + view.bytes().size());
    }
    CHECK(must(client.stat("g")).holders.at(0).pins == 1);
  }

  TEST_CASE("members stay what they are as long as the view lives") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put_group("g", around(3 * mebibyte).list));
    View view = must(client.get("g"));
    const auto members = must(view.group());
    must(client.remove("g"));
    for (std::uint64_t i = 1; i < 20; ++i) {
      must(client.put("noise", payload(3 * mebibyte, "noise", i)));
      must(client.remove("noise"));
    }
    CHECK(wrong_bytes(members[1].bytes, 3 * mebibyte, "points", 1) == "");
    view.release();
    CHECK(status_becomes(client, "removing", 0) == 0);
  }

  TEST_CASE("a group may have no members, and members no bytes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put_group("none", {}));
    CHECK(must(must(client.get("none")).group()).empty());
    Members members;
    members.add("a", 0);
    members.add("b", 0, array_of<double>({0, 7}));
    must(client.put_group("empty", members.list));
    CHECK(difference(must(client.get("empty")), members.list) == "");
  }

  TEST_CASE("as many members as there may be, with descriptions as long as they may be") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {1UL, 100UL}) {
      Members members;
      for (std::size_t i = 0; i < group_members_max; ++i)
        members.add("a name of some length " + std::to_string(10000 + i), size,
                    array_of<std::uint8_t>({size}));
      must(client.put_group("g", members.list));
      CHECK(difference(must(client.get("g")), members.list) == "");
      members.add("one more", 1);
      CHECK(outcome(client.put_group("g", members.list)) == "bad_argument");
    }
  }

  TEST_CASE("what no group can be is refused, and nothing is put") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Members twice = around(100);
    twice.add("points", 10);
    const auto refused = client.put_group("g", twice.list);
    CHECK(outcome(refused) == "bad_argument");
    CHECK(why(refused).find("'points'") != std::string::npos);
    Members nameless;
    nameless.add("", 10);
    CHECK(outcome(client.put_group("g", nameless.list)) == "bad_argument");
    Members long_name;
    long_name.add(std::string(256, 'n'), 10);
    CHECK(outcome(client.put_group("g", long_name.list)) == "bad_argument");
    Members typed;
    typed.add("t", 10, array_of<double>({1}));
    CHECK(outcome(client.put_group("g", typed.list)) == "bad_argument");
    CHECK(outcome(client.put_group("g", around(10).list, {.type = array_of<double>({1})})) ==
          "bad_argument");
    CHECK(outcome(client.put_group("", around(10).list)) == "bad_id");
    CHECK_FALSE(must(client.contains("g")));
    CHECK(Status(client)["segments"] == 0);
    CHECK(Status(client)["creating"] == 0);
  }

  TEST_CASE("a group is put under the same options as anything else") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    must(client.put_group("g", around(100).list, {.version = 7, .evictable = true}));
    CHECK(must(client.get("g")).version() == 7);
    CHECK(must(client.stat("g")).info.evictable);
    CHECK(outcome(client.put_group("g", around(100).list, {.version = 7})) == "exists");
    CHECK(outcome(client.put_group("g", around(17 * mebibyte).list)) == "too_large");
    const View all = must(client.get("g"));
    must(client.put("most", payload(15 * mebibyte, "most", 1)));
    CHECK(outcome(client.put_group("g", around(2 * mebibyte).list)) == "store_full");
    client.close();
    CHECK(outcome(client.put_group("g", around(100).list)) == "bad_state");
  }

  TEST_CASE("the same group again is fine with exist_ok, another is not, down to its names") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {100UL, 300000UL}) {
      const std::string id = "g/" + std::to_string(size);
      const PutOptions again{.version = 1, .exist_ok = true};
      const Members members = around(size);
      const Ref first = must(client.put_group(id, members.list, again));
      CHECK(must(client.put_group(id, members.list, again)) == first);
      auto renamed = members.list;
      renamed[1].name = "others";
      CHECK(outcome(client.put_group(id, renamed, again)) == "exists");
      auto retyped = members.list;
      retyped[0].type.reset();
      CHECK(outcome(client.put_group(id, retyped, again)) == "exists");
      Members changed = around(size);
      changed.bytes[1][size / 2] ^= std::byte{1};
      CHECK(outcome(client.put_group(id, changed.list, again)) == "exists");
      // The same bytes as no group are another thing, too.
      const auto bytes = must(client.get(id)).bytes();
      const std::vector<std::byte> copy(bytes.begin(), bytes.end());
      must(client.put("plain/" + id, copy, again));
      CHECK(outcome(client.put_group("plain/" + id, members.list, again)) == "exists");
    }
    CHECK(must(client.holders()).empty());
  }

  TEST_CASE("a group is no array, and an array no group") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("bytes", payload(100, "bytes", 1)));
    must(client.put("array", payload(80, "array", 1), {.type = array_of<double>({10})}));
    must(client.put_manifest("manifest", {}));
    must(client.put_group("group", around(10).list));
    CHECK(outcome(must(client.get("bytes")).group()) == "type_mismatch");
    CHECK(outcome(must(client.get("array")).group()) == "type_mismatch");
    CHECK(outcome(must(client.get("manifest")).group()) == "type_mismatch");
    CHECK(outcome(must(client.get("group")).type()) == "type_mismatch");
    CHECK(outcome(View().group()) == "bad_state");
  }
}

}  // namespace
}  // namespace forebay::test
