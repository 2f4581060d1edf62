// SPDX-License-Identifier: Apache-2.0
// Store: the client in Python.
#include "store.h"

#include <pybind11/chrono.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>

#include "array.h"
#include "builder.h"
#include "errors.h"
#include "ids.h"
#include "ref.h"
#include "store/client.h"
#include "store/units.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

PyTypeObject* store_type = nullptr;

// Seconds as people pass them. None: no time at all. False, with an error set, for what is none.
bool timeout_of(PyObject* seconds, Timeout& timeout) {
  timeout = Timeout::zero();
  if (seconds == nullptr || seconds == Py_None) return true;
  const double number = PyFloat_AsDouble(seconds);
  if (number == -1.0 && PyErr_Occurred() != nullptr) return false;
  if (!(number >= 0) || std::isinf(number)) {
    set_error(fail(Errc::bad_argument, "a timeout is a number of seconds from 0, not " +
                                           std::to_string(number))
                  .error);
    return false;
  }
  constexpr double longest = 366.0 * 24 * 3600;
  timeout = std::chrono::duration_cast<Timeout>(
      std::chrono::duration<double>(std::min(number, longest)));
  return true;
}

// A version as people pass it. None: 0, the newest or the next.
bool version_of(PyObject* object, std::uint64_t& version) {
  version = 0;
  if (object == nullptr || object == Py_None) return true;
  const unsigned long long number = PyLong_AsUnsignedLongLong(object);
  if (number == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_OverflowError) && !PyErr_ExceptionMatches(PyExc_TypeError))
      return false;
    if (PyErr_ExceptionMatches(PyExc_TypeError)) return false;
    PyErr_Clear();
    set_error(fail(Errc::bad_argument, "a version is a number from 1 to 2^64 - 2").error);
    return false;
  }
  if (number == 0) {
    set_error(fail(Errc::bad_argument, "version 0: versions start at 1; None is the newest").error);
    return false;
  }
  version = number;
  return true;
}

Timeout timeout_or_raise(const py::object& seconds) {
  Timeout timeout{};
  if (!timeout_of(seconds.ptr(), timeout)) throw py::error_already_set();
  return timeout;
}
std::uint64_t version_or_raise(const py::object& object) {
  std::uint64_t version = 0;
  if (!version_of(object.ptr(), version)) throw py::error_already_set();
  return version;
}

class Store {
 public:
  explicit Store(Client client) : client_(std::move(client)) {}

  Client& client() { return client_; }

  Ref put(const py::object& id, const py::object& array, const py::object& version,
          const py::object& timeout, bool exist_ok, bool evictable, bool persistent) {
    const std::string name = id_of(id);
    const Source source = source_of(array);
    PutOptions options = options_of(version, timeout, evictable, persistent);
    options.exist_ok = exist_ok;
    options.type = source.type;
    const py::gil_scoped_release released;
    if (source.bytes != nullptr || source.size == 0)
      return value(client_.put(name, std::span(source.bytes, source.size), options));
    bool copied = true;
    auto ref = client_.put(
        name, source.size,
        [&](std::span<std::byte> target) {
          const py::gil_scoped_acquire acquired;
          copied = copy_elements(source, target.data());
          if (!copied) PyErr_Clear();  // NumPy checked the dtype before: nothing is known to fail
        },
        options);
    if (!copied) ref = fail(Errc::bad_argument, "NumPy could not copy the array's elements");
    return value(std::move(ref));
  }

  py::object create(const py::object& id, const py::object& shape, const py::object& dtype,
                    const std::string& order, const py::object& version,
                    const py::object& timeout, bool evictable, bool persistent) {
    const std::string name = id_of(id);
    if (order != "C" && order != "F")
      raise(fail(Errc::bad_argument, "order is 'C' or 'F', not '" + order + "'").error);
    PutOptions options = options_of(version, timeout, evictable, persistent);
    options.type = array_type(dtype, shape_of(shape), order == "F");
    PyArray_Descr* const descriptor = descriptor_of(options.type->dtype);
    if (descriptor == nullptr) throw py::error_already_set();
    std::uint64_t size = static_cast<std::uint64_t>(PyDataType_ELSIZE(descriptor));
    Py_DECREF(descriptor);
    for (const std::uint64_t dim : options.type->shape)
      if (__builtin_mul_overflow(size, dim, &size))
        raise(fail(Errc::too_large, "an array of that shape has more than 2^64 bytes").error);
    Result<Builder> builder = fail(Errc::bad_state, "");
    {
      const py::gil_scoped_release released;
      builder = client_.create(name, size, options);
    }
    return new_builder(value_or_raise(std::move(builder)), *options.type);
  }

