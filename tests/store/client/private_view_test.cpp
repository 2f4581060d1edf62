// SPDX-License-Identifier: Apache-2.0
// Private views: writable, nobody else's, and the segment's own pages until they are written to.
#include "store/private_view.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "store/client.h"
#include "store/units.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/faults.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t page = 4096;

// Copies and mappings, and what is on the border between them.
const std::vector<std::size_t> sizes{0,     1,     100,    4096,    65535,
                                     65536, 65537, 300000, 1048576, 5000001};

Ref put(Client& client, const std::string& id, std::size_t size) {
  return must(client.put(id, payload(size, id, 1)));
}

// Bytes of the mapping at this address that are no object's, but this process's own.
std::uint64_t own_bytes(const std::byte* address) {
  std::ifstream file("/proc/self/smaps");
  std::string line;
  bool inside = false;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string first;
    words >> first;
    const std::size_t dash = first.find('-');
    if (dash != std::string::npos && first.find(':') == std::string::npos) {
      const auto at = reinterpret_cast<std::uintptr_t>(address);
      inside = std::stoull(first.substr(0, dash), nullptr, 16) <= at &&
               at < std::stoull(first.substr(dash + 1), nullptr, 16);
    } else if (inside && first == "Anonymous:") {
      std::uint64_t kibibytes = 0;
      words >> kibibytes;
      return kibibytes * kibibyte;
    }
  }
  throw std::runtime_error("no mapping at that address");
}

// Mappings of an arena whose writes are this process's own.
int private_mappings() {
  std::ifstream file("/proc/self/maps");
  std::string line;
  int count = 0;
  while (std::getline(file, line))
    count += line.find(".arena.") != std::string::npos && line.find(" rw-p ") != std::string::npos;
  return count;
}

std::uint64_t pins_of(const Client& observer, const std::string& id, pid_t pid) {
  for (const Holder& holder : must(observer.stat(id)).holders)
    if (holder.pid == static_cast<std::uint32_t>(pid)) return holder.pins;
  return 0;
}

// Uses whatever memory is free, over and over.
void reuse_memory(Client& client) {
  for (std::uint64_t i = 1; i <= 10; ++i) {
    must(client.put("noise", payload(3 * mebibyte, "noise", i)));
    must(client.put("noise", payload(700, "noise", i)));
    must(client.remove("noise"));
  }
}

