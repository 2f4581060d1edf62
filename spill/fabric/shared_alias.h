// SPDX-License-Identifier: Apache-2.0
// SharedAlias: the same shared memory, seen at a second address, whose view can be cut off.
//
// A provider in software checks a key when a message starts, and goes on writing the message's
// bytes long after the key is gone. It is given the alias; once that is cut, what is still under
// way falls into memory that nobody reads. Any thread, one at a time.
#pragma once

#include <cstddef>
#include <span>

#include "store/error.h"

namespace forebay::spill::fabric {

class SharedAlias {
 public:
  // Populated, so that no page is missing when a transfer comes: a full tmpfs is an error here and
  // would be SIGBUS there. Memory that is not shared has no alias: then this is the memory itself,
  // and cutting does nothing.
  static Result<SharedAlias> make(std::span<std::byte> memory);
  SharedAlias(SharedAlias&& other) noexcept;
  SharedAlias& operator=(SharedAlias&& other) = delete;
  ~SharedAlias();

  std::span<std::byte> bytes() const { return bytes_; }
  // Whether cut() can do what it is for.
  bool shared() const { return owned_ > 0; }
  // The addresses stay taken until this is destroyed.
  void cut();

 private:
  SharedAlias(std::span<std::byte> bytes, void* start, std::size_t owned)
      : bytes_(bytes), start_(start), owned_(owned) {}

  std::span<std::byte> bytes_;
  void* start_;        // of the mapping, at a page
  std::size_t owned_;  // bytes of it; 0: the memory is somebody else's
};

// Has the pages of these bytes there, for writing or for reading alone.
Result<void> populate(std::span<const std::byte> bytes, bool for_writing);

// The whole pages around these bytes.
std::span<const std::byte> pages_around(std::span<const std::byte> bytes);

}  // namespace forebay::spill::fabric
