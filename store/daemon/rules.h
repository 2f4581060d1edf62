// SPDX-License-Identifier: Apache-2.0
// Rules: what a namespace of the store does with each request. One function a request; no socket,
// no clock, no payload byte.
//
// Answers that can be given at once are return values; those that may have to wait (for memory, for
// room, for a version) come through Outside, sometimes before the call returns. Owned by the
// daemon's thread. After any call, the sum of used, warm, growing and ungrown memory is the capacity
// (I6).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "store/daemon/arena_space.h"
#include "store/daemon/claim_waiters.h"
#include "store/daemon/clock.h"
#include "store/daemon/event_log.h"
#include "store/daemon/expiries.h"
#include "store/daemon/greedy_dual.h"
#include "store/daemon/holds.h"
#include "store/daemon/outside.h"
#include "store/daemon/pin_census.h"
#include "store/daemon/scopes.h"
#include "store/daemon/segment_table.h"
#include "store/daemon/slabs.h"
#include "store/daemon/subscribers.h"
#include "store/daemon/ticket.h"
#include "store/daemon/trace_log.h"
#include "store/daemon/transfers.h"
#include "store/daemon/wait_sets.h"
#include "store/daemon/waiters.h"
#include "store/error.h"
#include "store/shm/manifest.h"

namespace forebay::daemon {

struct RulesOptions {
  std::uint64_t capacity_bytes = 0;
  std::uint64_t address_bytes = 0;    // of the arena
  std::uint64_t reserve_bytes = 0;    // warm memory to keep ahead of demand
  std::uint64_t keep_warm_bytes = 0;  // freed memory above this is given back to the system
  std::uint64_t growth_bytes = 0;     // memory comes in multiples of this, if there is room; 0: pages
  std::size_t tombstones_max = 65536;
  std::size_t events_max = 65536;     // that subscribers can still read
  std::uint32_t keep = 0;             // versions of each id that says nothing else; 0: all
  bool has_tiers = false;
  bool spill_when_full = false;       // else only what somebody asks for goes into a tier
  // Above so much in use, cold segments are copied into a tier ahead of need.
  std::uint64_t clean_above_bytes = 0;
  TraceLog* trace = nullptr;          // outlives the rules
};

// A create request; its texts are the caller's and copied if it has to wait.
struct NewSegment {
  std::string_view id = {};
  std::uint64_t version = 0;  // 0: the next
  std::uint64_t size = 0;
  std::uint64_t brief = 0;
  std::span<const std::byte> description = {};
  bool evictable = false;
  bool persistent = false;
  bool packed = false;  // small, copied by the daemon: may share pages with others
  std::uint64_t timeout_ns = 0;
  std::uint64_t token = 0;
  std::uint32_t owner_slot = 0;
  std::uint32_t writer_uid = 0;
  std::uint32_t keep = 0;       // 0: as the namespace says; shm::keep_all
  std::uint64_t ttl_ns = 0;     // 0: for ever
  std::uint64_t claim = 0;      // token of the claim that it fulfils
  std::uint64_t take_from = 0;  // the version whose memory it takes over
  bool is_claim = false;        // nothing but the right to make the version
};

// What an item of a wait wants.
struct WaitWish {
  std::string_view id = {};
  VersionWish wish;
};

struct Usage {
  std::uint64_t capacity = 0;
  std::uint64_t used = 0;     // by segments and slabs, in whole pages
  std::uint64_t warm = 0;     // free, with memory
  std::uint64_t growing = 0;  // on its way
  std::uint64_t ungrown = 0;  // not yet taken from the system
  std::uint64_t slabs = 0;    // part of used
  std::uint64_t slab_items = 0;
  std::uint64_t segments = 0;
  std::uint64_t ids = 0;
  std::uint64_t creating = 0;
  std::uint64_t removing = 0;
  std::uint64_t tombstones = 0;
  std::uint64_t waiters = 0;
  std::uint64_t parked = 0;  // creates that wait for memory or room
  std::uint64_t claims_waiting = 0;
  std::uint64_t subscribers_waiting = 0;
  std::uint64_t events = 0;  // that ever happened
  std::uint64_t spilled = 0;         // segments whose bytes are in a tier alone
  std::uint64_t spilled_bytes = 0;
  std::uint64_t clean_bytes = 0;     // in memory and in a tier
  std::uint64_t copying_bytes = 0;   // on their way into one
  std::uint64_t fetching_bytes = 0;  // on their way back
  std::uint64_t restoring = 0;       // segments that somebody waits for
  std::uint64_t scopes = 0;         // begun
  std::uint64_t scopes_ending = 0;  // ended, and not empty yet
};

class Rules {
 public:
  Rules(SegmentTable& table, PinCensus& census, Outside& outside, const RulesOptions& options);

