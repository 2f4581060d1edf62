// SPDX-License-Identifier: Apache-2.0
// The numbers of libfabric as errors: a category of their own, since below 256 they look like errno
// but come from a provider. Needs no libfabric; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <system_error>

#include "store/error.h"

namespace forebay::spill::fabric {

const std::error_category& fabric_category() noexcept;

// `code` as libfabric has it, positive or negative.
Error fabric_error(std::int64_t code, std::string detail);

// Whether a failed completion or post says that the peer, or the way to it, is not there any more.
// EAGAIN belongs to them once a deadline has passed: it is all that a dead peer ever answers.
bool peer_gone(std::int64_t code) noexcept;

// "1.17"
std::string version_text(std::uint32_t version);

}  // namespace forebay::spill::fabric
