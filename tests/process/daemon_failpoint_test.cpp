// SPDX-License-Identifier: Apache-2.0
// The daemon is killed at each of its failpoints, under a workload that reaches all of them, and
// started again: what was acknowledged is there, what is held stays held, and everybody goes on.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/random.h"
#include "tests/support/shared.h"
#include "tests/support/status.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds slack{5};  // for "within a second" on a loaded machine
constexpr PutOptions patient{.timeout = seconds(10)};

// What the processes of one run tell each other.
struct Board {
  // 0: the daemon will be killed; 1: it is back; 2: the end.
  std::atomic<int> phase{0};
  std::atomic<bool> held{false};     // the holder has its views
  std::atomic<int> worker_done{-1};  // phases that each of them has finished
  std::atomic<int> holder_done{-1};
  std::atomic<int> visitor_done{-1};
  std::atomic<bool> mortal_done{false};
  std::atomic<std::uint64_t> attempted{0};  // by the mortal, who does not live to repeat it
  std::array<std::atomic<bool>, 64> acknowledged{};
};

template <class Condition>
void wait_until(Condition&& condition, const char* what) {
  require(eventually(condition, seconds(30)), std::string("waited in vain: ") + what);
}

// The daemon may be dead just now: whoever was never connected is told so at once.
Client connect(const DaemonProcess& daemon) {
  std::optional<Client> client;
  wait_until(
      [&] {
        auto connected = Client::connect(daemon.connect_options());
        if (connected) client.emplace(std::move(*connected));
        return client.has_value();
      },
      "a connection");
  return std::move(*client);
}

void require_bytes(const Client& client, const std::string& id, std::uint64_t version,
                   std::size_t size) {
  const View view = must(client.get(id, {.version = version}));
  const std::string wrong = wrong_bytes(view.bytes(), size, id, version);
  require(wrong.empty(), wrong);
}

// ------------------------------------------------------------------------------------ the worker

constexpr std::uint64_t log_versions = 8;
constexpr std::size_t crowd = 4300;  // more than half of the entries that an index starts with
constexpr std::size_t taken_bytes = 150'000;
constexpr std::uint64_t evictables = 24;
constexpr std::size_t evictable_bytes = 900'000;
constexpr std::size_t crowd_bytes = 40;

