# SPDX-License-Identifier: Apache-2.0
"""A forebayd of the benchmark's own."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import time
from collections.abc import Iterator


@contextlib.contextmanager
def daemon(
    programs: pathlib.Path, folder: pathlib.Path, capacity_bytes: int
) -> Iterator[tuple[str, int]]:
    """Yields its socket and its process id."""
    socket = str(folder / "forebay.sock")
    try:
        process = subprocess.Popen(
            [programs / "forebayd", "--socket", socket, "--capacity", str(capacity_bytes),
             "--drop", "--log-level", "warning"]
        )  # fmt: skip
    except OSError as error:
        raise SystemExit(f"bench: {programs / 'forebayd'} does not start: {error.strerror}") from None
    try:
        deadline = time.monotonic() + 60
        while not pathlib.Path(socket).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("bench: forebayd did not start")
            time.sleep(0.01)
        yield socket, process.pid
    finally:
        process.terminate()
        process.wait()
