// SPDX-License-Identifier: Apache-2.0
// ItemFiles: items to files and back, through a buffer of ours.
//
// The bytes of an item pass through a page-aligned buffer of the thread that moves them, and are
// copied from the source or into the destination by a function of the caller's, which can say that
// nobody wants them any more. So the kernel never holds an address of the caller's, and an
// operation can be answered at its deadline while the disk is still stuck in the middle of it.
//
// A file is written under a name in incoming/, synced, and only then moved to items/; the move is
// there for good after sync_names. After a failed sync nothing that was written before it is
// trusted. May be called from any thread, with a buffer each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "spill/disk/file_io.h"
#include "spill/disk/item_directory.h"
#include "spill/disk/item_header.h"
#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill {

class TransferBuffer {
 public:
  static constexpr std::size_t size = std::size_t{1} << 20U;
  TransferBuffer();
  std::span<std::byte> bytes() { return {memory_.get(), size}; }

 private:
  std::unique_ptr<std::byte, void (*)(void*)> memory_;
};

class ItemFiles {
 public:
  // Copies the next bytes of the item. False: the operation has been answered, go no further.
  using Fill = std::function<bool(std::span<std::byte> next)>;
  using Take = std::function<bool(std::span<const std::byte> next)>;

  ItemFiles(const ItemDirectory& directory, FileIo& io, bool direct)
      : directory_(directory), io_(io), direct_(direct) {}

  // A synced file in incoming/. Whether it fails or not, there may be a file of that name then.
  Result<void> write(const ItemHeader& header, const std::string& incoming, const Fill& fill,
                     TransferBuffer& buffer);
  Result<void> publish(const std::string& incoming, const TierKey& key);
  Result<void> sync_names();
  // Success also when there is none.
  Result<void> remove_incoming(const std::string& incoming);
  Result<void> remove(const TierKey& key);
  // Bytes [offset, offset + size) of the item. Fails with lost when the file is not there or not
  // that item's; `damaged` is then whether there is a file that is of no use.
  Result<void> read(const TierItem& item, std::uint64_t offset, std::uint64_t size,
                    const Take& take, TransferBuffer& buffer, bool& damaged);

 private:
  struct Closed;
  Result<void> write_all(int file, std::span<const std::byte> pages, std::uint64_t offset,
                         const std::string& name);
  Result<void> read_all(int file, std::span<std::byte> pages, std::uint64_t offset,
                        const std::string& name);
  Result<void> check_file(int file, const TierItem& item);
  static Result<void> check_page(std::span<const std::byte> page, const TierItem& item);
  Result<void> failed(int number, const std::string& doing, const std::string& name) const;

  const ItemDirectory& directory_;
  FileIo& io_;
  bool direct_;
};

}  // namespace forebay::spill
