// SPDX-License-Identifier: Apache-2.0
// Handles: an array over a segment as a few words from which another process makes the same array.
#pragma once

#include <pybind11/pybind11.h>

#include "store.h"

namespace forebay::python {

// The function `handle_of` of the module, and Store._array_at, its inverse.
void bind_handle(pybind11::module_& module, StoreClass& store);

}  // namespace forebay::python
