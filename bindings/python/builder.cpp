// SPDX-License-Identifier: Apache-2.0
// How arrays over a segment that is being made stay safe. Three objects lie above each other:
//
//   array   what the user gets; his slices and reshapes of it have `root` as their base
//   root    a hidden ndarray: its reference count tells how many views besides `array` there are
//   Draft   the memory: exports it writable while it is being made, read-only afterwards
//
// NumPy collapses chains of bases to the last ndarray, which is `root`, so every other view holds a
// reference to it. Sealing refuses while there are any: they could not be made read-only, and a
// write through one of them would be a fault.
#include "builder.h"

#include <new>
#include <optional>

#include "array.h"
#include "errors.h"
#include "store/ref.h"

namespace forebay::python {
namespace {

namespace py = pybind11;

struct DraftObject {
  PyObject_HEAD
  std::optional<Builder> builder;  // while open
  View view;                       // afterwards
  bool sealed = false;
};

PyTypeObject* draft_type = nullptr;

void deallocate(PyObject* self) {
  PyTypeObject* const of = Py_TYPE(self);
  auto* const draft = reinterpret_cast<DraftObject*>(self);
  {
    // An open builder is aborted by its destructor, which talks to the daemon.
    const py::gil_scoped_release released;
    draft->builder.~optional();
    draft->view.~View();
  }
  of->tp_free(self);
  Py_DECREF(of);
}

int get_buffer(PyObject* self, Py_buffer* buffer, int flags) {
  auto* const draft = reinterpret_cast<DraftObject*>(self);
  const bool open = draft->builder.has_value();
  const auto bytes = open ? std::span<const std::byte>(draft->builder->bytes())
                          : draft->view.bytes();
  return PyBuffer_FillInfo(buffer, self, const_cast<std::byte*>(bytes.data()),
                           static_cast<Py_ssize_t>(bytes.size()), open ? 0 : 1, flags);
}

PyType_Slot slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(&deallocate)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)},
    {Py_tp_doc, const_cast<char*>("Memory of a segment that is being made.")},
    {0, nullptr},
};
#ifndef Py_TPFLAGS_DISALLOW_INSTANTIATION  // before Python 3.10
#define Py_TPFLAGS_DISALLOW_INSTANTIATION 0
#endif
PyType_Spec spec = {"forebay._forebay.Draft", sizeof(DraftObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

// The private, but public in the headers, record that an array's buffer was once exported.
bool ever_exported(PyObject* array) {
  return reinterpret_cast<PyArrayObject_fields*>(array)->_buffer_info != nullptr;
}

class PyBuilder {
 public:
  PyBuilder(Builder builder, const ArrayType& type) {
    auto* const draft = PyObject_New(DraftObject, draft_type);
    if (draft == nullptr) throw py::error_already_set();
    new (&draft->builder) std::optional<Builder>(std::move(builder));
    new (&draft->view) View();
    draft->sealed = false;
    draft_ = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(draft));
    version_ = draft->builder->version();

    PyArray_Descr* const descriptor = descriptor_of(type.dtype);
    if (descriptor == nullptr) throw py::error_already_set();
    std::vector<npy_intp> dims(type.shape.begin(), type.shape.end());
    static std::byte nothing[64];
    std::byte* const data =
        draft->builder->bytes().empty() ? nothing : draft->builder->bytes().data();
    root_ = py::reinterpret_steal<py::object>(PyArray_NewFromDescr(
        &PyArray_Type, descriptor, static_cast<int>(dims.size()), dims.data(), nullptr, data,
        type.fortran_order ? NPY_ARRAY_FARRAY : NPY_ARRAY_CARRAY, nullptr));
    if (!root_) throw py::error_already_set();
    if (PyArray_SetBaseObject(as_array(root_), py::object(draft_).release().ptr()) != 0)
      throw py::error_already_set();
    array_ = py::reinterpret_steal<py::object>(PyArray_View(as_array(root_), nullptr, nullptr));
    if (!array_) throw py::error_already_set();
  }

  py::object array() const {
    if (!array_) throw_state("its array is gone");
    return array_;
  }
  std::uint64_t version() const { return version_; }
  bool open() const { return draft().builder.has_value(); }

  Ref seal() {
    if (!open()) throw_state(sealed_ ? "it is sealed already" : "it was aborted");
    const Py_ssize_t others = other_views();
    if (others > 0) {
      PyErr_Format(PyExc_BufferError,
                   "cannot seal: %zd other view%s of the array (slices, reshapes, memoryviews) "
                   "live and could no longer be made read-only; delete them first",
                   others, others == 1 ? "" : "s");
      throw py::error_already_set();
    }
    // From here on no write through NumPy; the pages follow.
    set_writable(false);
    Result<View> view = fail(Errc::bad_state, "");
    {
      const py::gil_scoped_release released;
      view = draft().builder->seal_and_get();
    }
    // The array stays read-only: its pages are, for the daemon may have heard.
    if (!view) raise(view.error());
    sealed_ = true;
    Ref ref = view->ref();
    draft().view = std::move(*view);
    draft().builder.reset();
    draft().sealed = true;
    let_go_of_array();
    return ref;
  }

  void abort() {
    if (!open()) throw_state(sealed_ ? "it is sealed already" : "it was aborted");
    if (other_views() > 0) {
      // They may still be written through, so the memory stays theirs: it is given back, and the
      // version is free again, when the last of them has gone.
      aborted_ = true;
      let_go_of_array();
      root_ = py::object();
      draft_ = py::object();
      return;
    }
    set_writable(false);
    Result<View> view = fail(Errc::bad_state, "");
    {
      const py::gil_scoped_release released;
      view = draft().builder->abort_and_hold();
    }
    aborted_ = true;
    draft().builder.reset();
    if (view) draft().view = std::move(*view);
    let_go_of_array();
    if (!view) raise(view.error());
  }

  void exit(const py::object& exception_type) {
    if (!draft_ || !open()) return;  // sealed or aborted by hand
    if (exception_type.is_none()) {
      seal();
    } else {
      abort();
    }
  }

  std::string represent() const {
    const char* stage = sealed_ ? "sealed" : aborted_ || !draft_ ? "aborted" : "open";
    return "<forebay.Builder of version " + std::to_string(version_) + ", " + stage + ">";
  }

 private:
  static PyArrayObject* as_array(const py::object& object) {
    return reinterpret_cast<PyArrayObject*>(object.ptr());
  }
  DraftObject& draft() const {
    if (!draft_) throw_state("it was aborted");
    return *reinterpret_cast<DraftObject*>(draft_.ptr());
  }
  [[noreturn]] void throw_state(const char* why) const {
    raise(fail(Errc::bad_state, "the builder of version " + std::to_string(version_) +
                                    " cannot be used: " + why)
              .error);
  }

  // Arrays over the memory besides the one that was handed out, and exports of that one.
  Py_ssize_t other_views() const {
    constexpr Py_ssize_t ours = 2;  // this builder and `array`
    Py_ssize_t others = Py_REFCNT(root_.ptr()) - ours;
    if (ever_exported(array_.ptr())) {
      const py::list referrers =
          py::module_::import("gc").attr("get_referrers")(array_).cast<py::list>();
      for (const py::handle referrer : referrers)
        if (std::string_view(Py_TYPE(referrer.ptr())->tp_name) == "managedbuffer") ++others;
    }
    return others;
  }

  void set_writable(bool writable) {
    for (const py::object& one : {array_, root_}) {
      if (writable) {
        PyArray_ENABLEFLAGS(as_array(one), NPY_ARRAY_WRITEABLE);
      } else {
        PyArray_CLEARFLAGS(as_array(one), NPY_ARRAY_WRITEABLE);
      }
    }
  }

  // The user keeps the array as long as he likes; the builder no longer needs it.
  void let_go_of_array() {
    root_ = py::object();
    array_ = py::object();
  }

  py::object draft_;
  py::object root_;
  py::object array_;
  std::uint64_t version_ = 0;
  bool sealed_ = false;
  bool aborted_ = false;
};

}  // namespace

