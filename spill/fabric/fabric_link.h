// SPDX-License-Identifier: Apache-2.0
// FabricLink: a client's end of the data plane over libfabric, for one server; see DataLink for
// what it promises and LinkThread for how. Several of them to one server share nothing.
//
// close() and the destructor wait for the link's thread, which may be about to call back: whoever
// calls them holds nothing that a callback wants. From within a callback both are fine.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "spill/fabric/fabric_server.h"
#include "spill/fabric/link_thread.h"
#include "spill/pool/data_link.h"
#include "store/error.h"

namespace forebay::spill::fabric {

class FabricLink final : public DataLink {
 public:
  // Does not wait for the server: the first operation meets it.
  static Result<std::unique_ptr<FabricLink>> open(const Library& library, Info info,
                                                  const ServerAddress& server,
                                                  LinkLimits limits);
  ~FabricLink() override;

  void write(const SlabKey& slab, std::uint64_t offset,
             std::vector<std::span<const std::byte>> parts, TierDeadline deadline,
             Done done) override;
  void read(const SlabKey& slab, std::uint64_t offset, std::span<std::byte> into,
            TierDeadline deadline, Done done) override;
  void close() override;
  bool is_open() const override;
  void memory_leaves(std::span<const std::byte> bytes) override;

 private:
  explicit FabricLink(std::shared_ptr<LinkThread> thread) : thread_(std::move(thread)) {}

  std::shared_ptr<LinkThread> thread_;
};

}  // namespace forebay::spill::fabric
