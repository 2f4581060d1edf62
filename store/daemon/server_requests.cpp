// SPDX-License-Identifier: Apache-2.0
// What each request does: check it, call the rules, answer.
#include <cstring>

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "store/daemon/log.h"
#include "store/daemon/server.h"
#include "store/id.h"
#include "store/shm/failpoint.h"
#include "store/shm/manifest.h"
#include "store/units.h"

namespace forebay::daemon {
namespace {

using wire::Op;

constexpr std::size_t dump_page_bytes = 32 * 1024;
constexpr std::size_t scopes_listed_max = 256;  // in a dump
constexpr std::size_t why_bytes_max = 4096;  // of what a loader says about its failure
// Of one session, so that waiting costs others nothing; far above what its threads need.
constexpr std::size_t waiting_max = 32768;
constexpr std::size_t wait_items_max = 32768;  // their indices fit into one frame
constexpr std::size_t waiting_bytes_max = 16 * 1024 * 1024;

// The daemon was started anew on an empty store; numbers of the former one mean nothing here.
Failure other_store() {
  return fail(Errc::wrong_store, "that segment belonged to a store that is gone");
}

wire::HolderItem item_of(const PinHolder& holder) {
  return {.pid = holder.pid, .name = holder.name, .pins = holder.pins, .bytes = holder.bytes};
}

}  // namespace

void Server::reply_failure(Session& session, Op op, std::uint32_t number, const Error& error) {
  answered(session, number);
  wire::encode_failure(error, op, number, frame_);
  send(session, {});
}

template <class T>
void Server::reply_or_fail(Session& session, Op op, std::uint32_t number,
                           const Result<T>& result) {
  if (!result) {
    reply_failure(session, op, number, result.error());
  } else if constexpr (std::is_void_v<T>) {
    reply(session, op, number, wire::Empty{});
  } else {
    reply(session, op, number, *result);
  }
}

void Server::handle_frame(Session& session, std::span<const std::byte> frame,
                          const std::optional<ucred>& credentials) {
  const auto header = wire::decode_header(frame);
  const auto op = header ? static_cast<Op>(header->op) : Op::hello;
  bool understood = header.has_value();
  if (understood && !session.admitted) {
    // Nothing but a greeting is heard before it.
    if (session.awaits_child) {
      const auto request = wire::decode_request<wire::ArrivedRequest>(frame);
      understood = op == Op::arrived && request && credentials;
      if (understood) arrived(session, *request, *credentials);
    } else {
      const auto request = wire::decode_request<wire::HelloRequest>(frame);
      understood = op == Op::hello && request;
      if (understood) hello(session, header->number, *request);
    }
  } else if (understood) {
    handle_request(session, op, header->number, frame);
    return;
  }
  if (understood) return;
  log::warning("bad_message", {{"pid", session.peer.pid}});
  ending_.push_back(session.id);
}

// Notes a request that may be answered later. False: it is dealt with already, for it may not wait.
bool Server::may_wait(Session& session, Op op, std::uint32_t number, std::size_t bytes) {
  if (session.waiting.contains(number)) {
    // Its answers could not be told apart, nor what is kept for it.
    log::warning("bad_message", {{"pid", session.peer.pid},
                                 {"op", static_cast<int>(op)},
                                 {"reason", "the number of a request that still waits"}});
    ending_.push_back(session.id);
    return false;
  }
  if (session.waiting.size() >= waiting_max || session.waiting_bytes + bytes > waiting_bytes_max) {
    reply_failure(session, op, number,
                  fail(Errc::limit_reached, "this process has " +
                                                std::to_string(session.waiting.size()) +
                                                " requests waiting already")
                      .error);
    return false;
  }
  session.waiting.emplace(number, Session::Waiting{op, bytes});
  session.waiting_bytes += bytes;
  return true;
}

void Server::answered(Session& session, std::uint32_t number) {
  const auto found = session.waiting.find(number);
  if (found == session.waiting.end()) return;
  session.waiting_bytes -= found->second.bytes;
  session.waiting.erase(found);
}

void Server::handle_request(Session& session, Op op, std::uint32_t number,
                            std::span<const std::byte> frame) {
  // Decodes the request and hands it to `handle`; a malformed one ends the session.
  const auto with = [&]<class Request>(std::type_identity<Request>, auto&& handle) {
    auto request = wire::decode_request<Request>(frame);
    if (request) {
      handle(*request);
      return;
    }
    log::warning("bad_message", {{"pid", session.peer.pid},
                                 {"op", static_cast<int>(op)},
                                 {"reason", request.error().message()}});
    ending_.push_back(session.id);
  };
  const auto as = []<class Request>() { return std::type_identity<Request>{}; };
  switch (op) {
    case Op::goodbye:
      return with(as.operator()<wire::GoodbyeRequest>(), [&](auto&) { goodbye(session); });
    case Op::grant:
      return with(as.operator()<wire::GrantRequest>(), [&](auto& request) {
        reply_or_fail(session, op, number, tables_.grant(session.slot, request.chunk));
      });
    case Op::create:
      return with(as.operator()<wire::CreateRequest>(),
                  [&](auto& request) {
                    if (may_wait(session, op, number, frame.size()))
                      create(session, number, request.segment);
                  });
    case Op::seal:
      return with(as.operator()<wire::SealRequest>(), [&](auto& request) {
        if (request.store != memory_.uuid())
          return reply_failure(session, op, number, other_store().error);
        reply_or_fail(session, op, number,
                      seal(request.entry, request.serial, session.slot, request.repeated != 0));
      });
    case Op::abort:
      return with(as.operator()<wire::AbortRequest>(), [&](auto& request) {
        if (request.token != 0) return rules_.cancel(request.token, session.slot);
        const auto aborted =
            request.store != memory_.uuid()
                ? Result<void>(other_store())
                : rules_.abort(request.entry, request.serial, session.slot, request.repeated != 0,
                               request.why.substr(0, why_bytes_max));
        if (number != 0) reply_or_fail(session, op, number, aborted);
      });
    case Op::put:
      return with(as.operator()<wire::PutRequest>(),
                  [&](auto& request) {
                    if (may_wait(session, op, number, frame.size()))
                      put(session, number, request);
                  });
    case Op::put_many:
      return with(as.operator()<wire::PutManyRequest>(),
                  [&](auto& request) {
                    if (may_wait(session, op, number, frame.size()))
                      put_many(session, number, request);
                  });
    case Op::await:
      return with(as.operator()<wire::AwaitRequest>(),
                  [&](auto& request) {
                    if (may_wait(session, op, number, frame.size()))
                      await(session, number, request);
                  });
    case Op::remove:
      return with(as.operator()<wire::RemoveRequest>(), [&](auto& request) {
        const auto removed = remove(request);
        if (removed) {
          reply(session, op, number, wire::RemoveReply{*removed});
        } else {
          reply_failure(session, op, number, removed.error());
        }
      });
    case Op::remove_many:
      return with(as.operator()<wire::RemoveManyRequest>(),
                  [&](auto& request) { remove_many(session, number, request); });
    case Op::supersede:
      return with(as.operator()<wire::SupersedeRequest>(), [&](auto& request) {
        if (request.store != memory_.uuid())
          return reply_failure(session, op, number, other_store().error);
        reply_or_fail(session, op, number,
                      rules_.supersede(request.id, request.version, request.serial,
                                       request.repeated != 0));
      });
    case Op::claim:
      return with(as.operator()<wire::ClaimRequest>(),
                  [&](auto& request) {
                    if (may_wait(session, op, number, frame.size()))
                      claim(session, number, request);
                  });
    case Op::wait:
      return with(as.operator()<wire::WaitRequest>(),
                  [&](auto& request) { wait(session, number, request); });
    case Op::events:
      return with(as.operator()<wire::EventsRequest>(),
                  [&](auto& request) {
                    if (may_wait(session, op, number, frame.size()))
                      events(session, number, request);
                  });
    case Op::cancel:
      return with(as.operator()<wire::CancelRequest>(),
                  [&](auto& request) { cancel(session, request.number); });
    case Op::hold:
      return with(as.operator()<wire::HoldRequest>(),
                  [&](auto& request) { hold(session, number, request); });
    case Op::holds_again:
      return with(as.operator()<wire::HoldsAgainRequest>(),
                  [&](auto& request) { holds_again(session, request); });
    case Op::scope:
      return with(as.operator()<wire::ScopeRequest>(), [&](auto& request) {
        scope(session, number, request, frame.size());
      });
    case Op::scopes_again:
      return with(as.operator()<wire::ScopesAgainRequest>(),
                  [&](auto& request) { scopes_again(session, request); });
    case Op::transfer:
      return with(as.operator()<wire::TransferRequest>(), [&](auto& request) {
        if (may_wait(session, op, number, frame.size())) transfer(session, number, request);
      });
    case Op::where:
      return with(as.operator()<wire::WhereRequest>(),
                  [&](auto& request) { where(session, number, request); });
    case Op::hint:
      return with(as.operator()<wire::HintRequest>(), [&](auto& request) { hint(request); });
    case Op::range:
      return with(as.operator()<wire::RangeRequest>(), [&](auto& request) {
        if (may_wait(session, op, number, frame.size())) range(session, number, request);
      });
    case Op::import:
      return with(as.operator()<wire::ImportRequest>(), [&](auto& request) {
        if (may_wait(session, op, number, frame.size())) import(session, number, request);
      });
    case Op::keep:
      return with(as.operator()<wire::KeepRequest>(), [&](auto& request) {
        reply_or_fail(session, op, number, rules_.keep(request.id, request.keep));
      });
    case Op::stat:
      return with(as.operator()<wire::StatRequest>(),
                  [&](auto& request) { stat(session, number, request); });
    case Op::nudge:
      return with(as.operator()<wire::NudgeRequest>(),
                  [&](auto& request) { rules_.nudge(request.entry); });
    case Op::fork:
      return with(as.operator()<wire::ForkRequest>(), [&](auto&) { fork(session, number); });
    case Op::arena:
      return with(as.operator()<wire::ArenaRequest>(),
                  [&](auto& request) { arena(session, number, request); });
    case Op::status:
      return with(as.operator()<wire::StatusRequest>(), [&](auto&) {
        const std::string text = status_text();
        reply(session, op, number, wire::TextReply{text, 0});
      });
    case Op::holders:
      return with(as.operator()<wire::HoldersRequest>(), [&](auto&) { holders(session, number); });
    case Op::dump:
      return with(as.operator()<wire::DumpRequest>(), [&](auto& request) {
        std::uint64_t next = 0;
        const std::string text = dump_text(request.from, next);
        reply(session, op, number, wire::TextReply{text, next});
      });
    case Op::stop:
      return with(as.operator()<wire::StopRequest>(), [&](auto& request) {
        log::info("stop_requested", {{"pid", session.peer.pid}, {"drop", request.drop != 0}});
        reply(session, op, number, wire::Empty{});
        ending_how_ = request.drop != 0 ? Ending::drop : Ending::keep;
      });
    case Op::hello:
    case Op::arrived:
      break;  // only once, and first
  }
  log::warning("bad_message", {{"pid", session.peer.pid}, {"op", static_cast<int>(op)}});
  ending_.push_back(session.id);
}

// ------------------------------------------------------------------------------------ connecting

void Server::hello(Session& session, std::uint32_t number, const wire::HelloRequest& request) {
  const auto refuse = [&](Errc code, std::string why) {
    log::warning("session_refused", {{"pid", session.peer.pid}, {"reason", why}});
    reply_failure(session, Op::hello, number, fail(code, std::move(why)).error);
  };
  if (request.protocol != wire::protocol_version || request.layout != shm::layout_version)
    return refuse(Errc::layout_mismatch,
                  "the client has protocol " + std::to_string(request.protocol) + " and layout " +
                      std::to_string(request.layout) + ", this forebayd has protocol " +
                      std::to_string(wire::protocol_version) + " and layout " +
                      std::to_string(shm::layout_version) +
                      ": use the same version of Forebay on both sides");
  // One user, one domain of trust; root may look at everything anyway.
  if (session.peer.uid != memory_.index().stamp->owner_uid && session.peer.uid != 0)
    return refuse(Errc::denied, "this forebayd serves user " +
                                    std::to_string(memory_.index().stamp->owner_uid) + ", not " +
                                    std::to_string(session.peer.uid));
  if (request.namespace_name != memory_.index().stamp->namespace_name.data())
    return refuse(Errc::not_found, "there is no namespace '" +
                                       std::string(request.namespace_name.substr(0, 64)) + "'");

  if (request.side != 0) return hello_side(session, number, request);
  Process* process = nullptr;
  bool kept = false;
  if (request.store == memory_.uuid())
    process = processes_.readmit(request.slot, request.token, session.peer);
  if (process != nullptr) {
    kept = true;
    if (process->session != 0) end_session(process->session, "replaced by a new connection");
  } else {
    auto admitted = processes_.admit(session.peer, std::move(session.pidfd),
                                     std::string(request.program.substr(0, 64)));
    if (!admitted) {
      log::warning("session_refused",
                   {{"pid", session.peer.pid}, {"reason", admitted.error().message()}});
      reply_failure(session, Op::hello, number, admitted.error());
      return;
    }
    process = *admitted;
    watch(process->pidfd.get(), EPOLLIN, tag(Source::process, process->slot));
  }
  session.pidfd.reset();
  session.admitted = true;
  session.slot = process->slot;
  process->session = session.id;
  last_client_at_ = now_;
  log::info("session_started", {{"pid", session.peer.pid},
                                {"program", process->program},
                                {"slot", process->slot},
                                {"again", kept}});

  wire::HelloReply answer = hello_reply(*process);
  answer.table_kept = kept ? 1 : 0;
  std::vector<int> descriptors{memory_.index_for_readers().get(), memory_.arena_object().get()};
  if (!kept) descriptors.push_back(tables_.descriptor(process->slot).get());
  reply(session, Op::hello, number, answer, std::move(descriptors));
}

wire::HelloReply Server::hello_reply(const Process& process) const {
  wire::HelloReply answer;
  answer.store = memory_.uuid();
  answer.layout = shm::layout_version;
  answer.may_create = 1;
  answer.slot = process.slot;
  answer.token = process.token;
  answer.index_bytes = memory_.index().stamp->regions.total;
  answer.arena_bytes = options_.rules.address_bytes;
  answer.capacity_bytes = options_.rules.capacity_bytes;
  answer.daemon_pid = static_cast<std::uint32_t>(::getpid());
  return answer;
}

// For waiting and events: what it asks for counts as its process's, and it has no memory of its own.
void Server::hello_side(Session& session, std::uint32_t number,
                        const wire::HelloRequest& request) {
  Process* const process =
      request.store == memory_.uuid() ? processes_.find(request.slot) : nullptr;
  if (process == nullptr || process->token != request.token ||
      process->peer.pid != session.peer.pid || process->session == 0)
    return reply_failure(session, Op::hello, number,
                         fail(Errc::bad_state, "a further connection of a process that has no "
                                               "first one")
                             .error);
  session.pidfd.reset();
  session.admitted = true;
  session.side = true;
  session.slot = process->slot;
  wire::HelloReply answer = hello_reply(*process);
  answer.table_kept = 1;
  reply(session, Op::hello, number, answer);
}

void Server::goodbye(Session& session) {
  Process* const process = session.side ? nullptr : processes_.find(session.slot);
  if (process != nullptr) {
    process->said_goodbye = true;
    // Its views may go on; nobody is left who could end its scopes.
    rules_.end_scopes(process->slot);
  }
  ending_.push_back(session.id);
}

void Server::fork(Session& session, std::uint32_t number) {
  const auto refuse = [&](const Error& error) {
    reply_failure(session, Op::fork, number, error);
  };
  auto ends = wire::connected_pair();
  if (!ends) return refuse(ends.error());
  const int yes = 1;
  ::setsockopt(ends->first.get(), SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes);
  const Process* parent = processes_.find(session.slot);
  auto child = processes_.admit_child(*parent);
  if (!child) return refuse(child.error());

  auto made = std::make_unique<Session>();
  made->id = next_session_++;
  made->socket = std::move(ends->first);
  made->peer = {0, session.peer.uid, session.peer.gid};
  made->opened_at = now_;
  made->awaits_child = true;
  made->slot = (*child)->slot;
  Session& added = *sessions_.emplace(made->id, std::move(made)).first->second;
  (*child)->session = added.id;
  watch(added.socket.get(), EPOLLIN, tag(Source::session, added.id));

  reply(session, Op::fork, number, wire::ForkReply{(*child)->slot, (*child)->token},
        {tables_.descriptor((*child)->slot).get(), ends->second.get()});
}

void Server::arrived(Session& session, const wire::ArrivedRequest& request,
                     const ucred& credentials) {
  Process* child = processes_.find(session.slot);
  const Peer peer{credentials.pid, credentials.uid, credentials.gid};
  const auto outcome =
      child == nullptr || request.slot != session.slot || request.token != child->token
          ? Result<void>(fail(Errc::denied, "not the child that this table was made for"))
          : processes_.arrived(*child, peer);
  if (!outcome) {
    log::warning("child_refused", {{"pid", peer.pid}, {"reason", outcome.error().message()}});
    ending_.push_back(session.id);
    return;
  }
  session.awaits_child = false;
  session.admitted = true;
  session.peer = peer;
  watch(child->pidfd.get(), EPOLLIN, tag(Source::process, child->slot));
  const int no = 0;
  ::setsockopt(session.socket.get(), SOL_SOCKET, SO_PASSCRED, &no, sizeof no);
  log::info("session_started",
            {{"pid", peer.pid}, {"program", child->program}, {"slot", child->slot}, {"fork", true}});
}

void Server::arena(Session& session, std::uint32_t number, const wire::ArenaRequest& request) {
  if (request.arena != 0)
    return reply_failure(
        session, Op::arena, number,
        fail(Errc::not_found, "there is no arena " + std::to_string(request.arena)).error);
  reply(session, Op::arena, number, wire::ArenaReply{options_.rules.address_bytes},
        {memory_.arena_object().get()});
}

// -------------------------------------------------------------------------------- making segments

NewSegment Server::new_segment(const Session& session, const wire::NewSegment& segment,
                               bool packed) const {
  return {.id = segment.id,
          .version = segment.version,
          .size = segment.size,
          .brief = segment.brief,
          .description = segment.description,
          .evictable = segment.evictable != 0,
          .persistent = segment.persistent != 0,
          .packed = packed,
          .timeout_ns = segment.timeout_ns,
          .token = segment.token,
          .owner_slot = session.slot,
          .writer_uid = session.peer.uid,
          .keep = std::min(segment.keep, shm::keep_all),
          .ttl_ns = segment.ttl_ns,
          .claim = segment.claim,
          .take_from = segment.take_from};
}

Result<std::vector<shm::ManifestMember>> Server::members_of(EntryNumber manifest) const {
  const std::byte* const start = memory_.arena().data() + table_.location(manifest).offset();
  const std::vector<std::byte> payload(start, start + table_.size(manifest));
  return shm::read_manifest(payload);
}

Result<void> Server::seal(EntryNumber entry, std::uint64_t serial, Slot slot, bool repeated) {
  const bool is_manifest =
      entry < table_.entries_max() &&
      entry < memory_.index().live->entries_end.load(std::memory_order_relaxed) &&
      table_.serial(entry) == serial && table_.word(entry).state() == shm::State::creating &&
      shm::Brief::from_bits(table_.brief(entry)).kind == shm::Kind::manifest;
  if (!is_manifest) return rules_.seal(entry, serial, slot, repeated, wall_clock_ns(), now_);
  const auto members = members_of(entry);
  if (!members) return fail(members.error());
  return rules_.seal(entry, serial, slot, repeated, wall_clock_ns(), now_, *members);
}

void Server::begin_create(Ticket ticket, const NewSegment& segment, bool is_put,
                          std::span<const std::byte> payload) {
  current_ = ticket;
  current_flight_.is_put = is_put;
  current_flight_.payload = payload;
  current_answered_ = false;
  rules_.create(ticket, segment, now_);
  if (!current_answered_) {
    // It waits; the frame it came in does not.
    InFlight& parked = in_flight_[ticket];
    parked.is_put = is_put;
    parked.kept.assign(payload.begin(), payload.end());
    parked.payload = parked.kept;
  }
  current_ = {};
}

void Server::create(Session& session, std::uint32_t number, const wire::NewSegment& segment) {
  begin_create({session.id, number, 0}, new_segment(session, segment, false), false, {});
}

void Server::put(Session& session, std::uint32_t number, const wire::PutRequest& request) {
  if (request.payload.size() != request.segment.size) {
    log::warning("bad_message", {{"pid", session.peer.pid}, {"reason", "size is not payload's"}});
    ending_.push_back(session.id);
    return;
  }
  begin_create({session.id, number, 0}, new_segment(session, request.segment, true), true,
               request.payload);
}

void Server::put_many(Session& session, std::uint32_t number,
                      const wire::PutManyRequest& request) {
  const Ticket whole{session.id, number, 0};
  Batch& batch = batches_[whole];
  batch.items.resize(request.items.size());
  batch.details.resize(request.items.size());
  batch.missing = request.items.size() + 1;  // one for this function itself
  for (std::uint32_t i = 0; i < request.items.size(); ++i) {
    const wire::PutRequest& item = request.items[i];
    const Ticket ticket{session.id, number, i + 1};
    if (item.payload.size() != item.segment.size) {
      refused(ticket, fail(Errc::bad_message, "size is not the payload's").error);
      continue;
    }
    begin_create(ticket, new_segment(session, item.segment, true), true, item.payload);
  }
  if (--batch.missing == 0) send_batch(whole);
}

// The daemon writes what the creator cannot: where the description lies is no part of its window.
void Server::write_behind(const CreatedSegment& segment) {
  if (shm::description_in_record(segment.description.size())) return;
  std::memcpy(memory_.arena().data() + segment.location.offset() +
                  shm::description_offset(segment.size),
              segment.description.data(), segment.description.size());
}

Result<void> Server::finish_put(const CreatedSegment& segment, std::span<const std::byte> payload,
                                Slot slot) {
  if (segment.sealed_before) return {};
  if (!payload.empty())
    std::memcpy(memory_.arena().data() + segment.location.offset(), payload.data(),
                payload.size());
  shm::reached(shm::points::put_copied);
  auto sealed = seal(segment.entry, segment.serial, slot, false);
  // Nobody but this function knows of it.
  if (!sealed) (void)rules_.abort(segment.entry, segment.serial, slot, true);
  return sealed;
}

void Server::created(Ticket ticket, const CreatedSegment& segment) {
  InFlight parked;
  if (ticket == current_) current_answered_ = true;
  if (const auto found = in_flight_.find(ticket); found != in_flight_.end()) {
    parked = std::move(found->second);
    parked.payload = parked.kept;
    in_flight_.erase(found);
  } else if (ticket == current_) {
    parked.is_put = current_flight_.is_put;
    parked.payload = current_flight_.payload;
  }
  Session* session = find_session(ticket.session);
  if (session == nullptr) {
    // Its connection ended while it waited: a repetition will create it anew.
    if (!segment.sealed_before)
      (void)rules_.abort(segment.entry, segment.serial, table_.owner_slot(segment.entry), true);
    return;
  }
  write_behind(segment);
  if (parked.is_put) {
    answer_put(ticket, segment, finish_put(segment, parked.payload, session->slot));
    return;
  }
  reply(*session, Op::create, ticket.number,
        wire::CreateReply{memory_.uuid(), segment.entry, segment.version, segment.serial,
                          segment.location.bits(), segment.size});
}

void Server::answer_put(Ticket ticket, const CreatedSegment& segment, Result<void> outcome) {
  if (!outcome) return refused(ticket, std::move(outcome.error()));
  const wire::PutReply done{memory_.uuid(), segment.entry, segment.version, segment.serial};
  if (ticket.item != 0) {
    wire::PutManyItem item;
    item.reply = done;
    answer_batch_item(ticket, item, {});
  } else if (Session* session = find_session(ticket.session)) {
    reply(*session, Op::put, ticket.number, done);
  }
}

void Server::refused(Ticket ticket, Error error) {
  if (ticket == current_) current_answered_ = true;
  in_flight_.erase(ticket);
  if (ticket.item != 0) {
    wire::PutManyItem item;
    const wire::ReplyStatus status = wire::status_of(error);
    item.origin = status.origin;
    item.code = status.code;
    answer_batch_item(ticket, item, error.detail.substr(0, 1024));
    return;
  }
  Session* const session = find_session(ticket.session);
  if (session == nullptr) return;
  const auto waiting = session->waiting.find(ticket.number);
  reply_failure(*session, waiting != session->waiting.end() ? waiting->second.op : Op::await,
                ticket.number, error);
}

void Server::answer_batch_item(Ticket ticket, const wire::PutManyItem& item, std::string detail) {
  const Ticket whole{ticket.session, ticket.number, 0};
  const auto found = batches_.find(whole);
  if (found == batches_.end()) return;
  Batch& batch = found->second;
  batch.items[ticket.item - 1] = item;
  batch.details[ticket.item - 1] = std::move(detail);
  if (--batch.missing == 0) send_batch(whole);
}

void Server::send_batch(const Ticket& ticket) {
  const auto found = batches_.find(ticket);
  Batch batch = std::move(found->second);
  batches_.erase(found);
  // However many items failed, their reasons must fit into one frame together.
  constexpr std::size_t item_bytes = 64;  // of an answer besides its reason, generously
  const std::size_t share = wire::frame_bytes_max / (batch.items.size() + 1);
  const std::size_t detail_bytes_max = share > item_bytes ? share - item_bytes : 0;
  for (std::size_t i = 0; i < batch.items.size(); ++i)
    batch.items[i].detail = std::string_view(batch.details[i]).substr(0, detail_bytes_max);
  if (Session* session = find_session(ticket.session))
    reply(*session, Op::put_many, ticket.number, wire::PutManyReply{std::move(batch.items)});
}

// ---------------------------------------------------------------------------- waiting and looking

void Server::await(Session& session, std::uint32_t number, const wire::AwaitRequest& request) {
  rules_.await({session.id, number, 0}, request.id,
               {.exact = request.version, .after = request.after},
               deadline_after(now_, request.timeout_ns), now_);
}

void Server::awaited(Ticket ticket) {
  if (Session* session = find_session(ticket.session))
    reply(*session, Op::await, ticket.number, wire::Empty{});
}

void Server::forget_wait_parts(Session& session, std::uint32_t number) {
  const auto found = session.wait_parts.find(number);
  if (found == session.wait_parts.end()) return;
  session.wait_parts_items -= found->second.ids.size() + found->second.frames;
  session.wait_parts.erase(found);
}

void Server::wait(Session& session, std::uint32_t number, const wire::WaitRequest& request) {
  Session::WaitParts& parts = session.wait_parts[number];
  // Of all waits that are not finished: what is remembered of a client is bounded.
  const std::size_t more = request.items.size() + 1;
  if (session.wait_parts_items + more > wait_items_max) {
    forget_wait_parts(session, number);
    return reply_failure(session, Op::wait, number,
                         fail(Errc::limit_reached, "a wait is for fewer than " +
                                                       std::to_string(wait_items_max) +
                                                       " versions")
                             .error);
  }
  for (const wire::WaitItem& item : request.items) {
    parts.ids.emplace_back(item.id.substr(0, id_bytes_max));
    parts.wishes.push_back({.exact = item.version, .after = item.after});
  }
  ++parts.frames;
  session.wait_parts_items += more;
  if (request.more != 0) return;
  const Session::WaitParts whole = parts;
  forget_wait_parts(session, number);
  constexpr std::size_t item_bytes = 128;
  if (!may_wait(session, Op::wait, number, whole.ids.size() * item_bytes)) return;
  std::vector<WaitWish> items;
  items.reserve(whole.ids.size());
  for (std::size_t i = 0; i < whole.ids.size(); ++i)
    items.push_back({whole.ids[i], whole.wishes[i]});
  rules_.wait({session.id, number, 0}, items, request.needed,
              deadline_after(now_, request.timeout_ns), now_);
}

std::string Server::name_of(Slot slot) const {
  const Process* const process = const_cast<Processes&>(processes_).find(slot);
  return process == nullptr ? "a process that has gone"
                            : "pid " + std::to_string(process->peer.pid) + " (" +
                                  process->program + ")";
}

void Server::waited(Ticket ticket, std::vector<std::uint32_t> ready) {
  if (Session* session = find_session(ticket.session))
    reply(*session, Op::wait, ticket.number, wire::WaitReply{std::move(ready)});
}

void Server::claim(Session& session, std::uint32_t number, const wire::ClaimRequest& request) {
  rules_.claim({session.id, number, 0},
               {.id = std::string(request.id),
                .version = request.version,
                .token = request.token,
                .owner_slot = session.slot,
                .writer_uid = session.peer.uid},
               deadline_after(now_, request.timeout_ns), now_);
}

void Server::claimed(Ticket ticket, const ClaimAnswer& answer) {
  if (Session* session = find_session(ticket.session)) {
    reply(*session, Op::claim, ticket.number,
          wire::ClaimReply{memory_.uuid(), static_cast<std::uint8_t>(answer.yours ? 1 : 0),
                           answer.entry, answer.version, answer.serial});
  } else if (answer.yours) {
    // Its connection ended while it waited: the next one may have it.
    (void)rules_.abort(answer.entry, answer.serial, table_.owner_slot(answer.entry), true);
  }
}

void Server::events(Session& session, std::uint32_t number, const wire::EventsRequest& request) {
  std::optional<std::uint64_t> cursor;
  if (request.store != wire::Uuid{}) {
    if (request.store != memory_.uuid())
      return reply_failure(session, Op::events, number,
                           fail(Errc::wrong_store, "the cursor is of another store, " +
                                                       format_uuid(request.store))
                               .error);
    cursor = request.cursor;
  }
  rules_.read_events({session.id, number, 0}, request.prefix, cursor,
                     deadline_after(now_, request.timeout_ns), now_);
}

void Server::told(Ticket ticket, const EventLog::Batch& batch) {
  Session* const session = find_session(ticket.session);
  if (session == nullptr) return;
  wire::EventsReply answer;
  answer.store = memory_.uuid();
  answer.cursor = batch.cursor;
  answer.missed = batch.missed;
  answer.events.reserve(batch.events.size());
  for (const StoreEvent* event : batch.events)
    answer.events.push_back({static_cast<std::uint8_t>(event->kind),
                             static_cast<std::uint8_t>(event->cause), event->id, event->version,
                             event->serial, event->size});
  reply(*session, Op::events, ticket.number, answer);
}

void Server::cancel(Session& session, std::uint32_t number) {
  rules_.cancel_wait(session.id, number);
  forget_wait_parts(session, number);
  const auto waiting = session.waiting.find(number);
  if (waiting == session.waiting.end()) return;
  // A create or put is ended by `abort`, for it may be done already.
  const Op op = waiting->second.op;
  if (op == Op::await || op == Op::wait || op == Op::events || op == Op::claim ||
      op == Op::transfer || op == Op::range || op == Op::import)
    answered(session, number);
}

Result<std::uint64_t> Server::remove(const wire::RemoveRequest& request) {
  if (request.serial != 0 && request.store != memory_.uuid()) return other_store();
  if (request.before != 0) return rules_.remove_before(request.id, request.before);
  return rules_.remove(request.id, request.version, request.serial, request.repeated != 0);
}

void Server::remove_many(Session& session, std::uint32_t number,
                         const wire::RemoveManyRequest& request) {
  std::vector<std::string> details(request.items.size());
  wire::RemoveManyReply answer;
  answer.items.resize(request.items.size());
  constexpr std::size_t item_bytes = 32;  // of an answer besides its reason, generously
  const std::size_t share = wire::frame_bytes_max / (request.items.size() + 1);
  for (std::size_t i = 0; i < request.items.size(); ++i) {
    const auto removed = remove(request.items[i]);
    wire::RemoveManyItem& item = answer.items[i];
    if (removed) {
      item.removed = *removed;
      continue;
    }
    details[i] = removed.error().detail.substr(0, share > item_bytes ? share - item_bytes : 0);
    const wire::ReplyStatus status = wire::status_of(removed.error());
    item.origin = status.origin;
    item.code = status.code;
    item.detail = details[i];
  }
  reply(session, Op::remove_many, number, answer);
}

void Server::hold(Session& session, std::uint32_t number, const wire::HoldRequest& request) {
  if (request.serial != 0 && request.store != memory_.uuid())
    return reply_failure(session, Op::hold, number, other_store().error);
  Result<EntryNumber> entry = fail(Errc::bad_argument, "no such verb of holding");
  switch (static_cast<wire::HoldVerb>(request.verb)) {
    case wire::HoldVerb::hold:
      entry = rules_.hold(request.id, request.version, request.serial, session.slot);
      break;
    case wire::HoldVerb::unhold:
      entry = rules_.unhold(request.id, request.version, request.serial, session.slot);
      break;
    case wire::HoldVerb::persist:
      entry = rules_.persist(request.id, request.version, request.serial);
      break;
  }
  if (!entry) return reply_failure(session, Op::hold, number, entry.error());
  // What was let go may be gone by now: its number and version are what the caller asked for.
  reply(session, Op::hold, number,
        wire::HoldReply{*entry, table_.version(*entry), table_.serial(*entry)});
}

void Server::holds_again(Session& session, const wire::HoldsAgainRequest& request) {
  // Each may be held more than once; but not without end.
  constexpr std::size_t times = 4;
  const std::size_t known = memory_.index().live->entries_end.load(std::memory_order_relaxed);
  if (session.holds_parts.size() + request.items.size() > times * (known + dump_page_bytes)) {
    ending_.push_back(session.id);
    return;
  }
  for (const wire::HeldItem& item : request.items)
    session.holds_parts.emplace_back(item.entry, item.serial);
  if (request.more != 0) return;
  rules_.hold_again(session.slot, session.holds_parts);
  session.holds_parts = {};
}

void Server::scope(Session& session, std::uint32_t number, const wire::ScopeRequest& request,
                   std::size_t bytes) {
  const Ticket ticket{session.id, number, 0};
  switch (static_cast<wire::ScopeVerb>(request.verb)) {
    case wire::ScopeVerb::begin:
      if (may_wait(session, Op::scope, number, bytes))
        rules_.begin_scope(ticket, request.prefix, session.slot, request.repeated != 0);
      return;
    case wire::ScopeVerb::end:
      if (may_wait(session, Op::scope, number, bytes))
        rules_.end_scope(ticket, request.prefix, session.slot, request.repeated != 0);
      return;
    case wire::ScopeVerb::forget:
      return rules_.forget_scope(request.prefix, session.slot);
  }
  reply_failure(session, Op::scope, number,
                fail(Errc::bad_argument, "no such verb of scopes").error);
}

void Server::scoped(Ticket ticket, std::uint64_t removed) {
  if (Session* session = find_session(ticket.session))
    reply(*session, Op::scope, ticket.number, wire::ScopeReply{removed});
}

void Server::scopes_again(Session& session, const wire::ScopesAgainRequest& request) {
  constexpr std::size_t scopes_said_max = 4096;
  if (session.scopes_parts.size() + request.items.size() > scopes_said_max) {
    ending_.push_back(session.id);
    return;
  }
  for (const wire::ScopeItem& item : request.items)
    session.scopes_parts.emplace_back(std::string(item.prefix.substr(0, id_bytes_max)),
                                      item.ends != 0);
  if (request.more != 0) return;
  rules_.scopes_again(session.slot, session.scopes_parts);
  session.scopes_parts = {};
}

void Server::stat(Session& session, std::uint32_t number, const wire::StatRequest& request) {
  const auto entry = rules_.find(request.id, request.version);
  if (!entry) return reply_failure(session, Op::stat, number, entry.error());
  wire::StatReply answer;
  answer.entry = *entry;
  answer.serial = table_.serial(*entry);
  answer.state = static_cast<std::uint8_t>(table_.word(*entry).state());
  const auto found = tables_.holders(*entry);
  for (const PinHolder& holder : found) answer.holders.push_back(item_of(holder));
  for (const Slot slot : rules_.leases(*entry))
    if (const Process* process = processes_.find(slot))
      answer.leases.push_back({static_cast<std::uint32_t>(process->peer.pid), process->program, 0, 0});
  answer.manifests = static_cast<std::uint32_t>(rules_.manifests_of(*entry));
  answer.keep = rules_.keep_of_id(*entry);
  if (const auto expiry = rules_.expiry(*entry)) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*expiry - now_).count();
    answer.expires_ms = static_cast<std::uint64_t>(std::max<long long>(left, 1));
  }
  answer.version = table_.version(*entry);
  answer.size = table_.size(*entry);
  reply(session, Op::stat, number, answer);
}

