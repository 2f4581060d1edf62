// SPDX-License-Identifier: Apache-2.0
#include "value.h"

#include "copy.h"
#include "errors.h"
#include "ids.h"
#include "object.h"
#include "pin.h"
#include "store/id.h"
#include "store/shm/group.h"
#include "store/shm/manifest.h"

namespace forebay::python {
namespace {

namespace py = pybind11;
using shm::Brief;
using shm::Kind;

PyObject* failed(const Error& error) {
  set_error(error);
  return nullptr;
}

// A read-only mapping, in order, of arrays over bytes that `base` (borrowed) holds.
PyObject* mapping_of(const std::vector<GroupMember>& members, bool writable, PyObject* base) {
  const auto arrays = py::reinterpret_steal<py::object>(PyDict_New());
  if (!arrays) return nullptr;
  for (const GroupMember& member : members) {
    const auto name = id_object(member.name);
    const auto array = py::reinterpret_steal<py::object>(
        array_of_bytes(member.type, member.bytes, writable, base));
    if (!array || PyDict_SetItem(arrays.ptr(), name.ptr(), array.ptr()) != 0) return nullptr;
  }
  return PyDictProxy_New(arrays.ptr());
}

PyObject* group_of_view(View view) {
  const auto members = view.group();
  if (!members) return failed(members.error());
  const auto pin = py::reinterpret_steal<py::object>(new_pin(std::move(view)));
  if (!pin) return nullptr;
  return mapping_of(*members, /*writable=*/false, pin.ptr());
}

// What the manifest lists, all or none.
Result<std::vector<View>> views_of_manifest(const Client& client, const View& manifest) {
  Ref member = manifest.ref();
  const std::string name = "manifest " + shown(member.id, member.version) + ": ";
  const auto about = [&name](Error error) {
    error.detail.insert(0, name);
    return fail(std::move(error));
  };
  auto list = shm::read_manifest(manifest.bytes());
  if (!list) return about(std::move(list.error()));
  std::vector<View> views;
  views.reserve(list->size());
  for (shm::ManifestMember& listed : *list) {
    member.id = std::move(listed.id);
    member.version = listed.version;
    member.serial = listed.serial;
    auto view = client.get(member);
    if (!view) return about(std::move(view.error()));
    views.push_back(std::move(*view));
  }
  return views;
}

PyObject* object_of_view(View view) {
  const auto pin = py::reinterpret_steal<py::object>(new_pin(std::move(view)));
  if (!pin) return nullptr;
  return value_of_parts(reinterpret_cast<PinObject*>(pin.ptr())->view, pin.ptr());
}

using Convert = PyObject* (*)(const Client&, View);

// A manifest may list manifests. Each takes a piece of the stack, so that there is an end to it.
constexpr int nesting_max = 100;
thread_local int nesting = 0;

PyObject* tuple_of_manifest(const Client& client, const View& manifest, Convert convert) {
  if (nesting == nesting_max) {
    PyErr_Format(PyExc_RecursionError, "manifests are nested more than %d deep", nesting_max);
    return nullptr;
  }
  Result<std::vector<View>> views = fail(Errc::bad_state, "");
  {
    const py::gil_scoped_release released;
    views = views_of_manifest(client, manifest);
  }
  if (!views) return failed(views.error());
  ++nesting;
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(views->size()));
  for (std::size_t i = 0; tuple != nullptr && i < views->size(); ++i) {
    PyObject* const value = convert(client, std::move((*views)[i]));
    if (value == nullptr) {
      Py_CLEAR(tuple);
    } else {
      PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), value);
    }
  }
  --nesting;
  return tuple;
}

}  // namespace

PyObject* structured_value_of_view(const Client& client, View view) {
  const Brief brief = Brief::from_bits(view.brief());
  switch (brief.kind) {
    case Kind::group:
      return group_of_view(std::move(view));
    case Kind::object:
      return object_of_view(std::move(view));
    case Kind::manifest:
      return tuple_of_manifest(client, view, &value_of_view);
    default:
      return array_of_view(std::move(view), brief);  // says what it is not
  }
}

