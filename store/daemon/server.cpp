// SPDX-License-Identifier: Apache-2.0
// The event loop and the sessions; what each request does is in server_requests.cpp.
#include "store/daemon/server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "store/check.h"
#include "store/daemon/log.h"

namespace forebay::daemon {
namespace {

constexpr int events_per_turn = 64;
constexpr int frames_per_turn = 32;  // of one session, so that a flood does not starve the others
constexpr std::size_t outbox_bytes_max = 4 * 1024 * 1024;
constexpr std::size_t outgoing_bytes = 128;  // what even the shortest answer takes in an outbox
constexpr std::size_t outbox_descriptors_max = 64;
constexpr auto check_interval = std::chrono::seconds(1);
constexpr auto complaint_interval = std::chrono::minutes(1);
constexpr std::size_t sessions_max = 16384;
constexpr std::uint64_t id_mask = (std::uint64_t{1} << 56U) - 1;

}  // namespace

Server::Server(StoreMemory& memory, Descriptor listener, const ServerOptions& options,
               std::unique_ptr<Spill> spill)
    : memory_(memory),
      options_(options),
      listener_(std::move(listener)),
      tables_(memory.home(), *memory.index().stamp),
      processes_(memory.index(), tables_),
      table_(memory.index(),
             [this](std::uint64_t offset, std::uint64_t bytes) {
               return shm::reserve(memory_.index_object(), offset, bytes);
             }),
      rules_(table_, tables_, *this, options.rules),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      now_(Clock::now()),
      started_at_(now_),
      last_client_at_(now_),
      next_check_at_(now_ + check_interval) {
  spare_ = Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  // One more than any frame: a longer one is seen to be cut.
  inbox_.resize(wire::frame_bytes_max + 1);
  frame_.reserve(wire::frame_bytes_max);
  if (options.huge_pages) {
    memory.index_mapping().want_huge_pages();
    memory.arena().want_huge_pages();
  }
  MemoryWorker::BeforePunch before_punch;
  if (spill) {
    port_ = std::make_unique<SpillPort>(
        std::move(spill), std::span(memory.arena().data(), memory.arena().size()), options.spill);
    before_punch = [this](std::span<const std::byte> bytes) {
      port_->spill().memory_leaves(bytes);
    };
  }
  worker_ = std::make_unique<MemoryWorker>(memory.index_object(), memory.arena_object(),
                                           memory.index_mapping(), memory.arena(),
                                           options.huge_pages, std::move(before_punch));
}

Server::~Server() {
  for (auto& [id, session] : sessions_) flush(*session);
}

Result<Server::Adopted> Server::adopt() {
  Adopted adopted;
  // The first step of the index is made here: serving begins with room.
  const bool fresh = memory_.index().live->entries_backed.load() == 0;
  if (fresh) {
    const auto growth = table_.wants_growth(true);
    for (const shm::Range& range : growth->ranges)
      if (auto reserved = shm::reserve(memory_.index_object(), range.offset, range.bytes);
          !reserved)
        return fail(std::move(reserved.error()));
    table_.grown(*growth, true);
  } else {
    memory_.remove_strays();
    std::vector<Slot> inherited;
    const std::vector<bool> living = processes_.recover(&inherited);
    const SegmentTable::Found found = table_.recover();
    adopted.unsound = rules_.adopt(found, living, now_, wall_clock_ns(), [this](EntryNumber manifest) {
      auto members = members_of(manifest);
      return members ? std::move(*members) : std::vector<shm::ManifestMember>{};
    });
    // The pins are the heir's; what else the former one had has ended with it.
    for (const Slot slot : inherited) rules_.process_ended(slot);
    adopted.slots_repaired = found.slots_repaired;
    const shm::Range whole{0, options_.rules.address_bytes};
    const auto touched = shm::touched_ranges(memory_.arena_object(), whole);
    for (const Extent& extent : rules_.adopt_memory(touched))
      shm::punch(memory_.arena_object(), extent.offset, extent.bytes);
    adopted.segments = rules_.usage().segments;
    adopted.living_processes =
        static_cast<std::uint64_t>(std::count(living.begin(), living.end(), true));
  }
  if (port_) port_->spill().adopt(rules_.places());
  auto& live = *memory_.index().live;
  live.daemon_pid.store(static_cast<std::uint32_t>(::getpid()));
  live.daemon_starts.store(live.daemon_starts.load() + 1);
  shm::reached(shm::points::recover_done);
  return adopted;
}

void Server::watch(int descriptor, std::uint32_t events, std::uint64_t tag) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, descriptor, &event) != 0 && errno == EEXIST)
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, descriptor, &event);
}

