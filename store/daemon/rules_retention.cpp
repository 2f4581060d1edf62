// SPDX-License-Identifier: Apache-2.0
// The rules of retention: what the daemon lets go on its own, and what keeps it from that.
//
// A version that is older than `keep` wants stays readable while somebody pins it, and goes by the
// evict protocol when nobody does; one whose time to live is up goes as if it were removed. Neither
// touches what a process or a manifest holds, or what is persistent.
#include <algorithm>

#include "store/daemon/rules.h"
#include "store/id.h"

namespace forebay::daemon {
namespace {

using shm::RecordFlag;
using shm::State;

constexpr std::uint64_t second_ns = 1'000'000'000;

// Unlike a wait, it may be longer than a year; not longer than what a record's seconds can say.
TimePoint end_of_life(TimePoint now, std::uint64_t ttl_ns) {
  constexpr std::uint64_t longest = UINT32_MAX * second_ns;
  return now + std::chrono::nanoseconds(std::min(ttl_ns, longest));
}

}  // namespace

bool Rules::stays(EntryNumber entry) const {
  return holds_.held(entry) || table_.has_flag(entry, RecordFlag::persistent);
}

void Rules::forget_retention(EntryNumber entry) {
  expiries_.remove(entry);
  expired_.erase(entry);
  if (surplus_.erase(entry) > 0) table_.set_wanted(entry, false);
  holds_.forget(entry);
  doomed_.erase(entry);
}

// --------------------------------------------------------------------------------------- holding

Result<EntryNumber> Rules::find_segment(std::string_view id, std::uint64_t version,
                                        std::uint64_t serial) const {
  const shm::Key key = table_.key_of(id);
  const auto entry = version != 0 ? table_.find_exact(key, version) : table_.find_newest(key);
  if (!entry || !SegmentTable::readable(table_.word(*entry).state()))
    return fail(serial != 0 ? Errc::stale_ref : Errc::not_found,
                "no segment " + shown(id, version));
  if (serial != 0 && table_.serial(*entry) != serial)
    return fail(Errc::stale_ref, "the ref's segment " + shown(id, version) + " was removed");
  return *entry;
}

Result<EntryNumber> Rules::hold(std::string_view id, std::uint64_t version, std::uint64_t serial,
                                std::uint32_t slot) {
  auto entry = find_segment(id, version, serial);
  if (!entry) return entry;
  holds_.hold(*entry, slot);
  table_.set_flag(*entry, RecordFlag::held, true);
  return entry;
}

Result<EntryNumber> Rules::unhold(std::string_view id, std::uint64_t version, std::uint64_t serial,
                                  std::uint32_t slot) {
  auto entry = find_segment(id, version, serial);
  if (!entry) return entry;
  if (!holds_.unhold(*entry, slot))
    return fail(Errc::bad_state, shown(id, version) + " is not held by this process");
  if (!holds_.held(*entry)) held_no_more(std::span(&*entry, 1));
  return entry;
}

Result<EntryNumber> Rules::persist(std::string_view id, std::uint64_t version,
                                   std::uint64_t serial) {
  auto entry = find_segment(id, version, serial);
  if (!entry) return entry;
  table_.set_flag(*entry, RecordFlag::persistent, true);
  return entry;
}

void Rules::hold_again(std::uint32_t slot,
                       std::span<const std::pair<EntryNumber, std::uint64_t>> entries) {
  std::vector<EntryNumber> known;
  const std::uint32_t end = table_.index().live->entries_end.load(std::memory_order_relaxed);
  for (const auto& [entry, serial] : entries)
    if (entry != no_entry && entry < end && table_.serial(entry) == serial &&
        SegmentTable::readable(table_.word(entry).state())) {
      known.push_back(entry);
      table_.set_flag(entry, RecordFlag::held, true);
    }
  held_no_more(holds_.say_again(slot, known));
}

// What would have gone meanwhile goes now.
void Rules::held_no_more(std::span<const EntryNumber> entries) {
  for (const EntryNumber entry : entries) {
    // What one of them frees may go to a waiting create, which may drop the next one; and what came in
    // its place may be held.
    if (!SegmentTable::readable(table_.word(entry).state()) || holds_.held(entry)) continue;
    table_.set_flag(entry, RecordFlag::held, false);
    if (expired_.contains(entry)) {
      expire(entry);
    } else {
      apply_keep(table_.key(entry));
    }
  }
}

// ------------------------------------------------------------------------------------- manifests

Result<void> Rules::check_unlisted(EntryNumber entry) const {
  const std::vector<EntryNumber> manifests = holds_.manifests_of(entry);
  if (manifests.empty()) return {};
  const EntryNumber first = manifests.front();
  return fail(Errc::conflict, shown(table_.id(entry), table_.version(entry)) +
                                  " is listed by the manifest " +
                                  shown(table_.id(first), table_.version(first)) +
                                  "; remove that first");
}

// For who wants its memory.
Result<void> Rules::check_not_held(EntryNumber entry) const {
  const std::vector<std::uint32_t> slots = holds_.holders(entry);
  if (slots.empty()) return {};
  return fail(Errc::conflict, shown(table_.id(entry), table_.version(entry)) + " is held by " +
                                  outside_.name_of(slots.front()) +
                                  (slots.size() > 1 ? " and others" : "") +
                                  "; have it let go, or update without take");
}

Result<std::vector<EntryNumber>> Rules::find_members(
    EntryNumber manifest, std::span<const shm::ManifestMember> members) const {
  std::vector<EntryNumber> found;
  found.reserve(members.size());
  for (const shm::ManifestMember& member : members) {
    auto entry = find_segment(member.id, member.version, member.serial);
    if (!entry)
      return fail(Errc::not_found, "the manifest " + shown(table_.id(manifest)) + " lists " +
                                       shown(member.id, member.version) +
                                       ", which is not there");
    found.push_back(*entry);
  }
  std::ranges::sort(found);
  found.erase(std::ranges::unique(found).begin(), found.end());
  return found;
}

void Rules::adopt_manifest(EntryNumber manifest, std::span<const shm::ManifestMember> members) {
  // They were held as long as the former daemon lived; what is missing was lost with something else.
  std::vector<EntryNumber> found;
  for (const shm::ManifestMember& member : members)
    if (auto entry = find_segment(member.id, member.version, member.serial)) found.push_back(*entry);
  std::ranges::sort(found);
  found.erase(std::ranges::unique(found).begin(), found.end());
  for (const EntryNumber member : found) table_.set_flag(member, RecordFlag::held, true);
  if (!found.empty()) holds_.list(manifest, std::move(found));
}

void Rules::end_manifest(EntryNumber entry) {
  if (const std::vector<EntryNumber> members = unlist(entry); !members.empty())
    held_no_more(members);
}

// ---------------------------------------------------------------------------------- time to live

void Rules::start_expiry(EntryNumber entry, std::uint64_t ttl_ns, std::uint64_t wall_ns) {
  if (ttl_ns == 0) return;
  expiries_.add(entry, end_of_life(now_, ttl_ns));
  const std::uint64_t age_ns = wall_ns - std::min(wall_ns, table_.index().stamp->born_ns);
  // Rounded up: a daemon that follows must not be early.
  const std::uint64_t at_s = age_ns / second_ns + ttl_ns / second_ns +
                             (age_ns % second_ns + ttl_ns % second_ns + second_ns - 1) / second_ns;
  table_.set_expires(entry, static_cast<std::uint32_t>(
                                std::min<std::uint64_t>(at_s, UINT32_MAX)));
}

void Rules::expire(EntryNumber entry) {
  if (!SegmentTable::readable(table_.word(entry).state())) return;
  if (stays(entry)) {
    expired_.insert(entry);
  } else {
    remove_entry(entry, RemovalCause::expired);
  }
}

// ------------------------------------------------------------------------------ how many versions

Result<void> Rules::keep(std::string_view id, std::uint32_t versions) {
  if (versions == 0 || versions > shm::keep_all)
    return fail(Errc::bad_argument, "keep is 1 to " + std::to_string(shm::keep_all - 1) +
                                        " versions, or all of them");
  const auto newest = find_segment(id, 0, 0);
  if (!newest) return fail(newest.error());
  table_.set_keep(*newest, versions);
  apply_keep(table_.key(*newest));
  return {};
}

// 0: all.
std::uint32_t Rules::keep_of_family(const shm::Key& key) const {
  const auto newest = table_.find_newest(key);
  if (!newest || !SegmentTable::readable(table_.word(*newest).state())) return 0;
  const std::uint32_t said = table_.keep(*newest);
  if (said == shm::keep_all) return 0;
  return said != 0 ? said : options_.keep;
}

std::uint32_t Rules::keep_of_id(EntryNumber entry) const {
  const auto newest = table_.find_newest(table_.key(entry));
  return newest ? table_.keep(*newest) : 0;
}

bool Rules::is_surplus(EntryNumber entry) const {
  const std::uint32_t keep = keep_of_family(table_.key(entry));
  if (keep == 0) return false;
  std::uint32_t rank = 0;
  for (const EntryNumber member : table_.family(table_.key(entry))) {
    if (member == entry) return rank >= keep;
    rank += SegmentTable::readable(table_.word(member).state());
  }
  return false;
}

void Rules::apply_keep(const shm::Key& key) {
  const std::uint32_t keep = keep_of_family(key);
  if (keep == 0) return;
  std::uint32_t rank = 0;
  std::vector<std::pair<EntryNumber, std::uint64_t>> surplus;
  for (const EntryNumber member : table_.family(key)) {
    if (!SegmentTable::readable(table_.word(member).state())) continue;
    if (rank++ >= keep) surplus.emplace_back(member, table_.serial(member));
  }
  for (const auto& [entry, serial] : surplus)
    if (table_.serial(entry) == serial && SegmentTable::readable(table_.word(entry).state()))
      let_go_surplus(entry);
}

void Rules::let_go_surplus(EntryNumber entry) {
  const State state = table_.word(entry).state();
  const bool goes = SegmentTable::readable(state) && is_surplus(entry);
  if (!goes || stays(entry)) {
    // Whoever ends what keeps it will look again.
    if (surplus_.erase(entry) > 0) table_.set_wanted(entry, false);
    return;
  }
  // Without memory there is nothing that anybody could have pinned.
  if (state == State::spilled || state == State::restoring)
    return remove_entry(entry, RemovalCause::kept_newer);
  // Asked first, looked second: the last release may come in between.
  if (surplus_.insert(entry).second) table_.set_wanted(entry, true);
  table_.mark_evicting(entry);
  if (census_.pinned(entry)) {
    table_.unmark_evicting(entry);
    return;
  }
  remove_entry(entry, RemovalCause::kept_newer);
}

// ------------------------------------------------------------------------------------ a restart

void Rules::adopt_retention(EntryNumber entry, const std::vector<bool>& living,
                            std::uint64_t wall_ns) {
  if (table_.has_flag(entry, RecordFlag::held)) {
    // Who held it was in the former daemon's head. Any living process may have; each will say.
    bool anybody = false;
    for (std::uint32_t slot = 0; slot < living.size(); ++slot)
      if (living[slot]) {
        holds_.hold(entry, slot);
        anybody = true;
      }
    if (!anybody) table_.set_flag(entry, RecordFlag::held, false);
  }
  if (table_.expires(entry) != 0) {
    const std::uint64_t at = table_.index().stamp->born_ns + table_.expires(entry) * second_ns;
    expiries_.add(entry, end_of_life(now_, at > wall_ns ? at - wall_ns : 0));
  }
}

// While a segment is made, its record has its time to live. Its seal writes first when that ends,
// then when it was sealed: a daemon that died between that and the seal itself leaves the end.
std::uint64_t Rules::ttl_of_creation(EntryNumber entry) const {
  const std::uint64_t expires_ns = table_.expires(entry) * second_ns;
  const std::uint64_t sealed_ns = table_.index().records[entry].sealed_ns.load();
  if (sealed_ns == 0 || expires_ns == 0) return expires_ns;
  const std::uint64_t end_ns = table_.index().stamp->born_ns + expires_ns;
  return end_ns - std::min(end_ns - 1, sealed_ns);
}

}  // namespace forebay::daemon
