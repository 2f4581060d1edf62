// SPDX-License-Identifier: Apache-2.0
// What every tier must do, whatever it is made of: the contract of store/tier.h as tests.
//
// A tier's test file gives a fixture, and one TEST_CASE for each group below (bytes, names,
// refusals, crowds, restarts):
//
//   class PoolFixture {
//    public:
//     explicit PoolFixture(std::uint64_t capacity_bytes);  // whatever stands behind the tier
//     std::unique_ptr<Tier> open();  // a tier on it; again only once the last one is gone
//     static constexpr bool keeps_items = true;  // what one tier has put, the next one finds
//     void lose_items();  // no tier is open: what was kept is gone, and comes not back
//   };
//   TEST_CASE("a pool: bytes") { tier_suite::bytes<PoolFixture>(); }
//
// lose_items() may be absent. A tier need not be up when open() returns: the suite waits.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "tests/spill/support/tier_calls.h"
#include "tests/support/random.h"

namespace forebay::test::tier_suite {

inline constexpr std::uint64_t kib = 1024;
inline constexpr std::uint64_t mib = 1024 * kib;
using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

inline TierKey key(std::uint64_t number, std::uint8_t store = 1) {
  return {.store = {store, 0xfe, 0xb1}, .number = number};
}

// Bytes that differ from item to item and from place to place.
inline Bytes bytes_of(std::uint64_t size, std::uint64_t seed) {
  Bytes bytes(size);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15U + 1;
  for (std::size_t i = 0; i < bytes.size(); i += sizeof state) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    std::memcpy(bytes.data() + i, &state, std::min(sizeof state, bytes.size() - i));
  }
  return bytes;
}

// Whether these are the bytes of `item` from `offset` on. (Tests are compiled without optimisation:
// megabytes must not be looked at one by one.)
inline bool are_of(std::span<const std::byte> some, const Bytes& item, std::uint64_t offset) {
  return offset + some.size() <= item.size() &&
         std::memcmp(some.data(), item.data() + offset, some.size()) == 0;
}
inline void overwrite(Bytes& bytes, int value) {
  if (!bytes.empty()) std::memset(bytes.data(), value, bytes.size());
}

// A fixture with a tier that is up.
template <class Fixture>
class Opened {
 public:
  explicit Opened(std::uint64_t capacity_bytes = 256 * mib) : fixture_(capacity_bytes) { open(); }
  Tier& operator*() { return *tier_; }
  Tier* operator->() { return tier_.get(); }
  Fixture& fixture() { return fixture_; }
  void close() { tier_.reset(); }
  void open() {
    tier_ = fixture_.open();
    REQUIRE(tier_ != nullptr);
    REQUIRE(eventually([&] { return tier_->status().up; }));
  }

 private:
  Fixture fixture_;
  std::unique_ptr<Tier> tier_;
};

inline TierPlace must_put(Tier& tier, TierPut put) {
  auto place = put_now(tier, std::move(put));
  INFO((place ? "" : place.error().message()));
  REQUIRE(place.has_value());
  return *place;
}

