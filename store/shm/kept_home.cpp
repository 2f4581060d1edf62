// SPDX-License-Identifier: Apache-2.0
// The descriptor keeper speaks systemd's protocol, so that systemd itself can be it: descriptors are
// handed over by FDSTORE=1 on $NOTIFY_SOCKET and come back after a restart as descriptors 3, 4, …,
// named by $LISTEN_FDNAMES (sd_notify(3), sd_listen_fds(3)).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>

#include "store/shm/object_home.h"

namespace forebay::shm {
namespace {

constexpr int first_inherited = 3;
constexpr const char* name_prefix = "forebay.";

std::map<std::string, int> inherited_descriptors() {
  std::map<std::string, int> found;
  const char* pid = std::getenv("LISTEN_PID");
  const char* count = std::getenv("LISTEN_FDS");
  const char* names = std::getenv("LISTEN_FDNAMES");
  if (pid == nullptr || count == nullptr || names == nullptr) return found;
  if (std::strtol(pid, nullptr, 10) != ::getpid()) return found;
  std::string_view rest = names;
  for (int i = 0; i < std::strtol(count, nullptr, 10); ++i) {
    const std::size_t colon = rest.find(':');
    const std::string name(rest.substr(0, colon));
    ::fcntl(first_inherited + i, F_SETFD, FD_CLOEXEC);
    if (name.starts_with(name_prefix)) found[name] = first_inherited + i;
    rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon + 1);
  }
  return found;
}

// Read once: the descriptors' numbers mean something only at the start.
std::map<std::string, int>& inherited() {
  static std::map<std::string, int> descriptors = inherited_descriptors();
  return descriptors;
}

Result<void> notify(const std::string& text, int descriptor) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || *path == '\0')
    return fail(Errc::bad_argument,
                "kept shared memory needs a descriptor keeper: run under systemd with "
                "FileDescriptorStoreMax=, or start with forebayd --supervise");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (std::strlen(path) >= sizeof address.sun_path)
    return fail(Errc::bad_argument, "NOTIFY_SOCKET is too long");
  std::strcpy(address.sun_path, path);
  auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path));
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';

  Descriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(errno, "cannot make a socket to the descriptor keeper");
  iovec part{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_name = &address;
  message.msg_namelen = length;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }
  if (::sendmsg(socket.get(), &message, MSG_NOSIGNAL) < 0)
    return fail_errno(errno, "cannot reach the descriptor keeper");
  return {};
}

class KeptHome final : public ObjectHome {
 public:
  explicit KeptHome(const std::string& store) : prefix_(name_prefix + store + ".") {}

  Result<Descriptor> create(const std::string& name, std::uint64_t bytes) override {
    const std::string full = prefix_ + name;
    if (inherited().contains(full)) return fail_errno(EEXIST, "kept memory " + full);
    Descriptor object(::memfd_create(full.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!object) return fail_errno(errno, "cannot create memory " + full);
    if (::ftruncate(object.get(), static_cast<off_t>(bytes)) != 0)
      return fail_errno(errno, "cannot size memory " + full);
    // A peer that may write must still not be able to take pages away from under readers.
    if (::fcntl(object.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
      return fail_errno(errno, "cannot seal memory " + full);
    if (auto kept = notify("FDSTORE=1\nFDNAME=" + full, object.get()); !kept)
      return fail(std::move(kept.error()));
    return object;
  }

  Result<Descriptor> open(const std::string& name) override {
    const auto found = inherited().find(prefix_ + name);
    if (found == inherited().end()) return fail_errno(ENOENT, "kept memory " + prefix_ + name);
    Descriptor object(::fcntl(found->second, F_DUPFD_CLOEXEC, 0));
    if (!object) return fail_errno(errno, "cannot use kept memory " + prefix_ + name);
    return object;
  }

  void remove(const std::string& name) override {
    const std::string full = prefix_ + name;
    // What it keeps, it keeps until told; if it cannot be told, it will not restart us either.
    (void)notify("FDSTOREREMOVE=1\nFDNAME=" + full, -1);
    if (const auto found = inherited().find(full); found != inherited().end()) {
      ::close(found->second);
      inherited().erase(found);
    }
  }

  std::vector<std::string> list() override {
    std::vector<std::string> names;
    for (const auto& [name, descriptor] : inherited())
      if (name.starts_with(prefix_)) names.push_back(name.substr(prefix_.size()));
    return names;
  }

 private:
  std::string prefix_;
};

}  // namespace

std::unique_ptr<ObjectHome> kept_home(const std::string& store) {
  return std::make_unique<KeptHome>(store);
}

std::vector<std::string> kept_stores() {
  std::vector<std::string> stores;
  for (const auto& [name, descriptor] : inherited()) {
    const std::string_view rest = std::string_view(name).substr(std::strlen(name_prefix));
    std::string store(rest.substr(0, rest.find('.')));
    if (stores.empty() || stores.back() != store) stores.push_back(std::move(store));
  }
  return stores;
}

}  // namespace forebay::shm
