// SPDX-License-Identifier: Apache-2.0
// Buckets: a hash table of cache-line buckets that one process changes and many read meanwhile.
//
// Linear hashing: the table grows by one line at a time, so that no insert ever pauses for a rehash
// and the index needs memory only for what it holds. (Litwin, "Linear hashing: a new tool for file
// and table addressing", VLDB 1980.) A slot carries 32 bits of the key's hash: enough to choose the
// line and to tell nearly all strangers apart, so that a look-up costs one line here and one entry.
//
// What readers may rely on, and why a miss is true:
//   - A slot never moves within a line. Replacing a version by a newer one is one store.
//   - Growth copies a key into its new line, then publishes the new number of lines, then empties
//     the old slot: who misses it in the old line sees the new number and looks again.
//   - An overflow line leaves a bucket only from the end of its list and only when empty.
// A reader that found a slot but not its key in the entry looks at the slot again: an entry is
// reused only after its slots have been redirected or emptied.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <vector>

#include "store/check.h"
#include "store/shm/failpoint.h"
#include "store/shm/layout.h"
#include "store/shm/protocol.h"

namespace forebay::shm {

constexpr std::uint64_t make_slot(std::uint32_t hash, std::uint32_t entry) {
  return std::uint64_t{hash} << 32U | entry;
}
constexpr std::uint32_t slot_hash(std::uint64_t slot) {
  return static_cast<std::uint32_t>(slot >> 32U);
}
constexpr std::uint32_t slot_entry(std::uint64_t slot) { return static_cast<std::uint32_t>(slot); }

// Which of `lines` lines is the home of `hash`; lines ≥ 1.
constexpr std::uint32_t home_of(std::uint32_t hash, std::uint32_t lines) {
  const std::uint32_t mask = std::bit_ceil(lines) - 1;
  const std::uint32_t home = hash & mask;
  return home < lines ? home : home & (mask >> 1U);
}

// One of the two bucket arrays, as both sides see it.
template <class Counter, class Line>
struct Buckets {
  Counter* in_use;  // lines in use
  Line* lines;
  Line* overflow;  // shared by both arrays; number 0 is never used
};

// How often a reader starts again before it gives up and asks the daemon; only a daemon that was
// stopped or killed between two stores makes anybody get near it.
inline constexpr int search_rounds_max = 256;
inline constexpr int search_hops_max = 64;

// Looks for `hash` and calls `attempt(entry)` for each candidate until it answers something else
// than `mismatch`. Answers: what attempt said; mismatch: certainly absent; changed: undecided.
template <class Counter, class Line, class Attempt>
Probe search(const Buckets<Counter, Line>& buckets, std::uint32_t hash, Attempt&& attempt) {
  for (int round = 0; round < search_rounds_max; ++round) {
    const std::uint32_t in_use = buckets.in_use->load(std::memory_order_acquire);
    const Line* line = &buckets.lines[home_of(hash, in_use)];
    bool again = false;
    for (int hop = 0; hop < search_hops_max && !again; ++hop) {
      for (const auto& slot : line->slots) {
        const std::uint64_t seen = slot.load(std::memory_order_acquire);
        if (slot_hash(seen) != hash || slot_entry(seen) == no_entry) continue;
        const Probe answer = attempt(slot_entry(seen));
        if (answer == Probe::pinned) return answer;
        if (answer == Probe::changed || slot.load(std::memory_order_acquire) != seen) {
          again = true;
          break;
        }
        if (answer != Probe::mismatch) return answer;
      }
      if (again) break;
      const std::uint32_t next = line->overflow.load(std::memory_order_acquire);
      if (next == 0) {
        if (buckets.in_use->load(std::memory_order_acquire) == in_use) return Probe::mismatch;
        again = true;
        break;
      }
      line = &buckets.overflow[next];
    }
  }
  return Probe::changed;
}

// The overflow lines that no bucket uses. The daemon's private knowledge, derived at a restart.
class OverflowPool {
 public:
  // Lines up to `backed` have memory; number 0 is never handed out.
  void set_backed(std::uint32_t backed) { backed_ = backed; }
  std::uint32_t available() const {
    return static_cast<std::uint32_t>(free_.size()) + (backed_ > next_ ? backed_ - next_ : 0);
  }
  std::uint32_t take() {
    STORE_CHECK(available() > 0, "room for an overflow line was promised");
    if (free_.empty()) return next_++;
    const std::uint32_t line = free_.back();
    free_.pop_back();
    return line;
  }
  void give_back(std::uint32_t line) { free_.push_back(line); }
  // At a restart: `used[n]` says whether line n hangs on some bucket.
  void adopt(const std::vector<bool>& used);

