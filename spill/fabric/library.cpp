// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/library.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <string>

#include "spill/fabric/error.h"

namespace forebay::spill::fabric {

namespace {

template <class Function>
bool find(void* library, const char* name, Function& into, std::string& missing) {
  into = reinterpret_cast<Function>(::dlsym(library, name));
  if (into == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(name);
  return into != nullptr;
}

}  // namespace

Result<Library> open_library(const char* file) {
  // Deep binding is not wanted: malloc has to be the program's.
  void* const opened = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) {
    const char* const why = ::dlerror();
    return fail(fabric_error(FI_ENOSYS, std::string("libfabric cannot be opened (") +
                                            (why != nullptr ? why : file) +
                                            "); install it (libfabric1) or use plain tcp"));
  }
  Library found;
  std::string missing;
  find(opened, "fi_getinfo", found.getinfo, missing);
  find(opened, "fi_freeinfo", found.freeinfo, missing);
  find(opened, "fi_dupinfo", found.dupinfo, missing);
  find(opened, "fi_fabric", found.open_fabric, missing);
  find(opened, "fi_version", found.version, missing);
  find(opened, "fi_strerror", found.strerror, missing);
  if (!missing.empty())
    return fail(fabric_error(FI_ENOSYS, std::string(file) + " has no " + missing +
                                            ": it is not a libfabric; use plain tcp"));
  if (FI_VERSION_LT(found.version(), api_version))
    return fail(fabric_error(FI_ENOSYS, std::string(file) + " is version " +
                                            version_text(found.version()) + ", and " +
                                            version_text(api_version) +
                                            " is needed; upgrade it or use plain tcp"));
  return found;
}

Result<const Library*> libfabric() {
  static const Result<Library> opened = [] {
    // libfabric's own cache of registrations does not see holes punched into shared memory, and
    // would later let a transfer write into pages that are no longer there.
    ::setenv("FI_MR_CACHE_MAX_COUNT", "0", 0);
    return open_library("libfabric.so.1");
  }();
  if (!opened) return fail(opened.error());
  return &*opened;
}

}  // namespace forebay::spill::fabric
