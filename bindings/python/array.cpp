// SPDX-License-Identifier: Apache-2.0
#include "array.h"

#include <array>
#include <unordered_map>

#include "errors.h"
#include "pin.h"
#include "store/shm/description.h"

namespace forebay::python {
namespace {

namespace py = pybind11;
using shm::Brief;
using shm::BriefFlag;

// NumPy's descriptors of the plain dtypes, by the store's code. Held for ever.
std::array<PyArray_Descr*, 32> plain{};
// Codes by NumPy's type number, for native byte order.
std::array<std::uint8_t, 64> code_of_type{};
// What other dtypes' texts mean; filled as they are met. Touched with the GIL held.
std::unordered_map<std::string, PyArray_Descr*>& described() {
  static auto* const known = new std::unordered_map<std::string, PyArray_Descr*>;
  return *known;
}

py::object helper(const char* name) { return py::module_::import("forebay._dtypes").attr(name); }

std::string dtype_text(PyArray_Descr* descriptor) {
  const int number = descriptor->type_num;
  if (number >= 0 && static_cast<std::size_t>(number) < code_of_type.size() &&
      code_of_type[static_cast<std::size_t>(number)] != 0 &&
      PyArray_EquivTypes(descriptor, plain[code_of_type[static_cast<std::size_t>(number)]]))
    return std::string(
        shm::plain_dtypes()[code_of_type[static_cast<std::size_t>(number)]].text);
  return helper("to_text")(py::handle(reinterpret_cast<PyObject*>(descriptor)))
      .cast<std::string>();
}

// An array of the given dtype and shape over bytes that `base` holds; steals `base`.
PyObject* array_over(PyArray_Descr* descriptor, int ndim, npy_intp* dims, const std::byte* data,
                     bool fortran_order, bool writable, PyObject* base) {
  static std::byte nothing[64];  // NumPy wants an address even for no bytes
  if (data == nullptr) data = nothing;
  int flags = fortran_order ? NPY_ARRAY_FARRAY_RO : NPY_ARRAY_CARRAY_RO;
  if (writable) flags |= NPY_ARRAY_WRITEABLE;
  Py_INCREF(descriptor);
  PyObject* array = PyArray_NewFromDescr(&PyArray_Type, descriptor, ndim, dims, nullptr,
                                         const_cast<std::byte*>(data), flags, nullptr);
  if (array == nullptr) {
    Py_DECREF(base);
    return nullptr;
  }
  if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), base) != 0) {
    Py_DECREF(array);
    return nullptr;
  }
  return array;
}

PyObject* described_array(View view) {
  auto type = view.type();
  if (!type) {
    set_error(type.error());
    return nullptr;
  }
  const auto bytes = view.bytes();
  PyObject* const pin = new_pin(std::move(view));
  if (pin == nullptr) return nullptr;
  PyObject* const array = array_of_bytes(std::move(*type), bytes, /*writable=*/false, pin);
  Py_DECREF(pin);
  return array;
}

}  // namespace

void load_dtypes() {
  const auto known = shm::plain_dtypes();
  for (std::size_t code = 1; code < known.size(); ++code) {
    const std::string text(known[code].text);
    PyObject* name = PyUnicode_FromString(text.c_str());
    PyArray_Descr* descriptor = nullptr;
    const int converted = PyArray_DescrConverter(name, &descriptor);
    Py_DECREF(name);
    if (converted == NPY_FAIL) {
      PyErr_Clear();  // a long double of another size: not plain on this machine
      continue;
    }
    plain[code] = descriptor;
    const auto number = static_cast<std::size_t>(descriptor->type_num);
    if (number < code_of_type.size()) code_of_type[number] = static_cast<std::uint8_t>(code);
  }
}

PyArray_Descr* descriptor_of(const std::string& dtype) {
  if (const std::uint8_t code = shm::plain_dtype_code(dtype); code != 0 && plain[code] != nullptr) {
    Py_INCREF(plain[code]);
    return plain[code];
  }
  auto& known = described();
  auto found = known.find(dtype);
  if (found == known.end()) {
    try {
      py::object made = helper("from_text")(dtype);
      found = known.emplace(dtype, reinterpret_cast<PyArray_Descr*>(made.release().ptr())).first;
    } catch (py::error_already_set& error) {
      error.restore();
      return nullptr;
    }
  }
  Py_INCREF(found->second);
  return found->second;
}

ArrayType type_of_array(PyArrayObject* array, bool fortran_order) {
  ArrayType type;
  type.dtype = dtype_text(PyArray_DESCR(array));
  type.fortran_order = fortran_order;
  for (int i = 0; i < PyArray_NDIM(array); ++i)
    type.shape.push_back(static_cast<std::uint64_t>(PyArray_DIM(array, i)));
  return type;
}

ArrayType array_type(const py::object& dtype, const std::vector<std::uint64_t>& shape,
                     bool fortran_order) {
  PyArray_Descr* descriptor = nullptr;
  if (PyArray_DescrConverter(dtype.ptr(), &descriptor) == NPY_FAIL) throw py::error_already_set();
  const auto held =
      py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(descriptor));
  return {dtype_text(descriptor), shape, fortran_order};
}

