// SPDX-License-Identifier: Apache-2.0
// Timeout: how long a call may wait. Zero: not at all.
#pragma once

#include <chrono>

namespace forebay {

using Timeout = std::chrono::nanoseconds;

}  // namespace forebay
