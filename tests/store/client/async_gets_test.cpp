// SPDX-License-Identifier: Apache-2.0
// Gets that do not block: called back once, as get would end, whatever happens to the daemon.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "store/wire/socket.h"
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
using Clock = std::chrono::steady_clock;

constexpr seconds long_enough{60};
// What "at once" and "on time" allow a loaded machine.
constexpr seconds slack{5};

// As an event loop does it: waits for the descriptor, and for nothing else.
bool dispatch_until(AsyncGets& gets, const std::function<bool()>& done,
                    std::chrono::milliseconds within = patience) {
  const auto deadline = Clock::now() + within;
  while (!done()) {
    if (!wire::wait_readable(gets.fd(), deadline)) return false;
    gets.dispatch();
  }
  return true;
}

// Until the daemon has taken in what was asked: so many wait with it.
bool dispatch_until_waiting(AsyncGets& gets, const Client& client, std::uint64_t waiters) {
  return eventually([&] {
    gets.dispatch();
    return Status(client)["waiters"] == waiters;
  });
}

bool readable(const AsyncGets& gets) { return wire::wait_readable(gets.fd(), Clock::now()); }

// How gets ended, by the names that the test gives them. Callbacks may outlive it: a test that fails
// ends with open gets.
class Endings {
 public:
  AsyncGets::Callback operator()(const std::string& name) {
    return [seen = seen_, name](Result<View> result) {
      ++seen->calls[name];
      seen->outcomes[name] = outcome(result);
      seen->details[name] = result ? std::string() : result.error().message();
      seen->order.push_back(name);
      if (result) seen->views[name] = std::move(*result);
    };
  }
  // Nothing, if it has not ended.
  std::string operator[](const std::string& name) const {
    const auto found = seen_->outcomes.find(name);
    return found == seen_->outcomes.end() ? std::string() : found->second;
  }
  int calls(const std::string& name) const { return seen_->calls[name]; }
  const std::string& detail(const std::string& name) const { return seen_->details[name]; }
  View& view(const std::string& name) const { return seen_->views[name]; }
  const std::vector<std::string>& order() const { return seen_->order; }
  std::size_t count() const { return seen_->order.size(); }

 private:
  struct Seen {
    std::map<std::string, int> calls;
    std::map<std::string, std::string> outcomes;
    std::map<std::string, std::string> details;
    std::map<std::string, View> views;
    std::vector<std::string> order;
  };
  std::shared_ptr<Seen> seen_ = std::make_shared<Seen>();
};

// Puts a small segment of each id, in few messages.
void put_all(Client& client, const std::vector<std::string>& ids) {
  const auto bytes = payload(16, "any", 1);
  std::vector<PutItem> items;
  for (const std::string& id : ids) items.push_back({id, bytes});
  const auto refs = must(client.put_many(items));
  for (const auto& ref : refs) REQUIRE(outcome(ref) == "ok");
}

