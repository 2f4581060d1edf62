# SPDX-License-Identifier: Apache-2.0
"""NumPy dtypes as texts that the store keeps, and back.

Plain dtypes are handled in the extension; what comes here is structured, dated,
of fixed-length text or bytes, or in the other byte order.
"""

from __future__ import annotations

import ast

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
    return repr(np.lib.format.dtype_to_descr(dtype))


def from_text(text: str) -> np.dtype:
    """Return the dtype that `to_text` wrote down."""
    if text[:1] in "[({'\"":
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
