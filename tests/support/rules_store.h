// SPDX-License-Identifier: Apache-2.0
// A store without a world: the rules over memory laid out as an index. The test is its clients, its
// memory thread, its clock, and the end of its daemon.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "store/daemon/rules.h"
#include "tests/support/index_memory.h"
#include "tests/support/outcome.h"
#include "tests/support/rules_surroundings.h"

namespace forebay::test {

inline constexpr shm::Limits small_index{
    .entries = 4096, .lines = 2048, .overflow_lines = 1024, .processes = 16};
// Slots of processes that are there.
inline constexpr std::uint32_t writer = 1;
inline constexpr std::uint32_t reader = 2;

constexpr std::uint64_t nanoseconds(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(time.count());
}

// What is freed stays warm, and nothing is prepared, unless a test says otherwise.
inline daemon::RulesOptions room_for(std::uint64_t page_count) {
  return {.capacity_bytes = pages(page_count),
          .address_bytes = pages(page_count * 16),
          .reserve_bytes = 0,
          .keep_warm_bytes = pages(page_count)};
}

inline constexpr std::uint64_t manifest_brief = shm::Brief{.kind = shm::Kind::manifest}.bits();

class RulesStore {
 public:
  explicit RulesStore(const daemon::RulesOptions& options,
                      const shm::Limits& index_limits = small_index, bool index_is_backed = true)
      : memory(index_limits), options(options) {
    memory.map().stamp->born_ns = wall_ns - nanoseconds(std::chrono::milliseconds(10'900));
    start();
    if (index_is_backed) memory.grow(*table, true);
  }

  // --- requests of a client; what a request refers to does not outlive it

  daemon::Ticket create(daemon::NewSegment segment, daemon::SessionId session = 1) {
    const daemon::Ticket ticket = new_ticket(session);
    std::string frame(segment.id);
    std::vector<std::byte> description(segment.description.begin(), segment.description.end());
    segment.id = frame;
    segment.description = description;
    if (segment.owner_slot == 0) segment.owner_slot = writer;
    rules->create(ticket, segment, now);
    std::fill(frame.begin(), frame.end(), '#');
    std::fill(description.begin(), description.end(), std::byte{0xff});
    return ticket;
  }
  daemon::Ticket await(std::string_view id, daemon::VersionWish wish,
                       std::chrono::nanoseconds timeout, daemon::SessionId session = 1) {
    const daemon::Ticket ticket = new_ticket(session);
    rules->await(ticket, id, wish, now + timeout, now);
    return ticket;
  }
  daemon::Ticket wait(const std::vector<daemon::WaitWish>& items, std::uint32_t needed,
                      std::chrono::nanoseconds timeout, daemon::SessionId session = 1) {
    const daemon::Ticket ticket = new_ticket(session);
    rules->wait(ticket, items, needed, now + timeout, now);
    return ticket;
  }
  daemon::Ticket claim(daemon::NewClaim claim, std::chrono::nanoseconds timeout,
                       daemon::SessionId session = 1) {
    const daemon::Ticket ticket = new_ticket(session);
    if (claim.owner_slot == 0) claim.owner_slot = writer;
    rules->claim(ticket, claim, now + timeout, now);
    return ticket;
  }
  daemon::Ticket read_events(std::string_view prefix, std::optional<std::uint64_t> cursor,
                             std::chrono::nanoseconds timeout, daemon::SessionId session = 1) {
    const daemon::Ticket ticket = new_ticket(session);
    rules->read_events(ticket, prefix, cursor, now + timeout, now);
    return ticket;
  }

  daemon::Ticket begin_scope(std::string_view prefix, std::uint32_t slot = writer,
                             bool repeated = false, daemon::SessionId session = 1) {
    const daemon::Ticket ticket = new_ticket(session);
    rules->begin_scope(ticket, std::string(prefix), slot, repeated);
    return ticket;
  }
  daemon::Ticket end_scope(std::string_view prefix, std::uint32_t slot = writer,
                           bool repeated = false, daemon::SessionId session = 1) {
    const daemon::Ticket ticket = new_ticket(session);
    rules->end_scope(ticket, std::string(prefix), slot, repeated);
    return ticket;
  }
  // Lets all scopes that have ended become empty.
  void empty_scopes() {
    while (rules->usage().scopes_ending > 0) rules->tick(now);
    rules->tick(now);
  }
  std::uint64_t removed(daemon::Ticket ticket) const {
    const std::vector<Answer> answers = outside.to(ticket);
    REQUIRE(answers.size() == 1);
    REQUIRE(answers[0].kind == Answer::Kind::scoped);
    return answers[0].removed;
  }

  // Created, with its memory, and sealed.
  Answer put(const daemon::NewSegment& segment) {
    const Answer made = made_by(create(segment));
    seal(made, segment.owner_slot == 0 ? writer : segment.owner_slot);
    return made;
  }
  // The one answer to a create that must have worked.
  Answer made_by(daemon::Ticket ticket) { return only(ticket, Answer::Kind::created); }
  Answer claimed_by(daemon::Ticket ticket) { return only(ticket, Answer::Kind::claimed); }
  void seal(const Answer& made, std::uint32_t slot = writer) { REQUIRE(try_seal(made, slot) == "ok"); }
  std::string try_seal(const Answer& made, std::uint32_t slot = writer) {
    const auto members = manifests_.find(made.serial);
    return outcome(rules->seal(made.entry, made.serial, slot, false, wall_ns, now,
                               members == manifests_.end() ? std::vector<shm::ManifestMember>{}
                                                           : members->second));
  }
  std::string abort(const Answer& made, std::string_view why = {}, std::uint32_t slot = writer) {
    return outcome(rules->abort(made.entry, made.serial, slot, false, why));
  }

  static shm::ManifestMember member(std::string_view id, const Answer& segment) {
    return {std::string(id), segment.version, segment.serial};
  }
  // A manifest that is not sealed yet.
  Answer make_manifest(daemon::NewSegment segment, std::vector<shm::ManifestMember> members) {
    segment.brief = manifest_brief;
    if (segment.size == 0) segment.size = page_bytes;
    const Answer made = made_by(create(segment));
    manifests_[made.serial] = std::move(members);
    return made;
  }
  Answer put_manifest(const daemon::NewSegment& segment,
                      std::vector<shm::ManifestMember> members) {
    const Answer made = make_manifest(segment, std::move(members));
    seal(made);
    return made;
  }

  std::string heard(daemon::Ticket ticket) const { return outside.heard(ticket); }
  std::string detail(daemon::Ticket ticket) const {
    const std::vector<Answer> answers = outside.to(ticket);
    REQUIRE(answers.size() == 1);
    return answers[0].error.detail;
  }
  std::vector<std::uint32_t> ready(daemon::Ticket ticket) const {
    const std::vector<Answer> answers = outside.to(ticket);
    REQUIRE(answers.size() == 1);
    REQUIRE(answers[0].kind == Answer::Kind::waited);
    return answers[0].ready;
  }
  Answer told(daemon::Ticket ticket) const {
    const std::vector<Answer> answers = outside.to(ticket);
    REQUIRE(answers.size() == 1);
    REQUIRE(answers[0].kind == Answer::Kind::told);
    return answers[0];
  }

  // --- processes

  void pin(const Answer& segment, std::uint32_t slot = reader) {
    census.count(segment.entry, slot).fetch_add(1);
  }
  void unpin(const Answer& segment, std::uint32_t slot = reader) {
    census.count(segment.entry, slot).fetch_sub(1);
  }
  // As a client does it: with a nudge, if one is wanted.
  void release(const Answer& segment, std::uint32_t slot = reader) {
    if (shm::release_pin(memory.map().entries[segment.entry], census.count(segment.entry, slot)))
      rules->nudge(segment.entry);
  }
  void die(std::uint32_t slot) {
    census.process_died(slot);
    rules->process_ended(slot);
  }

  // --- what the memory thread and the clock do

  void do_job(std::size_t which = 0, const std::error_code& error = {}) {
    const daemon::MemoryJob job = outside.jobs.at(which);
    outside.jobs.erase(outside.jobs.begin() + static_cast<std::ptrdiff_t>(which));
    if (!error)
      for (const shm::Range& range : job.index_ranges)
        REQUIRE(memory.reserve(range.offset, range.bytes));
    rules->memory_done(job.number, error, now);
  }
  void do_jobs() {
    while (!outside.jobs.empty()) do_job();
  }
  void pass(std::chrono::nanoseconds time) {
    now += time;
    wall_ns += nanoseconds(time);
    rules->tick(now);
  }

  // A daemon that follows one that was killed; what has memory is `touched`.
  std::uint64_t restart(const std::vector<bool>& living,
                        const std::vector<shm::Range>& touched = {}) {
    outside.jobs.clear();
    start();
    const std::uint64_t unsound =
        rules->adopt(table->recover(), living, now, wall_ns, [this](daemon::EntryNumber manifest) {
          const auto members = manifests_.find(table->serial(manifest));
          return members == manifests_.end() ? std::vector<shm::ManifestMember>{}
                                             : members->second;
        });
    rules->adopt_memory(touched);
    return unsound;
  }

  shm::State state(const Answer& segment) const { return table->word(segment.entry).state(); }
  bool wanted(const Answer& segment) const { return table->word(segment.entry).wanted(); }
  bool finds(std::string_view id, std::uint64_t version = 0) const {
    const auto entry = rules->find(id, version);
    return entry && daemon::SegmentTable::readable(table->word(*entry).state());
  }
  // The readable versions of an id, oldest first: "1 2 5".
  std::string versions(std::string_view id) const {
    std::string text;
    for (const daemon::EntryNumber entry : table->family(table->key_of(id))) {
      if (!daemon::SegmentTable::readable(table->word(entry).state())) continue;
      text = std::to_string(table->version(entry)) + (text.empty() ? "" : " ") + text;
    }
    return text;
  }
  // Why a version is not there; none if no tombstone says.
  shm::Reason why_gone(std::string_view id, std::uint64_t version) const {
    const auto entry = table->find_exact(table->key_of(id), version);
    if (!entry || table->word(*entry).state() != shm::State::tombstone) return shm::Reason::none;
    return shm::reason_of(table->flags(*entry));
  }
  bool adds_up() const {
    const daemon::Usage usage = rules->usage();
    return usage.used + usage.warm + usage.growing + usage.ungrown == usage.capacity;
  }

  IndexMemory memory;
  std::unique_ptr<daemon::SegmentTable> table;
  FakeCensus census;
  FakeOutside outside;
  std::unique_ptr<daemon::Rules> rules;
  daemon::TimePoint now{std::chrono::seconds(1000)};
  std::uint64_t wall_ns = 1'700'000'000'000'000'000;
  daemon::RulesOptions options;  // of the next daemon

 private:
  daemon::Ticket new_ticket(daemon::SessionId session) { return {session, ++last_number_, 0}; }
  Answer only(daemon::Ticket ticket, Answer::Kind kind) {
    do_jobs();
    const std::vector<Answer> answers = outside.to(ticket);
    REQUIRE(answers.size() == 1);
    REQUIRE(answers[0].kind == kind);
    return answers[0];
  }
  void start() {
    rules.reset();
    table = std::make_unique<daemon::SegmentTable>(memory.table());
    rules = std::make_unique<daemon::Rules>(*table, census, outside, options);
  }
  std::map<std::uint64_t, std::vector<shm::ManifestMember>> manifests_;  // by serial
  std::uint32_t last_number_ = 0;
};

}  // namespace forebay::test
