# SPDX-License-Identifier: Apache-2.0
"""Arrays over segments that travel as handles, after `forebay.install()`."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import pickle
import threading

import numpy as np
import pytest

import forebay
from forebay._forebay import handle_of
from support import Other, in_a_segment, pins, run

LARGE = 100_000
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
# A handle is "about 100 bytes": refs and strides included, less than this.
HANDLE = 300


@pytest.fixture(autouse=True)
def installed(store, monkeypatch):
    """Installed for one test, with `store` the one that `connect()` finds."""
    monkeypatch.setenv("FOREBAY_SOCKET", store.address)
    forebay.install()
    yield
    forebay.uninstall()


@pytest.fixture
def view(store):
    store.put("a", np.arange(float(LARGE)).reshape(100, -1))
    return store.get("a")


def same_memory(one, other) -> bool:
    """Whether they are the same bytes of a segment, maybe through two connections."""
    return in_a_segment(one) and handle_of(one) == handle_of(other)


def fill(store):
    """Put so much that nothing stays that may be evicted."""
    for size in 14_000_000, 3_000_000, 3_000_000:
        store.put("filler", np.zeros(size), evictable=True, keep=1)
    for i in range(200):
        store.put(f"filler {i}", np.zeros(LARGE), evictable=True)


VIEWS = {
    "whole": lambda a: a,
    "slice": lambda a: a[3:7, 5:],
    "one element": lambda a: a[3:4, 5:6],
    "no dimensions": lambda a: a[3, 5, ...],
    "no elements": lambda a: a[3:3],
    "row": lambda a: a[-1],
    "step": lambda a: a[::3, ::7],
    "backwards": lambda a: a[::-1, ::-2],
    "transposed": lambda a: a.T,
    "diagonal": lambda a: a.diagonal(),
    "reshaped": lambda a: a.reshape(10, 10, -1),
    "broadcast": lambda a: np.broadcast_to(a[5], (1000, a.shape[1])),
    "broadcast element": lambda a: np.broadcast_to(a[5, 5, ...], (1000, 1000)),
    "new axis": lambda a: a[:, None, :, None],
    "other elements": lambda a: a.view("u1")[:, 3:17],
    "windows": lambda a: np.lib.stride_tricks.sliding_window_view(a[0], 50),
    "as strided": lambda a: np.lib.stride_tricks.as_strided(a[5:], (10, 10), (-800, 16)),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_travels_as_a_handle(view, name, protocol):
    original = VIEWS[name](view)
    pickled = pickle.dumps(original, protocol)
    assert name == "no elements" or len(pickled) < HANDLE
    back = pickle.loads(pickled)
    assert type(back) is np.ndarray
    assert back.dtype == original.dtype
    assert back.shape == original.shape
    assert np.array_equal(back, original)
    if original.size:
        assert same_memory(back, original)
        assert not back.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            back.flags.writeable = True


COMPUTED = {
    "sum": lambda a: a + 1,
    "ufunc": np.sqrt,
    "reduced": lambda a: a.sum(axis=0),
    "copy": lambda a: a[3:7].copy(),
    "fancy": lambda a: a[[1, 5, 3]],
    "mask": lambda a: a[a > 50],
    "cast": lambda a: a.astype("f4"),
    "contiguous": lambda a: np.ascontiguousarray(a[:, ::2]),
    "product": lambda a: a.T @ a[:, :5],
    "concatenated": lambda a: np.concatenate([a, a]),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_computed_is_an_ordinary_array(store, view, name, protocol):
    computed = COMPUTED[name](view)
    assert type(computed) is np.ndarray
    assert computed.flags.writeable
    assert handle_of(computed) is None
    pickled = pickle.dumps(computed, protocol)
    assert len(pickled) > computed.nbytes
    expected = computed.copy()
    del view
    gc.collect()
    store.remove("a")
    back = pickle.loads(pickled)
    assert np.array_equal(back, expected)
    assert back.flags.writeable


ELEMENTS = {
    "structured": np.array([(1, 2.5), (3, 4.5)] * 5000, [("x", "i2"), ("y", "f8")]),
    "aligned": np.zeros(5000, np.dtype("i1,f8,U3", align=True)),
    "dates": np.datetime64("2026-01-01", "s") + np.arange(5000),
    "text": np.array(["ä", "abc"] * 5000),
    "big endian": np.arange(5000).astype(">i4"),
    "bool": np.zeros(5000, "?"),
    "half": np.zeros(5000, "f2"),
    "void": np.zeros(5000, "V7"),
}


@pytest.mark.parametrize("name", ELEMENTS)
def test_of_any_element_type(store, name):
    store.put("a", ELEMENTS[name])
    view = store.get("a")[10:]
    back = pickle.loads(pickle.dumps(view))
    assert back.dtype == view.dtype
    assert back.tobytes() == view.tobytes()
    assert same_memory(back, view)


def test_fields_and_fortran_order(store):
    store.put("f", np.asfortranarray(np.arange(6000.0).reshape(20, 30, 10)))
    view = store.get("f")
    back = pickle.loads(pickle.dumps(view))
    assert back.flags.f_contiguous
    assert same_memory(back, view)
    assert np.array_equal(back, view)
    store.put("s", ELEMENTS["structured"])
    field = store.get("s")["y"]
    back = pickle.loads(pickle.dumps(field))
    assert same_memory(back, field)
    assert np.array_equal(back, field)


class TestOrdinaryArrays:
    ORDINARY = {
        "plain": np.arange(1000.0),
        "Fortran order": np.asfortranarray(np.ones((3, 4))),
        "strided": np.arange(1000.0)[::2],
        "no dimensions": np.array(5),
        "structured": ELEMENTS["structured"],
        "objects": np.array([1, "a", None], object),
        "text": np.array(["a", "b"]),
    }

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("name", ORDINARY)
    def test_they_pickle_as_ever(self, name, protocol):
        original = self.ORDINARY[name]
        with_it = pickle.dumps([original, 1], protocol)
        forebay.uninstall()
        without = pickle.dumps([original, 1], protocol)
        back = pickle.loads(with_it)[0]
        assert back.dtype == original.dtype
        assert back.tolist() == original.tolist()
        assert back.flags.f_contiguous == pickle.loads(without)[0].flags.f_contiguous
        assert back.flags.writeable
        assert len(with_it) <= len(without) + 64

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_who_unpickles_them_needs_nothing_of_forebay(self, view, protocol):
        for original in self.ORDINARY.values():
            assert b"forebay" not in pickle.dumps([original, view + 1], protocol)

    def test_they_are_not_copied_more_often_than_ever(self):
        import tracemalloc

        original = np.zeros(1_000_000)

        def peak() -> int:
            tracemalloc.start()
            pickle.dumps(original, 5)
            try:
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        with_it = peak()
        forebay.uninstall()
        assert with_it < peak() + 1_000_000

    def test_their_buffers_go_out_of_band_as_ever(self):
        original = np.arange(1000.0)
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps([original], 5, buffer_callback=buffers.append)
        assert len(pickled) < 300
        assert len(buffers) == 1
        [back] = pickle.loads(pickled, buffers=buffers)
        assert np.shares_memory(back, original)

    def test_views_go_without_buffers(self, view):
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps([view, view[1:]], 5, buffer_callback=buffers.append)
        assert not buffers
        assert len(pickled) < 2 * HANDLE

    @pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_subclasses_keep_their_class(self, view, tmp_path, protocol):
        for original in (
            np.ma.masked_less(np.arange(10.0), 5),
            np.ma.masked_less(view, 5),
            np.matrix(view),
            view.view(np.matrix),
            ELEMENTS["structured"].view(np.recarray),
        ):
            back = pickle.loads(pickle.dumps(original, protocol))
            assert type(back) is type(original)
            assert back.dtype == original.dtype
            assert back.tolist() == original.tolist()

    def test_copies_of_views_are_ones_own(self, view):
        for make in copy.copy, copy.deepcopy, np.copy:
            mine = make(view)
            mine[0, 0] = -1
            assert view[0, 0] == 0
        [mine] = copy.deepcopy([view])
        mine[0, 0] = -1

    def test_files_of_numpy_hold_the_numbers(self, store, view):
        file = io.BytesIO()
        np.savez(file, view=view, part=view[::2].T)
        assert len(file.getvalue()) > view.nbytes
        file.seek(0)
        with np.load(file) as loaded:
            assert np.array_equal(loaded["view"], view)

    def test_writable_arrays_of_the_store_are_pickled_with_their_numbers(self, store, view):
        mine = store.get("a", writable="copy")
        mine[0, 0] = -1
        back = pickle.loads(pickle.dumps(mine))
        assert back[0, 0] == -1
        assert back.flags.writeable
        with store.create("b", LARGE) as drafted:
            drafted[:] = 3
            assert pickle.loads(pickle.dumps(drafted)).sum() == 3 * LARGE
        with store.update("b") as updated:
            updated[0] = 0
            assert pickle.loads(pickle.dumps(updated)).sum() == 3 * (LARGE - 1)


class TestMemo:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_one_array_that_occurs_twice_is_one_array_again(self, view, protocol):
        ordinary = np.arange(1000.0)
        first, second, third, fourth = pickle.loads(
            pickle.dumps([view, view, ordinary, ordinary], protocol)
        )
        assert first is second
        assert third is fourth

    def test_many_views_of_a_segment_are_one_pin(self, store, view):
        back = pickle.loads(pickle.dumps([view, view[1:], view.T]))
        assert len({a.ctypes.data for a in back}) == 2
        assert pins(store, "a") <= 1 + len(back)
        del back
        assert pins(store, "a") == 1

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_arrays_of_objects_that_contain_themselves(self, view, protocol):
        original = np.empty(3, object)
        original[0] = original
        original[1] = [original]
        original[2] = view
        pickled = pickle.dumps(original, protocol)
        assert len(pickled) < 1000
        back = pickle.loads(pickled)
        assert back[0] is back
        assert back[1][0] is back
        assert same_memory(back[2], view)


class TestInstall:
    def test_without_it_views_are_pickled_in_full_and_with_it_as_handles(self, view):
        forebay.uninstall()
        full = pickle.dumps(view[1:])
        assert len(full) > view[1:].nbytes
        assert pickle.loads(full).flags.writeable
        forebay.install()
        assert len(pickle.dumps(view[1:])) < HANDLE

    def test_twice_is_as_once(self, view):
        forebay.install()
        forebay.install()
        assert len(pickle.dumps(view)) < HANDLE
        forebay.uninstall()
        assert len(pickle.dumps(view)) > view.nbytes
        forebay.uninstall()
        assert len(pickle.dumps(view)) > view.nbytes

    def test_importing_forebay_installs_nothing(self, store):
        store.put("a", np.zeros(LARGE))
        said = run(
            """
            import sys, pickle, copyreg, forebay
            a = forebay.connect(sys.argv[1]).get("a")
            print(len(pickle.dumps(a)) > a.nbytes)
            """,
            store.address,
        )
        assert said == "True\n"

    def test_handles_are_read_without_it(self, store, view):
        pickled = pickle.dumps(view.T)
        forebay.uninstall()
        assert same_memory(pickle.loads(pickled), view.T)
        with Other(
            store,
            """
            import pickle
            from support import in_a_segment
            a = pickle.loads(bytes.fromhex(hear()))
            say(in_a_segment(a), a.flags.writeable, a.shape, a.sum())
            """,
        ) as other:
            other.tell(pickled.hex())
            assert other.hear() == f"True False {view.T.shape} {view.sum()}"

    def test_a_handle_holds_no_pin(self, store):
        store.put("p", np.zeros(LARGE))
        pickled = pickle.dumps(store.get("p"))
        assert pins(store, "p") == 0
        back = pickle.loads(pickled)
        assert pins(store, "p") == 1
        del back
        assert pins(store, "p") == 0

    def test_a_held_one_survives_on_its_way(self, store):
        ref = store.put("h", np.zeros(LARGE), evictable=True)
        pickled = pickle.dumps(store.get(ref))
        store.hold(ref)
        fill(store)
        assert pickle.loads(pickled).sum() == 0
        store.unhold(ref)


class TestPicklers:
    def test_the_one_in_python(self, view):
        file = io.BytesIO()
        pickle._Pickler(file).dump([view, view[::2], np.arange(3)])
        assert len(file.getvalue()) < 3 * HANDLE
        back = pickle.loads(file.getvalue())
        assert same_memory(back[1], view[::2])
        assert back[2].tolist() == [0, 1, 2]

    def test_cloudpickle(self, view):
        cloudpickle = pytest.importorskip("cloudpickle")
        pickled = cloudpickle.dumps(lambda: view[1:].sum())
        assert len(pickled) < 2000
        assert pickle.loads(pickled)() == view[1:].sum()
        for original in view.T, view[::-1], np.broadcast_to(view[3], (50, view.shape[1])):
            assert len(cloudpickle.dumps(original)) < HANDLE
            assert np.array_equal(cloudpickle.loads(cloudpickle.dumps(original)), original)
        computed = cloudpickle.loads(cloudpickle.dumps(view + 1))
        assert np.array_equal(computed, view + 1)
        loop = np.empty(1, object)
        loop[0] = loop
        back = cloudpickle.loads(cloudpickle.dumps(loop))
        assert back[0] is back

    @pytest.mark.parametrize("before", [True, False], ids=["imported before", "imported after"])
    def test_dill(self, store, view, before):
        pytest.importorskip("dill")
        said = run(
            f"""
            import sys, numpy as np, forebay
            if {before}: import dill
            forebay.install()
            import dill
            if not {before}: forebay.install()  # once more: now there is dill to tell
            view = forebay.connect(sys.argv[1]).get("a")
            for a in view, view[3:].T, view[::-1], np.broadcast_to(view[3], (50, view.shape[1])):
                pickled = dill.dumps(a)
                print(len(pickled) < {HANDLE}, np.array_equal(dill.loads(pickled), a))
            print(dill.loads(dill.dumps(view + 1)).sum() == (view + 1).sum())
            print(dill.loads(dill.dumps(np.arange(3))).tolist())
            print(dill.loads(dill.dumps(lambda: view[1:].sum()))() == view[1:].sum())
            """,
            store.address,
        )
        assert said == "True True\n" * 4 + "True\n[0, 1, 2]\nTrue\n"

    def test_one_of_multiprocessing(self, view):
        from multiprocessing.reduction import ForkingPickler

        pickled = ForkingPickler.dumps([view.T])
        assert len(pickled) < HANDLE
        assert same_memory(ForkingPickler.loads(pickled)[0], view.T)
        computed = ForkingPickler.dumps(view + 1)
        assert len(computed) > view.nbytes

    def test_a_pickler_with_a_dispatch_table_of_its_own(self, view):
        # Such a table replaces that of copyreg: correct, at least.
        file = io.BytesIO()
        pickler = pickle.Pickler(file)
        pickler.dispatch_table = {complex: lambda c: (complex, (c.real, c.imag))}
        pickler.dump([view[1:], 1j])
        back = pickle.loads(file.getvalue())
        assert np.array_equal(back[0], view[1:])


def look_at(array):
    """For workers: where it is, and a view of it to send back."""
    return in_a_segment(array), array.flags.writeable, float(array.sum()), array[::2]


class TestMultiprocessing:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_arguments_travel_as_handles(self, store, view, method):
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            for original in view, view[3:7].T, np.broadcast_to(view[0], (100, view.shape[1])):
                shared, writeable, total, back = pool.apply_async(look_at, (original,)).get(60)
                assert shared
                assert not writeable
                assert total == original.sum()
                assert np.array_equal(back, original[::2])
            pool.close()
            pool.join()

    def test_through_pipes_and_queues(self, view):
        context = multiprocessing.get_context("fork")
        mine, yours = context.Pipe()
        queue = context.Queue()
        child = context.Process(target=answer, args=(yours, queue))
        child.start()
        mine.send(view.T)
        assert queue.get(timeout=30) == (True, float(view.sum()))
        child.join(30)
        queue.close()
        queue.join_thread()


def answer(pipe, queue):
    array = pipe.recv()
    queue.put((in_a_segment(array), float(array.sum())))


class TestWhatIsNotThereAnyMore:
    def test_removed(self, store, view):
        pickled = pickle.dumps(view)
        store.remove("a")
        with pytest.raises(forebay.StaleRef, match="a"):
            pickle.loads(pickled)

    def test_removed_and_put_anew(self, store, view):
        pickled = pickle.dumps(view[1:])
        store.remove("a")
        store.put("a", np.zeros(LARGE))
        with pytest.raises(forebay.StaleRef):
            pickle.loads(pickled)

    def test_a_newer_version_is_not_what_a_handle_names(self, store, view):
        pickled = pickle.dumps(view)
        store.put("a", np.zeros(LARGE))
        assert pickle.loads(pickled).sum() == view.sum()

    def test_evicted(self, store):
        store.put("e", np.zeros(LARGE), evictable=True)
        pickled = pickle.dumps(store.get("e"))
        fill(store)
        with pytest.raises(forebay.Evicted, match="e"):
            pickle.loads(pickled)

    def test_superseded(self, store):
        store.put("u", np.zeros(LARGE))
        pickled = pickle.dumps(store.get("u"))
        with store.update("u", take=True) as array:
            array += 1
        del array
        gc.collect()
        with pytest.raises(forebay.Superseded):
            pickle.loads(pickled)

    def test_the_daemon_was_started_anew(self, daemon):
        store = daemon.connect()
        store.put("a", np.zeros(LARGE))
        pickled = pickle.dumps(store.get("a")[1:])
        store.close()
        daemon.end()
        daemon.log = open(daemon.log.name, "ab")
        daemon.start()
        said = run(
            """
            import sys, pickle, forebay
            try: pickle.loads(bytes.fromhex(sys.argv[1]))
            except forebay.WrongStore as error: print("wrong store")
            """,
            pickled.hex(),
            FOREBAY_SOCKET=daemon.socket,
        )
        assert said == "wrong store\n"

    def test_no_daemon(self, store, view, tmp_path):
        pickled = pickle.dumps(view)
        said = run(
            """
            import sys, pickle, forebay
            try: pickle.loads(bytes.fromhex(sys.argv[1]))
            except forebay.ForebayError as error: print(type(error).__name__, error)
            """,
            pickled.hex(),
            FOREBAY_SOCKET=str(tmp_path / "nobody.sock"),
        )
        assert said.split()[0] in ("Disconnected", "WrongStore")
        assert "nobody.sock" in said

    def test_a_killed_daemon_that_comes_back_serves_old_handles(self, daemon):
        store = daemon.connect()
        store.put("a", np.arange(float(LARGE)))
        pickled = pickle.dumps(store.get("a")[1:])
        daemon.kill()
        daemon.start()
        said = run(
            "import sys, pickle; print(pickle.loads(bytes.fromhex(sys.argv[1])).sum())",
            pickled.hex(),
            FOREBAY_SOCKET=daemon.socket,
        )
        assert float(said) == np.arange(float(LARGE)).sum()

    def test_a_closed_store_still_gives_handles_of_its_arrays(self, shared_daemon, store, view):
        mine = shared_daemon.connect()
        other = mine.get("a")
        mine.close()
        pickled = pickle.dumps(other[1:])
        assert len(pickled) < HANDLE
        back = pickle.loads(pickled)
        assert in_a_segment(back)
        assert np.array_equal(back, other[1:])


class TestSeveralStores:
    def test_each_handle_finds_its_own(self, store, view, daemon):
        with daemon.connect() as second:
            second.put("a", np.full(LARGE, 7.0))
            other = second.get("a")
            first_back, second_back = pickle.loads(pickle.dumps([view, other[1:]]))
            assert same_memory(first_back, view)
            assert same_memory(second_back, other[1:])
            del first_back, second_back, other

    def test_another_process_finds_that_it_is_connected_to(self, store, daemon):
        with daemon.connect() as second:
            second.put("a", np.full(LARGE, 7.0))
            pickled = pickle.dumps(second.get("a"))
            with Other(
                second,
                """
                import pickle
                say(pickle.loads(bytes.fromhex(hear())).sum())
                """,
            ) as other:
                other.tell(pickled.hex())
                assert other.hear() == str(7.0 * LARGE)


class TestOfObjects:
    def test_arrays_in_objects_and_groups(self, store):
        store.put("o", [np.arange(float(LARGE)), {"x": np.ones(LARGE)}])
        store.put("g", {"x": np.zeros(10), "y": np.full(LARGE, 5.0)})
        for original in store.get("o")[0], store.get("o")[1]["x"][::2], store.get("g")["y"][1:]:
            pickled = pickle.dumps(original)
            assert len(pickled) < HANDLE
            back = pickle.loads(pickled)
            assert same_memory(back, original)
            assert np.array_equal(back, original)
            assert not back.flags.writeable

    def test_views_of_bytes(self, store):
        store.put("b", b"hello" * 1000)
        back = pickle.loads(pickle.dumps(store.get("b")[5:]))
        assert back.tobytes() == b"hello" * 999

    def test_what_holds_arrays_holds_handles(self, store):
        pytest.importorskip("scipy")
        import scipy.sparse

        store.put("m", scipy.sparse.random(1000, 1000, 0.1, format="csr", random_state=1))
        original = store.get("m")
        pickled = pickle.dumps(original)
        assert len(pickled) < 2000
        assert (pickle.loads(pickled) != original).nnz == 0

    def test_frames_and_tables_survive(self, store):
        pd = pytest.importorskip("pandas")
        store.put("f", pd.DataFrame({"x": np.arange(float(LARGE)), "s": ["a"] * LARGE}))
        frame = store.get("f")
        pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(frame)), frame)

    def test_put_of_a_view_is_a_copy_and_not_a_handle(self, store, view):
        store.put("again", [view, 1])
        assert store.stat("again").info.size > view.nbytes
        expected = view.copy()
        store.remove("a")
        assert np.array_equal(store.get("again")[0], expected)


class TestThreads:
    def test_many_pickle_and_unpickle_at_once(self, store, view):
        def body():
            for i in range(200):
                back = pickle.loads(pickle.dumps(view[i % 50 :]))
                if handle_of(back) != handle_of(view[i % 50 :]):
                    wrong.append(i)

        wrong: list[int] = []
        threads = [threading.Thread(target=body) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not wrong
        assert pins(store, "a") == 1

    def test_the_first_handles_of_a_process_at_once(self, store, view):
        said = run(
            """
            import sys, pickle, threading
            pickled = bytes.fromhex(sys.argv[1])
            sums = []
            threads = [
                threading.Thread(target=lambda: sums.append(pickle.loads(pickled).sum()))
                for _ in range(8)
            ]
            for t in threads: t.start()
            for t in threads: t.join()
            print(len(sums), set(map(float, sums)))
            """,
            pickle.dumps(view).hex(),
        )
        assert said == f"8 {{{float(view.sum())}}}\n"
