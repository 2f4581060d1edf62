// SPDX-License-Identifier: Apache-2.0
// The rules against a model, at random: processes that create, seal, read, hold, take over, claim,
// wait, remove and die, a clock that moves, memory that comes late, in any order or not at all, pins
// that end while the rules look, and daemons that are killed between any two calls to the outside.
// After each step every byte is accounted for (I6), every pinned segment is where it was (I4), every
// request has its one answer or a reason to wait, readers find what they should, and nothing went
// without a reason that was told to subscribers, once and in order (I2).
//
// A long run, and the same again:
//   unit_tests -tc="whatever happens*" --steps=1000000
//   unit_tests -tc="whatever happens*: a crowded store" --steps=1000000 --seed=4711
// --steps is for each kind of store.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "store/daemon/rules.h"
#include "tests/support/index_memory.h"
#include "tests/support/outcome.h"
#include "tests/support/random.h"
#include "tests/support/rules_model.h"
#include "tests/support/rules_surroundings.h"

namespace forebay::daemon {
namespace {

using shm::Probe;
using shm::RecordFlag;
using shm::State;
using std::chrono::milliseconds;
using test::Answer;
using test::FakeArena;
using test::FakeCensus;
using test::FakeOutside;
using test::IndexMemory;
using test::outcome;
using test::RulesModel;
using test::Serial;
using test::Slot;
using Segment = test::ModelSegment;

constexpr std::uint64_t page_bytes = shm::page_bytes;
constexpr std::uint64_t pages(std::uint64_t count) { return count * page_bytes; }
constexpr std::uint64_t second_ns = 1'000'000'000;
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
  bool complete = false;
  // Of a claim.
  NewClaim claim;
  // Of events.
  std::size_t subscriber = 0;
};

struct Process {
  bool alive = true;
  SessionId session = 0;  // 0: not connected
};

struct Pin {
  Slot slot = 0;
  EntryNumber entry = no_entry;
  Serial serial = 0;
  std::uint64_t location = 0;
};

struct Subscriber {
  std::string prefix;
  std::uint64_t cursor = 0;
  std::optional<Ticket> asks;
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

// As the record has a time to live.
std::uint64_t in_whole_seconds(std::uint64_t ns) { return (ns + second_ns - 1) / second_ns * second_ns; }

class Campaign {
 public:
  Campaign(const Kind& kind, test::Random& random)
      : kind_(kind),
        random_(random),
        memory_(kind.limits),
        arena_(kind.options.address_bytes),
        model_(kind.options.keep),
        processes_(processes_count) {
    memory_.map().stamp->born_ns = wall_ns() - 12'345'678'901;
    census_.on_access = [this](EntryNumber entry) {
      for (auto& [serial, segment] : model_.segments)
        if (segment.entry == entry && segment.state == State::sealed) segment.rank = ++uses_;
    };
    census_.before_look = [this] {
      maybe_kill();
      maybe_let_go_midway();
    };
    outside_.before_call = [this] { maybe_kill(); };
    outside_.on_created = [this](const Answer& answer) {
      if (answer.kind == Answer::Kind::created) was_created(answer);
      if (answer.kind == Answer::Kind::claimed) was_claimed(answer);
    };
    table_ = std::make_unique<SegmentTable>(memory_.table());
    rules_ = std::make_unique<Rules>(*table_, census_, outside_, kind_.options);
    rules_->begin();
    for (Process& process : processes_) process.session = ++last_session_;
    for (const char* prefix : {"", "id ", "id 1", "an id"})
      subscribers_.push_back({.prefix = prefix, .cursor = 0, .asks = {}});
  }

