// SPDX-License-Identifier: Apache-2.0
// The tiers: prefetch, restore, spill, publish, where, hint, and parts of segments.
#include "tiers.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "arguments.h"
#include "array.h"
#include "ids.h"
#include "ref.h"
#include "waiting.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

// What a call about one segment or several names; `kept` holds the objects that it borrows from.
struct Names {
  py::tuple kept;
  std::vector<SegmentName> segments;
};

SegmentName name_of(const Client& client, const Named& named) {
  if (named.ref == nullptr) return {named.id, named.version, 0};
  if (auto checked = check_ref(client, *named.ref); !checked) raise(checked.error());
  return {named.id, named.version, named.ref->serial};
}

Names names_of(const Client& client, const py::object& items, const char* call) {
  Names names;
  const bool one = PyUnicode_Check(items.ptr()) || PyBytes_Check(items.ptr()) ||
                   find_ref(items.ptr()) != nullptr;
  names.kept = one ? py::make_tuple(items) : items_of(items, call);
  for (const py::handle item : names.kept)
    names.segments.push_back(name_of(
        client, named_or_raise(py::reinterpret_borrow<py::object>(item), py::none())));
  return names;
}

using Transfer = Result<std::uint64_t> (Client::*)(std::span<const SegmentName>, Timeout);

std::uint64_t transfer(Store& store, const py::object& items, const py::object& timeout,
                       const char* call, Transfer transfer) {
  Client& client = store.client();
  const Names names = names_of(client, items, call);
  Timeout patience{};
  if (!timeout_of(timeout.ptr(), patience)) throw py::error_already_set();
  return without_gil([&] { return (client.*transfer)(names.segments, patience); });
}

std::uint64_t prefetch(Store& store, const py::object& items) {
  const Names names = names_of(store.client(), items, "prefetch");
  return without_gil([&] { return store.client().prefetch(names.segments); });
}

void hint(Store& store, const py::object& items, bool last_use, std::uint64_t next_use,
          int priority) {
  const Names names = names_of(store.client(), items, "hint");
  without_gil([&] {
    return store.client().hint(names.segments, {last_use, next_use, priority});
  });
}

Whereabouts where(Store& store, const py::object& what, const py::object& version) {
  const SegmentName name = name_of(store.client(), named_or_raise(what, version));
  return without_gil([&] { return store.client().where(name); });
}

std::string represent(const Whereabouts& where) {
  std::string text = "<forebay.Whereabouts ";
  std::string places = where.in_memory ? "memory" : "";
  for (const TierCopy& copy : where.copies)
    places += (places.empty() ? "" : ", ") + copy.tier + (copy.up ? "" : " (down)");
  return text + (places.empty() ? "nowhere" : places) + ", " + std::to_string(where.size_bytes) +
         " bytes" + (where.published ? ", published" : "") + ">";
}

// The range of rows `rows` of an array of this type, as bytes and a type of its own.
struct Rows {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  ArrayType type;
};

Rows rows_of(const SegmentInfo& info, const py::slice& rows) {
  const bool sliceable = info.type && !info.type->shape.empty() && !info.type->fortran_order;
  if (!sliceable)
    raise(fail(Errc::type_mismatch,
               "rows can be had of arrays in C order whose type lies in the index; for other "
               "segments, range is (first byte, byte behind the last)")
              .error);
  py::ssize_t start = 0;
  py::ssize_t stop = 0;
  py::ssize_t step = 0;
  py::ssize_t count = 0;
  const auto length = static_cast<py::ssize_t>(info.type->shape.front());
  if (!rows.compute(length, &start, &stop, &step, &count)) throw py::error_already_set();
  if (step != 1)
    raise(fail(Errc::bad_argument, "a range of rows has no step").error);
  const std::uint64_t row = length > 0 ? info.size / static_cast<std::uint64_t>(length) : 0;
  Rows found;
  found.type = *info.type;
  found.type.shape.front() = static_cast<std::uint64_t>(count);
  found.offset = static_cast<std::uint64_t>(start) * row;
  found.size = static_cast<std::uint64_t>(count) * row;
  return found;
}

}  // namespace

