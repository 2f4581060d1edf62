// SPDX-License-Identifier: Apache-2.0
// update: the next version, which starts with the content of a former one; as a copy, or in place.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "store/client.h"
#include "store/private_view.h"
#include "store/units.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/shared.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr seconds slack{5};  // for "within a second" on a loaded machine
constexpr std::array<std::size_t, 6> sizes{0, 1, 500, 65'536, 65'537, 3'000'001};
constexpr std::size_t small = 500;
constexpr std::size_t large = 300'000;

Ref put(Client& client, const std::string& id, std::uint64_t version, std::size_t size,
        PutOptions options = {}) {
  options.version = version;
  return must(client.put(id, payload(size, id, version), options));
}

// What get says of a version, with its bytes checked.
std::string look(const Client& client, const std::string& id, std::uint64_t version,
                 std::size_t size = small) {
  const auto view = client.get(id, {.version = version});
  if (!view) return outcome(view);
  const std::string wrong = wrong_bytes(view->bytes(), size, id, view->version());
  return wrong.empty() ? "ok" : wrong;
}

// Whether the builder starts with these bytes; then it is filled as its own version.
std::string go_on(Builder& builder, const std::string& id, std::uint64_t from, std::size_t size) {
  std::string wrong = wrong_bytes(builder.bytes(), size, id, from);
  if (!wrong.empty()) return "it starts with other bytes: " + wrong;
  fill(builder.bytes(), id, builder.version());
  return {};
}

std::string ids(const Client& client) {
  std::string text;
  for (const SegmentInfo& segment : must(client.list("")).segments)
    text += segment.id + "@" + std::to_string(segment.version) + " ";
  return text;
}

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}
bool names(const std::string& text, pid_t pid) {
  return mentions(text, "pid " + std::to_string(pid));
}

