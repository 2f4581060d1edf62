// SPDX-License-Identifier: Apache-2.0
#include "arguments.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "errors.h"
#include "ids.h"
#include "ref.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

bool refuse(std::string why) {
  set_error(fail(Errc::bad_argument, std::move(why)).error);
  return false;
}

Timeout seconds(double number) {
  return std::chrono::duration_cast<Timeout>(std::chrono::duration<double>(number));
}

// The time to live in seconds; None: zero, which is for ever.
Timeout ttl_or_raise(const py::object& object) {
  if (object.is_none()) return Timeout::zero();
  const double number = PyFloat_AsDouble(object.ptr());
  if (number == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  if (!(number > 0) || std::isinf(number)) {
    refuse("a time to live is a number of seconds above 0, or None for ever; not " +
           std::to_string(number));
    throw py::error_already_set();
  }
  // Zero would mean for ever.
  constexpr double longest = 100.0 * 366 * 24 * 3600;
  return std::max(seconds(std::min(number, longest)), Timeout(1));
}

bool flag_or_raise(const char* name, const py::handle& object) {
  try {
    return py::cast<bool>(object);
  } catch (const py::cast_error&) {
    throw py::type_error(std::string(name) + " is True or False, not " +
                         Py_TYPE(object.ptr())->tp_name);
  }
}

}  // namespace

bool timeout_of(PyObject* object, Timeout& timeout, Timeout none) {
  timeout = none;
  if (object == nullptr || object == Py_None) return true;
  const double number = PyFloat_AsDouble(object);
  if (number == -1.0 && PyErr_Occurred() != nullptr) return false;
  if (!(number >= 0) || std::isinf(number))
    return refuse("a timeout is a number of seconds from 0, not " + std::to_string(number));
  timeout = std::min(seconds(std::min(number, 1e9)), for_ever);
  return true;
}

Timeout timeout_or_raise(const py::object& object, Timeout none) {
  Timeout timeout{};
  if (!timeout_of(object.ptr(), timeout, none)) throw py::error_already_set();
  return timeout;
}

bool version_of(PyObject* object, std::uint64_t& version) {
  version = 0;
  if (object == nullptr || object == Py_None) return true;
  const unsigned long long number = PyLong_AsUnsignedLongLong(object);
  if (number == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return false;
    PyErr_Clear();
    return refuse("a version is a number from 1 to 2^64 - 2");
  }
  if (number == 0) return refuse("version 0: versions start at 1; None is the newest");
  version = number;
  return true;
}

std::uint64_t version_or_raise(const py::object& object) {
  std::uint64_t version = 0;
  if (!version_of(object.ptr(), version)) throw py::error_already_set();
  return version;
}

std::uint32_t keep_or_raise(const py::object& object) {
  if (object.is_none()) return 0;
  const auto refused = [](const std::string& what) {
    refuse("keep is 1 to " + std::to_string(keep_max) + " versions, or 'all'; not " + what);
    return py::error_already_set();
  };
  if (PyUnicode_Check(object.ptr())) {
    if (PyUnicode_CompareWithASCIIString(object.ptr(), "all") == 0) return keep_all;
    throw refused(py::repr(object).cast<std::string>());
  }
  // True would be one version, which nobody means by it.
  if (PyBool_Check(object.ptr()) || PyIndex_Check(object.ptr()) == 0)
    throw py::type_error("keep is a number or 'all', not " +
                         std::string(Py_TYPE(object.ptr())->tp_name));
  const Py_ssize_t number = PyNumber_AsSsize_t(object.ptr(), nullptr);  // cut at its ends
  if (number == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  if (number < 1 || number > static_cast<Py_ssize_t>(keep_max))
    throw refused(py::str(object).cast<std::string>());
  return static_cast<std::uint32_t>(number);
}

bool named_of(PyObject* what, PyObject* version, Named& named) {
  if (!version_of(version, named.version)) return false;
  named.ref = find_ref(what);
  if (named.ref == nullptr) return id_bytes(what, named.id);
  if (named.version != 0 && named.version != named.ref->version)
    return refuse("the ref is of version " + std::to_string(named.ref->version) +
                  ", and version " + std::to_string(named.version) + " was asked for");
  named.id = named.ref->id;
  named.version = named.ref->version;
  return true;
}

Named named_or_raise(const py::object& what, const py::object& version) {
  Named named;
  if (!named_of(what.ptr(), version.ptr(), named)) throw py::error_already_set();
  return named;
}

bool after_of(PyObject* object, const Named& named, std::uint64_t& after) {
  after = PyLong_AsUnsignedLongLong(object);
  if (PyErr_Occurred() != nullptr) return false;
  if (named.version == 0) return true;
  return refuse("after is for the newest version, not for an exact one");
}

Result<void> check_ref(const Client& client, const Ref& ref) {
  if (ref.store == client.store() && ref.namespace_name == client.namespace_name()) return {};
  return fail(Errc::wrong_store, "the ref " + ref.to_string() +
                                     " belongs to another store or namespace than the one at " +
                                     client.address() + ", which is " +
                                     format_uuid(client.store()) + "/" + client.namespace_name());
}

py::tuple items_of(const py::object& items, const char* call) {
  if (PyUnicode_Check(items.ptr()) || PyBytes_Check(items.ptr()))
    throw py::type_error(std::string(call) + "() takes several, in a list; not one " +
                         Py_TYPE(items.ptr())->tp_name);
  PyObject* const tuple = PySequence_Tuple(items.ptr());
  if (tuple == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::tuple>(tuple);
}

Options options_of(const char* call, const py::kwargs& named, unsigned also) {
  Options options;
  for (const auto& [key, value] : named) {
    const std::string name = py::cast<std::string>(key);
    const auto object = py::reinterpret_borrow<py::object>(value);
    if (name == "evictable") {
      options.put.evictable = flag_or_raise("evictable", value);
    } else if (name == "persistent") {
      options.put.persistent = flag_or_raise("persistent", value);
    } else if (name == "keep") {
      options.put.keep = keep_or_raise(object);
    } else if (name == "ttl") {
      options.put.ttl = ttl_or_raise(object);
    } else if (name == "version" && (also & with_version) != 0) {
      options.put.version = version_or_raise(object);
    } else if (name == "timeout" && (also & with_timeout) != 0) {
      options.put.timeout = timeout_or_raise(object);
    } else if (name == "exist_ok" && (also & with_exist_ok) != 0) {
      options.put.exist_ok = flag_or_raise("exist_ok", value);
    } else if (name == "take" && (also & with_take) != 0) {
      options.take = flag_or_raise("take", value);
    } else {
      throw py::type_error(std::string(call) + "() has no argument '" + name + "'");
    }
  }
  return options;
}

std::vector<std::uint64_t> dims_of(const py::object& shape) {
  std::vector<std::uint64_t> dims;
  const auto add = [&dims](const py::handle& dim) {
    const auto number = py::cast<long long>(py::module_::import("operator").attr("index")(dim));
    if (number < 0)
      raise(fail(Errc::bad_argument, "a dimension of " + std::to_string(number)).error);
    dims.push_back(static_cast<std::uint64_t>(number));
  };
  if (py::isinstance<py::sequence>(shape)) {
    for (const py::handle dim : shape) add(dim);
  } else {
    add(shape);
  }
  return dims;
}

}  // namespace forebay::python
