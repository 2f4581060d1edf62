// SPDX-License-Identifier: Apache-2.0
// The whole chain: a store of a third of what is put into it, its tiers in processes and folders of
// their own, and clients that notice nothing but time.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/spilling.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Compressible, and still whose it is.
std::vector<std::byte> plain_text(std::size_t size, const std::string& id) {
  std::vector<std::byte> bytes(size);
  for (std::size_t at = 0; at < size; ++at)
    bytes[at] = static_cast<std::byte>(id[(at + at / 4096) % id.size()]);
  return bytes;
}

bool same(std::span<const std::byte> one, std::span<const std::byte> other) {
  return std::equal(one.begin(), one.end(), other.begin(), other.end());
}

// All kinds of segments, about 48 MiB of them.
constexpr std::size_t bulky = 28;
constexpr std::size_t texts = 10;
constexpr std::size_t middling = 80;
constexpr std::size_t small = 2000;
std::size_t bulky_size(std::size_t i) { return mib + 4096 * i + i; }
std::size_t text_size(std::size_t i) { return i % 2 == 0 ? 700'000 : 5000 + i; }
std::size_t middling_size(std::size_t i) { return 65'000 + 17 * i; }
std::size_t small_size(std::size_t i) { return i % 1200; }

std::vector<GroupMember> long_group(const std::vector<std::byte>& bytes) {
  std::vector<GroupMember> members;
  for (std::size_t i = 0; i < 500; ++i)
    members.push_back({.name = "a member with a name that makes the description long " +
                               std::to_string(i),
                       .bytes = std::span(bytes).subspan(i * 64, 64 + i),
                       .type = array_of<std::uint8_t>({64 + i})});
  return members;
}

void put_everything(Client& client) {
  for (std::size_t i = 0; i < bulky; ++i) {
    const std::string id = numbered("bulky", i);
    const std::size_t size = bulky_size(i);
    must(client.put(id, payload(size, id, 1), put_patiently));
    if (i % 4 == 0) {
      PutOptions typed = put_patiently;
      typed.type = array_of<double>({8, 1000});
      const std::string array = numbered("array", i);
      must(client.put(array, payload(64'000, array, 1), typed));
    }
  }
  for (std::size_t i = 0; i < texts; ++i)
    must(client.put(numbered("text", i), plain_text(text_size(i), numbered("text", i)),
                    put_patiently));
  std::vector<std::string> ids;
  std::vector<std::vector<std::byte>> bytes;
  std::vector<PutItem> items;
  for (std::size_t i = 0; i < small; ++i) {
    ids.push_back(numbered("small", i));
    bytes.push_back(payload(small_size(i), ids.back(), 1));
  }
  for (std::size_t i = 0; i < small; ++i) items.push_back({ids[i], bytes[i]});
  for (const auto& put : must(client.put_many(items, put_patiently)))
    REQUIRE(outcome(put) == "ok");
  const auto shared = payload(40'000, "group", 1);
  const auto members = long_group(shared);
  must(client.put_group("group", members, put_patiently));
  const auto first = payload(900, "object", 1);
  const auto second = payload(2 * mib, "object", 2);
  const std::vector<ObjectPart> parts{{.bytes = first}, {.bytes = second}, {}};
  must(client.put_object("object", parts, put_patiently));
  for (std::size_t i = 0; i < middling; ++i)
    put_payload(client, numbered("middling", i), middling_size(i));
}

std::string anything_wrong(const Client& client) {
  std::string wrong;
  for (std::size_t i = 0; i < bulky && wrong.empty(); ++i) {
    wrong = wrong_payload(client, numbered("bulky", i), bulky_size(i));
    if (i % 4 != 0 || !wrong.empty()) continue;
    const std::string array = numbered("array", i);
    wrong = wrong_payload(client, array, 64'000);
    if (wrong.empty() && must(must(client.get(array)).type()) != array_of<double>({8, 1000}))
      wrong = array + " has another type";
  }
  for (std::size_t i = 0; i < texts && wrong.empty(); ++i) {
    const View view = must(client.get(numbered("text", i)));
    if (!same(view.bytes(), plain_text(text_size(i), numbered("text", i))))
      wrong = numbered("text", i) + " is wrong";
  }
  for (std::size_t i = 0; i < small && wrong.empty(); ++i)
    wrong = wrong_payload(client, numbered("small", i), small_size(i));
  for (std::size_t i = 0; i < middling && wrong.empty(); ++i)
    wrong = wrong_payload(client, numbered("middling", i), middling_size(i));
  if (!wrong.empty()) return wrong;
  const auto shared = payload(40'000, "group", 1);
  const auto wanted = long_group(shared);
  const View group = must(client.get("group"));
  const auto members = must(group.group());
  if (members.size() != wanted.size()) return "the group has other members";
  for (std::size_t i = 0; i < members.size(); ++i)
    if (members[i].name != wanted[i].name || members[i].type != wanted[i].type ||
        !same(members[i].bytes, wanted[i].bytes))
      return wanted[i].name + " is wrong";
  const View object = must(client.get("object"));
  const auto parts = must(object.object());
  if (parts.size() != 3 || !same(parts[0], payload(900, "object", 1)) ||
      !same(parts[1], payload(2 * mib, "object", 2)) || !parts[2].empty())
    return "the object is wrong";
  return {};
}

// How often a segment came back, as whoever subscribes is told.
std::size_t times_restored(Subscription& events, const std::string& id) {
  std::size_t times = 0;
  for (const Event& event : must(events.poll()))
    if (event.kind == EventKind::restored && event.id == id) ++times;
  return times;
}

struct Chain {
  const char* what;
  SpillingStore::Options options;
};

TEST_SUITE("spilling") {
  TEST_CASE("everything put into a store of a third of its size comes back byte for byte") {
    const std::vector<Chain> chains{
        {"a pool", {}},
        {"a folder", {.pools = 0, .disk = true}},
        {"a pool that is soon full, and a folder",
         {.disk = true, .pool = {.capacity = "32MiB", .arguments = {"--slab", "4MiB"}}}},
        {"a pool, with lz4", {.arguments = {"--compress", "lz4"}}},
        {"two pools and a folder, with zstd",
         {.pools = 2, .disk = true, .arguments = {"--compress", "zstd", "--replicas", "2"}}},
        {"a pool over plain tcp", {.pool = {.capacity = "128MiB",
                                            .arguments = {"--transport", "plain tcp"}}}},
    };
    for (const Chain& chain : chains) {
      CAPTURE(chain.what);
      SpillingStore::Options options = chain.options;
      options.capacity = "16MiB";
      SpillingStore store(options);
      Client client = store.connect();
      put_everything(client);
      CHECK(Status(client)["spilled_bytes"] > 24 * mib);
      CHECK(anything_wrong(client) == "");
      CHECK(adds_up(client) == "");
      // What is there no more leaves nothing behind.
      must(client.remove_prefix(""));
      CHECK(status_becomes(client, "spilled", 0) == 0);
      for (std::size_t tier = 0; tier < chain.options.pools + (chain.options.disk ? 1 : 0); ++tier)
        CHECK_MESSAGE(eventually([&] { return tier_line(client, tier).used_bytes == 0; }),
                      tier_line(client, tier).text);
      CHECK(adds_up(client) == "");
    }
  }

  TEST_CASE("small segments that are spilled together come back one by one") {
    SpillingStore store;
    Client client = store.connect();
    put_many_payloads(client, "s", 800, 3000);
    std::vector<std::string> ids;
    for (std::size_t i = 0; i < 800; ++i) ids.push_back(numbered("s", i));
    std::vector<SegmentName> names;
    for (const std::string& id : ids) names.push_back({.id = id});
    must(client.spill(names));
    const Status status(client);
    CHECK(status["spilled"] == 800);
    CHECK(status["packs"] > 0);
    CHECK(status["packs"] < 80);
    CHECK(wrong_payloads(client, "s", 800, 3000) == "");
    // Every second one goes; what stays comes back from packs that have holes.
    must(client.spill(names));
    for (std::size_t i = 0; i < 800; i += 2) must(client.remove(ids[i]));
    for (std::size_t i = 1; i < 800; i += 2)
      REQUIRE(wrong_payload(client, ids[i], 3000) == "");
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("who asks for the same segment at the same time waits for one restore") {
    SpillingStore store;
    Client client = store.connect();
    put_payload(client, "wanted", 6 * mib);
    for (int round = 0; round < 3; ++round) {
      must(spill_one(client, "wanted"));
      REQUIRE_FALSE(in_memory(client, "wanted"));
      Subscription events = must(client.subscribe("wanted"));
      std::atomic<int> ready{0};
      std::atomic<int> right{0};
      std::vector<std::thread> readers;
      for (int i = 0; i < 8; ++i)
        readers.emplace_back([&] {
          const auto own = Client::connect(store.daemon().connect_options());
          ++ready;
          while (ready < 8) std::this_thread::yield();
          if (own && wrong_payload(*own, "wanted", 6 * mib).empty()) ++right;
        });
      for (std::thread& reader : readers) reader.join();
      CHECK(right == 8);
      CHECK(times_restored(events, "wanted") == 1);
    }
  }

  TEST_CASE("what is got together comes back together") {
    SpillingStore store;
    Client client = store.connect();
    std::vector<std::string> ids;
    for (std::size_t i = 0; i < 8; ++i) {
      ids.push_back(numbered("together", i));
      put_payload(client, ids.back(), mib);
      must(spill_one(client, ids.back()));
    }
    put_payload(client, "resident", mib);
    ids.insert(ids.begin() + 4, "resident");
    ids.push_back("missing");
    const std::vector<std::string_view> views_of(ids.begin(), ids.end());
    // With a pool that does not answer for the moment, all that is asked of it can be counted.
    store.pool().stop();
    std::string wrong;
    std::thread getter([&] {
      const Client own = store.connect();
      const auto views = own.get_many(views_of);
      if (!views || views->size() != ids.size()) {
        wrong = "no views";
        return;
      }
      for (std::size_t i = 0; i + 1 < ids.size(); ++i)
        wrong += (*views)[i] ? wrong_bytes((*views)[i]->bytes(), mib, ids[i], 1)
                             : (*views)[i].error().message();
      if (outcome(views->back()) != "not_found") wrong += "something is there that is not";
    });
    CHECK(status_becomes(client, "restoring", 8, std::chrono::milliseconds(1000)) == 8);
    store.pool().resume();
    getter.join();
    CHECK(wrong == "");
  }

  TEST_CASE("who wants newer versions of several brings no old one back") {
    SpillingStore store;
    Client client = store.connect();
    for (const char* const id : {"x", "y"}) {
      put_payload(client, id, mib);
      must(spill_one(client, id));
    }
    const std::vector<std::string_view> ids{"x", "y"};
    const auto views = must(client.get_many(ids, {.after = 1, .timeout = std::chrono::milliseconds(20)}));
    for (const auto& view : views) CHECK(outcome(view) == "timed_out");
    CHECK_FALSE(in_memory(client, "x"));
    CHECK_FALSE(in_memory(client, "y"));
  }

  TEST_CASE("views stay as they are while everything around them is spilled and fetched") {
    SpillingStore store({.disk = true});
    Client client = store.connect();
    std::vector<View> views;
    for (std::size_t i = 0; i < 60; ++i) {
      const std::string id = numbered("v", i);
      put_payload(client, id, mib);
      if (i % 8 == 0) views.push_back(must(client.get(id)));
    }
    CHECK(Status(client)["spilled"] > 20);
    for (int round = 0; round < 2; ++round) {
      CHECK(wrong_payloads(client, "v", 60, mib) == "");
      for (std::size_t i = 0; i < views.size(); ++i) {
        CHECK(wrong_bytes(views[i].bytes(), mib, numbered("v", 8 * i), 1) == "");
        CHECK(in_memory(client, numbered("v", 8 * i)));
      }
    }
  }

  TEST_CASE("where says in which tiers a segment lies, and in how many bytes") {
    SpillingStore store({.pools = 2, .disk = true,
                         .arguments = {"--replicas", "2", "--compress", "lz4"}});
    Client client = store.connect();
    const auto text = plain_text(mib, "text");
    must(client.put("text", text, put_patiently));
    Whereabouts where = must(client.where({.id = "text"}));
    CHECK(where.in_memory);
    CHECK(where.copies.empty());
    must(spill_one(client, "text"));
    where = must(client.where({.id = "text"}));
    CHECK_FALSE(where.in_memory);
    CHECK(where.size_bytes == mib);
    CHECK(where.stored_bytes < mib / 4);
    REQUIRE(where.copies.size() == 2);
    std::set<std::string> tiers;
    for (const TierCopy& copy : where.copies) {
      CHECK(copy.up);
      tiers.insert(copy.tier);
    }
    CHECK(tiers == std::set<std::string>{"pool " + store.pool(0).address(),
                                         "pool " + store.pool(1).address()});
    CHECK(same(must(client.get("text")).bytes(), text));
    // Clean: its copies are kept, so that to evict it again costs nothing.
    where = must(client.where({.id = "text"}));
    CHECK(where.in_memory);
    CHECK(where.copies.size() == 2);
    CHECK(outcome(client.where({.id = "nothing"})) == "not_found");
  }

  TEST_CASE("a range is read without the rest coming back") {
    for (const char* codec : {"none", "zstd"}) {
      CAPTURE(codec);
      SpillingStore store({.arguments = {"--compress", codec}});
      Client client = store.connect();
      const auto bytes = payload(4 * mib, "r", 1);
      must(client.put("r", bytes, put_patiently));
      const auto text = plain_text(3 * mib, "t");
      must(client.put("t", text, put_patiently));
      CHECK(must(client.get_range(SegmentName{.id = "r"}, 5, 100)).pins());
      must(spill_one(client, "r"));
      must(spill_one(client, "t"));
      const std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges{
          {0, 1}, {5, 100}, {65'530, 20}, {1'000'001, 900'000}, {3 * mib - 7, 7}, {0, 3 * mib}};
      for (const auto& [offset, size] : ranges) {
        const SegmentRange range = must(client.get_range(SegmentName{.id = "r"}, offset, size));
        CHECK_FALSE(range.pins());
        CHECK(same(range.bytes(), std::span(bytes).subspan(offset, size)));
        CHECK(same(must(client.get_range(SegmentName{.id = "t"}, offset, size)).bytes(),
                   std::span(text).subspan(offset, size)));
      }
      CHECK_FALSE(in_memory(client, "r"));
      CHECK_FALSE(in_memory(client, "t"));
      CHECK(outcome(client.get_range(SegmentName{.id = "r"}, 4 * mib, 1)) == "bad_argument");
      CHECK(outcome(client.get_range(SegmentName{.id = "r"}, 1, ~std::uint64_t{0})) == "bad_argument");
    }
  }

  TEST_CASE("what is prefetched comes back by itself") {
    SpillingStore store;
    Client client = store.connect();
    put_many_payloads(client, "p", 8, mib);
    std::vector<std::string> ids;
    std::vector<SegmentName> names;
    for (std::size_t i = 0; i < 8; ++i) ids.push_back(numbered("p", i));
    for (const std::string& id : ids) names.push_back({.id = id});
    must(client.spill(names));
    CHECK(Status(client)["spilled"] == 8);
    must(client.prefetch(names));
    CHECK(status_becomes(client, "spilled", 0) == 0);
    for (const std::string& id : ids) {
      const View view = client.get_resident(id);  // neither waits nor asks
      REQUIRE(view);
      CHECK(wrong_bytes(view.bytes(), mib, id, 1) == "");
    }
    must(client.spill(names));
    must(client.restore(names));
    CHECK(Status(client)["spilled"] == 0);
  }

  TEST_CASE("what is spilled by request goes at once, also when it has just come back") {
    SpillingStore store;
    Client client = store.connect();
    put_payload(client, "s", 100'000);
    for (int round = 0; round < 20; ++round) {
      must(spill_one(client, "s"));
      REQUIRE_FALSE(in_memory(client, "s"));
      REQUIRE(wrong_payload(client, "s", 100'000) == "");
    }
    must(spill_one(client, "s"));
    const SegmentName name{.id = "s"};
    must(client.prefetch({&name, 1}));
    REQUIRE(status_becomes(client, "spilled", 0) == 0);
    must(spill_one(client, "s"));
    CHECK_FALSE(in_memory(client, "s"));
    // What somebody pins stays.
    const View view = must(client.get("s"));
    must(spill_one(client, "s"));
    CHECK(in_memory(client, "s"));
  }

  TEST_CASE("hints say what goes first and what stays") {
    SpillingStore store({.arguments = {"--clean-above", "100%"}});
    Client client = store.connect();
    put_many_payloads(client, "h", 20, mib);
    std::vector<std::string> done;
    std::vector<std::string> dear;
    for (std::size_t i = 0; i < 20; ++i)
      (i >= 14 ? done : dear).push_back(numbered("h", i));
    std::vector<SegmentName> names;
    for (const std::string& id : done) names.push_back({.id = id});
    must(client.hint(names, {.last_use = true}));
    names.clear();
    for (const std::string& id : dear) names.push_back({.id = id});
    must(client.hint(names, {.priority = 1}));
    put_many_payloads(client, "more", 6, mib);
    for (const std::string& id : dear) CHECK(in_memory(client, id));
    CHECK(std::ranges::any_of(done, [&](const auto& id) { return !in_memory(client, id); }));
    CHECK(wrong_payloads(client, "h", 20, mib) == "");
  }
}

}  // namespace
}  // namespace forebay::test
