// SPDX-License-Identifier: Apache-2.0
// A real forebay-poold in a process of its own, and tiers that are connected to it.
#pragma once

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "spill/backends.h"
#include "spill/pool/pool_tier.h"
#include "tests/support/pool_process.h"

namespace forebay::test {

class PoolProcess : public PoolServerProcess {
 public:
  PoolProcess() : PoolProcess(Options()) {}
  // Over plain TCP, unless the arguments say another transport.
  explicit PoolProcess(Options options) : PoolServerProcess(with_transport(std::move(options))) {}

  spill::PoolTierOptions tier_options(std::uint8_t store = 1) const {
    spill::PoolTierOptions options;
    options.address = address();
    if (secured())
      options.key_file = key_file();
    else
      options.insecure = true;
    options.store = {store, 0xfe, 0xb1};
    options.backends = spill::all_backends();
    return options;
  }
  std::unique_ptr<spill::PoolTier> tier(std::uint8_t store = 1) const {
    auto tier = spill::PoolTier::start(tier_options(store));
    if (!tier) throw std::runtime_error(tier.error().message());
    if (auto up = (*tier)->wait_until_up(TierClock::now() + patience); !up)
      throw std::runtime_error(up.error().message() + "\n" + log());
    return std::move(*tier);
  }

 private:
  static Options with_transport(Options options) {
    auto& arguments = options.arguments;
    if (std::find(arguments.begin(), arguments.end(), "--transport") == arguments.end())
      arguments.insert(arguments.end(), {"--transport", "plain tcp"});
    return options;
  }
};

}  // namespace forebay::test
