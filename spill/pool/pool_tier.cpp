// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/pool_tier.h"

#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <compare>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <unordered_map>

#include "spill/pool/control_channel.h"
#include "spill/pool/handshake.h"
#include "spill/pool/key_file.h"
#include "spill/waker.h"
#include "store/units.h"

namespace forebay::spill {

using namespace pool;  // NOLINT: this is one of its parts

namespace {

using std::chrono::milliseconds;

constexpr milliseconds heartbeat_every{500};
constexpr milliseconds dead_after{1500};  // three of them
constexpr milliseconds connected_within{1500};
constexpr milliseconds least_pause{50};
constexpr milliseconds most_pause{5000};
constexpr milliseconds stayed_up_for{1000};  // then the next pause is the least one again,
// and else half as long as it would be: what comes up is worth another try.
constexpr std::chrono::seconds late_writes_within{10};
constexpr unsigned pauses_after_refusal = 4;
// Of what is allocated and not committed yet: enough for any link, and little enough that nothing
// waits there for so long that the pool takes it back.
constexpr std::uint64_t uncommitted_bytes_max = 256 * mebibyte;

using DataLinks = std::array<std::shared_ptr<DataLink>, data_links>;

// What somebody waits for. It leaves Core::operations_ before it is answered, which is what makes
// that happen once.
struct Operation {
  explicit Operation(TierDeadline until) : deadline(until) {}
  virtual ~Operation() = default;
  virtual void fail(const Error& error) = 0;

  TierDeadline deadline;
  bool at_link = false;  // which then sees to the deadline
};

struct PutOperation final : Operation {
  enum class Phase { queued, allocating, writing, written, committing };

  PutOperation(TierPut what, TierDeadline until, Tier::PutDone answer)
      : Operation(until), put(std::move(what)), done(std::move(answer)) {
    for (const auto& part : put.parts) size += part.size();
  }
  void fail(const Error& error) override { done(forebay::fail(error)); }

  TierPut put;
  Tier::PutDone done;
  std::uint64_t size = 0;
  Phase phase = Phase::queued;
  TierPlace place;
  std::shared_ptr<DataLink> link;  // once it is writing
};

struct GetOperation final : Operation {
  GetOperation(TierGet what, TierDeadline until, Tier::Done answer)
      : Operation(until), get(std::move(what)), done(std::move(answer)) {}
  void fail(const Error& error) override { done(forebay::fail(error)); }

  TierGet get;
  Tier::Done done;
};

struct RemoveOperation final : Operation {
  RemoveOperation(TierDeadline until, Tier::Done answer)
      : Operation(until), done(std::move(answer)) {}
  void fail(const Error& error) override { done(forebay::fail(error)); }

  Tier::Done done;
};

struct ListOperation final : Operation {
  ListOperation(TierDeadline until, Tier::ListDone answer)
      : Operation(until), done(std::move(answer)) {}
  void fail(const Error& error) override { done(forebay::fail(error)); }

  Tier::ListDone done;
  std::vector<TierItem> items;
};

struct FindOperation final : Operation {
  FindOperation(FindRequest what, TierDeadline until, Tier::FindDone answer)
      : Operation(until), request(std::move(what)), done(std::move(answer)) {}
  void fail(const Error& error) override { done(forebay::fail(error)); }

  FindRequest request;
  Tier::FindDone done;
};

// A frame that was sent and not answered yet, and for which operations.
struct Request {
  struct Part {
    std::uint64_t operation = 0;  // 0: nobody waits for it
    Named named;
  };
  Kind kind{};
  std::vector<Part> parts;
};

Failure broken(std::string_view what) {
  return fail(Errc::bad_message, "the pool answered with a broken " + std::string(what));
}

}  // namespace

class PoolTier::Core {
 public:
  Core(PoolTierOptions options, Address address, ClusterKey key)
      : options_(std::move(options)), address_(std::move(address)), key_(std::move(key)) {
    if (options_.backends.empty()) options_.backends.push_back(plain_tcp());
    why_down_ = "the pool at " + address_.text() + " has not been reached yet";
    thread_ = std::thread([this] { run(); });
  }
  ~Core() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    waker_.wake();
    thread_.join();
  }

  Result<void> wait_until_up(TierDeadline deadline) {
    std::unique_lock lock(mutex_);
    came_up_.wait_until(lock, deadline, [this] { return up_; });
    if (!up_) return fail(down());
    return {};
  }

  void put(TierPut put, TierDeadline deadline, PutDone done);
  void get(TierGet get, TierDeadline deadline, Done done);
  void remove(const Named& named, TierDeadline deadline, Done done);
  void list(const StoreUuid& store, TierDeadline deadline, ListDone done);
  void find(FindRequest request, TierDeadline deadline, FindDone done);
  TierStatus status() const;
  void memory_leaves(std::span<const std::byte> bytes);

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Time = TierClock::time_point;
  template <class T>
  using Answers = std::vector<std::pair<std::shared_ptr<T>, Error>>;
  // What the pool holds for this store.
  struct Held {
    TierPlace place;
    unsigned readers = 0;
    bool removing = false;                // no more readers
    std::vector<std::uint64_t> removers;  // that wait for the last one
  };

