// SPDX-License-Identifier: Apache-2.0
#include "store/daemon/trace_log.h"

#include <array>
#include <cerrno>
#include <cinttypes>

namespace forebay::daemon {

Result<std::unique_ptr<TraceLog>> TraceLog::open(const std::string& path) {
  std::FILE* const file = std::fopen(path.c_str(), "we");
  if (file == nullptr) return fail_errno(errno, "--trace: cannot write " + path);
  std::fputs("time_ns,id,size,op\n", file);
  return std::unique_ptr<TraceLog>(new TraceLog(file));
}

void TraceLog::note(TimePoint now, std::uint64_t serial, std::uint64_t bytes, TraceOp op) {
  static constexpr std::array names{"create", "read", "delete", "last_use"};
  const auto time = std::chrono::duration_cast<std::chrono::nanoseconds>(now.time_since_epoch());
  whole_ &= std::fprintf(file_.get(), "%lld,%" PRIu64 ",%" PRIu64 ",%s\n",
                         static_cast<long long>(time.count()), serial, bytes,
                         names[static_cast<std::size_t>(op)]) > 0;
}

}  // namespace forebay::daemon
