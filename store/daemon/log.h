// SPDX-License-Identifier: Apache-2.0
// One event a line: a name and key=value fields. Never blocks: when nobody takes the lines, old ones
// are dropped and counted. May be called from any thread of the daemon.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace forebay::daemon::log {

enum class Level { debug, info, warning, error };

struct Field {
  std::string_view key;
  std::string value;

  Field(std::string_view name, std::string_view text) : key(name), value(text) {}
  template <class Number>
    requires std::is_arithmetic_v<Number>
  Field(std::string_view name, Number number) : key(name), value(std::to_string(number)) {}
};

// Lines go to standard error, or to a file that is rotated at 16 MiB.
void open(const std::string& file, Level least);
void event(Level level, std::string_view name, std::initializer_list<Field> fields = {});
void close();

inline void info(std::string_view name, std::initializer_list<Field> fields = {}) {
  event(Level::info, name, fields);
}
inline void warning(std::string_view name, std::initializer_list<Field> fields = {}) {
  event(Level::warning, name, fields);
}
inline void error(std::string_view name, std::initializer_list<Field> fields = {}) {
  event(Level::error, name, fields);
}
inline void debug(std::string_view name, std::initializer_list<Field> fields = {}) {
  event(Level::debug, name, fields);
}

}  // namespace forebay::daemon::log
