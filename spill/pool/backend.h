// SPDX-License-Identifier: Apache-2.0
// Backend: one kind of data plane that both ends have, by its name.
#pragma once

#include <string>
#include <vector>

#include "spill/pool/data_link.h"

namespace forebay::spill {

struct Backend {
  std::string transport;  // DataServer::transport()
  MakeDataServer serve;
  MakeDataLink link;
};

Backend plain_tcp();

}  // namespace forebay::spill
