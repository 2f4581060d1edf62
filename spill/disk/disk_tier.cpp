// SPDX-License-Identifier: Apache-2.0
#include "spill/disk/disk_tier.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "spill/disk/disk_operation.h"
#include "spill/disk/item_files.h"
#include "spill/disk/item_index.h"

namespace forebay::spill {

namespace {

using OperationPtr = std::shared_ptr<DiskOperation>;
using Kind = DiskOperation::Kind;

// Copies out of the parts of a put, in order.
class PartsReader {
 public:
  explicit PartsReader(const std::vector<std::span<const std::byte>>& parts) : parts_(parts) {}
  void copy_next(std::span<std::byte> into) {
    while (!into.empty()) {
      const std::span<const std::byte> rest = parts_[part_].subspan(offset_);
      const std::size_t size = std::min(rest.size(), into.size());
      if (size > 0) std::memcpy(into.data(), rest.data(), size);
      into = into.subspan(size);
      offset_ += size;
      if (size < rest.size()) continue;
      ++part_;
      offset_ = 0;
    }
  }

 private:
  const std::vector<std::span<const std::byte>>& parts_;
  std::size_t part_ = 0;
  std::size_t offset_ = 0;
};

}  // namespace

class DiskTier::Core : public std::enable_shared_from_this<DiskTier::Core> {
 public:
  Core(DiskTierOptions options, ItemDirectory directory, ItemDirectory::Found found)
      : options_(std::move(options)),
        io_(options_.io ? options_.io : std::make_shared<FileIo>()),
        directory_(std::move(directory)),
        direct_(options_.direct_io != DirectIo::off && directory_.takes_direct_io()),
        files_(directory_, *io_, direct_),
        name_("disk " + options_.directory),
        index_(options_.capacity_bytes),
        late_since_(options_.threads + 1) {
    index_.count(found.damaged_bytes);
    for (TierItem& item : found.items) {
      index_.count(file_bytes(item.place.size));
      index_.add(std::move(item));
    }
  }

  // Each thread holds the core: one that is stuck in a call of the disk may outlive the tier.
  Result<void> start() {
    try {
      for (unsigned i = 0; i < options_.threads; ++i) {
        launch([this, i, buffer = std::make_shared<TransferBuffer>()] {
          work(static_cast<int>(i), *buffer);
          const std::lock_guard lock(mutex_);
          --workers_;
          names_.notify_one();
        });
        const std::lock_guard lock(mutex_);
        ++workers_;
      }
      launch([this] { make_names_durable(); });
      launch([this] { watch_deadlines(); });
    } catch (const std::bad_alloc&) {
      return fail_errno(ENOMEM, "starting the threads of " + name_);
    } catch (const std::system_error& error) {
      return fail(Error{error.code(), "starting the threads of " + name_});
    }
    return {};
  }

  void end() {
    std::vector<OperationPtr> open;
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
      for (auto& [deadline, operation] : open_) {
        operation->open.reset();
        open.push_back(operation);
      }
      open_.clear();
    }
    wake_all();
    for (const OperationPtr& operation : open)
      if (operation->close()) operation->answer(ended());
    std::unique_lock lock(mutex_);
    const bool all_ended = ended_.wait_until(lock, TierClock::now() + options_.close_within,
                                             [this] { return running_ == 0; });
    lock.unlock();
    if (!all_ended) report(name_ + ": the disk does not answer; its threads are left to it");
    for (std::thread& thread : threads_) {
      if (all_ended)
        thread.join();
      else
        thread.detach();
    }
  }

