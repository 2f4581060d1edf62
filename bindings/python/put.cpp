// SPDX-License-Identifier: Apache-2.0
// Making versions: put, create, update, put_manifest.
#include <pybind11/stl.h>

#include <algorithm>

#include "arguments.h"
#include "array.h"
#include "builder.h"
#include "ids.h"
#include "ref.h"
#include "store.h"
#include "store/id.h"
#include "store/shm/layout.h"
#include "value.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

Ref put_array(Client& client, const std::string& id, const Source& source, PutOptions options) {
  options.type = source.type;
  if (source.bytes != nullptr || source.size == 0)
    return without_gil([&] { return client.put(id, source.span(), options); });
  return without_gil([&] {
    return client.put(
        id, source.size,
        [&](std::span<std::byte> target) {
          const py::gil_scoped_acquire acquired;
          const bool copied = copy_elements(source, target.data());
          if (!copied) PyErr_Clear();  // NumPy checked the dtype before: nothing is known to fail
          return copied;
        },
        options);
  });
}

Ref put(Store& store, const py::object& id, const py::object& array, const py::kwargs& named) {
  const std::string name = id_of(id);
  const PutOptions options =
      options_of("put", named, with_version | with_timeout | with_exist_ok).put;
  const Storable storable = storable_of(array);
  if (const auto* source = std::get_if<Source>(&storable))
    return put_array(store.client(), name, *source, options);
  return without_gil([&] {
    if (const auto* group = std::get_if<Group>(&storable))
      return store.client().put_group(name, group->members, options);
    return store.client().put_object(name, std::get<Object>(storable).parts, options);
  });
}

Ref put_manifest(Store& store, const py::object& id, const py::object& refs,
                 const py::kwargs& named) {
  const std::string name = id_of(id);
  const PutOptions options =
      options_of("put_manifest", named, with_version | with_timeout | with_exist_ok).put;
  std::vector<Ref> members;
  for (const py::handle item : items_of(refs, "put_manifest")) {
    const Ref* const ref = find_ref(item.ptr());
    if (ref == nullptr)
      throw py::type_error("a manifest lists refs, not " +
                           std::string(Py_TYPE(item.ptr())->tp_name));
    members.push_back(*ref);
  }
  return without_gil([&] { return store.client().put_manifest(name, members, options); });
}

// Bytes of an array of this type. Raises TooLarge where they cannot be counted.
std::uint64_t size_of(const ArrayType& type) {
  PyArray_Descr* const descriptor = descriptor_of(type.dtype);
  if (descriptor == nullptr) throw py::error_already_set();
  auto size = static_cast<std::uint64_t>(PyDataType_ELSIZE(descriptor));
  Py_DECREF(descriptor);
  for (const std::uint64_t dim : type.shape)
    if (__builtin_mul_overflow(size, dim, &size))
      raise(fail(Errc::too_large, "an array of that shape has more than 2^64 bytes").error);
  return size;
}

py::object create(Store& store, const py::object& id, const py::object& shape,
                  const py::object& dtype, const std::string& order, const py::kwargs& named) {
  const std::string name = id_of(id);
  if (order != "C" && order != "F")
    raise(fail(Errc::bad_argument, "order is 'C' or 'F', not '" + order + "'").error);
  PutOptions options = options_of("create", named, with_version | with_timeout).put;
  options.type = array_type(dtype, dims_of(shape), order == "F");
  const std::uint64_t size = size_of(*options.type);
  return new_builder(without_gil([&] { return store.client().create(name, size, options); }),
                     *options.type);
}

// What the builder of an update is an array of.
Result<ArrayType> type_of_segment(const View& view) {
  switch (shm::Brief::from_bits(view.brief()).kind) {
    case shm::Kind::bytes:
      return ArrayType{.dtype = "|u1", .shape = {view.bytes().size()}};
    case shm::Kind::array:
      return view.type();
    default: {
      const Ref ref = view.ref();
      return fail(Errc::type_mismatch, "segment " + shown(ref.id, ref.version) +
                                           " is no array, and only arrays can be updated: put a "
                                           "new version of it");
    }
  }
}

// Whether somebody else sealed, took over or removed a version while this one was looked at.
bool is_of_a_race(const Error& error) {
  return error.is(Errc::exists) || error.is(Errc::superseded) || error.is(Errc::not_found) ||
         error.is(Errc::stale_ref);
}

