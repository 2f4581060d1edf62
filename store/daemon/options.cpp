// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/options.h"

#include <toml++/toml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <vector>

#include "store/shm/guard.h"
#include "store/units.h"
#include "store/version.h"

namespace forebay::daemon {
namespace {

// Each pin table is a guarded range, and index and arena are two more.
constexpr std::uint32_t processes_max = 8190;
static_assert(processes_max + 2 <= shm::Guard::guards_max);

// An error that is told to whoever started the daemon.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a percentage is taken of does not matter for whether it is one.
std::string check_size(const std::string& text) {
  const auto bytes = parse_size(text, tebibyte);
  return bytes ? std::string() : bytes.error().detail;
}

// Levenshtein's distance, over one row of its table.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, replaced});
    }
  }
  return row.back();
}

class Reader {
 public:
  Reader();
  std::variant<Options, int> read(int argc, const char* const* argv);

 private:
  // A setting: an option that the environment and a file may give, too.
  CLI::Option* setting(CLI::Option* option) {
    settings_.push_back(option);
    return option;
  }
  static std::string key_of(const CLI::Option* option) { return option->get_name().substr(2); }
  static std::string variable_of(const CLI::Option* option) {
    std::string name = "FOREBAY_" + key_of(option);
    std::ranges::transform(name, name.begin(), [](unsigned char c) {
      return c == '-' ? '_' : static_cast<char>(std::toupper(c));
    });
    return name;
  }
  CLI::Option* find(std::string_view key) const {
    const auto found = std::ranges::find_if(
        settings_, [&](const CLI::Option* option) { return key_of(option) == key; });
    return found == settings_.end() ? nullptr : *found;
  }
  std::string nearest(std::string_view key) const;
  void apply(CLI::Option* option, const std::string& value, const std::string& place);
  void apply_environment();
  void apply_file(const std::string& path);
  void print() const;

  Options options_;
  std::string file_;
  bool print_ = false;
  CLI::App app_{"forebayd: the store of shared, read-only segments of this node"};
  std::vector<CLI::Option*> settings_;
  std::map<const CLI::Option*, std::string> places_;  // where a setting came from
};

