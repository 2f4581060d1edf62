// SPDX-License-Identifier: Apache-2.0
// LinkThread: the thread of one link, which makes all of its calls into libfabric's data path.
//
// Operations come in from any thread and are cut into transfers, of which a window is in flight.
// Each operation is answered once: when all its transfers are complete, or when the endpoint has
// been closed. That happens at the first failed completion or post, at the deadline of an operation
// of which a byte may be under way (or could not be posted so long), and when asked; and for good.
// An operation of which nothing was tried when its deadline came is answered alone, as timed_out.
//
// Shared by the link and the thread, so that the last of both may go within a callback.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "spill/fabric/endpoint.h"
#include "spill/fabric/memory.h"
#include "spill/fabric/transfers.h"
#include "spill/pool/data_link.h"
#include "spill/waker.h"
#include "store/descriptor.h"

namespace forebay::spill::fabric {

struct LinkLimits {
  std::size_t chunk_bytes = std::size_t{1} << 20U;  // of one transfer, at most
  unsigned window = 4;                              // so many of them in flight
  // After small transfers, the thread looks for the next one so long before it sleeps.
  std::chrono::microseconds spin{20};
  std::shared_ptr<const RightOfWay> gives_way_to{};  // null: to nobody
};

struct Operation {
  bool writes = false;
  SlabKey slab;
  std::uint64_t offset = 0;                       // of what is to be posted next
  std::vector<std::span<const std::byte>> parts;  // of a read, one; it is written to
  TierDeadline deadline;
  DataLink::Done done;

  std::size_t part = 0;       // of what is to be posted next
  std::size_t part_at = 0;
  std::size_t left = 0;       // bytes not posted yet
  unsigned in_flight = 0;     // transfers
  bool tried = false;         // something of it was posted, or would have been
  std::optional<Error> failed;  // of its own; answered when nothing of it is in flight
  std::list<Operation>::iterator self;
};

class LinkThread : public std::enable_shared_from_this<LinkThread> {
 public:
  static Result<std::shared_ptr<LinkThread>> start(std::unique_ptr<Endpoint> endpoint,
                                                   fi_addr_t peer, std::string peer_text,
                                                   LinkLimits limits);
  ~LinkThread();

  // Any thread:
  void submit(Operation operation);
  void close();
  void leaves(std::span<const std::byte> bytes);
  bool is_open() const { return open_.load(std::memory_order_acquire); }
  // Closes, and ends the thread; waits for it unless called from it. The last call.
  void end();

 private:
  using Operations = std::list<Operation>;
  enum class Posted { all, again, window_full, dead };

  LinkThread(std::unique_ptr<Endpoint> endpoint, fi_addr_t peer, std::string peer_text,
             LinkLimits limits);
  Result<void> open_descriptors();
  void run();
  bool take_submissions();
  bool post();
  Posted post_transfers(Operation& operation);
  bool gives_way() const;
  ssize_t post_one(Operation& operation, std::size_t most);
  bool reap();
  bool handle(std::span<const fi_cq_data_entry> entries, ssize_t count);
  void finish_if_done(Operation& operation);
  void expire();
  void fail_for_good(Errc code, const std::string& why, const Operation* culprit);
  void answer(Operation& operation, Result<void> result);
  void call_back();
  void close_here();
  bool on_own_thread() const { return std::this_thread::get_id() == thread_.get_id(); }
  void note_activity();
  void sleep();
  void sleep_at_queue(int timeout_ms);
  void sleep_at_descriptors(int timeout_ms);
  bool spins() const;
  // Whether it is to end.
  bool do_as_asked();
  // Once for each sleep. Unlocks.
  void wake_up(std::unique_lock<std::mutex>& lock);

  const fi_addr_t peer_;
  const std::string peer_text_;
  const LinkLimits limits_;
  std::size_t most_bytes_ = 0;  // of one transfer: chunk_bytes, or what the provider can
  std::size_t most_parts_ = 0;  // of one transfer

  std::unique_ptr<Endpoint> endpoint_;  // null once closed
  std::unique_ptr<LocalMemory> memory_;
  Transfers transfers_;
  Operations open_operations_;
  std::deque<Operations::iterator> waiting_;  // not wholly posted, in order
  TierDeadline next_deadline_ = TierDeadline::max();  // not after the first deadline
  bool again_ = false;                        // the provider would not take the last post
  TierDeadline last_active_;
  std::chrono::milliseconds nap_{1};          // the longest that the next sleep at the queue may be
  std::string why_closed_;
  struct Answer {
    DataLink::Done done;
    Result<void> result;
  };
  std::deque<Answer> answers_;
  std::vector<iovec> vectors_;  // of the transfer being made
  std::vector<void*> descriptions_;
  std::vector<std::shared_ptr<Registration>> held_;

  std::atomic<bool> open_{true};
  std::atomic<bool> has_submissions_{false};
  std::atomic<bool> asked_{false};  // to close, or to end
  std::mutex mutex_;
  std::condition_variable closed_;
  std::vector<Operation> submissions_;  // guarded by mutex_
  std::vector<Operation> taken_;
  // Where the thread sleeps, and nobody has woken it yet. Guarded by mutex_; while it is at_queue
  // the endpoint is there.
  enum class Asleep { no, at_queue, at_descriptors } asleep_ = Asleep::no;
  bool close_asked_ = false;            // guarded by mutex_
  bool close_answered_ = false;         // guarded by mutex_
  bool end_asked_ = false;              // guarded by mutex_
  Waker wake_up_;
  Descriptor epoll_;
  std::thread thread_;
};

}  // namespace forebay::spill::fabric
