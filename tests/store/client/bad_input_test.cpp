// SPDX-License-Identifier: Apache-2.0
// What can never work is refused with a reason, and nothing else changes.
#include <doctest/doctest.h>

#include <chrono>
#include <limits>
#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/daemon_process.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_SUITE("bad input") {
  TEST_CASE("an id is 1 to 255 bytes in every call") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto bytes = payload(10, "a", 1);
    const auto large = payload(100000, "a", 1);
    for (const std::string& id : {std::string(), std::string(256, 'x'), std::string(100000, 'x'),
                                  std::string(1000000, '\0')}) {
      CAPTURE(id.size());
      CHECK(outcome(client.put(id, bytes)) == "bad_id");
      CHECK(outcome(client.put(id, large)) == "bad_id");
      CHECK(outcome(client.create(id, 10)) == "bad_id");
      CHECK(outcome(client.get(id)) == "bad_id");
      CHECK(outcome(client.get(id, {.version = 1})) == "bad_id");
      CHECK(outcome(client.get(id, {.timeout = seconds(20)})) == "bad_id");
      CHECK(outcome(client.contains(id)) == "bad_id");
      CHECK(outcome(client.remove(id)) == "bad_id");
      CHECK(outcome(client.stat(id)) == "bad_id");
      CHECK(why(client.put(id, bytes)).find(std::to_string(id.size())) != std::string::npos);
    }
    CHECK(Status(client)["segments"] == 0);
  }

  TEST_CASE("any bytes of 1 to 255 are an id") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    std::vector<std::string> ids{std::string(1, '\0'), std::string(255, '\xff'),
                                 std::string(255, '\0'), "/", "//", "../../etc/passwd", "a@1#2",
                                 "%", "\n"};
    for (int c = 0; c < 256; ++c) ids.push_back("c" + std::string(1, static_cast<char>(c)));
    for (const std::string& id : ids) must(client.put(id, payload(50, id, 1)));
    for (const std::string& id : ids) {
      const View view = must(client.get(id));
      CHECK(wrong_bytes(view.bytes(), 50, id, 1) == "");
      CHECK(view.ref().id == id);
      CHECK(must(client.stat(id)).info.id == id);
    }
    for (const std::string& id : ids) CHECK(must(client.remove(id)) == 1);
  }

  TEST_CASE("no bytes at all are a segment, too") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref ref = must(client.put("a", {}));
    CHECK(must(client.get(ref)).bytes().empty());
    Builder builder = must(client.create("b", 0));
    CHECK(builder.bytes().empty());
    must(builder.seal());
    CHECK(must(client.get("b")).bytes().empty());
    CHECK(must(client.get("b")));
    Builder aborted = must(client.create("c", 0));
    must(aborted.abort());
    CHECK(must(client.stat("a")).info.size == 0);
    const View view = must(client.get("a"));
    CHECK(must(client.stat("a")).holders.size() == 1);
    must(client.remove("a"));
    CHECK(view.ref() == ref);
  }

  TEST_CASE("the highest version is the highest, and has no next one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    CHECK(outcome(client.put("a", payload(10, "a", 1), {.version = most})) == "bad_argument");
    CHECK(outcome(client.create("a", 10, {.version = most})) == "bad_argument");
    CHECK(outcome(client.get("a", {.version = most})) == "not_found");
    CHECK(outcome(client.remove("a", most)) == "not_found");
    CHECK(must(client.put("a", payload(10, "a", 1), {.version = most - 1})).version == most - 1);
    CHECK(must(client.get("a")).version() == most - 1);
    CHECK(must(client.get("a", {.version = most - 1})).version() == most - 1);
    CHECK(outcome(client.put("a", payload(10, "a", 2))) == "bad_argument");
    CHECK(outcome(client.create("a", 10)) == "bad_argument");
    CHECK(outcome(client.get("a", {.after = most - 1})) == "not_found");
    CHECK(outcome(client.get("a", {.after = most})) == "not_found");
    CHECK(must(client.put("a", payload(10, "a", 7), {.version = 7})).version == 7);
    CHECK(must(client.remove("a")) == 2);
    CHECK(must(client.put("a", payload(10, "a", 1))).version == 1);
  }

  TEST_CASE("a negative timeout is refused") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto bytes = payload(10, "a", 1);
    CHECK(outcome(client.get("a", {.timeout = milliseconds(-1)})) == "bad_argument");
    CHECK(outcome(client.get("a", {.timeout = Timeout::min()})) == "bad_argument");
    CHECK(outcome(client.put("a", bytes, {.timeout = milliseconds(-1)})) == "bad_argument");
    CHECK(outcome(client.create("a", 10, {.timeout = Timeout::min()})) == "bad_argument");
    const std::vector<PutItem> items{{"a", bytes}};
    for (const auto& ref : must(client.put_many(items, {.timeout = milliseconds(-5)})))
      CHECK(outcome(ref) == "bad_argument");
    ConnectOptions options = daemon.connect_options();
    options.timeout = milliseconds(-1);
    CHECK(outcome(Client::connect(options)) == "bad_argument");
    options.timeout = milliseconds(0);
    CHECK(outcome(Client::connect(options)) == "bad_argument");
    CHECK(Status(client)["segments"] == 0);
  }

  TEST_CASE("the longest timeout is as good as none") {
    DaemonProcess daemon;
    ConnectOptions options = daemon.connect_options();
    options.timeout = Timeout::max();
    Client client = must(Client::connect(options));
    for (const std::size_t size : {10UL, 100000UL}) {
      must(client.put("a", payload(size, "a", 1), {.timeout = Timeout::max()}));
      CHECK(outcome(client.get("a", {.timeout = Timeout::max()})) == "ok");
      Builder builder = must(client.create("a", size, {.timeout = Timeout::max()}));
      must(builder.seal());
      const auto bytes = payload(size, "b", 1);
      const std::vector<PutItem> items{{"b", bytes}};
      for (const auto& ref : must(client.put_many(items, {.timeout = Timeout::max()})))
        CHECK(outcome(ref) == "ok");
      const std::vector<std::string_view> ids{"a", "b"};
      for (const auto& view : must(client.get_many(ids, {.timeout = Timeout::max()})))
        CHECK(outcome(view) == "ok");
      must(client.remove("a"));
    }
  }

  TEST_CASE("a builder ends once") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Builder sealed = must(client.create("a", 100));
    must(sealed.seal());
    CHECK(outcome(sealed.seal()) == "bad_state");
    CHECK(outcome(sealed.seal_and_get()) == "bad_state");
    CHECK(outcome(sealed.abort()) == "bad_state");
    CHECK(outcome(sealed.abort_and_hold()) == "bad_state");
    CHECK(outcome(client.get("a")) == "ok");

    Builder aborted = must(client.create("a", 100));
    must(aborted.abort());
    CHECK(outcome(aborted.abort()) == "bad_state");
    CHECK(outcome(aborted.seal()) == "bad_state");
    CHECK(outcome(aborted.seal_and_get()) == "bad_state");
    CHECK(outcome(aborted.abort_and_hold()) == "bad_state");
    CHECK(must(client.get("a")).version() == 1);

    Builder got = must(client.create("a", 100));
    const View view = must(got.seal_and_get());
    CHECK(outcome(got.seal()) == "bad_state");
    CHECK(outcome(got.abort()) == "bad_state");
    CHECK(view.version() == 2);
    CHECK(must(client.stat("a")).holders.at(0).pins == 1);

    Builder held = must(client.create("a", 100));
    const View memory = must(held.abort_and_hold());
    CHECK(outcome(held.abort()) == "bad_state");
    CHECK(outcome(held.seal()) == "bad_state");
    CHECK(must(client.get("a")).version() == 2);
  }

  TEST_CASE("after close, every call says so") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(10, "a", 1)));
    const Ref ref = must(client.get("a")).ref();
    Builder builder = must(client.create("b", 100));
    CHECK_FALSE(client.closed());
    client.close();
    CHECK(client.closed());
    client.close();
    const auto bytes = payload(10, "a", 1);
    const auto large = payload(100000, "a", 1);
    CHECK(outcome(client.put("a", bytes)) == "bad_state");
    CHECK(outcome(client.put("a", large)) == "bad_state");
    CHECK(outcome(client.create("a", 10)) == "bad_state");
    CHECK(outcome(client.get("a")) == "bad_state");
    CHECK(outcome(client.get("a", {.timeout = seconds(20)})) == "bad_state");
    CHECK(outcome(client.get(ref)) == "bad_state");
    CHECK(outcome(client.contains("a")) == "bad_state");
    CHECK(outcome(client.remove("a")) == "bad_state");
    CHECK(outcome(client.remove(ref)) == "bad_state");
    CHECK(outcome(client.list("")) == "bad_state");
    CHECK(outcome(client.stat("a")) == "bad_state");
    CHECK(outcome(client.status()) == "bad_state");
    CHECK(outcome(client.holders()) == "bad_state");
    CHECK(outcome(client.dump([](std::string_view) {})) == "bad_state");
    CHECK(outcome(client.stop_daemon(true)) == "bad_state");
    const std::vector<PutItem> items{{"a", bytes}};
    CHECK(outcome(client.put_many(items)) == "bad_state");
    const std::vector<std::string_view> ids{"a"};
    const auto views = client.get_many(ids);
    CHECK((views ? outcome(views->at(0)) : outcome(views)) == "bad_state");
    CHECK(outcome(builder.seal()) == "bad_state");
    CHECK(outcome(builder.abort()) == "bad_state");
    // What it was connected to can still be asked.
    CHECK(client.store() == ref.store);
    CHECK(client.address() == daemon.socket());
    CHECK(outcome(daemon.connect().get("a")) == "ok");
  }

  TEST_CASE("connecting to nobody fails at once, and names the path") {
    DaemonProcess daemon;
    ConnectOptions options;
    options.address = daemon.socket() + ".nobody";
    const auto start = std::chrono::steady_clock::now();
    const auto client = Client::connect(options);
    CHECK(outcome(client) == "disconnected");
    CHECK(why(client).find(options.address) != std::string::npos);
    CHECK(std::chrono::steady_clock::now() - start < seconds(5));
    options.address = "/dev/null";
    CHECK(outcome(Client::connect(options)) == "disconnected");
    options.address = std::string(5000, 'x');
    CHECK(outcome(Client::connect(options)) != "ok");
    options.address = "/tmp";
    CHECK(outcome(Client::connect(options)) == "disconnected");
  }

  TEST_CASE("a namespace that is not there is refused by name") {
    DaemonProcess daemon;
    ConnectOptions options = daemon.connect_options();
    for (const std::string& name : {std::string("other"), std::string(), std::string(65, 'x'),
                                    std::string(1000000, 'x'), std::string("default\0x", 9)}) {
      options.namespace_name = name;
      const auto client = Client::connect(options);
      CHECK(outcome(client) != "ok");
      if (name == "other") {
        CHECK(outcome(client) == "not_found");
        CHECK(why(client).find("'other'") != std::string::npos);
      }
    }
  }

  TEST_CASE("a ref of nothing names nothing") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK(outcome(client.get(Ref())) != "ok");
    CHECK(outcome(client.remove(Ref())) != "ok");
  }
}

}  // namespace
}  // namespace forebay::test