bool make_draft_type(py::module_& module) {
  PyObject* made = PyType_FromSpec(&spec);
  if (made == nullptr) return false;
  draft_type = reinterpret_cast<PyTypeObject*>(made);
  module.attr("Draft") = py::reinterpret_borrow<py::object>(made);
  return true;
}

const View* sealed_draft(PyObject* object) {
  if (Py_TYPE(object) != draft_type) return nullptr;
  const auto* const draft = reinterpret_cast<DraftObject*>(object);
  return draft->sealed ? &draft->view : nullptr;
}

void bind_builder(py::module_& module) {
  py::class_<PyBuilder>(module, "Builder",
                        "A segment that is being made; from `Store.create`.\n\n"
                        "As a context manager it gives its array, seals at the end of the block, "
                        "and aborts if the block raises.")
      .def_property_readonly("array", &PyBuilder::array,
                             "The writable array; its first contents are arbitrary.")
      .def_property_readonly("version", &PyBuilder::version)
      .def("seal", &PyBuilder::seal,
           "Make the version visible, and the array read-only. Returns its Ref.\n\n"
           "Raises BufferError while other views of the array live.")
      .def("abort", &PyBuilder::abort, "Give the memory back; the version was never seen.")
      .def("__enter__", &PyBuilder::array)
      .def("__exit__", [](PyBuilder& self, const py::object& type, const py::object&,
                          const py::object&) { self.exit(type); })
      .def("__repr__", &PyBuilder::represent);
}

py::object new_builder(Builder builder, const ArrayType& type) {
  return py::cast(new PyBuilder(std::move(builder), type), py::return_value_policy::take_ownership);
}

}  // namespace forebay::python
