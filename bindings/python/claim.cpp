// SPDX-License-Identifier: Apache-2.0
// get_or_create: a version, made by whoever asks first.
#include <variant>

#include "arguments.h"
#include "array.h"
#include "errors.h"
#include "ids.h"
#include "store.h"
#include "value.h"
#include "waiting.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

// "TypeName: text", for those who wait in other processes.
std::string text_of(const py::error_already_set& error) {
  std::string text = Py_TYPE(error.value().ptr())->tp_name;
  text.erase(0, text.rfind('.') + 1);
  const auto said = py::reinterpret_steal<py::object>(PyObject_Str(error.value().ptr()));
  const auto bytes = py::reinterpret_steal<py::object>(
      said ? PyUnicode_AsEncodedString(said.ptr(), "utf-8", "backslashreplace") : nullptr);
  if (!bytes) {
    PyErr_Clear();
    return text;
  }
  const std::string_view rest(PyBytes_AS_STRING(bytes.ptr()),
                              static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr())));
  return rest.empty() ? text : text.append(": ").append(rest);
}

// Says to those who wait for the version why it was not made.
void end(Claim& claim, const py::error_already_set& error) {
  const bool failed = error.matches(PyExc_Exception);
  const std::string why = failed ? text_of(error) : "";
  const py::gil_scoped_release released;
  // What is no Exception says nothing about the version: somebody was asked to end.
  if (failed)
    claim.fail(why);
  else
    claim.give_up();
}

View make(Claim& claim, const py::object& loader, PutOptions options) {
  const Storable loaded = storable_of(loader(), /*contiguous=*/true);
  return without_gil([&] {
    if (const auto* group = std::get_if<Group>(&loaded))
      return claim.put_group(group->members, options);
    if (const auto* object = std::get_if<Object>(&loaded))
      return claim.put_object(object->parts, options);
    const auto& source = std::get<Source>(loaded);
    options.type = source.type;
    return claim.put(source.span(), options);
  });
}

py::object get_or_create(Store& store, const py::object& id, const py::object& loader,
                         const py::object& version, const py::object& timeout,
                         const py::kwargs& named) {
  const std::string name = id_of(id);
  if (PyCallable_Check(loader.ptr()) == 0)
    throw py::type_error("a loader is called without arguments, which " +
                         std::string(Py_TYPE(loader.ptr())->tp_name) + " cannot be");
  const PutOptions options = options_of("get_or_create", named, retention).put;
  const Client& client = store.client();
  ClaimOptions claiming;
  claiming.version = version_or_raise(version);
  const Timeout patience = timeout_or_raise(timeout, for_ever);
  auto claimed = in_slices(patience, slice_of_wait(), [&](Timeout slice) {
    claiming.timeout = slice;
    return store.client().claim(name, claiming);
  });
  if (!claimed) throw py::error_already_set();
  ViewOrClaim got = value_or_raise(std::move(*claimed));
  const auto value = [&client](View view) {
    PyObject* const object = value_of_view(client, std::move(view));
    if (object == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(object);
  };
  if (auto* view = std::get_if<View>(&got)) return value(std::move(*view));
  auto& claim = std::get<Claim>(got);
  try {
    return value(make(claim, loader, options));
  } catch (const py::error_already_set& error) {
    end(claim, error);
    throw;
  } catch (const py::builtin_exception& thrown) {
    thrown.set_error();
    const py::error_already_set error;
    end(claim, error);
    throw error;
  }
}

}  // namespace

void bind_claim(StoreClass& store) {
  py::options options;
  options.disable_function_signatures();
  store.def(
      "get_or_create", &get_or_create, py::arg("id"), py::arg("loader"),
      py::arg("version") = py::none(), py::arg("timeout") = py::none(),
      "get_or_create(id, loader, version=None, timeout=None, *, evictable=False,\n"
      "              persistent=False, keep=None, ttl=None) -> numpy.ndarray\n\n"
      "Return a version, which is made with `loader()` if it is not there.\n\n"
      "Of all processes that ask for it meanwhile, one runs its loader; the others wait, for\n"
      "at most `timeout` seconds (None: as long as it takes), and get what it made. The\n"
      "loader returns what `put` takes; options as in `put`. `version` None is the newest, or\n"
      "the next number if there is none. The loader must not ask for the same id itself.\n\n"
      "An exception of the loader is raised here, and as LoaderFailed where others wait; who\n"
      "asks next tries again. If the loader's process dies, or is told to end\n"
      "(KeyboardInterrupt), the next who waits runs his. Raises Timeout, and what `put` and\n"
      "`get` raise.");
}

}  // namespace forebay::python
