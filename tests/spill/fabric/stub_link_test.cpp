// SPDX-License-Identifier: Apache-2.0
// Server and link over a provider that wants everything of memory and forgives nothing.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "spill/fabric/fabric_server.h"
#include "spill/fabric/factory.h"
#include "tests/spill/fabric/support/answers.h"
#include "tests/spill/fabric/support/server_process.h"
#include "tests/spill/fabric/support/stub_provider.h"
#include "tests/support/payload.h"
#include "tests/support/random.h"

namespace {

using namespace forebay;
using namespace forebay::test;
using namespace std::chrono_literals;
using spill::DataLink;
using spill::SlabKey;

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;

// A server and a link to it, over the stub.
class StubPair {
 public:
  explicit StubPair(StubProvider& stub, std::size_t slab_bytes = 4 * mib,
                    std::size_t chunk_bytes = mib,
                    std::shared_ptr<const spill::RightOfWay> gives_way_to = nullptr)
      : slab_(slab_bytes) {
    auto offer = spill::fabric::offer_of(stub.library(), "verbs;ofi_rxm", {"127.0.0.1", "", ""});
    REQUIRE(offer);
    auto started = spill::fabric::FabricServer::start(stub.library(), std::move(*offer));
    REQUIRE_MESSAGE(started, started.error().message());
    server = std::move(*started);
    const auto exposed = server->expose(slab_.bytes(), forebay::spill::SlabAccess::read_write);
    REQUIRE_MESSAGE(exposed, exposed.error().message());
    key = *exposed;
    auto made = spill::make_fabric_link(server->transport(), server->address(),
                                        {.chunk_bytes = chunk_bytes,
                                         .gives_way_to = std::move(gives_way_to),
                                         .library = &stub.library()});
    REQUIRE_MESSAGE(made, made.error().message());
    link = std::move(*made);
  }
  std::span<std::byte> slab() const { return slab_.bytes(); }

 private:
  SharedBytes slab_;