  // --- requests

  // Answered by Outside::created or refused, with this ticket.
  void create(Ticket ticket, const NewSegment& segment, TimePoint now);
  // Only the creator's slot may seal or abort. `repeated`: the request may have worked before.
  // `wall_ns` is the time that people read, `now` the rules' own. `members`: what a manifest lists.
  Result<void> seal(EntryNumber entry, std::uint64_t serial, std::uint32_t slot, bool repeated,
                    std::uint64_t wall_ns, TimePoint now = {},
                    std::span<const shm::ManifestMember> members = {});
  // The create of this token is wanted no more, whether it is answered, parked or not known.
  void cancel(std::uint64_t token, std::uint32_t slot);
  // `why`: of a claim, or of what was to fulfil it; what those who wait for it are told.
  Result<void> abort(EntryNumber entry, std::uint64_t serial, std::uint32_t slot, bool repeated,
                     std::string_view why = {});
  // Removes one version (or all: version 0); serial 0: whichever segment it is.
  Result<std::uint64_t> remove(std::string_view id, std::uint64_t version, std::uint64_t serial,
                               bool repeated);
  // Removes the versions below that one, but for what a manifest lists.
  Result<std::uint64_t> remove_before(std::string_view id, std::uint64_t version);
  // What was copied into its next version is that no more: a tombstone from now on.
  Result<void> supersede(std::string_view id, std::uint64_t version, std::uint64_t serial,
                         bool repeated);
  // Answered by Outside::awaited or refused.
  void await(Ticket ticket, std::string_view id, VersionWish wish, TimePoint deadline,
             TimePoint now);
  // Answered by Outside::waited or refused. All items at once, however many frames they came in.
  void wait(Ticket ticket, std::span<const WaitWish> items, std::uint32_t needed,
            TimePoint deadline, TimePoint now);
  // Answered by Outside::claimed or refused.
  void claim(Ticket ticket, const NewClaim& claim, TimePoint deadline, TimePoint now);
  // Answered by Outside::told or refused. No cursor: at once, with the one of now.
  void read_events(Ticket ticket, std::string_view prefix, std::optional<std::uint64_t> cursor,
                   TimePoint deadline, TimePoint now);
  // Nobody waits any more for the answer to this request.
  void cancel_wait(SessionId session, std::uint32_t number);
  // A pin that was wanted may have ended.
  void nudge(EntryNumber entry);
  // The segment that stat speaks of; also one that is out of sight and still pinned.
  Result<EntryNumber> find(std::string_view id, std::uint64_t version) const;

  // --- retention

  Result<EntryNumber> hold(std::string_view id, std::uint64_t version, std::uint64_t serial,
                           std::uint32_t slot);
  Result<EntryNumber> unhold(std::string_view id, std::uint64_t version, std::uint64_t serial,
                             std::uint32_t slot);
  Result<EntryNumber> persist(std::string_view id, std::uint64_t version, std::uint64_t serial);
  // After a restart: all that a process holds.
  void hold_again(std::uint32_t slot,
                  std::span<const std::pair<EntryNumber, std::uint64_t>> entries);
  Result<void> keep(std::string_view id, std::uint32_t versions);
  std::vector<std::uint32_t> leases(EntryNumber entry) const { return holds_.holders(entry); }
  std::size_t manifests_of(EntryNumber entry) const { return holds_.manifests_of(entry).size(); }
  std::uint32_t keep_of_id(EntryNumber entry) const;
  std::optional<TimePoint> expiry(EntryNumber entry) const { return expiries_.of(entry); }

  // --- scopes (rules_scopes.cpp)

  // Both answered by Outside::scoped or refused. What is there when a scope ends is removed a part
  // at each tick; nothing that came later is touched.
  void begin_scope(Ticket ticket, std::string_view prefix, std::uint32_t slot, bool repeated);
  void end_scope(Ticket ticket, std::string_view prefix, std::uint32_t slot, bool repeated);
  // It is as if it had not been begun; nothing is removed.
  void forget_scope(std::string_view prefix, std::uint32_t slot);
  // After a reconnect: all that a process has begun, and whether it has asked for the end already.
  void scopes_again(std::uint32_t slot, std::span<const std::pair<std::string, bool>> scopes);
  // A client has gone for good, even if its process and its pins have not.
  void end_scopes(std::uint32_t slot);
  const ScopesByPrefix& scopes() const { return scopes_.begun(); }

