// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/factory.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "spill/fabric/error.h"
#include "spill/fabric/fabric_link.h"
#include "spill/fabric/fabric_server.h"
#include "spill/fabric/provider.h"
#include "spill/fabric/self_test.h"

namespace forebay::spill {

namespace {

Result<const fabric::Library*> library_of(const fabric::Library* given) {
  if (given != nullptr) return given;
  return fabric::libfabric();
}

Result<std::unique_ptr<fabric::FabricServer>> tested_server(const fabric::Library& library,
                                                            const std::string& provider,
                                                            const fabric::Whereabouts& where,
                                                            const std::string& tried) {
  auto offer = fabric::offer_of(library, provider, where);
  if (!offer) return fail(offer.error());
  if (auto works = fabric::self_test(library, provider, where); !works) return fail(works.error());
  return fabric::FabricServer::start(library, std::move(*offer), tried);
}

}  // namespace

bool is_fabric_transport(std::string_view transport) {
  const auto& known = fabric::providers_in_order();
  return std::find(known.begin(), known.end(), transport) != known.end();
}

Result<std::unique_ptr<DataServer>> make_fabric_server(const FabricServerOptions& options) {
  std::vector<std::string> candidates = fabric::providers_in_order();
  if (!options.provider.empty()) {
    if (auto fine = fabric::acceptable(options.provider); !fine) return fail(fine.error());
    candidates = {options.provider};
  }
  const auto library = library_of(options.library);
  if (!library) return fail(library.error());
  const fabric::Whereabouts where{options.bind, options.service, options.device};
  std::string tried;
  for (const std::string& provider : candidates) {
    auto server = tested_server(**library, provider, where, tried);
    if (server) return std::unique_ptr<DataServer>(std::move(*server));
    // That is no matter of the provider.
    if (server.error().is(Errc::bad_argument)) return fail(server.error());
    tried += (tried.empty() ? "" : "; ") + provider + ": " + server.error().message();
  }
  return fail(fabric::fabric_error(
      FI_ENODATA, "no provider of libfabric " + fabric::version_text((*library)->version()) +
                      " works at " + options.bind + " (" + tried + "); use plain tcp"));
}

Result<std::unique_ptr<DataLink>> make_fabric_link(std::string_view transport,
                                                   std::span<const std::byte> address,
                                                   const FabricLinkOptions& options) {
  const std::string provider(transport);
  if (auto fine = fabric::acceptable(provider); !fine) return fail(fine.error());
  const auto server = fabric::ServerAddress::decoded(address);
  if (!server) return fail(server.error());
  const auto library = library_of(options.library);
  if (!library) return fail(library.error());
  auto offer = fabric::offer_towards(**library, provider, {options.bind, "", options.device},
                                     server->format, server->name);
  if (!offer)
    return fail(Error{offer.error().code,
                      "no link over '" + provider + "' from here: " + offer.error().detail});
  auto link = fabric::FabricLink::open(
      **library, std::move(*offer), *server,
      {.chunk_bytes = options.chunk_bytes,
       .window = options.window,
       .gives_way_to = options.gives_way_to});
  if (!link) return fail(link.error());
  return std::unique_ptr<DataLink>(std::move(*link));
}

}  // namespace forebay::spill