 public:
  std::unique_ptr<spill::fabric::FabricServer> server;
  SlabKey key;
  std::unique_ptr<DataLink> link;
};

// Faults are of the whole life: looked at when all is closed.
void require_no_fault(const StubProvider& stub) {
  for (const std::string& fault : stub.faults()) FAIL_CHECK(fault);
}

TEST_SUITE("fabric stub link") {
  TEST_CASE("all that a NIC wants of memory is done, however it waits and however it closes") {
    StubBehaviour how;
    SUBCASE("everything") {}
    SUBCASE("with a descriptor that is never reset") {
      how.wait = StubBehaviour::Wait::stuck_descriptor;
    }
    SUBCASE("without any way to wait") { how.wait = StubBehaviour::Wait::nothing; }
    SUBCASE("with an endpoint that clings to its regions") { how.endpoint_clings = true; }
    SUBCASE("with keys of ours, of two bytes") {
      how.mr_mode &= ~FI_MR_PROV_KEY;
      how.key_bytes = 2;
    }
    SUBCASE("with offsets for addresses, and no registration here") {
      how.mr_mode = FI_MR_ALLOCATED;
    }
    SUBCASE("with one part to a transfer") { how.iov_limit = 1; }
    SUBCASE("with tiny messages") { how.max_message = 1000; }
    StubProvider stub(how);
    {
      StubPair pair(stub);
      std::uint64_t version = 0;
      for (const std::size_t size : {1UL, 4 * kib, 64 * kib, 64 * kib + 1, 300 * kib + 7}) {
        CAPTURE(size);
        const auto bytes = payload(size, "stub", ++version);
        const std::span<const std::byte> all(bytes);
        const std::vector<std::span<const std::byte>> parts{all.first(size / 3), {},
                                                            all.subspan(size / 3)};
        const auto written = start_write(*pair.link, pair.key, version, parts).wait();
        REQUIRE_MESSAGE(written, message_of(written));
        CHECK(wrong_bytes(pair.slab().subspan(version, size), size, "stub", version) == "");
        std::vector<std::byte> back(size);
        const auto read = start_read(*pair.link, pair.key, version, back).wait();
        REQUIRE_MESSAGE(read, message_of(read));
        CHECK(wrong_bytes(back, size, "stub", version) == "");
      }
      // With transfers in flight.
      stub.hold(true);
      std::vector<std::byte> destination(mib);
      const std::size_t before = stub.transfers();
      const Answered open = start_read(*pair.link, pair.key, 0, destination);
      REQUIRE(eventually([&] { return stub.transfers() > before; }));
      pair.link->close();
      CHECK(open.times() == 1);
      stub.hold(false);
    }
    require_no_fault(stub);
  }

  TEST_CASE("local memory is registered once, and again only after it has left") {
    StubProvider stub;
    {
      // On a boundary of registrations, for a count that is known.
      SharedBytes owned(64 * mib);
      const auto address = reinterpret_cast<std::uintptr_t>(owned.bytes().data());
      const auto local =
          owned.bytes().subspan((16 * mib - address % (16 * mib)) % (16 * mib), 40 * mib);
      std::memset(local.data(), 1, local.size());
      StubPair pair(stub, 40 * mib);
      const std::size_t before = stub.registrations();
      for (int i = 0; i < 5; ++i)
        REQUIRE(start_write(*pair.link, pair.key, 0, {local.first(64 * kib)}).wait());
      CHECK(stub.registrations() == before + 1);
      CHECK(stub.registered(local.first(64 * kib)));
      // Of its neighbours nothing is registered: there may be holes.
      CHECK(!stub.registered(local.subspan(64 * kib)));
      pair.link->memory_leaves(local.subspan(4 * kib, 4 * kib));
      CHECK(!stub.registered(local.first(64 * kib)));
      REQUIRE(start_write(*pair.link, pair.key, 0, {local.first(64 * kib)}).wait());
      CHECK(stub.registrations() == before + 2);
      // Bytes that were not registered may leave, too.
      pair.link->memory_leaves(local.subspan(8 * mib, mib));
      CHECK(stub.registered(local.first(64 * kib)));
      // Three pieces of address space, in order.
      REQUIRE(start_write(*pair.link, pair.key, 0, {local}).wait());
      pair.link->memory_leaves(local);
      CHECK(!stub.registered(local));
    }
    require_no_fault(stub);
  }

  TEST_CASE("a link that gives way moves little at a time while somebody waits, and only then") {
    StubProvider stub({.max_message = 4 * mib});
    {
      const auto right_of_way = std::make_shared<spill::RightOfWay>();
      StubPair pair(stub, 4 * mib, 4 * mib, right_of_way);
      StubPair other(stub, 4 * mib, 4 * mib);
      std::vector<std::byte> local(4 * mib, std::byte{7});
      const auto transfers = [&](StubPair& of) {
        const std::size_t before = stub.transfers();
        REQUIRE(start_write(*of.link, of.key, 0, {local}).wait());
        REQUIRE(start_read(*of.link, of.key, 0, local).wait());
        return stub.transfers() - before;
      };
      CHECK(transfers(pair) == 2);
      right_of_way->begin();
      CHECK(transfers(pair) == 32);
      CHECK(transfers(other) == 2);
      right_of_way->end(TierClock::now() + 1h);
      CHECK(transfers(pair) == 32);
      right_of_way->begin();
      right_of_way->end(TierClock::now() - 1h);
      CHECK(transfers(pair) == 2);
    }
    require_no_fault(stub);
  }

  TEST_CASE("memory that leaves beside a transfer in flight waits for nobody") {
    StubProvider stub;
    {
      StubPair pair(stub);
      std::vector<std::byte> local(64 * kib, std::byte{3});
      const std::span<const std::byte> bytes(local);
      REQUIRE(start_write(*pair.link, pair.key, 0, {bytes}).wait());
      stub.hold(true);
      const std::size_t before = stub.transfers();
      // One registration holds both.
      const Answered under_way = start_write(*pair.link, pair.key, 0, {bytes.first(4 * kib)});
      REQUIRE(eventually([&] { return stub.transfers() > before; }));
      const auto start = TierClock::now();
      pair.link->memory_leaves(bytes.subspan(32 * kib, 16 * kib));
      CHECK(TierClock::now() - start < 1s);
      CHECK(under_way.times() == 0);
      stub.hold(false);
      CHECK(under_way.wait());
      // It went with the last transfer that needed it.
      CHECK(eventually([&] { return !stub.registered(bytes.subspan(32 * kib, 16 * kib)); }));
      CHECK(start_write(*pair.link, pair.key, 0, {bytes}).wait());
    }
    require_no_fault(stub);
  }

  TEST_CASE("a NIC with few regions gets the old ones back, and then says so") {
    StubBehaviour how;
    how.most_regions = 6;
    StubProvider stub(how);
    {
      StubPair pair(stub);
      std::vector<std::vector<std::byte>> buffers(20, std::vector<std::byte>(8 * kib));
      for (auto& buffer : buffers)
        REQUIRE(start_write(*pair.link, pair.key, 0, {buffer}).wait());
      // None at all: that is an error of the operation's own, and the link goes on.
      stub.behave([](StubBehaviour& now) { now.most_regions = 0; });
      std::vector<std::byte> another(8 * kib);
      const auto refused = start_write(*pair.link, pair.key, 0, {another}).wait();
      REQUIRE(!refused);
      CHECK(refused.error().code.category().name() == std::string("fabric"));
      CHECK(pair.link->is_open());
      stub.behave([](StubBehaviour& now) { now.most_regions = 100; });
      CHECK(start_write(*pair.link, pair.key, 0, {another}).wait());
    }
    require_no_fault(stub);
  }

  TEST_CASE("under refused posts, late, repeated and reordered completions, bytes are right") {
    Random random("unreliable stub");
    for (int round = 0; round < 6; ++round) {
      StubBehaviour how;
      how.seed = random.next();
      how.refuses = 0.3;
      how.duplicates = 0.2;
      how.reorders = true;
      how.delay = 300us;
      how.max_message = random.chance(0.5) ? 64 * kib : 5000;
      if (random.chance(0.3)) how.wait = StubBehaviour::Wait::stuck_descriptor;
      StubProvider stub(how);
      {
        constexpr std::size_t share = 128 * kib;
        StubPair pair(stub, 8 * share);
        for (std::uint64_t wave = 1; wave <= 4; ++wave) {
          std::vector<std::vector<std::byte>> sources;
          std::vector<std::vector<std::byte>> back;
          std::vector<Answered> answers;
          for (std::uint64_t i = 0; i < 8; ++i) {
            sources.push_back(payload(random.between(1, share), "wave", wave, i));
            answers.push_back(start_write(*pair.link, pair.key, i * share, {sources.back()}));
          }
          for (const Answered& one : answers) {
            const auto result = one.wait();
            REQUIRE_MESSAGE(result, message_of(result));
          }
          answers.clear();
          for (std::uint64_t i = 0; i < 8; ++i) back.emplace_back(sources[i].size());
          for (std::uint64_t i = 0; i < 8; ++i)
            answers.push_back(start_read(*pair.link, pair.key, i * share, back[i]));
          for (const Answered& one : answers) REQUIRE(one.wait());
          for (std::uint64_t i = 0; i < 8; ++i) {
            CHECK(wrong_bytes(back[i], sources[i].size(), "wave", wave, i) == "");
            CHECK(answers[i].times() == 1);
          }
          // What is freed may lose its pages: nothing of it may stay registered.
          for (const auto& source : sources) pair.link->memory_leaves(source);
          for (const auto& bytes : back) pair.link->memory_leaves(bytes);
        }
      }
      require_no_fault(stub);
    }
  }

  TEST_CASE("a completion that gets lost costs the deadline; then nothing is touched any more") {
    StubBehaviour how;
    how.drops = 1;
    StubProvider stub(how);
    {
      StubPair pair(stub);
      std::vector<std::byte> source(200 * kib, std::byte{1});
      const Answered lost = start_write(*pair.link, pair.key, 0, {source}, in(200ms));
      const Answered beside = start_write(*pair.link, pair.key, 0, {source}, in(10s));
      CHECK(lost.wait(5s).error().is(Errc::timed_out));
      CHECK(beside.wait(5s).error().is(Errc::tier_down));
      CHECK(!pair.link->is_open());
      // Given up when the endpoint was closed.
      CHECK(eventually([&] { return stub.regions() == 1; }));
    }
    require_no_fault(stub);
  }

  TEST_CASE("a post that is refused for ever ends at its deadline") {
    StubBehaviour how;
    how.refuses = 1;
    StubProvider stub(how);
    {
      StubPair pair(stub);
      std::vector<std::byte> source(kib);
      const auto start = TierClock::now();
      const Answered refused = start_write(*pair.link, pair.key, 0, {source}, start + 200ms);
      CHECK(refused.wait(5s).error().is(Errc::timed_out));
      CHECK(refused.at() >= start + 200ms);
      CHECK(!pair.link->is_open());
    }
    require_no_fault(stub);
  }

  TEST_CASE("a completion queue that overruns ends the link") {
    StubProvider stub;
    {
      StubPair pair(stub);
      std::vector<std::byte> source(200 * kib);
      stub.hold(true);
      const Answered open = start_write(*pair.link, pair.key, 0, {source});
      stub.behave([](StubBehaviour& now) { now.overruns = true; });
      stub.hold(false);
      const auto result = open.wait();
      REQUIRE(!result);
      CHECK(result.error().is(Errc::tier_down));
      CHECK(!pair.link->is_open());
      stub.behave([](StubBehaviour& now) { now.overruns = false; });
    }
    require_no_fault(stub);
  }

  TEST_CASE("what is withdrawn under way falls into nothing, whatever the provider still writes") {
    StubProvider stub;
    {
      StubPair pair(stub);
      std::fill(pair.slab().begin(), pair.slab().end(), std::byte{9});
      pair.server->withdraw(pair.key);
      // Where the provider was told that the slab is; a message that was being received goes there.
      auto* const where = reinterpret_cast<std::byte*>(pair.key.base);
      std::memset(where, 1, pair.slab().size());
      CHECK(std::all_of(pair.slab().begin(), pair.slab().end(),
                        [](std::byte one) { return one == std::byte{9}; }));
      pair.server->withdraw(pair.key);  // what is withdrawn already
    }
    require_no_fault(stub);
  }

  TEST_CASE("an empty slab, and memory that cannot be there, are not exposed") {
    StubProvider stub;
    {
      StubPair pair(stub);
      using forebay::spill::SlabAccess;
      CHECK(pair.server->expose({}, SlabAccess::read_write).error().is(Errc::bad_argument));
      // A file system that is full is an error here, and no signal later.
      void* const nothing = ::mmap(nullptr, mib, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      const auto read_only =
          pair.server->expose({static_cast<std::byte*>(nothing), mib}, SlabAccess::read_write);
      CHECK(!read_only);
      ::munmap(nothing, mib);
    }
    require_no_fault(stub);
  }
}

}  // namespace
