// SPDX-License-Identifier: Apache-2.0
#include "store/client/core.h"

#include <poll.h>
#include <pthread.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <new>
#include <thread>

#include "store/client/spawn.h"
#include "store/shm/failpoint.h"
#include "store/wire/address.h"

namespace forebay::client {
namespace {

constexpr auto fork_patience = std::chrono::milliseconds(100);
constexpr int starts_max = 3;
constexpr auto first_pause = std::chrono::milliseconds(5);
constexpr auto longest_pause = std::chrono::milliseconds(200);

// All cores of the process, for the fork handlers. Never destroyed: a fork may come at any time.
struct Registry {
  std::mutex mutex;
  std::vector<Core*> cores;
};
Registry& registry() {
  static Registry* const all = new Registry;
  return *all;
}

void before_fork() {
  registry().mutex.lock();
  for (Core* core : registry().cores) core->before_fork();
  Attachment::freeze_retired_and_lock();
}
void after_fork_in_parent() {
  Attachment::unlock_after_fork();
  for (Core* core : registry().cores) core->after_fork_in_parent();
  registry().mutex.unlock();
}
void after_fork_in_child() {
  Attachment::own_frozen_in_child();
  Attachment::unlock_after_fork();
  for (Core* core : registry().cores) core->after_fork_in_child();
  registry().mutex.unlock();
}

void enlist(Core* core) {
  static const int handlers =
      ::pthread_atfork(&before_fork, &after_fork_in_parent, &after_fork_in_child);
  (void)handlers;
  const std::lock_guard lock(registry().mutex);
  registry().cores.push_back(core);
}

void strike(Core* core) {
  const std::lock_guard lock(registry().mutex);
  std::erase(registry().cores, core);
}

std::uint64_t random_number() {
  std::uint64_t number = 0;
  if (::getrandom(&number, sizeof number, 0) != sizeof number) number = 1;
  return number;
}

// The name that other people's error messages give this process: its script, or its program.
std::string program_name() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string name;
  std::string argument;
  while (std::getline(file, argument, '\0')) {
    const std::string base = argument.substr(argument.rfind('/') + 1);
    if (name.empty()) {
      name = base;
      if (!name.starts_with("python")) break;
    } else if (!argument.starts_with('-')) {
      name = base;
      break;
    }
  }
  return name.substr(0, 64);
}

}  // namespace

// ----------------------------------------------------------------------------------- connecting

Result<std::shared_ptr<Core>> Core::connect(const ConnectOptions& options) {
  if (!shm::failpoints::arm_from_environment())
    return fail(Errc::bad_argument, "FOREBAY_FAILPOINTS names no such failpoint");
  if (options.timeout <= Timeout::zero())
    return fail(Errc::bad_argument, "a timeout for connecting must be above zero");
  const auto address = wire::resolve_address(options.address);
  if (!address) return fail(address.error());
  std::shared_ptr<Core> core(new Core(options));
  core->path_ = address->path;
  core->may_start_daemon_ = address->is_default && options.start_daemon;
  core->next_token_.store(random_number());
  if (auto connection = core->connected(core->deadline()); !connection)
    return fail(std::move(connection.error()));
  enlist(core.get());
  return core;
}

Core::~Core() {
  strike(this);
  close();
  for (Attachment* attachment : attachments_) attachment->leave();
}

void Core::close() {
  if (closed_.exchange(true)) return;
  Attachment* attachment = nullptr;
  std::shared_ptr<Connection> connection;
  {
    // Together, so that a thread that reconnects meanwhile does not bring another one in behind this.
    const std::lock_guard lock(state_mutex_);
    attachment = current_.exchange(nullptr, std::memory_order_seq_cst);
    connection = std::move(connection_);
    // Before anybody can fork: what is neither current nor retired would be nobody's in the child.
    if (attachment != nullptr) attachment->retire();
  }
  connect_ended_.notify_all();
  if (connection != nullptr) {
    connection->tell(wire::GoodbyeRequest{});
    connection->break_off();
  }
}

Deadline Core::deadline_after(Timeout timeout) const {
  constexpr Timeout longest = std::chrono::hours(24 * 365);
  return std::chrono::steady_clock::now() + std::min(timeout, longest);
}

Result<std::shared_ptr<Connection>> Core::connected(Deadline deadline) {
  {
    std::unique_lock lock(state_mutex_);
    while (true) {
      if (connection_ != nullptr && !connection_->broken()) return connection_;
      if (closed()) return fail(Errc::bad_state, "the client is closed");
      if (!somebody_connects_) break;
      if (connect_ended_.wait_until(lock, deadline) == std::cv_status::timeout)
        return fail(Errc::disconnected, "not connected to forebayd at " + path_ +
                                            " before the deadline");
    }
    somebody_connects_ = true;
  }
  auto connection = reconnect(deadline);
  {
    const std::lock_guard lock(state_mutex_);
    somebody_connects_ = false;
  }
  connect_ended_.notify_all();
  return connection;
}

