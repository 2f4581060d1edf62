// SPDX-License-Identifier: Apache-2.0
// The messages between a client and the daemon: one struct for each request and each reply.
//
// A frame is one packet of a SEQPACKET socket: a FrameHeader and one serialised struct. Requests
// carry a number, and the reply carries the same one, so that many threads can share a connection.
// Texts and bytes in a decoded message are views into the frame it was decoded from.
//
// Each struct lists its members once, in `members`; codec.cpp does the rest. A new request is: a
// struct here, a name in the list at the end, one function in daemon/rules.h, one in client.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace forebay::wire {

inline constexpr std::uint16_t protocol_version = 4;
inline constexpr std::uint16_t frame_magic = 0xFB07;
// Fits the default send buffer of a Unix socket, and any sane kernel's largest allocation.
inline constexpr std::size_t frame_bytes_max = 192 * 1024;
// A put of up to this many bytes is one message; a larger one is written by the client itself.
inline constexpr std::size_t inline_bytes_max = 64 * 1024;
inline constexpr std::size_t descriptors_max = 4;  // in one frame, from the daemon; clients send none

enum class Op : std::uint16_t {
  hello = 1,
  goodbye = 2,
  grant = 3,
  create = 4,
  seal = 5,
  abort = 6,
  put = 7,
  put_many = 8,
  await = 9,
  remove = 10,
  stat = 11,
  nudge = 12,
  fork = 13,
  arrived = 14,
  arena = 15,
  status = 16,
  holders = 17,
  dump = 18,
  stop = 19,
  claim = 20,
  wait = 21,
  cancel = 22,
  hold = 23,
  holds_again = 24,
  keep = 25,
  remove_many = 26,
  supersede = 27,
  events = 28,
  scope = 29,
  scopes_again = 30,
  transfer = 31,
  where = 32,
  hint = 33,
  range = 34,
  import = 35,
};

struct FrameHeader {
  std::uint16_t magic;
  std::uint16_t op;          // Op; in a reply with reply_bit
  std::uint32_t number;      // of the request; 0: no reply is expected
  std::uint32_t body_bytes;  // exactly what follows
  std::uint32_t reserved;    // 0
};
static_assert(sizeof(FrameHeader) == 16);
inline constexpr std::uint16_t reply_bit = 0x8000;

using Bytes = std::span<const std::byte>;
using Text = std::string_view;
using Uuid = std::array<std::uint8_t, 16>;

// --- connecting

struct HelloRequest {
  static constexpr Op op = Op::hello;
  std::uint16_t protocol = protocol_version;
  std::uint32_t layout = 0;
  Text namespace_name;
  Text program;       // for people: whose pins these are
  Uuid store{};       // after a reconnect: which store the table below belongs to
  std::uint32_t slot = 0xffffffff;  // after a reconnect: the table that this process still has
  std::uint64_t token = 0;
  // A further connection of a process that is connected already, under that table's slot and token.
  std::uint8_t side = 0;
  void members(auto&& each) {
    each(protocol, layout, namespace_name, program, store, slot, token, side);
  }
};
// Comes with descriptors: index (read-only), arena 0 (read-write where allowed), and, unless the
// table was kept, the pin table (read-write).
struct HelloReply {
  Uuid store{};
  std::uint32_t layout = 0;
  std::uint8_t table_kept = 0;
  std::uint8_t may_create = 0;
  std::uint32_t slot = 0;
  std::uint64_t token = 0;
  std::uint64_t index_bytes = 0;
  std::uint64_t arena_bytes = 0;
  std::uint64_t capacity_bytes = 0;
  std::uint32_t daemon_pid = 0;
  void members(auto&& each) {
    each(store, layout, table_kept, may_create, slot, token, index_bytes, arena_bytes,
         capacity_bytes, daemon_pid);
  }
};

// One way: the client ends in order and makes no more pins through this table.
struct GoodbyeRequest {
  static constexpr Op op = Op::goodbye;
  std::uint8_t reserved = 0;
  void members(auto&& each) { each(reserved); }
};

// Asks for memory under a chunk of the pin table.
struct GrantRequest {
  static constexpr Op op = Op::grant;
  std::uint32_t chunk = 0;
  void members(auto&& each) { each(chunk); }
};

struct Empty {
  std::uint8_t reserved = 0;
  void members(auto&& each) { each(reserved); }
};

