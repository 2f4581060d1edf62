// SPDX-License-Identifier: Apache-2.0
// Client: a process's door to the store of its node.
//
// A client may be shared by threads; so may its views be handed around. Every call that may wait
// takes a timeout, and ends by then with an error that says what it waited for. When the daemon goes
// away, views stay valid and gets of resident segments go on; other calls reconnect by themselves
// and fail with `disconnected` if that does not succeed in time.
//
// fork: a forked child may go on using the client; views it inherited are valid and its own. exec:
// whatever the old image held is given back.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "store/array_type.h"
#include "store/async_gets.h"
#include "store/builder.h"
#include "store/claim.h"
#include "store/error.h"
#include "store/group.h"
#include "store/object.h"
#include "store/private_view.h"
#include "store/ref.h"
#include "store/subscription.h"
#include "store/tiers.h"
#include "store/timeout.h"
#include "store/view.h"

namespace forebay {

struct ConnectOptions {
  // Path of the daemon's socket. Empty: $FOREBAY_SOCKET, else this user's own daemon, whose socket
  // is under $XDG_RUNTIME_DIR/forebay or, without that, in a directory of this user's in /tmp.
  std::string address = {};
  std::string namespace_name = "default";
  // If this user's own daemon does not run, start it. Never done for an address that was given.
  bool start_daemon = true;
  // What to start. Empty: $FOREBAY_DAEMON, else forebayd beside this library or on the PATH.
  std::string daemon_path = {};
  // How long connecting, and each later request, may take in all.
  Timeout timeout = std::chrono::seconds(10);
};

struct PutOptions {
  std::uint64_t version = 0;  // 0: the next number of this id; else this very version
  // How long to wait for room when the store is full. Zero: fail at once, saying who holds what.
  Timeout timeout{0};
  bool exist_ok = false;    // put only: the version exists with equal bytes: fine
  bool evictable = false;   // may be dropped to make room, without a tier to go to
  // Until it is removed: nothing but that takes it away, no room that is wanted, no `keep`, no `ttl`,
  // no embedded daemon that ends for want of clients.
  bool persistent = false;
  // So many of the newest versions of this id stay from now on; older ones go when nobody pins them.
  // 0: as before, or if nothing was said of the id yet as the namespace says (forebayd --keep). At most
  // keep_max, or keep_all. Forgotten when the id's last version is removed.
  std::uint32_t keep = 0;
  // Removed so long after it was sealed; zero: never.
  Timeout ttl{0};
  std::optional<ArrayType> type = std::nullopt;
};
inline constexpr std::uint32_t keep_all = 65535;
inline constexpr std::uint32_t keep_max = keep_all - 1;

struct UpdateOptions {
  std::uint64_t from_version = 0;  // 0: the newest
  // In place, without a copy: the former version answers `superseded` from then on, also when the
  // builder is aborted or its process dies.
  bool take = false;
  Timeout timeout{0};  // as in PutOptions
  bool evictable = false;
  bool persistent = false;
  std::uint32_t keep = 0;
  Timeout ttl{0};
};

struct ClaimOptions {
  std::uint64_t version = 0;  // 0: the newest, or the next number if there is none
  Timeout timeout = std::chrono::hours(1);  // how long to wait for whoever makes it
};

// What a loader makes.
struct Loaded {
  std::vector<std::byte> bytes;
  std::optional<ArrayType> type = std::nullopt;
};
using Loader = std::function<Result<Loaded>()>;

inline constexpr std::size_t wait_items_max = 32'000;

struct WaitItem {
  std::string_view id;
  std::uint64_t version = 0;  // 0: the newest
  std::uint64_t after = 0;    // with version 0: only a version above this one will do
  std::uint64_t serial = 0;   // not 0: it is a ref's; what was removed is an error, not waited for
};

struct GetOptions {
  std::uint64_t version = 0;  // 0: the newest
  std::uint64_t after = 0;    // with version 0: only a version above this one will do
  Timeout timeout{0};         // how long to wait for a version that is not there yet
  // Also what another node has published to the pool: with version 0, the newest that the pool knows.
  bool from_pool = false;
};

// What `list` says about a segment; all of it is read from shared memory.
struct SegmentInfo {
  std::string id;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  std::uint64_t size = 0;  // payload bytes
  std::chrono::system_clock::time_point sealed_at;
  std::optional<ArrayType> type;
  bool evictable = false;
  bool persistent = false;
};

// Where a listing goes on; default-constructed: at the beginning.
struct ListCursor {
  std::string id;
  std::uint64_t version = 0;
};

struct ListPage {
  std::vector<SegmentInfo> segments;  // by id (bytewise), then by version
  std::optional<ListCursor> next;     // none: this was the last page
};

struct Holder {
  std::uint32_t pid = 0;
  std::string name;          // of the program
  std::uint64_t pins = 0;
  std::uint64_t bytes = 0;   // of the segments that it pins (status only)
};

struct SegmentStat {
  SegmentInfo info;
  std::string state;  // "sealed"; "removing": out of sight, but pinned
  std::vector<Holder> holders;
  std::vector<Holder> leases;   // who holds it; without pins and bytes
  std::uint32_t manifests = 0;  // so many list it
  std::uint32_t keep = 0;       // of its id: 0 as the namespace says, keep_all
  std::optional<std::chrono::milliseconds> expires_in;
};

// One item of a batch.
struct PutItem {
  std::string_view id;
  std::span<const std::byte> bytes;
};

namespace client {
class Core;
}

class FOREBAY_API Client {
 public:
  // Fails with disconnected (at once if nobody listens there), timed_out, layout_mismatch, denied.
  static Result<Client> connect(const ConnectOptions& options = {});
  // Where connect without an address connects to.
  static Result<std::string> default_address();
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();  // as close()

