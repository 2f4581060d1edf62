# SPDX-License-Identifier: Apache-2.0
"""A forebay-poold and a forebayd that spills to it, of a benchmark's own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import select
import subprocess
import time
from collections.abc import Iterator

START_SECONDS = 60


@dataclasses.dataclass
class Pool:
    process: subprocess.Popen[str]
    address: str
    transport: str
    key_file: str


@dataclasses.dataclass
class Daemon:
    process: subprocess.Popen[bytes]
    socket: str


def _ended(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def pool(
    programs: pathlib.Path, folder: pathlib.Path, capacity: str, transport: str = "auto"
) -> Iterator[Pool]:
    program = str(programs / "forebay-poold")
    key = str(folder / "pool.key")
    subprocess.run([program, "--make-key", key], check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(
        [program, "--listen", "127.0.0.1:0", "--capacity", capacity, "--key", key, "--drop",
         "--name", f"bench-{os.getpid()}", "--transport", transport, "--log-level", "warning"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        line = process.stdout.readline() if readable else ""
        if not line.startswith("ready: "):
            raise SystemExit("bench: forebay-poold did not start")
        _, address, name = line.strip().split(" ", 2)
        yield Pool(process, address, name, key)
    finally:
        _ended(process)


@contextlib.contextmanager
def daemon(
    programs: pathlib.Path,
    folder: pathlib.Path,
    capacity: str,
    pool: Pool | None = None,
    transport: str = "auto",
    options: tuple[str, ...] = (),
) -> Iterator[Daemon]:
    socket = str(folder / f"forebay-{capacity}.sock")
    command = [str(programs / "forebayd"), "--socket", socket, "--capacity", capacity, "--drop",
               "--log-level", "warning", "--keep-warm", capacity, *options]  # fmt: skip
    if pool:
        command += ["--pools", pool.address, "--pool-key", pool.key_file,
                    "--pool-transport", transport]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not pathlib.Path(socket).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("bench: forebayd did not start")
            time.sleep(0.01)
        yield Daemon(process, socket)
    finally:
        _ended(process)
