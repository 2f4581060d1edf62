// SPDX-License-Identifier: Apache-2.0
// Ids: in Python a str (its UTF-8) or bytes (as they are).
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <string_view>

namespace forebay::python {

// The bytes of an id; they belong to the object. False, with a TypeError set, for anything else.
inline bool id_bytes(PyObject* object, std::string_view& id) {
  Py_ssize_t size = 0;
  if (PyUnicode_Check(object)) {
    const char* text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text == nullptr) return false;
    id = {text, static_cast<std::size_t>(size)};
    return true;
  }
  if (PyBytes_Check(object)) {
    id = {PyBytes_AS_STRING(object), static_cast<std::size_t>(PyBytes_GET_SIZE(object))};
    return true;
  }
  PyErr_Format(PyExc_TypeError, "an id is a str or bytes, not %.200s", Py_TYPE(object)->tp_name);
  return false;
}

inline std::string id_of(const pybind11::object& object) {
  std::string_view id;
  if (!id_bytes(object.ptr(), id)) throw pybind11::error_already_set();
  return std::string(id);
}

// A str where the bytes are UTF-8, else bytes.
inline pybind11::object id_object(const std::string& id) {
  PyObject* text = PyUnicode_DecodeUTF8(id.data(), static_cast<Py_ssize_t>(id.size()), "strict");
  if (text != nullptr) return pybind11::reinterpret_steal<pybind11::object>(text);
  PyErr_Clear();
  return pybind11::bytes(id);
}

}  // namespace forebay::python
