# SPDX-License-Identifier: Apache-2.0
"""Several processes: fork, spawn, death, and a daemon that is started on demand."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import forebay


def eventually(condition, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def sum_of(address: str, ref: forebay.Ref) -> float:
    with forebay.connect(address) as store:
        return float(store.get(ref).sum())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_get_by_ref_however_they_are_started(store, method):
    ref = store.put("a", np.arange(100_000.0))
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        sums = list(pool.map(sum_of, [store.address] * 4, [ref] * 4))
    assert sums == [np.arange(100_000.0).sum()] * 4


def in_child(body) -> None:
    """Run `body` in a forked child and raise what it raised."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


class TestFork:
    def test_a_child_keeps_its_views_and_releases_them_for_itself(self, store):
        store.put("a", np.full(100_000, 3.0))
        array = store.get("a")

        def child():
            nonlocal array
            assert array.sum() == 300_000
            assert sum(holder.pins for holder in store.stat("a").holders) == 2
            del array
            assert sum(holder.pins for holder in store.stat("a").holders) == 1

        in_child(child)
        assert eventually(lambda: sum(h.pins for h in store.stat("a").holders) == 1)
        assert array.sum() == 300_000

    def test_a_child_keeps_what_the_parent_lets_go(self, store):
        store.put("a", np.full(100_000, 3.0))
        array = store.get("a")
        ready_read, ready_write = os.pipe()
        done_read, done_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ready_write)
            os.read(ready_read, 1)
            good = bool((array == 3.0).all())
            os._exit(0 if good else 1)
        del array
        store.remove("a")
        for i in range(5):
            store.put(f"other{i}", np.zeros(100_000))
        os.write(ready_write, b"x")
        _, status = os.waitpid(child, 0)
        for end in (ready_read, ready_write, done_read, done_write):
            os.close(end)
        assert os.waitstatus_to_exitcode(status) == 0

    def test_a_child_uses_the_store_it_inherited(self, store):
        def child():
            store.put("from the child", np.arange(3))
            assert store.get("from the child").sum() == 3

        in_child(child)
        assert store.get("from the child").sum() == 3

    def test_a_builder_cannot_be_sealed_by_a_child(self, store):
        builder = store.create("a", 10)
        builder.array[:] = 1

        def child():
            with pytest.raises(forebay.BadState, match="forked"):
                builder.seal()

        in_child(child)
        builder.array[:] = 2
        builder.seal()
        assert store.get("a").sum() == 20


def test_a_killed_process_leaves_no_pins_and_no_unsealed_bytes(store):
    store.put("a", np.zeros(1000))
    before = store.status()["used_bytes"]
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        with forebay.connect(store.address) as mine:
            held = mine.get("a")
            builder = mine.create("b", 1_000_000)
            os.write(ready_write, b"x")
            time.sleep(60)
            del held, builder
        os._exit(0)
    os.read(ready_read, 1)
    assert sum(holder.pins for holder in store.stat("a").holders) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready_read)
    os.close(ready_write)
    assert eventually(lambda: not store.stat("a").holders)
    assert eventually(lambda: store.status()["used_bytes"] == before)


class TestEmbedded:
    @pytest.fixture
    def own_runtime(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        monkeypatch.delenv("FOREBAY_SOCKET", raising=False)
        yield tmp_path
        tool = (pathlib.Path(forebay.__file__).parent / "forebayd").resolve().parent / "forebay"
        subprocess.run([tool, "stop", "--drop"], check=False, capture_output=True)

    def test_connect_starts_one_if_there_is_none(self, own_runtime):
        with forebay.connect() as store:
            assert store.address == str(own_runtime / "forebay" / "default.sock")
            store.put("a", np.arange(3))
        with forebay.connect() as again:
            assert again.get("a").sum() == 3

    def test_processes_that_start_at_once_get_one_daemon(self, own_runtime):
        script = "import forebay; print(forebay.connect().status()['daemon_pid'])"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        started = [
            subprocess.Popen(
                [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
            )
            for _ in range(6)
        ]
        pids = {process.communicate(timeout=60)[0] for process in started}
        assert len(pids) == 1
        assert pids.pop().strip().isdigit()

    def test_nobody_waits_on_what_the_daemon_inherited(self, own_runtime):
        script = "import forebay; forebay.connect(); print('connected')"
        ran = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
        # communicate() above returned: the daemon holds no end of our pipes.
        assert ran.stdout == "connected\n"

    def test_it_is_not_started_where_it_is_not_wanted(self, own_runtime):
        with pytest.raises(forebay.Disconnected):
            forebay.connect(start_daemon=False, timeout=0.1)
        assert not (own_runtime / "forebay" / "default.sock").exists()
