// SPDX-License-Identifier: Apache-2.0
// The pool's log: one line of text per event, on standard error. May be used from any thread.
#pragma once

#include <cstdint>
#include <string>

namespace forebay::spill::pool {

enum class LogLevel : std::uint8_t { debug, info, warning, error };

class Log {
 public:
  explicit Log(LogLevel least) : least_(least) {}

  void debug(const std::string& line) const { say(LogLevel::debug, line); }
  void info(const std::string& line) const { say(LogLevel::info, line); }
  void warning(const std::string& line) const { say(LogLevel::warning, line); }
  void error(const std::string& line) const { say(LogLevel::error, line); }

 private:
  void say(LogLevel level, const std::string& line) const;

  LogLevel least_;
};

}  // namespace forebay::spill::pool