  // With mutex_ held:
  Error down() const { return {make_error_code(Errc::tier_down), why_down_}; }
  std::optional<Error> refuse_now(TierDeadline deadline) const;
  std::uint64_t enter(std::shared_ptr<Operation> operation);
  template <class T>
  std::shared_ptr<T> leave(std::uint64_t id);
  template <class T>
  std::shared_ptr<T> find_operation(std::uint64_t id);
  void to_link(std::uint64_t id, Operation& operation);
  void from_link(std::uint64_t id, Operation& operation);
  void end_reading(const GetOperation& operation);
  void free_later(const Named& named, std::uint64_t operation = 0);
  std::shared_ptr<DataLink> link_for_read(TierPriority priority) const {
    return links_[priority == TierPriority::demand ? 0 : 1];
  }
  std::size_t link_for_write() const;
  void hold(const Named& named) { (held_[named.key.number] = Held()).place = named.place; }
  void wake();

  // Callbacks of the links:
  void written(std::uint64_t id, std::size_t number, std::uint64_t bytes,
               const Result<void>& result);
  void read(std::uint64_t id, const Result<void>& result);
  void start_reading(std::uint64_t id, const GetOperation& operation, const SlabKey& slab,
                     std::uint64_t offset, const std::shared_ptr<DataLink>& link);

  // The control thread's:
  void run();
  int wait_ms(Time now);
  void connect(Time now);
  Result<void> progress(bool ready, Time now);
  Result<void> open_links();
  void come_up(Time now);
  void lose(const Error& why, Time now);
  void expire(Time now);
  void send_queued();
  void send(Kind kind, std::vector<Request::Part> parts, std::span<const std::byte> body);
  Result<void> take(const Frame& frame);
  Result<void> take_alloc(const Request& request, const AllocAnswer& answer);
  void take_commit(const Request& request, const Outcomes& answer);
  void take_free(const Request& request, const Outcomes& answer);
  void take_list(const Request& request, ListAnswer& answer);
  void take_find(const Request& request, FindAnswer& answer);
  void take_open(const Request& request, const OpenAnswer& answer);
  void say(const std::string& line) const {
    if (options_.log) options_.log("pool " + address_.text() + ": " + line);
  }

  PoolTierOptions options_;
  Address address_;
  ClusterKey key_;
  Waker waker_;

  // The control thread's own:
  std::unique_ptr<ControlChannel> channel_;
  std::map<std::uint64_t, Request> requests_;
  std::uint64_t last_request_ = 0;
  std::vector<std::shared_ptr<DataLink>> retired_;  // until nobody else has them any more
  std::minstd_rand random_{std::random_device{}()};
  unsigned pauses_ = 0;
  Time next_attempt_{};
  Time begun_{};       // to connect
  Time up_since_{};
  Time next_heartbeat_{};
  std::string last_said_;

  const std::shared_ptr<RightOfWay> right_of_way_ = std::make_shared<RightOfWay>();

  // Guarded by mutex_:
  mutable std::mutex mutex_;
  std::condition_variable came_up_;
  bool stopping_ = false;
  bool up_ = false;
  bool woken_ = false;
  bool stuck_ = false;  // a data link does not do what it should
  std::string why_down_;
  std::string transport_;
  std::uint64_t incarnation_ = 0;
  std::uint64_t capacity_bytes_ = 0;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t uncommitted_bytes_ = 0;
  DataLinks links_;
  struct Writes {
    std::uint64_t bytes = 0;  // under way
    std::uint64_t bytes_ever = 0;
    auto operator<=>(const Writes&) const = default;
  };
  std::array<Writes, data_links> writes_;  // by link
  std::unordered_map<std::uint64_t, std::shared_ptr<Operation>> operations_;
  std::set<std::pair<TierDeadline, std::uint64_t>> deadlines_;  // of those that are not at a link
  std::uint64_t last_operation_ = 0;
  std::unordered_map<std::uint64_t, Held> held_;      // by number
  std::unordered_map<std::uint32_t, SlabKey> slabs_;  // whose keys this session knows
  // Numbers of items that were perhaps committed, and whose puts were answered as failed.
  std::set<std::uint64_t> orphans_;
  std::set<std::uint64_t> found_orphans_;  // those that the pool has indeed, while coming up
  std::deque<std::uint64_t> to_alloc_;
  std::deque<std::uint64_t> to_commit_;
  std::deque<Request::Part> to_free_;
  std::vector<std::uint64_t> to_open_;
  std::vector<std::uint64_t> to_find_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> to_list_;  // operation, from

  std::thread thread_;
};

std::optional<Error> PoolTier::Core::refuse_now(TierDeadline deadline) const {
  if (!up_) return down();
  if (deadline <= TierClock::now())
    return Error{make_error_code(Errc::timed_out), "the deadline had passed before it was asked"};
  return std::nullopt;
}

