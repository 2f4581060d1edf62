// SPDX-License-Identifier: Apache-2.0
// TraceLog: writes down which segments are made, read and removed, for bench/eviction to replay.
//
// CSV: time_ns,id,size,op, with the segment's serial for its id, its stored bytes for its size, and op
// one of create, read, delete, last_use. Reads are those that clients' access logs tell of: the first
// pin of each process, with the time at which the daemon heard of it. Owned by the daemon's thread;
// what the disk does not take is dropped, and said once.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "store/daemon/clock.h"
#include "store/error.h"

namespace forebay::daemon {

enum class TraceOp : std::uint8_t { create, read, remove, last_use };

class TraceLog {
 public:
  // Begins the file anew.
  static Result<std::unique_ptr<TraceLog>> open(const std::string& path);
  void note(TimePoint now, std::uint64_t serial, std::uint64_t bytes, TraceOp op);
  // False: some of it is not there.
  bool whole() const { return whole_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  explicit TraceLog(std::FILE* file) : file_(file) {}
  std::unique_ptr<std::FILE, Close> file_;
  bool whole_ = true;
};

}  // namespace forebay::daemon
