// SPDX-License-Identifier: Apache-2.0
#include "spill/disk/item_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include "tests/spill/disk/disk_fixture.h"
#include "tests/support/child_process.h"

using namespace forebay;
using namespace forebay::spill;
using namespace forebay::test;
namespace fs = std::filesystem;

namespace {
Errc refusal_of(const std::string& path) {
  auto opened = ItemDirectory::open(path, {});
  if (opened) return Errc{};
  CHECK(opened.error().detail.find(path) != std::string::npos);
  return static_cast<Errc>(opened.error().code.value());
}
mode_t mode_of(const std::string& path) {
  struct stat about {};
  REQUIRE(::stat(path.c_str(), &about) == 0);
  return about.st_mode & 07777U;
}
}  // namespace

TEST_SUITE("item directory") {
  TEST_CASE("it is made for its owner alone, whatever the umask") {
    const TempDir folder;
    const mode_t before = ::umask(0);
    const auto opened = ItemDirectory::open(folder / "spill", {});
    ::umask(before);
    REQUIRE(opened.has_value());
    CHECK(mode_of(folder / "spill") == 0700);
    CHECK(mode_of(folder / "spill/items") == 0700);
    CHECK(mode_of(folder / "spill/incarnation") == 0600);
    CHECK(opened->incarnation() != 0);
  }
  TEST_CASE("it keeps its incarnation, and no two have the same") {
    const TempDir folder;
    const auto first = ItemDirectory::open(folder / "a", {}).value().incarnation();
    CHECK(ItemDirectory::open(folder / "a", {}).value().incarnation() == first);
    CHECK(ItemDirectory::open(folder / "b", {}).value().incarnation() != first);
  }
  TEST_CASE("a folder that cannot be trusted is refused") {
    const TempDir folder;
    const std::string path = folder / "spill";
    SUBCASE("a link") {
      fs::create_directory(folder / "real");
      ::chmod((folder / "real").c_str(), 0700);
      fs::create_directory_symlink(folder / "real", path);
      CHECK(refusal_of(path) == Errc::denied);
    }
    SUBCASE("a file") {
      std::ofstream(path) << "x";
      CHECK(refusal_of(path) == Errc::denied);
    }
    SUBCASE("one that its group can write") {
      fs::create_directory(path);
      ::chmod(path.c_str(), 0770);
      CHECK(refusal_of(path) == Errc::denied);
    }
    SUBCASE("one that everybody can write") {
      fs::create_directory(path);
      ::chmod(path.c_str(), 0702);
      CHECK(refusal_of(path) == Errc::denied);
    }
    SUBCASE("somebody else's") {
      // Where the test may not give a folder away, it takes one that is somebody else's already.
      fs::create_directory(path);
      const bool given = ::chown(path.c_str(), 12345, 12345) == 0;
      CHECK(refusal_of(given ? path : "/etc") == Errc::denied);
    }
    SUBCASE("one of which the parent is not there") {
      CHECK(!ItemDirectory::open(folder / "no/spill", {}).has_value());
    }
  }
  TEST_CASE("it serves one at a time") {
    const TempDir folder;
    const std::string path = folder / "spill";
    {
      const auto opened = ItemDirectory::open(path, {});
      REQUIRE(opened.has_value());
      CHECK(refusal_of(path) == Errc::already_running);
      ChildProcess child([&](Moments&) {
        require(ItemDirectory::open(path, {}).error().is(Errc::already_running), "refused");
      });
      CHECK(child.join() == 0);
    }
    CHECK(ItemDirectory::open(path, {}).has_value());
  }
  TEST_CASE("a folder whose incarnation is not known is left alone") {
    DiskFolder folder;
    const tier_suite::Bytes item = tier_suite::bytes_of(1000, 1);
    tier_suite::must_put(*folder.open(), put_of(tier_suite::key(1), item));
    SUBCASE("missing") { fs::remove(folder / "incarnation"); }
    SUBCASE("empty") { fs::resize_file(folder / "incarnation", 0); }
    SUBCASE("other words") { std::ofstream(folder / "incarnation") << std::string(40, 'x'); }
    SUBCASE("too much") { std::ofstream(folder / "incarnation", std::ios::app) << "x"; }
    SUBCASE("zero") {
      std::ofstream(folder / "incarnation")
          << "forebay spill folder 1 " << std::string(16, '0') << "\n";
    }
    CHECK(folder.try_open().error().is(Errc::bad_state));
    CHECK(folder.names("items").size() == 1);
  }
  TEST_CASE("options that can never work are refused") {
    DiskFolder folder;
    DiskTierOptions options = folder.options();
    options.threads = 0;
    CHECK(DiskTier::open(std::move(options)).error().is(Errc::bad_argument));
  }
}
