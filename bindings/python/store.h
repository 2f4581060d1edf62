// SPDX-License-Identifier: Apache-2.0
// Store: the client in Python. Its methods are bound where they belong, a file for each group.
#pragma once

#include <pybind11/pybind11.h>

#include "errors.h"
#include "store/client.h"

namespace forebay::python {

class Store {
 public:
  explicit Store(Client client) : client_(std::move(client)) {}
  Client& client() { return client_; }

 private:
  Client client_;
};

// The store inside a Python Store, unchecked: for methods, whose `self` Python has checked.
Store& store_of(PyObject* self);

using StoreClass = pybind11::class_<Store>;
void bind_put(StoreClass& store);
void bind_get(StoreClass& store);
void bind_many(StoreClass& store);
void bind_wait(StoreClass& store);
void bind_claim(StoreClass& store);
void bind_retention(StoreClass& store);
void bind_async_gets(pybind11::module_& module, StoreClass& store);
void bind_subscription(pybind11::module_& module, StoreClass& store);

void bind_store(pybind11::module_& module);

// What `ask()` returns, called without the GIL; raises what it fails with.
template <class Ask>
auto without_gil(Ask&& ask) {
  auto result = [&] {
    const pybind11::gil_scoped_release released;
    return ask();
  }();
  return value_or_raise(std::move(result));
}

}  // namespace forebay::python
