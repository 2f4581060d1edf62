// SPDX-License-Identifier: Apache-2.0
#include "handle.h"

#include <pybind11/stl.h>

#include "array.h"
#include "builder.h"
#include "pin.h"
#include "ref.h"
#include "store/id.h"
#include "store/shm/bytes_hash.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

// The sealed segment in which an array lies, however many arrays it is a view of; null if in none.
const View* view_behind(PyObject* object) {
  constexpr int chain_max = 100;
  for (int i = 0; object != nullptr && i < chain_max; ++i) {
    if (PyArray_Check(object)) {
      object = PyArray_BASE(reinterpret_cast<PyArrayObject*>(object));
    } else if (PyMemoryView_Check(object)) {
      object = PyMemoryView_GET_BASE(object);
    } else if (Py_TYPE(object) == pin_type()) {
      return &reinterpret_cast<PinObject*>(object)->view;
    } else if (std::string_view(Py_TYPE(object)->tp_name) == "DummyArray") {
      // What NumPy's as_strided and sliding_window_view put in between: an attribute holds its base.
      PyObject* const attributes = PyObject_GetAttrString(object, "__dict__");
      object = attributes == nullptr || !PyDict_Check(attributes)
                   ? nullptr
                   : PyDict_GetItemString(attributes, "base");
      Py_XDECREF(attributes);
    } else {
      return sealed_draft(object);
    }
  }
  PyErr_Clear();
  return nullptr;
}

// Whether all elements lie in `size` bytes when the first one is `offset` bytes into them. Strides may be
// negative, and all of it may have been made up.
bool fits(npy_intp offset, const npy_intp* dims, const npy_intp* strides, int ndim, npy_intp item,
          std::size_t size) {
  npy_intp low = offset;
  npy_intp high = 0;
  if (offset < 0 || __builtin_add_overflow(offset, item, &high)) return false;
  for (int i = 0; i < ndim; ++i) {
    npy_intp reach = 0;
    if (dims[i] < 1 || __builtin_mul_overflow(dims[i] - 1, strides[i], &reach)) return false;
    npy_intp& end = strides[i] < 0 ? low : high;
    if (__builtin_add_overflow(end, reach, &end)) return false;
  }
  return low >= 0 && high >= 0 && static_cast<std::size_t>(high) <= size;
}

// (ref,) for a whole segment as it was put, else (ref, dtype, offset, shape, strides or None for C
// order), with the ref as text; None for an array that does not lie in a segment.
py::object handle_of(const py::object& object) {
  if (!PyArray_Check(object.ptr())) return py::none();
  auto* const array = reinterpret_cast<PyArrayObject*>(object.ptr());
  const View* const view = view_behind(PyArray_BASE(array));
  if (view == nullptr || PyArray_SIZE(array) == 0 || !is_storable(PyArray_DESCR(array)))
    return py::none();
  const std::span<const std::byte> bytes = view->bytes();
  const npy_intp offset = reinterpret_cast<const std::byte*>(PyArray_DATA(array)) - bytes.data();
  if (!fits(offset, PyArray_DIMS(array), PyArray_STRIDES(array), PyArray_NDIM(array),
            PyArray_ITEMSIZE(array), bytes.size()))
    return py::none();
  const bool c_order = PyArray_IS_C_CONTIGUOUS(array) != 0;
  ArrayType type;
  try {
    type = type_of_array(array, !c_order && PyArray_IS_F_CONTIGUOUS(array) != 0);
  } catch (const py::error_already_set&) {
    return py::none();  // a dtype that has no text
  }
  const py::str ref(view->ref().to_string());
  if (offset == 0 && (c_order || type.fortran_order))
    if (auto whole = view->type(); whole && *whole == type) return py::make_tuple(ref);
  py::object strides = py::none();
  if (!c_order)
    strides = py::tuple(py::cast(std::vector<npy_intp>(
        PyArray_STRIDES(array), PyArray_STRIDES(array) + PyArray_NDIM(array))));
  return py::make_tuple(ref, type.dtype, offset, py::tuple(py::cast(type.shape)), strides);
}

py::object array_at(Store& store, const Ref& ref, const std::string& dtype, npy_intp offset,
                    const std::vector<npy_intp>& shape,
                    const std::optional<std::vector<npy_intp>>& strides) {
  const Client& client = store.client();
  View view = client.get_resident(ref);
  if (!view) view = without_gil([&] { return client.get(ref); });
  PyArray_Descr* const descriptor = descriptor_of(dtype);
  if (descriptor == nullptr) throw py::error_already_set();
  const auto held = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(descriptor));
  if (strides && strides->size() != shape.size())
    raise(fail(Errc::bad_argument, "a handle with as many strides as dimensions was expected").error);
  const auto refuse = [&] {
    raise(fail(Errc::type_mismatch, "the segment " + shown(ref.id, ref.version) + " of " +
                                        std::to_string(view.bytes().size()) +
                                        " bytes does not hold the array of the handle")
              .error);
  };
  // Handles travel as bytes that anybody may have written.
  if (!is_storable(descriptor) || shape.size() > array_dims_max) refuse();
  const npy_intp item = PyDataType_ELSIZE(descriptor);
  std::vector<npy_intp> steps(shape.size());
  if (strides) {
    steps = *strides;
  } else {
    npy_intp step = item;
    for (std::size_t i = shape.size(); i-- > 0;) {
      steps[i] = step;
      if (__builtin_mul_overflow(step, shape[i], &step)) refuse();
    }
  }
  const std::span<const std::byte> bytes = view.bytes();
  if (!fits(offset, shape.data(), steps.data(), static_cast<int>(shape.size()), item, bytes.size()))
    refuse();
  auto pin = py::reinterpret_steal<py::object>(new_pin(std::move(view)));
  if (!pin) throw py::error_already_set();
  Py_INCREF(descriptor);
  auto array = py::reinterpret_steal<py::object>(PyArray_NewFromDescr(
      &PyArray_Type, descriptor, static_cast<int>(shape.size()), shape.data(), steps.data(),
      const_cast<std::byte*>(bytes.data()) + offset, 0, nullptr));
  if (!array || PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array.ptr()),
                                      pin.release().ptr()) != 0)
    throw py::error_already_set();
  PyArray_UpdateFlags(reinterpret_cast<PyArrayObject*>(array.ptr()),
                      NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS | NPY_ARRAY_ALIGNED);
  return array;
}

// XXH3 of all elements, in the order of memory for C and Fortran order, else in C order.
std::uint64_t array_hash(const py::object& object) {
  const Source source = contiguous_source_of(object);
  const py::gil_scoped_release released;
  return shm::bytes_hash(source.span());
}

}  // namespace

void bind_handle(py::module_& module, StoreClass& store) {
  module.def("handle_of", &handle_of, py::arg("array"),
             "Where in which segment an array lies, as the arguments of `forebay._handles.attach`;\n"
             "None for an array that lies in none.");
  module.def("array_hash", &array_hash, py::arg("array"), "64 bits of all elements' bytes.");
  store.def("_array_at", &array_at, py::arg("ref"), py::arg("dtype"), py::arg("offset"),
            py::arg("shape"), py::arg("strides") = py::none());
}

}  // namespace forebay::python
