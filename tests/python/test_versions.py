# SPDX-License-Identifier: Apache-2.0
"""Many versions and many ids: who may make one, batches, removing more than one."""

from __future__ import annotations

import numpy as np
import pytest

import forebay
from support import Other, eventually, pins


class TestOneVersionTwoWriters:
    def test_one_of_many_processes_wins_and_the_others_are_told(self, store):
        script = """
            say("ready"); hear()
            try:
                store.put("a", np.full(50_000, int(sys.argv[1][-1] == "x")), version=5)
                say("won")
            except (forebay.Exists, forebay.Conflict) as error:
                say(type(error).__name__)
        """
        others = [Other(store, script) for _ in range(4)]
        for other in others:
            assert other.hear() == "ready"
        for other in others:
            other.tell()
        said = sorted(other.hear() for other in others)
        assert said.count("won") == 1
        assert set(said) <= {"won", "Exists", "Conflict"}
        assert store.get("a", 5).size == 50_000
        for other in others:
            with other:
                assert other.join() == 0

    def test_a_version_is_free_again_when_its_writer_was_killed(self, store):
        with Other(store, "builder = store.create('a', 10, version=3); say('open'); hear()") as writer:
            assert writer.hear() == "open"
            with pytest.raises(forebay.Conflict, match="version 3"):
                store.put("a", np.zeros(1), version=3)
            writer.kill()

        def put() -> bool:
            try:
                return store.put("a", np.ones(1), version=3).version == 3
            except forebay.Conflict:
                return False

        assert eventually(put)
        assert store.get("a")[0] == 1


class TestGetMany:
    def test_values_in_the_order_of_the_ids(self, store):
        for i in range(50):
            store.put(f"a{i}", np.full(3, i))
        found = store.get_many([f"a{i}" for i in reversed(range(50))])
        assert [array[0] for array in found] == list(reversed(range(50)))
        assert not found[0].flags.writeable
        assert store.get_many([]) == []
        assert store.get_many(iter(["a3"]))[0][0] == 3

    def test_ids_refs_and_bytes_and_the_same_one_twice(self, store):
        ref = store.put("a", np.zeros(1))
        store.put("a", np.ones(1))
        assert [one[0] for one in store.get_many([ref, "a", b"a", "a"])] == [0, 1, 1, 1]

    def test_one_exact_version_of_each(self, store):
        store.put_many({"a": np.zeros(1), "b": np.ones(1)})
        store.put_many({"a": np.full(1, 5.0), "b": np.full(1, 6.0)})
        assert [one[0] for one in store.get_many(["a", "b"], 1)] == [0, 1]
        assert [one[0] for one in store.get_many(["a", "b"], version=2)] == [5, 6]

    def test_the_first_failure_is_raised_and_nothing_stays_pinned(self, store):
        store.put("a", np.zeros(1))
        with pytest.raises(forebay.NotFound, match="'missing'"):
            store.get_many(["a", "missing", ""])
        assert pins(store, "a") == 0

    def test_failures_in_their_places(self, store):
        ref = store.put("gone", np.zeros(1))
        store.remove("gone")
        store.put("a", np.arange(3))
        found = store.get_many(["a", "missing", "", ref, "a"], return_exceptions=True)
        kinds = [type(one) for one in found]
        assert kinds == [
            np.ndarray, forebay.NotFound, forebay.BadId, forebay.StaleRef, np.ndarray
        ]  # fmt: skip
        assert found[4].sum() == 3

    def test_one_timeout_for_all_of_them(self, store, shared_daemon):
        store.put("a", np.zeros(1))
        with pytest.raises(forebay.Timeout, match="'never' within 50 ms"):
            store.get_many(["a", "never", "neither"], timeout=0.05)
        with Other(store, "hear(); store.put('b', np.ones(1)); store.put('c', np.ones(1))") as other:
            other.tell()
            found = store.get_many(["a", "b", "c"], timeout=20)
            assert [one[0] for one in found] == [0, 1, 1]
            assert other.join() == 0

    @pytest.mark.parametrize(
        ("arguments", "keywords", "error"),
        [
            (("a",), {}, TypeError),
            ((b"a",), {}, TypeError),
            ((5,), {}, TypeError),
            (([5],), {}, TypeError),
            ((["a", None],), {"return_exceptions": True}, TypeError),
            ((["a"],), {"version": 0}, forebay.BadArgument),
            ((["a"],), {"timeout": -1}, forebay.BadArgument),
            ((["a"],), {"timeout": float("nan")}, forebay.BadArgument),
        ],
    )
    def test_bad_arguments_are_refused(self, store, arguments, keywords, error):
        with pytest.raises(error):
            store.get_many(*arguments, **keywords)