Reader::Reader() {
  app_.set_version_flag("--version", std::string("forebayd ") + version_text);
  app_.footer(
      "Each option of the first group may also be given as a variable (FOREBAY_MAX_SEGMENTS for\n"
      "--max-segments) or in the TOML file (max-segments = 100000). A flag wins over a variable, and a\n"
      "variable over the file.");
  const CLI::Validator size(check_size, "SIZE");
  setting(app_.add_option(
      "--socket", options_.socket,
      "path of the socket (default: $FOREBAY_SOCKET, else this user's own)"));
  setting(app_.add_option("--capacity", options_.capacity,
                          "memory for segments: 8GiB, or 50% of the RAM (default: half of the RAM, "
                          "as far as /dev/shm and control group allow)"))
      ->check(size);
  setting(app_.add_option(
              "--reserve", options_.reserve,
              "memory kept ready ahead of demand (default: 128MiB, at most 1/8 of capacity)"))
      ->check(size);
  setting(app_.add_option(
              "--keep-warm", options_.keep_warm,
              "freed memory kept for reuse; more is given back (default: 50% of capacity)"))
      ->check(size);
  setting(app_.add_option("--max-segments", options_.max_segments,
                          "entries that the index may grow to"))
      ->check(CLI::Range(1024U, (1U << 24U)))
      ->capture_default_str();
  setting(app_.add_option("--max-processes", options_.max_processes, "client processes at a time"))
      ->check(CLI::Range(1U, processes_max))
      ->capture_default_str();
  setting(app_.add_option("--log-file", options_.log_file, "where to log (default: standard error)"));
  setting(app_.add_option("--log-level", options_.log_level, "debug, info, warning or error"))
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  setting(app_.add_option("--memory", options_.memory,
                          "named: POSIX shared memory; kept: sealed memfds, held by a descriptor "
                          "keeper"))
      ->check(CLI::IsMember({"named", "kept"}))
      ->capture_default_str();
  setting(app_.add_option("--huge-pages", options_.huge_pages,
                          "auto: use them if the kernel gives shared memory any (/dev/shm mounted "
                          "with huge=advise, or shmem_enabled for --memory kept); never"))
      ->check(CLI::IsMember({"auto", "never"}))
      ->capture_default_str();
  setting(app_.add_option("--keep", options_.keep,
                          "how many versions of an id stay if it says nothing itself (default: all)"))
      ->check(CLI::Range(1U, shm::keep_all - 1));
  setting(app_.add_option("--idle-exit", options_.idle_exit_seconds,
                          "seconds after the last client has gone at which to end (default: never; "
                          "600 if --embedded)"));
  setting(app_.add_flag("--drop", options_.drop, "when it ends, drop all segments"));
  setting(app_.add_option("--pools", options_.pools,
                          "memory servers (forebay-poold) that segments spill to: host:port, "
                          "host:port=weight, …"));
  setting(app_.add_option("--pool-key", options_.pool_key,
                          "file with the key of the pools, readable by this user alone"));
  setting(app_.add_flag("--pool-insecure", options_.pool_insecure,
                        "use pools without a key: everybody who reaches them reads and writes"));
  setting(app_.add_option("--pool-transport", options_.pool_transport,
                          "auto, plain tcp, or the name of a libfabric provider"))
      ->capture_default_str();
  setting(app_.add_option("--spill-dir", options_.spill_dir,
                          "folder on a local disk that segments spill to, behind the pools"));
  setting(app_.add_option("--disk-capacity", options_.disk_capacity,
                          "bytes that the folder may hold (default: 64GiB)"))
      ->check(size);
  setting(app_.add_option("--replicas", options_.replicas,
                          "in so many pools each spilled segment lies"))
      ->check(CLI::Range(1U, 2U))
      ->capture_default_str();
  setting(app_.add_option("--compress", options_.compress,
                          "what is spilled: none, lz4 or zstd"))
      ->check(CLI::IsMember({"none", "lz4", "zstd"}))
      ->capture_default_str();
  setting(app_.add_option("--on-full", options_.on_full,
                          "spill: cold segments go to the tiers; error: creates fail, and only what "
                          "is asked for is spilled"))
      ->check(CLI::IsMember({"spill", "error"}))
      ->capture_default_str();
  setting(app_.add_option("--clean-above", options_.clean_above,
                          "with so much in use, cold segments are copied to the tiers ahead of need "
                          "(default: 70% of capacity)"))
      ->check(size);
  setting(app_.add_option("--trace", options_.trace,
                          "write which segments are made, read and removed to this file (CSV)"));

  const std::string run = "This run";
  app_.add_option("--config", file_, "the TOML file (default: $FOREBAY_CONFIG)")->group(run);
  app_.add_flag("--print-config", print_, "print all settings and where they come from, and end")
      ->group(run);
  app_.add_flag("--embedded", options_.embedded,
                "started by a client: ends when it is idle, dropping what is not persistent")
      ->group(run);
  app_.add_flag("--detach", options_.detach, "go to the background once the socket listens")
      ->group(run);
  app_.add_flag("--fresh", options_.fresh, "drop the store that a former daemon left")->group(run);
  app_.add_flag("--supervise", options_.supervise,
                "run as descriptor keeper: start forebayd with --memory kept, and again if it dies")
      ->group(run);
  app_.add_flag("--list-failpoints", options_.list_failpoints,
                "name the daemon's failpoints and end")
      ->group(run);
}

std::string Reader::nearest(std::string_view key) const {
  const auto found = std::ranges::min_element(settings_, {}, [&](const CLI::Option* option) {
    return distance(key, key_of(option));
  });
  return key_of(*found);
}

void Reader::apply(CLI::Option* option, const std::string& value, const std::string& place) {
  try {
    option->add_result(value);
    option->run_callback();
  } catch (const CLI::Error& error) {
    throw Refused(place + ": " + error.what());
  }
  places_[option] = place;
  options_.places[option->get_name()] = place;
}

void Reader::apply_environment() {
  for (CLI::Option* const option : settings_) {
    if (option->count() > 0) {
      places_[option] = option->get_name();
      continue;
    }
    const std::string variable = variable_of(option);
    const char* const value = std::getenv(variable.c_str());
    if (value != nullptr && *value != '\0') apply(option, value, variable);
  }
}

