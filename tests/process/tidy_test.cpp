// SPDX-License-Identifier: Apache-2.0
// Holds the sources themselves to the order that store/README.md describes.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Include {
  std::string file;  // from the root, as "store/shm/mapping.cpp"
  std::string target;
};

std::vector<std::string> sources(const std::vector<std::string>& folders) {
  std::vector<std::string> found;
  for (const std::string& folder : folders)
    for (const auto& item :
         fs::recursive_directory_iterator(fs::path(FOREBAY_SOURCE_DIR) / folder)) {
      const std::string extension = item.path().extension();
      if (extension == ".h" || extension == ".cpp" || extension == ".c")
        found.push_back(fs::relative(item.path(), FOREBAY_SOURCE_DIR));
    }
  return found;
}

std::vector<Include> includes() {
  std::vector<Include> found;
  for (const std::string& file : sources({"store", "spill", "bindings"})) {
    std::ifstream text(fs::path(FOREBAY_SOURCE_DIR) / file);
    std::string line;
    while (std::getline(text, line)) {
      if (!line.starts_with("#include ")) continue;
      const std::size_t start = line.find_first_of("<\"") + 1;
      found.push_back({file, line.substr(start, line.find_first_of(">\"", start) - start)});
    }
  }
  return found;
}

// The layer that a file of ours belongs to.
std::string layer_of(const std::string& path) {
  for (const char* layer : {"store/shm/", "store/wire/", "store/client/", "store/daemon/",
                            "store/tool/", "spill/", "bindings/c/", "bindings/python/"})
    if (path.starts_with(layer)) return layer;
  return path.starts_with("store/") ? "store/" : "";
}

TEST_SUITE("tidy") {
  TEST_CASE("includes point downwards: contract < shm < wire < client | daemon") {
    const std::map<std::string, std::set<std::string>> allowed{
        {"store/", {"store/"}},
        {"store/shm/", {"store/", "store/shm/"}},
        {"store/wire/", {"store/", "store/shm/", "store/wire/"}},
        {"store/client/", {"store/", "store/shm/", "store/wire/", "store/client/"}},
        {"store/daemon/", {"store/", "store/shm/", "store/wire/", "store/daemon/"}},
        {"store/tool/", {"store/"}},
        {"spill/", {"store/", "spill/"}},
        {"bindings/c/", {"store/", "bindings/c/"}},
        {"bindings/python/", {"store/", "store/shm/", "bindings/python/"}},
    };
    int counted = 0;
    for (const Include& include : includes()) {
      const std::string target = layer_of(include.target);
      // Failpoints are for whoever is to be killed; only forebayd's main puts the tiers and the daemon
      // together.
      if (target.empty() || include.target == "store/shm/failpoint.h" ||
          (include.file == "store/daemon/main.cpp" && target == "spill/"))
        continue;
      ++counted;
      CHECK_MESSAGE(allowed.at(layer_of(include.file)).contains(target), include.file, " includes ",
                    include.target);
    }
    CHECK(counted > 100);
  }

  TEST_CASE("each package is included from its own folder alone") {
    const std::map<std::string, std::string> homes{
        {"boost/interprocess", "store/shm/"}, {"cereal/", "store/wire/"},
        {"xxhash.h", "store/shm/"},           {"spdlog/", "store/daemon/"},
        {"pybind11/", "bindings/python/"},    {"numpy/", "bindings/python/"},
        {"rdma/", "spill/fabric/"},           {"isa-l", "spill/"},
        {"lz4", "spill/"},                    {"zstd", "spill/"},
        {"openssl/", "spill/pool/"},                 {"doctest/", "tests/"}};
    int counted = 0;
    for (const Include& include : includes())
      for (const auto& [package, home] : homes) {
        if (!include.target.starts_with(package)) continue;
        ++counted;
        CHECK_MESSAGE(include.file.starts_with(home), include.file, " includes ", include.target);
      }
    CHECK(counted > 10);
  }

  TEST_CASE("public headers show nothing of what is below them") {
    for (const Include& include : includes())
      if (layer_of(include.file) == "store/" && include.file.ends_with(".h"))
        CHECK_MESSAGE((include.target.find('/') == std::string::npos ||
                       layer_of(include.target) == "store/"),
                      include.file, " includes ", include.target);
  }

  TEST_CASE("no lock lives in shared memory") {
    for (const std::string& file : sources({"store/shm"})) {
      if (!file.ends_with("layout.h") && !file.ends_with("protocol.h") &&
          !file.ends_with("buckets.h"))
        continue;
      std::ifstream text(fs::path(FOREBAY_SOURCE_DIR) / file);
      std::string line;
      while (std::getline(text, line)) {
        if (line.find("//") != std::string::npos) line.resize(line.find("//"));
        CHECK_MESSAGE(line.find("mutex") == std::string::npos, file, ": ", line);
      }
    }
  }

  TEST_CASE("every source says its licence") {
    for (const std::string& file : sources({"store", "bindings", "tests", "bench"})) {
      std::ifstream text(fs::path(FOREBAY_SOURCE_DIR) / file);
      std::string first;
      std::getline(text, first);
      CHECK_MESSAGE(first.find("SPDX-License-Identifier: Apache-2.0") != std::string::npos, file);
    }
  }
}

}  // namespace
