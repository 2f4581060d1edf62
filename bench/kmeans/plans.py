# SPDX-License-Identifier: Apache-2.0
"""What the k-means benchmark measures, and what its results are compared with."""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from kmeans.data import Parameters, first_centres, fragments_of
from kmeans.job import KMeans, NativeKMeans, PaperKMeans, VectorKMeans, VectorOf
from paper.arms import Handle, InStore, Places
from paper.driver import Arrays, Benchmark, MemoryPlan, Plan
from paper.executors import Executor
from paper.measuring import Case, WrongResult
from paper.native import NativeWorkers
from paper.options import MEMORY_WORKERS

KIB, MIB = 2**10, 2**20
SIZES = [64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB]
# The paper's tables, with points scaled so that a step takes milliseconds: its case of reference,
# 128 MiB a fragment, is 4 MiB here.
VARIED = {
    "k": [1, 2, 3, 4, 5],
    "d": [8, 16, 32, 64, 96, 128],
    "iterations": [5, 10, 20],
}
REFERENCE_POINTS = 16 * 4 * MIB // (64 * 8)


def add_options(parser: argparse.ArgumentParser) -> None:
    from paper.options import at_least, listed, one_of, positive, size

    parser.add_argument("-n", type=at_least(1), help="points: one case instead of a sweep over sizes")
    parser.add_argument("-d", type=at_least(1), default=64, help="dimensions (default: 64)")
    parser.add_argument("-k", type=at_least(1), default=4, help="centres (default: 4)")
    parser.add_argument("--fragments", type=at_least(1), default=16)
    parser.add_argument("--iterations", type=at_least(1),
                        help="at most (default: fewer for larger fragments)")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--epsilon", type=positive, default=1e-9)
    parser.add_argument("--sizes", type=listed(size), help="of a fragment, of the sweep over sizes")
    parser.add_argument("--vary", type=one_of(("size", *VARIED)), default="size",
                        help="what differs from line to line: size (default), k, d or "
                             "iterations")  # fmt: skip


def benchmark(options: argparse.Namespace) -> Benchmark:
    if options.quick:
        options.rounds, options.fragments, options.memory_data = 1, 4, 4 * MIB
        plans = [plan for kernel in ("vector", "paper")
                 for plan in sizes(options, "concurrent.futures", kernel, [16 * KIB, 64 * KIB], 2)]
    elif options.all:
        plans = sizes(options, "concurrent.futures", "vector", SIZES)
        for varies in VARIED:
            plans += varied(options, "concurrent.futures", "vector", varies)
        for executor in ("joblib", "dask"):
            plans += sizes(options, executor, "vector", [64 * KIB, MIB, 16 * MIB], 5)
        plans += sizes(options, "concurrent.futures", "paper", [64 * KIB, 256 * KIB, MIB], 1)
    else:
        plans = [plan for executor in options.executor for plan in asked_for(options, executor)]
    memory = None
    if options.all:
        for plan in plans:
            # Where the disk is not the point, reading it would take longer than all the rest.
            if plan.case.varies != "size" or plan.case.executor != "concurrent.futures":
                plan.without = ("B0",)
    if options.memory or options.all or options.quick:
        memory = memory_plan(options)
    return Benchmark("k-means", "kmeans_worker", plans, memory)


def asked_for(options: argparse.Namespace, executor: str) -> list[Plan]:
    if options.vary != "size":
        return varied(options, executor, options.kernel, options.vary)
    if options.n is None:
        return sizes(options, executor, options.kernel, options.sizes or SIZES, options.iterations)
    return [plan_of(given(options, options.n, options.iterations or 20), executor, options.kernel,
                    "size")]  # fmt: skip


def given(options: argparse.Namespace, points: int, iterations: int) -> Parameters:
    if points < options.fragments:
        raise SystemExit(f"bench-kmeans: {points} points do not fill {options.fragments} fragments")
    return Parameters(points, options.d, options.k, options.fragments, iterations, options.seed,
                      options.epsilon)  # fmt: skip


def sizes(
    options: argparse.Namespace, executor: str, kernel: str, fragment_sizes: list[int],
    iterations: int | None = None,
) -> list[Plan]:  # fmt: skip
    plans = []
    for fragment_bytes in fragment_sizes:
        rows = fragment_bytes // (8 * options.d)
        if rows == 0:
            raise SystemExit(f"bench-kmeans: a fragment of {fragment_bytes} bytes holds no point")
        # So many that a run takes a tenth of a second or more.
        steps = iterations or (1 if kernel == "paper" else
                               20 if fragment_bytes <= MIB else
                               8 if fragment_bytes <= 4 * MIB else
                               4 if fragment_bytes <= 16 * MIB else 2)  # fmt: skip
        parameters = given(options, rows * options.fragments, steps)
        plans.append(plan_of(parameters, executor, kernel, "size"))
    return plans


def varied(options: argparse.Namespace, executor: str, kernel: str, varies: str) -> list[Plan]:
    base = given(options, options.n or REFERENCE_POINTS, options.iterations or 5)
    field = {"k": "centres", "d": "dimensions", "iterations": "iterations"}[varies]
    return [plan_of(dataclasses.replace(base, **{field: value}), executor, kernel, varies)
            for value in VARIED[varies]]  # fmt: skip


