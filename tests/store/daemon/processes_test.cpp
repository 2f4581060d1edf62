// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/processes.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/child_process.h"
#include "tests/support/index_memory.h"

namespace forebay::daemon {
namespace {

using std::chrono::milliseconds;
using test::ChildProcess;
using test::Moments;

constexpr shm::Limits small_limits{
    .entries = shm::chunk_entries, .lines = 1024, .overflow_lines = 1024, .processes = 4};

Peer peer_for(pid_t pid) { return {pid, ::geteuid(), ::getegid()}; }

// Processes and their tables as one daemon has them; the next one can take them over.
struct Store {
  Store()
      : memory(small_limits),
        home(shm::named_home("test-" + std::to_string(::getpid()) + "-" +
                             std::to_string(std::random_device{}()))) {
    memory.map().stamp->boot_id = boot_id();
    start();
  }
  ~Store() {
    processes.reset();
    tables.reset();
    for (const std::string& name : home->list()) home->remove(name);
  }
  void start() {
    processes.reset();
    tables = std::make_unique<PinTables>(*home, *memory.map().stamp);
    processes = std::make_unique<Processes>(memory.map(), *tables);
  }
  Process& admit(pid_t pid) {
    auto process = processes->admit(peer_for(pid), watch_process(pid).value(), "");
    REQUIRE(process);
    return **process;
  }
  Process& admit_self() { return admit(::getpid()); }
  std::atomic<std::uint32_t>& count(Slot slot, EntryNumber entry) {
    REQUIRE(tables->grant(slot, entry / shm::chunk_entries));
    auto* head = reinterpret_cast<std::byte*>(&tables->head(slot));
    return reinterpret_cast<std::atomic<std::uint32_t>*>(head + shm::pin_counts_offset)[entry];
  }
  bool slot_is_held(Slot slot) {
    return memory.map().processes[slot].state.load() ==
           static_cast<std::uint32_t>(shm::SlotState::held);
  }

  test::IndexMemory memory;
  std::unique_ptr<shm::ObjectHome> home;
  std::unique_ptr<PinTables> tables;
  std::unique_ptr<Processes> processes;
};

// A process that maps an object until it is told to let go, and then lives on.
class Mapper {
 public:
  explicit Mapper(const Descriptor& object)
      : child_([&object](Moments& moments) {
          void* const memory = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, object.get(), 0);
          test::require(memory != MAP_FAILED, "mapped");
          moments.reached();
          moments.wait();
          ::munmap(memory, 4096);
          moments.reached();
          moments.wait();
        }) {
    child_.await();
  }
  void let_go() {
    child_.release();
    child_.await();
  }
  void kill() { child_.kill(); }
  pid_t pid() const { return child_.pid(); }

 private:
  ChildProcess child_;
};

Descriptor some_object() {
  Descriptor object(::memfd_create("processes-test", MFD_CLOEXEC));
  REQUIRE(::ftruncate(object.get(), 4096) == 0);
  return object;
}

TEST_SUITE("processes") {
  TEST_CASE("a process that connects gets a slot, a table and a secret of its own") {
    Store store;
    Process& first = store.admit_self();
    CHECK(first.slot == 0);
    CHECK(first.peer.pid == ::getpid());
    CHECK(first.start_time == start_time_of(::getpid()));
    CHECK(first.program == program_of(::getpid()));
    CHECK(store.tables->has(0));
    CHECK(store.processes->find(0) == &first);
    Process& second = store.admit_self();
    CHECK(second.slot == 1);
    CHECK(second.token != first.token);
    CHECK(store.processes->all().size() == 2);
    CHECK(store.processes->find(2) == nullptr);
  }

  TEST_CASE("what a restart must know of a process is written where a restart finds it") {
    Store store;
    const Process& process = store.admit_self();
    const shm::ProcessSlot& slot = store.memory.map().processes[process.slot];
    CHECK(store.slot_is_held(process.slot));
    CHECK(slot.pid.load() == static_cast<std::uint32_t>(::getpid()));
    CHECK(slot.uid.load() == ::geteuid());
    CHECK(slot.gid.load() == ::getegid());
    CHECK(slot.start_time.load() == process.start_time);
    CHECK(slot.token.load() == process.token);
    CHECK(store.home->list() ==
          std::vector<std::string>{PinTables::object_name(slot.table.load())});
  }

  TEST_CASE("who has given its program a name is called by it") {
    Store store;
    auto process = store.processes->admit(peer_for(::getpid()), watch_process(::getpid()).value(),
                                          "kmeans.py");
    REQUIRE(process);
    CHECK((*process)->program == "kmeans.py");
    store.count((*process)->slot, 5).store(1);
    CHECK(store.tables->holders(5).at(0).name == "kmeans.py");
    CHECK(store.tables->holders(5).at(0).pid == static_cast<std::uint32_t>(::getpid()));
  }

  TEST_CASE("when all slots are taken, one more process is refused with the number of them") {
    Store store;
    for (Slot slot = 0; slot < small_limits.processes; ++slot) store.admit_self();
    auto refused =
        store.processes->admit(peer_for(::getpid()), watch_process(::getpid()).value(), "");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().is(Errc::limit_reached));
    CHECK(refused.error().detail.find("4") != std::string::npos);
    store.processes->dismiss(2);
    CHECK(store.admit_self().slot == 2);
  }

