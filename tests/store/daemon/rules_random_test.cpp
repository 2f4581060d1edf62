// SPDX-License-Identifier: Apache-2.0
// The rules against a model, at random: processes that create, seal, read, remove and die, memory
// that comes late, in any order or not at all, and daemons that are killed between any two calls to
// the outside. After each step every byte is accounted for (I6), every pinned segment is where it
// was (I4), every request has its one answer or a reason to wait, and readers find what they should.
//
// FOREBAY_STEPS sets the number of steps for each kind of store.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "store/daemon/rules.h"
#include "tests/support/index_memory.h"
#include "tests/support/outcome.h"
#include "tests/support/random.h"
#include "tests/support/rules_surroundings.h"

namespace forebay::daemon {
namespace {

using shm::Probe;
using shm::State;
using std::chrono::milliseconds;
using test::Answer;
using test::FakeArena;
using test::FakeCensus;
using test::FakeOutside;
using test::IndexMemory;
using test::outcome;

constexpr std::uint64_t page_bytes = shm::page_bytes;
constexpr std::uint64_t pages(std::uint64_t count) { return count * page_bytes; }
const std::error_code no_memory(ENOSPC, std::system_category());

int steps_of_run(int usually) {
  const char* given = std::getenv("FOREBAY_STEPS");
  return given != nullptr ? std::atoi(given) : usually;
}

// The daemon is killed here.
struct Kill {};

struct Kind {
  std::string name;
  RulesOptions options;
  shm::Limits limits;
  double refusals = 0.1;  // how often the system has no memory to give
};

// What the store should hold: each segment by its serial.
struct Segment {
  std::string id;
  std::uint64_t version = 0;
  EntryNumber entry = no_entry;
  State state{};  // creating, sealed, removing, tombstone
  std::uint64_t location = 0;
  std::uint64_t stored = 0;  // bytes
  bool evictable = false;
  bool in_slab = false;
  std::uint32_t owner_slot = 0;
  std::uint64_t token = 0;
  std::uint64_t rank = 0;  // later used, higher
};

struct Request {
  Ticket ticket;
  std::string id;
  bool is_create = false;
  bool is_put = false;
  std::vector<std::byte> description;
  NewSegment segment;
  VersionWish wish;
  std::uint64_t version = 0;  // that it must get
  TimePoint deadline;
  bool open = true;
};

struct Process {
  bool alive = true;
  SessionId session = 0;  // 0: not connected
};

struct Pin {
  std::uint32_t slot = 0;
  EntryNumber entry = no_entry;
  std::uint64_t serial = 0;
  std::uint64_t location = 0;
};

// The bytes that an item takes in its slab: multiples of 64 bytes, then eight steps a doubling.
std::uint64_t slot_bytes(std::uint64_t bytes) {
  const std::uint64_t width = bytes <= 1024 ? 64 : std::bit_floor(bytes - 1) / 8;
  return (bytes + width - 1) / width * width;
}

std::uint64_t bytes_of(const std::vector<Extent>& extents) {
  std::uint64_t bytes = 0;
  for (const Extent& extent : extents) bytes += extent.bytes;
  return bytes;
}

class Campaign {
 public:
  Campaign(const Kind& kind, test::Random& random)
      : kind_(kind),
        random_(random),
        memory_(kind.limits),
        arena_(kind.options.address_bytes),
        processes_(processes_count) {
    census_.on_access = [this](EntryNumber entry) {
      for (auto& [serial, segment] : segments_)
        if (segment.entry == entry && segment.state == State::sealed) segment.rank = ++uses_;
    };
    census_.before_look = [this] { maybe_kill(); };
    outside_.before_call = [this] { maybe_kill(); };
    outside_.on_created = [this](const Answer& answer) { was_created(answer); };
    table_ = std::make_unique<SegmentTable>(memory_.table());
    rules_ = std::make_unique<Rules>(*table_, census_, outside_, kind_.options);
    rules_->begin();
    for (Process& process : processes_) process.session = ++last_session_;
  }

  void run(int steps) {
    for (step_ = 0; step_ < steps; ++step_) {
      doing_ = {};
      sealed_now_.clear();
      memory_refused_ = false;
      calls_to_kill_ = random_.chance(0.05) ? 1 + random_.below(6) : 0;
      try {
        one_step();
        calls_to_kill_ = 0;
        check();
      } catch (const Kill&) {
        recover();
      }
    }
    finish();
  }

  std::map<std::string, int> done;

 private:
  static constexpr std::uint32_t processes_count = 5;  // by slot; 0 is nobody's

  // ------------------------------------------------------------------------------ what may happen

  void one_step() {
    const auto slot = 1 + random_.below(processes_count - 1);
    Process& process = processes_[slot];
    switch (random_.below(40)) {
      default:
        if (process.session != 0) create(slot);
        break;
      case 10:
      case 11:
      case 12:
      case 13:
      case 14:
      case 15:
        seal();
        break;
      case 16:
        abort();
        break;
      case 17:
      case 18:
      case 19:
        remove();
        break;
      case 20:
      case 21:
        if (process.session != 0) await(process.session);
        break;
      case 22:
      case 23:
      case 24:
        if (process.alive) get(slot);
        break;
      case 25:
      case 26:
      case 27:
        if (!pins_.empty()) release();
        break;
      case 28:
        if (process.session != 0) repeat(slot);
        break;
      case 29:
        if (process.session != 0 && random_.chance(0.3)) end_session(process);
        break;
      case 30:
        if (process.alive && random_.chance(0.2)) die(slot);
        break;
      case 31:
        process.alive = true;
        if (process.session == 0) process.session = ++last_session_;
        break;
      case 32:
        pass(milliseconds(random_.chance(0.2) ? random_.below(3000) : random_.below(60)));
        break;
      case 33:
        if (const auto at = rules_->next_wakeup(); at && *at > now_)
          pass(std::min<std::chrono::nanoseconds>(*at - now_, std::chrono::seconds(20)));
        break;
      case 34:
        if (random_.chance(0.1)) throw Kill{};
        break;
      case 35:
      case 36:
      case 37:
      case 38:
      case 39:
        if (!outside_.jobs.empty()) do_job(one_of(outside_.jobs), random_.chance(kind_.refusals));
    }
  }

