// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/tcp_data_link.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <deque>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>

#include "spill/pool/socket.h"
#include "spill/pool/tcp_data_frames.h"
#include "spill/waker.h"

namespace forebay::spill {

using namespace pool;  // NOLINT: this is one of its parts

namespace {

constexpr std::size_t queued_bytes_max = 2 << 20;   // given to the socket's queue ahead of it
constexpr std::size_t asked_bytes_max = 4 << 20;    // reads that were asked for and have not come
constexpr std::size_t turn_bytes = 4 << 20;
constexpr std::chrono::seconds opening_time{2};

struct Operation {
  std::uint64_t id = 0;
  bool writes = false;
  SlabKey slab;
  std::uint64_t offset = 0;
  std::vector<std::span<const std::byte>> parts;
  std::span<std::byte> into;
  std::uint64_t size = 0;
  TierDeadline deadline;
  DataLink::Done done;
  std::uint64_t issued = 0;    // bytes that were asked for or queued
  std::uint64_t answered = 0;  // bytes that have come, or are said to have arrived
  std::uint64_t last_piece = 0;  // of those that were queued, counted over the whole link
  std::size_t part = 0;        // of the next piece to write,
  std::size_t within = 0;      // and where in it

  std::vector<std::span<const std::byte>> next_parts(std::size_t bytes) {
    std::vector<std::span<const std::byte>> piece;
    while (bytes > 0) {
      const auto left = parts[part].subspan(within);
      const auto taken = left.first(std::min(bytes, left.size()));
      if (!taken.empty()) piece.push_back(taken);
      bytes -= taken.size();
      within += taken.size();
      if (within == parts[part].size()) {
        ++part;
        within = 0;
      }
    }
    return piece;
  }
};
using OperationPtr = std::unique_ptr<Operation>;

}  // namespace

class TcpDataLink::Loop {
 public:
  Loop(Descriptor socket, Descriptor epoll, Address address, const LinkToken& token)
      : socket_(std::move(socket)), epoll_(std::move(epoll)), address_(std::move(address)) {
    opening_.token = token;
    opened_until_ = TierClock::now() + opening_time;
    watch(EPOLL_CTL_ADD, socket_.get(), EPOLLOUT);
    watch(EPOLL_CTL_ADD, waker_.get(), EPOLLIN);
    thread_ = std::thread([this] { run(); });
  }
  ~Loop() { close(); }

  void submit(OperationPtr operation) {
    if (operation->size == 0) {
      operation->done({});
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      if (!failed_.load(std::memory_order_relaxed)) {
        incoming_.push_back(std::move(operation));
        if (!std::exchange(woken_, true)) waker_.wake();
        return;
      }
    }
    operation->done(fail(down()));
  }

  void close() {
    if (std::this_thread::get_id() == thread_id_.load()) {
      end(down());
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      waker_.wake();
    }
    const std::lock_guard lock(joining_);
    if (thread_.joinable()) thread_.join();
  }
  bool is_open() const { return !failed_.load(std::memory_order_acquire); }

  // What the intake asks of its owner.
  bool head(const DataHead& head, std::span<std::byte>& into) {
    if (!welcomed_) {
      welcomed_ = head.op == DataOp::welcome && head.length == 0;
      denied_ = head.op == DataOp::denied;
      return welcomed_;
    }
    denied_ = head.op == DataOp::denied;
    if (const auto late = late_.find(head.number); late != late_.end()) {
      if (head.op != (late->second.writes ? DataOp::written : DataOp::data) ||
          head.length > late->second.bytes || head.length == 0 || head.length > piece_bytes_max)
        return false;
      if (!late->second.writes) into = std::span(waste_).first(head.length);
      return true;
    }
    const auto found = operations_.find(head.number);
    // Whatever answers what was not asked is not the pool.
    if (denied_ || found == operations_.end()) return false;
    const Operation& operation = *found->second;
    if (head.op != (operation.writes ? DataOp::written : DataOp::data) ||
        head.offset < operation.offset || head.offset - operation.offset > operation.issued ||
        head.length > operation.issued - (head.offset - operation.offset) ||
        head.length > operation.issued - operation.answered || head.length == 0)
      return false;
    if (!operation.writes)
      into = operation.into.subspan(head.offset - operation.offset, head.length);
    return true;
  }
  bool done(const DataHead& head) {
    if (head.op == DataOp::welcome) return true;
    if (const auto late = late_.find(head.number); late != late_.end()) {
      if (!late->second.writes) asked_bytes_ -= head.length;
      late->second.bytes -= head.length;
      if (late->second.bytes == 0) late_.erase(late);
      return true;
    }
    const auto found = operations_.find(head.number);
    if (found == operations_.end()) return false;
    Operation& operation = *found->second;
    operation.answered += head.length;
    // An answer to what is still about to be sent: its source must not go, so all of it has to.
    if (operation.answered == operation.size && operation.last_piece > out_.sent_pieces())
      return false;
    if (!operation.writes) asked_bytes_ -= head.length;
    if (operation.answered == operation.size) {
      OperationPtr ended = take(found->second->id);
      ended->done({});
    }
    // The callback may have closed the link.
    return is_open();
  }

