// SPDX-License-Identifier: Apache-2.0
#include "copy.h"

#include <new>
#include <optional>

namespace forebay::python {
namespace {

struct CopyObject {
  PyObject_HEAD
  PrivateView view;
};

constexpr std::size_t large_bytes = 1024 * 1024;

PyTypeObject* type = nullptr;

void deallocate(PyObject* self) {
  PyTypeObject* const of = Py_TYPE(self);
  PrivateView& view = reinterpret_cast<CopyObject*>(self)->view;
  {
    // What was written to are many pages to give back; for a few, the GIL would cost more.
    std::optional<pybind11::gil_scoped_release> released;
    if (view.bytes().size() >= large_bytes) released.emplace();
    view.~PrivateView();
  }
  of->tp_free(self);
  Py_DECREF(of);
}

int get_buffer(PyObject* self, Py_buffer* buffer, int flags) {
  const auto bytes = reinterpret_cast<CopyObject*>(self)->view.bytes();
  return PyBuffer_FillInfo(buffer, self, bytes.data(), static_cast<Py_ssize_t>(bytes.size()),
                           /*readonly=*/0, flags);
}

PyObject* represent(PyObject* self) {
  const PrivateView& view = reinterpret_cast<CopyObject*>(self)->view;
  return PyUnicode_FromFormat("<forebay private copy of %s, %zu bytes>",
                              view.ref().to_string().c_str(), view.bytes().size());
}

PyType_Slot slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(&deallocate)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)},
    {Py_tp_repr, reinterpret_cast<void*>(&represent)},
    {Py_tp_doc, const_cast<char*>("Holds a private writable copy while arrays over it live.")},
    {0, nullptr},
};
#ifndef Py_TPFLAGS_DISALLOW_INSTANTIATION  // before Python 3.10
#define Py_TPFLAGS_DISALLOW_INSTANTIATION 0
#endif
PyType_Spec spec = {"forebay._forebay.Copy", sizeof(CopyObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace

bool make_copy_type(pybind11::module_& module) {
  PyObject* made = PyType_FromSpec(&spec);
  if (made == nullptr) return false;
  type = reinterpret_cast<PyTypeObject*>(made);
  module.attr("Copy") = pybind11::reinterpret_borrow<pybind11::object>(made);
  return true;
}

PyObject* new_copy(PrivateView view) {
  auto* const copy = PyObject_New(CopyObject, type);
  if (copy == nullptr) return nullptr;
  new (&copy->view) PrivateView(std::move(view));
  return reinterpret_cast<PyObject*>(copy);
}

}  // namespace forebay::python
