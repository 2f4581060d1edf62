// SPDX-License-Identifier: Apache-2.0
// fork: views in both directions, builders, and what becomes of all that when either side ends.
#include <doctest/doctest.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/faults.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/shared.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t large = 3 * 1024 * 1024;
constexpr std::size_t small = 700;
constexpr seconds slack{5};  // for "within a second" on a loaded machine

void put_both(Client& client) {
  must(client.put("large", payload(large, "large", 1)));
  must(client.put("small", payload(small, "small", 1)));
}

// Takes both segments away and uses whatever memory that gives, over and over.
void remove_and_reuse(Client& client) {
  (void)client.remove("large");
  (void)client.remove("small");
  for (std::uint64_t i = 1; i <= 10; ++i) {
    must(client.put("noise", payload(large, "noise", i)));
    must(client.put("noise", payload(small, "noise", i)));
    must(client.remove("noise"));
  }
}

struct Both {
  View one;
  View two;
  static Both of(const Client& client) {
    return {must(client.get("large")), must(client.get("small"))};
  }
  std::string damage() const {
    const std::string wrong = wrong_bytes(one.bytes(), large, "large", 1);
    return wrong.empty() ? wrong_bytes(two.bytes(), small, "small", 1) : wrong;
  }
  void release() {
    one.release();
    two.release();
  }
};

std::uint64_t removing(const Client& observer) { return Status(observer)["removing"]; }

std::uint64_t pins_of(const Client& observer, const std::string& id, pid_t pid) {
  for (const Holder& holder : must(observer.stat(id)).holders)
    if (holder.pid == static_cast<std::uint32_t>(pid)) return holder.pins;
  return 0;
}

// A fork whose child lives until it is told to end, and whose parent knows its pid.
pid_t fork_child(const std::function<void()>& body) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, 0);
  try {
    body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "grandchild: %s\n", error.what());
    ::_exit(1);
  }
  ::_exit(0);
}

