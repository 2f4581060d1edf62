// SPDX-License-Identifier: Apache-2.0
// Reading: get, and what else is answered from shared memory without the daemon.
#include <algorithm>
#include <array>
#include <queue>

#include "store/client/core.h"
#include "store/id.h"
#include "store/shm/description.h"
#include "store/shm/failpoint.h"
#include "store/shm/protocol.h"

namespace forebay::client {
namespace {

using shm::Probe;

// What one look into the index came to.
struct Look {
  Probe probe = Probe::mismatch;
  EntryNumber entry = shm::no_entry;  // pinned, or the one that stands in the way
  bool needs_grant = false;           // no pin can be counted for this entry yet
};

// Looks once. On `pinned` the caller has one pin of look.entry.
Look look_up(const Attachment& attachment, const shm::Key& key, std::uint64_t version) {
  const shm::IndexMap& index = attachment.index();
  Look look;
  const auto attempt = [&](EntryNumber number) {
    look.needs_grant = false;
    std::atomic<std::uint32_t>* const count = attachment.count_of(number);
    if (count == nullptr) {
      // A hash of 32 bits has led here: almost certainly the right one.
      look.needs_grant = true;
      look.entry = number;
      return Probe::busy;
    }
    const Probe answer =
        shm::try_pin(attachment.entry(number), *count, {key.low, key.high, version});
    if (answer == Probe::pinned || answer == Probe::tombstone || answer == Probe::spilled)
      look.entry = number;
    // What was counted by mistake is uncounted like any pin; the daemon may wait for it.
    if (answer == Probe::changed) const_cast<Attachment&>(attachment).release(number);
    return answer;
  };
  look.probe = version == 0 ? shm::search(index.newest, shm::newest_hash(key), attempt)
                            : shm::search(index.exact, shm::exact_hash(key, version), attempt);
  return look;
}

// Brings what the next gets of a batch will touch into the cache: first the line of the bucket, a few
// steps later the entry's that stands in it. Only hints: whatever changes meanwhile, a get looks again.
class Ahead {
 public:
  // Nothing is done without an attachment.
  Ahead(const Attachment* attachment, std::span<const std::string_view> ids, std::uint64_t version)
      : attachment_(attachment), ids_(ids), version_(version) {
    if (attachment_ == nullptr) return;
    for (std::size_t i = 0; i < bucket_distance; ++i) bring_bucket(i);
    for (std::size_t i = 0; i < entry_distance; ++i) bring_entry(i);
  }
  void before(std::size_t i) {
    if (attachment_ == nullptr) return;
    bring_bucket(i + bucket_distance);
    bring_entry(i + entry_distance);
  }

 private:
  static constexpr std::size_t bucket_distance = 16;
  static constexpr std::size_t entry_distance = 8;

  const shm::Line& line_of(std::uint32_t hash) const {
    const shm::IndexBuckets& buckets =
        version_ == 0 ? attachment_->index().newest : attachment_->index().exact;
    return buckets.lines[shm::home_of(hash, buckets.in_use->load(std::memory_order_relaxed))];
  }
  void bring_bucket(std::size_t i) {
    if (i >= ids_.size()) return;
    const shm::Key key = shm::key_of(ids_[i], attachment_->hash_seed());
    const std::uint32_t hash =
        version_ == 0 ? shm::newest_hash(key) : shm::exact_hash(key, version_);
    hashes_[i % bucket_distance] = hash;
    __builtin_prefetch(&line_of(hash));
  }
  void bring_entry(std::size_t i) {
    if (i >= ids_.size()) return;
    const std::uint32_t hash = hashes_[i % bucket_distance];
    for (const auto& slot : line_of(hash).slots) {
      const std::uint64_t seen = slot.load(std::memory_order_relaxed);
      if (shm::slot_hash(seen) != hash) continue;
      const std::uint32_t entry = shm::slot_entry(seen);
      __builtin_prefetch(&attachment_->entry(entry));
      if (const auto* count = attachment_->count_of(entry)) __builtin_prefetch(count, 1);
    }
  }