  TEST_CASE("a process that has died meanwhile is not admitted") {
    Store store;
    ChildProcess child([](Moments& moments) { moments.wait(); });
    auto pidfd = watch_process(child.pid());
    REQUIRE(pidfd);
    const Peer peer = peer_for(child.pid());
    child.kill();
    auto refused = store.processes->admit(peer, std::move(*pidfd), "");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().is(Errc::disconnected));
    CHECK(store.processes->all().empty());
    CHECK(store.home->list().empty());
  }

  TEST_CASE("a process that reconnects keeps its slot, if it is the one and knows the secret") {
    Store store;
    const Process& process = store.admit_self();
    const Peer me = peer_for(::getpid());
    CHECK(store.processes->readmit(process.slot, process.token, me) == &process);
    CHECK(store.processes->readmit(process.slot, process.token + 1, me) == nullptr);
    CHECK(store.processes->readmit(process.slot, 0, me) == nullptr);
    CHECK(store.processes->readmit(process.slot + 1, process.token, me) == nullptr);
    CHECK(store.processes->readmit(0xffffffff, process.token, me) == nullptr);
    CHECK(store.processes->readmit(process.slot, process.token, peer_for(::getppid())) == nullptr);
    CHECK(store.processes->readmit(process.slot, process.token, {me.pid, me.uid + 1, me.gid}) ==
          nullptr);
  }

  TEST_CASE("a process that was given a dead one's pid does not get its table") {
    Store store;
    Process& process = store.admit_self();
    --process.start_time;
    CHECK(store.processes->readmit(process.slot, process.token, peer_for(::getpid())) == nullptr);
  }

  TEST_CASE("who has said goodbye comes back as a stranger") {
    Store store;
    Process& process = store.admit_self();
    process.said_goodbye = true;
    CHECK(store.processes->readmit(process.slot, process.token, peer_for(::getpid())) == nullptr);
  }

  TEST_CASE("a dismissed process leaves neither table nor slot") {
    Store store;
    const Slot slot = store.admit_self().slot;
    store.count(slot, 7).store(1);
    CHECK(store.tables->pinned(7));
    store.processes->dismiss(slot);
    CHECK_FALSE(store.tables->pinned(7));
    CHECK_FALSE(store.tables->has(slot));
    CHECK_FALSE(store.slot_is_held(slot));
    CHECK(store.home->list().empty());
    CHECK(store.processes->find(slot) == nullptr);
  }

  TEST_CASE("a child that is about to be forked has its parent's pins from the first moment") {
    Store store;
    Process& parent = store.admit_self();
    store.count(parent.slot, 7).store(2);
    auto child = store.processes->admit_child(parent);
    REQUIRE(child);
    CHECK((*child)->slot != parent.slot);
    CHECK((*child)->peer.pid == 0);
    CHECK((*child)->token != parent.token);
    CHECK((*child)->program == parent.program);
    store.count(parent.slot, 7).store(0);
    CHECK(store.tables->pinned(7));
    store.processes->dismiss((*child)->slot);
    CHECK_FALSE(store.tables->pinned(7));
  }

  TEST_CASE("a child becomes whom the kernel says it is, once") {
    Store store;
    Process& parent = store.admit_self();
    Process& child = **store.processes->admit_child(parent);
    ChildProcess real([](Moments& moments) { moments.wait(); });
    CHECK(store.processes->readmit(child.slot, child.token, peer_for(real.pid())) == nullptr);

    const Peer stranger{real.pid(), ::geteuid() + 1, ::getegid()};
    const auto refused = store.processes->arrived(child, stranger);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().is(Errc::denied));
    CHECK(child.peer.pid == 0);

    REQUIRE(store.processes->arrived(child, peer_for(real.pid())));
    CHECK(child.peer.pid == real.pid());
    CHECK(child.start_time == start_time_of(real.pid()));
    CHECK(store.memory.map().processes[child.slot].pid.load() ==
          static_cast<std::uint32_t>(real.pid()));
    CHECK(store.processes->readmit(child.slot, child.token, peer_for(real.pid())) == &child);
    CHECK_FALSE(store.processes->arrived(child, peer_for(::getpid())));
    CHECK_FALSE(has_ended(child.pidfd));
    real.kill();
    CHECK(has_ended(child.pidfd));
  }

  TEST_CASE("a child that has died before its first word does not arrive") {
    Store store;
    Process& child = **store.processes->admit_child(store.admit_self());
    ChildProcess real([](Moments& moments) { moments.wait(); });
    const Peer peer = peer_for(real.pid());
    real.kill();
    CHECK_FALSE(store.processes->arrived(child, peer));
    CHECK(child.peer.pid == 0);
  }

  TEST_CASE("for a child without a slot nothing is left behind") {
    Store store;
    Process& parent = store.admit_self();
    while (store.processes->all().size() < small_limits.processes) store.admit_self();
    CHECK_FALSE(store.processes->admit_child(parent));
    CHECK(store.processes->all().size() == small_limits.processes);
    CHECK(store.home->list().size() == small_limits.processes);
  }

  TEST_CASE("the table of a dead process goes on as that of a living one that shares it") {
    Store store;
    // Before there is a table, for a child of this very process has all its mappings.
    const Mapper stranger(some_object());
    ChildProcess parent([](Moments& moments) { moments.wait(); });
    Process& process = store.admit(parent.pid());
    const std::uint64_t token = process.token;
    store.count(process.slot, 7).store(1);
    Mapper heir(store.tables->descriptor(process.slot));
    auto& co_owners = store.tables->head(process.slot).co_owners;
    // Who is named there by its client is believed only where the kernel agrees.
    co_owners[0].pid.store(static_cast<std::uint32_t>(parent.pid()));
    co_owners[1].pid.store(static_cast<std::uint32_t>(stranger.pid()));  // maps something else
    co_owners[2].pid.store(0xffffffff);
    co_owners[3].pid.store(0x7fffffff);
    parent.kill();
    CHECK_FALSE(store.processes->inherit(process));
    co_owners[4].pid.store(static_cast<std::uint32_t>(heir.pid()));
    REQUIRE(store.processes->inherit(process));
    CHECK(process.peer.pid == heir.pid());
    CHECK(process.start_time == start_time_of(heir.pid()));
    CHECK(process.token != token);
    CHECK(process.session == 0);
    CHECK_FALSE(has_ended(process.pidfd));
    CHECK(store.tables->holders(7).at(0).pid == static_cast<std::uint32_t>(heir.pid()));
    CHECK(store.memory.map().processes[process.slot].pid.load() ==
          static_cast<std::uint32_t>(heir.pid()));
    heir.kill();
    CHECK(has_ended(process.pidfd));
    CHECK_FALSE(store.processes->inherit(process));
  }

  TEST_CASE("who has said goodbye departs with its last pin") {
    Store store;
    const Descriptor index = some_object();
    Process& process = store.admit_self();
    const Slot slot = process.slot;
    process.session = 5;
    TimePoint now{};
    CHECK(store.processes->departed(now, index).empty());
    CHECK_FALSE(store.processes->next_look());
    store.count(slot, 7).store(1);
    process.said_goodbye = true;
    store.processes->disconnected(process, now);
    CHECK(store.processes->next_look() == now);
    CHECK(store.processes->departed(now, index).empty());
    const auto next = store.processes->next_look();
    REQUIRE(next);
    CHECK(*next > now);
    store.count(slot, 7).store(0);
    CHECK(store.processes->departed(*next - milliseconds(1), index).empty());
    CHECK(store.processes->departed(*next, index) == std::vector<Slot>{slot});
  }

  TEST_CASE("a disconnected process departs when it maps nothing of the store, and not before") {
    Store store;
    const Descriptor index = some_object();
    Mapper client(index);
    Process& process = store.admit(client.pid());
    process.session = 5;
    TimePoint now{};
    store.processes->disconnected(process, now);
    // Looked at ever more rarely, but looked at.
    TimePoint before = now;
    Clock::duration longest{};
    for (int look = 0; look < 20; ++look) {
      const auto next = store.processes->next_look();
      REQUIRE(next);
      REQUIRE(*next > before);
      longest = std::max<Clock::duration>(longest, *next - before);
      before = *next;
      CHECK(store.processes->departed(*next, index).empty());
    }
    CHECK(longest <= std::chrono::seconds(5));
    client.let_go();
    const TimePoint last = *store.processes->next_look();
    CHECK(store.processes->departed(last - milliseconds(1), index).empty());
    CHECK(store.processes->departed(last, index) == std::vector<Slot>{process.slot});
  }

  TEST_CASE("a connected process, or a child that has not arrived, departs by no look") {
    Store store;
    const Descriptor index = some_object();  // which this process does not map
    Process& connected = store.admit_self();
    connected.session = 5;
    REQUIRE(store.processes->admit_child(connected));
    CHECK(store.processes->departed(TimePoint{} + std::chrono::hours(1), index).empty());
    CHECK_FALSE(store.processes->next_look());
  }

  TEST_CASE("a restarted daemon finds the living again, and dismisses the dead") {
    Store store;
    ChildProcess mortal([](Moments& moments) { moments.wait(); });
    const Process& living = store.admit_self();
    const Slot living_slot = living.slot;
    const std::uint64_t token = living.token;
    const Slot dead_slot = store.admit(mortal.pid()).slot;
    store.count(living_slot, 7).store(1);
    store.count(dead_slot, 8).store(1);
    mortal.kill();

    store.start();
    CHECK(store.processes->recover() == std::vector<bool>{true, false, false, false});
    CHECK(store.tables->pinned(7));
    CHECK_FALSE(store.tables->pinned(8));
    CHECK_FALSE(store.slot_is_held(dead_slot));
    CHECK(store.home->list().size() == 1);
    Process* const found = store.processes->readmit(living_slot, token, peer_for(::getpid()));
    REQUIRE(found != nullptr);
    CHECK(found->program == program_of(::getpid()));
    CHECK_FALSE(has_ended(found->pidfd));
    CHECK(store.tables->holders(7).at(0).pid == static_cast<std::uint32_t>(::getpid()));
    CHECK(store.admit_self().slot == dead_slot);
  }

  TEST_CASE("after a restart, a pid that another process has by now is a dead one's") {
    Store store;
    const Process& process = store.admit_self();
    store.memory.map().processes[process.slot].start_time.store(process.start_time - 1);
    store.start();
    CHECK(store.processes->recover() == std::vector<bool>(small_limits.processes));
    CHECK(store.home->list().empty());
  }

  TEST_CASE("after another boot, nobody lives whatever the numbers say") {
    Store store;
    store.admit_self();
    store.memory.map().stamp->boot_id[3] ^= 1U;
    store.start();
    CHECK(store.processes->recover() == std::vector<bool>(small_limits.processes));
    CHECK_FALSE(store.slot_is_held(0));
  }

  TEST_CASE("after a restart, a process whose table is gone is dismissed") {
    Store store;
    store.admit_self();
    store.home->remove(store.home->list().at(0));
    store.start();
    CHECK(store.processes->recover() == std::vector<bool>(small_limits.processes));
    CHECK_FALSE(store.slot_is_held(0));
    CHECK(store.processes->all().empty());
  }

  TEST_CASE("after a restart, an heir of a dead process is found by the table it shares") {
    Store store;
    ChildProcess parent([](Moments& moments) { moments.wait(); });
    const Slot slot = store.admit(parent.pid()).slot;
    store.count(slot, 7).store(1);
    const Mapper heir(store.tables->descriptor(slot));
    store.tables->head(slot).co_owners[0].pid.store(static_cast<std::uint32_t>(heir.pid()));
    parent.kill();
    store.admit_self();
    store.start();
    std::vector<Slot> inherited;
    CHECK(store.processes->recover(&inherited) == std::vector<bool>{true, true, false, false});
    CHECK(inherited == std::vector<Slot>{slot});  // and not this process's own
    CHECK(store.processes->find(slot)->peer.pid == heir.pid());
    CHECK(store.tables->pinned(7));
  }

  TEST_CASE("a slot that a dying daemon had filled but not held is nobody's") {
    Store store;
    const Slot slot = store.admit_self().slot;
    store.memory.map().processes[slot].state.store(
        static_cast<std::uint32_t>(shm::SlotState::free));
    store.start();
    CHECK(store.processes->recover() == std::vector<bool>(small_limits.processes));
    CHECK(store.processes->all().empty());
    CHECK(store.admit_self().slot == slot);
  }

  TEST_CASE("numbers that nobody can guess are not given twice") {
    std::vector<std::uint64_t> numbers;
    for (int i = 0; i < 1000; ++i) numbers.push_back(random_number());
    std::sort(numbers.begin(), numbers.end());
    CHECK(std::adjacent_find(numbers.begin(), numbers.end()) == numbers.end());
  }
}

}  // namespace
}  // namespace forebay::daemon
