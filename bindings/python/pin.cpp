// SPDX-License-Identifier: Apache-2.0
#include "pin.h"

#include <new>

namespace forebay::python {
namespace {

PyTypeObject* type = nullptr;

void deallocate(PyObject* self) {
  PyTypeObject* const of = Py_TYPE(self);
  reinterpret_cast<PinObject*>(self)->view.~View();
  of->tp_free(self);
  Py_DECREF(of);
}

int get_buffer(PyObject* self, Py_buffer* buffer, int flags) {
  const auto bytes = reinterpret_cast<PinObject*>(self)->view.bytes();
  return PyBuffer_FillInfo(buffer, self, const_cast<std::byte*>(bytes.data()),
                           static_cast<Py_ssize_t>(bytes.size()), /*readonly=*/1, flags);
}

PyObject* represent(PyObject* self) {
  const View& view = reinterpret_cast<PinObject*>(self)->view;
  const Ref ref = view.ref();
  return PyUnicode_FromFormat("<forebay pin of %s, %zu bytes>", ref.to_string().c_str(),
                              view.bytes().size());
}

PyType_Slot slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(&deallocate)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)},
    {Py_tp_repr, reinterpret_cast<void*>(&represent)},
    {Py_tp_doc, const_cast<char*>("Holds a segment in place while arrays over it live.")},
    {0, nullptr},
};
#ifndef Py_TPFLAGS_DISALLOW_INSTANTIATION  // before Python 3.10
#define Py_TPFLAGS_DISALLOW_INSTANTIATION 0
#endif
PyType_Spec spec = {"forebay._forebay.Pin", sizeof(PinObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace

PyTypeObject* pin_type() { return type; }

bool make_pin_type(pybind11::module_& module) {
  PyObject* made = PyType_FromSpec(&spec);
  if (made == nullptr) return false;
  type = reinterpret_cast<PyTypeObject*>(made);
  module.attr("Pin") = pybind11::reinterpret_borrow<pybind11::object>(made);
  return true;
}

PyObject* new_pin(View view) {
  auto* const pin = PyObject_New(PinObject, type);
  if (pin == nullptr) return nullptr;
  new (&pin->view) View(std::move(view));
  return reinterpret_cast<PyObject*>(pin);
}

}  // namespace forebay::python
