// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/pool.h"

#include <algorithm>
#include <cstring>

#include "spill/checksum.h"
#include "spill/pool/hmac.h"
#include "store/shm/failpoint.h"
#include "store/units.h"

namespace forebay::spill::pool {
namespace {

std::uint32_t label_crc(const TierLabel& label) {
  return crc32c(label.about, crc32c(bytes_of(label.name)));
}

void write_label(std::span<std::byte> to, const TierLabel& label) {
  if (!label.name.empty()) std::memcpy(to.data(), label.name.data(), label.name.size());
  if (!label.about.empty())
    std::memcpy(to.data() + label.name.size(), label.about.data(), label.about.size());
}

TierLabel read_label(std::span<const std::byte> from, const ItemRecord& record) {
  TierLabel label;
  label.version = record.version;
  label.name.assign(reinterpret_cast<const char*>(from.data()), record.name_size);
  const auto about = from.subspan(record.name_size, record.about_size);
  label.about.assign(about.begin(), about.end());
  return label;
}

}  // namespace

Pool::Pool(Arena& arena, DataServer& server, PoolOptions options)
    : arena_(arena),
      server_(server),
      options_(options),
      slabs_(arena.bytes(), options.slab_bytes, server) {}

Pool::~Pool() {
  for (const auto& [tenant, held] : items_.tenants())
    for (const auto& [number, item] : held.items)
      if (item.shared) server_.withdraw(*item.shared);
  for (const Draining& item : draining_) server_.withdraw(item.shared);
}

Pool::Recovered Pool::recover(Time now) {
  auto found = arena_.recover();
  // The latest first: were two to overlap, the older one's room had been given away.
  std::ranges::sort(found, std::greater<>(),
                    [](const auto& entry) { return entry.second.sequence; });
  Recovered recovered{.dropped = arena_.torn()};
  for (const auto& [entry, record] : found) {
    const auto drop = [&, entry = entry] {
      arena_.clear(entry);
      ++recovered.dropped;
    };
    const std::uint64_t bytes = record.allocated_bytes();
    if (record.size == 0 || bytes == 0 || items_.find(record.key) != nullptr) {
      drop();
      continue;
    }
    auto adopted = slabs_.adopt(record.key.store, record.slab_offset, record.slab_size,
                                record.offset, bytes);
    if (!adopted) {
      drop();
      continue;
    }
    const auto text =
        slabs_.bytes(adopted->slab).subspan(record.label_offset(), record.label_size());
    Item item{.record = record,
              .label = read_label(text, record),
              .slab = adopted->slab,
              .entry = entry,
              .shared = std::nullopt};
    if (label_crc(item.label) != record.label_crc) {
      slabs_.release(adopted->slab, record.offset, bytes);
      drop();
      continue;
    }
    items_.add(std::move(item));
    tenants_[record.key.store].seen = now;
    ++recovered.items;
    recovered.bytes += record.size;
  }
  shm::reached(shm::points::pool_recovered);
  return recovered;
}

Pool::SessionId Pool::begin(const StoreUuid& tenant) {
  ++tenants_[tenant].sessions;
  sessions_[++last_session_].tenant = tenant;
  return last_session_;
}

void Pool::end(SessionId number, bool links_ended, Time now) {
  const auto found = sessions_.find(number);
  Session& session = found->second;
  Tenant& tenant = tenants_[session.tenant];
  if (!links_ended) {
    std::uint32_t last = 0;
    for (const auto& [spot, pending] : session.pending)
      if (std::exchange(last, spot.first) != spot.first) slabs_.new_key(spot.first);
  }
  for (const auto& [spot, pending] : session.pending) {
    const std::uint64_t bytes = pending.record.allocated_bytes();
    slabs_.release(spot.first, spot.second, bytes);
    tenant.pending_bytes -= bytes;
  }
  --tenant.sessions;
  tenant.seen = now;
  if (tenant.sessions == 0 && items_.of(session.tenant) == nullptr) tenants_.erase(session.tenant);
  sessions_.erase(found);
}

Result<Granted> Pool::allocate(SessionId number, const Wanted& wanted, Time now) {
  Session& session = sessions_.at(number);
  if (wanted.key.store != session.tenant)
    return fail(Errc::denied, "a store puts items of its own into a pool, and no other's");
  if (wanted.size == 0 || wanted.name_size > name_bytes_max || wanted.about_size > about_bytes_max)
    return fail(Errc::bad_argument,
                "an item has at least one byte, a name of at most 512 bytes, and at most 1 KiB "
                "about it");
  if (items_.find(wanted.key) != nullptr)
    return fail(Errc::exists, "the pool has an item of that number already");
  ItemRecord record{.key = wanted.key,
                    .size = wanted.size,
                    .name_size = wanted.name_size,
                    .about_size = wanted.about_size};
  const std::uint64_t bytes = record.allocated_bytes();
  if (bytes == 0 || bytes > arena_.bytes().size())
    return fail(Errc::store_full, "an item of " + format_size(wanted.size) +
                                      " is larger than the pool, which has " +
                                      format_size(arena_.bytes().size()));
  Tenant& tenant = tenants_[session.tenant];
  const auto* const held = items_.of(session.tenant);
  const std::uint64_t used = tenant.pending_bytes + (held == nullptr ? 0 : held->bytes);
  if (options_.tenant_bytes_max != 0 && used + bytes > options_.tenant_bytes_max)
    return fail(Errc::store_full, "this store has " + format_size(used) +
                                      " in the pool, and may have no more than " +
                                      format_size(options_.tenant_bytes_max) + " (--tenant-limit)");
  auto allocated = slabs_.allocate(session.tenant, bytes);
  if (!allocated) return fail(allocated.error());
  record.slab_offset = allocated->slab_offset;
  record.slab_size = allocated->slab_size;
  record.offset = allocated->offset;
  tenant.pending_bytes += bytes;
  session.pending.emplace(Spot(allocated->slab, allocated->offset),
                          Pending{.record = record, .slab = allocated->slab, .since = now});
  shm::reached(shm::points::pool_allocated);
  return Granted{.place = {.incarnation = arena_.incarnation(),
                           .offset = allocated->offset,
                           .size = wanted.size,
                           .slab = allocated->slab},
                 .slab = allocated->key};
}

Result<void> Pool::commit(SessionId number, const TierItem& item) {
  Session& session = sessions_.at(number);
  const auto found = session.pending.find({item.place.slab, item.place.offset});
  if (item.place.incarnation != arena_.incarnation() || found == session.pending.end())
    return fail(Errc::lost, "the pool has nothing allocated there for this session; put it again");
  ItemRecord record = found->second.record;
  if (record.key != item.key || record.size != item.place.size ||
      record.name_size != item.label.name.size() || record.about_size != item.label.about.size())
    return fail(Errc::bad_argument, "another item than the one that the room was given for");
  if (items_.find(item.key) != nullptr)
    return fail(Errc::exists, "the pool has an item of that number already");
  record.version = item.label.version;
  record.crc32c = item.crc32c;
  record.label_crc = label_crc(item.label);
  write_label(slabs_.bytes(item.place.slab).subspan(record.label_offset(), record.label_size()),
              item.label);
  auto entry = arena_.commit(record);
  if (!entry) return fail(entry.error());
  record.sequence = arena_.sequence();
  tenants_[session.tenant].pending_bytes -= record.allocated_bytes();
  session.pending.erase(found);
  items_.add({.record = record,
              .label = item.label,
              .slab = item.place.slab,
              .entry = *entry,
              .shared = std::nullopt});
  return {};
}

Result<void> Pool::free(SessionId number, const Named& named, Time now) {
  Session& session = sessions_.at(number);
  if (named.key.store != session.tenant)
    return fail(Errc::denied, "a store frees items of its own, and no other's");
  if (named.place.incarnation != arena_.incarnation()) return {};
  const auto pending = session.pending.find({named.place.slab, named.place.offset});
  if (pending != session.pending.end() && pending->second.record.key == named.key) {
    const std::uint64_t bytes = pending->second.record.allocated_bytes();
    slabs_.release(named.place.slab, named.place.offset, bytes);
    tenants_[session.tenant].pending_bytes -= bytes;
    session.pending.erase(pending);
    return {};
  }
  Item* const item = items_.find(named.key);
  if (item != nullptr && item->place(arena_.incarnation()) == named.place) remove(*item, now);
  return {};
}

void Pool::remove(Item& item, Time now) {
  const ItemRecord record = item.record;
  arena_.clear(item.entry);
  if (item.shared)
    draining_.push_back({.until = now + options_.shared_for,
                         .shared = *item.shared,
                         .slab = item.slab,
                         .offset = record.offset,
                         .bytes = record.allocated_bytes()});
  else
    slabs_.release(item.slab, record.offset, record.allocated_bytes());
  items_.remove(record.key);
  shm::reached(shm::points::pool_freed);
}

ListAnswer Pool::list(SessionId number, const ListRequest& request) const {
  ListAnswer answer;
  const auto* const held = items_.of(sessions_.at(number).tenant);
  if (held == nullptr) return answer;
  std::size_t bytes = 0;
  for (auto at = held->items.lower_bound(request.from); at != held->items.end(); ++at) {
    if (bytes >= batch_bytes) {
      answer.more = true;
      answer.next = at->first;
      break;
    }
    const Item& item = at->second;
    answer.items.push_back({.key = item.record.key,
                            .place = item.place(arena_.incarnation()),
                            .crc32c = item.record.crc32c,
                            .label = request.brief ? TierLabel{} : item.label});
    bytes += 80 + (request.brief ? 0 : item.record.label_size());
  }
  return answer;
}

Result<TierItem> Pool::find(const FindRequest& request) {
  const Item* const item = items_.find_named(request.name, request.version);
  if (item == nullptr)
    return fail(Errc::not_found,
                "nobody has published '" + request.name + "'" +
                    (request.version == 0 ? std::string()
                                          : " version " + std::to_string(request.version)) +
                    " in this pool");
  return TierItem{.key = item->record.key,
                  .place = item->place(arena_.incarnation()),
                  .crc32c = item->record.crc32c,
                  .label = item->label};
}

Result<OpenAnswer> Pool::open(SessionId number, const Named& named) {
  const Session& session = sessions_.at(number);
  Item* const item = items_.find(named.key);
  // That there is an item which is not published is told to nobody.
  const bool own = named.key.store == session.tenant;
  if (item == nullptr || item->place(arena_.incarnation()) != named.place ||
      (!own && item->label.name.empty()))
    return fail(Errc::lost, "the pool has no such item at that place any more");
  if (own) {
    auto key = slabs_.key(item->slab);
    if (!key) return fail(key.error());
    return OpenAnswer{.outcome = {}, .slab = *key, .offset = item->record.offset};
  }
  if (!item->shared) {
    auto key = server_.expose(
        slabs_.bytes(item->slab).subspan(item->record.offset, item->record.size), SlabAccess::read);
    if (!key) return fail(key.error());
    item->shared = *key;
  }
  return OpenAnswer{.outcome = {}, .slab = *item->shared, .offset = 0};
}

Stat Pool::stat(SessionId number) const {
  Stat stat{.capacity_bytes = arena_.bytes().size(), .used_bytes = slabs_.used_bytes()};
  if (const auto* const held = items_.of(sessions_.at(number).tenant); held != nullptr) {
    stat.tenant_bytes = held->bytes;
    stat.tenant_items = held->items.size();
  }
  return stat;
}

std::vector<Pool::SessionId> Pool::overdue(Time now) const {
  std::vector<SessionId> late;
  for (const auto& [number, session] : sessions_)
    if (std::ranges::any_of(session.pending, [&](const auto& one) {
          return one.second.since + options_.uncommitted_for <= now;
        }))
      late.push_back(number);
  return late;
}

void Pool::tick(Time now) {
  std::erase_if(draining_, [&](const Draining& item) {
    if (item.until > now) return false;
    server_.withdraw(item.shared);
    slabs_.release(item.slab, item.offset, item.bytes);
    return true;
  });
  if (options_.forget_tenants_after.count() == 0) return;
  for (auto at = tenants_.begin(); at != tenants_.end();) {
    const auto& [uuid, tenant] = *at;
    if (tenant.sessions > 0 || tenant.seen + options_.forget_tenants_after > now) {
      ++at;
      continue;
    }
    while (const auto* const held = items_.of(uuid)) {
      const TierKey key = held->items.begin()->second.record.key;
      remove(*items_.find(key), now);
    }
    at = tenants_.erase(at);
  }
}

}  // namespace forebay::spill::pool
