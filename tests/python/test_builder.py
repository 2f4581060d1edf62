# SPDX-License-Identifier: Apache-2.0
"""Making segments in place: `with store.create(...) as array`."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import forebay


def test_the_block_fills_and_its_end_seals(store):
    with store.create("a", (3, 4), "f4") as array:
        assert array.shape == (3, 4)
        assert array.dtype == np.float32
        assert array.flags.writeable
        assert "a" not in store
        array[:] = 7
    assert (store.get("a") == 7).all()
    assert not array.flags.writeable
    assert (array == 7).all()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((), "f8"),
        (5, "i4"),
        ((0, 3), "f8"),
        ((2, 3, 4), "c16"),
        ((7,), [("a", "f8"), ("b", "S2")]),
        ((2,), "M8[D]"),
        (np.int64(3), np.uint8),
        ([2, 2], "f8"),
    ],
)
def test_any_shape_and_dtype(store, shape, dtype):
    with store.create("a", shape, dtype) as array:
        array[...] = np.zeros((), dtype)
    found = store.get("a")
    assert found.shape == array.shape
    assert found.dtype == np.dtype(dtype)


def test_f_order(store):
    with store.create("a", (3, 4), order="F") as array:
        assert array.flags.f_contiguous
        array[:] = np.arange(12).reshape(3, 4)
    assert store.get("a").flags.f_contiguous
    assert (store.get("a") == np.arange(12).reshape(3, 4)).all()


def test_an_exception_in_the_block_aborts(store):
    with pytest.raises(ZeroDivisionError), store.create("a", 10) as array:
        array[:] = 1 / 0
    assert "a" not in store
    assert not array.flags.writeable
    assert store.put("a", np.zeros(1)).version == 1


def test_sealing_by_hand_and_twice(store):
    builder = store.create("a", 3)
    builder.array[:] = 1
    assert builder.version == 1
    assert "open" in repr(builder)
    ref = builder.seal()
    assert store.get(ref).sum() == 3
    assert "sealed" in repr(builder)
    with pytest.raises(forebay.BadState, match="sealed already"):
        builder.seal()
    with pytest.raises(forebay.BadState, match="sealed already"):
        builder.abort()


def test_aborting_by_hand_and_twice(store):
    builder = store.create("a", 3)
    builder.abort()
    assert "aborted" in repr(builder)
    with pytest.raises(forebay.BadState, match="aborted"):
        builder.seal()
    with pytest.raises(forebay.BadState, match="aborted"):
        builder.abort()
    with pytest.raises(forebay.BadState):
        _ = builder.array


def test_a_block_that_seals_by_hand_is_fine(store):
    builder = store.create("a", 3)
    with builder as array:
        array[:] = 1
        builder.seal()
    assert "a" in store


class TestOtherViews:
    VIEWS = {
        "slice": lambda array: array[1:],
        "reshape": lambda array: array.reshape(2, 2),
        "transpose": lambda array: array.reshape(2, 2).T,
        "slice of a slice": lambda array: array[1:][1:],
        "view": lambda array: array.view("u1"),
        "memoryview": memoryview,
        "memoryview of a slice": lambda array: memoryview(array[1:]),
        "array over a memoryview": lambda array: np.asarray(memoryview(array)),
        "in a list": lambda array: [array[:1]],
    }

    @pytest.mark.parametrize("name", VIEWS)
    def test_seal_refuses_while_they_live(self, store, name):
        builder = store.create("a", 4)
        builder.array[:] = 1
        view = self.VIEWS[name](builder.array)
        with pytest.raises(BufferError, match="live"):
            builder.seal()
        assert "a" not in store
        assert builder.array.flags.writeable
        del view
        builder.seal()
        assert store.get("a").sum() == 4

    def test_another_name_for_the_array_is_no_other_view(self, store):
        builder = store.create("a", 4)
        array = builder.array
        alias = array
        holder = {"kept": array}
        builder.seal()
        assert not alias.flags.writeable
        assert not holder["kept"].flags.writeable

    def test_after_an_abort_they_may_still_be_written(self, store):
        builder = store.create("a", 100_000)
        view = builder.array[10:]
        builder.abort()
        view[:] = 5  # no fault: the memory is this view's until it goes
        others = [store.put(f"other{i}", np.zeros(100_000)) for i in range(4)]
        view[:] = 6
        assert all(store.get(other).sum() == 0 for other in others)
        used = store.status()["used_bytes"]
        del view
        assert store.status()["used_bytes"] < used

    def test_an_exception_with_views_around_aborts_as_well(self, store):
        with pytest.raises(ZeroDivisionError), store.create("a", 10) as array:
            part = array[2:]
            part[0] = 1 / 0
        part[:] = 3
        assert "a" not in store


def test_a_builder_that_is_forgotten_aborts(store):
    before = store.status()["used_bytes"]
    builder = store.create("a", 1_000_000)
    assert store.status()["used_bytes"] > before
    del builder
    gc.collect()
    assert store.status()["used_bytes"] == before
    assert store.status()["creating"] == 0


def test_an_array_of_an_aborted_builder_never_shows_other_bytes(store):
    builder = store.create("a", 100_000)
    builder.array[:] = 42
    array = builder.array
    builder.abort()
    for i in range(8):
        store.put(f"other{i}", np.full(100_000, float(i)))
    assert (array == 42).all()


@pytest.mark.parametrize(
    ("arguments", "keywords", "error"),
    [
        (("", 3), {}, forebay.BadId),
        (("a", -1), {}, forebay.BadArgument),
        (("a", (2, -3)), {}, forebay.BadArgument),
        (("a", "x"), {}, TypeError),
        (("a", 3, "nonsense"), {}, TypeError),
        (("a", 3, object), {}, TypeError),
        (("a", 3), {"order": "K"}, forebay.BadArgument),
        (("a", 2**62), {}, forebay.TooLarge),
        (("a", 10**9), {}, forebay.TooLarge),
    ],
)
def test_bad_arguments_are_refused(store, arguments, keywords, error):
    with pytest.raises(error):
        store.create(*arguments, **keywords)
    assert store.status()["creating"] == 0


def test_a_version_that_is_being_made_is_a_conflict(store):
    with store.create("a", 3, version=5) as array:
        with pytest.raises(forebay.Conflict, match="version 5"):
            store.put("a", np.zeros(1), version=5)
        assert store.put("a", np.zeros(1)).version == 6
        array[:] = 1
    assert store.get("a", 5).size == 3


def test_a_write_through_a_raw_pointer_after_seal_is_a_fault_in_that_process_alone(daemon):
    script = textwrap.dedent(
        """
        import ctypes, sys, numpy as np, forebay
        store = forebay.connect(sys.argv[1])
        with store.create("a", 1000) as array:
            array[:] = 1
            address = array.ctypes.data
        print(store.get("a").sum(), flush=True)
        ctypes.c_double.from_address(address).value = 2
        print("not reached")
        """
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, daemon.socket],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert ran.stdout == "1000.0\n", ran.stderr
    assert ran.returncode == -signal.SIGSEGV
    with daemon.connect() as store:
        assert store.get("a").sum() == 1000
