// SPDX-License-Identifier: Apache-2.0
// RulesCampaign: a run of the rules against a model, at random. Processes create, seal, read, hold,
// take over, claim, wait, remove and die; the clock moves; memory comes late, in any order or not at
// all; pins end while the rules look; daemons are killed between any two calls to the outside.
//
// After each step every byte is accounted for (I6), every pinned segment is where it was (I4), every
// request has its one answer or a reason to wait, readers find what they should, and nothing went
// without a reason that was told to subscribers, once and in order (I2). What is not so ends the test
// with the number of the step.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "store/daemon/rules.h"
#include "tests/support/index_memory.h"
#include "tests/support/random.h"
#include "tests/support/rules_model.h"
#include "tests/support/rules_surroundings.h"

namespace forebay::test {

class RulesCampaign {
 public:
  struct Kind {
    std::string name;
    daemon::RulesOptions options;
    shm::Limits limits;
    double refusals = 0.1;  // how often the system has no memory to give
  };

  RulesCampaign(const Kind& kind, Random& random);
  void run(int steps);

  std::map<std::string, int> done;  // how often what happened

 private:
  using EntryNumber = daemon::EntryNumber;
  using MemoryJob = daemon::MemoryJob;
  using NewSegment = daemon::NewSegment;
  using SessionId = daemon::SessionId;
  using StoreEvent = daemon::StoreEvent;
  using Ticket = daemon::Ticket;
  using TimePoint = daemon::TimePoint;
  using VersionWish = daemon::VersionWish;
  using Segment = ModelSegment;

  // The daemon is killed here.
  struct Kill {};

  struct Request {
    enum class Kind { create, await, wait, claim, events };
    Kind kind{};
    Ticket ticket;
    std::string id;
    TimePoint deadline;
    bool open = true;
    // Of a create.
    bool is_put = false;
    std::vector<std::byte> description;
    NewSegment segment;
    std::uint64_t version = 0;  // that it must get
    Serial claim_serial = 0;    // of the claim that it fulfils
    // Of waiting.
    VersionWish wish;
    std::vector<std::pair<std::string, VersionWish>> items;
    std::uint32_t needed = 0;
    std::set<std::uint32_t> ready;
    bool complete = false;  // an answer is due
    // Of a claim.
    daemon::NewClaim claim;
    // Of events.
    std::size_t subscriber = 0;
  };
  struct Process {
    bool alive = true;
    SessionId session = 0;  // 0: not connected
  };
  struct Pin {
    Slot slot = 0;
    EntryNumber entry = daemon::no_entry;
    Serial serial = 0;
    std::uint64_t location = 0;
  };
  struct Subscriber {
    std::string prefix;
    std::uint64_t cursor = 0;
    std::optional<Ticket> asks;
  };
  struct Named {
    std::string id;
    std::uint64_t version = 0;
    Serial serial = 0;
    Serial means = 0;      // 0: nothing that can be read
    std::string refusal;  // then
  };
  enum class Page : std::uint8_t { unknown, cold, entry, slab, growing, punching };

  static constexpr std::uint32_t processes_count = 5;  // by slot; 0 is nobody's

  void begin_step();

