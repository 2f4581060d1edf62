// SPDX-License-Identifier: Apache-2.0
// Manifests: several segments published as one list, which stay as long as it does.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "store/units.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Ref put(Client& client, const std::string& id, std::uint64_t version, std::size_t size,
        PutOptions options = {}) {
  options.version = version;
  return must(client.put(id, payload(size, id, version), options));
}

// Two parts of one size, in versions that are not the newest, and a third.
std::vector<Ref> put_parts(Client& client, std::size_t size) {
  std::vector<Ref> parts{put(client, "part/a", 3, size), put(client, "part/b", 1, size),
                         put(client, "part/c", 9, 10)};
  put(client, "part/a", 4, size);
  return parts;
}

// More than a small store has room for, over and over.
void put_noise(Client& client) {
  for (std::uint64_t i = 1; i <= 20; ++i)
    put(client, "noise", i, 3 * mebibyte, {.evictable = true});
}

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

// So many that the list is no message, but written by this process.
constexpr std::size_t many = 5000;
std::vector<Ref> put_many_parts(Client& client) {
  std::vector<std::string> ids;
  for (std::size_t i = 0; i < many; ++i) ids.push_back("many/part/" + std::to_string(i));
  std::vector<PutItem> items;
  for (const std::string& id : ids) items.push_back({id, bytes_of(id)});
  std::vector<Ref> refs;
  for (auto& ref : must(client.put_many(items))) refs.push_back(must(std::move(ref)));
  return refs;
}

