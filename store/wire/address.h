// SPDX-License-Identifier: Apache-2.0
// Address: where the daemon of an instance listens. Client and daemon ask the same questions in the
// same order, so that they meet.
#pragma once

#include <string>

#include "store/error.h"

namespace forebay::wire {

struct Address {
  std::string path;
  // Nobody named it: it is this user's own daemon, which may be started when it does not run.
  bool is_default = false;
};

// `given` if not empty, else $FOREBAY_SOCKET, else $XDG_RUNTIME_DIR/forebay/default.sock, else
// default.sock in /tmp/forebay-UID. For the last two the directory is made, with mode 0700, and must
// belong to this user: fails with denied otherwise.
Result<Address> resolve_address(const std::string& given);

}  // namespace forebay::wire