 private:
  Error down() const {
    return {make_error_code(Errc::tier_down),
            "the data link to the pool at " + address_.text() + " is gone"};
  }

  void watch(int what, int descriptor, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.fd = descriptor;
    ::epoll_ctl(epoll_.get(), what, descriptor, &event);
  }

  OperationPtr take(std::uint64_t id) {
    const auto found = operations_.find(id);
    OperationPtr operation = std::move(found->second);
    deadlines_.erase({operation->deadline, id});
    operations_.erase(found);
    return operation;
  }

  void run() {
    thread_id_ = std::this_thread::get_id();
    std::array<epoll_event, 2> events{};
    while (is_open()) {
      const int count = ::epoll_wait(epoll_.get(), events.data(), 2, wait_ms());
      std::uint32_t of_socket = 0;
      for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        if (event.data.fd == socket_.get()) of_socket = event.events;
      }
      if (!take_incoming()) {
        end(down());
        break;
      }
      if (of_socket != 0 && !progress(of_socket)) break;
      if (!expire()) break;
      if (is_open() && !push()) break;
    }
    // A callback may have closed the link in the middle of it all: then what is left is answered
    // now.
    end(down());
  }

  // False: the link is to be closed.
  bool take_incoming() {
    std::vector<OperationPtr> incoming;
    {
      const std::lock_guard lock(mutex_);
      if (stop_) return false;
      incoming.swap(incoming_);
      woken_ = false;
      waker_.clear();
    }
    for (OperationPtr& operation : incoming) {
      const std::uint64_t id = ++last_id_;
      operation->id = id;
      deadlines_.emplace(operation->deadline, id);
      (operation->writes ? writes_ : reads_).push_back(id);
      operations_.emplace(id, std::move(operation));
    }
    return true;
  }

  bool progress(std::uint32_t events) {
    if (!connected_) {
      if (auto there = connected(socket_.get(), address_); !there) {
        end(there.error());
        return false;
      }
      connected_ = true;
      out_.add(std::bit_cast<DataHead>(opening_), {});
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 &&
        in_.take(socket_.get(), turn_bytes, *this) == Flow::ended) {
      if (denied_)
        end({make_error_code(Errc::denied), "the pool at " + address_.text() +
                                                " has ended the data link: a key or a place of "
                                                "ours was wrong"});
      else
        end(down());
      return false;
    }
    return is_open();
  }

