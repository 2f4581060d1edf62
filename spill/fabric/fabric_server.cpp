// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/fabric_server.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <utility>

#include "spill/fabric/error.h"

namespace forebay::spill::fabric {

namespace {

using std::chrono::microseconds;

// So that a stop that the provider does not tell of is seen.
constexpr int wait_ms = 200;
// One-sided transfers give the target no completions; these are errors of connections.
constexpr std::size_t completions = 1024;
constexpr std::size_t most_name_bytes = 1024 - sizeof(std::uint32_t);

// A provider reads as many bytes as the family in the address has.
bool holds_its_family(const ServerAddress& address) {
  if (address.format != FI_SOCKADDR && address.format != FI_SOCKADDR_IN &&
      address.format != FI_SOCKADDR_IN6)
    return true;
  sa_family_t family = AF_UNSPEC;
  if (address.name.size() < sizeof family) return false;
  std::memcpy(&family, address.name.data(), sizeof family);
  if (family == AF_INET)
    return address.format != FI_SOCKADDR_IN6 && address.name.size() >= sizeof(sockaddr_in);
  return family == AF_INET6 && address.format != FI_SOCKADDR_IN &&
         address.name.size() >= sizeof(sockaddr_in6);
}

}  // namespace

std::vector<std::byte> ServerAddress::encoded() const {
  std::vector<std::byte> bytes(sizeof format + name.size());
  for (std::size_t i = 0; i < sizeof format; ++i)
    bytes[i] = static_cast<std::byte>(format >> (8 * i));
  std::copy(name.begin(), name.end(), bytes.begin() + sizeof format);
  return bytes;
}

Result<ServerAddress> ServerAddress::decoded(std::span<const std::byte> bytes) {
  ServerAddress address;
  if (bytes.size() <= sizeof address.format ||
      bytes.size() > sizeof address.format + most_name_bytes)
    return fail(Errc::bad_message, "the server's fabric address has " +
                                       std::to_string(bytes.size()) +
                                       " bytes, which no address has");
  for (std::size_t i = 0; i < sizeof address.format; ++i)
    address.format |= static_cast<std::uint32_t>(bytes[i]) << (8 * i);
  address.name.assign(bytes.begin() + sizeof address.format, bytes.end());
  if (!holds_its_family(address))
    return fail(Errc::bad_message, "the server's fabric address is cut off or of another family");
  return address;
}

Result<std::unique_ptr<FabricServer>> FabricServer::start(const Library& library, Info info,
                                                          std::string chosen_because) {
  auto endpoint = Endpoint::open(library, std::move(info), completions);
  if (!endpoint) return fail(endpoint.error());
  auto name = (*endpoint)->name();
  if (!name) return fail(name.error());
  if (name->size() > most_name_bytes)
    return fail(fabric_error(FI_ETOOSMALL, "the endpoint's name is too long to be sent"));
  const std::uint32_t format = (*endpoint)->info().addr_format;
  std::unique_ptr<FabricServer> server(
      new FabricServer(std::move(*endpoint), std::move(chosen_because)));
  server->address_ = ServerAddress{format, std::move(*name)}.encoded();
  server->thread_ = std::thread([raw = server.get()] { raw->progress(); });
  return server;
}

FabricServer::FabricServer(std::unique_ptr<Endpoint> endpoint, std::string chosen_because)
    : transport_(endpoint->info().fabric_attr->prov_name),
      chosen_because_(std::move(chosen_because)),
      endpoint_(std::move(endpoint)),
      memory_(*endpoint_) {}

FabricServer::~FabricServer() {
  stopping_.store(true, std::memory_order_relaxed);
  // Not every provider has it, and none says so before.
  if (endpoint_->waiting() != Endpoint::Waiting::none) (void)fi_cq_signal(endpoint_->cq());
  if (thread_.joinable()) thread_.join();
  endpoint_->abort([this] { memory_.withdraw_all(); });
}

Result<SlabKey> FabricServer::expose(std::span<std::byte> slab, SlabAccess access) {
  return memory_.expose(slab, access);
}

void FabricServer::withdraw(const SlabKey& key) { memory_.withdraw(key); }

void FabricServer::progress() {
  std::array<fi_cq_data_entry, 16> entries;
  const bool waits = endpoint_->waiting() != Endpoint::Waiting::none;
  microseconds nap{0};
  while (!stopping_.load(std::memory_order_relaxed)) {
    const ssize_t count =
        waits ? fi_cq_sread(endpoint_->cq(), entries.data(), entries.size(), nullptr, wait_ms)
              : fi_cq_read(endpoint_->cq(), entries.data(), entries.size());
    if (count > 0) {
      nap = microseconds(0);
      continue;
    }
    if (count == -FI_EAVAIL) {
      // A client that is gone, or had a wrong key. Its connection has ended, and no other.
      if (endpoint_->take_error().error.code.value() != FI_EAGAIN) continue;
    } else if (waits && (count == -FI_EAGAIN || count == -FI_EINTR || count == 0)) {
      continue;
    }
    // It cannot wait, or fails again and again: others need the processor as well.
    nap = std::min(microseconds(1000), std::max(microseconds(20), nap * 2));
    std::this_thread::sleep_for(nap);
  }
}

}  // namespace forebay::spill::fabric
