// SPDX-License-Identifier: Apache-2.0
// TcpDataServer: the data plane of a pool over plain TCP. One thread serves all links, each in turn
// and by at most 1 MiB at a time; bytes go straight between socket and arena.
//
// A link has to show a token that was admitted, within five seconds. A wrong key, a place outside
// of the slab, or a write where there is only reading ends the link, with `denied` as the last
// word. expose(), withdraw(), admit() and dismiss() return when the thread has done it: at most one
// turn of one link later.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "spill/pool/data_link.h"

namespace forebay::spill {

class TcpDataServer final : public DataServer {
 public:
  // Listens at that address; port 0: any.
  static Result<std::unique_ptr<DataServer>> listen(const std::string& host, std::uint16_t port);
  ~TcpDataServer() override;

  std::string transport() const override { return "plain tcp"; }
  std::vector<std::byte> address() const override;
  Result<SlabKey> expose(std::span<std::byte> slab, SlabAccess access) override;
  void withdraw(const SlabKey& key) override;
  void admit(const LinkToken& token) override;
  bool dismiss(const LinkToken& token) override;

 private:
  class Loop;
  explicit TcpDataServer(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace forebay::spill
