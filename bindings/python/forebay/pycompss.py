# SPDX-License-Identifier: Apache-2.0
"""PyCOMPSs' `task` with one more key: arguments that all workers of a node share.

>>> from pycompss.api.parameter import IN, Type
>>> from forebay.pycompss import RRO, task
>>> @task(points={Type: IN, RRO: True}, returns=1)
... def partial_sum(points, centres): ...

On the master, arrays that are passed for such a parameter go into the store, once as long as they live,
and what the runtime writes to its file is a handle. On the workers the task gets a read-only array over
shared memory. Only what PyCOMPSs documents is used: an object's own pickle. Master and workers of a node
must reach the same daemon; workers on other nodes get WrongStore.

The flag was proposed by Foyer et al., "Enabling System Wide Shared Memory for Performance Improvement in
PyCOMPSs Applications", PyHPC 2020.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from forebay import _flags
from forebay._task import task as _flagged

# The key in the specification of a parameter, beside PyCOMPSs' own.
RRO = "recurrent_read_only"

__all__ = ["RRO", "task"]


def task(*arguments: Any, **parameters: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As `pycompss.api.task.task`, whose options are all passed on.

    A parameter that is given as a dict may have the key RRO. Raises BadArgument, when it decorates, for
    a parameter with that key that the function does not have; ImportError without PyCOMPSs.
    """
    from pycompss.api.task import task as of_pycompss  # type: ignore[import-not-found]

    shared = [
        name for name, said in parameters.items() if isinstance(said, dict) and said.get(RRO)
    ]
    others = {
        name: {key: value for key, value in said.items() if key != RRO}
        if isinstance(said, dict)
        else said
        for name, said in parameters.items()
    }

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not shared:
            return of_pycompss(*arguments, **others)(function)
        flags: dict[str, Any] = dict.fromkeys(shared, _flags.RRO)
        flagged = _flagged(function, **flags)
        remote = of_pycompss(*arguments, **others)(flagged)

        # The name that the worker looks up in the module is this function's: there it is called with
        # what the runtime passes, among which are no arrays.
        @functools.wraps(flagged)
        def submit(*values: Any, **named: Any) -> Any:
            values, named = flagged.__forebay_task__.for_travel(values, named)
            return remote(*values, **named)

        return submit

    return decorate
