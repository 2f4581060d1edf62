// SPDX-License-Identifier: Apache-2.0
// Two nodes with a pool each: what one publishes the other gets, as it was or not at all; and a wire
// between them that can be cut.
#include <doctest/doctest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/spilling.h"
#include "tests/support/two_nodes.h"

namespace forebay::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr GetOptions from_pool{.from_pool = true};

// A daemon on each node, and `pools` pools: the first on the first node.
struct Cluster {
  explicit Cluster(unsigned pools_wanted = 2, std::vector<std::string> more = {}) {
    if (!nodes.why_not().empty())
      MESSAGE("without network namespaces, on this machine's own network: " << nodes.why_not());
    std::string addresses;
    for (unsigned i = 0; i < pools_wanted; ++i) {
      PoolServerProcess::Options options{.listen = nodes.host(i) + ":0",
                                         .launcher = nodes.launcher(i)};
      if (!pools.empty()) options.key_file = pools.front()->key_file();
      pools.push_back(std::make_unique<PoolServerProcess>(options));
      addresses += (addresses.empty() ? "" : ",") + pools.back()->address();
    }
    for (std::size_t i = 0; i < 2; ++i) {
      DaemonProcess::Options options{.capacity = "16MiB",
                                     .arguments = {"--pools", addresses, "--pool-key",
                                                   pools.front()->key_file()},
                                     .launcher = nodes.launcher(i)};
      options.arguments.insert(options.arguments.end(), more.begin(), more.end());
      daemons.push_back(std::make_unique<DaemonProcess>(options));
    }
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t pool = 0; pool < pools.size(); ++pool)
        if (!tier_becomes(connect(i), pool, true))
          throw std::runtime_error(must(connect(i).status()) + daemons[i]->log());
  }
  Client connect(std::size_t node) const { return daemons.at(node)->connect(); }

  TwoNodes nodes;
  std::vector<std::unique_ptr<PoolServerProcess>> pools;
  std::vector<std::unique_ptr<DaemonProcess>> daemons;
};

Result<std::uint64_t> publish(Client& client, const std::string& id, std::uint64_t version = 0) {
  const SegmentName name{.id = id, .version = version};
  return client.publish({&name, 1});
}

void put_version(Client& client, const std::string& id, std::uint64_t version, std::size_t size) {
  PutOptions options = put_patiently;
  options.version = version;
  options.type = array_of<std::uint8_t>({size});
  must(client.put(id, payload(size, id, version), options));
}

std::string wrong_version(const Client& client, const std::string& id, std::uint64_t version,
                          std::size_t size, const GetOptions& options) {
  const auto view = client.get(id, options);
  if (!view) return view.error().message();
  if (view->version() != version) return "another version";
  if (must(view->type()) != array_of<std::uint8_t>({size})) return "another type";
  return wrong_bytes(view->bytes(), size, id, version);
}

