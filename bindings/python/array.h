// SPDX-License-Identifier: Apache-2.0
// Arrays: what an ndarray is in the words of the store, and the ndarray that a segment is.
#pragma once

#include "numpy_api.h"

#include <pybind11/pybind11.h>

#include <optional>
#include <span>

#include "store/array_type.h"
#include "store/error.h"
#include "store/shm/layout.h"
#include "store/view.h"

namespace forebay::python {

// Finds NumPy's descriptors of the plain dtypes. Once, at import, after NumPy's.
void load_dtypes();

// dtype and shape of an array. Raises TypeError for what cannot be shared (objects, …), by name.
ArrayType type_of_array(PyArrayObject* array, bool fortran_order);
ArrayType array_type(const pybind11::object& dtype, const std::vector<std::uint64_t>& shape,
                     bool fortran_order);
// NumPy's dtype for a dtype's text. New reference, or NULL with an error set.
PyArray_Descr* descriptor_of(const std::string& dtype);

// A read-only array over the view's bytes, which are an array or plain bytes; it holds the view.
// `brief` is the view's. NULL with an error set on failure.
PyObject* array_of_view(View view, shm::Brief brief);

// An array over bytes that `base` (borrowed) holds. No type: of uint8. NULL with an error set on
// failure, which includes bytes that are too few.
PyObject* array_of_bytes(const std::optional<ArrayType>& type, std::span<const std::byte> bytes,
                         bool writable, PyObject* base);

// Whether elements of that dtype are plain bytes, which mean the same in another process.
bool is_storable(PyArray_Descr* descriptor);

// How an ndarray of a storable dtype is put; or something that exports its bytes, as an array of what it
// says they are.
struct Source {
  pybind11::object array;   // keeps the bytes alive
  ArrayType type;
  std::uint64_t size = 0;
  const std::byte* bytes = nullptr;  // in the order of `type`, or null: must be copied element-wise

  std::span<const std::byte> span() const { return {bytes, size}; }
};
Source source_of(const pybind11::object& object);
// The same with its bytes in order: a copy, where they are not.
Source contiguous_source_of(const pybind11::object& object);
// Copies the source's elements to `target`, in the order of its type. Needs the GIL. False with an
// error set on failure.
bool copy_elements(const Source& source, std::byte* target);

}  // namespace forebay::python
