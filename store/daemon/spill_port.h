// SPDX-License-Identifier: Apache-2.0
// SpillPort: the event loop's door to the tiers. It hands jobs over and takes the answers back, which
// come from other threads, one turn of the loop at a time.
//
// All calls but the tiers' callbacks come from the daemon's thread; `wake_descriptor` becomes readable
// when there is an answer.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "store/daemon/transfers.h"
#include "store/descriptor.h"
#include "store/spill.h"

namespace forebay::daemon {

class SpillPort {
 public:
  struct Copied {
    std::uint64_t job;
    Result<SpillPlace> place;
  };
  struct Fetched {
    std::uint64_t job;
    Result<void> outcome;
  };
  struct RangeRead {
    std::uint64_t number;
    Result<void> outcome;
  };
  struct Found {
    std::uint64_t number;
    Result<SpillFound> found;
  };
  struct Moved {
    SpillMove move;
    std::function<void(bool)> answer;
  };
  using Answer = std::variant<Copied, Fetched, RangeRead, Found, Moved>;

  // The arena must outlive the port.
  SpillPort(std::unique_ptr<Spill> spill, std::span<std::byte> arena, const SpillOptions& options);
  ~SpillPort();

  void copy(const CopyJob& job);
  void fetch(const FetchJob& job);
  void read_range(std::uint64_t number, const SpillPlace& place, std::uint64_t offset,
                  std::span<std::byte> into);
  void find(std::uint64_t number, std::string name, std::uint64_t version);
  Spill& spill() { return *spill_; }

  std::vector<Answer> take_answers();
  int wake_descriptor() const { return wake_.get(); }

 private:
  void answer(Answer answer);

  std::span<std::byte> arena_;
  SpillOptions options_;
  Descriptor wake_;
  std::atomic<std::uint64_t> copying_bytes_{0};
  std::mutex mutex_;
  std::vector<Answer> answers_;   // Guarded by mutex_.
  std::unique_ptr<Spill> spill_;  // last: while it ends, it still answers
};

}  // namespace forebay::daemon
