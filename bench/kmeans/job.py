# SPDX-License-Identifier: Apache-2.0
"""The job: iterations of a task for each fragment, by an executor's workers or by C++ ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

import forebay
from kmeans import kernels
from kmeans.data import Parameters, first_centres
from paper.arms import Handle, opened
from paper.executors import Executor
from paper.native import NativeWorkers


def paper_task(
    handle: Handle, labels: list[int], centres: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    return kernels.paper(opened(handle), labels, centres), labels


def vector_task(handle: Handle, centres: np.ndarray) -> np.ndarray:
    return kernels.vector(opened(handle), centres)


@dataclasses.dataclass(frozen=True)
class VectorOf:
    """The vector kernel with given centres: it is pickled to the workers."""

    centres: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return kernels.vector(points, self.centres)


# Compares what a job has made with the reference; raises WrongResult.
Check = Callable[["KMeans"], None]


class KMeans:
    """Centres from iteration to iteration; how the tasks of one are done, subclasses say."""

    def __init__(self, parameters: Parameters, check: Check) -> None:
        self.parameters = parameters
        self.steps = parameters.iterations
        self._check = check
        self.prepare()

    def prepare(self) -> None:
        self.centres = first_centres(self.parameters)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            new = self.iteration(self.centres)
            if np.linalg.norm(self.centres - new) < self.parameters.epsilon:
                break
            self.centres = new
        self.finish()

    def iteration(self, centres: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def finish(self) -> None:
        """What the paper's time includes after the last iteration."""

    def check(self) -> None:
        self._check(self)


class VectorKMeans(KMeans):
    def __init__(
        self, parameters: Parameters, check: Check, executor: Executor,
        handles: list[Handle],
    ) -> None:  # fmt: skip
        self._executor = executor
        self._handles = handles
        super().__init__(parameters, check)

    def iteration(self, centres: np.ndarray) -> np.ndarray:
        sums = self._executor.map(vector_task, [(handle, centres) for handle in self._handles])
        return kernels.vector_next(sums, centres)


class PaperKMeans(KMeans):
    """Labels go to each task and come back with its result."""

    def __init__(
        self, parameters: Parameters, check: Check, executor: Executor,
        handles: list[Handle],
    ) -> None:  # fmt: skip
        self._executor = executor
        self._handles = handles
        super().__init__(parameters, check)

    def prepare(self) -> None:
        super().prepare()
        self._labels: list[list[int]] = [[] for _ in self._handles]

    def iteration(self, centres: np.ndarray) -> np.ndarray:
        results = self._executor.map(paper_task, [
            (handle, labels, centres)
            for handle, labels in zip(self._handles, self._labels, strict=True)
        ])  # fmt: skip
        self._labels = [labels for _, labels in results]
        return kernels.paper_next([means for means, _ in results], centres)

    def finish(self) -> None:
        self.labels = [label for labels in self._labels for label in labels]


class NativeKMeans(KMeans):
    """The vector kernel in C++: centres go to the workers, and sums come back, as segments."""

    def __init__(
        self, parameters: Parameters, check: Check, workers: NativeWorkers,
        handles: list[Handle], store: forebay.Store,
    ) -> None:  # fmt: skip
        self._workers = workers
        self._refs = [str(handle) for handle in handles]
        self._store = store
        super().__init__(parameters, check)

    def iteration(self, centres: np.ndarray) -> np.ndarray:
        centres_ref = self._store.put("B6/centres", centres)
        answers = self._workers.map([
            f"{ref} {centres_ref} B6/sums/{number}" for number, ref in enumerate(self._refs)
        ])  # fmt: skip
        refs = [forebay.Ref(answer) for answer in answers]
        new = kernels.vector_next(self._store.get_many(refs), centres)
        self._store.remove_many([centres_ref, *refs])
        return new