PyObject* array_of_bytes(const std::optional<ArrayType>& type, std::span<const std::byte> bytes,
                         bool writable, PyObject* base) {
  std::array<npy_intp, array_dims_max> dims{};
  if (!type) {
    dims[0] = static_cast<npy_intp>(bytes.size());
    Py_INCREF(base);
    return array_over(plain[shm::plain_dtype_code("|u1")], 1, dims.data(), bytes.data(),
                      /*fortran_order=*/false, writable, base);
  }
  PyArray_Descr* const descriptor = descriptor_of(type->dtype);
  if (descriptor == nullptr) return nullptr;
  auto size = static_cast<std::uint64_t>(PyDataType_ELSIZE(descriptor));
  bool fits = true;
  for (std::size_t i = 0; i < type->shape.size(); ++i) {
    dims[i] = static_cast<npy_intp>(type->shape[i]);
    fits = fits && !__builtin_mul_overflow(size, type->shape[i], &size);
  }
  // The writer said it, and it is checked here before anybody reads through it.
  if (!fits || size > bytes.size()) {
    Py_DECREF(descriptor);
    set_error(fail(Errc::type_mismatch, "the segment's " + std::to_string(bytes.size()) +
                                            " bytes are not an array of " + type->dtype)
                  .error);
    return nullptr;
  }
  Py_INCREF(base);
  PyObject* const array =
      array_over(descriptor, static_cast<int>(type->shape.size()), dims.data(), bytes.data(),
                 type->fortran_order, writable, base);
  Py_DECREF(descriptor);
  return array;
}

PyObject* array_of_view(View view, Brief brief) {
  const std::uint64_t size = view.bytes().size();
  const std::byte* const data = view.bytes().data();
  std::array<npy_intp, 2> dims{};
  int ndim = 1;
  PyArray_Descr* descriptor = nullptr;
  if (brief.kind == shm::Kind::bytes) {
    descriptor = plain[3];  // uint8
    dims[0] = static_cast<npy_intp>(size);
  } else {
    if (brief.kind != shm::Kind::array || brief.has(BriefFlag::dims_in_description) ||
        brief.has(BriefFlag::dtype_in_description) || brief.ndim > 2 ||
        brief.dtype >= plain.size() || plain[brief.dtype] == nullptr)
      return described_array(std::move(view));
    descriptor = plain[brief.dtype];
    ndim = brief.ndim;
    const auto elements =
        static_cast<npy_intp>(size / shm::plain_dtypes()[brief.dtype].item_bytes);
    if (ndim == 1) {
      dims[0] = elements;
    } else if (ndim == 2) {
      if (brief.first_dim == 0 || elements % brief.first_dim != 0)
        return described_array(std::move(view));
      dims[0] = brief.first_dim;
      dims[1] = elements / brief.first_dim;
    } else if (elements != 1) {
      return described_array(std::move(view));
    }
  }
  PyObject* const pin = new_pin(std::move(view));
  if (pin == nullptr) return nullptr;
  return array_over(descriptor, ndim, dims.data(), data, brief.has(BriefFlag::fortran_order),
                    /*writable=*/false, pin);
}

bool is_storable(PyArray_Descr* descriptor) {
  constexpr std::string_view kinds = "biufcSUVmM";
  return !PyDataType_REFCHK(descriptor) && !PyTypeNum_ISUSERDEF(descriptor->type_num) &&
         kinds.find(descriptor->kind) != std::string_view::npos;
}

Source source_of(const py::object& object) {
  Source source;
  source.array = PyArray_Check(object.ptr()) ? object : helper("as_array")(object);
  auto* const array = reinterpret_cast<PyArrayObject*>(source.array.ptr());
  const bool c_order = PyArray_IS_C_CONTIGUOUS(array) != 0;
  const bool fortran_order = !c_order && PyArray_IS_F_CONTIGUOUS(array) != 0;
  source.type = type_of_array(array, fortran_order);
  source.size = static_cast<std::uint64_t>(PyArray_NBYTES(array));
  if (c_order || fortran_order) source.bytes = static_cast<const std::byte*>(PyArray_DATA(array));
  return source;
}

Source contiguous_source_of(const py::object& object) {
  Source source = source_of(object);
  if (source.bytes != nullptr || source.size == 0) return source;
  auto* const array = reinterpret_cast<PyArrayObject*>(source.array.ptr());
  source.array = py::reinterpret_steal<py::object>(PyArray_NewCopy(array, NPY_CORDER));
  if (!source.array) throw py::error_already_set();
  source.bytes = static_cast<const std::byte*>(
      PyArray_DATA(reinterpret_cast<PyArrayObject*>(source.array.ptr())));
  return source;
}

bool copy_elements(const Source& source, std::byte* target) {
  auto* const array = reinterpret_cast<PyArrayObject*>(source.array.ptr());
  PyArray_Descr* const descriptor = PyArray_DESCR(array);
  Py_INCREF(descriptor);
  PyObject* const copy = PyArray_NewFromDescr(&PyArray_Type, descriptor, PyArray_NDIM(array),
                                              PyArray_DIMS(array), nullptr, target,
                                              NPY_ARRAY_CARRAY, nullptr);
  if (copy == nullptr) return false;
  const int copied = PyArray_CopyInto(reinterpret_cast<PyArrayObject*>(copy), array);
  Py_DECREF(copy);
  return copied == 0;
}

}  // namespace forebay::python