  // --- what may happen
  void one_step();
  std::string some_id();
  std::uint64_t some_size(bool& packed);
  std::uint32_t some_keep();
  template <class Things>
  std::size_t one_of(const Things& things) {
    return random_.below(static_cast<std::uint32_t>(things.size()));
  }
  // A version that can be read, if there is any.
  Serial some_readable();
  std::uint64_t some_timeout_ns() { return random_.chance(0.5) ? 0 : random_.next() % 2'000'000'000; }
  std::uint64_t some_token() { return random_.chance(0.7) ? random_.next() | 1U : 0; }
  Request some_create(Slot slot);
  void create(Slot slot) { send(some_create(slot), processes_[slot].session); }
  void take(Slot slot);
  // Makes what it has claimed.
  void fulfil(Slot slot);
  // Sends a request again, as a client does that has lost its connection.
  void repeat(Slot slot);
  std::uint64_t needed(const Request& request) const;
  // Why a version cannot be taken over or superseded; empty: it can.
  std::string refusal_of_source(const std::string& id, std::uint64_t version, bool takes) const;
  // This version, or with 0 any.
  bool is_being_made(const std::string& id, std::uint64_t version) const;
  std::uint64_t highest_version(const std::string& id) const;
  bool is_being_fulfilled(Serial claim) const;
  void send(Request request, SessionId session);
  void was_created(const Answer& answer);
  // `of_put`: nobody else knows of it, so that it must not stay when the seal fails.
  void seal(Serial serial, Slot slot, std::string expected, bool repeated = false,
            bool of_put = false);
  std::vector<shm::ManifestMember> some_members();
  void seal();
  // A creating one, if there is any.
  Serial any_segment();
  void abort();
  void give_up();
  void abort(Serial serial);
  void remove();
  void remove_before();
  void drop_all();
  void supersede();

  // --- retention
  Named some_named();
  void hold(Slot slot);
  void unhold(Slot slot);
  void hold_again(Slot slot);
  void keep();
  void persist();
  // Certainly, by what is known of pins.
  bool must_stay(Serial serial) const;
  // A removed manifest may be there for a while after its last pin has ended.
  std::function<bool(const Segment&)> is_there() const;
  bool may_stay(Serial serial) const { return model_.stays(serial, is_there()); }

  // --- waiting
  void await(SessionId session);
  VersionWish some_wish();
  // Whether a look at the store would tell a waiter something. Tombstones do, where nothing else is.
  bool satisfied(const Request& request) const;
  void wait(SessionId session);
  void count_for_waits(const std::string& id, std::uint64_t version);
  // While the index has yet to grow for the first time, who claims waits for that.
  bool may_claim() const { return table_->has_room() || table_->at_limit(); }
  void claim(Slot slot);
  void send_claim(Request request, SessionId session);
  void was_claimed(const Answer& answer);
  void read_events(SessionId session);
  void cancel();
  // Whatever has become of it by now.
  void cancel_by_token(const Request& request);

  // --- readers
  // With a reader's eyes.
  void get(Slot slot);
  // True: a nudge is wanted.
  bool unpin(std::size_t which);
  void release();
  // Readers do not wait until the daemon has finished what it does.
  void maybe_let_go_midway();
  void deliver_nudges();

  // --- sessions, processes
  void void_requests(SessionId session);
  void end_session(Process& process);
  void bury(Slot slot);
  void die(Slot slot);

  // --- clock and memory
  std::uint64_t wall_ns() const;
  void tick();
  void pass(std::chrono::nanoseconds time);
  // What the memory thread does, at the moment when it reports it.
  void perform(const MemoryJob& job, bool succeeds);
  void do_job(std::size_t which, bool fails);
  void maybe_kill();

  // --- what must be true
  // (A failure ends the test.)
  void expect(bool condition, const char* what) const;
  void expect(bool condition, const std::string& what) const { expect(condition, what.c_str()); }
  std::map<Serial, Segment> look() const;
  shm::IndexMap memory_map() const { return const_cast<IndexMemory&>(memory_).map(); }
  static bool same(const Segment& a, const Segment& b);
  bool pinned(EntryNumber entry) const;
  void check();
  // Whoever subscribes to all hears of each seal in order, and of nothing that goes without a reason
  // that is true at that moment.
  void hear_events();
  void check_removal(Serial serial, RemovalCause cause);
  std::vector<StoreEvent> new_events();
  // Each request one answer, and the answer true.
  void hear_answers();
  void check_there(const Request& request, const Answer& answer) const;
  // Each event with the prefix once, in order; or word of how many were missed.
  void check_told(const Request& request, const Answer& answer);
  void check_refusal(const Request& request, const Error& error);
  void compare(const std::map<Serial, Segment>& found);
  // What was put meanwhile for who waited may be a manifest, and gone again.
  bool listed_now(Serial serial) const;
  // What holds what, and that nothing stays for no reason.
  void check_retention(const std::map<Serial, Segment>& found);
  void check_pins(const std::map<Serial, Segment>& found) const;
  // I6: each page is cold, used by one segment or slab, growing, being punched, or warm; and the
  // counters are the sums.
  void check_accounts(const std::map<Serial, Segment>& found);
  void check_requests();
  // A wait for whatever comes next is not ended by the death of the versions before.
  bool was_buried(const Request& request) const;

  // --- restarts
  void recover();
  // What a former daemon left word of that it is held.
  std::set<Serial> flagged_as_held() const;
  bool expects_to_go(Serial serial) const;
  // Whether some version of the id, perhaps not the newest any more, wants fewer.
  bool may_be_surplus(const Segment& segment) const;
  // From here on the model is what was found, and what was known of it.
  void adopt_model(const std::map<Serial, Segment>& found, const std::set<Serial>& flagged,
                   const std::vector<bool>& living);
  // Everything ends, and all memory is free again but for the slabs that are kept.
  void finish();

  Kind kind_;
  Random& random_;
  IndexMemory memory_;
  FakeArena arena_;
  FakeCensus census_;
  FakeOutside outside_;
  std::unique_ptr<daemon::SegmentTable> table_;
  std::unique_ptr<daemon::Rules> rules_;
  TimePoint now_{std::chrono::seconds(1000)};

  RulesModel model_;
  std::vector<Process> processes_;
  std::map<Ticket, Request> requests_;
  std::vector<Pin> pins_;
  std::vector<Subscriber> subscribers_;
  std::map<std::uint64_t, StoreEvent> log_;  // by number
  std::uint64_t events_heard_ = 0;
  std::uint64_t events_born_ = 0;  // the first that this daemon remembers
  std::vector<EntryNumber> nudges_;
  std::set<EntryNumber> lost_nudges_;
  std::set<Serial> stayed_before_;
  std::map<std::uint64_t, std::uint64_t> warmest_dropped_;  // ranks by size
  std::vector<Page> page_of_;

  // Of this step.
  std::vector<Request> refusals_;  // for want of room
  std::vector<Segment> sealed_now_;
  std::vector<Serial> seals_;  // in order
  std::set<Serial> asked_to_go_;
  std::set<Serial> must_go_;
  std::set<Serial> taken_now_;
  std::vector<std::pair<std::string, std::uint64_t>> failed_claims_;
  bool memory_refused_ = false;
  bool ticked_ = false;
  bool turn_ended_ = false;  // with a tick, behind what the step did
  bool may_move_midway_ = false;
  bool moved_midway_ = false;
  // What a killed daemon may have done or not.
  struct Doing {
    std::set<Serial> sealing;
    std::set<Serial> aborting;
    std::function<bool(const Segment&, Serial)> removing;
    Serial superseding = 0;
    std::string keep_of;
    bool lets_go = false;
  } doing_;

  std::uint32_t calls_to_kill_ = 0;
  std::uint32_t last_number_ = 0;
  SessionId last_session_ = 0;
  std::uint64_t uses_ = 0;
  int step_ = 0;
};

}  // namespace forebay::test