inline std::vector<std::uint64_t> numbers_of(Result<std::vector<TierItem>> items) {
  std::vector<std::uint64_t> numbers;
  REQUIRE(items.has_value());
  for (const TierItem& item : *items) numbers.push_back(item.key.number);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

inline bool code_is(const Result<void>& result, Errc code) {
  return !result && result.error().is(code);
}

// Items of every awkward size, whole and in pieces.
template <class Fixture>
void bytes() {
  Opened<Fixture> tier;

  SUBCASE("an item comes back as it went, whatever its size") {
    std::uint64_t number = 0;
    for (const std::uint64_t size :
         {std::uint64_t{1}, std::uint64_t{2}, 4 * kib - 1, 4 * kib, 4 * kib + 1, 64 * kib - 1,
          64 * kib, 64 * kib + 1, mib - 1, mib, mib + 1, 5 * mib + 4097}) {
      const Bytes item = bytes_of(size, size);
      const TierPlace place = must_put(*tier, put_of(key(++number), item));
      CHECK(place.incarnation != 0);
      CHECK(place.incarnation == tier->status().incarnation);
      CHECK(place.size == size);
      auto got = get_now(*tier, key(number), place);
      REQUIRE(got.has_value());
      CHECK((*got == item));
    }
    CHECK(tier->status().used_bytes > 0);
  }

  SUBCASE("any range of an item can be had, and nothing beside it is written") {
    const std::uint64_t size = 3 * mib + 777;
    const Bytes item = bytes_of(size, 3);
    const TierPlace place = must_put(*tier, put_of(key(1), item));
    Random random("ranges");
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges{
        {0, 1}, {size - 1, 1}, {0, size}, {1, size - 1}, {0, 4096}, {4095, 2}, {4096, 4096},
        {mib - 1, 2}, {mib - 4096, 8192}, {2 * mib - 3, mib}, {64 * kib - 1, 64 * kib + 2}};
    for (int i = 0; i < 40; ++i) {
      const std::uint64_t offset = random.between(0, size - 1);
      ranges.emplace_back(offset, random.between(1, size - offset));
    }
    for (const auto& [offset, length] : ranges) {
      Bytes around(length + 128, std::byte{0xa5});
      REQUIRE(get_now(*tier, key(1), place, offset, std::span(around).subspan(64, length)));
      CAPTURE(offset);
      CAPTURE(length);
      CHECK(are_of(std::span(around).subspan(64, length), item, offset));
      CHECK(std::all_of(around.begin(), around.begin() + 64,
                        [](std::byte byte) { return byte == std::byte{0xa5}; }));
      CHECK(std::all_of(around.end() - 64, around.end(),
                        [](std::byte byte) { return byte == std::byte{0xa5}; }));
    }
  }

  SUBCASE("the parts of an item lie one behind the other, empty ones too") {
    const Bytes item = bytes_of(2 * mib + 5, 4);
    TierPut put = put_of(key(1), item);
    const std::span<const std::byte> all(item);
    put.parts = {all.subspan(0, 1),         {}, all.subspan(1, 70 * kib),
                 all.subspan(1 + 70 * kib, mib), all.subspan(1 + 70 * kib + mib)};
    const TierPlace place = must_put(*tier, std::move(put));
    auto got = get_now(*tier, key(1), place);
    REQUIRE(got.has_value());
    CHECK((*got == item));
  }

  SUBCASE("a thousand items are kept apart") {
    std::map<std::uint64_t, Answer<TierPlace>> answers;
    std::map<std::uint64_t, Bytes> items;
    for (std::uint64_t number = 1; number <= 1000; ++number) {
      items[number] = bytes_of(number, number);
      tier->put(put_of(key(number), items[number]), soon(), answers[number].done());
    }
    std::map<std::uint64_t, TierPlace> places;
    for (auto& [number, answer] : answers) {
      auto place = answer.await(60s);
      REQUIRE(place.has_value());
      places[number] = *place;
    }
    CHECK(numbers_of(list_now(*tier, key(1).store)).size() == 1000);
    for (const auto& [number, place] : places) {
      auto got = get_now(*tier, key(number), place);
      REQUIRE(got.has_value());
      REQUIRE((*got == items[number]));
    }
    for (const auto& [number, place] : places)
      if (number % 2 == 0) REQUIRE(remove_now(*tier, key(number), place));
    CHECK(numbers_of(list_now(*tier, key(1).store)).size() == 500);
    CHECK((get_now(*tier, key(999), places[999]).value() == items[999]));
  }
}

// Removing, listing, finding.
template <class Fixture>
void names() {
  Opened<Fixture> tier;
  const Bytes item = bytes_of(10 * kib, 1);

  SUBCASE("what is removed is lost, and removing it again does no harm") {
    const TierPlace place =
        must_put(*tier, put_of(key(1), item, {.name = "gone", .version = 1, .about = {}}));
    const TierPlace other = must_put(*tier, put_of(key(2), item));
    CHECK(remove_now(*tier, key(1), place));
    CHECK(get_now(*tier, key(1), place).error().is(Errc::lost));
    CHECK(find_now(*tier, "gone", 0).error().is(Errc::not_found));
    CHECK(remove_now(*tier, key(1), place));
    CHECK(numbers_of(list_now(*tier, key(1).store)) == std::vector<std::uint64_t>{2});
    CHECK((get_now(*tier, key(2), other).value() == item));
  }

  SUBCASE("a list has the items of one store, as they were put") {
    const Bytes about = bytes_of(1024, 7);
    const TierLabel label{.name = std::string(512, 'n'), .version = 9, .about = about};
    const TierPlace place = must_put(*tier, put_of(key(1), item, label));
    must_put(*tier, put_of(key(2), item));
    must_put(*tier, put_of(key(3, 2), item));
    CHECK(numbers_of(list_now(*tier, key(0).store)) == std::vector<std::uint64_t>{1, 2});
    CHECK(numbers_of(list_now(*tier, key(0, 2).store)) == std::vector<std::uint64_t>{3});
    CHECK(numbers_of(list_now(*tier, key(0, 3).store)).empty());
    auto listed = list_now(*tier, key(0).store);
    REQUIRE(listed.has_value());
    for (const TierItem& listed_item : *listed) {
      if (listed_item.key.number != 1) continue;
      CHECK(listed_item.place == place);
      CHECK(listed_item.crc32c == spill::crc32c(item));
      CHECK(listed_item.label.name == label.name);
      CHECK(listed_item.label.version == 9);
      CHECK((listed_item.label.about == about));
    }
  }

  SUBCASE("an item is found by its name, exact or newest, whichever store put it") {
    const Bytes about = bytes_of(100, 8);
    must_put(*tier, put_of(key(1), item, {.name = "a", .version = 1, .about = about}));
    const TierPlace three =
        must_put(*tier, put_of(key(3, 2), item, {.name = "a", .version = 3, .about = {}}));
    must_put(*tier, put_of(key(2), item, {.name = "a", .version = 2, .about = {}}));
    must_put(*tier, put_of(key(4), item, {.name = "ab", .version = 7, .about = {}}));
    auto newest = find_now(*tier, "a", 0);
    REQUIRE(newest.has_value());
    CHECK(newest->key == key(3, 2));
    CHECK(newest->place == three);
    CHECK(newest->crc32c == spill::crc32c(item));
    auto exact = find_now(*tier, "a", 1);
    REQUIRE(exact.has_value());
    CHECK(exact->key == key(1));
    CHECK(exact->label.name == "a");
    CHECK(exact->label.version == 1);
    CHECK((exact->label.about == about));
    CHECK((get_now(*tier, exact->key, exact->place).value() == item));
    CHECK(find_now(*tier, "a", 4).error().is(Errc::not_found));
    CHECK(find_now(*tier, "b", 0).error().is(Errc::not_found));
    CHECK(find_now(*tier, std::string(512, 'a'), 0).error().is(Errc::not_found));
    CHECK(remove_now(*tier, key(3, 2), three));
    CHECK(find_now(*tier, "a", 0).value().key == key(2));
  }
}

// What a tier must refuse, and how.
template <class Fixture>
void refusals() {
  SUBCASE("an item is lost at any place but its own, and stays unharmed") {
    Opened<Fixture> tier;
    const Bytes item = bytes_of(10 * kib, 1);
    const TierPlace place = must_put(*tier, put_of(key(1), item));
    TierPlace other = place;
    other.incarnation += 1;
    CHECK(get_now(*tier, key(1), other).error().is(Errc::lost));
    CHECK(remove_now(*tier, key(1), other));
    other = place;
    other.size -= 1;
    CHECK(get_now(*tier, key(1), other).error().is(Errc::lost));
    other = place;
    other.offset += 64 * mib;
    CHECK(get_now(*tier, key(1), other).error().is(Errc::lost));
    CHECK(get_now(*tier, key(2), place).error().is(Errc::lost));
    CHECK(get_now(*tier, key(1, 2), place).error().is(Errc::lost));
    CHECK(remove_now(*tier, key(2), place));
    CHECK(remove_now(*tier, key(1, 2), place));
    CHECK((get_now(*tier, key(1), place).value() == item));
  }

  SUBCASE("bytes outside the item and items that none may be are bad arguments") {
    Opened<Fixture> tier;
    const Bytes item = bytes_of(10 * kib, 1);
    const TierPlace place = must_put(*tier, put_of(key(1), item));
    Bytes into(10 * kib + 1);
    const std::span<std::byte> two = std::span(into).first(2);
    CHECK(code_is(get_now(*tier, key(1), place, 0, into), Errc::bad_argument));
    CHECK(code_is(get_now(*tier, key(1), place, place.size - 1, two), Errc::bad_argument));
    CHECK(code_is(get_now(*tier, key(1), place, place.size + 1, two), Errc::bad_argument));
    CHECK(code_is(get_now(*tier, key(1), place, ~std::uint64_t{0}, two), Errc::bad_argument));
    CHECK(put_now(*tier, put_of(key(2), {})).error().is(Errc::bad_argument));
    const TierLabel long_name{.name = std::string(513, 'n'), .version = 1, .about = {}};
    CHECK(put_now(*tier, put_of(key(2), item, long_name))
              .error()
              .is(Errc::bad_argument));
    CHECK(put_now(*tier, put_of(key(2), item, {.name = "n", .version = 1, .about = Bytes(1025)}))
              .error()
              .is(Errc::bad_argument));
    CHECK(numbers_of(list_now(*tier, key(1).store)) == std::vector<std::uint64_t>{1});
  }

  SUBCASE("an operation whose deadline has passed times out and does nothing") {
    Opened<Fixture> tier;
    const Bytes item = bytes_of(mib, 1);
    const TierPlace place = must_put(*tier, put_of(key(1), item));
    const TierDeadline past = TierClock::now() - 1ms;
    CHECK(put_now(*tier, put_of(key(2), item), past).error().is(Errc::timed_out));
    Bytes into(mib, std::byte{0x11});
    CHECK(code_is(get_now(*tier, key(1), place, 0, into, past), Errc::timed_out));
    CHECK((into == Bytes(mib, std::byte{0x11})));
    CHECK(code_is(remove_now(*tier, key(1), place, past), Errc::timed_out));
    CHECK(list_now(*tier, key(1).store, past).error().is(Errc::timed_out));
    CHECK(find_now(*tier, "a", 0, past).error().is(Errc::timed_out));
    CHECK(numbers_of(list_now(*tier, key(1).store)) == std::vector<std::uint64_t>{1});
    CHECK((get_now(*tier, key(1), place).value() == item));
  }

  SUBCASE("a full tier says so, keeps what it has, and takes more when there is room") {
    Opened<Fixture> tier(8 * mib);
    CHECK(tier->status().capacity_bytes == 8 * mib);
    std::map<std::uint64_t, TierPlace> places;
    const Bytes item = bytes_of(mib, 5);
    std::optional<Error> error;
    std::uint64_t number = 0;
    while (!error && number < 9) {
      ++number;
      const TierLabel label{.name = "n", .version = number, .about = {}};
      auto place = put_now(*tier, put_of(key(number), item, label));
      if (place)
        places[number] = *place;
      else
        error = place.error();
    }
    REQUIRE(error);
    CHECK(error->is(Errc::store_full));
    CHECK(places.size() >= 4);
    CHECK(find_now(*tier, "n", number).error().is(Errc::not_found));
    CHECK(numbers_of(list_now(*tier, key(1).store)).size() == places.size());
    CHECK(tier->status().up);
    CHECK(tier->status().used_bytes <= 8 * mib);
    const Bytes huge = bytes_of(9 * mib, 6);
    CHECK(put_now(*tier, put_of(key(100), huge)).error().is(Errc::store_full));
    for (const auto& [kept, place] : places)
      CHECK((get_now(*tier, key(kept), place).value() == item));
    CHECK(remove_now(*tier, key(1), places[1]));
    CHECK(remove_now(*tier, key(2), places[2]));
    CHECK(eventually([&] { return put_now(*tier, put_of(key(++number), item)).has_value(); }));
  }
}

// What one thread of a crowd does: operations of any kind on items of its own, many open at a time.
class CrowdMember {
 public:
  // `punctual`: no operation is given less time than it needs.
  CrowdMember(Tier& tier, std::uint8_t store, std::uint64_t seed, bool punctual)
      : tier_(tier), store_(store), punctual_(punctual), engine_(seed) {}

  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      step();
      while (open_.size() > 16) settle_oldest();
    }
    while (!open_.empty()) settle_oldest();
  }
  std::map<std::uint64_t, TierPlace> places() const {
    std::map<std::uint64_t, TierPlace> places;
    for (const auto& [number, item] : items_) places[number] = item.place;
    return places;
  }
  TierKey key_of(std::uint64_t number) const { return key(number, store_); }
  const std::string& wrong() const { return wrong_; }
  int done() const { return done_; }
  // After everything: no operation was answered twice, and nothing was written after its answer.
  void check_afterwards() {
    for (auto& check : afterwards_) check();
  }

 private:
  struct Item {
    TierPlace place;
    std::uint64_t size = 0;
  };
  std::uint64_t below(std::uint64_t end) { return engine_() % end; }
  TierDeadline some_deadline() {
    return !punctual_ && below(8) == 0 ? in(std::chrono::milliseconds(below(3))) : soon();
  }
  void blame(const std::string& what) {
    if (wrong_.empty()) wrong_ = what;
  }
  // Timed out is never wrong: the machine may be slow.
  template <class T>
  bool came(const Result<T>& result, const std::string& what) {
    ++done_;
    if (result) return true;
    if (!result.error().is(Errc::timed_out)) blame(what + ": " + result.error().message());
    return false;
  }

  void step() {
    const std::uint64_t choice = below(10);
    if (choice < 4 || items_.empty()) return put();
    auto item = items_.begin();
    std::advance(item, static_cast<std::ptrdiff_t>(below(items_.size())));
    if (choice < 8) return get(item->first, item->second);
    if (choice < 9) return remove(item->first);
    list();
  }
  void put() {
    const std::uint64_t number = ++last_;
    const std::uint64_t size = below(4) == 0 ? 1 + below(700 * kib) : 1 + below(9 * kib);
    auto source = std::make_shared<Bytes>(bytes_of(size, number + store_ * 1000U));
    auto answer = std::make_shared<Answer<TierPlace>>();
    // The source is overwritten and freed as soon as the tier says that it is done with it.
    tier_.put(put_of(key_of(number), *source), some_deadline(),
              [source, done = answer->done()](Result<TierPlace> place) mutable {
                overwrite(*source, 0xdd);
                *source = Bytes();
                done(std::move(place));
              });
    open_.push_back([this, answer, number, size] {
      auto place = answer->await();
      if (came(place, "put")) items_[number] = {*place, size};
      once(answer);
    });
  }
  void get(std::uint64_t number, const Item& item) {
    const std::uint64_t offset = below(3) == 0 ? below(item.size) : 0;
    const std::uint64_t size = offset == 0 ? item.size : 1 + below(item.size - offset);
    auto into = std::make_shared<Bytes>(size);
    auto answer = std::make_shared<Answer<void>>();
    auto brought = std::make_shared<Bytes>();
    tier_.get({.key = key_of(number), .place = item.place, .offset = offset, .into = *into},
              some_deadline(), [into, brought, done = answer->done()](Result<void> result) {
                *brought = *into;
                overwrite(*into, 0xee);
                done(std::move(result));
              });
    open_.push_back([this, answer, into, brought, number, offset, size, whole = item.size] {
      const auto result = answer->await();
      if (came(result, "get")) {
        const Bytes expected = bytes_of(whole, number + store_ * 1000U);
        if (!are_of(*brought, expected, offset)) blame("get: other bytes");
      }
      once(answer);
      afterwards_.push_back([this, into, size] {
        if (*into != Bytes(size, std::byte{0xee})) blame("get: written after its answer");
      });
    });
  }
  // All that is open on the item must be done first: what comes after is lost, and rightly so.
  void remove(std::uint64_t number) {
    while (!open_.empty()) settle_oldest();
    const TierPlace place = items_[number].place;
    auto answer = std::make_shared<Answer<void>>();
    tier_.remove(key_of(number), place, soon(), answer->done());
    items_.erase(number);
    open_.push_back([this, answer] {
      came(answer->await(), "remove");
      once(answer);
    });
  }
  void list() {
    auto answer = std::make_shared<Answer<std::vector<TierItem>>>();
    tier_.list(key_of(0).store, some_deadline(), answer->done());
    // Everything put before and not removed is in it; what is open may be.
    std::vector<std::uint64_t> least;
    for (const auto& [number, item] : items_) least.push_back(number);
    open_.push_back([this, answer, least] {
      const auto items = answer->await();
      if (came(items, "list")) {
        for (const std::uint64_t number : least)
          if (std::none_of(items->begin(), items->end(),
                           [&](const TierItem& item) { return item.key.number == number; }) &&
              items_.contains(number))
            blame("list: an item is missing");
      }
      once(answer);
    });
  }
  template <class T>
  void once(std::shared_ptr<Answer<T>> answer) {
    afterwards_.push_back([this, answer] {
      if (answer->times() != 1) blame("an operation was answered twice");
    });
  }
  void settle_oldest() {
    const auto settle = std::move(open_.front());
    open_.pop_front();
    settle();
  }

  Tier& tier_;
  std::uint8_t store_;
  bool punctual_;
  std::mt19937_64 engine_;
  std::uint64_t last_ = 0;
  std::map<std::uint64_t, Item> items_;
  std::deque<std::function<void()>> open_;
  std::vector<std::function<void()>> afterwards_;
  std::string wrong_;
  int done_ = 0;
};

