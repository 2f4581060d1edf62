// SPDX-License-Identifier: Apache-2.0
#include "store/shm/index_map.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/support/random.h"

namespace forebay::shm {
namespace {

std::string random_id(test::Random& random, std::size_t size) {
  std::string id;
  while (id.size() < size) id += static_cast<char>(random.below(256));
  return id;
}

std::vector<std::byte> some_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 7 + 1);
  return bytes;
}

struct Place {
  std::unique_ptr<Record> record = std::make_unique<Record>();
  std::unique_ptr<Annex> annex = std::make_unique<Annex>();
};

TEST_SUITE("index_map") {
  TEST_CASE("ids of any length and any bytes are read back as they were stored") {
    test::Random random("ids");
    Place place;
    for (int round = 0; round < 20; ++round)
      for (std::size_t size = 1; size <= id_bytes_max; ++size) {
        const std::string id = random_id(random, size);
        store_id(*place.record, place.annex.get(), id);
        REQUIRE(load_id(*place.record, *place.annex) == id);
      }
    for (const char c : {'\0', '\xff'}) {
      const std::string id(id_bytes_max, c);
      store_id(*place.record, place.annex.get(), id);
      CHECK(load_id(*place.record, *place.annex) == id);
    }
  }

  TEST_CASE("an id of up to 31 bytes lies in the record alone, a longer one needs the annex") {
    CHECK_FALSE(id_needs_annex(1));
    CHECK_FALSE(id_needs_annex(31));
    CHECK(id_needs_annex(32));
    CHECK(id_needs_annex(255));

    Place place;
    const std::string fits(31, 'a');
    store_id(*place.record, nullptr, fits);  // an annex that has no memory must not be touched
    CHECK(load_id(*place.record, *place.annex) == fits);

    const std::string longer = std::string(31, 'b') + "c";
    store_id(*place.record, place.annex.get(), longer);
    CHECK(load_id(*place.record, *place.annex) == longer);
    // What the annex had before does not reach into a short id that follows.
    store_id(*place.record, place.annex.get(), "d");
    CHECK(load_id(*place.record, *place.annex) == "d");
  }

  TEST_CASE("the key of an id depends on each of its bytes, on its length and on the seed") {
    CHECK(key_of("points", 1) == key_of("points", 1));
    CHECK_FALSE(key_of("points", 1) == key_of("points", 2));
    CHECK_FALSE(key_of("points", 1) == key_of("pointt", 1));
    CHECK_FALSE(key_of("points", 1) == key_of(std::string("points\0", 7), 1));
    const std::string longest(id_bytes_max, 'x');
    for (std::size_t at = 0; at < id_bytes_max; ++at) {
      std::string other = longest;
      other[at] = 'y';
      CHECK_FALSE(key_of(other, 7) == key_of(longest, 7));
    }
  }

  TEST_CASE("both halves of the keys, and the hashes made of them, tell ids apart") {
    std::set<std::uint64_t> low;
    std::set<std::uint64_t> high;
    std::set<std::uint32_t> newest;
    constexpr std::size_t ids = 20'000;
    for (std::size_t i = 0; i < ids; ++i) {
      const Key key = key_of("block/" + std::to_string(i), 42);
      low.insert(key.low);
      high.insert(key.high);
      newest.insert(newest_hash(key));
    }
    CHECK(low.size() == ids);
    CHECK(high.size() == ids);
    // 20 000 of 2^32: less than one collision is likely.
    CHECK(newest.size() > ids - 5);
  }

  TEST_CASE("the versions of one id are spread over the lines as evenly as strangers are") {
    constexpr std::uint32_t lines = 1024;
    const Key key = key_of("model", 42);
    std::vector<int> load(lines);
    for (std::uint64_t version = 1; version <= 4 * lines; ++version)
      ++load[home_of(exact_hash(key, version), lines)];
    // Four each on average; throwing at random fills none with more than about fifteen.
    CHECK(*std::max_element(load.begin(), load.end()) < 20);
  }

  TEST_CASE("a description of up to 20 bytes lies in the record") {
    for (std::size_t size = 0; size <= 24; ++size)
      CHECK(description_in_record(size) == (size <= 20));

    Place place;
    for (std::size_t size = 0; size <= record_description_bytes; ++size) {
      const std::vector<std::byte> bytes = some_bytes(size);
      store_description(*place.record, bytes);
      CHECK(place.record->description_size.load() == size);
      std::vector<std::byte> read(record_description_bytes);
      load_description(*place.record, read);
      read.resize(size);
      CHECK(read == bytes);
    }
  }

  TEST_CASE("of a longer description the record has the size, and keeps its hands off the rest") {
    Place place;
    store_id(*place.record, place.annex.get(), std::string(31, 'n'));
    place.record->flags.store(0x55);
    store_description(*place.record, some_bytes(21));
    CHECK(place.record->description_size.load() == 21);
    store_description(*place.record, some_bytes(description_bytes_max));
    CHECK(place.record->description_size.load() == description_bytes_max);
    CHECK(place.record->flags.load() == 0x55);
    CHECK(load_id(*place.record, *place.annex) == std::string(31, 'n'));
  }

  TEST_CASE("a description behind the payload is aligned, does not touch it and is paid for") {
    for (const std::uint64_t payload : {0U, 1U, 7U, 8U, 9U, 4096U, 100'001U}) {
      CHECK(stored_bytes(payload, 0) == payload);
      CHECK(stored_bytes(payload, 20) == payload);
      for (const std::size_t size : {21U, 300U}) {
        CHECK(description_offset(payload) % 8 == 0);
        CHECK(description_offset(payload) >= payload);
        CHECK(description_offset(payload) < payload + 8);
        CHECK(stored_bytes(payload, size) == description_offset(payload) + size);
      }
    }
  }

  TEST_CASE("a reason lies beside the flags and comes back out of them") {
    for (const Reason reason : {Reason::none, Reason::evicted, Reason::lost, Reason::superseded}) {
      const std::uint32_t flags =
          flag_bit(RecordFlag::evictable) | flag_bit(RecordFlag::in_slab) | reason_bits(reason);
      CHECK(reason_of(flags) == reason);
      CHECK((flags & 0xffU) == (flag_bit(RecordFlag::evictable) | flag_bit(RecordFlag::in_slab)));
    }
  }

  TEST_CASE("over a mapping, each part is found where the regions say") {
    const Limits limits{1024, 512, 256, 8};
    const Regions regions = regions_of(limits);
    alignas(4096) static std::byte base[1];
    const IndexMap map = IndexMap::over(base, regions);
    const auto at = [](const void* pointer) {
      return static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(pointer) -
                                        reinterpret_cast<std::uintptr_t>(base));
    };
    CHECK(at(map.stamp) == 0);
    CHECK(at(map.live) == page_bytes);
    CHECK(at(map.processes) == regions.processes);
    CHECK(at(map.newest.lines) == regions.newest_lines);
    CHECK(at(map.exact.lines) == regions.exact_lines);
    CHECK(at(map.newest.overflow) == regions.overflow_lines);
    CHECK(at(map.exact.overflow) == regions.overflow_lines);
    CHECK(at(map.newest.in_use) == page_bytes + offsetof(IndexLive, newest_lines));
    CHECK(at(map.exact.in_use) == page_bytes + offsetof(IndexLive, exact_lines));
    CHECK(at(map.entries) == regions.entries);
    CHECK(at(map.records) == regions.records);
    CHECK(at(map.annexes) == regions.annexes);
    CHECK(at(map.extensions) == regions.extensions);
  }
}

}  // namespace
}  // namespace forebay::shm
