# SPDX-License-Identifier: Apache-2.0
"""Groups, which are several arrays in one segment; manifests, which are several segments as one."""

from __future__ import annotations

import collections
import sys
import types

import numpy as np
import pytest

import forebay
from support import Other, pins
from test_arrays import ARRAYS


class TestGroup:
    def test_a_mapping_of_arrays_comes_back_in_order(self, store):
        group = {"weights": np.arange(6.0).reshape(2, 3), "bias": np.ones(3, "f4"), "ä": b"bytes"}
        ref = store.put("g", group)
        for found in (store.get("g"), store.get(ref), store.get("g", 1), store.get_many(["g"])[0]):
            assert type(found) is types.MappingProxyType
            assert list(found) == ["weights", "bias", "ä"]
            assert (found["weights"] == group["weights"]).all()
            assert found["bias"].dtype == np.float32
            assert bytes(found["ä"]) == b"bytes"
        assert ref.dtype is None
        assert ref.shape is None

    def test_every_kind_of_array_may_be_a_member(self, store):
        store.put("g", ARRAYS)
        found = store.get("g")
        assert list(found) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
            assert found[name].tobytes() == array.tobytes()
            assert found[name].ctypes.data % 64 == 0 or array.size == 0
        assert found["F-order"].flags.f_contiguous
        assert not found["3-d F-order"].flags.c_contiguous

    def test_any_mapping_will_do(self, store):
        for mapping in (
            collections.OrderedDict(b=np.zeros(1), a=np.ones(1)),
            types.MappingProxyType({"b": np.zeros(1), "a": np.ones(1)}),
            collections.ChainMap({"a": np.ones(1)}, {"b": np.zeros(1)}),
            collections.UserDict({"b": np.zeros(1), "a": np.ones(1)}),
        ):
            store.put("g", mapping)
            assert list(store.get("g")) == list(mapping)
            assert store.get("g")["a"][0] == 1

    def test_what_get_returns_can_be_put_again(self, store):
        store.put("g", {"x": np.arange(3)})
        store.put("h", store.get("g"))
        assert store.get("h")["x"].sum() == 3

    def test_an_empty_group_is_one(self, store):
        store.put("g", {})
        assert dict(store.get("g")) == {}
        assert dict(store.get("g", writable="copy")) == {}

    def test_nobody_can_write_to_it(self, store):
        store.put("g", {"x": np.zeros(3)})
        found = store.get("g")
        with pytest.raises(TypeError):
            found["y"] = np.zeros(1)
        with pytest.raises(ValueError, match="read-only"):
            found["x"][0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            found["x"].flags.writeable = True

    def test_all_members_share_one_pin_which_lasts_as_long_as_any_of_them(self, store):
        store.put("g", {"x": np.zeros(3), "y": np.ones(3)})
        found = store.get("g")
        assert pins(store, "g") == 1
        part = found["y"][1:]
        del found
        assert pins(store, "g") == 1
        assert part.sum() == 2
        del part
        assert pins(store, "g") == 0

    def test_it_is_published_as_one(self, store):
        for i in range(3):
            store.put("g", {"x": np.full(50_000, i), "y": np.full(50_000, i)})
            found = store.get("g")
            assert found["x"][0] == found["y"][-1] == i
        assert [segment.version for segment in store.list("g")] == [1, 2, 3]

    def test_in_another_process(self, store):
        store.put("g", {"x": np.arange(4), "y": np.zeros((0, 3))})
        script = """
            group = store.get("g")
            say(list(group), group["x"].sum(), group["y"].shape)
            store.put("h", {"z": group["x"] * 2})
        """
        with Other(store, script) as other:
            assert other.hear() == "['x', 'y'] 6 (0, 3)"
            assert other.join() == 0
        assert store.get("h")["z"].sum() == 12

    def test_equal_groups_are_equal_if_that_is_asked_for(self, store):
        group = {"x": np.arange(3), "y": np.arange(5)[::2]}
        ref = store.put("g", group, version=1)
        assert store.put("g", group, version=1, exist_ok=True) == ref
        for other in (
            {"x": np.arange(3)},
            {"x": np.arange(3), "z": np.arange(5)[::2]},
            {"y": np.arange(5)[::2], "x": np.arange(3)},
            {"x": np.arange(3), "y": np.arange(5)[::2].astype("u8")},
        ):
            with pytest.raises(forebay.Exists):
                store.put("g", other, version=1, exist_ok=True)

    @pytest.mark.parametrize(
        "mapping",
        [
            {5: np.zeros(1)},
            {b"x": np.zeros(1)},
            {"x": [1, 2]},
            {"x": np.array([1, "a"], object)},
            {"x": {"nested": np.zeros(1)}},
            {"": np.zeros(1)},
            {"x" * 256: np.zeros(1)},
            {str(i): b"" for i in range(1025)},
            {str(i) + "x" * 200: b"" for i in range(1000)},
            {"\ud800": np.zeros(1)},
        ],
    )
    def test_another_mapping_is_an_object_like_others(self, store, mapping):
        store.put("g", mapping)
        found = store.get("g")
        assert type(found) is dict
        assert repr(found) == repr(mapping)

    def test_the_largest_one(self, store):
        store.put("g", {str(i): np.full(1, i) for i in range(1024)})
        found = store.get("g")
        assert len(found) == 1024
        assert found["1023"][0] == 1023

    def test_no_reference_leaks(self, store):
        array = np.arange(10)[::2]
        group = {"x": array}
        store.put("g", group, version=1)
        before = sys.getrefcount(array), sys.getrefcount(group)
        for _ in range(100):
            store.put("g", group, version=1, exist_ok=True)
            store.get("g")
            store.get("g", writable="copy")
        assert (sys.getrefcount(array), sys.getrefcount(group)) == before
        assert pins(store, "g") == 0


class TestManifest:
    def test_get_returns_the_values_in_order(self, store):
        refs = [
            store.put("a", np.arange(3)),
            store.put("g", {"x": np.ones(2)}),
            store.put("b", b"bytes"),
        ]
        ref = store.put_manifest("m", refs)
        for found in (store.get("m"), store.get(ref), store.get("m", 1), store.get_many([ref])[0]):
            assert type(found) is tuple
            assert found[0].sum() == 3
            assert found[1]["x"].sum() == 2
            assert bytes(found[2]) == b"bytes"

    def test_it_lists_the_very_segments(self, store):
        old = store.put("a", np.zeros(1))
        store.put_manifest("m", [old])
        store.put("a", np.ones(1))
        [found] = store.get("m")
        assert found[0] == 0

    def test_what_it_lists_stays_as_long_as_it_does(self, store):
        ref = store.put("a", np.zeros(3_000_000), keep=1, evictable=True)
        store.put_manifest("m", [ref])
        assert store.stat(ref).manifests == 1
        with pytest.raises(forebay.Conflict, match="'m' version 1"):
            store.remove(ref)
        assert isinstance(
            store.remove_many([ref], return_exceptions=True)[0], forebay.Conflict
        )
        for i in range(8):
            store.put(f"e{i}", np.zeros(3_000_000), evictable=True)
        store.put("a", np.ones(1))
        assert store.get("m")[0].size == 3_000_000
        store.remove("m")
        with pytest.raises(forebay.NotFound):
            store.get(ref)

    def test_all_are_pinned_and_the_manifest_itself_is_not(self, store):
        refs = [store.put(name, np.zeros(1)) for name in "ab"]
        store.put_manifest("m", refs)
        found = store.get("m")
        assert [pins(store, name) for name in "abm"] == [1, 1, 0]
        store.remove("m")
        store.remove_prefix("")
        assert [array.sum() for array in found] == [0, 0]

    def test_an_empty_one_and_one_of_any_iterable(self, store):
        store.put_manifest("m", [])
        assert store.get("m") == ()
        store.put_manifest("m", iter([store.put("a", np.zeros(1))]))
        assert len(store.get("m")) == 1

    def test_a_manifest_of_manifests(self, store):
        ref = store.put("a", np.arange(3))
        inner = store.put_manifest("inner", [ref])
        store.put_manifest("outer", [inner, ref])
        assert store.get("outer")[0][0].sum() == 3
        assert store.get("outer")[1].sum() == 3

    def test_manifests_that_are_nested_too_deep_are_an_error_and_no_crash(self, store):
        ref = store.put("a", np.zeros(1))
        for _ in range(101):
            ref = store.put_manifest("m", [ref])
        with pytest.raises(RecursionError):
            store.get(ref)
        assert pins(store, "a") == 0
        assert len(store.get("m", 100)) == 1

    def test_in_another_process_and_waited_for(self, store):
        script = """
            found = store.get("m", timeout=20)
            say(len(found), found[1].sum())
        """
        with Other(store, script) as other:
            store.put_manifest("m", [store.put("a", np.zeros(1)), store.put("b", np.arange(4))])
            assert other.hear() == "2 6"

    def test_writable_copies_of_all(self, store):
        store.put_manifest("m", [store.put("a", np.zeros(3)), store.put("g", {"x": np.zeros(3)})])
        array, group = store.get("m", writable="copy")
        array[0] = group["x"][1] = 5
        assert store.get("a").sum() == store.get("g")["x"].sum() == 0

    def test_bad_input_is_refused(self, store, daemon):
        ref = store.put("a", np.zeros(1))
        stale = store.put("gone", np.zeros(1))
        store.remove("gone")
        with daemon.connect() as other:
            foreign = other.put("a", np.zeros(1))
        for refs, error in (
            ([stale], forebay.NotFound),
            ([ref, ref], forebay.BadArgument),
            ([foreign], forebay.WrongStore),
            (["a"], TypeError),
            ("a", TypeError),
            (ref, TypeError),
            (None, TypeError),
        ):
            with pytest.raises(error):
                store.put_manifest("m", refs)
        with pytest.raises(forebay.BadId):
            store.put_manifest("", [ref])
        with pytest.raises(TypeError, match="'order'"):
            store.put_manifest("m", [ref], order="C")
        assert "m" not in store


def test_default_and_errors_are_as_for_arrays(store):
    store.put("g", {"x": np.zeros(1)})
    assert store.get("g", 2, default=None) is None
    assert store.get("g", after=1, default=5) == 5
    with pytest.raises(forebay.NotFound):
        store.get("g", 2)