  void put(TierPut put, TierDeadline deadline, PutDone done) {
    std::uint64_t size = 0;
    for (const auto part : put.parts) {
      if (part.size() > largest_item - size)
        return done(fail(Errc::bad_argument, name_ + ": the item is larger than any may be"));
      size += part.size();
    }
    if (size == 0) return done(fail(Errc::bad_argument, name_ + ": an item has at least one byte"));
    if (put.label.name.size() > longest_name || put.label.about.size() > longest_about)
      return done(fail(Errc::bad_argument, name_ + ": a name has at most 512 bytes, and what is "
                                                   "about the item at most 1024"));
    const bool demand = put.priority == TierPriority::demand;
    std::optional<Failure> refused;
    {
      const std::lock_guard lock(mutex_);
      refused = refusal(deadline);
      if (!refused && index_.find(put.key) != nullptr)
        refused = fail(Errc::exists, name_ + ": there is an item of that key");
      if (!refused && being_put_.contains(item_name(put.key)))
        refused = fail(Errc::conflict, name_ + ": an item of that key is just being put");
      if (!refused && !index_.reserve(file_bytes(size)))
        refused = fail(Errc::store_full,
                       name_ + ": " + std::to_string(size) + " bytes asked, " +
                           std::to_string(index_.used_bytes()) + " of " +
                           std::to_string(index_.capacity_bytes()) + " in use");
      if (!refused) {
        being_put_.insert(item_name(put.key));
        enqueue(std::make_shared<DiskOperation>(std::move(put), size, std::move(done)), deadline,
                demand ? demands_ : background_);
      }
    }
    if (refused) done(std::move(*refused));
  }

  void get(TierGet get, TierDeadline deadline, Done done) {
    if (get.offset > get.place.size || get.into.size() > get.place.size - get.offset)
      return done(fail(Errc::bad_argument, name_ + ": these bytes are outside the item"));
    std::optional<Failure> refused;
    {
      const std::lock_guard lock(mutex_);
      refused = refusal(deadline);
      if (!refused && !at(get.key, get.place))
        refused = fail(Errc::lost, name_ + ": the item is not at that place");
      if (!refused)
        enqueue(std::make_shared<DiskOperation>(get, std::move(done)), deadline,
                get.priority == TierPriority::demand ? demands_ : background_);
    }
    if (refused) done(std::move(*refused));
  }

  void remove(TierKey key, TierPlace place, TierDeadline deadline, Done done) {
    std::optional<Failure> refused;
    bool gone = false;
    {
      const std::lock_guard lock(mutex_);
      refused = refusal(deadline);
      gone = !at(key, place);
      if (!refused && !gone)
        enqueue(std::make_shared<DiskOperation>(key, place, std::move(done)), deadline,
                removals_);
    }
    if (refused) return done(std::move(*refused));
    if (gone) done({});
  }

  void list(const std::array<std::uint8_t, 16>& store, TierDeadline deadline, ListDone done) {
    if (deadline <= TierClock::now()) return done(too_late());
    std::vector<TierItem> items;
    {
      const std::lock_guard lock(mutex_);
      items = index_.list(store);
    }
    done(std::move(items));
  }

  void find(const std::string& name, std::uint64_t version, TierDeadline deadline,
            FindDone done) {
    if (deadline <= TierClock::now()) return done(too_late());
    std::optional<TierItem> found;
    {
      const std::lock_guard lock(mutex_);
      if (const TierItem* item = index_.find_named(name, version)) found = *item;
    }
    if (!found) return done(fail(Errc::not_found, name_ + ": no item of that name and version"));
    done(std::move(*found));
  }

  TierStatus status() const {
    const std::lock_guard lock(mutex_);
    const bool up = !ending_ && !is_stuck();
    return {.name = name_,
            .up = up,
            .why_down = up ? "" : ending_ ? "it is being closed" : "the disk does not answer",
            .incarnation = directory_.incarnation(),
            .capacity_bytes = index_.capacity_bytes(),
            .used_bytes = index_.used_bytes(),
            .transport = "files"};
  }

  bool direct() const { return direct_; }

 private:
  template <class Body>
  void launch(Body body) {
    {
      const std::lock_guard lock(mutex_);
      ++running_;
    }
    try {
      threads_.emplace_back([core = shared_from_this(), body = std::move(body)] {
        body();
        const std::lock_guard lock(core->mutex_);
        --core->running_;
        core->ended_.notify_all();
      });
    } catch (...) {
      const std::lock_guard lock(mutex_);
      --running_;
      throw;
    }
  }

  Failure ended() const { return fail(Errc::tier_down, name_ + ": it is being closed"); }
  Failure too_late() const { return fail(Errc::timed_out, name_ + ": the deadline has passed"); }

