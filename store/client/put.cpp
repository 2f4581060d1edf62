// SPDX-License-Identifier: Apache-2.0
// Writing: create, put, remove.
#include <algorithm>
#include <cstring>
#include <deque>
#include <system_error>
#include <thread>

#include "store/client/builder_state.h"
#include "store/client/core.h"
#include "store/id.h"
#include "store/shm/description.h"
#include "store/shm/failpoint.h"
#include "store/shm/mapping.h"

namespace forebay::client {
namespace {

// The part of a new segment that is the same however it is made. Texts and bytes are the caller's.
Result<wire::NewSegment> describe_new(std::string_view id, std::uint64_t size,
                                      const PutOptions& options,
                                      const shm::Description& description, std::uint64_t token,
                                      const Making& making = {}) {
  if (auto checked = check_id(id); !checked) return fail(std::move(checked.error()));
  if (options.timeout < Timeout::zero())
    return fail(Errc::bad_argument, "a timeout below zero");
  if (options.keep > keep_all)
    return fail(Errc::bad_argument, "keep is at most " + std::to_string(keep_max) +
                                        " versions, or keep_all");
  if (options.ttl < Timeout::zero())
    return fail(Errc::bad_argument, "a time to live below zero");
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
  segment.keep = options.keep;
  segment.ttl_ns = static_cast<std::uint64_t>(options.ttl.count());
  segment.claim = making.claim;
  segment.take_from = making.take_from;
  return segment;
}

Result<shm::Description> describe(const PutOptions& options, std::uint64_t size,
                                  const Making& making) {
  if (making.description != nullptr) return *making.description;
  return shm::describe(options.type, size);
}

// From so many bytes on, a put looks whether this process has written to that memory before.
constexpr std::size_t cold_bytes_min = 4 * 1024 * 1024;
constexpr std::size_t cold_piece_bytes = 2 * 1024 * 1024;

// Copies in two halves at once, each piece after its pages came into the page table in bulk, which
// costs a quarter of faulting them one by one (80 against 330 ms for a GiB, where the copy takes 60).
void copy_into_cold(std::byte* target, std::span<const std::byte> bytes) {
  const auto copy = [&](std::size_t from, std::size_t to) {
    for (std::size_t at = from; at < to; at += cold_piece_bytes) {
      const std::size_t size = std::min(cold_piece_bytes, to - at);
      shm::populate(target + at, size);
      std::memcpy(target + at, bytes.data() + at, size);
    }
  };
  const std::size_t half = bytes.size() / 2 / cold_piece_bytes * cold_piece_bytes;
  try {
    std::thread second(copy, half, bytes.size());
    copy(0, half);
    second.join();
  } catch (const std::system_error&) {
    copy(0, bytes.size());  // No thread to be had.
  }
}

// The same for bytes that somebody else writes, in an order of his own: the pages come in beside him.
bool fill_cold(std::span<std::byte> target, const std::function<bool(std::span<std::byte>)>& fill) {
  std::thread ahead;
  try {
    ahead = std::thread([target] {
      for (std::size_t at = 0; at < target.size(); at += cold_piece_bytes)
        shm::populate(target.data() + at, std::min(cold_piece_bytes, target.size() - at));
    });
  } catch (const std::system_error&) {
    // No thread to be had: the pages come in by faults.
  }
  const bool filled = fill(target);
  if (ahead.joinable()) ahead.join();
  return filled;
}

}  // namespace

Ref Core::make_ref(std::string_view id, const wire::PutReply& reply,
                   const PutOptions& options) const {
  Ref ref;
  ref.store = reply.store;
  ref.namespace_name = options_.namespace_name;
  ref.id = id;
  ref.version = reply.version;
  ref.serial = reply.serial;
  ref.type = options.type;
  return ref;
}

Result<Core::Reserved> Core::reserve(std::string_view id, std::uint64_t size,
                                     const PutOptions& options, const Making& making) {
  const auto description = describe(options, size, making);
  if (!description) return fail(description.error());
  auto segment = describe_new(id, size, options, *description, new_token(), making);
  if (!segment) return fail(std::move(segment.error()));
  wire::CreateRequest request{*segment};
  auto answer = this->request<wire::CreateReply>(request, deadline_for_room(options));
  if (!answer) {
    if (answer.error().is(Errc::timed_out)) give_up(segment->token);
    return fail(std::move(answer.error()));
  }
  shm::reached(shm::points::client_created);
  const wire::CreateReply& reply = answer->message;
  return Reserved{reply.entry,  reply.version, reply.serial, shm::Location(reply.location),
                  reply.store, reply.size};
}

// The daemon may still get to a create that nobody waits for any more.
void Core::give_up(std::uint64_t token) { tell(wire::AbortRequest{.repeated = 1, .token = token}); }

Result<Share> Core::share_of(const Reserved& reserved) {
  auto share = this->share(deadline());
  if (share && (*share)->store() != reserved.store)
    return fail(Errc::wrong_store, "the daemon was started anew on an empty store meanwhile");
  return share;
}

Result<Share> Core::hold(const Reserved& reserved) {
  while (true) {
    auto share = share_of(reserved);
    if (!share) return share;
    Attachment& attachment = *share->get();
    auto count = granted_count(attachment, reserved.entry, deadline());
    if (!count) {
      if (is_current(&attachment)) return fail(std::move(count.error()));
      continue;
    }
    (*count)->fetch_add(1, std::memory_order_seq_cst);
    // Whoever closes the client turns away first and says goodbye second: seen here, the daemon may
    // have looked for pins too early; not seen, it looks after this one was counted.
    if (is_current(&attachment)) return share;
    attachment.release(reserved.entry);
  }
}

Result<void> Core::seal(const Reserved& reserved) {
  wire::SealRequest request{reserved.store, reserved.entry, reserved.serial, 0};
  auto answer = this->request<wire::Empty>(request, deadline(), [&] { request.repeated = 1; });
  if (!answer) return fail(std::move(answer.error()));
  return {};
}

Result<void> Core::abort(const Reserved& reserved) {
  return abort({reserved.store, reserved.entry, reserved.serial, 0, 0});
}

Result<void> Core::abort(wire::AbortRequest request) {
  auto answer = this->request<wire::Empty>(request, deadline(), [&] { request.repeated = 1; });
  if (answer) return {};
  if (answer.error().is(Errc::disconnected)) {
    // It is said to the daemon that comes back: else memory and version would be taken for as long as
    // this process lives.
    request.repeated = 1;
    request.why = {};
    const std::lock_guard lock(state_mutex_);
    unsaid_aborts_.push_back(request);
  }
  return fail(std::move(answer.error()));
}

Result<Builder> Core::create(std::string_view id, std::uint64_t size, const PutOptions& options,
                             const Making& making, std::span<const std::byte> content) {
  if (options.exist_ok)
    return fail(Errc::bad_argument,
                "exist_ok compares bytes, which create does not have: use put");
  auto reserved = reserve(id, size, options, making);
  if (!reserved) return fail(std::move(reserved.error()));
  return open_builder(*reserved, id, options, content);
}

// `content`: what the builder's bytes start with.
Result<Builder> Core::open_builder(const Reserved& reserved, std::string_view id,
                                   const PutOptions& options, std::span<const std::byte> content) {
  const auto give_up = [&](Error& error) {
    (void)abort(reserved);
    return fail(std::move(error));
  };
  auto share = hold(reserved);
  if (!share) return give_up(share.error());
  Attachment& attachment = *share->get();
  if (!content.empty()) {
    auto target = attachment.writable_alias(reserved.location);
    if (!target) {
      attachment.release(reserved.entry);
      return give_up(target.error());
    }
    const bool cold = content.size() >= cold_bytes_min &&
                      attachment.take_cold(reserved.location, content.size());
    if (cold) {
      copy_into_cold(*target, content);
    } else {
      std::memcpy(*target, content.data(), content.size());
    }
  }
  auto window = attachment.open_window(reserved.location, reserved.size);
  if (!window) {
    attachment.release(reserved.entry);
    return give_up(window.error());
  }
  shm::reached(shm::points::client_window_open);
  return Access::builder(std::make_unique<BuilderState>(shared_from_this(), share->release(),
                                                        reserved, *window, std::string(id),
                                                        options));
}

Result<Ref> Core::put(std::string_view id, std::span<const std::byte> bytes,
                      const PutOptions& options, const Making& making) {
  auto ref = bytes.size() <= wire::inline_bytes_max
                 ? put_inline(id, bytes, options, making)
                 : put_filling(
                       id, bytes.size(),
                       [bytes](std::span<std::byte> target, bool cold) {
                         // Not ranges::copy, which libstdc++ 12 does byte by byte here.
                         if (cold)
                           copy_into_cold(target.data(), bytes);
                         else
                           std::memcpy(target.data(), bytes.data(), bytes.size());
                         return true;
                       },
                       options, making);
  if (!ref && options.exist_ok && ref.error().is(Errc::exists))
    return compare_with_existing(id, bytes, options, making, std::move(ref.error()));
  if (ref)
    if (const Share share = try_share()) share->note_put();
  return ref;
}

Result<Ref> Core::put(std::string_view id, std::uint64_t size, const Filler& fill,
                      const PutOptions& options, const Making& making) {
  // Small ones travel in a message, and those that may turn out to be there already are compared:
  // both need the bytes in one place first.
  if (size <= wire::inline_bytes_max || options.exist_ok) {
    std::vector<std::byte> bytes(size);
    if (!fill(bytes)) return could_not_make(id);
    return put(id, std::span<const std::byte>(bytes), options, making);
  }
  auto ref = put_filling(
      id, size,
      [&fill](std::span<std::byte> target, bool cold) {
        return cold ? fill_cold(target, fill) : fill(target);
      },
      options, making);
  if (ref)
    if (const Share share = try_share()) share->note_put();
  return ref;
}

Result<Ref> Core::put_inline(std::string_view id, std::span<const std::byte> bytes,
                             const PutOptions& options, const Making& making) {
  const auto description = describe(options, bytes.size(), making);
  if (!description) return fail(description.error());
  auto segment = describe_new(id, bytes.size(), options, *description, new_token(), making);
  if (!segment) return fail(std::move(segment.error()));
  wire::PutRequest request{*segment, bytes};
  auto answer = this->request<wire::PutReply>(request, deadline_for_room(options));
  if (!answer) return fail(std::move(answer.error()));
  return make_ref(id, answer->message, options);
}

// Writes through the alias: the pages where readers look stay read-only all the time.
Result<Ref> Core::put_filling(std::string_view id, std::uint64_t size, const Writer& fill,
                              const PutOptions& options, const Making& making) {
  auto reserved = reserve(id, size, options, making);
  if (!reserved) return fail(std::move(reserved.error()));
  const auto give_up = [&](Error& error) {
    (void)abort(*reserved);
    return fail(std::move(error));
  };
  {
    auto share = hold(*reserved);
    if (!share) return give_up(share.error());
    auto target = (*share)->writable_alias(reserved->location);
    bool filled = false;
    if (target) {
      const bool cold =
          size >= cold_bytes_min && (*share)->take_cold(reserved->location, size);
      filled = fill({*target, size}, cold);
    }
    (*share)->release(reserved->entry);
    if (!target) return give_up(target.error());
    if (!filled) {
      auto failure = could_not_make(id);
      return give_up(failure.error);
    }
  }
  shm::reached(shm::points::client_written);
  if (auto sealed = seal(*reserved); !sealed) return give_up(sealed.error());
  shm::reached(shm::points::client_sealed);
  return make_ref(id, {reserved->store, reserved->entry, reserved->version, reserved->serial},
                  options);
}

// The version is there already: the same bytes are as good as put.
Result<Ref> Core::compare_with_existing(std::string_view id, std::span<const std::byte> bytes,
                                        const PutOptions& options,
                                        const Making& making, Error exists) {
  GetOptions wanted;
  wanted.version = options.version;
  auto view = get(id, wanted, nullptr);
  if (!view) return fail(std::move(view.error()));
  const auto there = view->bytes();
  if (there.size() != bytes.size() ||
      (!bytes.empty() && std::memcmp(there.data(), bytes.data(), bytes.size()) != 0)) {
    exists.detail += ", with other bytes";
    return fail(std::move(exists));
  }
  if (making.description != nullptr && !Access::is_described_by(*view, *making.description)) {
    exists.detail += ", with other names or types";
    return fail(std::move(exists));
  }
  return view->ref();
}

Result<std::vector<Result<Ref>>> Core::put_many(std::span<const PutItem> items,
                                                const PutOptions& options) {
  // Room that an item takes in a frame besides its id, bytes and description, generously.
  constexpr std::size_t item_overhead = 128;
  std::vector<Result<Ref>> results;
  results.reserve(items.size());
  // All items wait for room together: what one of them has waited, the next ones have waited, too.
  const Deadline until = deadline_after(options.timeout);
  PutOptions in_turn = options;
  std::size_t next = 0;
  while (next < items.size()) {
    if (options.timeout > Timeout::zero())
      in_turn.timeout =
          std::max<Timeout>(until - std::chrono::steady_clock::now(), Timeout::zero());
    if (items[next].bytes.size() > wire::inline_bytes_max) {
      results.push_back(put(items[next].id, items[next].bytes, in_turn));
      ++next;
      continue;
    }
    wire::PutManyRequest request;
    std::deque<shm::Description> descriptions;  // stay where they are: the request points to them
    std::vector<std::optional<Error>> refused;
    std::size_t room = wire::frame_bytes_max - 1024;
    std::size_t end = next;
    for (; end < items.size(); ++end) {
      const PutItem& item = items[end];
      if (item.bytes.size() > wire::inline_bytes_max) break;
      auto description = shm::describe(options.type, item.bytes.size());
      if (!description) {
        refused.emplace_back(std::move(description.error()));
        continue;
      }
      auto segment =
          describe_new(item.id, item.bytes.size(), in_turn, *description, new_token());
      if (!segment) {
        refused.emplace_back(std::move(segment.error()));
        continue;
      }
      const std::size_t need =
          item.bytes.size() + item.id.size() + description->bytes.size() + item_overhead;
      if (need > room) break;
      room -= need;
      segment->description = descriptions.emplace_back(std::move(*description)).bytes;
      request.items.push_back({*segment, item.bytes});
      refused.emplace_back(std::nullopt);
    }
    auto answer = this->request<wire::PutManyReply>(request, deadline_for_room(in_turn));
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
        results.push_back(make_ref(items[i].id, item.reply, options));
        continue;
      }
      Error error = wire::error_of({item.origin, item.code, item.detail});
      if (options.exist_ok && error.is(Errc::exists)) {
        results.push_back(
            compare_with_existing(items[i].id, items[i].bytes, options, {}, std::move(error)));
      } else {
        results.push_back(fail(std::move(error)));
      }
    }
    next = end;
  }
  return results;
}

Result<std::uint64_t> Core::remove(std::string_view id, std::uint64_t version,
                                   const Ref* ref) {
  if (auto checked = check_id(id); !checked) return fail(std::move(checked.error()));
  wire::RemoveRequest request{.id = id, .version = version};
  if (ref != nullptr) {
    // To the daemon these zeros would mean all versions, and any segment.
    if (ref->version == 0 || ref->serial == 0)
      return fail(Errc::stale_ref, "the ref " + ref->to_string() + " names no segment");
    request.serial = ref->serial;
    request.store = ref->store;
  }
  auto answer =
      this->request<wire::RemoveReply>(request, deadline(), [&] { request.repeated = 1; });
  if (!answer) return fail(std::move(answer.error()));
  return answer->message.removed;
}

}  // namespace forebay::client
