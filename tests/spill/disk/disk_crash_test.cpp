// SPDX-License-Identifier: Apache-2.0
// The process is killed while it puts: what was acknowledged is there, and nothing is there in
// part.
#include <signal.h>
#include <sys/mman.h>

#include <thread>

#include "tests/spill/disk/disk_fixture.h"
#include "tests/support/child_process.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::test;
using tier_suite::bytes_of;
using tier_suite::Bytes;
using tier_suite::key;
using tier_suite::kib;
using tier_suite::mib;
using tier_suite::must_put;

namespace {

constexpr std::uint64_t most_items = 4000;
constexpr std::uint64_t at_once = 6;

Bytes item_of(std::uint64_t number) {
  const bool large = number % 5 == 0;
  return bytes_of(large ? mib + 3000 * number % mib : 1 + 700 * number % (60 * kib), number);
}

// What the child has done, where the parent sees it when the child is no more.
struct Deeds {
  std::atomic<std::uint64_t> begun = 0;
  std::atomic<std::uint64_t> answered = 0;
  std::array<std::atomic<bool>, most_items + 1> acknowledged{};
  std::array<std::atomic<bool>, most_items + 1> removed{};
};
class SharedDeeds {
 public:
  SharedDeeds() {
    void* const memory = ::mmap(nullptr, sizeof(Deeds), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    deeds_ = new (memory) Deeds;
  }
  ~SharedDeeds() { ::munmap(deeds_, sizeof(Deeds)); }
  SharedDeeds(const SharedDeeds&) = delete;
  SharedDeeds& operator=(const SharedDeeds&) = delete;
  Deeds* operator->() { return deeds_; }

 private:
  Deeds* deeds_;
};

// Puts one item after the other, a few at a time, and removes every third, until it is killed.
void put_for_ever(DiskFolder& folder, SharedDeeds& deeds, std::uint64_t first,
                  std::uint64_t together) {
  auto opened = folder.try_open();
  require(opened.has_value(), "the folder can be opened");
  Tier& tier = **opened;
  for (std::uint64_t number = first; number + together <= most_items; number += together) {
    std::vector<Bytes> items;
    std::vector<Answer<TierPlace>> answers(together);
    for (std::uint64_t i = 0; i < together; ++i) items.push_back(item_of(number + i));
    deeds->begun = number + together - 1;
    for (std::uint64_t i = 0; i < together; ++i)
      tier.put(put_of(key(number + i), items[i]), soon(),
               [&, done = answers[i].done(), at = number + i](Result<TierPlace> place) mutable {
                 if (place) deeds->acknowledged[at] = true;
                 ++deeds->answered;
                 done(std::move(place));
               });
    for (std::uint64_t i = 0; i < together; ++i) {
      const auto place = answers[i].await();
      // A full tier is made empty again by the removals below; what did not fit was not put.
      if (!place) {
        require(place.error().is(Errc::store_full), place.error().message());
        continue;
      }
      if ((number + i) % 3 != 0 && tier.status().used_bytes < 40 * mib) continue;
      deeds->removed[number + i] = true;
      require(remove_now(tier, key(number + i), *place).has_value(), "removed");
    }
  }
}

// Every acknowledged item is there and whole, but for removed ones; and what else is there is one
// of those that were open, and whole.
std::uint64_t check_folder(DiskFolder& folder, SharedDeeds& deeds) {
  const auto tier = folder.open();
  CHECK(folder.names("incoming").empty());
  CHECK(folder.names("damaged").empty());
  CHECK(folder.reports() == 0);
  CHECK(tier->status().used_bytes == folder.bytes_on_disk());
  const auto items = list_now(*tier, key(1).store);
  REQUIRE(items.has_value());
  std::map<std::uint64_t, TierPlace> there;
  std::uint64_t unacknowledged = 0;
  for (const TierItem& item : *items) {
    const std::uint64_t number = item.key.number;
    there[number] = item.place;
    REQUIRE(number <= deeds->begun);
    if (!deeds->acknowledged[number]) ++unacknowledged;
    auto got = get_now(*tier, item.key, item.place);
    REQUIRE(got.has_value());
    REQUIRE((*got == item_of(number)));
  }
  CHECK(unacknowledged <= at_once);
  std::uint64_t acknowledged = 0;
  for (std::uint64_t number = 1; number <= deeds->begun; ++number) {
    if (!deeds->acknowledged[number]) continue;
    ++acknowledged;
    CAPTURE(number);
    if (!deeds->removed[number]) CHECK(there.contains(number));
  }
  // The parent may have taken up what was open: it counts as acknowledged from now on.
  for (const auto& [number, place] : there) deeds->acknowledged[number] = true;
  return acknowledged;
}

}  // namespace

TEST_SUITE("disk crash") {
  TEST_CASE("killed at any moment, it has what was acknowledged when it comes back") {
    Random random("moments");
    DiskFolder folder;
    SharedDeeds deeds;
    std::uint64_t acknowledged = 0;
    for (int round = 0; round < 12; ++round) {
      const std::uint64_t first = deeds->begun + 1;
      if (first + at_once > most_items) break;
      ChildProcess child([&](Moments&) { put_for_ever(folder, deeds, first, at_once); });
      // Somewhere between two moments that the child can be seen to have reached.
      const std::uint64_t until = deeds->answered + random.below(25);
      CHECK(eventually([&] { return deeds->answered >= until; }));
      std::this_thread::sleep_for(std::chrono::microseconds(random.below(5000)));
      child.signal(SIGKILL);
      CHECK(child.join() == -SIGKILL);
      acknowledged = check_folder(folder, deeds);
    }
    CHECK(acknowledged > 0);
  }

  TEST_CASE("killed at any of its steps, it has what was acknowledged when it comes back") {
    for (const IoCall last :
         {IoCall::open, IoCall::allocate, IoCall::write, IoCall::sync_data, IoCall::close,
          IoCall::rename, IoCall::sync_folder, IoCall::remove}) {
      for (const unsigned nth : {1U, 4U}) {
        DiskFolder folder;
        SharedDeeds deeds;
        CAPTURE(static_cast<int>(last));
        CAPTURE(nth);
        ChildProcess child([&](Moments&) {
          folder.io().set_rule([&, seen = 0U](IoCall call, unsigned) mutable -> FaultyIo::Fate {
            if (call == last && ++seen == nth) ::raise(SIGKILL);
            return {};
          });
          put_for_ever(folder, deeds, 1, 1);
        });
        CHECK(child.join() == -SIGKILL);
        const std::uint64_t acknowledged = check_folder(folder, deeds);
        // The one that was killed was not acknowledged, those before it were.
        if (last != IoCall::remove && last != IoCall::write) CHECK(acknowledged == nth - 1);
        CHECK(deeds->begun == (last == IoCall::remove ? 3 * nth : acknowledged + 1));
      }
    }
  }

  TEST_CASE("an item that is moved but not acknowledged is there whole, or not at all") {
    DiskFolder folder;
    SharedDeeds deeds;
    ChildProcess child([&](Moments&) {
      folder.io().set_rule([](IoCall call, unsigned) -> FaultyIo::Fate {
        if (call == IoCall::sync_folder) ::raise(SIGKILL);
        return {};
      });
      put_for_ever(folder, deeds, 5, 1);
    });
    CHECK(child.join() == -SIGKILL);
    CHECK(folder.names("items").size() == 1);
    check_folder(folder, deeds);
    const auto tier = folder.open();
    CHECK(tier_suite::numbers_of(list_now(*tier, key(1).store)) == std::vector<std::uint64_t>{5});
  }
}
