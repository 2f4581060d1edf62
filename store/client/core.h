// SPDX-License-Identifier: Apache-2.0
// Core: what a Client is made of. Holds the connection and the current attachment, brings both back
// when the daemon has gone, and keeps both right across forks.
//
// Any thread may call anything. Reading takes no lock: it borrows a share of the current attachment.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "store/client.h"
#include "store/client/attachment.h"
#include "store/client/connection.h"
#include "store/error.h"
#include "store/shm/description.h"
#include "store/wire/message.h"

namespace forebay::client {

// How a segment is made that is more than PutOptions says.
struct Making {
  const shm::Description* description = nullptr;  // of what is no plain array; options.type is none
  std::uint64_t claim = 0;                        // token of the claim that it fulfils
  std::uint64_t take_from = 0;                    // the version whose memory it takes over
};

// A borrowed share of an attachment.
class Share {
 public:
  Share() = default;
  explicit Share(Attachment* attachment) : attachment_(attachment) {}
  Share(Share&& other) noexcept : attachment_(std::exchange(other.attachment_, nullptr)) {}
  Share& operator=(Share&&) = delete;
  ~Share() {
    if (attachment_ != nullptr) attachment_->drop_share();
  }
  Attachment* operator->() const { return attachment_; }
  Attachment* get() const { return attachment_; }
  explicit operator bool() const { return attachment_ != nullptr; }
  // The share goes on as a view's.
  Attachment* release() { return std::exchange(attachment_, nullptr); }

 private:
  Attachment* attachment_ = nullptr;
};

class Core : public std::enable_shared_from_this<Core> {
 public:
  static Result<std::shared_ptr<Core>> connect(const ConnectOptions& options);
  ~Core();

  // --- reading

  // The attachment that gets look into now; none while there is none, or while a fork is under way.
  Share try_share() const {
    Attachment* attachment = current_.load(std::memory_order_acquire);
    if (attachment == nullptr) return {};
    attachment->add_share();
    Share share(attachment);
    // Whoever turns the client away from it stores first and looks at the shares second; we took
    // the share first and look second.
    if (current_.load(std::memory_order_seq_cst) != attachment) return {};
    return share;
  }
  // The same, made anew if need be. Fails with bad_state after close, or as connecting does.
  Result<Share> share(Deadline deadline);
  bool is_current(const Attachment* attachment) const {
    return current_.load(std::memory_order_seq_cst) == attachment;
  }

  // `ref`, if given, is what id and version are from: its serial and its store must be right, too.
  Result<View> get(std::string_view id, const GetOptions& options, const Ref* ref);
  std::vector<Result<View>> get_many(std::span<const std::string_view> ids,
                                     const GetOptions& options);
  View get_resident(std::string_view id, std::uint64_t version, const Ref* ref,
                    bool& missed) noexcept;
  // get as options.timeout zero has it; what needs a word of the daemon's gets it by `until`.
  Result<View> look(std::string_view id, const GetOptions& options, Deadline until);
  // A readable segment as it is at this moment, without a pin; nothing if there is none.
  struct Sighting {
    EntryNumber entry = 0;
    std::uint64_t version = 0;
    std::uint64_t serial = 0;
    std::uint32_t flags = 0;  // of the record
    std::uint64_t size = 0;
    shm::State state{};
  };
  Result<std::optional<Sighting>> sight(std::string_view id, std::uint64_t version);
  Result<bool> contains(std::string_view id, std::uint64_t version);
  Result<std::vector<std::size_t>> wait(std::span<const WaitItem> items, std::size_t needed,
                                        Timeout timeout);
  Result<ListPage> list(std::string_view prefix, const ListCursor& from, std::size_t limit);
  Result<SegmentStat> stat(std::string_view id, std::uint64_t version);

  // --- writing

  // The first half of create and of a large put.
  struct Reserved {
    EntryNumber entry = 0;
    std::uint64_t version = 0;
    std::uint64_t serial = 0;
    shm::Location location;
    StoreUuid store{};
    std::uint64_t size = 0;
  };
  Result<Builder> create(std::string_view id, std::uint64_t size, const PutOptions& options,
                         const Making& making = {}, std::span<const std::byte> content = {});
  Result<Reserved> reserve(std::string_view id, std::uint64_t size, const PutOptions& options,
                           const Making& making = {});
  Result<void> seal(const Reserved& reserved);
  Result<void> abort(const Reserved& reserved);
  Result<void> abort(wire::AbortRequest request);
  void give_up(std::uint64_t token);
  // Makes sure that pins of this entry can be counted.
  Result<std::atomic<std::uint32_t>*> granted_count(Attachment& attachment, EntryNumber entry,
                                                    Deadline deadline);
  // False: the bytes could not be made, and nothing is put.
  using Filler = std::function<bool(std::span<std::byte>)>;
  // Told whether the memory is not in this process's page table yet.
  using Writer = std::function<bool(std::span<std::byte>, bool cold)>;
  Result<Ref> put(std::string_view id, std::span<const std::byte> bytes, const PutOptions& options,
                  const Making& making = {});
  Result<Ref> put(std::string_view id, std::uint64_t size, const Filler& fill,
                  const PutOptions& options, const Making& making = {});
  Result<std::vector<Result<Ref>>> put_many(std::span<const PutItem> items,
                                            const PutOptions& options);
  Result<std::uint64_t> remove(std::string_view id, std::uint64_t version, const Ref* ref);
  Result<Builder> update(std::string_view id, const UpdateOptions& options);

