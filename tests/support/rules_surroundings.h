// SPDX-License-Identifier: Apache-2.0
// What surrounds the rules in a test: pins of made-up processes, memory jobs that are done when the
// test says so, and all answers in the order in which they came.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "store/daemon/outside.h"
#include "store/daemon/pin_census.h"
#include "store/daemon/rules.h"

namespace forebay::test {

inline constexpr std::uint64_t page_bytes = shm::page_bytes;
inline constexpr std::uint64_t second_ns = 1'000'000'000;
constexpr std::uint64_t pages(std::uint64_t count) { return count * page_bytes; }
inline const std::error_code no_memory(ENOSPC, std::system_category());

// The pins of processes that exist only here. Readers pin through the protocol that clients use.
class FakeCensus : public daemon::PinCensus {
 public:
  using Slot = std::uint32_t;

  bool pinned(daemon::EntryNumber entry) override {
    if (before_look) before_look();
    return is_pinned(entry);
  }
  std::vector<daemon::PinHolder> holders(daemon::EntryNumber entry) override {
    return holders_of_all([entry](daemon::EntryNumber other) { return other == entry ? 1U : 0U; });
  }
  std::vector<daemon::PinHolder> holders_of_all(
      const std::function<std::uint64_t(daemon::EntryNumber)>& size_of) override {
    std::map<Slot, daemon::PinHolder> holders;
    for (const auto& [where, count] : counts_) {
      if (count.load() == 0) continue;
      daemon::PinHolder& holder = holders[where.second];
      holder.pid = 1000 + where.second;
      holder.name = "process " + std::to_string(where.second);
      holder.pins += count.load();
      holder.bytes += size_of(where.first);
    }
    std::vector<daemon::PinHolder> all;
    for (auto& [slot, holder] : holders) all.push_back(std::move(holder));
    return all;
  }
  void drain_accesses(const std::function<void(daemon::EntryNumber)>& accessed) override {
    for (const daemon::EntryNumber entry : accesses) {
      accessed(entry);
      if (on_access) on_access(entry);
    }
    accesses.clear();
  }

  bool is_pinned(daemon::EntryNumber entry) const {
    const auto first = counts_.lower_bound({entry, 0});
    for (auto count = first; count != counts_.end() && count->first.first == entry; ++count)
      if (count->second.load() != 0) return true;
    return false;
  }
  std::atomic<std::uint32_t>& count(daemon::EntryNumber entry, Slot slot) {
    return counts_[{entry, slot}];
  }
  void process_died(Slot slot) {
    std::erase_if(counts_, [slot](const auto& count) { return count.first.second == slot; });
  }

  std::function<void()> before_look;
  std::vector<daemon::EntryNumber> accesses;  // first pins that the rules have not been told of
  std::function<void(daemon::EntryNumber)> on_access;

 private:
  std::map<std::pair<daemon::EntryNumber, Slot>, std::atomic<std::uint32_t>> counts_;
};

struct Answer {
  enum class Kind { created, refused, awaited, waited, claimed, there, told, scoped, transferred };
  daemon::Ticket ticket;
  Kind kind{};
  daemon::EntryNumber entry = daemon::no_entry;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  shm::Location location{};
  bool sealed_before = false;
  Error error{};
  std::vector<std::uint32_t> ready = {};
  std::vector<daemon::StoreEvent> events = {};
  std::uint64_t cursor = 0;
  std::uint64_t missed = 0;
  std::uint64_t removed = 0;
};

// Which pages of an arena have memory.
class FakeArena {
 public:
  explicit FakeArena(std::uint64_t address_bytes) : backed_(address_bytes / shm::page_bytes) {}

  void punch(const daemon::Extent& extent) { set(extent, false); }
  void grow(const daemon::Extent& extent) { set(extent, true); }
  bool backed(std::size_t page) const { return backed_[page]; }
  std::size_t pages() const { return backed_.size(); }
  std::uint64_t backed_bytes() const {
    return static_cast<std::uint64_t>(std::count(backed_.begin(), backed_.end(), true)) *
           shm::page_bytes;
  }
  // What a restarted daemon finds.
  std::vector<shm::Range> touched() const {
    std::vector<shm::Range> ranges;
    for (std::size_t page = 0; page < backed_.size(); ++page) {
      if (!backed_[page]) continue;
      const std::uint64_t offset = page * shm::page_bytes;
      if (!ranges.empty() && ranges.back().offset + ranges.back().bytes == offset)
        ranges.back().bytes += shm::page_bytes;
      else
        ranges.push_back({offset, shm::page_bytes});
    }
    return ranges;
  }

