// SPDX-License-Identifier: Apache-2.0
// What is waited for, claimed and told.
#include "tests/support/rules_campaign.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "tests/support/outcome.h"

namespace forebay::test {

using daemon::NewClaim;
using daemon::SessionId;
using daemon::Ticket;
using daemon::VersionWish;
using daemon::WaitWish;
using shm::State;
using std::chrono::milliseconds;

void RulesCampaign::await(SessionId session) {
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

VersionWish RulesCampaign::some_wish() {
  if (random_.chance(0.5)) return {.exact = 1 + random_.below(8)};
  return {.after = random_.below(8)};
}

bool RulesCampaign::satisfied(const Request& request) const {
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

void RulesCampaign::wait(SessionId session) {
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

void RulesCampaign::count_for_waits(const std::string& id, std::uint64_t version) {
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

void RulesCampaign::claim(Slot slot) {
  if (!may_claim()) return;
  Request request;
  request.kind = Request::Kind::claim;
  request.claim.id = some_id();
  if (random_.chance(0.5)) request.claim.version = 1 + random_.below(8);
  // What others make, too.
  std::vector<const Segment*> creating;
  for (const auto& [serial, segment] : model_.segments)
    if (segment.state == State::creating) creating.push_back(&segment);
  if (!creating.empty() && random_.chance(0.6)) {
    const Segment& other = *creating[one_of(creating)];
    request.claim.id = other.id;
    request.claim.version = random_.chance(0.3) ? 0 : other.version;
  }
  request.claim.token = random_.chance(0.9) ? random_.next() | 1U : 0;
  request.claim.owner_slot = slot;
  request.deadline = now_ + milliseconds(random_.chance(0.2) ? 0 : random_.below(4000));
  send_claim(std::move(request), processes_[slot].session);
}

void RulesCampaign::send_claim(Request request, SessionId session) {
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

void RulesCampaign::was_claimed(const Answer& answer) {
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

void RulesCampaign::read_events(SessionId session) {
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

void RulesCampaign::cancel() {
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

void RulesCampaign::cancel_by_token(const Request& request) {
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

}  // namespace forebay::test
