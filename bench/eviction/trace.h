// SPDX-License-Identifier: Apache-2.0
// Trace: what happened to which segment, in order; as the daemon's recorder writes it.
//
// One line each: time_ns,id,size,op with op one of create, read, delete, last_use; a first line
// that says so may be there.
#pragma once

#include <cstdint>
#include <istream>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

namespace forebay::bench {

enum class Op : std::uint8_t { create, read, remove, last_use };

struct Event {
  std::uint64_t time_ns = 0;
  std::uint64_t id = 0;
  std::uint64_t size = 0;
  Op op = Op::read;
};

using Trace = std::vector<Event>;

// The most bytes that segments had together that were made and not yet removed.
std::uint64_t working_set_bytes(const Trace& trace);

// Nothing: a line is not one of a trace; `error` says which.
std::optional<Trace> read_trace(std::istream& from, std::string& error);
void write_trace(std::ostream& to, const Trace& trace);

}  // namespace forebay::bench
