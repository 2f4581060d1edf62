# SPDX-License-Identifier: Apache-2.0
"""NumPy dtypes as texts that the store keeps, and back.

Plain dtypes are handled in the extension; what comes here is structured, dated,
of fixed-length text or bytes, or in the other byte order.
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np


def to_text(dtype: np.dtype) -> str:
    """Return a text from which `from_text` makes an equal dtype.

    Raises TypeError, by name, for dtypes whose elements are not plain bytes.
    """
    if dtype.hasobject:
        raise TypeError(
            f"an array of dtype {dtype} holds Python objects, whose bytes mean "
            "nothing in another process; convert it to a dtype without objects"
        )
    if dtype.isbuiltin == 2 or dtype.kind not in "biufcSUVmM":
        raise TypeError(f"arrays of dtype {dtype} cannot be shared")
    if dtype.names is None and dtype.subdtype is None:
        return dtype.str
    try:
        return repr(np.lib.format.dtype_to_descr(dtype))
    except ValueError:  # fields that overlap, or lie in another order than they are named
        fields: Any = dtype.fields or {}
        return repr(
            {
                "names": list(fields),
                "formats": [to_text(fields[name][0]) for name in fields],
                "offsets": [fields[name][1] for name in fields],
                "itemsize": dtype.itemsize,
            }
        )


def from_text(text: str) -> np.dtype:
    """Return the dtype that `to_text` wrote down."""
    if text[:1] == "{":
        said = ast.literal_eval(text)
        said["formats"] = [from_text(format) for format in said["formats"]]
        return np.dtype(said)
    if text[:1] in "[('\"":
        return np.lib.format.descr_to_dtype(ast.literal_eval(text))
    return np.dtype(text)


def as_array(buffer: object) -> np.ndarray:
    """Return an array over what a buffer says its elements are; of uint8 for plain bytes."""
    view = memoryview(buffer)  # type: ignore[arg-type]
    try:
        array = np.asarray(view)
    except ValueError:  # a format that NumPy does not know
        return np.frombuffer(view, "u1")
    return array if array.dtype.kind in "biufc" else np.frombuffer(view, "u1")
