// SPDX-License-Identifier: Apache-2.0
// A pool in a process of its own: one server over libfabric with one slab, which the test sees as
// well and can therefore look into whatever has become of the server.
#pragma once

#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "spill/fabric/factory.h"
#include "spill/fabric/library.h"
#include "tests/support/child_process.h"

namespace forebay::test {

// Shared with children that are forked later.
class SharedBytes {
 public:
  explicit SharedBytes(std::size_t size) : size_(size) {
    void* const start = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    start_ = static_cast<std::byte*>(start);
  }
  ~SharedBytes() { ::munmap(start_, size_); }
  SharedBytes(const SharedBytes&) = delete;
  SharedBytes& operator=(const SharedBytes&) = delete;

  std::span<std::byte> bytes() const { return {start_, size_}; }

 private:
  std::byte* start_ = nullptr;
  std::size_t size_;
};

// Those of libfabric that every machine has.
inline std::vector<std::string> providers_here() {
  const auto library = spill::fabric::libfabric();
  if (!library) throw std::runtime_error(library.error().message());
  const bool native = FI_VERSION_GE((*library)->version(), FI_VERSION(1, 18));
  return {native ? "tcp" : "net", "tcp;ofi_rxm"};
}

class FabricServerProcess {
 public:
  // Threads of the test's, links included, are to start later: the process is forked.
  FabricServerProcess(const std::string& provider, std::size_t slab_bytes)
      : FabricServerProcess(provider, slab_bytes, Starts::later) {
    start();
  }
  enum class Starts { later };
  FabricServerProcess(const std::string& provider, std::size_t slab_bytes, Starts)
      : slab_(slab_bytes), facts_(sizeof(Facts)) {
    auto* const facts = new (facts_.bytes().data()) Facts;
    facts_of_child_ = facts;
    child_ = std::make_unique<ChildProcess>([&](Moments& moments) {
      moments.wait();
      auto server = spill::make_fabric_server({.service = facts->port, .provider = provider});
      require(server.has_value(), server ? "" : server.error().message());
      const auto key = (*server)->expose(slab_.bytes(), forebay::spill::SlabAccess::read_write);
      require(key.has_value(), key ? "" : key.error().message());
      const auto address = (*server)->address();
      facts->key = *key;
      facts->address_size = address.size();
      std::memcpy(facts->address, address.data(), address.size());
      std::strncpy(facts->transport, (*server)->transport().c_str(), sizeof facts->transport - 1);
      moments.reached();
      while (true) {
        moments.wait();
        (*server)->withdraw(*key);
        moments.reached();
      }
    });
  }
  void start(const std::string& port = "") {
    std::strncpy(facts_of_child_->port, port.c_str(), sizeof facts_of_child_->port - 1);
    child_->release();
    child_->await();
  }

  std::span<std::byte> slab() const { return slab_.bytes(); }
  spill::SlabKey key() const { return facts_of_child_->key; }
  std::string transport() const { return facts_of_child_->transport; }
  std::vector<std::byte> address() const {
    return {facts_of_child_->address, facts_of_child_->address + facts_of_child_->address_size};
  }
  // Its address is an IPv4 one, behind the format.
  std::string port() const {
    const auto* const at = reinterpret_cast<const unsigned char*>(facts_of_child_->address) + 4 + 2;
    return std::to_string(at[0] * 256 + at[1]);
  }
  ChildProcess& process() { return *child_; }
  void withdraw() {
    child_->release();
    child_->await();
  }

  std::unique_ptr<spill::DataLink> link(std::size_t chunk_bytes = std::size_t{1} << 20U) const {
    auto made = spill::make_fabric_link(transport(), address(), {.chunk_bytes = chunk_bytes});
    if (!made) throw std::runtime_error(made.error().message());
    return std::move(*made);
  }

 private:
  struct Facts {
    spill::SlabKey key;
    std::size_t address_size = 0;
    std::byte address[1024] = {};
    char transport[64] = {};
    char port[16] = {};  // set by the test
  };
  SharedBytes slab_;
  SharedBytes facts_;
  Facts* facts_of_child_ = nullptr;
  std::unique_ptr<ChildProcess> child_;
};

// Stops it, and returns when every thread of it has stopped: until then it may still answer.
inline void stand_still(ChildProcess& process) {
  process.signal(SIGSTOP);
  const std::filesystem::path tasks = "/proc/" + std::to_string(process.pid()) + "/task";
  const auto all_stopped = [&] {
    for (const auto& task : std::filesystem::directory_iterator(tasks)) {
      std::ifstream file(task.path() / "stat");
      std::string stat;
      std::getline(file, stat);
      const std::size_t name_ends = stat.rfind(") ");
      if (name_ends == std::string::npos || stat.substr(name_ends + 2, 1) != "T") return false;
    }
    return true;
  };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!all_stopped() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
}

}  // namespace forebay::test