  // --- tiers (rules_spilling.cpp)

  // Answered by Outside::transferred or refused; of errors, the first.
  void transfer(Ticket ticket, TransferVerb verb, std::span<const TransferItem> items,
                TimePoint now);
  // A hint about a segment that is not there is none.
  void hint(const TransferItem& item, const UseHint& hint);
  // The answers to the jobs that Outside was given.
  void copied(std::uint64_t job, Result<SpillPlace> place, TimePoint now);
  void fetched(std::uint64_t job, Result<void> outcome, TimePoint now);
  // Its bytes were put elsewhere. Whether the segment is still where they were.
  bool moved(const SpillMove& move);
  // Makes a segment that another store has published one of this store's; its bytes stay where they
  // are until somebody wants them. What is there already is left alone.
  Result<EntryNumber> import(const NewSegment& segment, const SpillPlace& place,
                             std::uint64_t wall_ns, TimePoint now);
  // Every segment that has a place, with its serial.
  std::vector<std::pair<std::uint64_t, SpillPlace>> places() const;

  // --- events

  // The session's waits and parked creates are void; what its process holds stays.
  void session_ended(SessionId session);
  // The process has died and its table is out of the census: what it was making goes.
  void process_ended(std::uint32_t slot);
  void memory_done(std::uint64_t job, const std::error_code& error, TimePoint now);
  // Does what is due at `now`.
  void tick(TimePoint now);
  std::optional<TimePoint> next_wakeup() const;

  // Takes every segment away that nobody pins, but for persistent ones if they are to be kept.
  void drop_all(bool keep_persistent);

  // --- a restart

  // Takes over what the table found in an index that another daemon left; `living` says which slots
  // belong to living processes. Returns how many segments it had to give up as unsound.
  // `members_of` reads what a manifest lists.
  using MembersOf = std::function<std::vector<shm::ManifestMember>(EntryNumber manifest)>;
  std::uint64_t adopt(const SegmentTable::Found& found, const std::vector<bool>& living,
                      TimePoint now = {}, std::uint64_t wall_ns = 0,
                      const MembersOf& members_of = {});
  // After adopt: which ranges of the arena have memory. What no segment covers becomes warm, as far
  // as the capacity allows; everything returned must be punched before serving begins.
  std::vector<Extent> adopt_memory(std::span<const shm::Range> touched);

  // Starts the reserve and whatever else is to be prepared; once, when serving begins.
  void begin();

  Usage usage() const;
  const ArenaSpace& space() const { return space_; }
  bool creating(EntryNumber entry) const;
  const std::set<EntryNumber>& deferred() const { return deferred_; }

 private:
  // A create on its way: it has a version, but not yet an entry.
  struct Pending {
    Ticket ticket;
    NewSegment segment;
    std::string id;
    std::vector<std::byte> description;
    shm::Key key;
    std::uint64_t version = 0;
    TimePoint deadline;
    std::uint64_t bytes = 0;  // stored
    EntryNumber claim_entry = no_entry;  // of the claim that it fulfils, until then
    bool doomed = false;  // its scope has ended while it waited
  };
  struct Creation {
    std::uint64_t version = 0;
    EntryNumber entry = no_entry;  // what there is of it by now; while pending, of its claim
    std::uint64_t token = 0;
    std::uint32_t owner_slot = 0;
    Ticket ticket;
    std::uint64_t ttl_ns = 0;
    bool pending = true;   // it has no memory yet
    bool is_claim = false;
  };
  struct KeyHash {
    std::size_t operator()(const shm::Key& key) const { return key.low; }
  };
  // A scope to be begun, once the index has grown.
  struct WaitingScope {
    Ticket ticket;
    std::string prefix;
    std::uint32_t slot = 0;
  };
  // What has outlived its scope for want of leave to go, and has that now.
  struct Condemned {
    EntryNumber entry = no_entry;
    std::uint64_t serial = 0;
    std::shared_ptr<EndedScope> scope;
  };
  // What a memory job is for.
  struct ForPending {
    Growth growth;
    Pending pending;
    bool for_slab = false;
  };
  struct ForReserve {
    Extent extent;
  };
  struct ForTrim {
    std::vector<Extent> extents;
  };
  struct ForIndex {
    IndexGrowth growth;
  };
  struct ForRestore {
    Growth growth;
    std::uint64_t serial = 0;
    std::uint64_t bytes = 0;  // stored
    bool in_slab = false;
  };
  using Purpose = std::variant<ForPending, ForReserve, ForTrim, ForIndex, ForRestore>;
  enum class Attempt { done, parked, full };

