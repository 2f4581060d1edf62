# SPDX-License-Identifier: Apache-2.0
"""update: the next version, from the content or the memory of the one before."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest

import forebay
from support import Other, eventually
from test_arrays import ARRAYS


_numbers = itertools.count()


@pytest.fixture
def a() -> str:
    """An id that is new: what was taken over is remembered, and its number not given again."""
    return f"a{next(_numbers)}"


@pytest.mark.parametrize("take", [False, True])
@pytest.mark.parametrize("name", ARRAYS)
def test_it_starts_as_the_former_version_and_is_written_in_place(store, a, name, take):
    array = ARRAYS[name]
    store.put(a, array)
    with store.update(a, take=take) as mine:
        assert mine.flags.writeable
        assert mine.dtype == array.dtype
        assert mine.shape == array.shape
        assert mine.tobytes() == array.tobytes()
        mine[...] = np.zeros((), array.dtype)
    found = store.get(a)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == np.zeros(array.shape, array.dtype).tobytes()
    assert [segment.version for segment in store.list(a)] == ([2] if take else [1, 2])
    if not take:
        assert store.get(a, 1).tobytes() == array.tobytes()


def test_the_array_is_read_only_afterwards(store, a):
    store.put(a, np.zeros(3))
    with store.update(a) as array:
        array += 1
    assert not array.flags.writeable
    assert array.sum() == 3
    assert store.get(a).sum() == 3


def test_by_hand_with_a_ref(store, a):
    store.put(a, np.zeros(3))
    builder = store.update(a)
    assert builder.version == 2
    builder.array[:] = 5
    ref = builder.seal()
    assert store.get(ref).sum() == 15


def test_bytes_as_well(store, a):
    store.put("b", b"hello")
    with store.update("b") as array:
        array[0] = ord("j")
    assert bytes(store.get("b")) == b"jello"


def test_other_views_of_the_array_stand_in_the_way_of_sealing(store, a):
    store.put(a, np.zeros(3))
    builder = store.update(a)
    part = builder.array[1:]
    with pytest.raises(BufferError):
        builder.seal()
    del part
    builder.seal()


class TestFrom:
    def test_an_older_version_has_a_next_one_already(self, store, a):
        store.put(a, np.zeros(1))
        store.put(a, np.ones(1))
        with pytest.raises(forebay.Exists, match="version 2"):
            store.update(a, 1)
        store.remove(a, 2)
        with store.update(a, from_version=1) as array:
            assert array[0] == 0
            array[0] = 7
        assert store.get(a, 2)[0] == 7

    def test_two_updates_at_once_are_a_conflict(self, store, a):
        store.put(a, np.zeros(1))
        with store.update(a) as array:
            with pytest.raises(forebay.Conflict, match="version 2"):
                store.update(a)
            array += 1
        assert store.get(a)[0] == 1

    def test_no_update_is_lost_between_processes(self, store, a):
        store.put(a, np.zeros(1, "i8"))
        script = f"""
            say("ready"); hear()
            done = 0
            while done < 25:
                try:
                    with store.update({a!r}) as array:
                        array += 1
                    done += 1
                except (forebay.Conflict, forebay.Exists):
                    pass
        """
        others = [Other(store, script) for _ in range(3)]
        for other in others:
            assert other.hear() == "ready"
        for other in others:
            other.tell()
        for other in others:
            with other:
                assert other.join() == 0
        assert store.get(a)[0] == 75
        assert store.get(a, 76)[0] == 75

    def test_what_is_not_there_is_not_found(self, store, a):
        with pytest.raises(forebay.NotFound):
            store.update("nothing")
        store.put(a, np.zeros(1))
        with pytest.raises(forebay.NotFound):
            store.update(a, 7)

    @pytest.mark.parametrize("take", [False, True])
    def test_groups_and_manifests_are_refused(self, store, a, take):
        store.put_manifest("m", [store.put("g", {"x": np.zeros(1)})])
        for name in ("g", "m"):
            with pytest.raises(forebay.TypeMismatch, match="no array"):
                store.update(name, take=take)
        assert store.get("m")[0]["x"][0] == 0
        assert store.status()["creating"] == 0

    def test_the_options_are_those_of_put(self, store, a):
        store.put(a, np.zeros(1))
        with store.update(a, evictable=True, keep=2, ttl=1000) as array:
            array += 1
        stat = store.stat(a)
        assert stat.info.evictable
        assert stat.keep == 2
        assert 900 < stat.expires_in <= 1000
        store.update(a, persistent=True).seal()
        assert store.stat(a).info.persistent

    @pytest.mark.parametrize(
        ("arguments", "keywords", "error"),
        [
            (("",), {}, forebay.BadId),
            ((5,), {}, TypeError),
            (("a", 0), {}, forebay.BadArgument),
            (("a", "x"), {}, TypeError),
            (("a",), {"take": "yes"}, TypeError),
            (("a",), {"timeout": -1}, forebay.BadArgument),
            (("a",), {"version": 3}, TypeError),
            (("a",), {"exist_ok": True}, TypeError),
        ],
    )
    def test_bad_arguments_are_refused(self, store, a, arguments, keywords, error):
        store.put(a, np.zeros(1))
        with pytest.raises(error):
            store.update(*arguments, **keywords)
        assert store.status()["creating"] == 0


class TestTake:
    def test_it_is_the_very_memory(self, store, a):
        store.put(a, np.arange(100_000.0))
        address = store.get(a).ctypes.data
        used = store.status()["used_bytes"]
        with store.update(a, take=True) as array:
            assert array.ctypes.data == address
            assert store.status()["used_bytes"] == used
            array[0] = -1
        assert store.get(a)[0] == -1
        assert store.get(a)[99_999] == 99_999

    @pytest.mark.parametrize("size", [10, 100_000])
    def test_the_former_version_is_superseded_from_the_first_moment(self, store, a, size):
        ref = store.put(a, np.zeros(size))
        builder = store.update(a, take=True)
        for what in (a, ref):
            with pytest.raises(forebay.Superseded):
                store.get(what)
        builder.array[:] = 1
        builder.seal()
        assert store.get(a).sum() == size
        with pytest.raises(forebay.Superseded):
            store.get(a, 1)

    @pytest.mark.parametrize("size", [10, 100_000])
    def test_an_exception_in_the_block_loses_both(self, store, a, size):
        store.put(a, np.zeros(size))
        with pytest.raises(ZeroDivisionError), store.update(a, take=True) as array:
            array[0] = 1 / 0
        with pytest.raises(forebay.Superseded):
            store.get(a)
        assert a not in store

    def test_whoever_uses_it_stands_in_the_way_and_is_named(self, store, a):
        store.put(a, np.zeros(100_000))
        array = store.get(a)
        with pytest.raises(forebay.Conflict, match="pinned by pid"):
            store.update(a, take=True)
        assert array.sum() == 0
        assert store.get(a, 1).sum() == 0
        with store.update(a) as copy:
            copy += 1
        del copy, array
        with Other(store, f"array = store.get({a!r}); say('has it'); hear()") as other:
            assert other.hear() == "has it"
            with pytest.raises(forebay.Conflict, match=f"pid {other.pid}"):
                store.update(a, take=True)
            other.kill()

        def take() -> bool:
            try:
                store.update(a, take=True).seal()
            except forebay.Conflict:
                return False
            return True

        assert eventually(take)
        assert store.get(a, 3).sum() == 100_000

    def test_what_is_held_persistent_or_listed_is_not_taken(self, store, a):
        ref = store.put(a, np.zeros(100_000))
        store.hold(ref)
        with pytest.raises(forebay.Conflict, match="held"):
            store.update(a, take=True)
        store.unhold(ref)
        store.put_manifest("m", [ref])
        with pytest.raises(forebay.Conflict, match="'m'"):
            store.update(a, take=True)
        store.remove("m")
        store.persist(ref)
        with pytest.raises(forebay.Conflict, match="stay"):
            store.update(a, take=True)
        assert store.get(ref).sum() == 0

    @pytest.mark.parametrize("size", [10, 100_000])
    def test_a_writer_that_is_killed_loses_both_and_leaves_no_bytes(self, store, a, size):
        store.put(a, np.zeros(size))
        script = f"builder = store.update({a!r}, take=True); builder.array[:] = 7; say('open'); hear()"
        with Other(store, script) as writer:
            assert writer.hear() == "open"
            writer.kill()
        assert eventually(lambda: store.status()["creating"] == 0)
        with pytest.raises(forebay.Superseded):
            store.get(a)
        assert store.put(a, np.ones(1)).version >= 2
        assert store.get(a)[0] == 1

    def test_again_and_again_takes_no_more_memory(self, store, a):
        store.put(a, np.zeros(100_000))
        used = store.status()["used_bytes"]
        for _ in range(20):
            with store.update(a, take=True) as array:
                array += 1
            del array
        gc.collect()
        assert store.get(a)[0] == 20
        assert store.status()["used_bytes"] == used
