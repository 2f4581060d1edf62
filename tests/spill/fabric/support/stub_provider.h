// SPDX-License-Identifier: Apache-2.0
// A provider of libfabric's within the test: as particular as a NIC, and as unreliable as wanted.
//
// It wants everything that verbs, efa and cxi want of memory, has small limits, and notes each
// misuse: memory that is not registered (any more), regions used before they are bound and enabled,
// things closed in the wrong order. faults() must be empty at the end of a test. One at a time;
// endpoints in this process alone. A thread of its own moves the bytes.
#pragma once

#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_rma.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "spill/fabric/library.h"

namespace forebay::test {

struct StubBehaviour {
  std::string name = "verbs;ofi_rxm";
  int mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_ENDPOINT;
  std::size_t key_bytes = 8;
  std::size_t max_message = 64 * 1024;
  std::size_t iov_limit = 2;
  std::size_t queue = 4;            // posts in flight; the next one is told to try again
  std::size_t most_regions = 1000;  // then registering fails with ENOMEM
  std::uint64_t seed = 1;

  enum class Wait { descriptor, stuck_descriptor, nothing } wait = Wait::descriptor;
  bool endpoint_clings = false;  // it does not close while regions are bound to it
  double refuses = 0;            // of posts, with EAGAIN
  double duplicates = 0;         // of completions
  double drops = 0;              // of completions
  bool reorders = false;
  std::chrono::microseconds delay{0};  // at most

  bool hangs = false;              // no completion ever
  bool completes_early = false;    // before the bytes are there
  bool ignores_keys = false;
  bool reads_garbage = false;
  bool overruns = false;           // the completion queue fails
};

class StubProvider {
 public:
  explicit StubProvider(StubBehaviour behaviour = {})
      : behaviour_(std::move(behaviour)), engine_(behaviour_.seed) {
    if (current_ != nullptr) throw std::logic_error("one stub provider at a time");
    const auto real = spill::fabric::libfabric();
    if (!real) throw std::runtime_error(real.error().message());
    library_ = **real;
    library_.getinfo = &get_info;
    library_.open_fabric = &open_fabric;
    library_.version = [] { return std::uint32_t{FI_VERSION(1, 20)}; };
    current_ = this;
    wire_ = std::thread([this] { move_bytes(); });
  }
  ~StubProvider() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    moved_.notify_all();
    wire_.join();
    current_ = nullptr;
  }
  StubProvider(const StubProvider&) = delete;
  StubProvider& operator=(const StubProvider&) = delete;

  const spill::fabric::Library& library() const { return library_; }
  // Of what has been done wrong to it, and of what is still open.
  std::vector<std::string> faults() const {
    const std::lock_guard lock(mutex_);
    auto all = faults_;
    if (!live_.empty()) all.push_back(std::to_string(live_.size()) + " objects are still open");
    return all;
  }
  std::vector<std::string> faults_so_far() const {
    const std::lock_guard lock(mutex_);
    return faults_;
  }
  // Whether any of these bytes are registered for transfers of this side's own.
  bool registered(std::span<const std::byte> bytes) const {
    const std::lock_guard lock(mutex_);
    for (const Mr* mr : regions_)
      if ((mr->access & (FI_READ | FI_WRITE)) != 0 && mr->start < bytes.data() + bytes.size() &&
          bytes.data() < mr->start + mr->size)
        return true;
    return false;
  }
  std::size_t regions() const {
    const std::lock_guard lock(mutex_);
    return regions_.size();
  }
  std::size_t transfers() const {
    const std::lock_guard lock(mutex_);
    return transfers_;
  }
  std::size_t registrations() const {
    const std::lock_guard lock(mutex_);
    return registrations_;
  }
  // While held, nothing moves.
  void hold(bool held) {
    {
      const std::lock_guard lock(mutex_);
      held_ = held;
    }
    moved_.notify_all();
  }
  void behave(const std::function<void(StubBehaviour&)>& change) {
    const std::lock_guard lock(mutex_);
    change(behaviour_);
  }

