// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/packer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "spill/checksum.h"
#include "spill/stack/sums.h"

namespace forebay::spill {
namespace {

constexpr std::size_t alignment = 8;

std::size_t aligned(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

}  // namespace

Packer::Packer(PackerOptions options, Writer& writer, Holdings& holdings, Remover& remover,
               Workers& workers)
    : options_(options),
      writer_(writer),
      holdings_(holdings),
      remover_(remover),
      workers_(workers) {
  for (Pack& pack : packs_) pack.bytes = std::make_unique<std::byte[]>(options_.pack_bytes);
}

void Packer::put(SmallSegment segment) {
  Late late;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) {
      late.refused.push_back(std::move(segment.done));
    } else if (Pack* const pack =
                   waiting_.empty() ? pack_with_room(segment.bytes.size(), late) : nullptr) {
      place(*pack, std::move(segment));
    } else if (waiting_.size() < options_.waiting_max) {
      workers_.run_at(segment.deadline, [this] { expire(); });
      waiting_.push_back(std::move(segment));
    } else {
      late.refused.push_back(std::move(segment.done));
    }
  }
  finish(std::move(late));
}

void Packer::finish(Late late) {
  // Whoever asks may be the event loop: the sum of the pack and the way to the tier are not its.
  for (const unsigned number : late.sends)
    workers_.run(TierPriority::background, [this, number] { send(number); });
  if (late.refused.empty()) return;
  bool closed = false;
  {
    const std::lock_guard lock(mutex_);
    closed = closed_;
  }
  for (Spill::SpillDone& done : late.refused)
    done(closed ? closed_failure()
                : fail(Errc::store_full, "too many small segments wait for their pack; spill them "
                                         "when the tiers have taken some"));
}

Packer::Pack* Packer::pack_with_room(std::size_t bytes, Late& late) {
  for (unsigned number = 0; number < packs_.size(); ++number) {
    Pack& pack = packs_[number];
    if (pack.stage != Stage::filling) continue;
    if (bytes <= options_.pack_bytes - pack.used) return &pack;
    start_sending(number, late);
  }
  for (unsigned number = 0; number < packs_.size(); ++number) {
    Pack& pack = packs_[number];
    if (pack.stage != Stage::idle) continue;
    pack.stage = Stage::filling;
    pack.used = 0;
    pack.item = holdings_.begin(true);
    ++pack.filled;
    workers_.run_at(TierClock::now() + options_.wait, [this, number, filled = pack.filled] {
      Late due;
      {
        const std::lock_guard lock(mutex_);
        if (packs_[number].filled == filled && packs_[number].stage == Stage::filling)
          start_sending(number, due);
      }
      finish(std::move(due));
    });
    return &pack;
  }
  return nullptr;
}

void Packer::place(Pack& pack, SmallSegment segment) {
  const std::size_t inner = pack.used;
  std::byte* const at = pack.bytes.get() + inner;
  std::memcpy(at, segment.bytes.data(), segment.bytes.size());
  const std::size_t end = std::min(aligned(inner + segment.bytes.size()), options_.pack_bytes);
  // What an earlier pack had there is not for the tier.
  std::memset(at + segment.bytes.size(), 0, end - inner - segment.bytes.size());
  pack.used = end;
  pack.members.push_back({std::move(segment), inner});
}

void Packer::start_sending(unsigned number, Late& late) {
  packs_[number].stage = Stage::sending;
  late.sends.push_back(number);
}