  // The next ones are called with mutex_ held.
  std::optional<Failure> refusal(TierDeadline deadline) const {
    if (ending_) return ended();
    if (deadline <= TierClock::now()) return too_late();
    if (is_stuck()) return fail(Errc::tier_down, name_ + ": the disk does not answer");
    return std::nullopt;
  }
  // All that read and write are, or the one without which no put comes to its end.
  bool is_stuck() const {
    const auto before = TierClock::now() - options_.stuck_after;
    const auto stuck = [&](const std::optional<TierDeadline>& late) {
      return late && *late <= before;
    };
    return stuck(late_since_.back()) ||
           std::all_of(late_since_.begin(), late_since_.end() - 1, stuck);
  }
  bool at(const TierKey& key, const TierPlace& place) const {
    const TierItem* const item = index_.find(key);
    return item != nullptr && item->place == place;
  }
  void enqueue(OperationPtr operation, TierDeadline deadline, std::deque<OperationPtr>& queue) {
    const bool earliest = open_.empty() || deadline < open_.begin()->first;
    operation->open = open_.emplace(deadline, operation);
    queue.push_back(std::move(operation));
    work_.notify_one();
    if (earliest) deadlines_.notify_one();
  }
  OperationPtr next_in_turn() {
    const unsigned for_background = std::max(1U, options_.threads - 1);
    for (auto* const queue : {&demands_, &removals_, &background_}) {
      if (queue == &background_ && in_background_ >= for_background) break;
      while (!queue->empty()) {
        OperationPtr operation = std::move(queue->front());
        queue->pop_front();
        if (!operation->open) continue;  // answered while it waited
        if (queue == &background_) ++in_background_;
        return operation;
      }
    }
    return nullptr;
  }
  // What a put that has failed held.
  void give_back(const DiskOperation& put, bool file_is_gone) {
    being_put_.erase(item_name(put.put.key));
    if (file_is_gone) index_.release(file_bytes(put.size));
  }
  void forget_open(DiskOperation& operation) {
    if (operation.open) open_.erase(*operation.open);
    operation.open.reset();
  }

  // From here on, mutex_ is not held.
  void wake_all() {
    work_.notify_all();
    names_.notify_all();
    deadlines_.notify_all();
  }
  void report(const std::string& sentence) const {
    if (options_.report) options_.report(sentence);
  }

  void finish(DiskOperation& operation, Result<TierPlace> result) {
    {
      const std::lock_guard lock(mutex_);
      forget_open(operation);
    }
    if (operation.close()) operation.answer(std::move(result));
  }

  void work(int thread, TransferBuffer& buffer) {
    const auto slot = static_cast<std::size_t>(thread);
    std::unique_lock lock(mutex_);
    while (true) {
      OperationPtr operation;
      work_.wait(lock, [&] { return ending_ || (operation = next_in_turn()) != nullptr; });
      if (operation == nullptr) return;
      const bool background = is_background(*operation);
      operation->begun = true;
      operation->thread = thread;
      lock.unlock();
      switch (operation->kind) {
        case Kind::put: write(operation, buffer); break;
        case Kind::get: read(*operation, buffer); break;
        case Kind::remove: unlink(*operation); break;
      }
      operation.reset();
      lock.lock();
      late_since_[slot].reset();
      if (background) {
        --in_background_;
        work_.notify_one();
      }
    }
  }
  static bool is_background(const DiskOperation& operation) {
    if (operation.kind == Kind::put) return operation.put.priority == TierPriority::background;
    return operation.kind == Kind::get && operation.get.priority == TierPriority::background;
  }

  void write(const OperationPtr& operation, TransferBuffer& buffer) {
    const TierPut& put = operation->put;
    const ItemHeader header{.key = put.key,
                            .size = operation->size,
                            .incarnation = directory_.incarnation(),
                            .crc32c = put.crc32c,
                            .label = put.label};
    const std::string incoming = std::to_string(incoming_++);
    PartsReader parts(put.parts);
    const auto fill = [&](std::span<std::byte> next) {
      return operation->touch([&] { parts.copy_next(next); });
    };
    Result<void> done = files_.write(header, incoming, fill, buffer);
    if (done) done = files_.publish(incoming, put.key);
    if (!done) {
      const Result<void> removed = files_.remove_incoming(incoming);
      return put_failed(*operation, done.error(), removed);
    }
    {
      const std::lock_guard lock(mutex_);
      operation->thread = -1;
      named_.push_back(operation);
    }
    names_.notify_one();
  }
  void put_failed(DiskOperation& operation, const Error& error, const Result<void>& removed) {
    if (!removed)
      report(name_ + ": what is left of a put cannot be removed: " + removed.error().message());
    {
      const std::lock_guard lock(mutex_);
      give_back(operation, removed.has_value());
    }
    finish(operation, fail(error));
  }