class TestPutMany:
    def test_a_mapping_or_pairs(self, store):
        refs = store.put_many({"a": np.arange(3), b"b": b"bytes"})
        assert [ref.id for ref in refs] == ["a", "b"]
        assert store.get(refs[0]).sum() == 3
        assert bytes(store.get("b")) == b"bytes"
        assert [ref.version for ref in store.put_many([("a", np.ones(1)), ["a", np.ones(1)]])] == [2, 3]
        assert store.put_many({}) == []

    def test_whatever_their_dtypes_shapes_orders_and_sizes(self, store):
        arrays = {
            "a": np.arange(6.0).reshape(2, 3),
            "b": np.arange(6.0).reshape(2, 3) + 1,
            "c": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "d": np.arange(20)[::3],
            "e": np.arange(100_000.0),
            "f": np.array(["2024-02-29"], "M8[D]"),
            "g": np.zeros(0),
        }
        store.put_many(arrays)
        for name, array in arrays.items():
            found = store.get(name)
            assert found.dtype == array.dtype
            assert (found == array).all()
            assert found.shape == array.shape

    def test_a_group_among_them(self, store):
        refs = store.put_many([("g", {"x": np.arange(3)}), ("a", np.ones(2))])
        assert store.get(refs[0])["x"].sum() == 3
        assert store.get(refs[1]).sum() == 2

    def test_one_that_fails_does_not_touch_the_others(self, store):
        store.put("b", np.zeros(1), version=1)
        items = {"a": np.zeros(1), "b": np.ones(1), "": np.zeros(1), "c": np.zeros(1)}
        done = store.put_many(items, version=1, return_exceptions=True)
        assert [type(one) for one in done] == [
            forebay.Ref, forebay.Exists, forebay.BadId, forebay.Ref
        ]  # fmt: skip
        with pytest.raises(forebay.Exists, match="'d2'"):
            store.put("d2", np.ones(1), version=1)
            store.put_many({"d1": np.zeros(1), "d2": np.zeros(1), "d3": np.zeros(1)}, version=1)
        assert store.contains_many(["d1", "d3"]) == [True, True]

    def test_equal_ones_that_exist_are_fine_if_that_is_said(self, store):
        first = store.put_many({"a": np.arange(3), "b": np.arange(3)}, version=1)
        again = store.put_many({"a": np.arange(3), "b": np.arange(3)}, version=1, exist_ok=True)
        assert again == first

    def test_the_options_are_of_all_of_them(self, store):
        store.put_many({"a": np.zeros(1), "b": np.zeros(3)}, evictable=True, keep=2, ttl=1000)
        for name in ("a", "b"):
            stat = store.stat(name)
            assert stat.info.evictable
            assert stat.keep == 2
            assert 900 < stat.expires_in <= 1000

    @pytest.mark.parametrize(
        "items",
        ["ab", b"ab", 5, [5], ["ab"], [("a", np.zeros(1), 1)], {"a": (c for c in "text")},
         {5: np.zeros(1)}, [("a", np.zeros(1)), ("b", (c for c in "text"))]],
    )  # fmt: skip
    def test_what_is_no_id_or_cannot_be_stored_is_refused_before_anything_is_put(self, store, items):
        with pytest.raises(TypeError):
            store.put_many(items, return_exceptions=True)
        assert list(store.list()) == []

    def test_unknown_options_are_refused(self, store):
        with pytest.raises(TypeError, match="'order'"):
            store.put_many({"a": np.zeros(1)}, order="C")


