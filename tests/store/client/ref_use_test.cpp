// SPDX-License-Identifier: Apache-2.0
// Refs in use: the very segment, or an error; never other bytes.
#include <doctest/doctest.h>

#include <string>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"

namespace forebay::test {
namespace {

TEST_SUITE("ref in use") {
  TEST_CASE("a ref names its segment in any process, also as text") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const std::string id("any\0 id/\xff", 9);
    const Ref ref = must(client.put(id, payload(100, id, 1)));
    must(client.put(id, payload(100, id, 2)));
    const std::string text = ref.to_string();
    ChildProcess other([&](Moments&) {
      const Client own = daemon.connect();
      const View view = must(own.get(must(Ref::parse(text))));
      const std::string wrong = wrong_bytes(view.bytes(), 100, id, 1);
      require(wrong.empty(), wrong);
    });
    CHECK(other.join() == 0);
  }

  TEST_CASE("a ref of another store is refused, and both stores are named") {
    DaemonProcess here;
    DaemonProcess there;
    Client client = here.connect();
    Client other = there.connect();
    must(client.put("a", payload(10, "a", 1)));
    const Ref ref = must(other.put("a", payload(10, "a", 1)));
    const auto view = client.get(ref);
    CHECK(outcome(view) == "wrong_store");
    CHECK(why(view).find(format_uuid(client.store())) != std::string::npos);
    CHECK(why(view).find(format_uuid(other.store())) != std::string::npos);
    CHECK(outcome(client.remove(ref)) == "wrong_store");
    CHECK(outcome(client.get("a")) == "ok");
  }

  TEST_CASE("a ref of another namespace is refused") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Ref ref = must(client.put("a", payload(10, "a", 1)));
    ref.namespace_name = "other";
    CHECK(outcome(client.get(ref)) == "wrong_store");
    CHECK(outcome(client.remove(ref)) == "wrong_store");
  }

  TEST_CASE("the ref of a removed segment is stale") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = must(client.put("a", payload(10, "a", 1)));
    must(client.put("a", payload(10, "a", 2)));
    must(client.remove("a", 1));
    CHECK(outcome(client.get(ref)) == "stale_ref");
    CHECK(outcome(client.remove(ref)) == "stale_ref");
    CHECK(outcome(client.get("a")) == "ok");
  }

  TEST_CASE("removed and put again, an old ref never shows the new bytes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    std::vector<Ref> old;
    for (std::uint64_t round = 0; round < 50; ++round) {
      for (const Ref& ref : old) REQUIRE(outcome(client.get(ref)) == "stale_ref");
      const Ref ref = must(client.put("a", payload(100, "a", 1, round), {.version = 1}));
      REQUIRE(wrong_bytes(must(client.get(ref)).bytes(), 100, "a", 1, round) == "");
      for (const Ref& stale : old) {
        REQUIRE(outcome(client.get(stale)) == "stale_ref");
        REQUIRE(outcome(client.remove(stale)) == "stale_ref");
      }
      REQUIRE(outcome(client.get(ref)) == "ok");
      must(client.remove("a"));
      old.push_back(ref);
    }
  }

  TEST_CASE("remove of a ref takes that very segment and leaves the other versions") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref first = must(client.put("a", payload(10, "a", 1)));
    const Ref second = must(client.put("a", payload(10, "a", 2)));
    must(client.remove(second));
    CHECK(outcome(client.get(second)) == "stale_ref");
    CHECK(must(client.get("a")).ref() == first);
  }

  TEST_CASE("a ref made up by hand finds nothing but what it names") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = must(client.put("a", payload(10, "a", 1)));
    Ref other = ref;
    other.serial = ref.serial + 1000;
    CHECK(outcome(client.get(other)) == "stale_ref");
    other = ref;
    other.id = "b";
    CHECK(outcome(client.get(other)) == "stale_ref");
    other = ref;
    other.version = 2;
    CHECK(outcome(client.get(other)) == "stale_ref");
    other = ref;
    other.id = "";
    CHECK(outcome(client.get(other)) == "bad_id");
    for (const auto& [version, serial] : {std::pair{0ULL, 0ULL}, {0ULL, 5ULL}, {1ULL, 0ULL}}) {
      other = ref;
      other.version = version;
      other.serial = serial;
      CAPTURE(version);
      CAPTURE(serial);
      // A ref without a version or serial names no segment at all.
      CHECK(outcome(client.get(other)) != "ok");
      CHECK(outcome(client.remove(other)) != "ok");
    }
    CHECK(outcome(client.get(ref)) == "ok");
  }

  TEST_CASE("a ref's type is a hint, and the record is what counts") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Ref ref = must(client.put("a", payload(80, "a", 1), {.type = array_of<double>({10})}));
    CHECK(ref.type == array_of<double>({10}));
    ref.type = array_of<float>({20});
    CHECK(must(must(client.get(ref)).type()) == array_of<double>({10}));
  }
}

}  // namespace
}  // namespace forebay::test
