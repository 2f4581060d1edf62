// SPDX-License-Identifier: Apache-2.0
// What other parts of the extension need of the tiers.
#pragma once

#include <pybind11/pybind11.h>

#include "arguments.h"
#include "store.h"

namespace forebay::python {

// A read-only array of a part of a segment: `range` is a slice of rows, or a pair of byte offsets.
// NULL with an error set on failure.
PyObject* range_of(const Client& client, const Named& named, PyObject* range, Timeout timeout);

void bind_tiers(pybind11::module_& module, StoreClass& store);

}  // namespace forebay::python