  // --- retention

  Result<Ref> hold(wire::HoldVerb verb, std::string_view id, std::uint64_t version, const Ref* ref);

  Result<void> begin_scope(std::string_view prefix);
  Result<std::uint64_t> end_scope(std::string_view prefix);

  // --- tiers (tiers.cpp)

  Result<std::uint64_t> transfer(wire::TransferVerb verb, std::span<const SegmentName> segments,
                                 Timeout timeout);
  Result<Whereabouts> where(const SegmentName& segment);
  Result<void> hint(std::span<const SegmentName> segments, const UseHint& hint);
  Result<SegmentRange> get_range(const SegmentName& segment, std::uint64_t offset,
                                 std::uint64_t size, Timeout timeout, const Ref* ref);
  Result<std::uint64_t> import(std::string_view id, std::uint64_t version, Deadline until);

  void nudge(EntryNumber entry);
  std::uint64_t new_token();

  // --- talking to the daemon

  // Makes sure that the daemon of this moment knows this process.
  Result<void> ensure_connected(Deadline deadline);
  Deadline deadline() const { return deadline_after(options_.timeout); }
  // Of a request that may wait for room first.
  Deadline deadline_for_room(const PutOptions& options) const {
    return deadline_after(options.timeout) + (deadline() - std::chrono::steady_clock::now());
  }
  Deadline deadline_after(Timeout timeout) const;

  // Sends a request until it is answered or the deadline passes, reconnecting in between. `again`
  // is called before each repetition, to mark the request as one.
  template <class Reply, class Request, class Again>
  Result<Answer<Reply>> request(Request& message, Deadline deadline, Again&& again) {
    while (true) {
      auto connection = connected(deadline);
      if (!connection) return fail(std::move(connection.error()));
      auto answer = (*connection)->template call<Reply>(message, deadline);
      if (answer || !answer.error().is(Errc::disconnected)) return answer;
      again();
    }
  }
  template <class Reply, class Request>
  Result<Answer<Reply>> request(Request& message, Deadline deadline) {
    return request<Reply>(message, deadline, [] {});
  }

  // Sends without waiting for an answer, if there is somebody to hear it.
  template <class Request>
  void tell(const Request& message) {
    std::shared_ptr<Connection> connection;
    {
      const std::lock_guard lock(state_mutex_);
      connection = connection_;
    }
    if (connection != nullptr && !connection->broken()) connection->tell(message);
  }

  Result<std::string> status();
  Result<std::vector<Holder>> holders();
  Result<void> dump(const std::function<void(std::string_view)>& write);
  Result<void> stop_daemon(bool drop);

  // --- the client's end

  void close();
  bool closed() const { return closed_.load(); }
  // A ref of another store or namespace than this is refused with both their names.
  Result<void> check_store(const Ref& ref, const StoreUuid& store) const;

  const std::string& address() const { return path_; }
  // The store that the client is attached to, or was when it was last attached to one.
  StoreUuid store() const;
  const std::string& namespace_name() const { return options_.namespace_name; }
  std::uint64_t capacity_bytes() const { return capacity_bytes_.load(); }
  std::uint64_t fork_generation() const { return fork_generation_.load(); }

  // --- fork: called for each core, in this order, by the one thread that forks

  void before_fork();
  void after_fork_in_parent();
  void after_fork_in_child();

 private:
  explicit Core(const ConnectOptions& options) : options_(options) {}

