// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/fabric_link.h"

#include <utility>

namespace forebay::spill::fabric {

namespace {
// Those of all transfers that can be in flight, twice, for what comes when the endpoint is closed.
constexpr std::size_t completions = 256;
}  // namespace

Result<std::unique_ptr<FabricLink>> FabricLink::open(const Library& library, Info info,
                                                     const ServerAddress& server,
                                                     LinkLimits limits) {
  if (limits.chunk_bytes == 0 || limits.window == 0)
    return fail(Errc::bad_argument, "a link moves at least one byte at once");
  auto endpoint = Endpoint::open(library, std::move(info), completions);
  if (!endpoint) return fail(endpoint.error());
  const auto peer = (*endpoint)->insert(server.name);
  if (!peer) return fail(peer.error());
  std::string text = (*endpoint)->text_of(server.name);
  auto thread = LinkThread::start(std::move(*endpoint), *peer, std::move(text), limits);
  if (!thread) return fail(thread.error());
  return std::unique_ptr<FabricLink>(new FabricLink(std::move(*thread)));
}

FabricLink::~FabricLink() { thread_->end(); }

void FabricLink::write(const SlabKey& slab, std::uint64_t offset,
                       std::vector<std::span<const std::byte>> parts, TierDeadline deadline,
                       Done done) {
  Operation operation;
  operation.writes = true;
  operation.slab = slab;
  operation.offset = offset;
  operation.parts = std::move(parts);
  operation.deadline = deadline;
  operation.done = std::move(done);
  thread_->submit(std::move(operation));
}

void FabricLink::read(const SlabKey& slab, std::uint64_t offset, std::span<std::byte> into,
                      TierDeadline deadline, Done done) {
  Operation operation;
  operation.slab = slab;
  operation.offset = offset;
  operation.parts.emplace_back(into);
  operation.deadline = deadline;
  operation.done = std::move(done);
  thread_->submit(std::move(operation));
}

void FabricLink::close() { thread_->close(); }

bool FabricLink::is_open() const { return thread_->is_open(); }

void FabricLink::memory_leaves(std::span<const std::byte> bytes) { thread_->leaves(bytes); }

}  // namespace forebay::spill::fabric
