// SPDX-License-Identifier: Apache-2.0
// Pin: the Python object that holds a View; the base of every array that get returns.
//
// It exports its bytes read-only, so that NumPy lets nobody make an array over it writable.
#pragma once

#include "numpy_api.h"

#include <pybind11/pybind11.h>

#include "store/view.h"

namespace forebay::python {

struct PinObject {
  PyObject_HEAD
  View view;
};

// The type; made at import.
PyTypeObject* pin_type();
bool make_pin_type(pybind11::module_& module);

// A new pin that owns the view; NULL with an error set on failure.
PyObject* new_pin(View view);

}  // namespace forebay::python