  // Reserves memory for a new version and hands it out for writing. Fails with bad_id, exists,
  // conflict, store_full, too_large, limit_reached, disconnected.
  Result<Builder> create(std::string_view id, std::uint64_t size_bytes,
                         const PutOptions& options = {});

  // Copies `bytes` into a new version. Fails as create does. A size of 0 is legal.
  Result<Ref> put(std::string_view id, std::span<const std::byte> bytes,
                  const PutOptions& options = {});

  // The same with bytes that `fill` writes, once, into memory that is the library's own: what is
  // written after it has returned is lost. `fill` must not throw; when it returns false, nothing is put,
  // and put fails with bad_argument.
  Result<Ref> put(std::string_view id, std::uint64_t size_bytes,
                  const std::function<bool(std::span<std::byte>)>& fill,
                  const PutOptions& options = {});

  // Several named arrays as one segment, with one pin: View::group takes it apart. Fails as put does,
  // and with bad_argument when a name comes twice.
  Result<Ref> put_group(std::string_view id, std::span<const GroupMember> members,
                        const PutOptions& options = {});

  // What a language's serializer made of a value, its parts as one segment, with one pin: View::object
  // takes it apart. Fails as put does, and with bad_argument for no part, or more than object_parts_max.
  Result<Ref> put_object(std::string_view id, std::span<const ObjectPart> parts,
                         const PutOptions& options = {});

  // A manifest: publishes a list of segments as one. All of them are there when it is sealed, and
  // stay as long as it does: neither room that is wanted nor keep, ttl or remove takes them away.
  // Fails with not_found when one is missing.
  Result<Ref> put_manifest(std::string_view id, std::span<const Ref> members,
                           const PutOptions& options = {});
  // What a manifest lists, in its order, all or none.
  Result<std::vector<View>> get_manifest(std::string_view id, const GetOptions& options = {}) const;

  // The next version, which starts with the content of from_version: a copy, or with `take` the very
  // memory. Fails as create does; with not_found, evicted, … when from_version is not there; with
  // `take` also with conflict, naming who pins or holds it (this process's own views count).
  Result<Builder> update(std::string_view id, const UpdateOptions& options = {});

