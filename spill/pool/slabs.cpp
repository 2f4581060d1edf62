// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/slabs.h"

#include <algorithm>

#include "store/units.h"

namespace forebay::spill::pool {
namespace {

// Slabs begin and end at multiples of a page, so that a slab's number says where it is.
constexpr std::uint64_t page_bytes = 4096;

std::uint64_t in_pages(std::uint64_t bytes) {
  return (bytes + page_bytes - 1) / page_bytes * page_bytes;
}

std::uint32_t number_of(std::uint64_t offset) {
  return static_cast<std::uint32_t>(offset / page_bytes) + 1;
}

}  // namespace

Slabs::~Slabs() {
  for (const auto& [number, slab] : slabs_)
    if (slab.key) server_.withdraw(*slab.key);
}

Result<Allocation> Slabs::allocate(const StoreUuid& tenant, std::uint64_t bytes) {
  std::uint32_t number = 0;
  Rooms& rooms = rooms_[tenant];
  if (const auto found = rooms.lower_bound({bytes, 0}); found != rooms.end()) {
    number = found->second;
  } else {
    // Towards the end a slab may be smaller than usual, but not than what is to lie in it.
    const std::uint64_t least = in_pages(bytes);
    make_room(std::max(least, slab_bytes_));
    const std::uint64_t size = std::max(least, std::min(slab_bytes_, space_.largest()));
    const auto offset = space_.allocate(size);
    if (!offset)
      return fail(Errc::store_full, "the pool has no room for " + format_size(bytes) + ": " +
                                        format_size(used_bytes_) + " of " +
                                        format_size(arena_.size()) + " are in use");
    auto added = add(tenant, *offset, size);
    if (!added) {
      space_.release(*offset, size);
      return fail(added.error());
    }
    number = *added;
  }
  auto key = this->key(number);
  if (!key) return fail(key.error());
  Slab& slab = slabs_.at(number);
  const auto offset = slab.space.allocate(bytes);
  STORE_CHECK(offset.has_value(), "a slab has the room under which it is listed");
  empty_.erase(number);
  used_bytes_ += bytes;
  list_again(number, slab);
  return Allocation{.slab = number,
                    .slab_offset = slab.offset,
                    .slab_size = slab.size,
                    .offset = *offset,
                    .key = *key};
}

Result<Allocation> Slabs::adopt(const StoreUuid& tenant, std::uint64_t slab_offset,
                                std::uint64_t slab_size, std::uint64_t offset,
                                std::uint64_t bytes) {
  const auto wrong = [] {
    return fail(Errc::bad_message, "an entry that lies where another does");
  };
  if (slab_offset % page_bytes != 0 || slab_size % page_bytes != 0 || slab_size == 0 ||
      bytes == 0 || slab_offset > arena_.size() || slab_size > arena_.size() - slab_offset || offset % 64 != 0 ||
      offset > slab_size || bytes > slab_size - offset)
    return wrong();
  const std::uint32_t number = number_of(slab_offset);
  const auto found = slabs_.find(number);
  if (found == slabs_.end()) {
    if (!space_.take(slab_offset, slab_size)) return wrong();
    auto added = add(tenant, slab_offset, slab_size);
    if (!added) {
      space_.release(slab_offset, slab_size);
      return fail(added.error());
    }
  } else if (found->second.tenant != tenant || found->second.size != slab_size) {
    return wrong();
  }
  Slab& slab = slabs_.at(number);
  if (!slab.space.take(offset, bytes)) return wrong();
  empty_.erase(number);
  used_bytes_ += bytes;
  list_again(number, slab);
  return Allocation{.slab = number,
                    .slab_offset = slab_offset,
                    .slab_size = slab_size,
                    .offset = offset,
                    .key = slab.key.value_or(SlabKey{})};
}

void Slabs::release(std::uint32_t number, std::uint64_t offset, std::uint64_t bytes) {
  Slab& slab = slabs_.at(number);
  slab.space.release(offset, bytes);
  used_bytes_ -= bytes;
  list_again(number, slab);
  if (slab.space.free_bytes() != slab.size) return;
  // Others would leave gaps where a usual one does not fit.
  if (slab.size == slab_bytes_)
    empty_.insert(number);
  else
    remove(number);
}

Result<SlabKey> Slabs::key(std::uint32_t number) {
  Slab& slab = slabs_.at(number);
  if (!slab.key) {
    auto key = server_.expose(arena_.subspan(slab.offset, slab.size), SlabAccess::read_write);
    if (!key) return fail(key.error());
    slab.key = *key;
  }
  return *slab.key;
}

void Slabs::new_key(std::uint32_t number) {
  Slab& slab = slabs_.at(number);
  if (slab.key) server_.withdraw(*slab.key);
  slab.key.reset();
  (void)key(number).has_value();
}

std::span<std::byte> Slabs::bytes(std::uint32_t number) const {
  const Slab& slab = slabs_.at(number);
  return arena_.subspan(slab.offset, slab.size);
}

Result<std::uint32_t> Slabs::add(const StoreUuid& tenant, std::uint64_t offset,
                                 std::uint64_t size) {
  auto key = server_.expose(arena_.subspan(offset, size), SlabAccess::read_write);
  if (!key) return fail(key.error());
  const std::uint32_t number = number_of(offset);
  slabs_.emplace(number, Slab{.tenant = tenant,
                              .offset = offset,
                              .size = size,
                              .space = Extents(size),
                              .key = *key,
                              .listed = size});
  rooms_[tenant].emplace(size, number);
  return number;
}

void Slabs::list_again(std::uint32_t number, Slab& slab) {
  Rooms& rooms = rooms_[slab.tenant];
  rooms.erase({slab.listed, number});
  slab.listed = slab.space.largest();
  rooms.emplace(slab.listed, number);
}

void Slabs::make_room(std::uint64_t bytes) {
  while (!empty_.empty() && space_.largest() < bytes) remove(*empty_.begin());
}

void Slabs::remove(std::uint32_t number) {
  empty_.erase(number);
  const auto found = slabs_.find(number);
  Slab& slab = found->second;
  if (slab.key) server_.withdraw(*slab.key);
  Rooms& rooms = rooms_[slab.tenant];
  rooms.erase({slab.listed, number});
  if (rooms.empty()) rooms_.erase(slab.tenant);
  space_.release(slab.offset, slab.size);
  slabs_.erase(found);
}

}  // namespace forebay::spill::pool
