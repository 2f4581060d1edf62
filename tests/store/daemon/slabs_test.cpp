// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/slabs.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "tests/support/random.h"

namespace forebay::daemon {
namespace {

// What a slot for so many bytes takes, as the slabs themselves count it.
std::uint64_t slot_bytes(std::uint64_t item_bytes) {
  Slabs slabs;
  slabs.add(item_bytes, {0, Slabs::slab_bytes(item_bytes)});
  REQUIRE(slabs.take(item_bytes));
  return slabs.items_bytes();
}

// Every slot size there is, by item size.
const std::vector<std::uint64_t>& slot_sizes() {
  static const std::vector<std::uint64_t> sizes = [] {
    std::vector<std::uint64_t> table{0};
    for (std::uint64_t bytes = 1; bytes <= Slabs::item_bytes_max; ++bytes)
      // A slot size goes on until an item does not fit: only then it is worth asking.
      table.push_back(table.back() >= bytes && bytes > 1 && table.back() != 0 ? table.back()
                                                                              : slot_bytes(bytes));
    return table;
  }();
  return sizes;
}

// Slabs and items as they must lie, beside the real thing.
class Bench {
 public:
  void take(std::uint64_t bytes) {
    const std::uint64_t slot = slot_sizes()[bytes];
    auto offset = slabs.take(bytes);
    REQUIRE(offset.has_value() == has_room(slot));
    if (!offset) {
      const std::uint64_t size = Slabs::slab_bytes(bytes);
      const Extent slab{(next_ + size - 1) / size * size, size};
      next_ = slab.offset + size;
      slabs.add(bytes, slab);
      slabs_[slab.offset] = {size, slot, 0};
      offset = slabs.take(bytes);
      REQUIRE(offset);
    }
    place(*offset, bytes);
  }

  void give_back(std::uint32_t which) {
    auto item = items_.begin();
    std::advance(item, which);
    const auto [offset, bytes] = *item;
    items_.erase(item);
    const auto slab = slab_of(offset);
    --slab->second.live;
    const std::uint64_t slot = slab->second.slot;
    bool another = false;
    for (const auto& [base, other] : slabs_)
      another = another || (base != slab->first && other.slot == slot && other.has_room());
    const auto emptied = slabs.give_back(offset, bytes);
    REQUIRE(emptied.has_value() == (slab->second.live == 0 && another));
    if (!emptied) return;
    REQUIRE(*emptied == Extent{slab->first, slab->second.bytes});
    slabs_.erase(slab);
  }

  void give_up_empty() {
    std::set<std::uint64_t> empty;
    for (const auto& [base, slab] : slabs_)
      if (slab.live == 0) empty.insert(base);
    std::set<std::uint64_t> given_up;
    for (const Extent& extent : slabs.give_up_empty()) {
      REQUIRE(extent.bytes == slabs_.at(extent.offset).bytes);
      given_up.insert(extent.offset);
    }
    REQUIRE(given_up == empty);
    for (const std::uint64_t base : empty) slabs_.erase(base);
  }

  // As a restart finds it: the items and nothing else.
  void restart() {
    slabs = Slabs();
    std::map<std::uint64_t, Slab> found;
    for (const auto& [offset, bytes] : items_) {
      bool sound = false;
      const auto slab = slabs.adopt(offset, bytes, sound);
      REQUIRE(sound);
      const auto expected = slab_of(offset);
      REQUIRE(slab.has_value() == !found.contains(expected->first));
      if (slab) REQUIRE(*slab == Extent{expected->first, expected->second.bytes});
      found[expected->first] = expected->second;
    }
    slabs_ = std::move(found);  // the empty ones are forgotten
  }

  void check() const {
    std::uint64_t slabs_bytes = 0;
    std::uint64_t items_bytes = 0;
    std::set<std::uint64_t> empty_of_size;
    for (const auto& [base, slab] : slabs_) {
      slabs_bytes += slab.bytes;
      items_bytes += slab.live * slab.slot;
    }
    REQUIRE(slabs.slabs_bytes() == slabs_bytes);
    REQUIRE(slabs.items_bytes() == items_bytes);
  }