// ----------------------------------------------------------------------------------- for people

void Server::holders(Session& session, std::uint32_t number) {
  const auto found = tables_.holders_of_all([this](EntryNumber entry) {
    return table_.word(entry).state() == shm::State::free ? 0 : table_.size(entry);
  });
  wire::HoldersReply answer;
  for (const PinHolder& holder : found) answer.holders.push_back(item_of(holder));
  reply(session, Op::holders, number, answer);
}

std::string Server::status_text() const {
  const Usage usage = rules_.usage();
  const PinTables::Tallies tallies = tables_.tallies();
  std::string text;
  const auto line = [&text](const char* name, const std::string& value) {
    text += name;
    text += ' ';
    text += value;
    text += '\n';
  };
  const auto count = [&line](const char* name, std::uint64_t value) {
    line(name, std::to_string(value));
  };
  line("store", format_uuid(memory_.uuid()));
  line("namespace", memory_.index().stamp->namespace_name.data());
  count("daemon_pid", static_cast<std::uint64_t>(::getpid()));
  count("daemon_starts", memory_.index().live->daemon_starts.load());
  count("uptime_seconds",
        static_cast<std::uint64_t>(
            std::chrono::duration_cast<std::chrono::seconds>(now_ - started_at_).count()));
  count("huge_pages", options_.huge_pages ? 1 : 0);
  count("capacity_bytes", usage.capacity);
  count("used_bytes", usage.used);
  count("warm_bytes", usage.warm);
  count("growing_bytes", usage.growing);
  count("ungrown_bytes", usage.ungrown);
  count("slab_bytes", usage.slabs);
  count("slab_item_bytes", usage.slab_items);
  count("arena_backed_bytes", shm::backed_bytes(memory_.arena_object()));
  count("index_backed_bytes", shm::backed_bytes(memory_.index_object()));
  count("segments", usage.segments);
  count("ids", usage.ids);
  count("creating", usage.creating);
  count("removing", usage.removing);
  count("tombstones", usage.tombstones);
  count("waiters", usage.waiters);
  count("parked_creates", usage.parked);
  count("waiting_claims", usage.claims_waiting);
  count("waiting_subscribers", usage.subscribers_waiting);
  count("events", usage.events);
  count("clean_bytes", usage.clean_bytes);
  count("spilled", usage.spilled);
  count("spilled_bytes", usage.spilled_bytes);
  count("copying_bytes", usage.copying_bytes);
  count("fetching_bytes", usage.fetching_bytes);
  count("restoring", usage.restoring);
  tier_status(line);
  count("scopes", usage.scopes);
  count("scopes_ending", usage.scopes_ending);
  count("sessions", sessions_.size());
  count("gets", tallies.gets);
  count("get_misses", tallies.misses);
  count("get_bytes", tallies.bytes);
  count("puts", tallies.puts);
  return text;
}

