// SPDX-License-Identifier: Apache-2.0
// What stays and what goes: holds, keep, and removing more than one.
#include <unistd.h>

#include <algorithm>

#include "store/client/core.h"
#include "store/id.h"

namespace forebay {
namespace client {
namespace {

constexpr std::size_t held_items_max = 8192;  // in one message
constexpr std::size_t scope_items_max = 512;  // the same, of the longest prefixes

}  // namespace

Result<Ref> Core::hold(wire::HoldVerb verb, std::string_view id, std::uint64_t version,
                       const Ref* ref) {
  if (auto checked = check_id(id); !checked) return fail(std::move(checked.error()));
  wire::HoldRequest request;
  request.verb = static_cast<std::uint8_t>(verb);
  request.id = id;
  request.version = version;
  if (ref != nullptr) {
    if (auto checked = check_store(*ref, store()); !checked) return fail(std::move(checked.error()));
    if (ref->version == 0 || ref->serial == 0)
      return fail(Errc::stale_ref, "the ref " + ref->to_string() + " names no segment");
    request.serial = ref->serial;
    request.store = ref->store;
  }
  switch (verb) {
    case wire::HoldVerb::hold:
      return take_hold(id, request);
    case wire::HoldVerb::unhold:
      return end_hold(*ref, request);
    case wire::HoldVerb::persist:
      break;
  }
  auto answer = this->request<wire::HoldReply>(request, deadline());
  if (!answer) return fail(std::move(answer.error()));
  const wire::HoldReply& reply = answer->message;
  return make_ref(id, {store(), reply.entry, reply.version, reply.serial}, {});
}

// Counted when the daemon has counted it, unless a later connection has told it the counts of before.
Result<Ref> Core::take_hold(std::string_view id, wire::HoldRequest& request) {
  const Deadline until = deadline();
  while (true) {
    const auto connection = connected(until);
    if (!connection) return fail(connection.error());
    auto answer = (*connection)->call<wire::HoldReply>(request, until);
    if (!answer && answer.error().is(Errc::disconnected)) continue;
    if (!answer) return fail(std::move(answer.error()));
    const wire::HoldReply& reply = answer->message;
    {
      const std::lock_guard lock(state_mutex_);
      if (said_by_ != connection->get()) {
        if (std::chrono::steady_clock::now() < until) continue;
        return fail(Errc::timed_out, "the daemon has not answered in time");
      }
      ++holds_[{reply.entry, reply.serial}];
    }
    return make_ref(id, {store(), reply.entry, reply.version, reply.serial}, {});
  }
}

// Said over the connection that has told the daemon the count of before. If that breaks, the next one
// tells it the new count, and there is nothing more to be said.
Result<Ref> Core::end_hold(const Ref& ref, wire::HoldRequest& request) {
  const Deadline until = deadline();
  bool counted = false;
  while (true) {
    const auto connection = connected(until);
    const void* said_by = nullptr;
    {
      const std::lock_guard lock(state_mutex_);
      const auto held = std::ranges::find_if(
          holds_, [&](const auto& hold) { return hold.first.second == request.serial; });
      if (!counted) {
        if (held == holds_.end())
          return fail(Errc::bad_state,
                      shown(request.id, request.version) + " is not held by this process");
        if (--held->second == 0) holds_.erase(held);
        counted = true;
      }
      said_by = said_by_;
    }
    if (!connection) return fail(connection.error());
    if (said_by != connection->get()) {
      if (std::chrono::steady_clock::now() < until) continue;
      return fail(Errc::timed_out, "the daemon has not answered in time");
    }
    auto answer = (*connection)->call<wire::HoldReply>(request, until);
    if (answer) return make_ref(ref.id, {store(), answer->message.entry, answer->message.version,
                                         answer->message.serial}, {});
    // Gone, or forgotten by a daemon that was started anew: it is not held, which was asked for.
    if (answer.error().is(Errc::stale_ref) || answer.error().is(Errc::bad_state)) return ref;
    if (!answer.error().is(Errc::disconnected)) return fail(std::move(answer.error()));
    if (auto back = ensure_connected(until); !back) return fail(std::move(back.error()));
    return ref;
  }
}

Result<void> Core::say_again(Connection& connection, const StoreUuid& store, Deadline deadline) {
  std::vector<wire::HeldItem> held;
  std::vector<wire::AbortRequest> aborts;
  {
    const std::lock_guard lock(state_mutex_);
    aborts = std::exchange(unsaid_aborts_, {});
    said_by_ = &connection;
    if (store_ != store) holds_.clear();
    for (const auto& [segment, times] : holds_)
      held.insert(held.end(), times, wire::HeldItem{segment.first, segment.second});
  }
  for (const wire::AbortRequest& abort : aborts)
    if (abort.store == store)
      if (auto told = connection.tell_by(abort, deadline); !told) return told;
  // Also if there is nothing: the daemon waits for this word.
  std::size_t at = 0;
  do {
    const std::size_t end = std::min(held.size(), at + held_items_max);
    wire::HoldsAgainRequest request;
    request.items.assign(held.begin() + static_cast<std::ptrdiff_t>(at),
                         held.begin() + static_cast<std::ptrdiff_t>(end));
    request.more = end < held.size() ? 1 : 0;
    if (auto told = connection.tell_by(request, deadline); !told) return told;
    at = end;
  } while (at < held.size());
  return say_scopes_again(connection, deadline);
}

Result<void> Core::say_scopes_again(Connection& connection, Deadline deadline) {
  std::vector<std::pair<std::string, bool>> scopes;
  {
    const std::lock_guard lock(state_mutex_);
    scopes.assign(scopes_.begin(), scopes_.end());
  }
  // Also if there are none: the daemon may know of one that was given up.
  std::size_t at = 0;
  do {
    const std::size_t end = std::min(scopes.size(), at + scope_items_max);
    wire::ScopesAgainRequest request;
    for (; at < end; ++at)
      request.items.push_back({scopes[at].first, static_cast<std::uint8_t>(scopes[at].second)});
    request.more = end < scopes.size() ? 1 : 0;
    if (auto told = connection.tell_by(request, deadline); !told) return told;
  } while (at < scopes.size());
  return {};
}

Result<void> Core::begin_scope(std::string_view prefix) {
  if (auto checked = check_id(prefix); !checked) return checked;
  {
    // Before the daemon hears of it: whoever reconnects meanwhile must not leave it out.
    const std::lock_guard lock(state_mutex_);
    if (!scopes_.try_emplace(std::string(prefix), false).second)
      return fail(Errc::conflict, "the scope " + shown(prefix) + " is begun by this client (pid " +
                                      std::to_string(::getpid()) + ") already");
  }
  wire::ScopeRequest request;
  request.verb = static_cast<std::uint8_t>(wire::ScopeVerb::begin);
  request.prefix = prefix;
  // This very request may be what makes the connection, and then the scope was said with that.
  request.repeated = 1;
  auto answer = this->request<wire::ScopeReply>(request, deadline());
  if (answer) return {};
  {
    const std::lock_guard lock(state_mutex_);
    if (const auto found = scopes_.find(prefix); found != scopes_.end()) scopes_.erase(found);
  }
  // It may have been begun all the same, or be said again by who reconnected.
  request.verb = static_cast<std::uint8_t>(wire::ScopeVerb::forget);
  if (!closed()) tell(request);
  return fail(std::move(answer.error()));
}

Result<std::uint64_t> Core::end_scope(std::string_view prefix) {
  if (auto checked = check_id(prefix); !checked) return fail(std::move(checked.error()));
  wire::ScopeRequest request;
  const Deadline until = deadline();
  // Once the end is known here, every new connection is told of it: what is asked over a later one than
  // this is a repetition.
  const auto connection = connected(until);
  {
    const std::lock_guard lock(state_mutex_);
    const auto found = scopes_.find(prefix);
    if (closed()) return fail(Errc::bad_state, "the client is closed");
    if (found == scopes_.end())
      return fail(Errc::bad_state, "the scope " + shown(prefix) + " was not begun by this client");
    if (std::exchange(found->second, true)) request.repeated = 1;
  }
  request.verb = static_cast<std::uint8_t>(wire::ScopeVerb::end);
  request.prefix = prefix;
  auto answer = [&]() -> Result<Answer<wire::ScopeReply>> {
    if (!connection) return fail(connection.error());
    auto first = (*connection)->call<wire::ScopeReply>(request, until);
    if (first || !first.error().is(Errc::disconnected)) return first;
    request.repeated = 1;
    return this->request<wire::ScopeReply>(request, until);
  }();
  // Without an answer it stays known: it may be ended again, and a daemon that comes back is told.
  const bool open = !answer && (answer.error().is(Errc::timed_out) ||
                                answer.error().is(Errc::disconnected));
  if (!open) {
    const std::lock_guard lock(state_mutex_);
    if (const auto found = scopes_.find(prefix); found != scopes_.end()) scopes_.erase(found);
  }
  if (!answer) return fail(std::move(answer.error()));
  return answer->message.removed;
}

}  // namespace client

Result<Ref> Client::hold(std::string_view id, std::uint64_t version) {
  return core_->hold(wire::HoldVerb::hold, id, version, nullptr);
}
Result<Ref> Client::hold(const Ref& ref) {
  return core_->hold(wire::HoldVerb::hold, ref.id, ref.version, &ref);
}
Result<void> Client::unhold(const Ref& ref) {
  auto done = core_->hold(wire::HoldVerb::unhold, ref.id, ref.version, &ref);
  if (!done) return fail(std::move(done.error()));
  return {};
}
Result<Ref> Client::persist(std::string_view id, std::uint64_t version) {
  return core_->hold(wire::HoldVerb::persist, id, version, nullptr);
}

Result<void> Client::keep(std::string_view id, std::uint32_t versions) {
  if (auto checked = check_id(id); !checked) return fail(std::move(checked.error()));
  if (versions == 0 || versions > keep_all)
    return fail(Errc::bad_argument, "keep is 1 to " + std::to_string(keep_max) +
                                        " versions, or keep_all");
  wire::KeepRequest request{id, versions};
  auto answer = core_->request<wire::Empty>(request, core_->deadline());
  if (!answer) return fail(std::move(answer.error()));
  return {};
}

Result<void> Client::begin_scope(std::string_view prefix) { return core_->begin_scope(prefix); }
Result<std::uint64_t> Client::end_scope(std::string_view prefix) {
  return core_->end_scope(prefix);
}

Result<std::uint64_t> Client::remove_before(std::string_view id, std::uint64_t version) {
  if (auto checked = check_id(id); !checked) return fail(std::move(checked.error()));
  if (version == 0) return fail(Errc::bad_argument, "version 0: versions start at 1");
  wire::RemoveRequest request;
  request.id = id;
  request.before = version;
  request.repeated = 1;
  auto answer = core_->request<wire::RemoveReply>(request, core_->deadline());
  if (!answer) return fail(std::move(answer.error()));
  return answer->message.removed;
}

namespace {

// Sends removals in as few messages as they take.
Result<std::vector<Result<std::uint64_t>>> remove_in_batches(
    client::Core& core, const std::vector<wire::RemoveRequest>& items) {
  constexpr std::size_t item_overhead = 80;
  std::vector<Result<std::uint64_t>> results;
  results.reserve(items.size());
  std::size_t next = 0;
  while (next < items.size()) {
    wire::RemoveManyRequest request;
    std::size_t room = wire::frame_bytes_max - 1024;
    for (; next + request.items.size() < items.size(); ) {
      const wire::RemoveRequest& item = items[next + request.items.size()];
      const std::size_t need = item.id.size() + item_overhead;
      if (need > room) break;
      room -= need;
      request.items.push_back(item);
    }
    auto answer = core.request<wire::RemoveManyReply>(request, core.deadline(), [&] {
      for (wire::RemoveRequest& item : request.items) item.repeated = 1;
    });
    if (!answer) return fail(std::move(answer.error()));
    if (answer->message.items.size() != request.items.size())
      return fail(Errc::bad_message, "the daemon answered another number of items");
    for (const wire::RemoveManyItem& item : answer->message.items) {
      if (item.origin == 0)
        results.emplace_back(item.removed);
      else
        results.emplace_back(fail(wire::error_of({item.origin, item.code, item.detail})));
    }
    next += request.items.size();
  }
  return results;
}

}  // namespace

Result<std::uint64_t> Client::remove_prefix(std::string_view prefix) {
  constexpr std::size_t page_segments = 4096;
  std::uint64_t removed = 0;
  ListCursor from;
  while (true) {
    auto page = core_->list(prefix, from, page_segments);
    if (!page) return fail(std::move(page.error()));
    std::vector<wire::RemoveRequest> items;
    const StoreUuid store = core_->store();
    for (const SegmentInfo& info : page->segments) {
      wire::RemoveRequest item;
      item.id = info.id;
      item.version = info.version;
      item.serial = info.serial;
      item.store = store;
      item.repeated = 1;  // somebody else may be quicker
      items.push_back(item);
    }
    auto results = remove_in_batches(*core_, items);
    if (!results) return fail(std::move(results.error()));
    for (const auto& result : *results) {
      if (result) removed += *result;
      // What a manifest lists stays.
      if (!result && !result.error().is(Errc::conflict)) return fail(result.error());
    }
    if (!page->next) return removed;
    from = *page->next;
  }
}

Result<std::vector<Result<std::uint64_t>>> Client::remove_many(
    std::span<const std::string_view> ids) {
  std::vector<wire::RemoveRequest> items;
  std::vector<std::optional<Error>> refused;
  for (const std::string_view id : ids) {
    if (auto checked = check_id(id); !checked) {
      refused.emplace_back(std::move(checked.error()));
      continue;
    }
    refused.emplace_back(std::nullopt);
    items.emplace_back().id = id;
  }
  auto results = remove_in_batches(*core_, items);
  if (!results || items.size() == ids.size()) return results;
  std::vector<Result<std::uint64_t>> all;
  std::size_t at = 0;
  for (std::optional<Error>& error : refused) {
    if (error)
      all.emplace_back(fail(std::move(*error)));
    else
      all.emplace_back(std::move((*results)[at++]));
  }
  return all;
}

Result<std::vector<Result<void>>> Client::remove_many(std::span<const Ref> refs) {
  std::vector<wire::RemoveRequest> items;
  std::vector<Result<void>> done;
  const StoreUuid store = core_->store();
  for (const Ref& ref : refs) {
    auto checked = check_id(ref.id);
    if (checked) checked = core_->check_store(ref, store);
    if (checked && (ref.version == 0 || ref.serial == 0))
      checked = fail(Errc::stale_ref, "the ref " + ref.to_string() + " names no segment");
    if (checked) {
      wire::RemoveRequest& item = items.emplace_back();
      item.id = ref.id;
      item.version = ref.version;
      item.serial = ref.serial;
      item.store = ref.store;
    }
    done.push_back(std::move(checked));
  }
  auto results = remove_in_batches(*core_, items);
  if (!results) return fail(std::move(results.error()));
  std::size_t at = 0;
  for (Result<void>& one : done) {
    if (!one) continue;
    if (const auto& result = (*results)[at++]; !result) one = fail(result.error());
  }
  return done;
}

Result<std::vector<bool>> Client::contains_many(std::span<const std::string_view> ids) const {
  std::vector<bool> there;
  there.reserve(ids.size());
  for (const std::string_view id : ids) {
    auto contained = core_->contains(id, 0);
    if (!contained) return fail(std::move(contained.error()));
    there.push_back(*contained);
  }
  return there;
}

}  // namespace forebay
