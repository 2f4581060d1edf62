# SPDX-License-Identifier: Apache-2.0
"""The verbs: put, get, remove, contains, list, stat, close; refs; errors."""

from __future__ import annotations

import copy
import datetime
import pickle
import pickletools
import threading
import time

import numpy as np
import pytest

import forebay


class TestGet:
    def test_the_newest_version_or_an_exact_one(self, store):
        for number in range(3):
            store.put("a", np.full(2, number))
        assert store.get("a")[0] == 2
        assert store.get("a", 1)[0] == 0
        assert store.get("a", version=2)[0] == 1

    def test_by_bytes_and_by_text(self, store):
        store.put("ä", np.zeros(1))
        assert store.get("ä".encode()).size == 1
        store.put(b"\xff\x00", np.ones(1))
        assert store.get(b"\xff\x00").size == 1

    def test_a_missing_id_is_a_key_error_that_names_it(self, store):
        with pytest.raises(KeyError, match="'nothing here'") as caught:
            store.get("nothing here")
        assert isinstance(caught.value, forebay.NotFound)
        assert not str(caught.value).startswith('"')

    def test_default_instead_of_an_error(self, store):
        assert store.get("nothing", default=None) is None
        assert store.get("nothing", 3, 0.001, default=5) == 5
        with pytest.raises(forebay.BadId):
            store.get("", default=None)

    def test_only_a_version_after_one_that_is_known(self, store, shared_daemon):
        store.put("a", np.zeros(1))
        assert store.get("a", after=0).sum() == 0
        assert store.get("a", after=1, default=None) is None
        with pytest.raises(forebay.Timeout):
            store.get("a", after=1, timeout=0.01)
        with shared_daemon.connect() as other:
            thread = threading.Timer(0.02, lambda: other.put("a", np.ones(1)))
            thread.start()
            assert store.get("a", after=1, timeout=20).sum() == 1
            thread.join()
        with pytest.raises(forebay.BadArgument, match="exact"):
            store.get("a", 1, after=1)
        with pytest.raises(TypeError):
            store.get("a", after="x")
        with pytest.raises(OverflowError):
            store.get("a", after=-1)

    def test_waiting_ends_with_the_deadline(self, store):
        start = time.monotonic()
        with pytest.raises(TimeoutError, match="'late'"):
            store.get("late", timeout=0.05)
        assert time.monotonic() - start >= 0.05

    def test_waiting_ends_when_the_version_is_sealed(self, store, shared_daemon):
        with shared_daemon.connect() as other:
            thread = threading.Timer(0.05, lambda: other.put("soon", np.arange(3)))
            thread.start()
            assert store.get("soon", timeout=20).sum() == 3
            thread.join()

    def test_other_threads_run_while_one_waits(self, store):
        ticks = []
        waiting = threading.Thread(target=lambda: store.get("never", timeout=0.2, default=None))
        waiting.start()
        while waiting.is_alive():
            ticks.append(store.get("missing", default=0))
        waiting.join()
        assert len(ticks) > 100

    @pytest.mark.parametrize(
        ("arguments", "keywords", "error"),
        [
            ((), {}, TypeError),
            ((1,), {}, TypeError),
            (("a", 1, 1, 1), {}, TypeError),
            (("a",), {"nonsense": 1}, TypeError),
            (("a",), {"id": "b"}, TypeError),
            (("a", "x"), {}, TypeError),
            (("a", 1.5), {}, TypeError),
            (("a", 0), {}, forebay.BadArgument),
            (("a", -1), {}, forebay.BadArgument),
            (("a", 2**64), {}, forebay.BadArgument),
            (("a",), {"timeout": -1}, forebay.BadArgument),
            (("a",), {"timeout": float("nan")}, forebay.BadArgument),
            (("a",), {"timeout": float("inf")}, forebay.BadArgument),
            (("a",), {"timeout": "soon"}, TypeError),
            (("x" * 256,), {}, forebay.BadId),
            ((b"",), {}, forebay.BadId),
        ],
    )
    def test_bad_arguments_are_refused(self, store, arguments, keywords, error):
        with pytest.raises(error):
            store.get(*arguments, **keywords)


