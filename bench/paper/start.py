# SPDX-License-Identifier: Apache-2.0
"""Imported before NumPy: what holds for the master and, by inheritance, for all workers."""

from __future__ import annotations

import os
import pathlib
import sys

# Workers share few cores: a pool of threads in each would only make them fight.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

# So that every worker finds the modules by the names under which the master knows them.
_bench = str(pathlib.Path(__file__).resolve().parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join(
    [_bench, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
)
if _bench not in sys.path:
    sys.path.insert(0, _bench)
