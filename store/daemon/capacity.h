// SPDX-License-Identifier: Apache-2.0
// How much memory the store may take, and whether the machine has it.
#pragma once

#include <cstdint>
#include <string>

#include "store/error.h"

namespace forebay::daemon {

struct MachineMemory {
  std::uint64_t ram_bytes = 0;
  std::uint64_t shm_total_bytes = 0;  // of the file system of POSIX shared memory
  std::uint64_t shm_free_bytes = 0;
  std::uint64_t cgroup_bytes = 0;  // the limit of this process's memory cgroup; 0: none
};

Result<MachineMemory> look_at_machine();

// The capacity for `wanted` ("8GiB", "50%" of the RAM, or empty: as much as is decent). `held_bytes`
// is what a store that is being taken over has already. Fails with bad_argument when the machine
// cannot give it, saying the sizes and the way out.
Result<std::uint64_t> choose_capacity(const std::string& wanted, const MachineMemory& machine,
                                      std::uint64_t held_bytes);

}  // namespace forebay::daemon