// Many at a time, and ends at any time.
template <class Fixture>
void crowds() {
  SUBCASE("random operations of several threads do what a map would do, each answered once") {
    Opened<Fixture> tier;
    Random random("crowd");
    std::vector<std::unique_ptr<CrowdMember>> members;
    // Where a late operation takes the connection along, others fail with it: none is late then.
    constexpr bool punctual = requires { Fixture::late_takes_others_along; };
    for (std::uint8_t store = 1; store <= 4; ++store)
      members.push_back(std::make_unique<CrowdMember>(*tier, store, random.next(), punctual));
    std::vector<std::thread> threads;
    for (auto& member : members) threads.emplace_back([&] { member->run(250); });
    for (std::thread& thread : threads) thread.join();
    for (auto& member : members) {
      CHECK(member->wrong() == "");
      CHECK(member->done() == 250);
      const auto places = member->places();
      // A put that timed out may still be on its way out.
      CHECK(eventually([&] {
        return numbers_of(list_now(*tier, member->key_of(0).store)).size() == places.size();
      }));
      const auto listed = list_now(*tier, member->key_of(0).store);
      for (const TierItem& item : listed.value()) {
        REQUIRE(places.contains(item.key.number));
        CHECK(item.place == places.at(item.key.number));
      }
    }
    tier.close();
    for (auto& member : members) {
      member->check_afterwards();
      CHECK(member->wrong() == "");
    }
  }

  SUBCASE("a callback may call the tier again") {
    Opened<Fixture> tier;
    const Bytes item = bytes_of(100 * kib, 1);
    Bytes into(100 * kib);
    Answer<std::vector<TierItem>> listed;
    std::atomic<bool> got = false;
    tier->put(put_of(key(1), item), soon(), [&, listed](Result<TierPlace> put) mutable {
      if (!put) return listed.done()(fail(put.error()));
      const TierPlace place = *put;
      tier->get({.key = key(1), .place = place, .into = into}, soon(),
                [&, place, listed](Result<void> result) mutable {
                  got = result.has_value();
                  (void)tier->status();
                  tier->remove(key(1), place, soon(), [&, listed](Result<void> removed) mutable {
                    if (!removed) return listed.done()(fail(removed.error()));
                    tier->list(key(1).store, soon(), listed.done());
                  });
                });
    });
    auto left = listed.await();
    REQUIRE(left.has_value());
    CHECK(left->empty());
    CHECK(got);
    CHECK((into == item));
  }

  SUBCASE("a tier that is closed answers what is open, and touches nothing of it any more") {
    for (int round = 0; round < 5; ++round) {
      Opened<Fixture> tier;
      Tier& closing = *tier;
      const Bytes item = bytes_of(2 * mib, 1);
      const TierPlace place = must_put(*tier, put_of(key(1), item));
      std::vector<Answer<TierPlace>> puts(20);
      std::vector<Answer<void>> gets(20);
      std::deque<Bytes> intos;
      std::atomic<unsigned> again = 0;
      for (unsigned i = 0; i < 20; ++i) {
        tier->put(put_of(key(2 + i), item), soon(), puts[i].done());
        Bytes& into = intos.emplace_back(2 * mib);
        tier->get({.key = key(1), .place = place, .into = into}, soon(),
                  [&, done = gets[i].done()](Result<void> result) {
                    overwrite(into, 0xee);
                    // Also then it may call again, and is answered.
                    closing.list(key(1).store, soon(), [&](const auto&) { ++again; });
                    done(std::move(result));
                  });
      }
      if (round > 1) (void)gets[static_cast<std::size_t>(round)].await();
      tier.close();
      for (unsigned i = 0; i < 20; ++i) {
        CHECK(puts[i].times() == 1);
        CHECK(gets[i].times() == 1);
        CHECK((intos[i] == Bytes(2 * mib, std::byte{0xee})));
      }
      CHECK(again == 20);
    }
  }
}

