// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/provider.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "spill/fabric/error.h"

namespace forebay::spill::fabric {

namespace {

constexpr std::array refused{
    std::pair{"shm", "checks no keys, spins, and leaves files behind"},
    std::pair{"sockets", "is deprecated, and slow with small transfers"},
    std::pair{"udp", "its target crashes"},
    std::pair{"udp;ofi_rxd", "is slow, and its target crashes"},
};

// These have devices where others have addresses.
bool names_devices(std::string_view provider) { return provider == "cxi" || provider == "efa"; }

// libfabric 1.16 and 1.17 have as "net" what later ones have as "tcp"; on the wire both are the
// same.
std::string here(const Library& library, const std::string& transport) {
  const bool native_tcp = FI_VERSION_GE(library.version(), FI_VERSION(1, 18));
  if (transport == "net" && native_tcp) return "tcp";
  if (transport == "tcp" && !native_tcp) return "net";
  return transport;
}

Result<void> in_this_version(const Library& library, const std::string& provider) {
  const std::uint32_t version = library.version();
  const bool native_tcp = FI_VERSION_GE(version, FI_VERSION(1, 18));
  if (provider == "tcp" && !native_tcp)
    return fail(fabric_error(FI_ENODATA, "needs libfabric 1.18, and this is " +
                                             version_text(version)));
  if (provider == "net" && (native_tcp || FI_VERSION_LT(version, FI_VERSION(1, 16))))
    return fail(fabric_error(FI_ENODATA, "is in libfabric 1.16 and 1.17 only, and this is " +
                                             version_text(version)));
  return {};
}

// An interface's name becomes its address; anything else stays.
std::string address_of(const std::string& bind) {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return bind;
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(all, &::freeifaddrs);
  for (const int family : {AF_INET, AF_INET6})
    for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
      if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != family || bind != one->ifa_name)
        continue;
      const void* const address =
          family == AF_INET
              ? static_cast<const void*>(
                    &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr)
              : &reinterpret_cast<const sockaddr_in6*>(one->ifa_addr)->sin6_addr;
      std::array<char, INET6_ADDRSTRLEN> text{};
      if (::inet_ntop(family, address, text.data(), text.size()) != nullptr) return text.data();
    }
  return bind;
}

Result<Info> hints_for(const Library& library, const std::string& provider,
                       const std::string& device) {
  Info hints(library.dupinfo(nullptr), FreeInfo{&library});
  if (!hints) return fail(fabric_error(FI_ENOMEM, "no memory to ask libfabric"));
  hints->caps = FI_MSG | FI_RMA;
  // No mode bits: an operation's context is a number of ours, not memory that a provider writes to.
  hints->mode = 0;
  hints->ep_attr->type = FI_EP_RDM;
  // Registering and withdrawing come from other threads than the one that moves data.
  hints->domain_attr->threading = FI_THREAD_SAFE;
  hints->domain_attr->resource_mgmt = FI_RM_ENABLED;
  hints->domain_attr->mr_mode =
      FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_ENDPOINT;
  // Freed with the hints by libfabric, which uses free().
  hints->fabric_attr->prov_name = ::strdup(provider.c_str());
  if (!device.empty()) hints->domain_attr->name = ::strdup(device.c_str());
  return hints;
}

// Takes the first of the list that is what was asked for, and the rest away.
Result<Info> pick(const Library& library, const std::string& provider, const fi_info* list) {
  constexpr std::uint64_t known_modes = 0;
  for (const fi_info* one = list; one != nullptr; one = one->next) {
    // Asked for "net", libfabric also offers "net;ofi_rxm"; asked for "tcp", 1.17 has only that.
    if (provider != one->fabric_attr->prov_name || (one->mode & ~known_modes) != 0) continue;
    if (one->domain_attr->mr_key_size > sizeof(std::uint64_t)) continue;
    if (one->domain_attr->threading != FI_THREAD_SAFE) continue;
    Info mine(library.dupinfo(one), FreeInfo{&library});
    if (!mine) return fail(fabric_error(FI_ENOMEM, "no memory for what libfabric offers"));
    return mine;
  }
  return fail(fabric_error(FI_ENODATA, "offers nothing that we can use"));
}

