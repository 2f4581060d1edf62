// SPDX-License-Identifier: Apache-2.0
// How calls ended, as words: the same in a test and in a child process, where doctest does not count.
#pragma once

#include <stdexcept>
#include <string>

#include "store/error.h"

namespace forebay::test {

// "ok", or the name of the error's code.
template <class T>
std::string outcome(const Result<T>& result) {
  if (result) return "ok";
  if (result.error().code.category() == forebay_category())
    return std::string(errc_name(static_cast<Errc>(result.error().code.value())));
  return result.error().message();
}

// The value; a failure ends the test (or the child) with the error's text.
template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// The text of the error; a success ends the test.
template <class T>
std::string why(const Result<T>& result) {
  if (result) throw std::runtime_error("it worked, and should not have");
  return result.error().message();
}

}  // namespace forebay::test
