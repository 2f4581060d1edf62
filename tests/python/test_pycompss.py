# SPDX-License-Identifier: Apache-2.0
"""forebay.pycompss, on the way that arguments take in that runtime: see pycompss_stand_in/pycompss."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

STAND_IN = pathlib.Path(__file__).parent / "pycompss_stand_in"
POINTS = float(np.arange(100_000.0).sum())
OTHER = float(np.arange(10.0).sum())


@pytest.fixture
def told(daemon):
    """What the application prints, run with optimisation and without."""
    ran = subprocess.run(
        [sys.executable, "-O", STAND_IN / "application.py"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(STAND_IN), *sys.path]),
            "FOREBAY_SOCKET": daemon.socket,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_tasks_share_what_is_flagged_and_travels_as_a_handle(told, store):
    assert [told["sum"] for told in told["sums"]] == [POINTS + OTHER] * 4 + [2 * (POINTS + OTHER)]
    for task in told["sums"]:
        assert task["type"] == "ndarray"
        assert not task["writable"]
        assert task["shared"]
    assert len({task["pid"] for task in told["sums"]}) == 2  # both executors
    # One file for the points, whoever was given them; one for the other array, as ever; the scale's.
    points, other, *scales = told["files"]
    assert points < 250
    assert other > 128
    assert all(size < 50 for size in scales)
    # Results go on without having been copied into a file.
    assert told["chained"]["sum"] == 2 * POINTS + OTHER
    assert told["chained"]["shared"]
    assert told["waited"] == [2 * POINTS, "ndarray", False]
    assert told["plain"] == OTHER
    # Workers that have ended leave nothing, and neither does the master.
    assert list(store.list("")) == []


def test_a_write_to_a_flagged_argument_names_it(told):
    assert "assignment destination is read-only" in told["error"]
    assert "'points' of spoilt" in told["error"]
    assert 'RRO(writable="copy")' in told["error"]


def test_without_pycompss_the_error_is_the_one_of_the_import():
    from forebay.pycompss import task

    with pytest.raises(ImportError, match="pycompss"):
        task(returns=1)


def test_a_flag_for_a_parameter_that_is_not_there_is_refused_when_it_is_decorated():
    script = """
from forebay.pycompss import RRO, task
@task(pionts={RRO: True}, returns=1)
def partial_sum(points): ...
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(STAND_IN), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "BadArgument: partial_sum has no parameter 'pionts'; did you mean 'points'?" in ran.stderr