TEST_SUITE("private view") {
  TEST_CASE("what is written to a private view is seen in it, and nowhere else") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : sizes) {
      CAPTURE(size);
      const std::string id = "a/" + std::to_string(size);
      const Ref ref = put(client, id, size);
      const PrivateView one = must(client.get_private(id));
      const PrivateView two = must(client.get_private(id));
      CHECK(one.ref() == ref);
      CHECK(wrong_bytes(one.bytes(), size, id, 1) == "");
      fill(one.bytes(), id, 2);
      CHECK(wrong_bytes(one.bytes(), size, id, 2) == "");
      CHECK(wrong_bytes(two.bytes(), size, id, 1) == "");
      CHECK(wrong_bytes(must(client.get(id)).bytes(), size, id, 1) == "");
      ChildProcess reader([&](Moments&) {
        const Client own = daemon.connect();
        const std::string wrong = wrong_bytes(must(own.get(id)).bytes(), size, id, 1);
        require(wrong.empty(), wrong);
      });
      CHECK(reader.join() == 0);
    }
  }

  TEST_CASE("only pages that are written to are copied") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::size_t size = 256 * page;
    put(client, "a", size);
    const PrivateView view = must(client.get_private("a"));
    const auto bytes = view.bytes();
    CHECK(own_bytes(bytes.data()) == 0);
    CHECK(wrong_bytes(bytes, size, "a", 1) == "");
    CHECK(own_bytes(bytes.data()) == 0);
    for (const std::size_t at : {std::size_t{0}, 100 * page + 17, 100 * page + 4000, size - 1})
      poke(bytes.data() + at);
    CHECK(own_bytes(bytes.data()) == 3 * page);
    fill(bytes, "a", 2);
    CHECK(own_bytes(bytes.data()) == size);
  }

  TEST_CASE("the payload is aligned to 64 bytes, whatever its size") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (std::size_t size = 1; size < 300000; size = size * 3 / 2 + 7) {
      const std::string id = "a/" + std::to_string(size);
      put(client, id, size);
      const PrivateView view = must(client.get_private(id));
      CHECK(reinterpret_cast<std::uintptr_t>(view.bytes().data()) % 64 == 0);
      CHECK(wrong_bytes(view.bytes(), size, id, 1) == "");
    }
  }

  TEST_CASE("what was made in place is viewed like what was put") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : sizes) {
      CAPTURE(size);
      Builder builder = must(client.create("a", size));
      fill(builder.bytes(), "a", 1);
      const View sealed = must(builder.seal_and_get());
      const PrivateView view = must(client.get_private("a"));
      fill(view.bytes(), "a", 2);
      CHECK(wrong_bytes(view.bytes(), size, "a", 2) == "");
      CHECK(wrong_bytes(sealed.bytes(), size, "a", 1) == "");
      must(client.remove("a"));
    }
  }

  TEST_CASE("a large private view pins its segment until it is released") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    put(client, "a", 3 * mebibyte);
    PrivateView view = must(client.get_private("a"));
    CHECK(pins_of(client, "a", ::getpid()) == 1);
    poke(view.bytes().data());
    must(client.remove("a"));
    CHECK(Status(client)["removing"] == 1);
    CHECK(must(client.stat("a")).state == "removing");
    reuse_memory(client);
    poke(view.bytes().data());
    CHECK(wrong_bytes(view.bytes(), 3 * mebibyte, "a", 1) == "");
    CHECK(private_mappings() == 1);
    view.release();
    CHECK(private_mappings() == 0);
    CHECK(status_becomes(client, "removing", 0) == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a small private view is a copy, and pins nothing") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (const std::size_t size : {0UL, 1UL, 700UL, 65535UL, 65536UL}) {
      CAPTURE(size);
      put(client, "a", size);
      const PrivateView view = must(client.get_private("a"));
      CHECK(must(client.stat("a")).holders.empty());
      must(client.remove("a"));
      CHECK(Status(client)["removing"] == 0);
      reuse_memory(client);
      CHECK(wrong_bytes(view.bytes(), size, "a", 1) == "");
    }
  }

  TEST_CASE("a released or moved-from private view is of nothing, and each pin ends once") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {700UL, 3 * mebibyte}) {
      CAPTURE(size);
      put(client, "a", size);
      const std::uint64_t pins = size > 65536 ? 1 : 0;
      PrivateView one = must(client.get_private("a"));
      poke(one.bytes().data());
      const std::byte* const data = one.bytes().data();
      PrivateView two = std::move(one);
      CHECK(one.bytes().empty());
      CHECK(one.ref() == Ref{});
      CHECK(outcome(one.type()) == "bad_state");
      CHECK(two.bytes().data() == data);
      PrivateView three = must(client.get_private("a"));
      CHECK(pins_of(client, "a", ::getpid()) == 2 * pins);
      three = std::move(two);
      CHECK(pins_of(client, "a", ::getpid()) == pins);
      PrivateView& same = three;
      three = std::move(same);
      CHECK(three.bytes().data() == data);
      CHECK(three.bytes().size() == size);
      three.release();
      CHECK(three.bytes().empty());
      CHECK(three.brief() == 0);
      three.release();
      CHECK(pins_of(client, "a", ::getpid()) == 0);
      must(client.remove("a"));
    }
    PrivateView none;
    CHECK(none.bytes().empty());
    CHECK(outcome(none.type()) == "bad_state");
    none.release();
  }

  TEST_CASE("a private view has the type of its segment, also behind the segment's removal") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const std::vector<ArrayType> types{
        array_of<double>({10000}),
        array_of<double>({2, 5, 1000}),
        {.dtype = "[('x', '<f8'), ('" + std::string(300, 'n') + "', '|V72')]",
         .shape = {1, 1, 1, 1, 1, 1000},
         .fortran_order = true},
        array_of<double>({10}),
        {.dtype = "<M8[ns]", .shape = {10}, .fortran_order = false},
    };
    const std::vector<std::size_t> bytes{80000, 80000, 80000, 80, 80};
    for (std::size_t i = 0; i < types.size(); ++i) {
      CAPTURE(i);
      must(client.put("a", payload(bytes[i], "a", 1), {.type = types[i]}));
      const PrivateView view = must(client.get_private("a"));
      CHECK(view.brief() == must(client.get("a")).brief());
      must(client.remove("a"));
      fill(view.bytes(), "a", 2);
      CHECK(must(view.type()) == types[i]);
      CHECK(view.ref().type == types[i]);
    }
    put(client, "b", 100);
    CHECK(outcome(must(client.get_private("b")).type()) == "type_mismatch");
  }

  TEST_CASE("get_private finds, waits and fails as get does") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    CHECK(outcome(client.get_private("a")) == "not_found");
    CHECK(outcome(client.get_private("a", {.timeout = milliseconds(30)})) == "timed_out");
    CHECK(outcome(client.get_private("")) == "bad_id");
    must(client.put("a", payload(100000, "a", 1)));
    must(client.put("a", payload(100, "a", 2)));
    CHECK(wrong_bytes(must(client.get_private("a")).bytes(), 100, "a", 2) == "");
    CHECK(wrong_bytes(must(client.get_private("a", {.version = 1})).bytes(), 100000, "a", 1) == "");
    ChildProcess writer([&](Moments& moments) {
      Client own = daemon.connect();
      moments.reached();
      moments.wait();
      must(own.put("late", payload(200000, "late", 1)));
    });
    writer.await();
    writer.release();
    const PrivateView late = must(client.get_private("late", {.timeout = seconds(20)}));
    CHECK(wrong_bytes(late.bytes(), 200000, "late", 1) == "");
    CHECK(writer.join() == 0);
    client.close();
    CHECK(outcome(client.get_private("a")) == "bad_state");
  }

  TEST_CASE("a private view outlives its client, the daemon, and the daemon that takes over") {
    DaemonProcess daemon({.capacity = "16MiB"});
    std::optional<Client> client(daemon.connect());
    put(*client, "a", 3 * mebibyte);
    put(*client, "b", 700);
    PrivateView large = must(client->get_private("a"));
    PrivateView small = must(client->get_private("b"));
    fill(large.bytes().first(mebibyte), "written", 1);
    daemon.kill();
    // Also a page that was never touched before.
    poke(large.bytes().data() + 2 * mebibyte);
    poke(large.bytes().data() + 2 * mebibyte);
    daemon.start();
    Client observer = daemon.connect();
    client.reset();
    must(observer.remove("a"));
    must(observer.remove("b"));
    reuse_memory(observer);
    CHECK(Status(observer)["removing"] == 1);
    CHECK(wrong_bytes(large.bytes().first(mebibyte), mebibyte, "written", 1) == "");
    fill(large.bytes().first(mebibyte), "a", 1);
    CHECK(wrong_bytes(large.bytes(), 3 * mebibyte, "a", 1) == "");
    CHECK(wrong_bytes(small.bytes(), 700, "b", 1) == "");
    large.release();
    CHECK(status_becomes(observer, "removing", 0) == 0);
  }

  TEST_CASE("after a fork, parent and child each see what they have written, and what was before") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    for (const std::size_t size : {700UL, 3 * mebibyte}) {
      CAPTURE(size);
      put(client, "a", size);
      PrivateView view = must(client.get_private("a"));
      const auto half = view.bytes().first(size / 2);
      const auto rest = view.bytes().subspan(size / 2);
      fill(half, "before", 1);
      ChildProcess child([&](Moments& moments) {
        require(wrong_bytes(half, half.size(), "before", 1).empty(), "not what was before");
        fill(half, "child", 1);
        moments.reached();
        moments.wait();
        require(wrong_bytes(half, half.size(), "child", 1).empty(), "not what the child wrote");
        const auto original = payload(size, "a", 1);
        require(std::ranges::equal(rest, std::span(original).subspan(size / 2)),
                "not what was put");
        view.release();
      });
      child.await();
      CHECK(wrong_bytes(half, half.size(), "before", 1) == "");
      fill(half, "parent", 1);
      fill(rest, "parent", 2);
      child.release();
      CHECK(child.join() == 0);
      CHECK(wrong_bytes(half, half.size(), "parent", 1) == "");
      CHECK(wrong_bytes(rest, rest.size(), "parent", 2) == "");
      CHECK(wrong_bytes(must(client.get("a")).bytes(), size, "a", 1) == "");
      must(client.remove("a"));
    }
  }

  TEST_CASE("a child's private view pins the segment for itself") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client observer = daemon.connect();
    put(client, "a", 3 * mebibyte);
    PrivateView view = must(client.get_private("a"));
    ChildProcess child([&](Moments& moments) {
      moments.reached();
      moments.wait();
      const std::string wrong = wrong_bytes(view.bytes(), 3 * mebibyte, "a", 1);
      require(wrong.empty(), wrong);
      view.release();
      moments.reached();
      moments.wait();
    });
    child.await();
    view.release();
    must(observer.remove("a"));
    reuse_memory(observer);
    CHECK(Status(observer)["removing"] == 1);
    child.release();
    child.await();
    CHECK(status_becomes(observer, "removing", 0) == 0);
    child.release();
    CHECK(child.join() == 0);
    CHECK(adds_up(observer) == "");
  }

  TEST_CASE("after a fork that no daemon answers, both keep their private views") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client observer = daemon.connect();
    put(client, "a", 3 * mebibyte);
    PrivateView view = must(client.get_private("a"));
    const auto bytes = view.bytes();
    daemon.stop();
    ChildProcess child([&](Moments& moments) {
      poke(bytes.data());
      moments.reached();
      moments.wait();
      poke(bytes.data());
      const std::string wrong = wrong_bytes(bytes, bytes.size(), "a", 1);
      require(wrong.empty(), wrong);
      view.release();
    });
    child.await();
    CHECK(wrong_bytes(bytes, bytes.size(), "a", 1) == "");
    daemon.resume();
    must(observer.remove("a"));
    reuse_memory(observer);
    child.release();
    CHECK(child.join() == 0);
    reuse_memory(observer);
    CHECK(wrong_bytes(bytes, bytes.size(), "a", 1) == "");
    fill(bytes, "a", 2);
    CHECK(wrong_bytes(bytes, bytes.size(), "a", 2) == "");
    view.release();
  }

  TEST_CASE("a process that dies with a private view leaves no pin") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 3 * mebibyte);
    ChildProcess holder([&](Moments& moments) {
      const Client own = daemon.connect();
      const PrivateView view = must(own.get_private("a"));
      poke(view.bytes().data());
      moments.reached();
      moments.wait();
    });
    holder.await();
    must(client.remove("a"));
    CHECK(Status(client)["removing"] == 1);
    holder.kill();
    CHECK(status_becomes(client, "removing", 0) == 0);
  }

  TEST_CASE("many private views of one segment are apart") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put(client, "a", 100000);
    std::vector<PrivateView> views;
    for (std::uint64_t i = 0; i < 200; ++i) {
      views.push_back(must(client.get_private("a")));
      fill(views.back().bytes().first(8), "mine", i);
    }
    for (std::uint64_t i = 0; i < views.size(); ++i)
      CHECK(wrong_bytes(views[i].bytes().first(8), 8, "mine", i) == "");
    CHECK(pins_of(client, "a", ::getpid()) == 200);
    views.clear();
    CHECK(private_mappings() == 0);
    CHECK(must(client.stat("a")).holders.empty());
    CHECK(wrong_bytes(must(client.get("a")).bytes(), 100000, "a", 1) == "");
  }
}

}  // namespace
}  // namespace forebay::test