 private:
  void set(const daemon::Extent& extent, bool value) {
    const std::uint64_t first = extent.offset / shm::page_bytes;
    for (std::uint64_t page = first; page < first + extent.bytes / shm::page_bytes; ++page)
      backed_.at(page) = value;
  }
  std::vector<bool> backed_;
};

class FakeOutside : public daemon::Outside {
 public:
  void created(daemon::Ticket ticket, const daemon::CreatedSegment& segment) override {
    if (before_call) before_call();
    answers.push_back({.ticket = ticket,
                       .kind = Answer::Kind::created,
                       .entry = segment.entry,
                       .version = segment.version,
                       .serial = segment.serial,
                       .location = segment.location,
                       .sealed_before = segment.sealed_before});
    if (on_created) on_created(Answer(answers.back()));
  }
  void refused(daemon::Ticket ticket, Error error) override {
    if (before_call) before_call();
    answers.push_back(
        {.ticket = ticket, .kind = Answer::Kind::refused, .error = std::move(error)});
  }
  void awaited(daemon::Ticket ticket) override {
    if (before_call) before_call();
    answers.push_back({.ticket = ticket, .kind = Answer::Kind::awaited});
  }
  void waited(daemon::Ticket ticket, std::vector<std::uint32_t> ready) override {
    if (before_call) before_call();
    answers.push_back(
        {.ticket = ticket, .kind = Answer::Kind::waited, .ready = std::move(ready)});
  }
  void claimed(daemon::Ticket ticket, const daemon::ClaimAnswer& answer) override {
    if (before_call) before_call();
    answers.push_back({.ticket = ticket,
                       .kind = answer.yours ? Answer::Kind::claimed : Answer::Kind::there,
                       .entry = answer.entry,
                       .version = answer.version,
                       .serial = answer.serial});
    if (on_created) on_created(Answer(answers.back()));
  }
  void scoped(daemon::Ticket ticket, std::uint64_t removed) override {
    if (before_call) before_call();
    answers.push_back({.ticket = ticket, .kind = Answer::Kind::scoped, .removed = removed});
  }
  void told(daemon::Ticket ticket, const daemon::EventLog::Batch& batch) override {
    if (before_call) before_call();
    answers.push_back({.ticket = ticket,
                       .kind = Answer::Kind::told,
                       .cursor = batch.cursor,
                       .missed = batch.missed});
    for (const daemon::StoreEvent* event : batch.events)
      answers.back().events.push_back(*event);
  }
  void start(daemon::MemoryJob job) override {
    if (before_call) before_call();
    jobs.push_back(std::move(job));
  }
  void start(daemon::CopyJob job) override {
    if (before_call) before_call();
    copies.push_back(std::move(job));
  }
  void start(daemon::FetchJob job) override {
    if (before_call) before_call();
    fetches.push_back(std::move(job));
  }
  void forget(const SpillPlace& place) override { forgotten.push_back(place); }
  void transferred(daemon::Ticket ticket, std::uint64_t done) override {
    if (before_call) before_call();
    answers.push_back({.ticket = ticket, .kind = Answer::Kind::transferred, .removed = done});
  }
  bool same_process(std::uint32_t slot, std::uint32_t other) const override {
    return twins.contains({slot, other}) || twins.contains({other, slot});
  }

  // All answers that a request got.
  std::vector<Answer> to(daemon::Ticket ticket) const {
    std::vector<Answer> found;
    for (const Answer& answer : answers)
      if (answer.ticket == ticket) found.push_back(answer);
    return found;
  }
  // "created", "awaited", …, the name of the error, or "nothing"; more than one answer, all of them.
  std::string heard(daemon::Ticket ticket) const {
    std::string words;
    for (const Answer& answer : to(ticket)) {
      if (!words.empty()) words += " and ";
      words += word(answer);
    }
    return words.empty() ? "nothing" : words;
  }

  static std::string word(const Answer& answer) {
    switch (answer.kind) {
      case Answer::Kind::created:
        return "created";
      case Answer::Kind::awaited:
        return "awaited";
      case Answer::Kind::waited:
        return "waited";
      case Answer::Kind::claimed:
        return "claimed";
      case Answer::Kind::there:
        return "there";
      case Answer::Kind::told:
        return "told";
      case Answer::Kind::scoped:
        return "scoped";
      case Answer::Kind::transferred:
        return "transferred";
      case Answer::Kind::refused:
        return std::string(errc_name(static_cast<Errc>(answer.error.code.value())));
    }
    return "?";
  }

  std::function<void()> before_call;
  std::function<void(const Answer&)> on_created;  // a claim that is the caller's, too
  std::vector<Answer> answers;
  std::vector<daemon::MemoryJob> jobs;  // begun and not reported
  std::vector<daemon::CopyJob> copies;
  std::vector<daemon::FetchJob> fetches;
  std::vector<SpillPlace> forgotten;
  std::set<std::pair<std::uint32_t, std::uint32_t>> twins;
};

}  // namespace forebay::test