// Pages: status and extents first, then sessions and tables, then the entries, a page each time.
std::string Server::dump_text(std::uint64_t from, std::uint64_t& next) const {
  std::string text;
  if (from == 0) {
    text += "# status\n" + status_text() + "# free extents with memory: " +
            std::to_string(rules_.space().warm_runs()) + " runs, the largest " +
            format_size(rules_.space().largest_warm()) + "\n# processes: slot pid uid session "
            "pins program\n";
    for (const auto& [slot, process] : const_cast<Processes&>(processes_).all())
      text += std::to_string(slot) + ' ' + std::to_string(process.peer.pid) + ' ' +
              std::to_string(process.peer.uid) + ' ' + std::to_string(process.session) + ' ' +
              (tables_.holds_any(slot) ? "held " : "none ") + process.program +
              (process.said_goodbye ? " (said goodbye)" : "") + '\n';
    text += "# sessions: id pid slot outbox_bytes\n";
    for (const auto& [id, session] : sessions_)
      text += std::to_string(id) + ' ' + std::to_string(session->peer.pid) + ' ' +
              std::to_string(session->slot) + ' ' + std::to_string(session->outbox_bytes) + '\n';
    text += "# scopes: pid prefix\n";
    std::size_t listed = 0;
    for (const auto& [prefix, scope] : rules_.scopes()) {
      if (listed++ == scopes_listed_max) {
        text += "and " + std::to_string(rules_.scopes().size() - scopes_listed_max) +
                " more, among the entries below\n";
        break;
      }
      const Process* const process = const_cast<Processes&>(processes_).find(scope.slot);
      text += std::to_string(process != nullptr ? process->peer.pid : 0) + ' ' + shown(prefix) +
              '\n';
    }
    text += "# entries: number state generation version serial offset size flags owner pins id\n";
    if (text.size() > wire::frame_bytes_max / 2) text.resize(wire::frame_bytes_max / 2);
    next = 1;
    return text;
  }
  static constexpr std::array names{"free",      "creating",  "sealed",   "evicting",
                                    "spilled",   "restoring", "removing", "tombstone"};
  const std::uint32_t end = memory_.index().live->entries_end.load();
  auto entry = static_cast<EntryNumber>(std::min<std::uint64_t>(from, end));
  for (; entry < end && text.size() < dump_page_bytes; ++entry) {
    const shm::Word word = table_.word(entry);
    if (word.state() == shm::State::free) continue;
    std::string id;
    for (const char c : table_.id(entry))
      id += c > ' ' && c <= '~' ? c : '.';
    std::uint64_t pins = 0;
    for (const PinHolder& holder : const_cast<PinTables&>(tables_).holders(entry))
      pins += holder.pins;
    text += std::to_string(entry) + ' ' + names[static_cast<std::size_t>(word.state())] +
            (word.wanted() ? "+wanted " : " ") + std::to_string(word.generation()) + ' ' +
            std::to_string(table_.version(entry)) + ' ' + std::to_string(table_.serial(entry)) +
            ' ' + std::to_string(table_.location(entry).offset()) + ' ' +
            std::to_string(table_.size(entry)) + ' ' + std::to_string(table_.flags(entry)) + ' ' +
            std::to_string(table_.owner_slot(entry)) + ' ' + std::to_string(pins) + ' ' + id +
            '\n';
  }
  next = entry < end ? entry : 0;
  return text;
}

}  // namespace forebay::daemon