Result<Ending> Server::serve() {
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&mask, signal);
  signals_ = Descriptor(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_ || !epoll_ || !wake_) return fail_errno(errno, "cannot set up the event loop");
  watch(listener_.get(), EPOLLIN, tag(Source::listener, 0));
  watch(signals_.get(), EPOLLIN, tag(Source::signal, 0));
  watch(wake_.get(), EPOLLIN, tag(Source::wake, 0));
  watch(worker_->wake_descriptor(), EPOLLIN, tag(Source::worker, 0));
  if (port_) watch(port_->wake_descriptor(), EPOLLIN, tag(Source::tiers, 0));
  for (auto& [slot, process] : processes_.all())
    if (process.pidfd) watch(process.pidfd.get(), EPOLLIN, tag(Source::process, slot));
  rules_.begin();

  std::array<epoll_event, events_per_turn> events;
  while (!ending_how_) {
    const int ready =
        ::epoll_wait(epoll_.get(), events.data(), events_per_turn, milliseconds_to_wait());
    if (ready < 0 && errno != EINTR) return fail_errno(errno, "the event loop failed");
    now_ = Clock::now();
    for (int i = 0; i < ready; ++i) {
      dispatch(events[static_cast<std::size_t>(i)].data.u64,
               events[static_cast<std::size_t>(i)].events);
      for (const SessionId id : std::exchange(ending_, {})) end_session(id, "broken");
    }
    do_what_is_due();
  }
  if (*ending_how_ == Ending::drop) {
    rules_.drop_all(false);
    if (port_) port_->spill().settle(TierClock::now() + std::chrono::seconds(2));
  }
  return *ending_how_;
}

void Server::stop() {
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

void Server::dispatch(std::uint64_t tag, std::uint32_t events) {
  const std::uint64_t id = tag & id_mask;
  switch (static_cast<Source>(tag >> 56U)) {
    case Source::listener:
      accept_sessions();
      break;
    case Source::signal:
      handle_signal();
      break;
    case Source::wake:
      ending_how_ = Ending::keep;
      break;
    case Source::worker:
      finish_memory_jobs();
      break;
    case Source::tiers:
      take_tier_answers();
      break;
    case Source::session:
      serve_session(id, events);
      break;
    case Source::process:
      process_died(static_cast<Slot>(id));
      break;
  }
}

void Server::handle_signal() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
    log::info("signal", {{"number", static_cast<int>(info.ssi_signo)}});
    ending_how_ = Ending::keep;
  }
}

int Server::milliseconds_to_wait() const {
  TimePoint next = next_check_at_;
  if (const auto wakeup = rules_.next_wakeup()) next = std::min(next, *wakeup);
  if (const auto look = processes_.next_look()) next = std::min(next, *look);
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 1000));
}

void Server::do_what_is_due() {
  if (!tierless_fetches_.empty()) take_tier_answers();
  rules_.tick(now_);
  for (const Slot slot : processes_.departed(now_, memory_.index_object()))
    if (!pass_on(*processes_.find(slot))) dismiss(slot, "departed");
  if (now_ < next_check_at_) return;
  next_check_at_ = now_ + check_interval;
  if (!listening_) listen_again();

  std::vector<SessionId> mute;
  for (const auto& [id, session] : sessions_) {
    // A forked child that is stopped may say its first word late; when it dies, its socket ends.
    if (!session->admitted && !session->awaits_child &&
        now_ - session->opened_at > options_.hello_deadline)
      mute.push_back(id);
    if (session->admitted && !session->awaits_child && tables_.has(session->slot) &&
        tables_.broken(session->slot))
      mute.push_back(id);
  }
  for (const SessionId id : mute) end_session(id, "said nothing, or broke its pin table");
  if (memory_.damaged()) {
    log::error("memory_damaged",
               {{"advice", "another process of this user truncated the store's shared memory"}});
    ending_how_ = Ending::drop;
  }
  if (!processes_.all().empty()) last_client_at_ = now_;
  if (options_.idle_exit.count() > 0 && now_ - last_client_at_ >= options_.idle_exit) {
    log::info("idle", {{"seconds", options_.idle_exit.count()}});
    rules_.drop_all(true);
    ending_how_ = Ending::drop_unless_persistent;
  }
}

