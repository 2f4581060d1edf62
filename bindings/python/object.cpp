// SPDX-License-Identifier: Apache-2.0
#include "object.h"

#include "errors.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

py::object helper(const char* name) { return py::module_::import("forebay._objects").attr(name); }

// A part: bytes as they are, or an array whose elements are copied to where they go, once, in C order.
ObjectPart part_of(const py::handle& item, std::vector<std::unique_ptr<Source>>& sources) {
  ObjectPart part;
  if (PyArray_Check(item.ptr())) {
    const Source* const source =
        sources
            .emplace_back(std::make_unique<Source>(
                source_of(py::reinterpret_borrow<py::object>(item))))
            .get();
    part.size_bytes = source->size;
    // NumPy's copy of plain elements runs no Python: no signal handler can end it half-way.
    part.fill = [source](std::span<std::byte> target) {
      const py::gil_scoped_acquire acquired;
      const bool copied = copy_elements(*source, target.data());
      if (!copied) PyErr_Clear();
      return copied;
    };
    return part;
  }
  Py_buffer* const bytes = PyMemoryView_GET_BUFFER(item.ptr());
  part.bytes = {static_cast<const std::byte*>(bytes->buf), static_cast<std::size_t>(bytes->len)};
  return part;
}

}  // namespace

Object object_of(const py::object& value) {
  Object object;
  object.keep = helper("dump")(value);
  object.parts.reserve(object.keep.size());
  for (const py::handle item : object.keep)
    object.parts.push_back(part_of(item, object.sources));
  return object;
}

PyObject* value_of_parts(const View& view, PyObject* base) {
  const auto parts = view.object();
  if (!parts) {
    set_error(parts.error());
    return nullptr;
  }
  try {
    const auto whole = py::reinterpret_steal<py::object>(PyMemoryView_FromObject(base));
    if (!whole) return nullptr;
    py::list pieces(parts->size());
    for (std::size_t i = 0; i < parts->size(); ++i) {
      const auto& part = (*parts)[i];
      const auto begin = static_cast<py::ssize_t>(
          part.empty() ? 0 : part.data() - view.bytes().data());
      pieces[i] = whole[py::slice(begin, begin + static_cast<py::ssize_t>(part.size()), 1)];
    }
    return helper("load")(pieces).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  }
}

}  // namespace forebay::python
