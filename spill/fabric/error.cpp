// SPDX-License-Identifier: Apache-2.0
#include "spill/fabric/error.h"

#include <rdma/fabric.h>
#include <rdma/fi_errno.h>

#include <array>
#include <cstdlib>
#include <utility>

namespace forebay::spill::fabric {

namespace {

// What is beyond errno.
constexpr std::array own_codes{
    std::pair{int{FI_EOTHER}, "unspecified error"},
    std::pair{int{FI_ETOOSMALL}, "provided buffer is too small"},
    std::pair{int{FI_EOPBADSTATE}, "not permitted in the current state"},
    std::pair{int{FI_EAVAIL}, "an error is available"},
    std::pair{int{FI_EBADFLAGS}, "flags not supported"},
    std::pair{int{FI_ENOEQ}, "no event queue"},
    std::pair{int{FI_EDOMAIN}, "invalid resource domain"},
    std::pair{int{FI_ENOCQ}, "no completion queue"},
    std::pair{int{FI_ECRC}, "checksum error"},
    std::pair{int{FI_ETRUNC}, "truncation"},
    std::pair{int{FI_ENOKEY}, "key not available"},
    std::pair{int{FI_ENOAV}, "no address vector"},
    std::pair{int{FI_EOVERRUN}, "queue overrun"},
    std::pair{int{FI_ENORX}, "receiver not ready"},
};

class FabricCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "fabric"; }
  std::string message(int code) const override {
    if (code < FI_ERRNO_OFFSET) return std::system_category().message(code);
    for (const auto& [known, text] : own_codes)
      if (known == code) return text;
    return "libfabric error " + std::to_string(code);
  }
};

}  // namespace

const std::error_category& fabric_category() noexcept {
  static const FabricCategory category;
  return category;
}

Error fabric_error(std::int64_t code, std::string detail) {
  // A provider of 1.17 negates an error too many (shm).
  return {{static_cast<int>(std::abs(code)), fabric_category()}, std::move(detail)};
}

bool peer_gone(std::int64_t code) noexcept {
  switch (std::abs(code)) {
    case FI_ECANCELED:
    case FI_ENOTCONN:
    case FI_ECONNRESET:
    case FI_ECONNABORTED:
    case FI_ECONNREFUSED:
    case FI_ESHUTDOWN:
    case FI_EHOSTUNREACH:
    case FI_ENETUNREACH:
    case FI_ETIMEDOUT:
    case FI_EIO:
    case FI_EREMOTEIO:
    case FI_ENOENT:
    case FI_EACCES:
    case FI_EAGAIN:
      return true;
    default:
      return false;
  }
}

std::string version_text(std::uint32_t version) {
  return std::to_string(FI_MAJOR(version)) + "." + std::to_string(FI_MINOR(version));
}

}  // namespace forebay::spill::fabric
