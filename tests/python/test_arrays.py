# SPDX-License-Identifier: Apache-2.0
"""What goes in comes out: dtypes, shapes, orders; read-only and without a copy."""

from __future__ import annotations

import gc
import pickle
import sys
import weakref

import numpy as np
import pytest

import forebay

STRUCTURED = np.dtype([("x", "f8"), ("tag", "S3"), ("grid", "i4", (2, 2))])
PADDED = np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [3, 16], "itemsize": 32})

ARRAYS = {
    "bool": np.array([True, False]),
    **{
        f"dtype {code}": np.arange(7).astype(code)
        for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")
    },
    "long double": np.arange(5, dtype=np.longdouble),
    "big-endian": np.arange(5, dtype=">f8"),
    "structured": np.array([(1.5, b"abc", [[1, 2], [3, 4]])] * 3, STRUCTURED),
    "structured with gaps": np.zeros(4, PADDED),
    "aligned structured": np.zeros(3, np.dtype([("a", "u1"), ("b", "f8")], align=True)),
    "datetime": np.array(["2024-02-29", "NaT"], "M8[ns]"),
    "timedelta": np.array([1, -1], "m8[s]"),
    "generic datetime": np.array(["NaT"], "M8"),
    "text": np.array(["ä", "longer"]),
    "bytes": np.array([b"x", b"yz"]),
    "void": np.zeros(3, "V5"),
    "0-d": np.array(2.5),
    "0-d structured": np.zeros((), STRUCTURED),
    "empty": np.zeros(0),
    "empty 2-d": np.zeros((3, 0, 2)),
    "no columns": np.zeros((0, 5), "i4"),
    "3-d": np.arange(24).reshape(2, 3, 4),
    "6-d": np.arange(64).reshape(2, 2, 2, 2, 2, 2),
    "32-d": np.ones((1,) * 32),
    "F-order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "3-d F-order": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "both orders": np.ones((1, 5)),
    "strided": np.arange(100)[::7],
    "reversed": np.arange(10.0)[::-1],
    "transposed 3-d": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "broadcast": np.broadcast_to(np.arange(3.0), (4, 3)),
    "large": np.random.default_rng(0).random((300, 500)),
    "large strided": np.arange(200_000.0)[::2],
    "large F-order": np.asfortranarray(np.random.default_rng(1).random((200, 300))),
    "large structured": np.zeros(5000, STRUCTURED),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_equal_with_its_dtype_shape_and_order(store, name):
    array = ARRAYS[name]
    ref = store.put("a", array)
    for found in (store.get("a"), store.get(ref), store.get("a", 1)):
        assert type(found) is np.ndarray
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        # Comparing bytes, so that NaT and NaN count as themselves.
        assert found.tobytes() == array.tobytes()
        if array.flags.c_contiguous or array.flags.f_contiguous:
            assert found.flags.c_contiguous == array.flags.c_contiguous
            assert found.flags.f_contiguous == array.flags.f_contiguous
        else:
            assert found.flags.c_contiguous
        assert found.ctypes.data % 64 == 0 or found.size == 0
    assert ref.dtype is not None
    assert ref.shape == array.shape


@pytest.mark.parametrize("buffer", [b"hello", bytearray(b"hello"), memoryview(b"hello")])
def test_bytes_like_objects_are_arrays_of_uint8(store, buffer):
    store.put("b", buffer)
    found = store.get("b")
    assert found.dtype == np.uint8
    assert bytes(found) == b"hello"


def test_a_memmap_is_stored_as_its_elements(store, tmp_path):
    mapped = np.memmap(tmp_path / "m", "f8", "w+", shape=(4,))
    mapped[:] = 3
    store.put("m", mapped)
    assert type(store.get("m")) is np.ndarray
    assert store.get("m").sum() == 12


class TestReadOnly:
    def test_writing_is_a_numpy_error(self, store):
        store.put("a", np.zeros(3))
        array = store.get("a")
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            array += 1

    @pytest.mark.parametrize("name", ["0-d", "F-order", "3-d", "structured", "large"])
    def test_nobody_can_make_it_writable(self, store, name):
        store.put("a", ARRAYS[name])
        array = store.get("a")
        for view in (array, array[...], array[np.newaxis], array.T, array.view()):
            with pytest.raises(ValueError, match="WRITEABLE"):
                view.flags.writeable = True
            with pytest.raises(ValueError, match="WRITEABLE"):
                view.setflags(write=True)
        assert memoryview(array.base).readonly

    def test_a_copy_is_an_ordinary_array(self, store):
        store.put("a", np.zeros(3))
        copy = store.get("a").copy()
        copy[0] = 1
        assert store.get("a")[0] == 0


class TestNoCopy:
    def test_two_gets_are_one_memory(self, store):
        store.put("a", ARRAYS["large"])
        assert np.shares_memory(store.get("a"), store.get("a"))

    def test_getting_allocates_next_to_nothing(self, store):
        import tracemalloc

        store.put("a", np.zeros(1_000_000))
        store.get("a")
        tracemalloc.start()
        array = store.get("a")
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert array.nbytes == 8_000_000
        assert taken < 2000


class TestPins:
    def pins(self, store, name: str) -> int:
        return sum(holder.pins for holder in store.stat(name).holders)

    def test_an_array_pins_until_it_and_all_its_views_are_gone(self, store):
        store.put("a", np.arange(10.0))
        assert self.pins(store, "a") == 0
        array = store.get("a")
        part = array[2:5]
        transposed = array.reshape(2, 5).T
        assert self.pins(store, "a") == 1
        del array
        assert self.pins(store, "a") == 1
        assert part.sum() == 9
        del part
        assert self.pins(store, "a") == 1
        del transposed
        assert self.pins(store, "a") == 0

    def test_a_memoryview_keeps_the_pin_as_well(self, store):
        store.put("a", np.arange(3.0))
        view = memoryview(store.get("a"))
        assert self.pins(store, "a") == 1
        assert view[1] == 1.0
        view.release()
        assert self.pins(store, "a") == 0

    def test_a_removed_segment_stays_readable_while_it_is_pinned(self, store):
        store.put("a", np.full(100_000, 7.0))
        array = store.get("a")
        store.remove("a")
        assert "a" not in store
        for i in range(20):
            store.put(f"other{i}", np.full(100_000, float(i)))
        assert (array == 7.0).all()

    def test_the_memory_of_a_removed_segment_comes_back_with_the_last_view(self, store):
        before = store.status()["used_bytes"]
        store.put("a", np.zeros(1_000_000))
        array = store.get("a")
        store.remove("a")
        assert store.status()["used_bytes"] >= before + 8_000_000
        del array
        assert store.status()["used_bytes"] < before + 8_000_000

    def test_no_reference_leaks(self, store):
        store.put("a", np.zeros(10))
        base = store.get("a").base
        weakref_kinds = type(base)
        for _ in range(100):
            store.get("a")
            store.get("missing", default=None)
        gc.collect()
        alive = [one for one in gc.get_objects() if type(one) is weakref_kinds]
        assert len(alive) <= 1
        descriptor = np.dtype("f8")
        before = sys.getrefcount(descriptor)
        for _ in range(1000):
            store.get("a")
        assert abs(sys.getrefcount(descriptor) - before) < 10
        marker = object()
        before = sys.getrefcount(marker)
        for _ in range(100):
            assert store.get("missing", default=marker) is marker
        assert sys.getrefcount(marker) == before

    def test_arrays_outlive_the_store_and_its_close(self, shared_daemon):
        store = shared_daemon.connect()
        store.put("outlives", np.arange(1000.0))
        array = store.get("outlives")
        store.remove("outlives")
        store.close()
        del store
        gc.collect()
        assert array.sum() == 499_500.0


def test_a_weak_reference_to_the_array_works(store):
    store.put("a", np.zeros(3))
    array = store.get("a")
    gone = weakref.ref(array)
    del array
    assert gone() is None


def test_a_pickled_array_is_an_ordinary_one(store):
    store.put("a", np.arange(5.0))
    again = pickle.loads(pickle.dumps(store.get("a")))
    again[0] = 9
    assert forebay.__version__