TEST_SUITE("fork") {
  TEST_CASE("the child keeps a view that the parent releases") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client observer = daemon.connect();
    put_both(client);
    Both views = Both::of(client);
    ChildProcess child([&](Moments& moments) {
      moments.reached();
      moments.wait();
      require(views.damage().empty(), views.damage());
      views.release();
      moments.reached();
      moments.wait();
    });
    child.await();
    views.release();
    remove_and_reuse(observer);
    CHECK(removing(observer) == 2);
    child.release();
    child.await();
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
    child.release();
    CHECK(child.join() == 0);
    CHECK(adds_up(observer) == "");
  }

  TEST_CASE("the parent keeps a view that the child releases") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client observer = daemon.connect();
    put_both(client);
    Both views = Both::of(client);
    ChildProcess child([&](Moments& moments) {
      views.release();
      moments.reached();
      moments.wait();
    });
    child.await();
    CHECK(pins_of(observer, "large", ::getpid()) == 1);
    CHECK(eventually([&] { return pins_of(observer, "large", child.pid()) == 0; }));
    remove_and_reuse(observer);
    CHECK(removing(observer) == 2);
    child.release();
    CHECK(child.join() == 0);
    remove_and_reuse(observer);
    CHECK(views.damage() == "");
    views.release();
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
  }

  TEST_CASE("both are named as holders, each by its own pid and count") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    const Client observer = daemon.connect();
    put_both(client);
    const Both views = Both::of(client);
    const View again = must(client.get("small"));
    ChildProcess child([&](Moments& moments) {
      moments.reached();
      moments.wait();
      const View third = must(client.get("small"));
      moments.reached();
      moments.wait();
    });
    child.await();
    CHECK(eventually([&] { return pins_of(observer, "small", child.pid()) == 2; }));
    CHECK(pins_of(observer, "small", ::getpid()) == 2);
    child.release();
    child.await();
    CHECK(pins_of(observer, "small", child.pid()) == 3);
    CHECK(pins_of(observer, "small", ::getpid()) == 2);
    CHECK(must(observer.holders()).size() == 2);
    child.kill();
    CHECK(eventually([&] { return must(observer.holders()).size() == 1; }));
  }

  TEST_CASE("a child that is killed gives back its pins, and the parent keeps its own") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client observer = daemon.connect();
    put_both(client);
    Both views = Both::of(client);
    ChildProcess child([&](Moments& moments) {
      moments.reached();
      moments.wait();
    });
    child.await();
    remove_and_reuse(observer);
    child.kill();
    remove_and_reuse(observer);
    CHECK(removing(observer) == 2);
    CHECK(views.damage() == "");
    views.release();
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
  }

  TEST_CASE("a child keeps its views when the parent is killed") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Shared<std::atomic<pid_t>> grandchild;
    Shared<std::atomic<int>> stage;
    ChildProcess parent([&](Moments& moments) {
      Client client = daemon.connect();
      put_both(client);
      Both views = Both::of(client);
      *grandchild = fork_child([&] {
        *stage = 1;
        while (*stage != 2) ::usleep(1000);
        require(views.damage().empty(), views.damage());
        views.release();
        *stage = 3;
        while (*stage != 4) ::usleep(1000);
      });
      moments.reached();
      moments.wait();
    });
    parent.await();
    CHECK(eventually([&] { return *stage == 1; }));
    parent.kill();
    Client observer = daemon.connect();
    remove_and_reuse(observer);
    CHECK(removing(observer) == 2);
    *stage = 2;
    CHECK(eventually([&] { return *stage == 3; }));
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
    *stage = 4;
    CHECK(eventually([&] { return ::kill(*grandchild, 0) != 0; }));
  }

  TEST_CASE("a view goes down five generations and stays right in the last") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client observer = daemon.connect();
    put_both(client);
    auto views = std::make_unique<Both>(Both::of(client));
    Shared<std::atomic<int>> stage;
    // Each generation forks the next, releases its views and ends before the next one goes on.
    const std::function<void(int)> generation = [&](int left) {
      if (left == 0) {
        *stage = 1;
        while (*stage != 2) ::usleep(1000);
        require(views->damage().empty(), views->damage());
        const View own = must(client.get("noise/kept"));
        require(wrong_bytes(own.bytes(), 10, "noise/kept", 1).empty(), "wrong bytes");
        *stage = 3;
        while (*stage != 4) ::usleep(1000);
        return;
      }
      const pid_t parent = ::getpid();
      fork_child([&, parent] {
        while (::getppid() == parent) ::usleep(1000);
        generation(left - 1);
      });
      views->release();
    };
    ChildProcess first([&](Moments&) {
      ::prctl(PR_SET_PDEATHSIG, 0);
      generation(5);
    });
    CHECK(first.join() == 0);
    views->release();
    REQUIRE(eventually([&] { return *stage == 1; }));
    must(observer.put("noise/kept", payload(10, "noise/kept", 1)));
    remove_and_reuse(observer);
    CHECK(removing(observer) == 2);
    *stage = 2;
    CHECK(eventually([&] { return *stage == 3; }));
    CHECK(removing(observer) == 2);
    *stage = 4;
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
  }

  TEST_CASE("the child puts, gets, waits and removes through the client it inherited") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_both(client);
    std::optional<Both> views;
    // With views the child gets a connection that was made for it, without it makes its own.
    SUBCASE("with views") { views.emplace(Both::of(client)); }
    SUBCASE("without views") {}
    ChildProcess child([&](Moments& moments) {
      for (std::uint64_t i = 1; i <= 50; ++i) {
        must(client.put("child", payload(i * 3000, "child", i)));
        const std::string wrong =
            wrong_bytes(must(client.get("child")).bytes(), i * 3000, "child", i);
        require(wrong.empty(), wrong);
      }
      Builder builder = must(client.create("built", 100000));
      fill(builder.bytes(), "built", 1);
      must(builder.seal());
      require(must(client.remove("child", 3)) == 1, "remove did not work");
      require(outcome(client.get("never", {.timeout = milliseconds(20)})) == "timed_out",
              "waiting did not work");
      moments.reached();
      moments.wait();
      require(must(client.get("parent")).bytes().size() == 20, "the parent's put is not seen");
      if (views) require(views->damage().empty(), views->damage());
    });
    for (std::uint64_t i = 1; i <= 50; ++i) {
      must(client.put("parent", payload(20, "parent", i)));
      CHECK(wrong_bytes(must(client.get("parent")).bytes(), 20, "parent", i) == "");
    }
    child.await();
    CHECK(wrong_bytes(must(client.get("built")).bytes(), 100000, "built", 1) == "");
    CHECK(outcome(client.get("child", {.version = 3})) == "not_found");
    child.release();
    CHECK(child.join() == 0);
    if (views) CHECK(views->damage() == "");
  }

  TEST_CASE("a child that destroys its client ends its own session and not the parent's") {
    DaemonProcess daemon;
    std::optional<Client> client(daemon.connect());
    put_both(*client);
    std::optional<Both> views;
    SUBCASE("with views") { views.emplace(Both::of(*client)); }
    SUBCASE("without views") {}
    ChildProcess child([&](Moments&) {
      if (views) {
        client.reset();
        require(views->damage().empty(), views->damage());
        views.reset();
      }
      client.reset();
    });
    CHECK(child.join() == 0);
    must(client->put("after", payload(10, "after", 1)));
    if (views) {
      CHECK(views->damage() == "");
      CHECK(pins_of(*client, "large", ::getpid()) == 1);
    }
    CHECK(eventually([&] { return Status(*client)["sessions"] == 1; }));
  }

  TEST_CASE("an open builder stays the parent's: the child can neither write, seal nor abort it") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client observer = daemon.connect();
    Builder builder = must(client.create("built", large));
    fill(builder.bytes(), "built", 1);
    {
      ChildProcess child([&](Moments&) {
        require(outcome(builder.seal()) == "bad_state", "the child sealed");
        require(outcome(builder.seal_and_get()) == "bad_state", "the child sealed");
        require(outcome(builder.abort()) == "bad_state", "the child aborted");
        require(outcome(builder.abort_and_hold()) == "bad_state", "the child aborted");
        // And ends it as any owner would.
        const Builder gone = std::move(builder);
      });
      CHECK(child.join() == 0);
    }
    {
      ChildProcess child([&](Moments&) {
        die_of_faults();
        poke(builder.bytes().data());
      });
      CHECK(child.join() == -SIGSEGV);
    }
    CHECK(Status(observer)["creating"] == 1);
    fill(builder.bytes(), "built", 1);
    must(builder.seal());
    CHECK(wrong_bytes(must(observer.get("built")).bytes(), large, "built", 1) == "");
  }

  TEST_CASE("a builder is sealed by the parent while a child lives, and its bytes are the parent's") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client client = daemon.connect();
    Client observer = daemon.connect();
    Builder builder = must(client.create("built", large));
    ChildProcess child([&](Moments& moments) {
      moments.reached();
      moments.wait();
      const std::string wrong = wrong_bytes(must(client.get("built")).bytes(), large, "built", 1);
      require(wrong.empty(), wrong);
    });
    child.await();
    fill(builder.bytes(), "built", 1);
    must(builder.seal());
    child.release();
    CHECK(child.join() == 0);
    must(observer.remove("built"));
    CHECK(status_becomes(observer, "used_bytes", 0) == 0);
  }

  TEST_CASE("a builder whose maker dies is given back, though a child that inherited it lives") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Shared<std::atomic<int>> stage;
    ChildProcess parent([&](Moments& moments) {
      Client client = daemon.connect();
      Builder builder = must(client.create("built", large));
      fork_child([&] {
        *stage = 1;
        while (*stage != 2) ::usleep(1000);
      });
      moments.reached();
      moments.wait();
    });
    parent.await();
    CHECK(eventually([&] { return *stage == 1; }));
    Client observer = daemon.connect();
    parent.kill();
    CHECK(status_becomes(observer, "creating", 0, slack) == 0);
    *stage = 2;
    CHECK(status_becomes(observer, "used_bytes", 0, slack) == 0);
    CHECK(outcome(observer.get("built")) == "not_found");
  }

  TEST_CASE("views that outlived their client stay until parent and child have both ended") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Client observer = daemon.connect();
    for (const bool destroyed : {false, true}) {
      CAPTURE(destroyed);
      put_both(observer);
      ChildProcess parent([&](Moments& moments) {
        std::optional<Client> client(daemon.connect());
        Both views = Both::of(*client);
        if (destroyed) {
          client.reset();
        } else {
          client->close();
        }
        // The first child lets go; the parent must not have. Then the other way round.
        {
          ChildProcess child([&](Moments&) {
            require(views.damage().empty(), views.damage());
            views.release();
          });
          require(child.join() == 0, "the first child found its views wrong");
        }
        moments.reached();
        moments.wait();
        require(views.damage().empty(), views.damage());
        ChildProcess child([&](Moments& said) {
          said.reached();
          said.wait();
          require(views.damage().empty(), views.damage());
        });
        child.await();
        views.release();
        moments.reached();
        moments.wait();
        child.release();
        require(child.join() == 0, "the second child found its views wrong");
      });
      for (int half = 0; half < 2; ++half) {
        parent.await();
        remove_and_reuse(observer);
        CHECK(removing(observer) == 2);
        parent.release();
      }
      CHECK(parent.join() == 0);
      CHECK(status_becomes(observer, "removing", 0, slack) == 0);
    }
  }

  TEST_CASE("a process with clients of two stores forks with the views of both") {
    DaemonProcess one({.capacity = "16MiB"});
    DaemonProcess two({.capacity = "16MiB"});
    Client first = one.connect();
    Client second = two.connect();
    Client again = one.connect();
    put_both(first);
    put_both(second);
    std::vector<Both> views;
    for (Client* client : {&first, &second, &again}) views.push_back(Both::of(*client));
    ChildProcess child([&](Moments& moments) {
      moments.reached();
      moments.wait();
      for (const Both& both : views) require(both.damage().empty(), both.damage());
    });
    child.await();
    views.clear();
    for (Client* client : {&first, &second}) {
      remove_and_reuse(*client);
      CHECK(removing(*client) == 2);
    }
    child.release();
    CHECK(child.join() == 0);
    for (Client* client : {&first, &second})
      CHECK(status_becomes(*client, "removing", 0, slack) == 0);
  }

  TEST_CASE("a fork while another thread waits disturbs neither that wait nor the child") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Client observer = daemon.connect();
    put_both(client);
    const Both views = Both::of(client);
    std::thread waiting([&] {
      const auto view = client.get("late", {.timeout = seconds(30)});
      CHECK(outcome(view) == "ok");
    });
    CHECK(status_becomes(observer, "waiters", 1) == 1);
    for (int i = 0; i < 5; ++i) {
      ChildProcess child([&](Moments&) {
        must(client.put("child", payload(100, "child", 1)));
        require(outcome(client.get("never", {.timeout = milliseconds(10)})) == "timed_out",
                "the child cannot wait");
        require(views.damage().empty(), views.damage());
      });
      CHECK(child.join() == 0);
    }
    must(client.put("late", payload(10, "late", 1)));
    waiting.join();
  }

  TEST_CASE("forks of a process whose threads get and release all the time leave no pin behind") {
    DaemonProcess daemon;
    Client observer = daemon.connect();
    for (int i = 0; i < 20; ++i) {
      const std::string id = "f/" + std::to_string(i);
      must(observer.put(id, payload(3000, id, 1)));
    }
    ChildProcess family([&](Moments&) {
      Client client = daemon.connect();
      const View kept = must(client.get("f/0"));
      std::atomic<bool> stop{false};
      std::atomic<bool> wrong{false};
      std::vector<std::thread> threads;
      for (int t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
          for (std::uint64_t i = static_cast<std::uint64_t>(t); !stop; i += 7) {
            const std::string id = "f/" + std::to_string(i % 20);
            const auto view = client.get(id);
            if (!view || !wrong_bytes(view->bytes(), 3000, id, 1).empty()) wrong = true;
          }
        });
      for (int i = 0; i < 100; ++i) {
        const pid_t child = fork_child([&] {
          for (int k = 0; k < 20; ++k) {
            const std::string id = "f/" + std::to_string(k);
            const View view = must(client.get(id));
            const std::string damage = wrong_bytes(view.bytes(), 3000, id, 1);
            require(damage.empty(), damage);
          }
          const std::string damage = wrong_bytes(kept.bytes(), 3000, "f/0", 1);
          require(damage.empty(), damage);
        });
        int status = 0;
        ::waitpid(child, &status, 0);
        require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child failed");
      }
      stop = true;
      for (std::thread& thread : threads) thread.join();
      require(!wrong, "a thread got wrong bytes, or none");
      // All that is pinned now is what is held now.
      for (int i = 0; i < 20; ++i) {
        const std::uint64_t pins = pins_of(client, "f/" + std::to_string(i), ::getpid());
        require(pins == (i == 0 ? 1 : 0),
                "f/" + std::to_string(i) + " has " + std::to_string(pins) + " pins");
      }
    });
    CHECK(family.join() == 0);
    CHECK(eventually([&] { return must(observer.holders()).empty(); }, slack));
    CHECK(must(observer.remove("f/0")) == 1);
    CHECK(removing(observer) == 0);
  }

  TEST_CASE("forks of a process whose threads put, create and remove all the time do no harm") {
    DaemonProcess daemon({.capacity = "64MiB"});
    ChildProcess family([&](Moments&) {
      Client client = daemon.connect();
      std::atomic<bool> stop{false};
      std::atomic<bool> wrong{false};
      std::vector<std::thread> threads;
      for (int t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
          const std::string id = "t/" + std::to_string(t);
          for (std::uint64_t i = 1; !stop; ++i) {
            const std::size_t size = i % 2 == 0 ? 900 : 200000;
            if (i % 3 == 0) {
              auto builder = client.create(id, size);
              if (!builder) {
                wrong = true;
                break;
              }
              fill(builder->bytes(), id, i);
              if (!builder->seal()) wrong = true;
            } else if (!client.put(id, payload(size, id, i))) {
              wrong = true;
            }
            const auto view = client.get(id);
            if (!view || !wrong_bytes(view->bytes(), size, id, i).empty()) wrong = true;
            if (!client.remove(id)) wrong = true;
          }
        });
      for (int i = 0; i < 60; ++i) {
        const pid_t child = fork_child([&] {
          must(client.put("child", payload(200000, "child", 1)));
          must(client.remove("child"));
        });
        int status = 0;
        ::waitpid(child, &status, 0);
        require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child failed");
      }
      stop = true;
      for (std::thread& thread : threads) thread.join();
      require(!wrong, "a thread failed, or got wrong bytes");
    });
    CHECK(family.join() == 0);
    const Client observer = daemon.connect();
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
    CHECK(Status(observer)["creating"] == 0);
    CHECK(Status(observer)["segments"] == 0);
    CHECK(adds_up(observer) == "");
  }
}