std::uint64_t PoolTier::Core::enter(std::shared_ptr<Operation> operation) {
  const std::uint64_t id = ++last_operation_;
  if (!operation->at_link) deadlines_.emplace(operation->deadline, id);
  operations_.emplace(id, std::move(operation));
  return id;
}

template <class T>
std::shared_ptr<T> PoolTier::Core::find_operation(std::uint64_t id) {
  const auto found = operations_.find(id);
  return found == operations_.end() ? nullptr : std::static_pointer_cast<T>(found->second);
}

template <class T>
std::shared_ptr<T> PoolTier::Core::leave(std::uint64_t id) {
  const auto found = operations_.find(id);
  if (found == operations_.end()) return nullptr;
  auto operation = std::static_pointer_cast<T>(found->second);
  deadlines_.erase({operation->deadline, id});
  operations_.erase(found);
  return operation;
}

void PoolTier::Core::to_link(std::uint64_t id, Operation& operation) {
  operation.at_link = true;
  deadlines_.erase({operation.deadline, id});
}
void PoolTier::Core::from_link(std::uint64_t id, Operation& operation) {
  operation.at_link = false;
  deadlines_.emplace(operation.deadline, id);
}

void PoolTier::Core::wake() {
  if (!std::exchange(woken_, true)) waker_.wake();
}

void PoolTier::Core::free_later(const Named& named, std::uint64_t operation) {
  to_free_.push_back({.operation = operation, .named = named});
  wake();
}

void PoolTier::Core::end_reading(const GetOperation& operation) {
  if (operation.get.key.store != options_.store) return;
  const auto held = held_.find(operation.get.key.number);
  if (held == held_.end() || held->second.place != operation.get.place) return;
  if (--held->second.readers > 0) return;
  for (const std::uint64_t remover : std::exchange(held->second.removers, {}))
    free_later({operation.get.key, operation.get.place}, remover);
}

void PoolTier::Core::put(TierPut put, TierDeadline deadline, PutDone done) {
  auto operation = std::make_shared<PutOperation>(std::move(put), deadline, std::move(done));
  const TierPut& what = operation->put;
  std::optional<Error> error;
  if (what.key.store != options_.store || operation->size == 0 ||
      what.label.name.size() > name_bytes_max || what.label.about.size() > about_bytes_max)
    error = {make_error_code(Errc::bad_argument),
             "an item is of this store, has at least one byte, a name of at most 512 bytes, and at "
             "most 1 KiB about it"};
  {
    const Lock lock(mutex_);
    if (!error) error = refuse_now(deadline);
    if (!error) {
      to_alloc_.push_back(enter(operation));
      wake();
      return;
    }
  }
  operation->fail(*error);
}

void PoolTier::Core::get(TierGet get, TierDeadline deadline, Done done) {
  const TierPlace place = get.place;
  if (get.offset > place.size || get.into.size() > place.size - get.offset) {
    done(fail(Errc::bad_argument, "a range that is not inside of the item"));
    return;
  }
  const bool own = get.key.store == options_.store;
  auto operation = std::make_shared<GetOperation>(std::move(get), deadline, std::move(done));
  std::optional<Error> error;
  std::optional<SlabKey> slab;
  std::shared_ptr<DataLink> link;
  std::uint64_t id = 0;
  {
    const Lock lock(mutex_);
    error = refuse_now(deadline);
    const auto held = held_.find(operation->get.key.number);
    const bool there = own ? held != held_.end() && held->second.place == place &&
                                 !held->second.removing
                           : place.incarnation == incarnation_;
    if (!error && !there)
      error = {make_error_code(Errc::lost),
               "the pool at " + address_.text() + " does not hold that item any more"};
    if (!error && !operation->get.into.empty()) {
      const auto known = slabs_.find(place.slab);
      if (own) ++held->second.readers;
      if (own && known != slabs_.end()) {
        slab = known->second;
        link = link_for_read(operation->get.priority);
        operation->at_link = true;
      }
      id = enter(operation);
      if (!slab) {
        to_open_.push_back(id);
        wake();
        return;
      }
    }
  }
  if (error)
    operation->fail(*error);
  else if (!slab)
    operation->done({});
  else
    start_reading(id, *operation, *slab, place.offset, link);
}

void PoolTier::Core::start_reading(std::uint64_t id, const GetOperation& operation,
                                   const SlabKey& slab, std::uint64_t offset,
                                   const std::shared_ptr<DataLink>& link) {
  const bool demanded = operation.get.priority == TierPriority::demand;
  if (demanded) right_of_way_->begin();
  link->read(slab, offset + operation.get.offset, operation.get.into, operation.deadline,
             [this, id, demanded](const Result<void>& result) {
               if (demanded) right_of_way_->end(TierClock::now());
               read(id, result);
             });
}

void PoolTier::Core::read(std::uint64_t id, const Result<void>& result) {
  std::shared_ptr<GetOperation> operation;
  {
    const Lock lock(mutex_);
    operation = leave<GetOperation>(id);
    if (!operation) return;
    end_reading(*operation);
    // The link may have failed; the control thread looks.
    if (!result) wake();
  }
  operation->done(result);
}