  // One sync for all names that wait for it.
  void make_names_durable() {
    std::vector<OperationPtr> batch;
    std::unique_lock lock(mutex_);
    while (true) {
      names_.wait(lock, [&] { return !named_.empty() || (ending_ && workers_ == 0); });
      if (named_.empty()) return;
      std::swap(batch, named_);
      syncing_ = batch;
      lock.unlock();
      const Result<void> synced = files_.sync_names();
      for (const OperationPtr& operation : batch) name_is_durable(*operation, synced);
      batch.clear();
      lock.lock();
      syncing_.clear();
      late_since_.back().reset();
    }
  }
  void name_is_durable(DiskOperation& operation, const Result<void>& synced) {
    const TierPlace place{.incarnation = directory_.incarnation(), .size = operation.size};
    bool answers = false;
    if (synced) {
      // In one step, as seen from outside: it is answered, and the item can be had.
      const std::lock_guard lock(mutex_);
      forget_open(operation);
      answers = operation.close();
      if (answers) {
        being_put_.erase(item_name(operation.put.key));
        index_.add({.key = operation.put.key,
                    .place = place,
                    .crc32c = operation.put.crc32c,
                    .label = operation.put.label});
      }
    }
    if (answers) return operation.answer(place);
    const Result<void> removed = files_.remove(operation.put.key);
    put_failed(operation, synced ? too_late().error : synced.error(), removed);
  }

  void read(DiskOperation& operation, TransferBuffer& buffer) {
    const TierGet& get = operation.get;
    std::optional<TierItem> item;
    {
      const std::lock_guard lock(mutex_);
      if (at(get.key, get.place)) item = *index_.find(get.key);
    }
    if (!item) {
      return finish(operation, fail(Errc::lost, name_ + ": the item is not at that place"));
    }
    std::span<std::byte> into = get.into;
    const auto take = [&](std::span<const std::byte> next) {
      return operation.touch([&] {
        if (!next.empty()) std::memcpy(into.data(), next.data(), next.size());
        into = into.subspan(next.size());
      });
    };
    bool damaged = false;
    Result<void> done = files_.read(*item, get.offset, into.size(), take, buffer, damaged);
    if (done) return finish(operation, get.place);
    if (done.error().is(Errc::lost)) is_lost(*item, damaged, done.error());
    finish(operation, fail(std::move(done).error()));
  }
  void is_lost(const TierItem& item, bool damaged, const Error& error) {
    {
      const std::lock_guard lock(mutex_);
      // Somebody else has found it out, or removed it.
      if (!index_.take(item.key)) return;
    }
    const bool kept = damaged && directory_.set_aside(item_name(item.key), error.detail);
    if (!damaged) report(name_ + ": " + error.detail);
    if (kept) return;
    const std::lock_guard lock(mutex_);
    index_.release(file_bytes(item.place.size));
  }

  void unlink(DiskOperation& operation) {
    Result<void> removed = files_.remove(operation.key);
    if (!removed) return finish(operation, fail(std::move(removed).error()));
    {
      const std::lock_guard lock(mutex_);
      if (index_.take(operation.key)) index_.release(file_bytes(operation.place.size));
    }
    finish(operation, operation.place);
  }

