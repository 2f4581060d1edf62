# SPDX-License-Identifier: Apache-2.0
"""Tasks in executors and under frameworks: handles travel, and workers see the segment's memory."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest

import forebay
from forebay import INOUT, KEEP, RRO
from forebay._forebay import handle_of
from support import eventually, in_a_segment, pins, run

LARGE = 200_000
# What may travel with one call: the function by name, its arguments as handles.
SMALL = 2_000
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def found(store, monkeypatch):
    monkeypatch.setenv("FOREBAY_SOCKET", store.address)
    yield
    forebay.uninstall()


@pytest.fixture
def points():
    return np.arange(float(LARGE))


@pytest.fixture(params=["fork", "spawn"])
def pool(request):
    context = multiprocessing.get_context(request.param)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        yield pool


class Weighed:
    """Weighs what is pickled with it: `len()` of each pickle of an argument list."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def dumps(self, value) -> bytes:
        pickled = pickle.dumps(value)
        self.sizes.append(len(pickled))
        return pickled


class Loopback(concurrent.futures.Executor):
    """An executor that pickles as processes would, and says how much."""

    def __init__(self) -> None:
        self.weighed = Weighed()

    def submit(self, function, /, *args, **kwargs):
        future: concurrent.futures.Future = concurrent.futures.Future()
        function, args, kwargs = pickle.loads(self.weighed.dumps((function, args, kwargs)))
        try:
            future.set_result(pickle.loads(self.weighed.dumps(function(*args, **kwargs))))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


@forebay.task(points=RRO)
def look(points, factor=1):
    """Whether memory is shared, whether it is writable, the pid, a sum."""
    return (
        in_a_segment(points),
        points.flags.writeable,
        os.getpid(),
        float(points.sum()) * factor,
    )


@forebay.task(parts=RRO)
def look_at_parts(parts):
    arrays = list(parts.values()) if isinstance(parts, dict) else list(parts)
    return [in_a_segment(a) for a in arrays], [float(a.sum()) for a in arrays]


@forebay.task(a=RRO)
def describe(a):
    return (type(a), a.dtype, a.shape), a.tolist()


@forebay.task(points=RRO, returns=KEEP)
def double(points):
    return np.asarray(points) * 2


@forebay.task(a=INOUT)
def increment(a):
    a += 1
    return a


@forebay.task(a=RRO("named", 4))
def look_at_named(a):
    return in_a_segment(a), float(a.sum())


@forebay.task(points=RRO)
def spoil(points):
    points[0] = 1


@forebay.task(points=RRO)
def fail(points):
    raise RuntimeError("mine")


@forebay.task(points=RRO)
def die(points):
    os.kill(os.getpid(), signal.SIGKILL)


@forebay.task(points=RRO, returns=KEEP("kept/{i}", 1))
def keep(points, i):
    return np.full(1000, float(i))


def plain(points):
    return in_a_segment(points), handle_of(points) is not None, float(points.sum())


def saw_shared(seen, points, factor=1) -> bool:
    shared, writeable, pid, total = seen
    return shared and not writeable and pid != os.getpid() and total == points.sum() * factor


class Counter:
    """With a method that is a task."""

    @forebay.task(points=RRO)
    def total(self, points):
        return in_a_segment(points), float(points.sum())