void PoolTier::Core::remove(const Named& named, TierDeadline deadline, Done done) {
  auto operation = std::make_shared<RemoveOperation>(deadline, std::move(done));
  std::optional<Error> error;
  if (named.key.store != options_.store)
    error = {make_error_code(Errc::denied), "a store removes items of its own, and no other's"};
  {
    const Lock lock(mutex_);
    if (!error) error = refuse_now(deadline);
    const auto held = held_.find(named.key.number);
    if (!error && held != held_.end() && held->second.place == named.place) {
      held->second.removing = true;
      const std::uint64_t id = enter(operation);
      if (held->second.readers > 0)
        held->second.removers.push_back(id);
      else
        free_later(named, id);
      return;
    }
  }
  if (error)
    operation->fail(*error);
  else
    operation->done({});
}

void PoolTier::Core::list(const StoreUuid& store, TierDeadline deadline, ListDone done) {
  auto operation = std::make_shared<ListOperation>(deadline, std::move(done));
  std::optional<Error> error;
  {
    const Lock lock(mutex_);
    error = refuse_now(deadline);
    if (!error && store == options_.store) {
      to_list_.emplace_back(enter(operation), 0);
      wake();
      return;
    }
  }
  // What others have there is not told to us; nothing of it is of that store as far as we know.
  if (error)
    operation->fail(*error);
  else
    operation->done(std::vector<TierItem>());
}

void PoolTier::Core::find(FindRequest request, TierDeadline deadline, FindDone done) {
  auto operation =
      std::make_shared<FindOperation>(std::move(request), deadline, std::move(done));
  std::optional<Error> error;
  if (operation->request.name.empty() || operation->request.name.size() > name_bytes_max)
    error = {make_error_code(Errc::bad_argument), "a name has 1 to 512 bytes"};
  {
    const Lock lock(mutex_);
    if (!error) error = refuse_now(deadline);
    if (!error) {
      to_find_.push_back(enter(operation));
      wake();
      return;
    }
  }
  operation->fail(*error);
}

TierStatus PoolTier::Core::status() const {
  const Lock lock(mutex_);
  return {.name = "pool " + address_.text(),
          .up = up_,
          .why_down = up_ ? "" : why_down_,
          .incarnation = incarnation_,
          .capacity_bytes = capacity_bytes_,
          .used_bytes = used_bytes_,
          .transport = transport_};
}

void PoolTier::Core::memory_leaves(std::span<const std::byte> bytes) {
  DataLinks links;
  {
    const Lock lock(mutex_);
    links = links_;
  }
  for (const auto& link : links)
    if (link) link->memory_leaves(bytes);
}

void PoolTier::Core::run() {
  while (true) {
    Time now = TierClock::now();
    std::array<pollfd, 2> ready{};
    ready[0] = {.fd = waker_.get(), .events = POLLIN, .revents = 0};
    if (channel_)
      ready[1] = {.fd = channel_->socket(), .events = channel_->events(), .revents = 0};
    ::poll(ready.data(), channel_ ? 2 : 1, wait_ms(now));
    now = TierClock::now();
    {
      const Lock lock(mutex_);
      if (stopping_) break;
      if (ready[0].revents != 0) waker_.clear();
      woken_ = false;
    }
    std::erase_if(retired_, [](const auto& link) { return link.use_count() == 1; });
    if (!channel_ && now >= next_attempt_) connect(now);
    if (channel_) {
      if (auto going = progress(ready[1].revents != 0, now); !going) lose(going.error(), now);
    }
    expire(now);
  }
  lose({make_error_code(Errc::tier_down), "this tier is closing"}, TierClock::now());
  while (!retired_.empty()) {
    // Somebody is just calling; it cannot be long, as every link is closed.
    std::erase_if(retired_, [](const auto& link) { return link.use_count() == 1; });
    if (!retired_.empty()) std::this_thread::yield();
  }
}

int PoolTier::Core::wait_ms(Time now) {
  Time next = now + std::chrono::seconds(1);
  if (!channel_)
    next = std::min(next, next_attempt_);
  else
    next = std::min({next, next_heartbeat_, channel_->heard() + dead_after});
  const Lock lock(mutex_);
  if (woken_) return 0;
  if (!deadlines_.empty()) next = std::min(next, deadlines_.begin()->first);
  const auto left = std::chrono::ceil<milliseconds>(next - now).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1000));
}

void PoolTier::Core::connect(Time now) {
  std::vector<std::string> transports;
  for (const Backend& backend : options_.backends) transports.push_back(backend.transport);
  auto channel = ControlChannel::start(address_, key_, options_.store, std::move(transports));
  begun_ = now;
  next_heartbeat_ = now + connected_within;
  if (!channel) {
    lose(channel.error(), now);
    return;
  }
  channel_ = std::move(*channel);
}