Result<Info> ask(const Library& library, const std::string& provider, const char* node,
                 const char* service, std::uint64_t flags, const fi_info* hints) {
  fi_info* list = nullptr;
  const int failed = library.getinfo(api_version, node, service, flags, hints, &list);
  if (failed != 0)
    return fail(fabric_error(failed, std::string("is not there (") +
                                         library.strerror(std::abs(failed)) + ")"));
  const Info owner(list, FreeInfo{&library});
  return pick(library, provider, owner.get());
}

}  // namespace

const std::vector<std::string>& providers_in_order() {
  static const std::vector<std::string> order{"cxi", "verbs;ofi_rxm", "efa",
                                              "tcp", "net",           "tcp;ofi_rxm"};
  return order;
}

Result<void> acceptable(std::string_view provider) {
  for (const auto& [name, reason] : refused)
    if (provider == name)
      return fail(Errc::bad_argument, "libfabric's provider '" + std::string(provider) +
                                          "' is never used: it " + reason +
                                          "; choose another one, or plain tcp");
  const auto& order = providers_in_order();
  if (std::find(order.begin(), order.end(), provider) != order.end()) return {};
  std::string known;
  for (const std::string& name : order) known += (known.empty() ? "" : ", ") + name;
  return fail(Errc::bad_argument, "'" + std::string(provider) +
                                      "' is no provider of libfabric that we use; there are " +
                                      known);
}

Result<Info> offer_of(const Library& library, const std::string& provider,
                      const Whereabouts& where) {
  if (auto fine = acceptable(provider); !fine) return fail(fine.error());
  if (auto fine = in_this_version(library, provider); !fine) return fail(fine.error());
  if (names_devices(provider)) {
    // It knows no loopback; a pool that nobody gave a device to must not listen on the first one.
    if (where.device.empty())
      return fail(fabric_error(FI_ENODATA, "needs the name of a device"));
    auto hints = hints_for(library, provider, where.device);
    if (!hints) return hints;
    return ask(library, provider, nullptr, nullptr, 0, hints->get());
  }
  const std::string address = address_of(where.bind);
  if (address.empty() || address == "0.0.0.0" || address == "::")
    return fail(Errc::bad_argument,
                "a pool's data plane is bound to one address or interface, not to all: say which");
  auto hints = hints_for(library, provider, where.device);
  if (!hints) return hints;
  return ask(library, provider, address.c_str(),
             where.service.empty() ? nullptr : where.service.c_str(), FI_SOURCE, hints->get());
}

Result<Info> offer_towards(const Library& library, const std::string& transport,
                           const Whereabouts& where, std::uint32_t address_format,
                           std::span<const std::byte> address) {
  if (auto fine = acceptable(transport); !fine) return fail(fine.error());
  const std::string provider = here(library, transport);
  if (auto fine = in_this_version(library, provider); !fine) return fail(fine.error());
  auto hints = hints_for(library, provider, where.device);
  if (!hints) return hints;
  fi_info& asked = **hints;
  asked.addr_format = address_format;
  if (names_devices(provider)) return ask(library, provider, nullptr, nullptr, 0, &asked);
  if (!where.bind.empty())
    return ask(library, provider, address_of(where.bind).c_str(), nullptr, FI_SOURCE, &asked);
  // Bound to the interface that leads there. Freed with the hints.
  asked.dest_addr = std::malloc(address.size());
  if (asked.dest_addr == nullptr)
    return fail(fabric_error(FI_ENOMEM, "no memory to ask libfabric"));
  std::memcpy(asked.dest_addr, address.data(), address.size());
  asked.dest_addrlen = address.size();
  return ask(library, provider, nullptr, nullptr, 0, &asked);
}

}  // namespace forebay::spill::fabric
