// SPDX-License-Identifier: Apache-2.0
// Slabs: small segments packed into shared pages, so that 64 bytes cost 64 bytes.
//
// Each slab holds slots of one size class. Classes are multiples of 64 bytes up to 1 KiB, then eight
// steps for each doubling: at most 1/8 is wasted. A slab's start follows from the address of any of
// its slots, so that a restart finds the slabs again from the segments alone.
//
// Pure bookkeeping, owned by the daemon's thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "store/daemon/arena_space.h"

namespace forebay::daemon {

class Slabs {
 public:
  static constexpr std::uint64_t item_bytes_max = 64 * 1024;

  // Whether an item of so many bytes belongs into a slab.
  static constexpr bool fits(std::uint64_t bytes) { return bytes > 0 && bytes <= item_bytes_max; }
  // Bytes (and alignment) of the slab that holds items of this size.
  static std::uint64_t slab_bytes(std::uint64_t item_bytes);
  static bool same_class(std::uint64_t item_bytes, std::uint64_t other) {
    return class_of(item_bytes) == class_of(other);
  }

  Slabs();

  // A slot for an item; nothing if a slab must be added first.
  std::optional<std::uint64_t> take(std::uint64_t item_bytes);
  // A fresh slab of slab_bytes(item_bytes), aligned to its size.
  void add(std::uint64_t item_bytes, const Extent& slab);
  // The slot is free. Returns the slab's extent if it is empty now and another one of its class has
  // room, so that it is not worth keeping.
  std::optional<Extent> give_back(std::uint64_t offset, std::uint64_t item_bytes);

  // At a restart: this slot is in use. Returns the slab's extent the first time it is met; false in
  // `sound` means that the slot cannot be one, or is taken twice.
  std::optional<Extent> adopt(std::uint64_t offset, std::uint64_t item_bytes, bool& sound);

  // Takes all empty slabs away, when memory is short.
  std::vector<Extent> give_up_empty();

  std::uint64_t slabs_bytes() const { return slabs_bytes_; }
  std::uint64_t items_bytes() const { return items_bytes_; }  // in whole slots

 private:
  struct Slab {
    std::uint32_t size_class = 0;
    std::uint32_t live = 0;
    std::uint32_t fresh = 0;          // slots from here on were never used
    bool listed = false;              // stands in its class's with_room
    std::vector<std::uint16_t> free;  // used once, free again
    std::vector<bool> taken;
  };
  using SlabMap = std::map<std::uint64_t, Slab>;  // by offset
  struct SizeClass {
    std::uint32_t bytes;
    std::uint64_t slab_bytes;
    std::uint32_t slots;
    std::vector<std::uint64_t> with_room;  // slabs, each once; full ones are dropped when met
  };

  static std::uint32_t class_of(std::uint64_t item_bytes);
  Slab* slab_with_room(std::uint32_t size_class, std::uint64_t& offset);
  bool another_has_room(const SizeClass& of, std::uint64_t base) const;

  std::vector<SizeClass> classes_;
  SlabMap slabs_;
  std::uint64_t slabs_bytes_ = 0;
  std::uint64_t items_bytes_ = 0;
};

}  // namespace forebay::daemon
