// SPDX-License-Identifier: Apache-2.0
#include "store/ref.h"

#include <charconv>

#include "store/id.h"

namespace forebay {
namespace {

constexpr std::string_view scheme = "forebay:";
constexpr std::string_view hex_digits = "0123456789abcdef";

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || c == '.' || c == '~';
}

// The slashes of an id stay readable: the namespace before it has none.
std::string percent_encode(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    if (is_plain(c) || c == '/') {
      text += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      text += '%';
      text += hex_digits[byte >> 4U];
      text += hex_digits[byte & 0xfU];
    }
  }
  return text;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<std::string> percent_decode(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      bytes += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hex_value(text[i + 1]);
    const int low = hex_value(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return bytes;
}

std::optional<StoreUuid> parse_uuid(std::string_view text) {
  StoreUuid uuid{};
  std::size_t digits = 0;
  for (const char c : text) {
    if (c == '-') continue;
    const int value = hex_value(c);
    if (value < 0 || digits == 2 * uuid.size()) return std::nullopt;
    uuid[digits / 2] = static_cast<std::uint8_t>(uuid[digits / 2] * 16 + value);
    ++digits;
  }
  if (digits != 2 * uuid.size()) return std::nullopt;
  return uuid;
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

std::string format_uuid(const StoreUuid& uuid) {
  std::string text;
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += hex_digits[uuid[i] >> 4U];
    text += hex_digits[uuid[i] & 0xfU];
  }
  return text;
}

std::string Ref::to_string() const {
  return std::string(scheme) + format_uuid(store) + '/' + namespace_name + '/' +
         percent_encode(id) + '@' + std::to_string(version) + '#' + std::to_string(serial);
}

Result<Ref> Ref::parse(std::string_view text) {
  const auto refuse = [text](const char* part) {
    return fail(Errc::bad_argument, "not a ref: '" + std::string(text.substr(0, 400)) + "' (" +
                                        part +
                                        "); a ref is forebay:<uuid>/<namespace>/<id>@<version>#"
                                        "<serial>");
  };
  if (!text.starts_with(scheme)) return refuse("it does not start with forebay:");
  const std::string_view rest = text.substr(scheme.size());
  const std::size_t uuid_end = rest.find('/');
  if (uuid_end == std::string_view::npos) return refuse("no namespace");
  const std::size_t namespace_end = rest.find('/', uuid_end + 1);
  if (namespace_end == std::string_view::npos) return refuse("no id");
  const std::size_t at = rest.rfind('@');
  const std::size_t hash = rest.rfind('#');
  if (at == std::string_view::npos || hash == std::string_view::npos || at < namespace_end ||
      hash < at)
    return refuse("no version or serial");

  Ref ref;
  const auto uuid = parse_uuid(rest.substr(0, uuid_end));
  if (!uuid) return refuse("the store's uuid is not 32 hexadecimal digits");
  ref.store = *uuid;
  ref.namespace_name = rest.substr(uuid_end + 1, namespace_end - uuid_end - 1);
  const auto id = percent_decode(rest.substr(namespace_end + 1, at - namespace_end - 1));
  if (!id || !is_id(*id)) return refuse("its id is not 1 to 255 bytes");
  ref.id = *id;
  const auto version = parse_number(rest.substr(at + 1, hash - at - 1));
  const auto serial = parse_number(rest.substr(hash + 1));
  if (!version || *version == 0) return refuse("its version is not a number from 1");
  if (!serial || *serial == 0) return refuse("its serial is not a number from 1");
  ref.version = *version;
  ref.serial = *serial;
  return ref;
}

}  // namespace forebay