  const Attachment* attachment_;
  std::span<const std::string_view> ids_;
  std::uint64_t version_;
  std::array<std::uint32_t, bucket_distance> hashes_{};
};

// By a get of many: what one request can name.
constexpr std::size_t most_brought_back = 600;

Error gone_error(const Attachment& attachment, EntryNumber entry, std::string_view id,
                 std::uint64_t version) {
  const std::uint32_t flags =
      attachment.index().records[entry].flags.load(std::memory_order_relaxed);
  const std::string what = "segment " + shown(id, version);
  switch (shm::reason_of(flags)) {
    case shm::Reason::lost:
      return {make_error_code(Errc::lost), what + " was lost with the tier that held it"};
    case shm::Reason::superseded:
      return {make_error_code(Errc::superseded),
              what + " was taken over in place by its next version"};
    case shm::Reason::evicted:
    case shm::Reason::none:
      break;
  }
  return {make_error_code(Errc::evicted),
          what + " was evicted to make room: it was put as evictable; put it again"};
}

Error missing_error(std::string_view id, std::uint64_t version) {
  return {make_error_code(Errc::not_found),
          "no segment " + shown(id, version) + "; pass a timeout to wait for it"};
}

}  // namespace

// The way that nearly every get takes: no lock, no message, no system call. An empty view means that
// it did not work out; `missed` that there is certainly no such segment.
View Core::get_resident(std::string_view id, std::uint64_t version, const Ref* ref,
                        bool& missed) noexcept {
  missed = false;
  Share share = try_share();
  if (!share || !share->epoch_is_current() || !is_id(id))
    return {};
  Attachment& attachment = *share.get();
  if (ref != nullptr && ref->store != attachment.store()) return {};
  const Look look = look_up(attachment, shm::key_of(id, attachment.hash_seed()), version);
  if (look.probe != Probe::pinned) {
    missed = look.probe == Probe::mismatch;
    return {};
  }
  shm::reached(shm::points::client_pinned);
  const shm::Entry& entry = attachment.entry(look.entry);
  const bool right =
      ref == nullptr || entry.serial.load(std::memory_order_relaxed) == ref->serial;
  // A fork in another thread may have copied the pins just before this one was counted.
  if (!right || !is_current(&attachment)) {
    attachment.release(look.entry);
    return {};
  }
  const std::uint64_t size = entry.size.load(std::memory_order_relaxed);
  attachment.note_get(look.entry, size);
  const shm::Location location(entry.location.load(std::memory_order_relaxed));
  return Access::view(share.release(), look.entry, attachment.address_of(location), size);
}

Result<View> Core::get(std::string_view id, const GetOptions& options, const Ref* ref) {
  // The newest one may be another node's.
  if (options.after == 0 && !(options.from_pool && options.version == 0)) {
    bool missed = false;
    View view = get_resident(id, options.version, ref, missed);
    if (view) return view;
    if (missed && options.timeout == Timeout::zero() && ref == nullptr && !options.from_pool) {
      if (const Share share = try_share()) share->note_miss();
      return fail(missing_error(id, options.version));
    }
  }
  const bool waits = options.timeout > Timeout::zero();
  if (options.from_pool && ref == nullptr) {
    const Deadline until = waits ? deadline_after(options.timeout) : deadline();
    GetOptions exact = options;
    exact.from_pool = false;
    auto version = import(id, options.version, until);
    // Without a pool that knows it, what this node has will do.
    if (!version && !version.error().is(Errc::not_found)) return fail(std::move(version.error()));
    if (version) {
      exact.version = *version;
      exact.after = 0;
    }
    return get(id, exact, nullptr);
  }
  return get_slowly(id, options, ref, waits ? deadline_after(options.timeout) : deadline());
}

Result<View> Core::look(std::string_view id, const GetOptions& options, Deadline until) {
  GetOptions at_once = options;
  at_once.timeout = std::min(options.timeout, Timeout::zero());
  return get_slowly(id, at_once, nullptr, until);
}

std::vector<Result<View>> Core::get_many(std::span<const std::string_view> ids,
                                         const GetOptions& options) {
  std::vector<Result<View>> views;
  views.reserve(ids.size());
  // All of them are waited for together.
  const Deadline until = deadline_after(options.timeout);
  GetOptions in_turn = options;
  const Share share = try_share();
  Ahead ahead(share.get(), ids, options.version);
  const bool may_be_resident = options.after == 0 && !options.from_pool;
  std::size_t looked_to = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ahead.before(i);
    bool missed = false;
    if (may_be_resident)
      if (View view = get_resident(ids[i], options.version, nullptr, missed)) {
        views.push_back(std::move(view));
        continue;
      }
    if (may_be_resident && !missed && i >= looked_to)
      looked_to = i + bring_back(ids.subspan(i), options.version, in_turn.timeout);
    if (options.timeout > Timeout::zero())
      in_turn.timeout = std::max<Timeout>(until - std::chrono::steady_clock::now(), Timeout(1));
    views.push_back(get(ids[i], in_turn, nullptr));
  }
  return views;
}

