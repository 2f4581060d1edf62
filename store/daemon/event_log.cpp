// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/event_log.h"

#include <algorithm>

#include "store/check.h"

namespace forebay::daemon {

EventLog::EventLog(std::size_t capacity, std::uint64_t next)
    : capacity_(capacity), first_(next), next_(next) {
  STORE_CHECK(capacity > 0, "an event log remembers at least one event");
}

void EventLog::record(const StoreEvent& event) {
  // Copied, not moved: the id then lies in memory that the forgotten event has left.
  if (ring_.size() < capacity_)
    ring_.push_back(event);
  else
    ring_[place(next_)] = event;
  ++next_;
}

EventLog::Batch EventLog::read(std::string_view prefix, std::uint64_t cursor,
                               std::size_t bytes_max) const {
  const std::uint64_t oldest = next_ - ring_.size();
  Batch batch;
  batch.missed = cursor < oldest ? oldest - cursor : 0;
  std::size_t bytes = 0;
  for (batch.cursor = std::clamp(cursor, oldest, next_); batch.cursor < next_; ++batch.cursor) {
    const StoreEvent& event = ring_[place(batch.cursor)];
    if (!event.id.starts_with(prefix)) continue;
    bytes += event_bytes + event.id.size();
    if (bytes > bytes_max && !batch.events.empty()) break;
    batch.events.push_back(&event);
  }
  return batch;
}

}  // namespace forebay::daemon