Result<void> PoolTier::Core::progress(bool ready, Time now) {
  const bool was_welcome = channel_->welcome().has_value();
  if (ready) {
    auto going = channel_->progress([this](const Frame& frame) { return take(frame); });
    if (!going) return going;
  }
  if (!channel_->welcome()) {
    if (now >= begun_ + connected_within)
      return fail(Errc::tier_down, "the pool at " + address_.text() + " does not answer");
    return {};
  }
  if (!was_welcome) {
    if (auto opened = open_links(); !opened) return opened;
    next_heartbeat_ = now;
    // First what is there; then this tier is up.
    send(Kind::list, {{}}, pack(ListRequest{.from = 0, .brief = true}));
  }
  if (now >= channel_->heard() + dead_after)
    return fail(Errc::tier_down,
                "the pool at " + address_.text() + " has not answered three heartbeats");
  {
    const Lock lock(mutex_);
    for (const auto& link : links_)
      if (stuck_ || (link && !link->is_open()))
        return fail(Errc::tier_down, "a data link to the pool at " + address_.text() + " is gone");
  }
  if (now >= next_heartbeat_) {
    next_heartbeat_ = now + heartbeat_every;
    send(Kind::heartbeat, {}, {});
  }
  send_queued();
  return channel_->flush();
}

Result<void> PoolTier::Core::open_links() {
  const Welcome& welcome = *channel_->welcome();
  const auto backend =
      std::ranges::find(options_.backends, channel_->server().transport, &Backend::transport);
  DataLinks links;
  for (std::size_t i = 0; i < links.size(); ++i) {
    auto link = backend->link({.host = address_.host,
                               .address = welcome.data_address,
                               .token = channel_->keys().links[i],
                               .gives_way_to = i == 0 ? nullptr : right_of_way_});
    if (!link) return fail(link.error());
    links[i] = std::move(*link);
  }
  const Lock lock(mutex_);
  links_ = links;
  transport_ = backend->transport;
  incarnation_ = welcome.incarnation;
  capacity_bytes_ = welcome.capacity_bytes;
  used_bytes_ = welcome.used_bytes;
  return {};
}

void PoolTier::Core::come_up(Time now) {
  up_since_ = now;
  last_said_.clear();
  std::size_t count = 0;
  {
    const Lock lock(mutex_);
    up_ = true;
    // Whatever was not listed was not committed. What was is one until its FREE is acknowledged.
    orphans_ = std::exchange(found_orphans_, {});
    count = held_.size();
    came_up_.notify_all();
  }
  say("connected over " + channel_->server().transport + ", epoch " +
      std::to_string(channel_->welcome()->epoch) + ", with " + std::to_string(count) +
      " items of ours");
}

void PoolTier::Core::lose(const Error& why, Time now) {
  DataLinks links;
  bool was_up = false;
  {
    const Lock lock(mutex_);
    was_up = std::exchange(up_, false);
    why_down_ = why.detail.empty() ? why.message() : why.detail;
    links.swap(links_);
  }
  // The transport first: after that nothing arrives any more, and nothing of ours is read.
  for (auto& link : links) {
    if (!link) continue;
    link->close();
    retired_.push_back(std::move(link));
  }
  const bool refused = channel_ && channel_->was_refused();
  channel_.reset();
  requests_.clear();
  std::vector<std::shared_ptr<Operation>> open;
  {
    const Lock lock(mutex_);
    for (const auto& [id, operation] : operations_) {
      open.push_back(operation);
      if (const auto* const put = dynamic_cast<const PutOperation*>(operation.get());
          put != nullptr && put->phase == PutOperation::Phase::committing)
        orphans_.insert(put->put.key.number);
    }
    operations_.clear();
    deadlines_.clear();
    held_.clear();
    slabs_.clear();
    found_orphans_.clear();
    to_alloc_.clear();
    to_commit_.clear();
    to_free_.clear();
    to_open_.clear();
    to_find_.clear();
    to_list_.clear();
    uncommitted_bytes_ = 0;
    stuck_ = false;
  }
  const Error error{make_error_code(Errc::tier_down),
                    why.detail.empty() ? why.message() : why.detail};
  for (const auto& operation : open) operation->fail(error);
  if (was_up) pauses_ = now >= up_since_ + stayed_up_for ? 0 : pauses_ / 2;
  if (refused) pauses_ = std::max(pauses_, pauses_after_refusal);
  // With jitter, so that all the daemons of a pool do not come back in one moment.
  const auto longest = std::min(most_pause, least_pause * (1 << std::min(pauses_, 10U)));
  const auto pause = milliseconds(std::uniform_int_distribution<std::int64_t>(
      was_up && !refused ? 0 : longest.count() / 2, longest.count())(random_));
  ++pauses_;
  next_attempt_ = now + pause;
  if (const std::string line = why.message(); line != last_said_) say(last_said_ = line);
}

void PoolTier::Core::expire(Time now) {
  std::vector<std::shared_ptr<Operation>> late;
  {
    const Lock lock(mutex_);
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
      const std::uint64_t id = deadlines_.begin()->second;
      auto operation = leave<Operation>(id);
      if (auto* const put = dynamic_cast<PutOperation*>(operation.get())) {
        if (put->phase == PutOperation::Phase::written) {
          std::erase(to_commit_, id);
          uncommitted_bytes_ -= put->size;
          free_later({put->put.key, put->place});
        } else if (put->phase == PutOperation::Phase::committing) {
          orphans_.insert(put->put.key.number);
        }
      } else if (auto* const get = dynamic_cast<GetOperation*>(operation.get())) {
        end_reading(*get);
      }
      late.push_back(std::move(operation));
    }
  }
  for (const auto& operation : late)
    operation->fail({make_error_code(Errc::timed_out),
                     "the pool at " + address_.text() + " did not answer in time"});
}

