// SPDX-License-Identifier: Apache-2.0
// Providers: which of libfabric's transports we use, in which order, and what we ask of them.
//
// What a provider claims is a hint; the self-test decides (self_test.h). Some are never used,
// whatever anybody asks: shm checks no keys, sockets is given up, udp loses its target.
// Pure questions to libfabric, from any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "spill/fabric/library.h"
#include "store/error.h"

namespace forebay::spill::fabric {

struct FreeInfo {
  const Library* library = nullptr;
  void operator()(fi_info* info) const { library->freeinfo(info); }
};
using Info = std::unique_ptr<fi_info, FreeInfo>;

// Best first. Which of them are there is another question.
const std::vector<std::string>& providers_in_order();

// Fails with bad_argument and the reason if we never use it, or do not know it.
Result<void> acceptable(std::string_view provider);

struct Whereabouts {
  std::string bind;     // an address, a host name or an interface; loopback only if it says so
  std::string service;  // a port; empty: any
  std::string device;   // libfabric's name of a domain ("cxi0"); needed by cxi and efa
};

// What the provider offers at that place, for a server.
Result<Info> offer_of(const Library& library, const std::string& provider,
                      const Whereabouts& where);

// For a link to a server of that transport, at what its endpoint called its name. A provider that
// was renamed from one libfabric to the next is found under either name.
Result<Info> offer_towards(const Library& library, const std::string& transport,
                           const Whereabouts& where, std::uint32_t address_format,
                           std::span<const std::byte> address);

}  // namespace forebay::spill::fabric
