// SPDX-License-Identifier: Apache-2.0
// Errors: how every call of Forebay says that it failed.
//
// Failures that users meet every day (not found, full, timed out) are values: a call that may fail
// returns `Result<T>`, which holds either the thing or an `Error`. An `Error` is a
// `std::error_code` (so that the origin of a number is kept: ours, or the system's errno) and one
// sentence that names the thing and the way out. Nothing here throws; everything may be used from
// any thread. The shape of `Result` is that of `std::expected`, so that on C++23 it can become one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include "store/api.h"
#include "store/check.h"

namespace forebay {

// The numbers cross the socket and the C API: append only, never renumber.
enum class Errc : int {
  not_found = 1,        // no such id, or no such version of it
  evicted = 2,          // it was dropped to make room; recompute it or put it again
  lost = 3,             // its bytes were in a tier that has gone
  superseded = 4,       // its memory was taken over by the next version
  stale_ref = 5,        // the ref's segment was removed; its id may name other bytes by now
  wrong_store = 6,      // the ref belongs to another store
  exists = 7,           // that version is sealed already
  conflict = 8,         // that version is being created by somebody else, or its memory is in use
  store_full = 9,       // no room now: memory is used or pinned
  too_large = 10,       // would not fit into an empty store either
  bad_id = 11,          // an id is 1 to 255 bytes
  bad_argument = 12,    // an argument that can never work
  bad_state = 13,       // sealed twice, sealed after abort, used after close
  denied = 14,          // the namespace's rights or the peer's credentials do not allow it
  timed_out = 15,       // the deadline passed
  disconnected = 16,    // the daemon went away and did not come back before the deadline
  layout_mismatch = 17, // the peer was built for another layout or protocol version
  bad_message = 18,     // the peer sent what is not a message
  type_mismatch = 19,   // the segment is not an array of that element type
  limit_reached = 20,   // a counted resource other than memory (processes, segments) ran out
  already_running = 21, // another daemon serves this instance
  loader_failed = 22,   // whoever was to make the version could not; the detail says why
  cancelled = 23,       // whoever asked has said that the answer is not wanted any more
  tier_down = 24,       // the tier that holds it does not answer; it may be back later
};

inline constexpr int errc_last = static_cast<int>(Errc::tier_down);

FOREBAY_API const std::error_category& forebay_category() noexcept;

inline std::error_code make_error_code(Errc code) noexcept {
  return {static_cast<int>(code), forebay_category()};
}

// The short name of a code, as in logs and in the C API: "not_found".
FOREBAY_API std::string_view errc_name(Errc code) noexcept;

struct [[nodiscard]] Error {
  std::error_code code;
  std::string detail;  // one sentence: what was asked for, why it failed, and the way out

  // "not_found: no segment 'points' version 3"
  FOREBAY_API std::string message() const;
  bool is(Errc expected) const noexcept { return code == make_error_code(expected); }
};

// An error in the way of becoming a Result, as `std::unexpected`.
struct [[nodiscard]] Failure {
  Error error;
};

inline Failure fail(Error error) { return Failure{std::move(error)}; }
inline Failure fail(Errc code, std::string detail) {
  return Failure{{make_error_code(code), std::move(detail)}};
}
// A failed system call; `what` names the call and its object.
inline Failure fail_errno(int number, std::string what) {
  return Failure{{{number, std::system_category()}, std::move(what)}};
}

template <class T>
class [[nodiscard]] Result {
  using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

 public:
  using value_type = T;

  Result()
    requires std::is_void_v<T>
      : state_(std::in_place_index<0>) {}
  template <class U = Value>
    requires(!std::is_void_v<T> && std::is_constructible_v<Value, U &&> &&
             !std::is_same_v<std::remove_cvref_t<U>, Result> &&
             !std::is_same_v<std::remove_cvref_t<U>, Failure>)
  Result(U&& value) : state_(std::in_place_index<0>, std::forward<U>(value)) {}  // NOLINT
  Result(Failure failure) : state_(std::in_place_index<1>, std::move(failure.error)) {}  // NOLINT

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  // Reading the value of a failed Result is a bug of the caller's and aborts with the error's text.
  Value& value() & {
    require();
    return *std::get_if<0>(&state_);
  }
  const Value& value() const& {
    require();
    return *std::get_if<0>(&state_);
  }
  Value&& value() && {
    require();
    return std::move(*std::get_if<0>(&state_));
  }
  Value& operator*() & { return value(); }
  const Value& operator*() const& { return value(); }
  Value&& operator*() && { return std::move(*this).value(); }
  Value* operator->() { return &value(); }
  const Value* operator->() const { return &value(); }

  Error& error() & {
    STORE_CHECK(!has_value(), "error() of a Result that holds a value");
    return *std::get_if<1>(&state_);
  }
  const Error& error() const& {
    STORE_CHECK(!has_value(), "error() of a Result that holds a value");
    return *std::get_if<1>(&state_);
  }

 private:
  void require() const {
    if (!has_value()) [[unlikely]]
      check_failed(__FILE__, __LINE__, "has_value()", std::get_if<1>(&state_)->message().c_str());
  }

  std::variant<Value, Error> state_;
};

}  // namespace forebay

template <>
struct std::is_error_code_enum<forebay::Errc> : std::true_type {};
