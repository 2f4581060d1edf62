// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/compactor.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "spill/checksum.h"
#include "spill/stack/sums.h"

namespace forebay::spill {
namespace {

using namespace std::chrono_literals;

constexpr auto read_within = 5s;
constexpr auto put_within = 10s;
constexpr std::chrono::milliseconds delay_first = 100ms;
constexpr unsigned doublings_most = 12;
// Beyond what any pack has: a place that says so is not one of ours.
constexpr std::uint64_t pack_bytes_most = std::uint64_t{64} << 20U;

}  // namespace

struct Compactor::Run {
  Holdings::Pack pack;
  Scratch::Piece scratch;          // the sound segments, and behind them what was read
  std::vector<bool> sound;         // of each member
  unsigned copy = 0;               // to be read next
  bool anything_read = false;
  std::atomic<std::size_t> open{1};
  std::atomic<bool> incomplete{false};

  std::span<std::byte> bytes() const { return scratch.bytes().first(pack.bytes); }
  std::span<std::byte> arriving() const { return scratch.bytes().subspan(pack.bytes); }
};

// Answers once, also when whoever was asked drops the question.
class Compactor::Answer {
 public:
  Answer(std::shared_ptr<TierSet> tiers, Taken taken)
      : tiers_(std::move(tiers)), taken_(std::move(taken)) {}
  ~Answer() { answer(false); }
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  void answer(bool taken) {
    if (answered_.exchange(true)) return;
    // Later than the stack: nobody is there any more to hear it.
    const TierSet::Visit visit(*tiers_);
    if (visit) taken_(taken);
    taken_ = nullptr;
  }

