// SPDX-License-Identifier: Apache-2.0
// Values: what put takes, and what get returns for a segment. An array for an array or plain bytes, a
// mapping of arrays for a group, a tuple of values for a manifest, and any other object as it went in.
#pragma once

#include "numpy_api.h"

#include <pybind11/pybind11.h>

#include <variant>
#include <vector>

#include "array.h"
#include "object.h"
#include "store/client.h"

namespace forebay::python {

// Of a view of what is neither an array nor plain bytes.
PyObject* structured_value_of_view(const Client& client, View view);

// Read-only, over the view's bytes. The arrays hold the view; those of a group share it. NULL with
// an error set on failure.
inline PyObject* value_of_view(const Client& client, View view) {
  const auto brief = shm::Brief::from_bits(view.brief());
  if (brief.kind == shm::Kind::array || brief.kind == shm::Kind::bytes) [[likely]]
    return array_of_view(std::move(view), brief);
  return structured_value_of_view(client, std::move(view));
}

// The same, of writable arrays over a private copy.
PyObject* private_value_of_view(const Client& client, View view);

// What a mapping of names and arrays is as a group.
struct Group {
  std::vector<Source> sources;  // keep the members' bytes alive
  std::vector<GroupMember> members;
};

// What a value is stored as: an array as it lies in memory, a group for a mapping of names (str) and
// such arrays, and any other object in parts. With `contiguous`, an array's bytes are in order.
// Raises Unstorable.
using Storable = std::variant<Source, Group, Object>;
Storable storable_of(const pybind11::object& value, bool contiguous = false);

}  // namespace forebay::python