PyObject* range_of(const Client& client, const Named& named, PyObject* range, Timeout timeout) {
  try {
    SegmentName name = name_of(client, named);
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    std::optional<ArrayType> type;
    if (PySlice_Check(range)) {
      const SegmentStat stat =
          without_gil([&] { return client.stat(named.id, named.version); });
      if (name.serial != 0 && stat.info.serial != name.serial)
        raise(fail(Errc::stale_ref, "the ref's segment was removed").error);
      const Rows rows = rows_of(stat.info, py::reinterpret_borrow<py::slice>(range));
      name.version = stat.info.version;
      offset = rows.offset;
      size = rows.size;
      type = rows.type;
    } else if (PyTuple_Check(range) && PyTuple_GET_SIZE(range) == 2) {
      const auto pair = py::reinterpret_borrow<py::tuple>(range);
      offset = pair[0].cast<std::uint64_t>();
      const auto end = pair[1].cast<std::uint64_t>();
      if (end < offset) raise(fail(Errc::bad_argument, "a range that ends before it begins").error);
      size = end - offset;
    } else {
      PyErr_SetString(PyExc_TypeError,
                      "range is a slice of rows, or (first byte, byte behind the last)");
      return nullptr;
    }
    auto part = without_gil([&] {
      return named.ref != nullptr ? client.get_range(*named.ref, offset, size, timeout)
                                  : client.get_range(name, offset, size, timeout);
    });
    const std::span<const std::byte> bytes = part.bytes();
    const py::object holder = py::cast(std::move(part));
    return array_of_bytes(type, bytes, false, holder.ptr());
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::cast_error&) {
    PyErr_SetString(PyExc_TypeError, "the ends of a range are numbers from 0");
  }
  return nullptr;
}

void bind_tiers(py::module_& module, StoreClass& store) {
  py::class_<SegmentRange>(module, "_Range", py::buffer_protocol())
      .def_buffer([](SegmentRange& range) {
        return py::buffer_info(const_cast<std::byte*>(range.bytes().data()), 1, "B",
                               static_cast<py::ssize_t>(range.bytes().size()), true);
      });
  py::class_<TierCopy>(module, "TierCopy", "A copy of a segment's bytes in a tier.")
      .def_readonly("tier", &TierCopy::tier)
      .def_readonly("up", &TierCopy::up, "Whether the tier answers.")
      .def("__repr__", [](const TierCopy& copy) {
        return "<forebay.TierCopy " + copy.tier + (copy.up ? ">" : " (down)>");
      });
  py::class_<Whereabouts>(module, "Whereabouts", "Where a segment's bytes are.")
      .def_readonly("version", &Whereabouts::version)
      .def_readonly("size", &Whereabouts::size_bytes, "Payload bytes.")
      .def_readonly("in_memory", &Whereabouts::in_memory)
      .def_readonly("published", &Whereabouts::published,
                    "Whether other nodes find it in the pool.")
      .def_readonly("stored", &Whereabouts::stored_bytes,
                    "Bytes in each tier: less than `size` when compressed.")
      .def_readonly("copies", &Whereabouts::copies)
      .def("__repr__", &represent);
  store
      .def("prefetch", &prefetch, py::arg("ids"),
           "Bring segments (an id, a Ref, or several) back into memory when there is time.\n\n"
           "Not waited for, never in the way of a get, and only into memory that is free or holds\n"
           "what is in a tier already. What is not there is no error.")
      .def("restore",
           [](Store& self, const py::object& items, const py::object& timeout) {
             return transfer(self, items, timeout, "restore", &Client::restore);
           },
           py::arg("ids"), py::arg("timeout") = py::none(),
           "Bring segments back into memory, and wait for it. Returns how many.\n\n"
           "Raises NotFound, StaleRef, StoreFull, Lost, TierDown, Timeout.")
      .def("spill",
           [](Store& self, const py::object& items, const py::object& timeout) {
             return transfer(self, items, timeout, "spill", &Client::spill);
           },
           py::arg("ids"), py::arg("timeout") = py::none(),
           "Copy segments into a tier, and give their memory back unless somebody pins them.\n\n"
           "Raises NotFound, StaleRef, StoreFull (the tiers are), TierDown, Timeout, and BadState\n"
           "where the daemon has no tier.")
      .def("publish",
           [](Store& self, const py::object& items, const py::object& timeout) {
             return transfer(self, items, timeout, "publish", &Client::publish);
           },
           py::arg("ids"), py::arg("timeout") = py::none(),
           "Put segments into the pool under their ids, for `get(id, from_='pool')` elsewhere.\n\n"
           "They stay there until they are removed here. Raises as `spill`.")
      .def("where", &where, py::arg("id"), py::arg("version") = py::none(),
           "Where a segment's bytes are. Raises NotFound, StaleRef.")
      .def("hint", &hint, py::arg("ids"), py::kw_only(), py::arg("last_use") = false,
           py::arg("next_use") = 0, py::arg("priority") = 0,
           "Tell the daemon of the future: that nobody will read these again (`last_use`), how many\n"
           "other segments are read before them (`next_use`), or that they should stay in memory\n"
           "(`priority` above 0). Costs no wait; what is gone is no error.");
}

}  // namespace forebay::python