 private:
  std::vector<std::uint32_t> free_;
  std::uint32_t next_ = 1;
  std::uint32_t backed_ = 0;
};

inline void OverflowPool::adopt(const std::vector<bool>& used) {
  free_.clear();
  next_ = 1;
  for (std::size_t line = used.size(); line-- > 1;) {
    if (used[line]) {
      next_ = static_cast<std::uint32_t>(line) + 1;
      break;
    }
  }
  for (std::uint32_t line = next_; line-- > 1;)
    if (!used[line]) free_.push_back(line);
}

// The daemon's side. Each function leaves the table whole if the daemon dies in the middle of it: a
// key may then stand twice, never nowhere.
template <class Counter, class Line>
class BucketWriter {
 public:
  BucketWriter(Buckets<Counter, Line> buckets, OverflowPool& pool)
      : buckets_(buckets), pool_(&pool) {}

  // Adds a slot. One overflow line must be available.
  void insert(std::uint32_t hash, std::uint32_t entry) {
    insert_into(home(hash), make_slot(hash, entry));
  }

  // Redirects the slot of `from` to `to` by one store; false: there was none.
  bool replace(std::uint32_t hash, std::uint32_t from, std::uint32_t to) {
    auto* slot = find(hash, from);
    if (slot == nullptr) return false;
    slot->store(make_slot(hash, to), std::memory_order_release);
    return true;
  }

  // Empties the slot of `entry`; false: there was none.
  bool erase(std::uint32_t hash, std::uint32_t entry) {
    auto* slot = find(hash, entry);
    if (slot == nullptr) return false;
    slot->store(0, std::memory_order_release);
    trim(home(hash));
    return true;
  }

  bool contains(std::uint32_t hash, std::uint32_t entry) { return find(hash, entry) != nullptr; }

  // Calls visit(entry) for each slot with this hash until it returns true.
  template <class Visit>
  std::optional<std::uint32_t> find_if(std::uint32_t hash, Visit&& visit) const {
    for (const Line* line = &buckets_.lines[home(hash)]; line != nullptr; line = next(line))
      for (const auto& slot : line->slots) {
        const std::uint64_t seen = slot.load(std::memory_order_relaxed);
        if (slot_hash(seen) == hash && slot_entry(seen) != no_entry && visit(slot_entry(seen)))
          return slot_entry(seen);
      }
    return std::nullopt;
  }

  std::uint32_t lines() const { return buckets_.in_use->load(std::memory_order_relaxed); }

  // Splits one bucket in two. The next line must be backed and empty, and as many overflow lines
  // available as the bucket has.
  void grow() {
    const std::uint32_t before = lines();
    const std::uint32_t born = before;
    const std::uint32_t split = before & (std::bit_ceil(before + 1) / 2 - 1);
    std::vector<std::uint64_t> leaving;
    for (const Line* line = &buckets_.lines[split]; line != nullptr; line = next(line))
      for (const auto& slot : line->slots) {
        const std::uint64_t seen = slot.load(std::memory_order_relaxed);
        if (slot_entry(seen) != no_entry && home_of(slot_hash(seen), before + 1) == born)
          leaving.push_back(seen);
      }
    for (const std::uint64_t slot : leaving) insert_into(born, slot);
    reached(points::buckets_copied);
    buckets_.in_use->store(before + 1, std::memory_order_release);
    reached(points::buckets_published);
    for (Line* line = &buckets_.lines[split]; line != nullptr; line = next(line))
      for (auto& slot : line->slots) {
        const std::uint64_t seen = slot.load(std::memory_order_relaxed);
        if (slot_entry(seen) != no_entry && home_of(slot_hash(seen), before + 1) == born)
          slot.store(0, std::memory_order_release);
      }
    trim(split);
  }

