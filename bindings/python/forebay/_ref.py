# SPDX-License-Identifier: Apache-2.0
"""How a Ref comes out of a pickle.

A function of Python's, because pickle names those by their module: a function of the extension would be
looked up by an `eval` that pybind11 puts into each pickle, which costs more than all the rest.
"""

from __future__ import annotations

import collections.abc

from forebay import _forebay


def read(
    text: str, dtype: str, shape: collections.abc.Sequence[int], fortran_order: bool
) -> _forebay.Ref:
    return _forebay.Ref(text, dtype=dtype, shape=shape, fortran_order=fortran_order)