void Server::finish_memory_jobs() {
  for (const MemoryWorker::Done& done : worker_->take_done()) {
    if (done.error) log::warning("memory_refused", {{"reason", done.error.message()}});
    rules_.memory_done(done.number, done.error, now_);
  }
}

void Server::start(MemoryJob job) { worker_->submit(std::move(job)); }

// -------------------------------------------------------------------------------------- sessions

void Server::accept_sessions() {
  for (int i = 0; i < events_per_turn; ++i) {
    Descriptor socket(
        ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      if ((errno == EMFILE || errno == ENFILE) && turn_newcomer_away()) continue;
      return;
    }
    if (sessions_.size() >= sessions_max) {
      refuse_newcomer(std::move(socket),
                      fail(Errc::limit_reached, "forebayd has " + std::to_string(sessions_max) +
                                                    " connections already; end some clients")
                          .error);
      continue;
    }
    auto session = std::make_unique<Session>();
    session->id = next_session_++;
    session->opened_at = now_;
    const auto peer = peer_of(socket.get());
    auto pidfd = peer ? watch_peer(socket.get(), *peer) : Result<Descriptor>(Descriptor());
    session->socket = std::move(socket);
    Session& added = *sessions_.emplace(session->id, std::move(session)).first->second;
    watch(added.socket.get(), EPOLLIN, tag(Source::session, added.id));
    if (!peer || !pidfd) {
      const Error& error = peer ? pidfd.error() : peer.error();
      log::warning("session_refused", {{"reason", error.message()}});
      reply_failure(added, wire::Op::hello, 1, error);
      ending_.push_back(added.id);
      continue;
    }
    added.peer = *peer;
    added.pidfd = std::move(*pidfd);
  }
}

// A newcomer that cannot be accepted would be announced again at once, for ever: so one descriptor
// is kept to accept it with, and to say why it cannot stay. False: none came, or nobody can.
bool Server::turn_newcomer_away() {
  spare_.reset();
  Descriptor socket(
      ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  const bool out_of_descriptors = !socket && (errno == EMFILE || errno == ENFILE);
  const bool came = static_cast<bool>(socket);
  if (came)
    refuse_newcomer(std::move(socket),
                    fail(Errc::limit_reached, "forebayd has no descriptors left; end some clients, "
                                              "or start it with a larger limit (ulimit -n)")
                        .error);
  spare_ = Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (out_of_descriptors) {
    // Somebody else has taken even that one.
    listening_ = false;
    watch(listener_.get(), 0, tag(Source::listener, 0));
  }
  return came;
}

void Server::listen_again() {
  if (!spare_) spare_ = Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  listening_ = true;
  watch(listener_.get(), EPOLLIN, tag(Source::listener, 0));
}

void Server::refuse_newcomer(Descriptor socket, const Error& error) {
  if (now_ >= complain_at_) {
    log::warning("newcomers_refused", {{"reason", error.message()}});
    complain_at_ = now_ + complaint_interval;
  }
  // What it has said already must be read: a socket that is closed over unread bytes resets the
  // connection, and the peer would not see the answer.
  (void)wire::receive_frame(socket.get(), inbox_, 0);
  wire::encode_failure(error, wire::Op::hello, 1, frame_);
  (void)wire::send_frame(socket.get(), frame_, {});
}

Session* Server::find_session(SessionId id) {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : found->second.get();
}

void Server::serve_session(SessionId id, std::uint32_t events) {
  Session* session = find_session(id);
  if (session == nullptr) return;
  if ((events & EPOLLOUT) != 0) flush(*session);
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  for (int i = 0; i < frames_per_turn; ++i) {
    wire::Received received = wire::receive_frame(session->socket.get(), inbox_, 0);
    switch (received.kind) {
      case wire::Received::Kind::nothing:
        return;
      case wire::Received::Kind::closed:
        end_session(id, "closed by its peer");
        return;
      case wire::Received::Kind::malformed:
        log::warning("bad_frame", {{"pid", session->peer.pid},
                                   {"reason", "too long, or with descriptors"}});
        end_session(id, "sent a bad frame");
        return;
      case wire::Received::Kind::frame:
        // Not the turn's: this process may have lost the processor since, and a wait would end early.
        now_ = Clock::now();
        handle_frame(*session, std::span(inbox_).first(received.bytes), received.credentials);
    }
    if (std::find(ending_.begin(), ending_.end(), id) != ending_.end()) return;
    session = find_session(id);
    if (session == nullptr) return;
  }
}

void Server::end_session(SessionId id, const char* why) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  const std::unique_ptr<Session> session = std::move(found->second);
  sessions_.erase(found);
  log::debug("session_ended", {{"pid", session->peer.pid}, {"reason", why}});
  rules_.session_ended(id);
  std::erase_if(in_flight_, [id](const auto& item) { return item.first.session == id; });
  std::erase_if(batches_, [id](const auto& item) { return item.first.session == id; });
  if (session->awaits_child) {
    // The fork failed, or its child died before its first word.
    dismiss(session->slot, "child never arrived");
    return;
  }
  if (!session->admitted) return;
  if (Process* process = processes_.find(session->slot);
      process != nullptr && process->session == id)
    processes_.disconnected(*process, now_);
}

