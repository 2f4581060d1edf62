// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/link_thread.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "spill/fabric/error.h"
#include "store/check.h"

namespace forebay::spill::fabric {

namespace {

using std::chrono::milliseconds;

// Beyond it more transfers in flight gain nothing; small ones are bounded by it alone.
constexpr std::size_t most_transfers = 64;
// What is called small: it comes back sooner than a sleeper wakes up.
constexpr std::size_t small_bytes = std::size_t{64} << 10U;
// While somebody waits for bytes of another link. Smaller ones cost more processor time: 128 KiB half as
// much again as a MiB.
constexpr std::size_t chunk_giving_way = std::size_t{256} << 10U;
constexpr unsigned window_giving_way = 1;
// Parts of one transfer, whatever the provider could.
constexpr std::size_t most_vectors = 16;
// Between two tries of a post that the provider did not take, when it does not say that it would.
constexpr milliseconds pause_between_posts{1};
// Of a sleep at the queue. fi_cq_signal is lost when it comes just before fi_cq_sread begins to wait,
// which empties what the signal was written into. So each sleep is short while there was something to
// do, and twice as long as the one before while there is nothing: a signal lost costs no more than that.
constexpr milliseconds shortest_nap{1};
constexpr milliseconds longest_nap{128};

}  // namespace

Result<std::shared_ptr<LinkThread>> LinkThread::start(std::unique_ptr<Endpoint> endpoint,
                                                      fi_addr_t peer, std::string peer_text,
                                                      LinkLimits limits) {
  std::shared_ptr<LinkThread> link(
      new LinkThread(std::move(endpoint), peer, std::move(peer_text), limits));
  if (auto opened = link->open_descriptors(); !opened) return fail(opened.error());
  // It keeps what it runs on.
  const std::lock_guard lock(link->mutex_);
  link->thread_ = std::thread([link] {
    { const std::lock_guard started(link->mutex_); }
    link->run();
  });
  return link;
}

LinkThread::LinkThread(std::unique_ptr<Endpoint> endpoint, fi_addr_t peer, std::string peer_text,
                       LinkLimits limits)
    : peer_(peer),
      peer_text_(std::move(peer_text)),
      limits_(limits),
      endpoint_(std::move(endpoint)),
      memory_(std::make_unique<LocalMemory>(*endpoint_)),
      transfers_(std::clamp<std::size_t>(endpoint_->info().tx_attr->size, 1, most_transfers)) {
  const fi_info& info = endpoint_->info();
  most_bytes_ = std::max<std::size_t>(
      1, std::min(limits_.chunk_bytes, info.ep_attr->max_msg_size));
  most_parts_ = std::clamp<std::size_t>(info.tx_attr->iov_limit, 1, most_vectors);
}

LinkThread::~LinkThread() {
  // Within a callback the thread outlives the link, and lets go of this as the last.
  if (thread_.joinable()) thread_.detach();
}

Result<void> LinkThread::open_descriptors() {
  epoll_ = Descriptor(::epoll_create1(EPOLL_CLOEXEC));
  if (!wake_up_) return fail_errno(EMFILE, "no descriptors for a link to " + peer_text_);
  if (!epoll_)
    return fail_errno(errno, "no descriptors for a link to " + peer_text_);
  for (const int watched : {wake_up_.get(), endpoint_->wait_descriptor()}) {
    if (watched < 0 || (watched != wake_up_.get() &&
                        endpoint_->waiting() != Endpoint::Waiting::descriptor))
      continue;
    epoll_event event{.events = EPOLLIN, .data = {.fd = watched}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, watched, &event) != 0)
      return fail_errno(errno, "cannot wait for a link to " + peer_text_);
  }
  return {};
}

void LinkThread::submit(Operation operation) {
  for (const auto& part : operation.parts) operation.left += part.size();
  std::unique_lock lock(mutex_);
  submissions_.push_back(std::move(operation));
  has_submissions_.store(true, std::memory_order_relaxed);
  wake_up(lock);
}

void LinkThread::wake_up(std::unique_lock<std::mutex>& lock) {
  const Asleep asleep = std::exchange(asleep_, Asleep::no);
  // Under the lock: afterwards the thread may close the endpoint.
  if (asleep == Asleep::at_queue) (void)fi_cq_signal(endpoint_->cq());
  lock.unlock();
  if (asleep == Asleep::at_descriptors) wake_up_.wake();
}