  // How many overflow lines the bucket has that grow() would split.
  std::uint32_t overflow_of_next_split() const {
    const std::uint32_t before = lines();
    std::uint32_t count = 0;
    const Line* line = &buckets_.lines[before & (std::bit_ceil(before + 1) / 2 - 1)];
    while ((line = next(line)) != nullptr) ++count;
    return count;
  }

  // Calls visit(line number, slot) for each slot of each line in use; used at a restart, to repair.
  // Overflow numbers met on the way are marked in `used`; a link out of range or already marked is
  // cut, for no bucket can share a line with another.
  template <class Visit>
  void repair(std::vector<bool>& used, Visit&& visit) {
    for (std::uint32_t number = 0; number < lines(); ++number) {
      Line* line = &buckets_.lines[number];
      while (line != nullptr) {
        for (auto& slot : line->slots) {
          const std::uint64_t seen = slot.load(std::memory_order_relaxed);
          if (seen != 0 && !visit(number, seen)) slot.store(0, std::memory_order_release);
        }
        const std::uint32_t link = line->overflow.load(std::memory_order_relaxed);
        if (link == 0) break;
        if (link >= used.size() || used[link]) {
          line->overflow.store(0, std::memory_order_release);
          break;
        }
        used[link] = true;
        line = &buckets_.overflow[link];
      }
    }
  }

 private:
  std::uint32_t home(std::uint32_t hash) const { return home_of(hash, lines()); }

  template <class AnyLine>
  AnyLine* next(AnyLine* line) const {
    const std::uint32_t link = line->overflow.load(std::memory_order_relaxed);
    return link == 0 ? nullptr : &buckets_.overflow[link];
  }

  auto* find(std::uint32_t hash, std::uint32_t entry) {
    const std::uint64_t wanted = make_slot(hash, entry);
    using Slot = std::remove_reference_t<decltype(buckets_.lines[0].slots[0])>;
    for (Line* line = &buckets_.lines[home(hash)]; line != nullptr; line = next(line))
      for (Slot& slot : line->slots)
        if (slot.load(std::memory_order_relaxed) == wanted) return &slot;
    return static_cast<Slot*>(nullptr);
  }

  void insert_into(std::uint32_t number, std::uint64_t value) {
    Line* line = &buckets_.lines[number];
    while (true) {
      for (auto& slot : line->slots)
        if (slot.load(std::memory_order_relaxed) == 0) {
          slot.store(value, std::memory_order_release);
          return;
        }
      Line* following = next(line);
      if (following == nullptr) break;
      line = following;
    }
    const std::uint32_t fresh = pool_->take();
    Line* added = &buckets_.overflow[fresh];
    // A reader that was left behind in this line's former bucket may still be looking at it.
    for (auto& slot : added->slots) slot.store(0, std::memory_order_release);
    added->overflow.store(0, std::memory_order_release);
    added->slots[0].store(value, std::memory_order_release);
    line->overflow.store(fresh, std::memory_order_release);
  }

  // Takes empty overflow lines off the end of a bucket's list.
  void trim(std::uint32_t number) {
    while (true) {
      Line* before = nullptr;
      Line* line = &buckets_.lines[number];
      for (Line* after = next(line); after != nullptr; after = next(line)) {
        before = line;
        line = after;
      }
      if (before == nullptr) return;
      for (const auto& slot : line->slots)
        if (slot.load(std::memory_order_relaxed) != 0) return;
      pool_->give_back(before->overflow.load(std::memory_order_relaxed));
      before->overflow.store(0, std::memory_order_release);
    }
  }

  Buckets<Counter, Line> buckets_;
  OverflowPool* pool_;
};

}  // namespace forebay::shm
