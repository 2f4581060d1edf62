// SPDX-License-Identifier: Apache-2.0
// Server: the event loop around the rules. It translates: frames to calls, answers to frames, the
// kernel's events to the rules' events. It decides nothing about segments.
//
// One thread. A peer that sends what is not a message, or does not take its answers, loses its
// session; nothing that a peer does reaches further.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "store/daemon/instance.h"
#include "store/daemon/memory_worker.h"
#include "store/daemon/outside.h"
#include "store/daemon/pin_tables.h"
#include "store/daemon/processes.h"
#include "store/daemon/rules.h"
#include "store/daemon/session.h"
#include "store/daemon/spill_port.h"
#include "store/daemon/store_memory.h"
#include "store/error.h"
#include "store/wire/codec.h"
#include "store/wire/message.h"
#include "store/wire/socket.h"

namespace forebay::daemon {

struct ServerOptions {
  RulesOptions rules;
  // An embedded daemon ends so long after its last client has gone; zero: never.
  std::chrono::seconds idle_exit{0};
  // The kernel has huge pages to give, and is to give them.
  bool huge_pages = false;
  SpillOptions spill = {};
  // Who has connected and said nothing for so long is shown out.
  std::chrono::milliseconds hello_deadline = std::chrono::seconds(30);
};

enum class Ending { keep, drop, drop_unless_persistent };

class Server final : public Outside {
 public:
  // Everything given must outlive the server. The listener is listening. `spill`: the tiers, if there
  // are any.
  Server(StoreMemory& memory, Descriptor listener, const ServerOptions& options,
         std::unique_ptr<Spill> spill = nullptr);
  ~Server() override;

  // Takes over what the store's memory holds; before `serve`, once. Returns what it found, for the
  // log.
  struct Adopted {
    std::uint64_t segments = 0;
    std::uint64_t living_processes = 0;
    std::uint64_t unsound = 0;
    std::uint64_t slots_repaired = 0;
  };
  Result<Adopted> adopt();

  // Serves until a signal, a stop request or idleness ends it, and says how.
  Result<Ending> serve();

  // From another thread or a signal handler's: ends `serve`.
  void stop();

  // Outside:
  void created(Ticket ticket, const CreatedSegment& segment) override;
  void refused(Ticket ticket, Error error) override;
  void awaited(Ticket ticket) override;
  void waited(Ticket ticket, std::vector<std::uint32_t> ready) override;
  void claimed(Ticket ticket, const ClaimAnswer& answer) override;
  void scoped(Ticket ticket, std::uint64_t removed) override;
  void told(Ticket ticket, const EventLog::Batch& batch) override;
  void start(MemoryJob job) override;
  void start(CopyJob job) override;
  void start(FetchJob job) override;
  void forget(const SpillPlace& place) override;
  void transferred(Ticket ticket, std::uint64_t done) override;
  std::string name_of(Slot slot) const override;
  bool same_process(Slot slot, Slot other) const override {
    return processes_.same_process(slot, other);
  }

 private:
  enum class Source : std::uint8_t { listener, signal, wake, worker, tiers, session, process };
  static std::uint64_t tag(Source source, std::uint64_t id) {
    return static_cast<std::uint64_t>(source) << 56U | id;
  }

  // What has to be known about a create or put until it is answered.
  struct InFlight {
    bool is_put = false;
    std::span<const std::byte> payload;  // into the frame, or into `kept`
    std::vector<std::byte> kept;
  };
  // A range that is being read, into memory that will be the caller's.
  struct RangeInFlight {
    Ticket ticket;
    wire::RangeReply reply;
    std::vector<std::byte> small;
    Descriptor memory;
    std::span<std::byte> mapped;
  };
  struct ImportInFlight {
    Ticket ticket;
    std::string id;
  };
  struct Batch {
    std::vector<wire::PutManyItem> items;
    std::vector<std::string> details;
    std::size_t missing = 0;
  };

  // The loop.
  void watch(int descriptor, std::uint32_t events, std::uint64_t tag);
  void dispatch(std::uint64_t tag, std::uint32_t events);
  void accept_sessions();
  bool turn_newcomer_away();
  void refuse_newcomer(Descriptor socket, const Error& error);
  void listen_again();
  void serve_session(SessionId id, std::uint32_t events);
  void handle_signal();
  void finish_memory_jobs();
  void process_died(Slot slot);
  bool pass_on(Process& process);
  void dismiss(Slot slot, const char* why);
  void end_side_sessions(Slot slot);
  void do_what_is_due();
  int milliseconds_to_wait() const;

