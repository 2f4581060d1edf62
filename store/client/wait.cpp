// SPDX-License-Identifier: Apache-2.0
// Waiting for several versions at once.
#include <algorithm>
#include <numeric>

#include "store/client/core.h"
#include "store/id.h"

namespace forebay {
namespace client {
namespace {

// Room that an item takes in a frame besides its id, generously.
constexpr std::size_t item_overhead = 32;
constexpr auto answer_slack = std::chrono::milliseconds(200);

std::vector<wire::WaitRequest> in_frames(std::span<const WaitItem> items) {
  std::vector<wire::WaitRequest> parts(1);
  std::size_t room = wire::frame_bytes_max - 1024;
  for (const WaitItem& item : items) {
    const std::size_t need = item.id.size() + item_overhead;
    if (need > room) {
      parts.back().more = 1;
      parts.emplace_back();
      room = wire::frame_bytes_max - 1024;
    }
    room -= need;
    parts.back().items.push_back({item.id, item.version, item.after});
  }
  return parts;
}

}  // namespace

Result<std::vector<std::size_t>> Core::wait(std::span<const WaitItem> items, std::size_t needed,
                                            Timeout timeout) {
  if (timeout < Timeout::zero()) return fail(Errc::bad_argument, "a timeout below zero");
  if (needed > items.size())
    return fail(Errc::bad_argument, "waiting for " + std::to_string(needed) + " of " +
                                        std::to_string(items.size()) + " versions");
  if (items.size() > wait_items_max)
    return fail(Errc::bad_argument, "waiting for " + std::to_string(items.size()) +
                                        " versions at once; the most is " +
                                        std::to_string(wait_items_max));
  const auto there_now = [&]() -> Result<std::vector<std::size_t>> {
    std::vector<std::size_t> ready;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto seen = sight(items[i].id, items[i].version);
      if (!seen) return fail(seen.error());
      if (items[i].serial != 0 && (!*seen || (*seen)->serial != items[i].serial))
        return fail(Errc::stale_ref, "the ref's segment " +
                                         shown(items[i].id, items[i].version) +
                                         " was removed; waiting does not bring it back");
      if (*seen && (items[i].version != 0 || (*seen)->version > items[i].after))
        ready.push_back(i);
    }
    return ready;
  };
  auto ready = there_now();
  if (!ready || ready->size() >= needed || timeout == Timeout::zero()) return ready;

  const Deadline until = deadline_after(timeout);
  std::vector<wire::WaitRequest> parts = in_frames(items);
  while (true) {
    const auto left = until - std::chrono::steady_clock::now();
    parts.back().needed = static_cast<std::uint32_t>(needed);
    parts.back().timeout_ns =
        left > Timeout::zero() ? static_cast<std::uint64_t>(Timeout(left).count()) : 0;
    // The daemon answers by the deadline; its answer may take a moment to arrive.
    auto connection = connected(until + answer_slack);
    if (!connection) return fail(std::move(connection.error()));
    auto answer = (*connection)
                      ->call_in_parts<wire::WaitReply>(
                          std::span<const wire::WaitRequest>(parts), until + answer_slack);
    if (!answer && answer.error().is(Errc::disconnected)) continue;
    if (!answer && answer.error().is(Errc::timed_out)) return there_now();
    if (!answer) return fail(std::move(answer.error()));
    const auto& indices = answer->message.ready;
    if (std::ranges::any_of(indices, [&](std::uint32_t index) { return index >= items.size(); }))
      return fail(Errc::bad_message, "the daemon answered about what it was not asked");
    // Of refs the daemon knows only id and version.
    const bool some_are_refs =
        std::ranges::any_of(items, [](const WaitItem& item) { return item.serial != 0; });
    if (some_are_refs)
      if (auto now = there_now(); !now) return now;
    return std::vector<std::size_t>(indices.begin(), indices.end());
  }
}

}  // namespace client

Result<std::vector<std::size_t>> Client::wait(std::span<const WaitItem> items, std::size_t needed,
                                              Timeout timeout) const {
  return core_->wait(items, needed, timeout);
}

}  // namespace forebay