void PoolTier::Core::send(Kind kind, std::vector<Request::Part> parts,
                          std::span<const std::byte> body) {
  const std::uint64_t number = ++last_request_;
  requests_.emplace(number, Request{.kind = kind, .parts = std::move(parts)});
  channel_->send(kind, number, body);
}

void PoolTier::Core::send_queued() {
  const Lock lock(mutex_);
  // What is to go first: it may make the room that the next one needs.
  while (!to_free_.empty()) {
    FreeRequest request;
    std::vector<Request::Part> parts;
    while (!to_free_.empty() && parts.size() < batch_items_max) {
      request.items.push_back(to_free_.front().named);
      parts.push_back(to_free_.front());
      to_free_.pop_front();
    }
    send(Kind::free, std::move(parts), pack(request));
  }
  while (!to_commit_.empty()) {
    CommitRequest request;
    std::vector<Request::Part> parts;
    std::size_t bytes = 0;
    while (!to_commit_.empty() && parts.size() < batch_items_max && bytes < batch_bytes) {
      const std::uint64_t id = to_commit_.front();
      to_commit_.pop_front();
      const auto operation = find_operation<PutOperation>(id);
      if (!operation) continue;
      operation->phase = PutOperation::Phase::committing;
      const TierPut& put = operation->put;
      request.items.push_back(
          {.key = put.key, .place = operation->place, .crc32c = put.crc32c, .label = put.label});
      parts.push_back({.operation = id, .named = {put.key, operation->place}});
      bytes += 96 + put.label.name.size() + put.label.about.size();
    }
    if (!parts.empty()) send(Kind::commit, std::move(parts), pack(request));
  }
  const auto may_allocate = [this] {
    if (to_alloc_.empty()) return false;
    const auto operation = find_operation<PutOperation>(to_alloc_.front());
    return !operation || uncommitted_bytes_ == 0 ||
           uncommitted_bytes_ + operation->size <= uncommitted_bytes_max;
  };
  while (may_allocate()) {
    AllocRequest request;
    std::vector<Request::Part> parts;
    while (parts.size() < batch_items_max && may_allocate()) {
      const std::uint64_t id = to_alloc_.front();
      to_alloc_.pop_front();
      const auto operation = find_operation<PutOperation>(id);
      if (!operation) continue;
      operation->phase = PutOperation::Phase::allocating;
      uncommitted_bytes_ += operation->size;
      const TierPut& put = operation->put;
      request.items.push_back({.key = put.key,
                               .size = operation->size,
                               .name_size = static_cast<std::uint16_t>(put.label.name.size()),
                               .about_size = static_cast<std::uint16_t>(put.label.about.size())});
      parts.push_back(
          {.operation = id, .named = {put.key, TierPlace{.size = operation->size}}});
    }
    if (!parts.empty()) send(Kind::alloc, std::move(parts), pack(request));
  }
  for (const std::uint64_t id : std::exchange(to_open_, {})) {
    const auto operation = find_operation<GetOperation>(id);
    if (!operation) continue;
    const Named named{operation->get.key, operation->get.place};
    send(Kind::open, {{.operation = id, .named = named}}, pack(OpenRequest{named}));
  }
  for (const std::uint64_t id : std::exchange(to_find_, {}))
    if (const auto operation = find_operation<FindOperation>(id))
      send(Kind::find, {{.operation = id, .named = {}}}, pack(operation->request));
  for (const auto& [id, from] : std::exchange(to_list_, {}))
    send(Kind::list, {{.operation = id, .named = {}}}, pack(ListRequest{.from = from}));
}

Result<void> PoolTier::Core::take(const Frame& frame) {
  const auto found = requests_.find(frame.number);
  if (found == requests_.end() || found->second.kind != frame.kind)
    return fail(Errc::bad_message, "the pool answers what it was not asked");
  const Request request = std::move(found->second);
  requests_.erase(found);
  switch (request.kind) {
    case Kind::alloc: {
      const auto answer = unpack<AllocAnswer>(frame.body);
      if (!answer || answer->items.size() != request.parts.size()) return broken("ALLOC");
      return take_alloc(request, *answer);
    }
    case Kind::commit:
    case Kind::free: {
      const auto answer = unpack<Outcomes>(frame.body);
      if (!answer || answer->items.size() != request.parts.size())
        return broken("list of outcomes");
      if (request.kind == Kind::commit)
        take_commit(request, *answer);
      else
        take_free(request, *answer);
      return {};
    }
    case Kind::list: {
      auto answer = unpack<ListAnswer>(frame.body);
      if (!answer) return broken("LIST");
      take_list(request, *answer);
      return {};
    }
    case Kind::find: {
      auto answer = unpack<FindAnswer>(frame.body);
      if (!answer) return broken("FIND");
      take_find(request, *answer);
      return {};
    }
    case Kind::open: {
      const auto answer = unpack<OpenAnswer>(frame.body);
      if (!answer) return broken("OPEN");
      take_open(request, *answer);
      return {};
    }
    default: {
      const auto stat = unpack<Stat>(frame.body);
      if (!stat) return broken("heartbeat");
      const Lock lock(mutex_);
      capacity_bytes_ = stat->capacity_bytes;
      used_bytes_ = stat->used_bytes;
      return {};
    }
  }
}

