// SPDX-License-Identifier: Apache-2.0
// forebayd: options, wiring, signals.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <thread>

#include "spill/node_tiers.h"
#include "store/daemon/capacity.h"
#include "store/daemon/instance.h"
#include "store/daemon/keeper.h"
#include "store/daemon/log.h"
#include "store/daemon/options.h"
#include "store/daemon/server.h"
#include "store/shm/failpoint.h"
#include "store/units.h"
#include "store/wire/address.h"

namespace forebay::daemon {
namespace {

constexpr std::uint64_t address_share = 16;  // address space of the arena: so many times its memory
constexpr std::uint64_t least_address_bytes = 64 * gibibyte;
constexpr std::uint64_t most_address_bytes = 16 * tebibyte;
constexpr int embedded_idle_seconds = 600;
constexpr std::uint64_t least_disk_bytes = mebibyte;

// Says how starting went to the process that waits for it, when detached.
class Readiness {
 public:
  explicit Readiness(Descriptor pipe) : pipe_(std::move(pipe)) {}
  void ready() { say("ok\n"); }
  void failed(const std::string& why) { say(why + "\n"); }

 private:
  void say(const std::string& text) {
    if (pipe_) (void)!::write(pipe_.get(), text.data(), text.size());
    pipe_.reset();
  }
  Descriptor pipe_;
};

log::Level level_of(const std::string& name) {
  if (name == "debug") return log::Level::debug;
  if (name == "warning") return log::Level::warning;
  if (name == "error") return log::Level::error;
  return log::Level::info;
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Before any thread is made (the log has one): whoever reads these from a descriptor is the only one
// to hear of them.
void block_signals(std::initializer_list<int> signals) {
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : signals) sigaddset(&mask, signal);
  ::pthread_sigmask(SIG_BLOCK, &mask, nullptr);
}

void prepare_signals() {
  block_signals({SIGTERM, SIGINT, SIGHUP});
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  shm::Guard::install();
}

Result<std::uint64_t> size_option(const char* name, const std::string& text,
                                  std::uint64_t whole, std::uint64_t otherwise) {
  if (text.empty()) return otherwise;
  auto bytes = parse_size(text, whole);
  if (!bytes) return fail(Errc::bad_argument, std::string(name) + ": " + bytes.error().detail);
  return *bytes;
}

struct Opened {
  std::unique_ptr<StoreMemory> memory;
  std::uint64_t capacity = 0;
};

// Takes over the store that a former daemon of this instance left, or makes a new one.
Result<Opened> open_memory(const Options& options, Instance& instance) {
  const MemoryKind kind = options.memory == "kept" ? MemoryKind::kept : MemoryKind::named;
  const auto machine = look_at_machine();
  if (!machine) return fail(machine.error());
  std::optional<StoreUuid> left = instance.stored();
  if (kind == MemoryKind::kept && !left) left = StoreMemory::kept();
  if (left) {
    auto memory = StoreMemory::open(*left, kind);
    if (options.fresh) {
      if (memory) {
        (*memory)->remove_all();
      } else {
        for (const auto& home : {shm::named_home(format_uuid(*left))})
          for (const std::string& name : home->list()) home->remove(name);
      }
      log::info("store_dropped", {{"store", format_uuid(*left)}});
    } else if (memory) {
      const std::uint64_t held = shm::backed_bytes((*memory)->arena_object()) +
                                 shm::backed_bytes((*memory)->index_object());
      auto capacity = choose_capacity(options.capacity, *machine, held);
      if (!capacity) {
        // Others have filled /dev/shm meanwhile. What is sealed needs no more room: it is served, and
        // what does not fit now is an error when it is asked for.
        MachineMemory emptied = *machine;
        emptied.shm_free_bytes = emptied.shm_total_bytes;
        const Error tight = std::move(capacity.error());
        capacity = choose_capacity(options.capacity, emptied, 0);
        if (!capacity) return fail(tight);
        log::warning("tight", {{"reason", tight.message()}});
      }
      return Opened{std::move(*memory), *capacity};
    } else if (memory.error().code != std::errc::no_such_file_or_directory) {
      // It is there: a new store in its place would lose it.
      return fail(std::move(memory.error()));
    } else {
      log::warning("store_is_gone", {{"store", format_uuid(*left)},
                                     {"reason", memory.error().message()}});
    }
  }
  const auto capacity = choose_capacity(options.capacity, *machine, 0);
  if (!capacity) return fail(capacity.error());
  StoreMemoryOptions wanted;
  wanted.kind = kind;
  wanted.limits.entries = options.max_segments;
  wanted.limits.lines = std::max<std::uint32_t>(options.max_segments / 2, 1024);
  wanted.limits.overflow_lines = std::max<std::uint32_t>(options.max_segments / 4, 1024);
  wanted.limits.processes = options.max_processes;
  wanted.address_bytes =
      std::clamp(*capacity * address_share, least_address_bytes, most_address_bytes);
  auto memory = StoreMemory::create(wanted);
  if (!memory) return fail(std::move(memory.error()));
  if (auto noted = instance.remember((*memory)->uuid()); !noted) {
    (*memory)->remove_all();
    return fail(std::move(noted.error()));
  }
  return Opened{std::move(*memory), *capacity};
}

// The tiers that the options name; null: none.
Result<std::unique_ptr<Spill>> open_tiers(const Options& options, const StoreUuid& store) {
  if (options.pools.empty() && options.spill_dir.empty()) {
    if (!options.pool_key.empty())
      return fail(Errc::bad_argument, "--pool-key: there is no pool that it could be for: name it "
                                      "with --pools");
    if (options.replicas > 1)
      return fail(Errc::bad_argument, "--replicas: two copies need two --pools");
    return std::unique_ptr<Spill>();
  }
  spill::NodeTierOptions tiers;
  tiers.store = store;
  auto pools = spill::parse_pools(options.pools);
  if (!pools) return fail(Errc::bad_argument, "--pools: " + pools.error().detail);
  tiers.pools = std::move(*pools);
  if (options.replicas > tiers.pools.size() && options.replicas > 1)
    return fail(Errc::bad_argument, "--replicas: two copies need two --pools");
  if (!tiers.pools.empty() && options.pool_key.empty() && !options.pool_insecure)
    return fail(Errc::bad_argument, "--pool-key: pools serve whoever has the key of the cluster; "
                                    "name its file (or give --pool-insecure)");
  if (!options.pool_key.empty() && options.pool_insecure)
    return fail(Errc::bad_argument, "--pool-insecure: there is a --pool-key; give one of the two");
  tiers.key_file = options.pool_key;
  tiers.insecure = options.pool_insecure;
  tiers.transport = options.pool_transport;
  tiers.disk_directory = options.spill_dir;
  const auto disk = size_option("--disk-capacity", options.disk_capacity, 0, 64 * gibibyte);
  if (!disk) return fail(disk.error());
  if (!options.spill_dir.empty() && *disk < least_disk_bytes)
    return fail(Errc::bad_argument, "--disk-capacity: at least " + format_size(least_disk_bytes) +
                                        ", not " + options.disk_capacity);
  tiers.disk_capacity_bytes = *disk;
  tiers.report = [](const std::string& sentence) { log::info("tier", {{"said", sentence}}); };
  return spill::open_node_tiers(tiers);
}

Result<void> run(const Options& options, const std::string& socket_path, Readiness& readiness) {
  auto instance = Instance::claim(socket_path);
  if (!instance) return fail(std::move(instance.error()));
  auto opened = open_memory(options, *instance);
  if (!opened) return fail(std::move(opened.error()));
  StoreMemory& memory = *opened->memory;

  const std::uint64_t capacity = opened->capacity;
  const auto reserve = size_option("--reserve", options.reserve, capacity,
                                   std::min(capacity / 8, 128 * mebibyte));
  if (!reserve) return fail(reserve.error());
  const auto keep_warm = size_option("--keep-warm", options.keep_warm, capacity, capacity / 2);
  if (!keep_warm) return fail(keep_warm.error());

  ServerOptions server_options;
  server_options.rules.capacity_bytes = capacity;
  server_options.rules.address_bytes = memory.arena().size();
  server_options.rules.reserve_bytes = std::min(*reserve, capacity);
  server_options.rules.keep_warm_bytes = std::min(*keep_warm, capacity);
  server_options.rules.keep = options.keep;
  const MemoryKind kind = options.memory == "kept" ? MemoryKind::kept : MemoryKind::named;
  server_options.huge_pages = options.huge_pages == "auto" && gives_huge_pages(kind);
  if (server_options.huge_pages) server_options.rules.growth_bytes = shm::huge_page_bytes;
  server_options.idle_exit =
      std::chrono::seconds(options.idle_exit_seconds > 0 ? options.idle_exit_seconds
                           : options.embedded            ? embedded_idle_seconds
                                                         : 0);
  auto tiers = open_tiers(options, memory.uuid());
  if (!tiers) return fail(std::move(tiers.error()));
  server_options.rules.has_tiers = *tiers != nullptr;
  server_options.rules.spill_when_full = *tiers != nullptr && options.on_full == "spill";
  const auto clean_above =
      size_option("--clean-above", options.clean_above, capacity, capacity / 10 * 7);
  if (!clean_above) return fail(clean_above.error());
  server_options.rules.clean_above_bytes = *clean_above;
  server_options.spill.replicas = options.replicas;
  server_options.spill.codec = options.compress == "lz4"    ? SpillCodec::lz4
                               : options.compress == "zstd" ? SpillCodec::zstd
                                                            : SpillCodec::none;
  std::unique_ptr<TraceLog> trace;
  if (!options.trace.empty()) {
    auto opened_trace = TraceLog::open(options.trace);
    if (!opened_trace) return fail(std::move(opened_trace.error()));
    trace = std::move(*opened_trace);
    server_options.rules.trace = trace.get();
  }
  instance->remove_socket();
  auto listener = wire::listen_at(socket_path);
  if (!listener) return fail(std::move(listener.error()));

  Ending ending = Ending::keep;
  {
    Server server(memory, std::move(*listener), server_options, std::move(*tiers));
    const auto adopted = server.adopt();
    if (!adopted) return fail(adopted.error());
    log::info("serving",
              {{"socket", socket_path},
               {"store", format_uuid(memory.uuid())},
               {"capacity", format_size(capacity)},
               {"reserve", format_size(server_options.rules.reserve_bytes)},
               {"keep_warm", format_size(server_options.rules.keep_warm_bytes)},
               {"max_segments", memory.index().stamp->limits.entries},
               {"memory", options.memory},
               {"huge_pages", server_options.huge_pages},
               {"idle_exit_seconds", server_options.idle_exit.count()},
               {"pid", ::getpid()},
               {"segments_taken_over", adopted->segments},
               {"processes_found_alive", adopted->living_processes},
               {"slots_repaired", adopted->slots_repaired},
               {"segments_unsound", adopted->unsound}});
    readiness.ready();
    auto ended = server.serve();
    if (!ended) return fail(std::move(ended.error()));
    ending = *ended;
    if (ending == Ending::keep && options.drop) ending = Ending::drop;
    const std::uint64_t left = memory.index().live->entries_end.load() > 1
                                   ? shm::backed_bytes(memory.arena_object())
                                   : 0;
    instance->remove_socket();
    if (ending == Ending::drop_unless_persistent) {
      bool any = false;
      for (std::uint32_t entry = 1; entry < memory.index().live->entries_end.load(); ++entry)
        any = any || SegmentTable::readable(shm::word_of(memory.index().entries[entry]).state());
      ending = any ? Ending::keep : Ending::drop;
    }
    if (trace != nullptr && !trace->whole())
      log::warning("trace", {{"reason", "some of it could not be written"}});
    log::info("ended", {{"segments", ending == Ending::drop ? "dropped" : "kept"},
                        {"bytes_kept", ending == Ending::drop ? 0 : left}});
  }
  if (ending == Ending::drop) {
    memory.remove_all();
    instance->forget();
  }
  return {};
}

// A daemon that a client started holds on to nothing of that client's: no descriptor that somebody
// might wait on, no directory, no terminal.
void leave_everything(int keep) {
  ::setsid();
  (void)!::chdir("/");
  const int null = ::open("/dev/null", O_RDWR);
  for (const int stdio : {0, 1, 2}) ::dup2(null, stdio);
  const int moved = ::dup2(keep, 3);
  if (::syscall(SYS_close_range, moved + 1, ~0U, 0) != 0)
    for (int number = moved + 1; number < 65536; ++number) ::close(number);
  ::fcntl(moved, F_SETFD, FD_CLOEXEC);
}

int wait_for_readiness(int pipe) {
  std::string text;
  char buffer[512];
  ssize_t size = 0;
  while ((size = ::read(pipe, buffer, sizeof buffer)) != 0) {
    if (size < 0 && errno != EINTR) break;
    if (size > 0) text.append(buffer, static_cast<std::size_t>(size));
  }
  if (text == "ok\n") return 0;
  std::cerr << "forebayd: " << (text.empty() ? "it died while starting\n" : text);
  return 1;
}

// Two clients may start a daemon at the same time; the one that comes second has what it wanted as
// soon as the first one listens. Or the one that has the instance is just ending: then this one comes
// next.
Result<void> run_or_find(const Options& options, const std::string& socket_path,
                         Readiness& readiness) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (true) {
    auto outcome = run(options, socket_path, readiness);
    if (outcome || !options.detach || !outcome.error().is(Errc::already_running)) return outcome;
    if (wire::connect_to(socket_path, deadline)) {
      readiness.ready();
      return {};
    }
    if (std::chrono::steady_clock::now() >= deadline) return outcome;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

int start(const Options& options, const std::string& socket_path, int argc, char** argv) {
  ::umask(077);
  if (options.supervise) {
    block_signals({SIGTERM, SIGINT, SIGCHLD});
    log::open(options.log_file, level_of(options.log_level));
    std::vector<std::string> arguments;
    for (int i = 1; i < argc; ++i)
      if (std::string_view(argv[i]) != "--supervise") arguments.emplace_back(argv[i]);
    if (options.memory != "kept") arguments.insert(arguments.end(), {"--memory", "kept"});
    // Two of its own for each client process, besides what it passes on.
    raise_descriptor_limit();
    const auto status = keep("/proc/self/exe", std::move(arguments), socket_path);
    if (!status) std::cerr << "forebayd: " << status.error().message() << "\n";
    return status ? *status : 1;
  }
  Descriptor say;
  if (options.detach) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
      std::perror("forebayd: pipe");
      return 1;
    }
    const pid_t child = ::fork();
    if (child < 0) {
      std::perror("forebayd: fork");
      return 1;
    }
    if (child > 0) {
      ::close(ends[1]);
      return wait_for_readiness(ends[0]);
    }
    leave_everything(ends[1]);
    say = Descriptor(3);
  }
  raise_descriptor_limit();
  prepare_signals();
  log::open(options.log_file, level_of(options.log_level));
  Readiness readiness(std::move(say));
  const auto outcome = run_or_find(options, socket_path, readiness);
  int status = 0;
  if (!outcome) {
    const std::string reason = options.with_place(outcome.error().message());
    log::error("cannot_serve", {{"reason", reason}});
    readiness.failed(reason);
    status = 1;
  }
  log::close();
  return status;
}

int main_of(int argc, char** argv) {
  const auto read = read_options(argc, argv);
  if (const int* const status = std::get_if<int>(&read)) return *status;
  const Options& options = std::get<Options>(read);
  if (options.list_failpoints) {
    for (const shm::Failpoint& point : shm::points::daemon) std::cout << point.name << "\n";
    return 0;
  }
  if (!shm::failpoints::arm_from_environment()) return 2;
  if (options.detach && (options.supervise || options.memory == "kept")) {
    std::cerr << "forebayd: --detach does not go with kept memory: a daemon in the background is no "
                 "longer the one that its keeper knows\n";
    return 1;
  }
  const auto address = wire::resolve_address(options.socket);
  if (!address) {
    std::cerr << "forebayd: " << address.error().message() << "\n";
    return 1;
  }
  return start(options, address->path, argc, argv);
}

}  // namespace
}  // namespace forebay::daemon

int main(int argc, char** argv) { return forebay::daemon::main_of(argc, argv); }
