// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/instance.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>

namespace forebay::daemon {
namespace {

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

// Who else can write to the directory can put another socket into our place.
Result<void> check_directory(const std::string& directory) {
  struct stat status {};
  if (::stat(directory.c_str(), &status) != 0)
    return fail_errno(errno, "cannot use the directory " + directory);
  if (!S_ISDIR(status.st_mode)) return fail_errno(ENOTDIR, directory);
  const bool mine = status.st_uid == ::geteuid() || status.st_uid == 0;
  const bool closed = (status.st_mode & (S_IWGRP | S_IWOTH)) == 0 ||
                      (status.st_mode & S_ISVTX) != 0;
  if (!mine || !closed)
    return fail(Errc::denied, "the directory " + directory +
                                  " belongs to another user or is writable by others: choose "
                                  "another --socket, or chmod go-w it");
  return {};
}

}  // namespace

Result<Instance> Instance::claim(const std::string& socket_path) {
  if (auto checked = check_directory(directory_of(socket_path)); !checked)
    return fail(std::move(checked.error()));
  const std::string lock_path = socket_path + ".lock";
  Descriptor lock(
      ::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return fail_errno(errno, "cannot open the lock file " + lock_path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    char text[32] = {};
    const ssize_t size = ::pread(lock.get(), text, sizeof text - 1, 0);
    const std::string_view found(text, size > 0 ? static_cast<std::size_t>(size) : 0);
    const std::string holder(found.empty() ? "?" : found.substr(0, found.find('\n')));
    return fail(Errc::already_running, "another forebayd (pid " + holder + ") serves " +
                                           socket_path + "; stop it, or choose another --socket");
  }
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(lock.get(), 0) != 0 ||
      ::pwrite(lock.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size()))
    return fail_errno(errno, "cannot write the lock file " + lock_path);
  return Instance(socket_path, std::move(lock));
}

std::optional<StoreUuid> Instance::stored() const {
  std::ifstream file(state_path());
  std::string key;
  std::string uuid;
  if (!(file >> key >> uuid) || key != "store") return std::nullopt;
  const auto ref = Ref::parse("forebay:" + uuid + "/default/x@1#1");
  if (!ref) return std::nullopt;
  return ref->store;
}

Result<void> Instance::remember(const StoreUuid& store) {
  const std::string temporary = state_path() + ".new";
  const std::string text = "store " + format_uuid(store) + "\n";
  Descriptor file(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::rename(temporary.c_str(), state_path().c_str()) != 0)
    return fail_errno(errno, "cannot write " + state_path());
  return {};
}

void Instance::forget() { ::unlink(state_path().c_str()); }
void Instance::remove_socket() { ::unlink(socket_path_.c_str()); }

}  // namespace forebay::daemon