void LinkThread::close() {
  if (on_own_thread()) return close_here();
  std::unique_lock lock(mutex_);
  if (close_answered_) return;
  close_asked_ = true;
  asked_.store(true, std::memory_order_relaxed);
  wake_up(lock);
  lock.lock();
  // The thread waits for no peer, and callbacks wait for nothing.
  closed_.wait(lock, [this] { return close_answered_; });
}

void LinkThread::end() {
  close();
  std::unique_lock lock(mutex_);
  end_asked_ = true;
  asked_.store(true, std::memory_order_relaxed);
  wake_up(lock);
  if (!on_own_thread()) thread_.join();
}

void LinkThread::leaves(std::span<const std::byte> bytes) { memory_->leaves(bytes); }

void LinkThread::run() {
  note_activity();
  while (!do_as_asked()) {
    bool busy = take_submissions();
    if (endpoint_ != nullptr) busy |= post();
    if (endpoint_ != nullptr) busy |= reap();
    expire();
    call_back();
    if (busy)
      note_activity();
    else if (!spins())
      sleep();
  }
}

void LinkThread::note_activity() {
  last_active_ = TierClock::now();
  nap_ = shortest_nap;
}

bool LinkThread::do_as_asked() {
  if (!asked_.load(std::memory_order_relaxed)) return false;
  bool closes = false;
  bool ends = false;
  {
    const std::lock_guard lock(mutex_);
    asked_.store(false, std::memory_order_relaxed);
    closes = close_asked_ && !close_answered_;
    ends = end_asked_;
  }
  if (closes) close_here();
  return ends;
}

void LinkThread::close_here() {
  take_submissions();
  fail_for_good(Errc::tier_down, "it was closed", nullptr);
  call_back();
  const std::lock_guard lock(mutex_);
  close_answered_ = true;
  closed_.notify_all();
}

bool LinkThread::take_submissions() {
  if (!has_submissions_.load(std::memory_order_relaxed)) return false;
  // A callback that closes the link comes here again; what is taken is this call's own by then.
  std::vector<Operation> taken;
  taken.swap(taken_);
  {
    const std::lock_guard lock(mutex_);
    taken.swap(submissions_);
    has_submissions_.store(false, std::memory_order_relaxed);
  }
  const TierDeadline now = TierClock::now();
  for (Operation& operation : taken) {
    if (endpoint_ == nullptr) {
      answer(operation, fail(Errc::tier_down, why_closed_));
    } else if (operation.left == 0) {
      answer(operation, {});
    } else if (operation.deadline <= now) {
      answer(operation, fail(Errc::timed_out, "the deadline had passed before anything of " +
                                                  std::to_string(operation.left) +
                                                  " bytes went to " + peer_text_));
    } else {
      next_deadline_ = std::min(next_deadline_, operation.deadline);
      open_operations_.push_back(std::move(operation));
      open_operations_.back().self = std::prev(open_operations_.end());
      waiting_.push_back(open_operations_.back().self);
    }
  }
  taken.clear();
  taken_.swap(taken);
  return true;
}

// Whether anything was posted.
bool LinkThread::post() {
  again_ = false;
  bool progress = false;
  while (!waiting_.empty()) {
    Operation& operation = *waiting_.front();
    const std::size_t before = operation.left;
    const Posted posted = post_transfers(operation);
    if (posted == Posted::dead) return true;
    progress |= operation.left != before;
    if (posted == Posted::again) again_ = true;
    if (posted != Posted::all) return progress;
    waiting_.pop_front();
    finish_if_done(operation);
    progress = true;
  }
  return progress;
}

bool LinkThread::gives_way() const {
  return limits_.gives_way_to != nullptr && limits_.gives_way_to->claimed(TierClock::now());
}

LinkThread::Posted LinkThread::post_transfers(Operation& operation) {
  while (operation.left > 0 && !operation.failed) {
    const bool small = gives_way();
    const std::size_t chunk = small ? std::min(most_bytes_, chunk_giving_way) : most_bytes_;
    const std::size_t window_bytes =
        chunk * (small ? std::min(limits_.window, window_giving_way) : limits_.window);
    const std::size_t most = std::min(operation.left, chunk);
    if (transfers_.full() || (transfers_.bytes() > 0 && transfers_.bytes() + most > window_bytes))
      return Posted::window_full;
    operation.tried = true;
    const ssize_t code = post_one(operation, most);
    if (code == -FI_EAGAIN) return Posted::again;
    if (code != 0) {
      fail_for_good(Errc::tier_down,
                    "a transfer was not taken: " + fabric_error(code, "posting").message(),
                    &operation);
      return Posted::dead;
    }
  }
  return Posted::all;
}

