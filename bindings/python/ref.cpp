// SPDX-License-Identifier: Apache-2.0
#include "ref.h"

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/stl.h>

#include "errors.h"
#include "ids.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

PyTypeObject* ref_type = nullptr;

py::object dtype_of(const Ref& ref) {
  return ref.type ? py::object(py::str(ref.type->dtype)) : py::none();
}

py::object shape_of(const Ref& ref) {
  return ref.type ? py::object(py::tuple(py::cast(ref.type->shape))) : py::none();
}

std::string represent(const Ref& ref) {
  std::string text = "<forebay.Ref " + ref.to_string();
  if (ref.type) text += " " + ref.type->dtype + py::repr(shape_of(ref)).cast<std::string>();
  return text + ">";
}

Ref from_parts(const std::string& text, const std::optional<std::string>& dtype,
               const std::optional<std::vector<std::uint64_t>>& shape, bool fortran_order) {
  Ref ref = value_or_raise(Ref::parse(text));
  if (dtype && shape) ref.type = ArrayType{*dtype, *shape, fortran_order};
  return ref;
}

}  // namespace

const Ref* find_ref(PyObject* object) {
  if (Py_TYPE(object) != ref_type) return nullptr;
  // Straight to the value: this is on the path of every get by ref.
  return static_cast<const Ref*>(
      reinterpret_cast<py::detail::instance*>(object)->simple_value_holder[0]);
}

void bind_ref(py::module_& module) {
  auto bound =
      py::class_<Ref>(module, "Ref", py::is_final(),
                      "Names one segment for good, in any process and language of this node.\n\n"
                      "Small, hashable and picklable; it holds no pin. `str(ref)` is its text, "
                      "`Ref(text)` reads it.")
          .def(py::init(&from_parts), py::arg("text"), py::kw_only(),
               py::arg("dtype") = py::none(), py::arg("shape") = py::none(),
               py::arg("fortran_order") = false)
          .def_property_readonly("store", [](const Ref& ref) { return format_uuid(ref.store); })
          .def_readonly("namespace", &Ref::namespace_name)
          .def_property_readonly("id", [](const Ref& ref) { return id_object(ref.id); })
          .def_readonly("version", &Ref::version)
          .def_readonly("serial", &Ref::serial)
          .def_property_readonly("dtype", &dtype_of,
                                 "Text of the dtype, as a hint; None if not known.")
          .def_property_readonly("shape", &shape_of, "The shape, as a hint; None if not known.")
          .def("__str__", &Ref::to_string)
          .def("__repr__", &represent)
          .def("__eq__",
               [](const Ref& self, const py::object& other) {
                 const Ref* ref = find_ref(other.ptr());
                 return ref != nullptr && self == *ref;
               })
          .def("__hash__",
               [](const Ref& self) { return py::hash(py::make_tuple(self.serial, self.version)); })
          .def("__reduce__", [](const py::object& self) -> py::tuple {
            const Ref& ref = *find_ref(self.ptr());
            if (!ref.type) return py::make_tuple(py::type::of(self), py::make_tuple(ref.to_string()));
            PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> read;
            read.call_once_and_store_result(
                [] { return py::module_::import("forebay._ref").attr("read"); });
            return py::make_tuple(read.get_stored(),
                                  py::make_tuple(ref.to_string(), ref.type->dtype, shape_of(ref),
                                                 ref.type->fortran_order));
          });
  ref_type = reinterpret_cast<PyTypeObject*>(bound.ptr());
}

}  // namespace forebay::python
