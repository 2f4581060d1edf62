// SPDX-License-Identifier: Apache-2.0
#include "store/client/spawn.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <vector>

extern char** environ;

namespace forebay::client {
namespace {

bool is_program(const std::string& path) { return ::access(path.c_str(), X_OK) == 0; }

// Beside this library or program, or where an installation puts it.
std::vector<std::string> neighbours() {
  std::vector<std::string> places;
  Dl_info info{};
  std::string here;
  if (::dladdr(reinterpret_cast<const void*>(&start_daemon), &info) != 0 &&
      info.dli_fname != nullptr)
    here = info.dli_fname;
  const std::size_t slash = here.rfind('/');
  if (slash == std::string::npos) return places;
  const std::string directory = here.substr(0, slash);
  for (const char* relative : {"/forebayd", "/bin/forebayd", "/../bin/forebayd"})
    places.push_back(directory + relative);
  return places;
}

Result<std::string> find_program(const std::string& given) {
  if (!given.empty()) {
    if (is_program(given)) return given;
    return fail(Errc::disconnected, "no program " + given + " to start as daemon");
  }
  if (const char* named = std::getenv("FOREBAY_DAEMON"); named != nullptr && *named != '\0') {
    if (is_program(named)) return std::string(named);
    return fail(Errc::disconnected,
                std::string("FOREBAY_DAEMON names no program: ") + named);
  }
  std::string looked = "looked for it at";
  for (const std::string& place : neighbours()) {
    if (is_program(place)) return place;
    looked += " " + place;
  }
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "";
  while (!rest.empty()) {
    const std::size_t colon = rest.find(':');
    const std::string place = std::string(rest.substr(0, colon)) + "/forebayd";
    if (is_program(place)) return place;
    rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon + 1);
  }
  return fail(Errc::disconnected,
              "no daemon runs for this user and forebayd was not found (" + looked +
                  " and on the PATH): install it, or set FOREBAY_DAEMON");
}

// What the starting process says goes to a file without a name: a pipe could be held open by
// whatever it starts.
Descriptor nameless_file() {
  char path[] = "/tmp/forebay-start-XXXXXX";
  Descriptor file(::mkostemp(path, O_CLOEXEC));
  if (file) ::unlink(path);
  return file;
}

std::string contents(const Descriptor& file) {
  char text[1024] = {};
  const ssize_t size = ::pread(file.get(), text, sizeof text - 1, 0);
  std::string said(text, size > 0 ? static_cast<std::size_t>(size) : 0);
  while (!said.empty() && said.back() == '\n') said.pop_back();
  return said;
}

}  // namespace

Result<void> start_daemon(const std::string& program, const std::string& socket_path,
                          wire::Deadline deadline) {
  const auto found = find_program(program);
  if (!found) return fail(found.error());
  const Descriptor said = nameless_file();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  if (said) posix_spawn_file_actions_adddup2(&actions, said.get(), 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // Whatever signals this process ignores or blocks are no business of the daemon's.
  sigset_t none;
  sigemptyset(&none);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  std::vector<std::string> arguments{*found,       "--embedded", "--detach",
                                     "--socket",   socket_path,  "--log-file",
                                     socket_path + ".log"};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  const int error =
      ::posix_spawn(&child, found->c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0)
    return fail(Errc::disconnected, "cannot start " + *found + ": " + std::strerror(error));

  // It ends when the daemon listens. The host's own SIGCHLD handling may take its status away; then
  // connecting will tell.
  int status = 0;
  while (true) {
    const pid_t ended = ::waitpid(child, &status, WNOHANG);
    if (ended == child) break;
    if (ended < 0 && errno != EINTR) return {};
    if (std::chrono::steady_clock::now() >= deadline)
      return fail(Errc::disconnected, *found + " did not start in time");
    ::usleep(500);
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail(Errc::disconnected, *found + " did not start: " + contents(said));
}

}  // namespace forebay::client
