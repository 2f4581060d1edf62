// SPDX-License-Identifier: Apache-2.0
#include "store/shm/object_home.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "store/units.h"

namespace forebay::shm {

Result<Descriptor> reopen_read_only(const Descriptor& object) {
  const std::string path = "/proc/self/fd/" + std::to_string(object.get());
  Descriptor copy(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!copy) return fail_errno(errno, "cannot open shared memory read-only through " + path);
  return copy;
}

Result<void> reserve(const Descriptor& object, std::uint64_t offset, std::uint64_t bytes) {
  int status = 0;
  do {
    status = ::posix_fallocate(object.get(), static_cast<off_t>(offset),
                               static_cast<off_t>(bytes));
  } while (status == EINTR);
  if (status != 0) return fail_errno(status, "cannot reserve " + format_size(bytes));
  return {};
}

void punch(const Descriptor& object, std::uint64_t offset, std::uint64_t bytes) {
  ::fallocate(object.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              static_cast<off_t>(offset), static_cast<off_t>(bytes));
}

std::uint64_t backed_bytes(const Descriptor& object) {
  struct stat status {};
  if (::fstat(object.get(), &status) != 0) return 0;
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

std::vector<Range> touched_ranges(const Descriptor& object, Range within) {
  std::vector<Range> ranges;
  const auto end = static_cast<off_t>(within.offset + within.bytes);
  auto at = static_cast<off_t>(within.offset);
  while (at < end) {
    const off_t data = ::lseek(object.get(), at, SEEK_DATA);
    if (data < 0 || data >= end) break;
    off_t hole = ::lseek(object.get(), data, SEEK_HOLE);
    if (hole < 0 || hole > end) hole = end;
    ranges.push_back({static_cast<std::uint64_t>(data), static_cast<std::uint64_t>(hole - data)});
    at = hole;
  }
  return ranges;
}

bool named_gives_huge_pages() {
  std::ifstream mounts("/proc/self/mounts");
  std::string device;
  std::string place;
  std::string kind;
  std::string options;
  bool gives = false;
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    // What is mounted last is on top.
    if (fields >> device >> place >> kind >> options && place == "/dev/shm")
      gives = options.find("huge=") != std::string::npos &&
              options.find("huge=never") == std::string::npos;
  }
  return gives;
}

bool kept_gives_huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::string line;
  std::getline(file, line);
  return line.find("[always]") != std::string::npos ||
         line.find("[within_size]") != std::string::npos ||
         line.find("[advise]") != std::string::npos || line.find("[force]") != std::string::npos;
}

Result<ShmSpace> shm_space() {
  struct statfs status {};
  if (::statfs("/dev/shm", &status) != 0) return fail_errno(errno, "cannot look at /dev/shm");
  const auto block = static_cast<std::uint64_t>(status.f_bsize);
  return ShmSpace{status.f_blocks * block, status.f_bavail * block};
}

}  // namespace forebay::shm
