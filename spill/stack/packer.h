// SPDX-License-Identifier: Apache-2.0
// Packer: bundles small segments, so that many of them cost one operation of a tier.
//
// A segment is copied into a staging pack. Packs go out when the next segment does not fit, or some
// milliseconds after their first one; there are two, so that one fills while the other travels.
// While both are taken, a bounded number of segments wait where they are. Each is answered with its
// own place when a tier has its pack, and at its deadline at the latest. Any thread.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "spill/stack/holdings.h"
#include "spill/stack/remover.h"
#include "spill/stack/workers.h"
#include "spill/stack/writer.h"
#include "store/spill.h"

namespace forebay::spill {

struct PackerOptions {
  std::size_t pack_bytes = 512 * 1024;
  std::chrono::microseconds wait{2000};  // of a pack's first segment for more
  std::size_t waiting_max = 4096;        // segments
};

// A segment on its way into a pack. What `bytes` shows, the codec's work already, must stay until
// it is answered.
struct SmallSegment {
  std::uint64_t serial = 0;
  std::span<const std::byte> bytes;
  std::uint64_t size = 0;
  SpillCodec codec = SpillCodec::none;
  std::uint32_t item_sum = 0;  // of `bytes`
  unsigned replicas = 1;
  TierDeadline deadline{};
  Spill::SpillDone done;
};

class Packer {
 public:

  Packer(PackerOptions options, Writer& writer, Holdings& holdings, Remover& remover,
         Workers& workers);

  std::size_t segment_bytes_max() const { return options_.pack_bytes; }
  void put(SmallSegment segment);
  // Sends what is staged without waiting for more.
  void flush();
  // Answers what has not been sent, and takes no more.
  void close();

 private:
  struct Staged {
    SmallSegment segment;
    std::uint64_t inner = 0;
  };
  enum class Stage : std::uint8_t { idle, filling, sending };
  struct Pack {
    std::unique_ptr<std::byte[]> bytes;
    std::size_t used = 0;
    Stage stage = Stage::idle;
    std::uint64_t item = 0;
    std::uint64_t filled = 0;  // counts up, so that a timer knows whether this is still its pack
    std::vector<Staged> members;
  };
  // What is left to do without the lock.
  struct Late {
    std::vector<unsigned> sends;
    std::vector<Spill::SpillDone> refused;
  };

  // All with mutex_ held.
  Pack* pack_with_room(std::size_t bytes, Late& late);
  void place(Pack& pack, SmallSegment segment);
  void start_sending(unsigned number, Late& late);
  void drain(Late& late);

  void finish(Late late);
  void send(unsigned number);
  void sent(unsigned number, Result<std::array<TierPlace, 2>> result);
  void expire();

  const PackerOptions options_;
  Writer& writer_;
  Holdings& holdings_;
  Remover& remover_;
  Workers& workers_;
  std::mutex mutex_;
  std::array<Pack, 2> packs_;        // Guarded by mutex_; bytes are read without it while sending
  std::deque<SmallSegment> waiting_; // Guarded by mutex_.
  bool closed_ = false;              // Guarded by mutex_.
};

}  // namespace forebay::spill
