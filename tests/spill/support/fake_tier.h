// SPDX-License-Identifier: Apache-2.0
// FakeTier: a tier in memory that keeps the contract of store/tier.h and breaks on cue.
//
// It answers from a thread of its own, in the order of the calls; while it is down, from within the
// call. A test can have it fail the next operations, stall (nothing is answered but with timed_out,
// at the deadline), give back flipped bytes, lose what it holds, lose its peer and get it back, and
// be full. All of that may be asked from any thread, also from callbacks.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "store/tier.h"

namespace forebay::test {

enum class TierVerb : std::uint8_t { put, get, remove, list, find };

// Which operations a cue is for.
class TierVerbs {
 public:
  TierVerbs(std::initializer_list<TierVerb> verbs) {
    for (const TierVerb verb : verbs) bits_ |= 1U << static_cast<unsigned>(verb);
  }
  static TierVerbs all() {
    return {TierVerb::put, TierVerb::get, TierVerb::remove, TierVerb::list, TierVerb::find};
  }
  bool has(TierVerb verb) const { return (bits_ >> static_cast<unsigned>(verb) & 1U) != 0; }

 private:
  unsigned bits_ = 0;
};

class FakeTier final : public Tier {
 public:
  enum class Items { kept, lost };
  enum class Incarnation { same, other };

  struct Options {
    std::string name = "fake";
    std::uint64_t capacity_bytes = std::uint64_t{1} << 40U;
    std::string transport = "memory";
  };

  FakeTier() : FakeTier(Options{}) {}
  explicit FakeTier(Options options)
      : options_(std::move(options)), incarnation_(other_incarnation()), thread_([this] { run(); }) {}
  ~FakeTier() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  FakeTier(const FakeTier&) = delete;
  FakeTier& operator=(const FakeTier&) = delete;

  void put(TierPut put, TierDeadline deadline, PutDone done) override {
    std::uint64_t size = 0;
    for (const auto part : put.parts) size += part.size();
    if (size == 0 || put.label.name.size() > 512 || put.label.about.size() > 1024)
      return done(fail(Errc::bad_argument, "a fake tier was asked to keep an item that none may be"));
    enqueue(TierVerb::put, deadline,
            [this, put = std::move(put), size, done = std::move(done)](const Error* error) {
              Result<TierPlace> result = error ? fail(*error) : keep(put, size);
              return [done, result = std::move(result)] { done(result); };
            });
  }
  void get(TierGet get, TierDeadline deadline, Done done) override {
    if (get.offset > get.place.size || get.into.size() > get.place.size - get.offset)
      return done(fail(Errc::bad_argument, "a fake tier was asked for bytes outside the item"));
    enqueue(TierVerb::get, deadline, [this, get, done = std::move(done)](const Error* error) {
      Result<void> result = error ? fail(*error) : fetch(get);
      return [done, result = std::move(result)] { done(result); };
    });
  }
  void remove(TierKey key, TierPlace place, TierDeadline deadline, Done done) override {
    enqueue(TierVerb::remove, deadline,
            [this, key, place, done = std::move(done)](const Error* error) {
              Result<void> result = error ? fail(*error) : drop(key, place);
              return [done, result = std::move(result)] { done(result); };
            });
  }
  void list(std::array<std::uint8_t, 16> store, TierDeadline deadline, ListDone done) override {
    enqueue(TierVerb::list, deadline, [this, store, done = std::move(done)](const Error* error) {
      Result<std::vector<TierItem>> result = error ? fail(*error) : all_of(store);
      return [done, result = std::move(result)] { done(result); };
    });
  }
  void find(std::string name, std::uint64_t version, TierDeadline deadline,
            FindDone done) override {
    enqueue(TierVerb::find, deadline,
            [this, name = std::move(name), version, done = std::move(done)](const Error* error) {
              Result<TierItem> result = error ? fail(*error) : named(name, version);
              return [done, result = std::move(result)] { done(result); };
            });
  }
  TierStatus status() const override {
    const std::lock_guard lock(mutex_);
    return {.name = options_.name, .up = !down_, .why_down = down_ ? down_->detail : "",
            .incarnation = incarnation_, .capacity_bytes = options_.capacity_bytes,
            .used_bytes = used_bytes_, .transport = options_.transport};
  }
  void memory_leaves(std::span<const std::byte> bytes) override {
    const std::lock_guard lock(mutex_);
    left_.push_back(bytes);
  }

