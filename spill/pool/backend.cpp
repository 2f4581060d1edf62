// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/backend.h"

#include "spill/pool/tcp_data_link.h"
#include "spill/pool/tcp_data_server.h"

namespace forebay::spill {

Backend plain_tcp() {
  return {.transport = "plain tcp", .serve = TcpDataServer::listen, .link = TcpDataLink::connect};
}

}  // namespace forebay::spill
