// SPDX-License-Identifier: Apache-2.0
// The payload of a manifest: which segments it lists. A client writes it, the daemon reads it when
// it is sealed, and so does every get_manifest. LAYOUT.md draws it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "store/error.h"

namespace forebay::shm {

struct ManifestMember {
  std::string id;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;

  bool operator==(const ManifestMember&) const = default;
};

// A member whose serial another one has, too; null if there is none. (No two segments of a store
// ever have the same serial.)
const ManifestMember* find_repeated(std::span<const ManifestMember> members);

// Ids must be ids, versions and serials not 0.
std::vector<std::byte> write_manifest(std::span<const ManifestMember> members);

// What `write_manifest` was given. Fails with type_mismatch if these are not the bytes of a
// manifest: what it returns are ids, versions and serials that segments can have, no serial twice.
Result<std::vector<ManifestMember>> read_manifest(std::span<const std::byte> payload);

}  // namespace forebay::shm
