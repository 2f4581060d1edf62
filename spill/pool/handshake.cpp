// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/handshake.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace forebay::spill::pool {
namespace {

constexpr std::size_t proof_bytes = sizeof(ServerHello::proof);

// What both ends derive from the key and all that was said.
class Transcript {
 public:
  Transcript(const ClusterKey& key, std::span<const std::byte> client,
             std::span<const std::byte> server)
      : mac_(key.bytes), client_(client), server_(server) {}

  // The role keeps one side's proof from being the other's, and from being a key.
  Digest of(std::string_view role) {
    const std::uint64_t sizes[2] = {role.size(), client_.size()};
    return mac_.of({std::as_bytes(std::span(sizes)), bytes_of(role), client_, server_});
  }
  SessionKeys keys() {
    SessionKeys keys{.to_server = of("frames to the pool"), .to_client = of("frames of the pool")};
    for (std::size_t i = 0; i < data_links; ++i) {
      const Digest digest = of("data link " + std::to_string(i));
      std::memcpy(keys.links[i].data(), digest.data(), sizeof(LinkToken));
    }
    return keys;
  }

 private:
  Hmac mac_;
  std::span<const std::byte> client_;
  std::span<const std::byte> server_;
};

constexpr std::string_view server_role = "forebay pool: the pool's proof";
constexpr std::string_view client_role = "forebay pool: the daemon's proof";

Result<void> check_versions(std::uint16_t version, const std::string& software_there) {
  if (version == protocol_version && fits_software(software_there)) return {};
  return fail(Errc::layout_mismatch, "the other side is " + software_there +
                                         " and speaks version " + std::to_string(version) +
                                         " of the pool's protocol, this side is " + software() +
                                         " with version " + std::to_string(protocol_version) +
                                         "; run one version of both");
}

Result<void> check_secured(bool here, bool there, std::string_view who) {
  if (here == there) return {};
  const std::string other(who);
  return fail(Errc::denied,
              there ? other + " has a key, and this side has none; give it the key file"
                    : other + " has no key (--insecure), and this side has one");
}

}  // namespace

ClientHandshake::ClientHandshake(const ClusterKey& key, const StoreUuid& store,
                                 std::vector<std::string> transports)
    : key_(key) {
  said_.secured = key.secured;
  fill_random(std::as_writable_bytes(std::span(said_.nonce)));
  said_.store = store;
  said_.software = software();
  said_.transports = std::move(transports);
  hello_ = pack(said_);
}

Result<std::vector<std::byte>> ClientHandshake::answer(std::span<const std::byte> server_hello) {
  auto server = unpack<ServerHello>(server_hello);
  if (!server || server->magic != protocol_magic)
    return fail(Errc::layout_mismatch, "whoever answers there is no forebay-poold");
  server_ = std::move(*server);
  if (auto fits = check_secured(key_.secured, server_.secured, "the pool"); !fits)
    return fail(fits.error());
  Transcript transcript(key_, hello_, server_hello.first(server_hello.size() - proof_bytes));
  const Digest expected = transcript.of(server_role);
  if (!same(std::as_bytes(std::span(expected)), std::as_bytes(std::span(server_.proof))))
    return fail(Errc::denied, "the pool has another key; give both the same key file");
  // Only now is known that it was the pool that said it.
  if (auto fits = check_versions(server_.version, server_.software); !fits)
    return fail(fits.error());
  if (std::ranges::find(said_.transports, server_.transport) == said_.transports.end())
    return fail(Errc::layout_mismatch, "the pool's transport is '" + server_.transport +
                                           "', which this side cannot use or does not want; start "
                                           "forebay-poold with another --transport");
  keys_ = transcript.keys();
  return pack(ClientProof{.proof = transcript.of(client_role)});
}

ServerHandshake::ServerHandshake(const ClusterKey& key, std::string transport)
    : key_(key), transport_(std::move(transport)) {}

Result<std::vector<std::byte>> ServerHandshake::answer(std::span<const std::byte> client_hello) {
  auto client = unpack<ClientHello>(client_hello);
  if (!client || client->magic != protocol_magic)
    return fail(Errc::bad_message, "what came is not the hello of a daemon");
  client_ = std::move(*client);
  if (auto fits = check_secured(key_.secured, client_.secured, "the daemon"); !fits)
    return fail(fits.error());
  if (auto fits = check_versions(client_.version, client_.software); !fits)
    return fail(fits.error());
  if (std::ranges::find(client_.transports, transport_) == client_.transports.end())
    return fail(Errc::layout_mismatch, "this pool's transport is '" + transport_ +
                                           "', which the daemon cannot use or does not want");
  ServerHello hello;
  hello.secured = key_.secured;
  fill_random(std::as_writable_bytes(std::span(hello.nonce)));
  hello.software = software();
  hello.transport = transport_;
  std::vector<std::byte> body = pack(hello);
  const std::size_t said = body.size() - proof_bytes;
  Transcript transcript(key_, client_hello, std::span(body).first(said));
  const Digest proof = transcript.of(server_role);
  std::memcpy(body.data() + said, proof.data(), proof.size());
  expected_ = transcript.of(client_role);
  keys_ = transcript.keys();
  return body;
}

Result<void> ServerHandshake::finish(std::span<const std::byte> client_proof) {
  const auto proof = unpack<ClientProof>(client_proof);
  if (!proof || !same(std::as_bytes(std::span(expected_)), std::as_bytes(std::span(proof->proof))))
    return fail(Errc::denied, "the daemon has another key; give both the same key file");
  return {};
}

}  // namespace forebay::spill::pool