  bool contains(const py::object& id, const py::object& version) {
    return value_or_raise(client_.contains(id_of(id), version_or_raise(version)));
  }

  std::uint64_t remove(const py::object& what, const py::object& version) {
    const std::uint64_t number = version_or_raise(version);
    if (const Ref* ref = find_ref(what.ptr())) {
      const Ref copy = *ref;
      const py::gil_scoped_release released;
      value(client_.remove(copy));
      return 1;
    }
    const std::string id = id_of(what);
    const py::gil_scoped_release released;
    return value(client_.remove(id, number));
  }

  ListPage page(const std::string& prefix, const ListCursor& from) {
    constexpr std::size_t page_segments = 10'000;
    const py::gil_scoped_release released;
    return value(client_.list(prefix, from, page_segments));
  }

  SegmentStat stat(const py::object& what, const py::object& version) {
    std::uint64_t number = version_or_raise(version);
    std::string id;
    if (const Ref* ref = find_ref(what.ptr())) {
      id = ref->id;
      number = ref->version;
    } else {
      id = id_of(what);
    }
    const py::gil_scoped_release released;
    return value(client_.stat(id, number));
  }

  py::dict status() {
    std::string text;
    {
      const py::gil_scoped_release released;
      text = value(client_.status());
    }
    py::dict numbers;
    for (std::string_view rest = text; !rest.empty();) {
      const std::size_t end = rest.find('\n');
      const std::string_view line = rest.substr(0, end);
      const std::size_t space = line.find(' ');
      const std::string name(line.substr(0, space));
      const std::string value(line.substr(space + 1));
      const bool number = value.find_first_not_of("0123456789") == std::string::npos;
      numbers[name.c_str()] = number ? py::object(py::int_(py::str(value))) : py::str(value);
      rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
    }
    return numbers;
  }

  void close() {
    const py::gil_scoped_release released;
    client_.close();
  }

  std::string represent() const {
    return "<forebay.Store at " + client_.address() +
           (client_.closed() ? ", closed>"
                             : ", " + format_size(client_.capacity_bytes()) + ", store " +
                                   format_uuid(client_.store()) + ">");
  }

 private:
  // Takes the GIL back before an exception is made.
  template <class T>
  static T value(Result<T> result) {
    if (!result) {
      const py::gil_scoped_acquire acquired;
      raise(result.error());
    }
    if constexpr (!std::is_void_v<T>) return std::move(result).value();
  }

  static PutOptions options_of(const py::object& version, const py::object& timeout,
                               bool evictable, bool persistent) {
    PutOptions options;
    options.version = version_or_raise(version);
    options.timeout = timeout_or_raise(timeout);
    options.evictable = evictable;
    options.persistent = persistent;
    return options;
  }

