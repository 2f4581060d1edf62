// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

#include "store/ref.h"

namespace forebay::python {

void bind_ref(pybind11::module_& module);

// The ref inside a Python Ref, or null if the object is none. Borrowed.
const Ref* find_ref(PyObject* object);

}  // namespace forebay::python
