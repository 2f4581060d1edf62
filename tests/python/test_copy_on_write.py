# SPDX-License-Identifier: Apache-2.0
"""get(writable="copy"): arrays of one's own, whose pages are shared until they are written to."""

from __future__ import annotations

import gc
import os
import pickle

import numpy as np
import pytest

import forebay
from support import pins
from test_arrays import ARRAYS


@pytest.mark.parametrize("name", ARRAYS)
def test_it_is_equal_writable_and_nobody_elses(store, name):
    array = ARRAYS[name]
    store.put("a", array)
    mine = store.get("a", writable="copy")
    assert type(mine) is np.ndarray
    assert mine.flags.writeable
    assert mine.dtype == array.dtype
    assert mine.shape == array.shape
    assert mine.tobytes() == array.tobytes()
    assert mine.flags.f_contiguous == store.get("a").flags.f_contiguous
    assert mine.ctypes.data % 64 == 0 or mine.size == 0
    mine[...] = np.zeros((), array.dtype)
    assert store.get("a").tobytes() == array.tobytes()
    assert store.get("a", writable="copy").tobytes() == array.tobytes()


def test_plain_bytes_as_well(store):
    store.put("b", b"hello")
    mine = store.get("b", writable="copy")
    mine[0] = ord("j")
    assert bytes(mine) == b"jello"
    assert bytes(store.get("b")) == b"hello"


@pytest.mark.parametrize("writable", [None, False])
def test_without_it_arrays_are_read_only(store, writable):
    store.put("a", np.zeros(1))
    assert not store.get("a", writable=writable).flags.writeable


@pytest.mark.parametrize("writable", [True, 1, 0, "", "yes", b"copy", "COPY", np.zeros(1)])
def test_anything_else_is_refused(store, writable):
    store.put("a", np.zeros(1))
    with pytest.raises(forebay.BadArgument, match="'copy'"):
        store.get("a", writable=writable)
    with pytest.raises(forebay.BadArgument, match="'copy'"):
        store.get("missing", writable=writable, default=None)


def test_by_ref_by_version_with_a_wait_and_with_a_default(store):
    ref = store.put("a", np.zeros(3))
    store.put("a", np.ones(3))
    assert store.get(ref, writable="copy")[0] == 0
    assert store.get("a", 1, writable="copy")[0] == 0
    assert store.get("a", timeout=1, writable="copy")[0] == 1
    assert store.get("a", after=1, writable="copy")[0] == 1
    assert store.get("b", writable="copy", default=7) == 7
    with pytest.raises(forebay.NotFound):
        store.get("b", writable="copy")
    store.remove("a")
    with pytest.raises(forebay.StaleRef):
        store.get(ref, writable="copy")


def test_a_large_one_takes_memory_only_where_it_is_written_to(store):
    def private_kib() -> int:
        with open("/proc/self/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))

    store.put("a", np.arange(4_000_000.0))
    gc.collect()
    before = private_kib()
    mine = store.get("a", writable="copy")
    assert mine.sum() == np.arange(4_000_000.0).sum()
    mine[::100_000] = -1
    assert private_kib() - before < 4000
    assert store.get("a")[100_000] == 100_000


class TestPins:
    def test_a_large_one_pins_while_it_or_a_view_of_it_lives(self, store):
        store.put("a", np.zeros(100_000))
        mine = store.get("a", writable="copy")
        assert pins(store, "a") == 1
        part = mine[5:]
        del mine
        assert pins(store, "a") == 1
        part[0] = 1
        del part
        assert pins(store, "a") == 0

    def test_a_small_one_is_copied_and_pins_nothing(self, store):
        store.put("a", np.zeros(100))
        mine = store.get("a", writable="copy")
        assert pins(store, "a") == 0
        store.remove("a")
        mine[0] = 1
        assert mine.sum() == 1

    def test_it_stays_what_it_is_when_the_segment_is_removed(self, store):
        store.put("a", np.full(100_000, 7.0))
        mine = store.get("a", writable="copy")
        mine[0] = 1
        store.remove("a")
        for i in range(10):
            store.put(f"other{i}", np.full(100_000, float(i)))
        assert mine[0] == 1
        assert (mine[1:] == 7).all()
        mine[:] = 3
        assert (store.get("other3") == 3).all()
        assert (store.get("other4") == 4).all()

    def test_it_outlives_the_store(self, shared_daemon):
        store = shared_daemon.connect()
        store.put("outlives", np.zeros(100_000))
        mine = store.get("outlives", writable="copy")
        store.remove("outlives")
        store.close()
        del store
        gc.collect()
        mine[:] = 1
        assert mine.sum() == 100_000

    def test_many_of_them_leave_nothing_behind(self, store):
        store.put("a", np.zeros(100_000))
        maps = len(os.listdir("/proc/self/map_files"))
        for _ in range(100):
            store.get("a", writable="copy")[0] = 1
        assert pins(store, "a") == 0
        assert len(os.listdir("/proc/self/map_files")) < maps + 20


def test_the_base_says_what_it_is(store):
    store.put("a", np.zeros(3))
    base = store.get("a", writable="copy").base
    assert "private copy" in repr(base)
    assert not memoryview(base).readonly


def test_members_of_a_group_share_one_copy(store):
    store.put("g", {"x": np.zeros(20_000), "empty": np.zeros(0), "y": np.arange(20_000)})
    mine = store.get("g", writable="copy")
    assert mine["x"].base is mine["y"].base
    assert pins(store, "g") == 1
    mine["x"][:] = 1
    assert (mine["y"] == np.arange(20_000)).all()
    assert store.get("g")["x"].sum() == 0
    with pytest.raises(TypeError):
        mine["z"] = np.zeros(1)
    y = mine["y"]
    del mine
    y[0] = 5
    assert pins(store, "g") == 1
    del y
    assert pins(store, "g") == 0


def test_two_copies_know_nothing_of_each_other(store):
    store.put("a", np.zeros(100_000))
    one, other = (store.get("a", writable="copy") for _ in range(2))
    one[:] = 1
    other[:50_000] = 2
    assert one.sum() == 100_000
    assert other.sum() == 100_000
    assert other[50_000] == 0
    assert store.get("a").sum() == 0


def test_a_forked_child_has_its_own(store):
    store.put("a", np.zeros(100_000))
    mine = store.get("a", writable="copy")
    mine[0] = 1
    child = os.fork()
    if child == 0:
        good = mine[0] == 1
        mine[:] = 2
        os._exit(0 if good and mine.sum() == 200_000 and store.get("a").sum() == 0 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert mine.sum() == 1


def test_a_pickled_one_is_an_ordinary_array(store):
    store.put("a", np.zeros(3))
    again = pickle.loads(pickle.dumps(store.get("a", writable="copy")))
    again[0] = 1
    assert again.base is None or type(again.base) is not type(store.get("a", writable="copy").base)


def test_a_copy_can_be_put_as_the_next_version(store):
    store.put("a", np.zeros(100_000))
    mine = store.get("a", writable="copy")
    mine += 1
    assert store.put("a", mine).version == 2
    assert store.get("a").sum() == 100_000
    assert store.get("a", 1).sum() == 0
