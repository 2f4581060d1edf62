// SPDX-License-Identifier: Apache-2.0
#include "spill/disk/item_header.h"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <vector>

#include "spill/checksum.h"
#include "tests/support/random.h"

using namespace forebay;
using namespace forebay::spill;

namespace {
using Page = std::array<std::byte, header_bytes>;

ItemHeader header_of(std::size_t name, std::size_t about) {
  return {.key = {.store = {1, 2, 3}, .number = 77},
          .size = 123456,
          .incarnation = 99,
          .crc32c = 0xabcdef01,
          .label = {.name = std::string(name, 'n'),
                    .version = 5,
                    .about = std::vector<std::byte>(about, std::byte{6})}};
}
Page page_of(const ItemHeader& header) {
  Page page;
  write_header(header, page);
  return page;
}
}  // namespace

TEST_SUITE("item header") {
  TEST_CASE("what is written is read") {
    for (const auto& [name, about] : {std::pair<std::size_t, std::size_t>{0, 0}, {1, 0}, {0, 1},
                                      {longest_name, longest_about}}) {
      const ItemHeader wrote = header_of(name, about);
      const auto read = read_header(page_of(wrote));
      REQUIRE(read.has_value());
      CHECK(read->key == wrote.key);
      CHECK(read->size == wrote.size);
      CHECK(read->incarnation == wrote.incarnation);
      CHECK(read->crc32c == wrote.crc32c);
      CHECK(read->label.name == wrote.label.name);
      CHECK(read->label.version == wrote.label.version);
      CHECK((read->label.about == wrote.label.about));
    }
  }

  TEST_CASE("no bit of it can change unnoticed") {
    Page page = page_of(header_of(20, 20));
    for (std::size_t bit = 0; bit < page.size() * 8; ++bit) {
      page[bit / 8] ^= std::byte{1} << (bit % 8);
      if (read_header(page)) FAIL("bit ", bit, " was flipped unnoticed");
      page[bit / 8] ^= std::byte{1} << (bit % 8);
    }
    CHECK(read_header(page).has_value());
  }

  TEST_CASE("a format of the future is refused by name") {
    Page page = page_of(header_of(1, 1));
    page[8] = std::byte{2};
    CHECK(read_header(page).error().detail.find("format 2") != std::string::npos);
  }

  TEST_CASE("lengths that lie are refused even under a checksum that fits") {
    const auto with = [](std::size_t offset, auto value) {
      Page page = page_of(header_of(1, 1));
      std::memcpy(page.data() + offset, &value, sizeof value);
      const std::uint32_t sum = crc32c(std::span(page).subspan(16));
      std::memcpy(page.data() + 12, &sum, sizeof sum);
      return read_header(page).has_value();
    };
    CHECK(with(68, std::uint16_t{512}));
    CHECK(!with(68, std::uint16_t{513}));
    CHECK(!with(68, std::uint16_t{65535}));
    CHECK(!with(70, std::uint16_t{1025}));
    CHECK(!with(40, std::uint64_t{0}));
    CHECK(!with(40, ~std::uint64_t{0}));
  }

  TEST_CASE("pages of chance, begun like an item, do no harm") {
    test::Random random("pages");
    for (int i = 0; i < 2000; ++i) {
      Page page = page_of(header_of(1, 1));
      for (std::size_t at = 16; at < 80; ++at) page[at] = static_cast<std::byte>(random.next());
      const std::uint32_t sum = crc32c(std::span(page).subspan(16));
      std::memcpy(page.data() + 12, &sum, sizeof sum);
      if (const auto read = read_header(page)) {
        CHECK(read->label.name.size() <= longest_name);
        CHECK(read->label.about.size() <= longest_about);
      }
    }
  }
}
