// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "store/shm/object_home.h"

namespace forebay::shm {
namespace {

class NamedHome final : public ObjectHome {
 public:
  explicit NamedHome(const std::string& store) : prefix_("forebay." + store + ".") {}

  Result<Descriptor> create(const std::string& name, std::uint64_t bytes) override {
    const std::string path = "/" + prefix_ + name;
    // O_EXCL: what somebody else put there first is never adopted.
    Descriptor object(::shm_open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!object) return fail_errno(errno, "cannot create shared memory " + path);
    if (::fchmod(object.get(), 0600) != 0 ||
        ::ftruncate(object.get(), static_cast<off_t>(bytes)) != 0) {
      const int error = errno;
      ::shm_unlink(path.c_str());
      return fail_errno(error, "cannot size shared memory " + path);
    }
    return object;
  }

  Result<Descriptor> open(const std::string& name) override {
    const std::string path = "/" + prefix_ + name;
    Descriptor object(::shm_open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0));
    if (!object) return fail_errno(errno, "cannot open shared memory " + path);
    struct stat status {};
    if (::fstat(object.get(), &status) != 0 || status.st_uid != ::geteuid())
      return fail_errno(EPERM, "shared memory " + path + " belongs to another user");
    return object;
  }

  void remove(const std::string& name) override { ::shm_unlink(("/" + prefix_ + name).c_str()); }

  std::vector<std::string> list() override {
    std::vector<std::string> names;
    DIR* directory = ::opendir("/dev/shm");
    if (directory == nullptr) return names;
    while (const dirent* item = ::readdir(directory)) {
      const std::string_view name = item->d_name;
      if (name.starts_with(prefix_)) names.emplace_back(name.substr(prefix_.size()));
    }
    ::closedir(directory);
    return names;
  }

 private:
  std::string prefix_;
};

}  // namespace

std::unique_ptr<ObjectHome> named_home(const std::string& store) {
  return std::make_unique<NamedHome>(store);
}

}  // namespace forebay::shm
