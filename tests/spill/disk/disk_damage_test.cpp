// SPDX-License-Identifier: Apache-2.0
// Files that change under the tier: what is not the item any more is lost, never given out.
#include <sys/stat.h>
#include <unistd.h>

#include "tests/spill/disk/disk_fixture.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::test;
using tier_suite::bytes_of;
using tier_suite::Bytes;
using tier_suite::key;
using tier_suite::kib;
using tier_suite::must_put;
using tier_suite::numbers_of;
namespace fs = std::filesystem;

namespace {

void flip(const std::string& path, std::uint64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const char was = static_cast<char>(file.get());
  file.seekp(static_cast<std::streamoff>(at));
  file.put(static_cast<char>(was ^ 0x04));
  file.close();
  REQUIRE(file.good());
}

// Two items, the first of which is harmed in some way.
struct Harmed {
  DiskFolder folder;
  std::unique_ptr<DiskTier> tier = folder.open();
  Bytes item = bytes_of(200 * kib + 5, 1);
  Bytes other_item = bytes_of(200 * kib + 5, 2);
  TierPlace place = must_put(*tier, put_of(key(1), item, {.name = "n", .version = 1, .about = {}}));
  TierPlace other = must_put(*tier, put_of(key(2), other_item));
  std::string file = folder.file_of(key(1));
  std::uint64_t grown = 0;  // behind the tier's back; it counts them from the next start on

  void check_lost_now(bool file_is_left) {
    CHECK(get_now(*tier, key(1), place).error().is(Errc::lost));
    check_gone(file_is_left);
  }
  void check_lost_for_ranges(bool file_is_left) {
    Bytes into(10);
    CHECK(get_now(*tier, key(1), place, 150 * kib, into).error().is(Errc::lost));
    check_gone(file_is_left);
  }
  void check_lost_after_restart(bool file_is_left) {
    tier.reset();
    tier = folder.open();
    check_gone(file_is_left);
  }
  void check_gone(bool file_is_left) {
    CHECK(get_now(*tier, key(1), place).error().is(Errc::lost));
    CHECK(find_now(*tier, "n", 0).error().is(Errc::not_found));
    CHECK(numbers_of(list_now(*tier, key(1).store)) == std::vector<std::uint64_t>{2});
    CHECK(folder.names("damaged").size() == (file_is_left ? 1 : 0));
    CHECK(folder.names("items").size() == 1);
    if (file_is_left) CHECK(folder.reports() == 1);
    CHECK(tier->status().used_bytes + grown >= folder.bytes_on_disk());
    CHECK((get_now(*tier, key(2), other).value() == other_item));
    CHECK(remove_now(*tier, key(1), place).has_value());
  }
  void check_lost(bool file_is_left) {
    SUBCASE("and a get finds out") { check_lost_now(file_is_left); }
    SUBCASE("and a get of a range finds out") { check_lost_for_ranges(file_is_left); }
    SUBCASE("and the next start finds out") { check_lost_after_restart(file_is_left); }
  }
};

}  // namespace

TEST_SUITE("disk damage") {
  TEST_CASE("a file that is deleted is lost, and its bytes are free") {
    Harmed harmed;
    fs::remove(harmed.file);
    harmed.check_lost(false);
    CHECK(harmed.tier->status().used_bytes == harmed.folder.bytes_on_disk());
  }
  TEST_CASE("a file that is cut is lost") {
    Harmed harmed;
    SUBCASE("to nothing") {
      fs::resize_file(harmed.file, 0);
      harmed.check_lost(true);
    }
    SUBCASE("within its first page") {
      fs::resize_file(harmed.file, 100);
      harmed.check_lost(true);
    }
    SUBCASE("by a byte") {
      fs::resize_file(harmed.file, fs::file_size(harmed.file) - 1);
      harmed.check_lost(true);
    }
    SUBCASE("by a page") {
      fs::resize_file(harmed.file, fs::file_size(harmed.file) - 4096);
      harmed.check_lost(true);
    }
  }
  TEST_CASE("a file that has grown is lost") {
    Harmed harmed;
    fs::resize_file(harmed.file, fs::file_size(harmed.file) + 4096);
    harmed.grown = 4096;
    harmed.check_lost(true);
  }
  TEST_CASE("a file that another has taken the place of is lost") {
    Harmed harmed;
    SUBCASE("a file of another item") {
      fs::copy_file(harmed.folder.file_of(key(2)), harmed.file,
                    fs::copy_options::overwrite_existing);
      harmed.check_lost(true);
    }
    SUBCASE("a link") {
      fs::rename(harmed.file, harmed.folder / "elsewhere");
      fs::create_symlink(harmed.folder / "elsewhere", harmed.file);
      harmed.check_lost(true);
    }
    SUBCASE("a pipe, which is not waited for") {
      fs::remove(harmed.file);
      REQUIRE(::mkfifo(harmed.file.c_str(), 0600) == 0);
      harmed.check_lost(true);
    }
    SUBCASE("a folder") {
      fs::remove(harmed.file);
      fs::create_directory(harmed.file);
      harmed.check_lost(true);
    }
  }
  TEST_CASE("an item of the same key from another folder is lost") {
    Harmed harmed;
    DiskFolder elsewhere;
    must_put(*elsewhere.open(), put_of(key(1), harmed.item));
    fs::copy_file(elsewhere.file_of(key(1)), harmed.file, fs::copy_options::overwrite_existing);
    harmed.check_lost(true);
  }
  TEST_CASE("a first page that has changed is lost") {
    Harmed harmed;
    flip(harmed.file, 3000);
    harmed.check_lost(true);
  }
  TEST_CASE("bytes that have changed are noticed by whoever gets the item whole") {
    Harmed harmed;
    SUBCASE("the first") { flip(harmed.file, 4096); }
    SUBCASE("one in between") { flip(harmed.file, 4096 + 100 * kib); }
    SUBCASE("the last") { flip(harmed.file, 4096 + harmed.item.size() - 1); }
    harmed.check_lost_now(true);
  }
  TEST_CASE("many that find out at once agree") {
    Harmed harmed;
    flip(harmed.file, 5000);
    std::vector<Bytes> intos(20, Bytes(harmed.item.size()));
    std::vector<Answer<void>> answers(20);
    for (unsigned i = 0; i < 20; ++i)
      harmed.tier->get({.key = key(1), .place = harmed.place, .into = intos[i]}, soon(),
                       answers[i].done());
    for (const auto& answer : answers) CHECK(answer.await().error().is(Errc::lost));
    harmed.check_gone(true);
  }
  TEST_CASE("what is none of ours is set aside, and counted") {
    Harmed harmed;
    harmed.tier.reset();
    std::ofstream(harmed.folder / "items/readme.txt") << "hello";
    std::ofstream(harmed.folder / "items/" + std::string(255, 'x')) << std::string(10000, 'y');
    std::ofstream(harmed.folder / "incoming/5") << "left over";
    harmed.tier = harmed.folder.open();
    CHECK(harmed.folder.names("damaged").size() == 2);
    CHECK(harmed.folder.names("incoming").empty());
    CHECK(harmed.folder.names("items").size() == 2);
    CHECK(harmed.folder.reports() == 2);
    CHECK(harmed.tier->status().used_bytes == harmed.folder.bytes_on_disk());
    CHECK((get_now(*harmed.tier, key(1), harmed.place).value() == harmed.item));
  }
}
