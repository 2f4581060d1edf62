// SPDX-License-Identifier: Apache-2.0
#include "store/shm/manifest.h"

#include <algorithm>

#include "store/id.h"
#include "store/shm/packed.h"

namespace forebay::shm {
namespace {

// Version, serial, and an id of one byte with its length.
constexpr std::size_t member_bytes_min = 8 + 8 + 1 + 1;
static_assert(id_bytes_max <= 255);

Failure broken() {
  return fail(Errc::type_mismatch, "the segment's bytes are not those of a manifest");
}

}  // namespace

const ManifestMember* find_repeated(std::span<const ManifestMember> members) {
  std::vector<const ManifestMember*> sorted;
  sorted.reserve(members.size());
  for (const ManifestMember& member : members) sorted.push_back(&member);
  std::ranges::sort(sorted, {}, &ManifestMember::serial);
  const auto found = std::ranges::adjacent_find(sorted, {}, &ManifestMember::serial);
  return found == sorted.end() ? nullptr : *found;
}

std::vector<std::byte> write_manifest(std::span<const ManifestMember> members) {
  std::size_t bytes = sizeof(std::uint64_t);
  for (const ManifestMember& member : members) bytes += member_bytes_min - 1 + member.id.size();
  std::vector<std::byte> payload;
  payload.reserve(bytes);
  append(payload, std::uint64_t{members.size()});
  for (const ManifestMember& member : members) {
    STORE_CHECK(is_id(member.id) && member.version != 0 && member.serial != 0,
                "a manifest lists segments");
    append(payload, member.version);
    append(payload, member.serial);
    append(payload, static_cast<std::uint8_t>(member.id.size()));
    append_text(payload, member.id);
  }
  return payload;
}

Result<std::vector<ManifestMember>> read_manifest(std::span<const std::byte> payload) {
  const auto count = take<std::uint64_t>(payload);
  // No more is allocated than was sent, whatever the count says.
  if (!count || *count > payload.size() / member_bytes_min) return broken();
  std::vector<ManifestMember> members;
  members.reserve(*count);
  for (std::uint64_t i = 0; i < *count; ++i) {
    const auto version = take<std::uint64_t>(payload);
    const auto serial = take<std::uint64_t>(payload);
    const auto id_bytes = take<std::uint8_t>(payload);
    if (!version || !serial || !id_bytes || *version == 0 || *serial == 0 || *id_bytes == 0)
      return broken();
    const auto id = take_text(payload, *id_bytes);
    if (!id) return broken();
    members.push_back({std::string(*id), *version, *serial});
  }
  if (!payload.empty() || find_repeated(members) != nullptr) return broken();
  return members;
}

}  // namespace forebay::shm
