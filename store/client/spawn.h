// SPDX-License-Identifier: Apache-2.0
// Starting this user's own daemon.
#pragma once

#include <string>

#include "store/error.h"
#include "store/wire/socket.h"

namespace forebay::client {

// Starts `program` (or whichever forebayd is found) for `socket_path` and waits until it listens.
// Succeeds as well when somebody else's start came first. Fails with disconnected, and what the
// daemon said, or where one was looked for.
Result<void> start_daemon(const std::string& program, const std::string& socket_path,
                          wire::Deadline deadline);

}  // namespace forebay::client
