// SPDX-License-Identifier: Apache-2.0
// Gets for event loops: one request of the daemon's for each that must wait, and one look into the
// index for each answer.
#include "store/async_gets.h"

#include <sys/epoll.h>

#include <algorithm>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "store/client.h"
#include "store/client/channel.h"
#include "store/client/core.h"
#include "store/client/timer.h"
#include "store/id.h"

namespace forebay::client {
namespace {

// How many may wait on one connection: well below what the daemon lets a session have, whose answers,
// if all of them come at once, it keeps until they are read.
constexpr std::size_t waiting_per_channel = 8192;
// What a look may wait for the daemon's word, which it rarely needs: an event loop stands still.
constexpr auto look_patience = std::chrono::milliseconds(100);

Deadline now() { return std::chrono::steady_clock::now(); }

}  // namespace

class AsyncGetsState {
 public:
  AsyncGetsState(std::shared_ptr<Core> core, Descriptor poll_set)
      : core_(std::move(core)), poll_set_(std::move(poll_set)) {
    add_lane();
  }

  Result<void> begin(Deadline deadline);
  std::uint64_t get(std::string_view id, const GetOptions& options, AsyncGets::Callback done);
  bool cancel(std::uint64_t number);
  std::size_t dispatch();
  // The object's end: calls back all that are open.
  void end();

  int fd() const { return poll_set_.get(); }
  std::size_t open_count() const { return in_child() ? 0 : open_.size(); }

 private:
  // A connection, and how many gets wait on it. Never taken away: there are few.
  struct Lane {
    Lane(std::shared_ptr<Core> core, int poll_set) : channel(std::move(core), poll_set) {}
    Channel channel;
    std::size_t gets = 0;
  };
  struct Get {
    std::uint64_t number;
    std::string id;
    GetOptions options;
    Deadline deadline;
    AsyncGets::Callback done;
    Lane* lane;
  };
  // By the number that it has in messages, which is the lower half of its own.
  using Open = std::unordered_map<std::uint32_t, Get>;
  struct Arrived {
    std::uint32_t number;
    Result<wire::Empty> said;
  };

  bool in_child() const { return lanes_.front()->channel.in_child(); }
  Lane& add_lane() {
    return *lanes_.emplace_back(std::make_unique<Lane>(core_, poll_set_.get()));
  }
  Lane& lane_with_room();
  std::optional<Result<View>> answer_now(std::string_view id, const GetOptions& options);
  std::uint64_t new_number();
  void ask(std::uint32_t number, const Get& get);
  bool settle(Arrived& answer);
  void finish(Open::iterator get, Result<View> result);
  std::size_t finish_all(Errc code, const char* why);
  void set_alarm();

