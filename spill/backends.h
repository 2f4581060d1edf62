// SPDX-License-Identifier: Apache-2.0
// All data planes that both ends of a pool may choose from, the fastest first.
#pragma once

#include <vector>

#include "spill/pool/backend.h"

namespace forebay::spill {

// libfabric's providers, in the order of spill/fabric/provider.h, then plain TCP, which is always
// there. Whether one works here, its `serve` and `link` say.
std::vector<Backend> all_backends();

}  // namespace forebay::spill
