// SPDX-License-Identifier: Apache-2.0
#include "store/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace forebay {
namespace {

struct Unit {
  std::string_view name;
  std::uint64_t bytes;
};
constexpr std::array<Unit, 5> units{
    {{"TiB", tebibyte}, {"GiB", gibibyte}, {"MiB", mebibyte}, {"KiB", kibibyte}, {"B", 1}}};

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// The factor of a unit's text, 0 if there is no such unit.
std::uint64_t factor_of(std::string_view text) {
  if (text.empty()) return 1;
  const std::string_view rest = text.substr(1);
  const bool plain = rest.empty() || (rest.size() == 1 && lower(rest[0]) == 'b') ||
                     (rest.size() == 2 && lower(rest[0]) == 'i' && lower(rest[1]) == 'b');
  switch (lower(text[0])) {
    case 'b':
      return rest.empty() ? 1 : 0;
    case 'k':
      return plain ? kibibyte : 0;
    case 'm':
      return plain ? mebibyte : 0;
    case 'g':
      return plain ? gibibyte : 0;
    case 't':
      return plain ? tebibyte : 0;
    default:
      return 0;
  }
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text, std::uint64_t whole_bytes) {
  const auto refuse = [text](const char* why) {
    return fail(Errc::bad_argument, "size '" + std::string(text) + "' " + why +
                                        "; write bytes, or a number with KiB, MiB, GiB or TiB, "
                                        "as in 512MiB");
  };
  double number = 0;
  const auto [rest, status] = std::from_chars(text.data(), text.data() + text.size(), number,
                                              std::chars_format::fixed);
  if (status != std::errc{}) return refuse("does not start with a number");
  if (number < 0) return refuse("is negative");
  std::string_view unit(rest, static_cast<std::size_t>(text.data() + text.size() - rest));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);

  if (unit == "%") {
    if (whole_bytes == 0) return refuse("is a share of something that has no size here");
    if (number > 100) return refuse("is more than the whole");
    return static_cast<std::uint64_t>(static_cast<double>(whole_bytes) * number / 100);
  }
  const std::uint64_t factor = factor_of(unit);
  if (factor == 0) return refuse("has an unknown unit");
  const double bytes = number * static_cast<double>(factor);
  if (!(bytes < 9.2e18)) return refuse("is larger than any memory");
  return static_cast<std::uint64_t>(std::llround(bytes));
}

std::string format_size(std::uint64_t bytes) {
  for (const Unit& unit : units) {
    if (bytes < unit.bytes && unit.bytes > 1) continue;
    std::array<char, 32> text{};
    const double number = static_cast<double>(bytes) / static_cast<double>(unit.bytes);
    const bool whole = bytes % unit.bytes == 0 || number >= 100;
    std::snprintf(text.data(), text.size(), whole ? "%.0f %s" : "%.1f %s", number,
                  unit.name.data());
    return text.data();
  }
  return "0 B";
}

}  // namespace forebay