def plan_of(parameters: Parameters, executor: str, kernel: str, varies: str) -> Plan:
    case = Case(
        benchmark="k-means", executor=executor, kernel=kernel, varies=varies,
        parameters={"n": parameters.points, "d": parameters.dimensions, "k": parameters.centres,
                    "fragments": parameters.fragments, "iterations": parameters.iterations,
                    "seed": parameters.seed, "epsilon": parameters.epsilon},
        fragment_bytes=parameters.fragment_bytes, data_bytes=parameters.data_bytes,
        tasks_per_step=-(-parameters.points // parameters.points_per_fragment),
        steps=parameters.iterations,
    )  # fmt: skip

    def refer(arrays: Arrays) -> Reference:
        reference = Reference(parameters, kernel, [array for _, array in arrays])
        case.steps = reference.iterations
        if kernel == "vector":
            case.notes.append(
                "The vector kernel's centres and inertia were compared with those of scikit-learn."
            )
        return reference

    def job(reference: Reference, executor: Executor, handles: list[Handle], _: Places) -> KMeans:
        if kernel == "paper":
            return PaperKMeans(parameters, reference.check, executor, handles)
        return VectorKMeans(parameters, reference.check, executor, handles)

    def native_job(
        reference: Reference, workers: NativeWorkers, handles: list[Handle], arm: InStore, _: Places
    ) -> KMeans:
        return NativeKMeans(parameters, reference.check, workers, handles, arm.store)

    pairs = parameters.points * parameters.centres
    return Plan(
        case, lambda: named_fragments(parameters), refer, job,
        native_job if kernel == "vector" else None,
        kernel_seconds=pairs * 5e-6 if kernel == "paper" else parameters.data_bytes / 4e9,
        bytes_read_per_step=parameters.data_bytes,
    )  # fmt: skip


def named_fragments(parameters: Parameters) -> Arrays:
    return [(f"fragment-{number}", fragment)
            for number, fragment in enumerate(fragments_of(parameters))]  # fmt: skip


def memory_plan(options: argparse.Namespace) -> MemoryPlan:
    points = options.memory_data // (8 * options.d)
    parameters = given(options, points, 1)

    def native_lines(handles: list[Handle], arm: InStore) -> list[str]:
        ref = arm.store.put(f"{arm.key}/centres", first_centres(parameters))
        return [f"{handle} {ref} {arm.key}/sums" for handle in handles]

    return MemoryPlan(lambda: named_fragments(parameters), VectorOf(first_centres(parameters)),
                      native_lines, parameters.data_bytes,
                      (2,) if options.quick else MEMORY_WORKERS)  # fmt: skip


class Reference:
    """The same algorithm in plain NumPy, written for nothing but clarity; and scikit-learn's."""

    def __init__(self, parameters: Parameters, kernel: str, fragments: list[np.ndarray]) -> None:
        self._kernel = kernel
        centres = first_centres(parameters)
        self.iterations = 0
        for _ in range(parameters.iterations):
            self._labels = [nearest(fragment, centres) for fragment in fragments]
            new = (paper_centres if kernel == "paper" else lloyd_centres)(
                fragments, self._labels, centres
            )
            self.iterations += 1
            if np.linalg.norm(centres - new) < parameters.epsilon:
                break
            centres = new
        self.centres = centres
        if kernel == "vector":
            compare_with_scikit_learn(parameters, fragments, centres, self.iterations)

    def check(self, job: KMeans) -> None:
        if not np.allclose(job.centres, self.centres, rtol=1e-9, atol=1e-12):
            raise WrongResult("the centres are not those of the reference")
        if isinstance(job, PaperKMeans):
            if job.labels != [label for labels in self._labels for label in labels]:
                raise WrongResult("the labels are not those of the reference")


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    distances = [((points - centre) ** 2).sum(axis=1) for centre in centres]
    return np.argmin(distances, axis=0)


def paper_centres(
    fragments: list[np.ndarray], labels: list[np.ndarray], centres: np.ndarray
) -> np.ndarray:
    means = np.zeros((len(fragments), *centres.shape))
    for number, (fragment, its) in enumerate(zip(fragments, labels, strict=True)):
        for centre in set(its.tolist()):
            means[number, centre] = fragment[its == centre].mean(axis=0)
    return means.mean(axis=0)


def lloyd_centres(
    fragments: list[np.ndarray], labels: list[np.ndarray], centres: np.ndarray
) -> np.ndarray:
    new = centres.copy()
    for centre in range(len(centres)):
        count = sum(int((its == centre).sum()) for its in labels)
        if count:
            total = sum(fragment[its == centre].sum(axis=0)
                        for fragment, its in zip(fragments, labels, strict=True))  # fmt: skip
            new[centre] = total / count
    return new


def compare_with_scikit_learn(
    parameters: Parameters, fragments: list[np.ndarray], centres: np.ndarray, iterations: int
) -> None:
    import warnings

    import sklearn.cluster

    points = np.concatenate(fragments)
    theirs = sklearn.cluster.KMeans(
        parameters.centres, init=first_centres(parameters), n_init=1, max_iter=iterations, tol=0,
        algorithm="lloyd", copy_x=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        # That it has not converged, after the few iterations that are asked for.
        warnings.simplefilter("ignore")
        theirs.fit(points)
    inertia = sum(float(((fragment - centres[nearest(fragment, centres)]) ** 2).sum())
                  for fragment in fragments)  # fmt: skip
    if not np.allclose(theirs.cluster_centers_, centres, rtol=1e-7, atol=1e-9):
        raise WrongResult("the reference's centres are not those of scikit-learn")
    if not np.isclose(theirs.inertia_, inertia, rtol=1e-7):
        raise WrongResult("the reference's inertia is not that of scikit-learn")
