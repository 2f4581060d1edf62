// SPDX-License-Identifier: Apache-2.0
// The messages of the pool's control protocol: what a daemon and a forebay-poold say to each other
// on TCP, beside the data plane.
//
// A session begins with client_hello, server_hello, client_proof and welcome (handshake.h). After
// that the client asks, in frames that carry a number, and the pool answers with frames of the same
// kind and number, in whatever order. Requests of many items are answered by as many results, in
// the order of the items. Nothing but `refused`, which ends the session, comes unasked.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "spill/pool/data_link.h"
#include "spill/pool/packing.h"
#include "store/error.h"
#include "store/tier.h"

namespace forebay::spill {

template <class Archive>
void serialize(Archive& archive, SlabKey& key) {
  archive(key.key, key.base);
}

}  // namespace forebay::spill

namespace forebay {

template <class Archive>
void serialize(Archive& archive, TierKey& key) {
  archive(key.store, key.number);
}
template <class Archive>
void serialize(Archive& archive, TierPlace& place) {
  archive(place.incarnation, place.offset, place.size, place.slab, place.reserved);
}
template <class Archive>
void serialize(Archive& archive, TierLabel& label) {
  archive(label.name, label.version, label.about);
}
template <class Archive>
void serialize(Archive& archive, TierItem& item) {
  archive(item.key, item.place, item.crc32c, item.label);
}

}  // namespace forebay

namespace forebay::spill::pool {

inline constexpr std::uint64_t protocol_magic = 0x314c4f4f50424546;  // "FEBPOOL1"
inline constexpr std::uint16_t protocol_version = 2;

inline constexpr std::size_t name_bytes_max = 512;
inline constexpr std::size_t about_bytes_max = 1024;
inline constexpr std::size_t batch_items_max = 256;
// A batch or a page is closed once it has so many bytes.
inline constexpr std::size_t batch_bytes = 64 * 1024;

using StoreUuid = std::array<std::uint8_t, 16>;
using Nonce = std::array<std::uint8_t, 32>;

enum class Kind : std::uint8_t {
  client_hello = 1,
  server_hello = 2,
  client_proof = 3,
  welcome = 4,
  refused = 5,  // by either side: why it ends the session
  alloc = 16,
  commit = 17,
  free = 18,
  list = 19,
  find = 20,
  open = 21,
  stat = 22,
  heartbeat = 23,
};

// How something went; no code: well.
struct Outcome {
  std::int32_t code = 0;
  bool of_system = false;
  std::string why;

