// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/tcp_data_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include "spill/pool/hmac.h"
#include "spill/pool/socket.h"
#include "spill/pool/tcp_data_frames.h"
#include "spill/waker.h"
#include "store/shm/failpoint.h"

namespace forebay::spill {

using namespace pool;  // NOLINT: this is one of its parts

namespace {

constexpr std::size_t turn_bytes = 1 << 20;
constexpr std::size_t links_max = 4096;
constexpr std::size_t answers_max = 1024;  // of one link, before it has to take some
constexpr std::chrono::seconds opening_time{5};
constexpr std::uint64_t listener_id = 0;
constexpr std::uint64_t waker_id = 1;

struct Exposed {
  std::span<std::byte> bytes;
  SlabAccess access = SlabAccess::read_write;
};

}  // namespace

class TcpDataServer::Loop {
 public:
  Loop(Listening listening, Descriptor epoll)
      : listening_(std::move(listening)), epoll_(std::move(epoll)) {
    watch(EPOLL_CTL_ADD, listening_.socket.get(), EPOLLIN, listener_id);
    watch(EPOLL_CTL_ADD, waker_.get(), EPOLLIN, waker_id);
    thread_ = std::thread([this] { run(); });
  }
  ~Loop() {
    in_thread([this] { stopping_ = true; });
    thread_.join();
  }

  std::uint16_t port() const { return listening_.port; }

  // Has the thread do something between two turns, and waits until it is done.
  void in_thread(const std::function<void()>& what) {
    std::unique_lock lock(mutex_);
    bool done = false;
    commands_.push_back([&] {
      what();
      const std::lock_guard locked(mutex_);
      done = true;
      commands_done_.notify_all();
    });
    any_commands_.store(true, std::memory_order_release);
    waker_.wake();
    commands_done_.wait(lock, [&] { return done; });
  }

  std::uint64_t expose(std::span<std::byte> slab, SlabAccess access) {
    std::uint64_t key = 0;
    in_thread([&] {
      do key = random_number();
      while (!exposed_.try_emplace(key, Exposed{slab, access}).second);
    });
    return key;
  }
  void withdraw(std::uint64_t key) {
    in_thread([&] {
      exposed_.erase(key);
      // Whoever is in the middle of it could only be somebody who does not keep to the rules.
      std::erase_if(links_, [&](const auto& link) { return link.second->uses(key); });
    });
  }
  void admit(const LinkToken& token) {
    in_thread([&] { tokens_[token] = 0; });
  }
  void dismiss(const LinkToken& token) {
    in_thread([&] {
      const auto found = tokens_.find(token);
      if (found == tokens_.end()) return;
      links_.erase(found->second);
      tokens_.erase(found);
    });
  }

 private:
  class Link {
   public:
    Link(Loop& loop, Descriptor socket)
        : loop_(loop), socket_(std::move(socket)), since_(TierClock::now()) {}

    int socket() const { return socket_.get(); }
    bool open() const { return token_.has_value(); }
    TierDeadline since() const { return since_; }
    std::uint64_t id = 0;
    std::uint32_t watched = EPOLLIN;

    bool uses(std::uint64_t key) const { return receiving_key_ == key || out_.uses(key); }
    std::uint32_t wanted() const {
      return (out_.count() < answers_max ? std::uint32_t{EPOLLIN} : 0U) |
             (out_.empty() ? 0U : std::uint32_t{EPOLLOUT});
    }

    // One turn. False: it has ended.
    bool serve(std::uint32_t events) {
      if ((events & EPOLLOUT) != 0 && out_.send(socket_.get(), turn_bytes) == Flow::ended)
        return false;
      if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && out_.count() < answers_max &&
          in_.take(socket_.get(), turn_bytes, *this) == Flow::ended) {
        // The last word, if there is one, as far as the socket takes it.
        (void)out_.send(socket_.get(), turn_bytes);
        return false;
      }
      return out_.empty() || out_.send(socket_.get(), turn_bytes) != Flow::ended;
    }

    bool head(const DataHead& head, std::span<std::byte>& into) {
      if (!open()) return begin(head);
      const auto slab = loop_.exposed_.find(head.key);
      const bool writes = head.op == DataOp::write;
      if ((!writes && head.op != DataOp::read) || head.length == 0 ||
          head.length > piece_bytes_max || slab == loop_.exposed_.end() ||
          head.offset > slab->second.bytes.size() ||
          head.length > slab->second.bytes.size() - head.offset ||
          (writes && slab->second.access != SlabAccess::read_write)) {
        out_.add({.op = DataOp::denied, .number = head.number, .key = head.key,
                  .offset = head.offset},
                 {});
        return false;
      }
      const auto bytes = slab->second.bytes.subspan(head.offset, head.length);
      if (writes) {
        into = bytes;
        receiving_key_ = head.key;
      } else {
        DataHead answer = head;
        answer.op = DataOp::data;
        out_.add(answer, {bytes});
      }
      return true;
    }
    bool done(const DataHead& head) {
      if (head.op != DataOp::write || receiving_key_ == 0) return true;
      receiving_key_ = 0;
      shm::reached(shm::points::pool_write_received);
      DataHead answer = head;
      answer.op = DataOp::written;
      out_.add(answer, {});
      return true;
    }

