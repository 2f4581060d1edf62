// SPDX-License-Identifier: Apache-2.0
// Keeper: a small descriptor keeper for machines without systemd's. It starts forebayd, holds the
// descriptors of its shared memory (FDSTORE), and when forebayd dies starts it again with them.
#pragma once

#include <string>
#include <vector>

#include "store/error.h"

namespace forebay::daemon {

// Runs `program` with `arguments` until it ends in order or SIGTERM comes; returns its exit status.
// `socket_path` gets a neighbour, NAME.sock.keeper, on which the daemon hands descriptors over.
Result<int> keep(const std::string& program, std::vector<std::string> arguments,
                 const std::string& socket_path);

}  // namespace forebay::daemon
