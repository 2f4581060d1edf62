// SPDX-License-Identifier: Apache-2.0
#include "spill/backends.h"

#include <string>

#include "spill/fabric/factory.h"
#include "spill/fabric/provider.h"

namespace forebay::spill {

std::vector<Backend> all_backends() {
  std::vector<Backend> all;
  for (const std::string& provider : fabric::providers_in_order()) {
    Backend backend;
    backend.transport = provider;
    backend.serve = [provider](const std::string& host, std::uint16_t port) {
      FabricServerOptions options;
      options.bind = host;
      if (port != 0) options.service = std::to_string(port);
      options.provider = provider;
      return make_fabric_server(options);
    };
    backend.link = [provider](const LinkTarget& target) {
      FabricLinkOptions options;
      options.gives_way_to = target.gives_way_to;
      return make_fabric_link(provider, target.address, options);
    };
    all.push_back(std::move(backend));
  }
  all.push_back(plain_tcp());
  return all;
}

}  // namespace forebay::spill
