// SPDX-License-Identifier: Apache-2.0
// Subscription: what happens to segments, in order.
//
// The daemon remembers the last events (65 536 of them) and answers as fast as a subscriber asks; one
// that is too slow is told how many it missed, and costs the daemon nothing. A subscription has a
// connection of its own, survives the daemon, and belongs to one thread at a time. Whoever stores the
// cursor can go on behind the last event that it has seen. Not for use in a forked child.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "store/error.h"
#include "store/ref.h"
#include "store/timeout.h"

namespace forebay {

namespace client {
class Access;
class SubscriptionState;
}

// Where a subscription goes on; default-constructed: now.
struct EventCursor {
  StoreUuid store{};
  std::uint64_t number = 0;

  FOREBAY_API std::string to_string() const;  // "<store uuid>:<number>"
  FOREBAY_API static Result<EventCursor> parse(std::string_view text);
  bool operator==(const EventCursor&) const = default;
};

enum class EventKind : std::uint8_t { sealed = 1, removed = 2, spilled = 3, restored = 4, missed = 5 };
enum class RemovalCause : std::uint8_t {
  none = 0,
  removed = 1,     // somebody asked for it
  kept_newer = 2,  // keep
  expired = 3,     // ttl
  evicted = 4,     // to make room
  superseded = 5,  // its memory was taken over by its next version
  lost = 6,        // with the tier that held it
};

struct Event {
  EventKind kind{};
  RemovalCause cause{};      // of a removal
  std::string id;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  std::uint64_t size = 0;    // payload bytes
  std::uint64_t missed = 0;  // with kind missed: so many events, of any id, are lost before the next
};

class FOREBAY_API Subscription {
 public:
  Subscription(Subscription&&) noexcept;
  Subscription& operator=(Subscription&&) noexcept;
  ~Subscription();

  // All events that are there, at least one. Fails with timed_out, disconnected, and wrong_store when
  // the daemon serves another store now.
  Result<std::vector<Event>> next(Timeout timeout);

  // For event loops: a descriptor that is readable when `poll` may have something, the same one for
  // the subscription's life; and what there is, maybe nothing, without waiting.
  int fd() const;
  Result<std::vector<Event>> poll();

  // Behind the last event that was returned.
  EventCursor cursor() const;

 private:
  friend class client::Access;
  explicit Subscription(std::unique_ptr<client::SubscriptionState> state);
  std::unique_ptr<client::SubscriptionState> state_;
};

}  // namespace forebay