  void watch_deadlines() {
    std::unique_lock lock(mutex_);
    while (!ending_) {
      const auto now = TierClock::now();
      std::vector<OperationPtr> late;
      while (!open_.empty() && open_.begin()->first <= now) {
        OperationPtr operation = open_.begin()->second;
        forget_open(*operation);
        if (!operation->begun && operation->kind == Kind::put) give_back(*operation, true);
        note_late(*operation, now);
        late.push_back(std::move(operation));
      }
      if (!late.empty()) {
        lock.unlock();
        for (const OperationPtr& operation : late)
          if (operation->close()) operation->answer(too_late());
        late.clear();
        lock.lock();
      } else if (open_.empty() || open_.begin()->first == TierDeadline::max()) {
        deadlines_.wait(lock);
      } else {
        // A copy: the operation may be gone when the wait ends.
        const TierDeadline until = open_.begin()->first;
        deadlines_.wait_until(lock, until);
      }
    }
  }
  // With mutex_ held.
  void note_late(const DiskOperation& operation, TierDeadline now) {
    std::optional<TierDeadline>* late = nullptr;
    if (operation.thread >= 0) late = &late_since_[static_cast<std::size_t>(operation.thread)];
    for (const OperationPtr& syncing : syncing_)
      if (syncing.get() == &operation) late = &late_since_.back();
    if (late != nullptr && !*late) *late = now;
  }

  const DiskTierOptions options_;
  const std::shared_ptr<FileIo> io_;
  ItemDirectory directory_;
  const bool direct_;
  ItemFiles files_;
  const std::string name_;
  std::atomic<std::uint64_t> incoming_ = 0;  // names of files in incoming/
  std::vector<std::thread> threads_;         // of start and end alone

  mutable std::mutex mutex_;
  // All below are guarded by mutex_. It is taken before an operation's own, never after.
  std::condition_variable work_;
  std::condition_variable names_;
  std::condition_variable deadlines_;
  std::condition_variable ended_;
  bool ending_ = false;
  unsigned running_ = 0;  // threads, all of them
  int workers_ = 0;       // those that read and write
  ItemIndex index_;
  std::set<std::string> being_put_;
  OpenOperations open_;
  std::deque<OperationPtr> demands_;
  std::deque<OperationPtr> removals_;
  std::deque<OperationPtr> background_;
  unsigned in_background_ = 0;
  std::vector<OperationPtr> named_;    // puts whose names are not durable yet
  std::vector<OperationPtr> syncing_;  // those whose names just become so
  // Since when what a thread does has been answered without it; the last is the one for names.
  std::vector<std::optional<TierDeadline>> late_since_;
};

Result<std::unique_ptr<DiskTier>> DiskTier::open(DiskTierOptions options) {
  if (options.threads == 0 || options.threads > 64)
    return fail(Errc::bad_argument, "a disk tier has 1 to 64 threads");
  auto directory = ItemDirectory::open(options.directory, options.report);
  if (!directory) return fail(std::move(directory).error());
  auto found = directory->scan();
  if (!found) return fail(std::move(found).error());
  const bool must_be_direct = options.direct_io == DirectIo::on;
  auto core = std::make_shared<Core>(std::move(options), std::move(*directory), std::move(*found));
  if (must_be_direct && !core->direct())
    return fail(Errc::bad_argument, core->status().name + ": this file system cannot read and "
                                                          "write past its cache; let it choose");
  std::unique_ptr<DiskTier> tier(new DiskTier(core));
  if (auto started = core->start(); !started) return fail(std::move(started).error());
  return tier;
}

DiskTier::~DiskTier() { core_->end(); }

void DiskTier::put(TierPut put, TierDeadline deadline, PutDone done) {
  core_->put(std::move(put), deadline, std::move(done));
}
void DiskTier::get(TierGet get, TierDeadline deadline, Done done) {
  core_->get(get, deadline, std::move(done));
}
void DiskTier::remove(TierKey key, TierPlace place, TierDeadline deadline, Done done) {
  core_->remove(key, place, deadline, std::move(done));
}
void DiskTier::list(std::array<std::uint8_t, 16> store, TierDeadline deadline, ListDone done) {
  core_->list(store, deadline, std::move(done));
}
void DiskTier::find(std::string name, std::uint64_t version, TierDeadline deadline,
                    FindDone done) {
  core_->find(name, version, deadline, std::move(done));
}
TierStatus DiskTier::status() const { return core_->status(); }
bool DiskTier::direct_io() const { return core_->direct(); }

}  // namespace forebay::spill