// Brings back those of the first of them that are spilled, all at once. Returns how many it has looked
// at.
std::size_t Core::bring_back(std::span<const std::string_view> ids, std::uint64_t version,
                             Timeout timeout) {
  ids = ids.first(std::min(ids.size(), most_brought_back));
  std::vector<SegmentName> spilled;
  for (const std::string_view id : ids) {
    const auto seen = sight(id, version);
    // Whatever is wrong with the store will be said of the get.
    if (!seen && !seen.error().is(Errc::bad_id)) return ids.size();
    if (seen && *seen && (*seen)->state == shm::State::spilled)
      spilled.push_back({.id = id, .version = (*seen)->version});
  }
  // What does not come that way comes when it is got, or says then why not.
  if (spilled.size() > 1) (void)transfer(wire::TransferVerb::restore, spilled, timeout);
  return ids.size();
}

// Everything else: bad arguments, waiting, a chunk that must be granted, a daemon at work, a fork.
Result<View> Core::get_slowly(std::string_view id, const GetOptions& options, const Ref* ref,
                              Deadline until) {
  if (auto checked = check_id(id); !checked) return fail(std::move(checked.error()));
  if (options.timeout < Timeout::zero())
    return fail(Errc::bad_argument, "a timeout below zero");
  const bool waits = options.timeout > Timeout::zero();
  constexpr int patience = 64;  // looks at a daemon that is busy with the entry, before it is asked
  int busy_looks = 0;
  while (true) {
    auto share = this->share(until);
    if (!share) return fail(std::move(share.error()));
    Attachment& attachment = *share->get();
    if (ref != nullptr)
      if (auto checked = check_store(*ref, attachment.store()); !checked)
        return fail(std::move(checked.error()));
    const shm::Key key = shm::key_of(id, attachment.hash_seed());
    const Look look = look_up(attachment, key, options.version);
    if (look.needs_grant) {
      auto count = granted_count(attachment, look.entry, until);
      if (!count && is_current(&attachment)) return fail(std::move(count.error()));
      continue;
    }
    bool absent = false;
    switch (look.probe) {
      case Probe::pinned: {
        const shm::Entry& entry = attachment.entry(look.entry);
        const std::uint64_t version = entry.version.load(std::memory_order_relaxed);
        if (ref != nullptr && entry.serial.load(std::memory_order_relaxed) != ref->serial) {
          attachment.release(look.entry);
          return fail(Errc::stale_ref, "the ref's segment " + shown(id, options.version) +
                                           " was removed; another one has its id and version now");
        }
        if (options.version == 0 && version <= options.after) {
          attachment.release(look.entry);
          absent = true;
          break;
        }
        if (!is_current(&attachment)) {
          attachment.release(look.entry);
          continue;
        }
        const std::uint64_t size = entry.size.load(std::memory_order_relaxed);
        attachment.note_get(look.entry, size);
        const shm::Location location(entry.location.load(std::memory_order_relaxed));
        const std::byte* data = attachment.address_of(location);
        return Access::view(share->release(), look.entry, data, size);
      }
      case Probe::tombstone: {
        const shm::Entry& entry = attachment.entry(look.entry);
        const bool newer_wanted =
            options.version == 0 &&
            entry.version.load(std::memory_order_relaxed) <= options.after;
        if (!newer_wanted) return fail(gone_error(attachment, look.entry, id, options.version));
        absent = true;
        break;
      }
      case Probe::mismatch:
      case Probe::unsealed:
        absent = true;
        break;
      case Probe::spilled:
        break;
      case Probe::busy:
      case Probe::changed:
        if (++busy_looks % patience != 0) continue;
        break;  // asking the daemon orders us behind what it is doing
    }
    // What a ref names was sealed once: it does not come back, however long one waits.
    if (absent && (!waits || ref != nullptr)) {
      attachment.note_miss();
      if (ref != nullptr)
        return fail(Errc::stale_ref,
                    "the ref's segment " + shown(id, options.version) + " was removed");
      return fail(missing_error(id, options.version));
    }
    if (auto waited = await(id, options, until); !waited) {
      const bool nothing_came =
          waited.error().is(Errc::timed_out) || waited.error().is(Errc::not_found);
      if (!nothing_came) return fail(std::move(waited.error()));
      if (!waits) return fail(missing_error(id, options.version));
      const auto asked = std::chrono::duration_cast<std::chrono::milliseconds>(options.timeout);
      return fail(Errc::timed_out, "no segment " + shown(id, options.version) + " within " +
                                       std::to_string(asked.count()) + " ms");
    }
  }
}

