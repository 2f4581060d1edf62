// SPDX-License-Identifier: Apache-2.0
// STORE_CHECK states what must hold. It aborts in release builds too, and is never used on input:
// a broken invariant of ours ends the process before it can spread, and a daemon's restart loses
// nothing.
#pragma once

#include "store/api.h"

namespace forebay {

// Prints the sentence to standard error and aborts.
[[noreturn]] FOREBAY_API void check_failed(const char* file, int line, const char* condition,
                                           const char* must);

}  // namespace forebay

#define STORE_CHECK(condition, must)                                      \
  do {                                                                    \
    if (!(condition)) [[unlikely]]                                        \
      ::forebay::check_failed(__FILE__, __LINE__, #condition, (must));    \
  } while (false)
