// SPDX-License-Identifier: Apache-2.0
// What a store should hold, as a random test keeps account of it: each segment by its serial, who
// holds what, which versions can be read. It knows the promises of the rules and none of their ways.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "store/daemon/rules.h"

namespace forebay::test {

using Serial = std::uint64_t;
using Slot = std::uint32_t;

struct ModelSegment {
  // As the index has it.
  std::string id;
  std::uint64_t version = 0;
  daemon::EntryNumber entry = daemon::no_entry;
  shm::State state{};  // creating, sealed, removing, tombstone
  std::uint64_t location = 0;
  std::uint64_t size = 0;    // bytes of payload
  std::uint64_t stored = 0;  // bytes of all
  bool evictable = false;
  bool persistent = false;
  bool in_slab = false;
  bool is_claim = false;
  bool is_manifest = false;
  std::uint32_t keep = 0;
  std::uint32_t owner_slot = 0;
  std::uint64_t token = 0;
  shm::Reason reason{};  // of a tombstone
  // What the index does not have.
  std::uint64_t rank = 0;  // later used, higher
  std::uint64_t ttl_ns = 0;
  struct End {
    daemon::TimePoint not_before;
    daemon::TimePoint by;
  };
  std::optional<End> end = {};                     // of a sealed one
  std::vector<shm::ManifestMember> members = {};  // of a manifest
};

class RulesModel {
 public:
  using Shelf = std::map<std::uint64_t, Serial>;  // by version

  explicit RulesModel(std::uint32_t default_keep) : default_keep_(default_keep) {}

  std::map<Serial, ModelSegment> segments;
  std::map<std::string, Shelf> shelves;             // what can be read
  std::map<Serial, std::map<Slot, int>> holds;     // as the daemon counts them
  std::map<Slot, std::map<Serial, int>> beliefs;   // as each process counts its own
  // Ids whose newest version has gone, and the one before says less: nobody looks at once.
  std::set<std::string> lenient;

  // --- looking

  const ModelSegment* find(Serial serial) const {
    const auto found = segments.find(serial);
    return found == segments.end() ? nullptr : &found->second;
  }
  // A version that can be read, or the newest: 0 if there is none.
  Serial readable(const std::string& id, std::uint64_t version) const {
    const auto shelf = shelves.find(id);
    if (shelf == shelves.end() || shelf->second.empty()) return 0;
    if (version == 0) return shelf->second.rbegin()->second;
    const auto found = shelf->second.find(version);
    return found == shelf->second.end() ? 0 : found->second;
  }
  Serial find(const std::string& id, std::uint64_t version, shm::State state) const {
    for (const auto& [serial, segment] : segments)
      if (segment.version == version && segment.state == state && segment.id == id) return serial;
    return 0;
  }
  std::uint64_t newest_version(const std::string& id) const {
    const Serial newest = readable(id, 0);
    return newest == 0 ? 0 : segments.at(newest).version;
  }

  // --- retention

  // 0: all.
  std::uint32_t keep_of(const std::string& id) const {
    const Serial newest = readable(id, 0);
    if (newest == 0) return 0;
    const std::uint32_t said = segments.at(newest).keep;
    return said == shm::keep_all ? 0 : said != 0 ? said : default_keep_;
  }
  bool surplus(const ModelSegment& segment) const {
    const std::uint32_t keep = keep_of(segment.id);
    if (keep == 0) return false;
    const Shelf& shelf = shelves.at(segment.id);
    const auto newer = std::distance(shelf.upper_bound(segment.version), shelf.end());
    return newer >= static_cast<std::ptrdiff_t>(keep);
  }
  bool held_by_process(Serial serial) const { return holds.contains(serial); }
  // The manifests that list it; `counts` says of one that was removed whether it is still there.
  template <class Counts>
  std::vector<Serial> listed_by(Serial serial, const Counts& counts) const {
    std::vector<Serial> manifests;
    for (const Serial candidate : manifests_) {
      const ModelSegment* const manifest = find(candidate);
      if (manifest == nullptr) continue;
      if (manifest->state != shm::State::sealed &&
          !(manifest->state == shm::State::removing && counts(*manifest)))
        continue;
      if (std::ranges::any_of(manifest->members,
                              [serial](const auto& member) { return member.serial == serial; }))
        manifests.push_back(candidate);
    }
    return manifests;
  }
  template <class Counts>
  bool stays(Serial serial, const Counts& counts) const {
    return segments.at(serial).persistent || held_by_process(serial) ||
           !listed_by(serial, counts).empty();
  }

  void hold(Serial serial, Slot slot) {
    ++holds[serial][slot];
    ++beliefs[slot][serial];
  }
  bool holds_it(Serial serial, Slot slot) const {
    const auto of_segment = holds.find(serial);
    return of_segment != holds.end() && of_segment->second.contains(slot);
  }
  void unhold(Serial serial, Slot slot) {
    let_go(holds, serial, slot);
    let_go(beliefs, slot, serial);
  }
  // All that it holds is what it believes.
  void say_again(Slot slot) {
    forget_holds_of(slot);
    const auto believed = beliefs.find(slot);
    if (believed == beliefs.end()) return;
    for (const auto& [serial, count] : believed->second)
      if (const ModelSegment* segment = find(serial);
          segment != nullptr && segment->state == shm::State::sealed)
        holds[serial][slot] = count;
  }
  void process_died(Slot slot) {
    forget_holds_of(slot);
    beliefs.erase(slot);
  }

  // --- what happens

  void listed(Serial manifest) { manifests_.insert(manifest); }
  void sealed(Serial serial) {
    const ModelSegment& segment = segments.at(serial);
    shelves[segment.id][segment.version] = serial;
    lenient.erase(segment.id);
  }
  void gone(Serial serial) {
    const ModelSegment& segment = segments.at(serial);
    const std::uint32_t before = keep_of(segment.id);
    shelves[segment.id].erase(segment.version);
    holds.erase(serial);
    const std::uint32_t now = keep_of(segment.id);
    if (now != 0 && (before == 0 || now < before)) lenient.insert(segment.id);
  }
  void forget(Serial serial) {
    segments.erase(serial);
    holds.erase(serial);
    manifests_.erase(serial);
  }
  // After a restart all is taken from what was found.
  void rebuild_shelves() {
    shelves.clear();
    lenient.clear();
    manifests_.clear();
    for (const auto& [serial, segment] : segments) {
      if (segment.state == shm::State::sealed) shelves[segment.id][segment.version] = serial;
      if (!segment.members.empty()) manifests_.insert(serial);
    }
  }

 private:
  template <class Map, class Key, class Inner>
  static void let_go(Map& map, Key key, Inner inner) {
    const auto found = map.find(key);
    if (found == map.end()) return;
    const auto count = found->second.find(inner);
    if (count == found->second.end()) return;
    if (--count->second == 0) found->second.erase(count);
    if (found->second.empty()) map.erase(found);
  }
  void forget_holds_of(Slot slot) {
    for (auto segment = holds.begin(); segment != holds.end();) {
      segment->second.erase(slot);
      segment = segment->second.empty() ? holds.erase(segment) : std::next(segment);
    }
  }

  std::uint32_t default_keep_;
  std::set<Serial> manifests_;
};

}  // namespace forebay::test
