# SPDX-License-Identifier: Apache-2.0
"""An application as users write it. Prints what the test looks at, as JSON."""

import json
import os

import numpy as np
from forebay.pycompss import RRO, task
from pycompss import master
from pycompss.api.api import compss_wait_on
from pycompss.api.parameter import IN, Type

import forebay


@task(points={Type: IN, RRO: True}, returns=1)
def partial_sum(points, centre, scale=1.0):
    from forebay._forebay import handle_of

    return {
        "sum": float(points.sum() + centre.sum()) * scale,
        "type": type(points).__name__,
        "writable": points.flags.writeable,
        "shared": handle_of(points) is not None,
        "pid": os.getpid(),
    }


@task(points={Type: IN, RRO: True}, returns=1)
def doubled(points):
    return forebay.share(points * 2)


@task(points={Type: IN, RRO: True}, returns=1)
def spoilt(points):
    points[0] = 1


@task(left={Type: IN}, returns=1)
def without_flag(left):
    return float(left.sum())


def main():
    points = np.arange(100_000.0)
    other = np.arange(10.0)
    told = {}
    futures = [partial_sum(points, other) for _ in range(4)]
    futures.append(partial_sum(points=points, centre=other, scale=2.0))
    told["sums"] = [compss_wait_on(future) for future in futures]
    told["files"] = master.written()
    # A result that stays in the store goes on as a handle.
    told["chained"] = compss_wait_on(partial_sum(doubled(points), other))
    array = compss_wait_on(doubled(points))
    told["waited"] = [float(array.sum()), type(array).__name__, array.flags.writeable]
    told["plain"] = compss_wait_on(without_flag(other))
    try:
        compss_wait_on(spoilt(points))
    except RuntimeError as error:
        told["error"] = str(error)
    print(json.dumps(told))


# Without this, workers that import the application would run it.
if __name__ == "__main__":
    main()
