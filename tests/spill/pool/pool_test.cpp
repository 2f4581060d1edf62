// SPDX-License-Identifier: Apache-2.0
// The pool's rules, its slabs and its arena, with a data plane that only takes notes.
#include "spill/pool/pool.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "tests/support/random.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::spill::pool;
using forebay::test::Random;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t mib = 1 << 20;

class NotedServer final : public DataServer {
 public:
  std::string transport() const override { return "notes"; }
  std::vector<std::byte> address() const override { return {}; }
  Result<SlabKey> expose(std::span<std::byte> slab, SlabAccess access) override {
    exposed[++last] = {slab, access};
    return SlabKey{.key = last, .base = 0};
  }
  void withdraw(const SlabKey& key) override { CHECK(exposed.erase(key.key) == 1); }

  std::map<std::uint64_t, std::pair<std::span<std::byte>, SlabAccess>> exposed;
  std::uint64_t last = 0;
};

struct NamedArena {
  NamedArena() {
    static int made = 0;
    name = "unit-" + std::to_string(::getpid()) + "-" + std::to_string(++made);
  }
  ~NamedArena() {
    ::shm_unlink(("/forebay-pool-" + name + ".arena").c_str());
    ::shm_unlink(("/forebay-pool-" + name + ".journal").c_str());
  }
  Result<std::unique_ptr<Arena>> open(std::uint64_t capacity = 16 * mib, bool fresh = false) const {
    return Arena::open({.name = name, .capacity_bytes = capacity, .fresh = fresh});
  }
  std::string name;
};

TierKey key_of(std::uint64_t number, std::uint8_t store = 1) {
  return {.store = {store}, .number = number};
}

struct Rig {
  explicit Rig(PoolOptions options = {.slab_bytes = mib}, std::unique_ptr<Arena> given = nullptr)
      : arena(given ? std::move(given)
                    : std::move(Arena::open({.name = "", .capacity_bytes = 16 * mib}).value())),
        pool(*arena, server, options) {
    recovered = pool.recover(now);
  }
  Result<TierPlace> put(Pool::SessionId session, std::uint64_t number, std::uint64_t size,
                        const TierLabel& label = {}, std::uint8_t store = 1) {
    auto granted = pool.allocate(session,
                                 {.key = key_of(number, store),
                                  .size = size,
                                  .name_size = static_cast<std::uint16_t>(label.name.size()),
                                  .about_size = static_cast<std::uint16_t>(label.about.size())},
                                 now);
    if (!granted) return fail(granted.error());
    const auto slab = server.exposed.at(granted->slab.key).first;
    std::memset(slab.data() + granted->place.offset, static_cast<int>(number), size);
    auto committed = pool.commit(
        session,
        {.key = key_of(number, store), .place = granted->place, .crc32c = 5, .label = label});
    if (!committed) return fail(committed.error());
    return granted->place;
  }
  bool holds(Pool::SessionId session, std::uint64_t number, const TierPlace& place) {
    const auto opened = pool.open(session, {key_of(number), place});
    if (!opened) return false;
    const auto bytes =
        server.exposed.at(opened->slab.key).first.subspan(opened->offset, place.size);
    return std::ranges::all_of(
        bytes, [&](std::byte byte) { return byte == static_cast<std::byte>(number); });
  }

  Pool::Time now = std::chrono::steady_clock::now();
  NotedServer server;
  std::unique_ptr<Arena> arena;
  Pool pool;
  Pool::Recovered recovered;
};

}  // namespace

