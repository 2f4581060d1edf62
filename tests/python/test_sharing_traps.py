# SPDX-License-Identifier: Apache-2.0
"""What sharing must not do behind anybody's back: each of these went wrong once."""

from __future__ import annotations

import collections
import concurrent.futures
import gc
import mmap
import multiprocessing
import pickle
import signal

import numpy as np
import pytest

import forebay
from forebay import INOUT, KEEP, RRO
from forebay._forebay import handle_of
from forebay._handles import attach
from support import eventually, run

LARGE = 200_000


@pytest.fixture(autouse=True)
def found(store, monkeypatch):
    """`store` is the one that `connect()` finds."""
    monkeypatch.setenv("FOREBAY_SOCKET", store.address)
    forebay.install()
    yield
    forebay.uninstall()


@forebay.task(points=RRO)
def size_of_pickle(points):
    return len(pickle.dumps(points))


@forebay.task(array=INOUT)
def add(array, what):
    array += what
    return array


class TestOtherArraysStayWhatTheyAre:
    def test_an_array_that_was_flagged_pickles_as_ever_where_it_is(self, store):
        array = np.zeros(LARGE)
        assert size_of_pickle(array) < 300
        assert len(pickle.dumps({"weights": array})) > array.nbytes
        array[3] = 7
        back = pickle.loads(pickle.dumps(array))
        assert back[3] == 7
        assert back.flags.writeable

    def test_slices_of_one_array_are_shared_each_once(self, store):
        array = np.arange(float(LARGE))
        for _ in range(3):
            for start in range(0, LARGE, LARGE // 4):
                assert size_of_pickle(array[start : start + LARGE // 4]) < 300
        assert size_of_pickle(array[::2]) < 300
        assert len(list(store.list("scope/"))) == 5

    def test_a_change_through_inout_is_seen_by_the_next(self, store):
        array = np.zeros(LARGE)

        @forebay.task(points=RRO)
        def travelled(points):
            return float(pickle.loads(pickle.dumps(points)).sum())

        assert travelled(array) == 0
        add(array[:10], 1)
        assert travelled(array) == 10

    def test_share_sees_every_change(self, store):
        array = np.zeros(LARGE)
        first = forebay.share(array)
        assert forebay.share(array) is first
        assert size_of_pickle(array) < 300  # the flag is content with the same
        assert forebay.share(array) is first
        array[12345] = 1
        assert forebay.share(array)[12345] == 1
        assert first[12345] == 0

    def test_a_memmap_is_read_only_as_any_other(self, store, tmp_path):
        mapped = np.memmap(tmp_path / "m", "f8", "w+", shape=(100,))

        @forebay.task(points=RRO)
        def spoil(points):
            points[0] = 1

        with pytest.raises(ValueError, match="read-only"):
            spoil(mapped)
        assert mapped[0] == 0

    @pytest.mark.parametrize(
        "mapping",
        [
            collections.OrderedDict(a=np.zeros(3)),
            collections.Counter(a=1),
            collections.defaultdict(list, a=np.zeros(3)),
        ],
        ids=lambda mapping: type(mapping).__name__,
    )
    def test_a_mapping_of_another_class_keeps_it(self, store, mapping):
        store.put("m", mapping)
        assert type(store.get("m")) is type(mapping)


class TestFlags:
    def test_a_name_is_for_arrays_that_have_none(self, store):
        @forebay.task(points=RRO("named", 1))
        def look(points):
            return None if points is None else float(np.sum(points))

        assert look(None) is None
        assert "named" not in store
        assert look(forebay.share(np.ones(5))) == 5
        assert look(store.put("other", np.ones(7))) == 7
        assert look(np.ones(3)) == 3
        assert look(np.ones(9)) == 3  # that one, for everybody

    def test_a_flag_for_the_rest_is_not_for_named_parameters(self, store):
        @forebay.task(rest=RRO)
        def work(out, **rest):
            out[0] = sum(array.sum() for array in rest.values())
            assert not any(array.flags.writeable for array in rest.values())

        out = np.zeros(1)
        work(out=out, a=np.ones(3), b=np.ones(4))
        assert out[0] == 7

    def test_generators_may_only_read(self, store):
        @forebay.task(points=RRO)
        def numbers(points):
            yield from points

        assert list(numbers(np.arange(3))) == [0, 1, 2]
        for flags in {"points": INOUT}, {"returns": KEEP}:
            with pytest.raises(forebay.BadArgument, match="generator"):

                @forebay.task(**flags)
                def later(points):
                    yield points

    def test_keep_with_a_name_keeps_what_lies_elsewhere(self, store):
        @forebay.task(returns=KEEP("kept", 1))
        def give(array):
            return array

        give(forebay.share(np.arange(5.0)))
        assert store.get("kept").sum() == 10

    def test_a_list_that_is_written_to_is_the_callers(self, store):
        @forebay.task(arrays=INOUT)
        def work(arrays):
            for array in arrays:
                array += 1
            arrays.append("done")

        arrays = [np.zeros(3)]
        work(arrays)
        assert arrays[0].sum() == 3
        assert arrays[1] == "done"

    def test_a_list_that_contains_itself(self, store):
        loop = [np.zeros(3)]
        loop.append(loop)
        assert size_of_pickle(loop) > 0


class TestVersions:
    def test_two_submissions_of_one_array_are_two(self, store):
        array = np.zeros(1000)
        context = multiprocessing.get_context("spawn")
        with forebay.SharingExecutor(
            concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
        ) as executor:
            futures = [executor.submit(add, array, what) for what in (1, 2)]
            assert [future.result(60).sum() for future in futures] == [1000, 2000]
        assert array.sum() == 0

    def test_a_retry_works_while_the_error_is_kept(self, store):
        tries = []

        @forebay.task(array=INOUT)
        def work(array):
            part = array[1:]
            part += 1
            tries.append(None)
            if len(tries) == 1:
                raise RuntimeError("once")

        ref = store.put("a", np.zeros(LARGE))
        with pytest.raises(RuntimeError) as kept:
            work(ref)
        work(ref)
        assert store.get("a").sum() == LARGE - 1
        assert store.get("a", version=1).sum() == 0
        assert kept.value.args == ("once",)

    def test_a_view_in_a_cycle_does_not_keep_it_from_being_sealed(self, store):
        @forebay.task(array=INOUT)
        def work(array):
            cycle = [array[1:]]
            cycle.append(cycle)

        gc.disable()
        try:
            work(store.put("a", np.zeros(LARGE)))
        finally:
            gc.enable()
        assert store.get("a", version=2).sum() == 0

    def test_the_next_version_may_be_dropped_as_the_former_one(self, store):
        for evictable in True, False:
            ref = store.put("a", np.zeros(10), evictable=evictable)
            add(ref, 1)
            assert store.stat("a").info.evictable == evictable


class TestMemory:
    def test_a_scope_gives_memory_back_though_the_original_lives(self, store):
        array = np.zeros(2_000_000)
        before = store.status()["used_bytes"]
        with forebay.scope():
            shared = forebay.share(array)
            assert store.status()["used_bytes"] > before
            del shared
        assert eventually(lambda: store.status()["used_bytes"] == before)

    def test_stores_in_turn_have_one_scope_each(self, store, daemon):
        other = daemon.connect()
        scopes = store.status()["scopes"]
        for number in range(20):
            forebay.share(np.full(2, number), store=other if number % 2 else store)
        assert store.status()["scopes"] <= scopes + 1
        assert other.status()["scopes"] == 1

    def test_a_signal_in_the_middle_of_a_put_leaves_nothing_half_written(self, store):
        class Interrupted(Exception):
            pass

        def interrupt(*_):
            raise Interrupted

        strided = np.arange(1_000_000.0)[::2]
        former = signal.signal(signal.SIGALRM, interrupt)
        try:
            for microseconds in range(200, 6000, 400):
                store.put("junk", np.full(6_000_000, 7.0))
                store.remove("junk")
                try:
                    signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
                    store.put("o", [np.ones(4_000_000), strided], keep=1)
                except Interrupted:
                    pass
                finally:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    except Interrupted:
                        pass
                if "o" in store:
                    assert np.array_equal(store.get("o")[1], strided)
        finally:
            signal.signal(signal.SIGALRM, former)

    @pytest.mark.parametrize(
        ("dtype", "offset", "shape", "strides"),
        [
            ("<f8", 0, (5,), (2**62,)),
            ("<f8", 0, (2**62,), None),
            ("<f8", 0, (2**31, 2**31, 2**31), None),
            ("<f8", -8, (1,), None),
            ("<f8", 8, (2,), (-16,)),
            ("<f8", 72, (2,), None),
            ("<f8", 2**63 - 1, (1,), None),
            ("<f8", 0, (-1,), None),
            ("|O", 0, (1,), None),
        ],
    )
    def test_a_handle_that_somebody_made_up_is_refused(self, store, dtype, offset, shape, strides):
        ref = str(store.put("a", np.zeros(10)))
        with pytest.raises((forebay.TypeMismatch, TypeError)):
            attach(ref, dtype, offset, shape, strides)
        assert attach(ref, "<f8", 72, (1,), None)[0] == 0


class TestTravel:
    @pytest.mark.parametrize("names", [["b", "a"], ["a", "b"], ["b"]], ids="".join)
    def test_fields_in_another_order(self, store, names):
        table = np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")])
        store.put("t", table)
        forebay.install()
        view = store.get("t")[names]
        assert np.array_equal(pickle.loads(pickle.dumps(view)), table[names])
        store.put("again", table[names])
        assert store.get("again").dtype == table[names].dtype
        assert store.get("again").tolist() == table[names].tolist()

    def test_a_function_that_was_called_before_it_was_pickled_by_value(self, store):
        pytest.importorskip("cloudpickle")
        said = run(
            """
            import sys, subprocess, cloudpickle, pickle, numpy as np, forebay
            store = forebay.connect(sys.argv[1])
            @forebay.task(points=forebay.RRO)
            def work(points):
                import forebay._handles
                return forebay._handles._installed, len(pickle.dumps(points)) < 300
            ref = store.put("points", np.zeros(100_000))
            print(*work(ref))
            pickled = cloudpickle.dumps((work, ref))
            script = "import sys, pickle; f, x = pickle.load(sys.stdin.buffer); print(*f(x))"
            ran = subprocess.run([sys.executable, "-c", script], input=pickled, capture_output=True)
            print(ran.stdout.decode() or ran.stderr.decode())
            """,
            store.address,
        )
        assert said.split() == ["True"] * 4

    @pytest.mark.parametrize("package", ["cloudpickle", "dill"])
    def test_a_function_that_is_pickled_by_value_takes_little_along(self, store, package):
        pickler = pytest.importorskip(package)

        @forebay.task(points=RRO, returns=KEEP)
        def work(points):
            return points + 1

        pickled = pickler.dumps(work)
        assert len(pickled) < 5000
        assert pickle.loads(pickled)(forebay.share(np.ones(3))).sum() == 6

    def test_joblib_and_dask_above_get_handles_of_marked_arrays(self, store):
        joblib = pytest.importorskip("joblib")
        forebay.install()  # now that it is imported
        array = np.zeros(LARGE)
        flagged = forebay.task(points=RRO)(joblib.delayed(_look))
        assert joblib.Parallel(n_jobs=2)(flagged(points=array) for _ in range(2)) == [True, True]
        protocol = pytest.importorskip("distributed.protocol")
        forebay.install()

        @forebay.task(points=RRO)
        def frames(points):
            return sum(len(frame) for frame in protocol.serialize(points)[1])

        assert frames(array) < 300


def _look(points):
    return handle_of(points) is not None


def test_anonymous_memory_may_be_shared(store):
    memory = mmap.mmap(-1, 80)
    array = np.frombuffer(memory)
    assert forebay.share(array).sum() == 0