TEST_SUITE("async gets") {
  TEST_CASE("a get of what is there calls back at once") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    for (const std::size_t size : {std::size_t{100}, std::size_t{300000}})
      must(client.put("a/" + std::to_string(size), payload(size, "a", 1)));
    // Its first get is one for which its pin table has no memory yet.
    const Client reader = daemon.connect();
    AsyncGets gets = must(reader.async_gets());
    for (const std::size_t size : {std::size_t{100}, std::size_t{300000}}) {
      CAPTURE(size);
      for (const GetOptions& options :
           {GetOptions{}, GetOptions{.timeout = long_enough}, GetOptions{.version = 1}}) {
        Endings endings;
        CHECK(gets.get("a/" + std::to_string(size), options, endings("a")) == 0);
        REQUIRE(endings["a"] == "ok");
        CHECK(wrong_bytes(endings.view("a").bytes(), size, "a", 1) == "");
      }
    }
    CHECK(gets.open_count() == 0);
    CHECK(gets.dispatch() == 0);
    CHECK_FALSE(readable(gets));
  }

  TEST_CASE("what cannot work calls back at once, as get fails") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    constexpr std::size_t mebibytes = 1024 * 1024;
    must(client.put("evicted", payload(6 * mebibytes, "e", 1), {.evictable = true}));
    must(client.put("large", payload(12 * mebibytes, "l", 1)));
    AsyncGets gets = must(client.async_gets());
    const std::vector<std::pair<std::string, GetOptions>> asked{
        {"", {.timeout = long_enough}},
        {std::string(256, 'x'), {.timeout = long_enough}},
        {"a", {.timeout = milliseconds(-1)}},
        {"a", {}},
        {"a", {.version = 7}},
        {"large", {.after = 1}},
        {"evicted", {.timeout = long_enough}},
    };
    for (const auto& [id, options] : asked) {
      CAPTURE(id);
      const auto expected = client.get(id, options);
      REQUIRE_FALSE(expected);
      Endings endings;
      CHECK(gets.get(id, options, endings("a")) == 0);
      CHECK(endings["a"] == outcome(expected));
      CHECK(endings.detail("a") == why(expected));
    }
    CHECK(gets.open_count() == 0);
  }

  TEST_CASE("a get of what is not there yet is called back when another process has put it") {
    DaemonProcess daemon;
    for (const std::size_t size : {std::size_t{100}, std::size_t{500000}}) {
      CAPTURE(size);
      const std::string id = "later/" + std::to_string(size);
      ChildProcess writer([&](Moments& moments) {
        Client client = daemon.connect();
        moments.reached();
        moments.wait();
        must(client.put(id, payload(size, id, 1)));
      });
      writer.await();
      const Client client = daemon.connect();
      AsyncGets gets = must(client.async_gets());
      Endings endings;
      CHECK(gets.get(std::string(id), {.timeout = long_enough}, endings("a")) != 0);
      CHECK(gets.open_count() == 1);
      CHECK(status_becomes(client, "waiters", 1) == 1);
      CHECK_FALSE(readable(gets));
      CHECK(gets.dispatch() == 0);
      CHECK(endings.count() == 0);
      writer.release();
      REQUIRE(dispatch_until(gets, [&] { return endings.count() > 0; }));
      REQUIRE(endings["a"] == "ok");
      CHECK(wrong_bytes(endings.view("a").bytes(), size, id, 1) == "");
      CHECK(gets.open_count() == 0);
      CHECK_FALSE(readable(gets));
      CHECK(writer.join() == 0);
    }
  }

  TEST_CASE("only the version that was asked for will do") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets gets = must(client.async_gets());
    must(client.put("a", payload(100, "a", 5), {.version = 5}));
    Endings endings;
    CHECK(gets.get("a", {.version = 2, .timeout = long_enough}, endings("exact")) != 0);
    CHECK(gets.get("a", {.after = 5, .timeout = long_enough}, endings("after")) != 0);
    CHECK(gets.get("a", {.after = 4, .timeout = long_enough}, endings("there")) == 0);
    CHECK(status_becomes(client, "waiters", 2) == 2);
    must(client.put("a", payload(100, "a", 3), {.version = 3}));
    must(client.put("b", payload(100, "b", 2), {.version = 2}));
    CHECK(Status(client)["waiters"] == 2);
    CHECK(gets.dispatch() == 0);
    must(client.put("a", payload(100, "a", 2), {.version = 2}));
    REQUIRE(dispatch_until(gets, [&] { return endings["exact"] != ""; }));
    CHECK(endings.view("exact").version() == 2);
    CHECK(endings["after"] == "");
    must(client.put("a", payload(100, "a", 9), {.version = 9}));
    REQUIRE(dispatch_until(gets, [&] { return endings["after"] != ""; }));
    CHECK(endings.view("after").version() == 9);
  }

  TEST_CASE("what has gone again when the caller looks is waited for again") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets gets = must(client.async_gets());
    Endings endings;
    gets.get("a", {.timeout = long_enough}, endings("a"));
    CHECK(status_becomes(client, "waiters", 1) == 1);
    must(client.put("a", payload(100, "a", 1)));
    must(client.remove("a"));
    CHECK(eventually([&] { return readable(gets); }));
    CHECK(gets.dispatch() == 0);
    CHECK(status_becomes(client, "waiters", 1) == 1);
    must(client.put("a", payload(100, "a", 2), {.version = 2}));
    REQUIRE(dispatch_until(gets, [&] { return endings.count() > 0; }));
    REQUIRE(endings["a"] == "ok");
    CHECK(endings.view("a").version() == 2);
  }

  TEST_CASE("10000 gets of one id end with one seal") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::size_t many = 10000;
    std::size_t right = 0;
    std::size_t called = 0;
    AsyncGets gets = must(client.async_gets());
    for (std::size_t i = 0; i < many; ++i)
      gets.get("a", {.timeout = long_enough}, [&](Result<View> view) {
        ++called;
        if (view && view->version() == 1) ++right;
      });
    CHECK(gets.open_count() == many);
    REQUIRE(dispatch_until_waiting(gets, client, many));
    CHECK(called == 0);
    must(client.put("a", payload(1000, "a", 1)));
    REQUIRE(dispatch_until(gets, [&] { return called == many; }));
    CHECK(right == many);
    CHECK(gets.open_count() == 0);
    CHECK(Status(client)["waiters"] == 0);
  }

  TEST_CASE("40000 gets of as many ids end with their seals, also after the daemon was killed") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::size_t many = 40000;
    std::vector<std::string> ids;
    for (std::size_t i = 0; i < many; ++i) ids.push_back("many/" + std::to_string(i));
    std::vector<int> called(many);
    std::size_t right = 0;
    AsyncGets gets = must(client.async_gets());
    for (std::size_t i = 0; i < many; ++i)
      gets.get(ids[i], {.timeout = long_enough}, [&, i](Result<View> view) {
        ++called[i];
        if (view && view->ref().id == ids[i]) ++right;
      });
    REQUIRE(dispatch_until_waiting(gets, client, many));
    daemon.kill();
    daemon.start();
    REQUIRE(dispatch_until_waiting(gets, client, many));
    put_all(client, ids);
    REQUIRE(dispatch_until(gets, [&] { return right == many; }));
    CHECK(std::count(called.begin(), called.end(), 1) == many);
    CHECK(gets.open_count() == 0);
  }

  TEST_CASE("a callback may ask for more, from within get and from within dispatch") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::uint64_t last = 200;
    std::uint64_t seen = 0;
    std::function<void(Result<View>)> next;
    AsyncGets gets = must(client.async_gets());
    next = [&](Result<View> view) {
      if (!view) return;
      seen = view->version();
      if (seen < last) gets.get("steps", {.after = seen, .timeout = long_enough}, next);
    };
    for (std::uint64_t version = 1; version <= last / 2; ++version)
      must(client.put("steps", payload(100, "steps", version)));
    gets.get("steps", {.timeout = long_enough}, next);
    CHECK(seen == last / 2);
    for (std::uint64_t version = last / 2 + 1; version <= last; ++version) {
      must(client.put("steps", payload(100, "steps", version)));
      REQUIRE(dispatch_until(gets, [&] { return seen == version; }));
    }
    CHECK(gets.open_count() == 0);
  }

  TEST_CASE("a callback may cancel gets whose answers have come together with its own") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    constexpr std::size_t many = 100;
    std::vector<std::uint64_t> numbers(many);
    std::vector<std::string> ended(many);
    std::vector<int> called(many);
    AsyncGets gets = must(client.async_gets());
    for (std::size_t i = 0; i < many; ++i)
      numbers[i] = gets.get("a", {.timeout = long_enough}, [&, i](Result<View> view) {
        ended[i] = outcome(view);
        ++called[i];
        // Each takes its neighbour along, itself by then not open any more.
        CHECK_FALSE(gets.cancel(numbers[i]));
        if (view) gets.cancel(numbers[i ^ 1U]);
      });
    CHECK(status_becomes(client, "waiters", many) == many);
    must(client.put("a", payload(100, "a", 1)));
    REQUIRE(dispatch_until(gets, [&] { return gets.open_count() == 0; }));
    CHECK(std::count(called.begin(), called.end(), 1) == many);
    CHECK(std::count(ended.begin(), ended.end(), "ok") == many / 2);
    CHECK(std::count(ended.begin(), ended.end(), "cancelled") == many / 2);
  }

  TEST_CASE("a callback may dispatch, which does nothing then") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    std::optional<std::size_t> inner;
    AsyncGets gets = must(client.async_gets());
    gets.get("a", {.timeout = long_enough}, [&](Result<View>) { inner = gets.dispatch(); });
    must(client.put("a", payload(100, "a", 1)));
    REQUIRE(dispatch_until(gets, [&] { return inner.has_value(); }));
    CHECK(*inner == 0);
  }

  TEST_CASE("timeouts end on time, never early, and in their order") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Endings endings;
    std::map<std::string, Clock::time_point> ended;
    AsyncGets gets = must(client.async_gets());
    const auto start = Clock::now();
    for (const int timeout : {250, 30, 1, 120}) {
      const std::string name = std::to_string(timeout);
      gets.get("late/" + name, {.version = 3, .timeout = milliseconds(timeout)},
               [&, name, done = endings(name)](Result<View> view) {
                 ended[name] = Clock::now();
                 done(std::move(view));
               });
    }
    REQUIRE(dispatch_until(gets, [&] { return endings.count() == 4; }));
    for (const int timeout : {1, 30, 120, 250}) {
      const std::string name = std::to_string(timeout);
      CHECK(endings[name] == "timed_out");
      CHECK(endings.calls(name) == 1);
      CHECK(endings.detail(name) ==
            "timed_out: no segment 'late/" + name + "' version 3 within " + name + " ms");
      CHECK(ended[name] - start >= milliseconds(timeout));
      CHECK(ended[name] - start < milliseconds(timeout) + slack);
    }
    CHECK(endings.order() == std::vector<std::string>{"1", "30", "120", "250"});
    CHECK(gets.open_count() == 0);
    // The daemon's own words on the same deadlines may be on their way still: they are read, and
    // then nothing wakes anybody any more.
    CHECK(dispatch_until(gets, [&] { return !readable(gets); }));
    CHECK(status_becomes(client, "waiters", 0) == 0);
    CHECK(dispatch_until(gets, [&] { return !readable(gets); }));
  }

  TEST_CASE("an endless timeout is one") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets gets = must(client.async_gets());
    Endings endings;
    gets.get("a", {.timeout = Timeout::max()}, endings("a"));
    CHECK(status_becomes(client, "waiters", 1) == 1);
    CHECK(gets.dispatch() == 0);
    must(client.put("a", payload(100, "a", 1)));
    REQUIRE(dispatch_until(gets, [&] { return endings.count() > 0; }));
    CHECK(endings["a"] == "ok");
  }

  TEST_CASE("a cancelled get is called back from within, once, and costs the daemon nothing") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets gets = must(client.async_gets());
    Endings endings;
    const auto one = gets.get("a", {.timeout = long_enough}, endings("one"));
    const auto two = gets.get("a", {.timeout = long_enough}, endings("two"));
    CHECK(one != two);
    CHECK(status_becomes(client, "waiters", 2) == 2);
    CHECK(gets.cancel(one));
    CHECK(endings["one"] == "cancelled");
    CHECK(endings["two"] == "");
    CHECK_FALSE(gets.cancel(one));
    CHECK_FALSE(gets.cancel(0));
    CHECK_FALSE(gets.cancel(two + 1));
    CHECK(gets.open_count() == 1);
    CHECK(status_becomes(client, "waiters", 1) == 1);
    must(client.put("a", payload(100, "a", 1)));
    REQUIRE(dispatch_until(gets, [&] { return endings["two"] != ""; }));
    CHECK(endings["two"] == "ok");
    CHECK(endings.calls("one") == 1);
    CHECK_FALSE(gets.cancel(two));
  }

  TEST_CASE("open gets survive the daemon's death and restart") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets gets = must(client.async_gets());
    const int fd = gets.fd();
    Endings endings;
    for (int round = 0; round < 5; ++round) {
      CAPTURE(round);
      const std::string name = std::to_string(round);
      gets.get("before/" + name, {.timeout = long_enough}, endings("before/" + name));
      CHECK(status_becomes(client, "waiters", 1) == 1);
      daemon.kill();
      CHECK(eventually([&] { return readable(gets); }));
      CHECK(gets.dispatch() == 0);
      // Asked while there is no daemon.
      gets.get("during/" + name, {.timeout = long_enough}, endings("during/" + name));
      CHECK(gets.open_count() == 2);
      daemon.start();
      REQUIRE(dispatch_until_waiting(gets, client, 2));
      put_all(client, {"before/" + name, "during/" + name});
      REQUIRE(dispatch_until(gets, [&] { return gets.open_count() == 0; }));
      CHECK(endings["before/" + name] == "ok");
      CHECK(endings["during/" + name] == "ok");
      CHECK(gets.fd() == fd);
    }
    CHECK(endings.count() == 10);
  }

  TEST_CASE("an object without open gets does not try to reconnect, and is there when it is wanted") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets gets = must(client.async_gets());
    daemon.kill();
    CHECK(eventually([&] { return readable(gets); }));
    CHECK(gets.dispatch() == 0);
    CHECK_FALSE(wire::wait_readable(gets.fd(), Clock::now() + milliseconds(300)));
    daemon.start();
    Endings endings;
    gets.get("a", {.timeout = long_enough}, endings("a"));
    REQUIRE(dispatch_until_waiting(gets, client, 1));
    must(client.put("a", payload(10, "a", 1)));
    REQUIRE(dispatch_until(gets, [&] { return endings.count() > 0; }));
    CHECK(endings["a"] == "ok");
  }

  TEST_CASE("a daemon that does not come back cannot hang a get, nor one that is stopped") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    AsyncGets gets = must(client.async_gets());
    Endings endings;
    const auto start = Clock::now();
    SUBCASE("killed") {
      gets.get("a", {.timeout = milliseconds(300)}, endings("before"));
      daemon.kill();
    }
    SUBCASE("stopped") {
      gets.get("a", {.timeout = milliseconds(300)}, endings("before"));
      daemon.stop();
    }
    gets.get("a", {.timeout = milliseconds(300)}, endings("after"));
    REQUIRE(dispatch_until(gets, [&] { return endings.count() == 2; }));
    const auto took = Clock::now() - start;
    CHECK(took >= milliseconds(300));
    CHECK(took < milliseconds(300) + slack);
    CHECK(endings["before"] == "timed_out");
    CHECK(endings["after"] == "timed_out");
    CHECK(endings.detail("after") == "timed_out: no segment 'a' within 300 ms");
  }

  TEST_CASE("no call waits long for a daemon that is away, and what is resident is got all the same") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    must(client.put("there", payload(100, "there", 1)));
    AsyncGets gets = must(client.async_gets());
    CHECK(outcome(client.get("there")) == "ok");
    daemon.kill();
    const auto start = Clock::now();
    Endings endings;
    for (int i = 0; i < 20; ++i) {
      gets.get("missing", {.timeout = long_enough}, endings("missing/" + std::to_string(i)));
      CHECK(gets.get("there", {.timeout = long_enough}, endings("there/" + std::to_string(i))) == 0);
      gets.dispatch();
    }
    CHECK(Clock::now() - start < slack);
    CHECK(endings.count() == 20);
    CHECK(endings["there/19"] == "ok");
    CHECK(gets.open_count() == 20);
  }

  TEST_CASE("gets go on with the store that a daemon had to start empty") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets gets = must(client.async_gets());
    Endings endings;
    gets.get("a", {.timeout = long_enough}, endings("a"));
    daemon.kill();
    daemon.start({.arguments = {"--fresh"}});
    REQUIRE(dispatch_until_waiting(gets, client, 1));
    must(client.put("a", payload(100, "a", 1)));
    REQUIRE(dispatch_until(gets, [&] { return endings.count() > 0; }));
    REQUIRE(endings["a"] == "ok");
    CHECK(endings.view("a").ref().store == client.store());
  }

  TEST_CASE("closing the client wakes the event loop, and ends what is open with bad_state") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets gets = must(client.async_gets());
    Endings endings;
    gets.get("a", {.timeout = long_enough}, endings("one"));
    gets.get("b", {.timeout = long_enough}, endings("two"));
    CHECK(status_becomes(client, "waiters", 2) == 2);
    std::thread closer([&] { client.close(); });
    REQUIRE(dispatch_until(gets, [&] { return endings.count() == 2; }));
    closer.join();
    CHECK(endings["one"] == "bad_state");
    CHECK(endings["two"] == "bad_state");
    CHECK(gets.open_count() == 0);
    CHECK(gets.get("a", {.timeout = long_enough}, endings("late")) == 0);
    CHECK(endings["late"] == "bad_state");
    CHECK(gets.dispatch() == 0);
    CHECK_FALSE(readable(gets));
    CHECK(outcome(client.async_gets()) == "bad_state");
  }

  TEST_CASE("the object's end cancels what is open, and ends its connection") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    Endings endings;
    SUBCASE("destroyed") {
      AsyncGets gets = must(client.async_gets());
      gets.get("a", {.timeout = long_enough}, endings("one"));
      gets.get("b", {.timeout = long_enough}, endings("two"));
      CHECK(status_becomes(client, "waiters", 2) == 2);
    }
    SUBCASE("assigned to") {
      AsyncGets gets = must(client.async_gets());
      gets.get("a", {.timeout = long_enough}, endings("one"));
      gets.get("b", {.timeout = long_enough}, endings("two"));
      CHECK(status_becomes(client, "waiters", 2) == 2);
      gets = must(client.async_gets());
      CHECK(gets.open_count() == 0);
    }
    CHECK(endings.order() == std::vector<std::string>{"one", "two"});
    CHECK(endings["one"] == "cancelled");
    CHECK(endings["two"] == "cancelled");
    CHECK(status_becomes(client, "waiters", 0) == 0);
  }

  TEST_CASE("a callback that asks for more while the object ends is called back at once") {
    DaemonProcess daemon;
    const Client client = daemon.connect();
    Endings endings;
    {
      AsyncGets gets = must(client.async_gets());
      gets.get("a", {.timeout = long_enough}, [&](Result<View>) {
        CHECK(gets.get("a", {.timeout = long_enough}, endings("more")) == 0);
      });
    }
    CHECK(endings["more"] == "cancelled");
  }

  TEST_CASE("a moved object goes on") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets first = must(client.async_gets());
    Endings endings;
    const int fd = first.fd();
    const auto number = first.get("a", {.timeout = long_enough}, endings("a"));
    AsyncGets second = std::move(first);
    CHECK(second.fd() == fd);
    CHECK(second.open_count() == 1);
    CHECK(second.cancel(number));
  }

  TEST_CASE("in a forked child nothing is called, and the parent's gets go on") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    auto gets = std::make_unique<AsyncGets>(must(client.async_gets()));
    Endings endings;
    const auto number = gets->get("a", {.timeout = long_enough}, endings("a"));
    CHECK(status_becomes(client, "waiters", 1) == 1);
    ChildProcess child([&](Moments&) {
      require(gets->open_count() == 0, "the child has the parent's gets");
      require(!gets->cancel(number), "the child can cancel the parent's get");
      require(gets->get("b", {.timeout = long_enough}, endings("b")) == 0, "a get was taken");
      require(gets->dispatch() == 0, "the child called something back");
      // Its copies of the descriptors go; the parent's stay in the parent's poll set.
      gets.reset();
      require(endings.count() == 0, "the child called something back at its end");
      // The child's own, on the client it has inherited.
      AsyncGets own = must(client.async_gets());
      bool called = false;
      own.get("c", {.timeout = long_enough}, [&](Result<View>) { called = true; });
      must(client.put("c", payload(10, "c", 1)));
      require(dispatch_until(own, [&] { return called; }), "the child's own get did not end");
    });
    CHECK(child.join() == 0);
    CHECK(endings.count() == 0);
    must(client.put("a", payload(100, "a", 1)));
    REQUIRE(dispatch_until(*gets, [&] { return endings.count() > 0; }));
    CHECK(endings["a"] == "ok");
  }

  TEST_CASE("a forked child that lives on keeps none of its parent's waits alive") {
    DaemonProcess daemon;
    SUBCASE("when the parent is done with them") {
      const Client observer = daemon.connect();
      ChildProcess parent([&](Moments& moments) {
        const Client client = daemon.connect();
        auto gets = std::make_unique<AsyncGets>(must(client.async_gets()));
        gets->get("a", {.timeout = long_enough}, [](Result<View>) {});
        require(status_becomes(client, "waiters", 1) == 1, "nobody waits");
        ChildProcess child([](Moments& inner) { inner.wait(); });
        gets.reset();
        moments.reached();
        moments.wait();
        child.release();
        require(child.join() == 0, "the child failed");
      });
      CHECK(parent.await() == '.');
      CHECK(status_becomes(observer, "waiters", 0) == 0);
      parent.release();
      CHECK(parent.join() == 0);
    }
    SUBCASE("when the parent is killed") {
      const Client observer = daemon.connect();
      ChildProcess parent([&](Moments& moments) {
        const Client client = daemon.connect();
        AsyncGets gets = must(client.async_gets());
        gets.get("a", {.timeout = long_enough}, [](Result<View>) {});
        require(status_becomes(client, "waiters", 1) == 1, "nobody waits");
        ChildProcess child([&](Moments&) {
          ::prctl(PR_SET_PDEATHSIG, 0);
          moments.reached();
          (void)eventually([&] { return ::kill(daemon.pid(), 0) != 0; });
        });
        moments.wait();
      });
      CHECK(parent.await() == '.');
      parent.kill();
      CHECK(status_becomes(observer, "waiters", 0) == 0);
    }
  }

  TEST_CASE("several objects of one client do not disturb each other") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    AsyncGets one = must(client.async_gets());
    AsyncGets two = must(client.async_gets());
    Endings endings;
    one.get("a", {.timeout = long_enough}, endings("one"));
    two.get("b", {.timeout = long_enough}, endings("two"));
    CHECK(status_becomes(client, "waiters", 2) == 2);
    must(client.put("b", payload(10, "b", 1)));
    REQUIRE(dispatch_until(two, [&] { return endings["two"] == "ok"; }));
    CHECK_FALSE(readable(one));
    CHECK(endings["one"] == "");
    one = std::move(two);
    CHECK(endings["one"] == "cancelled");
    CHECK(outcome(client.get("b")) == "ok");
  }
}

}  // namespace
}  // namespace forebay::test
