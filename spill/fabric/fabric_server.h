// SPDX-License-Identifier: Apache-2.0
// FabricServer: the pool's end of the data plane over libfabric.
//
// Its thread does nothing but let the provider make progress, whatever the provider says of its
// own: some that claim to need nobody stand still without. All calls may come from
// any thread. A slab of memory that is not shared (MAP_SHARED) can be withdrawn, too, but what was
// being written to it at that moment may still arrive, until the server ends.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "spill/fabric/endpoint.h"
#include "spill/fabric/memory.h"
#include "spill/pool/data_link.h"
#include "store/error.h"

namespace forebay::spill::fabric {

// What the name of a server's endpoint is sent as, and is checked as when it comes.
struct ServerAddress {
  std::uint32_t format = 0;  // FI_SOCKADDR_IN, …
  std::vector<std::byte> name;

  std::vector<std::byte> encoded() const;
  static Result<ServerAddress> decoded(std::span<const std::byte> bytes);
};

class FabricServer final : public DataServer {
 public:
  // `chosen_because`: for the status; what was tried before, and why it did not do.
  static Result<std::unique_ptr<FabricServer>> start(const Library& library, Info info,
                                                     std::string chosen_because = "");
  // Takes as long as the provider takes to wake up: 200 ms at most.
  ~FabricServer() override;

  std::string transport() const override { return transport_; }
  std::vector<std::byte> address() const override { return address_; }
  Result<SlabKey> expose(std::span<std::byte> slab, SlabAccess access) override;
  void withdraw(const SlabKey& key) override;

  const std::string& chosen_because() const { return chosen_because_; }

 private:
  FabricServer(std::unique_ptr<Endpoint> endpoint, std::string chosen_because);
  void progress();

  const std::string transport_;
  const std::string chosen_because_;
  std::vector<std::byte> address_;
  std::unique_ptr<Endpoint> endpoint_;
  ExposedMemory memory_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace forebay::spill::fabric
