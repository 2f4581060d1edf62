// SPDX-License-Identifier: Apache-2.0
// What callers pass, as what the client takes. Functions that return bool set a Python error on
// false; the others raise.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <cstdint>
#include <string_view>
#include <vector>

#include "store/client.h"

namespace forebay::python {

// What None means as the timeout of a call whose purpose is to wait.
inline constexpr Timeout for_ever = std::chrono::hours(24 * 366);

// Seconds, as a number from 0.
bool timeout_of(PyObject* seconds, Timeout& timeout, Timeout none = Timeout::zero());
Timeout timeout_or_raise(const pybind11::object& seconds, Timeout none = Timeout::zero());

// A number from 1; None: 0, the newest or the next.
bool version_of(PyObject* object, std::uint64_t& version);
std::uint64_t version_or_raise(const pybind11::object& object);

// A number from 1, "all", or None: 0.
std::uint32_t keep_or_raise(const pybind11::object& object);

// A segment as callers name it. Borrows from objects that the caller holds.
struct Named {
  std::string_view id;
  std::uint64_t version = 0;  // 0: the newest
  const Ref* ref = nullptr;   // null: it was an id
};
// `what` is an id or a ref, whose version `version` must not contradict.
bool named_of(PyObject* what, PyObject* version, Named& named);
Named named_or_raise(const pybind11::object& what, const pybind11::object& version);

// get's `after`, a number from 0, which is for the newest version alone.
bool after_of(PyObject* object, const Named& named, std::uint64_t& after);

// Fails with wrong_store where the client would, had it been asked.
Result<void> check_ref(const Client& client, const Ref& ref);

// Several things as a tuple, which keeps them alive whatever happens to the caller's list. Raises
// TypeError for a single str or bytes.
pybind11::tuple items_of(const pybind11::object& items, const char* call);

// The options of a call that makes versions, by name. Each call says which it has.
struct Options {
  PutOptions put;
  bool take = false;
};
enum OptionSet : unsigned {
  retention = 0,  // evictable, persistent, keep, ttl: all calls have them
  with_version = 1U << 0U,
  with_timeout = 1U << 1U,
  with_exist_ok = 1U << 2U,
  with_take = 1U << 3U,
};
Options options_of(const char* call, const pybind11::kwargs& named, unsigned also);

// std::vector<std::uint64_t> of a number or a sequence of numbers.
std::vector<std::uint64_t> dims_of(const pybind11::object& shape);

}  // namespace forebay::python