TEST_SUITE("spilling nodes") {
  TEST_CASE("what a node publishes another one gets, with its type and version, until it is removed") {
    Cluster cluster;
    Client a = cluster.connect(0);
    Client b = cluster.connect(1);
    for (const std::size_t size : {std::size_t{10}, std::size_t{5000}, std::size_t{3'000'000}}) {
      CAPTURE(size);
      const std::string id = "shared/" + std::to_string(size);
      put_version(a, id, 3, size);
      CHECK(outcome(b.get(id, from_pool)) == "not_found");
      must(publish(a, id));
      CHECK(must(a.where({.id = id})).published);
      CHECK(outcome(b.get(id)) == "not_found");
      CHECK(wrong_version(b, id, 3, size, from_pool) == "");
      // A newer one is found when it is published, and the older one still by its number.
      put_version(a, id, 7, size);
      CHECK(wrong_version(b, id, 3, size, from_pool) == "");
      must(publish(a, id));
      CHECK(wrong_version(b, id, 7, size, from_pool) == "");
      CHECK(wrong_version(b, id, 3, size, {.version = 3, .from_pool = true}) == "");
      CHECK(outcome(b.get(id, {.version = 5, .from_pool = true})) == "not_found");
    }
    // Groups and objects, too.
    const auto bytes = payload(100'000, "parts", 1);
    std::vector<GroupMember> members;
    for (std::size_t i = 0; i < 300; ++i)
      members.push_back({.name = "a member with a long name " + std::to_string(i),
                         .bytes = std::span(bytes).subspan(i * 300, 300)});
    must(a.put_group("group", members, put_patiently));
    must(publish(a, "group"));
    const View group = must(b.get("group", from_pool));
    const auto got = must(group.group());
    REQUIRE(got.size() == members.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].name == members[i].name);
      CHECK(std::ranges::equal(got[i].bytes, members[i].bytes));
    }
    // What is removed before another node has got it is gone for that node, once the pool knows.
    put_version(a, "gone", 1, 50'000);
    must(publish(a, "gone"));
    const auto used = [&] { return tier_line(a, 0).used_bytes + tier_line(a, 1).used_bytes; };
    const std::uint64_t used_before = used();
    must(a.remove("gone"));
    CHECK(eventually([&] { return used() < used_before; }));
    CHECK(outcome(b.get("gone", from_pool)) == "not_found");
    CHECK(adds_up(b) == "");
  }

  TEST_CASE("what another node has published goes out of memory and comes back, and can be lost") {
    Cluster cluster(1);
    Client a = cluster.connect(0);
    Client b = cluster.connect(1);
    for (const char* const id : {"x", "y"}) {
      put_version(a, id, 1, 700'000);
      must(publish(a, id));
      CHECK(wrong_version(b, id, 1, 700'000, from_pool) == "");
      must(spill_one(b, id));
      CHECK_FALSE(in_memory(b, id));
    }
    CHECK(wrong_version(b, "x", 1, 700'000, {}) == "");
    must(spill_one(b, "x"));
    // A daemon that was killed knows it still.
    cluster.daemons[1]->kill();
    cluster.daemons[1]->start();
    REQUIRE(tier_becomes(b, 0, true));
    CHECK(wrong_version(b, "x", 1, 700'000, {}) == "");
    cluster.pools[0]->kill();
    cluster.pools[0]->forget();
    CHECK(outcome(b.get("y")) == "tier_down");
    CHECK(outcome(b.get("z", from_pool)) == "tier_down");
    cluster.pools[0]->start();
    REQUIRE(tier_becomes(b, 0, true));
    REQUIRE(tier_becomes(a, 0, true));
    CHECK(outcome(b.get("y")) == "lost");
    CHECK(outcome(b.get("z", from_pool)) == "not_found");
    CHECK(wrong_version(b, "x", 1, 700'000, {}) == "");
    CHECK(wrong_version(a, "y", 1, 700'000, {}) == "");
  }

  TEST_CASE("bytes that were changed in the pool are never got by another node") {
    Cluster cluster(1);
    Client a = cluster.connect(0);
    Client b = cluster.connect(1);
    for (const std::size_t size : {std::size_t{900}, std::size_t{800'000}}) {
      const std::string id = "d" + std::to_string(size);
      put_version(a, id, 1, size);
      must(publish(a, id));
    }
    cluster.pools[0]->damage();
    for (const char* const id : {"d900", "d800000"}) {
      const auto view = b.get(id, from_pool);
      INFO(outcome(view));
      REQUIRE_FALSE(view);
      CHECK((view.error().is(Errc::lost) || view.error().is(Errc::bad_message)));
    }
    CHECK(adds_up(b) == "");
  }

  TEST_CASE("when the wire to the pool is cut, who waits is told soon, and when it is mended all goes on") {
    Cluster cluster(0 + 2);
    if (!cluster.nodes.why_not().empty()) return;  // said above
    const std::size_t size = 400'000;
    // All on the other node's pool: this one has its own, which stays.
    DaemonProcess daemon({.capacity = "16MiB",
                          .arguments = {"--pools", cluster.pools[1]->address(), "--pool-key",
                                        cluster.pools[1]->key_file()},
                          .launcher = cluster.nodes.launcher(0)});
    Client client = daemon.connect();
    REQUIRE(tier_becomes(client, 0, true));
    put_payload(client, "resident", size);
    put_many_payloads(client, "w", 8, size);
    std::vector<std::string> ids;
    std::vector<SegmentName> names;
    for (std::size_t i = 0; i < 8; ++i) ids.push_back(numbered("w", i));
    for (const std::string& id : ids) names.push_back({.id = id});
    must(client.spill(names));
    const View resident = must(client.get("resident"));
    cluster.nodes.cut();
    std::chrono::milliseconds slowest{0};
    for (std::size_t i = 0; i < 4; ++i) {
      const auto begun = Clock::now();
      CHECK(outcome(client.get(ids[i])) == "tier_down");
      const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun);
      CHECK(took < answered_within);
      slowest = std::max(slowest, took);
      CHECK(client.get_resident("resident"));
    }
    MESSAGE("slowest answer: " << slowest.count() << " ms");
    CHECK(outcome(client.put("late", payload(size, "late", 1))) == "ok");
    cluster.nodes.mend();
    CHECK_MESSAGE(tier_becomes(client, 0, true), tier_line(client, 0).text);
    for (const std::string& id : ids) CHECK(wrong_payload(client, id, size) == "");
    put_many_payloads(client, "more", 60, size);
    CHECK(wrong_payloads(client, "more", 60, size) == "");
    CHECK(wrong_payload(client, "late", size) == "");
    CHECK(adds_up(client) == "");
  }
}

}  // namespace
}  // namespace forebay::test
