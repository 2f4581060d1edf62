// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/self_test.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <future>
#include <memory>
#include <utility>

#include "spill/fabric/error.h"
#include "spill/fabric/fabric_link.h"
#include "spill/fabric/fabric_server.h"

namespace forebay::spill::fabric {

namespace {

constexpr std::size_t test_bytes = 4096;

struct Unmap {
  std::size_t size;
  void operator()(std::byte* start) const { (void)::munmap(start, size); }
};
using Memory = std::unique_ptr<std::byte, Unmap>;

Result<Memory> shared_memory(std::size_t size) {
  void* const start = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (start == MAP_FAILED) return fail_errno(errno, "no memory for the self-test");
  return Memory(static_cast<std::byte*>(start), Unmap{size});
}

// What the link answers; it does so soon after the deadline at the latest.
template <class Start>
Result<void> answer(Start&& start) {
  std::promise<Result<void>> promise;
  auto future = promise.get_future();
  start([&promise](Result<void> result) { promise.set_value(std::move(result)); });
  return future.get();
}

}  // namespace

Result<void> self_test(const Library& library, const std::string& provider,
                       const Whereabouts& where, std::chrono::milliseconds deadline) {
  // A second server cannot have the first one's port.
  const Whereabouts anywhere{where.bind, "", where.device};
  auto memory = shared_memory(3 * test_bytes);
  if (!memory) return fail(memory.error());
  const std::span<std::byte> slab(memory->get(), test_bytes);
  const std::span<std::byte> source(memory->get() + test_bytes, test_bytes);
  const std::span<std::byte> destination(memory->get() + 2 * test_bytes, test_bytes);

  auto offer = offer_of(library, provider, anywhere);
  if (!offer) return fail(offer.error());
  auto server = FabricServer::start(library, std::move(*offer));
  if (!server) return fail(server.error());
  const auto key = (*server)->expose(slab, SlabAccess::read_write);
  if (!key) return fail(key.error());
  const auto address = ServerAddress::decoded((*server)->address());
  if (!address) return fail(address.error());
  auto towards =
      offer_towards(library, provider, {"", "", where.device}, address->format, address->name);
  if (!towards) return fail(towards.error());
  auto opened = FabricLink::open(library, std::move(*towards), *address, {});
  if (!opened) return fail(opened.error());
  FabricLink& link = **opened;

  for (std::size_t i = 0; i < test_bytes; ++i)
    source[i] = static_cast<std::byte>(i * 31 + (i >> 8U));
  if (auto done = answer([&](auto callback) {
        link.write(*key, 0, {source}, TierClock::now() + deadline, callback);
      });
      !done)
    return fail(fabric_error(FI_EIO, "a write of 4 KiB failed: " + done.error().message()));
  if (!std::equal(slab.begin(), slab.end(), source.begin()))
    return fail(fabric_error(FI_EIO, "a write was said to be delivered and was not"));
  if (auto done = answer([&](auto callback) {
        link.read(*key, 0, destination, TierClock::now() + deadline, callback);
      });
      !done)
    return fail(fabric_error(FI_EIO, "a read of 4 KiB failed: " + done.error().message()));
  if (!std::equal(destination.begin(), destination.end(), source.begin()))
    return fail(fabric_error(FI_EIO, "a read brought other bytes than there are"));

  // The key of nobody, with the address of a slab that is there. The last one: the link dies of it.
  std::fill(destination.begin(), destination.end(), std::byte{0xee});
  const SlabKey wrong{key->key ^ 0x5a5aU, key->base};
  const auto refused = answer([&](auto callback) {
    link.write(wrong, 0, {destination}, TierClock::now() + deadline, callback);
  });
  if (refused) return fail(fabric_error(FI_EACCES, "a write with a wrong key was a success"));
  if (!std::equal(slab.begin(), slab.end(), source.begin()))
    return fail(fabric_error(FI_EACCES, "a write with a wrong key happened"));
  return {};
}

}  // namespace forebay::spill::fabric