class TestSharingExecutor:
    def test_arrays_are_put_once_and_travel_as_handles(self, store, pool, points):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            futures = [executor.submit(look, points, i) for i in range(5)]
            seen = [future.result(PATIENCE) for future in futures]
            assert all(saw_shared(one, points, i) for i, one in enumerate(seen))
            assert len(list(store.list())) == 1
            assert saw_shared(executor.submit(look, factor=2, points=points).result(60), points, 2)
            assert len(list(store.list())) == 1
        assert list(store.list()) == []

    def test_what_travels_is_small(self, store, points):
        loopback = Loopback()
        with forebay.scope(), forebay.SharingExecutor(loopback) as executor:
            assert executor.submit(look, points).result(5)[3] == points.sum()
            assert executor.submit(look, points=points).result(5)[3] == points.sum()
            parts = {"a": points, "b": points[::2]}
            executor.submit(look_at_parts, parts).result(5)
            executor.submit(double, points).result(5)
            assert max(loopback.weighed.sizes) < SMALL
            assert points.flags.writeable

    @pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
    @pytest.mark.parametrize(
        "make",
        [
            lambda: np.ma.masked_less(np.arange(10.0), 5),
            lambda: np.matrix([[1.0, 2.0]]),
            lambda: np.array([1, 2.5, 3], object),
            lambda: np.zeros(0),
            lambda: np.array(5.0),
            lambda: np.asfortranarray(np.arange(12.0).reshape(3, 4)),
            lambda: np.arange(1000.0)[::-7],
            lambda: np.broadcast_to(2.0, (10, 10)),
            lambda: np.frombuffer(b"12345678"),
        ],
        ids="masked matrix objects empty point Fortran strided broadcast frozen".split(),
    )
    def test_arrays_of_any_kind_keep_what_they_are_or_are_refused(self, make):
        original = make()
        with forebay.scope(), forebay.SharingExecutor(Loopback()) as executor:
            try:
                kind, numbers = executor.submit(describe, original).result(5)
            except forebay.Unstorable as error:
                assert type(original).__name__ in str(error)  # noqa: PT017
            else:
                assert kind == (type(original), original.dtype, original.shape)
                assert numbers == original.tolist()

    def test_collections(self, pool, points):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            for parts in [points, points[5:]], {"x": points}, (points, points):
                shared, sums = executor.submit(look_at_parts, parts).result(PATIENCE)
                assert all(shared)
                assert sums[0] == points.sum()

    def test_map(self, store, pool, points):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            seen = list(executor.map(look, [points] * 4, range(4), timeout=PATIENCE))
            assert all(saw_shared(one, points, i) for i, one in enumerate(seen))
            assert len(list(store.list())) == 1

    def test_handles_of_each_kind(self, store, pool, points):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            ref = store.put("a", points)
            for handle in ref, store.get("a"), forebay.share(points):
                assert saw_shared(executor.submit(look, handle).result(PATIENCE), points)

    def test_methods(self, pool, points):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            assert executor.submit(Counter().total, points).result(PATIENCE) == (True, points.sum())

    def test_functions_without_flags_are_submitted_as_they_are(self, store, pool):
        with forebay.SharingExecutor(pool) as executor:
            future = executor.submit(plain, np.zeros(1000))
            assert future.result(PATIENCE) == (False, False, 0)
        assert list(store.list()) == []

    def test_results_that_are_kept_travel_as_handles(self, store, pool, points):
        with forebay.scope() as scope, forebay.SharingExecutor(pool) as executor:
            result = executor.submit(double, points).result(PATIENCE)
            assert in_a_segment(result)
            assert result[3] == 6
            assert all(info.id.startswith(scope.prefix) for info in store.list())
            again = executor.submit(double, result).result(PATIENCE)
            assert again[3] == 12
            del result, again
        assert list(store.list()) == []

    def test_named_results(self, store, pool, points):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            for i in 1, 2, 1:
                assert executor.submit(keep, points, i).result(PATIENCE).sum() == 1000 * i
        assert [info.id for info in store.list()] == ["kept/1", "kept/2"]

    def test_inout_travels_as_the_next_version(self, store, pool):
        with forebay.SharingExecutor(pool) as executor:
            ref = store.put("field", np.zeros(LARGE))
            back = executor.submit(increment, ref).result(PATIENCE)
            assert store.get("field").sum() == LARGE
            executor.submit(increment, back).result(PATIENCE)
            assert store.get("field").sum() == 2 * LARGE
            assert store.get(ref).sum() == 0

    def test_inout_of_an_array_publishes_a_version(self, store, pool):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            field = np.zeros(LARGE)
            back = executor.submit(increment, field).result(PATIENCE)
            back = store.get(back) if isinstance(back, forebay.Ref) else back
            assert in_a_segment(back)
            assert back.sum() == LARGE

    def test_named_arguments(self, store, pool, points):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            assert executor.submit(look_at_named, points).result(PATIENCE) == (True, points.sum())
            again = executor.submit(look_at_named, points.copy()).result(PATIENCE)
            assert again == (True, points.sum())
        assert store.get("named", version=4).sum() == points.sum()

    def test_errors_keep_type_and_note_across_processes(self, pool, points):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            with pytest.raises(RuntimeError, match="mine"):
                executor.submit(fail, points).result(PATIENCE)
            with pytest.raises(ValueError, match="read-only") as caught:
                executor.submit(spoil, points).result(PATIENCE)
            said = "\n".join(
                [str(caught.value), str(caught.value.__cause__), *getattr(caught.value, "__notes__", [])]
            )
            assert "points" in said
            assert "writable=" in said
            assert points[0] == 0

    def test_a_killed_worker_leaves_no_pins(self, store, pool):
        pool.submit(os.getpid).result(PATIENCE)
        with forebay.scope():
            shared = forebay.share(np.arange(float(LARGE)))
            [info] = store.list()
            executor = forebay.SharingExecutor(pool)
            with pytest.raises(concurrent.futures.BrokenExecutor):
                executor.submit(die, shared).result(PATIENCE)
            assert eventually(lambda: pins(store, info.id) == 1)
            del shared
            gc.collect()
            assert eventually(lambda: pins(store, info.id) == 0)
        assert list(store.list()) == []

    def test_pins_of_workers_end_with_the_task(self, store, pool, points):
        # A process that is forked later begins with the pins of its parent.
        pool.submit(os.getpid).result(PATIENCE)
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            executor.submit(look, points).result(PATIENCE)
            [info] = store.list()
            assert eventually(
                lambda: all(h.pid == os.getpid() for h in store.stat(info.id).holders)
            )

    def test_an_array_may_die_before_its_task_runs(self, pool):
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            futures = [executor.submit(look, np.full(1000, float(i))) for i in range(20)]
            for i, future in enumerate(futures):
                assert future.result(PATIENCE)[3] == 1000 * i

    def test_threads(self, points):
        threads = concurrent.futures.ThreadPoolExecutor(2)
        with forebay.scope(), forebay.SharingExecutor(threads) as executor:
            for seen in executor.map(look, [points] * 4):
                assert not seen[1]
                assert seen[3] == points.sum()

    def test_a_full_store_is_said_where_the_task_is_submitted(self, store):
        held = []
        with forebay.scope(), forebay.SharingExecutor(Loopback()) as executor:
            with pytest.raises(forebay.StoreFull, match=str(os.getpid())):
                for i in range(20):
                    held.append(np.full(3_000_000, float(i)))
                    held.append(forebay.share(held[-1]))
                    executor.submit(look, held[-2]).result(5)

    def test_shutdown_ends_the_executor(self):
        pool = concurrent.futures.ThreadPoolExecutor(1)
        forebay.SharingExecutor(pool).shutdown(wait=True)
        with pytest.raises(RuntimeError):
            pool.submit(print)


