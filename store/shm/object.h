// SPDX-License-Identifier: Apache-2.0
// How the parts of an object lie in its segment's payload. LAYOUT.md draws it.
//
// First their sizes, 8 bytes each; then the parts in order, each on the next 64 bytes, zeros in
// between. How many there are is the brief's first_dim.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "store/error.h"
#include "store/object.h"
#include "store/shm/description.h"
#include "store/shm/layout.h"

namespace forebay::shm {

struct ObjectPlan {
  Description description;
  std::vector<std::uint64_t> offsets;  // of the parts, in their order
  std::uint64_t size_bytes = 0;        // of the whole payload
};

// Fails with bad_argument for no part or too many, with too_large when the sizes do not add up in 64
// bits.
Result<ObjectPlan> plan_object(std::span<const ObjectPart> parts);

// Writes the payload that was planned: every byte of it, once. False: a part could not be made.
bool write_object(const ObjectPlan& plan, std::span<const ObjectPart> parts,
                  std::span<std::byte> payload);

// The parts, in the payload. Fails with type_mismatch if this is no object, or if its sizes are not
// those of parts of that payload.
Result<std::vector<std::span<const std::byte>>> read_object(Brief brief,
                                                            std::span<const std::byte> payload);

}  // namespace forebay::shm
