// SPDX-License-Identifier: Apache-2.0
// The data plane of the pool: one-sided writes into and reads from the slabs of a pool's arena. Two
// backends stand behind it: plain TCP (spill/pool/) and libfabric (spill/fabric/).
//
// DataServer is the pool's end, DataLink a client's. What a client needs to reach a server (addresses,
// keys) goes over the authenticated control channel, never over the data plane itself.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "spill/pool/right_of_way.h"
#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill {

// What opens one slab to a client: random, and void once the slab is withdrawn or the server ends.
struct SlabKey {
  std::uint64_t key = 0;
  std::uint64_t base = 0;  // remote address of the slab's first byte; 0 where offsets are addresses
};

// What one data link shows when it comes: known to both ends of an authenticated control session,
// and good for one link. Backends that cannot look at who comes do without.
using LinkToken = std::array<std::uint8_t, 16>;

enum class SlabAccess : std::uint8_t { read_write, read };

// The pool's end. Its progress does not depend on the caller: it has a thread of its own, which waits
// for nothing but the data plane.
class DataServer {
 public:
  virtual ~DataServer() = default;
  // "plain tcp", "tcp;ofi_rxm": both ends must say the same.
  virtual std::string transport() const = 0;
  // What DataLink's maker needs on the other side; opaque, at most 1 KiB.
  virtual std::vector<std::byte> address() const = 0;
  // Lets clients that have the key reach these bytes, which must stay mapped until withdrawn. The
  // same bytes may be exposed more than once, with other rights.
  virtual Result<SlabKey> expose(std::span<std::byte> slab, SlabAccess access) = 0;
  // Afterwards no client reaches them any more.
  virtual void withdraw(const SlabKey& key) = 0;
  // Lets one link come that shows this token.
  virtual void admit(const LinkToken& token) { (void)token; }
  // Ends the link that came with it, or keeps it from coming: afterwards it reaches nothing any
  // more. False: links cannot be told apart here, only withdraw() makes sure of that.
  virtual bool dismiss(const LinkToken& token) {
    (void)token;
    return false;
  }
};

// A client's end, for one server. Fails for good: after the first error that says that the peer is
// gone, or close(), everything that is open and everything that comes ends with tier_down, and a new
// link has to be made. An operation past its deadline is answered with timed_out, and is such an
// error, too, where nothing but the end of the link makes sure that its bytes do not arrive later: the
// link is then closed before that operation is answered. A link that can keep late bytes away from the
// caller's memory stays open; whatever of a late write still reaches the pool reaches it before
// anything that is asked of the link afterwards.
// Calls may come from any thread; callbacks come from the link's thread, or from within close().
class DataLink {
 public:
  using Done = std::function<void(Result<void>)>;

  // Closes.
  virtual ~DataLink() = default;
  // `parts`, one behind the other, to `offset` in the slab. When `done` is called with success they
  // are in the memory of the pool (delivered, not merely sent).
  virtual void write(const SlabKey& slab, std::uint64_t offset,
                     std::vector<std::span<const std::byte>> parts, TierDeadline deadline,
                     Done done) = 0;
  virtual void read(const SlabKey& slab, std::uint64_t offset, std::span<std::byte> into,
                    TierDeadline deadline, Done done) = 0;
  // Ends the transport first and answers everything that is open then: no byte arrives in any
  // destination afterwards. Does not wait for the peer.
  virtual void close() = 0;
  virtual bool is_open() const = 0;
  // See Tier::memory_leaves.
  virtual void memory_leaves(std::span<const std::byte> bytes) { (void)bytes; }
};

// How a backend is chosen at run time. What a client's end is made from:
struct LinkTarget {
  std::string host;                // by which the control session reached the pool
  std::vector<std::byte> address;  // DataServer::address()
  LinkToken token{};
  // Of the links that are for what nobody waits for. A backend may do without.
  std::shared_ptr<const RightOfWay> gives_way_to{};
};

// Returns at once; the link may still be about to connect.
using MakeDataLink = std::function<Result<std::unique_ptr<DataLink>>(const LinkTarget& target)>;
// To be reached at this address; port 0: any.
using MakeDataServer =
    std::function<Result<std::unique_ptr<DataServer>>(const std::string& host, std::uint16_t port)>;

}  // namespace forebay::spill