void Server::process_died(Slot slot) {
  Process* process = processes_.find(slot);
  if (process == nullptr) return;
  log::debug("process_died", {{"pid", process->peer.pid}, {"program", process->program}});
  if (process->session != 0) end_session(process->session, "its process died");
  if (!pass_on(*process)) dismiss(slot, "died");
}

// A table that was shared at a fork, and that its process needs no more, goes on as a living heir's.
bool Server::pass_on(Process& process) {
  if (!tables_.holds_any(process.slot)) return false;
  const Descriptor former = std::move(process.pidfd);
  if (!processes_.inherit(process)) return false;
  end_side_sessions(process.slot);
  if (former) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, former.get(), nullptr);
  watch(process.pidfd.get(), EPOLLIN, tag(Source::process, process.slot));
  processes_.disconnected(process, now_);
  // What the former one was making is nobody's; what it pinned may be the heir's.
  rules_.process_ended(process.slot);
  return true;
}

// Its slot is another's next: nobody may go on speaking under it.
void Server::end_side_sessions(Slot slot) {
  std::vector<SessionId> sides;
  for (const auto& [id, session] : sessions_)
    if (session->side && session->slot == slot) sides.push_back(id);
  for (const SessionId id : sides) end_session(id, "its process has gone");
}

void Server::dismiss(Slot slot, const char* why) {
  if (const Process* process = processes_.find(slot))
    log::info("process_gone", {{"pid", process->peer.pid},
                               {"program", process->program},
                               {"reason", why}});
  end_side_sessions(slot);
  processes_.dismiss(slot);
  rules_.process_ended(slot);
}

void Server::send(Session& session, std::vector<int> descriptors) {
  // Once it is known to be too slow, there is nothing more to say to it, or of it.
  if (session.outbox_bytes > outbox_bytes_max) return;
  if (session.outbox.empty()) {
    const wire::Sent sent = wire::send_frame(session.socket.get(), frame_, descriptors);
    if (sent == wire::Sent::all) return;
    if (sent == wire::Sent::closed) {
      ending_.push_back(session.id);
      return;
    }
  }
  Session::Outgoing outgoing;
  outgoing.frame = frame_;
  session.outbox_bytes += frame_.size() + outgoing_bytes;
  session.outbox_descriptors += descriptors.size();
  if (session.outbox_bytes > outbox_bytes_max ||
      session.outbox_descriptors > outbox_descriptors_max) {
    log::warning("session_too_slow", {{"pid", session.peer.pid}});
    ending_.push_back(session.id);
    return;
  }
  for (const int descriptor : descriptors)
    outgoing.descriptors.emplace_back(::fcntl(descriptor, F_DUPFD_CLOEXEC, 0));
  session.outbox.push_back(std::move(outgoing));
  flush(session);
}

void Server::flush(Session& session) {
  while (!session.outbox.empty()) {
    const Session::Outgoing& first = session.outbox.front();
    std::vector<int> descriptors;
    for (const Descriptor& descriptor : first.descriptors)
      descriptors.push_back(descriptor.get());
    const wire::Sent sent =
        wire::send_frame(session.socket.get(), first.frame, descriptors);
    if (sent == wire::Sent::closed) {
      ending_.push_back(session.id);
      return;
    }
    if (sent == wire::Sent::would_block) break;
    session.outbox_bytes -= first.frame.size() + outgoing_bytes;
    session.outbox_descriptors -= first.descriptors.size();
    session.outbox.pop_front();
  }
  const bool wants_writable = !session.outbox.empty();
  if (wants_writable == session.watching_writable) return;
  session.watching_writable = wants_writable;
  watch(session.socket.get(), wants_writable ? EPOLLIN | EPOLLOUT : EPOLLIN,
        tag(Source::session, session.id));
}

}  // namespace forebay::daemon