  static std::vector<std::uint64_t> shape_of(const py::object& shape) {
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

  Client client_;
};

Store& store_of(PyObject* self) {
  return *static_cast<Store*>(
      reinterpret_cast<py::detail::instance*>(self)->simple_value_holder[0]);
}

// What get was asked for.
struct GetArguments {
  PyObject* what = nullptr;
  PyObject* version = nullptr;
  PyObject* timeout = nullptr;
  PyObject* fallback = nullptr;  // null: raise
  PyObject* after = nullptr;
};

bool parse(GetArguments& parsed, PyObject* const* arguments, Py_ssize_t positional,
           PyObject* keywords) {
  static constexpr std::array names{"id", "version", "timeout", "default", "after"};
  const std::array slots{&parsed.what, &parsed.version, &parsed.timeout, &parsed.fallback,
                         &parsed.after};
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

// The slow way: with the GIL released, for it may wait.
PyObject* get_waiting(Store& store, const GetArguments& arguments, const Ref* ref,
                      std::string_view id, const GetOptions& options) {
  // Ref and id belong to Python objects that the caller of get holds all the time.
  Result<View> view = fail(Errc::bad_state, "");
  {
    const py::gil_scoped_release released;
    view = ref != nullptr ? store.client().get(*ref, options) : store.client().get(id, options);
  }
  if (view) return array_of_view(std::move(*view));
  const Error& error = view.error();
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

// Not a py::def: that alone would cost more than the whole get.
PyObject* get(PyObject* self, PyObject* const* arguments, Py_ssize_t positional,
              PyObject* keywords) {
  GetArguments parsed;
  if (!parse(parsed, arguments, positional, keywords)) return nullptr;
  Store& store = store_of(self);
  const Ref* const ref = find_ref(parsed.what);
  std::string_view id;
  GetOptions options;
  if (!version_of(parsed.version, options.version)) return nullptr;
  if (ref == nullptr) {
    if (!id_bytes(parsed.what, id)) return nullptr;
  } else if (options.version != 0 && options.version != ref->version) {
    set_error(fail(Errc::bad_argument, "the ref is of version " + std::to_string(ref->version) +
                                           ", and version " + std::to_string(options.version) +
                                           " was asked for")
                  .error);
    return nullptr;
  }
  if (parsed.after == nullptr) {
    View view = ref != nullptr ? store.client().get_resident(*ref)
                               : store.client().get_resident(id, options.version);
    if (view) return array_of_view(std::move(view));
  } else {
    options.after = PyLong_AsUnsignedLongLong(parsed.after);
    if (PyErr_Occurred() != nullptr) return nullptr;
    if (ref != nullptr || options.version != 0) {
      set_error(fail(Errc::bad_argument, "after is for the newest version, not for an exact one")
                    .error);
      return nullptr;
    }
  }
  if (!timeout_of(parsed.timeout, options.timeout)) return nullptr;
  return get_waiting(store, parsed, ref, id, options);
}

PyMethodDef get_definition = {
    "get", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&get)),
    METH_FASTCALL | METH_KEYWORDS,
    "get($self, id, version=None, timeout=None, *, default=..., after=0)\n--\n\n"
    "Return a segment as a read-only numpy.ndarray, without a copy.\n\n"
    "`id` is a str, bytes or a Ref; `version` an exact one, or None for the newest.\n"
    "The array, and every view of it, keeps the segment where it is. With `timeout`,\n"
    "wait so many seconds for a version that is not there yet; with `after`, for the\n"
    "newest one above that number.\n\n"
    "Raises NotFound (Evicted, Lost, StaleRef, ...) or Timeout, unless `default` is\n"
    "given."};

// Walks through the pages of a listing.
class Listing {
 public:
  Listing(py::object owner, std::string prefix) : owner_(std::move(owner)), prefix_(std::move(prefix)) {}

  SegmentInfo next() {
    if (at_ == page_.segments.size()) {
      if (begun_ && !page_.next) throw py::stop_iteration();
      page_ = store_of(owner_.ptr()).page(prefix_, begun_ ? *page_.next : ListCursor{});
      begun_ = true;
      at_ = 0;
      if (page_.segments.empty()) throw py::stop_iteration();
    }
    return page_.segments[at_++];
  }

 private:
  py::object owner_;
  std::string prefix_;
  ListPage page_;
  std::size_t at_ = 0;
  bool begun_ = false;
};

py::object dtype_of(const SegmentInfo& info) {
  return info.type ? py::object(py::str(info.type->dtype)) : py::none();
}
py::object shape_of(const SegmentInfo& info) {
  return info.type ? py::object(py::tuple(py::cast(info.type->shape))) : py::none();
}

std::string represent(const SegmentInfo& info) {
  return "<forebay.SegmentInfo " + py::repr(id_object(info.id)).cast<std::string>() + "@" +
         std::to_string(info.version) + " " + format_size(info.size) +
         (info.type ? " " + info.type->dtype + py::repr(shape_of(info)).cast<std::string>() : "") +
         ">";
}

Store connect(const std::optional<std::string>& address, double timeout,
              const std::string& namespace_name, bool start_daemon) {
  ConnectOptions options;
  options.address = address.value_or("");
  options.namespace_name = namespace_name;
  options.start_daemon = start_daemon;
  Timeout limit{};
  if (!timeout_of(py::float_(timeout).ptr(), limit)) throw py::error_already_set();
  options.timeout = limit;
  Result<Client> client = fail(Errc::bad_state, "");
  {
    const py::gil_scoped_release released;
    client = Client::connect(options);
  }
  return Store(value_or_raise(std::move(client)));
}

}  // namespace