  Result<std::uint64_t> choose_version(const NewSegment& segment, const shm::Key& key);
  bool same_owner(std::uint32_t slot, std::uint32_t other) const;
  bool answer_repetition(Ticket ticket, const NewSegment& segment, const shm::Key& key);
  Result<void> check_source(const NewSegment& segment, const shm::Key& key) const;
  Attempt attempt(Pending& pending);
  void take_over(Pending& pending);
  void wait_for_entry(Pending& pending);
  bool find_room_for_entry();
  void finish_create(Pending& pending, shm::Location location, bool in_slab);
  void has_begun(const Pending& pending, EntryNumber entry);
  void refuse(const Pending& pending, Error error);
  void forget_creation(const shm::Key& key, std::uint64_t version);
  void forget_pending(const Pending& pending);
  void end_creation(EntryNumber entry);
  Creation* find_creation(const shm::Key& key, std::uint64_t version);

  std::optional<Growth> plan_growth(std::uint64_t bytes, std::uint64_t alignment);
  bool make_room(std::uint64_t bytes, const std::function<bool()>& less_will_do,
                 bool may_copy = true);
  void give_up_empty_slabs();
  bool evict(EntryNumber entry);
  void remove_entry(EntryNumber entry, RemovalCause cause = RemovalCause::removed);
  void forget_retention(EntryNumber entry);
  std::vector<EntryNumber> bury(EntryNumber entry, shm::Reason reason, RemovalCause cause);
  std::string holders_text(EntryNumber entry);
  void try_finish_removal(EntryNumber entry);
  void give_memory_back(EntryNumber entry);
  void release(const Extent& extent);
  bool slab_is_coming(std::uint64_t bytes) const;
  bool room_is_coming(const Pending& pending) const;
  bool room_is_coming(const Pending& pending, std::uint64_t coming) const;
  bool memory_is_coming(const Pending& pending) const;
  void serve_parked();
  void keep_memory_ready();
  void bound_tombstones();
  void run(Purpose purpose, MemoryJob job);
  Error full_error(const Pending& pending);
  Error exhausted_error(const Pending& pending, const std::error_code& error) const;

  // Tiers (rules_spilling.cpp).
  bool spills() const { return options_.has_tiers && options_.spill_when_full; }
  bool tiers_work() const { return spills() && now_ >= tiers_again_at_; }
  bool may_leave() const {
    return eviction_.count() > 0 || eviction_.count(GreedyDual::Class::dirty) > 0;
  }
  bool may_be_copied(EntryNumber entry) const;
  bool is_copying(EntryNumber entry) const { return transfers_.copy_of.contains(entry); }
  std::uint64_t stored_bytes(EntryNumber entry) const;
  void note_resident(EntryNumber entry);
  void forget_resident(EntryNumber entry, bool evicted = false);
  void touched(EntryNumber entry);
  void drain_accesses() {
    census_.drain_accesses([this](EntryNumber entry) { touched(entry); });
  }
  void trace(EntryNumber entry, TraceOp op) {
    if (options_.trace != nullptr)
      options_.trace->note(now_, table_.serial(entry), stored_bytes(entry), op);
  }
  void note_place(EntryNumber entry);
  void forget_place(EntryNumber entry);
  void put_away(EntryNumber entry);
  void free_memory(const Memory& memory);
  void copy(EntryNumber entry, bool urgent, TransferVerb verb, Ticket batch);
  void copy_coldest(std::uint64_t bytes);
  void clean();
  void tiers_failed(const Error& error);
  void tiers_worked();
  void change_class_of_droppable(GreedyDual::Class from, GreedyDual::Class to);
  void want_back(EntryNumber entry, bool demand);
  void demand(EntryNumber entry, Ticket ticket, TimePoint deadline);
  void serve_restores();
  bool serve_restores(std::deque<std::uint64_t>& queue, bool demanded);
  bool is_wanted(const Restoring& restoring) const;
  bool find_memory_for(std::uint64_t serial, bool& may_make_room);
  void fetch(std::uint64_t serial, const Memory& memory);
  void end_restore(std::uint64_t serial, const Result<void>& outcome);
  void forget_restore(EntryNumber entry);
  void expire_restores();
  void settle_batch(Ticket ticket, const Result<void>& outcome);
  void leave_batch(Ticket ticket);
  void adopt_spilled(std::span<const EntryNumber> entries);

