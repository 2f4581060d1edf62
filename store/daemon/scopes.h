// SPDX-License-Identifier: Apache-2.0
// Scopes: the prefixes that processes have begun, and those that have ended and are being emptied.
//
// No two begun prefixes overlap (neither is a prefix of the other), so that at most one of them is
// an id's. Those that end at the same moment are emptied together, in one walk over the index.
// Owned by the daemon's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "store/daemon/segment_table.h"
#include "store/daemon/ticket.h"

namespace forebay::daemon {

struct Scope {
  EntryNumber entry = no_entry;  // says that it is there, also to the next daemon
  std::uint32_t slot = 0;        // of the process whose it is
};
using ScopesByPrefix = std::map<std::string, Scope, std::less<>>;

class Scopes {
 public:
  using Slot = std::uint32_t;

  // It must overlap no other.
  void add(std::string prefix, Scope scope);
  void remove(std::string_view prefix);
  // It is another process's from now on.
  void move(std::string_view prefix, Slot slot);

  const Scope* find(std::string_view prefix) const;
  // One that is the same, or a prefix of this, or has this for a prefix; begun().end(): none.
  ScopesByPrefix::const_iterator overlapping(std::string_view prefix) const;
  std::vector<std::string> of(Slot slot) const;
  std::size_t count(Slot slot) const;
  const ScopesByPrefix& begun() const { return begun_; }

 private:
  ScopesByPrefix begun_;
  std::map<Slot, std::size_t> counts_;
};

// A scope that has ended.
struct EndedScope {
  EntryNumber entry = no_entry;
  std::uint32_t slot = 0;
  std::uint64_t removed = 0;    // segments, so far
  std::vector<Ticket> tickets;  // of who waits for its being empty
};

// Scopes that ended together, and how far the walk over the index has come.
struct Emptying {
  // Segments with serials below this one were there when they ended.
  std::uint64_t before_serial = 0;
  std::map<std::string, std::shared_ptr<EndedScope>, std::less<>> scopes;
  EntryNumber next = 1;
  EntryNumber end = 1;
  // Left for what lists them; with serials.
  std::vector<std::pair<EntryNumber, std::uint64_t>> listed;

  std::shared_ptr<EndedScope> scope_of(std::string_view id) const;
};

}  // namespace forebay::daemon
