// SPDX-License-Identifier: Apache-2.0
// What forebay-poold can be told, by flag.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <variant>

#include "spill/pool/log.h"
#include "spill/pool/socket.h"

namespace forebay::spill::pool {

struct Options {
  Address listen{.host = "127.0.0.1", .port = 7117};
  std::uint16_t data_port = 0;  // 0: any
  std::uint64_t capacity_bytes = 0;
  std::uint64_t slab_bytes = 0;
  std::uint64_t tenant_bytes_max = 0;
  std::chrono::seconds forget_tenants_after{0};
  std::string name;
  std::string key_file;
  std::string make_key;  // this, and nothing else
  std::string transport = "auto";
  LogLevel log_level = LogLevel::info;
  int ready_fd = -1;
  bool insecure = false;
  bool drop = false;
  bool fresh = false;
};

// The options, or the status to exit with: after --help and --version, which print, and after
// errors, which name the option.
std::variant<Options, int> read_options(int argc, const char* const* argv);

}  // namespace forebay::spill::pool