  // A version, made by whoever asks first: this call gets the view, or the claim that lets it make
  // the version, while others that ask wait until that is done. Fails with timed_out, and with
  // loader_failed when whoever was to make it said that it cannot.
  Result<ViewOrClaim> claim(std::string_view id, const ClaimOptions& options = {});
  // The same with `loader`, which is run where the claim was got, and whose error is returned.
  Result<View> get_or_create(std::string_view id, const Loader& loader,
                             const ClaimOptions& options = {});

  // Pins a segment until the view is destroyed. Fails with not_found, evicted, lost, superseded,
  // timed_out (only with a timeout), bad_id.
  Result<View> get(std::string_view id) const;
  Result<View> get(std::string_view id, const GetOptions& options) const;
  // The very segment of the ref. Fails also with wrong_store and stale_ref.
  Result<View> get(const Ref& ref, const GetOptions& options = {}) const;

  // get, where that takes neither a wait nor a message; an empty view where it would: call get then.
  View get_resident(std::string_view id, std::uint64_t version = 0) const noexcept;
  View get_resident(const Ref& ref) const noexcept;

  // A private writable copy whose pages are the segment's until they are written to.
  Result<PrivateView> get_private(std::string_view id, const GetOptions& options = {}) const;

  // Gets that are answered when the caller looks: see async_gets.h.
  Result<AsyncGets> async_gets() const;

  // Waits until `needed` of the items are sealed, and returns which are (their indices, in order), or
  // at the timeout those that are by then. No pins: they may be removed again. Fails with stale_ref for
  // a ref's segment that was removed, bad_argument when more are needed than there are items, or there
  // are more than wait_items_max.
  Result<std::vector<std::size_t>> wait(std::span<const WaitItem> items, std::size_t needed,
                                        Timeout timeout) const;

  // What happens from now on, or since a cursor, to segments whose ids start with `prefix`: see
  // subscription.h.
  Result<Subscription> subscribe(std::string_view prefix, const EventCursor& from = {}) const;

  // Whether get would find it now. No pin, no message.
  Result<bool> contains(std::string_view id, std::uint64_t version = 0) const;
  Result<std::vector<bool>> contains_many(std::span<const std::string_view> ids) const;

  // Takes a version, or with version 0 all of them, out of sight at once; the memory is given back
  // when the last pin ends. Returns how many segments were removed. Fails with not_found.
  Result<std::uint64_t> remove(std::string_view id, std::uint64_t version = 0);
  Result<void> remove(const Ref& ref);
  // Its versions below this one. How many; 0 is no error.
  Result<std::uint64_t> remove_before(std::string_view id, std::uint64_t version);
  // Everything whose id starts with `prefix` when its page is listed; what a manifest lists stays.
  // How many. An empty prefix means everything.
  Result<std::uint64_t> remove_prefix(std::string_view prefix);

  // Keeps the daemon from letting a segment go on its own (for room, keep, or ttl) until `unhold`, or
  // until this process ends. Holds are counted. No pin: it may be removed, and leave memory for a
  // tier. Fails with not_found, stale_ref.
  Result<Ref> hold(std::string_view id, std::uint64_t version = 0);
  Result<Ref> hold(const Ref& ref);
  Result<void> unhold(const Ref& ref);
  // The same without an end: as put with persistent.
  Result<Ref> persist(std::string_view id, std::uint64_t version = 0);
  // How many of an id's versions stay, from now on: as PutOptions::keep. Fails with not_found.
  Result<void> keep(std::string_view id, std::uint32_t versions);

  // From now on, everything whose id starts with `prefix` (1 to 255 bytes) goes when this process ends
  // the scope, closes this client, or ends in any way, whoever put it there. Fails with bad_id, with
  // conflict if a scope that is begun, here or elsewhere, has the same prefix or one that overlaps it
  // (the error names whose it is), with limit_reached beyond 1024 scopes. Survives the daemon; a
  // forked child does not have it.
  Result<void> begin_scope(std::string_view prefix);
  // Removes what is there, held or not, as remove_prefix does: returns how many segments went, when
  // they have gone. What is pinned is out of sight, and goes with its last pin; what is being made goes
  // when it is sealed; what a manifest outside lists stays. What comes later is nobody's. After
  // timed_out or disconnected it goes on, or may be asked for again. Fails with bad_state if the
  // scope was not begun by this client.
  Result<std::uint64_t> end_scope(std::string_view prefix);

