// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/control_channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace forebay::spill::pool {

Result<std::unique_ptr<ControlChannel>> ControlChannel::start(
    const Address& address, const ClusterKey& key, const StoreUuid& store,
    std::vector<std::string> transports) {
  auto socket = start_to_connect(address);
  if (!socket) return fail(socket.error());
  tune(socket->get(), Traffic::control);
  return std::unique_ptr<ControlChannel>(
      new ControlChannel(address, key, store, std::move(transports), std::move(*socket)));
}

ControlChannel::ControlChannel(Address address, const ClusterKey& key, const StoreUuid& store,
                               std::vector<std::string> transports, Descriptor socket)
    : address_(std::move(address)),
      handshake_(key, store, std::move(transports)),
      socket_(std::move(socket)) {}

short ControlChannel::events() const {
  const bool writes = phase_ == Phase::connecting || sent_ < unsent_.size();
  return static_cast<short>((phase_ == Phase::connecting ? 0 : POLLIN) | (writes ? POLLOUT : 0));
}

Failure ControlChannel::gone(const std::string& how) const {
  return fail(Errc::tier_down, "the pool at " + address_.text() + " " + how);
}

Result<void> ControlChannel::progress(const OnFrame& on_frame) {
  if (phase_ == Phase::connecting) {
    pollfd ready{.fd = socket_.get(), .events = POLLOUT, .revents = 0};
    if (::poll(&ready, 1, 0) != 1) return {};
    if (auto there = connected(socket_.get(), address_); !there) return there;
    phase_ = Phase::hello;
    send(Kind::client_hello, 0, handshake_.hello());
  }
  std::array<std::byte, 64 * 1024> buffer;
  while (true) {
    const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (got <= 0) return gone("has hung up");
    heard_ = Clock::now();
    in_.feed(std::span(buffer).first(static_cast<std::size_t>(got)));
    while (true) {
      auto frame = in_.next();
      if (!frame) return fail(frame.error());
      if (!*frame) break;
      if (auto taken = take(**frame, on_frame); !taken) return taken;
    }
    if (static_cast<std::size_t>(got) < buffer.size()) break;
  }
  return flush();
}

Result<void> ControlChannel::take(const Frame& frame, const OnFrame& on_frame) {
  if (frame.kind == Kind::refused) {
    refused_ = true;
    const auto why = unpack<Outcome>(frame.body);
    if (!why || why->well()) return gone("has ended the session without a reason");
    return fail(why->error());
  }
  switch (phase_) {
    case Phase::hello: {
      auto proof = frame.kind == Kind::server_hello
                       ? handshake_.answer(frame.body)
                       : fail(Errc::layout_mismatch, "whoever answers there is no forebay-poold");
      if (!proof) {
        // So that the other side's log says why, too.
        send(Kind::refused, frame.number, pack(Outcome::of(proof.error())));
        (void)flush().has_value();
        return fail(proof.error());
      }
      send(Kind::client_proof, frame.number, *proof);
      in_.secure(keys().to_client);
      out_.secure(keys().to_server);
      phase_ = Phase::proof;
      return {};
    }
    case Phase::proof: {
      auto welcome = unpack<Welcome>(frame.body);
      if (frame.kind != Kind::welcome || !welcome) return gone("gives no welcome");
      welcome_ = std::move(*welcome);
      phase_ = Phase::open;
      return {};
    }
    default:
      return on_frame(frame);
  }
}

void ControlChannel::send(Kind kind, std::uint64_t number, std::span<const std::byte> body) {
  const auto frame = out_.frame(kind, number, body);
  unsent_.insert(unsent_.end(), frame.begin(), frame.end());
}

Result<void> ControlChannel::flush() {
  while (sent_ < unsent_.size()) {
    const ssize_t put = ::send(socket_.get(), unsent_.data() + sent_, unsent_.size() - sent_,
                               MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return {};
    if (put < 0) return gone("has hung up");
    sent_ += static_cast<std::size_t>(put);
  }
  unsent_.clear();
  sent_ = 0;
  return {};
}

}  // namespace forebay::spill::pool