  std::size_t items() const { return items_.size(); }
  std::size_t slab_count() const { return slabs_.size(); }

  Slabs slabs;

 private:
  struct Slab {
    std::uint64_t bytes = 0;
    std::uint64_t slot = 0;
    std::uint64_t live = 0;
    bool has_room() const { return live < bytes / slot; }
  };

  bool has_room(std::uint64_t slot) const {
    return std::any_of(slabs_.begin(), slabs_.end(), [slot](const auto& item) {
      return item.second.slot == slot && item.second.has_room();
    });
  }
  std::map<std::uint64_t, Slab>::iterator slab_of(std::uint64_t offset) {
    const auto slab = std::prev(slabs_.upper_bound(offset));
    REQUIRE(offset < slab->first + slab->second.bytes);
    return slab;
  }

  void place(std::uint64_t offset, std::uint64_t bytes) {
    const auto slab = slab_of(offset);
    REQUIRE(slab->second.slot == slot_sizes()[bytes]);
    REQUIRE(offset + bytes <= slab->first + slab->second.bytes);
    REQUIRE(offset % 64 == 0);
    const auto after = items_.lower_bound(offset);
    if (after != items_.end()) REQUIRE(offset + bytes <= after->first);
    if (after != items_.begin()) {
      const auto before = std::prev(after);
      REQUIRE(before->first + before->second <= offset);
    }
    items_[offset] = bytes;
    ++slab->second.live;
  }

