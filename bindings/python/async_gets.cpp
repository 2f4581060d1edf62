// SPDX-License-Identifier: Apache-2.0
// Gets for event loops, as forebay/_async.py uses them.
#include "store/async_gets.h"

#include <pybind11/stl.h>

#include <memory>

#include "arguments.h"
#include "ids.h"
#include "store.h"
#include "store/id.h"
#include "value.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

struct Asked {
  Named named;
  GetOptions options;
};

Asked asked_of(const py::object& what, const py::object& version, const py::object& timeout,
               const py::object& after) {
  Asked asked{.named = named_or_raise(what, version), .options = {}};
  value_or_raise(check_id(asked.named.id));
  asked.options.version = asked.named.version;
  asked.options.timeout = timeout_or_raise(timeout, for_ever);
  const bool any = py::int_(0).equal(after);
  if (!any && !after_of(after.ptr(), asked.named, asked.options.after))
    throw py::error_already_set();
  return asked;
}

// The value if it is there now, else None; a first answer that needs no connection.
py::object find(const py::object& self, const py::object& what, const py::object& version,
                const py::object& timeout, const py::object& after) {
  const Asked asked = asked_of(what, version, timeout, after);
  const Client& client = store_of(self.ptr()).client();
  View view = asked.named.ref != nullptr
                  ? client.get_resident(*asked.named.ref)
                  : client.get_resident(asked.named.id, asked.named.version);
  if (!view || view.version() <= asked.options.after) return py::none();
  PyObject* const value = value_of_view(client, std::move(view));
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

class PyAsyncGets {
 public:
  PyAsyncGets(py::object store, AsyncGets gets)
      : store_(std::move(store)), gets_(std::in_place, std::move(gets)) {}
  PyAsyncGets(const PyAsyncGets&) = delete;

  int fileno() const { return gets_ ? gets_->fd() : -1; }

  // (number, value, exception). Number 0: that is all; else dispatch will answer under this number.
  py::tuple start(const py::object& what, const py::object& version, const py::object& timeout,
                  const py::object& after) {
    Asked asked = asked_of(what, version, timeout, after);
    const Ref* const ref = asked.named.ref;
    if (ref != nullptr) {
      if (auto checked = check_ref(client(), *ref); !checked)
        return answer(0, fail(std::move(checked.error())));
      // It was sealed once: it is there, or does not come back.
      asked.options.timeout = Timeout::zero();
    }
    const auto slot = std::make_shared<std::uint64_t>(0);
    const std::uint64_t number = [&] {
      const py::gil_scoped_release released;
      return gets_->get(asked.named.id, asked.options, [this, slot](Result<View> view) {
        done_.emplace_back(*slot, std::move(view));
      });
    }();
    if (number != 0) {
      *slot = number;
      return py::make_tuple(number, py::none(), py::none());
    }
    if (done_.empty())
      return answer(0, fail(Errc::bad_state, "made by the process that this one was forked from"));
    Result<View> view = std::move(done_.back().second);
    done_.pop_back();
    if (ref != nullptr && (view ? view->ref() != *ref : view.error().is(Errc::not_found)))
      view = fail(Errc::stale_ref,
                  "the ref's segment " + shown(ref->id, ref->version) + " was removed");
    return answer(0, std::move(view));
  }

  bool cancel(std::uint64_t number) {
    if (!gets_ || !gets_->cancel(number)) return false;
    done_.pop_back();
    return true;
  }

  // A list of what start has promised.
  py::list dispatch() {
    if (gets_) {
      const py::gil_scoped_release released;
      gets_->dispatch();
    }
    py::list answers;
    for (auto& [number, view] : std::exchange(done_, {}))
      answers.append(answer(number, std::move(view)));
    return answers;
  }

  void close() {
    gets_.reset();
    done_.clear();
  }

 private:
  const Client& client() const { return store_of(store_.ptr()).client(); }

  py::tuple answer(std::uint64_t number, Result<View> view) const {
    if (!view) return py::make_tuple(number, py::none(), exception_of(view.error()));
    PyObject* const value = value_of_view(client(), std::move(*view));
    if (value == nullptr) return py::make_tuple(number, py::none(), take_exception());
    return py::make_tuple(number, py::reinterpret_steal<py::object>(value), py::none());
  }

  py::object store_;
  std::vector<std::pair<std::uint64_t, Result<View>>> done_;
  std::optional<AsyncGets> gets_;  // calls back into done_ when it ends
};

}  // namespace

void bind_async_gets(py::module_& module, StoreClass& store) {
  py::class_<PyAsyncGets>(module, "_AsyncGets")
      .def("fileno", &PyAsyncGets::fileno)
      .def("start", &PyAsyncGets::start)
      .def("cancel", &PyAsyncGets::cancel)
      .def("dispatch", &PyAsyncGets::dispatch)
      .def("close", &PyAsyncGets::close);
  store.def("_find", &find)
      .def("_async_gets",
           [](const py::object& self) {
             const Client& client = store_of(self.ptr()).client();
             return std::make_unique<PyAsyncGets>(
                 self, without_gil([&] { return client.async_gets(); }));
           })
      .attr("get_async") = py::module_::import("forebay._methods").attr("get_async");
}

}  // namespace forebay::python