// Posts the next transfer of the operation: as much as fits into one, at most `most` bytes. An
// error of local memory is the operation's own, and no failure of the link.
ssize_t LinkThread::post_one(Operation& operation, std::size_t most) {
  vectors_.clear();
  descriptions_.clear();
  held_.clear();
  std::size_t part = operation.part;
  std::size_t part_at = operation.part_at;
  std::size_t bytes = 0;
  while (bytes < most && vectors_.size() < most_parts_) {
    const std::span<const std::byte> rest = operation.parts[part].subspan(part_at);
    if (rest.empty()) {
      ++part;
      part_at = 0;
      continue;
    }
    auto piece = memory_->use(rest.first(std::min(rest.size(), most - bytes)),
                              operation.writes ? LocalMemory::Direction::source
                                               : LocalMemory::Direction::destination);
    if (!piece) {
      operation.failed = std::move(piece.error());
      held_.clear();
      return 0;
    }
    vectors_.push_back({const_cast<std::byte*>(rest.data()), piece->size});
    descriptions_.push_back(piece->description);
    if (piece->held) held_.push_back(std::move(piece->held));
    bytes += piece->size;
    part_at += piece->size;
  }

  const fi_rma_iov remote{.addr = operation.slab.base + operation.offset,
                          .len = bytes,
                          .key = operation.slab.key};
  fi_msg_rma message{};
  message.msg_iov = vectors_.data();
  message.desc = descriptions_.data();
  message.iov_count = vectors_.size();
  message.addr = peer_;
  message.rma_iov = &remote;
  message.rma_iov_count = 1;
  message.context = transfers_.begin(&operation, bytes, held_);
  // Without the flag a write completes, as a success, whatever became of its bytes.
  const ssize_t code =
      operation.writes
          ? fi_writemsg(endpoint_->ep(), &message, FI_COMPLETION | FI_DELIVERY_COMPLETE)
          : fi_readmsg(endpoint_->ep(), &message, FI_COMPLETION);
  if (code != 0) {
    (void)transfers_.end(message.context);
    return code;
  }
  operation.part = part;
  operation.part_at = part_at;
  operation.offset += bytes;
  operation.left -= bytes;
  ++operation.in_flight;
  return 0;
}

// Whether there was anything.
bool LinkThread::reap() {
  bool progress = false;
  std::array<fi_cq_data_entry, 32> entries;
  while (endpoint_ != nullptr) {
    const ssize_t count = fi_cq_read(endpoint_->cq(), entries.data(), entries.size());
    if (!handle(entries, count)) break;
    progress = true;
    if (count < static_cast<ssize_t>(entries.size())) break;
  }
  return progress;
}

bool LinkThread::handle(std::span<const fi_cq_data_entry> entries, ssize_t count) {
  if (count == -FI_EAGAIN || count == -FI_EINTR || count == 0) return false;
  if (count < 0) {
    const Endpoint::Failure failure =
        count == -FI_EAVAIL
            ? endpoint_->take_error()
            : Endpoint::Failure{nullptr, fabric_error(count, "the completion queue failed")};
    fail_for_good(Errc::tier_down,
                  std::string(peer_gone(failure.error.code.value())
                                  ? "the server is gone, or knows no such slab: "
                                  : "a transfer failed: ") +
                      failure.error.message(),
                  transfers_.find(failure.context));
    return true;
  }
  for (const fi_cq_data_entry& entry : entries.first(static_cast<std::size_t>(count))) {
    Operation* const operation = transfers_.end(entry.op_context);
    // A completion that has come before; whatever it was for was answered.
    if (operation == nullptr) continue;
    --operation->in_flight;
    finish_if_done(*operation);
  }
  return true;
}

void LinkThread::finish_if_done(Operation& operation) {
  if (operation.in_flight > 0 || (operation.left > 0 && !operation.failed)) return;
  if (operation.failed)
    answer(operation, fail(std::move(*operation.failed)));
  else
    answer(operation, {});
  open_operations_.erase(operation.self);
}