def test_contains_many(store):
    store.put("a", np.zeros(1))
    assert store.contains_many(["a", b"a", "b"]) == [True, True, False]
    assert store.contains_many([]) == []
    for bad in ("a", [5], 5):
        with pytest.raises(TypeError):
            store.contains_many(bad)
    with pytest.raises(forebay.BadId):
        store.contains_many([""])


class TestRemovingMore:
    def test_all_versions_below_one(self, store):
        for _ in range(4):
            store.put("a", np.zeros(1))
        assert store.remove("a", before=3) == 2
        assert [segment.version for segment in store.list("a")] == [3, 4]
        assert store.remove("a", before=3) == 0
        assert store.remove("nothing here", before=3) == 0

    @pytest.mark.parametrize(
        ("arguments", "before", "error"),
        [
            (("a", 1), 2, forebay.BadArgument),
            (("a",), 0, forebay.BadArgument),
            (("a",), -1, forebay.BadArgument),
            (("a",), "x", TypeError),
            (("",), 2, forebay.BadId),
        ],
    )
    def test_bad_arguments_of_before_are_refused(self, store, arguments, before, error):
        store.put("a", np.zeros(1))
        with pytest.raises(error):
            store.remove(*arguments, before=before)
        assert "a" in store

    def test_before_does_not_go_with_a_ref(self, store):
        ref = store.put("a", np.zeros(1))
        with pytest.raises(forebay.BadArgument, match="ref"):
            store.remove(ref, before=2)

    def test_a_ref_and_another_version_contradict_each_other(self, store):
        ref = store.put("a", np.zeros(1))
        for call in (store.remove, store.hold, store.persist, store.stat, store.get_async):
            with pytest.raises(forebay.BadArgument, match="version 2"):
                call(ref, 2, concurrent=True) if call == store.get_async else call(ref, 2)
        assert "a" in store

    def test_a_prefix(self, store):
        for name in ("a/1", "a/2", "a/2", "b"):
            store.put(name, np.zeros(1))
        assert store.remove_prefix("a/") == 3
        assert [segment.id for segment in store.list()] == ["b"]
        assert store.remove_prefix(b"a/") == 0
        assert store.remove_prefix("") == 1
        with pytest.raises(TypeError):
            store.remove_prefix()
        with pytest.raises(TypeError):
            store.remove_prefix(None)

    def test_many_ids_and_refs(self, store):
        store.put("a", np.zeros(1))
        store.put("a", np.zeros(1))
        ref = store.put("b", np.zeros(1))
        store.put("b", np.zeros(1))
        stale = store.put("c", np.zeros(1))
        store.remove("c")
        done = store.remove_many(["a", ref, "missing", stale, ""], return_exceptions=True)
        assert done[:2] == [2, 1]
        assert [type(one) for one in done[2:]] == [
            forebay.NotFound, forebay.StaleRef, forebay.BadId
        ]  # fmt: skip
        assert [segment.version for segment in store.list()] == [2]
        assert store.remove_many([]) == []

    def test_the_first_failure_is_raised_when_all_were_tried(self, store):
        store.put_many({"a": np.zeros(1), "b": np.zeros(1)})
        with pytest.raises(forebay.NotFound, match="'missing'"):
            store.remove_many(["a", "missing", "b"])
        assert list(store.list()) == []

    def test_what_is_no_id_is_refused_before_anything_is_removed(self, store):
        store.put("a", np.zeros(1))
        for bad in ("a", b"a", ["a", 5], 5):
            with pytest.raises(TypeError):
                store.remove_many(bad)
        assert "a" in store


def test_stat_by_ref_is_of_that_very_segment(store):
    ref = store.put("a", np.zeros(1))
    assert store.stat(ref).info.serial == ref.serial
    store.remove("a")
    store.put("a", np.zeros(1), version=1)
    with pytest.raises(forebay.StaleRef):
        store.stat(ref)
