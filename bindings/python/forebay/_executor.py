# SPDX-License-Identifier: Apache-2.0
"""Executors of concurrent.futures whose tasks get flagged arguments as handles."""

from __future__ import annotations

import concurrent.futures
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from forebay._handles import install


class SharingExecutor(concurrent.futures.Executor):
    """Wraps an executor: arrays that `forebay.task` flags RRO or INOUT travel as handles.

    >>> with forebay.SharingExecutor(ProcessPoolExecutor()) as executor:
    ...     executor.submit(partial_sum, points, centres)  # points go into the store, once

    Works with everything that has `submit` and `shutdown` (loky, mpi4py, Dask's client, ...).
    Functions without flags are submitted as they are.
    """

    def __init__(self, executor: Any) -> None:
        install()
        self._executor = executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        task = getattr(fn, "__forebay_task__", None)
        if task is not None:
            args, kwargs = task.for_travel(args, kwargs, bound=inspect.ismethod(fn))
        return self._executor.submit(fn, *args, **kwargs)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[Any]:
        task = getattr(fn, "__forebay_task__", None)
        if task is None:
            return self._executor.map(
                fn, *iterables, timeout=timeout, chunksize=chunksize, **options
            )
        bound = inspect.ismethod(fn)
        calls = [task.for_travel(arguments, {}, bound=bound)[0] for arguments in zip(*iterables)]
        columns = list(zip(*calls)) or [()] * len(iterables)
        return self._executor.map(fn, *columns, timeout=timeout, chunksize=chunksize, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        # Not everything that executes knows the newer option.
        options = {"cancel_futures": True} if cancel_futures else {}
        self._executor.shutdown(wait=wait, **options)

    def __getattr__(self, name: str) -> Any:
        if name == "_executor":  # while it is being copied
            raise AttributeError(name)
        return getattr(self._executor, name)