  std::string some_id() {
    const std::uint32_t number = random_.below(12);
    return number % 4 == 3 ? "an id too long to lie in a record: " + std::to_string(number)
                           : "id " + std::to_string(number);
  }
  std::uint64_t some_size(bool& packed) {
    const std::uint64_t capacity = kind_.options.capacity_bytes;
    packed = random_.chance(0.4);
    if (random_.chance(0.05)) return 0;
    if (packed) return 1 + random_.below(random_.chance(0.7) ? 8 * 1024 : 70 * 1024);
    if (random_.chance(0.03)) return capacity + 1 + random_.below(100'000);
    return 1 + random_.next() % (random_.chance(0.1) ? capacity : capacity / 12);
  }
  template <class Things>
  std::size_t one_of(const Things& things) {
    return random_.below(static_cast<std::uint32_t>(things.size()));
  }

  void create(std::uint32_t slot) {
    Request request;
    request.is_create = true;
    request.id = some_id();
    NewSegment& segment = request.segment;
    segment.size = some_size(segment.packed);
    request.is_put = segment.packed || random_.chance(0.2);
    if (random_.chance(0.4)) segment.version = 1 + random_.below(6);
    if (random_.chance(0.2)) request.description.resize(random_.below(6000));
    segment.brief = random_.next();
    segment.evictable = random_.chance(0.5);
    segment.timeout_ns = random_.chance(0.5) ? 0 : random_.next() % 2'000'000'000;
    segment.token = random_.chance(0.7) ? random_.next() | 1U : 0;
    segment.owner_slot = slot;
    send(std::move(request), processes_[slot].session);
  }

  // Sends a request again, as a client does that has lost its connection.
  void repeat(std::uint32_t slot) {
    std::vector<const Request*> candidates;
    for (const auto& [ticket, request] : requests_)
      if (request.is_create && request.segment.token != 0 && request.segment.owner_slot == slot)
        candidates.push_back(&request);
    if (candidates.empty()) return;
    Request again = *candidates[candidates.size() - 1 - random_.below(std::min<std::uint32_t>(
                                    5, static_cast<std::uint32_t>(candidates.size())))];
    ++done["repeated"];
    send(std::move(again), processes_[slot].session);
  }

  std::uint64_t needed(const Request& request) const {
    const std::uint64_t stored =
        shm::stored_bytes(request.segment.size, request.description.size());
    return request.segment.packed && Slabs::fits(stored) ? Slabs::slab_bytes(stored)
                                                         : shm::page_align(stored);
  }
  const Segment* find(const std::string& id, std::uint64_t version, State state) const {
    for (const auto& [serial, segment] : segments_)
      if (segment.id == id && segment.version == version && segment.state == state)
        return &segment;
    return nullptr;
  }

  void send(Request request, SessionId session) {
    const Ticket ticket{session, ++last_number_, 0};
    request.ticket = ticket;
    request.open = true;
    request.deadline = now_ + std::chrono::nanoseconds(request.segment.timeout_ns);
    const std::uint64_t wished = request.segment.version;
    const std::uint64_t token = request.segment.token;

    // What must come of it.
    std::uint64_t repeats_serial = 0;
    std::uint64_t highest = 0;
    std::string refusal;
    Request* superseded = nullptr;
    for (const auto& [serial, segment] : segments_) {
      if (segment.id != request.id || segment.state == State::removing) continue;
      highest = std::max(highest, segment.version);
      if (token != 0 && segment.token == token) repeats_serial = serial;
      if (wished == segment.version)
        refusal = segment.state == State::sealed     ? "exists"
                  : segment.state == State::creating ? "conflict"
                                                     : refusal;
    }
    for (auto& [other_ticket, other] : requests_) {
      if (!other.open || !other.is_create || other.id != request.id) continue;
      highest = std::max(highest, other.version);
      if (token != 0 && other.segment.token == token) superseded = &other;
      if (wished == other.version && refusal.empty()) refusal = "conflict";
    }
    if (shm::page_align(shm::stored_bytes(request.segment.size, request.description.size())) >
        kind_.options.capacity_bytes)
      refusal = "too_large";
    request.version = wished != 0 ? wished : highest + 1;
    if (superseded != nullptr) {
      request.version = superseded->version;
      superseded->open = false;
    }
    const bool is_repetition =
        refusal != "too_large" && (repeats_serial != 0 || superseded != nullptr);
    if (is_repetition) refusal.clear();
    if (repeats_serial != 0) request.version = segments_.at(repeats_serial).version;

    requests_[ticket] = request;
    // A request's texts do not outlive the call.
    std::string frame = request.id;
    std::vector<std::byte> description = request.description;
    NewSegment segment = request.segment;
    segment.id = frame;
    segment.description = description;
    rules_->create(ticket, segment, now_);
    std::fill(frame.begin(), frame.end(), '#');

    const std::string heard = outside_.heard(ticket);
    if (!refusal.empty()) expect(heard == refusal, "refused as " + refusal + ", not " + heard);
    if (repeats_serial != 0 && refusal.empty()) {
      expect(heard == "created", "a repetition is answered at once");
      expect(outside_.to(ticket)[0].serial == repeats_serial, "with the same segment");
    }
    if (refusal.empty() && superseded == nullptr && segment.timeout_ns == 0 && heard == "nothing")
      expect(!outside_.jobs.empty(), "who brought no time waits for the memory thread alone");
  }

  void was_created(const Answer& answer) {
    const auto found = requests_.find(answer.ticket);
    expect(found != requests_.end(), "a created segment was asked for");
    const Request& request = found->second;
    expect(request.open && request.is_create, "created by an open request");
    expect(answer.version == request.version, "of the version that it should have");
    const auto known = segments_.find(answer.serial);
    if (known != segments_.end()) {
      expect(request.segment.token != 0 && known->second.token == request.segment.token,
             "what is there already was asked for by the same request");
      expect(answer.sealed_before == (known->second.state != State::creating), "sealed before");
      expect(known->second.entry == answer.entry, "in the same entry");
    } else {
      expect(!answer.sealed_before, "what is new is not sealed");
      const std::uint64_t stored =
          shm::stored_bytes(request.segment.size, request.description.size());
      segments_[answer.serial] = {.id = request.id,
                                  .version = answer.version,
                                  .entry = answer.entry,
                                  .state = State::creating,
                                  .location = answer.location.bits(),
                                  .stored = stored,
                                  .evictable = request.segment.evictable,
                                  .in_slab = request.segment.packed && Slabs::fits(stored),
                                  .owner_slot = request.segment.owner_slot,
                                  .token = request.segment.token};
      ++done["created"];
      // I8: nobody gets an address without memory.
      for (std::uint64_t at = 0; at < stored; at += page_bytes)
        expect(arena_.backed((answer.location.offset() + at) / page_bytes), "memory is there");
    }
    if (request.is_put && !answer.sealed_before)
      seal(answer.serial, request.segment.owner_slot, "ok");
  }

  void seal(std::uint64_t serial, std::uint32_t slot, const std::string& expected,
            bool repeated = false) {
    Segment& segment = segments_.at(serial);
    const bool seals = segment.state == State::creating && expected == "ok";
    if (seals) doing_.sealing.insert(serial);
    const Segment before = segment;
    // Known before the rules are: whom it wakes looks at it.
    if (seals) {
      segment.state = State::sealed;
      segment.rank = ++uses_;
      sealed_now_.push_back(segment);
      std::erase_if(segments_, [&](const auto& other) {
        return other.second.state == State::tombstone && other.second.id == before.id &&
               other.second.version == before.version;
      });
    }
    const std::string heard =
        outcome(rules_->seal(before.entry, serial, slot, repeated, step_ + 1U));
    expect(heard == expected, "a seal said " + heard + ", not " + expected);
    ++done["sealed"];
  }

  void seal() {
    const auto serial = any_segment();
    if (serial == 0) return;
    const Segment& segment = segments_.at(serial);
    const bool repeated = random_.chance(0.2);
    if (random_.chance(0.1)) return seal(serial, segment.owner_slot + 1, "not_found", repeated);
    std::string expected = segment.state == State::creating ? "ok" : "bad_state";
    if (repeated && segment.state != State::removing) expected = "ok";
    seal(serial, segment.owner_slot, expected, repeated);
  }

  // A creating one, if there is any.
  std::uint64_t any_segment() {
    std::vector<std::uint64_t> creating;
    std::vector<std::uint64_t> others;
    for (const auto& [serial, segment] : segments_)
      (segment.state == State::creating ? creating : others).push_back(serial);
    auto& from = creating.empty() || random_.chance(0.1) ? others : creating;
    return from.empty() ? 0 : from[one_of(from)];
  }

  void abort() {
    const auto serial = any_segment();
    if (serial == 0) return;
    const Segment segment = segments_.at(serial);
    const bool aborts = segment.state == State::creating;
    if (aborts) {
      doing_.aborting.insert(serial);
      segments_.erase(serial);
    }
    const bool repeated = random_.chance(0.2);
    const std::string heard =
        outcome(rules_->abort(segment.entry, serial, segment.owner_slot, repeated));
    expect(heard == (aborts || repeated ? "ok" : "bad_state"), "an abort said " + heard);
    ++done["aborted"];
  }

  void remove() {
    const std::string id = some_id();
    const std::uint64_t version = random_.chance(0.3) ? 0 : 1 + random_.below(8);
    std::uint64_t named = 0;
    if (version != 0 && random_.chance(0.3)) {
      named = 1 + random_.below(100);
      if (const Segment* segment = find(id, version, State::sealed)) named = serial_of(*segment);
    }
    std::uint64_t expected = 0;
    doing_.removing = [=](const Segment& segment, std::uint64_t serial) {
      return segment.id == id && (version == 0 || segment.version == version) &&
             (named == 0 || serial == named);
    };
    for (auto segment = segments_.begin(); segment != segments_.end();) {
      const State state = segment->second.state;
      const bool goes = doing_.removing(segment->second, segment->first);
      if (goes && state == State::sealed) {
        segment->second.state = State::removing;
        ++expected;
      }
      segment = goes && state == State::tombstone ? segments_.erase(segment) : std::next(segment);
    }
    const auto removed = rules_->remove(id, version, named, false);
    if (expected == 0) {
      expect(outcome(removed) == (named != 0 ? "stale_ref" : "not_found"), "nothing to remove");
    } else {
      // What is dropped for a waiting create on the way is not removed any more.
      expect(removed && *removed >= 1 && *removed <= expected, "so many were removed");
      done["removed"] += static_cast<int>(expected);
    }
  }
  std::uint64_t serial_of(const Segment& wanted) const {
    for (const auto& [serial, segment] : segments_)
      if (&segment == &wanted) return serial;
    return 0;
  }

  void await(SessionId session) {
    Request request;
    request.id = some_id();
    if (random_.chance(0.5))
      request.wish.exact = 1 + random_.below(8);
    else
      request.wish.after = random_.below(8);
    request.deadline = now_ + milliseconds(random_.below(1500));
    request.ticket = {session, ++last_number_, 0};
    requests_[request.ticket] = request;
    const bool there = satisfied(request);
    const bool late = request.deadline <= now_;
    rules_->await(request.ticket, request.id, request.wish, request.deadline, now_);
    expect(outside_.heard(request.ticket) == (there ? "awaited" : late ? "not_found" : "nothing"),
           "a wait is over if what it wants is there");
  }
  // Whether a look at the store would tell a waiter something. Tombstones do, where nothing else is.
  bool satisfied(const Request& request) const {
    std::uint64_t newest = 0;
    std::uint64_t highest = 0;
    for (const auto& [serial, segment] : segments_) {
      if (segment.id != request.id) continue;
      if (segment.state != State::sealed && segment.state != State::tombstone) continue;
      if (request.wish.exact != 0 && segment.version == request.wish.exact) return true;
      highest = std::max(highest, segment.version);
      if (segment.state == State::sealed) newest = std::max(newest, segment.version);
    }
    return request.wish.exact == 0 && (newest != 0 ? newest : highest) > request.wish.after;
  }

  // With a reader's eyes.
  void get(std::uint32_t slot) {
    const std::string id = some_id();
    const std::uint64_t version = random_.chance(0.5) ? 0 : 1 + random_.below(8);
    const shm::IndexMap index = memory_.map();
    const shm::Key key = shm::key_of(id, index.stamp->hash_seed);
    EntryNumber seen = no_entry;
    const auto attempt = [&](EntryNumber entry) {
      const Probe probe = shm::try_pin(index.entries[entry], census_.count(entry, slot),
                                       {key.low, key.high, version});
      if (probe != Probe::mismatch) seen = entry;
      return probe;
    };
    const Probe probe = version == 0
                            ? shm::search(index.newest, shm::newest_hash(key), attempt)
                            : shm::search(index.exact, shm::exact_hash(key, version), attempt);
    const Segment* best = nullptr;
    bool buried = false;
    for (const auto& [serial, segment] : segments_) {
      if (segment.id != id || (version != 0 && segment.version != version)) continue;
      buried = buried || segment.state == State::tombstone;
      if (segment.state == State::sealed && (best == nullptr || segment.version > best->version))
        best = &segment;
    }
    expect(probe == (best != nullptr ? Probe::pinned : buried ? Probe::tombstone : Probe::mismatch),
           "a reader finds what is there: " + std::to_string(static_cast<int>(probe)));
    if (best == nullptr) return;
    expect(seen == best->entry, "and the right version of it");
    pins_.push_back({slot, seen, serial_of(*best), best->location});
    if (random_.chance(0.5)) census_.accesses.push_back(seen);
    ++done["pinned"];
  }

  void release() {
    const std::size_t which = one_of(pins_);
    const Pin pin = pins_[which];
    pins_.erase(pins_.begin() + static_cast<std::ptrdiff_t>(which));
    const std::uint32_t before = census_.count(pin.entry, pin.slot).fetch_sub(1);
    // The nudge may get lost with the client.
    if (before == 1 && table_->word(pin.entry).wanted() && random_.chance(0.7))
      rules_->nudge(pin.entry);
  }

  void void_requests(SessionId session) {
    for (auto& [ticket, request] : requests_)
      if (ticket.session == session) request.open = false;
  }
  void end_session(Process& process) {
    const SessionId session = process.session;
    void_requests(session);
    process.session = random_.chance(0.7) ? ++last_session_ : 0;
    rules_->session_ended(session);
    ++done["sessions ended"];
  }
  void bury(std::uint32_t slot) {
    Process& process = processes_[slot];
    process.alive = false;
    process.session = 0;
    census_.process_died(slot);
    std::erase_if(pins_, [slot](const Pin& pin) { return pin.slot == slot; });
  }
  void die(std::uint32_t slot) {
    const SessionId session = processes_[slot].session;
    bury(slot);
    ++done["died"];
    if (session != 0) {
      void_requests(session);
      rules_->session_ended(session);
    }
    std::erase_if(segments_, [slot](const auto& segment) {
      return segment.second.state == State::creating && segment.second.owner_slot == slot;
    });
    rules_->process_ended(slot);
  }

  void pass(std::chrono::nanoseconds time) {
    now_ += time;
    rules_->tick(now_);
    if (time >= milliseconds(100))
      for (const EntryNumber entry : rules_->deferred())
        expect(pinned(entry), "no removal waits for pins that have ended");
    for (const auto& [ticket, request] : requests_) {
      if (!request.open) continue;
      if (request.deadline <= now_ && outside_.heard(ticket) == "nothing")
        expect(request.is_create && !outside_.jobs.empty(),
               "nobody waits beyond a deadline but for the memory thread");
    }
    ticked_ = true;
  }

  // What the memory thread does, at the moment when it reports it.
  void perform(const MemoryJob& job, bool succeeds) {
    for (const Extent& extent : job.arena.punch) arena_.punch(extent);
    if (!succeeds) return;
    for (const Extent& extent : job.arena.grow) arena_.grow(extent);
    for (const shm::Range& range : job.index_ranges)
      expect(memory_.reserve(range.offset, range.bytes).has_value(), "the index is reserved");
  }
  void do_job(std::size_t which, bool fails) {
    const MemoryJob job = outside_.jobs[which];
    outside_.jobs.erase(outside_.jobs.begin() + static_cast<std::ptrdiff_t>(which));
    fails = fails && (!job.arena.grow.empty() || !job.index_ranges.empty());
    perform(job, !fails);
    memory_refused_ = fails;
    expect(arena_.backed_bytes() <= kind_.options.capacity_bytes, "no more memory than allowed");
    rules_->memory_done(job.number, fails ? no_memory : std::error_code(), now_);
    ++done[fails ? "jobs failed" : "jobs done"];
  }

  void maybe_kill() {
    if (calls_to_kill_ > 0 && --calls_to_kill_ == 0) throw Kill{};
  }

  // --------------------------------------------------------------------------- what must be true

  void expect(bool condition, const std::string& what) const {
    if (!condition) FAIL("step ", step_, " of ", kind_.name, ": ", what);
  }

  std::map<std::uint64_t, Segment> look() const {
    std::map<std::uint64_t, Segment> found;
    const std::uint32_t end = memory_map().live->entries_end.load();
    for (EntryNumber entry = 1; entry < end; ++entry) {
      const State state = table_->word(entry).state();
      if (state == State::free) continue;
      const bool fresh =
          found
              .emplace(table_->serial(entry),
                       Segment{.id = table_->id(entry),
                               .version = table_->version(entry),
                               .entry = entry,
                               .state = state,
                               .location = table_->location(entry).bits(),
                               .stored = shm::stored_bytes(table_->size(entry),
                                                           table_->description_size(entry)),
                               .evictable = table_->has_flag(entry, shm::RecordFlag::evictable),
                               .in_slab = table_->has_flag(entry, shm::RecordFlag::in_slab),
                               .owner_slot = table_->owner_slot(entry),
                               .token = table_->token(entry)})
              .second;
      expect(fresh, "no serial is used twice");
    }
    return found;
  }
  shm::IndexMap memory_map() const { return const_cast<IndexMemory&>(memory_).map(); }

  static bool same(const Segment& a, const Segment& b) {
    return std::tie(a.id, a.version, a.entry, a.location, a.stored, a.evictable, a.in_slab,
                    a.owner_slot, a.token) ==
           std::tie(b.id, b.version, b.entry, b.location, b.stored, b.evictable, b.in_slab,
                    b.owner_slot, b.token);
  }
  bool pinned(EntryNumber entry) const {
    return std::any_of(pins_.begin(), pins_.end(),
                       [entry](const Pin& pin) { return pin.entry == entry; });
  }

  void check() {
    hear_answers();
    const auto found = look();
    compare(found);
    check_pins(found);
    check_accounts(found);
    check_requests();
  }

  // Each request one answer, and the answer true.
  void hear_answers() {
    for (const Answer& answer : outside_.answers) {
      const auto found = requests_.find(answer.ticket);
      expect(found != requests_.end(), "an answer has a request");
      Request& request = found->second;
      expect(request.open, "a request is answered once, and only to who still asks");
      request.open = false;
      if (answer.kind == Answer::Kind::awaited) {
        expect(!request.is_create, "who created is not told to look");
        bool true_answer = satisfied(request);
        for (const Segment& segment : sealed_now_)
          true_answer = true_answer || (segment.id == request.id &&
                                        request.wish.satisfied_by(segment.version));
        expect(true_answer, "what was waited for is there");
      }
      if (answer.kind != Answer::Kind::refused) continue;
      const auto code = static_cast<Errc>(answer.error.code.value());
      ++done[std::string(errc_name(code))];
      if (!request.is_create) {
        expect(code == Errc::timed_out || code == Errc::not_found, "a wait ends at its deadline");
        expect(request.deadline <= now_, "and not before");
        continue;
      }
      expect(answer.error.detail.find('#') == std::string::npos, "an error speaks of its request");
      if (code == Errc::limit_reached)
        expect(kind_.limits.entries < 100, "the index is full");
      else if (code == Errc::store_full && !memory_refused_)
        refusals_.push_back(request);
      else
        expect(code == Errc::store_full || code == Errc::exists || code == Errc::conflict ||
                   code == Errc::too_large,
               "a known refusal");
    }
    outside_.answers.clear();
  }

  void compare(const std::map<std::uint64_t, Segment>& found) {
    std::uint64_t warmest_dropped = 0;
    for (auto known = segments_.begin(); known != segments_.end();) {
      auto& [serial, segment] = *known;
      const auto there = found.find(serial);
      const bool gone = there == found.end();
      if (!gone) expect(same(segment, there->second), "a segment stays what it is: " + segment.id);
      const State state = gone ? State::free : there->second.state;
      switch (segment.state) {
        case State::sealed:
          if (state == State::sealed) break;
          expect(state == State::tombstone || state == State::free, "a sealed segment stays");
          expect(segment.evictable, "only what is evictable is dropped");
          expect(!pinned(segment.entry), "nothing pinned is dropped");
          warmest_dropped = std::max(warmest_dropped, segment.rank);
          segment.state = State::tombstone;
          ++done["dropped"];
          break;
        case State::tombstone:
          expect(gone || state == State::tombstone, "a tombstone stays, or is forgotten");
          break;
        case State::removing:
          // Dropped for a waiting create before the removal came to it.
          if (state == State::tombstone && segment.evictable) segment.state = State::tombstone;
          else expect(gone || state == State::removing, "what is removed goes");
          if (gone) expect(!pinned(segment.entry), "nothing pinned goes");
          break;
        default:
          expect(state == segment.state, "what is being made stays");
      }
      known = gone ? segments_.erase(known) : std::next(known);
    }
    bool evictable_left = false;
    for (const auto& [serial, segment] : found) {
      const auto known = segments_.find(serial);
      expect(known != segments_.end(), "nothing is there that nobody made: " + segment.id);
      if (segment.state != State::sealed || !segment.evictable || pinned(segment.entry)) continue;
      evictable_left = true;
      expect(known->second.rank >= warmest_dropped, "the coldest goes first");
    }
    const std::uint64_t room = rules_->usage().warm + rules_->usage().ungrown;
    for (const Request& request : refusals_)
      // What was sealed since may have made room again.
      if (outside_.jobs.empty() && sealed_now_.empty())
        expect(room < needed(request) && !evictable_left,
               "full is full: " + std::to_string(needed(request)) + " bytes for " + request.id +
                   ", " + std::to_string(room) + " free" +
                   (evictable_left ? ", and something to drop" : ""));
    refusals_.clear();
    // What a tick can do, it has done.
    if (ticked_ && outside_.jobs.empty() && sealed_now_.empty()) {
      for (const auto& [ticket, request] : requests_)
        if (request.open && request.is_create)
          expect(room < needed(request) && !evictable_left, "who waits has a reason to");
    }
    ticked_ = false;
  }

  void check_pins(const std::map<std::uint64_t, Segment>& found) const {
    for (const Pin& pin : pins_) {
      const auto there = found.find(pin.serial);
      expect(there != found.end(), "what is pinned stays");
      const Segment& segment = there->second;
      expect(segment.entry == pin.entry && segment.location == pin.location,
             "what is pinned does not move");
      expect(segment.state == State::sealed || segment.state == State::removing,
             "what is pinned can be read");
    }
  }

  enum class Page : std::uint8_t { unknown, cold, entry, slab, growing, punching };

  // I6: each page is cold, used by one segment or slab, growing, being punched, or warm; and the
  // counters are the sums.
  void check_accounts(const std::map<std::uint64_t, Segment>& found) {
    page_of_.assign(arena_.pages(), Page::unknown);
    std::uint64_t known = 0;
    const auto mark = [&](const Extent& extent, Page as) {
      expect(extent.offset % page_bytes == 0 && extent.bytes % page_bytes == 0, "whole pages");
      for (std::uint64_t page = extent.offset / page_bytes;
           page < (extent.offset + extent.bytes) / page_bytes; ++page) {
        expect(page_of_.at(page) == Page::unknown, "no page is anybody's twice");
        page_of_[page] = as;
      }
      known += extent.bytes;
    };
    for (const Extent& extent : rules_->space().cold_runs()) mark(extent, Page::cold);

    std::uint64_t growing = 0;
    std::uint64_t trimmed = 0;
    for (const MemoryJob& job : outside_.jobs) {
      for (const Extent& extent : job.arena.grow) mark(extent, Page::growing);
      for (const Extent& extent : job.arena.punch) mark(extent, Page::punching);
      growing += bytes_of(job.arena.grow);
      if (job.arena.grow.empty()) trimmed += bytes_of(job.arena.punch);
    }

    std::uint64_t own_pages = 0;
    std::uint64_t items = 0;
    std::map<std::uint64_t, std::pair<std::uint64_t, std::uint64_t>> slabs;  // slab, slot bytes
    std::map<std::uint64_t, std::uint64_t> slots;
    std::uint64_t sealed = 0;
    std::uint64_t creating = 0;
    std::uint64_t removing = 0;
    std::uint64_t tombstones = 0;
    std::set<std::string> ids;
    for (const auto& [serial, segment] : found) {
      sealed += segment.state == State::sealed;
      creating += segment.state == State::creating;
      removing += segment.state == State::removing;
      tombstones += segment.state == State::tombstone;
      if (segment.state == State::tombstone || segment.state == State::sealed)
        ids.insert(segment.id);
      if (segment.state == State::tombstone || segment.stored == 0) continue;
      const std::uint64_t offset = shm::Location(segment.location).offset();
      if (!segment.in_slab) {
        mark({offset, shm::page_align(segment.stored)}, Page::entry);
        own_pages += shm::page_align(segment.stored);
        continue;
      }
      const std::uint64_t slab = Slabs::slab_bytes(segment.stored);
      const std::uint64_t slot = slot_bytes(segment.stored);
      const std::uint64_t base = offset / slab * slab;
      const auto [kept, fresh] = slabs.try_emplace(base, slab, slot);
      expect(kept->second == std::pair{slab, slot}, "a slab has items of one size");
      if (fresh) mark({base, slab}, Page::slab);
      expect((offset - base) % slot == 0 && offset + slot <= base + slab, "an item is in a slot");
      expect(slots.emplace(offset, slot).second, "no slot is anybody's twice");
      items += slot;
    }
    std::uint64_t slabs_in_use = 0;
    for (const auto& [base, slab] : slabs) slabs_in_use += slab.first;

    const Usage usage = rules_->usage();
    expect(usage.used + usage.warm + usage.growing + usage.ungrown == usage.capacity, "capacity");
    expect(usage.used == own_pages + usage.slabs, "what is used is pages and slabs");
    expect(usage.slabs >= slabs_in_use, "slabs in use");
    expect(usage.slab_items == items, "items in slabs");
    // What nobody has is warm, or an empty slab, or the warm part of an extent that grows.
    expect(pages(arena_.pages()) - known ==
               usage.warm + (usage.slabs - slabs_in_use) + (usage.growing - growing - trimmed),
           "each byte is accounted for");
    if (outside_.jobs.empty()) expect(usage.growing == 0, "nothing grows that nobody makes grow");
    for (std::size_t page = 0; page < arena_.pages(); ++page)
      expect(arena_.backed(page) ==
                 (page_of_[page] != Page::cold && page_of_[page] != Page::growing),
             "memory is where the accounts say");

    expect(usage.segments == sealed, "counted segments");
    expect(usage.ids == ids.size(), "counted ids");
    expect(usage.removing == removing, "counted removals");
    expect(usage.tombstones == tombstones, "counted tombstones");
    expect(tombstones <= kind_.options.tombstones_max, "no more tombstones than allowed");
    std::uint64_t open_creates = 0;
    std::uint64_t open_waits = 0;
    for (const auto& [ticket, request] : requests_)
      if (request.open) ++(request.is_create ? open_creates : open_waits);
    expect(usage.creating == creating + open_creates, "counted creations");
    expect(usage.waiters == open_waits, "counted waiters");
    expect(usage.parked >= open_creates && usage.parked <= open_creates + outside_.jobs.size(),
           "counted creates that wait");
  }

  void check_requests() {
    const auto wakeup = rules_->next_wakeup();
    for (auto request = requests_.begin(); request != requests_.end();) {
      if (request->second.open) {
        if (!request->second.is_create) {
          expect(!satisfied(request->second) || was_buried(request->second),
                 "nobody waits for what is there");
          expect(wakeup && *wakeup <= request->second.deadline, "a deadline is looked at in time");
        } else if (outside_.jobs.empty()) {
          expect(wakeup.has_value(), "who waits for room is looked after");
        }
        ++request;
        continue;
      }
      // Old requests may be sent again; the oldest are forgotten.
      request = requests_.size() > 60 ? requests_.erase(request) : std::next(request);
    }
  }
  // A wait for whatever comes next is not ended by the death of the versions before.
  bool was_buried(const Request& request) const {
    for (const auto& [serial, segment] : segments_)
      if (segment.id == request.id && segment.state == State::sealed &&
          request.wish.satisfied_by(segment.version))
        return false;
    return true;
  }

  // ----------------------------------------------------------------------------------- restarts

  void recover() {
    ++done["killed"];
    calls_to_kill_ = 0;
    for (auto& [ticket, request] : requests_) request.open = false;
    outside_.answers.clear();
    refusals_.clear();
    census_.accesses.clear();
    ticked_ = false;
    rules_.reset();
    table_.reset();
    // The memory thread had done some of it.
    for (const MemoryJob& job : outside_.jobs) {
      if (random_.chance(0.5)) continue;
      perform(job, false);
      for (const Extent& extent : job.arena.grow)
        if (random_.chance(0.5))
          arena_.grow({extent.offset, pages(1 + random_.next() % (extent.bytes / page_bytes))});
    }
    outside_.jobs.clear();
    const std::vector<Pin> held = pins_;
    for (std::uint32_t slot = 1; slot < processes_count; ++slot)
      if (random_.chance(0.1)) bury(slot);
    std::vector<bool> living(processes_count);
    for (std::uint32_t slot = 1; slot < processes_count; ++slot)
      living[slot] = processes_[slot].alive;

    for (bool adopted = false; !adopted;) {
      // The next daemon may be killed as well, while it takes over.
      calls_to_kill_ = random_.chance(0.2) ? 1 + random_.below(4) : 0;
      try {
        table_ = std::make_unique<SegmentTable>(memory_.table());
        rules_ = std::make_unique<Rules>(*table_, census_, outside_, kind_.options);
        expect(rules_->adopt(table_->recover(), living) == 0, "all segments are sound");
        adopted = true;
      } catch (const Kill&) {
        ++done["killed while taking over"];
      }
    }
    calls_to_kill_ = 0;
    for (const Extent& extent : rules_->adopt_memory(arena_.touched())) arena_.punch(extent);
    for (Process& process : processes_)
      process.session = process.alive && &process != &processes_[0] ? ++last_session_ : 0;

    // What was under way may have happened or not; all else must be as it was.
    const auto found = look();
    for (const auto& [serial, segment] : segments_) {
      const auto there = found.find(serial);
      const bool gone = there == found.end();
      const State state = gone ? State::free : there->second.state;
      if (!gone) expect(same(segment, there->second), "a segment survives as it was");
      const bool was_pinned = std::any_of(held.begin(), held.end(), [&](const Pin& pin) {
        return pin.entry == segment.entry;
      });
      const bool may_be_dropped = segment.evictable && !was_pinned;
      switch (segment.state) {
        case State::sealed:
          if (doing_.sealing.contains(serial)) {
            expect(state == State::sealed || may_be_dropped ||
                       (state == State::creating ? living[segment.owner_slot]
                                                 : !living[segment.owner_slot]),
                   "what was being sealed is sealed, or still being made");
            break;
          }
          expect(state == State::sealed ||
                     (may_be_dropped && (gone || state == State::tombstone)),
                 "a sealed segment survives");
          break;
        case State::creating:
          expect(state == (living[segment.owner_slot] ? State::creating : State::free),
                 "what a living process makes survives, and nothing else");
          break;
        case State::removing:
          if (doing_.removing && doing_.removing(segment, serial)) break;
          expect(state == (pinned(segment.entry) ? State::removing : State::free),
                 "what was removed goes with its last pin");
          break;
        default:
          expect(gone || state == State::tombstone, "a tombstone stays or goes");
      }
    }
    for (const auto& [serial, segment] : found) {
      if (segments_.contains(serial) || doing_.aborting.contains(serial)) continue;
      expect(segment.state == State::creating || segment.state == State::tombstone,
             "nothing is sealed that nobody sealed");
    }
    auto before = std::move(segments_);
    segments_ = found;
    for (auto& [serial, segment] : segments_)
      if (before.contains(serial)) segment.rank = 0;
    rules_->begin();
    check();
  }

  // Everything ends, and all memory is free again but for the slabs that are kept.
  void finish() {
    doing_ = {};
    memory_refused_ = false;
    kind_.refusals = 0;
    for (std::uint32_t slot = 1; slot < processes_count; ++slot) {
      die(slot);
      check();
    }
    rules_->drop_all(false);
    for (auto segment = segments_.begin(); segment != segments_.end();)
      segment = segment->second.state == State::sealed ? segments_.erase(segment)
                                                       : std::next(segment);
    while (!outside_.jobs.empty()) do_job(0, false);
    pass(std::chrono::seconds(100));
    while (!outside_.jobs.empty()) do_job(0, false);
    check();
    for (const auto& [ticket, request] : requests_) expect(!request.open, "nobody waits");
    expect(rules_->usage().used == rules_->usage().slabs, "nothing is used but slabs");
    expect(rules_->usage().slab_items == 0, "which are empty");
    expect(rules_->usage().creating == 0 && rules_->usage().removing == 0, "nothing is under way");
  }

  Kind kind_;
  test::Random& random_;
  IndexMemory memory_;
  FakeArena arena_;
  FakeCensus census_;
  FakeOutside outside_;
  std::unique_ptr<SegmentTable> table_;
  std::unique_ptr<Rules> rules_;
  TimePoint now_{std::chrono::seconds(1000)};

  std::vector<Process> processes_;
  std::map<std::uint64_t, Segment> segments_;
  std::map<Ticket, Request> requests_;
  std::vector<Pin> pins_;
  std::vector<Request> refusals_;  // of this step, for want of room
  std::vector<Segment> sealed_now_;
  std::vector<Page> page_of_;
  // What a killed daemon may have done or not.
  struct Doing {
    std::set<std::uint64_t> sealing;
    std::set<std::uint64_t> aborting;
    std::function<bool(const Segment&, std::uint64_t serial)> removing;
  } doing_;
  bool memory_refused_ = false;
  bool ticked_ = false;
  std::uint32_t calls_to_kill_ = 0;
  std::uint32_t last_number_ = 0;
  SessionId last_session_ = 0;
  std::uint64_t uses_ = 0;
  int step_ = 0;
};

RulesOptions room_for(std::uint64_t page_count) {
  return {.capacity_bytes = pages(page_count),
          .address_bytes = pages(page_count * 16),
          .reserve_bytes = 0,
          .keep_warm_bytes = pages(page_count)};
}
constexpr shm::Limits limits{
    .entries = 4096, .lines = 2048, .overflow_lines = 1024, .processes = 16};

void run(const Kind& kind) {
  test::Random random(kind.name);
  const int steps = steps_of_run(2500);
  Campaign campaign(kind, random);
  campaign.run(steps);
  std::string tally;
  for (const auto& [what, times] : campaign.done)
    tally += (tally.empty() ? "" : ", ") + std::to_string(times) + " " + what;
  MESSAGE(kind.name, ": ", tally);
  // Short runs need not meet everything.
  if (steps < 20'000) return;
  for (const char* what : {"created", "sealed", "aborted", "removed", "pinned", "repeated", "died",
                           "sessions ended", "killed", "jobs done", "jobs failed", "store_full",
                           "exists", "timed_out"})
    CHECK_MESSAGE(campaign.done[what] > 0, what);
}

TEST_SUITE("rules_random") {
  TEST_CASE("whatever happens, each byte and each request is accounted for: a store with room") {
    run({.name = "a store with room", .options = room_for(1024), .limits = limits});
  }

  TEST_CASE("whatever happens, each byte and each request is accounted for: a crowded store") {
    run({.name = "a crowded store", .options = room_for(256), .limits = limits});
  }

  TEST_CASE("whatever happens, each byte and each request is accounted for: fickle memory") {
    RulesOptions options = room_for(512);
    options.reserve_bytes = pages(30);
    options.keep_warm_bytes = pages(50);
    options.tombstones_max = 3;
    run({.name = "fickle memory", .options = options, .limits = limits, .refusals = 0.3});
  }

  TEST_CASE("whatever happens, each byte and each request is accounted for: a tiny index") {
    run({.name = "a tiny index",
         .options = room_for(512),
         .limits = {.entries = 24, .lines = 64, .overflow_lines = 100, .processes = 16}});
  }

  TEST_CASE("whatever happens, each byte and each request is accounted for: no tombstones") {
    RulesOptions options = room_for(200);
    options.tombstones_max = 0;
    options.keep_warm_bytes = pages(20);
    run({.name = "no tombstones", .options = options, .limits = limits});
  }
}

}  // namespace
}  // namespace forebay::daemon
