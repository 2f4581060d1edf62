// SPDX-License-Identifier: Apache-2.0
// The extension module forebay._forebay: its table of contents.
#define FOREBAY_IMPORTS_NUMPY
#include "numpy_api.h"

#include <pybind11/pybind11.h>

#include "array.h"
#include "builder.h"
#include "copy.h"
#include "errors.h"
#include "pin.h"
#include "ref.h"
#include "store.h"
#include "store/version.h"

namespace {

int import_numpy() {
  import_array1(-1);
  return 0;
}

}  // namespace

PYBIND11_MODULE(_forebay, module) {
  using namespace forebay::python;
  if (import_numpy() != 0) throw pybind11::error_already_set();
  module.doc() = "The extension behind the package forebay.";
  module.attr("__version__") = forebay::version_text;
  load_exceptions();
  load_dtypes();
  if (!make_pin_type(module) || !make_copy_type(module) || !make_draft_type(module))
    throw pybind11::error_already_set();
  bind_ref(module);
  bind_builder(module);
  bind_store(module);
}
