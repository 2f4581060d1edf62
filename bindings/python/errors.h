// SPDX-License-Identifier: Apache-2.0
// Errors of the store as Python exceptions: one table, used at the very last step.
#pragma once

#include <pybind11/pybind11.h>

#include "store/error.h"

namespace forebay::python {

// Looks the exception classes up in forebay.errors. Once, at import.
void load_exceptions();

// Sets the Python error indicator for `error`; the caller returns NULL.
void set_error(const Error& error);

// The same as an exception object.
pybind11::object exception_of(const Error& error);
// Takes the error that is set as an exception object.
pybind11::object take_exception();

// For functions that pybind11 wraps: throws what becomes the exception.
[[noreturn]] void raise(const Error& error);

template <class T>
T value_or_raise(Result<T> result) {
  if (!result) raise(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(result).value();
}

}  // namespace forebay::python