  // Retention (rules_retention.cpp).
  bool stays(EntryNumber entry) const;
  Result<EntryNumber> find_segment(std::string_view id, std::uint64_t version,
                                   std::uint64_t serial) const;
  void start_expiry(EntryNumber entry, std::uint64_t ttl_ns, std::uint64_t wall_ns);
  void expire(EntryNumber entry);
  std::uint32_t keep_of_family(const shm::Key& key) const;
  bool is_surplus(EntryNumber entry) const;
  void apply_keep(const shm::Key& key);
  void let_go_surplus(EntryNumber entry);
  void held_no_more(std::span<const EntryNumber> entries);
  void adopt_manifest(EntryNumber manifest, std::span<const shm::ManifestMember> members);
  void end_manifest(EntryNumber entry);
  void adopt_retention(EntryNumber entry, const std::vector<bool>& living, std::uint64_t wall_ns);
  std::uint64_t ttl_of_creation(EntryNumber entry) const;
  Result<std::vector<EntryNumber>> find_members(
      EntryNumber manifest, std::span<const shm::ManifestMember> members) const;
  Result<void> check_unlisted(EntryNumber entry) const;
  Result<void> check_not_held(EntryNumber entry) const;

  // Scopes (rules_scopes.cpp).
  void start_ending(const std::vector<std::string>& prefixes, Ticket ticket);
  void empty_scopes();
  bool empty_scope_of(EntryNumber entry, Emptying& ending);
  void finish_ending(Emptying& ending);
  void doom(EntryNumber entry, std::shared_ptr<EndedScope> scope);
  void spare(EntryNumber entry);
  bool carry_out(const Condemned& condemned);
  std::vector<EntryNumber> unlist(EntryNumber manifest);
  void serve_waiting_scopes(const std::error_code& error);
  void adopt_scopes(std::vector<EntryNumber> entries, const std::vector<bool>& living);
  std::uint32_t doomed_flag(const Pending& pending) const;

  // Waiting (rules_waiting.cpp).
  std::optional<EntryNumber> find_wished(const shm::Key& key, VersionWish wish) const;
  void wake(Ticket ticket);
  void time_up(Ticket ticket);
  void serve_claims();
  void serve_claims_of(const shm::Key& key);
  void fail_claims(const shm::Key& key, std::uint64_t version, std::string_view why);
  void record_event(EventKind kind, RemovalCause cause, EntryNumber entry);
  void serve_subscribers();

  SegmentTable& table_;
  PinCensus& census_;
  Outside& outside_;
  RulesOptions options_;
  ArenaSpace space_;
  Slabs slabs_;
  Waiters waiters_;
  Waiters restore_waiters_;  // gets of versions that are to come back, each of exactly one
  // What may leave memory: ready is what has a copy in a tier, or may be dropped.
  GreedyDual eviction_;
  Transfers transfers_;
  std::map<Ticket, TransferBatch> transfer_batches_;
  TimePoint tiers_again_at_{};        // after they took nothing
  std::chrono::milliseconds tiers_pause_{0};
  std::optional<Error> tiers_error_;
  bool serving_restores_ = false;
  std::unordered_map<shm::Key, std::vector<Creation>, KeyHash> creations_;
  Holds holds_;
  Expiries expiries_;
  std::set<EntryNumber> expired_;     // held beyond their time
  std::set<EntryNumber> surplus_;     // older than what `keep` wants, pinned
  Scopes scopes_;
  std::list<Emptying> endings_;         // the first one is being emptied
  std::deque<Condemned> condemned_;
  // Sealed, and to go as soon as no manifest lists them.
  std::unordered_map<EntryNumber, std::shared_ptr<EndedScope>> doomed_;
  std::vector<WaitingScope> waiting_scopes_;
  WaitSets wait_sets_;
  ClaimWaiters claim_waiters_;
  std::vector<shm::Key> claims_due_;  // ids of which a creation has ended
  bool serving_claims_ = false;
  EventLog event_log_;
  Subscribers subscribers_;
  std::list<Pending> parked_;         // for room, or for the index to grow
  std::set<EntryNumber> deferred_;    // removing, pinned
  std::deque<std::pair<EntryNumber, std::uint64_t>> tombstones_;  // oldest first, with serials
  std::unordered_map<std::uint64_t, Purpose> jobs_;
  std::uint64_t next_job_ = 1;
  bool reserve_running_ = false;
  TimePoint now_{};                   // of the last event
  TimePoint rescan_at_{};
  TimePoint reserve_again_at_{};      // after the system refused memory
  bool serving_parked_ = false;
  bool serve_parked_again_ = false;
};

}  // namespace forebay::daemon
