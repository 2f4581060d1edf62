// SPDX-License-Identifier: Apache-2.0
// Publication: what another node has to know about a published segment besides its bytes, as it goes
// with them into the pool.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "store/daemon/segment_table.h"
#include "store/error.h"
#include "store/tier.h"

namespace forebay::daemon {

// In SpillPlace::reserved[0] of what can be found by its name.
inline constexpr std::uint8_t published_mark = 1;

// The name under which a pool knows an id: no other namespace's begins with it.
std::string published_name(const SegmentTable& table, std::string_view id);

TierLabel label_of(const SegmentTable& table, EntryNumber entry);

struct Publication {
  std::uint64_t size = 0;  // payload bytes
  std::uint64_t brief = 0;
  std::uint32_t description_size = 0;
  std::uint32_t writer_uid = 0;
  // If it fits into the record; else it lies behind the payload.
  std::array<std::byte, shm::record_description_bytes> description{};
};
// Fails with bad_message: whatever is in a pool may have been written by anybody.
Result<Publication> read_publication(const TierLabel& label);

}  // namespace forebay::daemon