TEST_SUITE("update") {
  TEST_CASE("a copy starts with the content, and leaves the former version as it is") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client other = daemon.connect();
    for (const std::size_t size : sizes) {
      CAPTURE(size);
      const std::string id = "a/" + std::to_string(size);
      const Ref first = put(client, id, 1, size);
      const View view = must(client.get(id));
      Builder builder = must(client.update(id));
      CHECK(builder.version() == 2);
      CHECK(go_on(builder, id, 1, size) == "");
      CHECK(wrong_bytes(view.bytes(), size, id, 1) == "");
      CHECK(look(other, id, 0, size) == "ok");
      CHECK(must(other.get(id)).version() == 1);
      const Ref second = must(builder.seal());
      CHECK(second.version == 2);
      CHECK(second.serial > first.serial);
      CHECK(look(other, id, 1, size) == "ok");
      CHECK(look(other, id, 2, size) == "ok");
      CHECK(must(other.get(id)).version() == 2);
      CHECK(must(other.get(first)).version() == 1);
      CHECK(wrong_bytes(view.bytes(), size, id, 1) == "");
    }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("taken in place it starts with the content, and the former version is superseded") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client other = daemon.connect();
    for (const std::size_t size : sizes) {
      CAPTURE(size);
      const std::string id = "a/" + std::to_string(size);
      const Ref first = put(client, id, 1, size);
      CHECK(look(other, id, 0, size) == "ok");
      Builder builder = must(client.update(id, {.take = true}));
      CHECK(builder.version() == 2);
      for (const Client* who : {static_cast<const Client*>(&client), &other}) {
        CHECK(look(*who, id, 1, size) == "superseded");
        CHECK(look(*who, id, 0, size) == "superseded");
        CHECK(look(*who, id, 2, size) == "not_found");
        CHECK(outcome(who->get(first)) == "superseded");
        CHECK_FALSE(must(who->contains(id)));
        CHECK_FALSE(must(who->contains(id, 1)));
      }
      CHECK(mentions(why(other.get(id, {.version = 1})), "'" + id + "' version 1"));
      CHECK(go_on(builder, id, 1, size) == "");
      CHECK(must(builder.seal()).version == 2);
      CHECK(look(other, id, 2, size) == "ok");
      CHECK(must(other.get(id)).version() == 2);
      CHECK(look(other, id, 1, size) == "superseded");
      CHECK(outcome(other.get(first)) == "superseded");
      CHECK(must(other.list(id)).segments.size() == 1);
      // Who waits for the former one need not.
      const auto start = Clock::now();
      CHECK(outcome(other.get(id, {.version = 1, .timeout = seconds(20)})) == "superseded");
      CHECK(Clock::now() - start < slack);
    }
    CHECK(Status(client)["creating"] == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("what is taken needs no room, and a copy does") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    constexpr std::size_t size = 10 * mebibyte;
    put(client, "a", 1, size);
    const auto copy = client.update("a");
    CHECK(outcome(copy) == "store_full");
    CHECK(outcome(client.update("a", {.timeout = milliseconds(30)})) == "store_full");
    CHECK(look(client, "a", 0, size) == "ok");
    const std::uint64_t used = Status(client)["used_bytes"];
    for (std::uint64_t version = 1; version <= 5; ++version) {
      Builder builder = must(client.update("a", {.take = true}));
      CHECK(go_on(builder, "a", version, size) == "");
      CHECK(must(builder.seal_and_get()).version() == version + 1);
      CHECK(Status(client)["used_bytes"] == used);
    }
    CHECK(look(client, "a", 6, size) == "ok");
    must(client.remove("a"));
    CHECK(status_becomes(client, "used_bytes", 0, slack) == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a copy waits for room as long as it is told to") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    put(client, "a", 1, 7 * mebibyte);
    put(client, "b", 1, 7 * mebibyte);
    const Client observer = daemon.connect();
    Client remover = daemon.connect();
    std::jthread removing([&] {
      if (status_becomes(observer, "parked_creates", 1) == 1) must(remover.remove("b"));
    });
    Builder builder = must(client.update("a", {.timeout = seconds(20)}));
    CHECK(go_on(builder, "a", 1, 7 * mebibyte) == "");
    must(builder.seal());
    CHECK(look(client, "a", 2, 7 * mebibyte) == "ok");
  }

  TEST_CASE("what it is an array of stays, also for a group") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    ArrayType fortran = array_of<double>({3, 7, 5});
    fortran.fortran_order = true;
    ArrayType structured;
    structured.dtype = "[('x', '<f8'), ('y', '<i4')]";
    structured.shape = {70};
    const std::vector<std::optional<ArrayType>> types{
        std::nullopt, array_of<double>({105}), fortran, structured,
        array_of<std::uint8_t>({1, 2, 2, 2, 3, 5, 7})};
    for (const bool take : {false, true})
      for (std::size_t i = 0; i < types.size(); ++i) {
        CAPTURE(take);
        CAPTURE(i);
        const std::string id = "t/" + std::to_string(i) + (take ? "/taken" : "/copied");
        put(client, id, 1, 840, {.type = types[i]});
        const auto shown = must(client.stat(id)).info.type;
        Builder builder = must(client.update(id, {.take = take}));
        CHECK(go_on(builder, id, 1, 840) == "");
        const Ref ref = must(builder.seal());
        CHECK(ref.type == types[i]);
        const View view = must(client.get(id));
        CHECK(view.version() == 2);
        CHECK(must(client.stat(id)).info.type == shown);
        if (types[i]) {
          CHECK(must(view.type()) == *types[i]);
        } else {
          CHECK(outcome(view.type()) == "type_mismatch");
        }
        CHECK(wrong_bytes(view.bytes(), 840, id, 2) == "");
      }
    for (const bool take : {false, true}) {
      CAPTURE(take);
      const auto one = payload(80, "one", 1);
      const auto two = payload(100'000, "two", 1);
      const std::vector<GroupMember> members{{.name = "one", .bytes = one,
                                              .type = array_of<double>({10})},
                                             {.name = "two", .bytes = two}};
      must(client.put_group("group", members));
      must(must(client.update("group", {.take = take})).seal());
      const View view = must(client.get("group"));
      CHECK(view.version() == 2);
      const auto again = must(view.group());
      REQUIRE(again.size() == 2);
      CHECK(again[0].name == "one");
      CHECK(again[0].type == array_of<double>({10}));
      CHECK(wrong_bytes(again[0].bytes, 80, "one", 1) == "");
      CHECK(wrong_bytes(again[1].bytes, 100'000, "two", 1) == "");
      must(client.remove("group"));
    }
  }

  TEST_CASE("the new version is what its own options say, not what the former one was") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const bool take : {false, true}) {
      CAPTURE(take);
      put(client, "a", 1, large, {.evictable = true, .keep = 5, .ttl = seconds(1000)});
      must(must(client.update("a", {.take = take})).seal());
      const SegmentStat plain = must(client.stat("a"));
      CHECK_FALSE(plain.info.evictable);
      CHECK_FALSE(plain.info.persistent);
      CHECK(plain.keep == 5);  // which is the id's
      CHECK_FALSE(plain.expires_in);
      must(must(client.update("a", {.take = take,
                                    .evictable = true,
                                    .persistent = true,
                                    .keep = 2,
                                    .ttl = seconds(500)}))
               .seal());
      const SegmentStat stat = must(client.stat("a"));
      CHECK(stat.info.version == 3);
      CHECK(stat.info.evictable);
      CHECK(stat.info.persistent);
      CHECK(stat.keep == 2);
      REQUIRE(stat.expires_in);
      CHECK(*stat.expires_in <= seconds(500));
      CHECK(look(client, "a", 1, large) == (take ? "superseded" : "not_found"));
      must(client.remove("a"));
    }
  }

  TEST_CASE("without a version it is the newest that is gone on from, with one it is that") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::uint64_t version : {3U, 5U, 9U}) put(client, "a", version, small);
    {
      Builder builder = must(client.update("a"));
      CHECK(builder.version() == 10);
      CHECK(go_on(builder, "a", 9, small) == "");
      must(builder.abort());
    }
    {
      Builder builder = must(client.update("a", {.from_version = 3}));
      CHECK(builder.version() == 4);
      CHECK(go_on(builder, "a", 3, small) == "");
      must(builder.seal());
    }
    CHECK(ids(client) == "a@3 a@4 a@5 a@9 ");
    {
      Builder builder = must(client.update("a", {.from_version = 5, .take = true}));
      CHECK(builder.version() == 6);
      CHECK(go_on(builder, "a", 5, small) == "");
      CHECK(look(client, "a", 0) == "ok");
      must(builder.seal());
    }
    CHECK(ids(client) == "a@3 a@4 a@6 a@9 ");
    CHECK(look(client, "a", 5) == "superseded");
    for (const std::uint64_t version : {0U, 3U, 4U, 6U, 9U}) CHECK(look(client, "a", version) == "ok");
    // The next one is there already.
    for (const bool take : {false, true}) {
      const auto update = client.update("a", {.from_version = 3, .take = take});
      CHECK(outcome(update) == "exists");
      CHECK(mentions(why(update), "'a' version 4"));
    }
    CHECK(look(client, "a", 3) == "ok");
  }

  TEST_CASE("a next version that somebody makes is a conflict, and takes nothing from the former one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client other = daemon.connect();
    put(client, "a", 1, large);
    Builder first = must(client.update("a", {.from_version = 1}));
    for (const bool take : {false, true}) {
      const auto second = other.update("a", {.from_version = 1, .take = take});
      CHECK(outcome(second) == "conflict");
      CHECK(mentions(why(second), "'a' version 2"));
    }
    CHECK(look(other, "a", 1, large) == "ok");
    must(first.abort());
    Builder again = must(other.update("a", {.from_version = 1}));
    CHECK(go_on(again, "a", 1, large) == "");
    must(again.seal());
    CHECK(outcome(client.update("a", {.from_version = 1})) == "exists");
  }

  TEST_CASE("what somebody pins is not taken, and the error names who; a copy is made all the same") {
    DaemonProcess daemon;
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      Client client = daemon.connect();
      put(client, "a", 1, size);
      {
        ChildProcess reader([&](Moments& moments) {
          const Client own = daemon.connect();
          const View view = must(own.get("a"));
          moments.reached();
          moments.wait();
          const std::string wrong = wrong_bytes(view.bytes(), size, "a", 1);
          require(wrong.empty(), wrong);
        });
        reader.await();
        const auto update = client.update("a", {.take = true});
        CHECK(outcome(update) == "conflict");
        CHECK(names(why(update), reader.pid()));
        CHECK_FALSE(names(why(update), ::getpid()));
        CHECK(look(client, "a", 1, size) == "ok");
        Builder copy = must(client.update("a"));
        CHECK(go_on(copy, "a", 1, size) == "");
        must(copy.abort());
        reader.release();
        CHECK(reader.join() == 0);
      }
      {
        View view = must(client.get("a"));
        Client other = daemon.connect();
        for (Client* who : {&client, &other}) {
          const auto update = who->update("a", {.take = true});
          CHECK(outcome(update) == "conflict");
          CHECK(names(why(update), ::getpid()));
        }
        CHECK(wrong_bytes(view.bytes(), size, "a", 1) == "");
        CHECK(look(client, "a", 1, size) == "ok");
        view.release();
      }
      CHECK(Status(client)["creating"] == 0);
      Builder builder = must(client.update("a", {.take = true}));
      CHECK(go_on(builder, "a", 1, size) == "");
      must(builder.seal());
      CHECK(look(client, "a", 2, size) == "ok");
      must(client.remove("a"));
    }
  }

  TEST_CASE("what is held, persistent or listed is not taken, and the error says by whom it stays") {
    DaemonProcess daemon;
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      Client client = daemon.connect();
      const Ref ref = put(client, "a", 1, size);
      const auto refused = [&](const std::string& reason) {
        const auto update = client.update("a", {.take = true});
        CHECK(outcome(update) == "conflict");
        CHECK_MESSAGE(mentions(why(update), reason), why(update));
        CHECK(look(client, "a", 1, size) == "ok");
        CHECK(outcome(client.update("a")) == "ok");
      };
      {
        ChildProcess holder([&](Moments& moments) {
          Client own = daemon.connect();
          must(own.hold("a"));
          moments.reached();
          moments.wait();
        });
        holder.await();
        refused("pid " + std::to_string(holder.pid()));
        holder.kill();
        CHECK(eventually([&] { return must(client.stat("a")).leases.empty(); }, slack));
      }
      must(client.hold("a"));
      refused("pid " + std::to_string(::getpid()));
      must(client.unhold(ref));
      must(client.put_manifest("list", std::span(&ref, 1)));
      refused("'list'");
      must(client.remove("list"));
      must(must(client.update("a", {.take = true})).seal());
      CHECK(must(client.persist("a")).version == 2);
      CHECK(outcome(client.update("a", {.take = true})) == "conflict");
      CHECK(look(client, "a", 1) == "superseded");
      CHECK(outcome(client.get("a")) == "ok");
      must(client.remove("a"));
    }
  }

  TEST_CASE("after an abort the former version stays superseded, and the next is not there") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client other = daemon.connect();
    for (const std::size_t size : {0UL, small, large})
      for (const bool destroyed : {false, true}) {
        CAPTURE(size);
        CAPTURE(destroyed);
        put(client, "a", 1, size);
        put(client, "older", 4, size);
        put(client, "older", 8, size);
        {
          Builder builder = must(client.update("a", {.take = true}));
          Builder second = must(client.update("older", {.take = true}));
          CHECK(second.version() == 9);
          if (!destroyed) {
            must(builder.abort());
            must(second.abort());
          }
        }
        for (const Client* who : {static_cast<const Client*>(&client), &other}) {
          CHECK(look(*who, "a", 1) == "superseded");
          CHECK(look(*who, "a", 2) == "not_found");
          CHECK(look(*who, "a", 0) == "superseded");
          CHECK(look(*who, "older", 8) == "superseded");
          CHECK(look(*who, "older", 9) == "not_found");
          CHECK(must(who->get("older")).version() == 4);
          CHECK(look(*who, "older", 4, size) == "ok");
        }
        CHECK(ids(client) == "older@4 ");
        for (const bool take : {false, true}) {
          CHECK(outcome(client.update("a", {.from_version = 1, .take = take})) == "superseded");
          CHECK(outcome(client.update("older", {.from_version = 8, .take = take})) ==
                "superseded");
          CHECK(outcome(client.update("a", {.take = take})) == "superseded");
        }
        CHECK(Status(client)["creating"] == 0);
        // It can be made again, by who knows what it was.
        CHECK(put(client, "a", 1, size).version == 1);
        CHECK(look(client, "a", 1, size) == "ok");
        must(client.put("older", payload(small, "older", 9)));
        CHECK(look(client, "older", 9) == "ok");
        must(client.remove("a"));
        must(client.remove("older"));
        CHECK(Status(client).segment_bytes() == 0);
      }
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("who waits for the next version gets it from who took the former one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      put(client, "a", 1, size);
      ChildProcess reader([&](Moments&) {
        const Client own = daemon.connect();
        const View next = must(own.get("a", {.after = 1, .timeout = seconds(20)}));
        const std::string wrong = wrong_bytes(next.bytes(), size, "a", 2);
        require(wrong.empty(), wrong);
      });
      ChildProcess waiter([&](Moments&) {
        const Client own = daemon.connect();
        const std::vector<WaitItem> items{{.id = "a", .version = 2}};
        require(must(own.wait(items, 1, seconds(20))).size() == 1, "it did not come");
      });
      CHECK(status_becomes(client, "waiters", 2) == 2);
      Builder builder = must(client.update("a", {.take = true}));
      CHECK(Status(client)["waiters"] == 2);
      CHECK(go_on(builder, "a", 1, size) == "");
      must(builder.seal());
      CHECK(reader.join() == 0);
      CHECK(waiter.join() == 0);
      must(client.remove("a"));
    }
  }

  TEST_CASE("a view that a forked child inherited keeps the version from being taken until it ends") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 1, large);
    View view = must(client.get("a"));
    ChildProcess child([&](Moments& moments) {
      moments.reached();
      moments.wait();
      const std::string wrong = wrong_bytes(view.bytes(), large, "a", 1);
      require(wrong.empty(), wrong);
    });
    child.await();
    view.release();
    CHECK(outcome(client.update("a", {.take = true})) == "conflict");
    // The child tells the daemon its number on its own time; the pin is there before.
    CHECK(eventually(
        [&] { return names(why(client.update("a", {.take = true})), child.pid()); }, slack));
    child.release();
    CHECK(child.join() == 0);
    CHECK(eventually([&] { return outcome(client.update("a", {.take = true})) != "conflict"; },
                     slack));
  }

  TEST_CASE("a private view of a large version keeps it from being taken, and keeps its own bytes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      put(client, "a", 1, size);
      const PrivateView mine = must(client.get_private("a"));
      mine.bytes()[0] = std::byte{1};
      auto update = client.update("a", {.take = true});
      CHECK(outcome(update) == (size < 65'536 ? "ok" : "conflict"));
      if (update) fill(update->bytes(), "a", 2);
      auto bytes = payload(size, "a", 1);
      bytes[0] = std::byte{1};
      CHECK(std::equal(bytes.begin(), bytes.end(), mine.bytes().begin()));
      update = fail(Errc::cancelled, "enough");
      (void)client.remove("a");
    }
  }

  TEST_CASE("when the process that took it is killed, it stays superseded, and its memory comes back") {
    DaemonProcess daemon;
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      ChildProcess taker([&](Moments& moments) {
        Client own = daemon.connect();
        put(own, "a", 7, size);
        Builder builder = must(own.update("a", {.take = true}));
        fill(builder.bytes(), "half", 1);
        moments.reached();
        moments.wait();
      });
      taker.await();
      Client client = daemon.connect();
      CHECK(look(client, "a", 7) == "superseded");
      taker.kill();
      CHECK(status_becomes(client, "creating", 0, slack) == 0);
      CHECK(look(client, "a", 7) == "superseded");
      CHECK(look(client, "a", 8) == "not_found");
      CHECK(look(client, "a", 0) == "superseded");
      CHECK(ids(client) == "");
      CHECK(Status(client).segment_bytes() == 0);
      put(client, "a", 8, size);
      CHECK(look(client, "a", 0, size) == "ok");
      CHECK(look(client, "a", 7) == "superseded");
      must(client.remove("a"));
      CHECK(look(client, "a", 7) == "not_found");
      CHECK(adds_up(client) == "");
    }
  }

  TEST_CASE("what is not there cannot be updated, and the error says why") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    put(client, "a", 1, small);
    put(client, "e", 1, 6 * mebibyte, {.evictable = true});
    put(client, "room", 1, 12 * mebibyte);
    must(client.remove("room"));
    Builder open = must(client.create("open", 10));
    put(client, "removed", 1, small);
    must(client.remove("removed"));
    for (const bool take : {false, true}) {
      CAPTURE(take);
      CHECK(outcome(client.update("none", {.take = take})) == "not_found");
      const auto missing = client.update("a", {.from_version = 2, .take = take});
      CHECK(outcome(missing) == "not_found");
      CHECK(mentions(why(missing), "'a' version 2"));
      CHECK(outcome(client.update("open", {.take = take})) == "not_found");
      CHECK(outcome(client.update("open", {.from_version = 1, .take = take})) == "not_found");
      CHECK(outcome(client.update("removed", {.take = take})) == "not_found");
      CHECK(outcome(client.update("e", {.take = take})) == "evicted");
      CHECK(outcome(client.update("e", {.from_version = 1, .take = take})) == "evicted");
      // Not even for those who are ready to wait: it is room that they would wait for.
      const auto start = Clock::now();
      CHECK(outcome(client.update("none", {.take = take, .timeout = seconds(20)})) == "not_found");
      CHECK(Clock::now() - start < slack);
    }
    CHECK(ids(client) == "a@1 ");
    CHECK(Status(client)["creating"] == 1);
  }

  TEST_CASE("what can never be is refused, and nothing is taken") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    put(client, "a", 1, small);
    put(client, "last", most - 1, small);
    for (const bool take : {false, true}) {
      CAPTURE(take);
      for (const std::string& id :
           {std::string(), std::string(256, 'x'), std::string(300'000, 'x')}) {
        CHECK(outcome(client.update(id, {.take = take})) == "bad_id");
        CHECK(outcome(client.update(id, {.from_version = 3, .take = take})) == "bad_id");
      }
      for (const Timeout bad : {Timeout(-1), Timeout::min()}) {
        CHECK(outcome(client.update("a", {.take = take, .timeout = bad})) == "bad_argument");
        CHECK(outcome(client.update("a", {.take = take, .ttl = bad})) == "bad_argument");
      }
      CHECK(outcome(client.update("a", {.take = take, .keep = keep_all + 1})) == "bad_argument");
      CHECK(outcome(client.update("last", {.take = take})) == "bad_argument");
      CHECK(outcome(client.update("a", {.from_version = most, .take = take})) != "ok");
    }
    CHECK(look(client, "a", 1) == "ok");
    CHECK(look(client, "last", 0) == "ok");
    CHECK(Status(client)["creating"] == 0);
    client.close();
    CHECK(outcome(client.update("a")) == "bad_state");
    CHECK(outcome(client.update("a", {.take = true})) == "bad_state");
  }

  TEST_CASE("a superseded version leaves room for the keep of the others, and keep drops the copied") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::uint64_t version = 1; version <= 3; ++version)
      put(client, "a", version, large, {.keep = 2});
    must(must(client.update("a", {.take = true, .keep = 2})).seal());
    // Version 3 is no sealed version any more: 2 and 4 are the newest two.
    CHECK(look(client, "a", 2, large) == "ok");
    CHECK(outcome(client.get("a", {.version = 4})) == "ok");
    CHECK(ids(client) == "a@2 a@4 ");
    must(must(client.update("a", {.keep = 1})).seal());
    CHECK(ids(client) == "a@5 ");
  }

  TEST_CASE("a pinned version is not disturbed by the updates that follow it") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (const std::size_t size : {small, mebibyte}) {
      CAPTURE(size);
      put(client, "a", 1, size);
      const View first = must(client.get("a"));
      for (std::uint64_t version = 1; version <= 20; ++version) {
        // From the second on nobody reads the last one.
        Builder builder = must(client.update("a", {.take = version > 1, .keep = 1}));
        CHECK(go_on(builder, "a", version, size) == "");
        must(builder.seal());
        CHECK(look(client, "a", version + 1, size) == "ok");
      }
      CHECK(wrong_bytes(first.bytes(), size, "a", 1) == "");
      CHECK(look(client, "a", 1, size) == "ok");
      must(client.remove("a"));
      CHECK(wrong_bytes(first.bytes(), size, "a", 1) == "");
    }
  }

  TEST_CASE("stray writes to a version that was taken and sealed are impossible in the taker, too") {
    DaemonProcess daemon;
    ChildProcess taker([&](Moments&) {
      Client own = daemon.connect();
      put(own, "a", 1, large);
      Builder builder = must(own.update("a", {.take = true}));
      std::byte* const written = builder.bytes().data();
      fill(builder.bytes(), "a", 2);
      must(builder.seal());
      die_of_faults();
      poke(written);
    });
    CHECK(taker.join() == -SIGSEGV);
    const Client client = daemon.connect();
    CHECK(look(client, "a", 2, large) == "ok");
  }

  TEST_CASE("of two processes that update the same version one wins, and the other is told") {
    DaemonProcess daemon;
    struct Board {
      std::atomic<int> ready;
      std::array<std::atomic<int>, 2> won;
    };
    constexpr std::uint64_t rounds = 50;
    for (const bool take : {false, true})
      for (const std::size_t size : {small, large}) {
        CAPTURE(take);
        CAPTURE(size);
        Client client = daemon.connect();
        put(client, "a", 1, size);
        Shared<Board> board;
        const auto race = [&](std::size_t who) {
          Client own = daemon.connect();
          for (std::uint64_t version = 1; version <= rounds; ++version) {
            // Both at the same moment, as far as the machine allows.
            ++board->ready;
            while (board->ready < static_cast<int>(2 * version)) {
            }
            auto update = own.update("a", {.from_version = version, .take = take});
            if (update) {
              ++board->won[who];
              require(update->version() == version + 1, "another version");
              const std::string wrong = go_on(*update, "a", version, size);
              require(wrong.empty(), wrong);
              must(update->seal());
            } else {
              const std::string ended = outcome(update);
              require(ended == "conflict" || ended == "exists" || (take && ended == "superseded"),
                      "it says " + ended);
            }
            const View view = must(
                own.get("a", {.version = version + 1, .timeout = seconds(20)}));
            const std::string wrong = wrong_bytes(view.bytes(), size, "a", version + 1);
            require(wrong.empty(), wrong);
          }
        };
        ChildProcess one([&](Moments&) { race(0); });
        ChildProcess two([&](Moments&) { race(1); });
        CHECK(one.join() == 0);
        CHECK(two.join() == 0);
        CHECK(board->won[0] + board->won[1] == static_cast<int>(rounds));
        CHECK(must(client.get("a")).version() == rounds + 1);
        CHECK(must(client.list("a")).segments.size() == (take ? 1 : rounds + 1));
        must(client.remove("a"));
      }
    CHECK(adds_up(daemon.connect()) == "");
  }

  TEST_CASE("readers race with one who takes: they get right bytes, or are told, and never both") {
    DaemonProcess daemon({.capacity = "16MiB"});
    for (const std::size_t size : {small, large}) {
      CAPTURE(size);
      Shared<std::atomic<std::uint64_t>> gets;
      const auto read = [&](Moments& moments) {
        const Client own = daemon.connect();
        moments.reached();
        std::uint64_t number = static_cast<std::uint64_t>(::getpid());
        while (!must(own.contains("end"))) {
          // For a while it pins nothing, so that the other gets its turn.
          number = mixed(number);
          for (std::uint64_t i = 0; i < number % 3000; ++i) (void)own.contains("none");
          const auto view = own.get("a");
          if (!view) {
            require(outcome(view) == "superseded" || outcome(view) == "not_found",
                    "it says " + outcome(view));
            continue;
          }
          ++*gets;
          const std::string wrong = wrong_bytes(view->bytes(), size, "a", view->version());
          require(wrong.empty(), wrong);
        }
      };
      Client client = daemon.connect();
      put(client, "a", 1, size);
      ChildProcess one(read);
      ChildProcess two(read);
      one.await();
      two.await();
      std::uint64_t version = 1;
      const auto until = Clock::now() + seconds(20);
      while ((version < 400 || *gets < 400) && Clock::now() < until) {
        auto update = client.update("a", {.take = true});
        if (!update) {
          REQUIRE(outcome(update) == "conflict");
          continue;
        }
        REQUIRE(go_on(*update, "a", version, size) == "");
        REQUIRE(must(update->seal()).version == ++version);
      }
      CHECK(version >= 50);
      CHECK(*gets > 50);
      must(client.put("end", payload(1, "end", 1)));
      CHECK(one.join() == 0);
      CHECK(two.join() == 0);
      CHECK(look(client, "a", version, size) == "ok");
      must(client.remove("a"));
      must(client.remove("end"));
    }
    CHECK(adds_up(daemon.connect()) == "");
  }
}

}  // namespace
}  // namespace forebay::test