// Asks for the descriptor of one more arena.
struct ArenaRequest {
  static constexpr Op op = Op::arena;
  std::uint16_t arena = 0;
  void members(auto&& each) { each(arena); }
};
struct ArenaReply {
  std::uint64_t bytes = 0;
  void members(auto&& each) { each(bytes); }
};

// --- making segments

// What create and put have in common.
struct NewSegment {
  Text id;
  std::uint64_t version = 0;  // 0: the next
  std::uint64_t size = 0;     // payload bytes
  std::uint64_t brief = 0;
  Bytes description;
  std::uint8_t evictable = 0;
  std::uint8_t persistent = 0;
  std::uint64_t timeout_ns = 0;
  std::uint64_t token = 0;  // the same in a repetition of the request
  std::uint32_t keep = 0;   // 0: as the namespace says; 65535: all; else the newest so many versions
  std::uint64_t ttl_ns = 0;  // 0: for ever
  // Not 0: the segment fulfils the claim that was asked for with this token.
  std::uint64_t claim = 0;
  // Not 0: takes the memory of this version over, in place; size, brief and description are its.
  std::uint64_t take_from = 0;
  void members(auto&& each) {
    each(id, version, size, brief, description, evictable, persistent, timeout_ns, token, keep,
         ttl_ns, claim, take_from);
  }
};

struct CreateRequest {
  static constexpr Op op = Op::create;
  NewSegment segment;
  void members(auto&& each) { each(segment); }
};
struct CreateReply {
  Uuid store{};  // whose memory the location is in
  std::uint32_t entry = 0;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  std::uint64_t location = 0;
  std::uint64_t size = 0;
  void members(auto&& each) { each(store, entry, version, serial, location, size); }
};

// Asks for a version, or for the right (and the duty) to make it: of all that ask, one gets it, and
// the others wait. Seal of a segment with this claim's token ends it, and so does its abort.
struct ClaimRequest {
  static constexpr Op op = Op::claim;
  Text id;
  std::uint64_t version = 0;  // 0: the newest, or the next if there is none
  std::uint64_t timeout_ns = 0;
  std::uint64_t token = 0;
  void members(auto&& each) { each(id, version, timeout_ns, token); }
};
struct ClaimReply {
  Uuid store{};
  std::uint8_t yours = 0;  // else it is there: get it
  std::uint32_t entry = 0;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  void members(auto&& each) { each(store, yours, entry, version, serial); }
};

struct SealRequest {
  static constexpr Op op = Op::seal;
  Uuid store{};  // whose entry it is: after a reconnect the daemon may serve another store
  std::uint32_t entry = 0;
  std::uint64_t serial = 0;
  std::uint8_t repeated = 0;  // sent again after a reconnect: it may have worked the first time
  void members(auto&& each) { each(store, entry, serial, repeated); }
};

struct AbortRequest {
  static constexpr Op op = Op::abort;
  Uuid store{};
  std::uint32_t entry = 0;
  std::uint64_t serial = 0;
  std::uint8_t repeated = 0;
  // Not 0: nothing of the above, but the create that was asked for with this token, whose caller has
  // given up before it was answered.
  std::uint64_t token = 0;
  // Of a claim: what those who wait for it are told. Empty: the next of them may try.
  Text why = {};
  void members(auto&& each) { each(store, entry, serial, repeated, token, why); }
};

struct PutRequest {
  static constexpr Op op = Op::put;
  NewSegment segment;
  Bytes payload;
  void members(auto&& each) { each(segment, payload); }
};
struct PutReply {
  Uuid store{};
  std::uint32_t entry = 0;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  void members(auto&& each) { each(store, entry, version, serial); }
};

struct PutManyRequest {
  static constexpr Op op = Op::put_many;
  std::vector<PutRequest> items;
  void members(auto&& each) { each(items); }
};
struct PutManyItem {
  std::uint8_t origin = 0;  // as in ReplyStatus; 0: it worked
  std::int32_t code = 0;
  Text detail;
  PutReply reply;
  void members(auto&& each) { each(origin, code, detail, reply); }
};
struct PutManyReply {
  std::vector<PutManyItem> items;
  void members(auto&& each) { each(items); }
};

// --- finding and removing

// Waits until a version is sealed; the answer says only that it is worth looking again.
struct AwaitRequest {
  static constexpr Op op = Op::await;
  Text id;
  std::uint64_t version = 0;  // exact; 0: the newest
  std::uint64_t after = 0;    // with version 0: above this one
  std::uint64_t timeout_ns = 0;
  void members(auto&& each) { each(id, version, after, timeout_ns); }
};

