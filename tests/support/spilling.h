// SPDX-License-Identifier: Apache-2.0
// A daemon with pools and a folder to spill to, each in a place of the test's own, and segments that
// tell from their bytes whose they are.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "store/client.h"
#include "tests/support/daemon_process.h"
#include "tests/support/eventually.h"
#include "tests/support/outcome.h"
#include "tests/support/payload.h"
#include "tests/support/pool_process.h"
#include "tests/support/status.h"
#include "tests/support/temp_dir.h"

namespace forebay::test {

inline constexpr std::size_t mib = std::size_t{1} << 20U;

// Whoever waits for a tier is answered within two seconds; one more is for a loaded machine.
inline constexpr std::chrono::milliseconds answered_within{3000};

class SpillingStore {
 public:
  struct Options {
    unsigned pools = 1;
    bool disk = false;
    std::string capacity = "24MiB";
    PoolServerProcess::Options pool = {.capacity = "128MiB"};
    std::vector<std::string> arguments = {};              // of the daemon
    std::map<std::string, std::string> environment = {};  // of the daemon
    std::string pool_key = {};                            // empty: that of the pools
    bool await_tiers = true;
  };

  SpillingStore() : SpillingStore(Options()) {}
  explicit SpillingStore(Options options) {
    for (unsigned i = 0; i < options.pools; ++i) {
      PoolServerProcess::Options made = options.pool;
      if (!pools_.empty()) made.key_file = pools_.front()->key_file();
      pools_.push_back(std::make_unique<PoolServerProcess>(std::move(made)));
    }
    daemon_options_.capacity = options.capacity;
    daemon_options_.environment = options.environment;
    auto& arguments = daemon_options_.arguments;
    if (!pools_.empty()) {
      std::string addresses;
      for (const auto& pool : pools_) addresses += (addresses.empty() ? "" : ",") + pool->address();
      arguments = {"--pools", addresses};
      if (pools_.front()->secured())
        arguments.insert(arguments.end(),
                         {"--pool-key", options.pool_key.empty() ? pools_.front()->key_file()
                                                                 : options.pool_key});
      else
        arguments.push_back("--pool-insecure");
    }
    if (options.disk) arguments.insert(arguments.end(), {"--spill-dir", disk()});
    arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
    daemon_.emplace(daemon_options_);
    if (options.await_tiers) await_tiers();
  }

  PoolServerProcess& pool(std::size_t i = 0) { return *pools_.at(i); }
  DaemonProcess& daemon() { return *daemon_; }
  std::string disk() const { return directory_ / "spill"; }
  Client connect() const { return daemon_->connect(); }
  inline void await_tiers() const;
  // Once it has been killed: the same daemon, and where it is to die next.
  void start_again(const std::string& failpoints = {}) {
    DaemonProcess::Options options = daemon_options_;
    options.environment.clear();
    if (!failpoints.empty()) options.environment["FOREBAY_FAILPOINTS"] = failpoints;
    daemon_->start(options);
  }

 private:
  TempDir directory_;
  std::vector<std::unique_ptr<PoolServerProcess>> pools_;
  DaemonProcess::Options daemon_options_;
  std::optional<DaemonProcess> daemon_;  // ends before the pools do
};

// What the daemon says of one of its tiers.
struct TierLine {
  std::string text;
  bool up = false;
  std::uint64_t used_bytes = 0;
};
inline TierLine tier_line(const Client& client, std::size_t number) {
  std::istringstream lines(must(client.status()));
  const std::string start = "tier_" + std::to_string(number) + " ";
  TierLine tier;
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(start)) tier.text = line.substr(start.size());
  const auto up = tier.text.find(" up ");
  const auto down = tier.text.find(" down ");
  tier.up = up < down;
  const auto number_at = tier.up ? up + 4 : down + 6;
  if (number_at < tier.text.size()) tier.used_bytes = std::stoull(tier.text.substr(number_at));
  return tier;
}
inline bool tier_becomes(const Client& client, std::size_t number, bool up,
                         std::chrono::milliseconds within = patience) {
  return eventually([&] { return tier_line(client, number).up == up; }, within);
}

void SpillingStore::await_tiers() const {
  const Client client = connect();
  if (!eventually([&] { return must(client.status()).find(" down ") == std::string::npos; }))
    throw std::runtime_error("a tier does not come up:\n" + must(client.status()));
}

inline constexpr PutOptions put_patiently{.timeout = std::chrono::seconds(10)};

inline std::string numbered(const std::string& prefix, std::size_t i) {
  return prefix + "/" + std::to_string(i);
}

inline void put_payload(Client& client, const std::string& id, std::size_t size) {
  const auto bytes = payload(size, id, 1);
  must(client.put(id, bytes, put_patiently));
}
inline void put_many_payloads(Client& client, const std::string& prefix, std::size_t count,
                              std::size_t size) {
  for (std::size_t i = 0; i < count; ++i) put_payload(client, numbered(prefix, i), size);
}

// Nothing, if the segment is there with its bytes; else what is wrong.
inline std::string wrong_payload(const Client& client, const std::string& id, std::size_t size,
                                 const GetOptions& options = {}) {
  const auto view = client.get(id, options);
  if (!view) return view.error().message();
  return wrong_bytes(view->bytes(), size, id, 1);
}
inline std::string wrong_payloads(const Client& client, const std::string& prefix,
                                  std::size_t count, std::size_t size) {
  for (std::size_t i = 0; i < count; ++i) {
    std::string wrong = wrong_payload(client, numbered(prefix, i), size);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

inline Result<std::uint64_t> spill_one(Client& client, const std::string& id) {
  const SegmentName name{.id = id};
  return client.spill({&name, 1});
}
inline bool in_memory(const Client& client, const std::string& id) {
  return must(client.where({.id = id})).in_memory;
}

}  // namespace forebay::test
