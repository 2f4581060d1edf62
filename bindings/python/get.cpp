// SPDX-License-Identifier: Apache-2.0
// get. Not a py::def: that alone would cost more than the whole get.
#include <array>

#include "arguments.h"
#include "store.h"
#include "tiers.h"
#include "value.h"
#include "waiting.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

// What get was asked for.
struct GetArguments {
  PyObject* what = nullptr;
  PyObject* version = nullptr;
  PyObject* timeout = nullptr;
  PyObject* fallback = nullptr;  // null: raise
  PyObject* after = nullptr;
  PyObject* writable = nullptr;
  PyObject* range = nullptr;
  PyObject* from = nullptr;
};

bool parse(GetArguments& parsed, PyObject* const* arguments, Py_ssize_t positional,
           PyObject* keywords) {
  static constexpr std::array names{"id",    "version",  "timeout", "default",
                                    "after", "writable", "range",   "from_"};
  const std::array slots{&parsed.what,     &parsed.version, &parsed.timeout,
                         &parsed.fallback, &parsed.after,   &parsed.writable,
                         &parsed.range,    &parsed.from};
  if (positional > 3) {
    PyErr_Format(PyExc_TypeError,
                 "get() takes id, version and timeout by position (%zd given)", positional);
    return false;
  }
  for (Py_ssize_t i = 0; i < positional; ++i) *slots[static_cast<std::size_t>(i)] = arguments[i];
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t i = 0; i < named; ++i) {
    PyObject* const name = PyTuple_GET_ITEM(keywords, i);
    std::size_t slot = 0;
    while (slot < names.size() && PyUnicode_CompareWithASCIIString(name, names[slot]) != 0) ++slot;
    if (slot == names.size() || *slots[slot] != nullptr) {
      PyErr_Format(PyExc_TypeError,
                   slot == names.size() ? "get() has no argument '%U'"
                                        : "get() got '%U' twice",
                   name);
      return false;
    }
    *slots[slot] = arguments[positional + i];
  }
  if (parsed.what == nullptr) {
    PyErr_SetString(PyExc_TypeError, "get() needs an id or a ref");
    return false;
  }
  return true;
}

using Convert = PyObject* (*)(const Client&, View);

// How a view becomes what is returned; null, with an error set, for what `writable` cannot be.
Convert conversion(PyObject* writable) {
  if (writable == nullptr || writable == Py_None || writable == Py_False) return &value_of_view;
  if (PyUnicode_Check(writable) && PyUnicode_CompareWithASCIIString(writable, "copy") == 0)
    return &private_value_of_view;
  set_error(fail(Errc::bad_argument,
                 "writable is False, or 'copy' for an array of one's own: what others read "
                 "cannot be written to; see update")
                .error);
  return nullptr;
}

// The slow way: with the GIL released, for it may wait.
PyObject* get_waiting(const Client& client, const GetArguments& arguments, const Named& named,
                      const GetOptions& options, Convert convert) {
  // Ref and id belong to Python objects that the caller of get holds all the time.
  auto view = in_slices(options.timeout, slice_of_wait(), [&](Timeout timeout) {
    GetOptions in_turn = options;
    in_turn.timeout = timeout;
    return named.ref != nullptr ? client.get(*named.ref, in_turn) : client.get(named.id, in_turn);
  });
  if (!view) return nullptr;
  if (*view) return convert(client, std::move(**view));
  const Error& error = view->error();
  const bool missing = error.is(Errc::not_found) || error.is(Errc::evicted) ||
                       error.is(Errc::lost) || error.is(Errc::superseded) ||
                       error.is(Errc::stale_ref) || error.is(Errc::timed_out);
  if (missing && arguments.fallback != nullptr) {
    Py_INCREF(arguments.fallback);
    return arguments.fallback;
  }
  set_error(error);
  return nullptr;
}

PyObject* get(PyObject* self, PyObject* const* arguments, Py_ssize_t positional,
              PyObject* keywords) {
  GetArguments parsed;
  if (!parse(parsed, arguments, positional, keywords)) return nullptr;
  const Client& client = store_of(self).client();
  Named named;
  if (!named_of(parsed.what, parsed.version, named)) return nullptr;
  const Convert convert = conversion(parsed.writable);
  if (convert == nullptr) return nullptr;
  GetOptions options;
  options.version = named.version;
  if (parsed.range != nullptr && parsed.range != Py_None) {
    if (!timeout_of(parsed.timeout, options.timeout)) return nullptr;
    return range_of(client, named, parsed.range, options.timeout);
  }
  if (parsed.from != nullptr && parsed.from != Py_None) {
    if (!PyUnicode_Check(parsed.from) ||
        PyUnicode_CompareWithASCIIString(parsed.from, "pool") != 0) {
      set_error(fail(Errc::bad_argument, "from_ is 'pool', or None for this node alone").error);
      return nullptr;
    }
    options.from_pool = true;
  }
  if (parsed.after == nullptr && !options.from_pool) {
    View view = named.ref != nullptr ? client.get_resident(*named.ref)
                                     : client.get_resident(named.id, named.version);
    if (view) return convert(client, std::move(view));
  } else if (parsed.after != nullptr && !after_of(parsed.after, named, options.after)) {
    return nullptr;
  }
  if (!timeout_of(parsed.timeout, options.timeout)) return nullptr;
  return get_waiting(client, parsed, named, options, convert);
}

PyMethodDef get_definition = {
    "get", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&get)),
    METH_FASTCALL | METH_KEYWORDS,
    "get($self, id, version=None, timeout=None, *, default=..., after=0,\n"
    "    writable=False, range=None, from_=None)\n--\n\n"
    "Return a segment as a read-only numpy.ndarray, without a copy.\n\n"
    "`id` is a str, bytes or a Ref; `version` an exact one, or None for the newest.\n"
    "The array, and every view of it, keeps the segment where it is. With `timeout`,\n"
    "wait so many seconds for a version that is not there yet; with `after`, for the\n"
    "newest one above that number.\n\n"
    "A group comes as a read-only mapping of names and arrays that share one pin; a\n"
    "manifest as a tuple of the values of what it lists, all of them or none.\n\n"
    "With `writable='copy'`, arrays are writable and this process's own: pages that\n"
    "are not written to are the segment's, which stays pinned meanwhile.\n\n"
    "What is in a tier comes back first. With `range`, a slice of rows or a pair of\n"
    "byte offsets, only this part of it is read, and the rest stays where it is. With\n"
    "`from_='pool'`, also what another node has published is found.\n\n"
    "Raises NotFound (Evicted, Lost, StaleRef, ...) or Timeout, unless `default` is\n"
    "given, and TierDown where the tier that holds it does not answer."};

}  // namespace

void bind_get(StoreClass& store) {
  PyObject* const method =
      PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(store.ptr()), &get_definition);
  if (method == nullptr) throw py::error_already_set();
  store.attr("get") = py::reinterpret_steal<py::object>(method);
}

}  // namespace forebay::python
