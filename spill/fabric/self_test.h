// SPDX-License-Identifier: Apache-2.0
// The self-test of a provider: a server and a link in this process move 4 KiB there and back. What
// the provider claims is not believed otherwise. Takes milliseconds, or, with
// a provider that hangs, its deadlines.
#pragma once

#include <chrono>
#include <string>

#include "spill/fabric/provider.h"
#include "store/error.h"

namespace forebay::spill::fabric {

inline constexpr std::chrono::seconds self_test_deadline{2};

// That the bytes of a write are there when it is done, come back as they were, and that a wrong key
// opens nothing. The error says which of it failed.
Result<void> self_test(const Library& library, const std::string& provider,
                       const Whereabouts& where,
                       std::chrono::milliseconds deadline = self_test_deadline);

}  // namespace forebay::spill::fabric
