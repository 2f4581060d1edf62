// SPDX-License-Identifier: Apache-2.0
// Ref: a small value that names one segment for good, in any process of the node and in any language.
//
// As text: forebay:<store uuid>/<namespace>/<percent-encoded id>@<version>#<serial>. A ref holds no
// pin: the segment may be gone when it is used, and then the answer is an error, never other bytes,
// because the serial is never given to another segment.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "store/array_type.h"
#include "store/error.h"

namespace forebay {

using StoreUuid = std::array<std::uint8_t, 16>;

// "3f2a…": 32 hexadecimal digits in five groups.
FOREBAY_API std::string format_uuid(const StoreUuid& uuid);

struct Ref {
  StoreUuid store{};
  std::string namespace_name = "default";
  std::string id;
  std::uint64_t version = 0;
  std::uint64_t serial = 0;
  // What its maker said the bytes are. A hint for schedulers and reprs: not part of the text, and
  // never believed over the store's own record.
  std::optional<ArrayType> type;

  FOREBAY_API std::string to_string() const;
  // Fails with bad_argument, naming the part that does not fit.
  FOREBAY_API static Result<Ref> parse(std::string_view text);

  bool operator==(const Ref& other) const {
    return store == other.store && serial == other.serial &&
           namespace_name == other.namespace_name && id == other.id && version == other.version;
  }
};

}  // namespace forebay