void Packer::drain(Late& late) {
  while (!waiting_.empty()) {
    Pack* const pack = pack_with_room(waiting_.front().bytes.size(), late);
    if (pack == nullptr) return;
    place(*pack, std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

void Packer::flush() {
  Late late;
  {
    const std::lock_guard lock(mutex_);
    for (unsigned number = 0; number < packs_.size(); ++number)
      if (packs_[number].stage == Stage::filling) start_sending(number, late);
  }
  finish(std::move(late));
}

void Packer::send(unsigned number) {
  Writing writing;
  std::span<const std::byte> bytes;
  TierDeadline first = TierDeadline::max();
  {
    const std::lock_guard lock(mutex_);
    Pack& pack = packs_[number];
    writing.deadline = TierDeadline::min();
    for (const Staged& member : pack.members) {
      writing.deadline = std::max(writing.deadline, member.segment.deadline);
      first = std::min(first, member.segment.deadline);
      writing.replicas = std::max(writing.replicas, member.segment.replicas);
    }
    writing.key = {holdings_.store(), pack.item};
    bytes = {pack.bytes.get(), pack.used};
  }
  if (first < writing.deadline) workers_.run_at(first, [this] { expire(); });
  writing.parts = {bytes};
  writing.crc32c = crc32c(bytes);
  writing.done = [this, number](Result<std::array<TierPlace, 2>> result) {
    sent(number, std::move(result));
  };
  writer_.write(std::move(writing));
}

void Packer::sent(unsigned number, Result<std::array<TierPlace, 2>> result) {
  Late late;
  std::vector<Staged> members;
  std::uint64_t item = 0;
  std::uint64_t bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    Pack& pack = packs_[number];
    members.swap(pack.members);
    item = pack.item;
    bytes = pack.used;
    // Known as living before anybody is answered, and so can forget it.
    std::erase_if(members, [](const Staged& member) { return !member.segment.done; });
    pack.stage = Stage::idle;
    if (!closed_) drain(late);
  }
  finish(std::move(late));

  const TierKey key{holdings_.store(), item};
  if (!result || members.empty()) {
    holdings_.abandon(item);
    if (result)
      for (const TierPlace& copy : *result) remover_.remove(key, copy);
    for (Staged& member : members) member.segment.done(fail(result.error()));
    return;
  }
  Holdings::Pack pack{item, *result, bytes, {}};
  for (const Staged& member : members) {
    const SmallSegment& segment = member.segment;
    const std::uint64_t stored = segment.bytes.size();
    pack.members.push_back(
        {segment.serial, member.inner, stored, segment.size,
         place_sum(key, segment.size, stored, segment.codec, segment.item_sum), segment.codec});
  }
  holdings_.settle_pack(item, pack.copies, bytes, pack.members);
  for (std::size_t i = 0; i < members.size(); ++i)
    members[i].segment.done(holdings_.place_of(pack, pack.members[i]));
}

void Packer::expire() {
  std::vector<Spill::SpillDone> late;
  TierDeadline next = TierDeadline::max();
  {
    const std::lock_guard lock(mutex_);
    const auto now = TierClock::now();
    for (auto at = waiting_.begin(); at != waiting_.end();) {
      if (at->deadline > now) {
        ++at;
        continue;
      }
      late.push_back(std::move(at->done));
      at = waiting_.erase(at);
    }
    for (Pack& pack : packs_) {
      if (pack.stage != Stage::sending) continue;
      for (Staged& member : pack.members) {
        SmallSegment& segment = member.segment;
        if (!segment.done) continue;
        if (segment.deadline > now)
          next = std::min(next, segment.deadline);
        else
          late.push_back(std::exchange(segment.done, nullptr));
      }
    }
  }
  if (next != TierDeadline::max()) workers_.run_at(next, [this] { expire(); });
  for (Spill::SpillDone& done : late)
    done(fail(Errc::timed_out, "no tier took the segment's pack before the deadline"));
}

void Packer::close() {
  std::vector<Spill::SpillDone> open;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (SmallSegment& segment : waiting_) open.push_back(std::move(segment.done));
    waiting_.clear();
    // A pack that is being sent is answered by its tier.
    for (Pack& pack : packs_) {
      if (pack.stage != Stage::filling) continue;
      for (Staged& member : pack.members) open.push_back(std::move(member.segment.done));
      pack.members.clear();
      pack.stage = Stage::idle;
    }
  }
  for (Spill::SpillDone& done : open) done(closed_failure());
}

}  // namespace forebay::spill