// What follows happens while no daemon answers: parent and child go on with what they had together.
TEST_SUITE("fork while the daemon is stopped") {
  TEST_CASE("views stay right on both sides, whichever lets go first, and end with both") {
    DaemonProcess daemon({.capacity = "16MiB"});
    for (const bool child_first : {true, false}) {
      CAPTURE(child_first);
      Shared<std::atomic<int>> stage;
      ChildProcess parent([&](Moments& moments) {
        Client client = daemon.connect();
        put_both(client);
        Both views = Both::of(client);
        moments.reached('p');
        moments.wait();
        const pid_t child = fork_child([&] {
          *stage = 1;
          if (child_first) views.release();
          while (*stage != 2) ::usleep(1000);
          if (!child_first) require(views.damage().empty(), views.damage());
        });
        while (*stage != 1) ::usleep(1000);
        if (!child_first) views.release();
        moments.reached('f');
        moments.wait();
        if (child_first) require(views.damage().empty(), views.damage());
        // The parent works on, with new pins.
        require(outcome(client.get("small")) == "not_found", "it is still there");
        must(client.put("fresh", payload(50, "fresh", 1)));
        const std::string wrong = wrong_bytes(must(client.get("fresh")).bytes(), 50, "fresh", 1);
        require(wrong.empty(), wrong);
        must(client.remove("fresh"));
        *stage = 2;
        int status = 0;
        ::waitpid(child, &status, 0);
        require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child failed");
      });
      CHECK(parent.await() == 'p');
      daemon.stop();
      parent.release();
      CHECK(parent.await() == 'f');
      daemon.resume();
      Client observer = daemon.connect();
      // Long enough for the daemon to see that the parent, which has let go, maps nothing any more.
      if (!child_first) ::usleep(300000);
      remove_and_reuse(observer);
      CHECK(removing(observer) == 2);
      parent.release();
      CHECK(parent.join() == 0);
      CHECK(status_becomes(observer, "removing", 0, slack) == 0);
      CHECK(adds_up(observer) == "");
    }
  }

  TEST_CASE("what the child holds outlives the parent") {
    DaemonProcess daemon({.capacity = "16MiB"});
    for (const bool restarted : {false, true}) {
      CAPTURE(restarted);
      Shared<std::atomic<int>> stage;
      *stage = 0;
      ChildProcess parent([&](Moments& moments) {
        Client client = daemon.connect();
        put_both(client);
        Both views = Both::of(client);
        moments.reached('p');
        moments.wait();
        fork_child([&] {
          *stage = 1;
          while (*stage != 2) ::usleep(1000);
          if (!views.damage().empty()) *stage = 99;
          if (*stage == 2) *stage = 3;
          while (*stage == 3) ::usleep(1000);
        });
        while (*stage != 1) ::usleep(1000);
        moments.reached('f');
        moments.wait();
      });
      CHECK(parent.await() == 'p');
      daemon.stop();
      parent.release();
      CHECK(parent.await() == 'f');
      parent.kill();
      if (restarted) {
        daemon.resume();
        daemon.kill();
        daemon.start();
      } else {
        daemon.resume();
      }
      Client observer = daemon.connect();
      remove_and_reuse(observer);
      CHECK(removing(observer) == 2);
      *stage = 2;
      CHECK(eventually([&] { return *stage != 2; }));
      CHECK(*stage == 3);
      *stage = 4;
      CHECK(status_becomes(observer, "removing", 0, slack) == 0);
    }
  }

  TEST_CASE("a grandchild that is forked before the daemon answers again keeps its views, too") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Shared<std::atomic<int>> stage;
    ChildProcess parent([&](Moments& moments) {
      Client client = daemon.connect();
      put_both(client);
      Both views = Both::of(client);
      moments.reached('p');
      moments.wait();
      ::prctl(PR_SET_PDEATHSIG, 0);
      fork_child([&] {
        fork_child([&] {
          *stage = 1;
          while (*stage != 2) ::usleep(1000);
          if (!views.damage().empty()) *stage = 99;
          if (*stage == 2) *stage = 3;
          while (*stage == 3) ::usleep(1000);
        });
        while (*stage != 1) ::usleep(1000);
      });
      while (*stage != 1) ::usleep(1000);
      moments.reached('f');
    });
    CHECK(parent.await() == 'p');
    daemon.stop();
    parent.release();
    CHECK(parent.await() == 'f');
    // Both its forebears are gone when the daemon looks again.
    CHECK(parent.join() == 0);
    daemon.resume();
    Client observer = daemon.connect();
    remove_and_reuse(observer);
    CHECK(removing(observer) == 2);
    *stage = 2;
    CHECK(eventually([&] { return *stage != 2; }));
    CHECK(*stage == 3);
    *stage = 4;
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
  }

  TEST_CASE("what a parent was making is nobody's when it died while no daemon ran") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Shared<std::atomic<int>> stage;
    ChildProcess parent([&](Moments& moments) {
      Client client = daemon.connect();
      put_both(client);
      Both views = Both::of(client);
      const Builder builder = must(client.create("open", 300'000));
      moments.reached('p');
      moments.wait();
      ::prctl(PR_SET_PDEATHSIG, 0);
      fork_child([&] {
        *stage = 1;
        while (*stage != 2) ::usleep(1000);
        *stage = views.damage().empty() ? 3 : 99;
      });
      while (*stage != 1) ::usleep(1000);
      moments.reached('f');
      moments.wait();
    });
    CHECK(parent.await() == 'p');
    daemon.stop();
    parent.release();
    CHECK(parent.await() == 'f');
    daemon.kill();
    parent.kill();
    daemon.start();
    Client observer = daemon.connect();
    CHECK(DaemonProcess::status(observer, "creating") == 0);
    remove_and_reuse(observer);
    CHECK(removing(observer) == 3);  // its memory is the child's to let go
    *stage = 2;
    CHECK(eventually([&] { return *stage != 2; }));
    CHECK(*stage == 3);
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
  }

  TEST_CASE("a grandchild that is forked when the daemon answers again keeps its views, too") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Shared<std::atomic<int>> stage;
    ChildProcess parent([&](Moments& moments) {
      Client client = daemon.connect();
      put_both(client);
      Both views = Both::of(client);
      moments.reached('p');
      moments.wait();
      ::prctl(PR_SET_PDEATHSIG, 0);
      fork_child([&] {
        *stage = 1;
        while (*stage != 2) ::usleep(1000);
        // This child talks to the daemon again, and holds new views beside the old ones.
        const View fresh = must(client.get("fresh"));
        fork_child([&] {
          *stage = 3;
          while (*stage != 4) ::usleep(1000);
          const bool right = views.damage().empty() &&
                             wrong_bytes(fresh.bytes(), 5000, "fresh", 1).empty();
          *stage = right ? 5 : 99;
          while (*stage == 5) ::usleep(1000);
        });
        while (*stage != 3) ::usleep(1000);
      });
      while (*stage != 1) ::usleep(1000);
      moments.reached('f');
    });
    CHECK(parent.await() == 'p');
    daemon.stop();
    parent.release();
    CHECK(parent.await() == 'f');
    CHECK(parent.join() == 0);
    daemon.resume();
    Client observer = daemon.connect();
    must(observer.put("fresh", payload(5000, "fresh", 1)));
    *stage = 2;
    REQUIRE(eventually([&] { return *stage == 3; }));
    // The child ends now; what its child inherited from it is left.
    remove_and_reuse(observer);
    must(observer.remove("fresh"));
    ::usleep(300000);
    remove_and_reuse(observer);
    CHECK(removing(observer) == 3);
    *stage = 4;
    CHECK(eventually([&] { return *stage != 4; }));
    CHECK(*stage == 5);
    *stage = 6;
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
  }

  TEST_CASE("several children of one parent all keep what they inherited") {
    DaemonProcess daemon({.capacity = "16MiB"});
    Shared<std::atomic<int>> here;
    Shared<std::atomic<int>> right;
    Shared<std::atomic<int>> stage;
    constexpr int children = 4;
    ChildProcess parent([&](Moments& moments) {
      Client client = daemon.connect();
      put_both(client);
      Both views = Both::of(client);
      moments.reached('p');
      moments.wait();
      ::prctl(PR_SET_PDEATHSIG, 0);
      for (int i = 0; i < children; ++i)
        fork_child([&] {
          ++*here;
          while (*stage != 1) ::usleep(1000);
          if (views.damage().empty()) ++*right;
          while (*stage != 2) ::usleep(1000);
        });
      while (*here != children) ::usleep(1000);
      moments.reached('f');
    });
    CHECK(parent.await() == 'p');
    daemon.stop();
    parent.release();
    CHECK(parent.await() == 'f');
    CHECK(parent.join() == 0);
    daemon.resume();
    Client observer = daemon.connect();
    remove_and_reuse(observer);
    CHECK(removing(observer) == 2);
    *stage = 1;
    CHECK(eventually([&] { return *right == children; }));
    CHECK(removing(observer) == 2);
    *stage = 2;
    CHECK(status_becomes(observer, "removing", 0, slack) == 0);
  }

  TEST_CASE("a fork does not wait long for a daemon that does not answer") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    put_both(client);
    const Both views = Both::of(client);
    daemon.stop();
    const auto start = std::chrono::steady_clock::now();
    {
      ChildProcess child([&](Moments&) { require(views.damage().empty(), views.damage()); });
      CHECK(child.join() == 0);
    }
    // 100 ms, says the contract; the rest is for a loaded machine.
    CHECK(std::chrono::steady_clock::now() - start < slack);
    daemon.resume();
    CHECK(views.damage() == "");
    CHECK(outcome(client.put("after", payload(10, "after", 1))) == "ok");
  }

  TEST_CASE("what a killed parent waited for ends, also where its child inherits its table") {
    DaemonProcess daemon;
    Client observer = daemon.connect();
    must(observer.put("v", payload(100, "v", 1)));
    ChildProcess parent([&](Moments& moments) {
      Client client = daemon.connect();
      const View view = must(client.get("v"));
      AsyncGets gets = must(client.async_gets());
      gets.get("a", {.timeout = std::chrono::minutes(10)}, [](Result<View>) {});
      require(status_becomes(client, "waiters", 1) == 1, "it does not wait");
      // Nobody answers at the fork: the table is shared.
      daemon.stop();
      ChildProcess child([&](Moments&) {
        ::prctl(PR_SET_PDEATHSIG, 0);
        moments.reached();
        (void)eventually([&] { return ::kill(daemon.pid(), 0) != 0; });
      });
      moments.wait();
    });
    parent.await();
    daemon.resume();
    parent.kill();
    CHECK(status_becomes(observer, "waiters", 0, slack) == 0);
  }

  TEST_CASE("a builder that was open at the fork is still the parent's to seal") {
    DaemonProcess daemon;
    Client client = daemon.connect();
    Builder builder = must(client.create("built", large));
    fill(builder.bytes(), "built", 1);
    daemon.stop();
    {
      ChildProcess child([&](Moments&) {
        require(outcome(builder.seal()) == "bad_state", "the child sealed");
      });
      CHECK(child.join() == 0);
    }
    daemon.resume();
    must(builder.seal());
    CHECK(wrong_bytes(must(client.get("built")).bytes(), large, "built", 1) == "");
  }
}

}  // namespace
}  // namespace forebay::test