TEST_SUITE("pool") {
  TEST_CASE("what is committed is there, and what is freed is not") {
    Rig rig;
    const auto session = rig.pool.begin({1});
    const TierPlace place = rig.put(session, 1, 1000).value();
    CHECK(rig.holds(session, 1, place));
    CHECK(rig.server.exposed.size() == 1);
    CHECK(rig.put(session, 1, 10).error().is(Errc::exists));
    CHECK(rig.pool.used_bytes() == 1024);
    REQUIRE(rig.pool.free(session, {key_of(1), place}, rig.now).has_value());
    CHECK(rig.pool.used_bytes() == 0);
    CHECK_FALSE(rig.holds(session, 1, place));
  }

  TEST_CASE("an empty slab is kept for its store, until its memory is wanted by another") {
    Rig rig;
    const auto session = rig.pool.begin({1});
    const TierPlace place = rig.put(session, 1, 1000).value();
    const std::uint64_t key = rig.server.exposed.begin()->first;
    REQUIRE(rig.pool.free(session, {key_of(1), place}, rig.now).has_value());
    const TierPlace again = rig.put(session, 2, 1000).value();
    CHECK(rig.server.exposed.size() == 1);
    CHECK(rig.server.exposed.contains(key));
    REQUIRE(rig.pool.free(session, {key_of(2), again}, rig.now).has_value());
    const auto other = rig.pool.begin({2});
    SUBCASE("for slabs of the usual size") {
      for (std::uint64_t number = 1; number <= 16; ++number) {
        CHECK(rig.server.exposed.contains(key));
        REQUIRE(rig.put(other, number, mib, {}, 2).has_value());
      }
    }
    SUBCASE("for one that takes the whole pool") {
      REQUIRE(rig.put(other, 1, 16 * mib, {}, 2).has_value());
      CHECK(rig.server.exposed.size() == 1);
    }
    CHECK_FALSE(rig.server.exposed.contains(key));
  }

  TEST_CASE("a full pool says so, and an item larger than a slab has one of its own") {
    Rig rig;
    const auto session = rig.pool.begin({1});
    const TierPlace large = rig.put(session, 1, 9 * mib).value();
    std::uint64_t number = 1;
    while (rig.put(session, ++number, mib).has_value()) CHECK(number < 20);
    CHECK(number == 9);  // seven more
    CHECK(rig.put(session, 100, 17 * mib).error().is(Errc::store_full));
    REQUIRE(rig.pool.free(session, {key_of(1), large}, rig.now).has_value());
    CHECK(rig.put(session, 101, 5 * mib).has_value());
  }

  TEST_CASE("a tenant has no more than its limit, counted while it is still writing") {
    Rig rig({.slab_bytes = mib, .tenant_bytes_max = 2 * mib});
    const auto session = rig.pool.begin({1});
    REQUIRE(rig.pool.allocate(session, {.key = key_of(1), .size = mib}, rig.now).has_value());
    REQUIRE(rig.put(session, 2, mib).has_value());
    CHECK(rig.put(session, 3, 1).error().is(Errc::store_full));
    const auto other = rig.pool.begin({2});
    CHECK(rig.put(other, 1, mib, {}, 2).has_value());
  }

  TEST_CASE("what was not committed goes with its session, and its slab's key when links cannot") {
    Rig rig;
    const auto session = rig.pool.begin({1});
    const TierPlace kept = rig.put(session, 1, 1000).value();
    const auto pending = rig.pool.allocate(session, {.key = key_of(2), .size = 1000}, rig.now);
    REQUIRE(pending.has_value());
    const std::uint64_t old_key = pending->slab.key;
    SUBCASE("the links are ended") {
      rig.pool.end(session, true, rig.now);
      CHECK(rig.server.exposed.contains(old_key));
    }
    SUBCASE("they are not") {
      rig.pool.end(session, false, rig.now);
      CHECK_FALSE(rig.server.exposed.contains(old_key));
    }
    CHECK(rig.pool.used_bytes() == 1024);
    const auto next = rig.pool.begin({1});
    CHECK(rig.holds(next, 1, kept));
    CHECK(rig.pool.commit(next, {.key = key_of(2), .place = pending->place, .label = {}})
              .error()
              .is(Errc::lost));
  }

  TEST_CASE("a session that does not commit for a minute is overdue") {
    Rig rig;
    const auto session = rig.pool.begin({1});
    REQUIRE(rig.pool.allocate(session, {.key = key_of(2), .size = 1000}, rig.now).has_value());
    CHECK(rig.pool.overdue(rig.now + 59s).empty());
    CHECK(rig.pool.overdue(rig.now + 60s) == std::vector{session});
  }

  TEST_CASE("another tenant reads what is published, just that, and a while after it is freed") {
    Rig rig;
    const auto one = rig.pool.begin({1});
    const auto two = rig.pool.begin({2});
    const TierPlace secret = rig.put(one, 1, 1000).value();
    const TierLabel label{.name = "n", .version = 3, .about = {}};
    const TierPlace open = rig.put(one, 2, 1000, label).value();
    CHECK(rig.pool.open(two, {key_of(1), secret}).error().is(Errc::lost));
    CHECK(rig.pool.free(two, {key_of(2), open}, rig.now).error().is(Errc::denied));
    CHECK(rig.pool.allocate(two, {.key = key_of(9), .size = 1}, rig.now).error().is(Errc::denied));
    CHECK(rig.pool.list(two, {}).items.empty());
    const auto found = rig.pool.find({.name = "n", .version = 0});
    REQUIRE(found.has_value());
    CHECK(found->place == open);
    CHECK(rig.pool.find({.name = "n", .version = 2}).error().is(Errc::not_found));
    const auto opened = rig.pool.open(two, {found->key, found->place});
    REQUIRE(opened.has_value());
    const auto& [bytes, access] = rig.server.exposed.at(opened->slab.key);
    CHECK(bytes.size() == 1000);
    CHECK(access == SlabAccess::read);
    CHECK(bytes[0] == std::byte{2});
    REQUIRE(rig.pool.free(one, {key_of(2), open}, rig.now).has_value());
    CHECK(rig.pool.find({.name = "n", .version = 0}).error().is(Errc::not_found));
    CHECK(rig.server.exposed.contains(opened->slab.key));
    CHECK(rig.pool.used_bytes() == 2048 + 64);  // its name takes a line of its own
    rig.pool.tick(rig.now + 3s);
    CHECK_FALSE(rig.server.exposed.contains(opened->slab.key));
    CHECK(rig.pool.used_bytes() == 1024);
  }

  TEST_CASE("the newest version of a name is found, and the next one when it is freed") {
    Rig rig;
    const auto session = rig.pool.begin({1});
    std::map<std::uint64_t, TierPlace> places;
    for (const std::uint64_t version : {3, 1, 2})
      places[version] =
          rig.put(session, version, 10, {.name = "n", .version = version, .about = {}}).value();
    CHECK(rig.pool.find({.name = "n", .version = 0})->label.version == 3);
    CHECK(rig.pool.find({.name = "n", .version = 2})->key.number == 2);
    REQUIRE(rig.pool.free(session, {key_of(3), places[3]}, rig.now).has_value());
    CHECK(rig.pool.find({.name = "n", .version = 0})->label.version == 2);
  }

  TEST_CASE("tenants are forgotten only when the pool is told to") {
    for (const auto after : {0s, 10s}) {
      Rig rig({.slab_bytes = mib, .forget_tenants_after = after});
      const auto session = rig.pool.begin({1});
      REQUIRE(rig.put(session, 1, 1000).has_value());
      rig.pool.end(session, true, rig.now);
      rig.pool.tick(rig.now + 9s);
      CHECK(rig.pool.used_bytes() == 1024);
      rig.pool.tick(rig.now + 1000h);
      CHECK(rig.pool.used_bytes() == (after == 0s ? 1024 : 0));
    }
  }

  TEST_CASE("random work of three tenants never gives a byte to two, and leaves nothing") {
    Random random("tenants");
    Rig rig({.slab_bytes = 256 * 1024});
    std::array<Pool::SessionId, 4> sessions{};
    for (std::uint8_t store = 1; store <= 3; ++store) sessions[store] = rig.pool.begin({store});
    struct Lying {
      std::uint8_t store;
      std::uint64_t number;
      TierPlace place;
    };
    std::map<const std::byte*, std::pair<std::uint64_t, std::uint8_t>> taken;  // start: size, store
    std::vector<Lying> lying;
    std::map<std::pair<std::uint8_t, std::uint64_t>, const std::byte*> starts;
    std::uint64_t number = 0;
    for (int step = 0; step < 4000; ++step) {
      if (random.chance(0.55) || lying.empty()) {
        const auto store = static_cast<std::uint8_t>(1 + random.below(3));
        const std::uint64_t size =
            random.chance(0.05) ? 1 + random.below(mib) : 1 + random.below(30000);
        const auto granted = rig.pool.allocate(
            sessions[store], {.key = key_of(++number, store), .size = size}, rig.now);
        if (!granted) {
          REQUIRE(granted.error().is(Errc::store_full));
          continue;
        }
        const std::byte* const start =
            rig.server.exposed.at(granted->slab.key).first.data() + granted->place.offset;
        CHECK(granted->place.offset % 64 == 0);
        const auto after = taken.lower_bound(start);
        REQUIRE((after == taken.end() || start + size <= after->first));
        REQUIRE((after == taken.begin() ||
                 std::prev(after)->first + std::prev(after)->second.first <= start));
        taken[start] = {size, store};
        starts[{store, number}] = start;
        if (random.chance(0.8))
          REQUIRE(rig.pool
                      .commit(sessions[store], {.key = key_of(number, store),
                                                .place = granted->place,
                                                .crc32c = 0,
                                                .label = {}})
                      .has_value());
        lying.push_back({store, number, granted->place});
      } else {
        const auto which = random.below(static_cast<std::uint32_t>(lying.size()));
        const Lying one = lying[which];
        lying[which] = lying.back();
        lying.pop_back();
        taken.erase(starts.at({one.store, one.number}));
        REQUIRE(rig.pool.free(sessions[one.store], {key_of(one.number, one.store), one.place},
                              rig.now)
                    .has_value());
      }
    }
    for (const Lying& one : lying)
      REQUIRE(
          rig.pool.free(sessions[one.store], {key_of(one.number, one.store), one.place}, rig.now)
              .has_value());
    CHECK(rig.pool.used_bytes() == 0);
    const std::uint64_t last = ++number;
    CHECK(rig.put(sessions[1], last, 16 * mib).has_value());
    CHECK(rig.server.exposed.size() == 1);
  }
}

