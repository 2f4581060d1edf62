// SPDX-License-Identifier: Apache-2.0
#include "store/shm/group.h"

#include <cstring>
#include <string_view>
#include <unordered_set>

#include "store/id.h"
#include "store/shm/packed.h"

namespace forebay::shm {
namespace {

struct MemberHead {
  std::uint64_t offset;             // in the payload; a multiple of payload_alignment
  std::uint64_t size;               // bytes
  std::uint64_t brief;              // what the bytes are: kind bytes or array
  std::uint32_t name_bytes;         // of the name behind this head
  std::uint32_t description_bytes;  // of the member's description behind the name
};
static_assert(sizeof(MemberHead) == 32);

Failure broken() {
  return fail(Errc::type_mismatch, "the segment's description is not one of a group");
}

Result<void> check_name(std::string_view name, std::unordered_set<std::string_view>& names) {
  if (name.empty()) return fail(Errc::bad_argument, "a member of a group without a name");
  if (name.size() > group_name_bytes_max)
    return fail(Errc::bad_argument, "the name of member " + shown(name) + " has " +
                                        std::to_string(name.size()) + " bytes; the most is " +
                                        std::to_string(group_name_bytes_max));
  if (!names.insert(name).second)
    return fail(Errc::bad_argument, "two members of the group have the name " + shown(name));
  return {};
}

// What the head of a member says, if it can be true of a payload of so many bytes of which those
// before `end` belong to the members before it.
bool fits(const MemberHead& head, std::uint64_t end, std::uint64_t size_bytes) {
  return head.offset % payload_alignment == 0 && head.offset >= end &&
         head.offset <= size_bytes && head.size <= size_bytes - head.offset;
}

}  // namespace

Result<GroupPlan> plan_group(std::span<const GroupMember> members) {
  if (members.size() > group_members_max)
    return fail(Errc::bad_argument, "a group of " + std::to_string(members.size()) +
                                        " members; the most is " +
                                        std::to_string(group_members_max));
  GroupPlan plan;
  plan.description.brief.kind = Kind::group;
  plan.description.brief.first_dim = static_cast<std::uint32_t>(members.size());
  plan.offsets.reserve(members.size());
  std::vector<std::byte>& bytes = plan.description.bytes;
  std::unordered_set<std::string_view> names;
  for (const GroupMember& member : members) {
    if (auto checked = check_name(member.name, names); !checked)
      return fail(std::move(checked.error()));
    auto description = describe(member.type, member.bytes.size());
    if (!description) {
      description.error().detail =
          "member " + shown(member.name) + ": " + description.error().detail;
      return fail(std::move(description.error()));
    }
    const auto offset = aligned(plan.size_bytes);
    if (!offset || __builtin_add_overflow(*offset, member.bytes.size(), &plan.size_bytes))
      return fail(Errc::too_large, "the members of the group have more bytes than 64 bits count");
    plan.offsets.push_back(*offset);
    append(bytes, MemberHead{*offset, member.bytes.size(), description->brief.bits(),
                             static_cast<std::uint32_t>(member.name.size()),
                             static_cast<std::uint32_t>(description->bytes.size())});
    append_text(bytes, member.name);
    append_run(bytes, description->bytes);
  }
  if (bytes.size() > description_bytes_max)
    return fail(Errc::bad_argument, "names and types of the group's " +
                                        std::to_string(members.size()) + " members take " +
                                        std::to_string(bytes.size()) + " bytes; the most is " +
                                        std::to_string(description_bytes_max));
  return plan;
}

void write_group(const GroupPlan& plan, std::span<const GroupMember> members,
                 std::span<std::byte> payload) {
  std::size_t end = 0;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const auto offset = static_cast<std::size_t>(plan.offsets[i]);
    const auto bytes = members[i].bytes;
    // The memory may have been another segment's. And equal groups shall have equal bytes.
    if (offset > end) std::memset(payload.data() + end, 0, offset - end);
    if (!bytes.empty()) std::memcpy(payload.data() + offset, bytes.data(), bytes.size());
    end = offset + bytes.size();
  }
}

Result<std::vector<GroupEntry>> read_group(Brief brief, std::uint64_t size_bytes,
                                           std::span<const std::byte> description) {
  if (brief.kind != Kind::group) return fail(Errc::type_mismatch, "the segment is no group");
  if (brief.first_dim > group_members_max) return broken();
  std::vector<GroupEntry> entries;
  entries.reserve(brief.first_dim);
  std::unordered_set<std::string_view> names;  // in entries, which does not grow beyond its room
  std::uint64_t end = 0;
  for (std::uint32_t i = 0; i < brief.first_dim; ++i) {
    const auto head = take<MemberHead>(description);
    if (!head || head->name_bytes == 0 || head->name_bytes > group_name_bytes_max ||
        !fits(*head, end, size_bytes))
      return broken();
    const auto name = take_text(description, head->name_bytes);
    if (!name) return broken();
    const auto own_description = take_run(description, head->description_bytes);
    if (!own_description) return broken();
    const Brief own_brief = Brief::from_bits(head->brief);
    if (own_brief.kind != Kind::bytes && own_brief.kind != Kind::array) return broken();
    auto type = read_description(own_brief, head->size, *own_description);
    if (!type) return broken();
    end = head->offset + head->size;
    entries.push_back({std::string(*name), head->offset, head->size, std::move(*type)});
    if (!names.insert(entries.back().name).second) return broken();
  }
  if (!description.empty()) return broken();
  return entries;
}

}  // namespace forebay::shm
