// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/memory.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "spill/fabric/error.h"
#include "store/check.h"

namespace forebay::spill::fabric {

namespace {

// No registration crosses a multiple of it.
constexpr std::uintptr_t piece_bytes = std::uintptr_t{16} << 20U;
// NICs look a registration up in a table of limited size.
constexpr std::size_t most_registrations = 2048;

std::uintptr_t address_of(const std::byte* byte) { return reinterpret_cast<std::uintptr_t>(byte); }
std::uintptr_t end_of(std::span<const std::byte> bytes) {
  return address_of(bytes.data()) + bytes.size();
}

Result<std::uint64_t> random_key(std::size_t key_bytes) {
  std::uint64_t key = 0;
  do {
    if (::getrandom(&key, sizeof key, 0) != static_cast<ssize_t>(sizeof key))
      return fail_errno(errno, "no random numbers for the key of a slab");
    if (key_bytes < sizeof key) key &= (std::uint64_t{1} << (8 * key_bytes)) - 1;
  } while (key == FI_KEY_NOTAVAIL || key == 0);
  return key;
}

}  // namespace

MemoryModes MemoryModes::of(const fi_info& info) {
  const int mode = info.domain_attr->mr_mode;
  return {.local = (mode & FI_MR_LOCAL) != 0,
          .virtual_addresses = (mode & FI_MR_VIRT_ADDR) != 0,
          .allocated = (mode & FI_MR_ALLOCATED) != 0,
          .provider_keys = (mode & FI_MR_PROV_KEY) != 0,
          .endpoint = (mode & FI_MR_ENDPOINT) != 0,
          .key_bytes = info.domain_attr->mr_key_size};
}

Result<std::shared_ptr<Registration>> Registration::make(const Endpoint& endpoint,
                                                         const MemoryModes& modes,
                                                         std::span<const std::byte> bytes,
                                                         std::uint64_t access, std::uint64_t key) {
  const auto failed = [&](int code, const char* what) {
    return fail(fabric_error(code, std::string(what) + " failed for " +
                                       std::to_string(bytes.size()) +
                                       " bytes; is `ulimit -l` too low?"));
  };
  fid_mr* made = nullptr;
  if (const int code = fi_mr_reg(endpoint.domain(), bytes.data(), bytes.size(), access, 0,
                                 modes.provider_keys ? 0 : key, 0, &made, nullptr);
      code != 0)
    return failed(code, "fi_mr_reg");
  Owned<fid_mr> region(made);
  if (modes.endpoint) {
    if (const int code = fi_mr_bind(made, &endpoint.ep()->fid, 0); code != 0)
      return failed(code, "fi_mr_bind");
    if (const int code = fi_mr_enable(made); code != 0) return failed(code, "fi_mr_enable");
  }
  return std::shared_ptr<Registration>(new Registration(std::move(region), bytes, access));
}

ExposedMemory::ExposedMemory(const Endpoint& endpoint)
    : endpoint_(&endpoint), modes_(MemoryModes::of(endpoint.info())) {}

Result<SlabKey> ExposedMemory::expose(std::span<std::byte> slab, SlabAccess access) {
  const std::uint64_t rights =
      FI_REMOTE_READ | (access == SlabAccess::read_write ? FI_REMOTE_WRITE : 0);
  if (slab.empty()) return fail(Errc::bad_argument, "a slab of no bytes cannot be exposed");
  auto alias = SharedAlias::make(slab);
  if (!alias) return fail(alias.error());
  constexpr int tries = 8;
  for (int attempt = 1;; ++attempt) {
    const auto wanted = random_key(modes_.key_bytes);
    if (!wanted) return fail(wanted.error());
    auto made = Registration::make(*endpoint_, modes_, alias->bytes(), rights, *wanted);
    if (!made) {
      // Short keys meet each other now and then.
      if (made.error().code.value() == FI_ENOKEY && attempt < tries) continue;
      return fail(made.error());
    }
    const SlabKey key{.key = (*made)->key(),
                      .base = modes_.virtual_addresses ? address_of(alias->bytes().data()) : 0};
    const std::lock_guard lock(mutex_);
    slabs_.emplace(key.key, Slab{std::move(*alias), std::move(*made)});
    return key;
  }
}

void ExposedMemory::withdraw(const SlabKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = slabs_.find(key.key);
  if (found == slabs_.end()) return;
  // First the key, for what has not started; then the bytes, for what has.
  found->second.registration.reset();
  found->second.alias.cut();
  graves_.push_back(std::move(found->second.alias));
  slabs_.erase(found);
}

void ExposedMemory::withdraw_all() {
  const std::lock_guard lock(mutex_);
  for (auto& [key, slab] : slabs_) {
    slab.registration.reset();
    slab.alias.cut();
    graves_.push_back(std::move(slab.alias));
  }
  slabs_.clear();
}

LocalMemory::LocalMemory(const Endpoint& endpoint)
    : endpoint_(&endpoint), modes_(MemoryModes::of(endpoint.info())) {}

Result<LocalMemory::Piece> LocalMemory::use(std::span<const std::byte> bytes,
                                            Direction direction) {
  if (!modes_.local) return Piece{bytes.size(), nullptr, nullptr};
  const std::uintptr_t first = address_of(bytes.data());
  const std::size_t size = std::min<std::size_t>(bytes.size(), piece_bytes - first % piece_bytes);
  const std::uint64_t access = direction == Direction::source ? FI_WRITE : FI_READ;
  const std::lock_guard lock(mutex_);
  auto registration = registered(bytes.first(size), access);
  if (!registration) return fail(registration.error());
  (*registration)->last_used = ++uses_;
  return Piece{size, (*registration)->description(), *registration};
}

Result<std::shared_ptr<Registration>> LocalMemory::registered(std::span<const std::byte> bytes,
                                                              std::uint64_t access) {
  const std::uintptr_t first = address_of(bytes.data());
  const auto behind = cache_.upper_bound(first);
  if (behind != cache_.begin()) {
    const auto& candidate = std::prev(behind)->second;
    if (end_of(candidate->bytes()) >= end_of(bytes) && (candidate->access() & access) == access)
      return candidate;
  }
  // Whole pages, but no more: what else there is in the piece may be a hole, and registering would
  // fill it. What is registered already and overlaps is known to be there, and becomes part of it.
  std::span<const std::byte> pages = pages_around(bytes);
  std::uint64_t wanted = access;
  std::uintptr_t from = address_of(pages.data());
  std::uintptr_t to = end_of(pages);
  auto overlapping = cache_.lower_bound(from);
  if (overlapping != cache_.begin() && end_of(std::prev(overlapping)->second->bytes()) > from)
    --overlapping;
  while (overlapping != cache_.end() && overlapping->first < to) {
    from = std::min(from, overlapping->first);
    to = std::max(to, end_of(overlapping->second->bytes()));
    wanted |= overlapping->second->access();
    // Who is in flight under it keeps it.
    overlapping = cache_.erase(overlapping);
  }
  pages = {pages.data() - (address_of(pages.data()) - from), to - from};
  if (modes_.allocated)
    if (auto there = populate(bytes, (access & FI_READ) != 0); !there) return fail(there.error());
  make_room(most_registrations - 1);
  auto made = Registration::make(*endpoint_, modes_, pages, wanted, uses_ + 1);
  if (!made && made.error().code.value() == FI_ENOMEM) {
    // What was kept for later is in the way now.
    make_room(0);
    made = Registration::make(*endpoint_, modes_, pages, wanted, uses_ + 1);
  }
  if (!made) return fail(made.error());
  cache_.emplace(from, *made);
  return made;
}

void LocalMemory::make_room(std::size_t most) {
  if (cache_.size() <= most) return;
  std::vector<std::uint64_t> uses;
  for (const auto& [address, registration] : cache_) uses.push_back(registration->last_used);
  // A quarter more than needed, so that this is rare.
  const std::size_t leaving = std::min(uses.size(), uses.size() - most + most / 4);
  const auto last = uses.begin() + static_cast<std::ptrdiff_t>(leaving) - 1;
  std::nth_element(uses.begin(), last, uses.end());
  std::erase_if(cache_, [limit = *last](const auto& item) {
    return item.second->last_used <= limit;
  });
}

void LocalMemory::leaves(std::span<const std::byte> bytes) {
  if (!modes_.local || bytes.empty()) return;
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  auto item = cache_.lower_bound(address_of(bytes.data()));
  if (item != cache_.begin() && end_of(std::prev(item)->second->bytes()) > address_of(bytes.data()))
    --item;
  while (item != cache_.end() && item->first < end_of(bytes)) item = cache_.erase(item);
}

void LocalMemory::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  cache_.clear();
}

std::size_t LocalMemory::registrations() const {
  const std::lock_guard lock(mutex_);
  return cache_.size();
}

}  // namespace forebay::spill::fabric
