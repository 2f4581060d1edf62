// SPDX-License-Identifier: Apache-2.0
// Groups and manifests: several arrays as one segment, several segments as one list.
#include "store/shm/group.h"

#include <algorithm>
#include <array>

#include "store/client.h"
#include "store/client/core.h"
#include "store/id.h"
#include "store/shm/manifest.h"

namespace forebay {
namespace {

Result<void> check_untyped(const PutOptions& options, const char* what) {
  if (!options.type) return {};
  return fail(Errc::bad_argument, std::string(what) + " is no array: leave options.type out");
}

}  // namespace

// ----------------------------------------------------------------------------------------- groups

Result<Ref> Client::put_group(std::string_view id, std::span<const GroupMember> members,
                              const PutOptions& options) {
  if (auto checked = check_untyped(options, "a group"); !checked)
    return fail(std::move(checked.error()));
  const auto plan = shm::plan_group(members);
  if (!plan) return fail(plan.error());
  return core_->put(
      id, plan->size_bytes,
      [&](std::span<std::byte> payload) {
        shm::write_group(*plan, members, payload);
        return true;
      },
      options,
      {.description = &plan->description});
}

Result<std::vector<GroupMember>> View::group() const {
  if (home_ == nullptr) return fail(Errc::bad_state, "the view is of nothing");
  std::array<std::byte, shm::record_description_bytes> room{};
  auto entries = shm::read_group(shm::Brief::from_bits(brief()), size_,
                                 home_->description_of(entry_, room));
  if (!entries) return fail(std::move(entries.error()));
  std::vector<GroupMember> members;
  members.reserve(entries->size());
  for (shm::GroupEntry& entry : *entries)
    members.push_back(
        {std::move(entry.name), bytes().subspan(entry.offset, entry.size), std::move(entry.type)});
  return members;
}

bool client::Access::is_described_by(const View& view, const shm::Description& description) {
  std::array<std::byte, shm::record_description_bytes> room{};
  return view.brief() == description.brief.bits() &&
         std::ranges::equal(view.home_->description_of(view.entry_, room), description.bytes);
}

// -------------------------------------------------------------------------------------- manifests

Result<Ref> Client::put_manifest(std::string_view id, std::span<const Ref> members,
                                 const PutOptions& options) {
  if (auto checked = check_untyped(options, "a manifest"); !checked)
    return fail(std::move(checked.error()));
  const StoreUuid store = core_->store();
  std::vector<shm::ManifestMember> list;
  list.reserve(members.size());
  for (const Ref& ref : members) {
    if (auto checked = core_->check_store(ref, store); !checked)
      return fail(std::move(checked.error()));
    if (auto checked = check_id(ref.id); !checked) return fail(std::move(checked.error()));
    if (ref.version == 0 || ref.serial == 0)
      return fail(Errc::stale_ref, "the ref " + ref.to_string() + " names no segment");
    list.push_back({ref.id, ref.version, ref.serial});
  }
  if (const auto* repeated = shm::find_repeated(list))
    return fail(Errc::bad_argument,
                "segment " + shown(repeated->id, repeated->version) + " is listed twice");
  shm::Description description;
  description.brief.kind = shm::Kind::manifest;
  return core_->put(id, shm::write_manifest(list), options,
                    {.description = &description});
}

Result<std::vector<View>> Client::get_manifest(std::string_view id,
                                               const GetOptions& options) const {
  // Pinned until the members are: as long as it is there, so are they.
  const auto manifest = core_->get(id, options, nullptr);
  if (!manifest) return fail(manifest.error());
  Ref member = manifest->ref();
  const std::string name = "manifest " + shown(id, member.version);
  if (shm::Brief::from_bits(manifest->brief()).kind != shm::Kind::manifest)
    return fail(Errc::type_mismatch, "segment " + shown(id, member.version) + " is no manifest");
  auto list = shm::read_manifest(manifest->bytes());
  if (!list) {
    list.error().detail = name + ": " + list.error().detail;
    return fail(std::move(list.error()));
  }
  std::vector<View> views;
  views.reserve(list->size());
  for (shm::ManifestMember& listed : *list) {
    member.id = std::move(listed.id);
    member.version = listed.version;
    member.serial = listed.serial;
    auto view = core_->get(member.id, {.version = member.version}, &member);
    if (!view) {
      view.error().detail = name + ": " + view.error().detail;
      return fail(std::move(view.error()));
    }
    views.push_back(std::move(*view));
  }
  return views;
}

}  // namespace forebay
