// SPDX-License-Identifier: Apache-2.0
// Kept memory: no name leads to it, and it outlives the daemon in a keeper's hands, be that forebayd
// itself (--supervise) or systemd.
#include <doctest/doctest.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "store/client.h"
#include "store/wire/socket.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/status.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {
namespace {

using std::chrono::seconds;

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}
bool exists(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}
bool lives(pid_t pid) { return ::kill(pid, 0) == 0; }

// Named objects in /dev/shm of whatever store.
int named_objects(const StoreUuid& store) {
  int found = 0;
  DIR* directory = ::opendir("/dev/shm");
  while (const dirent* item = ::readdir(directory))
    if (mentions(item->d_name, format_uuid(store))) ++found;
  ::closedir(directory);
  return found;
}

std::size_t size_of(std::uint64_t i) { return i % 2 == 0 ? 100 + i : 66000 + i; }
std::string id_of(std::uint64_t i) { return "s/" + std::to_string(i); }

void put_segments(Client& client, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i)
    must(client.put(id_of(i), payload(size_of(i), id_of(i), 1)));
}
std::string damage(const Client& client, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto view = client.get(id_of(i));
    if (!view) return view.error().message();
    std::string wrong = wrong_bytes(view->bytes(), size_of(i), id_of(i), 1);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

DaemonProcess::Options supervised(std::vector<std::string> arguments = {}) {
  arguments.insert(arguments.begin(), "--supervise");
  return {.capacity = "64MiB", .arguments = std::move(arguments)};
}

pid_t worker_of(const Client& client) { return static_cast<pid_t>(Status(client)["daemon_pid"]); }

// Kills the daemon, not its keeper, and waits until the next one serves.
void kill_worker(const Client& client) {
  const std::uint64_t starts = Status(client)["daemon_starts"];
  ::kill(worker_of(client), SIGKILL);
  CHECK(status_becomes(client, "daemon_starts", starts + 1) == starts + 1);
}

// A service manager that keeps descriptors as systemd does.
class FakeSystemd {
 public:
  explicit FakeSystemd(bool abstract = false)
      : address_(abstract ? "@forebay-test-" + std::to_string(::getpid())
                          : directory_ / "notify") {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, address_.c_str(), address_.size() + 1);
    if (abstract) address.sun_path[0] = '\0';
    const auto length =
        static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
    socket_ = Descriptor(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0)
      throw std::runtime_error("no socket for the service manager");
  }
  ~FakeSystemd() {
    if (pid_ > 0) kill();
  }

  // Starts forebayd and hands over what is kept; `meant` false: by the environment of another pid.
  void start(std::vector<std::string> arguments = {}, bool meant = true) {
    arguments.insert(arguments.begin(),
                     {program("forebayd"), "--memory", "kept", "--socket", socket_path(),
                      "--capacity", "64MiB", "--reserve", "1MiB"});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = _Fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::vector<int> copies;
      std::string names;
      for (const auto& [name, descriptor] : kept_) {
        copies.push_back(::fcntl(descriptor.get(), F_DUPFD, 200));
        names += (names.empty() ? "" : ":") + name;
      }
      int next = 3;
      for (const int copy : copies) ::dup2(copy, next++);
      ::setenv("NOTIFY_SOCKET", address_.c_str(), 1);
      ::setenv("LISTEN_PID", std::to_string(::getpid() + (meant ? 0 : 1)).c_str(), 1);
      ::setenv("LISTEN_FDS", std::to_string(copies.size()).c_str(), 1);
      ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
      const int log = ::open((directory_ / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      ::dup2(log, 1);
      ::dup2(log, 2);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    if (!eventually([this] {
          take_messages();
          return wire::connect_to(socket_path(), std::chrono::steady_clock::now()).has_value();
        }))
      throw std::runtime_error("forebayd did not start");
    take_messages();
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
    take_messages();
  }
  int terminate() {
    ::kill(pid_, SIGTERM);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    take_messages();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  void take_messages() {
    while (true) {
      std::array<char, 4096> text{};
      alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * 8)> control{};
      iovec part{text.data(), text.size()};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      const ssize_t size = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
      if (size < 0) return;
      std::vector<Descriptor> descriptors;
      for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
           header = CMSG_NXTHDR(&message, header))
        for (std::size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
          int number = -1;
          std::memcpy(&number, CMSG_DATA(header) + i * sizeof(int), sizeof number);
          descriptors.emplace_back(number);
        }
      // As sd_notify(3) has it: lines of NAME=value, in any order.
      std::map<std::string, std::string> fields;
      std::string_view rest(text.data(), static_cast<std::size_t>(size));
      while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        const std::size_t equals = line.find('=');
        if (equals == std::string_view::npos) ++strange_;
        fields[std::string(line.substr(0, equals))] = line.substr(equals + 1);
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      }
      const std::string name = fields["FDNAME"];
      // systemd's own rules for a name: at most 255 printable characters, no colon.
      if (name.size() > 255 || mentions(name, ":")) ++strange_;
      if (fields["FDSTORE"] == "1" && descriptors.size() == 1) {
        if (kept_.contains(name)) ++strange_;
        kept_[name] = std::move(descriptors.front());
      } else if (fields["FDSTOREREMOVE"] == "1") {
        kept_.erase(name);
      } else {
        ++strange_;
      }
    }
  }

  Client connect() const {
    ConnectOptions options;
    options.address = socket_path();
    return must(Client::connect(options));
  }
  std::string socket_path() const { return directory_ / "forebay.sock"; }
  // What is kept of this store.
  std::vector<std::string> names(const StoreUuid& store) const {
    std::vector<std::string> found;
    for (const auto& [name, descriptor] : kept_)
      if (name.starts_with("forebay." + format_uuid(store) + ".")) found.push_back(name);
    return found;
  }
  std::map<std::string, Descriptor>& kept() { return kept_; }
  int strange() const { return strange_; }

 private:
  TempDir directory_;
  std::string address_;
  Descriptor socket_;
  std::map<std::string, Descriptor> kept_;
  int strange_ = 0;  // messages that systemd would not have understood
  pid_t pid_ = -1;
};