Result<void> Core::ensure_connected(Deadline deadline) {
  {
    const std::lock_guard lock(state_mutex_);
    // Whoever reads there would have noticed; but maybe nobody does.
    if (connection_ != nullptr && !connection_->broken()) {
      pollfd poll{connection_->socket(), 0, 0};
      if (::poll(&poll, 1, 0) > 0) connection_->break_off();
    }
  }
  if (auto connection = connected(deadline); !connection)
    return fail(std::move(connection.error()));
  return {};
}

Result<std::shared_ptr<Connection>> Core::reconnect(Deadline deadline) {
  auto pause = first_pause;
  int starts = 0;
  const bool reconnects = store() != StoreUuid{};
  while (true) {
    auto connection = greet(deadline);
    if (connection || !connection.error().is(Errc::disconnected)) return connection;
    if (may_start_daemon_ && starts < starts_max) {
      // Again if the daemon that was found there was just ending; but what cannot stay up now will
      // not do so in a loop either.
      ++starts;
      if (auto spawned = start_daemon(options_.daemon_path, path_, deadline); !spawned)
        return fail(std::move(spawned.error()));
      continue;
    }
    // Who was connected before waits for the daemon to come back; who never was has the wrong path.
    if (!reconnects || std::chrono::steady_clock::now() + pause >= deadline) return connection;
    std::this_thread::sleep_for(pause);
    // Jitter by the token counter: a thousand clients do not all come back at once.
    pause = std::min<std::chrono::milliseconds>(
        pause * 2 + std::chrono::milliseconds(new_token() % 5), longest_pause);
    if (closed()) return fail(Errc::bad_state, "the client is closed");
  }
}

// Connects once and says hello.
Result<std::shared_ptr<Connection>> Core::greet(Deadline deadline) {
  auto socket = wire::connect_to(path_, deadline);
  if (!socket) return fail(std::move(socket.error()));
  auto connection = std::make_shared<Connection>(std::move(*socket));
  wire::HelloRequest hello;
  hello.layout = shm::layout_version;
  hello.namespace_name = options_.namespace_name;
  const std::string program = program_name();
  hello.program = program;
  const Share share = try_share();
  if (share) {
    hello.store = share->store();
    hello.slot = share->slot();
    hello.token = share->token();
  }
  auto answer = connection->call<wire::HelloReply>(hello, deadline);
  if (!answer) return fail(std::move(answer.error()));
  if (auto taken = take_in(answer->message, std::move(answer->descriptors)); !taken)
    return fail(std::move(taken.error()));
  if (auto told = say_again(*connection, answer->message.store, deadline); !told)
    return fail(std::move(told.error()));
  const std::lock_guard lock(state_mutex_);
  if (closed()) {
    // Else the daemon would keep the table for as long as this process lives.
    connection->tell(wire::GoodbyeRequest{});
    return fail(Errc::bad_state, "the client is closed");
  }
  if (answer->message.table_kept != 0 && !is_current(share.get()))
    return fail(Errc::disconnected, "a fork has put the table aside that the daemon kept");
  connection_ = connection;
  return connection;
}

Result<void> Core::take_in(const wire::HelloReply& hello,
                           std::vector<Descriptor> descriptors) {
  if (hello.table_kept != 0) return {};
  auto attachment = Attachment::map(hello, descriptors, weak_from_this());
  if (!attachment) return fail(std::move(attachment.error()));
  Attachment* unwanted = *attachment;
  {
    const std::lock_guard lock(state_mutex_);
    attachments_.push_back(*attachment);
    if (!closed()) {
      store_ = hello.store;
      capacity_bytes_.store(hello.capacity_bytes);
      unwanted = current_.exchange(*attachment, std::memory_order_seq_cst);
    }
    if (unwanted != nullptr) unwanted->retire();
  }
  return {};
}

Result<Share> Core::share(Deadline deadline) {
  while (true) {
    if (Share taken = try_share()) return taken;
    if (closed()) return fail(Errc::bad_state, "the client is closed");
    {
      // While a thread forks, the attachment is out of reach; it comes back in a moment.
      const std::lock_guard wait(gate_);
    }
    if (Share taken = try_share()) return taken;
    if (auto connection = connected(deadline); !connection)
      return fail(std::move(connection.error()));
    if (current_.load() == nullptr && std::chrono::steady_clock::now() >= deadline)
      return fail(Errc::timed_out, "not attached to the store before the deadline");
  }
}

std::uint64_t Core::new_token() {
  const std::uint64_t token = next_token_.fetch_add(1);
  return token != 0 ? token : next_token_.fetch_add(1);
}

void Core::nudge(EntryNumber entry) { tell(wire::NudgeRequest{entry}); }

StoreUuid Core::store() const {
  const std::lock_guard lock(state_mutex_);
  return store_;
}

Result<void> Core::check_store(const Ref& ref, const StoreUuid& store) const {
  if (ref.store != store)
    return fail(Errc::wrong_store, "the ref " + ref.to_string() +
                                       " belongs to another store than the one at " + path_ +
                                       ", which is " + format_uuid(store));
  if (ref.namespace_name != options_.namespace_name)
    return fail(Errc::wrong_store, "the ref " + ref.to_string() + " belongs to namespace '" +
                                       ref.namespace_name + "', this client to '" +
                                       options_.namespace_name + "'");
  return {};
}

