// SPDX-License-Identifier: Apache-2.0
// A disk that fails: no success is reported that is not true, nothing is left, and it goes on.
#include <errno.h>

#include <map>

#include "tests/spill/disk/disk_fixture.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::test;
using namespace std::chrono_literals;
using tier_suite::bytes_of;
using tier_suite::Bytes;
using tier_suite::key;
using tier_suite::mib;
using tier_suite::must_put;
using tier_suite::numbers_of;

namespace {

constexpr int short_move = -1;  // instead of an errno

// Puts, gets and removes, and remembers what was answered.
class Story {
 public:
  explicit Story(Tier& tier) : tier_(tier) {
    for (const std::uint64_t number : {1, 2, 3}) originals_[number] = items_[number] = item(number);
  }
  void run() {
    put(1);
    put(2);
    get(1, 0, items_[1].size());
    get(1, 2 * mib + 5, 100);
    get(2, 0, 1);
    if (places_.contains(1)) {
      removed_ = remove_now(tier_, key(1), places_[1]).has_value();
      if (removed_) places_.erase(1);
    }
    put(3);
  }
  unsigned failures() const { return failures_; }
  void check(Tier& tier) {
    CHECK(wrong_ == "");
    std::vector<std::uint64_t> acknowledged;
    for (const auto& [number, place] : places_) {
      acknowledged.push_back(number);
      auto got = get_now(tier, key(number), place);
      REQUIRE(got.has_value());
      CHECK((*got == originals_[number]));
    }
    CHECK(numbers_of(list_now(tier, key(1).store)) == acknowledged);
    for (const auto& [number, original] : originals_) CHECK((items_[number] == original));
  }

 private:
  static Bytes item(std::uint64_t number) {
    static const Bytes large = bytes_of(2 * mib + 4999, 1);
    return number == 1 ? large : bytes_of(10 * number, number);
  }
  void put(std::uint64_t number) {
    auto place = put_now(tier_, put_of(key(number), items_[number]));
    if (place)
      places_[number] = *place;
    else
      ++failures_;
  }
  void get(std::uint64_t number, std::uint64_t offset, std::uint64_t size) {
    if (!places_.contains(number)) return;
    Bytes into(size);
    const auto got = get_now(tier_, key(number), places_[number], offset, into);
    if (!got) {
      ++failures_;
      if (got.error().is(Errc::lost)) wrong_ = "lost, though it is there";
    } else if (!tier_suite::are_of(into, items_[number], offset)) {
      wrong_ = "other bytes";
    }
  }

  Tier& tier_;
  std::map<std::uint64_t, Bytes> items_;
  std::map<std::uint64_t, Bytes> originals_;
  std::map<std::uint64_t, TierPlace> places_;
  bool removed_ = false;
  unsigned failures_ = 0;
  std::string wrong_;
};

void every_call_fails_once(int error) {
  unsigned at = 0;
  bool reached = true;
  while (reached) {
    ++at;
    REQUIRE(at < 200);
    DiskFolder folder;
    auto tier = folder.open();
    reached = false;
    folder.io().set_rule([&](IoCall call, unsigned count) -> FaultyIo::Fate {
      if (count != at) return {};
      reached = true;
      if (error != short_move) return {.error = error};
      if (call == IoCall::read || call == IoCall::write) return {.at_most = 5000};
      return {};
    });
    CAPTURE(at);
    CAPTURE(error);
    Story story(*tier);
    story.run();
    folder.io().set_rule({});
    story.check(*tier);
    if (error == short_move) CHECK(story.failures() == 0);
    CHECK(folder.names("incoming").empty());
    CHECK(folder.names("damaged").empty());
    CHECK(tier->status().used_bytes == folder.bytes_on_disk());
    tier.reset();
    tier = folder.open();
    story.check(*tier);
    CHECK(tier->status().used_bytes == folder.bytes_on_disk());
    const Bytes more = bytes_of(5000, 9);
    const TierPlace place = must_put(*tier, put_of(key(9), more));
    CHECK((get_now(*tier, key(9), place).value() == more));
  }
  CHECK(at > 20);
}

}  // namespace

