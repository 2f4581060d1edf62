// SPDX-License-Identifier: Apache-2.0
// Waiting from Python: without the GIL, and so that Ctrl-C ends it.
#pragma once

#include <pybind11/pybind11.h>

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>

#include "store/error.h"
#include "store/timeout.h"

namespace forebay::python {

// How long a call may wait before it looks for signals, whose handlers Python runs in the main
// thread alone. A call about many segments asks the daemon anew each time, so it looks less often.
inline Timeout slice_of_wait(std::size_t segments = 1) {
  using std::chrono::microseconds;
  using std::chrono::milliseconds;
  if (::gettid() != ::getpid()) return std::chrono::seconds(10);
  return milliseconds(100) + segments * microseconds(20);
}

// An error that names the time of the last slice names the whole.
inline void say_whole(Error& error, Timeout total) {
  constexpr std::string_view before = " within ";
  const std::size_t at = error.detail.rfind(before);
  if (at == std::string::npos) return;
  const std::size_t number = at + before.size();
  if (error.detail.find_first_not_of("0123456789", number) != error.detail.size() - 3 ||
      !error.detail.ends_with(" ms"))
    return;
  const auto asked = std::chrono::duration_cast<std::chrono::milliseconds>(total);
  error.detail.replace(number, std::string::npos, std::to_string(asked.count()) + " ms");
}

// What `wait(timeout)` returns, which is a Result: called without the GIL until it does not fail
// with timed_out or disconnected any more, or `total` is over; once, with zero, if that is zero.
// Nothing, with an error set, if a signal handler raised meanwhile.
template <class Wait>
std::optional<std::invoke_result_t<Wait, Timeout>> in_slices(Timeout total, Timeout slice,
                                                             Wait&& wait) {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + total;
  bool sliced = false;
  while (true) {
    Timeout left = until - Clock::now();
    if (total > Timeout::zero()) left = std::max(left, Timeout(1));
    auto result = [&] {
      const pybind11::gil_scoped_release released;
      return wait(std::clamp(left, Timeout::zero(), slice));
    }();
    if (result) return result;
    const bool away = result.error().is(Errc::disconnected);
    const bool late = result.error().is(Errc::timed_out);
    if (left <= slice || !(away || late)) {
      if (sliced && late) say_whole(result.error(), total);
      return result;
    }
    sliced = true;
    if (away) {
      // It may have said so at once.
      const pybind11::gil_scoped_release released;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    if (PyErr_CheckSignals() != 0) return std::nullopt;
  }
}

}  // namespace forebay::python
