# SPDX-License-Identifier: Apache-2.0
"""Executors: processes that run tasks, one at a time each, behind one interface.

They start with the executor, and `on_each_worker` reaches each of them, so that imports, connections
and first touches can be done before anything is timed. One executor serves all Python arms of a run:
no arm has luckier processes than another.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

PATIENCE_SECONDS = 120


class Executor:
    name: str

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Each task is a task of the framework's; results come in the order of the tasks."""
        raise NotImplementedError

    def on_each_worker(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Runs it once in each worker, in all of them at the same time."""
        meeting = tempfile.mkdtemp(prefix="bench-meeting-")
        try:
            return self.map(meet, [(meeting, self.workers, function, arguments)] * self.workers)
        finally:
            shutil.rmtree(meeting, ignore_errors=True)

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Executor:
        self.on_each_worker(os.getpid)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def meet(
    meeting: str, workers: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    """Waits until as many processes as there are workers are here: then each has one such task."""
    here = pathlib.Path(meeting)
    (here / str(os.getpid())).touch()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(list(here.iterdir())) < workers:
        if time.monotonic() > deadline:
            raise TimeoutError("not all workers came to the meeting")
        time.sleep(0.005)
    return function(*arguments)


class ConcurrentFutures(Executor):
    name = "concurrent.futures"

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        context = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)

    def map(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        futures = [self._pool.submit(function, *task) for task in tasks]
        return [future.result() for future in futures]

    def close(self) -> None:
        self._pool.shutdown()


class Joblib(Executor):
    name = "joblib"

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        import joblib

        # One task at a time: it would otherwise put several into one, and arms would differ in that.
        self._delayed = joblib.delayed
        self._parallel = joblib.Parallel(workers, backend="loky", batch_size=1, pre_dispatch="all",
                                         max_nbytes=None)  # fmt: skip
        self._parallel.__enter__()

    def __enter__(self) -> Executor:
        self.on_each_worker(never_replace_this_worker)
        return self

    def map(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        return list(self._parallel(self._delayed(function)(*task) for task in tasks))

    def close(self) -> None:
        self._parallel.__exit__(None, None, None)
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)


def never_replace_this_worker() -> None:
    """loky takes a process that has grown by 300 MB, mapped shared memory included, for one that
    leaks, and replaces it: in the midst of a run, and then all that it has loaded is gone."""
    import joblib.externals.loky.process_executor as loky

    if hasattr(loky, "_MAX_MEMORY_LEAK_SIZE"):
        loky._MAX_MEMORY_LEAK_SIZE = 2**60


class Dask(Executor):
    name = "dask"

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        import dask.distributed

        self._cluster = dask.distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0,
            dashboard_address=None, silence_logs=40,
            local_directory=tempfile.gettempdir(),
        )  # fmt: skip
        self._client = dask.distributed.Client(self._cluster)
        self._client.wait_for_workers(workers)

    def map(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        futures = [self._client.submit(function, *task, pure=False) for task in tasks]
        results: list[Any] = self._client.gather(futures)
        return results

    def on_each_worker(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        # The scheduler may give two tasks to one worker, which would never meet the others.
        addresses = list(self._client.scheduler_info(n_workers=-1)["workers"])
        futures = [self._client.submit(function, *arguments, workers=[address], pure=False)
                   for address in addresses]  # fmt: skip
        results: list[Any] = self._client.gather(futures)
        return results

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


EXECUTORS: dict[str, type[Executor]] = {
    executor.name: executor for executor in (ConcurrentFutures, Joblib, Dask)
}
