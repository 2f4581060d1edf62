// SPDX-License-Identifier: Apache-2.0
// Objects: any Python value as a segment, taken apart and put together by forebay._objects.
#pragma once

#include "numpy_api.h"

#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "array.h"
#include "store/object.h"
#include "store/view.h"

namespace forebay::python {

struct Object {
  pybind11::list keep;  // keeps the parts' bytes alive
  std::vector<std::unique_ptr<Source>> sources;  // of the parts that are copied from arrays
  std::vector<ObjectPart> parts;
};

// Raises Unstorable, naming the type, for what cannot be taken apart.
Object object_of(const pybind11::object& value);

// The value again, over the parts of `view`, whose bytes `base` (borrowed; a pin or a private copy)
// exports. NULL with an error set on failure.
PyObject* value_of_parts(const View& view, PyObject* base);

}  // namespace forebay::python