  std::shared_ptr<Core> core_;
  Descriptor poll_set_;
  Timer alarm_;  // at the first deadline
  std::vector<std::unique_ptr<Lane>> lanes_;
  Open open_;
  std::set<std::pair<Deadline, std::uint32_t>> by_deadline_;
  std::uint64_t last_number_ = Channel::first_number - 1;
  bool dispatching_ = false;
  bool ended_ = false;
};

Result<void> AsyncGetsState::begin(Deadline deadline) {
  if (!alarm_) return fail(Errc::limit_reached, "no descriptor for a timer: see ulimit -n");
  epoll_event event{};
  event.events = EPOLLIN;
  ::epoll_ctl(poll_set_.get(), EPOLL_CTL_ADD, alarm_.fd(), &event);
  return lanes_.front()->channel.connect(deadline);
}

std::uint64_t AsyncGetsState::get(std::string_view id, const GetOptions& options,
                                  AsyncGets::Callback done) {
  if (in_child()) return 0;
  if (ended_) {
    done(fail(Errc::cancelled, "the gets of this object have ended"));
    return 0;
  }
  if (auto answer = answer_now(id, options)) {
    done(std::move(*answer));
    return 0;
  }
  const std::uint64_t number = new_number();
  const auto key = static_cast<std::uint32_t>(number);
  const Deadline deadline = core_->deadline_after(options.timeout);
  Lane& lane = lane_with_room();
  ++lane.gets;
  const Get& get =
      open_.emplace(key, Get{number, std::string(id), options, deadline, std::move(done), &lane})
          .first->second;
  by_deadline_.emplace(deadline, key);
  ask(key, get);
  set_alarm();
  return number;
}

// What can be said without waiting; nothing if it must be waited for.
std::optional<Result<View>> AsyncGetsState::answer_now(std::string_view id,
                                                       const GetOptions& options) {
  const bool waits = options.timeout > Timeout::zero();
  if (options.after == 0) {
    bool missed = false;
    View view = core_->get_resident(id, options.version, nullptr, missed);
    if (view) return view;
    if (missed && waits) return std::nullopt;
  }
  auto looked = core_->look(id, options, now() + look_patience);
  if (looked || !waits) return looked;
  // The latter two: the daemon, whose word was needed, is away or slow.
  const bool may_come = looked.error().is(Errc::not_found) ||
                        looked.error().is(Errc::disconnected) ||
                        looked.error().is(Errc::timed_out);
  if (may_come) return std::nullopt;
  return looked;
}

std::uint64_t AsyncGetsState::new_number() {
  std::uint32_t key = 0;
  do {
    key = static_cast<std::uint32_t>(++last_number_);
  } while (key < Channel::first_number || open_.contains(key));
  return last_number_;
}

AsyncGetsState::Lane& AsyncGetsState::lane_with_room() {
  for (const auto& lane : lanes_)
    if (lane->gets < waiting_per_channel) return *lane;
  return add_lane();
}

// Asks the daemon to say when it is worth looking again; while there is none, this is done as soon as
// there is one.
void AsyncGetsState::ask(std::uint32_t number, const Get& get) {
  Channel& channel = get.lane->channel;
  if (!channel.connected()) {
    // If nobody wanted it so far, it begins to connect.
    (void)channel.tend(true);
    return;
  }
  const auto left = std::max(Timeout(get.deadline - now()), Timeout::zero());
  channel.send(wire::AwaitRequest{get.id, get.options.version, get.options.after,
                                  static_cast<std::uint64_t>(left.count())},
               number);
}

bool AsyncGetsState::cancel(std::uint64_t number) {
  if (in_child()) return false;
  const auto found = open_.find(static_cast<std::uint32_t>(number));
  if (found == open_.end() || found->second.number != number) return false;
  found->second.lane->channel.send(wire::CancelRequest{found->first}, 0);
  finish(found, fail(Errc::cancelled, "the get of " +
                                          shown(found->second.id, found->second.options.version) +
                                          " was cancelled"));
  return true;
}

// Behind this, the object may be another than before: the callback may have asked for anything.
void AsyncGetsState::finish(Open::iterator found, Result<View> result) {
  const Get get = std::move(found->second);
  by_deadline_.erase({get.deadline, found->first});
  open_.erase(found);
  --get.lane->gets;
  get.done(std::move(result));
}

std::size_t AsyncGetsState::finish_all(Errc code, const char* why) {
  std::vector<std::uint64_t> numbers;
  for (const auto& [key, get] : open_) numbers.push_back(get.number);
  std::sort(numbers.begin(), numbers.end());
  std::size_t finished = 0;
  for (const std::uint64_t number : numbers) {
    const auto found = open_.find(static_cast<std::uint32_t>(number));
    // A callback may have cancelled it.
    if (found == open_.end() || found->second.number != number) continue;
    finish(found, fail(code, why));
    ++finished;
  }
  return finished;
}

std::size_t AsyncGetsState::dispatch() {
  // From within a callback, there is nothing to do that is not being done.
  if (in_child() || dispatching_) return 0;
  dispatching_ = true;
  std::size_t finished = 0;
  if (core_->closed()) {
    for (const auto& lane : lanes_) lane->channel.close();
    finished += finish_all(Errc::bad_state, "the client is closed");
  }
  std::vector<Arrived> answers;
  for (const auto& lane : lanes_) {
    lane->channel.receive([&](std::uint32_t number, std::span<const std::byte> frame) {
      answers.push_back({number, wire::decode_reply<wire::Empty>(frame)});
    });
    if (!lane->channel.tend(lane->gets > 0)) continue;
    for (const auto& [number, get] : open_)
      if (get.lane == lane.get()) ask(number, get);
  }
  // Callbacks may add lanes.
  for (Arrived& answer : answers)
    if (settle(answer)) ++finished;
  // What a callback asks for now is late at the next dispatch at the earliest.
  const Deadline late = now();
  while (!by_deadline_.empty() && by_deadline_.begin()->first <= late) {
    const auto found = open_.find(by_deadline_.begin()->second);
    const Get& get = found->second;
    get.lane->channel.send(wire::CancelRequest{found->first}, 0);
    const auto asked = std::chrono::duration_cast<std::chrono::milliseconds>(get.options.timeout);
    finish(found, fail(Errc::timed_out, "no segment " + shown(get.id, get.options.version) +
                                            " within " + std::to_string(asked.count()) + " ms"));
    ++finished;
  }
  set_alarm();
  dispatching_ = false;
  return finished;
}

// Whether it has been called back.
bool AsyncGetsState::settle(Arrived& answer) {
  const auto found = open_.find(answer.number);
  if (found == open_.end()) return false;
  Get& get = found->second;
  const bool nothing_came = !answer.said && (answer.said.error().is(Errc::timed_out) ||
                                             answer.said.error().is(Errc::not_found));
  if (!answer.said && !nothing_came) {
    finish(found, fail(std::move(answer.said.error())));
    return true;
  }
  if (!nothing_came) {
    if (auto result = answer_now(get.id, get.options)) {
      finish(found, std::move(*result));
      return true;
    }
  }
  // It has gone again already; or the daemon's clock, which is read at other moments, was early.
  if (get.deadline > now()) ask(found->first, get);
  return false;
}

void AsyncGetsState::set_alarm() {
  alarm_.set(by_deadline_.empty() ? std::optional<Deadline>()
                                  : std::optional(by_deadline_.begin()->first));
}

void AsyncGetsState::end() {
  if (in_child()) return;
  ended_ = true;
  finish_all(Errc::cancelled, "the gets of this object have ended");
}

AsyncGets Access::async_gets(std::unique_ptr<AsyncGetsState> state) {
  return AsyncGets(std::move(state));
}

}  // namespace forebay::client

