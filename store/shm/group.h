// SPDX-License-Identifier: Apache-2.0
// How the members of a group lie in its segment's payload, and how its description says so.
//
// In the payload: in order, each on the next 64 bytes, zeros in between. In the description: for
// each member a head, its name, and its own description (see description.h), without gaps. How many
// there are is the brief's first_dim. LAYOUT.md draws it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "store/array_type.h"
#include "store/error.h"
#include "store/group.h"
#include "store/shm/description.h"
#include "store/shm/layout.h"

namespace forebay::shm {

inline constexpr std::size_t group_name_bytes_max = 255;

struct GroupPlan {
  Description description;
  std::vector<std::uint64_t> offsets;  // of the members, in their order
  std::uint64_t size_bytes = 0;        // of the whole payload
};

// Fails with bad_argument, naming the member: no name, too long a name, one that comes twice, a
// type that does not fit its bytes; or too many members, or names and types too long together.
// Fails with too_large when the sizes do not add up in 64 bits.
Result<GroupPlan> plan_group(std::span<const GroupMember> members);

// Writes the payload that was planned: every byte of it, once.
void write_group(const GroupPlan& plan, std::span<const GroupMember> members,
                 std::span<std::byte> payload);

struct GroupEntry {
  std::string name;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::optional<ArrayType> type;
};

// What `plan_group` was given. Fails with type_mismatch if this is no group, or if its description
// is not one of ours: what it returns lies within size_bytes, aligned, and without overlap.
Result<std::vector<GroupEntry>> read_group(Brief brief, std::uint64_t size_bytes,
                                           std::span<const std::byte> description);

}  // namespace forebay::shm