class TestPut:
    def test_versions_count_up_and_may_be_chosen(self, store):
        assert store.put("a", np.zeros(1)).version == 1
        assert store.put("a", np.zeros(1), version=7).version == 7
        assert store.put("a", np.zeros(1)).version == 8
        assert store.put("a", np.zeros(1), version=3).version == 3
        assert store.get("a", 3).size == 1

    def test_an_existing_version_is_refused_unless_it_is_the_same(self, store):
        ref = store.put("a", np.arange(3), version=1)
        with pytest.raises(forebay.Exists, match="version 1"):
            store.put("a", np.arange(3), version=1)
        assert store.put("a", np.arange(3), version=1, exist_ok=True) == ref
        with pytest.raises(forebay.Exists, match="other bytes"):
            store.put("a", np.arange(1, 4), version=1, exist_ok=True)

    def test_too_large_and_full_say_how_much_there_is(self, store):
        with pytest.raises(forebay.TooLarge, match="128 MiB"):
            store.put("huge", np.zeros(40_000_000))
        store.put("half", np.zeros(9_000_000))
        held = store.get("half")
        with pytest.raises(MemoryError, match=r"68.7 MiB pinned by pid \d+"):
            store.put("more", np.zeros(9_000_000))
        assert held.size == 9_000_000

    def test_evictable_ones_make_room_and_say_so_afterwards(self, store):
        refs = [
            store.put(f"e{i}", np.zeros(3_000_000), evictable=True) for i in range(8)
        ]
        assert store.get(refs[-1]).size == 3_000_000
        with pytest.raises(forebay.Evicted, match="evicted"):
            store.get("e0")
        with pytest.raises(forebay.NotFound):
            store.get(refs[0])

    def test_waiting_for_room(self, store):
        store.put("big", np.zeros(12_000_000))
        array = store.get("big")
        store.remove("big")

        def let_go():
            nonlocal array
            time.sleep(0.05)
            array = None

        thread = threading.Thread(target=let_go)
        thread.start()
        store.put("next", np.zeros(12_000_000), timeout=20)
        thread.join()

    @pytest.mark.parametrize("identifier", ["", b"", "x" * 256])
    def test_bad_ids_are_refused(self, store, identifier):
        with pytest.raises(forebay.BadId):
            store.put(identifier, np.zeros(1))

    def test_an_id_that_is_no_text_is_refused(self, store):
        with pytest.raises(TypeError, match="int"):
            store.put(5, np.zeros(1))

    @pytest.mark.parametrize("identifier", ["x" * 255, bytes(range(1, 256)), b"\xfe", "\0", "a/b c"])
    def test_any_other_id_is_fine(self, store, identifier):
        ref = store.put(identifier, np.arange(3))
        assert store.get(identifier).sum() == 3
        assert store.get(ref).sum() == 3
        assert ref.id == identifier


class TestRemove:
    def test_one_version_or_all_of_them(self, store):
        for _ in range(3):
            store.put("a", np.zeros(1))
        assert store.remove("a", 2) == 1
        assert store.remove("a") == 2
        with pytest.raises(forebay.NotFound):
            store.remove("a")

    def test_by_ref_only_that_very_segment(self, store):
        ref = store.put("a", np.zeros(1))
        store.remove("a")
        store.put("a", np.ones(1), version=1)
        with pytest.raises(forebay.StaleRef):
            store.remove(ref)
        with pytest.raises(forebay.StaleRef):
            store.get(ref)
        assert store.get("a")[0] == 1


class TestRef:
    def test_it_survives_text_pickle_and_copy(self, store):
        ref = store.put("some/id @#%", np.zeros((2, 3), "f4"))
        for again in (
            forebay.Ref(str(ref)),
            pickle.loads(pickle.dumps(ref)),
            pickle.loads(pickle.dumps(ref, 0)),
            copy.deepcopy(ref),
        ):
            assert again == ref
            assert hash(again) == hash(ref)
            assert store.get(again).shape == (2, 3)
        assert pickle.loads(pickle.dumps(ref)).shape == (2, 3)
        assert ref.dtype == "<f4"
        assert ref.namespace == "default"
        assert ref.store == store.uuid
        assert len(pickle.dumps(ref)) < 160
        assert ref != "something else"
        assert "some/id" in repr(ref)

    def test_its_pickle_names_nothing_but_forebay(self, store):
        for ref in (store.put("array", np.zeros(3)), forebay.Ref(str(store.put("bytes", b"")))):
            named = [argument for opcode, argument, _ in pickletools.genops(pickle.dumps(ref, 2))
                     if opcode.name == "GLOBAL"]  # fmt: skip
            assert len(named) == 1 and named[0].startswith("forebay")

    def test_nonsense_is_refused(self):
        with pytest.raises(forebay.BadArgument, match="not a ref"):
            forebay.Ref("nonsense")

    def test_of_another_store(self, store, daemon):
        with daemon.connect() as other:
            ref = other.put("a", np.zeros(1))
        store.put("a", np.zeros(1))
        with pytest.raises(forebay.WrongStore, match=store.uuid):
            store.get(ref)
        with pytest.raises(ValueError, match="another store"):
            store.remove(ref)

    def test_with_another_version_asked_for(self, store):
        ref = store.put("a", np.zeros(1))
        assert store.get(ref, 1).size == 1
        with pytest.raises(forebay.BadArgument, match="version 2"):
            store.get(ref, 2)


