// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/key_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "spill/pool/hmac.h"
#include "store/descriptor.h"

namespace forebay::spill::pool {
namespace {

constexpr std::size_t least_bytes = 16;
constexpr std::size_t most_bytes = 4096;
constexpr std::size_t made_bytes = 32;

}  // namespace

ClusterKey ClusterKey::insecure() {
  constexpr std::string_view text = "forebay: no key";
  return {.bytes{text.begin(), text.end()}, .secured = false};
}

Result<ClusterKey> read_key_file(const std::string& path) {
  // Not blocking: a pipe in its place must not keep anybody waiting.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  if (!file && errno == ELOOP)
    return fail(Errc::denied, "the key file " + path + " is a symbolic link; name the file itself");
  if (!file)
    return fail_errno(errno, "cannot open the key file " + path +
                                 "; forebay-poold --make-key makes one");
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno(errno, "cannot look at " + path);
  if (!S_ISREG(status.st_mode))
    return fail(Errc::denied, "the key file " + path + " is not a regular file");
  if (status.st_uid != ::geteuid())
    return fail(Errc::denied, "the key file " + path + " belongs to user " +
                                  std::to_string(status.st_uid) + " and not to this one; chown it");
  if ((status.st_mode & 07777) != 0400 && (status.st_mode & 07777) != 0600)
    return fail(Errc::denied, "others may read or write the key file " + path +
                                  "; make a new key, and chmod 0600 the file that it is in");
  std::vector<std::uint8_t> bytes(most_bytes + 1);
  std::size_t size = 0;
  while (size < bytes.size()) {
    const ssize_t got = ::read(file.get(), bytes.data() + size, bytes.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(errno, "cannot read the key file " + path);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  bytes.resize(size);
  if (size < least_bytes || size > most_bytes)
    return fail(Errc::bad_argument, "the key file " + path + " has " +
                                        (size > most_bytes ? "more than " : "") +
                                        std::to_string(std::min(size, most_bytes)) +
                                        " bytes; a key has 16 to 4096 (forebay-poold --make-key "
                                        "makes one)");
  return ClusterKey{.bytes = std::move(bytes), .secured = true};
}

Result<void> make_key_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file)
    return fail_errno(errno, "cannot make the key file " + path +
                                 (errno == EEXIST ? "; remove the old one first" : ""));
  std::array<std::byte, made_bytes> key{};
  fill_random(key);
  const ssize_t put = ::write(file.get(), key.data(), key.size());
  // Whatever the umask took away.
  if (put != static_cast<ssize_t>(key.size()) || ::fchmod(file.get(), 0600) != 0 ||
      ::fsync(file.get()) != 0) {
    const int why = put >= 0 && put < static_cast<ssize_t>(key.size()) ? ENOSPC : errno;
    ::unlink(path.c_str());
    return fail_errno(why, "cannot write the key file " + path);
  }
  return {};
}

}  // namespace forebay::spill::pool
