// SPDX-License-Identifier: Apache-2.0
#include "store/id.h"

namespace forebay {
namespace {

constexpr std::size_t shown_bytes_max = 64;

}  // namespace

Result<void> check_id(std::string_view id) {
  if (is_id(id)) return {};
  return fail(Errc::bad_id, "an id of " + std::to_string(id.size()) + " bytes (" + shown(id) +
                                "); an id is 1 to 255 bytes");
}

std::string shown(std::string_view id, std::uint64_t version) {
  static constexpr std::string_view digits = "0123456789abcdef";
  std::string text = "'";
  for (const char c : id.substr(0, shown_bytes_max)) {
    if (c >= ' ' && c <= '~') {
      text += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      text += {'\\', 'x', digits[byte >> 4U], digits[byte & 0xfU]};
    }
  }
  text += id.size() > shown_bytes_max ? "…'" : "'";
  return version == 0 ? text : text + " version " + std::to_string(version);
}

}  // namespace forebay