  // Requests; each answers, now or later.
  void handle_frame(Session& session, std::span<const std::byte> frame,
                    const std::optional<ucred>& credentials);
  void handle_request(Session& session, wire::Op op, std::uint32_t number,
                      std::span<const std::byte> frame);
  bool may_wait(Session& session, wire::Op op, std::uint32_t number, std::size_t bytes);
  void answered(Session& session, std::uint32_t number);
  void hello(Session& session, std::uint32_t number, const wire::HelloRequest& request);
  void goodbye(Session& session);
  void create(Session& session, std::uint32_t number, const wire::NewSegment& segment);
  void put(Session& session, std::uint32_t number, const wire::PutRequest& request);
  void put_many(Session& session, std::uint32_t number, const wire::PutManyRequest& request);
  void await(Session& session, std::uint32_t number, const wire::AwaitRequest& request);
  static void forget_wait_parts(Session& session, std::uint32_t number);
  void wait(Session& session, std::uint32_t number, const wire::WaitRequest& request);
  void claim(Session& session, std::uint32_t number, const wire::ClaimRequest& request);
  void events(Session& session, std::uint32_t number, const wire::EventsRequest& request);
  void cancel(Session& session, std::uint32_t number);
  Result<std::uint64_t> remove(const wire::RemoveRequest& request);
  void remove_many(Session& session, std::uint32_t number,
                   const wire::RemoveManyRequest& request);
  void hold(Session& session, std::uint32_t number, const wire::HoldRequest& request);
  void holds_again(Session& session, const wire::HoldsAgainRequest& request);
  void scope(Session& session, std::uint32_t number, const wire::ScopeRequest& request,
             std::size_t bytes);
  void scopes_again(Session& session, const wire::ScopesAgainRequest& request);
  void hello_side(Session& session, std::uint32_t number, const wire::HelloRequest& request);
  wire::HelloReply hello_reply(const Process& process) const;
  // What a manifest lists, as its bytes say. The writer may still be able to change them: copied first.
  Result<std::vector<shm::ManifestMember>> members_of(EntryNumber manifest) const;
  Result<void> seal(EntryNumber entry, std::uint64_t serial, Slot slot, bool repeated);
  void stat(Session& session, std::uint32_t number, const wire::StatRequest& request);
  void fork(Session& session, std::uint32_t number);
  void arrived(Session& session, const wire::ArrivedRequest& request, const ucred& credentials);
  void holders(Session& session, std::uint32_t number);
  void arena(Session& session, std::uint32_t number, const wire::ArenaRequest& request);
  // Tiers (server_tiers.cpp).
  void take_tier_answers();
  void complain_of_tiers(const Error& error);
  void transfer(Session& session, std::uint32_t number, const wire::TransferRequest& request);
  Result<EntryNumber> find_named(const wire::Uuid& store, const wire::SegmentName& segment) const;
  void where(Session& session, std::uint32_t number, const wire::WhereRequest& request);
  void hint(const wire::HintRequest& request);
  void range(Session& session, std::uint32_t number, const wire::RangeRequest& request);
  void range_read(std::uint64_t number, Result<void> outcome);
  void import(Session& session, std::uint32_t number, const wire::ImportRequest& request);
  void import_found(std::uint64_t number, Result<SpillFound> found);
  void tier_status(const std::function<void(const char*, const std::string&)>& line) const;

  std::string status_text() const;
  std::string dump_text(std::uint64_t from, std::uint64_t& next) const;

  // Making segments.
  NewSegment new_segment(const Session& session, const wire::NewSegment& segment, bool packed) const;
  void begin_create(Ticket ticket, const NewSegment& segment, bool is_put,
                    std::span<const std::byte> payload);
  void write_behind(const CreatedSegment& segment);
  Result<void> finish_put(const CreatedSegment& segment, std::span<const std::byte> payload,
                          Slot slot);
  void answer_put(Ticket ticket, const CreatedSegment& segment, Result<void> outcome);
  void answer_batch_item(Ticket ticket, const wire::PutManyItem& item, std::string detail);
  void send_batch(const Ticket& ticket);

  // Replies.
  template <class Reply>
  void reply(Session& session, wire::Op op, std::uint32_t number, const Reply& reply,
             std::vector<int> descriptors = {});
  void reply_failure(Session& session, wire::Op op, std::uint32_t number, const Error& error);
  template <class T>
  void reply_or_fail(Session& session, wire::Op op, std::uint32_t number, const Result<T>& result);
  void send(Session& session, std::vector<int> descriptors);
  void flush(Session& session);
  void end_session(SessionId id, const char* why);
  Session* find_session(SessionId id);

  StoreMemory& memory_;
  ServerOptions options_;
  Descriptor listener_;
  Descriptor spare_;              // given up to tell newcomers that there are no more
  bool listening_ = true;               // false: not even that, until the next check
  TimePoint complain_at_{};             // not before: of newcomers that were turned away
  PinTables tables_;
  Processes processes_;
  SegmentTable table_;
  Rules rules_;
  std::unordered_map<std::uint64_t, RangeInFlight> ranges_;
  std::uint64_t ranges_bytes_ = 0;
  std::unordered_map<std::uint64_t, ImportInFlight> imports_;
  std::uint64_t next_flight_ = 1;
  std::vector<std::uint64_t> tierless_fetches_;  // to be answered in this turn
  TimePoint complain_of_tiers_at_{};
  std::unique_ptr<SpillPort> port_;              // none: there are no tiers
  std::unique_ptr<MemoryWorker> worker_;         // tells the port of what it punches
  Descriptor epoll_;
  Descriptor signals_;
  Descriptor wake_;
  std::unordered_map<SessionId, std::unique_ptr<Session>> sessions_;
  SessionId next_session_ = 1;
  std::vector<std::byte> inbox_;
  std::vector<std::byte> frame_;        // the reply that is being made
  std::vector<SessionId> ending_;       // to be ended when the current event is dealt with
  std::map<Ticket, InFlight> in_flight_;
  std::map<Ticket, Batch> batches_;     // by ticket without item
  // The create or put whose frame is in `inbox_` right now.
  Ticket current_;
  InFlight current_flight_;
  bool current_answered_ = false;
  std::optional<Ending> ending_how_;
  TimePoint now_;
  TimePoint started_at_;
  TimePoint last_client_at_;
  TimePoint next_check_at_;
};

template <class Reply>
void Server::reply(Session& session, wire::Op op, std::uint32_t number, const Reply& reply,
                   std::vector<int> descriptors) {
  answered(session, number);
  if (auto encoded = wire::encode_reply(reply, op, number, frame_); !encoded) {
    reply_failure(session, op, number, encoded.error());
    return;
  }
  send(session, std::move(descriptors));
}

}  // namespace forebay::daemon
