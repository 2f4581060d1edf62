// SPDX-License-Identifier: Apache-2.0
// ItemDirectory: the folder in which a disk tier keeps its items, checked and locked.
//
//   incarnation   a random number, made with the folder, by which places are told from those in
//                 other folders
//   items/        <store hex>-<number hex>: whole, synced items
//   incoming/     what is being written; swept when the folder is opened
//   damaged/      what was found in items/ and is none of ours, or broken; for people to look at
//
// The folder is made with mode 0700. It is refused when it is a link, somebody else's, writable for
// others, on a file system of the network, or in use by another process. Used by one thread at a
// time, but for set_aside.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill {

// An open file, closed at the end.
class OpenFile {
 public:
  OpenFile() = default;
  explicit OpenFile(int file) : file_(file) {}
  ~OpenFile();
  OpenFile(OpenFile&& other) noexcept : file_(other.file_) { other.file_ = -1; }
  OpenFile& operator=(OpenFile&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  int get() const { return file_; }

 private:
  int file_ = -1;
};

// One sentence about what was found and done.
using Report = std::function<void(const std::string& sentence)>;

std::string item_name(const TierKey& key);

class ItemDirectory {
 public:
  struct Found {
    std::vector<TierItem> items;
    std::uint64_t damaged_bytes = 0;
  };

  static Result<ItemDirectory> open(const std::string& path, Report report);

  ItemDirectory(ItemDirectory&& other) noexcept;
  ItemDirectory& operator=(ItemDirectory&&) = delete;

  // Sweeps incoming/, reads the first page of each item and sets aside what is not one.
  Result<Found> scan();
  // Moves a file from items/ to damaged/. False: it is not there, or cannot be moved (which is
  // reported). From any thread.
  bool set_aside(const std::string& name, const std::string& why);

  std::uint64_t incarnation() const { return incarnation_; }
  const std::string& path() const { return path_; }
  int items() const { return items_.get(); }
  int incoming() const { return incoming_.get(); }
  // Whether this file system takes reads and writes of whole pages past its cache.
  bool takes_direct_io() const;

 private:
  ItemDirectory(std::string path, Report report)
      : path_(std::move(path)), report_(std::move(report)) {}
  Result<void> open_root();
  Result<void> read_incarnation();
  Result<void> make_incarnation();
  Result<OpenFile> open_folder(const char* name);
  Result<void> scan_item(const std::string& name, Found& found);
  void say(const std::string& sentence) const;

  std::string path_;
  Report report_;
  OpenFile root_;  // holds the lock
  OpenFile items_;
  OpenFile incoming_;
  OpenFile damaged_;
  std::uint64_t incarnation_ = 0;
  std::atomic<std::uint64_t> set_aside_ = 0;
};

}  // namespace forebay::spill