class TestPlainPools:
    def test_handles_need_no_wrapper(self, store, pool, points):
        with forebay.scope():
            shared = forebay.share(points)
            assert len(pickle.dumps((look, (shared,)))) < SMALL
            assert saw_shared(pool.submit(look, shared).result(PATIENCE), points)
            assert pool.submit(plain, shared).result(PATIENCE) == (True, True, points.sum())
            assert saw_shared(pool.submit(look, store.put("a", points)).result(PATIENCE), points)

    def test_arrays_are_accepted_alike(self, pool, points):
        shared, writeable, _, total = pool.submit(look, points).result(PATIENCE)
        assert not writeable
        assert total == points.sum()

    def test_the_decorator_installs_in_the_worker(self, store, points):
        ref = store.put("a", points)
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            part = pool.submit(tail, ref).result(PATIENCE)
        assert in_a_segment(part)
        assert np.array_equal(part, points[-10_000:])


@forebay.task(points=RRO)
def tail(points):
    return points[-10_000:]


@pytest.fixture
def joblib():
    return pytest.importorskip("joblib")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
class TestJoblib:
    def test_loky_workers_see_the_segment(self, joblib, store, points, tmp_path):
        with forebay.scope():
            shared = forebay.share(points)
            forebay.install()
            with joblib.parallel_config("loky", n_jobs=2, temp_folder=str(tmp_path)):
                seen = joblib.Parallel()(joblib.delayed(look)(shared, i) for i in range(4))
                assert all(saw_shared(one, points, i) for i, one in enumerate(seen))
                views = shared[5:], shared[::-1], shared.reshape(2, -1).T, np.asarray(shared)
                seen = joblib.Parallel()(joblib.delayed(plain)(view) for view in views)
                assert [one[:2] for one in seen] == [(True, True)] * 4
                assert [one[2] for one in seen] == [float(view.sum()) for view in views]
                assert not [f for f in tmp_path.rglob("*") if f.is_file()]

    def test_other_arrays_go_as_ever(self, joblib, points, tmp_path):
        forebay.install()
        with joblib.parallel_config("loky", n_jobs=2, temp_folder=str(tmp_path)):
            seen = joblib.Parallel()(joblib.delayed(plain)(a) for a in (points + 1, points[:10]))
            assert [one[2] for one in seen] == [(points + 1).sum(), points[:10].sum()]
            assert not any(one[1] for one in seen)

    def test_results_that_are_kept(self, joblib, store, points):
        with forebay.scope():
            ref = store.put("a", points)
            results = joblib.Parallel(n_jobs=2)(joblib.delayed(double)(ref) for _ in range(2))
            assert all(in_a_segment(result) for result in results)
            assert results[1][3] == 6

    def test_threads_and_no_workers_at_all(self, joblib, points):
        for backend, jobs in ("threading", 2), ("sequential", 1):
            seen = joblib.Parallel(n_jobs=jobs, backend=backend)(
                joblib.delayed(look)(points, i) for i in range(3)
            )
            assert [one[3] for one in seen] == [points.sum() * i for i in range(3)]

    def test_loky_under_the_sharing_executor(self, joblib, points):
        from joblib.externals.loky import get_reusable_executor

        with forebay.scope(), forebay.SharingExecutor(get_reusable_executor(2)) as executor:
            assert saw_shared(executor.submit(look, points).result(PATIENCE), points)

    def test_hashes_and_memory(self, joblib, store, points, tmp_path):
        store.put("a", points)
        view = store.get("a")
        before = joblib.hash(view)
        forebay.install()
        assert joblib.hash(view) == before
        assert joblib.hash(view) == joblib.hash(np.asarray(points))
        path = tmp_path / "dumped"
        joblib.dump(view, path)
        assert np.array_equal(joblib.load(path), points)
        assert path.stat().st_size > view.nbytes


