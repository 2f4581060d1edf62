// SPDX-License-Identifier: Apache-2.0
// What a killed daemon leaves, and how all ends.
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
using shm::RecordFlag;
using shm::State;
using std::chrono::milliseconds;

namespace {

// As the record has a time to live.
std::uint64_t in_whole_seconds(std::uint64_t ns) {
  return (ns + second_ns - 1) / second_ns * second_ns;
}

}  // namespace

void RulesCampaign::recover() {
  ++done["killed"];
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
  std::set<Serial> flagged = flagged_as_held();
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
      flagged = flagged_as_held();
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
        expect(state == State::sealed || explicitly || on_its_own, "a sealed segment survives");
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

std::set<Serial> RulesCampaign::flagged_as_held() const {
  std::set<Serial> flagged;
  for (EntryNumber entry = 1; entry < memory_map().live->entries_end.load(); ++entry)
    if (SegmentTable::readable(table_->word(entry).state()) &&
        table_->has_flag(entry, RecordFlag::held))
      flagged.insert(table_->serial(entry));
  return flagged;
}

bool RulesCampaign::expects_to_go(Serial serial) const {
  const Segment& segment = model_.segments.at(serial);
  return segment.evictable || may_be_surplus(segment) || segment.end || taken_now_.contains(serial);
}

bool RulesCampaign::may_be_surplus(const Segment& segment) const {
  std::uint32_t newer = 0;
  std::uint32_t least = kind_.options.keep != 0 ? kind_.options.keep : shm::keep_all;
  for (const auto& [serial, other] : model_.segments) {
    if (other.id != segment.id) continue;
    newer += other.version > segment.version && other.state != State::creating;
    if (other.keep != 0) least = std::min(least, other.keep);
  }
  return newer >= least;
}

void RulesCampaign::adopt_model(const std::map<Serial, Segment>& found, const std::set<Serial>& flagged, const std::vector<bool>& living) {
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

void RulesCampaign::finish() {
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

}  // namespace forebay::test
