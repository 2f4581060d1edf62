// SPDX-License-Identifier: Apache-2.0
#include "store/shm/object.h"

#include "store/client.h"
#include "store/client/core.h"

namespace forebay {

Result<Ref> Client::put_object(std::string_view id, std::span<const ObjectPart> parts,
                               const PutOptions& options) {
  if (options.type)
    return fail(Errc::bad_argument, "an object is no array: leave options.type out");
  const auto plan = shm::plan_object(parts);
  if (!plan) return fail(plan.error());
  return core_->put(
      id, plan->size_bytes,
      [&](std::span<std::byte> payload) { return shm::write_object(*plan, parts, payload); }, options,
      {.description = &plan->description});
}

Result<std::vector<std::span<const std::byte>>> View::object() const {
  if (home_ == nullptr) return fail(Errc::bad_state, "the view is of nothing");
  return shm::read_object(shm::Brief::from_bits(brief()), bytes());
}

}  // namespace forebay
