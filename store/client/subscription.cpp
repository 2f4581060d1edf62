// SPDX-License-Identifier: Apache-2.0
// Subscriptions: one request for events is always open; its answer is what the next call returns.
#include "store/subscription.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "store/client.h"
#include "store/client/channel.h"
#include "store/client/core.h"
#include "store/id.h"

namespace forebay::client {
namespace {

// How long a request stays open at the daemon before it is asked anew.
constexpr Timeout request_timeout = std::chrono::seconds(30);

std::vector<Event> events_of(const wire::EventsReply& reply) {
  std::vector<Event> events;
  events.reserve(reply.events.size() + 1);
  if (reply.missed > 0) {
    Event missed;
    missed.kind = EventKind::missed;
    missed.missed = reply.missed;
    events.push_back(std::move(missed));
  }
  for (const wire::EventItem& item : reply.events)
    events.push_back({static_cast<EventKind>(item.kind), static_cast<RemovalCause>(item.cause),
                      std::string(item.id), item.version, item.serial, item.size, 0});
  return events;
}

}  // namespace

class SubscriptionState {
 public:
  SubscriptionState(std::shared_ptr<Core> core, Descriptor poll_set, std::string_view prefix,
                    const EventCursor& from)
      : core_(std::move(core)),
        poll_set_(std::move(poll_set)),
        channel_(core_, poll_set_.get()),
        prefix_(prefix),
        cursor_(from) {}

  Result<void> begin(Deadline deadline);
  Result<std::vector<Event>> next(Timeout timeout);
  Result<std::vector<Event>> poll();
  int fd() const { return poll_set_.get(); }
  const EventCursor& cursor() const { return cursor_; }

 private:
  void ask(Timeout timeout);
  // The answer to what was asked last, if it has come.
  using Reply = std::pair<EventCursor, std::vector<Event>>;
  std::optional<Result<Reply>> arrived();

  std::shared_ptr<Core> core_;
  Descriptor poll_set_;
  Channel channel_;
  std::string prefix_;
  EventCursor cursor_;
  std::uint32_t number_ = Channel::first_number;  // of the last request
  std::optional<Error> ended_by_;                 // what the daemon refused it with
};

void SubscriptionState::ask(Timeout timeout) {
  number_ = std::max(number_ + 1, Channel::first_number);
  channel_.send(wire::EventsRequest{prefix_, cursor_.store, cursor_.number,
                                    static_cast<std::uint64_t>(timeout.count())},
                number_);
}

std::optional<Result<SubscriptionState::Reply>> SubscriptionState::arrived() {
  std::optional<Result<Reply>> answer;
  channel_.receive([&](std::uint32_t number, std::span<const std::byte> frame) {
    if (number != number_) return;
    auto reply = wire::decode_reply<wire::EventsReply>(frame);
    if (reply) {
      answer.emplace(Reply{EventCursor{reply->store, reply->cursor}, events_of(*reply)});
    } else {
      answer.emplace(fail(std::move(reply.error())));
    }
  });
  return answer;
}

// A first request, which checks the cursor or finds out what it is now. What it may say besides is
// asked for again: it would lie here while the descriptor says that there is nothing.
Result<void> SubscriptionState::begin(Deadline deadline) {
  if (auto connected = channel_.connect(deadline); !connected) return connected;
  ask(Timeout::zero());
  while (true) {
    if (auto answer = arrived()) {
      if (!*answer) return fail(std::move(answer->error()));
      if (cursor_.store == StoreUuid{}) cursor_ = (*answer)->first;
      ask(request_timeout);
      return {};
    }
    if (core_->closed()) return fail(Errc::bad_state, "the client is closed");
    if (channel_.tend(true)) ask(Timeout::zero());
    if (!wire::wait_readable(fd(), deadline))
      return fail(Errc::timed_out, "the daemon has not answered in time");
  }
}

Result<std::vector<Event>> SubscriptionState::poll() {
  if (channel_.in_child())
    return fail(Errc::bad_state, "a subscription is not for a forked child: make another one");
  if (core_->closed()) {
    channel_.close();
    return fail(Errc::bad_state, "the client is closed");
  }
  if (ended_by_) return fail(*ended_by_);
  auto answer = arrived();
  const bool another = channel_.tend(true);
  std::vector<Event> events;
  if (answer && !*answer) {
    ended_by_ = std::move(answer->error());
    channel_.close();
    return fail(*ended_by_);
  }
  if (answer) {
    // Also when nothing came: behind all that has happened to other ids.
    cursor_ = (*answer)->first;
    events = std::move((*answer)->second);
  }
  // At once, so that what comes next is on its way while the caller works.
  if (answer || another) ask(request_timeout);
  return events;
}

Result<std::vector<Event>> SubscriptionState::next(Timeout timeout) {
  if (timeout < Timeout::zero()) return fail(Errc::bad_argument, "a timeout below zero");
  const Deadline deadline = core_->deadline_after(timeout);
  bool late = false;
  while (true) {
    auto events = poll();
    if (!events || !events->empty()) return events;
    if (late) break;
    late = !wire::wait_readable(fd(), deadline) || std::chrono::steady_clock::now() >= deadline;
  }
  if (!channel_.connected())
    return fail(Errc::disconnected, "not connected to forebayd at " + core_->address() +
                                        " before the deadline: " + channel_.trouble().detail);
  const std::string what = prefix_.empty() ? "nothing happened to any segment"
                                           : "nothing happened to ids with prefix " + shown(prefix_);
  const auto asked = std::chrono::duration_cast<std::chrono::milliseconds>(timeout);
  return fail(Errc::timed_out, what + " within " + std::to_string(asked.count()) + " ms");
}

Subscription Access::subscription(std::unique_ptr<SubscriptionState> state) {
  return Subscription(std::move(state));
}

}  // namespace forebay::client