Result<void> Core::await(std::string_view id, const GetOptions& options, Deadline until) {
  wire::AwaitRequest request;
  request.id = id;
  request.version = options.version;
  request.after = options.after;
  const auto remaining = [&] {
    const auto left = until - std::chrono::steady_clock::now();
    return left > Timeout::zero() ? static_cast<std::uint64_t>(Timeout(left).count()) : 0;
  };
  request.timeout_ns = options.timeout > Timeout::zero() ? remaining() : 0;
  // The daemon answers by the deadline; its answer may take a moment to arrive.
  auto answer = this->request<wire::Empty>(request, until + std::chrono::milliseconds(200),
                                           [&] { request.timeout_ns = remaining(); });
  if (!answer) return fail(std::move(answer.error()));
  return {};
}

Result<std::atomic<std::uint32_t>*> Core::granted_count(Attachment& attachment, EntryNumber entry,
                                                        Deadline until) {
  if (auto* count = attachment.count_of(entry)) return count;
  wire::GrantRequest request{entry / shm::chunk_entries};
  auto answer = this->request<wire::Empty>(request, until);
  if (!answer) return fail(std::move(answer.error()));
  // A reconnect may have brought another attachment, whose table the grant was for.
  if (!is_current(&attachment))
    return fail(Errc::disconnected, "the store was replaced by another one meanwhile");
  attachment.note_granted(request.chunk);
  return attachment.count_of(entry);
}

Result<std::optional<Core::Sighting>> Core::sight(std::string_view id, std::uint64_t version) {
  if (auto checked = check_id(id); !checked) return fail(std::move(checked.error()));
  auto share = this->share(deadline());
  if (!share) return fail(std::move(share.error()));
  const Attachment& attachment = *share->get();
  const shm::Key key = shm::key_of(id, attachment.hash_seed());
  Sighting seen;
  const auto readable = [&](EntryNumber number) {
    constexpr auto acquire = std::memory_order_acquire;
    const shm::Entry& entry = attachment.entry(number);
    const shm::Word before = shm::word_of(entry);
    if (entry.hash_low.load(acquire) != key.low || entry.hash_high.load(acquire) != key.high ||
        (version != 0 && entry.version.load(acquire) != version))
      return Probe::mismatch;
    seen = {number, entry.version.load(acquire), entry.serial.load(acquire),
            attachment.index().records[number].flags.load(acquire), entry.size.load(acquire),
            before.state()};
    if (!shm::word_of(entry).frames_same_segment(before)) return Probe::changed;
    switch (before.state()) {
      case shm::State::sealed:
      case shm::State::evicting:
      case shm::State::spilled:
      case shm::State::restoring:
        return Probe::pinned;  // it would be
      default:
        return Probe::tombstone;
    }
  };
  const Probe probe =
      version == 0 ? shm::search(attachment.index().newest, shm::newest_hash(key), readable)
                   : shm::search(attachment.index().exact, shm::exact_hash(key, version), readable);
  return probe == Probe::pinned ? std::optional(seen) : std::nullopt;
}

Result<bool> Core::contains(std::string_view id, std::uint64_t version) {
  const auto seen = sight(id, version);
  if (!seen) return fail(seen.error());
  return seen->has_value();
}

// ---------------------------------------------------------------------------------------- listing

