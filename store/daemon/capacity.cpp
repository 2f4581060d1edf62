// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/capacity.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <sstream>

#include "store/shm/layout.h"
#include "store/shm/object_home.h"
#include "store/units.h"

namespace forebay::daemon {
namespace {

constexpr std::uint64_t least_bytes = 16 * mebibyte;
// The index, the pin tables and the slack of both.
constexpr std::uint64_t besides_bytes = 16 * mebibyte;

std::uint64_t read_limit(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  if (!(file >> text) || text == "max") return 0;
  std::uint64_t bytes = 0;
  std::istringstream(text) >> bytes;
  // Version 1 writes "no limit" as a number that no machine has.
  return bytes < (std::uint64_t{1} << 60U) ? bytes : 0;
}

std::uint64_t cgroup_limit() {
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  std::uint64_t least = 0;
  const auto consider = [&least](std::uint64_t bytes) {
    if (bytes != 0) least = least == 0 ? bytes : std::min(least, bytes);
  };
  while (std::getline(groups, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) consider(read_limit("/sys/fs/cgroup" + path + "/memory.max"));
    if (controllers == "memory")
      consider(read_limit("/sys/fs/cgroup/memory" + path + "/memory.limit_in_bytes"));
  }
  return least;
}

std::string sizes(const MachineMemory& machine) {
  std::string text = "/dev/shm has " + format_size(machine.shm_total_bytes) + ", " +
                     format_size(machine.shm_free_bytes) + " of it free; the machine has " +
                     format_size(machine.ram_bytes) + " of memory";
  if (machine.cgroup_bytes != 0)
    text += ", this control group may use " + format_size(machine.cgroup_bytes);
  return text;
}

std::string remount_line(std::uint64_t bytes) {
  const std::uint64_t mebibytes = (bytes + mebibyte - 1) / mebibyte;
  return "mount -o remount,size=" + std::to_string(mebibytes) + "M /dev/shm";
}

}  // namespace

Result<MachineMemory> look_at_machine() {
  MachineMemory machine;
  struct sysinfo info {};
  if (::sysinfo(&info) != 0) return fail_errno(errno, "cannot ask for the machine's memory");
  machine.ram_bytes = std::uint64_t{info.totalram} * info.mem_unit;
  const auto space = shm::shm_space();
  if (!space) return fail(space.error());
  machine.shm_total_bytes = space->total_bytes;
  machine.shm_free_bytes = space->free_bytes;
  machine.cgroup_bytes = cgroup_limit();
  return machine;
}

Result<std::uint64_t> choose_capacity(const std::string& wanted, const MachineMemory& machine,
                                      std::uint64_t held_bytes) {
  std::uint64_t room = machine.shm_free_bytes + held_bytes;
  room -= std::min(room, besides_bytes);
  if (wanted.empty()) {
    // Half of the machine, and never all that is left of /dev/shm: others live there, too.
    std::uint64_t capacity = std::min(machine.ram_bytes / 2, room / 10 * 8);
    if (machine.cgroup_bytes != 0) capacity = std::min(capacity, machine.cgroup_bytes / 2);
    capacity = capacity / mebibyte * mebibyte;
    if (capacity < least_bytes)
      return fail(Errc::bad_argument, "too little shared memory: " + sizes(machine) +
                                          ". Enlarge it with: " +
                                          remount_line(256 * mebibyte + besides_bytes));
    return capacity;
  }
  auto bytes = parse_size(wanted, machine.ram_bytes);
  if (!bytes) return fail(Errc::bad_argument, "--capacity: " + bytes.error().detail);
  const std::uint64_t capacity = *bytes / shm::page_bytes * shm::page_bytes;
  if (capacity < least_bytes)
    return fail(Errc::bad_argument, "--capacity " + wanted + " is less than the least useful, " +
                                        format_size(least_bytes));
  if (machine.cgroup_bytes != 0 && capacity > machine.cgroup_bytes)
    return fail(Errc::bad_argument, "--capacity " + wanted + " (" + format_size(capacity) +
                                        ") is more than this control group may use: " +
                                        sizes(machine) + ". Raise its memory limit, or ask for less");
  if (capacity > room)
    return fail(Errc::bad_argument,
                "--capacity " + wanted + " (" + format_size(capacity) + ", and " +
                    format_size(besides_bytes) + " for the index) does not fit: " +
                    sizes(machine) + ". Ask for less, or enlarge /dev/shm with: " +
                    remount_line(machine.shm_total_bytes + capacity - room));
  return capacity;
}

}  // namespace forebay::daemon
