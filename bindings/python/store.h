// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

namespace forebay::python {

void bind_store(pybind11::module_& module);

}  // namespace forebay::python
