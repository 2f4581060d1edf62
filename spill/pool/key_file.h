// SPDX-License-Identifier: Apache-2.0
// The cluster's key: a file of at least 16 bytes that only its owner may read. Whoever has it may
// use the pools of the cluster.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "store/error.h"

namespace forebay::spill::pool {

// What both ends prove to each other that they have. Without a key (`secured` false, on both ends)
// everything works the same, and proves nothing.
struct ClusterKey {
  std::vector<std::uint8_t> bytes;
  bool secured = false;

  static ClusterKey insecure();
};

// Fails with denied if others might have read or written the file, bad_argument if there is no key
// in it, and the system's own errors; each names the file and the way out.
Result<ClusterKey> read_key_file(const std::string& path);

// Makes one of 32 random bytes. Fails if there is a file of that name already.
Result<void> make_key_file(const std::string& path);

}  // namespace forebay::spill::pool