// Waits for several at once. Those that do not fit into a frame come before, in frames with the same
// number that are not answered.
struct WaitItem {
  Text id;
  std::uint64_t version = 0;
  std::uint64_t after = 0;
  void members(auto&& each) { each(id, version, after); }
};
struct WaitRequest {
  static constexpr Op op = Op::wait;
  std::vector<WaitItem> items;
  std::uint32_t needed = 0;  // answered when so many are sealed
  std::uint64_t timeout_ns = 0;
  std::uint8_t more = 0;  // another frame follows; the two above count in the last one
  void members(auto&& each) { each(items, needed, timeout_ns, more); }
};
struct WaitReply {
  std::vector<std::uint32_t> ready;  // indices
  void members(auto&& each) { each(ready); }
};

// One way: nobody waits any more for the answer to the request of this number.
struct CancelRequest {
  static constexpr Op op = Op::cancel;
  std::uint32_t number = 0;
  void members(auto&& each) { each(number); }
};

struct RemoveRequest {
  static constexpr Op op = Op::remove;
  Text id;
  std::uint64_t version = 0;  // 0: all
  std::uint64_t before = 0;   // not 0: those below
  std::uint64_t serial = 0;   // not 0: only if it is this very segment, of this store
  Uuid store{};
  std::uint8_t repeated = 0;
  void members(auto&& each) { each(id, version, before, serial, store, repeated); }
};
struct RemoveReply {
  std::uint64_t removed = 0;
  void members(auto&& each) { each(removed); }
};

struct RemoveManyRequest {
  static constexpr Op op = Op::remove_many;
  std::vector<RemoveRequest> items;
  void members(auto&& each) { each(items); }
};
struct RemoveManyItem {
  std::uint8_t origin = 0;  // as in ReplyStatus; 0: it worked
  std::int32_t code = 0;
  Text detail;
  std::uint64_t removed = 0;
  void members(auto&& each) { each(origin, code, detail, removed); }
};
struct RemoveManyReply {
  std::vector<RemoveManyItem> items;
  void members(auto&& each) { each(items); }
};

// Segments of at most a slab's item size are copied to be updated; this buries what was copied, if
// nobody pins it.
struct SupersedeRequest {
  static constexpr Op op = Op::supersede;
  Text id;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  Uuid store{};
  std::uint8_t repeated = 0;
  void members(auto&& each) { each(id, version, serial, store, repeated); }
};

// --- retention

enum class HoldVerb : std::uint8_t { hold = 1, unhold = 2, persist = 3 };
struct HoldRequest {
  static constexpr Op op = Op::hold;
  std::uint8_t verb = 0;      // HoldVerb
  Text id;
  std::uint64_t version = 0;  // 0: the newest
  std::uint64_t serial = 0;   // not 0: only if it is this very segment, of this store
  Uuid store{};
  void members(auto&& each) { each(verb, id, version, serial, store); }
};
struct HoldReply {
  std::uint32_t entry = 0;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  void members(auto&& each) { each(entry, version, serial); }
};

// One way, after a reconnect: everything that this process holds. Until a restarted daemon has heard
// it from each process that lives, it lets go of nothing that was held.
struct HeldItem {
  std::uint32_t entry = 0;
  std::uint64_t serial = 0;
  void members(auto&& each) { each(entry, serial); }
};
struct HoldsAgainRequest {
  static constexpr Op op = Op::holds_again;
  std::vector<HeldItem> items;
  std::uint8_t more = 0;  // another such message follows
  void members(auto&& each) { each(items, more); }
};

// A prefix that this process begins or ends.
enum class ScopeVerb : std::uint8_t {
  begin = 1,
  end = 2,     // answered when all that was there has gone
  forget = 3,  // one way: the caller has given up beginning it
};
struct ScopeRequest {
  static constexpr Op op = Op::scope;
  std::uint8_t verb = 0;  // ScopeVerb
  Text prefix;
  std::uint8_t repeated = 0;
  void members(auto&& each) { each(verb, prefix, repeated); }
};
struct ScopeReply {
  std::uint64_t removed = 0;  // segments, by the end
  void members(auto&& each) { each(removed); }
};

// One way, after a reconnect: every scope that this process has begun.
struct ScopeItem {
  Text prefix;
  std::uint8_t ends = 0;  // its end was asked for, and not answered
  void members(auto&& each) { each(prefix, ends); }
};
struct ScopesAgainRequest {
  static constexpr Op op = Op::scopes_again;
  std::vector<ScopeItem> items;
  std::uint8_t more = 0;  // another such message follows
  void members(auto&& each) { each(items, more); }
};

