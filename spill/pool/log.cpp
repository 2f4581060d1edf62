// SPDX-License-Identifier: Apache-2.0
#include "spill/pool/log.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>

namespace forebay::spill::pool {

void Log::say(LogLevel level, const std::string& line) const {
  if (level < least_) return;
  constexpr std::array names{"debug", "info", "warning", "error"};
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm when{};
  ::gmtime_r(&seconds, &when);
  std::array<char, 64> head{};
  const std::size_t size = std::strftime(head.data(), head.size(), "%Y-%m-%dT%H:%M:%S", &when);
  std::array<char, 32> rest{};
  std::snprintf(rest.data(), rest.size(), ".%03dZ %s ", static_cast<int>(ms),
                names[static_cast<std::size_t>(level)]);
  std::string text(head.data(), size);
  text += rest.data();
  // Names and errors come from outside: a line of ours is one line.
  for (const char c : line) text += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  text += '\n';
  (void)!::write(2, text.data(), text.size());
}

}  // namespace forebay::spill::pool
