// SPDX-License-Identifier: Apache-2.0
#include "bench/eviction/simulator.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>

#include "bench/eviction/least_recently_used.h"
#include "store/daemon/greedy_dual.h"

namespace forebay::bench {
namespace {

using daemon::EntryNumber;

constexpr double latency_s = 30e-6;
constexpr double bytes_per_s = 10e9;
constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();

double fetch_seconds(std::uint64_t size) {
  return latency_s + static_cast<double>(size) / bytes_per_s;
}

class Policy {
 public:
  virtual ~Policy() = default;
  // `next` is the event at which it is read next, for who may know.
  virtual void add(EntryNumber entry, std::uint64_t size, std::uint64_t next) = 0;
  virtual void touch(EntryNumber entry, std::uint64_t next) = 0;
  virtual void remove(EntryNumber entry) = 0;
  virtual void evict(EntryNumber entry) { remove(entry); }
  virtual void last_use(EntryNumber) {}
  virtual bool is_dead(EntryNumber) const { return false; }
  virtual EntryNumber coldest(std::uint64_t now) const = 0;
};

class Lru final : public Policy {
 public:
  void add(EntryNumber entry, std::uint64_t, std::uint64_t) override { order_.add(entry); }
  void touch(EntryNumber entry, std::uint64_t) override {
    dead_.erase(entry);
    order_.touch(entry);
  }
  void remove(EntryNumber entry) override {
    dead_.erase(entry);
    order_.remove(entry);
  }
  void last_use(EntryNumber entry) override { dead_.insert(entry); }
  bool is_dead(EntryNumber entry) const override { return dead_.contains(entry); }
  EntryNumber coldest(std::uint64_t) const override {
    return dead_.empty() ? order_.coldest() : *dead_.begin();
  }

 private:
  LeastRecentlyUsed order_;
  std::set<EntryNumber> dead_;
};

class Greedy final : public Policy {
 public:
  void add(EntryNumber entry, std::uint64_t size, std::uint64_t) override {
    policy_.add(entry, size);
  }
  void touch(EntryNumber entry, std::uint64_t) override { policy_.touch(entry); }
  void remove(EntryNumber entry) override { policy_.remove(entry); }
  void evict(EntryNumber entry) override { policy_.evict(entry); }
  void last_use(EntryNumber entry) override {
    policy_.hint(entry, daemon::GreedyDual::LastUse{});
  }
  bool is_dead(EntryNumber entry) const override { return policy_.is_dead(entry); }
  EntryNumber coldest(std::uint64_t) const override { return policy_.coldest(); }

 private:
  daemon::GreedyDual policy_;
};

class Belady final : public Policy {
 public:
  explicit Belady(bool by_cost) : by_cost_(by_cost) {}
  void add(EntryNumber entry, std::uint64_t size, std::uint64_t next) override {
    entries_[entry] = {size, next};
    order_.insert({next, entry});
  }
  void touch(EntryNumber entry, std::uint64_t next) override {
    Entry& touched = entries_.at(entry);
    order_.erase({touched.next, entry});
    touched.next = next;
    order_.insert({next, entry});
  }
  void remove(EntryNumber entry) override {
    const auto found = entries_.find(entry);
    if (found == entries_.end()) return;
    order_.erase({found->second.next, entry});
    entries_.erase(found);
  }
  bool is_dead(EntryNumber entry) const override { return entries_.at(entry).next == never; }
  EntryNumber coldest(std::uint64_t now) const override {
    if (order_.empty()) return daemon::no_entry;
    const auto farthest = std::prev(order_.end());
    if (!by_cost_ || farthest->first == never) return farthest->second;
    EntryNumber worst = daemon::no_entry;
    double most = -1;
    for (const auto& [next, entry] : order_) {
      const auto size = static_cast<double>(entries_.at(entry).size);
      const double score =
          static_cast<double>(next - now) * size / fetch_seconds(entries_.at(entry).size);
      if (score > most) {
        most = score;
        worst = entry;
      }
    }
    return worst;
  }

 private:
  struct Entry {
    std::uint64_t size = 0;
    std::uint64_t next = 0;
  };
  const bool by_cost_;
  std::unordered_map<EntryNumber, Entry> entries_;
  std::set<std::pair<std::uint64_t, EntryNumber>> order_;
};

// For each event, the next one that reads the same segment.
std::vector<std::uint64_t> next_reads(const Trace& trace) {
  std::vector<std::uint64_t> next(trace.size(), never);
  std::unordered_map<std::uint64_t, std::uint64_t> coming;
  for (std::size_t i = trace.size(); i-- > 0;) {
    const auto found = coming.find(trace[i].id);
    if (found != coming.end()) next[i] = found->second;
    if (trace[i].op == Op::read) coming[trace[i].id] = i;
  }
  return next;
}

class Run {
 public:
  Run(const Trace& trace, std::uint64_t capacity, Policy& policy, bool hints, bool bound)
      : trace_(trace), capacity_(capacity), policy_(policy), hints_(hints), bound_(bound) {}

