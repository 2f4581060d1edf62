// SPDX-License-Identifier: Apache-2.0
#include "store/wire/address.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace forebay::wire {
namespace {

Result<void> private_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_errno(errno, "cannot make the directory " + path);
  struct stat status {};
  // Not through a link: in /tmp anybody could have put one there.
  if (::lstat(path.c_str(), &status) != 0)
    return fail_errno(errno, "cannot look at the directory " + path);
  if (!S_ISDIR(status.st_mode) || status.st_uid != ::geteuid() ||
      (status.st_mode & (S_IRWXG | S_IRWXO)) != 0)
    return fail(Errc::denied, path +
                                  " is not a directory of this user's alone; remove it, or set "
                                  "FOREBAY_SOCKET to a path elsewhere");
  return {};
}

bool is_directory(const char* path) {
  struct stat status {};
  return path != nullptr && *path != '\0' && ::stat(path, &status) == 0 &&
         S_ISDIR(status.st_mode) && ::access(path, W_OK) == 0;
}

}  // namespace

Result<Address> resolve_address(const std::string& given) {
  if (!given.empty()) return Address{given, false};
  if (const char* socket = std::getenv("FOREBAY_SOCKET"); socket != nullptr && *socket != '\0')
    return Address{socket, false};
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const std::string directory = is_directory(runtime)
                                    ? std::string(runtime) + "/forebay"
                                    : "/tmp/forebay-" + std::to_string(::geteuid());
  if (auto made = private_directory(directory); !made) return fail(std::move(made.error()));
  return Address{directory + "/default.sock", true};
}

}  // namespace forebay::wire
