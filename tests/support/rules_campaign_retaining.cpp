// SPDX-License-Identifier: Apache-2.0
// What is to stay, and for how long.
#include "tests/support/rules_campaign.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "tests/support/outcome.h"

namespace forebay::test {

using daemon::EntryNumber;
using shm::State;

RulesCampaign::Named RulesCampaign::some_named() {
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

void RulesCampaign::hold(Slot slot) {
  const Named named = some_named();
  if (named.means != 0) model_.hold(named.means, slot);
  const auto entry = rules_->hold(named.id, named.version, named.serial, slot);
  expect(outcome(entry) == (named.means != 0 ? "ok" : named.refusal), "hold says what it did");
  ++done["held"];
}

void RulesCampaign::unhold(Slot slot) {
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

void RulesCampaign::hold_again(Slot slot) {
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

void RulesCampaign::keep() {
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

void RulesCampaign::persist() {
  const Named named = some_named();
  if (named.means != 0) model_.segments.at(named.means).persistent = true;
  const auto entry = rules_->persist(named.id, named.version, named.serial);
  expect(outcome(entry) == (named.means != 0 ? "ok" : named.refusal), "persist says what it did");
}

bool RulesCampaign::must_stay(Serial serial) const {
  return model_.stays(serial, [this](const Segment& manifest) { return pinned(manifest.entry); });
}

std::function<bool(const RulesCampaign::Segment&)> RulesCampaign::is_there() const {
  return [this](const Segment& manifest) {
    return table_->word(manifest.entry).state() == State::removing;
  };
}

}  // namespace forebay::test
