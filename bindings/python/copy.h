// SPDX-License-Identifier: Apache-2.0
// Copy: the Python object that holds a PrivateView; the base of every array that
// get(writable="copy") returns. It exports its bytes writable.
#pragma once

#include "numpy_api.h"

#include <pybind11/pybind11.h>

#include "store/private_view.h"

namespace forebay::python {

// Makes the type, at import.
bool make_copy_type(pybind11::module_& module);

// A new object that owns the view; NULL with an error set on failure.
PyObject* new_copy(PrivateView view);

}  // namespace forebay::python