  Result<std::shared_ptr<Connection>> connected(Deadline deadline);
  Result<std::shared_ptr<Connection>> reconnect(Deadline deadline);
  Result<std::shared_ptr<Connection>> greet(Deadline deadline);
  Result<void> take_in(const wire::HelloReply& hello, std::vector<Descriptor> descriptors);
  std::size_t bring_back(std::span<const std::string_view> ids, std::uint64_t version,
                         Timeout timeout);
  Result<View> get_slowly(std::string_view id, const GetOptions& options, const Ref* ref,
                          Deadline until);
  Result<void> await(std::string_view id, const GetOptions& options, Deadline deadline);
  Result<Ref> put_inline(std::string_view id, std::span<const std::byte> bytes,
                         const PutOptions& options, const Making& making);
  Result<Ref> put_filling(std::string_view id, std::uint64_t size, const Writer& fill,
                          const PutOptions& options, const Making& making);
  Result<Builder> open_builder(const Reserved& reserved, std::string_view id,
                               const PutOptions& options, std::span<const std::byte> content);
  Result<Builder> take_over(std::string_view id, std::uint64_t from, const PutOptions& options);
  // Tells a daemon that was started anew what this process holds, and what it gave up meanwhile.
  Result<void> say_again(Connection& connection, const StoreUuid& store, Deadline deadline);
  Result<Ref> take_hold(std::string_view id, wire::HoldRequest& request);
  Result<Ref> end_hold(const Ref& ref, wire::HoldRequest& request);
  Result<void> say_scopes_again(Connection& connection, Deadline deadline);
  Result<Ref> compare_with_existing(std::string_view id, std::span<const std::byte> bytes,
                                    const PutOptions& options, const Making& making,
                                    Error exists);
  Ref make_ref(std::string_view id, const wire::PutReply& reply, const PutOptions& options) const;
  // The attachment of the store in which this was reserved. Fails if it is another's by now.
  Result<Share> share_of(const Reserved& reserved);
  // The same with a pin of the entry: the extent is given to nobody else while it lasts, even if the
  // client is closed meanwhile. Fails, holding nothing, if the client was closed before.
  Result<Share> hold(const Reserved& reserved);

  ConnectOptions options_;
  std::string path_;
  bool may_start_daemon_ = false;
  std::atomic<bool> closed_{false};

  std::atomic<Attachment*> current_{nullptr};
  mutable std::mutex state_mutex_;
  // One thread reconnects; the others wait for it, each by its own deadline.
  bool somebody_connects_ = false;           // Guarded by state_mutex_.
  std::condition_variable connect_ended_;
  StoreUuid store_{};                        // Guarded by state_mutex_.
  std::atomic<std::uint64_t> capacity_bytes_{0};
  std::shared_ptr<Connection> connection_;   // Guarded by state_mutex_.
  std::vector<Attachment*> attachments_;     // Guarded by state_mutex_. All since connect.
  // What this process holds, how often, by entry and serial. Guarded by state_mutex_.
  std::map<std::pair<EntryNumber, std::uint64_t>, std::uint64_t> holds_;
  // The scopes that it has begun, or is beginning, and whether their ends were asked for. Guarded by
  // state_mutex_.
  std::map<std::string, bool, std::less<>> scopes_;
  const void* said_by_ = nullptr;  // the connection that told them last. Guarded by state_mutex_
  std::vector<wire::AbortRequest> unsaid_aborts_;  // Guarded by state_mutex_. Without texts.
  std::atomic<std::uint64_t> next_token_{0};
  std::atomic<std::uint64_t> fork_generation_{0};

  // Between before_fork and after_fork.
  std::mutex gate_;  // held meanwhile: whoever finds no attachment waits here
  Attachment* at_fork_ = nullptr;
  std::shared_ptr<Connection> connection_at_fork_;
  wire::ForkReply child_identity_;
  Descriptor child_table_;
  Descriptor child_socket_;
  bool copied_for_child_ = false;
  bool frozen_at_fork_ = false;
};

// Who was to make the bytes of a segment could not.
Failure could_not_make(std::string_view id);
// Why a segment that has this brief (see Brief) is no array.
Failure no_array(std::uint64_t brief);

// Makes the library's private constructors reachable for the core.
class Access {
 public:
  static View view(Attachment* home, EntryNumber entry, const std::byte* data,
                   std::uint64_t size) {
    return View(home, entry, data, size);
  }
  static Builder builder(std::unique_ptr<BuilderState> state);
  static AsyncGets async_gets(std::unique_ptr<AsyncGetsState> state);
  static Subscription subscription(std::unique_ptr<SubscriptionState> state);
  // Whether what is viewed was put with this very description.
  static bool is_described_by(const View& view, const shm::Description& description);
  static Result<PrivateView> private_view(View view);
  static SegmentRange range_of(View view, std::uint64_t offset, std::uint64_t size);
  static SegmentRange range_of(std::span<const std::byte> bytes);
  static Result<SegmentRange> range_of(const Descriptor& memory, std::uint64_t size);
  static const Core::Reserved& reserved_of(const Builder& builder);
  static Claim claim(std::unique_ptr<ClaimState> state);
  // Its description, in `room` if it lies in the record.
  static std::span<const std::byte> description_of(const View& view, std::span<std::byte> room) {
    return view.home_->description_of(view.entry_, room);
  }
};

}  // namespace forebay::client
