// SPDX-License-Identifier: Apache-2.0
// Builder in Python: `with store.create(id, shape, dtype) as array:`.
#pragma once

#include "numpy_api.h"

#include <pybind11/pybind11.h>

#include "store/builder.h"
#include "store/view.h"

namespace forebay::python {

// The type of the object below the array that is handed out; made at import.
bool make_draft_type(pybind11::module_& module);

// The view of what was sealed, if the object is one of that type; else, and before, null.
const View* sealed_draft(PyObject* object);

void bind_builder(pybind11::module_& module);

// A bound builder over a C++ one, with its array.
pybind11::object new_builder(Builder builder, const ArrayType& type);

}  // namespace forebay::python