  std::map<std::uint64_t, Slab> slabs_;
  std::map<std::uint64_t, std::uint64_t> items_;  // offset -> bytes
  std::uint64_t next_ = 0;
};

TEST_SUITE("slabs") {
  TEST_CASE("an item fits its slot, is aligned there, and wastes at most an eighth or 63 bytes") {
    for (std::uint64_t bytes = 1; bytes <= Slabs::item_bytes_max; bytes += bytes < 3000 ? 1 : 61) {
      const std::uint64_t slot = slot_bytes(bytes);
      REQUIRE(slot >= bytes);
      REQUIRE(slot % 64 == 0);
      REQUIRE(slot - bytes < std::max<std::uint64_t>(64, bytes / 8));
      REQUIRE(slot_bytes(slot) == slot);
      REQUIRE(Slabs::slab_bytes(bytes) % slot < slot);
      REQUIRE(Slabs::slab_bytes(bytes) / slot >= 8);
    }
    CHECK(Slabs::fits(1));
    CHECK(Slabs::fits(Slabs::item_bytes_max));
    CHECK_FALSE(Slabs::fits(0));
    CHECK_FALSE(Slabs::fits(Slabs::item_bytes_max + 1));
  }

  TEST_CASE("random items lie in slabs of their size, apart from each other, and are counted") {
    test::Random random("slabs");
    Bench bench;
    constexpr int steps = 60'000;
    std::size_t most = 0;
    for (int step = 0; step < steps; ++step) {
      const bool growing = step % 20'000 < 10'000;
      if (bench.items() == 0 || random.chance(growing ? 0.6 : 0.4)) {
        const std::uint64_t largest = random.chance(0.1) ? Slabs::item_bytes_max : 400;
        bench.take(random.between(1, largest));
      } else {
        bench.give_back(random.below(static_cast<std::uint32_t>(bench.items())));
      }
      if (random.chance(0.0005)) bench.give_up_empty();
      if (random.chance(0.0005)) bench.restart();
      if (step % 16 == 0) bench.check();
      most = std::max(most, bench.items());
    }
    CHECK(most > 1000);
    while (bench.items() > 0) bench.give_back(0);
    bench.give_up_empty();
    bench.check();
    CHECK(bench.slabs.slabs_bytes() == 0);
    CHECK(bench.slabs.items_bytes() == 0);
  }

  TEST_CASE("no item has room before a slab is there, and each slot of a slab is given once") {
    Slabs slabs;
    CHECK_FALSE(slabs.take(100));
    slabs.add(100, {64 * 1024, 64 * 1024});
    std::set<std::uint64_t> offsets;
    while (const auto offset = slabs.take(100)) {
      CHECK(offsets.insert(*offset).second);
      CHECK(*offset >= 64 * 1024);
      CHECK(*offset < 2 * 64 * 1024);
    }
    CHECK(offsets.size() == 64 * 1024 / 128);
    // Another size has no part in it.
    CHECK_FALSE(slabs.take(64));
  }

  TEST_CASE("one empty slab of a size is kept, so that a put and a remove in turn make none") {
    Slabs slabs;
    slabs.add(64, {0, 64 * 1024});
    const auto first = slabs.take(64);
    CHECK_FALSE(slabs.give_back(*first, 64));
    CHECK(slabs.slabs_bytes() == 64 * 1024);

    std::vector<std::uint64_t> items;
    while (const auto item = slabs.take(64)) items.push_back(*item);
    slabs.add(64, {64 * 1024, 64 * 1024});
    const auto second = slabs.take(64);
    REQUIRE(second);
    // While the first is full, an empty second one is the only room there is.
    CHECK_FALSE(slabs.give_back(*second, 64));
    CHECK_FALSE(slabs.give_back(items.back(), 64));
    items.pop_back();
    const auto again = slabs.take(64);
    std::optional<Extent> emptied = slabs.give_back(*again, 64);
    while (!emptied && !items.empty()) {
      emptied = slabs.give_back(items.back(), 64);
      items.pop_back();
    }
    REQUIRE(emptied);
    CHECK(slabs.slabs_bytes() == 64 * 1024);
  }

  TEST_CASE("when memory is short, every empty slab goes and no other does") {
    Slabs slabs;
    for (std::uint64_t slab = 0; slab < 3; ++slab)
      slabs.add(64 * (slab + 1), {slab * 64 * 1024, 64 * 1024});
    REQUIRE(slabs.take(128));
    const std::vector<Extent> given_up = slabs.give_up_empty();
    CHECK(given_up == std::vector<Extent>{{0, 64 * 1024}, {2 * 64 * 1024, 64 * 1024}});
    CHECK(slabs.slabs_bytes() == 64 * 1024);
    CHECK_FALSE(slabs.take(64));
    CHECK(slabs.take(128));
    CHECK(slabs.give_up_empty().empty());
  }

  TEST_CASE(
      "a slot that is found twice, or between two slots, or in a slab of another size, is not "
      "sound") {
    Slabs slabs;
    bool sound = false;
    CHECK(slabs.adopt(128, 100, sound) == Extent{0, 64 * 1024});
    CHECK(sound);
    CHECK_FALSE(slabs.adopt(256, 128, sound));
    CHECK(sound);
    CHECK_FALSE(slabs.adopt(128, 100, sound));
    CHECK_FALSE(sound);
    CHECK_FALSE(slabs.adopt(64, 100, sound));
    CHECK_FALSE(sound);
    CHECK_FALSE(slabs.adopt(640, 64, sound));
    CHECK_FALSE(sound);
    // Behind the last whole slot of a slab: 64 KiB hold 56 slots of 1152 bytes and 1024 bytes more.
    CHECK_FALSE(slabs.adopt(10 * 64 * 1024 + 56 * 1152, 1100, sound));
    CHECK_FALSE(sound);
    CHECK(slabs.items_bytes() == 256);
    CHECK(slabs.slabs_bytes() == 64 * 1024);
  }

  TEST_CASE("slots that a restart found in use are given to nobody, the others to everybody") {
    test::Random random("adopted slots");
    Slabs slabs;
    std::set<std::uint64_t> taken;
    for (int i = 0; i < 300; ++i) taken.insert(std::uint64_t{random.below(512)} * 128);
    bool sound = false;
    for (const std::uint64_t offset : taken) {
      (void)slabs.adopt(offset, 128, sound);
      REQUIRE(sound);
    }
    // Some of them go and come back in between.
    for (int i = 0; i < 50; ++i) {
      CHECK_FALSE(slabs.give_back(*taken.begin(), 128));
      taken.erase(taken.begin());
      const auto again = slabs.take(128);
      REQUIRE(again);
      CHECK(taken.insert(*again).second);
    }
    while (const auto offset = slabs.take(128)) CHECK(taken.insert(*offset).second);
    CHECK(taken.size() == 512);
  }
}

}  // namespace
}  // namespace forebay::daemon
