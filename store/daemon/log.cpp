// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace forebay::daemon::log {
namespace {

constexpr std::size_t queue_lines = 8192;
constexpr std::size_t file_bytes_max = 16 * 1024 * 1024;

spdlog::level::level_enum level_of(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

bool needs_quotes(std::string_view value) {
  if (value.empty()) return true;
  for (const char c : value)
    if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c > '~') return true;
  return false;
}

void append_value(std::string& line, std::string_view value) {
  if (!needs_quotes(value)) {
    line += value;
    return;
  }
  line += '"';
  for (const char c : value) {
    if (c == '"' || c == '\\') line += '\\';
    // One event is one line, whatever an id or a program is called.
    line += static_cast<unsigned char>(c) < ' ' ? '.' : c;
  }
  line += '"';
}

}  // namespace

void open(const std::string& file, Level least) {
  spdlog::init_thread_pool(queue_lines, 1);
  auto logger =
      file.empty()
          ? spdlog::create_async_nb<spdlog::sinks::stderr_sink_mt>("forebayd")
          : spdlog::create_async_nb<spdlog::sinks::rotating_file_sink_mt>("forebayd", file,
                                                                          file_bytes_max, 2);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e level=%l %v");
  logger->set_level(level_of(least));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void event(Level level, std::string_view name, std::initializer_list<Field> fields) {
  auto* logger = spdlog::default_logger_raw();
  if (logger == nullptr || !logger->should_log(level_of(level))) return;
  std::string line = "event=";
  line += name;
  for (const Field& field : fields) {
    line += ' ';
    line += field.key;
    line += '=';
    append_value(line, field.value);
  }
  logger->log(level_of(level), "{}", line);
}

void close() { spdlog::shutdown(); }

}  // namespace forebay::daemon::log