@pytest.mark.filterwarnings("ignore")
def test_estimators_of_sklearn_take_shared_arrays(joblib, store, tmp_path):
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_score

    random = np.random.default_rng(1)
    points = random.random((40_000, 5))
    values = points @ np.arange(5.0)
    with forebay.scope():
        shared = forebay.share(points)
        forebay.install()
        with joblib.parallel_config("loky", n_jobs=2, temp_folder=str(tmp_path)):
            scores = cross_val_score(Ridge(1e-6), shared, forebay.share(values), cv=3)
        assert (scores > 0.99).all()
        assert not [f for f in tmp_path.rglob("*") if f.is_file()]


@pytest.fixture(scope="module")
def cluster_of_processes(shared_daemon):
    distributed = pytest.importorskip("distributed")
    import warnings

    before = os.environ.get("FOREBAY_SOCKET")
    os.environ["FOREBAY_SOCKET"] = shared_daemon.socket
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        )
        client = distributed.Client(cluster)
    yield client
    client.close()
    cluster.close()
    if before is None:
        os.environ.pop("FOREBAY_SOCKET", None)
    else:
        os.environ["FOREBAY_SOCKET"] = before


@pytest.mark.filterwarnings("ignore")
class TestDistributed:
    @pytest.fixture
    def client(self, cluster_of_processes):
        forebay.install()
        return cluster_of_processes

    def test_workers_see_the_segment(self, client, store, points):
        with forebay.scope():
            shared = forebay.share(points)
            for handle in shared, np.asarray(shared), store.put("a", points):
                seen = client.submit(look, handle, pure=False).result(PATIENCE)
                assert saw_shared(seen, points)

    def test_what_is_serialised_is_small(self, client, store, points):
        from distributed.protocol import deserialize, serialize

        with forebay.scope():
            shared = forebay.share(points)
            for view in shared, np.asarray(shared), np.asarray(shared)[::2], shared.reshape(2, -1).T:
                header, frames = serialize(view)
                assert sum(memoryview(frame).nbytes for frame in frames) < SMALL
                assert len(pickle.dumps(header)) < SMALL
                back = deserialize(header, frames)
                assert in_a_segment(back)
                assert np.array_equal(back, view)
            for other in shared + 1, points, np.zeros(3):
                back = deserialize(*serialize(other))
                assert np.array_equal(back, other)
                assert not in_a_segment(back)

    def test_scattered_and_in_collections(self, client, points):
        with forebay.scope():
            shared = forebay.share(points)
            future = client.scatter(shared)
            assert client.submit(plain, future, pure=False).result(PATIENCE)[:2] == (True, True)
            parts = {"a": shared, "b": shared[::2]}
            seen, sums = client.submit(look_at_parts, parts, pure=False).result(PATIENCE)
            assert seen == [True, True]
            assert sums == [points.sum(), points[::2].sum()]

    def test_results_that_are_kept_go_from_worker_to_worker_as_handles(self, client, store, points):
        with forebay.scope():
            shared = forebay.share(points)
            first, second = client.scheduler_info()["workers"]
            made = client.submit(double, shared, workers=[first], pure=False)
            seen = client.submit(look, made, workers=[second], pure=False).result(PATIENCE)
            assert seen[0]
            assert seen[3] == 2 * points.sum()
            assert in_a_segment(made.result(PATIENCE))

    def test_under_the_sharing_executor(self, client, store, points):
        with forebay.scope():
            executor = forebay.SharingExecutor(client)
            assert saw_shared(executor.submit(look, points).result(PATIENCE), points)
            assert len(list(store.list())) == 1

    def test_dask_delayed_above(self, client, points):
        dask = pytest.importorskip("dask")
        with forebay.scope():
            shared = forebay.share(points)
            above = dask.delayed(look)
            seen = dask.compute([above(shared, i) for i in range(3)], scheduler=client)[0]
            assert all(saw_shared(one, points, i) for i, one in enumerate(seen))

    def test_dask_delayed_below(self, client, store, points):
        dask = pytest.importorskip("dask")
        with forebay.scope():
            below = forebay.task(points=RRO)(dask.delayed(look_undecorated))
            seen = dask.compute([below(points, i) for i in range(3)], scheduler=client)[0]
            assert all(saw_shared(one, points, i) for i, one in enumerate(seen))
            assert len(list(store.list())) == 1
            graph = pickle.dumps(below(points))
            assert len(graph) < 3 * SMALL

    def test_tokens_of_equal_handles_are_equal(self, client, points):
        base = pytest.importorskip("dask.base")
        with forebay.scope():
            shared = forebay.share(points)
            assert base.tokenize(shared) == base.tokenize(forebay.share(points))
            assert base.tokenize(shared) != base.tokenize(shared[1:])
            assert base.tokenize(np.asarray(shared)) != base.tokenize(shared + 1)

    def test_inout(self, client, store):
        ref = store.put("field", np.zeros(LARGE))
        back = client.submit(increment, ref, pure=False).result(PATIENCE)
        assert store.get("field").sum() == LARGE
        client.submit(increment, back, pure=False).result(PATIENCE)
        assert store.get("field").sum() == 2 * LARGE