py::object update(Store& store, const py::object& id, const py::object& from_version,
                  const py::kwargs& named) {
  const std::string name = id_of(id);
  const Options options = options_of("update", named, with_timeout | with_take);
  const bool newest = from_version.is_none();
  UpdateOptions update;
  update.from_version = version_or_raise(from_version);
  update.take = options.take;
  update.timeout = options.put.timeout;
  update.evictable = options.put.evictable;
  update.persistent = options.put.persistent;
  update.keep = options.put.keep;
  update.ttl = options.put.ttl;
  Client& client = store.client();
  GetOptions exact;
  exact.version = update.from_version;
  while (true) {
    // What it is must be known before it is taken over, and nobody may have it pinned then.
    auto seen = without_gil([&] { return client.get(name, exact); });
    const std::uint64_t from = seen.version();
    const ArrayType type = value_or_raise(type_of_segment(seen));
    seen.release();
    update.from_version = from;
    auto builder = [&] {
      const py::gil_scoped_release released;
      return client.update(name, update);
    }();
    if (builder && builder->bytes().size() >= size_of(type))
      return new_builder(std::move(*builder), type);
    // Another segment has taken its name, or the newest is another one by now.
    const bool again = builder || (newest && is_of_a_race(builder.error()) &&
                                   client.get_resident(name).version() != from);
    if (!again) raise(builder.error());
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

}  // namespace

void bind_put(StoreClass& store) {
  py::options options;
  options.disable_function_signatures();
  store
      .def("put", &put, py::arg("id"), py::arg("array"),
           "put(id, array, *, version=None, timeout=None, exist_ok=False, evictable=False,\n"
           "    persistent=False, keep=None, ttl=None) -> Ref\n\n"
           "Copy an array (or bytes) into a new version of `id`; return its Ref.\n\n"
           "A mapping of names (str) and arrays becomes a group: one segment, with one pin, of\n"
           "which get makes such a mapping again.\n\n"
           "`version` None takes the next number. A full store raises StoreFull at once, or\n"
           "after `timeout` seconds of waiting for room. With `exist_ok`, a version that is\n"
           "there with equal bytes is fine. `evictable`: may be dropped to make room.\n"
           "`persistent`: nothing but `remove` takes it away. `keep`: how many of the newest\n"
           "versions of this id stay from now on, or 'all'; None as the daemon was told.\n"
           "`ttl`: removed so many seconds after it was put; None never.\n\n"
           "Raises Exists, Conflict, StoreFull, TooLarge, BadId, BadArgument, Disconnected;\n"
           "TypeError for what is no array.")
      .def("put_manifest", &put_manifest, py::arg("id"), py::arg("refs"),
           "put_manifest(id, refs, *, version=None, timeout=None, exist_ok=False,\n"
           "             evictable=False, persistent=False, keep=None, ttl=None) -> Ref\n\n"
           "Publish a list of segments as one. get returns their values as a tuple.\n\n"
           "What it lists stays as long as the manifest does: neither room that is wanted nor\n"
           "keep, ttl or remove takes it away. Options as in `put`. Raises NotFound when one\n"
           "of them is not there, and what `put` raises.")
      .def("create", &create, py::arg("id"), py::arg("shape"), py::arg("dtype") = "f8",
           py::kw_only(), py::arg("order") = "C",
           "create(id, shape, dtype='f8', *, order='C', version=None, timeout=None,\n"
           "       evictable=False, persistent=False, keep=None, ttl=None) -> Builder\n\n"
           "Make a new version in place: `with store.create(id, shape, dtype) as a: ...`.\n\n"
           "Options and errors as in `put`.")
      .def("update", &update, py::arg("id"), py::arg("from_version") = py::none(),
           "update(id, from_version=None, *, take=False, timeout=None, evictable=False,\n"
           "       persistent=False, keep=None, ttl=None) -> Builder\n\n"
           "Make the version behind `from_version` (None: the newest) from its content:\n"
           "`with store.update(id) as a: a += 1`.\n\n"
           "The array starts as a copy, or with `take` is the very memory: then the former\n"
           "version raises Superseded from that moment on, also when the block raises. The\n"
           "array pins the new version when the block has ended: `del` it before the next\n"
           "`take`.\n"
           "Options as in `put`. Raises NotFound when there is nothing to start from, Exists or\n"
           "Conflict when somebody else makes the next version, with `take` Conflict when\n"
           "somebody (this process counts) uses the former one, and TypeMismatch for groups and\n"
           "manifests.");
}

}  // namespace forebay::python
