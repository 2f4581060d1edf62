// SPDX-License-Identifier: Apache-2.0
// Library: the entry points of libfabric, found when the program runs, so that a machine without it
// still runs with plain TCP. Everything else of libfabric is reached through what these return.
//
// A struct of pointers: tests put a provider of their own in. Constant once it is there, and never
// unloaded, since providers leave threads and handlers behind.
#pragma once

#include <rdma/fabric.h>
#include <rdma/fi_errno.h>

#include <cstdint>

#include "store/error.h"

namespace forebay::spill::fabric {

struct Library {
  int (*getinfo)(std::uint32_t version, const char* node, const char* service, std::uint64_t flags,
                 const fi_info* hints, fi_info** info) = nullptr;
  void (*freeinfo)(fi_info* info) = nullptr;
  fi_info* (*dupinfo)(const fi_info* info) = nullptr;
  int (*open_fabric)(fi_fabric_attr* attributes, fid_fabric** fabric, void* context) = nullptr;
  std::uint32_t (*version)() = nullptr;
  const char* (*strerror)(int code) = nullptr;
};

// What we were written for, and ask of any version.
inline constexpr std::uint32_t api_version = FI_VERSION(1, 15);

// Opened at the first call, which should come before the program has many threads: it puts
// FI_MR_CACHE_MAX_COUNT=0 into the environment unless that is set (see the body). Fails with the
// fabric's ENOSYS and a sentence that names what is missing.
Result<const Library*> libfabric();
// From another file or name; never shared, for tests.
Result<Library> open_library(const char* file);

}  // namespace forebay::spill::fabric