  // The next `count` operations of these kinds fail with `error`, and do nothing.
  void fail_next(unsigned count, Error error, TierVerbs verbs = TierVerbs::all()) {
    const std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < count; ++i) failures_.push_back({verbs, error});
  }
  void fail_next(unsigned count, Errc code, TierVerbs verbs = TierVerbs::all()) {
    fail_next(count, Error{make_error_code(code), options_.name + ": a failure on cue"}, verbs);
  }
  // Operations of these kinds, open ones and such that come, are answered only after release().
  void stall(TierVerbs verbs = TierVerbs::all()) {
    const std::lock_guard lock(mutex_);
    stalled_ = verbs;
  }
  void release() {
    {
      const std::lock_guard lock(mutex_);
      stalled_.reset();
    }
    wake_.notify_all();
  }
  // Flips a bit of one byte in what the next `count` gets bring. What is kept stays as it is.
  void corrupt_next(unsigned count) {
    const std::lock_guard lock(mutex_);
    corrupt_gets_ += count;
  }
  // Flips a bit of what is kept, for good. False: there is no such item or byte.
  bool rot(const TierKey& key, std::uint64_t offset) {
    const std::lock_guard lock(mutex_);
    const auto item = items_.find(id_of(key));
    if (item == items_.end() || offset >= item->second.bytes.size()) return false;
    item->second.bytes[offset] ^= std::byte{0x10};
    return true;
  }
  // One item is there no more. False: it was not there.
  bool lose(const TierKey& key) {
    const std::lock_guard lock(mutex_);
    const auto item = items_.find(id_of(key));
    if (item == items_.end()) return false;
    used_bytes_ -= item->second.bytes.size();
    items_.erase(item);
    return true;
  }
  // The peer goes: everything that is open and all that comes ends with tier_down.
  void go_down(Items items = Items::kept, std::string why = "its peer has gone, on cue") {
    {
      const std::lock_guard lock(mutex_);
      down_ = Error{make_error_code(Errc::tier_down), options_.name + ": " + std::move(why)};
      if (items == Items::lost) lose_all();
    }
    wake_.notify_all();
  }
  // Another incarnation does not know what the one before held.
  void come_back(Incarnation incarnation = Incarnation::same) {
    const std::lock_guard lock(mutex_);
    down_.reset();
    if (incarnation == Incarnation::same) return;
    incarnation_ = other_incarnation();
    lose_all();
  }
  void set_capacity(std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    options_.capacity_bytes = bytes;
  }

  // Operations of that kind that were asked for so far, also those that failed.
  std::uint64_t count(TierVerb verb) const {
    const std::lock_guard lock(mutex_);
    return counts_[static_cast<std::size_t>(verb)];
  }
  // Operations that are not answered yet.
  std::size_t open() const {
    const std::lock_guard lock(mutex_);
    return queue_.size() + (answering_ ? 1 : 0);
  }
  bool holds(const TierKey& key) const {
    const std::lock_guard lock(mutex_);
    return items_.contains(id_of(key));
  }
  std::size_t items() const {
    const std::lock_guard lock(mutex_);
    return items_.size();
  }
  // What memory_leaves was told, in order.
  std::vector<std::span<const std::byte>> left() const {
    const std::lock_guard lock(mutex_);
    return left_;
  }

 private:
  // Does the operation, or only takes its error, under the lock; returns what answers it.
  using Operation = std::function<std::function<void()>(const Error*)>;
  using Id = std::pair<std::array<std::uint8_t, 16>, std::uint64_t>;
  struct Queued {
    TierVerb verb;
    TierDeadline deadline;
    Operation operation;
  };
  struct Kept {
    TierItem item;
    std::vector<std::byte> bytes;
  };
  struct Cue {
    TierVerbs verbs;
    Error error;
  };

  static Id id_of(const TierKey& key) { return {key.store, key.number}; }
  static std::uint64_t other_incarnation() {
    std::random_device device;
    return (std::uint64_t{device()} << 32U | device()) | 1U;
  }

