// SPDX-License-Identifier: Apache-2.0
// ItemTable: which items a pool holds, by tenant and number, and by name and version. A mirror of
// the journal; owned by the control thread, takes no lock.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "spill/pool/arena.h"
#include "spill/pool/data_link.h"
#include "spill/pool/protocol.h"

namespace forebay::spill::pool {

struct Item {
  ItemRecord record;
  TierLabel label;
  std::uint32_t slab = 0;
  std::uint32_t entry = 0;        // of the journal
  std::optional<SlabKey> shared;  // for other tenants, to read just this one

  TierPlace place(std::uint64_t incarnation) const {
    return {.incarnation = incarnation, .offset = record.offset, .size = record.size, .slab = slab};
  }
};

class ItemTable {
 public:
  struct OfTenant {
    std::map<std::uint64_t, Item> items;
    std::uint64_t bytes = 0;  // allocated
  };

  // False: the tenant has one of that number already.
  bool add(Item item) {
    OfTenant& tenant = tenants_[item.record.key.store];
    const ItemRecord record = item.record;
    const std::string name = item.label.name;
    if (!tenant.items.try_emplace(record.key.number, std::move(item)).second) return false;
    tenant.bytes += record.allocated_bytes();
    if (!name.empty()) names_[name].emplace(Rank{record.version, record.sequence}, record.key);
    return true;
  }
  void remove(const TierKey& key) {
    const auto tenant = tenants_.find(key.store);
    const auto found = tenant->second.items.find(key.number);
    const Item& item = found->second;
    if (!item.label.name.empty()) {
      const auto named = names_.find(item.label.name);
      named->second.erase({item.record.version, item.record.sequence});
      if (named->second.empty()) names_.erase(named);
    }
    tenant->second.bytes -= item.record.allocated_bytes();
    tenant->second.items.erase(found);
    if (tenant->second.items.empty()) tenants_.erase(tenant);
  }
  Item* find(const TierKey& key) {
    const auto tenant = tenants_.find(key.store);
    if (tenant == tenants_.end()) return nullptr;
    const auto found = tenant->second.items.find(key.number);
    return found == tenant->second.items.end() ? nullptr : &found->second;
  }
  // Version 0: the highest; of two that are equal the later one.
  Item* find_named(const std::string& name, std::uint64_t version) {
    const auto named = names_.find(name);
    if (named == names_.end()) return nullptr;
    auto after = version == 0 ? named->second.end()
                              : named->second.upper_bound({version, ~std::uint64_t{0}});
    if (after == named->second.begin()) return nullptr;
    --after;
    if (version != 0 && after->first.first != version) return nullptr;
    return find(after->second);
  }
  const OfTenant* of(const StoreUuid& tenant) const {
    const auto found = tenants_.find(tenant);
    return found == tenants_.end() ? nullptr : &found->second;
  }
  const std::map<StoreUuid, OfTenant>& tenants() const { return tenants_; }

 private:
  using Rank = std::pair<std::uint64_t, std::uint64_t>;  // version, sequence

  std::map<StoreUuid, OfTenant> tenants_;
  std::map<std::string, std::map<Rank, TierKey>> names_;
};

}  // namespace forebay::spill::pool
