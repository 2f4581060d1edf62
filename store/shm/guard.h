// SPDX-License-Identifier: Apache-2.0
// Guard: lets the daemon touch memory that a client can take away.
//
// A client may shrink its own pin table or punch holes into it (and a process of the same user can
// do so to any named object), and touching it is then a SIGBUS. Inside a guarded range such a fault
// is answered with a private page of zeros and noted, so that the daemon goes on and deals with it
// afterwards. A SIGBUS anywhere else stays deadly.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace forebay::shm {

class Guard {
 public:
  // Guards `bytes` from `start` until destruction. At most `guards_max` at a time.
  Guard(const void* start, std::uint64_t bytes);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  // Whether a page of the range has gone.
  bool broken() const;

  // Installs the handler; once, by the daemon's main.
  static void install();

  static constexpr std::size_t guards_max = 8192;

 private:
  std::size_t slot_;
};

}  // namespace forebay::shm