  // A segment whose bytes are in a tier is there like any other: a get brings them back. These are for
  // who knows better when (see docs/spilling.md). Each names segments by id and version, or with the
  // serial of a ref; returns how many were dealt with, and fails with the first error: not_found,
  // stale_ref, store_full (everything is pinned), lost, tier_down, bad_state (there is no tier). A
  // timeout of zero is the client's own (ConnectOptions).
  // Into memory, when there is time and room: not waited for, and never in the way of a get.
  Result<std::uint64_t> prefetch(std::span<const SegmentName> segments);
  // Into memory, and waits for it.
  Result<std::uint64_t> restore(std::span<const SegmentName> segments, Timeout timeout = {});
  // Into a tier, and out of memory, but for what somebody pins.
  Result<std::uint64_t> spill(std::span<const SegmentName> segments, Timeout timeout = {});
  // Into the pool under its id, where other nodes' get with from_pool finds it until it is removed.
  Result<std::uint64_t> publish(std::span<const SegmentName> segments, Timeout timeout = {});
  Result<Whereabouts> where(const SegmentName& segment) const;
  // Tells the daemon when these will be read next. One way: no answer, and no error for what is gone.
  Result<void> hint(std::span<const SegmentName> segments, const UseHint& hint);
  // A part of a segment; where that is in a tier, only this part is fetched (compressed segments
  // whole). Fails as get does, and with bad_argument for a range outside the segment.
  Result<SegmentRange> get_range(const SegmentName& segment, std::uint64_t offset_bytes,
                                 std::uint64_t size_bytes, Timeout timeout = {}) const;
  Result<SegmentRange> get_range(const Ref& ref, std::uint64_t offset_bytes,
                                 std::uint64_t size_bytes, Timeout timeout = {}) const;

  // Segments whose id starts with `prefix`, sorted, in pages of at most `limit`. A segment that is
  // there all the time is listed exactly once. Reads shared memory: no message, and no pins.
  Result<ListPage> list(std::string_view prefix, const ListCursor& from = {},
                        std::size_t limit = 1000) const;

  // Everything about one segment, with who pins it. Fails with not_found.
  Result<SegmentStat> stat(std::string_view id, std::uint64_t version = 0) const;

  // Batches: one result for each item, in order; an item's failure does not touch the others.
  // The outer Result fails only if the daemon could not be reached.
  Result<std::vector<Result<Ref>>> put_many(std::span<const PutItem> items,
                                            const PutOptions& options = {});
  Result<std::vector<Result<View>>> get_many(std::span<const std::string_view> ids,
                                             const GetOptions& options = {}) const;
  Result<std::vector<Result<std::uint64_t>>> remove_many(std::span<const std::string_view> ids);
  Result<std::vector<Result<void>>> remove_many(std::span<const Ref> refs);

  // For people and tools: what the daemon says about itself, as text of "name value" lines
  // (status), as a table of who pins what (pins), or everything (dump).
  Result<std::string> status() const;
  Result<std::vector<Holder>> holders() const;
  Result<void> dump(const std::function<void(std::string_view)>& write) const;
  // Asks the daemon to end; with `drop`, all segments go with it.
  Result<void> stop_daemon(bool drop);

  // The store that this client is attached to; another one after a daemon had to start empty.
  StoreUuid store() const;
  const std::string& address() const;
  const std::string& namespace_name() const;
  std::uint64_t capacity_bytes() const;

  // Ends the connection. Views stay valid; other calls fail with bad_state from now on.
  void close();
  bool closed() const;

 private:
  friend class client::Access;
  explicit Client(std::shared_ptr<client::Core> core);
  std::shared_ptr<client::Core> core_;
};

}  // namespace forebay
