// SPDX-License-Identifier: Apache-2.0
#include "store/shm/object.h"

#include <cstring>
#include <string>

#include "store/shm/packed.h"

namespace forebay::shm {
namespace {

Failure broken() {
  return fail(Errc::type_mismatch, "the segment's bytes are not the parts of an object");
}

}  // namespace

Result<ObjectPlan> plan_object(std::span<const ObjectPart> parts) {
  if (parts.empty() || parts.size() > object_parts_max)
    return fail(Errc::bad_argument, "an object of " + std::to_string(parts.size()) +
                                        " parts; it has 1 to " + std::to_string(object_parts_max));
  ObjectPlan plan;
  plan.description.brief.kind = Kind::object;
  plan.description.brief.first_dim = static_cast<std::uint32_t>(parts.size());
  plan.offsets.reserve(parts.size());
  plan.size_bytes = parts.size() * sizeof(std::uint64_t);
  for (const ObjectPart& part : parts) {
    const auto offset = aligned(plan.size_bytes);
    if (!offset || __builtin_add_overflow(*offset, part.size(), &plan.size_bytes))
      return fail(Errc::too_large, "the parts of the object have more bytes than 64 bits count");
    plan.offsets.push_back(*offset);
  }
  return plan;
}

bool write_object(const ObjectPlan& plan, std::span<const ObjectPart> parts,
                  std::span<std::byte> payload) {
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::uint64_t size = parts[i].size();
    std::memcpy(payload.data() + i * sizeof size, &size, sizeof size);
  }
  std::size_t end = parts.size() * sizeof(std::uint64_t);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto offset = static_cast<std::size_t>(plan.offsets[i]);
    // The memory may have been another segment's. And equal objects shall have equal bytes.
    if (offset > end) std::memset(payload.data() + end, 0, offset - end);
    const auto target = payload.subspan(offset, parts[i].size());
    if (parts[i].fill) {
      if (!parts[i].fill(target)) return false;
    } else if (!target.empty()) {
      std::memcpy(target.data(), parts[i].bytes.data(), target.size());
    }
    end = offset + target.size();
  }
  return true;
}

Result<std::vector<std::span<const std::byte>>> read_object(Brief brief,
                                                            std::span<const std::byte> payload) {
  if (brief.kind != Kind::object) return fail(Errc::type_mismatch, "the segment is no object");
  const std::size_t count = brief.first_dim;
  if (count == 0 || count > object_parts_max || count > payload.size() / sizeof(std::uint64_t))
    return broken();
  std::vector<std::span<const std::byte>> parts;
  parts.reserve(count);
  std::uint64_t end = count * sizeof(std::uint64_t);
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t size = 0;
    std::memcpy(&size, payload.data() + i * sizeof size, sizeof size);
    const auto offset = aligned(end);
    if (!offset || *offset > payload.size() || size > payload.size() - *offset) return broken();
    parts.push_back(payload.subspan(*offset, size));
    end = *offset + size;
  }
  return parts;
}

}  // namespace forebay::shm
