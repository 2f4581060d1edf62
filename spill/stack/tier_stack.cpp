// SPDX-License-Identifier: Apache-2.0
#include "spill/stack/tier_stack.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <random>

#include "spill/checksum.h"
#include "spill/stack/codec.h"
#include "spill/stack/sums.h"

namespace forebay::spill {
namespace {

StackOptions sound(StackOptions options) {
  options.packs.pack_bytes =
      std::clamp<std::size_t>(options.packs.pack_bytes, 4096, std::size_t{16} << 20U);
  // A packed segment is one block, and fits into an empty pack.
  options.pack_below_bytes = std::min<std::uint64_t>(
      {options.pack_below_bytes, sum_block_bytes, options.packs.pack_bytes});
  if (options.seed == 0) {
    std::random_device device;
    options.seed = std::uint64_t{device()} << 32U | device();
  }
  return options;
}

}  // namespace

// A put until it is answered.
struct TierStack::Put {
  SpillSource source;
  TierDeadline deadline{};
  SpillDone done;
  Scratch::Piece encoded;
  Scratch::Piece table;  // of the block sums: a tier reads no memory that it is not told leaves
  SpillCodec codec = SpillCodec::none;
  BlockSums sums;

  void answer(Result<SpillPlace> result) {
    encoded = {};
    table = {};
    done(std::move(result));
  }
};

TierStack::TierStack(std::vector<StackTier> tiers, StackOptions options)
    : options_(sound(options)),
      tiers_(std::make_shared<TierSet>(std::move(tiers))),
      workers_(options_.threads),
      scratch_(workers_, options_.scratch_bytes,
               [tiers = tiers_](std::span<const std::byte> bytes) { tiers->memory_leaves(bytes); }),
      holdings_(options_.store),
      writer_(*tiers_, options_.seed),
      remover_(*tiers_, workers_, options_.removals_max),
      packer_(options_.packs, writer_, holdings_, remover_, workers_),
      reader_(*tiers_, scratch_, remover_, workers_),
      compactor_(tiers_, holdings_, packer_, reader_, remover_, scratch_, workers_),
      sweeper_(*tiers_, holdings_, remover_, workers_) {
  reader_.on_bad_copy([this](const SpillPlace& place, unsigned copy) {
    compactor_.drop_copy(place, copy);
  });
  remover_.on_overflow([this](std::uint64_t incarnation) { sweeper_.again(incarnation); });
}

TierStack::~TierStack() {
  // First nobody may be on the way into a tier; what comes later fails at the gate, and so does
  // what the tiers' last answers would start.
  tiers_->close();
  packer_.close();
  tiers_->destroy_tiers();
  workers_.finish();
}

void TierStack::adopt(std::vector<std::pair<std::uint64_t, SpillPlace>> segments) {
  for (const auto& [serial, place] : segments) (void)holdings_.adopt(serial, place);
  for (const std::uint64_t item : holdings_.sparse()) compactor_.want(item);
  sweeper_.start();
}

void TierStack::put(SpillSource source, TierDeadline deadline, SpillDone done) {
  if (source.bytes.empty())
    return done(fail(Errc::bad_argument, "a segment without bytes has nothing to spill"));
  if (source.label.name.size() > 512 || source.label.about.size() > 1024)
    return done(fail(Errc::bad_argument, "a published segment's name has at most 512 bytes, what "
                                         "is said about it at most 1024"));
  const auto put = std::make_shared<Put>();
  put->source = std::move(source);
  put->deadline = deadline;
  put->done = std::move(done);
  const bool named = !put->source.label.name.empty();
  if (named) put->source.options.codec = SpillCodec::none;
  // Copied within the call: quicker than to tell another thread.
  if (!named && put->source.options.codec == SpillCodec::none &&
      put->source.bytes.size() < options_.pack_below_bytes)
    return put_packed(put, put->source.bytes, crc32c(put->source.bytes));
  workers_.run(TierPriority::background, [this, put] { prepare(put); });
}

void TierStack::prepare(const std::shared_ptr<Put>& put) {
  if (tiers_->closed()) return put->answer(closed_failure());
  if (TierClock::now() >= put->deadline)
    return put->answer(fail(Errc::timed_out, "the spill had too much to do before the deadline"));
  std::span<const std::byte> stored = put->source.bytes;
  const SpillCodec codec = put->source.options.codec;
  if (codec != SpillCodec::none && stored.size() <= encoded_segment_bytes_max) {
    put->encoded = scratch_.try_take(stored.size());
    const auto size = put->encoded.bytes().empty()
                          ? std::nullopt
                          : encode(codec, stored, put->encoded.bytes());
    if (size) {
      put->codec = codec;
      stored = put->encoded.bytes().first(*size);
    } else {
      put->encoded = {};
    }
  }
  if (put->source.label.name.empty() && stored.size() < options_.pack_below_bytes)
    return put_packed(put, stored, crc32c(stored));
  put_alone(put, stored);
}

void TierStack::put_packed(const std::shared_ptr<Put>& put, std::span<const std::byte> stored,
                           std::uint32_t sum) {
  packer_.put({.serial = put->source.serial,
               .bytes = stored,
               .size = put->source.bytes.size(),
               .codec = put->codec,
               .item_sum = sum,
               .replicas = put->source.options.replicas,
               .deadline = put->deadline,
               .done = [put](Result<SpillPlace> place) { put->answer(std::move(place)); }});
}

void TierStack::put_alone(const std::shared_ptr<Put>& put, std::span<const std::byte> stored) {
  put->sums = BlockSums::of(stored);
  const auto sums = put->sums.table();
  if (!sums.empty()) {
    auto table = scratch_.take_little(sums.size());
    if (!table) return put->answer(fail(std::move(table.error())));
    put->table = std::move(*table);
    std::memcpy(put->table.bytes().data(), sums.data(), sums.size());
  }
  Writing writing;
  writing.key = {options_.store, holdings_.begin(false)};
  writing.parts = {stored};
  if (!sums.empty()) writing.parts.push_back(put->table.bytes());
  writing.crc32c = put->sums.item_sum();
  writing.label = put->source.label;
  writing.replicas = put->source.options.replicas;
  writing.deadline = put->deadline;
  writing.done = [this, put, key = writing.key,
                  bytes = stored.size()](Result<std::array<TierPlace, 2>> copies) {
    if (!copies) {
      holdings_.abandon(key.number);
      return put->answer(fail(std::move(copies.error())));
    }
    SpillPlace place;
    place.copies = *copies;
    place.store = key.store;
    place.item = key.number;
    place.stored = bytes;
    place.size = put->source.bytes.size();
    place.codec = put->codec;
    place.sum = place_sum(place, put->sums.item_sum());
    holdings_.settle(key.number, put->source.serial);
    put->answer(place);
  };
  writer_.write(std::move(writing));
}

void TierStack::get(SpillPlace place, std::span<std::byte> into, TierPriority priority,
                    TierDeadline deadline, Done done) {
  if (place.nowhere() || into.size() != place.size)
    return done(fail(Errc::bad_argument, "a segment of " + std::to_string(place.size) +
                                             " bytes does not go into " +
                                             std::to_string(into.size())));
  reader_.read(place, 0, into, priority, deadline, std::move(done));
}

void TierStack::get_range(SpillPlace place, std::uint64_t offset, std::span<std::byte> into,
                          TierDeadline deadline, Done done) {
  reader_.read(place, offset, into, TierPriority::demand, deadline, std::move(done));
}

void TierStack::forget(SpillPlace place) {
  if (place.nowhere() || place.store != options_.store) return;
  if (place.packed != 0) return compactor_.forget_member(place.item, place.inner);
  holdings_.forget(place.item);
  for (const TierPlace& copy : place.copies) remover_.remove({place.store, place.item}, copy);
}

struct TierStack::Finding {
  std::string name;
  std::uint64_t version = 0;
  FindDone done;
  std::mutex mutex;
  std::size_t open = 0;          // Guarded by mutex, as all below.
  std::vector<TierItem> items;
  std::string silent;            // tiers that did not say
};

void TierStack::settle(TierDeadline deadline) {
  // Nothing waits for this but the end of a daemon: a look each millisecond will do.
  while (removals_waiting() > 0 && TierClock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void TierStack::find(std::string name, std::uint64_t version, TierDeadline deadline,
                     FindDone done) {
  const auto finding = std::make_shared<Finding>();
  finding->name = name;
  finding->version = version;
  finding->done = std::move(done);
  const auto rooms = tiers_->rooms();
  std::vector<std::size_t> asked;
  for (std::size_t tier = 0; tier < rooms.size(); ++tier) {
    if (rooms[tier].kind != TierKind::pool) continue;
    if (rooms[tier].status.up)
      asked.push_back(tier);
    else
      finding->silent += (finding->silent.empty() ? "" : "; ") + rooms[tier].status.name +
                         " is down: " + rooms[tier].status.why_down;
  }
  if (tiers_->closed()) return finding->done(closed_failure());
  finding->open = asked.size();
  if (asked.empty()) return found_all(*finding);
  for (const std::size_t tier : asked)
    tiers_->find(tier, name, version, deadline, [this, finding](Result<TierItem> item) {
      {
        const std::lock_guard lock(finding->mutex);
        if (item)
          finding->items.push_back(std::move(*item));
        else if (!item.error().is(Errc::not_found))
          finding->silent += (finding->silent.empty() ? "" : "; ") + item.error().message();
        if (--finding->open > 0) return;
      }
      found_all(*finding);
    });
}

void TierStack::found_all(Finding& finding) {
  const std::string what =
      "published '" + finding.name + "'" +
      (finding.version != 0 ? " version " + std::to_string(finding.version) : std::string());
  if (finding.items.empty()) {
    if (tiers_->closed()) return finding.done(closed_failure());
    if (finding.silent.empty())
      return finding.done(fail(Errc::not_found, "no pool has " + what));
    return finding.done(
        fail(Errc::tier_down, "no pool that answers has " + what + "; " + finding.silent));
  }
  const TierItem& best =
      *std::max_element(finding.items.begin(), finding.items.end(),
                        [](const TierItem& one, const TierItem& other) {
                          return one.label.version < other.label.version;
                        });
  const auto stored = stored_of_item(best.place.size);
  if (!stored || (best.key.number & pack_bit) != 0)
    return finding.done(fail(Errc::lost, "what a pool has as " + what + " is no segment"));
  SpillFound found;
  found.label = best.label;
  found.place.store = best.key.store;
  found.place.item = best.key.number;
  found.place.stored = *stored;
  found.place.size = *stored;
  found.place.sum = place_sum(found.place, best.crc32c);
  std::size_t copies = 0;
  for (const TierItem& item : finding.items)
    if (copies < found.place.copies.size() && item.key == best.key &&
        item.crc32c == best.crc32c && item.place.size == best.place.size)
      found.place.copies[copies++] = item.place;
  finding.done(std::move(found));
}

std::array<int, 2> TierStack::tiers_of(const SpillPlace& place) const {
  std::array<int, 2> tiers{-1, -1};
  for (std::size_t i = 0; i < tiers.size(); ++i) {
    if (place.copies[i].incarnation == 0) continue;
    const TierSet::Holder holder = tiers_->holder_of(place.copies[i].incarnation);
    if (holder.tier) tiers[i] = static_cast<int>(*holder.tier);
  }
  return tiers;
}

SpillStatus TierStack::status() const {
  SpillStatus status;
  for (TierRoom& room : tiers_->rooms()) status.tiers.push_back(std::move(room.status));
  const Holdings::Sizes sizes = holdings_.sizes();
  status.packs = sizes.packs;
  status.packed_bytes = sizes.live_bytes;
  status.packs_bytes = sizes.bytes;
  status.compactions = compactor_.compactions();
  status.repaired = reader_.repaired();
  status.corrupt = reader_.corrupt();
  return status;
}

}  // namespace forebay::spill
