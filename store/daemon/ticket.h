// SPDX-License-Identifier: Apache-2.0
// Ticket: which request of which session an answer belongs to.
#pragma once

#include <compare>
#include <cstdint>

namespace forebay::daemon {

using SessionId = std::uint64_t;

struct Ticket {
  SessionId session = 0;
  std::uint32_t number = 0;
  std::uint32_t item = 0;  // of a batch
  auto operator<=>(const Ticket&) const = default;
};

}  // namespace forebay::daemon
