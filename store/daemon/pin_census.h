// SPDX-License-Identifier: Apache-2.0
// PinCensus: what the rules may ask about the pins of all processes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "store/daemon/segment_table.h"

namespace forebay::daemon {

// One process's share of something that is pinned.
struct PinHolder {
  std::uint32_t pid = 0;
  std::string name;
  std::uint64_t pins = 0;
  std::uint64_t bytes = 0;
};

class PinCensus {
 public:
  virtual ~PinCensus() = default;
  // Whether any process pins the entry. The second half of the pin protocol: called after the mark.
  virtual bool pinned(EntryNumber entry) = 0;
  // Who pins it.
  virtual std::vector<PinHolder> holders(EntryNumber entry) = 0;
  // Who pins how much in all; `size_of` says how much an entry counts, 0 for none. Slow.
  virtual std::vector<PinHolder> holders_of_all(
      const std::function<std::uint64_t(EntryNumber)>& size_of) = 0;
  // First pins since the last call, for the eviction policy; bounded, lossy.
  virtual void drain_accesses(const std::function<void(EntryNumber)>& accessed) = 0;
};

}  // namespace forebay::daemon
