// SPDX-License-Identifier: Apache-2.0
#include "errors.h"

#include <array>

namespace forebay::python {
namespace {

struct Row {
  Errc code;
  const char* exception;
};

constexpr std::array<Row, errc_last> rows{{
    {Errc::not_found, "NotFound"},
    {Errc::evicted, "Evicted"},
    {Errc::lost, "Lost"},
    {Errc::superseded, "Superseded"},
    {Errc::stale_ref, "StaleRef"},
    {Errc::wrong_store, "WrongStore"},
    {Errc::exists, "Exists"},
    {Errc::conflict, "Conflict"},
    {Errc::store_full, "StoreFull"},
    {Errc::too_large, "TooLarge"},
    {Errc::bad_id, "BadId"},
    {Errc::bad_argument, "BadArgument"},
    {Errc::bad_state, "BadState"},
    {Errc::denied, "Denied"},
    {Errc::timed_out, "Timeout"},
    {Errc::disconnected, "Disconnected"},
    {Errc::layout_mismatch, "LayoutMismatch"},
    {Errc::bad_message, "ForebayError"},
    {Errc::type_mismatch, "TypeMismatch"},
    {Errc::limit_reached, "LimitReached"},
    {Errc::already_running, "ForebayError"},
    {Errc::loader_failed, "LoaderFailed"},
    {Errc::cancelled, "Cancelled"},
    {Errc::tier_down, "TierDown"},
}};

// By code; index 0 is for errors of the system. Held for ever: raising may outlive everything.
std::array<PyObject*, errc_last + 1> exceptions{};

PyObject* exception_for(const Error& error) {
  const int code = error.code.value();
  if (error.code.category() == forebay_category() && code >= 1 && code <= errc_last)
    return exceptions[static_cast<std::size_t>(code)];
  return exceptions[0];
}

}  // namespace

void load_exceptions() {
  const pybind11::module_ errors = pybind11::module_::import("forebay.errors");
  const auto find = [&errors](const char* name) {
    return pybind11::object(errors.attr(name)).release().ptr();
  };
  exceptions[0] = find("ForebayError");
  for (const Row& row : rows)
    exceptions[static_cast<std::size_t>(row.code)] = find(row.exception);
}

void set_error(const Error& error) {
  const std::string text = error.detail.empty() ? error.code.message() : error.detail;
  // Ids may be any bytes; a message shows them as far as they are text.
  PyObject* message =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace");
  if (message == nullptr) return;
  PyErr_SetObject(exception_for(error), message);
  Py_DECREF(message);
}

pybind11::object exception_of(const Error& error) {
  set_error(error);
  return take_exception();
}

pybind11::object take_exception() {
  return pybind11::reinterpret_borrow<pybind11::object>(pybind11::error_already_set().value());
}

void raise(const Error& error) {
  set_error(error);
  throw pybind11::error_already_set();
}

}  // namespace forebay::python
