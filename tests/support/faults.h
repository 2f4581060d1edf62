// SPDX-License-Identifier: Apache-2.0
// Whether a piece of code dies of a write to memory that is not for writing.
#pragma once

#include <signal.h>
#include <sys/mman.h>

#include <cstddef>

#include "tests/support/child_process.h"

namespace forebay::test {

// In a child whose last act is to fault: sanitizers must not make an exit status of it, and no core
// is wanted.
inline void die_of_faults() {
  for (const int number : {SIGSEGV, SIGBUS}) ::signal(number, SIG_DFL);
  ::prctl(PR_SET_DUMPABLE, 0);
}

// Turns one byte into another, where the compiler may not assume that it cannot; twice: back again.
inline void poke(const void* address) {
  auto* const byte = static_cast<volatile unsigned char*>(const_cast<void*>(address));
  *byte = static_cast<unsigned char>(*byte ^ 0xffU);
}

}  // namespace forebay::test