void LinkThread::expire() {
  if (next_deadline_ == TierDeadline::max() || endpoint_ == nullptr) return;
  const TierDeadline now = TierClock::now();
  if (now < next_deadline_) return;
  TierDeadline next = TierDeadline::max();
  for (auto item = open_operations_.begin(); item != open_operations_.end();) {
    const auto operation = item++;
    if (operation->deadline > now) {
      next = std::min(next, operation->deadline);
      continue;
    }
    if (operation->tried) {
      fail_for_good(Errc::timed_out, "the server did not answer in time", &*operation);
      return;
    }
    // It stood behind others all the time: nothing of it can arrive later.
    answer(*operation, fail(Errc::timed_out, "nothing of it went to " + peer_text_ +
                                                 " before its deadline: the link was busy"));
    waiting_.erase(std::find(waiting_.begin(), waiting_.end(), operation));
    open_operations_.erase(operation);
  }
  next_deadline_ = next;
}

// `culprit` is answered with `code`, as are others whose deadline has passed, if that is what
// happened; the rest with tier_down.
void LinkThread::fail_for_good(Errc code, const std::string& why, const Operation* culprit) {
  if (endpoint_ == nullptr) return;
  open_.store(false, std::memory_order_release);
  why_closed_ = "the link to " + peer_text_ + " is closed: " + why;
  // First this: up to here bytes may arrive in destinations, and be read from sources.
  endpoint_->abort([this] {
    transfers_.clear();
    memory_->close();
  });
  endpoint_.reset();
  waiting_.clear();
  again_ = false;
  next_deadline_ = TierDeadline::max();
  const TierDeadline now = TierClock::now();
  for (Operation& operation : open_operations_) {
    const bool late = code == Errc::timed_out && operation.deadline <= now;
    answer(operation,
           fail(late || &operation == culprit ? code : Errc::tier_down, why_closed_));
  }
  open_operations_.clear();
}

void LinkThread::answer(Operation& operation, Result<void> result) {
  answers_.push_back({std::move(operation.done), std::move(result)});
}

// A callback may submit, or close the link, which calls the rest of them back.
void LinkThread::call_back() {
  while (!answers_.empty()) {
    Answer next = std::move(answers_.front());
    answers_.pop_front();
    next.done(std::move(next.result));
  }
}

bool LinkThread::spins() const {
  return endpoint_ != nullptr && !again_ && transfers_.bytes() <= small_bytes &&
         TierClock::now() - last_active_ < limits_.spin;
}

void LinkThread::sleep() {
  int timeout = -1;
  Asleep place = Asleep::at_descriptors;
  if (endpoint_ != nullptr) {
    const Endpoint::Waiting waiting = endpoint_->waiting();
    if (waiting == Endpoint::Waiting::queue) place = Asleep::at_queue;
    if (next_deadline_ != TierDeadline::max()) {
      const auto left = std::chrono::ceil<milliseconds>(next_deadline_ - TierClock::now());
      timeout = static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
    }
    const bool asks = again_ || (waiting == Endpoint::Waiting::none && transfers_.count() > 0);
    if (asks && (timeout < 0 || timeout > pause_between_posts.count()))
      timeout = static_cast<int>(pause_between_posts.count());
    // Something has come between reading the queue and now.
    if (waiting == Endpoint::Waiting::descriptor && !endpoint_->may_wait()) return;
  }
  {
    const std::lock_guard lock(mutex_);
    if (!submissions_.empty() || asked_.load(std::memory_order_relaxed)) return;
    asleep_ = place;
  }
  if (place == Asleep::at_queue)
    sleep_at_queue(timeout);
  else
    sleep_at_descriptors(timeout);
}

void LinkThread::sleep_at_queue(int timeout_ms) {
  std::array<fi_cq_data_entry, 32> entries;
  const int nap_ms = static_cast<int>(std::exchange(nap_, std::min(nap_ * 2, longest_nap)).count());
  if (timeout_ms < 0 || timeout_ms > nap_ms) timeout_ms = nap_ms;
  const ssize_t count =
      fi_cq_sread(endpoint_->cq(), entries.data(), entries.size(), nullptr, timeout_ms);
  {
    const std::lock_guard lock(mutex_);
    asleep_ = Asleep::no;
  }
  if (handle(entries, count)) note_activity();
}

void LinkThread::sleep_at_descriptors(int timeout_ms) {
  std::array<epoll_event, 2> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), timeout_ms);
  for (int i = 0; i < count; ++i)
    if (events[static_cast<std::size_t>(i)].data.fd == wake_up_.get()) wake_up_.clear();
  const std::lock_guard lock(mutex_);
  asleep_ = Asleep::no;
}

}  // namespace forebay::spill::fabric