TEST_SUITE("disk faults") {
  TEST_CASE("any call may fail once with an I/O error, and nothing untrue is said") {
    every_call_fails_once(EIO);
  }
  TEST_CASE("any call may fail once for want of space, and nothing untrue is said") {
    every_call_fails_once(ENOSPC);
  }
  TEST_CASE("any call may be refused once, and nothing untrue is said") {
    every_call_fails_once(EROFS);
  }
  TEST_CASE("any call may be interrupted once, and nothing untrue is said") {
    every_call_fails_once(EINTR);
  }
  TEST_CASE("any call may move fewer bytes than asked, and nobody notices") {
    every_call_fails_once(short_move);
  }

  TEST_CASE("the reason of a failed put is told, and its file is gone") {
    DiskFolder folder;
    auto tier = folder.open();
    const Bytes item = bytes_of(mib, 1);
    std::uint64_t number = 0;
    for (const IoCall failing : {IoCall::open, IoCall::allocate, IoCall::write, IoCall::sync_data,
                                 IoCall::rename, IoCall::sync_folder}) {
      for (const int error : {ENOSPC, EDQUOT, EIO, EROFS}) {
        folder.io().set_rule([&](IoCall call, unsigned) -> FaultyIo::Fate {
          return {.error = call == failing ? error : 0};
        });
        auto put = put_now(*tier, put_of(key(++number), item));
        CAPTURE(static_cast<int>(failing));
        CAPTURE(error);
        REQUIRE(!put.has_value());
        if (error == ENOSPC || error == EDQUOT)
          CHECK(put.error().is(Errc::store_full));
        else
          CHECK(put.error().code == std::error_code(error, std::system_category()));
        CHECK(put.error().detail.find(folder.path()) != std::string::npos);
        CHECK(folder.bytes_on_disk() == 0);
        CHECK(tier->status().used_bytes == 0);
        CHECK(tier->status().up);
      }
    }
    folder.io().set_rule({});
    must_put(*tier, put_of(key(++number), item));
  }

  TEST_CASE("a sync that failed is not tried again") {
    DiskFolder folder;
    auto tier = folder.open();
    const Bytes item = bytes_of(mib, 1);
    for (const IoCall sync : {IoCall::sync_data, IoCall::sync_folder}) {
      const unsigned before = folder.io().count(sync);
      bool failed = false;
      folder.io().set_rule([&](IoCall call, unsigned) -> FaultyIo::Fate {
        if (call != sync || failed) return {};
        failed = true;
        return {.error = EIO};
      });
      CHECK(!put_now(*tier, put_of(key(1), item)).has_value());
      CHECK(folder.io().count(sync) == before + 1);
      CHECK(folder.bytes_on_disk() == 0);
    }
    tier.reset();
    tier = folder.open();
    CHECK(numbers_of(list_now(*tier, key(1).store)).empty());
  }

  TEST_CASE("a file that cannot be removed keeps its bytes reserved, until the next start") {
    DiskFolder folder;
    auto tier = folder.open();
    const Bytes item = bytes_of(mib, 1);
    folder.io().set_rule([&](IoCall call, unsigned) -> FaultyIo::Fate {
      return {.error = call == IoCall::sync_data || call == IoCall::remove ? EIO : 0};
    });
    CHECK(!put_now(*tier, put_of(key(1), item)).has_value());
    CHECK(folder.reports() == 1);
    CHECK(folder.bytes_on_disk() > mib);
    CHECK(tier->status().used_bytes == folder.bytes_on_disk());
    folder.io().set_rule({});
    tier.reset();
    tier = folder.open();
    CHECK(tier->status().used_bytes == 0);
    CHECK(folder.bytes_on_disk() == 0);
  }

  TEST_CASE("on a stuck disk, every operation is answered at its deadline and let go") {
    DiskFolder folder;
    DiskTierOptions options = folder.options();
    options.stuck_after = 30ms;
    auto tier = DiskTier::open(std::move(options)).value();
    const Bytes item = bytes_of(3 * mib, 1);
    const TierPlace place = must_put(*tier, put_of(key(1), item));
    const std::uint64_t used = tier->status().used_bytes;
    for (const IoCall stuck : {IoCall::read, IoCall::write, IoCall::sync_data, IoCall::sync_folder,
                               IoCall::open}) {
      CAPTURE(static_cast<int>(stuck));
      folder.io().stall(stuck);
      Answer<TierPlace> put, waiting;
      Answer<void> get;
      auto source = std::make_unique<Bytes>(item);
      auto into = std::make_unique<Bytes>(item.size(), std::byte{0x55});
      tier->put(put_of(key(2), *source), in(60ms), put.done());
      tier->get({.key = key(1), .place = place, .into = *into}, in(60ms), get.done());
      tier->put(put_of(key(3), item), in(80ms), waiting.done());
      const bool reads = stuck == IoCall::read || stuck == IoCall::open;
      if (reads) CHECK(get.await().error().is(Errc::timed_out));
      else CHECK(get.await().has_value());
      if (stuck != IoCall::read) CHECK(put.await().error().is(Errc::timed_out));
      CHECK(folder.io().wait_stuck(1));
      (void)put.await();
      (void)waiting.await();
      // What belongs to an operation that has been answered is not looked at any more.
      source.reset();
      if (reads) CHECK((*into == Bytes(item.size(), std::byte{0x55})));
      into.reset();
      folder.io().go_on();
      CHECK(eventually([&] { return folder.names("incoming").empty(); }));
      CHECK((get_now(*tier, key(1), place).value() == item));
      for (auto& [number, answer] : {std::pair{2U, &put}, std::pair{3U, &waiting}})
        if (auto had = answer->await()) CHECK(remove_now(*tier, key(number), *had));
      CHECK(eventually([&] { return tier->status().used_bytes == used; }));
      CHECK(numbers_of(list_now(*tier, key(1).store)) == std::vector<std::uint64_t>{1});
      CHECK(folder.names("items").size() == 1);
    }
  }

  TEST_CASE("a disk that does not come back is down, and up when it does") {
    DiskFolder folder;
    DiskTierOptions options = folder.options();
    options.stuck_after = 20ms;
    auto tier = DiskTier::open(std::move(options)).value();
    const Bytes item = bytes_of(mib, 1);
    const TierPlace place = must_put(*tier, put_of(key(1), item));
    folder.io().stall(IoCall::sync_folder);
    CHECK(put_now(*tier, put_of(key(2), item), in(20ms)).error().is(Errc::timed_out));
    CHECK(eventually([&] { return !tier->status().up; }));
    CHECK(!tier->status().why_down.empty());
    CHECK(get_now(*tier, key(1), place).error().is(Errc::tier_down));
    CHECK(put_now(*tier, put_of(key(3), item)).error().is(Errc::tier_down));
    CHECK(remove_now(*tier, key(1), place).error().is(Errc::tier_down));
    folder.io().go_on();
    CHECK(eventually([&] { return tier->status().up; }));
    CHECK((get_now(*tier, key(1), place).value() == item));
    must_put(*tier, put_of(key(4), item));
    CHECK(numbers_of(list_now(*tier, key(1).store)) == std::vector<std::uint64_t>{1, 4});
  }

  TEST_CASE("a tier on a stuck disk can be closed, and its folder is free when the disk is back") {
    DiskFolder folder;
    DiskTierOptions options = folder.options();
    options.close_within = 50ms;
    auto tier = DiskTier::open(std::move(options)).value();
    const Bytes item = bytes_of(mib, 1);
    folder.io().stall(IoCall::write);
    Answer<TierPlace> put;
    tier->put(put_of(key(1), item), soon(), put.done());
    CHECK(folder.io().wait_stuck(1));
    tier.reset();
    CHECK(put.times() == 1);
    CHECK(put.await().error().is(Errc::tier_down));
    CHECK(folder.try_open().error().is(Errc::already_running));
    folder.io().go_on();
    CHECK(eventually([&] { return folder.try_open().has_value(); }));
    CHECK(folder.bytes_on_disk() == 0);
  }

  TEST_CASE("a demand does not wait for what is put in the background") {
    DiskFolder folder;
    auto tier = folder.open();
    const Bytes item = bytes_of(mib, 1);
    const TierPlace place = must_put(*tier, put_of(key(1), item));
    folder.io().stall(IoCall::sync_data);
    std::vector<Answer<TierPlace>> puts(5);
    for (unsigned i = 0; i < 5; ++i) tier->put(put_of(key(2 + i), item), soon(), puts[i].done());
    CHECK(folder.io().wait_stuck(1));
    CHECK((get_now(*tier, key(1), place).value() == item));
    folder.io().go_on();
    for (auto& put : puts) CHECK(put.await().has_value());
  }
}