void Reader::apply_file(const std::string& path) {
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    const auto line = error.source().begin.line;
    throw Refused(path + ": " + (line > 0 ? "line " + std::to_string(line) + ": " : "") +
                  std::string(error.description()));
  }
  for (const auto& [name, node] : table) {
    const std::string key(name.str());
    const std::string place = path + ": line " + std::to_string(name.source().begin.line);
    CLI::Option* const option = find(key);
    if (option == nullptr)
      throw Refused(place + ": there is no setting '" + key + "'; the nearest is '" + nearest(key) +
                    "'");
    std::string value;
    if (const auto text = node.value_exact<std::string>()) {
      value = *text;
    } else if (const auto number = node.value_exact<std::int64_t>()) {
      value = std::to_string(*number);
    } else if (const auto flag = node.value_exact<bool>()) {
      value = *flag ? "true" : "false";
    } else {
      throw Refused(place + ": '" + key + "' is text, a whole number, or true or false");
    }
    if (option->count() == 0) apply(option, value, place);
  }
}

// As a TOML file that would say the same.
void Reader::print() const {
  const auto line = [this](const char* key, const auto& value) {
    const CLI::Option* const option = find(key);
    const auto place = places_.find(option);
    const std::string from = place == places_.end() ? "default" : place->second;
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
      if (value.empty())
        std::cout << "# " << key << ": " << option->get_description() << "\n";
      else
        std::cout << key << " = " << toml::value<std::string>(value) << "  # " << from << "\n";
    } else {
      std::cout << key << " = " << std::boolalpha << value << "  # " << from << "\n";
    }
  };
  line("socket", options_.socket);
  line("capacity", options_.capacity);
  line("reserve", options_.reserve);
  line("keep-warm", options_.keep_warm);
  line("max-segments", options_.max_segments);
  line("max-processes", options_.max_processes);
  line("log-file", options_.log_file);
  line("log-level", options_.log_level);
  line("memory", options_.memory);
  line("huge-pages", options_.huge_pages);
  if (options_.keep != 0) line("keep", options_.keep);
  line("idle-exit", options_.idle_exit_seconds);
  line("drop", options_.drop);
  line("pools", options_.pools);
  line("pool-key", options_.pool_key);
  line("pool-insecure", options_.pool_insecure);
  line("pool-transport", options_.pool_transport);
  line("spill-dir", options_.spill_dir);
  line("disk-capacity", options_.disk_capacity);
  line("replicas", options_.replicas);
  line("compress", options_.compress);
  line("on-full", options_.on_full);
  line("clean-above", options_.clean_above);
  line("trace", options_.trace);
}

std::variant<Options, int> Reader::read(int argc, const char* const* argv) {
  try {
    app_.parse(argc, argv);
  } catch (const CLI::ExtrasError&) {
    const std::string extra = app_.remaining().front();
    std::cerr << "forebayd: there is no option '" << extra << "'; the nearest is '--"
              << nearest(extra.substr(std::min(extra.find_first_not_of('-'), extra.size())))
              << "' (see forebayd --help)\n";
    return 2;
  } catch (const CLI::ParseError& error) {
    return app_.exit(error) == 0 ? 0 : 2;
  }
  try {
    apply_environment();
    if (const char* const variable = std::getenv("FOREBAY_CONFIG");
        file_.empty() && variable != nullptr)
      file_ = variable;
    if (!file_.empty()) apply_file(file_);
  } catch (const Refused& refused) {
    std::cerr << "forebayd: " << refused.what() << "\n";
    return 2;
  }
  if (print_) {
    print();
    return 0;
  }
  return options_;
}

}  // namespace

std::string Options::with_place(std::string sentence) const {
  for (const auto& [option, place] : places)
    if (const auto at = sentence.find(option + ": "); at != std::string::npos)
      return sentence.insert(at, place + ": ");
  return sentence;
}

std::variant<Options, int> read_options(int argc, const char* const* argv) {
  return Reader().read(argc, argv);
}

}  // namespace forebay::daemon
