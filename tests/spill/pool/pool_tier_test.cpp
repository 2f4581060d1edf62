// SPDX-License-Identifier: Apache-2.0
// PoolTier against a forebay-poold in a process of its own that dies, stops, comes back, is another
// one, or speaks something else.
#include "spill/pool/pool_tier.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "spill/pool/key_file.h"
#include "spill/pool/socket.h"
#include "store/shm/failpoint.h"
#include "tests/spill/support/pool_process.h"
#include "tests/spill/support/tier_calls.h"
#include "tests/support/random.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::test;
using namespace std::chrono_literals;

namespace {

using Bytes = std::vector<std::byte>;
// What the design promises, and what a loaded machine may add.
constexpr auto answered_within = 2000ms;
constexpr auto machine_may_add = 1000ms;

TierKey key(std::uint64_t number, std::uint8_t store = 1) {
  return {.store = {store, 0xfe, 0xb1}, .number = number};
}
Bytes item_of(std::uint64_t number, std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>(i * 31 + number * 7 + (i >> 9));
  return bytes;
}

}  // namespace

TEST_SUITE("pool tier and its pool") {
  TEST_CASE("a pool that stands still: all that waits is answered within two seconds") {
    PoolProcess pool;
    const auto tier = pool.tier();
    const Bytes item = item_of(1, 4 << 20);
    const TierPlace place = put_now(*tier, put_of(key(1), item)).value();
    pool.stop();
    const auto begun = TierClock::now();
    std::vector<Answer<void>> gets(5);
    std::vector<Answer<TierPlace>> puts(5);
    Bytes into(4 << 20);
    for (auto& answer : gets)
      tier->get({.key = key(1), .place = place, .into = into}, soon(), answer.done());
    for (std::size_t i = 0; i < puts.size(); ++i)
      tier->put(put_of(key(10 + i), item), soon(), puts[i].done());
    Answer<TierItem> found;
    Answer<void> removed;
    tier->find("a", 0, soon(), found.done());
    tier->remove(key(1), place, soon(), removed.done());
    for (auto& answer : gets) CHECK(answer.await().error().is(Errc::tier_down));
    for (auto& answer : puts) CHECK(answer.await().error().is(Errc::tier_down));
    CHECK(found.await().error().is(Errc::tier_down));
    CHECK(removed.await().error().is(Errc::tier_down));
    CHECK(TierClock::now() - begun < answered_within + machine_may_add);
    // While it is down, at once.
    const auto asked = TierClock::now();
    CHECK(get_now(*tier, key(1), place, 0, into).error().is(Errc::tier_down));
    CHECK(TierClock::now() - asked < 500ms);
    CHECK_FALSE(tier->status().up);
    CHECK(tier->status().why_down != "");
    pool.resume();
    REQUIRE(tier->wait_until_up(soon()).has_value());
    // The remove may have come through, or not.
    auto back = get_now(*tier, key(1), place);
    CHECK((back ? *back == item : back.error().is(Errc::lost)));
    for (const auto& answer : puts) CHECK(answer.times() == 1);
    CHECK(list_now(*tier, key(1).store).value().size() <= 1);
  }

  TEST_CASE("a pool that is killed: waiters are answered, and what was acknowledged comes back") {
    PoolProcess pool;
    const auto tier = pool.tier();
    const Bytes item = item_of(1, 3 << 20);
    const TierPlace place = put_now(*tier, put_of(key(1), item)).value();
    Bytes into(3 << 20);
    std::vector<Answer<void>> gets(20);
    for (auto& answer : gets)
      tier->get({.key = key(1), .place = place, .into = into}, soon(), answer.done());
    const auto begun = TierClock::now();
    pool.kill();
    for (auto& answer : gets) {
      const auto got = answer.await();
      CHECK((got || got.error().is(Errc::tier_down)));
    }
    CHECK(TierClock::now() - begun < answered_within + machine_may_add);
    pool.start();
    REQUIRE(eventually([&] { return tier->status().up; }));
    CHECK(tier->status().incarnation == place.incarnation);
    CHECK((get_now(*tier, key(1), place).value() == item));
  }

  TEST_CASE("a pool that is killed at each of its steps loses nothing that it has acknowledged") {
    for (const shm::Failpoint& point : shm::points::pool) {
      if (point.name == shm::points::pool_recovered.name) continue;
      CAPTURE(std::string(point.name));
      const std::string armed = std::string(point.name) + ":3=kill";
      PoolProcess pool({.environment = {{"FOREBAY_FAILPOINTS", armed}}});
      const auto tier = pool.tier();
      std::map<std::uint64_t, TierPlace> kept;
      std::map<std::uint64_t, TierPlace> unsure;
      bool died = false;
      for (std::uint64_t number = 1; number <= 8 && !died; ++number) {
        const Bytes item = item_of(number, 100000 + number);
        const auto begun = TierClock::now();
        auto place = put_now(*tier, put_of(key(number), item));
        if (!place) {
          CHECK(place.error().is(Errc::tier_down));
          CHECK(TierClock::now() - begun < answered_within + machine_may_add);
          died = true;
          break;
        }
        kept[number] = *place;
        if (number % 2 != 0) continue;
        const TierPlace other = kept.at(number - 1);
        if (!remove_now(*tier, key(number - 1), other)) {
          unsure[number - 1] = other;
          died = true;
        }
        kept.erase(number - 1);
      }
      REQUIRE(died);
      REQUIRE(pool.await_end());
      pool.start(std::map<std::string, std::string>());
      REQUIRE(tier->wait_until_up(soon()).has_value());
      for (const auto& [number, place] : kept)
        CHECK((get_now(*tier, key(number), place).value() == item_of(number, 100000 + number)));
      // Nothing is there that was not acknowledged, as soon as what is left of it has been freed.
      CHECK(eventually([&] {
        const auto listed = list_now(*tier, key(1).store);
        return listed && std::ranges::all_of(*listed, [&](const TierItem& one) {
                 return kept.contains(one.key.number) || unsure.contains(one.key.number);
               });
      }));
      CHECK(put_now(*tier, put_of(key(100), item_of(100, 5000))).has_value());
    }
  }

  TEST_CASE("a pool that is killed again and again loses no item that it has acknowledged") {
    const char* const given = std::getenv("FOREBAY_POOL_KILLS");
    const int kills = given != nullptr ? std::atoi(given) : 20;
    Random random("kills");
    PoolProcess pool({.arguments = {"--slab", "4MiB", "--log-level", "error"}});
    const auto tier = pool.tier();
    std::map<std::uint64_t, std::pair<TierPlace, std::size_t>> kept;
    std::uint64_t number = 0;
    int lost = 0;
    for (int round = 0; round < kills; ++round) {
      struct Putting {
        std::uint64_t number;
        Bytes item;
        Answer<TierPlace> answer;
      };
      std::vector<Putting> puts(8 + random.below(8));
      for (Putting& put : puts) {
        put.number = ++number;
        put.item = item_of(put.number, 1 + random.below(random.chance(0.2) ? 900000 : 20000));
        tier->put(put_of(key(put.number), put.item), soon(), put.answer.done());
      }
      std::map<std::uint64_t, Answer<void>> removes;
      std::map<std::uint64_t, std::pair<TierPlace, std::size_t>> removing;
      while (kept.size() > 40) {
        const auto first = kept.begin();
        tier->remove(key(first->first), first->second.first, soon(), removes[first->first].done());
        removing.insert(kept.extract(first));
      }
      std::this_thread::sleep_for(std::chrono::microseconds(random.below(4000)));
      pool.kill();
      for (Putting& put : puts)
        if (const auto place = put.answer.await(); place) {
          kept[put.number] = {*place, put.item.size()};
        } else {
          CHECK(place.error().is(Errc::tier_down));
        }
      for (auto& [removed, answer] : removes) (void)answer.await();
      pool.start();
      REQUIRE(tier->wait_until_up(soon()).has_value());
      for (const auto& [one, where] : kept) {
        const auto back = get_now(*tier, key(one), where.first);
        if (!back || *back != item_of(one, where.second)) ++lost;
      }
      // What was being removed is gone or whole.
      for (const auto& [one, where] : removing) {
        const auto back = get_now(*tier, key(one), where.first);
        if (back) {
          CHECK((*back == item_of(one, where.second)));
          CHECK(remove_now(*tier, key(one), where.first).has_value());
        } else {
          CHECK(back.error().is(Errc::lost));
        }
      }
    }
    CHECK(lost == 0);
    CHECK(eventually([&] {
      const auto listed = list_now(*tier, key(1).store);
      return listed && listed->size() == kept.size();
    }));
  }

  TEST_CASE("two stores find what either has published, and read nothing else") {
    PoolProcess pool;
    const auto one = pool.tier(1);
    const auto two = pool.tier(2);
    const Bytes item = item_of(1, 100000);
    const Bytes about = item_of(3, 100);
    const TierLabel label{.name = "matrix", .version = 4, .about = about};
    const TierPlace place = put_now(*one, put_of(key(1), item, label)).value();
    const TierPlace secret = put_now(*one, put_of(key(2), item)).value();
    const auto found = find_now(*two, "matrix", 0);
    REQUIRE(found.has_value());
    CHECK(found->key == key(1));
    CHECK(found->place == place);
    CHECK((found->label.about == about));
    CHECK((get_now(*two, found->key, found->place).value() == item));
    Bytes some(100);
    CHECK(get_now(*two, found->key, found->place, 50000, some).has_value());
    CHECK(std::memcmp(some.data(), item.data() + 50000, 100) == 0);
    CHECK(get_now(*two, key(2), secret).error().is(Errc::lost));
    CHECK(remove_now(*two, key(1), place).error().is(Errc::denied));
    CHECK(list_now(*two, key(1).store).value().empty());
    CHECK(remove_now(*one, key(1), place).has_value());
    CHECK(find_now(*two, "matrix", 0).error().is(Errc::not_found));
    CHECK(get_now(*two, found->key, found->place).error().is(Errc::lost));
  }

  TEST_CASE("a later session of the same store ends the earlier one") {
    PoolProcess pool;
    const auto first = pool.tier();
    const Bytes item = item_of(1, 1000);
    const TierPlace place = put_now(*first, put_of(key(1), item)).value();
    const auto second = pool.tier();
    CHECK((get_now(*second, key(1), place).value() == item));
    CHECK(eventually([&] { return !first->status().up; }));
  }

  TEST_CASE("another pool at the same address: what the last one held is lost") {
    PoolProcess pool({.named = false});
    const auto tier = pool.tier();
    const Bytes item = item_of(1, 1000);
    const TierPlace place = put_now(*tier, put_of(key(1), item)).value();
    pool.kill();
    pool.start();
    REQUIRE(eventually([&] {
      return tier->status().up && tier->status().incarnation != place.incarnation;
    }));
    CHECK(get_now(*tier, key(1), place).error().is(Errc::lost));
    CHECK(remove_now(*tier, key(1), place).has_value());
    CHECK(put_now(*tier, put_of(key(1), item)).has_value());
  }

  TEST_CASE("a daemon with another key, or none, gets no session, and both sides say why") {
    PoolProcess pool;
    const TempDir directory;
    REQUIRE(pool::make_key_file(directory / "other").has_value());
    PoolTierOptions options = pool.tier_options();
    SUBCASE("another key") { options.key_file = directory / "other"; }
    SUBCASE("none") {
      options.key_file.clear();
      options.insecure = true;
    }
    const auto tier = std::move(PoolTier::start(options).value());
    REQUIRE(eventually([&] {
      return tier->status().why_down.find("key") != std::string::npos;
    }));
    CHECK_FALSE(tier->status().up);
    CHECK(put_now(*tier, put_of(key(1), item_of(1, 10))).error().is(Errc::tier_down));
    CHECK(eventually([&] { return pool.log().find("denied: ") != std::string::npos; }));
    CHECK(put_now(*pool.tier(2), put_of(key(1, 2), item_of(1, 10))).has_value());
  }

  TEST_CASE("large puts are spread over two links, and reads that are waited for have another") {
    // A link that notes how many bytes it was given.
    struct Moved {
      std::atomic<std::uint64_t> written{0};
      std::atomic<std::uint64_t> read{0};
    };
    class NotingLink final : public DataLink {
     public:
      NotingLink(std::unique_ptr<DataLink> inner, std::shared_ptr<Moved> moved)
          : inner_(std::move(inner)), moved_(std::move(moved)) {}
      void write(const SlabKey& slab, std::uint64_t offset,
                 std::vector<std::span<const std::byte>> parts, TierDeadline deadline,
                 Done done) override {
        for (const auto& part : parts) moved_->written += part.size();
        inner_->write(slab, offset, std::move(parts), deadline, std::move(done));
      }
      void read(const SlabKey& slab, std::uint64_t offset, std::span<std::byte> into,
                TierDeadline deadline, Done done) override {
        moved_->read += into.size();
        inner_->read(slab, offset, into, deadline, std::move(done));
      }
      void close() override { inner_->close(); }
      bool is_open() const override { return inner_->is_open(); }

     private:
      std::unique_ptr<DataLink> inner_;
      std::shared_ptr<Moved> moved_;
    };
    PoolProcess pool;
    std::vector<std::shared_ptr<Moved>> links;
    std::vector<std::shared_ptr<const RightOfWay>> give_way_to;
    Backend noting = plain_tcp();
    noting.link = [&links, &give_way_to, connect = noting.link](const LinkTarget& target)
        -> Result<std::unique_ptr<DataLink>> {
      auto inner = connect(target);
      if (!inner) return inner;
      links.push_back(std::make_shared<Moved>());
      give_way_to.push_back(target.gives_way_to);
      return std::make_unique<NotingLink>(std::move(*inner), links.back());
    };
    PoolTierOptions options = pool.tier_options();
    options.backends = {noting};
    const auto tier = std::move(PoolTier::start(options).value());
    REQUIRE(tier->wait_until_up(soon()).has_value());
    const std::size_t mib = 1U << 20U;
    const Bytes item = item_of(1, mib);
    for (std::uint64_t i = 1; i <= 8; ++i) {
      const auto place = put_now(*tier, put_of(key(i), item));
      REQUIRE(place.has_value());
      CHECK(get_now(*tier, key(i), *place).value() == item);
    }
    REQUIRE(links.size() == 3);
    CHECK(links[0]->written == 0);
    CHECK(links[1]->written == 4 * mib);
    CHECK(links[2]->written == 4 * mib);
    CHECK(links[0]->read == 8 * mib);
    // Whoever reads has the right of way for a moment, and nobody has it later.
    CHECK(give_way_to[0] == nullptr);
    CHECK(give_way_to[1] != nullptr);
    CHECK(give_way_to[2] == give_way_to[1]);
    const TierDeadline before = TierClock::now();
    REQUIRE(get_now(*tier, key(1), list_now(*tier, key(1).store).value().front().place).has_value());
    CHECK(give_way_to[1]->claimed(before + RightOfWay::lasts - 1ms));
    CHECK_FALSE(give_way_to[1]->claimed(TierClock::now() + RightOfWay::lasts));
  }

  TEST_CASE("a server that speaks garbage, or nothing, is none, and the tier can still end") {
    Random random("garbage");
    for (int round = 0; round < 12; ++round) {
      const auto listening = std::move(pool::listen_at({.host = "127.0.0.1"}).value());
      const auto tier = std::move(
          PoolTier::start({.address = "127.0.0.1:" + std::to_string(listening.port),
                           .key_file = "",
                           .insecure = true,
                           .store = key(1).store,
                           .backends = {},
                           .log = nullptr})
              .value());
      pollfd ready{.fd = listening.socket.get(), .events = POLLIN, .revents = 0};
      REQUIRE(::poll(&ready, 1, 10000) == 1);
      const Descriptor socket(::accept(listening.socket.get(), nullptr, nullptr));
      if (round > 1) {
        Bytes garbage(1 + random.below(5000));
        for (auto& byte : garbage) byte = static_cast<std::byte>(random.next());
        if (random.chance(0.5) && garbage.size() > 8) {
          const std::uint32_t size = random.below(200);
          std::memcpy(garbage.data(), &size, sizeof size);
        }
        (void)::send(socket.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
      }
      CHECK(put_now(*tier, put_of(key(1), item_of(1, 10))).error().is(Errc::tier_down));
      CHECK_FALSE(tier->wait_until_up(in(20ms)).has_value());
    }
  }

  TEST_CASE("a pool to which garbage is spoken serves on") {
    Random random("garbage");
    PoolProcess pool;
    const auto tier = pool.tier();
    const auto address = pool::parse_address(pool.address()).value();
    for (int round = 0; round < 100; ++round) {
      auto socket = pool::start_to_connect(address);
      REQUIRE(socket.has_value());
      pollfd ready{.fd = socket->get(), .events = POLLOUT, .revents = 0};
      REQUIRE(::poll(&ready, 1, 5000) == 1);
      Bytes garbage(1 + random.below(6000));
      for (auto& byte : garbage) byte = static_cast<std::byte>(random.next());
      if (random.chance(0.7) && garbage.size() > 8) {
        const std::uint32_t size = random.below(300);
        std::memcpy(garbage.data(), &size, sizeof size);
        garbage[4] = static_cast<std::byte>(1 + random.below(5));
        garbage[5] = garbage[6] = garbage[7] = std::byte{};
      }
      (void)::send(socket->get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
    }
    CHECK(put_now(*tier, put_of(key(1), item_of(1, 10))).has_value());
    CHECK(tier->status().up);
  }

  TEST_CASE("an address or a key that cannot be is refused at the start, by name") {
    PoolTierOptions options;
    options.address = "nowhere";
    options.insecure = true;
    CHECK(PoolTier::start(options).error().is(Errc::bad_argument));
    options.address = "127.0.0.1:1";
    options.insecure = false;
    CHECK(PoolTier::start(options).error().is(Errc::bad_argument));
    options.key_file = "/nonexistent";
    const auto started = PoolTier::start(options);
    REQUIRE_FALSE(started.has_value());
    CHECK(started.error().detail.find("/nonexistent") != std::string::npos);
  }
}

TEST_SUITE("forebay-poold") {
  TEST_CASE("bad options are refused at the start, by name") {
    const std::string poold = program("forebay-poold");
    using Bad = std::pair<std::vector<std::string>, std::string>;
    for (const auto& [arguments, named] : std::vector<Bad>{
             {{}, "--key"},
             {{"--insecure", "--capacity", "many"}, "--capacity"},
             {{"--insecure", "--listen", "here"}, "--listen"},
             {{"--insecure", "--slab", "1"}, "--slab"},
             {{"--insecure", "--log-level", "loud"}, "--log-level"},
             {{"--insecure", "--nonsense"}, "--nonsense"}}) {
      std::vector<std::string> all{poold};
      all.insert(all.end(), arguments.begin(), arguments.end());
      const Ran ran = run(all);
      CHECK(ran.status == 2);
      CHECK(ran.output.find(named) != std::string::npos);
    }
    const Ran ran = run({poold, "--insecure", "--listen", "127.0.0.1:0", "--capacity", "1MiB",
                         "--transport", "pigeon"});
    CHECK(ran.status == 1);
    CHECK(ran.output.find("plain tcp") != std::string::npos);
    CHECK(run({poold, "--version"}).output.starts_with("forebay-poold "));
  }

  TEST_CASE("it ends cleanly when it is told to, and keeps or drops its memory as it was told") {
    for (const bool drop : {false, true}) {
      PoolProcess pool({.arguments = drop ? std::vector<std::string>{"--drop"}
                                          : std::vector<std::string>{}});
      const auto tier = pool.tier();
      const Bytes item = item_of(1, 1000);
      const TierPlace place = put_now(*tier, put_of(key(1), item)).value();
      CHECK(pool.terminate() == 0);
      pool.start();
      REQUIRE(tier->wait_until_up(soon()).has_value());
      CHECK(get_now(*tier, key(1), place).has_value() == !drop);
    }
  }

  TEST_CASE("without a key it warns loudly") {
    PoolProcess pool({.secured = false});
    CHECK(pool.log().find("INSECURE") != std::string::npos);
    CHECK(put_now(*pool.tier(), put_of(key(1), item_of(1, 10))).has_value());
  }
}
