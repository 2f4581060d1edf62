// SPDX-License-Identifier: Apache-2.0
// put and get: what was put is what is got, here and in other processes.
#include <doctest/doctest.h>

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

// On both sides of every border between ways of storing.
const std::vector<std::size_t> sizes{0,          1,       63,         64,        65,
                                     1000,       4095,    4096,       4097,      65535,
                                     64 * 1024,  65537,   192 * 1024, 300000,    1024 * 1024 + 1,
                                     5000000,    8388608};

std::string id_of_size(std::size_t size) { return "size/" + std::to_string(size); }

TEST_SUITE("put and get") {
  TEST_CASE("what was put is got back byte for byte, whatever its size") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : sizes) {
      const std::string id = id_of_size(size);
      const Ref ref = must(client.put(id, payload(size, id, 1)));
      CHECK(ref.version == 1);
    }
    for (const std::size_t size : sizes) {
      const std::string id = id_of_size(size);
      const View view = must(client.get(id));
      CHECK(wrong_bytes(view.bytes(), size, id, 1) == "");
    }
  }

  TEST_CASE("another process gets what this one put") {
    DaemonProcess daemon;
    ChildProcess reader([&](Moments& moments) {
      Client client = daemon.connect();
      moments.reached();
      moments.wait();
      for (const std::size_t size : sizes) {
        const std::string id = id_of_size(size);
        const View view = must(client.get(id));
        const std::string wrong = wrong_bytes(view.bytes(), size, id, 1);
        require(wrong.empty(), wrong);
      }
    });
    reader.await();
    Client client = daemon.connect();
    for (const std::size_t size : sizes)
      must(client.put(id_of_size(size), payload(size, id_of_size(size), 1)));
    reader.release();
    CHECK(reader.join() == 0);
  }

  TEST_CASE("a client that connects later gets what was put before") {
    DaemonProcess daemon;
    {
      Client client = daemon.connect();
      for (const std::size_t size : sizes)
        must(client.put(id_of_size(size), payload(size, id_of_size(size), 1)));
    }
    const Client client = daemon.connect();
    for (const std::size_t size : sizes)
      CHECK(wrong_bytes(must(client.get(id_of_size(size))).bytes(), size, id_of_size(size), 1) ==
            "");
  }

  TEST_CASE("put may write the bytes in place, and what it writes later is lost") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : sizes) {
      const std::string id = id_of_size(size);
      int calls = 0;
      std::size_t given = 0;
      const Ref ref = must(client.put(id, size, [&](std::span<std::byte> bytes) {
        ++calls;
        given = bytes.size();
        fill(bytes, id, 1);
        return true;
      }));
      CHECK(calls == 1);
      CHECK(given == size);
      // What could not be written is not put, and its number is free again.
      CHECK(outcome(client.put("not", size, [](std::span<std::byte>) { return false; })) ==
            "bad_argument");
      CHECK_FALSE(must(client.contains("not")));
      CHECK(status_becomes(client, "creating", 0) == 0);
      CHECK(wrong_bytes(must(client.get(ref)).bytes(), size, id, 1) == "");
    }
  }

  TEST_CASE("an id that was never put is not found, and the error names it") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    const auto view = client.get("points/17");
    CHECK(outcome(view) == "not_found");
    CHECK(why(view).find("points/17") != std::string::npos);
    const auto version = client.get("points/17", {.version = 41});
    CHECK(outcome(version) == "not_found");
    CHECK(why(version).find("41") != std::string::npos);
  }

  TEST_CASE("two gets of a segment show the same bytes at the same place") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {std::size_t{100}, std::size_t{1000000}}) {
      const std::string id = id_of_size(size);
      must(client.put(id, payload(size, id, 1)));
      const View one = must(client.get(id));
      const View two = must(client.get(id));
      CHECK(one.bytes().data() == two.bytes().data());
    }
  }

  TEST_CASE("a put gives the ref that the view of it has") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Ref put = must(client.put("a/b", payload(10, "a/b", 1)));
    const View view = must(client.get("a/b"));
    CHECK(view.ref() == put);
    CHECK(put.id == "a/b");
    CHECK(put.version == 1);
    CHECK(put.namespace_name == "default");
    CHECK(put.store == client.store());
    CHECK(view.version() == put.version);
    CHECK(view.serial() == put.serial);
  }

  TEST_CASE("every segment has a serial of its own") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    std::vector<std::uint64_t> serials;
    for (int i = 0; i < 20; ++i) {
      serials.push_back(must(client.put("same", payload(10, "same", 1))).serial);
      must(client.remove("same"));
    }
    std::sort(serials.begin(), serials.end());
    CHECK(std::unique(serials.begin(), serials.end()) == serials.end());
  }

  TEST_CASE("a pinned view stays what it is while everything around it changes") {
    DaemonProcess daemon({.capacity = "32MiB"});
    Client client = daemon.connect();
    must(client.put("kept", payload(3000, "kept", 1)));
    must(client.put("kept", payload(2000000, "kept", 2)));
    const View small = must(client.get("kept", {.version = 1}));
    const View large = must(client.get("kept"));
    for (std::uint64_t i = 1; i <= 200; ++i) {
      const std::size_t size = i % 2 == 0 ? 3000 : 1500000;
      must(client.put("noise", payload(size, "noise", i)));
      must(client.remove("noise"));
    }
    CHECK(wrong_bytes(small.bytes(), 3000, "kept", 1) == "");
    CHECK(wrong_bytes(large.bytes(), 2000000, "kept", 2) == "");
  }

  TEST_CASE("contains says whether get would find it") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK_FALSE(must(client.contains("a")));
    must(client.put("a", payload(10, "a", 3), {.version = 3}));
    CHECK(must(client.contains("a")));
    CHECK(must(client.contains("a", 3)));
    CHECK_FALSE(must(client.contains("a", 2)));
    CHECK_FALSE(must(client.contains("a", 4)));
    CHECK_FALSE(must(client.contains("b")));
    must(client.remove("a"));
    CHECK_FALSE(must(client.contains("a")));
    CHECK_FALSE(must(client.contains("a", 3)));
  }

  TEST_CASE("get_resident gives what get gives, and nothing where get would fail") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK_FALSE(client.get_resident("a"));
    const Ref first = must(client.put("a", payload(100, "a", 1)));
    // Once by get, so that there is nothing left to ask the daemon for.
    must(client.get("a"));
    {
      const View view = client.get_resident("a");
      REQUIRE(view);
      CHECK(wrong_bytes(view.bytes(), 100, "a", 1) == "");
    }
    const Ref second = must(client.put("a", payload(200, "a", 2)));
    must(client.get("a"));
    CHECK(client.get_resident("a").version() == 2);
    CHECK(client.get_resident("a", 1).version() == 1);
    CHECK(client.get_resident(first).version() == 1);
    CHECK(client.get_resident(second).version() == 2);
    CHECK_FALSE(client.get_resident("a", 3));
    CHECK_FALSE(client.get_resident(""));
    CHECK_FALSE(client.get_resident(std::string(256, 'x')));
    must(client.remove(first));
    CHECK_FALSE(client.get_resident(first));
    must(client.put("a", payload(50, "a", 1), {.version = 1}));
    CHECK_FALSE(client.get_resident(first));
    Ref elsewhere = second;
    elsewhere.store[0] = static_cast<std::uint8_t>(elsewhere.store[0] + 1);
    CHECK_FALSE(client.get_resident(elsewhere));
    client.close();
    CHECK_FALSE(client.get_resident("a"));
  }

  TEST_CASE("an array's type comes back with its bytes") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto put_and_get = [&](const std::string& id, const ArrayType& type, std::size_t size) {
      must(client.put(id, payload(size, id, 1), {.type = type}));
      const View view = must(client.get(id));
      CHECK(wrong_bytes(view.bytes(), size, id, 1) == "");
      return must(view.type());
    };
    const std::vector<ArrayType> types{
        array_of<double>({10}),
        array_of<float>({5, 4}),
        array_of<std::uint16_t>({2, 5, 4}),
        {.dtype = "<f8", .shape = {}, .fortran_order = false},
        {.dtype = "<f4", .shape = {4, 5}, .fortran_order = true},
        {.dtype = "|u1", .shape = {2, 2, 2, 2, 5}, .fortran_order = false},
        {.dtype = "<i2", .shape = {1, 2, 1, 2, 1, 2, 1, 5}, .fortran_order = true},
        {.dtype = "<M8[ns]", .shape = {10}, .fortran_order = false},
        {.dtype = "<c16", .shape = {5}, .fortran_order = false},
        {.dtype = "<f8", .shape = {0, 7}, .fortran_order = false},
        {.dtype = "<f8", .shape = {7, 0, 3}, .fortran_order = false},
        {.dtype = "[('x', '<f4'), ('y', '<f4'), ('" + std::string(300, 'n') + "', '|u1', (2,))]",
         .shape = {8},
         .fortran_order = false},
    };
    const std::vector<std::size_t> bytes{80, 80, 80, 8, 80, 80, 80, 80, 80, 0, 0, 80};
    for (std::size_t i = 0; i < types.size(); ++i) {
      CAPTURE(types[i].dtype);
      CAPTURE(i);
      CHECK(put_and_get("type/" + std::to_string(i), types[i], bytes[i]) == types[i]);
    }
    // Large ones go another way.
    CHECK(put_and_get("large", array_of<double>({500, 500}), 2000000) ==
          array_of<double>({500, 500}));
    const ArrayType odd{.dtype = types.back().dtype, .shape = {1, 2, 3, 4, 5, 6, 7},
                        .fortran_order = true};
    CHECK(put_and_get("large and odd", odd, 50400) == odd);
    CHECK(put_and_get("larger and odd", odd, 504000) == odd);
  }

  TEST_CASE("a type that does not fit the bytes is refused") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const auto bytes = payload(80, "a", 1);
    CHECK(outcome(client.put("a", bytes, {.type = array_of<double>({11})})) == "bad_argument");
    CHECK(outcome(client.put("a", bytes, {.type = array_of<double>({1ULL << 61U, 8})})) ==
          "bad_argument");
    ArrayType deep{.dtype = "|u1", .shape = std::vector<std::uint64_t>(array_dims_max + 1, 1),
                   .fortran_order = false};
    CHECK(outcome(client.put("a", payload(1, "a", 1), {.type = deep})) == "bad_argument");
    CHECK_FALSE(must(client.contains("a")));
  }

  TEST_CASE("plain bytes have no type") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("a", payload(80, "a", 1)));
    CHECK(outcome(must(client.get("a")).type()) == "type_mismatch");
  }

  TEST_CASE("tens of thousands of segments are all there, in this process and in another") {
    DaemonProcess daemon;
    constexpr int count = 40000;  // beyond two chunks of a pin table
    ChildProcess reader([&](Moments& moments) {
      Client client = daemon.connect();
      moments.reached();
      moments.wait();
      std::vector<View> views;
      for (int i = 0; i < count; ++i) {
        const std::string id = "many/" + std::to_string(i);
        views.push_back(must(client.get(id)));
        const std::string wrong = wrong_bytes(views.back().bytes(), 40, id, 1);
        require(wrong.empty(), wrong);
      }
    });
    reader.await();
    Client client = daemon.connect();
    std::vector<std::string> ids;
    std::vector<std::vector<std::byte>> bytes;
    std::vector<PutItem> items;
    for (int i = 0; i < count; ++i) {
      ids.push_back("many/" + std::to_string(i));
      bytes.push_back(payload(40, ids.back(), 1));
    }
    for (std::size_t i = 0; i < ids.size(); ++i) items.push_back({ids[i], bytes[i]});
    for (const auto& result : must(client.put_many(items))) REQUIRE(outcome(result) == "ok");
    reader.release();
    for (const std::string& id : ids) {
      const View view = must(client.get(id));
      REQUIRE(wrong_bytes(view.bytes(), 40, id, 1) == "");
    }
    CHECK(reader.join() == 0);
  }

  TEST_CASE("a large put into memory that this process never wrote to arrives whole") {
    DaemonProcess daemon({.capacity = "64MiB"});
    Client client = daemon.connect();
    // Sizes around the pieces in which such memory is made ready, by value and by a filler.
    for (const std::uint64_t size : {4 * mebibyte - 1, 4 * mebibyte, 6 * mebibyte + 12345,
                                   11 * mebibyte + 1}) {
      CAPTURE(size);
      must(client.put("cold", payload(size, "cold", 1), {.version = 1}));
      CHECK(wrong_bytes(must(client.get("cold", {.version = 1})).bytes(), size, "cold", 1) == "");
      const auto by_two = [](std::span<std::byte> bytes) {
        fill(bytes, "cold", 2);
        return true;
      };
      must(client.put("cold", size, by_two, {.version = 2}));
      CHECK(wrong_bytes(must(client.get("cold", {.version = 2})).bytes(), size, "cold", 2) == "");
      must(client.remove("cold"));
      client = daemon.connect();
    }
  }
}

}  // namespace
}  // namespace forebay::test