// The one that has least to send, and of those the one that has sent least.
std::size_t PoolTier::Core::link_for_write() const {
  const auto least = std::min_element(writes_.begin() + 1, writes_.end());
  return static_cast<std::size_t>(least - writes_.begin());
}

Result<void> PoolTier::Core::take_alloc(const Request& request, const AllocAnswer& answer) {
  Answers<PutOperation> failed;
  struct Writing {
    std::uint64_t id;
    std::shared_ptr<PutOperation> operation;
    SlabKey slab;
    std::shared_ptr<DataLink> link;
    std::size_t number;
  };
  std::vector<Writing> writing;
  bool sound = true;
  {
    const Lock lock(mutex_);
    used_bytes_ = answer.used_bytes;
    for (std::size_t i = 0; i < request.parts.size(); ++i) {
      const Request::Part& part = request.parts[i];
      const auto& [outcome, granted] = answer.items[i];
      const bool well = outcome.well();
      sound = sound && (!well || granted.place.size == part.named.place.size);
      const auto operation = find_operation<PutOperation>(part.operation);
      if (!operation || !well) {
        uncommitted_bytes_ -= part.named.place.size;
        if (well) free_later({part.named.key, granted.place});
        if (operation) failed.emplace_back(leave<PutOperation>(part.operation), outcome.error());
        continue;
      }
      operation->phase = PutOperation::Phase::writing;
      operation->place = granted.place;
      slabs_[granted.place.slab] = granted.slab;
      to_link(part.operation, *operation);
      const std::size_t number = link_for_write();
      writes_[number].bytes += operation->size;
      writes_[number].bytes_ever += operation->size;
      operation->link = links_[number];
      writing.push_back({part.operation, operation, granted.slab, operation->link, number});
    }
  }
  for (const auto& [operation, error] : failed) operation->fail(error);
  if (!sound) return broken("ALLOC");
  for (const Writing& one : writing)
    one.link->write(one.slab, one.operation->place.offset, one.operation->put.parts,
                    one.operation->deadline,
                    [this, id = one.id, number = one.number,
                     bytes = one.operation->size](const Result<void>& result) {
                      written(id, number, bytes, result);
                    });
  return {};
}

void PoolTier::Core::written(std::uint64_t id, std::size_t number, std::uint64_t bytes,
                             const Result<void>& result) {
  std::shared_ptr<PutOperation> failed;
  std::shared_ptr<DataLink> link;
  SlabKey slab;
  {
    const Lock lock(mutex_);
    writes_[number].bytes -= bytes;
    const auto operation = find_operation<PutOperation>(id);
    if (!operation) return;
    if (result) {
      operation->phase = PutOperation::Phase::written;
      from_link(id, *operation);
      to_commit_.push_back(id);
    } else {
      failed = leave<PutOperation>(id);
      uncommitted_bytes_ -= failed->size;
      link = failed->link;
      slab = slabs_[failed->place.slab];
    }
    wake();
  }
  if (!failed) return;
  const Named named{failed->put.key, failed->place};
  failed->fail(result.error());
  // Its room may only be given back when nothing of the late write can arrive there any more: a
  // byte that is asked for now comes after all of that. When the link is gone the pool sees to it.
  if (!link || !link->is_open()) return;
  const auto byte = std::make_shared<std::byte>();
  link->read(slab, named.place.offset, {byte.get(), 1}, TierClock::now() + late_writes_within,
             [this, byte, named](const Result<void>& after) {
               const Lock lock(mutex_);
               if (after)
                 free_later(named);
               else
                 stuck_ = true;
               wake();
             });
}

void PoolTier::Core::take_commit(const Request& request, const Outcomes& answer) {
  Answers<PutOperation> done;
  {
    const Lock lock(mutex_);
    used_bytes_ = answer.used_bytes;
    for (std::size_t i = 0; i < request.parts.size(); ++i) {
      const Request::Part& part = request.parts[i];
      const Outcome& outcome = answer.items[i];
      uncommitted_bytes_ -= part.named.place.size;
      auto operation = leave<PutOperation>(part.operation);
      if (operation && outcome.well())
        hold(part.named);
      else
        // It was answered as failed, or is about to be.
        free_later(part.named);
      if (operation)
        done.emplace_back(std::move(operation), outcome.well() ? Error{} : outcome.error());
    }
  }
  for (const auto& [operation, error] : done) {
    if (error.code)
      operation->fail(error);
    else
      operation->done(operation->place);
  }
}

