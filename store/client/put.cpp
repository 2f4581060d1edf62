// SPDX-License-Identifier: Apache-2.0
// Writing: create, put, remove.
#include <cstring>

#include "store/client/builder_state.h"
#include "store/client/core.h"
#include "store/shm/description.h"
#include "store/shm/failpoint.h"

namespace forebay::client {
namespace {

// The part of a new segment that is the same however it is made. Texts and bytes are the caller's.
Result<wire::NewSegment> describe_new(std::string_view id, std::uint64_t size,
                                      const PutOptions& options,
                                      const shm::Description& description, std::uint64_t token) {
  if (id.empty() || id.size() > shm::id_bytes_max)
    return fail(Errc::bad_id,
                "an id of " + std::to_string(id.size()) + " bytes; an id is 1 to 255 bytes");
  if (options.timeout < Timeout::zero())
    return fail(Errc::bad_argument, "a timeout below zero");
  wire::NewSegment segment;
  segment.id = id;
  segment.version = options.version;
  segment.size = size;
  segment.brief = description.brief.bits();
  segment.description = description.bytes;
  segment.evictable = options.evictable ? 1 : 0;
  segment.persistent = options.persistent ? 1 : 0;
  segment.timeout_ns = static_cast<std::uint64_t>(options.timeout.count());
  segment.token = token;
  return segment;
}

}  // namespace

Ref Core::make_ref(std::string_view id, std::uint64_t version, std::uint64_t serial,
                   const PutOptions& options) const {
  Ref ref;
  const Share share = try_share();
  ref.store = share ? share->store() : store_;
  ref.namespace_name = options_.namespace_name;
  ref.id = id;
  ref.version = version;
  ref.serial = serial;
  ref.type = options.type;
  return ref;
}

Result<Core::Reserved> Core::reserve(std::string_view id, std::uint64_t size,
                                     const PutOptions& options) {
  const auto description = shm::describe(options.type, size);
  if (!description) return fail(description.error());
  auto segment = describe_new(id, size, options, *description, new_token());
  if (!segment) return fail(std::move(segment.error()));
  wire::CreateRequest request{*segment};
  auto answer = this->request<wire::CreateReply>(request, deadline() + options.timeout);
  if (!answer) return fail(std::move(answer.error()));
  shm::reached(shm::points::client_created);
  const wire::CreateReply& reply = answer->message;
  return Reserved{reply.entry, reply.version, reply.serial, shm::Location(reply.location)};
}

Result<void> Core::seal(const Reserved& reserved) {
  wire::SealRequest request{reserved.entry, reserved.serial, 0};
  auto answer = this->request<wire::Empty>(request, deadline(), [&] { request.repeated = 1; });
  if (!answer) return fail(std::move(answer.error()));
  return {};
}

Result<void> Core::abort(const Reserved& reserved) {
  wire::AbortRequest request{reserved.entry, reserved.serial, 0};
  auto answer = this->request<wire::Empty>(request, deadline(), [&] { request.repeated = 1; });
  if (!answer) return fail(std::move(answer.error()));
  return {};
}

Result<Builder> Core::create(std::string_view id, std::uint64_t size, const PutOptions& options) {
  if (options.exist_ok)
    return fail(Errc::bad_argument,
                "exist_ok compares bytes, which create does not have: use put");
  auto reserved = reserve(id, size, options);
  if (!reserved) return fail(std::move(reserved.error()));
  const auto give_up = [&](Error& error) {
    (void)abort(*reserved);
    return fail(std::move(error));
  };
  auto share = this->share(deadline());
  if (!share) return give_up(share.error());
  Attachment& attachment = *share->get();
  auto count = granted_count(attachment, reserved->entry, deadline());
  if (!count) return give_up(count.error());
  auto window = attachment.open_window(reserved->location, size);
  if (!window) return give_up(window.error());
  // The entry is ours until we seal or abort it, so nothing needs to be looked at twice.
  (*count)->fetch_add(1, std::memory_order_seq_cst);
  shm::reached(shm::points::client_window_open);
  return Access::builder(std::make_unique<BuilderState>(shared_from_this(), share->release(),
                                                        *reserved, *window, std::string(id),
                                                        options));
}

Result<Ref> Core::put(std::string_view id, std::span<const std::byte> bytes,
                      const PutOptions& options) {
  auto ref = bytes.size() <= wire::inline_bytes_max ? put_inline(id, bytes, options)
                                                    : put_copying(id, bytes, options);
  if (!ref && options.exist_ok && ref.error().is(Errc::exists))
    return compare_with_existing(id, bytes, options, std::move(ref.error()));
  if (ref)
    if (const Share share = try_share()) share->note_put();
  return ref;
}

Result<Ref> Core::put_inline(std::string_view id, std::span<const std::byte> bytes,
                             const PutOptions& options) {
  const auto description = shm::describe(options.type, bytes.size());
  if (!description) return fail(description.error());
  auto segment = describe_new(id, bytes.size(), options, *description, new_token());
  if (!segment) return fail(std::move(segment.error()));
  wire::PutRequest request{*segment, bytes};
  auto answer = this->request<wire::PutReply>(request, deadline() + options.timeout);
  if (!answer) return fail(std::move(answer.error()));
  return make_ref(id, answer->message.version, answer->message.serial, options);
}

Result<Ref> Core::put_copying(std::string_view id, std::span<const std::byte> bytes,
                              const PutOptions& options) {
  auto reserved = reserve(id, bytes.size(), options);
  if (!reserved) return fail(std::move(reserved.error()));
  const auto give_up = [&](Error& error) {
    (void)abort(*reserved);
    return fail(std::move(error));
  };
  {
    auto share = this->share(deadline());
    if (!share) return give_up(share.error());
    auto target = (*share)->writable_alias(reserved->location);
    if (!target) return give_up(target.error());
    std::memcpy(*target, bytes.data(), bytes.size());
  }
  shm::reached(shm::points::client_written);
  if (auto sealed = seal(*reserved); !sealed) return give_up(sealed.error());
  shm::reached(shm::points::client_sealed);
  return make_ref(id, reserved->version, reserved->serial, options);
}

// The version is there already: the same bytes are as good as put.
Result<Ref> Core::compare_with_existing(std::string_view id, std::span<const std::byte> bytes,
                                        const PutOptions& options, Error exists) {
  GetOptions wanted;
  wanted.version = options.version;
  auto view = get(id, wanted, 0);
  if (!view) return fail(std::move(view.error()));
  const auto there = view->bytes();
  if (there.size() != bytes.size() ||
      (!bytes.empty() && std::memcmp(there.data(), bytes.data(), bytes.size()) != 0)) {
    exists.detail += ", with other bytes";
    return fail(std::move(exists));
  }
  return view->ref();
}

Result<std::vector<Result<Ref>>> Core::put_many(std::span<const PutItem> items,
                                                const PutOptions& options) {
  // Room that an item takes in a frame besides its id and bytes, generously.
  constexpr std::size_t item_overhead = 128;
  std::vector<Result<Ref>> results;
  results.reserve(items.size());
  const auto description = shm::describe(std::nullopt, 0);
  std::size_t next = 0;
  while (next < items.size()) {
    if (items[next].bytes.size() > wire::inline_bytes_max) {
      results.push_back(put(items[next].id, items[next].bytes, options));
      ++next;
      continue;
    }
    wire::PutManyRequest request;
    std::vector<std::optional<Error>> refused;
    std::size_t room = wire::frame_bytes_max - 1024;
    std::size_t end = next;
    for (; end < items.size(); ++end) {
      const PutItem& item = items[end];
      const std::size_t need = item.bytes.size() + item.id.size() + item_overhead;
      if (item.bytes.size() > wire::inline_bytes_max || need > room) break;
      room -= need;
      auto segment = describe_new(item.id, item.bytes.size(), options, *description, new_token());
      refused.emplace_back(segment ? std::nullopt : std::optional(segment.error()));
      if (segment) request.items.push_back({*segment, item.bytes});
    }
    auto answer = this->request<wire::PutManyReply>(request, deadline() + options.timeout);
    if (!answer) return fail(std::move(answer.error()));
    if (answer->message.items.size() != request.items.size())
      return fail(Errc::bad_message, "the daemon answered another number of items");
    std::size_t at = 0;
    for (std::size_t i = next; i < end; ++i) {
      if (auto& error = refused[i - next]) {
        results.push_back(fail(std::move(*error)));
        continue;
      }
      const wire::PutManyItem& item = answer->message.items[at++];
      if (item.origin == 0) {
        results.push_back(make_ref(items[i].id, item.reply.version, item.reply.serial, options));
        continue;
      }
      Error error = wire::error_of({item.origin, item.code, item.detail});
      if (options.exist_ok && error.is(Errc::exists)) {
        results.push_back(
            compare_with_existing(items[i].id, items[i].bytes, options, std::move(error)));
      } else {
        results.push_back(fail(std::move(error)));
      }
    }
    next = end;
  }
  return results;
}

Result<std::uint64_t> Core::remove(std::string_view id, std::uint64_t version,
                                   std::uint64_t serial) {
  if (id.empty() || id.size() > shm::id_bytes_max)
    return fail(Errc::bad_id,
                "an id of " + std::to_string(id.size()) + " bytes; an id is 1 to 255 bytes");
  wire::RemoveRequest request{id, version, serial, 0};
  auto answer =
      this->request<wire::RemoveReply>(request, deadline(), [&] { request.repeated = 1; });
  if (!answer) return fail(std::move(answer.error()));
  return answer->message.removed;
}

}  // namespace forebay::client