namespace {

// One entry as a listing shows it; nothing if it is not sealed, or becomes another one meanwhile.
std::optional<SegmentInfo> info_of(const Attachment& attachment, EntryNumber number) {
  constexpr auto acquire = std::memory_order_acquire;
  const shm::Entry& entry = attachment.entry(number);
  const shm::Record& record = attachment.index().records[number];
  const shm::Word before = shm::word_of(entry);
  const shm::State state = before.state();
  if (state != shm::State::sealed && state != shm::State::evicting &&
      state != shm::State::spilled && state != shm::State::restoring)
    return std::nullopt;
  SegmentInfo info;
  info.id = shm::load_id(record, attachment.index().annexes[number]);
  info.version = entry.version.load(acquire);
  info.serial = entry.serial.load(acquire);
  info.size = entry.size.load(acquire);
  const std::uint32_t flags = record.flags.load(acquire);
  info.evictable = (flags & shm::flag_bit(shm::RecordFlag::evictable)) != 0;
  info.persistent = (flags & shm::flag_bit(shm::RecordFlag::persistent)) != 0;
  info.sealed_at = std::chrono::system_clock::time_point(
      std::chrono::duration_cast<std::chrono::system_clock::duration>(
          std::chrono::nanoseconds(record.sealed_ns.load(acquire))));
  // What lies behind the payload could only be read under a pin: `get` tells.
  const std::uint32_t bytes = record.description_size.load(acquire);
  if (shm::description_in_record(bytes)) {
    std::array<std::byte, shm::record_description_bytes> description{};
    shm::load_description(record, description);
    if (auto type =
            shm::read_description(shm::Brief::from_bits(entry.brief.load(acquire)), info.size,
                                  std::span(description).first(bytes)))
      info.type = std::move(*type);
  }
  // Whatever its state is by now, it is the same segment: none of this changes in one life.
  if (!shm::word_of(entry).same_life(before)) return std::nullopt;
  return info;
}

struct ByIdAndVersion {
  bool operator()(const SegmentInfo& a, const SegmentInfo& b) const {
    return a.id != b.id ? a.id < b.id : a.version < b.version;
  }
};

}  // namespace

Result<ListPage> Core::list(std::string_view prefix, const ListCursor& from, std::size_t limit) {
  if (limit == 0) return fail(Errc::bad_argument, "a page of no segments");
  auto share = this->share(deadline());
  if (!share) return fail(std::move(share.error()));
  const Attachment& attachment = *share->get();
  const EntryNumber end = attachment.index().live->entries_end.load(std::memory_order_acquire);

  // The smallest `limit` behind the cursor, in one pass over the entries: there is no order in the
  // index, and the pass runs at the speed of memory.
  std::priority_queue<SegmentInfo, std::vector<SegmentInfo>, ByIdAndVersion> page;
  bool more = false;
  for (EntryNumber number = 1; number < end; ++number) {
    const shm::State state = shm::word_of(attachment.entry(number)).state();
    if (state == shm::State::free || state == shm::State::tombstone) continue;
    auto info = info_of(attachment, number);
    if (!info || !info->id.starts_with(prefix)) continue;
    const bool behind =
        info->id != from.id ? info->id > from.id : info->version > from.version;
    if (!behind) continue;
    page.push(std::move(*info));
    if (page.size() > limit) {
      page.pop();
      more = true;
    }
  }
  ListPage result;
  result.segments.reserve(page.size());
  while (!page.empty()) {
    result.segments.push_back(page.top());
    page.pop();
  }
  std::reverse(result.segments.begin(), result.segments.end());
  if (more) result.next = ListCursor{result.segments.back().id, result.segments.back().version};
  return result;
}

Result<SegmentStat> Core::stat(std::string_view id, std::uint64_t version) {
  if (auto checked = check_id(id); !checked) return fail(std::move(checked.error()));
  static constexpr std::array names{"free",      "creating",  "sealed",   "evicting",
                                    "spilled",   "restoring", "removing", "tombstone"};
  wire::StatRequest request{id, version};
  const Deadline until = deadline();
  auto answer = this->request<wire::StatReply>(request, until);
  if (!answer) return fail(std::move(answer.error()));
  auto share = this->share(until);
  if (!share) return fail(std::move(share.error()));
  SegmentStat stat;
  stat.state = answer->message.state < names.size() ? names[answer->message.state] : "unknown";
  if (auto info = info_of(*share->get(), answer->message.entry);
      info && info->serial == answer->message.serial) {
    stat.info = std::move(*info);
  } else {
    stat.info.id = id;
    stat.info.version = answer->message.version;
    stat.info.serial = answer->message.serial;
    stat.info.size = answer->message.size;
  }
  for (const wire::HolderItem& item : answer->message.holders)
    stat.holders.push_back({item.pid, std::string(item.name), item.pins, item.bytes});
  for (const wire::HolderItem& item : answer->message.leases)
    stat.leases.push_back({item.pid, std::string(item.name), 0, 0});
  stat.manifests = answer->message.manifests;
  stat.keep = answer->message.keep;
  if (answer->message.expires_ms != 0)
    stat.expires_in = std::chrono::milliseconds(answer->message.expires_ms);
  return stat;
}

}  // namespace forebay::client