 private:
  const std::shared_ptr<TierSet> tiers_;
  Taken taken_;
  std::atomic<bool> answered_{false};
};

void Compactor::on_moved(Spill::Moved moved) {
  {
    const std::lock_guard lock(mutex_);
    moved_ = std::move(moved);
  }
  next();
}

bool Compactor::offer(SpillMove move, Taken taken) {
  Spill::Moved moved;
  {
    const std::lock_guard lock(mutex_);
    moved = moved_;
  }
  if (!moved) return false;
  const auto answer = std::make_shared<Answer>(tiers_, std::move(taken));
  moved(move, [answer](bool was_taken) { answer->answer(was_taken); });
  return true;
}

void Compactor::forget_member(std::uint64_t item, std::uint64_t inner) {
  const auto forgotten = holdings_.forget_member(item, inner);
  if (!forgotten) return;
  if (forgotten->last) {
    for (const TierPlace& copy : forgotten->copies)
      remover_.remove({holdings_.store(), item}, copy);
    const std::lock_guard lock(mutex_);
    wanted_.erase(item);
    delayed_.erase(item);
  } else if (forgotten->sparse) {
    want(item);
  }
}

void Compactor::want(std::uint64_t item) {
  {
    const std::lock_guard lock(mutex_);
    if (item == running_ || delayed_.contains(item)) return;
    wanted_.insert(item);
  }
  next();
}

void Compactor::next() {
  const auto run = std::make_shared<Run>();
  while (true) {
    std::uint64_t item = 0;
    {
      const std::lock_guard lock(mutex_);
      if (running_ != 0 || !moved_ || wanted_.empty()) return;
      item = *wanted_.begin();
      wanted_.erase(wanted_.begin());
      running_ = item;
    }
    auto pack = holdings_.pack(item);
    if (pack && pack->bytes <= pack_bytes_most && !tiers_->closed()) {
      run->pack = std::move(*pack);
      break;
    }
    const std::lock_guard lock(mutex_);
    running_ = 0;
  }
  run->sound.assign(run->pack.members.size(), false);
  // It stays until it has been read, though all its segments be forgotten meanwhile.
  remover_.hold({holdings_.store(), run->pack.item});
  scratch_.take(2 * run->pack.bytes, TierClock::now() + read_within,
                [this, run](Result<Scratch::Piece> scratch) {
                  if (!scratch) {
                    remover_.release({holdings_.store(), run->pack.item});
                    return part_done(run, false);
                  }
                  run->scratch = std::move(*scratch);
                  read_copy(run);
                });
}

void Compactor::read_copy(const std::shared_ptr<Run>& run) {
  const bool all = std::all_of(run->sound.begin(), run->sound.end(), [](bool is) { return is; });
  while (!all && run->copy < run->pack.copies.size()) {
    const TierPlace place = run->pack.copies[run->copy++];
    if (place.incarnation == 0) continue;
    const TierSet::Holder holder = tiers_->holder_of(place.incarnation);
    if (!holder.tier || !holder.up) continue;
    tiers_->get(*holder.tier,
                {.key = {holdings_.store(), run->pack.item},
                 .place = place,
                 .offset = 0,
                 .into = run->arriving(),
                 .priority = TierPriority::background},
                TierClock::now() + read_within, [this, run](const Result<void>& result) {
                  if (!result) return read_copy(run);
                  workers_.run(TierPriority::background, [this, run] { check(run); });
                });
    return;
  }
  move_members(run);
}

void Compactor::check(const std::shared_ptr<Run>& run) {
  const TierKey key{holdings_.store(), run->pack.item};
  for (std::size_t i = 0; i < run->sound.size(); ++i) {
    const PackMember& member = run->pack.members[i];
    if (run->sound[i] || member.inner > run->pack.bytes ||
        member.stored > run->pack.bytes - member.inner)
      continue;
    const auto bytes = run->arriving().subspan(member.inner, member.stored);
    if (place_sum(key, member.size, member.stored, member.codec, crc32c(bytes)) != member.sum) {
      reader_.count_corrupt();
      continue;
    }
    std::memcpy(run->bytes().data() + member.inner, bytes.data(), bytes.size());
    run->sound[i] = true;
  }
  read_copy(run);
}

void Compactor::move_members(const std::shared_ptr<Run>& run) {
  // Read; if its segments are forgotten while others travel, the old pack can go.
  remover_.release({holdings_.store(), run->pack.item});
  const bool two = run->pack.copies[0].incarnation != 0 && run->pack.copies[1].incarnation != 0;
  for (std::size_t i = 0; i < run->sound.size(); ++i) {
    if (!run->sound[i]) {
      run->incomplete = true;
      continue;
    }
    const PackMember& member = run->pack.members[i];
    const auto bytes = run->bytes().subspan(member.inner, member.stored);
    ++run->open;
    packer_.put({.serial = member.serial,
                 .bytes = bytes,
                 .size = member.size,
                 .codec = member.codec,
                 .item_sum = crc32c(bytes),
                 .replicas = two ? 2U : 1U,
                 .deadline = TierClock::now() + put_within,
                 .done = [this, run, i](Result<SpillPlace> place) {
                   if (place) return put_elsewhere(run, i, *place);
                   part_done(run, false);
                 }});
  }
  part_done(run, true);
}

void Compactor::put_elsewhere(const std::shared_ptr<Run>& run, std::size_t number,
                              const SpillPlace& to) {
  const PackMember& member = run->pack.members[number];
  const auto taken = [this, run, to, inner = member.inner](bool is) {
    // Not taken: the segment was forgotten meanwhile, which the old pack knows already.
    if (is)
      forget_member(run->pack.item, inner);
    else
      forget_member(to.item, to.inner);
    part_done(run, true);
  };
  if (!offer({member.serial, holdings_.place_of(run->pack, member), to}, taken)) taken(false);
}

void Compactor::part_done(const std::shared_ptr<Run>& run, bool moved) {
  if (!moved) run->incomplete = true;
  if (run->open.fetch_sub(1) == 1) finish(run);
}

void Compactor::finish(const std::shared_ptr<Run>& run) {
  const std::uint64_t item = run->pack.item;
  run->scratch = {};
  if (!run->incomplete) compactions_.fetch_add(1);
  {
    const std::lock_guard lock(mutex_);
    running_ = 0;
    if (run->incomplete && holdings_.knows(item)) {
      Delay& delay = delayed_[item];
      const auto pause = delay_first * (1U << std::min(delay.failures++, doublings_most));
      delay.not_before = TierClock::now() + pause;
      workers_.run_at(delay.not_before, [this, item] {
        {
          const std::lock_guard relock(mutex_);
          if (!delayed_.contains(item)) return;
          wanted_.insert(item);
        }
        next();
      });
    } else {
      delayed_.erase(item);
    }
  }
  // Through a worker: packs that end within the call would nest without bound.
  workers_.run(TierPriority::background, [this] { next(); });
}

void Compactor::drop_copy(const SpillPlace& place, unsigned copy) {
  if (place.store != holdings_.store()) return;
  if (place.packed != 0) return want(place.item);
  const auto serial = holdings_.serial_of(place.item);
  if (!serial) return;
  {
    const std::lock_guard lock(mutex_);
    if (!dropping_.insert(place.item).second) return;
  }
  SpillPlace to = place;
  to.copies = {place.copies[1 - copy], TierPlace{}};
  const auto taken = [this, place, copy](bool is) {
    // Not taken: the segment is forgotten or lies elsewhere; whoever did that sees to all copies.
    if (is) remover_.remove({place.store, place.item}, place.copies[copy]);
    const std::lock_guard lock(mutex_);
    dropping_.erase(place.item);
  };
  if (!offer({*serial, place, to}, taken)) taken(false);
}

}  // namespace forebay::spill
