// SPDX-License-Identifier: Apache-2.0
// What forebayd can be told: by flag, by environment (FOREBAY_CAPACITY for --capacity, and so on), by
// a TOML file (capacity = "8GiB"), in this order.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>

#include "store/shm/layout.h"

namespace forebay::daemon {

struct Options {
  std::string socket;
  std::string capacity;   // sizes as text: a percentage needs to know of what
  std::string reserve;
  std::string keep_warm;
  std::uint32_t max_segments = shm::Limits{}.entries;
  std::uint32_t max_processes = shm::Limits{}.processes;
  std::string log_file;
  std::string log_level = "info";
  std::string memory = "named";
  std::string huge_pages = "auto";
  std::uint32_t keep = 0;
  std::uint32_t idle_exit_seconds = 0;
  bool drop = false;
  std::string pools;
  std::string pool_key;
  bool pool_insecure = false;
  std::string pool_transport = "auto";
  std::string spill_dir;
  std::string disk_capacity;
  std::uint32_t replicas = 1;
  std::string compress = "none";
  std::string on_full = "spill";
  std::string clean_above;
  std::string trace;
  // By flag alone: what one run is to do, not how a store is to be.
  bool detach = false;
  bool embedded = false;
  bool fresh = false;
  bool supervise = false;
  bool list_failpoints = false;

  // By option ("--pools"), of those that were not given as flags: "/etc/forebayd.toml: line 3".
  std::map<std::string, std::string> places;
  // What is wrong with the value of an option, with the place that it came from in front of the option.
  std::string with_place(std::string sentence) const;
};

// The options, or the status to exit with: after --help, --version or --print-config, which print, and
// after errors, which name the flag, the variable, or the line of the file, and the nearest name that
// there is.
std::variant<Options, int> read_options(int argc, const char* const* argv);

}  // namespace forebay::daemon
