// SPDX-License-Identifier: Apache-2.0
// GreedyDual: which segment is worth its memory least, by what it would cost to get it back.
//
// A segment's worth is H = L + f * (latency + size / bandwidth) / size: the time to fetch it, for
// each byte that it keeps from others, above a floor L that rises to the worth of whatever was
// evicted last; so what is not used sinks by itself. Latency is left out where the transfer takes
// longer (from 300 KB on, as it is set): such segments are worth the same for each byte, and go by
// their last use. f is 1 (GreedyDual-Size, which is no worse than least recently used) until
// somebody says of a segment that it has been used for the last time: whoever does that takes dead
// ones out of the way, and from then on f is the root of how often the segment was used lately (as
// GDSF), which would mistake the dead for the dear without. What is said of the next use counts
// more than counts.
//
// Pure: no clock; time is the number of uses. Owned by the daemon's thread. All operations take
// O(log n); those on what is not there do nothing.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <tuple>
#include <unordered_map>

#include "store/daemon/segment_table.h"

namespace forebay::daemon {

class GreedyDual {
 public:
  struct Options {
    double latency_ns = 30'000;  // of getting anything back
    double bytes_per_ns = 10;
  };

  // What a task framework knows.
  struct LastUse {};     // nobody will read it any more: it goes before all others
  struct NextUse {       // about so many uses of any segments come before its own next one
    std::uint64_t distance = 0;
  };
  struct Priority {      // each step doubles its worth, or halves it
    int steps = 0;
  };

  GreedyDual() : GreedyDual(Options{}) {}
  explicit GreedyDual(Options options) : options_(options) {}

  // What taking it would take. Who looks for a victim looks in one class at a time; its worth does not
  // depend on it.
  enum class Class : std::uint8_t {
    ready,       // can go at once
    dirty,       // has to be copied into a tier first
    travelling,  // is being copied
  };

  // It is in memory now. What is there already is touched and may have another size and class.
  void add(EntryNumber entry, std::uint64_t size, Class of = Class::ready);
  // Changes its class alone.
  void set_class(EntryNumber entry, Class of);
  // It is gone, for a reason of its own.
  void remove(EntryNumber entry);
  // It was taken to make room: the floor rises to its worth.
  void evict(EntryNumber entry);
  // It was read. A weight below 1 raises its worth only a part of the way: so who gives the uses of
  // each client a weight caps what one of them can keep in memory.
  void touch(EntryNumber entry, double weight = 1);
  void hint(EntryNumber entry, LastUse);
  void hint(EntryNumber entry, NextUse next);
  void hint(EntryNumber entry, Priority priority);

  // no_entry: none of that class.
  EntryNumber coldest(Class of = Class::ready) const {
    const auto& order = order_[static_cast<std::size_t>(of)];
    return order.empty() ? no_entry : std::get<2>(*order.begin());
  }
  // The coldest of its class but for `entry`, which is there, and those that are colder.
  EntryNumber next_warmer(EntryNumber entry) const;
  bool contains(EntryNumber entry) const { return entries_.contains(entry); }
  std::size_t count(Class of = Class::ready) const {
    return order_[static_cast<std::size_t>(of)].size();
  }
  // Whether it has been said to be used no more: then its bytes need not be kept anywhere.
  bool is_dead(EntryNumber entry) const;

 private:
  // Its worth; then by when it was used, so that among equals the least recently used goes first.
  using Place = std::tuple<double, std::uint64_t, EntryNumber>;
  struct Entry {
    Place place;
    std::uint64_t size = 0;
    double uses = 0;          // lately, as of `used_at`
    std::uint64_t used_at = 0;
    std::uint64_t next_use = 0;  // as the number of a use; 0: not known
    int priority = 0;
    bool dead = false;
    Class in = Class::ready;
  };

  double uses_now(const Entry& entry) const;
  double worth(const Entry& entry) const;
  void move_to(EntryNumber number, Entry& entry, double worth);

  const Options options_;
  std::unordered_map<EntryNumber, Entry> entries_;
  std::set<Place>& order_of(const Entry& entry) {
    return order_[static_cast<std::size_t>(entry.in)];
  }
  std::array<std::set<Place>, 3> order_;  // by class, coldest first; each entry once
  double floor_ = 0;
  std::uint64_t uses_ = 0;      // of all segments so far: the time
  std::uint64_t sequence_ = 0;
  bool counting_ = false;       // a last use has been told of
};

}  // namespace forebay::daemon