  // False: the link is closed.
  bool expire() {
    const TierDeadline now = TierClock::now();
    if (!welcomed_ && now >= opened_until_) {
      end({make_error_code(Errc::tier_down),
           "the data port of the pool at " + address_.text() + " does not answer"});
      return false;
    }
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
      const std::uint64_t id = deadlines_.begin()->second;
      OperationPtr operation = take(id);
      if (operation->issued < operation->size) std::erase(operation->writes ? writes_ : reads_, id);
      if (operation->issued > operation->answered) {
        waste_.resize(piece_bytes_max);
        in_.divert(id, waste_);
        out_.replace(id, zeros());
        late_.emplace(id, Late{operation->writes, operation->issued - operation->answered});
      }
      operation->done(fail(late_error()));
      if (!is_open()) return false;
    }
    return true;
  }

  static std::span<const std::byte> zeros() {
    static const std::vector<std::byte> bytes(piece_bytes_max);
    return bytes;
  }

  Error late_error() const {
    return {make_error_code(Errc::timed_out),
            "the pool at " + address_.text() + " did not take or give it in time"};
  }

  // Gives the socket what it takes, one piece of each operation in turn.
  bool push() {
    Flow flow = Flow::more;
    while (flow == Flow::more) {
      if (welcomed_) queue_pieces();
      if (out_.empty()) break;
      const std::size_t before = out_.bytes();
      flow = out_.send(socket_.get(), turn_bytes);
      // Sent all: there may be more pieces now.
      if (flow == Flow::idle && out_.empty() && before > 0 && welcomed_ && ready())
        flow = Flow::more;
    }
    if (flow == Flow::ended) {
      // What the pool said last may be in the socket still.
      if (in_.take(socket_.get(), turn_bytes, *this) == Flow::ended && denied_)
        end({make_error_code(Errc::denied), "the pool has ended the data link: a key or a place of "
                                            "ours was wrong"});
      else
        end(down());
      return false;
    }
    const std::uint32_t wanted =
        EPOLLIN | (out_.empty() && connected_ ? 0U : std::uint32_t{EPOLLOUT});
    if (wanted != watched_) watch(EPOLL_CTL_MOD, socket_.get(), watched_ = wanted);
    return true;
  }
  bool ready() const {
    return !writes_.empty() || (!reads_.empty() && asked_bytes_ < asked_bytes_max);
  }
  void queue_pieces() {
    while (ready() && out_.bytes() < queued_bytes_max) {
      if (!reads_.empty() && asked_bytes_ < asked_bytes_max) queue_piece(reads_);
      if (!writes_.empty()) queue_piece(writes_);
    }
  }
  void queue_piece(std::deque<std::uint64_t>& line) {
    const std::uint64_t id = line.front();
    line.pop_front();
    Operation& operation = *operations_.at(id);
    const std::size_t bytes =
        std::min<std::size_t>(piece_bytes_max, operation.size - operation.issued);
    const DataHead head{.op = operation.writes ? DataOp::write : DataOp::read,
                        .length = static_cast<std::uint32_t>(bytes),
                        .number = id,
                        .key = operation.slab.key,
                        .offset = operation.offset + operation.issued};
    operation.issued += bytes;
    if (operation.writes) {
      out_.add(head, operation.next_parts(bytes));
    } else {
      asked_bytes_ += bytes;
      out_.add(head, {});
    }
    operation.last_piece = out_.added_pieces();
    if (operation.issued < operation.size) line.push_back(id);
  }

  int wait_ms() const {
    TierDeadline next = welcomed_ ? TierDeadline::max() : opened_until_;
    if (!deadlines_.empty()) next = std::min(next, deadlines_.begin()->first);
    if (next == TierDeadline::max()) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - TierClock::now()).count();
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60000));
  }

  // First the transport, then the answers.
  void end(const Error& why) {
    std::vector<OperationPtr> open;
    {
      const std::lock_guard lock(mutex_);
      failed_.store(true, std::memory_order_release);
      open.swap(incoming_);
    }
    socket_.reset();
    reads_.clear();
    writes_.clear();
    deadlines_.clear();
    for (auto& [id, operation] : operations_) open.push_back(std::move(operation));
    operations_.clear();
    const TierDeadline now = TierClock::now();
    for (const OperationPtr& operation : open)
      operation->done(fail(operation->deadline <= now && why.is(Errc::tier_down) ? late_error()
                                                                                : why));
  }

  Descriptor socket_;
  Descriptor epoll_;
  Waker waker_;
  Address address_;
  LinkOpening opening_;
  TierDeadline opened_until_;
  // The thread's own:
  DataIntake in_;
  DataOutflow out_;
  std::unordered_map<std::uint64_t, OperationPtr> operations_;
  struct Late {
    bool writes = false;
    std::uint64_t bytes = 0;  // that were asked for or sent, and are not answered
  };
  std::unordered_map<std::uint64_t, Late> late_;  // already told that they have timed out
  std::vector<std::byte> waste_;                  // where their bytes go
  std::set<std::pair<TierDeadline, std::uint64_t>> deadlines_;
  std::deque<std::uint64_t> reads_;   // with pieces to ask for, in turn
  std::deque<std::uint64_t> writes_;
  std::size_t asked_bytes_ = 0;
  std::uint64_t last_id_ = 0;
  std::uint32_t watched_ = EPOLLOUT;
  bool connected_ = false;
  bool welcomed_ = false;
  bool denied_ = false;

  std::mutex mutex_;
  std::vector<OperationPtr> incoming_;  // guarded by mutex_, as are the two below
  bool woken_ = false;
  bool stop_ = false;
  std::atomic<bool> failed_{false};
  std::mutex joining_;
  std::atomic<std::thread::id> thread_id_{};
  std::thread thread_;
};

Result<std::unique_ptr<DataLink>> TcpDataLink::connect(const LinkTarget& target) {
  Address address{.host = target.host};
  if (target.address.size() != sizeof address.port)
    return fail(Errc::bad_message, "the pool at " + target.host + " gave no data port");
  std::memcpy(&address.port, target.address.data(), sizeof address.port);
  auto socket = start_to_connect(address);
  if (!socket) return fail(socket.error());
  tune(socket->get(), Traffic::bulk);
  Descriptor epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno(errno, "cannot make an epoll instance for a data link");
  return std::unique_ptr<DataLink>(new TcpDataLink(
      std::make_unique<Loop>(std::move(*socket), std::move(epoll), address, target.token)));
}

TcpDataLink::TcpDataLink(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
TcpDataLink::~TcpDataLink() = default;

void TcpDataLink::write(const SlabKey& slab, std::uint64_t offset,
                        std::vector<std::span<const std::byte>> parts, TierDeadline deadline,
                        Done done) {
  auto operation = std::make_unique<Operation>();
  operation->writes = true;
  operation->slab = slab;
  operation->offset = offset;
  for (const auto& part : parts) operation->size += part.size();
  operation->parts = std::move(parts);
  operation->deadline = deadline;
  operation->done = std::move(done);
  loop_->submit(std::move(operation));
}

void TcpDataLink::read(const SlabKey& slab, std::uint64_t offset, std::span<std::byte> into,
                       TierDeadline deadline, Done done) {
  auto operation = std::make_unique<Operation>();
  operation->slab = slab;
  operation->offset = offset;
  operation->into = into;
  operation->size = into.size();
  operation->deadline = deadline;
  operation->done = std::move(done);
  loop_->submit(std::move(operation));
}

void TcpDataLink::close() { loop_->close(); }
bool TcpDataLink::is_open() const { return loop_->is_open(); }

}  // namespace forebay::spill
