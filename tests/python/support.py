# SPDX-License-Identifier: Apache-2.0
"""Other processes, and waiting for what they do."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time

PATIENCE = 30.0  # seconds that something may take on a loaded machine

PREAMBLE = """
import sys, numpy as np, forebay
store = forebay.connect(sys.argv[1])
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().strip()
"""


def eventually(condition, seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def waits(store, what: str, count: int = 1) -> bool:
    """Whether so many come to wait at the daemon: "waiters", "waiting_claims", ..."""
    return eventually(lambda: store.status()[what] == count)


def pins(store, name) -> int:
    return sum(holder.pins for holder in store.stat(name).holders)


class Other:
    """Another process with a `store` of its own, which says and hears lines."""

    def __init__(self, store, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + textwrap.dedent(script), store.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            assert select.select([self.process.stdout], [], [], PATIENCE)[0], f"said only {line!r}"
            letter = self.process.stdout.read(1)
            assert letter, f"ended after {line!r}"
            line += letter
        return line.decode().rstrip("\n")

    def tell(self, line: str = "go on") -> None:
        self.process.stdin.write(line.encode() + b"\n")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def join(self) -> int:
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_) -> None:
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


def in_a_segment(what) -> bool:
    """Whether the memory of an array (or at an address) is shared memory of a store."""
    address = what if isinstance(what, int) else what.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, _, last = line.split()[0].partition("-")
            if int(first, 16) <= address < int(last, 16):
                return "/forebay." in line
    return False


def run(script: str, *arguments: str, status: int | None = 0, **environment: str) -> str:
    """What a new process says that runs `script`, and ends with `status`."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done.stdout
