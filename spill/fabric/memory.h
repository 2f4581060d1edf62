// SPDX-License-Identifier: Apache-2.0
// Registered memory: all that verbs, efa and cxi want of memory and tcp does not, in one place.
// (FI_MR_LOCAL, FI_MR_VIRT_ADDR, FI_MR_ALLOCATED, FI_MR_PROV_KEY, FI_MR_ENDPOINT; fi_mr(3).)
//
// Registration is one of them. ExposedMemory is a pool's: slabs that others reach by a key.
// LocalMemory is a client's: sources and destinations of its own transfers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "spill/fabric/endpoint.h"
#include "spill/fabric/shared_alias.h"
#include "spill/pool/data_link.h"
#include "store/error.h"

namespace forebay::spill::fabric {

struct MemoryModes {
  bool local = false;
  bool virtual_addresses = false;
  bool allocated = false;
  bool provider_keys = false;
  bool endpoint = false;
  std::size_t key_bytes = 8;

  static MemoryModes of(const fi_info& info);
};

// One memory region of libfabric's, closed when this is destroyed; its endpoint must be there then.
class Registration {
 public:
  static Result<std::shared_ptr<Registration>> make(const Endpoint& endpoint,
                                                    const MemoryModes& modes,
                                                    std::span<const std::byte> bytes,
                                                    std::uint64_t access, std::uint64_t key);

  std::span<const std::byte> bytes() const { return bytes_; }
  void* description() const { return fi_mr_desc(region_.get()); }
  std::uint64_t key() const { return fi_mr_key(region_.get()); }
  std::uint64_t access() const { return access_; }

  std::uint64_t last_used = 0;  // for LocalMemory

 private:
  Registration(Owned<fid_mr> region, std::span<const std::byte> bytes, std::uint64_t access)
      : region_(std::move(region)), bytes_(bytes), access_(access) {}

  Owned<fid_mr> region_;
  std::span<const std::byte> bytes_;
  std::uint64_t access_;
};

// Any thread. A slab is registered once, with a random key (unless the provider makes the keys,
// which then are predictable: such a network must be trusted).
class ExposedMemory {
 public:
  explicit ExposedMemory(const Endpoint& endpoint);

  Result<SlabKey> expose(std::span<std::byte> slab, SlabAccess access);
  // No transfer that starts later reaches the slab; and, if it is shared memory, none that was
  // under way either. Of other memory the end of the endpoint is the end of those.
  void withdraw(const SlabKey& key);
  // Before the endpoint is closed.
  void withdraw_all();

 private:
  struct Slab {
    SharedAlias alias;
    std::shared_ptr<Registration> registration;
  };

  const Endpoint* endpoint_;
  const MemoryModes modes_;
  std::mutex mutex_;
  std::map<std::uint64_t, Slab> slabs_;  // by key; guarded by mutex_
  // Withdrawn: their addresses may still be written to. Guarded by mutex_.
  std::vector<SharedAlias> graves_;
};

// Sources and destinations of transfers. With a provider that does not ask for registration all of
// this does nothing. Else what a transfer uses is registered when it is first used, in pieces that
// never cross 16 MiB of address space, and kept for the next one.
//
// use() and close() belong to the link's thread; leaves() may come from any.
class LocalMemory {
 public:
  explicit LocalMemory(const Endpoint& endpoint);

  enum class Direction { source, destination };
  struct Piece {
    std::size_t size = 0;         // so many of the bytes, from the first on
    void* description = nullptr;  // for libfabric
    std::shared_ptr<Registration> held;  // as long as the transfer lasts
  };
  // Of at least one byte.
  Result<Piece> use(std::span<const std::byte> bytes, Direction direction);

  // No transfer uses a registration of these bytes from now on, and there is none any more, except
  // where a transfer of *other* bytes under the same registration is in flight: then it goes with
  // the last of those, since to wait for them would be to wait for a peer.
  void leaves(std::span<const std::byte> bytes);
  // The endpoint is going: every registration that no transfer holds is closed, and leaves() has
  // nothing to do any more.
  void close();

  std::size_t registrations() const;

 private:
  using Cache = std::map<std::uintptr_t, std::shared_ptr<Registration>>;

  Result<std::shared_ptr<Registration>> registered(std::span<const std::byte> bytes,
                                                   std::uint64_t access);
  void make_room(std::size_t most);

  const Endpoint* endpoint_;
  const MemoryModes modes_;
  mutable std::mutex mutex_;
  Cache cache_;              // by first address, never overlapping; guarded by mutex_
  std::uint64_t uses_ = 0;   // guarded by mutex_
  bool closed_ = false;      // guarded by mutex_
};

}  // namespace forebay::spill::fabric
