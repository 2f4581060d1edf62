// SPDX-License-Identifier: Apache-2.0
// ControlChannel: a daemon's end of one control session, from connecting to its end. Owned by one
// thread, which polls socket() for events() and calls progress(). After the first error it is over.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "spill/pool/frames.h"
#include "spill/pool/handshake.h"
#include "spill/pool/socket.h"

namespace forebay::spill::pool {

class ControlChannel {
 public:
  using Clock = std::chrono::steady_clock;
  using OnFrame = std::function<Result<void>(const Frame&)>;

  static Result<std::unique_ptr<ControlChannel>> start(const Address& address,
                                                       const ClusterKey& key,
                                                       const StoreUuid& store,
                                                       std::vector<std::string> transports);

  int socket() const { return socket_.get(); }
  short events() const;  // as for poll()
  // When the socket is ready: takes what has come and sends what waits; calls back for each answer,
  // once welcome() is there.
  Result<void> progress(const OnFrame& on_frame);
  Result<void> flush();

  const std::optional<Welcome>& welcome() const { return welcome_; }
  const ServerHello& server() const { return handshake_.server(); }
  const SessionKeys& keys() const { return handshake_.keys(); }
  bool was_refused() const { return refused_; }  // the pool itself has ended it
  Clock::time_point heard() const { return heard_; }

  // Goes out with the next flush() or progress().
  void send(Kind kind, std::uint64_t number, std::span<const std::byte> body);

 private:
  enum class Phase { connecting, hello, proof, open };

  ControlChannel(Address address, const ClusterKey& key, const StoreUuid& store,
                 std::vector<std::string> transports, Descriptor socket);
  Result<void> take(const Frame& frame, const OnFrame& on_frame);
  Failure gone(const std::string& how) const;

  Address address_;
  ClientHandshake handshake_;
  Descriptor socket_;
  Phase phase_ = Phase::connecting;
  FrameReader in_;
  FrameWriter out_;
  std::vector<std::byte> unsent_;
  std::size_t sent_ = 0;
  std::optional<Welcome> welcome_;
  Clock::time_point heard_ = Clock::now();
  bool refused_ = false;
};

}  // namespace forebay::spill::pool