 private:
  struct Domain;
  struct Ep;
  struct Fabric {
    fid_fabric fid{};
    int domains = 0;
  };
  struct Domain {
    fid_domain fid{};
    Fabric* fabric = nullptr;
    int children = 0;
  };
  struct Av {
    fid_av fid{};
    Domain* domain = nullptr;
    int bound = 0;
    std::vector<std::uint64_t> names;
  };
  struct Cq {
    fid_cq fid{};
    Domain* domain = nullptr;
    int bound = 0;
    int descriptor = -1;
    bool signalled = false;
    struct Entry {
      void* context;
      int error;
    };
    std::deque<Entry> entries;
    std::deque<Entry> late;  // to come again
    std::condition_variable changed;
  };
  struct Ep {
    fid_ep fid{};
    Domain* domain = nullptr;
    Av* av = nullptr;
    Cq* cq = nullptr;
    std::uint64_t name = 0;
    bool enabled = false;
    std::size_t in_flight = 0;
    int regions = 0;
  };
  struct Mr {
    fid_mr fid{};
    Domain* domain = nullptr;
    Ep* ep = nullptr;
    const std::byte* start = nullptr;
    std::size_t size = 0;
    std::uint64_t access = 0;
    bool enabled = false;
    int in_flight = 0;
  };
  struct Posted {
    Ep* ep;
    bool writes;
    std::vector<iovec> local;
    std::vector<Mr*> regions;
    std::uint64_t peer;
    fi_rma_iov remote;
    void* context;
    std::chrono::steady_clock::time_point due;
    bool completed = false;  // and still to be moved
  };
  using Lock = std::unique_lock<std::mutex>;

