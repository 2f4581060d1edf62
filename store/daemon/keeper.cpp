// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "store/daemon/log.h"
#include "store/descriptor.h"

namespace forebay::daemon {
namespace {

constexpr auto restart_pause = std::chrono::milliseconds(100);
// A daemon that dies so soon has not served; so many of them in a row, and no further one will.
constexpr auto served_after = std::chrono::seconds(1);
constexpr int deaths_max = 10;
constexpr int first_passed_descriptor = 3;

using Kept = std::map<std::string, Descriptor>;

Result<Descriptor> notify_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail(Errc::bad_argument, "the keeper's socket path is too long: " + path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  ::unlink(path.c_str());
  Descriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const mode_t mask = ::umask(0177);
  const int bound =
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  ::umask(mask);
  if (bound != 0) return fail_errno(error, "cannot make the keeper's socket " + path);
  return socket;
}

// Held for as long as this process lives. A second keeper would take the first one's socket away.
Result<Descriptor> only_keeper(const std::string& path) {
  Descriptor lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return fail_errno(errno, "cannot open the keeper's lock file " + path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
    return fail(Errc::already_running, "another forebayd keeps the memory of the daemon there (it "
                                       "has locked " + path + "); stop it, or choose another --socket");
  return lock;
}

std::string value_of(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    if (line.starts_with(key)) return std::string(line.substr(key.size()));
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
  }
  return {};
}

void take_messages(const Descriptor& socket, Kept& kept) {
  while (true) {
    std::array<char, 4096> text{};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * 8)> control{};
    iovec part{text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t size = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (size < 0) return;
    std::vector<Descriptor> descriptors;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      for (std::size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
        int number = -1;
        std::memcpy(&number, CMSG_DATA(header) + i * sizeof(int), sizeof number);
        descriptors.emplace_back(number);
      }
    }
    const std::string_view lines(text.data(), static_cast<std::size_t>(size));
    const std::string name = value_of(lines, "FDNAME=");
    if (name.empty()) continue;
    if (value_of(lines, "FDSTORE=") == "1" && descriptors.size() == 1)
      kept[name] = std::move(descriptors.front());
    if (value_of(lines, "FDSTOREREMOVE=") == "1") kept.erase(name);
  }
}

[[noreturn]] void become(const std::string& program, const std::vector<std::string>& arguments,
                         const std::string& socket_path, const Kept& kept) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  std::string names;
  int next = first_passed_descriptor;
  // Upwards first, so that no descriptor is overwritten before it is passed on.
  std::vector<int> copies;
  const int above = first_passed_descriptor + static_cast<int>(kept.size());
  for (const auto& [name, descriptor] : kept) {
    copies.push_back(::fcntl(descriptor.get(), F_DUPFD, above));
    names += names.empty() ? name : ":" + name;
  }
  for (const int copy : copies) {
    ::dup2(copy, next++);
    ::close(copy);
  }
  ::setenv("NOTIFY_SOCKET", socket_path.c_str(), 1);
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::setenv("LISTEN_FDS", std::to_string(copies.size()).c_str(), 1);
  ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  ::_exit(127);
}

}  // namespace

Result<int> keep(const std::string& program, std::vector<std::string> arguments,
                 const std::string& socket_path) {
  const std::string keeper_path = socket_path + ".keeper";
  const auto lock = only_keeper(keeper_path + ".lock");
  if (!lock) return fail(lock.error());
  auto socket = notify_socket(keeper_path);
  if (!socket) return fail(std::move(socket.error()));
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&mask, signal);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  const Descriptor signals(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));

  Kept kept;
  int deaths = 0;
  bool asked_to_end = false;
  while (true) {
    const auto started = std::chrono::steady_clock::now();
    const pid_t child = ::fork();
    if (child < 0) return fail_errno(errno, "cannot start forebayd");
    if (child == 0) become(program, arguments, keeper_path, kept);
    int status = 0;
    bool ended = false;
    while (!ended) {
      std::array<pollfd, 2> wait{{{socket->get(), POLLIN, 0}, {signals.get(), POLLIN, 0}}};
      ::poll(wait.data(), wait.size(), 1000);
      take_messages(*socket, kept);
      signalfd_siginfo info{};
      while (::read(signals.get(), &info, sizeof info) == sizeof info)
        if (info.ssi_signo != SIGCHLD) {
          asked_to_end = true;
          ::kill(child, static_cast<int>(info.ssi_signo));
        }
      ended = ::waitpid(child, &status, WNOHANG) == child;
    }
    take_messages(*socket, kept);
    // The signal may have met a daemon that was dead, or that did not listen for it yet.
    if (WIFEXITED(status) || asked_to_end) {
      ::unlink(keeper_path.c_str());
      return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    }
    log::warning("forebayd_died", {{"signal", WTERMSIG(status)}, {"kept", kept.size()}});
    deaths = std::chrono::steady_clock::now() - started < served_after ? deaths + 1 : 0;
    if (deaths == deaths_max) {
      ::unlink(keeper_path.c_str());
      return fail(Errc::disconnected,
                  "it died " + std::to_string(deaths) + " times in a row at its start, last of signal " +
                      std::to_string(WTERMSIG(status)) + "; what was kept is given up");
    }
    // What a former daemon left was dropped at the first start; what there is now is this one's.
    std::erase(arguments, "--fresh");
    std::this_thread::sleep_for(restart_pause);
  }
}

}  // namespace forebay::daemon
