// SPDX-License-Identifier: Apache-2.0
// Views: typed, aligned, read-only, and alive for as long as somebody holds them.
#include "store/view.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/faults.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

struct Point {
  float x, y, z;
};

TEST_SUITE("view") {
  TEST_CASE("a view of an array is read as its elements, and as no others") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    std::vector<double> numbers(1000);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<double>(i) * 0.5;
    must(client.put("a", std::as_bytes(std::span(numbers)), {.type = array_of<double>({1000})}));
    const View view = must(client.get("a"));
    const auto doubles = must(view.as<double>());
    REQUIRE(doubles.size() == 1000);
    CHECK(doubles[999] == 499.5);
    CHECK(outcome(view.as<float>()) == "type_mismatch");
    CHECK(outcome(view.as<std::int64_t>()) == "type_mismatch");
    CHECK(outcome(view.as<std::uint8_t>()) == "type_mismatch");
    CHECK(why(view.as<float>()).find("<f8") != std::string::npos);
    CHECK(why(view.as<float>()).find("<f4") != std::string::npos);
    // Bytes and structs of one's own are views of anything that has the size.
    CHECK(must(view.as<std::byte>()).size() == 8000);
    CHECK(outcome(view.as<Point>()) == "type_mismatch");  // 8000 is no multiple of 12
  }

  TEST_CASE("plain bytes are read as elements of any type whose size fits") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(24, "a", 1)));
    const View view = must(client.get("a"));
    CHECK(must(view.as<double>()).size() == 3);
    CHECK(must(view.as<std::uint16_t>()).size() == 12);
    CHECK(must(view.as<Point>()).size() == 2);
    must(client.put("b", payload(25, "b", 1)));
    const View odd = must(client.get("b"));
    CHECK(outcome(odd.as<double>()) == "type_mismatch");
    CHECK(must(odd.as<char>()).size() == 25);
    must(client.put("c", {}));
    CHECK(must(must(client.get("c")).as<double>()).empty());
  }

  TEST_CASE("payloads are aligned: all to 64 bytes, those of 64 KiB and more to a page") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::size_t size = 1; size < 300000; size = size * 3 / 2 + 7) {
      const std::string id = "a/" + std::to_string(size);
      must(client.put(id, payload(size, id, 1)));
      const View view = must(client.get(id));
      const auto address = reinterpret_cast<std::uintptr_t>(view.bytes().data());
      CHECK(address % 64 == 0);
      if (size >= 65536) CHECK(address % 4096 == 0);
    }
  }

  TEST_CASE("a view of nothing is empty, has no type, and may be released") {
    View view;
    CHECK_FALSE(view);
    CHECK(view.bytes().empty());
    CHECK(view.version() == 0);
    CHECK(view.serial() == 0);
    CHECK(outcome(view.type()) == "bad_state");
    view.release();
    const View moved = std::move(view);
    CHECK_FALSE(moved);
  }

  TEST_CASE("a released or moved-from view is of nothing, and each pin ends once") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100, "a", 1)));
    must(client.put("b", payload(100, "b", 1)));
    const auto pins = [&](const std::string& id) -> std::uint64_t {
      const SegmentStat stat = must(client.stat(id));
      return stat.holders.empty() ? 0 : stat.holders[0].pins;
    };
    View one = must(client.get("a"));
    View two = std::move(one);
    CHECK_FALSE(one);
    CHECK(pins("a") == 1);
    View three = must(client.get("b"));
    three = std::move(two);
    CHECK(pins("a") == 1);
    CHECK(pins("b") == 0);
    View& same = three;
    three = std::move(same);
    CHECK(three);
    CHECK(pins("a") == 1);
    three.release();
    CHECK_FALSE(three);
    CHECK(three.bytes().empty());
    three.release();
    CHECK(pins("a") == 0);
  }

  TEST_CASE("a thousand views of one segment are a thousand pins") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(100, "a", 1)));
    std::vector<View> views;
    for (int i = 0; i < 1000; ++i) views.push_back(must(client.get("a")));
    CHECK(must(client.stat("a")).holders.at(0).pins == 1000);
    views.resize(1);
    CHECK(must(client.stat("a")).holders.at(0).pins == 1);
    must(client.remove("a"));
    CHECK(Status(client)["removing"] == 1);
    CHECK(wrong_bytes(views[0].bytes(), 100, "a", 1) == "");
    views.clear();
    CHECK(status_becomes(client, "removing", 0) == 0);
  }

  TEST_CASE("a view outlives its client, closed or destroyed, and still pins") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client observer = daemon.connect();
    for (const bool destroyed : {false, true}) {
      CAPTURE(destroyed);
      std::optional<Client> client(daemon.connect());
      must(client->put("a", payload(5000000, "a", 1)));
      must(client->put("b", payload(500, "b", 1), {.type = array_of<std::uint8_t>({5, 100})}));
      View large = must(client->get("a"));
      View small = must(client->get("b"));
      if (destroyed) {
        client.reset();
      } else {
        client->close();
      }
      must(observer.remove("a"));
      must(observer.remove("b"));
      for (std::uint64_t i = 1; i < 20; ++i) {
        must(observer.put("noise", payload(i % 2 == 0 ? 5000000 : 500, "noise", i)));
        must(observer.remove("noise"));
      }
      CHECK(wrong_bytes(large.bytes(), 5000000, "a", 1) == "");
      CHECK(wrong_bytes(small.bytes(), 500, "b", 1) == "");
      CHECK(small.ref().id == "b");
      CHECK(must(small.type()) == array_of<std::uint8_t>({5, 100}));
      CHECK(Status(observer)["removing"] == 2);
      large.release();
      CHECK(status_becomes(observer, "removing", 1) == 1);
      small.release();
      CHECK(status_becomes(observer, "removing", 0) == 0);
    }
  }

  TEST_CASE("views made by many clients of one process are apart") {
    DaemonProcess daemon;
    Client first = daemon.connect();
    must(first.put("a", payload(100, "a", 1)));
    std::vector<View> views;
    for (int i = 0; i < 30; ++i) {
      const Client client = daemon.connect();
      views.push_back(must(client.get("a")));
    }
    must(first.remove("a"));
    for (std::size_t left = views.size(); left > 0; --left) {
      CHECK(Status(first)["removing"] == 1);
      CHECK(wrong_bytes(views.back().bytes(), 100, "a", 1) == "");
      views.pop_back();
    }
    CHECK(status_becomes(first, "removing", 0) == 0);
  }

  TEST_CASE("a view stays right when the daemon is killed, and when another one takes over") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(300000, "a", 1)));
    View view = must(client.get("a"));
    daemon.kill();
    CHECK(wrong_bytes(view.bytes(), 300000, "a", 1) == "");
    daemon.start();
    must(client.remove("a"));
    for (std::uint64_t i = 1; i < 20; ++i) {
      must(client.put("noise", payload(300000, "noise", i)));
      must(client.remove("noise"));
    }
    CHECK(wrong_bytes(view.bytes(), 300000, "a", 1) == "");
    view.release();
    CHECK(status_becomes(client, "removing", 0) == 0);
  }

  TEST_CASE("a view outlives a store that is dropped") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(300000, "a", 1)));
    const View view = must(client.get("a"));
    must(client.stop_daemon(true));
    CHECK(daemon.wait_for_end(patience) == 0);
    CHECK(daemon.objects().empty());
    CHECK(wrong_bytes(view.bytes(), 300000, "a", 1) == "");
    daemon.start();
    CHECK(outcome(client.get("a")) == "not_found");
    must(client.put("a", payload(300000, "a", 2)));
    CHECK(wrong_bytes(view.bytes(), 300000, "a", 1) == "");
    CHECK(wrong_bytes(must(client.get("a")).bytes(), 300000, "a", 2) == "");
  }

  TEST_CASE("a write through a view is a fault in the process that does it, and harms nobody") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {100UL, 300000UL}) {
      CAPTURE(size);
      const std::string id = "a/" + std::to_string(size);
      must(client.put(id, payload(size, id, 1)));
      const View view = must(client.get(id));
      ChildProcess reader([&](Moments&) {
        die_of_faults();
        const Client own = daemon.connect();
        const View there = must(own.get(id));
        poke(there.bytes().data() + size / 2);
      });
      CHECK(reader.join() == -SIGSEGV);
      CHECK(wrong_bytes(view.bytes(), size, id, 1) == "");
    }
  }

  TEST_CASE("a write through a view is a fault also in the process that put the segment") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    for (const std::size_t size : {100UL, 300000UL}) {
      CAPTURE(size);
      const std::string id = "a/" + std::to_string(size);
      ChildProcess writer([&](Moments&) {
        die_of_faults();
        Client own = daemon.connect();
        must(own.put(id, payload(size, id, 1)));
        // Another one, so that whatever put uses is in use.
        must(own.put("other", payload(size, "other", 1)));
        const View there = must(own.get(id));
        poke(there.bytes().data() + size / 2);
      });
      CHECK(writer.join() == -SIGSEGV);
      CHECK(wrong_bytes(must(client.get(id)).bytes(), size, id, 1) == "");
    }
  }

  TEST_CASE("a pointer kept from a builder is good for writing until the seal, and a fault after it") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    for (const std::size_t size : {100UL, 300000UL}) {
      for (const bool with_another_open : {false, true}) {
        CAPTURE(size);
        const std::string id = "a/" + std::to_string(size) + (with_another_open ? "/2" : "/1");
        ChildProcess writer([&](Moments& moments) {
          die_of_faults();
          Client own = daemon.connect();
          std::optional<Builder> before;
          std::optional<Builder> behind;
          if (with_another_open) before.emplace(must(own.create("before", size)));
          Builder builder = must(own.create(id, size));
          if (with_another_open) behind.emplace(must(own.create("behind", size)));
          std::byte* const kept = builder.bytes().data();
          fill(builder.bytes(), id, 1);
          poke(kept + size / 2);
          poke(kept + size / 2);
          must(builder.seal());
          // The neighbours are still open, the sealed one is not.
          if (before) fill(before->bytes(), "before", 1);
          if (behind) fill(behind->bytes(), "behind", 1);
          moments.reached();
          poke(kept + size / 2);
        });
        CHECK(writer.await() == '.');
        CHECK(writer.join() == -SIGSEGV);
        CHECK(wrong_bytes(must(client.get(id)).bytes(), size, id, 1) == "");
      }
    }
  }

  TEST_CASE("a pointer kept from a builder is a fault after seal_and_get and after abort, too") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    for (const std::string how : {"seal_and_get", "abort", "abort_and_hold", "destroy"}) {
      CAPTURE(how);
      ChildProcess writer([&](Moments& moments) {
        die_of_faults();
        Client own = daemon.connect();
        std::optional<Builder> builder(must(own.create(how, 100000)));
        std::byte* const kept = builder->bytes().data();
        fill(builder->bytes(), how, 1);
        View view;
        if (how == "seal_and_get") view = must(builder->seal_and_get());
        if (how == "abort") must(builder->abort());
        if (how == "abort_and_hold") view = must(builder->abort_and_hold());
        if (how == "destroy") builder.reset();
        moments.reached();
        poke(kept);
      });
      CHECK(writer.await() == '.');
      CHECK(writer.join() == -SIGSEGV);
    }
    CHECK(wrong_bytes(must(client.get("seal_and_get")).bytes(), 100000, "seal_and_get", 1) == "");
  }

  TEST_CASE("memory that a builder wrote to and gave back is writable for nobody in the next segment") {
    // More than half of the store: the same addresses are used again, by put and create in turn.
    DaemonProcess daemon({.capacity = "16MiB"});
    ChildProcess writer([&](Moments& moments) {
      die_of_faults();
      Client own = daemon.connect();
      for (std::uint64_t round = 1; round <= 20; ++round) {
        Builder builder = must(own.create("a", 9000000));
        fill(builder.bytes(), "a", round);
        must(builder.seal());
        must(own.remove("a"));
        must(own.put("a", payload(9000000, "a", round)));
        if (round < 20) must(own.remove("a"));
      }
      const View view = must(own.get("a"));
      moments.reached();
      poke(view.bytes().data());
    });
    CHECK(writer.await() == '.');
    CHECK(writer.join() == -SIGSEGV);
    const Client client = daemon.connect();
    CHECK(wrong_bytes(must(client.get("a")).bytes(), 9000000, "a", 20) == "");
  }
}

}  // namespace
}  // namespace forebay::test
