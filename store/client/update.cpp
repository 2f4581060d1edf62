// SPDX-License-Identifier: Apache-2.0
// INOUT: the next version, from the content or the memory of the one before.
#include <cstring>

#include "store/client/core.h"
#include "store/id.h"
#include "store/shm/description.h"
#include "store/shm/index_map.h"

namespace forebay {
namespace client {

Result<Builder> Core::update(std::string_view id, const UpdateOptions& options) {
  const auto seen = sight(id, options.from_version);
  if (!seen) return fail(seen.error());
  if (!*seen) {
    // `get` knows why it is not there.
    GetOptions exact;
    exact.version = options.from_version;
    auto view = get(id, exact, nullptr);
    if (!view) return fail(std::move(view.error()));
    return update(id, options);
  }
  if (((*seen)->state == shm::State::spilled || (*seen)->state == shm::State::restoring) &&
      options.take) {
    // It comes back first: what is taken over is memory.
    GetOptions exact;
    exact.version = (*seen)->version;
    auto view = get(id, exact, nullptr);
    if (!view) return fail(std::move(view.error()));
    view->release();
    return update(id, options);
  }
  PutOptions next;
  next.version = (*seen)->version + 1;
  next.timeout = options.timeout;
  next.evictable = options.evictable;
  next.persistent = options.persistent;
  next.keep = options.keep;
  next.ttl = options.ttl;
  const bool own_pages =
      ((*seen)->flags & shm::flag_bit(shm::RecordFlag::in_slab)) == 0 && (*seen)->size > 0;
  if (options.take && own_pages) return take_over(id, (*seen)->version, next);

  Ref from;
  shm::Description description;
  std::vector<std::byte> small;
  const auto copy_of = [&](const View& view) {
    std::array<std::byte, shm::record_description_bytes> room{};
    const auto bytes = Access::description_of(view, room);
    description.brief = shm::Brief::from_bits(view.brief());
    description.bytes.assign(bytes.begin(), bytes.end());
    if (auto type = view.type()) next.type = std::move(*type);
    from = view.ref();
  };
  GetOptions exact;
  exact.version = (*seen)->version;
  auto view = get(id, exact, nullptr);
  if (!view) return fail(std::move(view.error()));
  copy_of(*view);
  const Making making{.description = &description};
  if (!options.take) return create(id, view->bytes().size(), next, making, view->bytes());

  // It shares its pages with others: what is taken over is its content, and it is buried as if it had
  // been its memory.
  small.assign(view->bytes().begin(), view->bytes().end());
  view->release();
  auto builder = create(id, small.size(), next, making, small);
  if (!builder) return builder;
  wire::SupersedeRequest request;
  request.id = id;
  request.version = from.version;
  request.serial = from.serial;
  request.store = from.store;
  auto buried = this->request<wire::Empty>(request, deadline(), [&] { request.repeated = 1; });
  if (!buried) {
    (void)builder->abort();
    return fail(std::move(buried.error()));
  }
  return builder;
}

Result<Builder> Core::take_over(std::string_view id, std::uint64_t from,
                                const PutOptions& options) {
  PutOptions typed = options;
  auto reserved = reserve(id, 0, options, {.take_from = from});
  if (!reserved) return fail(std::move(reserved.error()));
  if (auto share = share_of(*reserved))
    if (auto type = (*share)->type_of(reserved->entry); type && *type) typed.type = std::move(**type);
  return open_builder(*reserved, id, typed, {});
}

}  // namespace client

Result<Builder> Client::update(std::string_view id, const UpdateOptions& options) {
  return core_->update(id, options);
}

}  // namespace forebay