PyObject* private_value_of_view(const Client& client, View view) {
  const Kind kind = Brief::from_bits(view.brief()).kind;
  if (kind == Kind::manifest) return tuple_of_manifest(client, view, &private_value_of_view);
  std::vector<GroupMember> members;
  if (kind == Kind::group) {
    auto group = view.group();
    if (!group) return failed(group.error());
    members = std::move(*group);
  }
  const Ref ref = view.ref();
  GetOptions exact;
  exact.version = ref.version;
  auto copied = client.get_private(ref.id, exact);
  if (!copied) return failed(copied.error());
  if (copied->ref() != ref)
    return failed(fail(Errc::stale_ref, "segment " + shown(ref.id, ref.version) +
                                            " was removed meanwhile; another one has its id and "
                                            "version now")
                      .error);
  const auto bytes = copied->bytes();
  for (GroupMember& member : members) {
    if (member.bytes.empty()) continue;
    const auto offset = static_cast<std::size_t>(member.bytes.data() - view.bytes().data());
    member.bytes = bytes.subspan(offset, member.bytes.size());
  }
  auto type = copied->type();
  const auto base = py::reinterpret_steal<py::object>(new_copy(std::move(*copied)));
  if (!base) return nullptr;
  // The parts lie in the copy as they lie in the segment.
  if (kind == Kind::object) return value_of_parts(view, base.ptr());
  view.release();
  if (kind == Kind::group) return mapping_of(members, /*writable=*/true, base.ptr());
  if (!type && kind != Kind::bytes) return failed(type.error());
  return array_of_bytes(type ? std::optional(std::move(*type)) : std::nullopt, bytes,
                        /*writable=*/true, base.ptr());
}

namespace {

// Whether the object's type is that one of a module, which need not be loaded.
bool is_of(const char* module, const char* name, PyObject* object) {
  const auto text = py::reinterpret_steal<py::object>(PyUnicode_FromString(module));
  const auto loaded = py::reinterpret_steal<py::object>(PyImport_GetModule(text.ptr()));
  if (!loaded) {
    PyErr_Clear();
    return false;
  }
  return py::getattr(loaded, name, py::none()).ptr() ==
         reinterpret_cast<PyObject*>(Py_TYPE(object));
}

// An array of plain elements, or bytes: what is a segment as it lies in memory.
bool is_plain(PyObject* object) {
  if (PyArray_Check(object))
    return (PyArray_CheckExact(object) || is_of("numpy", "memmap", object) ||
            is_of("forebay._shared", "SharedArray", object)) &&
           is_storable(PyArray_DESCR(reinterpret_cast<PyArrayObject*>(object)));
  if (PyBytes_CheckExact(object) || PyByteArray_CheckExact(object) || PyMemoryView_Check(object))
    return true;
  return PyObject_CheckBuffer(object) != 0 &&
         (is_of("array", "array", object) || is_of("mmap", "mmap", object));
}

// A dict, or what get makes of a group. Other mappings are more than their items.
bool is_mapping(PyObject* object) {
  return PyDict_CheckExact(object) || Py_TYPE(object) == &PyDictProxy_Type;
}

// A str that a member of a group may have as its name.
bool is_name(PyObject* object) {
  std::string_view name;
  if (!PyUnicode_Check(object)) return false;
  if (!id_bytes(object, name)) {
    PyErr_Clear();  // a lone surrogate: no UTF-8
    return false;
  }
  return !name.empty() && name.size() <= shm::group_name_bytes_max;
}

// A mapping of names and plain arrays. Anything else of a mapping is an object like others.
bool is_group(PyObject* object) {
  if (!is_mapping(object)) return false;
  const auto items = py::reinterpret_steal<py::list>(PyMapping_Items(object));
  if (!items) throw py::error_already_set();
  if (items.size() > group_members_max) return false;
  for (const py::handle item : items) {
    const auto pair = py::cast<py::tuple>(item);
    if (!is_name(pair[0].ptr()) || !is_plain(pair[1].ptr())) return false;
  }
  return true;
}

}  // namespace

namespace {

Group group_of(const py::object& mapping) {
  const auto items = py::reinterpret_steal<py::list>(PyMapping_Items(mapping.ptr()));
  if (!items) throw py::error_already_set();
  Group group;
  group.sources.reserve(items.size());
  group.members.reserve(items.size());
  for (const py::handle item : items) {
    const auto pair = py::cast<py::tuple>(item);
    const py::object name = pair[0];
    const Source& source = group.sources.emplace_back(contiguous_source_of(pair[1]));
    group.members.push_back({id_of(name), source.span(), source.type});
  }
  return group;
}

}  // namespace

Storable storable_of(const py::object& value, bool contiguous) {
  if (is_plain(value.ptr()))
    return contiguous ? contiguous_source_of(value) : source_of(value);
  if (is_group(value.ptr())) {
    Group group = group_of(value);
    // So many long names and types that they do not fit: as a dict like any other.
    if (shm::plan_group(group.members)) return group;
  }
  return object_of(value);
}

}  // namespace forebay::python
