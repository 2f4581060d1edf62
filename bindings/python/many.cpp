// SPDX-License-Identifier: Apache-2.0
// Batches: get_many, put_many, remove_many, contains_many. An item's failure does not touch the
// others: it is raised when all is done, or returned in its place.
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>

#include "arguments.h"
#include "ids.h"
#include "ref.h"
#include "store.h"
#include "value.h"
#include "waiting.h"

namespace forebay::python {
namespace {

namespace py = pybind11;
using Clock = std::chrono::steady_clock;

// What a batch returns, item by item.
class Answers {
 public:
  Answers(std::size_t count, bool return_exceptions)
      : list_(count), return_exceptions_(return_exceptions) {}

  // `value` is a new reference, or null with an error set.
  void set(std::size_t at, PyObject* value) {
    if (value == nullptr) return set_exception(at, take_exception());
    PyList_SET_ITEM(list_.ptr(), static_cast<Py_ssize_t>(at), value);
  }
  void set(std::size_t at, const Error& error) { set_exception(at, exception_of(error)); }
  // Nothing may be missing.
  py::list give() {
    if (!first_ || return_exceptions_) return std::move(list_);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(first_.ptr())), first_.ptr());
    throw py::error_already_set();
  }

 private:
  void set_exception(std::size_t at, py::object exception) {
    if (!first_ || at < first_at_) {
      first_ = exception;
      first_at_ = at;
    }
    PyList_SET_ITEM(list_.ptr(), static_cast<Py_ssize_t>(at), exception.release().ptr());
  }

  py::list list_;
  bool return_exceptions_;
  py::object first_;
  std::size_t first_at_ = 0;
};

std::vector<std::string_view> ids_of(const py::tuple& items) {
  std::vector<std::string_view> ids(items.size());
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (!id_bytes(PyTuple_GET_ITEM(items.ptr(), static_cast<Py_ssize_t>(i)), ids[i]))
      throw py::error_already_set();
  return ids;
}

bool any_ref(const py::tuple& items) {
  return std::any_of(items.begin(), items.end(),
                     [](const py::handle item) { return find_ref(item.ptr()) != nullptr; });
}

std::vector<Named> named_of_items(const py::tuple& items, const py::object& version) {
  std::vector<Named> named;
  named.reserve(items.size());
  for (const py::handle item : items)
    named.push_back(named_or_raise(py::reinterpret_borrow<py::object>(item), version));
  return named;
}

// ------------------------------------------------------------------------------------------- get

// What is there now, without a wait.
std::vector<Result<View>> views_of(const Client& client, const py::tuple& items,
                                   const py::object& version) {
  if (!any_ref(items)) {
    const auto ids = ids_of(items);
    GetOptions options;
    options.version = version_or_raise(version);
    return without_gil([&] { return client.get_many(ids, options); });
  }
  const auto named = named_of_items(items, version);
  std::vector<Result<View>> views;
  views.reserve(named.size());
  const py::gil_scoped_release released;
  for (const Named& one : named) {
    GetOptions options;
    options.version = one.version;
    views.push_back(one.ref != nullptr ? client.get(*one.ref) : client.get(one.id, options));
  }
  return views;
}

py::list get_many(Store& store, const py::object& ids, const py::object& version,
                  const py::object& timeout, bool return_exceptions) {
  const Client& client = store.client();
  const py::tuple items = items_of(ids, "get_many");
  const Timeout patience = timeout_or_raise(timeout);
  const auto until = Clock::now() + patience;
  std::vector<Result<View>> views = views_of(client, items, version);
  if (patience > Timeout::zero()) {
    // All of them are waited for together.
    for (std::size_t i = 0; i < views.size(); ++i) {
      if (views[i] || !views[i].error().is(Errc::not_found)) continue;
      const Named named = named_or_raise(items[i], version);
      GetOptions options;
      options.version = named.version;
      const Timeout left = std::max<Timeout>(until - Clock::now(), Timeout(1));
      auto view = in_slices(left, slice_of_wait(), [&](Timeout slice) {
        options.timeout = slice;
        return client.get(named.id, options);
      });
      if (!view) throw py::error_already_set();
      views[i] = std::move(*view);
      if (!views[i]) say_whole(views[i].error(), patience);
    }
  }
  Answers answers(views.size(), return_exceptions);
  for (std::size_t i = 0; i < views.size(); ++i) {
    if (views[i]) [[likely]]
      answers.set(i, value_of_view(client, std::move(*views[i])));
    else
      answers.set(i, views[i].error());
  }
  return answers.give();
}

// ------------------------------------------------------------------------------------------- put

struct ToPut {
  std::string id;
  Storable what;
  const Source* array() const { return std::get_if<Source>(&what); }
};

std::vector<ToPut> puts_of(const py::object& items) {
  const py::object pairs = py::hasattr(items, "items")
                               ? py::reinterpret_steal<py::object>(PyMapping_Items(items.ptr()))
                               : items;
  if (!pairs) throw py::error_already_set();
  std::vector<ToPut> puts;
  for (const py::handle item : items_of(pairs, "put_many")) {
    const py::tuple pair = items_of(py::reinterpret_borrow<py::object>(item), "put_many");
    if (pair.size() != 2)
      throw py::type_error("put_many() takes a mapping, or pairs of an id and a value");
    puts.push_back({id_of(pair[0]), storable_of(pair[1], /*contiguous=*/true)});
  }
  return puts;
}

// The end of those from `begin` on that go into one batch of the client's: it has one type for all.
std::size_t end_of_run(const std::vector<ToPut>& puts, std::size_t begin) {
  std::size_t end = begin + 1;
  const Source* const first = puts[begin].array();
  if (first == nullptr) return end;
  while (end < puts.size() && puts[end].array() != nullptr &&
         puts[end].array()->type == first->type)
    ++end;
  return end;
}

