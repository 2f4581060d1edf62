// SPDX-License-Identifier: Apache-2.0
#include "spill/node_tiers.h"

#include <charconv>
#include <utility>

#include "spill/backends.h"
#include "spill/disk/disk_tier.h"
#include "spill/pool/key_file.h"
#include "spill/pool/pool_tier.h"
#include "spill/stack/tier_stack.h"

namespace forebay::spill {
namespace {

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// With the option of forebayd's that it is about.
Failure about(const char* option, Error error) {
  error.detail = std::string(option) + ": " + error.detail;
  return fail(std::move(error));
}

}  // namespace

Result<std::vector<NodeTierOptions::Pool>> parse_pools(const std::string& text) {
  std::vector<NodeTierOptions::Pool> pools;
  for (std::size_t from = 0; from <= text.size() && !trimmed(text).empty();) {
    const std::size_t comma = std::min(text.find(',', from), text.size());
    const std::string item = trimmed(text.substr(from, comma - from));
    from = comma + 1;
    NodeTierOptions::Pool pool;
    const std::size_t equals = item.find('=');
    pool.address = trimmed(item.substr(0, equals));
    const std::size_t colon = pool.address.rfind(':');
    unsigned port = 0;
    const char* const end = pool.address.data() + pool.address.size();
    const bool has_port =
        colon != std::string::npos && colon > 0 &&
        std::from_chars(pool.address.data() + colon + 1, end, port).ptr == end && port > 0 &&
        port < 65536;
    if (!has_port)
      return fail(Errc::bad_argument, "'" + item + "' is no pool: it is written host:port, or "
                                                   "host:port=weight");
    if (equals != std::string::npos) {
      const std::string weight = trimmed(item.substr(equals + 1));
      const auto parsed =
          std::from_chars(weight.data(), weight.data() + weight.size(), pool.weight);
      if (parsed.ptr != weight.data() + weight.size() || !(pool.weight > 0) || pool.weight > 1e6)
        return fail(Errc::bad_argument,
                    "'" + item + "': the weight of a pool is a number above 0");
    }
    for (const auto& other : pools)
      if (other.address == pool.address)
        return fail(Errc::bad_argument, "the pool " + pool.address + " is named twice");
    pools.push_back(std::move(pool));
  }
  return pools;
}

Result<std::unique_ptr<Spill>> open_node_tiers(const NodeTierOptions& options) {
  std::vector<StackTier> tiers;
  std::vector<Backend> backends;
  std::string names;
  for (Backend& backend : all_backends()) {
    names += (names.empty() ? "" : ", ") + backend.transport;
    if (options.transport == "auto" || options.transport == backend.transport)
      backends.push_back(std::move(backend));
  }
  if (backends.empty())
    return fail(Errc::bad_argument, "--pool-transport: there is no transport '" +
                                        options.transport + "' to a pool; there are: auto, " +
                                        names);
  if (!options.pools.empty() && !options.insecure)
    if (auto key = pool::read_key_file(options.key_file); !key)
      return about("--pool-key", std::move(key.error()));
  std::vector<PoolTier*> pools;
  for (const NodeTierOptions::Pool& pool : options.pools) {
    PoolTierOptions made;
    made.address = pool.address;
    made.key_file = options.key_file;
    made.insecure = options.insecure;
    made.store = options.store;
    made.backends = backends;
    made.log = options.report;
    auto tier = PoolTier::start(std::move(made));
    if (!tier) return about("--pools", std::move(tier.error()));
    pools.push_back(tier->get());
    tiers.push_back({std::move(*tier), TierKind::pool, pool.weight});
  }
  if (!options.disk_directory.empty()) {
    DiskTierOptions disk;
    disk.directory = options.disk_directory;
    disk.capacity_bytes = options.disk_capacity_bytes;
    disk.report = options.report;
    auto opened = DiskTier::open(std::move(disk));
    if (!opened) return about("--spill-dir", std::move(opened.error()));
    tiers.push_back({std::move(*opened), TierKind::disk, 1});
  }
  // Whoever asks first finds them connected, if they are there at all.
  const TierDeadline until = TierClock::now() + std::chrono::seconds(1);
  for (PoolTier* const pool : pools)
    if (auto up = pool->wait_until_up(until); !up && options.report)
      options.report(up.error().message());
  StackOptions stack;
  stack.store = options.store;
  return std::unique_ptr<Spill>(std::make_unique<TierStack>(std::move(tiers), stack));
}

}  // namespace forebay::spill
