// SPDX-License-Identifier: Apache-2.0
// PoolServer: the control sessions of a pool, on one thread that waits for nothing but its sockets.
//
// A session that breaks the protocol, proves another key, falls silent or is replaced by a later
// one of the same store is ended, with its data links, and one line says so; the server goes on.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "spill/pool/data_link.h"
#include "spill/pool/frames.h"
#include "spill/pool/handshake.h"
#include "spill/pool/log.h"
#include "spill/pool/pool.h"
#include "spill/pool/socket.h"

namespace forebay::spill::pool {

struct PoolServerOptions {
  ClusterKey key;
  std::chrono::milliseconds silent_for{5000};     // then a session ends; heartbeats come more often
  std::chrono::milliseconds handshake_for{5000};
  std::size_t sessions_max = 1024;
};

class PoolServer {
 public:
  static Result<std::unique_ptr<PoolServer>> make(Pool& pool, DataServer& data, Listening listening,
                                                  PoolServerOptions options, const Log& log);
  ~PoolServer();
  PoolServer(const PoolServer&) = delete;
  PoolServer& operator=(const PoolServer&) = delete;

  // Serves until `stop` can be read from.
  Result<void> serve(int stop);
  // When it last came around, for a watchdog in another thread.
  std::chrono::steady_clock::time_point last_round() const { return last_round_.load(); }

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Session;

  PoolServer(Pool& pool, DataServer& data, Listening listening, PoolServerOptions options,
             const Log& log);
  void watch(int what, int descriptor, std::uint32_t events, std::uint64_t id);
  void accept(Time now);
  // The session's turn. False: it has ended.
  bool receive(Session& session, Time now);
  Result<void> handle(Session& session, const Frame& frame, Time now);
  Result<void> handshake(Session& session, const Frame& frame, Time now);
  void welcome(Session& session, Time now);
  void send(Session& session, Kind kind, std::uint64_t number, std::span<const std::byte> body);
  bool flush(Session& session);
  void end(std::uint64_t id, const std::string& why, bool tell, Time now);
  void end_the_silent(Time now);

  Pool& pool_;
  DataServer& data_;
  Listening listening_;
  PoolServerOptions options_;
  const Log& log_;
  Descriptor epoll_;
  std::map<std::uint64_t, std::unique_ptr<Session>> sessions_;
  std::uint64_t last_id_ = 15;
  bool listening_paused_ = false;
  std::atomic<Time> last_round_{};
};

}  // namespace forebay::spill::pool
