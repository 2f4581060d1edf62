// SPDX-License-Identifier: Apache-2.0
// What is made, taken over and removed.
#include "tests/support/rules_campaign.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "tests/support/outcome.h"

namespace forebay::test {

using daemon::NewSegment;
using daemon::SegmentTable;
using daemon::SessionId;
using daemon::Slabs;
using daemon::Ticket;
using daemon::TimePoint;
using shm::State;

RulesCampaign::Request RulesCampaign::some_create(Slot slot) {
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

void RulesCampaign::take(Slot slot) {
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

void RulesCampaign::fulfil(Slot slot) {
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

void RulesCampaign::repeat(Slot slot) {
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

std::uint64_t RulesCampaign::needed(const Request& request) const {
  if (request.segment.take_from != 0) return 0;
  const std::uint64_t stored =
      shm::stored_bytes(request.segment.size, request.description.size());
  return request.segment.packed && Slabs::fits(stored) ? Slabs::slab_bytes(stored)
                                                       : shm::page_align(stored);
}

std::string RulesCampaign::refusal_of_source(const std::string& id, std::uint64_t version, bool takes) const {
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

bool RulesCampaign::is_being_made(const std::string& id, std::uint64_t version) const {
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

std::uint64_t RulesCampaign::highest_version(const std::string& id) const {
  std::uint64_t highest = 0;
  for (const auto& [serial, segment] : model_.segments)
    if (segment.id == id && segment.state != State::removing)
      highest = std::max(highest, segment.version);
  for (const auto& [ticket, request] : requests_)
    if (request.open && request.kind == Request::Kind::create && request.id == id)
      highest = std::max(highest, request.version);
  return highest;
}

bool RulesCampaign::is_being_fulfilled(Serial claim) const {
  return std::ranges::any_of(requests_, [claim](const auto& item) {
    return item.second.open && item.second.claim_serial == claim;
  });
}

void RulesCampaign::send(Request request, SessionId session) {
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
    expect(pins_decide && moved_midway_, "refused as " + refusal + ", not " + heard);
  if (repeats != 0 && refusal.empty() && superseded == nullptr) {
    expect(heard == "created", "a repetition is answered at once");
    expect(outside_.to(ticket)[0].serial == repeats, "with the same segment");
  }
  if (is_new && refusal.empty() && wanted.take_from != 0 && heard == "nothing")
    expect(!outside_.jobs.empty(), "a take-over waits for the index alone");
  if (refusal.empty() && superseded == nullptr && wanted.timeout_ns == 0 && heard == "nothing")
    expect(!outside_.jobs.empty(), "who brought no time waits for the memory thread alone");
}

void RulesCampaign::was_created(const Answer& answer) {
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

void RulesCampaign::seal(Serial serial, Slot slot, std::string expected, bool repeated, bool of_put) {
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

std::vector<shm::ManifestMember> RulesCampaign::some_members() {
  std::vector<shm::ManifestMember> members;
  for (std::uint32_t count = random_.below(4); count > 0; --count) {
    const Serial serial = some_readable();
    if (serial == 0) break;
    const Segment& member = model_.segments.at(serial);
    members.push_back({member.id, member.version, serial + (random_.chance(0.05) ? 1 : 0)});
  }
  return members;
}

void RulesCampaign::seal() {
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

Serial RulesCampaign::any_segment() {
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

void RulesCampaign::abort() {
  if (const auto serial = any_segment(); serial != 0) abort(serial);
}

void RulesCampaign::give_up() {
  std::vector<Serial> claims;
  for (const auto& [serial, segment] : model_.segments)
    if (segment.is_claim && segment.state == State::creating) claims.push_back(serial);
  if (!claims.empty()) abort(claims[one_of(claims)]);
}

void RulesCampaign::abort(Serial serial) {
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

void RulesCampaign::remove() {
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

void RulesCampaign::remove_before() {
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

void RulesCampaign::drop_all() {
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

void RulesCampaign::supersede() {
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

}  // namespace forebay::test