std::size_t log_size(std::uint64_t version) { return version % 2 == 0 ? 90'000 : 300 * version; }
std::string name(int phase, const std::string& rest) {
  return "w" + std::to_string(phase) + "/" + rest;
}
std::string evictable(int phase, std::uint64_t i) {
  return name(phase, "evictable/" + std::to_string(i));
}
// In the second phase a few will do: the index has grown.
std::size_t crowd_of(int phase) { return phase == 0 ? crowd : 50; }
std::string in_crowd(int phase, std::size_t i) {
  return name(phase, "crowd/" + std::to_string(i));
}

// Takes every step that there is. All of it is acknowledged in the end: the client repeats what the
// daemon did not live to answer.
void work(Client& client, int phase) {
  const std::string log = name(phase, "log");
  for (std::uint64_t version = 1; version <= log_versions; ++version) {
    const std::size_t size = log_size(version);
    require(must(client.put(log, payload(size, log, version), patient)).version == version,
            "a number was used twice or left out");
    require_bytes(client, log, version, size);
  }
  for (const std::size_t size : {std::size_t{150}, std::size_t{200'000}}) {
    const std::string built = name(phase, "built/" + std::to_string(size));
    Builder builder = must(client.create(built, size, patient));
    fill(builder.bytes(), built, 1);
    must(builder.seal());
    require_bytes(client, built, 1, size);
    must(must(client.create(name(phase, "aborted"), size, patient)).abort());
  }
  const std::string removed = name(phase, "removed");
  for (std::uint64_t version = 1; version <= 4; ++version)
    must(client.put(removed, payload(500 * version, removed, version), patient));
  must(client.remove(removed, 2));
  require(outcome(client.get(removed, {.version = 2})) == "not_found", "it is still there");
  require_bytes(client, removed, 4, 2000);
  must(client.remove(removed, 4));
  require(must(client.get(removed)).version() == 3, "the newest is another");
  must(client.remove(removed));

  const std::string taken = name(phase, "taken");
  must(client.put(taken, payload(taken_bytes, taken, 1), patient));
  for (std::uint64_t version = 2; version <= 4; ++version) {
    Builder next = must(client.update(
        taken, {.from_version = version - 1, .take = true, .timeout = seconds(10)}));
    fill(next.bytes(), taken, version);
    must(next.seal());
  }
  require(outcome(client.get(taken, {.version = 3})) == "superseded", "it is still there");
  require_bytes(client, taken, 4, taken_bytes);
  for (const std::size_t size : {std::size_t{150}, std::size_t{200'000}}) {
    const std::string loaded = name(phase, "loaded/" + std::to_string(size));
    const View view = must(client.get_or_create(loaded, [&]() -> Result<Loaded> {
      return Loaded{payload(size, loaded, 1), std::nullopt};
    }));
    require(view.version() == 1, "it was loaded twice");
  }

  std::vector<std::string> ids;
  std::vector<std::vector<std::byte>> bytes;
  std::vector<PutItem> items;
  for (std::size_t i = 0; i < crowd_of(phase); ++i) {
    ids.push_back(in_crowd(phase, i));
    bytes.push_back(payload(crowd_bytes, ids.back(), 1));
  }
  for (std::size_t i = 0; i < ids.size(); ++i) items.push_back({ids[i], bytes[i]});
  for (const auto& put : must(client.put_many(items, patient)))
    require(outcome(put) == "ok", outcome(put));

  PutOptions dropped = patient;
  dropped.evictable = true;
  dropped.version = 1;
  for (std::uint64_t i = 0; i < evictables; ++i) {
    const std::string id = evictable(phase, i);
    must(client.put(id, payload(evictable_bytes, id, 1), dropped));
  }
  // Some have been dropped by now. They come again, where their tombstones are.
  int again = 0;
  for (std::uint64_t i = 0; i < evictables && again < 4; ++i) {
    const std::string id = evictable(phase, i);
    const std::string ended = outcome(client.get(id));
    require(ended == "ok" || ended == "evicted", ended);
    if (ended == "ok") continue;
    must(client.put(id, payload(evictable_bytes, id, 1), dropped));
    ++again;
  }
  require(again == 4, "too few were evicted");
  for (std::uint64_t i = 2; i < evictables; ++i) {
    const std::string ended = outcome(client.remove(evictable(phase, i)));
    require(ended == "ok" || ended == "not_found", ended);
  }
}

// Nothing, if another one finds all of that.
std::string work_is_wrong(const Client& client, int phase) {
  try {
    const std::string log = name(phase, "log");
    for (std::uint64_t version = 1; version <= log_versions; ++version)
      require_bytes(client, log, version, log_size(version));
    require(must(client.get(log)).version() == log_versions, "the newest is another");
    for (const std::size_t size : {std::size_t{150}, std::size_t{200'000}})
      require_bytes(client, name(phase, "built/" + std::to_string(size)), 1, size);
    require_bytes(client, name(phase, "taken"), 4, taken_bytes);
    for (const std::size_t size : {std::size_t{150}, std::size_t{200'000}})
      require_bytes(client, name(phase, "loaded/" + std::to_string(size)), 1, size);
    for (const char* gone : {"aborted", "removed"})
      require(outcome(client.get(name(phase, gone))) == "not_found", "there is one left");
    for (std::size_t i = 0; i < crowd_of(phase); ++i)
      require_bytes(client, in_crowd(phase, i), 1, crowd_bytes);
    for (std::uint64_t i = 0; i < evictables; ++i) {
      const auto view = client.get(evictable(phase, i));
      if (view) {
        require(i < 2, evictable(phase, i) + " was removed");
        const std::string wrong =
            wrong_bytes(view->bytes(), evictable_bytes, evictable(phase, i), 1);
        require(wrong.empty(), wrong);
      } else {
        require(outcome(view) == (i < 2 ? "evicted" : "not_found"), outcome(view));
      }
    }
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

// ----------------------------------------------------------------------------------- the others

// Holds views all the time, of what is removed and of what might be evicted, too; and forks.
void hold(const DaemonProcess& daemon, Board& board) {
  struct Held {
    std::string id;
    std::size_t size;
    View view;
  };
  Client client = connect(daemon);
  std::vector<Held> all;
  for (const auto& [id, size] : {std::pair<std::string, std::size_t>{"kept/large", 300'000},
                                 {"kept/small", 700},
                                 {"kept/evictable", 100'000},
                                 {"gone/large", 200'000},
                                 {"gone/small", 701}}) {
    PutOptions options = patient;
    options.evictable = id == "kept/evictable";
    must(client.put(id, payload(size, id, 1), options));
    all.push_back({id, size, must(client.get(id, {.timeout = seconds(10)}))});
  }
  must(client.remove("gone/large"));
  must(client.remove("gone/small"));
  board.held = true;
  const auto check = [&] {
    for (const Held& held : all) {
      const std::string wrong = wrong_bytes(held.view.bytes(), held.size, held.id, 1);
      require(wrong.empty(), wrong);
    }
  };
  for (int phase = 0; phase < 2; ++phase) {
    for (int i = 0; i < 3; ++i) {
      ChildProcess child([&](Moments&) {
        check();
        require_bytes(client, "kept/small", 1, 700);
        all.erase(all.begin(), all.begin() + 2);
        check();
      });
      require(child.join() == 0, "a child of the holder failed");
      check();
    }
    board.holder_done = phase;
    wait_until([&] { return board.phase > phase; }, "the next phase");
    check();
  }
  require_bytes(client, "kept/large", 1, 300'000);
}

// Connects, reads, and leaves.
void visit(const DaemonProcess& daemon, Board& board) {
  wait_until([&] { return board.held.load(); }, "what is held");
  for (int phase = 0; phase < 2; ++phase) {
    for (int i = 0; i < 5; ++i) {
      const Client client = connect(daemon);
      require_bytes(client, "kept/small", 1, 700);
      require_bytes(client, "kept/evictable", 1, 100'000);
    }
    board.visitor_done = phase;
    wait_until([&] { return board.phase > phase; }, "the next phase");
  }
}

std::string mortal_id(std::uint64_t i) { return "mortal/" + std::to_string(i); }
std::size_t mortal_size(std::uint64_t i) { return i % 3 == 0 ? 900 : 70'000; }

// Is killed when the daemon is: nobody repeats what it has asked for.
void put_until_killed(const DaemonProcess& daemon, Board& board) {
  wait_until([&] { return board.held.load(); }, "what is held");
  Client client = connect(daemon);
  for (std::uint64_t i = 1; i < board.acknowledged.size() && board.phase == 0; ++i) {
    const std::string id = mortal_id(i);
    board.attempted = i;
    if (i % 3 == 1) {
      Builder builder = must(client.create(id, mortal_size(i), patient));
      fill(builder.bytes(), id, 1);
      must(builder.seal());
    } else {
      must(client.put(id, payload(mortal_size(i), id, 1), patient));
    }
    board.acknowledged[i] = true;
    if (i > 12) must(client.remove(mortal_id(i - 10)));
    if (i > 12) board.acknowledged[i - 10] = false;
  }
  board.mortal_done = true;
}

// Nothing, if what it was told is there is there, and everything else there is whole.
std::string mortal_is_wrong(const Client& client, const Board& board) {
  for (std::uint64_t i = 1; i <= board.attempted; ++i) {
    const auto view = client.get(mortal_id(i));
    // What it removed last may be there or not.
    if (!view && board.acknowledged[i] && i + 10 != board.attempted)
      return "an acknowledged put: " + view.error().message();
    if (!view && outcome(view) != "not_found") return view.error().message();
    if (!view) continue;
    std::string wrong = wrong_bytes(view->bytes(), mortal_size(i), mortal_id(i), 1);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

// ------------------------------------------------------------------------------------- one run

std::vector<std::string> daemon_failpoints() {
  std::istringstream lines(run({program("forebayd"), "--list-failpoints"}).output);
  std::vector<std::string> names;
  std::string line;
  while (std::getline(lines, line)) names.push_back(line);
  return names;
}

// The daemon dies where `armed` says, is started again with `armed_again`, dies there too if that
// is not empty, and is started once more.
void kill_and_start_again(const std::string& armed, const std::string& armed_again) {
  CAPTURE(armed);
  CAPTURE(armed_again);
  const auto options = [](const std::string& failpoints) {
    return DaemonProcess::Options{.capacity = "16MiB",
                                  .arguments = {"--keep-warm", "1MiB"},
                                  .environment = {{"FOREBAY_FAILPOINTS", failpoints}},
                                  .wait = failpoints.empty()};
  };
  DaemonProcess daemon(options(armed));
  Shared<Board> board;
  ChildProcess holder([&](Moments&) { hold(daemon, *board); });
  ChildProcess visitor([&](Moments&) { visit(daemon, *board); });
  ChildProcess mortal([&](Moments&) { put_until_killed(daemon, *board); });
  ChildProcess worker([&](Moments&) {
    wait_until([&] { return board->held.load(); }, "what is held");
    Client client = connect(daemon);
    for (int phase = 0; phase < 2; ++phase) {
      work(client, phase);
      board->worker_done = phase;
      wait_until([&] { return board->phase > phase; }, "the next phase");
    }
  });
  const auto all_done = [&](int phase) {
    return board->worker_done >= phase && board->holder_done >= phase &&
           board->visitor_done >= phase;
  };

  std::optional<int> end;
  (void)eventually([&] {
    end = daemon.wait_for_end(milliseconds(0));
    return end.has_value() || (all_done(0) && board->mortal_done);
  });
  if (!end) end = daemon.wait_for_end(seconds(2));  // what comes by itself, a little later
  REQUIRE_MESSAGE(end.has_value(), "this failpoint was not reached: give it a workload here");
  REQUIRE_MESSAGE(*end == -SIGKILL, daemon.log());
  mortal.kill();
  if (!armed_again.empty()) {
    daemon.start(options(armed_again));
    REQUIRE_MESSAGE(daemon.wait_for_end(patience) == -SIGKILL, "this failpoint was not reached");
  }
  daemon.start(options(""));
  REQUIRE_MESSAGE(eventually([&] { return all_done(0); }),
                  "a process does not go on after the restart\n" << daemon.log());

  Client observer = daemon.connect();
  CHECK(mortal_is_wrong(observer, *board) == "");
  CHECK(work_is_wrong(observer, 0) == "");
  CHECK(status_becomes(observer, "creating", 0, slack) == 0);
  CHECK(status_becomes(observer, "removing", 2, slack) == 2);
  CHECK(adds_up(observer) == "");

  board->phase = 1;
  REQUIRE(eventually([&] { return all_done(1); }));
  CHECK(work_is_wrong(observer, 1) == "");
  // Its pins are counted, whatever has been put and dropped since.
  for (const char* id : {"kept/large", "kept/small", "kept/evictable"}) {
    std::uint64_t pins = 0;
    for (const Holder& pinner : must(observer.stat(id)).holders)
      if (pinner.pid == static_cast<std::uint32_t>(holder.pid())) pins += pinner.pins;
    CHECK(pins == 1);
  }
  CHECK(Status(observer)["removing"] == 2);
  board->phase = 2;
  CHECK(holder.join() == 0);
  CHECK(worker.join() == 0);
  CHECK(visitor.join() == 0);
  CHECK(status_becomes(observer, "removing", 0, slack) == 0);
  CHECK(eventually([&] { return must(observer.holders()).empty(); }, slack));
  CHECK(Status(observer)["creating"] == 0);
  CHECK(adds_up(observer) == "");
}

bool in_recovery(const std::string& point) { return point.starts_with("recover."); }

TEST_SUITE("daemon failpoints") {
  TEST_CASE("a daemon that is killed the first time it gets to any failpoint loses nothing") {
    for (const std::string& point : daemon_failpoints())
      if (!in_recovery(point)) kill_and_start_again(point + "=kill", "");
  }

  TEST_CASE("a daemon that is killed in its recovery loses nothing in the next one") {
    // A removal that was cut off here leaves something to repair at each step of a recovery.
    for (const std::string& point : daemon_failpoints())
      if (in_recovery(point))
        kill_and_start_again("remove.exact_unlinked:3=kill", point + "=kill");
  }

  TEST_CASE("a daemon that is killed in the middle of much work loses nothing") {
    // How often the workload gets to each of these at least.
    const std::map<std::string, std::uint32_t> often{
        {"index.backed", 2},          {"serial.taken", 4000},      {"create.begun", 4000},
        {"create.filled", 4000},      {"create.written", 4000},    {"put.copied", 4000},
        {"seal.exact_linked", 4000},  {"seal.written", 4000},      {"seal.newest_linked", 4000},
        {"remove.newest_unlinked", 8}, {"remove.exact_unlinked", 8}, {"remove.marked", 8},
        {"remove.freed", 8},          {"evict.marked", 10},        {"evict.tombstone", 10},
        {"evict.unlinked", 10},       {"buckets.copied", 1000},    {"buckets.published", 1000},
        {"process.slot_filled", 8},   {"process.slot_held", 8},    {"process.table_removed", 6},
        {"chunk.backed", 6},          {"arena.grown", 6},          {"arena.punched", 4},
        {"fork.copied", 3},           {"take.begun", 3},           {"claim.fulfilled", 2},
    };
    Random random("daemon failpoints");
    for (const auto& [point, most] : often) {
      const std::uint64_t nth = random.between(2, most);
      kill_and_start_again(point + ":" + std::to_string(nth) + "=kill", "");
    }
  }
}

}  // namespace
}  // namespace forebay::test
