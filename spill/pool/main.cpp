// SPDX-License-Identifier: Apache-2.0
// forebay-poold: options, wiring, signals.
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <iostream>
#include <mutex>
#include <optional>
#include <thread>

#include "spill/backends.h"
#include "spill/pool/arena.h"
#include "spill/pool/backend.h"
#include "spill/pool/options.h"
#include "spill/pool/pool.h"
#include "spill/pool/pool_server.h"
#include "store/shm/failpoint.h"
#include "store/units.h"

namespace forebay::spill::pool {
namespace {

using Clock = std::chrono::steady_clock;

// Says so when the control thread does not come around.
class Watchdog {
 public:
  Watchdog(const PoolServer& server, const Log& log)
      : thread_([this, &server, &log] { run(server, log); }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void run(const PoolServer& server, const Log& log) {
    bool stalled = false;
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, std::chrono::milliseconds(500), [this] { return stop_; })) {
      const auto last = server.last_round();
      const bool stands =
          last != Clock::time_point{} && Clock::now() - last > std::chrono::seconds(1);
      if (stands && !stalled)
        log.warning("the control thread has not come around for a second; sessions wait");
      stalled = stands;
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

Result<std::unique_ptr<DataServer>> serve_data(const Options& options, const Log& log) {
  std::string names;
  std::optional<Error> last;
  for (const Backend& backend : all_backends()) {
    names += (names.empty() ? "" : ", ") + backend.transport;
    if (options.transport != "auto" && options.transport != backend.transport) continue;
    auto server = backend.serve(options.listen.host, options.data_port);
    if (server || options.transport != "auto") return server;
    log.debug("no data plane over " + backend.transport + ": " + server.error().message());
    last = server.error();
  }
  if (last)
    return fail(Errc::bad_argument, "--listen: there is no data plane at '" + options.listen.host +
                                        "', whichever the transport: " + last->message());
  return fail(Errc::bad_argument,
              "--transport: there is no data plane '" + options.transport + "'; there are: " +
                  names);
}

void say_ready(const Options& options, const std::string& line) {
  (void)!::write(options.ready_fd >= 0 ? options.ready_fd : 1, line.data(), line.size());
  if (options.ready_fd > 2) ::close(options.ready_fd);
}

Result<void> run(const Options& options, int stop, const Log& log) {
  ClusterKey key = ClusterKey::insecure();
  if (options.insecure) {
    log.warning("INSECURE: whoever reaches " + options.listen.text() +
                " may read, write and fill this pool; give it a --key");
  } else {
    auto read = read_key_file(options.key_file);
    if (!read) {
      read.error().detail = "--key: " + read.error().detail;
      return fail(read.error());
    }
    key = *read;
  }
  const auto begun = Clock::now();
  auto arena = Arena::open({.name = options.name,
                            .capacity_bytes = options.capacity_bytes,
                            .fresh = options.fresh});
  if (!arena) return fail(arena.error());
  if (options.drop) (*arena)->drop();
  auto data = serve_data(options, log);
  if (!data) return fail(data.error());
  Pool pool(**arena, **data,
            {.slab_bytes = options.slab_bytes,
             .tenant_bytes_max = options.tenant_bytes_max,
             .forget_tenants_after = options.forget_tenants_after});
  const auto recovered = pool.recover(Clock::now());
  auto listening = listen_at(options.listen);
  if (!listening) return fail(listening.error());
  const Address at{.host = options.listen.host, .port = listening->port};
  auto server = PoolServer::make(pool, **data, std::move(*listening), {.key = key}, log);
  if (!server) return fail(server.error());
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun);
  log.info("serving " + format_size(options.capacity_bytes) + " at " + at.text() + " over " +
           (*data)->transport() + ", epoch " + std::to_string((*arena)->epoch()) + ", with " +
           std::to_string(recovered.items) + " items (" + format_size(recovered.bytes) + ") of " +
           ((*arena)->was_there() ? "a former pool, " + std::to_string(recovered.dropped) +
                                        " damaged entries dropped"
                                  : "nobody yet") +
           ", ready in " + std::to_string(took.count()) + " ms");
  const Watchdog watchdog(**server, log);
  say_ready(options, "ready: " + at.text() + " " + (*data)->transport() + "\n");
  auto served = (*server)->serve(stop);
  log.info("ending; what is in the pool is " +
           std::string(options.name.empty() || options.drop ? "dropped" : "kept"));
  return served;
}

int main_of(int argc, char** argv) {
  const auto read = read_options(argc, argv);
  if (const int* const status = std::get_if<int>(&read)) return *status;
  const Options& options = std::get<Options>(read);
  if (!options.make_key.empty()) {
    const auto made = make_key_file(options.make_key);
    if (made) return 0;
    std::cerr << "forebay-poold: " << made.error().message() << "\n";
    return 1;
  }
  if (!shm::failpoints::arm_from_environment()) return 2;
  // Before any thread is made, so that only the descriptor hears of them.
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&mask, signal);
  ::pthread_sigmask(SIG_BLOCK, &mask, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  const Descriptor stop(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  ::umask(077);
  const Log log(options.log_level);
  const auto outcome = run(options, stop.get(), log);
  if (outcome) return 0;
  log.error(outcome.error().message());
  return 1;
}

}  // namespace
}  // namespace forebay::spill::pool

int main(int argc, char** argv) { return forebay::spill::pool::main_of(argc, argv); }