// How many versions of an id stay from now on.
struct KeepRequest {
  static constexpr Op op = Op::keep;
  Text id;
  std::uint32_t keep = 0;  // as in NewSegment
  void members(auto&& each) { each(id, keep); }
};

// --- events

struct EventItem {
  std::uint8_t kind = 0;   // EventKind
  std::uint8_t cause = 0;  // RemovalCause
  Text id;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  std::uint64_t size = 0;
  void members(auto&& each) { each(kind, cause, id, version, serial, size); }
};

// Asks for what has happened since the cursor; answered as soon as there is something, or at the
// timeout with nothing.
struct EventsRequest {
  static constexpr Op op = Op::events;
  Text prefix;
  Uuid store{};              // the cursor's; zero: from now on
  std::uint64_t cursor = 0;
  std::uint64_t timeout_ns = 0;
  void members(auto&& each) { each(prefix, store, cursor, timeout_ns); }
};
struct EventsReply {
  Uuid store{};
  std::uint64_t cursor = 0;  // for the next request
  std::uint64_t missed = 0;  // so many events, of any id, happened before these and are forgotten
  std::vector<EventItem> events;
  void members(auto&& each) { each(store, cursor, missed, events); }
};

// --- tiers

// Which segment: of a ref, or the one of that id and version.
struct SegmentName {
  Text id;
  std::uint64_t version = 0;  // 0: the newest
  std::uint64_t serial = 0;   // not 0: only if it is this very segment, of this store
  void members(auto&& each) { each(id, version, serial); }
};

// Moves segments between memory and the tiers; answered when that is done, or has begun (prefetch).
enum class TransferVerb : std::uint8_t { prefetch = 1, restore = 2, spill = 3, publish = 4 };
struct TransferRequest {
  static constexpr Op op = Op::transfer;
  std::uint8_t verb = 0;  // TransferVerb
  Uuid store{};           // of the serials; zero: there are none
  std::vector<SegmentName> items;
  void members(auto&& each) { each(verb, store, items); }
};
struct TransferReply {
  std::uint64_t done = 0;
  void members(auto&& each) { each(done); }
};

// Where a segment's bytes are.
struct WhereRequest {
  static constexpr Op op = Op::where;
  Uuid store{};
  SegmentName segment;
  void members(auto&& each) { each(store, segment); }
};
struct WhereCopy {
  Text tier;             // "pool 10.0.0.7:7117", "disk /var/spill"
  std::uint8_t up = 0;   // it answers
  void members(auto&& each) { each(tier, up); }
};
struct WhereReply {
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  std::uint64_t size = 0;       // bytes of the segment
  std::uint64_t stored = 0;     // bytes in each tier; less when compressed
  std::uint8_t in_memory = 0;
  std::uint8_t published = 0;
  std::vector<WhereCopy> copies;
  void members(auto&& each) { each(version, serial, size, stored, in_memory, published, copies); }
};

// One way: what the framework knows of the future.
struct HintItem {
  SegmentName segment;
  std::uint8_t last_use = 0;
  std::uint64_t next_use = 0;  // so many other segments are read before it; 0: not known
  std::int32_t priority = 0;
  void members(auto&& each) { each(segment, last_use, next_use, priority); }
};
struct HintRequest {
  static constexpr Op op = Op::hint;
  Uuid store{};
  std::vector<HintItem> items;
  void members(auto&& each) { each(store, items); }
};

// Bytes of a segment that is not in memory, without bringing it back.
struct RangeRequest {
  static constexpr Op op = Op::range;
  Uuid store{};
  SegmentName segment;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  void members(auto&& each) { each(store, segment, offset, size); }
};
// Small ranges are in the answer; for larger ones a descriptor of memory that is the caller's comes
// with it.
struct RangeReply {
  std::uint8_t in_memory = 0;  // nothing was read: get it
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  std::uint64_t size = 0;      // of the segment
  Bytes bytes;
  void members(auto&& each) { each(in_memory, version, serial, size, bytes); }
};

// Makes what another node has published known here.
struct ImportRequest {
  static constexpr Op op = Op::import;
  Text id;
  std::uint64_t version = 0;  // 0: the newest that the pool knows
  void members(auto&& each) { each(id, version); }
};
struct ImportReply {
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  void members(auto&& each) { each(version, serial); }
};

