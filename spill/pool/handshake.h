// SPDX-License-Identifier: Apache-2.0
// How daemon and pool prove the cluster's key to each other before anything else is said.
//
// Both send random nonces with everything that is to be agreed on: protocol, software, transport,
// tenant. Each then proves the key with an HMAC over its own role and both hellos as they were
// sent, so that nothing can be repeated, reflected or talked down. From the same come the keys of
// the session's frames and the tokens of its data links; none of them crosses the wire.
//
// Sans-I/O: bytes of frame bodies in, bytes out. One object per connection.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "spill/pool/hmac.h"
#include "spill/pool/key_file.h"
#include "spill/pool/protocol.h"

namespace forebay::spill::pool {

// Of a session: one for reads that somebody waits for, the others for all else.
inline constexpr std::size_t data_links = 3;

struct SessionKeys {
  Digest to_server{};
  Digest to_client{};
  std::array<LinkToken, data_links> links{};
};

class ClientHandshake {
 public:
  ClientHandshake(const ClusterKey& key, const StoreUuid& store,
                  std::vector<std::string> transports);

  const std::vector<std::byte>& hello() const { return hello_; }
  // The body of client_proof. Fails with denied or layout_mismatch.
  Result<std::vector<std::byte>> answer(std::span<const std::byte> server_hello);
  // After that:
  const SessionKeys& keys() const { return keys_; }
  const ServerHello& server() const { return server_; }

 private:
  ClusterKey key_;
  ClientHello said_;
  std::vector<std::byte> hello_;
  ServerHello server_;
  SessionKeys keys_;
};

class ServerHandshake {
 public:
  ServerHandshake(const ClusterKey& key, std::string transport);

  // The body of server_hello. Fails with denied, layout_mismatch or bad_message.
  Result<std::vector<std::byte>> answer(std::span<const std::byte> client_hello);
  Result<void> finish(std::span<const std::byte> client_proof);
  const SessionKeys& keys() const { return keys_; }
  const ClientHello& client() const { return client_; }

 private:
  ClusterKey key_;
  std::string transport_;
  ClientHello client_;
  Digest expected_{};
  SessionKeys keys_;
};

}  // namespace forebay::spill::pool