namespace forebay {
namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

// ----------------------------------------------------------------------------------- EventCursor

std::string EventCursor::to_string() const {
  return format_uuid(store) + ':' + std::to_string(number);
}

Result<EventCursor> EventCursor::parse(std::string_view text) {
  const auto refuse = [text] {
    return fail(Errc::bad_argument, "not a cursor: '" + std::string(text.substr(0, 100)) +
                                        "'; a cursor is <store uuid>:<number>");
  };
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return refuse();
  EventCursor cursor;
  std::size_t digits = 0;
  for (const char c : text.substr(0, colon)) {
    if (c == '-') continue;
    const int value = hex_value(c);
    if (value < 0 || digits == 2 * cursor.store.size()) return refuse();
    cursor.store[digits / 2] = static_cast<std::uint8_t>(cursor.store[digits / 2] * 16 + value);
    ++digits;
  }
  const std::string_view number = text.substr(colon + 1);
  const auto [end, status] =
      std::from_chars(number.data(), number.data() + number.size(), cursor.number);
  if (status != std::errc{} || end != number.data() + number.size()) return refuse();
  // One text for one cursor: dashes in their places, no zeros before the number.
  if (cursor.to_string() != text) return refuse();
  return cursor;
}

// ---------------------------------------------------------------------------------- Subscription

Subscription::Subscription(std::unique_ptr<client::SubscriptionState> state)
    : state_(std::move(state)) {}
Subscription::Subscription(Subscription&&) noexcept = default;
Subscription& Subscription::operator=(Subscription&&) noexcept = default;
Subscription::~Subscription() = default;

Result<std::vector<Event>> Subscription::next(Timeout timeout) { return state_->next(timeout); }
int Subscription::fd() const { return state_->fd(); }
Result<std::vector<Event>> Subscription::poll() { return state_->poll(); }
EventCursor Subscription::cursor() const { return state_->cursor(); }

Result<Subscription> Client::subscribe(std::string_view prefix, const EventCursor& from) const {
  if (prefix.size() > id_bytes_max)
    return fail(Errc::bad_argument, "a prefix of " + std::to_string(prefix.size()) +
                                        " bytes: an id has at most " +
                                        std::to_string(id_bytes_max));
  auto poll_set = client::Channel::make_poll_set();
  if (!poll_set) return fail(std::move(poll_set.error()));
  auto state =
      std::make_unique<client::SubscriptionState>(core_, std::move(*poll_set), prefix, from);
  if (auto begun = state->begin(core_->deadline()); !begun) return fail(std::move(begun.error()));
  return client::Access::subscription(std::move(state));
}

}  // namespace forebay
