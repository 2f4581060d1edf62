// SPDX-License-Identifier: Apache-2.0
// The way into libfabric's data plane: servers and links by name of their transport.
//
// Any thread; nothing here waits for another process. Without libfabric, or with nothing of it that
// works here, both fail with an error of the fabric's category whose sentence has the reasons;
// plain TCP remains. Keys and data travel in clear: the network must be trusted or partitioned.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "spill/pool/data_link.h"
#include "store/error.h"

namespace forebay::spill {

namespace fabric {
struct Library;
}

struct FabricServerOptions {
  std::string bind = "127.0.0.1";  // one address, host name or interface
  std::string service{};             // a port; empty: any
  std::string device{};              // of libfabric's ("cxi0"): needed by cxi and efa, else empty
  std::string provider{};            // this one and no other; empty: the best one that works
  const fabric::Library* library = nullptr;  // null: the system's
};

struct FabricLinkOptions {
  std::string bind{};    // empty: what leads to the server
  std::string device{};
  std::size_t chunk_bytes = std::size_t{1} << 20U;
  unsigned window = 4;  // chunks in flight
  std::shared_ptr<const RightOfWay> gives_way_to{};  // null: to nobody
  const fabric::Library* library = nullptr;
};

// Whether make_fabric_link is for a server with that transport().
bool is_fabric_transport(std::string_view transport);

// With the first provider, fastest hardware first, that passes a self-test here.
Result<std::unique_ptr<DataServer>> make_fabric_server(const FabricServerOptions& options);

// To the server of that transport() and address(). The first operation shows whether it is there.
Result<std::unique_ptr<DataLink>> make_fabric_link(std::string_view transport,
                                                   std::span<const std::byte> address,
                                                   const FabricLinkOptions& options);

}  // namespace forebay::spill