TEST_SUITE("manifest of segments") {
  TEST_CASE("a manifest gives what it lists, in its order and in those versions") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {100UL, 100000UL}) {
      CAPTURE(size);
      auto parts = put_parts(client, size);
      const Ref ref = must(client.put_manifest("whole", parts));
      CHECK(ref.id == "whole");
      {
        const auto views = must(client.get_manifest("whole"));
        REQUIRE(views.size() == 3);
        for (std::size_t i = 0; i < 3; ++i) CHECK(views[i].ref() == parts[i]);
        CHECK(wrong_bytes(views[0].bytes(), size, "part/a", 3) == "");
        CHECK(wrong_bytes(views[1].bytes(), size, "part/b", 1) == "");
        CHECK(must(client.stat("part/a", 3)).holders.at(0).pins == 1);
        // The list itself is not pinned any more.
        CHECK(must(client.stat("whole")).holders.empty());
      }
      CHECK(must(client.holders()).empty());
      must(client.remove(ref));
      for (const std::string id : {"part/a", "part/b", "part/c"}) must(client.remove(id));
    }
  }

  TEST_CASE("a list may be empty, or longer than a message") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put_manifest("none", {}));
    CHECK(must(client.get_manifest("none")).empty());
    const auto parts = put_many_parts(client);
    must(client.put_manifest("many", parts));
    const auto views = must(client.get_manifest("many"));
    REQUIRE(views.size() == many);
    for (std::size_t i = 0; i < many; ++i) REQUIRE(text_of(views[i].bytes()) == parts[i].id);
  }

  TEST_CASE("who waits for a manifest gets all of it") {
    DaemonProcess daemon;
    ChildProcess reader([&](Moments& moments) {
      const Client client = daemon.connect();
      moments.reached();
      const auto views = must(client.get_manifest("whole", {.timeout = seconds(20)}));
      require(views.size() == 3, "another number of members");
      const std::string wrong = wrong_bytes(views[0].bytes(), 70000, "part/a", 3);
      require(wrong.empty(), wrong);
    });
    reader.await();
    Client client = daemon.connect();
    must(client.put_manifest("whole", put_parts(client, 70000)));
    CHECK(reader.join() == 0);
  }

  TEST_CASE("each version of a manifest is a list of its own") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto parts = put_parts(client, 100);
    must(client.put_manifest("whole", std::span(parts).first(1)));
    must(client.put_manifest("whole", std::span(parts).last(2)));
    CHECK(must(client.get_manifest("whole")).size() == 2);
    CHECK(must(client.get_manifest("whole", {.version = 1})).size() == 1);
    CHECK(outcome(client.get_manifest("whole", {.version = 3})) == "not_found");
    CHECK(outcome(client.get_manifest("whole", {.after = 2, .timeout = milliseconds(50)})) ==
          "timed_out");
    CHECK(outcome(client.get_manifest("")) == "bad_id");
  }

  TEST_CASE("what is no manifest is not read as one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "bytes", 1, 100);
    must(client.put("array", payload(80, "array", 1), {.type = array_of<double>({10})}));
    must(client.put_group("group", {}));
    for (const std::string id : {"bytes", "array", "group"}) {
      const auto views = client.get_manifest(id);
      CHECK(outcome(views) == "type_mismatch");
      CHECK(mentions(why(views), id));
    }
    must(client.put_manifest("manifest", {}));
    CHECK(outcome(must(client.get("manifest")).type()) == "type_mismatch");
    CHECK(must(client.holders()).empty());
  }

  TEST_CASE("what can be in no list is refused, and nothing is put") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto parts = put_parts(client, 100);
    const auto with = [&](auto&& change) {
      auto changed = parts;
      change(changed[1]);
      return client.put_manifest("whole", changed);
    };
    CHECK(outcome(with([](Ref& ref) { ref.store[3] ^= 1; })) == "wrong_store");
    CHECK(outcome(with([](Ref& ref) { ref.namespace_name = "other"; })) == "wrong_store");
    CHECK(outcome(with([](Ref& ref) { ref.id.clear(); })) == "bad_id");
    CHECK(outcome(with([](Ref& ref) { ref.id.assign(256, 'x'); })) == "bad_id");
    CHECK(outcome(with([](Ref& ref) { ref.version = 0; })) == "stale_ref");
    CHECK(outcome(with([](Ref& ref) { ref.serial = 0; })) == "stale_ref");
    const auto twice = with([&](Ref& ref) { ref = parts[0]; });
    CHECK(outcome(twice) == "bad_argument");
    CHECK(mentions(why(twice), "'part/a' version 3"));
    CHECK(outcome(client.put_manifest("whole", parts, {.type = array_of<double>({1})})) ==
          "bad_argument");
    CHECK(outcome(client.put_manifest("", parts)) == "bad_id");
    CHECK_FALSE(must(client.contains("whole")));
    CHECK(Status(client)["creating"] == 0);
    must(client.put_manifest("whole", parts));
  }

  TEST_CASE("the same list again is fine with exist_ok, another is not") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto parts = put_parts(client, 100);
    const PutOptions again{.version = 1, .exist_ok = true};
    const Ref first = must(client.put_manifest("whole", parts, again));
    CHECK(must(client.put_manifest("whole", parts, again)) == first);
    CHECK(outcome(client.put_manifest("whole", std::span(parts).first(2), again)) == "exists");
    CHECK(outcome(client.put_manifest("whole", parts, {.version = 1})) == "exists");
  }

  TEST_CASE("a list with a member that is missing is not sealed, and the member is named") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const bool long_list : {false, true}) {
      CAPTURE(long_list);
      auto parts = long_list ? put_many_parts(client) : put_parts(client, 100);
      const Ref gone = put(client, "gone", 2, 100);
      must(client.remove(gone));
      parts.push_back(gone);
      const auto refused = client.put_manifest("whole", parts);
      CHECK(outcome(refused) == "not_found");
      CHECK(mentions(why(refused), "'gone' version 2"));
      CHECK_FALSE(must(client.contains("whole")));
      // Nor is the segment that has its id and version now the one that was meant.
      put(client, "gone", 2, 100);
      CHECK(outcome(client.put_manifest("whole", parts)) == "not_found");
      must(client.remove("gone"));
      // Nothing of the attempts holds anything.
      parts.pop_back();
      for (const Ref& ref : parts) must(client.remove(ref));
      CHECK(Status(client)["creating"] == 0);
    }
  }

  TEST_CASE("what is being created is not there yet") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    auto parts = put_parts(client, 100);
    Builder builder = must(client.create("late", 100));
    Ref late = parts[0];
    late.id = "late";
    late.version = 1;
    late.serial = parts.back().serial + 2;  // put_parts puts one more
    parts.push_back(late);
    CHECK(outcome(client.put_manifest("whole", parts)) == "not_found");
    parts.back() = must(builder.seal());
    CHECK(parts.back() == late);
    must(client.put_manifest("whole", parts));
  }

  TEST_CASE("what is listed cannot be removed, and the error names the list") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const bool long_list : {false, true}) {
      CAPTURE(long_list);
      auto parts = put_parts(client, 100000);
      if (long_list)
        for (Ref& ref : put_many_parts(client)) parts.push_back(std::move(ref));
      must(client.put_manifest("whole", parts));
      const auto refused = client.remove("part/a", 3);
      CHECK(outcome(refused) == "conflict");
      CHECK(mentions(why(refused), "'whole'"));
      CHECK(mentions(why(refused), "'part/a' version 3"));
      CHECK(outcome(client.remove(parts[0])) == "conflict");
      CHECK(outcome(client.remove("part/a")) == "conflict");
      CHECK(must(client.get_manifest("whole")).size() == parts.size());
      // What it does not list is nothing to it.
      CHECK(must(client.remove("part/a", 4)) == 1);
      must(client.remove("whole"));
      for (const Ref& ref : parts) must(client.remove(ref));
      CHECK(Status(client)["segments"] == 0);
    }
  }

  TEST_CASE("what two lists have in common stays until both have gone") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto parts = put_parts(client, 100);
    must(client.put_manifest("one", parts));
    must(client.put_manifest("two", std::span(parts).first(1)));
    must(client.remove("one"));
    CHECK(mentions(why(client.remove(parts[0])), "'two'"));
    must(client.remove(parts[1]));
    must(client.remove("two"));
    must(client.remove(parts[0]));
  }

  TEST_CASE("a list may list lists, and keeps what they list by keeping them") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto parts = put_parts(client, 100);
    const Ref inner = must(client.put_manifest("inner", parts));
    must(client.put_manifest("outer", std::span(&inner, 1)));
    CHECK(outcome(client.remove("inner")) == "conflict");
    CHECK(outcome(client.remove(parts[0])) == "conflict");
    must(client.remove("outer"));
    must(client.remove("inner"));
    must(client.remove(parts[0]));
  }

  TEST_CASE("a list that is removed while somebody reads it keeps its members until then") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto parts = put_parts(client, 100);
    must(client.put_manifest("whole", parts));
    View reading = must(client.get("whole"));
    must(client.remove("whole"));
    CHECK(outcome(client.get_manifest("whole")) == "not_found");
    CHECK(outcome(client.remove(parts[0])) == "conflict");
    reading.release();
    CHECK(eventually([&] { return outcome(client.remove(parts[0])) == "ok"; }));
  }

  TEST_CASE("room that is wanted is not made of what is listed") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    const std::vector<Ref> parts{put(client, "a", 1, 3 * mebibyte, {.evictable = true}),
                                 put(client, "b", 1, 100, {.evictable = true})};
    must(client.put_manifest("whole", parts));
    put(client, "c", 1, 3 * mebibyte, {.evictable = true});
    put_noise(client);
    CHECK(outcome(client.get("c")) == "evicted");
    {
      const auto views = must(client.get_manifest("whole"));
      CHECK(wrong_bytes(views.at(0).bytes(), 3 * mebibyte, "a", 1) == "");
      CHECK(wrong_bytes(views.at(1).bytes(), 100, "b", 1) == "");
    }
    CHECK(outcome(client.put("d", payload(14 * mebibyte, "d", 1))) == "store_full");
    must(client.remove("whole"));
    must(client.put("d", payload(14 * mebibyte, "d", 1)));
    CHECK(outcome(client.get("a")) == "evicted");
  }

  TEST_CASE("a list that is itself dropped for room lets go of its members") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    const auto parts = put_many_parts(client);
    must(client.put_manifest("whole", parts, {.evictable = true}));
    CHECK(outcome(client.remove(parts[0])) == "conflict");
    put_noise(client);
    CHECK(outcome(client.get_manifest("whole")) == "evicted");
    for (const Ref& ref : parts) must(client.remove(ref));
  }

  TEST_CASE("older versions that are not to be kept stay while they are listed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref first = put(client, "a", 1, 100, {.keep = 1});
    must(client.put_manifest("whole", std::span(&first, 1)));
    for (std::uint64_t version = 2; version <= 5; ++version)
      put(client, "a", version, 100, {.keep = 1});
    CHECK(must(client.get_manifest("whole")).size() == 1);
    CHECK(outcome(client.get("a", {.version = 4})) == "not_found");
    must(client.remove("whole"));
    CHECK(eventually([&] { return outcome(client.get("a", {.version = 1})) == "not_found"; }));
    CHECK(must(client.get("a")).version() == 5);
  }

  TEST_CASE("what would live no longer lives on while it is listed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const PutOptions shortly{.ttl = milliseconds(300)};
    const Ref listed = put(client, "a", 1, 100, shortly);
    must(client.put_manifest("whole", std::span(&listed, 1)));
    put(client, "b", 1, 100, shortly);
    CHECK(eventually([&] { return outcome(client.get("b")) == "not_found"; }));
    CHECK(must(client.get_manifest("whole")).size() == 1);
    must(client.remove("whole"));
    CHECK(eventually([&] { return outcome(client.get("a")) == "not_found"; }));
  }

  TEST_CASE("a list keeps its members over a restart of the daemon") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    std::vector<Ref> parts{put(client, "a", 1, 3 * mebibyte, {.evictable = true})};
    for (Ref& ref : put_many_parts(client)) parts.push_back(std::move(ref));
    must(client.put_manifest("whole", parts));
    daemon.kill();
    daemon.start();
    CHECK(outcome(client.remove(parts[0])) == "conflict");
    CHECK(outcome(client.remove(parts.back())) == "conflict");
    put_noise(client);
    CHECK(must(client.get_manifest("whole")).size() == parts.size());
    must(client.remove("whole"));
    for (const Ref& ref : parts) must(client.remove(ref));
  }

  TEST_CASE("a manifest may be read while the daemon is gone") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put_manifest("whole", put_parts(client, 100)));
    CHECK(must(client.get_manifest("whole")).size() == 3);
    daemon.kill();
    CHECK(must(client.get_manifest("whole")).size() == 3);
  }
}

}  // namespace
}  // namespace forebay::test
