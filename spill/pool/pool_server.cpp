// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/pool_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

namespace forebay::spill::pool {
namespace {

constexpr std::uint64_t listener_id = 0;
constexpr std::uint64_t stop_id = 1;
constexpr int tick_ms = 100;
constexpr std::size_t turn_bytes = 64 * 1024;
constexpr std::size_t unsent_bytes_max = 512 * 1024;  // then a session is not listened to

Failure not_a_message(std::string_view what) {
  return fail(Errc::bad_message, "a broken " + std::string(what));
}

}  // namespace

struct PoolServer::Session {
  enum class Phase { hello, proof, serving };

  std::uint64_t id = 0;
  Descriptor socket;
  std::string peer;
  Phase phase = Phase::hello;
  std::optional<ServerHandshake> handshake;
  FrameReader in;
  FrameWriter out;
  std::vector<std::byte> unsent;
  std::size_t sent = 0;
  Time heard;
  Time since;
  std::optional<Pool::SessionId> in_pool;
  std::uint32_t watched = EPOLLIN;

  std::size_t unsent_bytes() const { return unsent.size() - sent; }
};

Result<std::unique_ptr<PoolServer>> PoolServer::make(Pool& pool, DataServer& data,
                                                     Listening listening,
                                                     PoolServerOptions options, const Log& log) {
  std::unique_ptr<PoolServer> server(
      new PoolServer(pool, data, std::move(listening), std::move(options), log));
  if (!server->epoll_) return fail_errno(errno, "cannot make an epoll instance");
  return server;
}

PoolServer::PoolServer(Pool& pool, DataServer& data, Listening listening, PoolServerOptions options,
                       const Log& log)
    : pool_(pool),
      data_(data),
      listening_(std::move(listening)),
      options_(std::move(options)),
      log_(log),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}

PoolServer::~PoolServer() {
  const Time now = std::chrono::steady_clock::now();
  while (!sessions_.empty())
    end(sessions_.begin()->first, "this pool ends", true, now);
}

void PoolServer::watch(int what, int descriptor, std::uint32_t events, std::uint64_t id) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  ::epoll_ctl(epoll_.get(), what, descriptor, &event);
}

Result<void> PoolServer::serve(int stop) {
  watch(EPOLL_CTL_ADD, listening_.socket.get(), EPOLLIN, listener_id);
  watch(EPOLL_CTL_ADD, stop, EPOLLIN, stop_id);
  std::array<epoll_event, 64> events{};
  Time next_tick{};
  while (true) {
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), tick_ms);
    if (count < 0 && errno != EINTR) return fail_errno(errno, "cannot wait for sessions");
    const Time now = std::chrono::steady_clock::now();
    last_round_.store(now);
    for (int i = 0; i < count; ++i) {
      const epoll_event event = events[static_cast<std::size_t>(i)];
      if (event.data.u64 == stop_id) return {};
      if (event.data.u64 == listener_id) {
        accept(now);
        continue;
      }
      const auto found = sessions_.find(event.data.u64);
      if (found == sessions_.end()) continue;
      Session& session = *found->second;
      if ((event.events & EPOLLOUT) != 0 && !flush(session)) {
        end(session.id, "it hung up", false, now);
        continue;
      }
      if ((event.events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !receive(session, now)) continue;
      const std::uint32_t wanted =
          (session.unsent_bytes() < unsent_bytes_max ? std::uint32_t{EPOLLIN} : 0U) |
          (session.unsent_bytes() > 0 ? std::uint32_t{EPOLLOUT} : 0U);
      if (wanted != session.watched)
        watch(EPOLL_CTL_MOD, session.socket.get(), session.watched = wanted, session.id);
    }
    // After what has come was read: whoever was kept from running is not taken for silent.
    if (now >= next_tick) {
      next_tick = now + std::chrono::milliseconds(tick_ms);
      end_the_silent(now);
      pool_.tick(now);
      if (std::exchange(listening_paused_, false))
        watch(EPOLL_CTL_MOD, listening_.socket.get(), EPOLLIN, listener_id);
    }
  }
}

