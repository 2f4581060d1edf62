# SPDX-License-Identifier: Apache-2.0
"""Executors: python -O -m pycompss.executor FOLDER COUNT. Tasks come as lines on stdin."""

import importlib
import json
import os
import pathlib
import sys
import traceback

from pycompss import files, state


class Parameter:
    """What a task is called with on a worker: not the value yet."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path


def run(folder: pathlib.Path, line: str) -> None:
    task = json.loads(line)
    try:
        # The user's module first: then the values.
        function = getattr(importlib.import_module(task["module"]), task["function"])
        values = [Parameter(folder / name) for name in task["values"]]
        result = function(*values, compss_on_worker=True)
        files.write(folder / task["result"], ("ok", os.getpid()))
        files.write(folder / f"{task['result']}.value", result)
    except BaseException:  # noqa: BLE001 - the master shows it
        files.write(folder / task["result"], ("failed", traceback.format_exc()))
    (folder / f"{task['result']}.done").touch()


def main() -> None:
    folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    state.on_worker = True
    pipes = []
    for _ in range(count):
        reading, writing = os.pipe()
        if os.fork() == 0:
            for other in [writing, *pipes]:
                os.close(other)
            with os.fdopen(reading) as lines:
                for line in lines:
                    run(folder, line)
            os._exit(0)
        os.close(reading)
        pipes.append(writing)
    for number, line in enumerate(sys.stdin):
        os.write(pipes[number % count], line.encode())
    for pipe in pipes:
        os.close(pipe)
    for _ in pipes:
        os.wait()


if __name__ == "__main__":
    main()
