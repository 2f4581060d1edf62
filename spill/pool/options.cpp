// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/options.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <map>

#include "store/units.h"
#include "store/version.h"

namespace forebay::spill::pool {
namespace {

struct Sizes {
  std::string capacity = "1GiB";
  std::string slab = "64MiB";
  std::string tenant = "0";
};

// False: said on standard error.
bool read_size(const char* option, const std::string& text, std::uint64_t least,
               std::uint64_t& bytes) {
  const auto size = parse_size(text);
  if (size && *size >= least) {
    bytes = *size;
    return true;
  }
  std::cerr << "forebay-poold: " << option << ": "
            << (size ? "at least " + format_size(least) + ", not " + text : size.error().detail)
            << "\n";
  return false;
}

}  // namespace

std::variant<Options, int> read_options(int argc, const char* const* argv) {
  Options options;
  Sizes sizes;
  std::string listen = options.listen.text();
  std::uint64_t forget_seconds = 0;
  CLI::App app{"forebay-poold: lends memory of this node to the stores of a cluster"};
  app.set_version_flag("--version", std::string("forebay-poold ") + version_text);
  app.footer(
      "What a store puts into the pool stays until that store frees it, also when it does not\n"
      "come back: --forget-tenants-after changes that. With --name, the memory outlives the\n"
      "process, and the next pool of that name has it; a reboot ends it in any case.");
  app.add_option("--listen", listen, "host:port to serve at; port 0: any, which is printed")
      ->capture_default_str();
  app.add_option("--data-port", options.data_port, "port of the data plane (default: any)");
  app.add_option("--capacity", sizes.capacity, "memory to lend, all of it taken at the start")
      ->capture_default_str();
  app.add_option("--slab", sizes.slab, "memory that a store is lent at a time")
      ->capture_default_str();
  app.add_option("--tenant-limit", sizes.tenant,
                 "memory that one store may have (default: no limit)");
  app.add_option("--forget-tenants-after", forget_seconds,
                 "seconds after which a store that is gone loses its items (default: never)");
  app.add_option("--name", options.name,
                 "keep the memory under this name, and take over what is there");
  app.add_option("--key", options.key_file, "the cluster's key file, mode 0600 or 0400");
  app.add_option("--make-key", options.make_key, "write a new key file of that name, and end");
  app.add_flag("--insecure", options.insecure, "serve whoever comes, without a key");
  app.add_option("--transport", options.transport, "auto, or the name of a data plane: plain tcp")
      ->capture_default_str();
  app.add_option("--log-level", options.log_level, "debug, info, warning or error")
      ->transform(CLI::CheckedTransformer(std::map<std::string, LogLevel>{
          {"debug", LogLevel::debug},
          {"info", LogLevel::info},
          {"warning", LogLevel::warning},
          {"error", LogLevel::error}}));
  app.add_option("--ready-fd", options.ready_fd,
                 "where to write the line 'ready: host:port transport' (default: standard output)");
  app.add_flag("--drop", options.drop, "when it ends, drop what is under --name");
  app.add_flag("--fresh", options.fresh, "drop what a former pool left under --name");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  auto address = parse_address(listen);
  if (!address) {
    std::cerr << "forebay-poold: --listen: " << address.error().detail << "\n";
    return 2;
  }
  options.listen = *address;
  options.forget_tenants_after = std::chrono::seconds(forget_seconds);
  if (!read_size("--capacity", sizes.capacity, mebibyte, options.capacity_bytes) ||
      !read_size("--slab", sizes.slab, 64 * kibibyte, options.slab_bytes) ||
      !read_size("--tenant-limit", sizes.tenant, 0, options.tenant_bytes_max))
    return 2;
  if (options.make_key.empty() && options.key_file.empty() == !options.insecure) {
    std::cerr << "forebay-poold: "
              << (options.insecure
                      ? "--insecure: there is a --key; give one of the two\n"
                      : "--key: a pool serves whoever has the key of the cluster; forebay-poold "
                        "--make-key FILE makes one (or give --insecure)\n");
    return 2;
  }
  return options;
}

}  // namespace forebay::spill::pool
