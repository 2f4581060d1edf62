# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a daemon of the test's own, and a store connected to it."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time

import pytest

import forebay

# Whoever runs the tests in the background has SIGINT ignored, and processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

DAEMON = pathlib.Path(forebay.__file__).parent / "forebayd"


class Daemon:
    """A forebayd in a process of its own; leaves nothing in /dev/shm."""

    def __init__(
        self, directory: pathlib.Path, capacity: str = "128MiB", options: tuple[str, ...] = ()
    ) -> None:
        self.socket = str(directory / "forebay.sock")
        self.capacity = capacity
        self.options = options
        self.log = open(directory / "log", "ab")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [DAEMON, "--socket", self.socket, "--capacity", self.capacity, "--reserve", "1MiB"]
            + [*self.options],
            stderr=self.log,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                forebay.connect(self.socket, timeout=1).close()
                return
            except forebay.Disconnected:
                assert self.process.poll() is None, "forebayd did not start"
        raise AssertionError("forebayd does not listen")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def connect(self, **options: object) -> forebay.Store:
        return forebay.connect(self.socket, **options)

    def end(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            try:
                self.connect().status()
                subprocess.run(
                    [DAEMON.resolve().parent / "forebay", "--socket", self.socket, "stop", "--drop"],
                    check=False,
                )
                self.process.wait(10)
            except (forebay.ForebayError, subprocess.TimeoutExpired):
                self.kill()
        self.log.close()


@pytest.fixture(scope="session")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory):
    daemon = Daemon(tmp_path_factory.mktemp("forebay"))
    yield daemon
    daemon.end()


@pytest.fixture
def daemon(tmp_path: pathlib.Path):
    """A daemon for one test, which may kill it."""
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.end()


@pytest.fixture
def store(shared_daemon: Daemon, request: pytest.FixtureRequest):
    """A store that is empty at first, on a daemon shared by many tests."""
    with shared_daemon.connect() as store:
        yield store
        # What a manifest lists goes after it.
        while store.remove_prefix(""):
            pass
