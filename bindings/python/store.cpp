// SPDX-License-Identifier: Apache-2.0
// The class itself, its connection, and looking around: contains, list, stat, status.
#include "store.h"
#include "tiers.h"

#include <pybind11/chrono.h>
#include <pybind11/stl.h>

#include <optional>

#include "arguments.h"
#include "handle.h"
#include "ids.h"
#include "store/units.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

bool contains(Store& store, const py::object& id, const py::object& version) {
  return value_or_raise(store.client().contains(id_of(id), version_or_raise(version)));
}

SegmentStat stat(Store& store, const py::object& what, const py::object& version) {
  const Named named = named_or_raise(what, version);
  const Client& client = store.client();
  if (named.ref != nullptr) value_or_raise(check_ref(client, *named.ref));
  SegmentStat stat = without_gil([&] { return client.stat(named.id, named.version); });
  if (named.ref != nullptr && stat.info.serial != named.ref->serial)
    raise(fail(Errc::stale_ref, "the segment of the ref " + named.ref->to_string() +
                                    " was removed; another one has its id and version now")
              .error);
  return stat;
}

py::dict status(Store& store) {
  const std::string text = without_gil([&] { return store.client().status(); });
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

void close(Store& store) {
  const py::gil_scoped_release released;
  store.client().close();
}

std::string describe(Store& store) {
  const Client& client = store.client();
  return "<forebay.Store at " + client.address() +
         (client.closed() ? ", closed>"
                          : ", " + format_size(client.capacity_bytes()) + ", store " +
                                format_uuid(client.store()) + ">");
}

// Walks through the pages of a listing.
class Listing {
 public:
  Listing(py::object owner, std::string prefix)
      : owner_(std::move(owner)), prefix_(std::move(prefix)) {}

  SegmentInfo next() {
    if (at_ == page_.segments.size()) {
      if (begun_ && !page_.next) throw py::stop_iteration();
      constexpr std::size_t page_segments = 10'000;
      const ListCursor from = begun_ ? *page_.next : ListCursor{};
      page_ = without_gil(
          [&] { return store_of(owner_.ptr()).client().list(prefix_, from, page_segments); });
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

py::object keep_of(const SegmentStat& stat) {
  if (stat.keep == 0) return py::none();
  return stat.keep == keep_all ? py::object(py::str("all")) : py::int_(stat.keep);
}
py::object expires_in(const SegmentStat& stat) {
  if (!stat.expires_in) return py::none();
  return py::float_(std::chrono::duration<double>(*stat.expires_in).count());
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
  return Store(without_gil([&] { return Client::connect(options); }));
}

}  // namespace

Store& store_of(PyObject* self) {
  return *static_cast<Store*>(
      reinterpret_cast<py::detail::instance*>(self)->simple_value_holder[0]);
}

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
      .def_readonly("holders", &SegmentStat::holders, "Who pins it.")
      .def_readonly("leases", &SegmentStat::leases, "Who holds it.")
      .def_readonly("manifests", &SegmentStat::manifests, "So many manifests list it.")
      .def_property_readonly("keep", &keep_of,
                             "How many versions of its id stay: a number, 'all', or None as the "
                             "daemon was told.")
      .def_property_readonly("expires_in", &expires_in,
                             "Seconds until it is removed; None: never.")
      .def("__repr__", [](const SegmentStat& stat) {
        return "<forebay.SegmentStat " + represent(stat.info) + " " + stat.state + ", " +
               std::to_string(stat.holders.size()) + " holders>";
      });
  py::class_<Listing>(module, "Listing")
      .def("__iter__", [](const py::object& self) { return self; })
      .def("__next__", &Listing::next);

  StoreClass store(module, "Store",
                   "The store of this node; from `forebay.connect`.\n\n"
                   "May be shared by threads. A forked child may go on using it.");
  bind_put(store);
  bind_get(store);
  bind_many(store);
  bind_wait(store);
  bind_claim(store);
  bind_retention(store);
  bind_async_gets(module, store);
  bind_subscription(module, store);
  bind_handle(module, store);
  bind_tiers(module, store);
  store
      .def("contains", &contains, py::arg("id"), py::arg("version") = py::none(),
           "Whether get would find it now.")
      .def("__contains__",
           [](Store& self, const py::object& id) { return contains(self, id, py::none()); })
      .def("list",
           [](const py::object& self, const py::object& prefix) {
             return Listing(self, id_of(prefix));
           },
           py::arg("prefix") = "",
           "Iterate over the segments whose id starts with `prefix`, by id and version.")
      .def("stat", &stat, py::arg("id"), py::arg("version") = py::none(),
           "Everything about one segment, with who pins it.")
      .def("status", &status, "What the daemon says about itself, as a dict.")
      .def("close", &close, "End the connection. Arrays stay valid.")
      .def_property_readonly("closed", [](Store& self) { return self.client().closed(); })
      .def_property_readonly("address", [](Store& self) { return self.client().address(); })
      .def_property_readonly("namespace",
                             [](Store& self) { return self.client().namespace_name(); })
      .def_property_readonly("capacity", [](Store& self) { return self.client().capacity_bytes(); })
      .def_property_readonly("uuid", [](Store& self) { return format_uuid(self.client().store()); })
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__",
           [](Store& self, const py::object&, const py::object&, const py::object&) {
             close(self);
           })
      .def("__repr__", &describe);

  module.def("default_address",
             [] { return value_or_raise(Client::default_address()); },
             "Where `connect()` connects to.");
  module.def("connect", &connect, py::arg("address") = py::none(), py::kw_only(),
             py::arg("timeout") = 10.0, py::arg("namespace") = "default",
             py::arg("start_daemon") = true,
             "Connect to the store of this node.\n\n"
             "`address` is the path of a daemon's socket; None means $FOREBAY_SOCKET or this\n"
             "user's own daemon, which is started if it does not run. `timeout` bounds the\n"
             "connecting, and each later request that has no timeout of its own.");
}

}  // namespace forebay::python