def look_undecorated(points, factor=1):
    return in_a_segment(points), points.flags.writeable, os.getpid(), float(points.sum()) * factor


@pytest.mark.filterwarnings("ignore")
class TestDaskThreads:
    def test_a_cluster_of_threads(self, points):
        distributed = pytest.importorskip("distributed")
        cluster = distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        )
        with cluster, distributed.Client(cluster) as client, forebay.scope():
            shared = forebay.share(points)
            futures = [client.submit(look, shared, i, pure=False) for i in range(4)]
            for i, future in enumerate(futures):
                seen = future.result(PATIENCE)
                assert seen[:2] == (True, False)
                assert seen[3] == points.sum() * i

    @pytest.mark.parametrize("scheduler", ["threads", "sync", "processes"])
    def test_without_a_cluster(self, points, scheduler):
        dask = pytest.importorskip("dask")
        with forebay.scope():
            shared = forebay.share(points)
            above = dask.delayed(look)
            seen = dask.compute([above(shared, i) for i in range(3)], scheduler=scheduler)[0]
            assert [one[3] for one in seen] == [points.sum() * i for i in range(3)]
            assert all(one[:2] == (True, False) for one in seen)

    def test_delayed_below_in_one_process(self, points):
        dask = pytest.importorskip("dask")
        with forebay.scope():
            below = forebay.task(points=RRO)(dask.delayed(look_undecorated))
            seen = below(points, 3).compute(scheduler="sync")
            assert seen[1] is False
            assert seen[3] == points.sum() * 3

    def test_futures_of_dask_as_arguments(self, points):
        dask = pytest.importorskip("dask")
        with forebay.scope():
            made = dask.delayed(np.asarray)(points)
            seen = dask.delayed(look)(made).compute(scheduler="sync")
            assert seen[1] is False
            assert seen[3] == points.sum()


def test_processes_that_end_leave_nothing(store, points):
    run(
        """
        import concurrent.futures, multiprocessing, numpy as np, forebay
        from test_executors import look
        points = np.arange(200000.0)
        context = multiprocessing.get_context("fork")
        pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
        with forebay.SharingExecutor(pool) as executor:
            assert executor.submit(look, points).result(60)[0]
        """
    )
    assert eventually(lambda: list(store.list()) == [])


def test_a_master_that_is_killed_leaves_nothing(store):
    said = run(
        """
        import concurrent.futures, multiprocessing, os, signal, numpy as np, forebay
        from test_executors import look
        points = np.arange(200000.0)
        context = multiprocessing.get_context("fork")
        pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
        with forebay.scope(), forebay.SharingExecutor(pool) as executor:
            print(executor.submit(look, points).result(60)[0], flush=True)
            for process in multiprocessing.active_children(): process.kill()
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        status=-9,
    )
    assert said == "True\n"
    assert eventually(lambda: list(store.list()) == [])
