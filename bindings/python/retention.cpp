// SPDX-License-Identifier: Apache-2.0
// What stays and what goes: hold, persist, keep, remove.
#include "arguments.h"
#include "ids.h"
#include "ref.h"
#include "store.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

Ref hold(Store& store, const py::object& what, const py::object& version) {
  const Named named = named_or_raise(what, version);
  return without_gil([&] {
    return named.ref != nullptr ? store.client().hold(*named.ref)
                                : store.client().hold(named.id, named.version);
  });
}

void unhold(Store& store, const py::object& what) {
  const Ref* const ref = find_ref(what.ptr());
  if (ref == nullptr)
    throw py::type_error("unhold takes the Ref that hold returned, not " +
                         std::string(Py_TYPE(what.ptr())->tp_name));
  without_gil([&] { return store.client().unhold(*ref); });
}

Ref persist(Store& store, const py::object& what, const py::object& version) {
  const Named named = named_or_raise(what, version);
  return without_gil([&]() -> Result<Ref> {
    Client& client = store.client();
    if (named.ref == nullptr) return client.persist(named.id, named.version);
    // The client knows ids and versions here: whether they are still the ref's, get can tell.
    if (auto view = client.get(*named.ref); !view) return fail(std::move(view.error()));
    auto persisted = client.persist(named.id, named.version);
    if (persisted && *persisted != *named.ref)
      return fail(Errc::stale_ref, "the ref's segment was removed; another one has its id and "
                                   "version now, and was made persistent");
    return persisted;
  });
}

void keep(Store& store, const py::object& id, const py::object& versions) {
  const std::string name = id_of(id);
  const std::uint32_t number = keep_or_raise(versions);
  without_gil([&] { return store.client().keep(name, number); });
}

std::uint64_t remove(Store& store, const py::object& what, const py::object& version,
                     const py::object& before) {
  const Named named = named_or_raise(what, version);
  Client& client = store.client();
  if (!before.is_none()) {
    const std::uint64_t end = version_or_raise(before);
    if (named.version != 0)
      raise(fail(Errc::bad_argument, "before is for an id: a ref or a version names one already")
                .error);
    return without_gil([&] { return client.remove_before(named.id, end); });
  }
  if (named.ref == nullptr)
    return without_gil([&] { return client.remove(named.id, named.version); });
  without_gil([&] { return client.remove(*named.ref); });
  return 1;
}

std::uint64_t remove_prefix(Store& store, const py::object& prefix) {
  const std::string text = id_of(prefix);
  return without_gil([&] { return store.client().remove_prefix(text); });
}

void begin_scope(Store& store, const py::object& prefix) {
  const std::string text = id_of(prefix);
  without_gil([&] { return store.client().begin_scope(text); });
}

std::uint64_t end_scope(Store& store, const py::object& prefix) {
  const std::string text = id_of(prefix);
  return without_gil([&] { return store.client().end_scope(text); });
}

}  // namespace

void bind_retention(StoreClass& store) {
  store
      .def("hold", &hold, py::arg("id"), py::arg("version") = py::none(),
           "Keep the daemon from letting a segment go on its own until `unhold`; return its Ref.\n"
           "\n"
           "`id` is an id or a Ref; `version` None the newest. Neither room that is wanted nor\n"
           "keep or ttl takes it away meanwhile; `remove` does. Holds are counted, and end with\n"
           "this process. Raises NotFound, StaleRef.")
      .def("unhold", &unhold, py::arg("ref"),
           "End one hold. Fine if the segment was removed; raises BadState without a hold.")
      .def("persist", &persist, py::arg("id"), py::arg("version") = py::none(),
           "As `put` with `persistent`, later: nothing but `remove` takes it away. Returns its\n"
           "Ref. Raises NotFound, StaleRef.")
      .def("keep", &keep, py::arg("id"), py::arg("versions"),
           "How many of the newest versions of `id` stay from now on: a number, or 'all'.\n\n"
           "Older ones go when nobody pins them. Raises NotFound, BadArgument.")
      .def("remove", &remove, py::arg("id"), py::arg("version") = py::none(), py::kw_only(),
           py::arg("before") = py::none(),
           "Remove a version, a Ref's segment, or all versions of an id. Returns how many.\n\n"
           "With `before`, all versions below that number; none is no error then. They are out of\n"
           "sight at once; memory in use comes back when its last view goes. Raises NotFound,\n"
           "StaleRef, and Conflict for what a manifest lists.")
      .def("remove_prefix", &remove_prefix, py::arg("prefix"),
           "Remove everything whose id starts with `prefix`, '' for all. Returns how many.\n\n"
           "What a manifest lists stays until that is removed.")
      .def("_begin_scope", &begin_scope, py::arg("prefix"),
           "From now on, everything under `prefix` goes at `_end_scope`, at `close`, or when this\n"
           "process ends in any way, whoever put it. Raises BadId, Conflict, LimitReached.")
      .def("_end_scope", &end_scope, py::arg("prefix"),
           "Remove what is under `prefix` now. Returns how many. Raises BadState if this store did\n"
           "not begin it.");
}

}  // namespace forebay::python