TEST_SUITE("pool arena") {
  TEST_CASE("an arena that is opened again has what was committed, in a new epoch") {
    const NamedArena named;
    TierPlace kept;
    const std::vector<std::byte> about(70, std::byte{1});
    const TierLabel label{.name = "name", .version = 9, .about = about};
    std::uint64_t epoch = 0;
    {
      Rig rig({.slab_bytes = mib}, std::move(named.open().value()));
      epoch = rig.arena->epoch();
      const auto session = rig.pool.begin({1});
      const TierPlace gone = rig.put(session, 1, 5000).value();
      kept = rig.put(session, 2, 5000, label).value();
      REQUIRE(rig.pool.free(session, {key_of(1), gone}, rig.now).has_value());
      REQUIRE(rig.pool.allocate(session, {.key = key_of(3), .size = 100}, rig.now).has_value());
    }
    Rig rig({.slab_bytes = mib}, std::move(named.open().value()));
    CHECK(rig.arena->was_there());
    CHECK(rig.arena->epoch() == epoch + 1);
    CHECK(rig.arena->incarnation() == kept.incarnation);
    CHECK(rig.recovered.items == 1);
    CHECK(rig.recovered.dropped == 0);
    const auto session = rig.pool.begin({1});
    CHECK(rig.holds(session, 2, kept));
    const auto found = rig.pool.find({.name = "name", .version = 0});
    REQUIRE(found.has_value());
    CHECK((found->label.about == label.about));
    // What was free is: as much fits as into a new one.
    std::uint64_t number = 10;
    while (rig.put(session, ++number, 500 * 1024).has_value()) CHECK(number < 100);
    CHECK(number >= 40);
    CHECK(rig.holds(session, 2, kept));
  }

  TEST_CASE("two pools do not have one arena, and another size is refused by name") {
    const NamedArena named;
    auto first = named.open();
    REQUIRE(first.has_value());
    CHECK(named.open().error().is(Errc::already_running));
    const std::uint64_t incarnation = (*first)->incarnation();
    first->reset();
    const auto other = named.open(32 * mib);
    REQUIRE_FALSE(other.has_value());
    CHECK(other.error().is(Errc::layout_mismatch));
    CHECK(other.error().detail.find(named.name) != std::string::npos);
    auto fresh = named.open(32 * mib, true);
    REQUIRE(fresh.has_value());
    CHECK((*fresh)->incarnation() != incarnation);
    CHECK_FALSE((*fresh)->was_there());
  }

  TEST_CASE("damaged entries are dropped and counted, and the others stay") {
    Random random("damage");
    for (int round = 0; round < 20; ++round) {
      const NamedArena named;
      std::map<std::uint64_t, TierPlace> places;
      {
        Rig rig({.slab_bytes = mib}, std::move(named.open().value()));
        const auto session = rig.pool.begin({1});
        for (std::uint64_t number = 1; number <= 20; ++number)
          places[number] = rig.put(session, number, 1 + random.below(100000),
                                   {.name = "n", .version = number, .about = {}})
                               .value();
      }
      const Descriptor journal(
          ::shm_open(("/forebay-pool-" + named.name + ".journal").c_str(), O_RDWR, 0));
      REQUIRE(static_cast<bool>(journal));
      // One bit, somewhere in the entries that are used (a page behind the start).
      const auto at = static_cast<off_t>(4096 + random.below(20 * sizeof(JournalEntry)));
      std::uint8_t byte = 0;
      REQUIRE(::pread(journal.get(), &byte, 1, at) == 1);
      byte = static_cast<std::uint8_t>(byte ^ (1U << random.below(8)));
      REQUIRE(::pwrite(journal.get(), &byte, 1, at) == 1);
      Rig rig({.slab_bytes = mib}, std::move(named.open().value()));
      const auto session = rig.pool.begin({1});
      CHECK(rig.recovered.items + rig.recovered.dropped == 20);
      CHECK(rig.recovered.items >= 19);
      std::uint64_t held = 0;
      for (const auto& [number, place] : places)
        held += rig.holds(session, number, place) ? 1U : 0U;
      CHECK(held == rig.recovered.items);
    }
  }
}
