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
#include "store/builder.h"
#include "store/error.h"
#include "store/ref.h"
#include "store/view.h"

namespace forebay {

using Timeout = std::chrono::nanoseconds;

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
  bool persistent = false;  // outlives an embedded daemon that ends for want of clients
  std::optional<ArrayType> type = std::nullopt;
};

struct GetOptions {
  std::uint64_t version = 0;  // 0: the newest
  std::uint64_t after = 0;    // with version 0: only a version above this one will do
  Timeout timeout{0};         // how long to wait for a version that is not there yet
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
  std::string state;  // "sealed", "removing", …
  std::vector<Holder> holders;
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
  // written after it has returned is lost. `fill` must not throw.
  Result<Ref> put(std::string_view id, std::uint64_t size_bytes,
                  const std::function<void(std::span<std::byte>)>& fill,
                  const PutOptions& options = {});

  // Pins a segment until the view is destroyed. Fails with not_found, evicted, lost, superseded,
  // timed_out (only with a timeout), bad_id.
  Result<View> get(std::string_view id) const;
  Result<View> get(std::string_view id, const GetOptions& options) const;
  // The very segment of the ref. Fails also with wrong_store and stale_ref.
  Result<View> get(const Ref& ref, const GetOptions& options = {}) const;

  // get, where that takes neither a wait nor a message; an empty view where it would: call get then.
  View get_resident(std::string_view id, std::uint64_t version = 0) const noexcept;
  View get_resident(const Ref& ref) const noexcept;

  // Whether get would find it now. No pin, no message.
  Result<bool> contains(std::string_view id, std::uint64_t version = 0) const;

  // Takes a version, or with version 0 all of them, out of sight at once; the memory is given back
  // when the last pin ends. Returns how many segments were removed. Fails with not_found.
  Result<std::uint64_t> remove(std::string_view id, std::uint64_t version = 0);
  Result<void> remove(const Ref& ref);

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