void bind_store(py::module_& module) {
  py::class_<SegmentInfo>(module, "SegmentInfo", "What `list` says about a segment.")
      .def_property_readonly("id", [](const SegmentInfo& info) { return id_object(info.id); })
      .def_readonly("version", &SegmentInfo::version)
      .def_readonly("serial", &SegmentInfo::serial)
      .def_readonly("size", &SegmentInfo::size, "Payload bytes.")
      .def_property_readonly("dtype", &dtype_of,
                             "Text of the dtype; None for plain bytes, and where only `get` tells.")
      .def_property_readonly("shape", &shape_of)
      .def_readonly("sealed_at", &SegmentInfo::sealed_at)
      .def_readonly("evictable", &SegmentInfo::evictable)
      .def_readonly("persistent", &SegmentInfo::persistent)
      .def("__repr__", &represent);
  py::class_<Holder>(module, "Holder", "A process that pins a segment.")
      .def_readonly("pid", &Holder::pid)
      .def_readonly("name", &Holder::name)
      .def_readonly("pins", &Holder::pins)
      .def("__repr__", [](const Holder& holder) {
        return "<forebay.Holder pid " + std::to_string(holder.pid) + " (" + holder.name + "), " +
               std::to_string(holder.pins) + " pins>";
      });
  py::class_<SegmentStat>(module, "SegmentStat", "Everything about one segment.")
      .def_readonly("info", &SegmentStat::info)
      .def_readonly("state", &SegmentStat::state)
      .def_readonly("holders", &SegmentStat::holders)
      .def("__repr__", [](const SegmentStat& stat) {
        return "<forebay.SegmentStat " + represent(stat.info) + " " + stat.state + ", " +
               std::to_string(stat.holders.size()) + " holders>";
      });
  py::class_<Listing>(module, "Listing")
      .def("__iter__", [](const py::object& self) { return self; })
      .def("__next__", &Listing::next);

  auto store =
      py::class_<Store>(module, "Store",
                        "The store of this node; from `forebay.connect`.\n\n"
                        "May be shared by threads. A forked child may go on using it.")
          .def("put", &Store::put, py::arg("id"), py::arg("array"), py::kw_only(),
               py::arg("version") = py::none(), py::arg("timeout") = py::none(),
               py::arg("exist_ok") = false, py::arg("evictable") = false,
               py::arg("persistent") = false,
               "Copy an array (or bytes) into a new version of `id`; return its Ref.\n\n"
               "`version` None takes the next number. A full store raises StoreFull at once, or\n"
               "after `timeout` seconds of waiting for room. With `exist_ok`, a version that is\n"
               "there with equal bytes is fine.")
          .def("create", &Store::create, py::arg("id"), py::arg("shape"), py::arg("dtype") = "f8",
               py::kw_only(), py::arg("order") = "C", py::arg("version") = py::none(),
               py::arg("timeout") = py::none(), py::arg("evictable") = false,
               py::arg("persistent") = false,
               "Make a new version in place: `with store.create(id, shape, dtype) as a: ...`.")
          .def("contains", &Store::contains, py::arg("id"), py::arg("version") = py::none(),
               "Whether get would find it now.")
          .def("__contains__",
               [](Store& self, const py::object& id) { return self.contains(id, py::none()); })
          .def("remove", &Store::remove, py::arg("id"), py::arg("version") = py::none(),
               "Remove a version, a Ref's segment, or all versions of an id. Returns how many.\n\n"
               "They are out of sight at once; memory in use comes back when its last view goes.")
          .def("list",
               [](const py::object& self, const py::object& prefix) {
                 return Listing(self, id_of(prefix));
               },
               py::arg("prefix") = "",
               "Iterate over the segments whose id starts with `prefix`, by id and version.")
          .def("stat", &Store::stat, py::arg("id"), py::arg("version") = py::none(),
               "Everything about one segment, with who pins it.")
          .def("status", &Store::status, "What the daemon says about itself, as a dict.")
          .def("close", &Store::close, "End the connection. Arrays stay valid.")
          .def_property_readonly("closed", [](Store& self) { return self.client().closed(); })
          .def_property_readonly("address", [](Store& self) { return self.client().address(); })
          .def_property_readonly("capacity",
                                 [](Store& self) { return self.client().capacity_bytes(); })
          .def_property_readonly("uuid",
                                 [](Store& self) { return format_uuid(self.client().store()); })
          .def("__enter__", [](const py::object& self) { return self; })
          .def("__exit__",
               [](Store& self, const py::object&, const py::object&, const py::object&) {
                 self.close();
               })
          .def("__repr__", &Store::represent);
  store_type = reinterpret_cast<PyTypeObject*>(store.ptr());
  PyObject* const method = PyDescr_NewMethod(store_type, &get_definition);
  if (method == nullptr) throw py::error_already_set();
  store.attr("get") = py::reinterpret_steal<py::object>(method);

  module.def("connect", &connect, py::arg("address") = py::none(), py::kw_only(),
             py::arg("timeout") = 10.0, py::arg("namespace") = "default",
             py::arg("start_daemon") = true,
             "Connect to the store of this node.\n\n"
             "`address` is the path of a daemon's socket; None means $FOREBAY_SOCKET or this\n"
             "user's own daemon, which is started if it does not run. `timeout` bounds the\n"
             "connecting, and each later request that has no timeout of its own.");
}

}  // namespace forebay::python