Result<std::vector<Result<Ref>>> put_run(Client& client, std::span<const ToPut> run,
                                         PutOptions options) {
  const ToPut& first = run.front();
  if (first.array() == nullptr) {
    std::vector<Result<Ref>> one;
    if (const auto* group = std::get_if<Group>(&first.what))
      one.push_back(client.put_group(first.id, group->members, options));
    else
      one.push_back(client.put_object(first.id, std::get<Object>(first.what).parts, options));
    return one;
  }
  options.type = first.array()->type;
  std::vector<PutItem> items;
  items.reserve(run.size());
  for (const ToPut& put : run) items.push_back({put.id, put.array()->span()});
  return client.put_many(items, options);
}

py::list put_many(Store& store, const py::object& items, bool return_exceptions,
                  const py::kwargs& named) {
  PutOptions options =
      options_of("put_many", named, with_version | with_timeout | with_exist_ok).put;
  const std::vector<ToPut> puts = puts_of(items);
  const Timeout patience = options.timeout;
  const auto until = Clock::now() + patience;
  std::vector<Result<Ref>> refs;
  refs.reserve(puts.size());
  {
    const py::gil_scoped_release released;
    while (refs.size() < puts.size()) {
      const std::size_t begin = refs.size();
      const std::size_t end = end_of_run(puts, begin);
      options.timeout = std::clamp<Timeout>(until - Clock::now(), Timeout::zero(), patience);
      auto run = put_run(store.client(), std::span(puts).subspan(begin, end - begin), options);
      if (run) {
        std::move(run->begin(), run->end(), std::back_inserter(refs));
      } else {
        // The daemon cannot be reached: the others would only wait for it again.
        while (refs.size() < puts.size()) refs.emplace_back(fail(run.error()));
      }
    }
  }
  Answers answers(refs.size(), return_exceptions);
  for (std::size_t i = 0; i < refs.size(); ++i) {
    if (refs[i])
      answers.set(i, py::cast(std::move(*refs[i])).release().ptr());
    else
      answers.set(i, refs[i].error());
  }
  return answers.give();
}

// ---------------------------------------------------------------------------------------- remove

py::list remove_many(Store& store, const py::object& what, bool return_exceptions) {
  Client& client = store.client();
  const py::tuple items = items_of(what, "remove_many");
  std::vector<std::string_view> ids;
  std::vector<Ref> refs;
  const auto named = named_of_items(items, py::none());
  for (const Named& one : named) {
    if (one.ref != nullptr)
      refs.push_back(*one.ref);
    else
      ids.push_back(one.id);
  }
  std::vector<Result<std::uint64_t>> of_ids;
  std::vector<Result<void>> of_refs;
  if (!ids.empty()) of_ids = without_gil([&] { return client.remove_many(ids); });
  if (!refs.empty()) of_refs = without_gil([&] { return client.remove_many(refs); });
  Answers answers(named.size(), return_exceptions);
  std::size_t next_id = 0;
  std::size_t next_ref = 0;
  for (std::size_t i = 0; i < named.size(); ++i) {
    if (named[i].ref != nullptr) {
      const auto& removed = of_refs[next_ref++];
      if (removed)
        answers.set(i, PyLong_FromLong(1));
      else
        answers.set(i, removed.error());
    } else {
      const auto& removed = of_ids[next_id++];
      if (removed)
        answers.set(i, PyLong_FromUnsignedLongLong(*removed));
      else
        answers.set(i, removed.error());
    }
  }
  return answers.give();
}

std::vector<bool> contains_many(Store& store, const py::object& ids) {
  const py::tuple items = items_of(ids, "contains_many");
  const auto names = ids_of(items);
  return without_gil([&] { return store.client().contains_many(names); });
}

}  // namespace

void bind_many(StoreClass& store) {
  store
      .def("get_many", &get_many, py::arg("ids"), py::arg("version") = py::none(),
           py::arg("timeout") = py::none(), py::kw_only(), py::arg("return_exceptions") = false,
           "Return what `get` returns for each id or Ref, as a list in their order.\n\n"
           "`version` and `timeout` are of all of them; they are waited for together. When some\n"
           "cannot be had, the first one's exception is raised, and nothing stays pinned; with\n"
           "`return_exceptions`, each exception stands in its place.")
      .def("contains_many", &contains_many, py::arg("ids"),
           "Whether get would find each of these ids now, as a list in their order.")
      .def("remove_many", &remove_many, py::arg("items"), py::kw_only(),
           py::arg("return_exceptions") = false,
           "Remove all versions of each id, and each Ref's segment. Returns a list of how many.\n\n"
           "All are tried; then the first exception (NotFound, StaleRef, ...) is raised, or with\n"
           "`return_exceptions` each stands in its place.");
  py::options options;
  options.disable_function_signatures();
  store.def("put_many", &put_many, py::arg("items"), py::kw_only(),
            py::arg("return_exceptions") = false,
            "put_many(items, *, return_exceptions=False, version=None, timeout=None,\n"
            "         exist_ok=False, evictable=False, persistent=False, keep=None, ttl=None)\n"
            "-> list[Ref]\n\n"
            "Put each array of a mapping of ids, or of pairs of an id and an array.\n\n"
            "The options, as in `put`, are of all of them; they wait for room together. What is\n"
            "no id raises TypeError, and what cannot be stored Unstorable, before anything is\n"
            "put. Else all are tried; then\n"
            "the first exception is raised, or with `return_exceptions` each stands in its place.\n"
            "Fastest where neighbours are of one dtype and shape.");
}

}  // namespace forebay::python
