// SPDX-License-Identifier: Apache-2.0
// Events, and what forebay/_subscription.py is made of.
#include "store/subscription.h"

#include <poll.h>
#include <pybind11/stl.h>

#include <array>
#include <chrono>
#include <optional>

#include "arguments.h"
#include "ids.h"
#include "store.h"
#include "waiting.h"

namespace forebay::python {
namespace {

namespace py = pybind11;
using Clock = std::chrono::steady_clock;

std::string kind_of(const Event& event) {
  static constexpr std::array names{"", "sealed", "removed", "spilled", "restored", "missed"};
  const auto number = static_cast<std::size_t>(event.kind);
  return number < names.size() ? names[number] : "";
}

std::optional<std::string> cause_of(const Event& event) {
  static constexpr std::array names{"",        "removed",    "kept_newer", "expired",
                                    "evicted", "superseded", "lost"};
  const auto number = static_cast<std::size_t>(event.cause);
  if (number == 0 || number >= names.size()) return std::nullopt;
  return names[number];
}

std::string represent(const Event& event) {
  const std::string text = "<forebay.Event " + kind_of(event) + " ";
  if (event.kind == EventKind::missed) return text + std::to_string(event.missed) + ">";
  const auto cause = cause_of(event);
  return text + py::repr(id_object(event.id)).cast<std::string>() + "@" +
         std::to_string(event.version) + "#" + std::to_string(event.serial) +
         (cause && *cause != "removed" ? " (" + *cause + ")" : "") + ">";
}

auto parts_of(const Event& event) {
  return std::tie(event.kind, event.cause, event.id, event.version, event.serial, event.size,
                  event.missed);
}

// A subscription that hands out one event at a time. All but a wait is done with the GIL held, so
// that threads may share it.
class Events {
 public:
  explicit Events(Subscription subscription) : subscription_(std::move(subscription)) {}

  int fileno() const { return subscription_ ? subscription_->fd() : -1; }
  bool closed() const { return !subscription_; }
  void close() { subscription_.reset(); }

  // The next event, if there is one now.
  std::optional<Event> take() {
    check_open();
    if (at_ == batch_.size()) {
      before_ = subscription_->cursor();
      batch_.clear();
      at_ = 0;
      batch_ = value_or_raise(subscription_->poll());
      if (batch_.empty()) return std::nullopt;
    }
    return batch_[at_++];
  }

  Event wait(const py::object& timeout) {
    const Timeout total = timeout_or_raise(timeout, for_ever);
    const auto until = Clock::now() + total;
    while (true) {
      if (auto event = take()) return *event;
      const Timeout left = until - Clock::now();
      if (left <= Timeout::zero()) break;
      // In all threads: it may be closed meanwhile, and looking costs no message.
      wait_readable(std::min<Timeout>(left, std::chrono::milliseconds(100)));
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    // Knows why nothing came.
    auto last = subscription_->next(Timeout::zero());
    if (!last) {
      say_whole(last.error(), total);
      raise(last.error());
    }
    before_ = subscription_->cursor();
    batch_ = std::move(*last);
    at_ = 0;
    return batch_[at_++];
  }

  // While some of a batch have not been handed out, the batch is still to come.
  std::string cursor() const {
    check_open();
    return (at_ == batch_.size() ? subscription_->cursor() : before_).to_string();
  }

 private:
  void check_open() const {
    if (!subscription_) raise(fail(Errc::bad_state, "the subscription is closed").error);
  }
  void wait_readable(Timeout timeout) const {
    pollfd readable{subscription_->fd(), POLLIN, 0};
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
    const py::gil_scoped_release released;
    ::poll(&readable, 1, static_cast<int>(ms));
  }

  std::optional<Subscription> subscription_;
  std::vector<Event> batch_;
  std::size_t at_ = 0;
  EventCursor before_;
};

}  // namespace

void bind_subscription(py::module_& module, StoreClass& store) {
  py::class_<Event>(module, "Event",
                    "What happened to one segment.\n\n"
                    "`kind` is 'sealed', 'removed', 'spilled', 'restored', or 'missed': then\n"
                    "`missed` says how many events, of any id, are lost before the next, and the\n"
                    "rest is empty.")
      .def_property_readonly("kind", &kind_of)
      .def_property_readonly("cause", &cause_of,
                             "Of a removal: 'removed' (somebody asked for it), 'kept_newer',\n"
                             "'expired', 'evicted', 'superseded' or 'lost'; else None.")
      .def_property_readonly("id", [](const Event& event) { return id_object(event.id); })
      .def_readonly("version", &Event::version)
      .def_readonly("serial", &Event::serial)
      .def_readonly("size", &Event::size, "Payload bytes.")
      .def_readonly("missed", &Event::missed)
      .def("__eq__",
           [](const Event& self, const py::object& other) {
             return py::isinstance<Event>(other) &&
                    parts_of(self) == parts_of(other.cast<const Event&>());
           })
      .def("__hash__",
           [](const Event& self) {
             return py::hash(py::make_tuple(kind_of(self), self.serial, self.version));
           })
      .def("__repr__", &represent);
  py::class_<Events>(module, "_Events")
      .def("fileno", &Events::fileno)
      .def("take", &Events::take)
      .def("wait", &Events::wait)
      .def("cursor", &Events::cursor)
      .def_property_readonly("closed", &Events::closed)
      .def("close", &Events::close);
  store
      .def("_events",
           [](Store& self, const py::object& prefix, const std::optional<std::string>& cursor) {
             const std::string text = id_of(prefix);
             EventCursor from;
             if (cursor) from = value_or_raise(EventCursor::parse(*cursor));
             return Events(without_gil([&] { return self.client().subscribe(text, from); }));
           })
      .attr("subscribe") = py::module_::import("forebay._methods").attr("subscribe");
}

}  // namespace forebay::python