  Outcome result(const std::vector<std::uint64_t>& next) {
    for (now_ = 0; now_ < trace_.size(); ++now_) {
      const Event& event = trace_[now_];
      const EntryNumber entry = numbers_.emplace(event.id, numbers_.size() + 1).first->second;
      if (segments_.size() <= entry) segments_.resize(entry + 1);
      Segment& segment = segments_[entry];
      switch (event.op) {
        case Op::create:
          segment = {event.size, false, false};
          bring_in(entry, next[now_]);
          break;
        case Op::read:
          ++outcome_.reads;
          outcome_.read_bytes += event.size;
          if (segment.resident) {
            policy_.touch(entry, next[now_]);
            break;
          }
          // One that the trace did not see being made was outside before it began.
          segment.size = event.size;
          segment.spilled = true;
          ++outcome_.refetches;
          outcome_.refetched_bytes += event.size;
          outcome_.refetch_seconds += fetch_seconds(event.size);
          bring_in(entry, next[now_]);
          break;
        case Op::remove:
          if (std::exchange(segment.resident, false)) {
            used_ -= segment.size;
            policy_.remove(entry);
          }
          break;
        case Op::last_use:
          if (hints_ && segment.resident) policy_.last_use(entry);
      }
    }
    return outcome_;
  }

 private:
  struct Segment {
    std::uint64_t size = 0;
    bool resident = false;
    bool spilled = false;
  };

  void bring_in(EntryNumber entry, std::uint64_t next) {
    Segment& segment = segments_[entry];
    if (segment.size > capacity_) return spill(segment, false);
    if (!bound_) make_room(segment.size);
    used_ += segment.size;
    segment.resident = true;
    policy_.add(entry, segment.size, next);
    if (bound_) make_room(0);
  }
  void make_room(std::uint64_t bytes) {
    while (used_ + bytes > capacity_) {
      const EntryNumber victim = policy_.coldest(now_);
      Segment& segment = segments_[victim];
      spill(segment, policy_.is_dead(victim));
      segment.resident = false;
      used_ -= segment.size;
      policy_.evict(victim);
    }
  }
  void spill(Segment& segment, bool dead) {
    if (dead || std::exchange(segment.spilled, true)) return;
    outcome_.spilled_bytes += segment.size;
  }

  const Trace& trace_;
  const std::uint64_t capacity_;
  Policy& policy_;
  const bool hints_;
  const bool bound_;
  std::uint64_t now_ = 0;
  std::uint64_t used_ = 0;
  std::unordered_map<std::uint64_t, EntryNumber> numbers_;
  std::vector<Segment> segments_;
  Outcome outcome_;
};

}  // namespace

std::string name_of(PolicyKind policy) {
  switch (policy) {
    case PolicyKind::lru: return "LRU";
    case PolicyKind::lru_hints: return "LRU, hints";
    case PolicyKind::greedy_dual: return "GreedyDual";
    case PolicyKind::greedy_dual_hints: return "GreedyDual, hints";
    case PolicyKind::belady: return "Belady";
  }
  return "";
}

Outcome simulate(const Trace& trace, std::uint64_t capacity_bytes, PolicyKind policy) {
  const auto next = next_reads(trace);
  const auto run = [&](Policy& with, bool hints, bool bound) {
    return Run(trace, capacity_bytes, with, hints, bound).result(next);
  };
  switch (policy) {
    case PolicyKind::lru:
    case PolicyKind::lru_hints: {
      Lru lru;
      return run(lru, policy == PolicyKind::lru_hints, false);
    }
    case PolicyKind::greedy_dual:
    case PolicyKind::greedy_dual_hints: {
      Greedy greedy;
      return run(greedy, policy == PolicyKind::greedy_dual_hints, false);
    }
    case PolicyKind::belady: break;
  }
  Belady farthest(false);
  Belady by_cost(true);
  const Outcome one = run(farthest, false, true);
  const Outcome other = run(by_cost, false, true);
  return one.refetch_seconds <= other.refetch_seconds ? one : other;
}

}  // namespace forebay::bench
