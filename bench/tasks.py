# SPDX-License-Identifier: Apache-2.0
"""What the flag of forebay.task costs a call, and a handle the pickling of an array.

Usage: tasks.py SOCKET ROUNDS
"""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np

import forebay
from put_get import per, row


def plain(points: object, centres: object) -> None:
    pass


flagged = forebay.task(plain, points=forebay.RRO, centres=forebay.IN)


def main(socket: str, rounds: int) -> None:
    os.environ["FOREBAY_SOCKET"] = socket
    store = forebay.connect(socket)
    array = np.zeros(100_000)
    ref = store.put("tasks/points", array)
    view = store.get(ref)
    centres = np.zeros(10)
    calls = 20_000

    def calling(function, points) -> float:
        return per(lambda _: function(points, centres), range(calls))

    for what, points in (("a Ref", ref), ("a view of its segment", view), ("an array", array)):
        row(f"call of a task, an RRO argument given as {what}", "call of the plain function",
            lambda: calling(flagged, points), lambda: calling(plain, points), rounds)  # fmt: skip
    forebay.install()
    for what, whole in (("a view", view), ("a slice of a view", view[10:-10])):
        pickled = pickle.dumps(whole)
        row(f"unpickle {what} ({len(pickled)} bytes)", "unpickle 100 float64",
            lambda: per(lambda _: pickle.loads(pickled), range(calls)),
            lambda: per(lambda _: pickle.loads(hundred), range(calls)), rounds)  # fmt: skip
    store.remove("tasks/points")


hundred = pickle.dumps(np.zeros(100), protocol=5)

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
