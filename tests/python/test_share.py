# SPDX-License-Identifier: Apache-2.0
"""`share`: an array that behaves as an array where it is, and whose pickle is a handle."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import forebay
from forebay._forebay import handle_of
from support import Other, eventually, in_a_segment, pins, run

LARGE = 100_000
HANDLE = 300


@pytest.fixture(autouse=True)
def found(store, monkeypatch):
    """`store` is the one that `connect()` finds, and nothing is installed."""
    monkeypatch.setenv("FOREBAY_SOCKET", store.address)
    forebay.uninstall()


def segments(store) -> int:
    return len(list(store.list()))


KINDS = {
    "floats": lambda: np.arange(float(LARGE)),
    "Fortran order": lambda: np.asfortranarray(np.arange(float(LARGE)).reshape(100, -1)),
    "strided": lambda: np.arange(float(LARGE)).reshape(100, -1)[::2, ::-3],
    "broadcast": lambda: np.broadcast_to(np.arange(5.0), (100, 5)),
    "no dimensions": lambda: np.array(5.0),
    "no elements": lambda: np.zeros((3, 0)),
    "structured": lambda: np.array([(1, 2.5), (3, 4.5)] * 5000, [("x", "i2"), ("y", "f8")]),
    "dates": lambda: np.datetime64("2026-01-01") + np.arange(1000),
    "text": lambda: np.array(["ä", "abc"] * 1000),
    "big endian": lambda: np.arange(1000).astype(">i4"),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("protocol", range(6))
def test_it_is_the_array_and_its_pickle_is_the_handle(name, protocol):
    original = KINDS[name]()
    shared = forebay.share(original)
    assert isinstance(shared, forebay.SharedArray)
    assert isinstance(shared, np.ndarray)
    assert shared.dtype == original.dtype
    assert shared.shape == original.shape
    assert shared.tobytes() == original.tobytes()
    assert not shared.flags.writeable
    pickled = pickle.dumps(shared, protocol)
    assert len(pickled) < HANDLE or not original.size
    back = pickle.loads(pickled)
    assert type(back) is np.ndarray
    assert back.dtype == original.dtype
    assert back.shape == original.shape
    assert back.tobytes() == original.tobytes()
    if original.size:
        assert back.ctypes.data == shared.ctypes.data
        assert not back.flags.writeable


def test_no_install_is_needed_where_it_arrives():
    shared = forebay.share(np.arange(float(LARGE)))
    said = run(
        """
        import sys, pickle
        a = pickle.loads(bytes.fromhex(sys.argv[1]))
        from support import in_a_segment
        print(in_a_segment(a), type(a).__name__, a.sum() == sum(range(100000)))
        """,
        pickle.dumps(shared).hex(),
    )
    assert said == "True ndarray True\n"


class TestAsAnArray:
    def test_views_of_it_travel_as_handles_too(self):
        shared = forebay.share(np.arange(float(LARGE)).reshape(100, -1))
        for view in (
            shared[3:7],
            shared.T,
            shared[::-1, ::2],
            shared.reshape(-1)[5:],
            shared.view("i8"),
            np.broadcast_to(shared[0], (50, shared.shape[1]), subok=True),
            np.broadcast_to(shared[0], (50, shared.shape[1])),
        ):
            if not isinstance(view, forebay.SharedArray):
                continue
            pickled = pickle.dumps(view)
            assert len(pickled) < HANDLE
            back = pickle.loads(pickled)
            assert np.array_equal(back, view)
            assert back.ctypes.data == view.ctypes.data

    @pytest.mark.parametrize(
        "compute",
        [
            lambda a: a + 1,
            lambda a: -a,
            lambda a: a.sum(axis=0),
            lambda a: np.sqrt(a),
            lambda a: a @ a.T,
            lambda a: np.concatenate([a, a]),
            lambda a: a.mean(axis=1),
            lambda a: np.where(a > 5, a, 0),
            lambda a: np.add(a, a, dtype="f8"),
            lambda a: np.cumsum(a),
            lambda a: np.add.accumulate(a),
            lambda a: np.add.outer(a[0], a[0]),
            lambda a: a.clip(5, 50),
            lambda a: np.linalg.norm(a, axis=1),
            lambda a: a > 5,
        ],
    )
    def test_what_is_computed_from_it_is_an_ordinary_array(self, compute):
        plain = np.arange(100.0).reshape(10, 10)
        shared = forebay.share(plain)
        result = compute(shared)
        assert type(result) is np.ndarray
        assert result.flags.writeable
        assert np.array_equal(result, compute(plain))
        back = pickle.loads(pickle.dumps(result))
        assert np.array_equal(back, result)
        assert handle_of(back) is None

    @pytest.mark.parametrize(
        "copied",
        [
            lambda a: a.copy(),
            lambda a: a[[1, 5, 3]],
            lambda a: a[a > 50],
            lambda a: copy.copy(a),
            lambda a: copy.deepcopy(a),
            lambda a: np.array(a),
            lambda a: np.array(a, subok=True),
            lambda a: a.flatten(),
            lambda a: a.take([1, 2]),
            lambda a: a.repeat(2),
            lambda a: np.empty_like(a),
            lambda a: np.sort(a, axis=None),
            lambda a: a.astype("f4"),
        ],
    )
    def test_copies_are_ones_own_and_pickle_with_their_numbers(self, store, copied):
        shared = forebay.share(np.arange(100.0).reshape(10, 10))
        mine = copied(shared)
        mine[...] = 7
        assert shared[0, 1] == 1
        back = pickle.loads(pickle.dumps(mine))
        assert (back == 7).all()
        assert back.shape == mine.shape
        assert back.flags.writeable
        assert handle_of(back) is None

    @pytest.mark.parametrize(
        "make",
        [np.copy, np.zeros_like, np.sort, lambda a: a.copy(), lambda a: a.astype("f4")],
        ids=["np.copy", "zeros_like", "sort", "copy", "astype"],
    )
    def test_copies_are_ordinary_arrays(self, make):
        assert type(make(forebay.share(np.arange(10.0)))) is np.ndarray

    def test_reductions_and_elements_are_scalars(self):
        shared = forebay.share(np.arange(10.0))
        for scalar in shared.sum(), shared[3], shared.max(), np.mean(shared), shared @ shared:
            assert type(scalar) is np.float64
        assert type(shared.argmax()) is np.int64
        assert type((shared > 3).any()) is np.bool_
        assert [type(x) for x in shared[:2]] == [np.float64, np.float64]
        assert float(forebay.share(np.array(5.0))) == 5

    def test_writing_to_it_is_refused(self):
        shared = forebay.share(np.arange(10.0))
        with pytest.raises(ValueError, match="read-only"):
            shared[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            shared += 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            shared.flags.writeable = True

    def test_into_an_array_of_ones_own(self):
        shared = forebay.share(np.arange(10.0))
        out = np.zeros(10)
        result = np.add(shared, 1, out=out)
        assert result is out
        own = np.ones(10)
        own += shared
        assert type(own) is np.ndarray
        assert own[9] == 10

    def test_printing_comparing_and_iterating(self):
        shared = forebay.share(np.arange(3.0))
        assert str(shared) == "[0. 1. 2.]"
        assert "0., 1., 2." in repr(shared)
        assert shared.tolist() == [0, 1, 2]
        assert list(shared) == [0, 1, 2]
        assert (shared == np.arange(3.0)).all()
        with pytest.raises(TypeError):
            hash(shared)

    def test_plain_views_of_it_travel_as_handles_once_installed(self):
        shared = forebay.share(np.arange(float(LARGE)))
        plain = np.asarray(shared)
        forebay.install()
        try:
            assert len(pickle.dumps(plain)) < HANDLE
            assert len(pickle.dumps(np.broadcast_to(shared[:50], (50, 50)))) < HANDLE
        finally:
            forebay.uninstall()

    def test_twice_in_one_pickle_is_one_array(self):
        shared = forebay.share(np.arange(10.0))
        first, second = pickle.loads(pickle.dumps([shared, shared]))
        assert first is second

    def test_with_cloudpickle_and_dill(self):
        shared = forebay.share(np.arange(float(LARGE)))
        for name in "cloudpickle", "dill":
            module = pytest.importorskip(name)
            pickled = module.dumps([shared, shared[::2]])
            assert len(pickled) < 2 * HANDLE, name
            whole, part = module.loads(pickled)
            assert whole.ctypes.data == shared.ctypes.data
            assert np.array_equal(part, shared[::2])
            computed = module.loads(module.dumps(shared + 1))
            assert np.array_equal(computed, shared + 1)


class TestOnce:
    def test_an_array_is_copied_once_as_long_as_it_lives(self, store):
        original = np.arange(float(LARGE))
        first = forebay.share(original)
        second = forebay.share(original)
        assert first.ctypes.data == second.ctypes.data
        assert segments(store) == 1

    def test_equal_arrays_are_two(self, store):
        first, second = np.zeros(LARGE), np.zeros(LARGE)
        assert forebay.share(first).ctypes.data != forebay.share(second).ctypes.data
        assert segments(store) == 2

    def test_a_new_array_at_the_place_of_an_old_one_is_not_taken_for_it(self):
        for i in range(50):
            original = np.full(1000, float(i))
            assert forebay.share(original)[0] == i
            del original
            view = np.full(1000, float(-i))[:500]
            assert forebay.share(view)[0] == -i
            assert forebay.share(view).shape == (500,)

    def test_views_of_one_array_are_told_apart(self):
        original = np.arange(100.0).reshape(10, 10)
        assert np.array_equal(forebay.share(original[2:5]), original[2:5])
        assert np.array_equal(forebay.share(original[5:7]), original[5:7])
        assert np.array_equal(forebay.share(original.T), original.T)
        assert np.array_equal(forebay.share(original), original)

    def test_an_array_whose_shape_was_changed_in_place(self):
        original = np.arange(12.0)
        forebay.share(original)
        again = original.reshape(3, 4)
        assert forebay.share(again).shape == (3, 4)

    def test_what_lies_in_a_segment_already_is_not_copied(self, store):
        store.put("a", np.arange(float(LARGE)))
        view = store.get("a")[10:]
        shared = forebay.share(view)
        assert isinstance(shared, forebay.SharedArray)
        assert shared.ctypes.data == view.ctypes.data
        assert forebay.share(shared).ctypes.data == shared.ctypes.data
        assert segments(store) == 1

    def test_threads_share_one_copy(self, store):
        original = np.arange(float(LARGE))
        addresses: list[int] = []
        keep = []

        def body():
            shared = forebay.share(original)
            keep.append(shared)
            addresses.append(shared.ctypes.data)

        threads = [threading.Thread(target=body) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(addresses) == 8
        assert len(set(addresses)) == 1
        assert segments(store) == 1

    def test_it_stays_while_it_or_what_was_made_of_its_handle_lives(self, daemon):
        with daemon.connect() as store:
            shared = forebay.share(np.zeros(LARGE), store=store)
            [info] = store.list()
            back = pickle.loads(pickle.dumps(shared))
            del shared
            gc.collect()
            for _ in range(3):
                store.put("large", np.ones(14_000_000), evictable=True, keep=1)
            assert back.sum() == 0
            assert store.contains(info.id)
            del back
            gc.collect()
            assert eventually(lambda: pins(store, info.id) == 0)
            store.put("huge", np.ones(16_000_000), evictable=True)
            assert not store.contains(info.id)

    def test_what_was_removed_is_put_anew(self, store):
        original = np.arange(float(LARGE))
        forebay.share(original)
        for info in list(store.list()):
            store.remove(info.id)
        again = forebay.share(original)
        assert pickle.loads(pickle.dumps(again)).sum() == original.sum()


class TestInObjects:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda a: a,
            lambda a: [a],
            lambda a: [a[::2], 5],
            lambda a: {"x": a, "y": a[5:]},
            lambda a: {"x": a, "n": 5},
            lambda a: np.array([a, None], object),
        ],
        ids=["alone", "list", "slice", "group", "dict", "array of objects"],
    )
    def test_what_is_put_is_the_numbers_and_not_the_handle(self, store, wrap):
        shared = forebay.share(np.arange(float(LARGE)))
        store.put("a", wrap(shared))
        store.put_many({"b": wrap(shared)})
        [info] = store.list("scope/")
        store.remove(info.id)
        for name in "ab":
            value, expected = store.get(name), wrap(np.arange(float(LARGE)))
            if isinstance(expected, dict):
                value, expected = value["x"], expected["x"]
            elif not isinstance(value, np.ndarray) or value.dtype == object:
                value, expected = value[0], expected[0]
            assert type(value) is np.ndarray
            assert np.array_equal(value, expected)
            assert in_a_segment(value)

    def test_frames_of_it_are_stored_and_pickled_with_their_numbers(self, store):
        pd = pytest.importorskip("pandas")
        shared = forebay.share(np.arange(float(LARGE)).reshape(-1, 2))
        frame = pd.DataFrame(shared, columns=["x", "y"], copy=False)
        back = pickle.loads(pickle.dumps(frame))
        pd.testing.assert_frame_equal(back, frame)
        store.put("f", frame)
        [info] = store.list("scope/")
        store.remove(info.id)
        assert store.get("f")["y"].sum() == frame["y"].sum()


class TestNamed:
    def test_it_is_an_ordinary_segment(self, store):
        original = np.arange(float(LARGE))
        shared = forebay.share(original, "points", 3)
        assert in_a_segment(shared)
        assert np.array_equal(store.get("points", version=3), original)
        assert not store.stat("points").info.evictable
        assert len(pickle.dumps(shared)) < HANDLE

    def test_a_version_with_equal_bytes_is_fine_and_other_bytes_are_not(self, store):
        forebay.share(np.arange(1000.0), "points", 3)
        again = forebay.share(np.arange(1000.0), "points", 3)
        assert again.sum() == np.arange(1000.0).sum()
        with pytest.raises(forebay.Exists):
            forebay.share(np.zeros(1000), "points", 3)

    def test_without_a_version_it_is_the_next(self, store):
        forebay.share(np.zeros(1000), "points")
        forebay.share(np.ones(1000), "points")
        assert store.get("points", version=1).sum() == 0
        assert store.get("points", version=2).sum() == 1000

    def test_one_that_was_shared_without_a_name_can_get_one(self, store):
        original = np.arange(1000.0)
        forebay.share(original)
        forebay.share(original, "points", 1)
        assert np.array_equal(store.get("points"), original)

    def test_it_outlives_its_process(self, store):
        run(
            """
            import numpy as np, forebay
            forebay.share(np.arange(1000.0), "points", 3)
            forebay.share(np.arange(1000.0))
            """
        )
        assert store.get("points", version=3).sum() == np.arange(1000.0).sum()
        assert eventually(lambda: segments(store) == 1)

    def test_bad_names(self):
        with pytest.raises(forebay.BadId):
            forebay.share(np.zeros(3), "")
        with pytest.raises((forebay.BadArgument, OverflowError)):
            forebay.share(np.zeros(3), "a", 0)


class TestWhatCannotBeShared:
    @pytest.mark.parametrize(
        "value",
        [[1, 2], 5, None, "text", {"a": np.zeros(3)}, np.array([1, None], object)],
        ids=["list", "number", "none", "text", "dict", "objects"],
    )
    def test_what_is_no_array_of_plain_elements(self, store, value):
        with pytest.raises(forebay.Unstorable, match=type(value).__name__):
            forebay.share(value)
        assert segments(store) == 0

    def test_a_masked_array_does_not_lose_its_mask(self):
        masked = np.ma.masked_less(np.arange(10.0), 5)
        try:
            shared = forebay.share(masked)
        except forebay.Unstorable as error:
            assert "MaskedArray" in str(error)  # noqa: PT017
        else:
            assert shared.sum() == masked.sum()

    def test_one_that_does_not_fit(self, store):
        with pytest.raises(forebay.TooLarge):
            forebay.share(np.broadcast_to(0.0, 1 << 28))
        assert segments(store) == 0

    def test_a_full_store_says_who_holds_what(self, store):
        kept = []
        with pytest.raises(forebay.StoreFull, match=str(os.getpid())):
            for i in range(10):
                kept.append(forebay.share(np.full(3_000_000, float(i))))
        del kept


class TestWhere:
    def test_in_a_store_of_ones_choice(self, store, daemon):
        with daemon.connect() as second:
            shared = forebay.share(np.arange(1000.0), store=second)
            assert segments(second) == 1
            assert segments(store) == 0
            back = pickle.loads(pickle.dumps(shared))
            assert back.sum() == shared.sum()
            both = np.arange(10.0)
            in_first, in_second = forebay.share(both), forebay.share(both, store=second)
            assert segments(store) == 1
            assert segments(second) == 2
            assert in_first.ctypes.data != in_second.ctypes.data
            del shared, back, in_first, in_second

    def test_one_of_another_store_is_copied_or_refused_but_not_mixed_up(self, store, daemon):
        with daemon.connect() as second:
            original = forebay.share(np.arange(1000.0), store=second)
            again = forebay.share(original, store=store)
            assert np.array_equal(again, original)
            said = run(
                "import sys, pickle; print(pickle.loads(bytes.fromhex(sys.argv[1])).sum())",
                pickle.dumps(again).hex(),
                FOREBAY_SOCKET=store.address,
            )
            assert float(said) == original.sum()
            del original, again


def total_of(pipe, array):
    pipe.send((in_a_segment(array), float(array.sum())))


class TestProcesses:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_as_an_argument(self, method):
        shared = forebay.share(np.arange(float(LARGE)))
        context = multiprocessing.get_context(method)
        mine, yours = context.Pipe()
        child = context.Process(target=total_of, args=(yours, shared))
        child.start()
        assert mine.poll(60)
        assert mine.recv() == (True, float(shared.sum()))
        child.join(30)
        assert child.exitcode == 0

    def test_the_end_of_a_forked_child_takes_nothing_from_its_parent(self, store):
        shared = forebay.share(np.arange(float(LARGE)))
        pickled = pickle.dumps(shared)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=share_and_end)
        child.start()
        child.join(30)
        assert child.exitcode == 0
        del shared
        gc.collect()
        assert pickle.loads(pickled).sum() == np.arange(float(LARGE)).sum()
        assert eventually(lambda: segments(store) == 1)

    def test_what_a_killed_process_shared_goes_with_it(self, store):
        with Other(
            store,
            """
            shared = forebay.share(np.arange(100000.0), store=store)
            say("shared")
            hear()
            """,
        ) as other:
            assert other.hear() == "shared"
            assert segments(store) == 1
            other.kill()
            assert eventually(lambda: segments(store) == 0)


def share_and_end():
    forebay.share(np.ones(LARGE))


def test_a_forked_child_shares_on_whatever_the_parent_was_doing(daemon):
    """Other threads of the parent share all the time; their locks are not the child's."""
    script = """
import os, sys, threading, numpy as np, forebay
from forebay import _scope, _shared, _stores
array = np.arange(3.0)
forebay.share(array)
locks = [_stores._lock, _scope._lock]
locks += [mark.lock for mark in _shared._marks.of(array).values()]
held, done = threading.Event(), threading.Event()
def hold():
    for lock in locks: lock.acquire()
    held.set(); done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    shared = forebay.share(np.arange(5.0))
    os._exit(0 if shared.sum() == 10 and forebay.share(array).sum() == 3 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
done.set()
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FOREBAY_SOCKET": daemon.socket},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "0\n", ran.stderr