  // --- what is asked of the library ---
  static int get_info(std::uint32_t, const char*, const char*, std::uint64_t, const fi_info* hints,
                      fi_info** found) {
    StubProvider& self = *current_;
    const StubBehaviour& how = self.behaviour_;
    if (hints->fabric_attr->prov_name == nullptr || how.name != hints->fabric_attr->prov_name)
      return -FI_ENODATA;
    if ((how.mr_mode & ~hints->domain_attr->mr_mode) != 0) return -FI_ENODATA;
    fi_info* info = self.library_.dupinfo(hints);
    info->caps = FI_MSG | FI_RMA;
    info->addr_format = FI_ADDR_PSMX;
    info->domain_attr->mr_mode = how.mr_mode;
    info->domain_attr->mr_key_size = how.key_bytes;
    info->domain_attr->threading = FI_THREAD_SAFE;
    info->ep_attr->max_msg_size = how.max_message;
    info->tx_attr->iov_limit = how.iov_limit;
    info->tx_attr->rma_iov_limit = 1;
    info->tx_attr->inject_size = 8;
    info->tx_attr->size = 1024;  // it lies: see queue
    *found = info;
    return 0;
  }
  static int open_fabric(fi_fabric_attr*, fid_fabric** opened, void*) {
    static fi_ops ops = ops_with(&close_as<Fabric>);
    static fi_ops_fabric fabric_ops = [] {
      fi_ops_fabric all{};
      all.size = sizeof all;
      all.domain = &open_domain;
      all.trywait = &try_wait;
      return all;
    }();
    auto* const fabric = new Fabric;
    fabric->fid.fid = {FI_CLASS_FABRIC, nullptr, &ops};
    fabric->fid.ops = &fabric_ops;
    *opened = &fabric->fid;
    return current_->opened(fabric);
  }
  static int open_domain(fid_fabric* fabric, fi_info*, fid_domain** opened, void*) {
    static fi_ops ops = ops_with(&close_as<Domain>);
    static fi_ops_domain domain_ops = [] {
      fi_ops_domain all{};
      all.size = sizeof all;
      all.av_open = &open_av;
      all.cq_open = &open_cq;
      all.endpoint = &open_ep;
      return all;
    }();
    static fi_ops_mr mr_ops = [] {
      fi_ops_mr all{};
      all.size = sizeof all;
      all.reg = &register_memory;
      return all;
    }();
    auto* const domain = new Domain;
    domain->fid.fid = {FI_CLASS_DOMAIN, nullptr, &ops};
    domain->fid.ops = &domain_ops;
    domain->fid.mr = &mr_ops;
    domain->fabric = reinterpret_cast<Fabric*>(fabric);
    ++domain->fabric->domains;
    *opened = &domain->fid;
    return current_->opened(domain);
  }
  static int open_av(fid_domain* domain, fi_av_attr*, fid_av** opened, void*) {
    static fi_ops ops = ops_with(&close_as<Av>);
    static fi_ops_av av_ops = [] {
      fi_ops_av all{};
      all.size = sizeof all;
      all.insert = [](fid_av* fid, const void* address, std::size_t, fi_addr_t* inserted,
                      std::uint64_t, void*) {
        auto* const av = reinterpret_cast<Av*>(fid);
        std::uint64_t name = 0;
        std::memcpy(&name, address, sizeof name);
        av->names.push_back(name);
        *inserted = av->names.size() - 1;
        return 1;
      };
      all.straddr = [](fid_av*, const void*, char* text, std::size_t* length) -> const char* {
        std::strncpy(text, "stub", *length);
        return text;
      };
      return all;
    }();
    auto* const av = new Av;
    av->fid.fid = {FI_CLASS_AV, nullptr, &ops};
    av->fid.ops = &av_ops;
    av->domain = reinterpret_cast<Domain*>(domain);
    ++av->domain->children;
    *opened = &av->fid;
    return current_->opened(av);
  }
  static int open_cq(fid_domain* domain, fi_cq_attr* attributes, fid_cq** opened, void*) {
    static fi_ops ops = [] {
      fi_ops all = ops_with(&close_as<Cq>);
      all.control = [](fid* fid, int command, void* into) {
        if (command != FI_GETWAIT) return -FI_ENOSYS;
        *static_cast<int*>(into) = reinterpret_cast<Cq*>(fid)->descriptor;
        return 0;
      };
      return all;
    }();
    static fi_ops_cq cq_ops = [] {
      fi_ops_cq all{};
      all.size = sizeof all;
      all.read = [](fid_cq* cq, void* into, std::size_t count) -> ssize_t {
        const Lock lock(current_->mutex_);
        return current_->read_queue(*reinterpret_cast<Cq*>(cq), into, count);
      };
      all.sread = &wait_for_queue;
      all.readerr = &read_error;
      all.signal = [](fid_cq* cq) {
        const Lock lock(current_->mutex_);
        auto& queue = *reinterpret_cast<Cq*>(cq);
        queue.signalled = true;
        current_->tell(queue);
        return 0;
      };
      all.strerror = [](fid_cq*, int, const void*, char*, std::size_t) -> const char* {
        return "an error of the stub's";
      };
      return all;
    }();
    if (attributes->wait_obj == FI_WAIT_FD &&
        current_->behaviour_.wait == StubBehaviour::Wait::nothing)
      return -FI_ENOSYS;
    auto* const cq = new Cq;
    cq->fid.fid = {FI_CLASS_CQ, nullptr, &ops};
    cq->fid.ops = &cq_ops;
    cq->domain = reinterpret_cast<Domain*>(domain);
    cq->descriptor = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ++cq->domain->children;
    *opened = &cq->fid;
    return current_->opened(cq);
  }
  static int open_ep(fid_domain* domain, fi_info*, fid_ep** opened, void*) {
    static fi_ops ops = [] {
      fi_ops all = ops_with(&close_as<Ep>);
      all.bind = &bind_to_ep;
      all.control = [](fid* fid, int command, void*) {
        auto& ep = *reinterpret_cast<Ep*>(fid);
        const Lock lock(current_->mutex_);
        if (command != FI_ENABLE || ep.av == nullptr || ep.cq == nullptr) return -FI_EOPBADSTATE;
        ep.enabled = true;
        return 0;
      };
      return all;
    }();
    static fi_ops_cm cm_ops = [] {
      fi_ops_cm all{};
      all.size = sizeof all;
      all.getname = [](fid* fid, void* into, std::size_t* length) {
        *length = sizeof(std::uint64_t);
        std::memcpy(into, &reinterpret_cast<Ep*>(fid)->name, sizeof(std::uint64_t));
        return 0;
      };
      return all;
    }();
    static fi_ops_rma rma_ops = [] {
      fi_ops_rma all{};
      all.size = sizeof all;
      all.writemsg = [](fid_ep* ep, const fi_msg_rma* message, std::uint64_t flags) {
        return current_->post(*reinterpret_cast<Ep*>(ep), *message, flags, true);
      };
      all.readmsg = [](fid_ep* ep, const fi_msg_rma* message, std::uint64_t flags) {
        return current_->post(*reinterpret_cast<Ep*>(ep), *message, flags, false);
      };
      return all;
    }();
    auto* const ep = new Ep;
    ep->fid.fid = {FI_CLASS_EP, nullptr, &ops};
    ep->fid.cm = &cm_ops;
    ep->fid.rma = &rma_ops;
    ep->domain = reinterpret_cast<Domain*>(domain);
    ++ep->domain->children;
    {
      const Lock lock(current_->mutex_);
      ep->name = ++current_->last_name_;
      current_->endpoints_[ep->name] = ep;
    }
    *opened = &ep->fid;
    return current_->opened(ep);
  }
  static int bind_to_ep(fid* fid, struct fid* bound, std::uint64_t) {
    auto& ep = *reinterpret_cast<Ep*>(fid);
    const Lock lock(current_->mutex_);
    if (bound->fclass == FI_CLASS_CQ) {
      ep.cq = reinterpret_cast<Cq*>(bound);
      ++ep.cq->bound;
    } else if (bound->fclass == FI_CLASS_AV) {
      ep.av = reinterpret_cast<Av*>(bound);
      ++ep.av->bound;
    } else {
      current_->fault("something odd was bound to an endpoint");
    }
    return 0;
  }
  static int register_memory(fid* fid, const void* start, std::size_t size, std::uint64_t access,
                             std::uint64_t, std::uint64_t key, std::uint64_t flags, fid_mr** made,
                             void*) {
    static fi_ops ops = [] {
      fi_ops all = ops_with(&close_as<Mr>);
      all.bind = [](struct fid* region, struct fid* ep, std::uint64_t) {
        const Lock lock(current_->mutex_);
        auto& mr = *reinterpret_cast<Mr*>(region);
        mr.ep = reinterpret_cast<Ep*>(ep);
        ++mr.ep->regions;
        return 0;
      };
      all.control = [](struct fid* region, int command, void*) {
        const Lock lock(current_->mutex_);
        auto& mr = *reinterpret_cast<Mr*>(region);
        if (command != FI_ENABLE) return -FI_ENOSYS;
        if (mr.ep == nullptr) current_->fault("a region was enabled before it was bound");
        mr.enabled = true;
        return 0;
      };
      return all;
    }();
    StubProvider& self = *current_;
    Lock lock(self.mutex_);
    const int mode = self.behaviour_.mr_mode;
    if (self.regions_.size() >= self.behaviour_.most_regions) return -FI_ENOMEM;
    if ((mode & FI_MR_PROV_KEY) != 0) {
      if (key != 0) self.fault("a key was asked for, where the provider makes them");
      key = ++self.last_key_;
    }
    if (self.behaviour_.key_bytes < 8 && key >> (8 * self.behaviour_.key_bytes) != 0)
      self.fault("a key is longer than keys are");
    for (const Mr* other : self.regions_)
      if (&other->domain->fid.fid == fid && other->fid.key == key) return -FI_ENOKEY;
    if (flags != 0) self.fault("a region was registered with flags");
    if ((mode & FI_MR_ALLOCATED) != 0 && !resident(start, size))
      self.fault("memory was registered that is not populated");
    auto* const mr = new Mr;
    mr->fid.fid = {FI_CLASS_MR, nullptr, &ops};
    mr->fid.mem_desc = mr;
    mr->fid.key = key;
    mr->domain = reinterpret_cast<Domain*>(fid);
    mr->start = static_cast<const std::byte*>(start);
    mr->size = size;
    mr->access = access;
    mr->enabled = (mode & FI_MR_ENDPOINT) == 0;
    ++mr->domain->children;
    ++self.registrations_;
    self.regions_.insert(mr);
    self.live_.insert(mr);
    *made = &mr->fid;
    return 0;
  }
  static int try_wait(fid_fabric*, fid** fids, int) {
    const Lock lock(current_->mutex_);
    auto& cq = *reinterpret_cast<Cq*>(fids[0]);
    if (!cq.entries.empty()) return -FI_EAGAIN;
    std::uint64_t ignored = 0;
    if (current_->behaviour_.wait == StubBehaviour::Wait::descriptor)
      (void)!::read(cq.descriptor, &ignored, sizeof ignored);
    return 0;
  }
  static ssize_t wait_for_queue(fid_cq* fid, void* into, std::size_t count, const void*,
                                int timeout) {
    auto& cq = *reinterpret_cast<Cq*>(fid);
    Lock lock(current_->mutex_);
    const auto until = std::chrono::steady_clock::now() +
                       std::chrono::milliseconds(timeout < 0 ? 100'000 : timeout);
    cq.changed.wait_until(lock, until, [&] { return cq.signalled || !cq.entries.empty(); });
    cq.signalled = false;
    return current_->read_queue(cq, into, count);
  }
  static ssize_t read_error(fid_cq* fid, fi_cq_err_entry* into, std::uint64_t) {
    const Lock lock(current_->mutex_);
    auto& cq = *reinterpret_cast<Cq*>(fid);
    if (cq.entries.empty() || cq.entries.front().error == 0) return -FI_EAGAIN;
    into->op_context = cq.entries.front().context;
    into->err = cq.entries.front().error;
    into->prov_errno = 4711;
    cq.entries.pop_front();
    return 1;
  }

  static fi_ops ops_with(int (*close)(fid*)) {
    fi_ops ops{};
    ops.size = sizeof ops;
    ops.close = close;
    return ops;
  }
  template <class Object>
  static int close_as(fid* fid) {
    auto* const object = reinterpret_cast<Object*>(fid);
    StubProvider& self = *current_;
    const Lock lock(self.mutex_);
    if (!self.live_.contains(object)) {
      self.fault("something was closed twice");
      return -FI_EINVAL;
    }
    if (const int failed = self.closing(*object); failed != 0) return failed;
    self.live_.erase(object);
    delete object;
    return 0;
  }
  int closing(Fabric& fabric) {
    if (fabric.domains > 0) fault("a fabric was closed before its domain");
    return 0;
  }
  int closing(Domain& domain) {
    if (domain.children > 0) fault("a domain was closed before what is in it");
    --domain.fabric->domains;
    return 0;
  }
  int closing(Av& av) {
    if (av.bound > 0) fault("an address vector was closed before its endpoint");
    --av.domain->children;
    return 0;
  }
  int closing(Cq& cq) {
    if (cq.bound > 0) fault("a completion queue was closed before its endpoint");
    ::close(cq.descriptor);
    --cq.domain->children;
    return 0;
  }
  int closing(Ep& ep) {
    if (behaviour_.endpoint_clings && ep.regions > 0) return -FI_EBUSY;
    // What is in flight ends here, with errors that nobody may care for any more.
    for (auto item = posted_.begin(); item != posted_.end();) {
      if (item->ep != &ep) {
        ++item;
        continue;
      }
      for (Mr* mr : item->regions) --mr->in_flight;
      if (!item->completed) ep.cq->entries.push_back({item->context, FI_ECANCELED});
      item = posted_.erase(item);
    }
    for (Mr* mr : regions_)
      if (mr->ep == &ep) mr->ep = nullptr;
    if (ep.cq != nullptr) --ep.cq->bound;
    if (ep.av != nullptr) --ep.av->bound;
    endpoints_.erase(ep.name);
    --ep.domain->children;
    return 0;
  }
  int closing(Mr& mr) {
    // With an endpoint that clings there is no other way.
    if (mr.in_flight > 0 && !behaviour_.endpoint_clings)
      fault("a region was closed under a transfer");
    for (Posted& one : posted_) std::erase(one.regions, &mr);
    if (mr.ep != nullptr) --mr.ep->regions;
    regions_.erase(&mr);
    --mr.domain->children;
    return 0;
  }

  // --- the data path ---
  ssize_t post(Ep& ep, const fi_msg_rma& message, std::uint64_t flags, bool writes) {
    const Lock lock(mutex_);
    if (!live_.contains(&ep) || !ep.enabled) {
      fault("a transfer was posted to an endpoint that is not open");
      return -FI_EOPBADSTATE;
    }
    if (ep.in_flight >= behaviour_.queue || chance(behaviour_.refuses)) return -FI_EAGAIN;
    if ((flags & FI_COMPLETION) == 0) fault("no completion was asked for");
    if (writes && (flags & FI_DELIVERY_COMPLETE) == 0) fault("a write does not ask for delivery");
    if ((flags & FI_INJECT) != 0) fault("more was injected than can be");
    if (message.iov_count > behaviour_.iov_limit) fault("too many parts in a transfer");
    if (message.rma_iov_count != 1) fault("too many remote parts in a transfer");
    Posted posted{.ep = &ep,
                  .writes = writes,
                  .local = {message.msg_iov, message.msg_iov + message.iov_count},
                  .regions = {},
                  .peer = ep.av->names.at(message.addr),
                  .remote = message.rma_iov[0],
                  .context = message.context,
                  .due = std::chrono::steady_clock::now() + some(behaviour_.delay)};
    std::size_t total = 0;
    for (std::size_t i = 0; i < message.iov_count; ++i) {
      const iovec& part = message.msg_iov[i];
      total += part.iov_len;
      if ((behaviour_.mr_mode & FI_MR_LOCAL) == 0) continue;
      auto* const mr = static_cast<Mr*>(message.desc[i]);
      if (!regions_.contains(mr)) {
        fault("a transfer was posted with memory that is not registered");
        return -FI_EINVAL;
      }
      const auto* const start = static_cast<const std::byte*>(part.iov_base);
      if (start < mr->start || start + part.iov_len > mr->start + mr->size)
        fault("a transfer goes beyond its region");
      if (!mr->enabled) fault("a region was used before it was enabled");
      if ((behaviour_.mr_mode & FI_MR_ENDPOINT) != 0 && mr->ep != &ep)
        fault("a region was used that is bound to no or another endpoint");
      if ((mr->access & (writes ? FI_WRITE : FI_READ)) == 0) fault("a region has not that right");
      ++mr->in_flight;
      posted.regions.push_back(mr);
    }
    if (total > behaviour_.max_message) fault("a transfer is too large");
    if (total != message.rma_iov[0].len) fault("both sides of a transfer differ in size");
    ++ep.in_flight;
    ++transfers_;
    posted_.push_back(std::move(posted));
    moved_.notify_all();
    return 0;
  }
  void move_bytes() {
    Lock lock(mutex_);
    while (!stopping_) {
      const auto now = std::chrono::steady_clock::now();
      auto next = posted_.end();
      auto soonest = now + std::chrono::milliseconds(50);
      for (auto item = posted_.begin(); item != posted_.end() && !held_; ++item) {
        soonest = std::min(soonest, item->due);
        if (item->due > now) continue;
        next = item;
        if (!behaviour_.reorders || chance(0.5)) break;
      }
      if (next == posted_.end() || held_) {
        moved_.wait_until(lock, soonest);
        continue;
      }
      if (!next->completed && behaviour_.completes_early) {
        complete(*next, 0);
        next->completed = true;
        next->due = now + std::chrono::milliseconds(100);
        continue;
      }
      Posted one = std::move(*next);
      posted_.erase(next);
      const int error = move(one);
      for (Mr* mr : one.regions) --mr->in_flight;
      if (!one.completed) complete(one, error);
    }
  }
  int move(const Posted& one) {
    const auto target = endpoints_.find(one.peer);
    if (target == endpoints_.end()) return FI_ECONNRESET;
    const Mr* found = nullptr;
    for (const Mr* mr : regions_)
      if (mr->domain == target->second->domain && mr->enabled &&
          (mr->access & (one.writes ? FI_REMOTE_WRITE : FI_REMOTE_READ)) != 0 &&
          (mr->fid.key == one.remote.key || behaviour_.ignores_keys))
        found = mr;
    if (found == nullptr) return FI_EACCES;
    const bool virtual_addresses = (behaviour_.mr_mode & FI_MR_VIRT_ADDR) != 0;
    const auto start = reinterpret_cast<std::uint64_t>(found->start);
    const std::uint64_t offset = one.remote.addr - (virtual_addresses ? start : 0);
    if (offset > found->size || one.remote.len > found->size - offset) return FI_EACCES;
    auto* remote = const_cast<std::byte*>(found->start) + offset;
    for (const iovec& part : one.local) {
      if (one.writes)
        std::memcpy(remote, part.iov_base, part.iov_len);
      else
        std::memcpy(part.iov_base, remote, part.iov_len);
      if (!one.writes && behaviour_.reads_garbage) static_cast<char*>(part.iov_base)[0] ^= 1;
      remote += part.iov_len;
    }
    return 0;
  }
  void complete(const Posted& one, int error) {
    --one.ep->in_flight;
    if (behaviour_.hangs || chance(behaviour_.drops)) return;
    one.ep->cq->entries.push_back({one.context, error});
    // Sometimes much later, after others.
    if (error == 0 && chance(behaviour_.duplicates)) {
      Cq& cq = *one.ep->cq;
      cq.late.push_back({one.context, 0});
      if (chance(0.5)) {
        cq.entries.push_back(cq.late.front());
        cq.late.pop_front();
      }
    }
    tell(*one.ep->cq);
  }
  ssize_t read_queue(Cq& cq, void* into, std::size_t count) {
    if (behaviour_.overruns) return -FI_EOVERRUN;
    if (cq.entries.empty()) return -FI_EAGAIN;
    if (cq.entries.front().error != 0) return -FI_EAVAIL;
    std::size_t read = 0;
    for (; read < count && !cq.entries.empty() && cq.entries.front().error == 0; ++read) {
      auto& entry = static_cast<fi_cq_data_entry*>(into)[read];
      entry = {};
      entry.op_context = cq.entries.front().context;
      cq.entries.pop_front();
    }
    return static_cast<ssize_t>(read);
  }
  void tell(Cq& cq) {
    const std::uint64_t one = 1;
    (void)!::write(cq.descriptor, &one, sizeof one);
    cq.changed.notify_all();
  }

  int opened(void* object) {
    const Lock lock(mutex_);
    live_.insert(object);
    return 0;
  }
  void fault(const std::string& what) { faults_.push_back(what); }
  bool chance(double probability) {
    return probability > 0 && std::uniform_real_distribution<double>(0, 1)(engine_) < probability;
  }
  std::chrono::microseconds some(std::chrono::microseconds most) {
    if (most.count() == 0) return most;
    return std::chrono::microseconds(
        static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(most.count())));
  }
  static bool resident(const void* start, std::size_t size) {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto first = reinterpret_cast<std::uintptr_t>(start) / page * page;
    const auto bytes = reinterpret_cast<std::uintptr_t>(start) + size - first;
    std::vector<unsigned char> pages((bytes + page - 1) / page);
    if (::mincore(reinterpret_cast<void*>(first), bytes, pages.data()) != 0) return false;
    return std::all_of(pages.begin(), pages.end(),
                       [](unsigned char one) { return (one & 1) != 0; });
  }

  inline static StubProvider* current_ = nullptr;
  StubBehaviour behaviour_;
  spill::fabric::Library library_;
  mutable std::mutex mutex_;  // guards all that follows, and all objects
  std::condition_variable moved_;
  std::mt19937_64 engine_;
  std::vector<std::string> faults_;
  std::set<void*> live_;
  std::set<Mr*> regions_;
  std::map<std::uint64_t, Ep*> endpoints_;
  std::deque<Posted> posted_;
  std::uint64_t last_name_ = 100;
  std::uint64_t last_key_ = 1000;
  std::size_t transfers_ = 0;
  std::size_t registrations_ = 0;
  bool held_ = false;
  bool stopping_ = false;
  std::thread wire_;
};

}  // namespace forebay::test