struct StatRequest {
  static constexpr Op op = Op::stat;
  Text id;
  std::uint64_t version = 0;
  void members(auto&& each) { each(id, version); }
};
struct HolderItem {
  std::uint32_t pid = 0;
  Text name;
  std::uint64_t pins = 0;
  std::uint64_t bytes = 0;
  void members(auto&& each) { each(pid, name, pins, bytes); }
};
struct StatReply {
  std::uint32_t entry = 0;
  std::uint64_t serial = 0;
  std::uint8_t state = 0;
  std::vector<HolderItem> holders;    // of pins
  std::vector<HolderItem> leases;     // of holds: pins and bytes are 0
  std::uint32_t manifests = 0;        // sealed ones that list it
  std::uint32_t keep = 0;             // of its id, as the newest version says
  std::uint64_t expires_ms = 0;       // from now; 0: never
  // What shared memory shows of sealed segments only, for one that is being removed.
  std::uint64_t version = 0;
  std::uint64_t size = 0;
  void members(auto&& each) {
    each(entry, serial, state, holders, leases, manifests, keep, expires_ms, version, size);
  }
};

// One way: a pin that the daemon waits for has ended.
struct NudgeRequest {
  static constexpr Op op = Op::nudge;
  std::uint32_t entry = 0;
  void members(auto&& each) { each(entry); }
};

// --- fork

// Asks for a copy of this process's pin table, for the child that is about to be made. The reply
// comes with descriptors: the table and the child's end of a connection of its own.
struct ForkRequest {
  static constexpr Op op = Op::fork;
  std::uint8_t reserved = 0;
  void members(auto&& each) { each(reserved); }
};
struct ForkReply {
  std::uint32_t slot = 0;
  std::uint64_t token = 0;
  void members(auto&& each) { each(slot, token); }
};

// One way, the child's first word; the kernel's credentials travel with it.
struct ArrivedRequest {
  static constexpr Op op = Op::arrived;
  std::uint32_t slot = 0;
  std::uint64_t token = 0;
  void members(auto&& each) { each(slot, token); }
};

// --- for people

struct StatusRequest {
  static constexpr Op op = Op::status;
  std::uint8_t reserved = 0;
  void members(auto&& each) { each(reserved); }
};
struct TextReply {
  Text text;
  std::uint64_t next = 0;  // dump: where the next page starts; 0: there is none
  void members(auto&& each) { each(text, next); }
};

struct HoldersRequest {
  static constexpr Op op = Op::holders;
  std::uint8_t reserved = 0;
  void members(auto&& each) { each(reserved); }
};
struct HoldersReply {
  std::vector<HolderItem> holders;
  void members(auto&& each) { each(holders); }
};

struct DumpRequest {
  static constexpr Op op = Op::dump;
  std::uint64_t from = 0;
  void members(auto&& each) { each(from); }
};

struct StopRequest {
  static constexpr Op op = Op::stop;
  std::uint8_t drop = 0;
  void members(auto&& each) { each(drop); }
};

// The head of every reply. A failed one has no body.
struct ReplyStatus {
  std::uint8_t origin = 0;  // 0: it worked; 1: code is an Errc; 2: code is an errno
  std::int32_t code = 0;
  Text detail;
  void members(auto&& each) { each(origin, code, detail); }
};

// Every message, for codec.cpp to instantiate its functions for.
template <class... Messages>
struct MessageList {};
using AllMessages =
    MessageList<HelloRequest, HelloReply, GoodbyeRequest, GrantRequest, Empty, ArenaRequest,
                ArenaReply, CreateRequest, CreateReply, SealRequest, AbortRequest, PutRequest,
                PutReply, PutManyRequest, PutManyReply, AwaitRequest, RemoveRequest, RemoveReply,
                StatRequest, StatReply, NudgeRequest, ForkRequest, ForkReply, ArrivedRequest,
                StatusRequest, TextReply, HoldersRequest, HoldersReply, DumpRequest, StopRequest,
                ClaimRequest, ClaimReply, WaitRequest, WaitReply, CancelRequest, RemoveManyRequest,
                RemoveManyReply, SupersedeRequest, HoldRequest, HoldReply, HoldsAgainRequest,
                KeepRequest, EventsRequest, EventsReply, ScopeRequest, ScopeReply,
                ScopesAgainRequest, TransferRequest, TransferReply, WhereRequest, WhereReply,
                HintRequest, RangeRequest, RangeReply, ImportRequest, ImportReply>;
}  // namespace forebay::wire
