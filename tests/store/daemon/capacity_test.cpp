// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/capacity.h"

#include <doctest/doctest.h>

#include <string>

#include "store/shm/layout.h"
#include "store/units.h"

namespace forebay::daemon {
namespace {

constexpr std::uint64_t besides = 16 * mebibyte;  // what the index and the pin tables may need

MachineMemory machine_of(std::uint64_t ram, std::uint64_t shm_total, std::uint64_t shm_free,
                         std::uint64_t cgroup = 0) {
  return {.ram_bytes = ram,
          .shm_total_bytes = shm_total,
          .shm_free_bytes = shm_free,
          .cgroup_bytes = cgroup};
}
const MachineMemory roomy = machine_of(64 * gibibyte, 64 * gibibyte, 64 * gibibyte);

void check_refused(const std::string& wanted, const MachineMemory& machine,
                   std::initializer_list<std::string> says, std::uint64_t held = 0) {
  const auto refused = choose_capacity(wanted, machine, held);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().is(Errc::bad_argument));
  for (const std::string& part : says)
    CHECK_MESSAGE(refused.error().detail.find(part) != std::string::npos, part,
                  " in: ", refused.error().detail);
}

TEST_SUITE("capacity") {
  TEST_CASE("unasked, it is half of the machine") {
    CHECK(*choose_capacity("", roomy, 0) == 32 * gibibyte);
  }

  TEST_CASE("unasked, it is never all that is left of /dev/shm") {
    const std::uint64_t free = gibibyte;
    const std::uint64_t chosen =
        *choose_capacity("", machine_of(64 * gibibyte, 8 * gibibyte, free), 0);
    CHECK(chosen <= (free - besides) * 8 / 10);
    CHECK(chosen > (free - besides) * 8 / 10 - 2 * mebibyte);
    CHECK(chosen % mebibyte == 0);
  }

  TEST_CASE("unasked, it is at most half of what the control group may use") {
    CHECK(*choose_capacity("", machine_of(64 * gibibyte, 64 * gibibyte, 64 * gibibyte, gibibyte),
                           0) == 512 * mebibyte);
    CHECK(*choose_capacity("",
                           machine_of(64 * gibibyte, 64 * gibibyte, 64 * gibibyte, 500 * gibibyte),
                           0) == 32 * gibibyte);
  }

  TEST_CASE("a store that is taken over counts its own memory as free") {
    const MachineMemory full = machine_of(4 * gibibyte, 2 * gibibyte, 100 * mebibyte);
    CHECK(*choose_capacity("1GiB", full, gibibyte) == gibibyte);
    CHECK_FALSE(choose_capacity("1GiB", full, 0));
    CHECK(*choose_capacity("", full, gibibyte) > *choose_capacity("", full, 0));
  }

  TEST_CASE("too little shared memory is refused with what there is and how to get more") {
    check_refused("", machine_of(8 * gibibyte, 64 * mebibyte, 20 * mebibyte),
                  {"64 MiB", "20 MiB", "8 GiB", "mount -o remount,size=", "/dev/shm"});
    check_refused("", machine_of(8 * gibibyte, 0, 0), {"remount"});
  }

  TEST_CASE("what is asked for is taken, in whole pages") {
    CHECK(*choose_capacity("1GiB", roomy, 0) == gibibyte);
    CHECK(*choose_capacity("20000001", roomy, 0) == 20000001 / shm::page_bytes * shm::page_bytes);
    CHECK(*choose_capacity("25%", roomy, 0) == 16 * gibibyte);
    CHECK(*choose_capacity("16MiB", roomy, 0) == 16 * mebibyte);
  }

  TEST_CASE("what is no size, or too small to be of use, is refused by the name of the option") {
    check_refused("plenty", roomy, {"--capacity", "plenty", "512MiB"});
    check_refused("101%", roomy, {"--capacity", "101%"});
    check_refused("16383KiB", roomy, {"--capacity", "16383KiB", "16 MiB"});
    check_refused("0", roomy, {"--capacity"});
  }

  TEST_CASE("more than fits into /dev/shm is refused, with the line that makes it fit") {
    const MachineMemory machine = machine_of(8 * gibibyte, gibibyte, gibibyte);
    CHECK(*choose_capacity("1008MiB", machine, 0) == 1008 * mebibyte);
    // 1 GiB and 16 MiB beside it: 16 MiB more than there are.
    check_refused("1GiB", machine,
                  {"--capacity 1GiB", "1 GiB of it free", "mount -o remount,size=1040M /dev/shm"});
    // What others have there is not asked for again.
    check_refused("1GiB", machine_of(8 * gibibyte, 2 * gibibyte, gibibyte),
                  {"mount -o remount,size=2064M /dev/shm"});
  }

  TEST_CASE("the size that a refusal proposes is enough") {
    const MachineMemory machine = machine_of(8 * gibibyte, gibibyte, 300 * mebibyte);
    const auto refused = choose_capacity("2GiB", machine, 0);
    REQUIRE_FALSE(refused);
    const std::string& text = refused.error().detail;
    const std::uint64_t proposed = *parse_size(text.substr(
        text.find("size=") + 5, text.find("M /dev/shm") + 1 - (text.find("size=") + 5)));
    const std::uint64_t others = machine.shm_total_bytes - machine.shm_free_bytes;
    CHECK(choose_capacity("2GiB", machine_of(8 * gibibyte, proposed, proposed - others), 0));
  }

  TEST_CASE("more than the control group may use is refused, however much /dev/shm has") {
    check_refused("2GiB", machine_of(64 * gibibyte, 64 * gibibyte, 64 * gibibyte, gibibyte),
                  {"control group", "1 GiB", "--capacity 2GiB"});
  }

  TEST_CASE("this machine has memory, and tells of no more than there is") {
    const auto machine = look_at_machine();
    REQUIRE(machine);
    CHECK(machine->ram_bytes > 64 * mebibyte);
    CHECK(machine->shm_free_bytes <= machine->shm_total_bytes);
  }
}

}  // namespace
}  // namespace forebay::daemon
