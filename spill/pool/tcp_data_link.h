// SPDX-License-Identifier: Apache-2.0
// TcpDataLink: a client's end of the plain-TCP data plane. One thread per link; bytes go straight
// between the caller's memory and the socket.
//
// Operations are cut into pieces of at most 1 MiB and take turns, so that a small one waits for a
// few pieces of a large one, and not for all of it. An operation that is past its deadline disturbs
// nobody: what still comes of a read is thrown away, what is under way of a write is filled up with
// zeros, and the caller's memory is not touched any more. That the peer is gone is for the owner of
// the control session to find out. A link must not be destroyed in one of its own callbacks.
#pragma once

#include <memory>

#include "spill/pool/data_link.h"

namespace forebay::spill {

class TcpDataLink final : public DataLink {
 public:
  // Begins to connect; what is asked meanwhile waits for that.
  static Result<std::unique_ptr<DataLink>> connect(const LinkTarget& target);
  ~TcpDataLink() override;

  void write(const SlabKey& slab, std::uint64_t offset,
             std::vector<std::span<const std::byte>> parts, TierDeadline deadline,
             Done done) override;
  void read(const SlabKey& slab, std::uint64_t offset, std::span<std::byte> into,
            TierDeadline deadline, Done done) override;
  void close() override;
  bool is_open() const override;

 private:
  class Loop;
  explicit TcpDataLink(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace forebay::spill
