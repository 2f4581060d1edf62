// SPDX-License-Identifier: Apache-2.0
// The tiers of a node as its configuration names them, put together as one Spill.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "store/error.h"
#include "store/spill.h"

namespace forebay::spill {

struct NodeTierOptions {
  std::array<std::uint8_t, 16> store{};
  struct Pool {
    std::string address;  // host:port
    double weight = 1;    // of what is placed, against the other pools
  };
  std::vector<Pool> pools;
  std::string key_file;
  bool insecure = false;           // without a key
  std::string transport = "auto";  // or a provider of libfabric, or "plain tcp"
  std::string disk_directory;      // empty: no disk
  std::uint64_t disk_capacity_bytes = 0;
  std::function<void(const std::string&)> report;  // one sentence each; from any thread
};

// "10.0.0.7:7117, 10.0.0.8:7117=2": addresses, with their weights where they are not 1.
Result<std::vector<NodeTierOptions::Pool>> parse_pools(const std::string& text);

// Fails with what is wrong with the configuration: a key file that others can read, a folder that
// cannot be trusted. A pool that does not answer is no error: it is a tier that is down.
Result<std::unique_ptr<Spill>> open_node_tiers(const NodeTierOptions& options);

}  // namespace forebay::spill