void PoolTier::Core::take_free(const Request& request, const Outcomes& answer) {
  Answers<RemoveOperation> done;
  {
    const Lock lock(mutex_);
    used_bytes_ = answer.used_bytes;
    for (std::size_t i = 0; i < request.parts.size(); ++i) {
      const Request::Part& part = request.parts[i];
      const Outcome& outcome = answer.items[i];
      if (outcome.well()) {
        orphans_.erase(part.named.key.number);
        const auto held = held_.find(part.named.key.number);
        if (held != held_.end() && held->second.place == part.named.place) held_.erase(held);
      }
      if (auto operation = leave<RemoveOperation>(part.operation))
        done.emplace_back(std::move(operation), outcome.well() ? Error{} : outcome.error());
    }
  }
  for (const auto& [operation, error] : done) {
    if (error.code)
      operation->fail(error);
    else
      operation->done({});
  }
}

void PoolTier::Core::take_list(const Request& request, ListAnswer& answer) {
  const std::uint64_t id = request.parts.front().operation;
  if (id == 0) {
    {
      const Lock lock(mutex_);
      for (const TierItem& item : answer.items) {
        if (orphans_.contains(item.key.number)) {
          found_orphans_.insert(item.key.number);
          free_later({item.key, item.place});
        } else {
          hold({item.key, item.place});
        }
      }
    }
    if (answer.more)
      send(Kind::list, {{}}, pack(ListRequest{.from = answer.next, .brief = true}));
    else
      come_up(TierClock::now());
    return;
  }
  std::shared_ptr<ListOperation> done;
  {
    const Lock lock(mutex_);
    const auto operation = find_operation<ListOperation>(id);
    if (!operation) return;
    std::ranges::move(answer.items, std::back_inserter(operation->items));
    if (answer.more) {
      to_list_.emplace_back(id, answer.next);
      wake();
    } else {
      done = leave<ListOperation>(id);
    }
  }
  if (done) done->done(std::move(done->items));
}

void PoolTier::Core::take_find(const Request& request, FindAnswer& answer) {
  std::shared_ptr<FindOperation> operation;
  {
    const Lock lock(mutex_);
    operation = leave<FindOperation>(request.parts.front().operation);
  }
  if (!operation) return;
  if (answer.outcome.well())
    operation->done(std::move(answer.item));
  else
    operation->fail(answer.outcome.error());
}

void PoolTier::Core::take_open(const Request& request, const OpenAnswer& answer) {
  const std::uint64_t id = request.parts.front().operation;
  std::shared_ptr<GetOperation> operation;
  std::shared_ptr<DataLink> link;
  {
    const Lock lock(mutex_);
    operation = find_operation<GetOperation>(id);
    if (!operation) return;
    if (answer.outcome.well()) {
      if (operation->get.key.store == options_.store)
        slabs_[operation->get.place.slab] = answer.slab;
      to_link(id, *operation);
      link = link_for_read(operation->get.priority);
    } else {
      end_reading(*operation);
      leave<GetOperation>(id);
    }
  }
  if (link)
    start_reading(id, *operation, answer.slab, answer.offset, link);
  else
    operation->fail(answer.outcome.error());
}

Result<std::unique_ptr<PoolTier>> PoolTier::start(PoolTierOptions options) {
  auto address = parse_address(options.address);
  if (!address) return fail(address.error());
  if (options.key_file.empty() == !options.insecure)
    return fail(Errc::bad_argument, "the pool " + options.address +
                                        " needs either the key file of the cluster or the word "
                                        "that it is insecure");
  ClusterKey key = ClusterKey::insecure();
  if (!options.insecure) {
    auto read = read_key_file(options.key_file);
    if (!read) return fail(read.error());
    key = std::move(*read);
  }
  return std::unique_ptr<PoolTier>(new PoolTier(
      std::make_unique<Core>(std::move(options), std::move(*address), std::move(key))));
}

PoolTier::PoolTier(std::unique_ptr<Core> core) : core_(std::move(core)) {}
PoolTier::~PoolTier() = default;

Result<void> PoolTier::wait_until_up(TierDeadline deadline) {
  return core_->wait_until_up(deadline);
}
void PoolTier::put(TierPut put, TierDeadline deadline, PutDone done) {
  core_->put(std::move(put), deadline, std::move(done));
}
void PoolTier::get(TierGet get, TierDeadline deadline, Done done) {
  core_->get(std::move(get), deadline, std::move(done));
}
void PoolTier::remove(TierKey key, TierPlace place, TierDeadline deadline, Done done) {
  core_->remove({key, place}, deadline, std::move(done));
}
void PoolTier::list(std::array<std::uint8_t, 16> store, TierDeadline deadline, ListDone done) {
  core_->list(store, deadline, std::move(done));
}
void PoolTier::find(std::string name, std::uint64_t version, TierDeadline deadline, FindDone done) {
  core_->find({.name = std::move(name), .version = version}, deadline, std::move(done));
}
TierStatus PoolTier::status() const { return core_->status(); }
void PoolTier::memory_leaves(std::span<const std::byte> bytes) { core_->memory_leaves(bytes); }

}  // namespace forebay::spill
