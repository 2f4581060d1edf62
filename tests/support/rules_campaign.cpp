// SPDX-License-Identifier: Apache-2.0
// What processes, the clock and the memory thread do to the rules.
#include "tests/support/rules_campaign.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "tests/support/outcome.h"

namespace forebay::test {

using daemon::EntryNumber;
using daemon::Extent;
using daemon::MemoryJob;
using daemon::Rules;
using daemon::SegmentTable;
using daemon::SessionId;
using shm::Probe;
using shm::State;
using std::chrono::milliseconds;

RulesCampaign::RulesCampaign(const Kind& kind, Random& random)
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

void RulesCampaign::run(int steps) {
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

void RulesCampaign::begin_step() {
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
  may_move_midway_ = random_.chance(0.2);
}

void RulesCampaign::one_step() {
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
      if (process.alive && pins_.size() < 20) get(slot);
      break;
    case 52:
    case 53:
    case 54:
      if (!pins_.empty()) release();
      break;
    case 55:
      give_up();
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

std::string RulesCampaign::some_id() {
  const std::uint32_t number = random_.below(12);
  return number % 4 == 3 ? "an id too long to lie in a record: " + std::to_string(number)
                         : "id " + std::to_string(number);
}

std::uint64_t RulesCampaign::some_size(bool& packed) {
  const std::uint64_t capacity = kind_.options.capacity_bytes;
  packed = random_.chance(0.4);
  if (random_.chance(0.05)) return 0;
  if (packed) return 1 + random_.below(random_.chance(0.7) ? 8 * 1024 : 70 * 1024);
  if (random_.chance(0.03)) return capacity + 1 + random_.below(100'000);
  return 1 + random_.next() % (random_.chance(0.1) ? capacity : capacity / 12);
}

std::uint32_t RulesCampaign::some_keep() {
  const std::uint32_t keep = random_.below(8);
  return keep < 4 ? 0 : keep == 7 ? shm::keep_all : keep - 3;
}

Serial RulesCampaign::some_readable() {
  std::vector<Serial> all;
  for (const auto& [id, shelf] : model_.shelves)
    for (const auto& [version, serial] : shelf) all.push_back(serial);
  return all.empty() ? 0 : all[one_of(all)];
}

void RulesCampaign::get(Slot slot) {
  std::string id = some_id();
  std::uint64_t version = random_.chance(0.5) ? 0 : 1 + random_.below(8);
  if (const Serial known = some_readable(); known != 0 && random_.chance(0.7)) {
    id = model_.segments.at(known).id;
    version = random_.chance(0.2) ? 0 : model_.segments.at(known).version;
  }
  const shm::IndexMap index = memory_.map();
  const shm::Key key = shm::key_of(id, index.stamp->hash_seed);
  EntryNumber seen = daemon::no_entry;
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

bool RulesCampaign::unpin(std::size_t which) {
  const Pin pin = pins_[which];
  pins_.erase(pins_.begin() + static_cast<std::ptrdiff_t>(which));
  return shm::release_pin(memory_.map().entries[pin.entry], census_.count(pin.entry, pin.slot));
}

void RulesCampaign::release() {
  const std::size_t which = one_of(pins_);
  const Pin pin = pins_[which];
  if (!unpin(which)) return;
  // The nudge may get lost with the client.
  if (random_.chance(0.7))
    rules_->nudge(pin.entry);
  else
    lost_nudges_.insert(pin.entry);
}

void RulesCampaign::maybe_let_go_midway() {
  if (!may_move_midway_ || pins_.empty() || !random_.chance(0.3)) return;
  const std::size_t which = one_of(pins_);
  const EntryNumber entry = pins_[which].entry;
  moved_midway_ = true;
  ++done["let go midway"];
  if (unpin(which)) nudges_.push_back(entry);
}

void RulesCampaign::deliver_nudges() {
  may_move_midway_ = false;
  for (const EntryNumber entry : std::exchange(nudges_, {})) rules_->nudge(entry);
}

void RulesCampaign::void_requests(SessionId session) {
  for (auto& [ticket, request] : requests_) {
    if (ticket.session != session) continue;
    request.open = false;
    if (request.kind == Request::Kind::events && subscribers_[request.subscriber].asks == ticket)
      subscribers_[request.subscriber].asks.reset();
  }
}

void RulesCampaign::end_session(Process& process) {
  const SessionId session = process.session;
  void_requests(session);
  process.session = random_.chance(0.7) ? ++last_session_ : 0;
  rules_->session_ended(session);
  ++done["sessions ended"];
}

void RulesCampaign::bury(Slot slot) {
  Process& process = processes_[slot];
  process.alive = false;
  process.session = 0;
  census_.process_died(slot);
  std::erase_if(pins_, [slot](const Pin& pin) { return pin.slot == slot; });
  model_.process_died(slot);
  doing_.lets_go = true;
}

void RulesCampaign::die(Slot slot) {
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

std::uint64_t RulesCampaign::wall_ns() const {
  return 1'700'000'000'000'000'000 +
         static_cast<std::uint64_t>(
             std::chrono::duration_cast<std::chrono::nanoseconds>(now_.time_since_epoch()).count());
}

void RulesCampaign::tick() {
  rules_->tick(now_);
  ticked_ = true;
}

void RulesCampaign::pass(std::chrono::nanoseconds time) {
  now_ += time;
  tick();
  if (time >= milliseconds(100)) {
    for (const EntryNumber entry : rules_->deferred())
      expect(pinned(entry) || moved_midway_, "no removal waits for pins that have ended");
    lost_nudges_.clear();
  }
  for (const auto& [ticket, request] : requests_) {
    if (!request.open) continue;
    if (request.deadline <= now_ && outside_.heard(ticket) == "nothing")
      expect(request.kind == Request::Kind::create && !outside_.jobs.empty(),
             "nobody waits beyond a deadline but for the memory thread");
  }
}

void RulesCampaign::perform(const MemoryJob& job, bool succeeds) {
  for (const Extent& extent : job.arena.punch) arena_.punch(extent);
  if (!succeeds) return;
  for (const Extent& extent : job.arena.grow) arena_.grow(extent);
  for (const shm::Range& range : job.index_ranges)
    expect(memory_.reserve(range.offset, range.bytes).has_value(), "the index is reserved");
}

void RulesCampaign::do_job(std::size_t which, bool fails) {
  const MemoryJob job = outside_.jobs[which];
  outside_.jobs.erase(outside_.jobs.begin() + static_cast<std::ptrdiff_t>(which));
  fails = fails && (!job.arena.grow.empty() || !job.index_ranges.empty());
  perform(job, !fails);
  memory_refused_ = fails;
  expect(arena_.backed_bytes() <= kind_.options.capacity_bytes, "no more memory than allowed");
  rules_->memory_done(job.number, fails ? no_memory : std::error_code(), now_);
  ++done[fails ? "jobs failed" : "jobs done"];
}

void RulesCampaign::maybe_kill() {
  if (calls_to_kill_ > 0 && --calls_to_kill_ == 0) throw Kill{};
}

}  // namespace forebay::test
