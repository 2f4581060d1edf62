# SPDX-License-Identifier: Apache-2.0
"""The master's side: writes what has not been written, by identity, and hands tasks out."""

import atexit
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import uuid

from pycompss import files

_DEADLINE_SECONDS = 60

_folder = pathlib.Path(tempfile.mkdtemp(prefix="compss-stand-in-"))
_workers = None
_objects = {}  # id: (object, file), which keeps the object alive


class Future:
    def __init__(self, name):
        self.name = name


def file_of(value):
    """The name of the file of a value; for tests, too."""
    if isinstance(value, Future):
        wait_for(value)
        return f"{value.name}.value"
    if id(value) not in _objects:
        name = f"{uuid.uuid4()}-{len(_objects)}"
        files.write(_folder / name, value)
        _objects[id(value)] = (value, name)
    return _objects[id(value)][1]


def written():
    """Sizes of the files of all values so far, in their order."""
    return [(_folder / name).stat().st_size for _, name in _objects.values()]


def submit(module, function, values):
    global _workers
    if _workers is None:
        _workers = subprocess.Popen(
            [sys.executable, "-O", "-m", "pycompss.executor", _folder, "2"], stdin=subprocess.PIPE
        )
        atexit.register(stop)
    result = f"{uuid.uuid4()}-result"
    task = {
        "module": module,
        "function": function,
        "values": [file_of(value) for value in values],
        "result": result,
    }
    _workers.stdin.write(json.dumps(task).encode() + b"\n")
    _workers.stdin.flush()
    return Future(result)


def wait_for(future):
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not (_folder / f"{future.name}.done").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no result of {future.name}")
        time.sleep(0.002)
    state, told = files.read(_folder / future.name)
    if state == "failed":
        raise RuntimeError(told)
    return told


def compss_wait_on(future):
    wait_for(future)
    return files.read(_folder / f"{future.name}.value")


def stop():
    _workers.stdin.close()
    _workers.wait(_DEADLINE_SECONDS)
