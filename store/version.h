// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace forebay {

inline constexpr const char* version_text = "0.1.0";

}  // namespace forebay