class TestLooking:
    def test_contains(self, store):
        store.put("a", np.zeros(1))
        assert "a" in store
        assert b"a" in store
        assert "b" not in store
        assert store.contains("a", 1)
        assert not store.contains("a", 2)

    def test_list_is_sorted_and_by_prefix(self, store):
        for name in ("b", "a/2", "a/10", "a/1", "c"):
            store.put(name, np.zeros(2))
        store.put("a/1", np.zeros(3))
        found = [(segment.id, segment.version, segment.size) for segment in store.list("a/")]
        assert found == [("a/1", 1, 16), ("a/1", 2, 24), ("a/10", 1, 16), ("a/2", 1, 16)]
        assert len(list(store.list())) == 6
        assert list(store.list("zzz")) == []

    def test_list_and_stat_tell_what_a_segment_is(self, store):
        before = datetime.datetime.now()
        store.put("a", np.zeros((2, 3), "f4"), evictable=True)
        [info] = store.list()
        assert (info.dtype, info.shape, info.size) == ("<f4", (2, 3), 24)
        assert info.evictable and not info.persistent
        assert abs((info.sealed_at - before).total_seconds()) < 60
        array = store.get("a")
        stat = store.stat("a")
        assert stat.state == "sealed"
        assert stat.info.serial == info.serial
        assert [holder.pins for holder in stat.holders] == [1]
        assert array.size == 6
        assert store.stat(forebay.Ref(str(store.put("b", b"x")))).info.id == "b"
        with pytest.raises(forebay.NotFound):
            store.stat("nothing")

    def test_reprs_help(self, store, shared_daemon):
        assert "128 MiB" in repr(store)
        ref = store.put("a", np.zeros(3))
        assert "'a'@1" in repr(next(iter(store.list())))
        assert "(3,)" in repr(ref)
        assert "forebay pin" in repr(store.get("a").base)
        assert "pins>" not in repr(store.stat("a"))


class TestEnd:
    def test_a_closed_store_says_so(self, shared_daemon):
        with shared_daemon.connect() as store:
            assert not store.closed
        assert store.closed
        assert "closed" in repr(store)
        store.close()
        for use in (
            lambda: store.get("a"),
            lambda: store.put("a", np.zeros(1)),
            lambda: store.remove("a"),
            lambda: store.contains("a"),
            lambda: list(store.list()),
            lambda: store.stat("a"),
            lambda: store.create("a", 3),
            lambda: store.status(),
        ):
            with pytest.raises(forebay.BadState, match="closed"):
                use()

    def test_a_store_that_nobody_serves(self, tmp_path):
        with pytest.raises(ConnectionError, match="no such socket"):
            forebay.connect(str(tmp_path / "nothing.sock"), timeout=0.05)
        with pytest.raises(forebay.BadArgument, match="107"):
            forebay.connect(str(tmp_path / ("x" * 200)), timeout=0.05)
        with pytest.raises(forebay.BadArgument, match="above zero"):
            forebay.connect(str(tmp_path / "nothing.sock"), timeout=0)

    def test_a_namespace_that_is_not_there(self, shared_daemon):
        with pytest.raises(forebay.NotFound, match="'other'"):
            shared_daemon.connect(namespace="other")


def test_the_daemon_may_die_and_come_back(daemon):
    store = daemon.connect()
    ref = store.put("a", np.arange(100_000))
    array = store.get("a")
    daemon.kill()
    # What is resident needs no daemon.
    assert (store.get(ref) == array).all()
    with pytest.raises(forebay.Disconnected):
        daemon.connect(timeout=0.05)
    daemon.start()
    assert store.put("a", np.zeros(3)).version == 2
    assert (store.get("a", 1) == np.arange(100_000)).all()
    assert store.stat("a", 1).holders[0].pins == 1


@pytest.mark.parametrize("name", ["Store", "Ref", "Builder"])
def test_the_classes_say_where_they_are_from(name):
    assert getattr(forebay, name).__module__ == "forebay"
    assert getattr(forebay, name).__doc__
