// SPDX-License-Identifier: Apache-2.0
#include "object.h"

#include "errors.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

py::object helper(const char* name) { return py::module_::import("forebay._objects").attr(name); }

// Fills a part by calling Python. What it raises is kept for the caller of the put.
void fill(const py::object& fill, std::span<std::byte> target) {
  const py::gil_scoped_acquire acquired;
  try {
    fill(py::memoryview::from_memory(target.data(), static_cast<py::ssize_t>(target.size())));
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("a part of an object that forebay stores");
  }
}

ObjectPart part_of(const py::handle& item) {
  ObjectPart part;
  if (py::isinstance<py::tuple>(item)) {
    const auto pair = py::reinterpret_borrow<py::tuple>(item);
    part.size_bytes = pair[0].cast<std::uint64_t>();
    // Borrowed: the list keeps it, and reference counts are not for threads without the GIL.
    const py::handle filler = pair[1];
    part.fill = [filler](std::span<std::byte> target) {
      const py::gil_scoped_acquire acquired;
      fill(py::reinterpret_borrow<py::object>(filler), target);
    };
    return part;
  }
  Py_buffer* const bytes = PyMemoryView_GET_BUFFER(item.ptr());
  part.bytes = {static_cast<const std::byte*>(bytes->buf), static_cast<std::size_t>(bytes->len)};
  return part;
}

}  // namespace

Object object_of(const py::object& value) {
  Object object{helper("dump")(value), {}};
  object.parts.reserve(object.keep.size());
  for (const py::handle item : object.keep) object.parts.push_back(part_of(item));
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