TEST_SUITE("keeper") {
  TEST_CASE("a daemon that is killed is started again, and neither data nor readers notice") {
    DaemonProcess keeper(supervised());
    Client client = keeper.connect();
    put_segments(client, 20);
    CHECK(named_objects(client.store()) == 0);
    const View view = must(client.get(id_of(3)));
    Builder builder = must(client.create("open", 70000));
    const StoreUuid store = client.store();
    for (std::uint64_t round = 1; round <= 3; ++round) {
      kill_worker(client);
      CHECK(wrong_bytes(view.bytes(), size_of(3), id_of(3), 1) == "");
      CHECK(damage(client, 20) == "");
      Client fresh = keeper.connect();
      CHECK(fresh.store() == store);
      CHECK(damage(fresh, 20) == "");
      CHECK(must(fresh.stat(id_of(3))).holders.size() == 1);
      must(client.put("round", payload(70000, "round", round)));
      CHECK(wrong_bytes(must(fresh.get("round")).bytes(), 70000, "round", round) == "");
    }
    fill(builder.bytes(), "open", 1);
    must(builder.seal());
    CHECK(wrong_bytes(must(client.get("open")).bytes(), 70000, "open", 1) == "");
    CHECK(keeper.running());
    CHECK(named_objects(store) == 0);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("the keeper lets go of the table of a process that has gone") {
    DaemonProcess keeper(supervised());
    const auto kept = [&] {
      int found = 0;
      const std::string directory = "/proc/" + std::to_string(keeper.pid()) + "/fd/";
      for (int number = 0; number < 200; ++number) {
        std::array<char, 256> target{};
        if (::readlink((directory + std::to_string(number)).c_str(), target.data(),
                       target.size() - 1) > 0 &&
            mentions(target.data(), "memfd:forebay."))
          ++found;
      }
      return found;
    };
    const Client client = keeper.connect();
    CHECK(eventually([&] { return kept() == 3; }));  // index, arena, and this client's table
    for (int i = 0; i < 10; ++i) {
      const Client other = keeper.connect();
    }
    CHECK(eventually([&] { return kept() == 3; }));
  }

  TEST_CASE("a signal to the keeper ends it and its daemon in order, and nothing is left") {
    DaemonProcess keeper(supervised());
    Client client = keeper.connect();
    put_segments(client, 4);
    const View view = must(client.get(id_of(1)));
    const pid_t worker = worker_of(client);
    SUBCASE("SIGTERM") { CHECK(keeper.terminate() == 0); }
    SUBCASE("SIGINT") {
      ::kill(keeper.pid(), SIGINT);
      CHECK(keeper.wait_for_end(patience) == 0);
    }
    SUBCASE("a stop by a client") {
      must(client.stop_daemon(false));
      CHECK(keeper.wait_for_end(patience) == 0);
    }
    CHECK_FALSE(lives(worker));
    CHECK_FALSE(exists(keeper.socket()));
    CHECK_FALSE(exists(keeper.socket() + ".keeper"));
    CHECK(wrong_bytes(view.bytes(), size_of(1), id_of(1), 1) == "");
    // Kept memory does not outlive its keeper.
    keeper.start();
    CHECK(must(keeper.connect().list("")).segments.empty());
  }

  TEST_CASE("a signal that comes while the daemon is down is not forgotten") {
    DaemonProcess keeper(supervised());
    const pid_t worker = worker_of(keeper.connect());
    // Both at once, for the keeper.
    keeper.stop();
    ::kill(worker, SIGKILL);
    ::kill(keeper.pid(), SIGTERM);
    keeper.resume();
    CHECK(keeper.wait_for_end(seconds(5)).has_value());
    CHECK_FALSE(exists(keeper.socket() + ".keeper"));
  }

  TEST_CASE("the daemon ends with a keeper that is killed, and views stay right") {
    DaemonProcess keeper(supervised());
    Client client = keeper.connect();
    put_segments(client, 4);
    const View view = must(client.get(id_of(1)));
    keeper.kill();
    CHECK(eventually([&] { return !exists(keeper.socket()); }));
    CHECK(wrong_bytes(view.bytes(), size_of(1), id_of(1), 1) == "");
    // Its stale socket is no obstacle to the next keeper.
    keeper.start();
    CHECK(outcome(keeper.connect().put("a", payload(10, "a", 1))) == "ok");
  }

  TEST_CASE("a daemon that cannot start says why once, and its keeper ends with its status") {
    TempDir directory;
    const std::string socket = directory / "forebay.sock";
    const Ran ran =
        run({program("forebayd"), "--supervise", "--socket", socket, "--capacity", "1KiB"});
    CHECK(ran.status == 1);
    const std::string reason = "less than the least useful";
    CHECK(mentions(ran.output, reason));
    CHECK(ran.output.find(reason) == ran.output.rfind(reason));
    CHECK_FALSE(exists(socket + ".keeper"));
  }

  TEST_CASE("a daemon that dies at each start is given up in the end, with an error") {
    TempDir directory;
    const std::string socket = directory / "forebay.sock";
    const Ran ran = run({program("forebayd"), "--supervise", "--socket", socket, "--capacity",
                         "32MiB", "--reserve", "1MiB"},
                        {{"FOREBAY_FAILPOINTS", "recover.done=kill"}});
    CHECK(ran.status == 1);
    CHECK(mentions(ran.output, "forebayd: "));
    CHECK(mentions(ran.output, "signal 9"));
    CHECK_FALSE(exists(socket + ".keeper"));
  }

  TEST_CASE("dropping what a former daemon left is for the first start, not for each") {
    DaemonProcess keeper(supervised({"--fresh"}));
    Client client = keeper.connect();
    put_segments(client, 4);
    kill_worker(client);
    CHECK(damage(client, 4) == "");
  }

  TEST_CASE("options that belong to a keeper may be said twice, and those that do not are refused") {
    {
      DaemonProcess keeper(supervised({"--memory", "kept"}));
      CHECK(outcome(keeper.connect().put("a", payload(10, "a", 1))) == "ok");
      CHECK(keeper.terminate() == 0);
    }
    TempDir directory;
    const std::string socket = directory / "forebay.sock";
    // Nobody would hold the memory of a daemon that has left its keeper.
    for (const std::vector<std::string>& both :
         {std::vector<std::string>{"--supervise", "--detach"},
          std::vector<std::string>{"--memory", "kept", "--detach"}}) {
      std::vector<std::string> arguments{program("forebayd"), "--socket", socket};
      arguments.insert(arguments.end(), both.begin(), both.end());
      const Ran ran = run(arguments);
      CHECK(ran.status != 0);
      CHECK(mentions(ran.output, "--detach"));
      CHECK_FALSE(exists(socket));
    }
  }

  TEST_CASE("a second keeper on the same socket is refused, and the first goes on keeping") {
    DaemonProcess keeper(supervised());
    Client client = keeper.connect();
    put_segments(client, 4);
    const Ran second = run({program("forebayd"), "--supervise", "--socket", keeper.socket(),
                            "--capacity", "32MiB"});
    CHECK(second.status == 1);
    CHECK(mentions(second.output, "already_running"));
    // A new client's table is kept, too.
    Client other = keeper.connect();
    const View view = must(other.get(id_of(1)));
    kill_worker(client);
    CHECK(damage(client, 4) == "");
    CHECK(must(client.stat(id_of(1))).holders.size() == 1);
    CHECK(keeper.terminate() == 0);
  }

  TEST_CASE("the pins of more processes than the keeper may usually have descriptors are kept") {
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    // As a login shell has it.
    const rlimit usual{std::min<rlim_t>(1024, before.rlim_max), before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &usual) == 0);
    DaemonProcess keeper(supervised());
    ::setrlimit(RLIMIT_NOFILE, &before);
    Client client = keeper.connect();
    put_segments(client, 2);
    constexpr std::size_t crowd = 30;
    std::vector<std::unique_ptr<ChildProcess>> children;
    for (std::size_t i = 0; i < crowd; ++i)
      children.push_back(std::make_unique<ChildProcess>([&](Moments& moments) {
        const Client own = keeper.connect();
        const View view = must(own.get(id_of(1)));
        moments.reached();
        moments.wait();
        const std::string wrong = wrong_bytes(view.bytes(), size_of(1), id_of(1), 1);
        require(wrong.empty(), wrong);
      }));
    for (auto& child : children) child->await();
    kill_worker(client);
    CHECK(damage(client, 2) == "");
    CHECK(must(client.stat(id_of(1))).holders.size() == crowd);
    for (auto& child : children) child->release();
    for (auto& child : children) CHECK(child->join() == 0);
    CHECK(eventually([&] { return must(client.stat(id_of(1))).holders.empty(); }));
  }

  TEST_CASE("what is handed to systemd are sealed memfds, one for each object, while there is one") {
    FakeSystemd systemd;
    systemd.start();
    StoreUuid store{};
    {
      Client client = systemd.connect();
      store = client.store();
      put_segments(client, 4);
      systemd.take_messages();
      CHECK(systemd.names(store).size() == 3);  // index, arena, and this client's table
      CHECK(named_objects(store) == 0);
      for (const std::string& name : systemd.names(store)) {
        CAPTURE(name);
        const int object = systemd.kept()[name].get();
        const int seals = ::fcntl(object, F_GET_SEALS);
        CHECK((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) == (F_SEAL_SHRINK | F_SEAL_GROW));
        CHECK(::ftruncate(object, 0) != 0);
      }
    }
    // What a client had goes with it.
    CHECK(eventually([&] {
      systemd.take_messages();
      return systemd.names(store).size() == 2;
    }));
    CHECK(systemd.strange() == 0);
  }

  TEST_CASE("a daemon that systemd starts again with its descriptors has everything") {
    FakeSystemd systemd(true);
    int pipe[2];
    REQUIRE(::pipe2(pipe, O_CLOEXEC) == 0);
    // Others may keep descriptors there, before and behind ours.
    systemd.kept()["a.socket"] = Descriptor(pipe[0]);
    systemd.kept()["z.socket"] = Descriptor(pipe[1]);
    systemd.start();
    Client client = systemd.connect();
    put_segments(client, 20);
    const View view = must(client.get(id_of(3)));
    for (int round = 0; round < 2; ++round) {
      systemd.kill();
      systemd.start();
      CHECK(damage(client, 20) == "");
      must(client.put("new", payload(70000, "new", 1)));
      CHECK(wrong_bytes(view.bytes(), size_of(3), id_of(3), 1) == "");
      CHECK(must(client.stat(id_of(3))).holders.size() == 1);
      const Client fresh = systemd.connect();
      CHECK(fresh.store() == view.ref().store);
      CHECK(damage(fresh, 20) == "");
      systemd.take_messages();
      CHECK(systemd.strange() == 0);
    }
    // Without the state file, too: the descriptors say themselves whose they are.
    systemd.kill();
    CHECK(::unlink((systemd.socket_path() + ".state").c_str()) == 0);
    systemd.start();
    CHECK(damage(systemd.connect(), 20) == "");
    CHECK(systemd.terminate() == 0);
    // An orderly end keeps it all, for the next start.
    systemd.start();
    CHECK(damage(systemd.connect(), 20) == "");
    CHECK(systemd.kept().contains("a.socket"));
    CHECK(systemd.kept().contains("z.socket"));
  }

  TEST_CASE("descriptors that are meant for another process are left alone") {
    FakeSystemd systemd;
    systemd.start();
    StoreUuid store;
    {
      Client client = systemd.connect();
      store = client.store();
      put_segments(client, 2);
    }
    systemd.kill();
    systemd.start({}, false);
    const Client client = systemd.connect();
    CHECK(client.store() != store);
    CHECK(must(client.list("")).segments.empty());
  }

  TEST_CASE("a daemon that is to drop everything tells systemd to let go of it") {
    FakeSystemd systemd;
    systemd.start();
    Client client = systemd.connect();
    const StoreUuid store = client.store();
    put_segments(client, 2);
    SUBCASE("at its end") {
      systemd.kill();
      systemd.start({"--drop"});
      CHECK(systemd.terminate() == 0);
    }
    SUBCASE("at its start") {
      systemd.kill();
      systemd.start({"--fresh"});
      CHECK(systemd.connect().store() != store);
    }
    SUBCASE("by a client") { must(client.stop_daemon(true)); }
    CHECK(eventually([&] {
      systemd.take_messages();
      return systemd.names(store).empty();
    }));
    CHECK(systemd.strange() == 0);
  }

  TEST_CASE("kept memory without a keeper is an error that says how to get one") {
    TempDir directory;
    const std::vector<std::string> arguments{program("forebayd"),      "--memory",   "kept",
                                             "--socket", directory / "forebay.sock", "--capacity",
                                             "32MiB"};
    const Ran none = run(arguments, {{"NOTIFY_SOCKET", ""}});
    CHECK(none.status == 1);
    CHECK(mentions(none.output, "FileDescriptorStoreMax="));
    CHECK(mentions(none.output, "--supervise"));
    const Ran deaf = run(arguments, {{"NOTIFY_SOCKET", directory / "nobody"}});
    CHECK(deaf.status == 1);
    CHECK(mentions(deaf.output, "cannot reach the descriptor keeper"));
    CHECK_FALSE(exists(directory / "forebay.sock"));
  }
}

}  // namespace
}  // namespace forebay::test
