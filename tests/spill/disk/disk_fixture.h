// SPDX-License-Identifier: Apache-2.0
// A disk tier in a temporary folder, opened as often as a test likes, and a look at its files.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "spill/disk/disk_tier.h"
#include "tests/spill/disk/faulty_io.h"
#include "tests/spill/support/tier_suite.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {

class DiskFolder {
 public:
  spill::DiskTierOptions options() {
    return {.directory = path(),
            .capacity_bytes = 64 * tier_suite::mib,
            .report = [this](const std::string& sentence) {
              const std::lock_guard lock(mutex_);
              reports_.push_back(sentence);
            },
            .io = io_};
  }
  Result<std::unique_ptr<spill::DiskTier>> try_open() { return spill::DiskTier::open(options()); }
  std::unique_ptr<spill::DiskTier> open() {
    auto tier = try_open();
    INFO((tier ? "" : tier.error().message()));
    REQUIRE(tier.has_value());
    return std::move(*tier);
  }
  FaultyIo& io() { return *io_; }
  std::string path() const { return folder_ / "spill"; }
  std::string operator/(const std::string& name) const { return path() + "/" + name; }
  std::vector<std::string> names(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path() + "/" + folder))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  std::string file_of(const TierKey& key) const {
    return path() + "/items/" + spill::item_name(key);
  }
  std::uint64_t bytes_on_disk() const {
    std::uint64_t bytes = 0;
    for (const char* const folder : {"items", "incoming", "damaged"})
      for (const auto& entry : std::filesystem::directory_iterator(path() + "/" + folder))
        if (entry.symlink_status().type() == std::filesystem::file_type::regular)
          bytes += entry.file_size();
    return bytes;
  }
  std::size_t reports() const {
    const std::lock_guard lock(mutex_);
    return reports_.size();
  }

 private:
  TempDir folder_;
  std::shared_ptr<FaultyIo> io_ = std::make_shared<FaultyIo>();
  mutable std::mutex mutex_;
  std::vector<std::string> reports_;  // Guarded by mutex_.
};

}  // namespace forebay::test
