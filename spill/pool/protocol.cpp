// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/protocol.h"

#include "store/version.h"

namespace forebay::spill::pool {

Outcome Outcome::of(const Error& error) {
  return {.code = error.code.value(),
          .of_system = error.code.category() != forebay_category(),
          .why = error.detail};
}

Error Outcome::error() const {
  // A number that this side does not know would be an error without a name.
  if (!of_system && (code < 1 || code > errc_last))
    return {make_error_code(Errc::tier_down), why};
  return {{code, of_system ? std::system_category() : forebay_category()}, why};
}

std::string software() { return std::string("forebay ") + version_text; }

bool fits_software(const std::string& other) {
  const std::string mine = software();
  const std::string major = mine.substr(0, mine.find('.') + 1);
  return other.starts_with(major);
}

}  // namespace forebay::spill::pool
