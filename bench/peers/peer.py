# SPDX-License-Identifier: Apache-2.0
"""Peer: what work.py asks of everything that is measured; Server: the daemon of a peer."""

from __future__ import annotations

import abc
import pathlib
import subprocess
import time

import numpy as np

# What a peer may fill. The work holds half a GiB at most; stores that free late need more.
CAPACITY_BYTES = 4 * 2**30
# np.frombuffer takes this much quicker than it takes np.uint8.
BYTE = np.dtype(np.uint8)


class Peer(abc.ABC):
    """One way to hand on arrays of bytes, used as its documentation says is best.

    Keys are texts of at most 20 characters. `directory` is on tmpfs; whoever made it empties it.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory

    @abc.abstractmethod
    def put(self, key: str, array: np.ndarray) -> None:
        """Stores a copy of `array`, a one-dimensional uint8; others can get it on return."""

    @abc.abstractmethod
    def get(self, key: str) -> np.ndarray:
        """The array, ready to use, until `release`."""

    def release(self, key: str) -> None:
        """Gives back what `get` took. The caller has already dropped the array."""

    @abc.abstractmethod
    def delete(self, key: str) -> None: ...

    def close(self) -> None:
        """Also ends what the peer started."""

    def sweep_later(self, prefix: str) -> None:
        """Has run.py remove `prefix`* from /dev/shm, should this process not get to it."""
        with (self.directory / "sweep").open("a") as file:
            print(prefix, file=file)


class Server:
    """A peer's daemon, from the moment its socket is there until `stop`."""

    def __init__(self, command: list[object], socket: pathlib.Path, timeout: float = 20) -> None:
        self._log = socket.with_suffix(".log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        deadline = time.monotonic() + timeout
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = self._log.read_text(errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(f"{command[0]} did not start: {' '.join(tail)}")
            time.sleep(0.01)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
