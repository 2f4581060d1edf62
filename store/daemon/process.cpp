// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <sstream>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace forebay::daemon {
namespace {

std::string proc_path(pid_t pid, const char* file) {
  return "/proc/" + std::to_string(pid) + "/" + file;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

Result<Peer> peer_of(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
    return fail_errno(errno, "cannot tell who connected");
  if (credentials.pid <= 0)
    return fail(Errc::denied,
                "a process of another pid namespace: its death could not be noticed here; run it "
                "and forebayd in one pid namespace");
  constexpr uid_t overflow_uid = 65534;
  if (credentials.uid == overflow_uid)
    return fail(Errc::denied, "a user that is not mapped in this user namespace");
  return Peer{credentials.pid, credentials.uid, credentials.gid};
}

Result<Descriptor> watch_process(pid_t pid) {
  Descriptor pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) return fail_errno(errno, "cannot watch process " + std::to_string(pid));
  return pidfd;
}

Result<Descriptor> watch_peer(int socket, const Peer& peer) {
  int number = -1;
  socklen_t size = sizeof number;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &number, &size) == 0) {
    ::fcntl(number, F_SETFD, FD_CLOEXEC);
    return Descriptor(number);
  }
  return watch_process(peer.pid);
}

bool has_ended(const Descriptor& pidfd) {
  pollfd poll{pidfd.get(), POLLIN, 0};
  return ::poll(&poll, 1, 0) == 1;
}

std::optional<std::uint64_t> start_time_of(pid_t pid) {
  const std::string stat = read_file(proc_path(pid, "stat"));
  // The name may hold spaces and parentheses; what follows its last parenthesis does not.
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(stat.substr(name_end + 1));
  std::string field;
  constexpr int start_time_field = 20;  // the 22nd in all
  for (int i = 0; i < start_time_field; ++i)
    if (!(fields >> field)) return std::nullopt;
  return std::stoull(field);
}

std::optional<uid_t> uid_of(pid_t pid) {
  struct stat status {};
  if (::stat(proc_path(pid, "").c_str(), &status) != 0) return std::nullopt;
  return status.st_uid;
}

std::string program_of(pid_t pid) {
  const std::string line = read_file(proc_path(pid, "cmdline"));
  std::istringstream arguments(line);
  std::string program;
  std::getline(arguments, program, '\0');
  const auto base = [](const std::string& path) { return path.substr(path.rfind('/') + 1); };
  std::string name = base(program);
  if (name.starts_with("python")) {
    std::string argument;
    while (std::getline(arguments, argument, '\0')) {
      if (argument.starts_with('-')) continue;
      name = base(argument);
      break;
    }
  }
  return name.substr(0, 64);
}

std::optional<bool> maps_object(pid_t pid, const Descriptor& object) {
  struct stat status {};
  if (::fstat(object.get(), &status) != 0) return std::nullopt;
  std::ifstream maps(proc_path(pid, "maps"));
  if (!maps) return std::nullopt;
  std::array<char, 64> wanted{};
  std::snprintf(wanted.data(), wanted.size(), " %02x:%02x %llu ", major(status.st_dev),
                minor(status.st_dev), static_cast<unsigned long long>(status.st_ino));
  std::string line;
  bool any = false;
  while (std::getline(maps, line)) {
    any = true;
    if ((line + " ").find(wanted.data()) != std::string::npos) return true;
  }
  // A process that just dies, or that may not be read, shows no lines at all.
  return any ? std::optional(false) : std::nullopt;
}

std::array<std::uint8_t, 16> boot_id() {
  std::array<std::uint8_t, 16> id{};
  const std::string text = read_file("/proc/sys/kernel/random/boot_id");
  std::size_t digit = 0;
  for (const char c : text) {
    if (c == '-' || digit >= 32) continue;
    const int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (value < 0) continue;
    id[digit / 2] = static_cast<std::uint8_t>(id[digit / 2] * 16 + value);
    ++digit;
  }
  return id;
}

}  // namespace forebay::daemon