namespace forebay {

AsyncGets::AsyncGets(std::unique_ptr<client::AsyncGetsState> state) : state_(std::move(state)) {}
AsyncGets::AsyncGets(AsyncGets&&) noexcept = default;
AsyncGets& AsyncGets::operator=(AsyncGets&& other) noexcept {
  if (this != &other) {
    if (state_ != nullptr) state_->end();
    state_ = std::move(other.state_);
  }
  return *this;
}
AsyncGets::~AsyncGets() {
  if (state_ != nullptr) state_->end();
}

std::uint64_t AsyncGets::get(std::string_view id, const GetOptions& options, Callback done) {
  return state_->get(id, options, std::move(done));
}
bool AsyncGets::cancel(std::uint64_t number) { return state_->cancel(number); }
int AsyncGets::fd() const { return state_->fd(); }
std::size_t AsyncGets::dispatch() { return state_->dispatch(); }
std::size_t AsyncGets::open_count() const { return state_->open_count(); }

Result<AsyncGets> Client::async_gets() const {
  auto poll_set = client::Channel::make_poll_set();
  if (!poll_set) return fail(std::move(poll_set.error()));
  auto state = std::make_unique<client::AsyncGetsState>(core_, std::move(*poll_set));
  if (auto begun = state->begin(core_->deadline()); !begun) return fail(std::move(begun.error()));
  return client::Access::async_gets(std::move(state));
}

}  // namespace forebay
