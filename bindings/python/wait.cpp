// SPDX-License-Identifier: Apache-2.0
// wait: some of several versions.
#include <set>

#include "arguments.h"
#include "ids.h"
#include "ref.h"
#include "store.h"
#include "store/id.h"
#include "waiting.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

// An id, an id and a version, or a ref.
WaitItem item_of(const Client& client, const py::handle& object) {
  WaitItem item;
  Named named;
  if (PyTuple_Check(object.ptr())) {
    if (PyTuple_GET_SIZE(object.ptr()) != 2)
      throw py::type_error("wait() takes ids, pairs of an id and a version, and refs");
    PyObject* const what = PyTuple_GET_ITEM(object.ptr(), 0);
    if (!id_bytes(what, named.id) ||
        !version_of(PyTuple_GET_ITEM(object.ptr(), 1), named.version))
      throw py::error_already_set();
  } else {
    named = named_or_raise(py::reinterpret_borrow<py::object>(object), py::none());
  }
  item.id = named.id;
  item.version = named.version;
  if (named.ref != nullptr) {
    value_or_raise(check_ref(client, *named.ref));
    item.serial = named.ref->serial;
  }
  return item;
}

std::vector<WaitItem> wait_items(const Client& client, const py::tuple& objects) {
  std::vector<WaitItem> items;
  std::set<std::pair<std::string_view, std::uint64_t>> known;
  for (const py::handle object : objects) {
    const WaitItem& item = items.emplace_back(item_of(client, object));
    if (!known.emplace(item.id, item.version).second)
      raise(fail(Errc::bad_argument, shown(item.id, item.version) + " is waited for twice").error);
  }
  return items;
}

py::tuple wait(Store& store, const py::object& items, Py_ssize_t num_returns,
               const py::object& timeout) {
  const Client& client = store.client();
  const py::tuple objects = items_of(items, "wait");
  const auto wanted = wait_items(client, objects);
  if (num_returns < 1 || num_returns > static_cast<Py_ssize_t>(wanted.size()))
    raise(fail(Errc::bad_argument, "num_returns is 1 to the number of items, which is " +
                                       std::to_string(wanted.size()) + "; not " +
                                       std::to_string(num_returns))
              .error);
  const auto needed = static_cast<std::size_t>(num_returns);
  const Timeout total = timeout_or_raise(timeout, for_ever);
  std::vector<std::size_t> sealed;
  const auto waited =
      in_slices(total, slice_of_wait(wanted.size()), [&](Timeout slice) -> Result<void> {
        auto seen = client.wait(wanted, needed, slice);
        if (!seen) return fail(std::move(seen.error()));
        sealed = std::move(*seen);
        if (sealed.size() < needed) return fail(Errc::timed_out, "");
        return {};
      });
  if (!waited) throw py::error_already_set();
  if (!*waited && !waited->error().is(Errc::timed_out)) raise(waited->error());
  py::list ready;
  py::list not_ready;
  for (std::size_t i = 0, at = 0; i < wanted.size(); ++i) {
    const bool is_sealed = at < sealed.size() && sealed[at] == i;
    if (is_sealed) ++at;
    (is_sealed && ready.size() < needed ? ready : not_ready).append(objects[i]);
  }
  return py::make_tuple(ready, not_ready);
}

}  // namespace

void bind_wait(StoreClass& store) {
  store.def("wait", &wait, py::arg("items"), py::arg("num_returns") = 1,
            py::arg("timeout") = py::none(),
            "Wait until `num_returns` of the items are there; return (ready, not_ready).\n\n"
            "An item is an id (its newest version), a pair of an id and a version, or a Ref.\n"
            "Both lists hold the items themselves, in their order; `ready` at most `num_returns`\n"
            "of them, fewer after `timeout` seconds. `timeout` None waits for as long as it\n"
            "takes. Nothing is pinned: what is ready may be removed again.\n\n"
            "Raises BadArgument for items that come twice, StaleRef for a Ref whose segment was\n"
            "removed, WrongStore, Disconnected.");
}

}  // namespace forebay::python