void PoolServer::accept(Time now) {
  while (true) {
    Descriptor socket(
        ::accept4(listening_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        log_.warning("no descriptor for another session; raise the limit (ulimit -n)");
        watch(EPOLL_CTL_MOD, listening_.socket.get(), 0, listener_id);
        listening_paused_ = true;
      }
      return;
    }
    if (sessions_.size() >= options_.sessions_max) {
      log_.warning("a session was refused: there are " + std::to_string(sessions_.size()));
      continue;
    }
    tune(socket.get(), Traffic::control);
    auto session = std::make_unique<Session>();
    session->id = ++last_id_;
    session->peer = peer_of(socket.get());
    session->handshake.emplace(options_.key, data_.transport());
    session->heard = session->since = now;
    session->socket = std::move(socket);
    watch(EPOLL_CTL_ADD, session->socket.get(), EPOLLIN, session->id);
    sessions_.emplace(session->id, std::move(session));
  }
}

bool PoolServer::receive(Session& session, Time now) {
  std::array<std::byte, turn_bytes> buffer;
  const ssize_t got = ::recv(session.socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return true;
  if (got <= 0) {
    end(session.id, "it hung up", false, now);
    return false;
  }
  session.heard = now;
  session.in.feed(std::span(buffer).first(static_cast<std::size_t>(got)));
  const std::uint64_t id = session.id;
  while (true) {
    auto frame = session.in.next();
    if (!frame) {
      end(id, frame.error().message(), true, now);
      return false;
    }
    if (!*frame) break;
    if (auto handled = handle(session, **frame, now); !handled) {
      end(id, handled.error().message(), session.phase == Session::Phase::serving, now);
      return false;
    }
  }
  if (!flush(session)) {
    end(id, "it hung up", false, now);
    return false;
  }
  return true;
}

Result<void> PoolServer::handshake(Session& session, const Frame& frame, Time now) {
  const auto refuse = [&](const Error& error) {
    send(session, Kind::refused, frame.number, pack(Outcome::of(error)));
    (void)flush(session);
    return fail(error);
  };
  if (session.phase == Session::Phase::hello) {
    if (frame.kind != Kind::client_hello)
      return refuse({make_error_code(Errc::bad_message), "what came is not the hello of a daemon"});
    auto hello = session.handshake->answer(frame.body);
    if (!hello) return refuse(hello.error());
    send(session, Kind::server_hello, frame.number, *hello);
    session.phase = Session::Phase::proof;
    return {};
  }
  if (frame.kind == Kind::refused) {
    const auto why = unpack<Outcome>(frame.body);
    return why && !why->well() ? Result<void>(fail(why->error())) : not_a_message("refusal");
  }
  if (frame.kind != Kind::client_proof) return refuse(not_a_message("proof").error);
  if (auto proven = session.handshake->finish(frame.body); !proven) return refuse(proven.error());
  session.in.secure(session.handshake->keys().to_server);
  session.out.secure(session.handshake->keys().to_client);
  welcome(session, now);
  return {};
}

void PoolServer::welcome(Session& session, Time now) {
  const StoreUuid store = session.handshake->client().store;
  // One session per store. An older one belongs to a daemon that has been replaced, or that does
  // not know yet that its connection is gone: it must not write any more.
  std::vector<std::uint64_t> older;
  for (const auto& [id, other] : sessions_)
    if (other->in_pool && other->handshake->client().store == store) older.push_back(id);
  for (const std::uint64_t id : older)
    end(id, "another session of the same store has come", true, now);
  session.in_pool = pool_.begin(store);
  session.phase = Session::Phase::serving;
  for (const LinkToken& token : session.handshake->keys().links) data_.admit(token);
  send(session, Kind::welcome, 0,
       pack(Welcome{.incarnation = pool_.arena().incarnation(),
                    .epoch = pool_.arena().epoch(),
                    .capacity_bytes = pool_.arena().bytes().size(),
                    .used_bytes = pool_.used_bytes(),
                    .data_address = data_.address()}));
  log_.info(session.peer + ": session of " + session.handshake->client().software);
}

Result<void> PoolServer::handle(Session& session, const Frame& frame, Time now) {
  if (session.phase != Session::Phase::serving) return handshake(session, frame, now);
  const Pool::SessionId in_pool = *session.in_pool;
  const auto answer = [&](const auto& message) {
    send(session, frame.kind, frame.number, pack(message));
    return Result<void>();
  };
  const auto outcome_of = [](const auto& result) {
    return result ? Outcome{} : Outcome::of(result.error());
  };
  switch (frame.kind) {
    case Kind::alloc: {
      const auto request = unpack<AllocRequest>(frame.body);
      if (!request || request->items.size() > batch_items_max) return not_a_message("ALLOC");
      AllocAnswer granted;
      for (const Wanted& wanted : request->items) {
        const auto one = pool_.allocate(in_pool, wanted, now);
        granted.items.push_back({outcome_of(one), one ? *one : Granted{}});
      }
      granted.used_bytes = pool_.used_bytes();
      return answer(granted);
    }
    case Kind::commit: {
      const auto request = unpack<CommitRequest>(frame.body);
      if (!request || request->items.size() > batch_items_max) return not_a_message("COMMIT");
      Outcomes outcomes;
      for (const TierItem& item : request->items)
        outcomes.items.push_back(outcome_of(pool_.commit(in_pool, item)));
      outcomes.used_bytes = pool_.used_bytes();
      return answer(outcomes);
    }
    case Kind::free: {
      const auto request = unpack<FreeRequest>(frame.body);
      if (!request || request->items.size() > batch_items_max) return not_a_message("FREE");
      Outcomes outcomes;
      for (const Named& item : request->items)
        outcomes.items.push_back(outcome_of(pool_.free(in_pool, item, now)));
      outcomes.used_bytes = pool_.used_bytes();
      return answer(outcomes);
    }
    case Kind::list: {
      const auto request = unpack<ListRequest>(frame.body);
      if (!request) return not_a_message("LIST");
      return answer(pool_.list(in_pool, *request));
    }
    case Kind::find: {
      const auto request = unpack<FindRequest>(frame.body);
      if (!request) return not_a_message("FIND");
      const auto found = pool_.find(*request);
      return answer(FindAnswer{outcome_of(found), found ? *found : TierItem{}});
    }
    case Kind::open: {
      const auto request = unpack<OpenRequest>(frame.body);
      if (!request) return not_a_message("OPEN");
      const auto opened = pool_.open(in_pool, request->item);
      OpenAnswer told = opened ? *opened : OpenAnswer{};
      told.outcome = outcome_of(opened);
      return answer(told);
    }
    case Kind::stat:
    case Kind::heartbeat:
      if (!frame.body.empty()) return not_a_message("heartbeat");
      return answer(pool_.stat(in_pool));
    default:
      return not_a_message("request");
  }
}

void PoolServer::send(Session& session, Kind kind, std::uint64_t number,
                      std::span<const std::byte> body) {
  const auto frame = session.out.frame(kind, number, body);
  session.unsent.insert(session.unsent.end(), frame.begin(), frame.end());
}

bool PoolServer::flush(Session& session) {
  while (session.unsent_bytes() > 0) {
    const ssize_t put = ::send(session.socket.get(), session.unsent.data() + session.sent,
                               session.unsent_bytes(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    session.sent += static_cast<std::size_t>(put);
  }
  session.unsent.clear();
  session.sent = 0;
  return true;
}

void PoolServer::end(std::uint64_t id, const std::string& why, bool tell, Time now) {
  const auto found = sessions_.find(id);
  const std::unique_ptr<Session> session = std::move(found->second);
  sessions_.erase(found);
  if (tell) {
    send(*session, Kind::refused, 0, pack(Outcome::of({make_error_code(Errc::tier_down), why})));
    (void)flush(*session);
  }
  session->socket.reset();
  if (session->in_pool) {
    // Its links first: nothing of theirs may arrive in memory that is given away below.
    bool links_ended = true;
    for (const LinkToken& token : session->handshake->keys().links)
      links_ended = data_.dismiss(token) && links_ended;
    pool_.end(*session->in_pool, links_ended, now);
    log_.info(session->peer + ": session ended: " + why);
  } else {
    log_.warning(session->peer + ": no session: " + why);
  }
}

void PoolServer::end_the_silent(Time now) {
  std::vector<std::pair<std::uint64_t, const char*>> ending;
  const auto overdue = pool_.overdue(now);
  for (const auto& [id, session] : sessions_) {
    if (!session->in_pool) {
      if (session->since + options_.handshake_for <= now)
        ending.emplace_back(id, "it did not prove the key in time");
    } else if (session->heard + options_.silent_for <= now) {
      ending.emplace_back(id, "it has fallen silent");
    } else if (std::ranges::find(overdue, *session->in_pool) != overdue.end()) {
      ending.emplace_back(id, "it has not committed what it allocated a minute ago");
    }
  }
  for (const auto& [id, why] : ending) end(id, why, true, now);
}

}  // namespace forebay::spill::pool