  void enqueue(TierVerb verb, TierDeadline deadline, Operation operation) {
    std::function<void()> answer;
    {
      const std::lock_guard lock(mutex_);
      ++counts_[static_cast<std::size_t>(verb)];
      if (ending_ || down_) {
        const Error gone = ending_ ? ended() : *down_;
        answer = operation(&gone);
      } else {
        queue_.push_back({verb, deadline, std::move(operation)});
      }
    }
    if (answer) return answer();
    wake_.notify_all();
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      const auto next = next_in_turn();
      if (next == queue_.end()) {
        if (ending_) return;
        wait(lock);
        continue;
      }
      Queued queued = std::move(*next);
      queue_.erase(next);
      const std::optional<Error> error = error_of(queued);
      std::function<void()> answer = queued.operation(error ? &*error : nullptr);
      queued.operation = nullptr;
      answering_ = true;
      lock.unlock();
      answer();
      answer = nullptr;
      lock.lock();
      answering_ = false;
    }
  }
  std::deque<Queued>::iterator next_in_turn() {
    const auto now = TierClock::now();
    return std::find_if(queue_.begin(), queue_.end(), [&](const Queued& queued) {
      return ending_ || down_ || queued.deadline <= now ||
             !(stalled_ && stalled_->has(queued.verb));
    });
  }
  void wait(std::unique_lock<std::mutex>& lock) {
    auto until = TierDeadline::max();
    for (const Queued& queued : queue_) until = std::min(until, queued.deadline);
    if (until == TierDeadline::max())
      wake_.wait(lock);
    else
      wake_.wait_until(lock, until);
  }
  std::optional<Error> error_of(const Queued& queued) {
    if (ending_) return ended();
    if (down_) return down_;
    if (queued.deadline <= TierClock::now())
      return Error{make_error_code(Errc::timed_out), options_.name + ": the deadline has passed"};
    const auto cue = std::find_if(failures_.begin(), failures_.end(),
                                  [&](const Cue& it) { return it.verbs.has(queued.verb); });
    if (cue == failures_.end()) return std::nullopt;
    Error error = cue->error;
    failures_.erase(cue);
    return error;
  }
  Error ended() const {
    return {make_error_code(Errc::tier_down), options_.name + ": it is being closed"};
  }
  void lose_all() {
    items_.clear();
    used_bytes_ = 0;
  }

  Result<TierPlace> keep(const TierPut& put, std::uint64_t size) {
    if (items_.contains(id_of(put.key)))
      return fail(Errc::exists, options_.name + ": there is an item of that key");
    if (used_bytes_ > options_.capacity_bytes || size > options_.capacity_bytes - used_bytes_)
      return fail(Errc::store_full, options_.name + ": it is full");
    Kept kept;
    kept.item = {.key = put.key,
                 .place = {.incarnation = incarnation_, .offset = next_offset_, .size = size},
                 .crc32c = put.crc32c,
                 .label = put.label};
    for (const auto part : put.parts) kept.bytes.insert(kept.bytes.end(), part.begin(), part.end());
    next_offset_ += size;
    used_bytes_ += size;
    const TierPlace place = kept.item.place;
    items_.emplace(id_of(put.key), std::move(kept));
    return place;
  }
  Result<void> fetch(const TierGet& get) {
    const auto item = items_.find(id_of(get.key));
    if (item == items_.end() || item->second.item.place != get.place)
      return fail(Errc::lost, options_.name + ": the item is not at that place");
    if (get.into.empty()) return {};
    std::memcpy(get.into.data(), item->second.bytes.data() + get.offset, get.into.size());
    if (corrupt_gets_ > 0) {
      --corrupt_gets_;
      get.into[get.into.size() / 2] ^= std::byte{0x10};
    }
    return {};
  }
  Result<void> drop(const TierKey& key, const TierPlace& place) {
    const auto item = items_.find(id_of(key));
    if (item == items_.end() || item->second.item.place != place) return {};
    used_bytes_ -= item->second.bytes.size();
    items_.erase(item);
    return {};
  }
  Result<std::vector<TierItem>> all_of(const std::array<std::uint8_t, 16>& store) const {
    std::vector<TierItem> found;
    for (const auto& [id, kept] : items_)
      if (id.first == store) found.push_back(kept.item);
    return found;
  }
  Result<TierItem> named(const std::string& name, std::uint64_t version) const {
    const TierItem* best = nullptr;
    for (const auto& [id, kept] : items_) {
      const TierLabel& label = kept.item.label;
      if (name.empty() || label.name != name || (version != 0 && label.version != version))
        continue;
      if (best == nullptr || label.version > best->label.version) best = &kept.item;
    }
    if (best == nullptr) return fail(Errc::not_found, options_.name + ": no item of that name");
    return *best;
  }

  // All but the thread are guarded by mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  Options options_;
  std::uint64_t incarnation_;
  std::deque<Queued> queue_;
  bool answering_ = false;
  bool ending_ = false;
  std::optional<Error> down_;
  std::optional<TierVerbs> stalled_;
  std::deque<Cue> failures_;
  unsigned corrupt_gets_ = 0;
  std::map<Id, Kept> items_;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t next_offset_ = 0;
  std::array<std::uint64_t, 5> counts_{};
  std::vector<std::span<const std::byte>> left_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace forebay::test
