// SPDX-License-Identifier: Apache-2.0
#include "bench/eviction/trace.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <unordered_map>

namespace forebay::bench {
namespace {

constexpr std::array<std::string_view, 4> op_names{"create", "read", "delete", "last_use"};
constexpr std::string_view heading = "time_ns,id,size,op";

std::optional<std::uint64_t> take_number(std::string_view& line) {
  std::uint64_t number = 0;
  const auto [end, code] = std::from_chars(line.data(), line.data() + line.size(), number);
  if (code != std::errc{} || end == line.data() + line.size() || *end != ',') return std::nullopt;
  line.remove_prefix(static_cast<std::size_t>(end - line.data()) + 1);
  return number;
}

std::optional<Event> event_of(std::string_view line) {
  const auto time = take_number(line);
  const auto id = time ? take_number(line) : std::nullopt;
  const auto size = id ? take_number(line) : std::nullopt;
  if (!size) return std::nullopt;
  for (std::size_t op = 0; op < op_names.size(); ++op)
    if (line == op_names[op]) return Event{*time, *id, *size, static_cast<Op>(op)};
  return std::nullopt;
}

}  // namespace

std::uint64_t working_set_bytes(const Trace& trace) {
  std::unordered_map<std::uint64_t, std::uint64_t> living;
  std::uint64_t bytes = 0;
  std::uint64_t most = 0;
  for (const Event& event : trace) {
    if (event.op == Op::remove) {
      const auto found = living.find(event.id);
      if (found == living.end()) continue;
      bytes -= found->second;
      living.erase(found);
    } else if (event.op != Op::last_use && living.emplace(event.id, event.size).second) {
      bytes += event.size;
      most = std::max(most, bytes);
    }
  }
  return most;
}

std::optional<Trace> read_trace(std::istream& from, std::string& error) {
  Trace trace;
  std::string line;
  for (std::size_t number = 1; std::getline(from, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || (number == 1 && line == heading)) continue;
    const auto event = event_of(line);
    if (!event) {
      error = "line " + std::to_string(number) + " is not " + std::string(heading) + ": " + line;
      return std::nullopt;
    }
    trace.push_back(*event);
  }
  return trace;
}

void write_trace(std::ostream& to, const Trace& trace) {
  to << heading << '\n';
  for (const Event& event : trace)
    to << event.time_ns << ',' << event.id << ',' << event.size << ','
       << op_names[static_cast<std::size_t>(event.op)] << '\n';
}

}  // namespace forebay::bench