   private:
    bool begin(const DataHead& head) {
      const auto opening = std::bit_cast<LinkOpening>(head);
      const auto token = loop_.tokens_.find(opening.token);
      if (opening.magic != data_magic || token == loop_.tokens_.end() || token->second != 0) {
        out_.add({.op = DataOp::denied}, {});
        return false;
      }
      token->second = id;
      token_ = opening.token;
      out_.add({.op = DataOp::welcome}, {});
      return true;
    }

    Loop& loop_;
    Descriptor socket_;
    TierDeadline since_;
    std::optional<LinkToken> token_;
    DataIntake in_;
    DataOutflow out_;
    std::uint64_t receiving_key_ = 0;
  };

  void watch(int what, int descriptor, std::uint32_t events, std::uint64_t id) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    ::epoll_ctl(epoll_.get(), what, descriptor, &event);
  }

  void run() {
    std::array<epoll_event, 64> events{};
    while (!stopping_) {
      const int count = ::epoll_wait(epoll_.get(), events.data(),
                                     static_cast<int>(events.size()), 1000);
      for (int i = 0; i < count && !stopping_; ++i) {
        if (any_commands_.load(std::memory_order_acquire)) run_commands();
        const epoll_event event = events[static_cast<std::size_t>(i)];
        if (event.data.u64 == listener_id)
          accept();
        else if (event.data.u64 == waker_id)
          waker_.clear();
        else
          serve(event.data.u64, event.events);
      }
      run_commands();
      end_the_silent();
    }
    links_.clear();
  }

  void run_commands() {
    std::vector<std::function<void()>> commands;
    {
      const std::lock_guard lock(mutex_);
      commands.swap(commands_);
      any_commands_.store(false, std::memory_order_relaxed);
    }
    for (const auto& command : commands) command();
  }

  void accept() {
    while (true) {
      Descriptor socket(
          ::accept4(listening_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) {
        // Out of descriptors the listener would be ready for ever; the next second tries again.
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
          watch(EPOLL_CTL_MOD, listening_.socket.get(), 0, listener_id);
          listening_paused_ = true;
        }
        return;
      }
      if (links_.size() >= links_max) continue;
      tune(socket.get(), Traffic::bulk);
      const std::uint64_t id = ++last_id_;
      const int number = socket.get();
      auto& link = links_[id] = std::make_unique<Link>(*this, std::move(socket));
      link->id = id;
      watch(EPOLL_CTL_ADD, number, EPOLLIN, id);
    }
  }

  void serve(std::uint64_t id, std::uint32_t events) {
    const auto found = links_.find(id);
    if (found == links_.end()) return;
    Link& link = *found->second;
    if (!link.serve(events)) {
      links_.erase(found);
      return;
    }
    if (const std::uint32_t wanted = link.wanted(); wanted != link.watched) {
      link.watched = wanted;
      watch(EPOLL_CTL_MOD, link.socket(), wanted, id);
    }
  }

  void end_the_silent() {
    const TierDeadline now = TierClock::now();
    if (now < next_look_) return;
    next_look_ = now + std::chrono::seconds(1);
    std::erase_if(links_, [&](const auto& link) {
      return !link.second->open() && link.second->since() + opening_time < now;
    });
    if (std::exchange(listening_paused_, false))
      watch(EPOLL_CTL_MOD, listening_.socket.get(), EPOLLIN, listener_id);
  }

  Listening listening_;
  Descriptor epoll_;
  Waker waker_;
  // The thread's own:
  std::unordered_map<std::uint64_t, Exposed> exposed_;
  std::map<LinkToken, std::uint64_t> tokens_;  // and the link that came with it; 0: none yet
  std::unordered_map<std::uint64_t, std::unique_ptr<Link>> links_;
  std::uint64_t last_id_ = 15;
  TierDeadline next_look_{};
  bool listening_paused_ = false;
  bool stopping_ = false;

  std::mutex mutex_;
  std::condition_variable commands_done_;
  std::vector<std::function<void()>> commands_;  // guarded by mutex_
  std::atomic<bool> any_commands_{false};
  std::thread thread_;
};

Result<std::unique_ptr<DataServer>> TcpDataServer::listen(const std::string& host,
                                                          std::uint16_t port) {
  auto listening = listen_at({.host = host, .port = port});
  if (!listening) return fail(listening.error());
  Descriptor epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno(errno, "cannot make an epoll instance for the data plane");
  return std::unique_ptr<DataServer>(
      new TcpDataServer(std::make_unique<Loop>(std::move(*listening), std::move(epoll))));
}

TcpDataServer::TcpDataServer(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
TcpDataServer::~TcpDataServer() = default;

std::vector<std::byte> TcpDataServer::address() const {
  const std::uint16_t port = loop_->port();
  const auto bytes = std::as_bytes(std::span(&port, 1));
  return {bytes.begin(), bytes.end()};
}
Result<SlabKey> TcpDataServer::expose(std::span<std::byte> slab, SlabAccess access) {
  return SlabKey{.key = loop_->expose(slab, access), .base = 0};
}
void TcpDataServer::withdraw(const SlabKey& key) { loop_->withdraw(key.key); }
void TcpDataServer::admit(const LinkToken& token) { loop_->admit(token); }
bool TcpDataServer::dismiss(const LinkToken& token) {
  loop_->dismiss(token);
  return true;
}

}  // namespace forebay::spill