// What is left when either side starts again.
template <class Fixture>
void restarts() {
  Opened<Fixture> tier;
  const Bytes item = bytes_of(mib + 1, 1);
  const TierLabel label{.name = "kept", .version = 4, .about = bytes_of(50, 2)};
  const TierPlace place = must_put(*tier, put_of(key(1), item, label));
  const TierPlace gone = must_put(*tier, put_of(key(2), item));
  CHECK(remove_now(*tier, key(2), gone));

  SUBCASE("a tier that is opened again still has what was put") {
    if constexpr (Fixture::keeps_items) {
      const std::uint64_t used = tier->status().used_bytes;
      tier.close();
      tier.open();
      CHECK(tier->status().incarnation == place.incarnation);
      CHECK(eventually([&] { return tier->status().used_bytes == used; }));
      CHECK((get_now(*tier, key(1), place).value() == item));
      CHECK(get_now(*tier, key(2), gone).error().is(Errc::lost));
      auto found = find_now(*tier, "kept", 0);
      REQUIRE(found.has_value());
      CHECK(found->key == key(1));
      CHECK(found->place == place);
      CHECK(found->crc32c == spill::crc32c(item));
      CHECK(found->label.version == 4);
      CHECK((found->label.about == label.about));
      CHECK(numbers_of(list_now(*tier, key(1).store)) == std::vector<std::uint64_t>{1});
      must_put(*tier, put_of(key(3), item));
    }
  }
  SUBCASE("what was kept elsewhere is lost once that has gone, and new things are kept") {
    if constexpr (requires { tier.fixture().lose_items(); }) {
      tier.close();
      tier.fixture().lose_items();
      tier.open();
      CHECK(tier->status().incarnation != place.incarnation);
      CHECK(get_now(*tier, key(1), place).error().is(Errc::lost));
      CHECK(remove_now(*tier, key(1), place));
      CHECK(find_now(*tier, "kept", 0).error().is(Errc::not_found));
      const TierPlace other = must_put(*tier, put_of(key(3), item));
      CHECK((get_now(*tier, key(3), other).value() == item));
      CHECK(get_now(*tier, key(1), place).error().is(Errc::lost));
    }
  }
}

}  // namespace forebay::test::tier_suite