  static Outcome of(const Error& error);
  bool well() const { return code == 0; }
  Error error() const;
};
template <class A>
void serialize(A& a, Outcome& it) {
  a(it.code, it.of_system, it.why);
}

struct ClientHello {
  std::uint64_t magic = protocol_magic;
  std::uint16_t version = protocol_version;
  bool secured = false;
  Nonce nonce{};
  StoreUuid store{};
  std::string software;
  std::vector<std::string> transports;  // that it can use, the best first
};
template <class A>
void serialize(A& a, ClientHello& it) {
  a(it.magic, it.version, it.secured, it.nonce, it.store, it.software, it.transports);
}

struct ServerHello {
  std::uint64_t magic = protocol_magic;
  std::uint16_t version = protocol_version;
  bool secured = false;
  Nonce nonce{};
  std::string software;
  std::string transport;
  std::array<std::uint8_t, 32> proof{};  // of the client's frame and all of this one before it
};
template <class A>
void serialize(A& a, ServerHello& it) {
  a(it.magic, it.version, it.secured, it.nonce, it.software, it.transport, it.proof);
}

struct ClientProof {
  std::array<std::uint8_t, 32> proof{};
};
template <class A>
void serialize(A& a, ClientProof& it) {
  a(it.proof);
}

struct Welcome {
  std::uint64_t incarnation = 0;
  std::uint64_t epoch = 0;
  std::uint64_t capacity_bytes = 0;
  std::uint64_t used_bytes = 0;
  std::vector<std::byte> data_address;
};
template <class A>
void serialize(A& a, Welcome& it) {
  a(it.incarnation, it.epoch, it.capacity_bytes, it.used_bytes, it.data_address);
}

// Of an item that is to come: its bytes, and those that its label will have.
struct Wanted {
  TierKey key;
  std::uint64_t size = 0;
  std::uint16_t name_size = 0;
  std::uint16_t about_size = 0;
};
template <class A>
void serialize(A& a, Wanted& it) {
  a(it.key, it.size, it.name_size, it.about_size);
}
struct AllocRequest {
  std::vector<Wanted> items;
};
template <class A>
void serialize(A& a, AllocRequest& it) {
  a(it.items);
}

struct Granted {
  TierPlace place;
  SlabKey slab;
};
struct GrantedOrNot {
  Outcome outcome;
  Granted granted;
};
template <class A>
void serialize(A& a, GrantedOrNot& it) {
  a(it.outcome, it.granted.place, it.granted.slab);
}
struct AllocAnswer {
  std::vector<GrantedOrNot> items;
  std::uint64_t used_bytes = 0;  // of the pool, after that
};
template <class A>
void serialize(A& a, AllocAnswer& it) {
  a(it.items, it.used_bytes);
}

struct CommitRequest {
  std::vector<TierItem> items;
};
template <class A>
void serialize(A& a, CommitRequest& it) {
  a(it.items);
}

struct Named {
  TierKey key;
  TierPlace place;
};
template <class A>
void serialize(A& a, Named& it) {
  a(it.key, it.place);
}
// Whatever is at that place for that key: an item, or an allocation that will not be committed.
struct FreeRequest {
  std::vector<Named> items;
};
template <class A>
void serialize(A& a, FreeRequest& it) {
  a(it.items);
}

struct Outcomes {
  std::vector<Outcome> items;
  std::uint64_t used_bytes = 0;  // of the pool, after that
};
template <class A>
void serialize(A& a, Outcomes& it) {
  a(it.items, it.used_bytes);
}

struct ListRequest {
  std::uint64_t from = 0;  // the first number that may be listed
  bool brief = false;      // without the labels
};
template <class A>
void serialize(A& a, ListRequest& it) {
  a(it.from, it.brief);
}
struct ListAnswer {
  std::vector<TierItem> items;  // of the tenant, by their numbers
  bool more = false;
  std::uint64_t next = 0;
};
template <class A>
void serialize(A& a, ListAnswer& it) {
  a(it.items, it.more, it.next);
}

struct FindRequest {
  std::string name;
  std::uint64_t version = 0;
};
template <class A>
void serialize(A& a, FindRequest& it) {
  a(it.name, it.version);
}
struct FindAnswer {
  Outcome outcome;
  TierItem item;
};
template <class A>
void serialize(A& a, FindAnswer& it) {
  a(it.outcome, it.item);
}

// How to read an item: one's own, or one that another tenant has published.
struct OpenRequest {
  Named item;
};
template <class A>
void serialize(A& a, OpenRequest& it) {
  a(it.item);
}
struct OpenAnswer {
  Outcome outcome;
  SlabKey slab;
  std::uint64_t offset = 0;  // of the item behind that key
};
template <class A>
void serialize(A& a, OpenAnswer& it) {
  a(it.outcome, it.slab, it.offset);
}

struct Stat {
  std::uint64_t capacity_bytes = 0;
  std::uint64_t used_bytes = 0;     // in slabs' allocations, of all tenants
  std::uint64_t tenant_bytes = 0;   // of these, the asking one's
  std::uint64_t tenant_items = 0;
};
template <class A>
void serialize(A& a, Stat& it) {
  a(it.capacity_bytes, it.used_bytes, it.tenant_bytes, it.tenant_items);
}

struct Empty {};
template <class A>
void serialize(A&, Empty&) {}

// "forebay 0.1.0". Pools and daemons of one major version understand each other; of any other pair
// nobody knows, and it is refused.
std::string software();
bool fits_software(const std::string& other);

}  // namespace forebay::spill::pool
