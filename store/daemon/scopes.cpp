// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/scopes.h"

#include "store/check.h"

namespace forebay::daemon {
namespace {

// Among prefixes of which none overlaps another, the one that `id` starts with. It is the greatest
// that is not greater than the id: whatever stood between the two would start with it.
template <class Map>
auto prefix_of(const Map& prefixes, std::string_view id) {
  auto at = prefixes.upper_bound(id);
  if (at == prefixes.begin()) return prefixes.end();
  --at;
  return id.starts_with(at->first) ? at : prefixes.end();
}

}  // namespace

void Scopes::add(std::string prefix, Scope scope) {
  const bool added = begun_.emplace(std::move(prefix), scope).second;
  STORE_CHECK(added, "a prefix is begun once");
  ++counts_[scope.slot];
}

void Scopes::remove(std::string_view prefix) {
  const auto found = begun_.find(prefix);
  STORE_CHECK(found != begun_.end(), "what is removed was begun");
  if (--counts_[found->second.slot] == 0) counts_.erase(found->second.slot);
  begun_.erase(found);
}

void Scopes::move(std::string_view prefix, Slot slot) {
  const auto found = begun_.find(prefix);
  STORE_CHECK(found != begun_.end(), "what is moved was begun");
  ++counts_[slot];
  if (--counts_[found->second.slot] == 0) counts_.erase(found->second.slot);
  found->second.slot = slot;
}

const Scope* Scopes::find(std::string_view prefix) const {
  const auto found = begun_.find(prefix);
  return found == begun_.end() ? nullptr : &found->second;
}

ScopesByPrefix::const_iterator Scopes::overlapping(std::string_view prefix) const {
  if (const auto shorter = prefix_of(begun_, prefix); shorter != begun_.end()) return shorter;
  const auto longer = begun_.lower_bound(prefix);
  return longer != begun_.end() && longer->first.starts_with(prefix) ? longer : begun_.end();
}

std::vector<std::string> Scopes::of(Slot slot) const {
  std::vector<std::string> prefixes;
  if (!counts_.contains(slot)) return prefixes;
  for (const auto& [prefix, scope] : begun_)
    if (scope.slot == slot) prefixes.push_back(prefix);
  return prefixes;
}

std::size_t Scopes::count(Slot slot) const {
  const auto found = counts_.find(slot);
  return found == counts_.end() ? 0 : found->second;
}

std::shared_ptr<EndedScope> Emptying::scope_of(std::string_view id) const {
  const auto found = prefix_of(scopes, id);
  return found == scopes.end() ? nullptr : found->second;
}

}  // namespace forebay::daemon