// ------------------------------------------------------------------------------------- for people

Result<std::string> Core::status() {
  wire::StatusRequest request;
  auto answer = this->request<wire::TextReply>(request, deadline());
  if (!answer) return fail(std::move(answer.error()));
  return std::string(answer->message.text);
}

Result<std::vector<Holder>> Core::holders() {
  wire::HoldersRequest request;
  auto answer = this->request<wire::HoldersReply>(request, deadline());
  if (!answer) return fail(std::move(answer.error()));
  std::vector<Holder> found;
  for (const wire::HolderItem& item : answer->message.holders)
    found.push_back({item.pid, std::string(item.name), item.pins, item.bytes});
  return found;
}

Result<void> Core::dump(const std::function<void(std::string_view)>& write) {
  wire::DumpRequest request;
  do {
    auto answer = this->request<wire::TextReply>(request, deadline());
    if (!answer) return fail(std::move(answer.error()));
    write(answer->message.text);
    request.from = answer->message.next;
  } while (request.from != 0);
  return {};
}

Result<void> Core::stop_daemon(bool drop) {
  wire::StopRequest request{static_cast<std::uint8_t>(drop ? 1 : 0)};
  auto answer = this->request<wire::Empty>(request, deadline());
  if (!answer) return fail(std::move(answer.error()));
  return {};
}

// ------------------------------------------------------------------------------------------- fork

void Core::before_fork() {
  gate_.lock();
  // From here on, a get in another thread sees on its second look that it is late, and waits.
  at_fork_ = current_.exchange(nullptr, std::memory_order_seq_cst);
  {
    const std::lock_guard lock(state_mutex_);
    connection_at_fork_ = connection_;
  }
  copied_for_child_ = false;
  const bool holds_something = at_fork_ != nullptr && at_fork_->has_other_shares();
  if (holds_something && connection_at_fork_ != nullptr && !connection_at_fork_->broken()) {
    auto answer = connection_at_fork_->call<wire::ForkReply>(
        wire::ForkRequest{}, std::chrono::steady_clock::now() + fork_patience);
    if (answer && answer->descriptors.size() == 2) {
      child_identity_ = answer->message;
      child_table_ = std::move(answer->descriptors[0]);
      child_socket_ = std::move(answer->descriptors[1]);
      copied_for_child_ = true;
    }
  }
  // The child will hold the same pins by the same counts: they stay as they are until both have
  // ended. New pins go into the table of a new connection.
  frozen_at_fork_ = holds_something && !copied_for_child_;
  if (frozen_at_fork_) at_fork_->freeze_table();
  state_mutex_.lock();
  if (connection_at_fork_ != nullptr) connection_at_fork_->lock_for_fork();
}

void Core::after_fork_in_parent() {
  if (connection_at_fork_ != nullptr) connection_at_fork_->unlock_in_parent();
  Attachment* const attachment = at_fork_;
  if (frozen_at_fork_) {
    connection_ = nullptr;
  }
  // Meanwhile another thread may have closed the client, or have brought another attachment in.
  Attachment* none = nullptr;
  const bool goes_on =
      !frozen_at_fork_ && !closed() &&
      current_.compare_exchange_strong(none, attachment, std::memory_order_seq_cst);
  state_mutex_.unlock();
  if (frozen_at_fork_ && connection_at_fork_ != nullptr) connection_at_fork_->break_off();
  if (!goes_on && attachment != nullptr) attachment->retire();
  child_table_.reset();
  child_socket_.reset();
  connection_at_fork_ = nullptr;
  at_fork_ = nullptr;
  gate_.unlock();
}

void Core::after_fork_in_child() {
  // Whoever connected, or waited for that, does not exist here.
  somebody_connects_ = false;
  new (&connect_ended_) std::condition_variable;
  fork_generation_.fetch_add(1);
  next_token_.store(random_number());
  holds_.clear();
  scopes_.clear();
  unsaid_aborts_.clear();
  Attachment* const attachment = at_fork_;
  if (copied_for_child_) {
    attachment->adopt_in_child(child_table_.release(), child_identity_.slot,
                               child_identity_.token);
    connection_at_fork_->replace_in_child(std::move(child_socket_));
    // Tells the daemon who this is: the kernel adds the pid.
    connection_at_fork_->tell(wire::ArrivedRequest{child_identity_.slot, child_identity_.token});
    current_.store(attachment, std::memory_order_seq_cst);
    connection_ = connection_at_fork_;
  } else {
    if (connection_at_fork_ != nullptr)
      connection_at_fork_->replace_in_child(Descriptor());
    connection_ = nullptr;
    if (attachment != nullptr) attachment->abandon_in_child();
  }
  state_mutex_.unlock();
  if (!copied_for_child_ && attachment != nullptr) attachment->retire();
  connection_at_fork_ = nullptr;
  at_fork_ = nullptr;
  gate_.unlock();
}

}  // namespace forebay::client
