// SPDX-License-Identifier: Apache-2.0
// The user's own daemon: nobody starts it, nobody stops it, and nobody waits for it.
#include <doctest/doctest.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "store/client.h"
#include "store/wire/socket.h"
#include "tests/support/child_process.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/shared.h"
#include "tests/support/status.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr seconds slack{5};

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool mentions(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

std::string link_of(const std::string& path) {
  std::array<char, 512> target{};
  const ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
  return size > 0 ? std::string(target.data(), static_cast<std::size_t>(size)) : std::string();
}

mode_t mode_of(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 ? status.st_mode : 0;
}

// A user's home for a daemon that no test has started: XDG_RUNTIME_DIR is a directory of the test's
// own, and what `connect` starts is forebayd with a small store and the given options.
class Home {
 public:
  explicit Home(const std::string& options = "--idle-exit 60") {
    program("exec " + test::program("forebayd") + " \"$@\" --capacity 64MiB --reserve 1MiB " + options);
    set("XDG_RUNTIME_DIR", runtime_.path());
    set("FOREBAY_DAEMON", program_);
    set("FOREBAY_SOCKET", "");
  }
  ~Home() {
    note_store();
    if (const pid_t pid = daemon(); pid > 0 && !ended()) {
      ::kill(pid, SIGKILL);
      (void)eventually([this] { return ended(); });
    }
    for (const std::string& object : objects()) ::unlink(("/dev/shm/" + object).c_str());
    for (const auto& [name, value] : before_)
      value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
  }
  Home(const Home&) = delete;
  Home& operator=(const Home&) = delete;

  // What is started instead, as lines of a shell script.
  void program(const std::string& lines) {
    std::ofstream(program_) << "#!/bin/sh\n" << lines << "\n";
    ::chmod(program_.c_str(), 0700);
  }

  std::string directory() const { return runtime_ / "forebay"; }
  std::string socket() const { return directory() + "/default.sock"; }
  std::string lock() const { return socket() + ".lock"; }

  // The daemon that served here last.
  pid_t daemon() const {
    const std::string text = read_file(lock());
    return text.empty() ? -1 : static_cast<pid_t>(std::atoi(text.c_str()));
  }
  // It has gone through all that it does at its end: nobody holds the lock.
  bool ended() const {
    const int file = ::open(lock().c_str(), O_RDWR | O_CLOEXEC);
    const bool free = file < 0 || ::flock(file, LOCK_EX | LOCK_NB) == 0;
    if (file >= 0) ::close(file);
    return free;
  }
  void kill_daemon() {
    note_store();
    ::kill(daemon(), SIGKILL);
    CHECK(eventually([this] { return ended(); }));
  }

  // Shared memory of the stores that were seen here.
  std::vector<std::string> objects() {
    note_store();
    std::vector<std::string> found;
    DIR* directory = ::opendir("/dev/shm");
    while (const dirent* item = ::readdir(directory))
      for (const std::string& store : stores_)
        if (mentions(item->d_name, store)) found.emplace_back(item->d_name);
    ::closedir(directory);
    return found;
  }
  void note_store() {
    std::istringstream state(read_file(socket() + ".state"));
    std::string key;
    std::string uuid;
    if (state >> key >> uuid) stores_.push_back(uuid);
  }

 private:
  void set(const std::string& name, const std::string& value) {
    const char* old = std::getenv(name.c_str());
    before_.emplace_back(name, old != nullptr ? std::optional<std::string>(old) : std::nullopt);
    ::setenv(name.c_str(), value.c_str(), 1);
  }

  TempDir runtime_;
  TempDir elsewhere_;
  std::string program_ = elsewhere_ / "program";
  std::vector<std::pair<std::string, std::optional<std::string>>> before_;
  std::vector<std::string> stores_;
};

Client connected(ConnectOptions options = {}) { return must(Client::connect(options)); }

pid_t daemon_of(const Client& client) { return static_cast<pid_t>(Status(client)["daemon_pid"]); }

TEST_SUITE("embedded") {
  TEST_CASE("connect starts a daemon where none runs, in a place of this user's alone") {
    Home home;
    Client client = connected();
    CHECK(client.address() == home.socket());
    CHECK(mode_of(home.directory()) == (S_IFDIR | 0700));
    CHECK(mode_of(home.socket()) == (S_IFSOCK | 0600));
    must(client.put("a", payload(100000, "a", 1)));
    // The next one finds it.
    const Client other = connected();
    CHECK(daemon_of(other) == daemon_of(client));
    CHECK(other.store() == client.store());
    CHECK(wrong_bytes(must(other.get("a")).bytes(), 100000, "a", 1) == "");
    // What it says is found beside the socket.
    CHECK(eventually([&] { return mentions(read_file(home.socket() + ".log"), "event=serving"); }));
    // Whoever stops it, by hand, leaves nothing.
    must(client.stop_daemon(true));
    CHECK(eventually([&] { return home.ended(); }));
    CHECK(home.objects().empty());
    CHECK(mode_of(home.socket()) == 0);
  }

  TEST_CASE("who does not want a daemon started, or names an address, is told at once that none runs") {
    Home home;
    const auto start = Clock::now();
    ConnectOptions options;
    std::string address = home.socket();
    SUBCASE("not to be started") { options.start_daemon = false; }
    SUBCASE("an address") {
      TempDir directory;
      options.address = address = directory / "other.sock";
    }
    SUBCASE("an address in the environment") {
      address = home.directory() + "-other.sock";
      ::setenv("FOREBAY_SOCKET", address.c_str(), 1);
    }
    const auto client = Client::connect(options);
    CHECK(outcome(client) == "disconnected");
    CHECK(mentions(why(client), address));
    CHECK(Clock::now() - start < slack);
    CHECK(mode_of(home.lock()) == 0);
  }

  TEST_CASE("a place that others could reach is refused by its name, and nothing is started there") {
    Home home;
    TempDir mine;
    bool possible = true;
    SUBCASE("writable by the group") {
      ::mkdir(home.directory().c_str(), 0700);
      ::chmod(home.directory().c_str(), 0770);
    }
    SUBCASE("a link") { REQUIRE(::symlink(mine.path().c_str(), home.directory().c_str()) == 0); }
    SUBCASE("somebody else's") {
      ::mkdir(home.directory().c_str(), 0700);
      // Only root can give one away.
      possible = ::chown(home.directory().c_str(), 65534, 65534) == 0;
    }
    if (!possible) return;
    const auto client = Client::connect();
    CHECK(outcome(client) == "denied");
    CHECK(mentions(why(client), home.directory()));
    CHECK(mentions(why(client), "FOREBAY_SOCKET"));
    // Neither does the daemon itself go there.
    const Ran ran = run({program("forebayd"), "--capacity", "32MiB"});
    CHECK(ran.status == 1);
    CHECK(mentions(ran.output, home.directory()));
    CHECK(mode_of(home.lock()) == 0);
    CHECK(mode_of(mine / "default.sock") == 0);
  }

  TEST_CASE("ten processes that start at once get one daemon, and all of them work") {
    Home home;
    Shared<std::array<std::atomic<pid_t>, 10>> daemons;
    std::vector<std::unique_ptr<ChildProcess>> children;
    for (std::size_t i = 0; i < daemons->size(); ++i)
      children.push_back(std::make_unique<ChildProcess>([&, i](Moments& moments) {
        moments.reached();
        moments.wait();
        Client client = connected();
        (*daemons)[i] = daemon_of(client);
        const std::string own = "from/" + std::to_string(i);
        must(client.put(own, payload(70000 + i, own, 1)));
        for (std::size_t other = 0; other < daemons->size(); ++other) {
          const std::string id = "from/" + std::to_string(other);
          const View view = must(client.get(id, {.timeout = patience}));
          const std::string wrong = wrong_bytes(view.bytes(), 70000 + other, id, 1);
          require(wrong.empty(), wrong);
        }
      }));
    for (auto& child : children) child->await();
    for (auto& child : children) child->release();
    for (auto& child : children) CHECK(child->join() == 0);
    const Client client = connected();
    CHECK(Status(client)["daemon_starts"] == 1);
    CHECK(Status(client)["segments"] == daemons->size());
    for (const auto& daemon : *daemons) CHECK(daemon == daemon_of(client));
  }

  TEST_CASE("nobody waits for a pipe, a directory or a terminal because the daemon has it") {
    Home home;
    TempDir directory;
    int output[2];
    int other[2];
    REQUIRE(::pipe2(output, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(other, 0) == 0);
    ChildProcess child([&](Moments&) {
      ::dup2(output[1], 1);
      ::dup2(output[1], 2);
      // And a few that lie where nobody looks.
      for (const int number : {3, 100, 900}) ::dup2(other[1], number);
      require(::chdir(directory.path().c_str()) == 0, "a place to be");
      const Client client = connected();
    });
    ::close(output[1]);
    ::close(other[1]);
    CHECK(child.join() == 0);
    for (const int pipe : {output[0], other[0]}) {
      pollfd end{pipe, POLLIN, 0};
      const bool ended = ::poll(&end, 1, 5000) == 1;
      CHECK(ended);
      char byte = 0;
      if (ended) CHECK(::read(pipe, &byte, 1) == 0);
      ::close(pipe);
    }
    // While the daemon lives on, and holds on to nothing of that child's.
    const pid_t daemon = home.daemon();
    const std::string process = "/proc/" + std::to_string(daemon);
    CHECK(link_of(process + "/cwd") == "/");
    for (const char* number : {"0", "1"}) CHECK(link_of(process + "/fd/" + number) == "/dev/null");
    CHECK(::getsid(daemon) != ::getsid(0));
    ConnectOptions options;
    options.start_daemon = false;
    CHECK(daemon_of(connected(options)) == daemon);
  }

  TEST_CASE("the starting process's handling of signals is not the daemon's") {
    Home home;
    ChildProcess child([&](Moments&) {
      // With SIGCHLD ignored, nobody can wait for the process that starts the daemon either.
      for (const int number : {SIGCHLD, SIGTERM, SIGHUP}) ::signal(number, SIG_IGN);
      sigset_t all;
      sigfillset(&all);
      ::sigprocmask(SIG_BLOCK, &all, nullptr);
      Client client = connected();
      must(client.put("a", payload(10, "a", 1)));
    });
    CHECK(child.join() == 0);
    ::kill(home.daemon(), SIGTERM);
    CHECK(eventually([&] { return home.ended(); }));
    // An orderly end keeps what is sealed.
    CHECK(outcome(connected().get("a")) == "ok");
  }

  TEST_CASE("some time after its last client it ends, and leaves nothing") {
    Home home("--idle-exit 1");
    std::optional<View> view;
    {
      Client client = connected();
      must(client.put("a", payload(100000, "a", 1)));
      must(client.put("b", payload(100, "b", 1)));
      view = must(client.get("a"));
    }
    const pid_t daemon = home.daemon();
    CHECK_FALSE(home.objects().empty());
    // A view keeps it as well as a client does.
    CHECK_FALSE(eventually([&] { return home.ended(); }, milliseconds(2200)));
    CHECK(wrong_bytes(view->bytes(), 100000, "a", 1) == "");
    view.reset();
    // Who comes in the meantime, and goes again, has it wait anew.
    CHECK_FALSE(eventually([&] { return home.ended(); }, milliseconds(500)));
    CHECK(outcome(connected().get("b")) == "ok");
    const auto last = Clock::now();
    CHECK(home.daemon() == daemon);
    CHECK(eventually([&] { return home.ended(); }));
    CHECK(Clock::now() - last > milliseconds(900));
    CHECK(home.objects().empty());
    CHECK(mode_of(home.socket()) == 0);
    CHECK(mode_of(home.socket() + ".state") == 0);
    // The next one starts it anew, and empty.
    Client client = connected();
    CHECK(home.daemon() != daemon);
    CHECK(must(client.list("")).segments.empty());
  }

  TEST_CASE("what was put as persistent outlives an idle daemon, and nothing else does") {
    Home home("--idle-exit 1");
    {
      Client client = connected();
      must(client.put("large", payload(100000, "large", 1), {.persistent = true}));
      must(client.put("small", payload(100, "small", 1), {.persistent = true}));
      must(client.put("small", payload(100, "small", 2)));
      must(client.put("gone", payload(100000, "gone", 1)));
      const Builder builder = must(client.create("never sealed", 5000));
    }
    CHECK(eventually([&] { return home.ended(); }));
    CHECK(mode_of(home.socket()) == 0);
    CHECK_FALSE(home.objects().empty());
    Client client = connected();
    CHECK(wrong_bytes(must(client.get("large")).bytes(), 100000, "large", 1) == "");
    CHECK(wrong_bytes(must(client.get("small")).bytes(), 100, "small", 1) == "");
    CHECK(outcome(client.get("gone")) == "not_found");
    CHECK(must(client.list("")).segments.size() == 2);
    CHECK(adds_up(client) == "");
  }

  TEST_CASE("a daemon that was killed is started again by whoever comes, with what was sealed") {
    Home home;
    Client client = connected();
    must(client.put("a", payload(100000, "a", 1)));
    const View view = must(client.get("a"));
    SUBCASE("by a new client") {
      home.kill_daemon();
      CHECK(mode_of(home.socket()) != 0);
      const Client other = connected();
      CHECK(wrong_bytes(must(other.get("a")).bytes(), 100000, "a", 1) == "");
      CHECK(other.store() == client.store());
    }
    SUBCASE("by one that was there before") { home.kill_daemon(); }
    SUBCASE("although not even its socket is left") {
      home.kill_daemon();
      ::unlink(home.socket().c_str());
    }
    must(client.put("b", payload(100, "b", 1)));
    CHECK(wrong_bytes(view.bytes(), 100000, "a", 1) == "");
    CHECK(Status(client)["daemon_starts"] == 2);
    CHECK(must(client.stat("a")).holders.size() == 1);
  }

  TEST_CASE("what a daemon that cannot start has said is in the error") {
    Home home;
    const auto start = Clock::now();
    ConnectOptions options;
    SUBCASE("no such program") {
      ::setenv("FOREBAY_DAEMON", "/no/such/forebayd", 1);
      CHECK(mentions(why(Client::connect()), "/no/such/forebayd"));
    }
    SUBCASE("no such program, given in the options") {
      options.daemon_path = "/no/such/forebayd";
      CHECK(mentions(why(Client::connect(options)), "/no/such/forebayd"));
    }
    SUBCASE("an option that it does not take") {
      home.program("exec " + program("forebayd") + " \"$@\" --capacity 1");
      CHECK(mentions(why(Client::connect()), "--capacity 1 is less than the least useful"));
    }
    SUBCASE("dead at its start") {
      home.program("export FOREBAY_FAILPOINTS=recover.done=kill; exec " + program("forebayd") +
                   " \"$@\" --capacity 32MiB");
      CHECK(mentions(why(Client::connect()), "died while starting"));
    }
    SUBCASE("no forebayd at all") {
      home.program("exit 0");
      CHECK(mentions(why(Client::connect()), home.socket()));
    }
    CHECK(outcome(Client::connect(options)) == "disconnected");
    CHECK(Clock::now() - start < slack);
  }

  TEST_CASE("a daemon that does not come to serve is waited for no longer than the deadline") {
    Home home;
    TempDir directory;
    const std::string pid_file = directory / "pid";
    home.program("echo $$ > " + pid_file + "; exec sleep 60");
    ConnectOptions options;
    options.timeout = milliseconds(300);
    const auto start = Clock::now();
    const auto client = Client::connect(options);
    CHECK(outcome(client) == "disconnected");
    CHECK(mentions(why(client), "in time"));
    CHECK(Clock::now() - start < slack);
    if (const int pid = std::atoi(read_file(pid_file).c_str()); pid > 0) ::kill(pid, SIGKILL);
  }

  TEST_CASE("a client that comes while the former daemon is ending gets a new one") {
    Home home;
    // The former one, played: it has the lock, and for now the socket.
    ::mkdir(home.directory().c_str(), 0700);
    const int lock = ::open(home.lock().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(::flock(lock, LOCK_EX) == 0);
    bool with_socket = false;
    SUBCASE("its socket still there") { with_socket = true; }
    SUBCASE("its socket already gone") {}
    Descriptor listener;
    if (with_socket) listener = must(wire::listen_at(home.socket()));
    const int watch = ::inotify_init1(IN_CLOEXEC);
    REQUIRE(::inotify_add_watch(watch, home.lock().c_str(), IN_CLOSE) >= 0);

    std::string ended;
    std::thread newcomer([&] {
      auto client = Client::connect();
      ended = outcome(client);
      if (client) ended = outcome(client->put("a", payload(10, "a", 1)));
    });
    if (with_socket) {
      // It takes nobody in any more.
      CHECK(wire::wait_readable(listener.get(), Clock::now() + patience));
      ::close(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }
    // A new daemon has tried, and found the lock taken.
    pollfd closed{watch, POLLIN, 0};
    CHECK(::poll(&closed, 1, 10000) == 1);
    if (with_socket) {
      // It even believes that somebody listens.
      CHECK(wire::wait_readable(listener.get(), Clock::now() + patience));
      listener.reset();
      ::unlink(home.socket().c_str());
    }
    ::close(lock);
    newcomer.join();
    ::close(watch);
    CHECK(ended == "ok");
  }
}

}  // namespace
}  // namespace forebay::test