  void run(int steps) {
    for (step_ = 0; step_ < steps; ++step_) {
      begin_step();
      calls_to_kill_ = random_.chance(0.05) ? 1 + random_.below(6) : 0;
      try {
        one_step();
        // The server does so at the end of each turn, in which there may have been many calls.
        turn_ended_ = random_.chance(0.5);
        if (turn_ended_) tick();
        deliver_nudges();
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

  void begin_step() {
    doing_ = {};
    sealed_now_.clear();
    seals_.clear();
    asked_to_go_.clear();
    must_go_.clear();
    taken_now_.clear();
    failed_claims_.clear();
    memory_refused_ = false;
    ticked_ = false;
    turn_ended_ = false;
    moved_midway_ = false;
    may_move_midway_ = random_.chance(0.1);
  }

  // ------------------------------------------------------------------------------ what may happen

  void one_step() {
    const Slot slot = 1 + random_.below(processes_count - 1);
    Process& process = processes_[slot];
    const bool connected = process.session != 0;
    switch (random_.below(72)) {
      default:
        if (connected) create(slot);
        break;
      case 12:
      case 13:
        if (connected) take(slot);
        break;
      case 14:
      case 15:
      case 16:
      case 17:
      case 18:
      case 19:
        seal();
        break;
      case 20:
        abort();
        break;
      case 21:
      case 22:
        remove();
        break;
      case 23:
        random_.chance(0.7) ? remove_before() : supersede();
        break;
      case 24:
        random_.chance(0.7) ? supersede() : drop_all();
        break;
      case 25:
      case 26:
        if (connected) await(process.session);
        break;
      case 27:
      case 28:
      case 29:
        if (connected) wait(process.session);
        break;
      case 30:
      case 31:
      case 32:
      case 33:
        if (connected) claim(slot);
        break;
      case 34:
      case 35:
      case 36:
        if (connected) fulfil(slot);
        break;
      case 37:
      case 38:
      case 39:
        if (connected) read_events(process.session);
        break;
      case 40:
        cancel();
        break;
      case 41:
      case 42:
        if (process.alive) hold(slot);
        break;
      case 43:
      case 44:
        if (process.alive) unhold(slot);
        break;
      case 45:
        if (process.alive) hold_again(slot);
        break;
      case 46:
        keep();
        break;
      case 47:
        if (random_.chance(0.2)) persist();
        break;
      case 48:
      case 49:
      case 50:
      case 51:
        if (process.alive) get(slot);
        break;
      case 52:
      case 53:
      case 54:
      case 55:
        if (!pins_.empty()) release();
        break;
      case 56:
      case 57:
        if (connected) repeat(slot);
        break;
      case 58:
        if (connected && random_.chance(0.3)) end_session(process);
        break;
      case 59:
        if (process.alive && random_.chance(0.2)) die(slot);
        break;
      case 60:
        process.alive = true;
        if (process.session == 0) process.session = ++last_session_;
        break;
      case 61:
      case 62:
        pass(milliseconds(random_.chance(0.2) ? random_.below(3000) : random_.below(60)));
        break;
      case 63:
        if (const auto at = rules_->next_wakeup(); at && *at > now_)
          pass(std::min<std::chrono::nanoseconds>(*at - now_, std::chrono::seconds(20)));
        break;
      case 64:
        if (random_.chance(0.1)) throw Kill{};
        break;
      case 65:
      case 66:
      case 67:
      case 68:
      case 69:
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
  std::uint32_t some_keep() {
    const std::uint32_t keep = random_.below(8);
    return keep < 4 ? 0 : keep == 7 ? shm::keep_all : keep - 3;
  }
  template <class Things>
  std::size_t one_of(const Things& things) {
    return random_.below(static_cast<std::uint32_t>(things.size()));
  }
  // A version that can be read, if there is any.
  Serial some_readable() {
    std::vector<Serial> all;
    for (const auto& [id, shelf] : model_.shelves)
      for (const auto& [version, serial] : shelf) all.push_back(serial);
    return all.empty() ? 0 : all[one_of(all)];
  }
  std::uint64_t some_timeout_ns() { return random_.chance(0.5) ? 0 : random_.next() % 2'000'000'000; }
  std::uint64_t some_token() { return random_.chance(0.7) ? random_.next() | 1U : 0; }

  Request some_create(Slot slot) {
    Request request;
    request.kind = Request::Kind::create;
    request.id = some_id();
    NewSegment& segment = request.segment;
    segment.size = some_size(segment.packed);
    request.is_put = segment.packed || random_.chance(0.2);
    if (random_.chance(0.4)) segment.version = 1 + random_.below(6);
    if (random_.chance(0.2)) request.description.resize(random_.below(6000));
    segment.brief = shm::Brief{.kind = segment.size > 0 && random_.chance(0.15)
                                           ? shm::Kind::manifest
                                           : shm::Kind::array,
                               .first_dim = random_.next32()}
                        .bits();
    segment.evictable = random_.chance(0.5);
    segment.persistent = random_.chance(0.03);
    segment.timeout_ns = some_timeout_ns();
    segment.token = some_token();
    segment.owner_slot = slot;
    segment.keep = some_keep();
    if (random_.chance(0.2)) segment.ttl_ns = 1 + random_.next() % (4 * second_ns);
    return request;
  }
  void create(Slot slot) { send(some_create(slot), processes_[slot].session); }

  void take(Slot slot) {
    Request request = some_create(slot);
    request.is_put = false;
    request.description.clear();
    request.segment.size = 0;
    request.segment.packed = false;
    request.segment.take_from = 1 + random_.below(8);
    if (const Serial serial = some_readable(); serial != 0 && random_.chance(0.8)) {
      request.id = model_.segments.at(serial).id;
      request.segment.take_from = model_.segments.at(serial).version;
    }
    if (random_.chance(0.8)) request.segment.version = 0;
    send(std::move(request), processes_[slot].session);
  }

  // Makes what it has claimed.
  void fulfil(Slot slot) {
    std::vector<const Segment*> claims;
    for (const auto& [serial, segment] : model_.segments)
      if (segment.is_claim && segment.state == State::creating && segment.token != 0 &&
          (segment.owner_slot == slot || random_.chance(0.05)))
        claims.push_back(&segment);
    if (claims.empty()) return;
    const Segment& claim = *claims[one_of(claims)];
    Request request = some_create(slot);
    if (random_.chance(0.95)) request.id = claim.id;
    request.segment.claim = claim.token;
    if (const Serial newest = model_.readable(claim.id, 0); newest != 0 && random_.chance(0.2)) {
      request.segment.take_from = model_.segments.at(newest).version;
      request.segment.size = 0;
      request.segment.packed = false;
      request.description.clear();
      request.is_put = false;
    }
    send(std::move(request), processes_[slot].session);
  }

  // Sends a request again, as a client does that has lost its connection.
  void repeat(Slot slot) {
    std::vector<const Request*> candidates;
    for (const auto& [ticket, request] : requests_) {
      const bool is_create = request.kind == Request::Kind::create &&
                             request.segment.token != 0 && request.segment.owner_slot == slot;
      const bool is_claim = request.kind == Request::Kind::claim && request.claim.token != 0 &&
                            request.claim.owner_slot == slot;
      if (is_create || is_claim) candidates.push_back(&request);
    }
    if (candidates.empty()) return;
    Request again = *candidates[candidates.size() - 1 - random_.below(std::min<std::uint32_t>(
                                    5, static_cast<std::uint32_t>(candidates.size())))];
    ++done["repeated"];
    if (again.kind == Request::Kind::create) return send(std::move(again), processes_[slot].session);
    if (may_claim()) send_claim(std::move(again), processes_[slot].session);
  }

  std::uint64_t needed(const Request& request) const {
    if (request.segment.take_from != 0) return 0;
    const std::uint64_t stored =
        shm::stored_bytes(request.segment.size, request.description.size());
    return request.segment.packed && Slabs::fits(stored) ? Slabs::slab_bytes(stored)
                                                         : shm::page_align(stored);
  }

  // Why a version cannot be taken over or superseded; empty: it can.
  std::string refusal_of_source(const std::string& id, std::uint64_t version, bool takes) const {
    const Serial serial = model_.readable(id, version);
    if (serial == 0) {
      const Serial grave = model_.find(id, version, State::tombstone);
      if (grave == 0) return "not_found";
      return model_.segments.at(grave).reason == shm::Reason::superseded ? "superseded" : "evicted";
    }
    const Segment& source = model_.segments.at(serial);
    if (takes && (source.size == 0 || source.in_slab)) return "bad_argument";
    if (may_stay(serial) || pinned(source.entry)) return "conflict";
    return {};
  }

  // Who is in the way of a new version: 0, or a serial, or 1 for a create that has none yet.
  bool is_being_made(const std::string& id, std::uint64_t version) const {
    for (const auto& [serial, segment] : model_.segments)
      if (segment.state == State::creating && segment.id == id &&
          (version == 0 || segment.version == version))
        return true;
    for (const auto& [ticket, request] : requests_)
      if (request.open && request.kind == Request::Kind::create && request.id == id &&
          (version == 0 || request.version == version))
        return true;
    return false;
  }
  std::uint64_t highest_version(const std::string& id) const {
    std::uint64_t highest = 0;
    for (const auto& [serial, segment] : model_.segments)
      if (segment.id == id && segment.state != State::removing)
        highest = std::max(highest, segment.version);
    for (const auto& [ticket, request] : requests_)
      if (request.open && request.kind == Request::Kind::create && request.id == id)
        highest = std::max(highest, request.version);
    return highest;
  }
  bool is_being_fulfilled(Serial claim) const {
    return std::ranges::any_of(requests_, [claim](const auto& item) {
      return item.second.open && item.second.claim_serial == claim;
    });
  }

  void send(Request request, SessionId session) {
    const Ticket ticket{session, ++last_number_, 0};
    request.ticket = ticket;
    request.open = true;
    request.claim_serial = 0;
    request.deadline = now_ + std::chrono::nanoseconds(request.segment.timeout_ns);
    const NewSegment& wanted = request.segment;

    // What must come of it.
    Serial repeats = 0;
    Request* superseded = nullptr;
    if (wanted.token != 0) {
      for (const auto& [serial, segment] : model_.segments)
        if (segment.id == request.id && segment.token == wanted.token && !segment.is_claim &&
            segment.state != State::removing)
          repeats = serial;
      for (auto& [other_ticket, other] : requests_)
        if (other.open && other.kind == Request::Kind::create && other.id == request.id &&
            other.segment.token == wanted.token)
          superseded = &other;
    }
    std::string refusal;
    if (shm::page_align(shm::stored_bytes(wanted.size, request.description.size())) >
        kind_.options.capacity_bytes) {
      refusal = "too_large";
    } else if (superseded != nullptr) {
      request.version = superseded->version;
      request.claim_serial = superseded->claim_serial;
      superseded->open = false;
    } else if (repeats != 0) {
      request.version = model_.segments.at(repeats).version;
    } else if (wanted.claim != 0) {
      for (const auto& [serial, segment] : model_.segments)
        if (segment.is_claim && segment.state == State::creating && segment.id == request.id &&
            segment.token == wanted.claim && segment.owner_slot == wanted.owner_slot &&
            !is_being_fulfilled(serial)) {
          request.claim_serial = serial;
          request.version = segment.version;
        }
      if (request.claim_serial == 0) refusal = "conflict";
    } else if (wanted.version != 0) {
      request.version = wanted.version;
      if (model_.readable(request.id, wanted.version) != 0)
        refusal = "exists";
      else if (is_being_made(request.id, wanted.version))
        refusal = "conflict";
    } else {
      request.version = highest_version(request.id) + 1;
    }
    const bool is_new = refusal.empty() && superseded == nullptr && repeats == 0;
    bool pins_decide = false;
    if (is_new && wanted.take_from != 0) {
      refusal = refusal_of_source(request.id, wanted.take_from, true);
      pins_decide = refusal == "conflict" || refusal.empty();
      // Whoever waits for the index to grow is refused later.
      if (!table_->has_room() && pins_decide) refusal.clear();
    }

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
    if (!refusal.empty() && heard != refusal)
      expect(pins_decide && moved_midway_, "refused as " + refusal + ", not " + heard + " DBG " + std::to_string(wanted.take_from) + " " + request.id + outside_.to(ticket)[0].error.detail);
    if (repeats != 0 && refusal.empty() && superseded == nullptr) {
      expect(heard == "created", "a repetition is answered at once");
      expect(outside_.to(ticket)[0].serial == repeats, "with the same segment");
    }
    if (is_new && refusal.empty() && wanted.take_from != 0 && heard == "nothing")
      expect(!outside_.jobs.empty(), "a take-over waits for the index alone");
    if (refusal.empty() && superseded == nullptr && wanted.timeout_ns == 0 && heard == "nothing")
      expect(!outside_.jobs.empty(), "who brought no time waits for the memory thread alone");
  }

  void was_created(const Answer& answer) {
    const auto found = requests_.find(answer.ticket);
    expect(found != requests_.end(), "a created segment was asked for");
    const Request& request = found->second;
    expect(request.open && request.kind == Request::Kind::create, "created by an open request");
    expect(answer.version == request.version, "of the version that it should have");
    const NewSegment& wanted = request.segment;
    if (const auto known = model_.segments.find(answer.serial); known != model_.segments.end()) {
      expect(wanted.token != 0 && known->second.token == wanted.token,
             "what is there already was asked for by the same request");
      expect(answer.sealed_before == (known->second.state != State::creating), "sealed before");
      expect(known->second.entry == answer.entry, "in the same entry");
    } else {
      expect(!answer.sealed_before, "what is new is not sealed");
      Segment made{.id = request.id,
                   .version = answer.version,
                   .entry = answer.entry,
                   .state = State::creating,
                   .location = answer.location.bits(),
                   .evictable = wanted.evictable,
                   .persistent = wanted.persistent,
                   .keep = wanted.keep,
                   .owner_slot = wanted.owner_slot,
                   .token = wanted.token,
                   .ttl_ns = wanted.ttl_ns};
      if (wanted.take_from != 0) {
        const Serial source = model_.readable(request.id, wanted.take_from);
        expect(source != 0, "what is taken over was there");
        const Segment& former = model_.segments.at(source);
        expect(former.location == made.location, "a take-over stays where it is");
        expect(!former.in_slab && former.stored > 0, "and has pages of its own");
        expect(!pinned(former.entry) && !must_stay(source), "and was nobody's");
        taken_now_.insert(source);
        made.size = former.size;
        made.stored = former.stored;
        made.is_manifest = former.is_manifest;
        ++done["taken over"];
      } else {
        made.size = wanted.size;
        made.stored = shm::stored_bytes(wanted.size, request.description.size());
        made.in_slab = wanted.packed && Slabs::fits(made.stored);
        made.is_manifest = shm::Brief::from_bits(wanted.brief).kind == shm::Kind::manifest;
      }
      if (request.claim_serial != 0) {
        expect(model_.segments.at(request.claim_serial).version == answer.version,
               "a claim is fulfilled by its version");
        model_.forget(request.claim_serial);
        ++done["claims fulfilled"];
      }
      ++done["created"];
      // I8: nobody gets an address without memory.
      for (std::uint64_t at = 0; at < made.stored; at += page_bytes)
        expect(arena_.backed((answer.location.offset() + at) / page_bytes), "memory is there");
      model_.segments[answer.serial] = std::move(made);
    }
    if (request.is_put && !answer.sealed_before)
      seal(answer.serial, request.segment.owner_slot, "ok", false, true);
  }

  // `of_put`: nobody else knows of it, so that it must not stay when the seal fails.
  void seal(Serial serial, Slot slot, std::string expected, bool repeated = false,
            bool of_put = false) {
    Segment& segment = model_.segments.at(serial);
    bool seals = segment.state == State::creating && expected == "ok";
    std::vector<shm::ManifestMember> members;
    if (seals && segment.is_manifest) {
      members = some_members();
      const bool all_there = std::ranges::all_of(members, [&](const auto& member) {
        const auto entry = table_->find_exact(table_->key_of(member.id), member.version);
        return entry && table_->serial(*entry) == member.serial &&
               SegmentTable::readable(table_->word(*entry).state());
      });
      if (!all_there) {
        seals = false;
        expected = "not_found";
      }
    }
    const Segment before = segment;
    // Known before the rules are: whom it wakes looks at it.
    if (seals) {
      doing_.sealing.insert(serial);
      segment.state = State::sealed;
      segment.rank = ++uses_;
      segment.members = members;
      if (!members.empty()) model_.listed(serial);
      // What was said of the id goes on.
      if (segment.keep == 0)
        if (const auto newest = table_->find_newest(table_->key_of(segment.id)))
          segment.keep = table_->keep(*newest);
      if (segment.ttl_ns != 0) {
        const TimePoint end = now_ + std::chrono::nanoseconds(segment.ttl_ns);
        segment.end = Segment::End{end, end};
        if (getenv("DBG")) fprintf(stderr, "seal %lu v%lu of %s ttl %lu now %ld put %d step %d\n", serial, segment.version, segment.id.c_str(), segment.ttl_ns, now_.time_since_epoch().count(), of_put, step_);
      }
      sealed_now_.push_back(segment);
      seals_.push_back(serial);
      count_for_waits(segment.id, segment.version);
      std::erase_if(model_.segments, [&](const auto& other) {
        return other.second.state == State::tombstone && other.second.id == before.id &&
               other.second.version == before.version;
      });
    }
    const std::string heard = outcome(
        rules_->seal(before.entry, serial, slot, repeated, wall_ns(), now_, members));
    if (heard != expected) expect(false, "a seal said " + heard + ", not " + expected);
    ++done["sealed"];
    if (of_put && expected == "not_found") {
      doing_.aborting.insert(serial);
      model_.forget(serial);
      expect(outcome(rules_->abort(before.entry, serial, slot, true)) == "ok", "a put is undone");
    }
  }
  std::vector<shm::ManifestMember> some_members() {
    std::vector<shm::ManifestMember> members;
    for (std::uint32_t count = random_.below(4); count > 0; --count) {
      const Serial serial = some_readable();
      if (serial == 0) break;
      const Segment& member = model_.segments.at(serial);
      members.push_back({member.id, member.version, serial + (random_.chance(0.05) ? 1 : 0)});
    }
    return members;
  }

  void seal() {
    const auto serial = any_segment();
    if (serial == 0) return;
    const Segment& segment = model_.segments.at(serial);
    const bool repeated = random_.chance(0.2);
    if (random_.chance(0.1)) return seal(serial, segment.owner_slot + 1, "not_found", repeated);
    std::string expected =
        segment.state == State::creating && !segment.is_claim ? "ok" : "bad_state";
    if (repeated && (segment.state == State::sealed || segment.state == State::tombstone))
      expected = "ok";
    seal(serial, segment.owner_slot, expected, repeated);
  }

  // A creating one, if there is any.
  Serial any_segment() {
    std::vector<Serial> creating;
    std::vector<Serial> others;
    for (const auto& [serial, segment] : model_.segments) {
      const bool preferred =
          segment.state == State::creating && (!segment.is_claim || random_.chance(0.2));
      (preferred ? creating : others).push_back(serial);
    }
    auto& from = creating.empty() || random_.chance(0.1) ? others : creating;
    return from.empty() ? 0 : from[one_of(from)];
  }

  void abort() {
    const auto serial = any_segment();
    if (serial == 0) return;
    const Segment segment = model_.segments.at(serial);
    const bool aborts = segment.state == State::creating;
    const std::string why = random_.chance(0.3) ? "it was not to be" : "";
    if (aborts) {
      doing_.aborting.insert(serial);
      model_.forget(serial);
      if (!why.empty()) failed_claims_.emplace_back(segment.id, segment.version);
    }
    const bool repeated = random_.chance(0.2);
    const std::string heard =
        outcome(rules_->abort(segment.entry, serial, segment.owner_slot, repeated, why));
    expect(heard == (aborts || repeated ? "ok" : "bad_state"), "an abort says what it did");
    ++done[segment.is_claim ? "claims given up" : "aborted"];
  }

  void remove() {
    const std::string id = some_id();
    const std::uint64_t version = random_.chance(0.3) ? 0 : 1 + random_.below(8);
    Serial named = 0;
    if (version != 0 && random_.chance(0.3)) {
      named = 1 + random_.below(100);
      if (const Serial serial = model_.readable(id, version); serial != 0) named = serial;
    }
    doing_.removing = [=](const Segment& segment, Serial serial) {
      return segment.id == id && (version == 0 || segment.version == version) &&
             (named == 0 || serial == named);
    };
    std::uint64_t expected = 0;
    bool listed = false;
    for (const auto& [serial, segment] : model_.segments) {
      if (segment.state != State::sealed || !doing_.removing(segment, serial)) continue;
      ++expected;
      listed = listed || !model_.listed_by(serial, is_there()).empty();
      asked_to_go_.insert(serial);
    }
    if (listed) {
      doing_.removing = {};
      asked_to_go_.clear();
    }
    must_go_ = asked_to_go_;
    const auto removed = rules_->remove(id, version, named, false);
    if (listed) {
      expect(outcome(removed) == "conflict", "what a manifest lists is not removed");
    } else if (expected == 0) {
      expect(outcome(removed) == (named != 0 ? "stale_ref" : "not_found"), "nothing to remove");
    } else {
      // What is dropped for a waiting create on the way is not removed any more.
      expect(removed && *removed >= 1 && *removed <= expected, "so many were removed");
      done["removed"] += static_cast<int>(expected);
    }
  }

  void remove_before() {
    const std::string id = some_id();
    const std::uint64_t version = 1 + random_.below(8);
    doing_.removing = [=](const Segment& segment, Serial) {
      return segment.id == id && segment.version < version;
    };
    for (const auto& [serial, segment] : model_.segments) {
      if (segment.state != State::sealed || !doing_.removing(segment, serial)) continue;
      asked_to_go_.insert(serial);
      if (model_.listed_by(serial, is_there()).empty()) must_go_.insert(serial);
    }
    const auto removed = rules_->remove_before(id, version);
    expect(removed && *removed <= asked_to_go_.size(), "so many were removed");
    expect(*removed > 0 || must_go_.empty(), "and no fewer");
    ++done["removed before"];
  }

  void drop_all() {
    if (!random_.chance(0.05)) return;
    const bool keep_persistent = random_.chance(0.5);
    doing_.removing = [=](const Segment& segment, Serial) {
      return !(keep_persistent && segment.persistent);
    };
    doing_.lets_go = true;
    for (const auto& [serial, segment] : model_.segments)
      if (segment.state == State::sealed && doing_.removing(segment, serial)) {
        asked_to_go_.insert(serial);
        must_go_.insert(serial);
      }
    rules_->drop_all(keep_persistent);
    // What was put meanwhile for who waited may be met, too.
    for (const Serial serial : seals_) asked_to_go_.insert(serial);
    ++done["all dropped"];
  }

  void supersede() {
    std::string id = some_id();
    std::uint64_t version = 1 + random_.below(8);
    Serial serial = 1 + random_.below(100);
    if (const Serial known = some_readable(); known != 0 && random_.chance(0.8)) {
      id = model_.segments.at(known).id;
      version = model_.segments.at(known).version;
      serial = random_.chance(0.9) ? known : known + 1;
    }
    const bool repeated = random_.chance(0.3);
    std::string expected = refusal_of_source(id, version, false);
    const Serial there = model_.readable(id, version);
    if (there != 0 && there != serial) expected = "stale_ref";
    if (repeated && expected == "superseded") expected = "ok";
    const bool pins_decide = there != 0 && there == serial;
    if (pins_decide) {
      doing_.superseding = there;
      taken_now_.insert(there);
    }
    const std::string heard = outcome(rules_->supersede(id, version, serial, repeated));
    if (expected.empty()) expected = "ok";
    if (heard != expected)
      expect(pins_decide && moved_midway_, "supersede said " + heard + ", not " + expected);
    if (heard != "ok") taken_now_.clear();
    if (heard == "ok" && !repeated) ++done["superseded"];
  }

  // ---------------------------------------------------------------------------------- retention

  struct Named {
    std::string id;
    std::uint64_t version = 0;
    Serial serial = 0;
    Serial means = 0;      // 0: nothing that can be read
    std::string refusal;  // then
  };
  Named some_named() {
    Named named{.id = some_id(), .version = random_.below(8), .serial = 0, .means = 0, .refusal = {}};
    if (const Serial known = some_readable(); known != 0 && random_.chance(0.8)) {
      named.id = model_.segments.at(known).id;
      named.version = model_.segments.at(known).version;
      if (random_.chance(0.6)) named.serial = known + (random_.chance(0.05) ? 1 : 0);
    }
    const Serial there = model_.readable(named.id, named.version);
    if (there == 0 || (named.serial != 0 && named.serial != there))
      named.refusal = named.serial != 0 ? "stale_ref" : "not_found";
    else
      named.means = there;
    return named;
  }

  void hold(Slot slot) {
    const Named named = some_named();
    if (named.means != 0) model_.hold(named.means, slot);
    const auto entry = rules_->hold(named.id, named.version, named.serial, slot);
    expect(outcome(entry) == (named.means != 0 ? "ok" : named.refusal), "hold says what it did");
    ++done["held"];
  }

  void unhold(Slot slot) {
    Named named = some_named();
    if (const auto own = model_.beliefs.find(slot);
        own != model_.beliefs.end() && random_.chance(0.9)) {
      const auto believed =
          std::next(own->second.begin(), static_cast<std::ptrdiff_t>(one_of(own->second)));
      const Serial serial = believed->first;
      if (const Segment* segment = model_.find(serial);
          segment != nullptr && segment->state == State::sealed) {
        named = {segment->id, segment->version, serial, serial, {}};
      } else {
        // Gone, and its holder learns of it now.
        own->second.erase(believed);
        if (own->second.empty()) model_.beliefs.erase(own);
        return;
      }
    }
    std::string expected = named.means != 0 ? "ok" : named.refusal;
    if (named.means != 0 && !model_.holds_it(named.means, slot)) expected = "bad_state";
    if (expected == "ok") {
      doing_.lets_go = true;
      model_.unhold(named.means, slot);
    }
    const std::string heard =
        outcome(rules_->unhold(named.id, named.version, named.serial, slot));
    expect(heard == expected, "unhold says what it did");
    ++done["let go"];
  }

  void hold_again(Slot slot) {
    std::vector<std::pair<EntryNumber, std::uint64_t>> said;
    if (const auto own = model_.beliefs.find(slot); own != model_.beliefs.end())
      for (const auto& [serial, count] : own->second) {
        const Segment* const segment = model_.find(serial);
        const EntryNumber entry = segment != nullptr ? segment->entry : 1 + random_.below(40);
        said.insert(said.end(), static_cast<std::size_t>(count), {entry, serial});
      }
    // Nor is it believed what cannot be.
    if (random_.chance(0.1)) said.emplace_back(kind_.limits.entries + random_.below(9), random_.below(100));
    doing_.lets_go = true;
    model_.say_again(slot);
    rules_->hold_again(slot, said);
    ++done["said again"];
  }

  void keep() {
    const std::string id = some_id();
    const std::uint32_t versions = random_.chance(0.05) ? 0 : std::max(1U, some_keep());
    const Serial newest = model_.readable(id, 0);
    if (newest != 0 && versions != 0) {
      doing_.keep_of = id;
      model_.segments.at(newest).keep = versions;
      model_.lenient.erase(id);
    }
    const std::string heard = outcome(rules_->keep(id, versions));
    expect(heard == (versions == 0 ? "bad_argument" : newest == 0 ? "not_found" : "ok"),
           "keep says what it did");
    ++done["keep said"];
  }

  void persist() {
    const Named named = some_named();
    if (named.means != 0) model_.segments.at(named.means).persistent = true;
    const auto entry = rules_->persist(named.id, named.version, named.serial);
    expect(outcome(entry) == (named.means != 0 ? "ok" : named.refusal), "persist says what it did");
  }

  // Certainly, by what is known of pins.
  bool must_stay(Serial serial) const {
    return model_.stays(serial, [this](const Segment& manifest) { return pinned(manifest.entry); });
  }
  // A removed manifest may be there for a while after its last pin has ended.
  std::function<bool(const Segment&)> is_there() const {
    return [this](const Segment& manifest) {
      return table_->word(manifest.entry).state() == State::removing;
    };
  }
  bool may_stay(Serial serial) const { return model_.stays(serial, is_there()); }

  // ------------------------------------------------------------------------------------- waiting

  void await(SessionId session) {
    Request request;
    request.kind = Request::Kind::await;
    request.id = some_id();
    request.wish = some_wish();
    request.deadline = now_ + milliseconds(random_.below(1500));
    request.ticket = {session, ++last_number_, 0};
    const bool there = satisfied(request);
    const bool late = request.deadline <= now_;
    request.complete = there;
    requests_[request.ticket] = request;
    rules_->await(request.ticket, request.id, request.wish, request.deadline, now_);
    expect(outside_.heard(request.ticket) == (there ? "awaited" : late ? "not_found" : "nothing"),
           "a wait is over if what it wants is there");
  }
  VersionWish some_wish() {
    if (random_.chance(0.5)) return {.exact = 1 + random_.below(8)};
    return {.after = random_.below(8)};
  }
  // Whether a look at the store would tell a waiter something. Tombstones do, where nothing else is.
  bool satisfied(const Request& request) const {
    std::uint64_t newest = 0;
    std::uint64_t highest = 0;
    for (const auto& [serial, segment] : model_.segments) {
      if (segment.state != State::sealed && segment.state != State::tombstone) continue;
      if (segment.id != request.id) continue;
      if (request.wish.exact != 0 && segment.version == request.wish.exact) return true;
      highest = std::max(highest, segment.version);
      if (segment.state == State::sealed) newest = std::max(newest, segment.version);
    }
    return request.wish.exact == 0 && (newest != 0 ? newest : highest) > request.wish.after;
  }

  void wait(SessionId session) {
    Request request;
    request.kind = Request::Kind::wait;
    for (std::uint32_t count = random_.below(6); count > 0; --count)
      request.items.emplace_back(some_id(), some_wish());
    const auto count = static_cast<std::uint32_t>(request.items.size());
    request.needed = random_.chance(0.9) && count > 0 ? 1 + random_.below(count) : random_.below(8);
    request.deadline = now_ + milliseconds(random_.below(3000));
    request.ticket = {session, ++last_number_, 0};
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto& [id, wish] = request.items[i];
      if (wish.exact != 0 ? model_.readable(id, wish.exact) != 0
                          : model_.newest_version(id) > wish.after)
        request.ready.insert(i);
    }
    // Asked for more than there are, it waits for all.
    request.complete =
        request.ready.size() >= std::min(request.needed, count) || request.deadline <= now_;
    requests_[request.ticket] = request;
    std::vector<WaitWish> wishes;
    for (const auto& [id, wish] : request.items) wishes.push_back({id, wish});
    rules_->wait(request.ticket, wishes, request.needed, request.deadline, now_);
    expect(outside_.heard(request.ticket) == (request.complete ? "waited" : "nothing"),
           "a wait for several is over when enough is there");
    ++done["waited for several"];
  }
  void count_for_waits(const std::string& id, std::uint64_t version) {
    for (auto& [ticket, request] : requests_) {
      if (!request.open || request.kind != Request::Kind::wait || request.complete) continue;
      if (outside_.heard(ticket) != "nothing") continue;
      for (std::uint32_t i = 0; i < request.items.size() && !request.complete; ++i) {
        if (request.items[i].first == id && request.items[i].second.satisfied_by(version))
          request.ready.insert(i);
        request.complete =
            request.ready.size() >= std::min<std::size_t>(request.needed, request.items.size());
      }
    }
  }

  // While the index has yet to grow for the first time, who claims waits for that.
  bool may_claim() const { return table_->has_room() || table_->at_limit(); }

  void claim(Slot slot) {
    if (!may_claim()) return;
    Request request;
    request.kind = Request::Kind::claim;
    request.claim.id = some_id();
    if (random_.chance(0.5)) request.claim.version = 1 + random_.below(8);
    request.claim.token = random_.chance(0.9) ? random_.next() | 1U : 0;
    request.claim.owner_slot = slot;
    request.deadline = now_ + milliseconds(random_.chance(0.2) ? 0 : random_.below(4000));
    send_claim(std::move(request), processes_[slot].session);
  }

  void send_claim(Request request, SessionId session) {
    request.ticket = {session, ++last_number_, 0};
    request.open = true;
    request.id = request.claim.id;
    const NewClaim& claim = request.claim;
    const Serial there = model_.readable(claim.id, claim.version);
    Serial granted = 0;
    if (claim.token != 0)
      for (const auto& [serial, segment] : model_.segments)
        if (segment.is_claim && segment.state == State::creating && segment.id == claim.id &&
            segment.token == claim.token && segment.owner_slot == claim.owner_slot &&
            !is_being_fulfilled(serial))
          granted = serial;
    const bool in_the_way = is_being_made(claim.id, claim.version);
    const std::uint64_t next = highest_version(claim.id) + 1;
    requests_[request.ticket] = request;
    rules_->claim(request.ticket, claim, request.deadline, now_);

    const std::string heard = outside_.heard(request.ticket);
    const std::vector<Answer> answers = outside_.to(request.ticket);
    if (there != 0) {
      expect(heard == "there" && answers[0].serial == there, "what is there need not be made");
    } else if (granted != 0) {
      expect(heard == "claimed" && answers[0].serial == granted, "a claim sent again is the same");
    } else if (in_the_way) {
      expect(heard == (request.deadline <= now_ ? "timed_out" : "nothing"),
             "who claims what is being made waits");
    } else if (heard != "limit_reached" || kind_.limits.entries >= 100) {
      expect(heard == "claimed", "what nobody makes is the claimer's, not " + heard);
      expect(answers[0].version == (claim.version != 0 ? claim.version : next),
             "in the version that was meant");
    }
    ++done["claims asked"];
  }

  void was_claimed(const Answer& answer) {
    const auto found = requests_.find(answer.ticket);
    expect(found != requests_.end(), "a claim was asked for");
    const Request& request = found->second;
    expect(request.open && request.kind == Request::Kind::claim, "claimed by an open request");
    const NewClaim& claim = request.claim;
    expect(claim.version == 0 || claim.version == answer.version, "in the version that was meant");
    if (const Segment* known = model_.find(answer.serial)) {
      expect(known->is_claim && known->token == claim.token && claim.token != 0,
             "what was claimed before is claimed by the same request");
      return;
    }
    for (const auto& [ticket, other] : requests_)
      if (other.open && other.kind == Request::Kind::claim && other.id == request.id &&
          other.claim.version == claim.version && ticket.number < answer.ticket.number)
        expect(outside_.heard(ticket) != "nothing" || other.claim.token == claim.token,
               "who came first has it");
    model_.segments[answer.serial] = {.id = request.id,
                                      .version = answer.version,
                                      .entry = answer.entry,
                                      .state = State::creating,
                                      .is_claim = true,
                                      .owner_slot = claim.owner_slot,
                                      .token = claim.token};
    ++done["claimed"];
  }

  void read_events(SessionId session) {
    const std::size_t which = one_of(subscribers_);
    Subscriber& subscriber = subscribers_[which];
    // One that comes seldom falls behind.
    if (subscriber.asks || (which == 2 && random_.chance(0.9))) return;
    Request request;
    request.kind = Request::Kind::events;
    request.subscriber = which;
    request.deadline = now_ + milliseconds(random_.chance(0.3) ? 0 : random_.below(1000));
    request.ticket = {session, ++last_number_, 0};
    subscriber.asks = request.ticket;
    requests_[request.ticket] = request;
    rules_->read_events(request.ticket, subscriber.prefix, subscriber.cursor, request.deadline,
                        now_);
    if (request.deadline <= now_)
      expect(outside_.heard(request.ticket) == "told", "who brings no time is told at once");
  }

  void cancel() {
    std::vector<Request*> candidates;
    for (auto& [ticket, request] : requests_)
      if (request.open || random_.chance(0.1)) candidates.push_back(&request);
    if (candidates.empty()) return;
    Request& request = *candidates[one_of(candidates)];
    ++done["cancelled"];
    if (request.kind == Request::Kind::create ||
        (request.kind == Request::Kind::claim && random_.chance(0.5)))
      return cancel_by_token(request);
    // A claim that is granted stays.
    if (request.kind == Request::Kind::events && subscribers_[request.subscriber].asks == request.ticket)
      subscribers_[request.subscriber].asks.reset();
    if (request.kind != Request::Kind::create) request.open = false;
    rules_->cancel_wait(request.ticket.session, request.ticket.number);
  }
  // Whatever has become of it by now.
  void cancel_by_token(const Request& request) {
    const bool is_claim = request.kind == Request::Kind::claim;
    const std::uint64_t token = is_claim ? request.claim.token : request.segment.token;
    const Slot slot = is_claim ? request.claim.owner_slot : request.segment.owner_slot;
    if (token == 0) return;
    std::set<Ticket> refused;
    for (const auto& [ticket, other] : requests_)
      if (other.open && ((other.kind == Request::Kind::claim && other.claim.token == token) ||
                         (other.kind == Request::Kind::create && other.segment.token == token)))
        refused.insert(ticket);
    for (const auto& [serial, segment] : model_.segments)
      if (segment.state == State::creating && segment.token == token &&
          segment.owner_slot == slot && !(segment.is_claim && is_being_fulfilled(serial))) {
        doing_.aborting.insert(serial);
        model_.forget(serial);
        break;
      }
    rules_->cancel(token, slot);
    for (const Ticket ticket : refused)
      expect(outside_.heard(ticket) == "timed_out", "who gives up is told so");
  }

  // -------------------------------------------------------------------------------------- readers

  // With a reader's eyes.
  void get(Slot slot) {
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
    const Serial best = model_.readable(id, version);
    const bool buried = std::ranges::any_of(model_.segments, [&](const auto& item) {
      const Segment& segment = item.second;
      return segment.state == State::tombstone && segment.id == id &&
             (version == 0 || segment.version == version);
    });
    expect(probe == (best != 0 ? Probe::pinned : buried ? Probe::tombstone : Probe::mismatch),
           "a reader finds what is there");
    if (best == 0) return;
    const Segment& segment = model_.segments.at(best);
    expect(seen == segment.entry, "and the right version of it");
    pins_.push_back({slot, seen, best, segment.location});
    if (random_.chance(0.5)) census_.accesses.push_back(seen);
    ++done["pinned"];
  }

  // True: a nudge is wanted.
  bool unpin(std::size_t which) {
    const Pin pin = pins_[which];
    pins_.erase(pins_.begin() + static_cast<std::ptrdiff_t>(which));
    return shm::release_pin(memory_.map().entries[pin.entry], census_.count(pin.entry, pin.slot));
  }
  void release() {
    const std::size_t which = one_of(pins_);
    const Pin pin = pins_[which];
    if (!unpin(which)) return;
    // The nudge may get lost with the client.
    if (random_.chance(0.7))
      rules_->nudge(pin.entry);
    else
      lost_nudges_.insert(pin.entry);
  }
  // Readers do not wait until the daemon has finished what it does.
  void maybe_let_go_midway() {
    if (!may_move_midway_ || pins_.empty() || !random_.chance(0.3)) return;
    const std::size_t which = one_of(pins_);
    const EntryNumber entry = pins_[which].entry;
    moved_midway_ = true;
    ++done["let go midway"];
    if (unpin(which)) nudges_.push_back(entry);
  }
  void deliver_nudges() {
    may_move_midway_ = false;
    for (const EntryNumber entry : std::exchange(nudges_, {})) rules_->nudge(entry);
  }

  // ------------------------------------------------------------------------ sessions, processes

  void void_requests(SessionId session) {
    for (auto& [ticket, request] : requests_) {
      if (ticket.session != session) continue;
      request.open = false;
      if (request.kind == Request::Kind::events && subscribers_[request.subscriber].asks == ticket)
        subscribers_[request.subscriber].asks.reset();
    }
  }
  void end_session(Process& process) {
    const SessionId session = process.session;
    void_requests(session);
    process.session = random_.chance(0.7) ? ++last_session_ : 0;
    rules_->session_ended(session);
    ++done["sessions ended"];
  }
  void bury(Slot slot) {
    Process& process = processes_[slot];
    process.alive = false;
    process.session = 0;
    census_.process_died(slot);
    std::erase_if(pins_, [slot](const Pin& pin) { return pin.slot == slot; });
    model_.process_died(slot);
    doing_.lets_go = true;
  }
  void die(Slot slot) {
    const SessionId session = processes_[slot].session;
    bury(slot);
    ++done["died"];
    if (session != 0) {
      void_requests(session);
      rules_->session_ended(session);
    }
    std::erase_if(model_.segments, [slot](const auto& item) {
      return item.second.state == State::creating && item.second.owner_slot == slot;
    });
    rules_->process_ended(slot);
  }

  // ------------------------------------------------------------------------------ clock and memory

  std::uint64_t wall_ns() const {
    return 1'700'000'000'000'000'000 +
           static_cast<std::uint64_t>(
               std::chrono::duration_cast<std::chrono::nanoseconds>(now_.time_since_epoch()).count());
  }

  void tick() {
    rules_->tick(now_);
    ticked_ = true;
  }
  void pass(std::chrono::nanoseconds time) {
    now_ += time;
    tick();
    if (time >= milliseconds(100)) {
      for (const EntryNumber entry : rules_->deferred())
        expect(pinned(entry), "no removal waits for pins that have ended");
      lost_nudges_.clear();
    }
    for (const auto& [ticket, request] : requests_) {
      if (!request.open) continue;
      if (request.deadline <= now_ && outside_.heard(ticket) == "nothing")
        expect(request.kind == Request::Kind::create && !outside_.jobs.empty(),
               "nobody waits beyond a deadline but for the memory thread");
    }
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

  void expect(bool condition, const char* what) const {
    if (!condition) FAIL("step ", step_, " of ", kind_.name, ": ", std::string(what));
  }
  void expect(bool condition, const std::string& what) const { expect(condition, what.c_str()); }

  std::map<Serial, Segment> look() const {
    std::map<Serial, Segment> found;
    const std::uint32_t end = memory_map().live->entries_end.load();
    for (EntryNumber entry = 1; entry < end; ++entry) {
      const State state = table_->word(entry).state();
      if (state == State::free) continue;
      const std::uint32_t flags = table_->flags(entry);
      const auto has = [flags](RecordFlag flag) { return (flags & shm::flag_bit(flag)) != 0; };
      const bool fresh =
          found
              .emplace(table_->serial(entry),
                       Segment{.id = table_->id(entry),
                               .version = table_->version(entry),
                               .entry = entry,
                               .state = state,
                               .location = table_->location(entry).bits(),
                               .size = table_->size(entry),
                               .stored = shm::stored_bytes(table_->size(entry),
                                                           table_->description_size(entry)),
                               .evictable = has(RecordFlag::evictable),
                               .persistent = has(RecordFlag::persistent),
                               .in_slab = has(RecordFlag::in_slab),
                               .is_claim = has(RecordFlag::claim),
                               .is_manifest = shm::Brief::from_bits(table_->brief(entry)).kind ==
                                              shm::Kind::manifest,
                               .keep = shm::keep_of(flags),
                               .owner_slot = table_->owner_slot(entry),
                               .token = table_->token(entry),
                               .reason = shm::reason_of(flags)})
              .second;
      expect(fresh, "no serial is used twice");
    }
    return found;
  }
  shm::IndexMap memory_map() const { return const_cast<IndexMemory&>(memory_).map(); }

  static bool same(const Segment& a, const Segment& b) {
    return std::tie(a.version, a.entry, a.location, a.size, a.stored, a.evictable, a.persistent, a.in_slab,
                    a.is_claim, a.is_manifest, a.owner_slot, a.token) ==
               std::tie(b.version, b.entry, b.location, b.size, b.stored, b.evictable, b.persistent,
                        b.in_slab, b.is_claim, b.is_manifest, b.owner_slot, b.token) &&
           a.id == b.id;
  }
  bool pinned(EntryNumber entry) const {
    return std::ranges::any_of(pins_, [entry](const Pin& pin) { return pin.entry == entry; });
  }

  void check() {
    hear_events();
    hear_answers();
    const auto found = look();
    compare(found);
    check_retention(found);
    check_pins(found);
    check_accounts(found);
    check_requests();
    stayed_before_.clear();
    for (const auto& [serial, segment] : model_.segments)
      if (segment.state == State::sealed && segment.evictable && may_stay(serial))
        stayed_before_.insert(serial);
  }

  // Whoever subscribes to all hears of each seal in order, and of nothing that goes without a reason
  // that is true at that moment.
  void hear_events() {
    warmest_dropped_ = 0;
    auto sealed = seals_.begin();
    for (const StoreEvent& event : new_events()) {
      const Segment* const known = model_.find(event.serial);
      if (event.kind == EventKind::sealed) {
        expect(sealed != seals_.end() && *sealed == event.serial, "seals are told in order");
        ++sealed;
        expect(known != nullptr && known->id == event.id && known->version == event.version,
               "as what they are");
        model_.sealed(event.serial);
        continue;
      }
      expect(event.kind == EventKind::removed, "nothing else happens");
      expect(known != nullptr && known->id == event.id && known->version == event.version &&
                 model_.readable(event.id, event.version) == event.serial,
             "what is removed could be read");
      check_removal(event.serial, event.cause);
      Segment& segment = model_.segments.at(event.serial);
      const bool leaves_word =
          event.cause == RemovalCause::evicted || event.cause == RemovalCause::superseded;
      model_.gone(event.serial);
      segment.end.reset();
      segment.state = leaves_word ? State::tombstone : State::removing;
      segment.reason = event.cause == RemovalCause::evicted      ? shm::Reason::evicted
                       : event.cause == RemovalCause::superseded ? shm::Reason::superseded
                                                                 : shm::Reason::none;
      ++done[std::string("gone: ") +
             std::array{"?", "removed", "kept_newer", "expired", "evicted", "superseded"}.at(
                 static_cast<std::size_t>(event.cause))];
    }
    expect(sealed == seals_.end(), "each seal is told");
  }
  void check_removal(Serial serial, RemovalCause cause) {
    const Segment& segment = model_.segments.at(serial);
    switch (cause) {
      case RemovalCause::removed:
        expect(asked_to_go_.contains(serial), "what is removed was asked to go");
        return;
      case RemovalCause::superseded:
        expect(taken_now_.contains(serial), "what is superseded was copied or taken");
        return;
      case RemovalCause::kept_newer:
        if (!model_.surplus(segment)) {
          std::string t = "DBG keep " + segment.id + " v" + std::to_string(segment.version) + " keep_of " + std::to_string(model_.keep_of(segment.id)) + " shelf";
          for (auto& [v, x] : model_.shelves[segment.id]) t += " " + std::to_string(v) + ":" + std::to_string(model_.segments.at(x).keep);
          for (auto& x : sealed_now_) t += " SEALED " + x.id + " v" + std::to_string(x.version)+ " k " + std::to_string(x.keep);
          t += " keep_of " + doing_.keep_of;
          expect(false, t);
        }
        expect(!pinned(segment.entry), "and nothing pinned");
        break;
      case RemovalCause::expired:
        expect(segment.end && segment.end->not_before <= now_, "nothing expires early");
        break;
      case RemovalCause::evicted:
        expect(segment.evictable, "only what is evictable is dropped");
        expect(!pinned(segment.entry), "and nothing pinned");
        warmest_dropped_ = std::max(warmest_dropped_, segment.rank);
        break;
      default:
        expect(false, "a known cause");
    }
    expect(!must_stay(serial), "what is held, listed or persistent stays");
  }

  std::vector<StoreEvent> new_events() {
    std::vector<StoreEvent> events;
    while (true) {
      const Ticket ticket{0, ++last_number_, 0};
      rules_->read_events(ticket, "", events_heard_, now_, now_);
      const Answer told = std::move(outside_.answers.back());
      outside_.answers.pop_back();
      expect(told.ticket == ticket && told.kind == Answer::Kind::told, "told at once");
      expect(told.missed == 0, "nothing is missed by who listens always");
      expect(told.cursor == events_heard_ + told.events.size(), "and nothing is told twice");
      if (told.events.empty()) break;
      for (const StoreEvent& event : told.events) {
        log_[events_heard_++] = event;
        events.push_back(event);
      }
    }
    while (!log_.empty() && log_.begin()->first + 2 * kind_.options.events_max < events_heard_)
      log_.erase(log_.begin());
    return events;
  }

  // Each request one answer, and the answer true.
  void hear_answers() {
    for (const Answer& answer : outside_.answers) {
      const auto found = requests_.find(answer.ticket);
      expect(found != requests_.end(), "an answer has a request");
      Request& request = found->second;
      expect(request.open, "a request is answered once, and only to who still asks");
      request.open = false;
      switch (answer.kind) {
        case Answer::Kind::created:
          expect(request.kind == Request::Kind::create, "created for who creates");
          break;
        case Answer::Kind::awaited: {
          expect(request.kind == Request::Kind::await, "awaited by who awaits");
          bool true_answer = request.complete || satisfied(request);
          for (const Segment& segment : sealed_now_)
            true_answer = true_answer || (segment.id == request.id &&
                                          request.wish.satisfied_by(segment.version));
          expect(true_answer, "what was waited for is there");
          break;
        }
        case Answer::Kind::waited:
          expect(request.kind == Request::Kind::wait, "waited for several");
          expect(request.complete || request.deadline <= now_, "enough is there, or time is up");
          if (!std::ranges::equal(answer.ready, request.ready)) {
            std::string t = "DBG answered";
            for (auto r : answer.ready) t += " " + std::to_string(r);
            t += " model";
            for (auto r : request.ready) t += " " + std::to_string(r);
            t += " needed " + std::to_string(request.needed) + " complete " + std::to_string(request.complete) + " late " + std::to_string(request.deadline <= now_) + " items";
            for (auto& [id, w] : request.items) t += " " + id + " e" + std::to_string(w.exact) + " a" + std::to_string(w.after);
            for (auto& x : sealed_now_) t += " SEALED " + x.id + " v" + std::to_string(x.version);
            expect(false, t);
          }
          break;
        case Answer::Kind::claimed:
          expect(request.kind == Request::Kind::claim, "claimed by who claims");
          break;
        case Answer::Kind::there:
          expect(request.kind == Request::Kind::claim, "there for who claims");
          check_there(request, answer);
          break;
        case Answer::Kind::told:
          expect(request.kind == Request::Kind::events, "told who subscribed");
          check_told(request, answer);
          break;
        case Answer::Kind::scoped:
          expect(false, "nobody begins or ends a scope here");
          break;
        case Answer::Kind::refused:
          check_refusal(request, answer.error);
          break;
      }
    }
    outside_.answers.clear();
  }
  void check_there(const Request& request, const Answer& answer) const {
    const Segment* segment = model_.find(answer.serial);
    for (const Segment& now : sealed_now_)
      if (segment == nullptr && now.entry == answer.entry && now.version == answer.version)
        segment = &now;
    expect(segment != nullptr && segment->id == request.id && segment->version == answer.version &&
               (request.claim.version == 0 || request.claim.version == answer.version),
           "what is there is what was claimed");
  }
  // Each event with the prefix once, in order; or word of how many were missed.
  void check_told(const Request& request, const Answer& answer) {
    Subscriber& subscriber = subscribers_[request.subscriber];
    subscriber.asks.reset();
    const std::uint64_t first = subscriber.cursor + answer.missed;
    const std::uint64_t forgotten =
        events_heard_ - std::min<std::uint64_t>(events_heard_, kind_.options.events_max);
    if (answer.missed > 0)
      expect(first <= std::max(events_born_, forgotten), "only what is forgotten is missed");
    expect(answer.cursor >= first && answer.cursor <= events_heard_, "a cursor goes on");
    auto told = answer.events.begin();
    for (auto event = log_.lower_bound(first); event != log_.end() && event->first < answer.cursor;
         ++event) {
      if (!event->second.id.starts_with(subscriber.prefix)) continue;
      expect(told != answer.events.end() && told->serial == event->second.serial &&
                 told->kind == event->second.kind && told->cause == event->second.cause &&
                 told->id == event->second.id,
             "each event is told once and in order");
      ++told;
    }
    expect(told == answer.events.end(), "and nothing else");
    if (answer.events.empty() && answer.missed == 0)
      expect(request.deadline <= now_, "nothing is told only when time is up");
    subscriber.cursor = answer.cursor;
    done["events told"] += static_cast<int>(answer.events.size());
    done["events missed"] += answer.missed > 0;
  }
  void check_refusal(const Request& request, const Error& error) {
    const auto code = static_cast<Errc>(error.code.value());
    ++done[std::string(errc_name(code))];
    switch (request.kind) {
      case Request::Kind::await:
        expect(code == Errc::timed_out || code == Errc::not_found, "a wait ends at its deadline");
        expect(request.deadline <= now_, "and not before");
        return;
      case Request::Kind::claim:
        if (code == Errc::loader_failed) {
          expect(std::ranges::any_of(failed_claims_,
                                     [&](const auto& failed) {
                                       return failed.first == request.id &&
                                              (request.claim.version == 0 ||
                                               request.claim.version == failed.second);
                                     }),
                 "a claim fails when its maker said why");
          ++done["claims failed"];
        } else {
          expect(code == Errc::timed_out || code == Errc::limit_reached, "a known refusal");
        }
        return;
      case Request::Kind::create:
        break;
      default:
        expect(false, "this is never refused");
    }
    expect(error.detail.find('#') == std::string::npos, "an error speaks of its request");
    if (code == Errc::limit_reached) {
      expect(kind_.limits.entries < 100, "the index is full");
    } else if (code == Errc::store_full && !memory_refused_) {
      refusals_.push_back(request);
    } else {
      const bool of_source = code == Errc::not_found || code == Errc::evicted ||
                             code == Errc::superseded || code == Errc::bad_argument;
      expect(code == Errc::store_full || code == Errc::exists || code == Errc::conflict ||
                 code == Errc::too_large || code == Errc::timed_out ||
                 (of_source && request.segment.take_from != 0),
             "a known refusal");
    }
  }

  void compare(const std::map<Serial, Segment>& found) {
    for (auto known = model_.segments.begin(); known != model_.segments.end();) {
      const auto& [serial, segment] = *known++;
      const auto there = found.find(serial);
      const bool gone = there == found.end();
      if (!gone) {
        expect(same(segment, there->second), "a segment stays what it is");
        expect(segment.state == State::tombstone || segment.keep == there->second.keep,
               "also in how many are kept");
      }
      const State state = gone ? State::free : there->second.state;
      switch (segment.state) {
        case State::tombstone:
          // Explicitly removed, or the oldest of too many.
          expect(gone || (state == State::tombstone && segment.reason == there->second.reason),
                 "a tombstone stays and says why, or is forgotten");
          break;
        case State::removing:
          expect(gone || state == State::removing, "what is removed goes");
          if (gone) expect(!pinned(segment.entry), "nothing pinned goes");
          break;
        default:
          expect(state == segment.state, "what can be read, or is being made, stays");
      }
      if (gone) model_.forget(serial);
    }
    for (const Serial serial : must_go_) {
      expect(listed_now(serial) || !found.contains(serial) || found.at(serial).state != State::sealed,
             "what is removed is out of sight");
    }
    bool evictable_left = false;
    for (const auto& [serial, segment] : found) {
      const auto known = model_.segments.find(serial);
      expect(known != model_.segments.end(), "nothing is there that nobody made");
      if (segment.state != State::sealed || !segment.evictable || pinned(segment.entry) ||
          may_stay(serial))
        continue;
      evictable_left = true;
      if (!moved_midway_ && !stayed_before_.contains(serial) && !listed_now(serial))
        expect(known->second.rank >= warmest_dropped_, "the coldest goes first");
    }
    const std::uint64_t room = rules_->usage().warm + rules_->usage().ungrown;
    const bool settled = outside_.jobs.empty() && sealed_now_.empty() && !moved_midway_;
    for (const Request& request : refusals_)
      // What was sealed since, or let go by the tick behind it, may have made room again.
      if (settled && !turn_ended_ && (room >= needed(request) || evictable_left))
        expect(false, "full is full: " + std::to_string(needed(request)) + " bytes for " +
                          request.id + ", " + std::to_string(room) + " free" +
                          (evictable_left ? ", and something to drop" : ""));
    refusals_.clear();
    // What a tick can do, it has done.
    if (ticked_ && settled) {
      for (const auto& [ticket, request] : requests_)
        if (request.open && request.kind == Request::Kind::create)
          if (!(room < needed(request) && !evictable_left)) { expect(false, "who waits has a reason to DBG room " + std::to_string(room) + " needed " + std::to_string(needed(request)) + " ev " + std::to_string(evictable_left) + " packed " + std::to_string(request.segment.packed) + " claim " + std::to_string(request.claim_serial) + " turn " + std::to_string(turn_ended_) + " dl " + std::to_string((request.deadline - now_).count())); }
    }
  }

  // What was put meanwhile for who waited may be a manifest, and gone again.
  bool listed_now(Serial serial) const {
    return std::ranges::any_of(sealed_now_, [serial](const Segment& segment) {
      return std::ranges::any_of(segment.members,
                                 [serial](const auto& member) { return member.serial == serial; });
    });
  }

  // What holds what, and that nothing stays for no reason.
  void check_retention(const std::map<Serial, Segment>& found) {
    for (const auto& [serial, segment] : model_.segments) {
      if (segment.state != State::sealed) continue;
      const EntryNumber entry = segment.entry;
      expect(model_.readable(segment.id, segment.version) == serial, "what is sealed can be read");
      std::vector<Slot> holders;
      if (const auto held = model_.holds.find(serial); held != model_.holds.end())
        for (const auto& [slot, count] : held->second) holders.push_back(slot);
      expect(rules_->leases(entry) == holders, "who holds is known");
      const auto manifests = model_.listed_by(serial, is_there());
      expect(rules_->manifests_of(entry) == manifests.size(), "and so is what lists");
      const bool held = !holders.empty() || !manifests.empty();
      expect(table_->has_flag(entry, RecordFlag::held) == held, "also to who comes after us");
      const bool stays = held || segment.persistent;

      if (segment.end) {
        if (const auto expiry = rules_->expiry(entry))
          expect(*expiry >= segment.end->not_before &&
                     (*expiry <= segment.end->by || *expiry <= now_),
                 "a segment's time is what was asked for");
        else
          expect(segment.end->not_before <= now_, "whose time is up was late");
        if (ticked_ && segment.end->by <= now_) expect(stays, "whose time is up goes");
      } else {
        expect(!rules_->expiry(entry), "who asked for no end has none");
      }

      if (stays || !model_.surplus(segment) || model_.lenient.contains(segment.id)) continue;
      if (pinned(entry)) {
        expect(table_->word(entry).wanted(), "the last pin of what should go is asked for");
        ++done["surplus pinned"];
      } else {
        expect(lost_nudges_.contains(entry), "no more versions stay than are to be kept");
      }
    }
    for (const auto& [id, shelf] : model_.shelves)
      for (const auto& [version, serial] : shelf)
        expect(found.contains(serial) && found.at(serial).state == State::sealed,
               "what can be read is sealed");
  }

  void check_pins(const std::map<Serial, Segment>& found) const {
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
  void check_accounts(const std::map<Serial, Segment>& found) {
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
      creating += segment.state == State::creating && !segment.is_claim;
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
      if (arena_.backed(page) != (page_of_[page] != Page::cold && page_of_[page] != Page::growing))
        expect(false, "memory is where the accounts say");

    expect(usage.segments == sealed, "counted segments");
    expect(usage.ids == ids.size(), "counted ids");
    expect(usage.removing == removing, "counted removals");
    expect(usage.tombstones == tombstones, "counted tombstones");
    expect(tombstones <= kind_.options.tombstones_max, "no more tombstones than allowed");
    std::uint64_t open_creates = 0;
    std::uint64_t open_waits = 0;
    std::uint64_t open_claims = 0;
    std::uint64_t open_subscriptions = 0;
    for (const auto& [ticket, request] : requests_) {
      if (!request.open) continue;
      switch (request.kind) {
        case Request::Kind::create:
          ++open_creates;
          break;
        case Request::Kind::await:
          ++open_waits;
          break;
        case Request::Kind::wait:
          open_waits += request.items.size() - request.ready.size();
          break;
        case Request::Kind::claim:
          ++open_claims;
          break;
        case Request::Kind::events:
          ++open_subscriptions;
          break;
      }
    }
    expect(usage.creating == creating + open_creates, "counted creations");
    expect(usage.waiters == open_waits, "counted waiters");
    expect(usage.claims_waiting == open_claims, "counted claims that wait");
    expect(usage.subscribers_waiting == open_subscriptions, "counted subscribers");
    expect(usage.parked >= open_creates && usage.parked <= open_creates + outside_.jobs.size(),
           "counted creates that wait");
    expect(usage.events == events_heard_, "counted events");
  }

  void check_requests() {
    const auto wakeup = rules_->next_wakeup();
    for (auto request = requests_.begin(); request != requests_.end();) {
      const Request& asked = request->second;
      if (!asked.open) {
        // Old requests may be sent again; the oldest are forgotten.
        request = requests_.size() > 60 ? requests_.erase(request) : std::next(request);
        continue;
      }
      ++request;
      if (asked.kind == Request::Kind::create) {
        if (outside_.jobs.empty()) expect(wakeup.has_value(), "who waits for room is looked after");
        expect(asked.claim_serial == 0 || model_.find(asked.claim_serial) != nullptr,
               "what fulfils a claim waits no longer than the claim");
        continue;
      }
      if (!(wakeup && *wakeup <= asked.deadline)) expect(false, "DBG kind " + std::to_string((int)asked.kind) + " dl " + std::to_string((asked.deadline - now_).count()) + " wk " + (wakeup ? std::to_string((*wakeup-now_).count()) : "-") + " ticket " + std::to_string(asked.ticket.number) + " s " + std::to_string(asked.ticket.session) + " id " + asked.id);
      if (asked.kind == Request::Kind::await)
        expect(!satisfied(asked) || was_buried(asked), "nobody waits for what is there");
      if (asked.kind == Request::Kind::wait) expect(!asked.complete, "nor when enough is there");
      if (asked.kind == Request::Kind::claim) {
        expect(model_.readable(asked.id, asked.claim.version) == 0, "nor claims what is there");
        if (ticked_)
          expect(is_being_made(asked.id, asked.claim.version), "nor waits for who makes nothing");
      }
    }
  }
  // A wait for whatever comes next is not ended by the death of the versions before.
  bool was_buried(const Request& request) const {
    for (const auto& [serial, segment] : model_.segments)
      if (segment.id == request.id && segment.state == State::sealed &&
          request.wish.satisfied_by(segment.version))
        return false;
    return true;
  }

  // ----------------------------------------------------------------------------------- restarts

  void recover() {
    ++done["killed"];
    if (getenv("DBG")) fprintf(stderr, "kill step %d now %ld\n", step_, now_.time_since_epoch().count());
    calls_to_kill_ = 0;
    may_move_midway_ = false;
    std::set<Serial> in_fulfilment;
    std::set<std::pair<std::string, std::uint64_t>> in_take_over;
    for (auto& [ticket, request] : requests_) {
      if (!request.open) continue;
      request.open = false;
      in_fulfilment.insert(request.claim_serial);
      if (request.segment.take_from != 0)
        in_take_over.emplace(request.id, request.segment.take_from);
    }
    for (Subscriber& subscriber : subscribers_) subscriber.asks.reset();
    outside_.answers.clear();
    refusals_.clear();
    census_.accesses.clear();
    nudges_.clear();
    lost_nudges_.clear();
    ticked_ = false;
    rules_.reset();
    std::set<Serial> flagged;  // what the former daemon left word of that it is held
    for (EntryNumber entry = 1; entry < memory_map().live->entries_end.load(); ++entry)
      if (SegmentTable::readable(table_->word(entry).state()) &&
          table_->has_flag(entry, RecordFlag::held))
        flagged.insert(table_->serial(entry));
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
    const auto holds_before = model_.holds;
    if (!doing_.lets_go)
      for (const auto& [serial, holders] : model_.holds)
        if (const Segment* segment = model_.find(serial);
            segment != nullptr && segment->state == State::sealed)
          expect(flagged.contains(serial) || !doing_.sealing.empty() || doing_.removing ||
                     expects_to_go(serial),
                 "the next daemon learns of each hold");
    for (Slot slot = 1; slot < processes_count; ++slot)
      if (random_.chance(0.1)) bury(slot);
    std::vector<bool> living(processes_count);
    for (Slot slot = 1; slot < processes_count; ++slot) living[slot] = processes_[slot].alive;
    if (random_.chance(0.3)) now_ += milliseconds(random_.below(3000));

    for (bool adopted = false; !adopted;) {
      // The next daemon may be killed as well, while it takes over.
      calls_to_kill_ = random_.chance(0.2) ? 1 + random_.below(4) : 0;
      try {
        table_ = std::make_unique<SegmentTable>(memory_.table());
        rules_ = std::make_unique<Rules>(*table_, census_, outside_, kind_.options);
        events_born_ = memory_map().live->next_event.load();
        const std::uint64_t unsound = rules_->adopt(
            table_->recover(), living, now_, wall_ns(), [this](EntryNumber manifest) {
              const Segment* const known = model_.find(table_->serial(manifest));
              return known == nullptr ? std::vector<shm::ManifestMember>{} : known->members;
            });
        expect(unsound == 0, "all segments are sound");
        adopted = true;
      } catch (const Kill&) {
        ++done["killed while taking over"];
      }
    }
    calls_to_kill_ = 0;
    for (const Extent& extent : rules_->adopt_memory(arena_.touched())) arena_.punch(extent);
    for (Process& process : processes_)
      process.session = process.alive && &process != &processes_[0] ? ++last_session_ : 0;
    expect(events_born_ >= events_heard_, "cursors go on");
    events_heard_ = events_born_;
    log_.clear();
    (void)new_events();

    // What was under way may have happened or not; all else must be as it was.
    const auto found = look();
    const auto was_pinned = [&](EntryNumber entry) {
      return std::ranges::any_of(held, [entry](const Pin& pin) { return pin.entry == entry; });
    };
    const auto certainly_stays = [&](Serial serial) {
      if (model_.segments.at(serial).persistent) return true;
      if (const auto holders = holds_before.find(serial); holders != holds_before.end())
        for (const auto& [slot, count] : holders->second)
          if (living[slot]) return true;
      // A manifest that is there now was there all the time.
      for (const auto& [manifest, segment] : found)
        if (segment.state == State::sealed && !doing_.sealing.contains(manifest))
          if (const Segment* known = model_.find(manifest))
            for (const auto& member : known->members)
              if (member.serial == serial) return true;
      return false;
    };
    for (const auto& [serial, segment] : model_.segments) {
      const auto there = found.find(serial);
      const bool gone = there == found.end();
      const State state = gone ? State::free : there->second.state;
      if (!gone) expect(same(segment, there->second), "a segment survives as it was");
      if (!gone && state != State::tombstone && !doing_.sealing.contains(serial) &&
          doing_.keep_of != segment.id)
        expect(segment.keep == there->second.keep, "and keeps as many");
      const bool lives = living[segment.owner_slot];
      const bool explicitly =
          (doing_.removing && doing_.removing(segment, serial)) || doing_.superseding == serial ||
          in_take_over.contains({segment.id, segment.version});
      const bool on_its_own =
          !certainly_stays(serial) &&
          ((segment.evictable && !was_pinned(segment.entry)) ||
           (may_be_surplus(segment) && !pinned(segment.entry)) ||
           (segment.end && segment.end->not_before <= now_));
      switch (segment.state) {
        case State::sealed:
          if (doing_.sealing.contains(serial) && state != State::sealed) {
            expect(explicitly || on_its_own || state == (lives ? State::creating : State::free),
                   "what was being sealed is sealed, or still being made");
            break;
          }
          if (!(state == State::sealed || explicitly || on_its_own)) expect(false, "a sealed segment survives DBG " + std::to_string(serial) + " " + segment.id + " v" + std::to_string(segment.version) + " keep " + std::to_string(segment.keep) + " stays " + std::to_string(certainly_stays(serial)) + " surplus " + std::to_string(may_be_surplus(segment)) + " end " + std::to_string(segment.end ? (segment.end->not_before - now_).count() : -1) + " now " + std::to_string((int)state) + " ev " + std::to_string(segment.evictable) + " pin " + std::to_string(was_pinned(segment.entry)) + " sealing " + std::to_string(doing_.sealing.contains(serial)) + " persistent " + std::to_string(segment.persistent) + " held " + std::to_string(holds_before.contains(serial)) + " lets_go " + std::to_string(doing_.lets_go));
          break;
        case State::creating:
          if (in_fulfilment.contains(serial) && gone) break;
          expect(state == (lives ? State::creating : State::free),
                 "what a living process makes survives, and nothing else");
          break;
        case State::removing:
          expect(state == (pinned(segment.entry) ? State::removing : State::free),
                 "what was removed goes with its last pin");
          break;
        default:
          expect(gone || state == State::tombstone, "a tombstone stays or goes");
      }
    }
    for (const auto& [serial, segment] : found) {
      if (model_.segments.contains(serial) || doing_.aborting.contains(serial)) continue;
      expect(segment.state == State::creating || segment.state == State::tombstone ||
                 (segment.state == State::removing && in_fulfilment.contains(serial)),
             "nothing is sealed that nobody sealed");
    }
    adopt_model(found, flagged, living);
    rules_->begin();
    begin_step();
    check();
  }
  bool expects_to_go(Serial serial) const {
    const Segment& segment = model_.segments.at(serial);
    return segment.evictable || may_be_surplus(segment) || segment.end || taken_now_.contains(serial);
  }
  // Whether some version of the id, perhaps not the newest any more, wants fewer.
  bool may_be_surplus(const Segment& segment) const {
    std::uint32_t newer = 0;
    std::uint32_t least = kind_.options.keep != 0 ? kind_.options.keep : shm::keep_all;
    for (const auto& [serial, other] : model_.segments) {
      if (other.id != segment.id) continue;
      newer += other.version > segment.version && other.state != State::creating;
      if (other.keep != 0) least = std::min(least, other.keep);
    }
    return newer >= least;
  }
  // From here on the model is what was found, and what was known of it.
  void adopt_model(const std::map<Serial, Segment>& found, const std::set<Serial>& flagged,
                   const std::vector<bool>& living) {
    const auto before = std::exchange(model_.segments, found);
    model_.holds.clear();
    for (auto& [serial, segment] : model_.segments) {
      const auto known = before.find(serial);
      if (known != before.end()) {
        segment.members = known->second.members;
        segment.ttl_ns = in_whole_seconds(known->second.ttl_ns);
        if (segment.state == State::sealed && known->second.end) {
          segment.end = known->second.end;
          segment.end->by = segment.end->not_before + std::chrono::seconds(1);
        }
      } else {
        segment.ttl_ns = table_->expires(segment.entry) * second_ns;
      }
      if (segment.state == State::creating) segment.members.clear();
      if (segment.state == State::sealed && flagged.contains(serial))
        for (Slot slot = 1; slot < processes_count; ++slot)
          if (living[slot]) model_.holds[serial][slot] = 1;
    }
    model_.rebuild_shelves();
  }

  // Everything ends, and all memory is free again but for the slabs that are kept.
  void finish() {
    begin_step();
    may_move_midway_ = false;
    memory_refused_ = false;
    kind_.refusals = 0;
    for (Slot slot = 1; slot < processes_count; ++slot) {
      die(slot);
      check();
      begin_step();
      may_move_midway_ = false;
    }
    for (const auto& [serial, segment] : model_.segments)
      if (segment.state == State::sealed) asked_to_go_.insert(serial);
    rules_->drop_all(false);
    while (!outside_.jobs.empty()) do_job(0, false);
    pass(std::chrono::seconds(100));
    while (!outside_.jobs.empty()) do_job(0, false);
    check();
    for (const auto& [ticket, request] : requests_) expect(!request.open, "nobody waits");
    expect(rules_->usage().used == rules_->usage().slabs, "nothing is used but slabs");
    expect(rules_->usage().slab_items == 0, "which are empty");
    expect(rules_->usage().creating == 0 && rules_->usage().removing == 0, "nothing is under way");
    expect(rules_->usage().segments == 0, "and nothing is left");
    expect(!rules_->next_wakeup(), "and nothing to wait for");
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
  std::uint64_t warmest_dropped_ = 0;
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

RulesOptions room_for(std::uint64_t page_count) {
  return {.capacity_bytes = pages(page_count),
          .address_bytes = pages(page_count * 16),
          .reserve_bytes = 0,
          .keep_warm_bytes = pages(page_count),
          .events_max = 300};
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
  for (const char* what :
       {"created", "sealed", "aborted", "removed", "removed before", "pinned", "repeated", "died",
        "sessions ended", "killed", "killed while taking over", "jobs done", "jobs failed",
        "store_full", "exists", "conflict", "timed_out", "taken over", "superseded", "claimed",
        "claims fulfilled", "claims failed", "claims given up", "held", "let go", "said again",
        "keep said", "cancelled", "waited for several", "let go midway", "surplus pinned",
        "all dropped", "events told", "gone: removed", "gone: kept_newer", "gone: expired",
        "gone: evicted", "gone: superseded"})
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
    options.growth_bytes = pages(8);
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

  TEST_CASE("whatever happens, each byte and each request is accounted for: few versions") {
    RulesOptions options = room_for(300);
    options.keep = 2;
    run({.name = "few versions", .options = options, .limits = limits});
  }
}

}  // namespace
}  // namespace forebay::daemon
