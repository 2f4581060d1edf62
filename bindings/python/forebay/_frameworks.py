# SPDX-License-Identifier: Apache-2.0
"""Frameworks that do not ask pickle how to take an array apart: what each needs to be told.

Only what this process has imported is touched. Each hook leaves every array alone that does not lie
in a segment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from forebay._forebay import handle_of

_undo: dict[str, Callable[[], None]] = {}


def install() -> None:
    for name, hook in (
        ("joblib", _install_joblib),
        ("distributed", _install_distributed),
        ("dask", _install_dask),
        ("dill", _install_dill),
    ):
        if sys.modules.get(name) is not None and name not in _undo:
            _undo[name] = hook()


def uninstall() -> None:
    for undo in _undo.values():
        undo()
    _undo.clear()


def _install_joblib() -> Callable[[], None]:
    """Arguments of loky's workers: large arrays would be written to a file for each Parallel call."""
    from joblib import _memmapping_reducer  # type: ignore[import-untyped]

    from forebay._handles import reduce as reduce_to_handle

    reducer = _memmapping_reducer.ArrayMemmapForwardReducer
    original = reducer.__call__

    def call(self: Any, array: np.ndarray) -> Any:
        return reduce_to_handle(array) or original(self, array)

    reducer.__call__ = call

    def undo() -> None:
        reducer.__call__ = original

    return undo


def _install_distributed() -> Callable[[], None]:
    """Messages between client, scheduler and workers: arrays have a serializer of their own there."""
    import distributed.protocol.numpy  # noqa: F401 - registers it
    from distributed.protocol.serialize import dask_serialize

    original = dask_serialize.dispatch(np.ndarray)

    from forebay._shared import is_marked

    def serialize(array: np.ndarray, *arguments: Any, **named: Any) -> Any:
        if handle_of(array) is not None or is_marked(array):
            raise NotImplementedError  # the next family in line is pickle
        return original(array, *arguments, **named)

    dask_serialize.register(np.ndarray, serialize)

    def undo() -> None:
        dask_serialize.register(np.ndarray, original)

    return undo


def _install_dask() -> Callable[[], None]:
    """What a worker believes its memory is used for: shared memory is not its own."""
    from dask.sizeof import sizeof

    original = sizeof.dispatch(np.ndarray)
    handle_bytes = 128

    def size(array: np.ndarray) -> int:
        return handle_bytes if handle_of(array) is not None else original(array)

    sizeof.register(np.ndarray, size)

    def undo() -> None:
        sizeof.register(np.ndarray, original)

    return undo


def _install_dill() -> Callable[[], None]:
    """dill (Parsl, multiprocess) has a way of its own for arrays, which comes before copyreg's table."""
    import dill  # type: ignore[import-untyped]

    from forebay._handles import reduce as reduce_to_handle

    def override(self: Any, value: Any) -> Any:
        if type(value) is np.ndarray and (reduced := reduce_to_handle(value)) is not None:
            return reduced
        return NotImplemented

    dill.Pickler.reducer_override = override

    def undo() -> None:
        del dill.Pickler.reducer_override

    return undo
