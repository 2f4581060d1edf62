# SPDX-License-Identifier: Apache-2.0
"""`forebay.task`: the flags, what a function sees and leaves, and that it remains a function."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import pickle
import threading

import numpy as np
import pytest

import forebay
from forebay import IN, INOUT, KEEP, RRO
from forebay._forebay import handle_of
from support import Other, eventually, in_a_segment, pins, run

LARGE = 100_000
HANDLE = 300


@pytest.fixture(autouse=True)
def found(store, monkeypatch):
    monkeypatch.setenv("FOREBAY_SOCKET", store.address)
    yield
    forebay.uninstall()


@pytest.fixture
def numbers():
    return np.arange(float(LARGE))


def handles(store, array):
    """Each kind of handle of a segment that holds `array`."""
    ref = store.put("h", array)
    return {"ref": ref, "view": store.get(ref), "shared": forebay.share(array)}


def notes(error: BaseException) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


class TestRro:
    def test_an_array_is_seen_as_a_read_only_view_of_it(self, numbers):
        @forebay.task(a=RRO)
        def look(a):
            return a, a.flags.writeable

        seen, writeable = look(numbers)
        assert not writeable
        assert np.shares_memory(seen, numbers)
        assert numbers.flags.writeable

    @pytest.mark.parametrize("kind", ["ref", "view", "shared"])
    def test_a_handle_is_seen_as_a_read_only_array_over_the_segment(self, store, numbers, kind):
        @forebay.task(a=RRO)
        def look(a):
            return type(a), in_a_segment(a), a.flags.writeable, float(a.sum())

        handle = handles(store, numbers)[kind]
        kind_of, shared, writeable, total = look(handle)
        assert issubclass(kind_of, np.ndarray)
        assert (shared, writeable, total) == (True, False, numbers.sum())

    def test_a_write_raises_numpys_error_with_a_note(self, store, numbers):
        @forebay.task(points=RRO)
        def spoil(centres, points):
            points[0] = 1

        for argument in numbers, store.put("a", numbers), forebay.share(numbers):
            with pytest.raises(ValueError, match="read-only") as caught:
                spoil(0, argument)
            assert "points" in notes(caught.value)
            assert 'writable="copy"' in notes(caught.value).replace("'", '"')
            assert numbers[0] == 0

    def test_a_default_is_an_argument_too(self, numbers):
        @forebay.task(a=RRO)
        def look(a=numbers):
            return a.flags.writeable

        assert not look()

    def test_other_errors_have_no_note_and_pass_as_they_are(self, numbers):
        @forebay.task(points=RRO)
        def fail(points):
            raise ValueError("mine")

        with pytest.raises(ValueError, match="^mine$") as caught:
            fail(numbers)
        assert not getattr(caught.value, "__notes__", [])

    def test_what_is_no_array_is_left_alone(self):
        @forebay.task(a=RRO)
        def same(a):
            return a

        for value in None, 5, "text", {1, 2}, object(), b"bytes":
            assert same(value) is value

    def test_it_is_put_once_as_long_as_it_lives(self, store, numbers):
        with forebay.scope():
            travelling = [forebay.share(numbers) for _ in range(3)]
            assert len({a.ctypes.data for a in travelling}) == 1
            assert len(list(store.list())) == 1

    def test_the_array_may_be_an_object_of_the_store(self, store, numbers):
        @forebay.task(a=RRO)
        def total(a):
            return a["x"].sum() + a["n"]

        ref = store.put("object", {"x": numbers, "n": 5})
        assert total(ref) == numbers.sum() + 5


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
class TestSubclasses:
    """They keep their state, or are refused by name; with and without a way to travel."""

    @pytest.mark.parametrize("flag", [RRO, RRO("named", 1), RRO(writable="copy"), INOUT])
    def test_masked_arrays_keep_their_mask(self, flag):
        @forebay.task(a=flag)
        def look(a):
            return float(a.sum()), type(a)

        masked = np.ma.masked_less(np.arange(10.0), 5)
        try:
            assert look(masked) == (35, np.ma.MaskedArray)
        except (forebay.Unstorable, forebay.TypeMismatch) as error:
            assert "MaskedArray" in str(error)  # noqa: PT017

    @pytest.mark.parametrize("flag", [RRO, RRO("named", 1), RRO(writable="copy"), INOUT])
    def test_matrices_multiply_as_matrices(self, flag):
        @forebay.task(a=flag)
        def look(a):
            return (a * a).tolist()

        matrix = np.matrix([[1.0, 2.0], [3.0, 4.0]])
        try:
            assert look(matrix) == [[7, 10], [15, 22]]
        except (forebay.Unstorable, forebay.TypeMismatch) as error:
            assert "matrix" in str(error)  # noqa: PT017

    @pytest.mark.parametrize("flag", [RRO, RRO("named", 1), RRO(writable="copy")])
    def test_arrays_of_objects_are_seen_as_they_are_or_refused(self, flag):
        @forebay.task(a=flag)
        def look(a):
            return a.tolist()

        try:
            assert look(np.array([1, "a", None], object)) == [1, "a", None]
        except forebay.Unstorable as error:
            assert "object" in str(error)  # noqa: PT017


class TestNamedRro:
    def test_whoever_comes_first_puts_it_and_everybody_sees_that_one(self, store, numbers):
        @forebay.task(a=RRO("points", 3))
        def look(a):
            return float(a.sum()), in_a_segment(a), a.flags.writeable

        assert look(numbers) == (numbers.sum(), True, False)
        assert store.get("points", version=3).sum() == numbers.sum()
        assert look(numbers.copy()) == (numbers.sum(), True, False)
        assert look(np.zeros(3))[0] == numbers.sum()
        assert [info.version for info in store.list("points")] == [3]

    def test_the_id_may_name_other_arguments(self, store):
        @forebay.task(block=RRO("block/{row}/{column}", 2))
        def total(row, block, *, column=7):
            return block.sum()

        assert total(3, np.ones(1000)) == 1000
        assert total(4, np.zeros(1000), column=1) == 0
        assert [info.id for info in store.list()] == ["block/3/7", "block/4/1"]

    def test_a_handle_is_taken_as_it_is(self, store, numbers):
        @forebay.task(a=RRO("points", 3))
        def total(a):
            return a.sum()

        assert total(store.put("other", numbers)) == numbers.sum()
        assert not store.contains("points")


class TestWritableCopy:
    @pytest.mark.parametrize("kind", ["array", "ref", "view", "shared"])
    def test_the_task_gets_a_writable_array_of_its_own(self, store, numbers, kind):
        @forebay.task(a=RRO(writable="copy"))
        def spoil(a):
            a += 1
            return float(a.sum())

        argument = numbers if kind == "array" else handles(store, numbers)[kind]
        expected = numbers.sum() + LARGE
        assert spoil(argument) == expected
        assert spoil(argument) == expected
        assert numbers[0] == 0
        if kind != "array":
            assert store.get("h")[0] == 0

    def test_pages_that_are_not_written_to_stay_shared(self, store):
        def private_kib() -> int:
            with open("/proc/self/smaps_rollup") as file:
                return sum(int(s.split()[1]) for s in file if s.startswith("Private_Dirty"))

        @forebay.task(a=RRO(writable="copy"))
        def touch(a):
            before = private_kib()
            a[::100_000] = -1
            return private_kib() - before

        ref = store.put("a", np.ones(3_000_000))
        assert touch(ref) < 4000
        assert touch(store.get(ref)) < 4000


class TestInout:
    def test_an_array_is_written_to_itself(self, store, numbers):
        @forebay.task(a=INOUT)
        def increment(a):
            a += 1

        increment(numbers)
        assert numbers[0] == 1
        assert list(store.list()) == []

    @pytest.mark.parametrize("kind", ["ref", "view", "shared"])
    def test_a_handle_becomes_the_next_version(self, store, numbers, kind):
        @forebay.task(a=INOUT)
        def increment(a, by=1):
            assert a.flags.writeable
            a += by

        handle = handles(store, numbers)[kind]
        name = "h" if kind != "shared" else [i.id for i in store.list() if i.id != "h"][0]
        assert increment(handle) is None
        assert [info.version for info in store.list(name)] == [1, 2]
        assert store.get(name, version=1)[0] == 0
        assert store.get(name)[0] == 1

    def test_versions_follow_each_other(self, store):
        @forebay.task(a=INOUT)
        def increment(a):
            a += 1
            return a

        handle = store.put("a", np.zeros(LARGE))
        for _ in range(3):
            handle = increment(handle)
        assert store.get("a").sum() == 3 * LARGE
        assert [info.version for info in store.list("a")] == [1, 2, 3, 4]

    def test_the_argument_that_is_returned_is_a_handle_of_the_new_version(self, store):
        @forebay.task(a=INOUT)
        def increment(a):
            a += 1
            return a, 5

        back, five = increment(store.put("a", np.zeros(LARGE)))
        assert five == 5
        if isinstance(back, forebay.Ref):
            assert back.version == 2
        else:
            assert len(pickle.dumps(back)) < HANDLE
            assert not back.flags.writeable
            assert back.sum() == LARGE
            assert "a@2" in handle_of(back)[0]

    def test_a_task_that_raises_leaves_the_former_version(self, store):
        @forebay.task(a=INOUT)
        def fail(a):
            a += 1
            raise RuntimeError("mine")

        ref = store.put("a", np.zeros(LARGE))
        with pytest.raises(RuntimeError, match="mine"):
            fail(ref)
        assert [info.version for info in store.list("a")] == [1]
        assert store.get("a").sum() == 0
        with pytest.raises(RuntimeError):
            fail(ref)

    def test_taken_in_place(self, store):
        @forebay.task(a=INOUT(take=True))
        def increment(a, fail=False):
            a += 1
            if fail:
                raise RuntimeError("mine")

        ref = store.put("a", np.zeros(LARGE))
        increment(ref)
        assert store.get("a").sum() == LARGE
        with pytest.raises(forebay.Superseded):
            store.get(ref)
        gc.collect()
        with pytest.raises(RuntimeError):
            increment(store.stat("a") and forebay.Ref(str(handle_of(store.get("a"))[0])), fail=True)
        with pytest.raises(forebay.NotFound):
            store.get("a")

    def test_take_of_one_that_is_used_is_a_conflict(self, store):
        @forebay.task(a=INOUT(take=True))
        def increment(a):
            a += 1

        ref = store.put("a", np.zeros(LARGE))
        held = store.get(ref)
        with pytest.raises(forebay.Conflict):
            increment(ref)
        assert held.sum() == 0

    @pytest.mark.parametrize("value", [5, None, "text", [1, 2], {"a": 1}, object()], ids=repr)
    def test_what_is_no_array_is_an_error_that_names_the_argument(self, value):
        @forebay.task(field=INOUT)
        def touch(field):
            pytest.fail("was called")

        with pytest.raises(forebay.TypeMismatch, match="field"):
            touch(value)

    def test_nor_is_a_ref_of_an_object(self, store):
        @forebay.task(field=INOUT)
        def touch(field):
            pytest.fail("was called")

        with pytest.raises(forebay.TypeMismatch):
            touch(store.put("o", [1, np.zeros(3)]))

    def test_a_read_only_array_of_nobodys(self):
        @forebay.task(field=INOUT)
        def touch(field):
            field[0] = 1

        frozen = np.zeros(3)
        frozen.flags.writeable = False
        with pytest.raises((ValueError, forebay.TypeMismatch)):
            touch(frozen)
        assert frozen[0] == 0

    def test_a_list_of_handles(self, store):
        @forebay.task(fields=INOUT)
        def increment(fields):
            for field in fields:
                field += 1

        mine = np.zeros(3)
        refs = [store.put("a", np.zeros(LARGE)), store.put("b", np.ones(LARGE)), mine]
        increment(refs)
        assert store.get("a").sum() == LARGE
        assert store.get("b").sum() == 2 * LARGE
        assert mine.sum() == 3

    def test_when_one_of_several_raises_none_is_published(self, store):
        @forebay.task(a=INOUT, b=INOUT)
        def fail(a, b):
            a += 1
            b += 1
            raise RuntimeError

        refs = store.put_many({"a": np.zeros(LARGE), "b": np.zeros(LARGE)})
        with pytest.raises(RuntimeError):
            fail(*refs)
        assert store.get_many(["a", "b"])[0].sum() == 0
        assert len(list(store.list())) == 2

    def test_the_same_handle_twice_does_not_hang(self, store):
        @forebay.task(a=INOUT, b=INOUT)
        def both(a, b):
            a += 1
            b += 1

        ref = store.put("a", np.zeros(LARGE))
        try:
            both(ref, ref)
        except (forebay.Conflict, forebay.Exists, forebay.BadArgument):
            assert store.get(ref).sum() == 0
        else:
            assert store.get("a").sum() == 2 * LARGE

    def test_a_reader_of_the_same_handle_sees_the_former_version(self, store):
        @forebay.task(a=RRO, b=INOUT)
        def work(a, b):
            b += 1
            return float(a.sum())

        assert work(store.put("a", np.zeros(LARGE)), store.put("a", np.ones(LARGE))) == 0
        ref = store.put("b", np.zeros(LARGE))
        assert work(ref, ref) == 0
        assert store.get("b").sum() == LARGE

    def test_a_view_of_a_part_of_a_segment(self, store):
        @forebay.task(a=INOUT)
        def increment(a):
            assert a.shape == (10,)
            a += 1

        store.put("a", np.zeros(LARGE))
        try:
            increment(store.get("a")[5:15])
        except forebay.ForebayError:
            assert len(list(store.list("a"))) == 1
        else:
            assert store.get("a").sum() == 10
            assert store.get("a").shape == (LARGE,)

    def test_a_member_of_an_object(self, store):
        @forebay.task(a=INOUT)
        def increment(a):
            a += 1

        store.put("o", [np.zeros(LARGE), 5])
        with pytest.raises(forebay.TypeMismatch):
            increment(store.get("o")[0])
        assert store.get("o")[0].sum() == 0

    def test_views_of_the_argument_that_outlive_the_task(self, store):
        kept = []

        @forebay.task(a=INOUT)
        def keep(a):
            kept.append(a[1:])
            a += 1

        ref = store.put("a", np.zeros(LARGE))
        try:
            keep(ref)
        except BufferError:
            assert [info.version for info in store.list("a")] == [ref.version]
        else:
            assert store.get("a").sum() == LARGE
            with pytest.raises(ValueError, match="read-only"):
                kept[0][0] = 5
            assert store.get("a").sum() == LARGE


class TestIn:
    def test_it_leaves_everything_alone(self, store, numbers):
        @forebay.task(a=IN)
        def same(a, b):
            return a, b

        ref = store.put("a", numbers)
        assert same(ref, ref) == (ref, ref)
        a, b = same(numbers, b=numbers)
        assert a is numbers
        assert b is numbers


class TestKeep:
    def test_arrays_stay_in_the_store_and_travel_as_handles(self, store):
        @forebay.task(returns=KEEP)
        def make(n):
            return np.arange(float(n))

        with forebay.scope():
            result = make(LARGE)
            assert np.array_equal(np.asarray(result), np.arange(float(LARGE)))
            assert in_a_segment(result)
            assert len(pickle.dumps(result)) < HANDLE
            assert pickle.loads(pickle.dumps(result)).ctypes.data == result.ctypes.data
        assert list(store.list()) == []

    def test_in_tuples_lists_and_dicts(self):
        @forebay.task(returns=KEEP)
        def make():
            return np.zeros(LARGE), [np.ones(LARGE), 5], {"x": np.arange(LARGE), "s": "text"}

        with forebay.scope():
            first, (second, five), third = make()
            assert five == 5
            assert third["s"] == "text"
            for array in first, second, third["x"]:
                assert in_a_segment(array)
            assert len(pickle.dumps([first, second, third])) < 4 * HANDLE

    def test_numbers_and_text_are_left_alone(self, store):
        @forebay.task(returns=KEEP)
        def same(value):
            return value

        for value in 5, 2.5, "text", None, True, 1j:
            assert same(value) == value
            assert type(same(value)) is type(value)
        assert list(store.list()) == []

    def test_objects_come_back_as_a_ref(self, store):
        @forebay.task(returns=KEEP)
        def make():
            return Model(np.arange(float(LARGE)))

        @forebay.task(model=RRO)
        def total(model):
            return model.weights.sum(), in_a_segment(model.weights)

        with forebay.scope():
            ref = make()
            assert isinstance(ref, forebay.Ref)
            assert store.get(ref).weights.sum() == np.arange(LARGE).sum()
            assert total(ref) == (np.arange(LARGE).sum(), True)

    def test_under_a_name_that_names_arguments(self, store):
        @forebay.task(returns=KEEP("sum/{i}", 1))
        def make(n, i=3):
            return np.full(1000, float(n))

        make(5)
        make(6, i=4)
        make(7, 5)
        assert [store.get(f"sum/{i}", version=1)[0] for i in (3, 4, 5)] == [5, 6, 7]

    def test_a_task_that_is_run_again_may_write_the_same_and_nothing_else(self, store):
        @forebay.task(returns=KEEP("sum", 1))
        def make(n):
            return np.full(1000, float(n))

        first, second = make(5), make(5)
        assert np.array_equal(np.asarray(first), np.asarray(second))
        with pytest.raises(forebay.Exists, match="sum"):
            make(6)
        assert store.get("sum")[0] == 5

    def test_a_result_that_is_an_argument_is_not_copied(self, store, numbers):
        @forebay.task(a=RRO, returns=KEEP)
        def part(a):
            return a[10:]

        ref = store.put("a", numbers)
        result = part(ref)
        assert np.array_equal(np.asarray(result), numbers[10:])
        assert len(list(store.list())) == 1
        assert len(pickle.dumps(result)) < HANDLE

    def test_several_results_under_one_name_are_all_there(self):
        @forebay.task(returns=KEEP("pair", 1))
        def make():
            return np.zeros(1000), np.ones(1000)

        try:
            first, second = make()
        except forebay.ForebayError as error:
            assert "pair" in str(error)  # noqa: PT017
        else:
            assert first.sum() == 0
            assert second.sum() == 1000
            first, second = make()
            assert second.sum() == 1000

    def test_objects_in_a_list_and_numbers_of_numpy(self, store):
        @forebay.task(returns=KEEP)
        def make():
            return [Model(np.ones(LARGE)), np.float64(2.5), np.array(3.5), np.ones(LARGE)]

        with forebay.scope():
            model, number, point, array = make()
            assert isinstance(model, forebay.Ref)
            assert store.get(model).weights.sum() == LARGE
            assert type(number) is np.float64
            assert float(point) == 3.5
            assert in_a_segment(array)

    def test_an_array_of_objects(self, store):
        @forebay.task(returns=KEEP)
        def make():
            return np.array([1, "a", None], object)

        with forebay.scope():
            result = make()
            result = store.get(result) if isinstance(result, forebay.Ref) else result
            assert result.tolist() == [1, "a", None]
            assert len(list(store.list())) == 1

    def test_a_result_that_cannot_be_stored_is_refused_by_name(self):
        @forebay.task(returns=KEEP)
        def make():
            return threading.Lock()

        with pytest.raises(forebay.Unstorable, match="lock"):
            make()

    def test_a_masked_result_keeps_its_mask(self, store):
        @forebay.task(returns=KEEP)
        def make():
            return np.ma.masked_less(np.arange(10.0), 5)

        with forebay.scope():
            result = make()
            if isinstance(result, forebay.Ref):
                result = store.get(result)
            assert result.sum() == 35


class Model:
    def __init__(self, weights):
        self.weights = weights


class TestCollections:
    def test_element_by_element_in_lists_tuples_and_dicts(self, store, numbers):
        @forebay.task(parts=RRO)
        def look(parts):
            values = list(parts.values()) if isinstance(parts, dict) else list(parts)
            arrays = [a for a in values if isinstance(a, np.ndarray)]
            return type(parts), [float(a.sum()) for a in arrays], [a.flags.writeable for a in arrays]

        for make in list, tuple, lambda parts: dict(zip("abcd", parts)):
            parts = make([store.put("x", numbers), numbers, forebay.share(numbers), 5])
            kind, sums, writeable = look(parts)
            assert kind is type(parts)
            assert sums == [numbers.sum()] * 3
            assert writeable == [False] * 3
        assert numbers.flags.writeable

    def test_nested(self, store, numbers):
        @forebay.task(parts=RRO)
        def look(parts):
            return parts["a"][0][1].sum()

        assert look({"a": [(5, store.put("x", numbers))]}) == numbers.sum()

    def test_named_tuples_keep_their_class(self, store, numbers):
        from collections import namedtuple

        Pair = namedtuple("Pair", "x y")

        @forebay.task(pair=RRO)
        def look(pair):
            return pair.x.sum(), pair.y, type(pair)

        assert look(Pair(store.put("x", numbers), 5)) == (numbers.sum(), 5, Pair)

    def test_the_callers_collection_is_not_changed(self, store, numbers):
        @forebay.task(parts=RRO)
        def clear(parts):
            parts.clear()

        parts = [store.put("x", numbers), numbers]
        clear(parts)
        assert len(parts) == 2
        assert isinstance(parts[0], forebay.Ref)

    def test_args_and_kwargs(self, store, numbers):
        @forebay.task(arrays=RRO, named=RRO)
        def look(first, *arrays, **named):
            return [float(a.sum()) for a in [*arrays, *named.values()]], first

        ref = store.put("x", numbers)
        sums, first = look(ref, ref, numbers, y=ref)
        assert sums == [numbers.sum()] * 3
        assert first == ref

    def test_a_list_that_contains_itself_ends(self):
        @forebay.task(parts=RRO)
        def look(parts):
            return len(parts)

        loop: list = [1]
        loop.append(loop)
        try:
            assert look(loop) == 2
        except (forebay.ForebayError, RecursionError):
            pass


class TestItRemainsAFunction:
    def test_name_signature_documentation_and_wrapped(self):
        def partial_sum(points: np.ndarray, centres=None, *, scale: float = 1.0) -> float:
            """Sum."""

        decorated = forebay.task(points=RRO)(partial_sum)
        assert decorated.__name__ == "partial_sum"
        assert decorated.__qualname__ == partial_sum.__qualname__
        assert decorated.__module__ == __name__
        assert decorated.__doc__ == "Sum."
        assert decorated.__wrapped__ is partial_sum
        assert inspect.signature(decorated) == inspect.signature(partial_sum)
        assert decorated.__annotations__ == partial_sum.__annotations__
        assert callable(decorated)
        assert inspect.isfunction(decorated)

    def test_without_any_flag_and_without_parentheses(self):
        @forebay.task
        def plain(x):
            return x + 1

        @forebay.task()
        def called(x):
            return x + 1

        assert plain(1) == called(1) == 2

    def test_flags_of_each_form(self):
        for flag in RRO, RRO(), RRO("a", 1), RRO(writable="copy"), IN, IN(), INOUT, INOUT():
            forebay.task(x=flag)(lambda x: x)
        for returns in KEEP, KEEP(), KEEP("a"), KEEP("a", 1), IN:
            forebay.task(returns=returns)(lambda x: x)

    def test_defaults_and_keywords(self, store, numbers):
        @forebay.task(a=RRO, b=RRO)
        def total(a, b=numbers, *, c=1):
            return a.sum() + b.sum() + c

        ref = store.put("x", numbers)
        assert total(ref) == 2 * numbers.sum() + 1
        assert total(b=ref, a=ref, c=2) == 2 * numbers.sum() + 2
        with pytest.raises(TypeError, match="missing"):
            total()
        with pytest.raises(TypeError, match="d"):
            total(ref, d=1)

    def test_methods(self, store, numbers):
        class Solver:
            @forebay.task(points=RRO)
            def total(self, points):
                return self, points.sum()

            @staticmethod
            @forebay.task(points=RRO)
            def of_nobody(points):
                return points.sum()

            @classmethod
            @forebay.task(points=RRO)
            def of_the_class(cls, points):
                return cls, points.sum()

        ref = store.put("x", numbers)
        solver = Solver()
        assert solver.total(ref) == (solver, numbers.sum())
        assert Solver.total(solver, ref) == (solver, numbers.sum())
        assert Solver.of_nobody(ref) == solver.of_nobody(ref) == numbers.sum()
        assert Solver.of_the_class(ref) == (Solver, numbers.sum())
        assert list(inspect.signature(solver.total).parameters) == ["points"]

    def test_coroutines(self, store, numbers):
        @forebay.task(a=RRO, b=INOUT, returns=KEEP)
        async def work(a, b):
            await asyncio.sleep(0)
            b += 1
            return a * 2

        assert inspect.iscoroutinefunction(work)
        ref = store.put("a", numbers)
        with forebay.scope():
            result = asyncio.run(work(ref, store.put("b", np.zeros(LARGE))))
            assert in_a_segment(result)
            assert result[3] == 6
            assert store.get("b").sum() == LARGE
        assert pins(store, "a") == 0

    def test_under_and_above_other_decorators(self, store, numbers):
        def twice(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return 2 * function(*args, **kwargs)

            return wrapper

        @twice
        @forebay.task(a=RRO)
        def below(a):
            return a.sum()

        @forebay.task(a=RRO)
        @twice
        def above(a):
            return a.sum()

        ref = store.put("x", numbers)
        assert below(ref) == above(ref) == 2 * numbers.sum()
        cached = functools.lru_cache(forebay.task(a=RRO)(lambda a: a.sum()))
        assert cached(ref) == cached(ref) == numbers.sum()
        assert functools.partial(below, ref)() == 2 * numbers.sum()

    def test_twice(self, store, numbers):
        @forebay.task(a=RRO)
        @forebay.task(b=INOUT)
        def both(a, b):
            b += a

        both(store.put("a", numbers), store.put("b", np.zeros(LARGE)))
        assert np.array_equal(store.get("b"), numbers)

    def test_it_can_be_pickled_by_name_and_with_cloudpickle(self, store, numbers):
        assert pickle.loads(pickle.dumps(module_task)) is module_task
        cloudpickle = pytest.importorskip("cloudpickle")

        @forebay.task(a=RRO)
        def local(a):
            return a.sum()

        back = pickle.loads(cloudpickle.dumps(local))
        assert back(store.put("x", numbers)) == numbers.sum()

    def test_parameters_of_any_name_and_kind(self, store, numbers):
        ref = store.put("x", numbers)

        @forebay.task(a=RRO, b=RRO)
        def positional(a, /, *, b):
            return a.sum() + b.sum()

        assert positional(ref, b=ref) == 2 * numbers.sum()
        with pytest.raises(TypeError):
            positional(a=ref, b=ref)

        @forebay.task(self=RRO, args=RRO, kwargs=RRO)
        def odder(self, args, kwargs):
            return self.sum() + args.sum() + kwargs.sum()

        assert odder(ref, args=ref, kwargs=ref) == 3 * numbers.sum()

    def test_a_parameter_called_function(self, store, numbers):
        @forebay.task(function=RRO)
        def total(function):
            return function.sum()

        assert total(store.put("x", numbers)) == numbers.sum()

    def test_partials_callables_and_ufuncs(self, store, numbers):
        ref = store.put("x", numbers)
        partial = forebay.task(b=RRO)(functools.partial(lambda a, b: a * b.sum(), 2))
        assert partial(ref) == 2 * numbers.sum()

        class Callable:
            def __call__(self, b):
                return b.sum()

        assert forebay.task(b=RRO)(Callable())(ref) == numbers.sum()

    def test_recursion_and_tasks_that_call_tasks(self, store, numbers):
        @forebay.task(a=RRO)
        def total(a, depth=3):
            return total(a, depth - 1) if depth else a.sum()

        assert total(store.put("x", numbers)) == numbers.sum()
        assert pins(store, "x") == 0

    def test_generators_see_arrays_as_well(self, store, numbers):
        @forebay.task(a=RRO)
        def parts(a):
            for i in range(2):
                yield float(a[i * 10 : (i + 1) * 10].sum())

        assert list(parts(store.put("x", numbers))) == [45, 145]


@forebay.task(a=RRO)
def module_task(a):
    return float(a.sum())


class TestBadFlags:
    def test_an_unknown_name_at_decoration_names_the_nearest(self):
        with pytest.raises(forebay.BadArgument, match="pionts.*points"):

            @forebay.task(pionts=RRO)
            def f(points, centres):
                pass

    def test_one_that_is_near_to_nothing(self):
        with pytest.raises(forebay.BadArgument, match="xyz"):
            forebay.task(xyz=RRO)(lambda points: None)

    def test_what_is_no_flag(self):
        for flag in 5, "RRO", None, KEEP, True, RRO.__class__:
            with pytest.raises((forebay.BadArgument, TypeError)):
                forebay.task(a=flag)(lambda a: None)
        for returns in 5, "KEEP", RRO, INOUT:
            with pytest.raises((forebay.BadArgument, TypeError)):
                forebay.task(returns=returns)(lambda a: None)

    def test_bad_options(self):
        with pytest.raises((forebay.BadArgument, TypeError)):
            RRO(writable="yes")
        with pytest.raises((forebay.BadArgument, TypeError)):
            RRO("a", 0)

    def test_a_template_that_names_no_argument(self):
        with pytest.raises(forebay.BadArgument, match="raw"):

            @forebay.task(block=RRO("block/{raw}", 1))
            def look(row, block):
                pass

            look(1, np.zeros(3))

        with pytest.raises(forebay.BadArgument, match="raw"):

            @forebay.task(returns=KEEP("block/{raw}", 1))
            def make(row):
                return np.zeros(3)

            make(1)

    def test_kwargs_take_any_name_only_under_their_own(self):
        with pytest.raises(forebay.BadArgument, match="points"):

            @forebay.task(points=RRO)
            def f(**named):
                pass


class TestPins:
    def test_they_live_for_the_task(self, store, numbers):
        ref = store.put("a", numbers)

        @forebay.task(a=RRO)
        def look(a):
            return pins(store, "a")

        assert look(ref) == 1
        gc.collect()
        assert pins(store, "a") == 0

    def test_also_when_it_raises(self, store, numbers):
        ref = store.put("a", numbers)

        @forebay.task(a=RRO)
        def fail(a):
            raise RuntimeError("mine")

        try:
            fail(ref)
        except RuntimeError:
            pass
        gc.collect()
        assert pins(store, "a") == 0

    def test_two_tasks_of_one_process_share_them(self, store, numbers):
        ref = store.put("a", numbers)
        barrier = threading.Barrier(2)
        seen = []

        @forebay.task(a=RRO)
        def look(a):
            barrier.wait(30)
            seen.append((pins(store, "a"), a.ctypes.data))
            barrier.wait(30)

        threads = [threading.Thread(target=look, args=(ref,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(seen) == 2
        assert seen[0] == seen[1]
        assert seen[0][0] == 1
        gc.collect()
        assert pins(store, "a") == 0

    def test_a_view_that_outlives_the_task_keeps_what_it_shows(self, store, numbers):
        ref = store.put("a", numbers)

        @forebay.task(a=RRO)
        def part(a):
            return a[10:20]

        result = part(ref)
        store.remove("a")
        for i in range(10):
            store.put(f"other {i}", np.zeros(LARGE))
        assert result.sum() == numbers[10:20].sum()

    def test_a_killed_task_leaves_nothing(self, store, numbers):
        store.put("a", numbers)
        store.put("b", numbers)
        used = store.status()["used_bytes"]
        with Other(
            store,
            """
            import os, signal
            @forebay.task(a=forebay.RRO, b=forebay.INOUT)
            def work(a, b):
                b += 1
                say("working")
                hear()
            work(store.get("a"), store.get("b"))
            """,
        ) as other:
            assert other.hear() == "working"
            assert pins(store, "a") >= 1
            other.kill()
        assert eventually(lambda: pins(store, "a") == 0 and pins(store, "b") == 0)
        assert eventually(lambda: store.status()["used_bytes"] == used)
        assert [info.version for info in store.list("b")] == [1]

    def test_a_retried_task_goes_on_where_a_killed_one_was(self, store, numbers):
        ref = store.put("b", numbers)
        with Other(
            store,
            """
            @forebay.task(b=forebay.INOUT)
            def work(b):
                b += 1
                say("working")
                hear()
            work(store.get("b"))
            """,
        ) as other:
            assert other.hear() == "working"
            other.kill()

        @forebay.task(b=INOUT)
        def work(b):
            b += 1

        def retried():
            try:
                work(ref)
            except forebay.Conflict:
                return False
            return True

        assert eventually(retried)
        assert store.get("b")[0] == 1
        assert [info.version for info in store.list("b")] == [1, 2]


class TestInoutAgain:
    def test_a_task_that_is_run_again_writes_the_same_version(self, store):
        @forebay.task(a=INOUT)
        def increment(a, by):
            a += by

        ref = store.put("a", np.zeros(LARGE))
        increment(ref, 1)
        increment(ref, 1)
        assert [info.version for info in store.list("a")] == [1, 2]
        assert store.get("a").sum() == LARGE
        with pytest.raises(forebay.Exists):
            increment(ref, 2)
        assert store.get("a").sum() == LARGE


class TestWithoutAStore:
    def test_a_call_in_one_process_needs_none(self, tmp_path):
        said = run(
            """
            import numpy as np, os, forebay
            from forebay import RRO, INOUT, IN
            @forebay.task(a=RRO, b=INOUT, c=RRO(writable="copy"), d=IN)
            def work(a, b, c, d=5):
                b += a
                c += 1
                return float(c.sum())
            b = np.zeros(1000)
            print(work(np.ones(1000), b, np.zeros(1000)), b.sum())
            print(work([np.ones(1000)][0], b, {"x": np.zeros(3)}["x"]), b.sum())
            print(os.listdir(os.path.dirname(os.environ["FOREBAY_SOCKET"])))
            """,
            FOREBAY_SOCKET=str(tmp_path / "nobody.sock"),
            XDG_RUNTIME_DIR=str(tmp_path),
        )
        assert said == "1000.0 1000.0\n3.0 2000.0\n[]\n"


class TestAStoreInTrouble:
    def test_a_full_one_makes_the_task_say_who_holds_what(self, store):
        held = []
        for i in range(3):
            store.put(f"mine {i}", np.zeros(4_000_000))
            held.append(store.get(f"mine {i}"))

        @forebay.task(returns=KEEP("result", 1))
        def make():
            return np.zeros(6_000_000)

        with pytest.raises(forebay.StoreFull, match=f"(?s){os.getpid()}") as caught:
            make()
        assert "result" in notes(caught.value)
        del held

        @forebay.task(a=INOUT)
        def increment(a):
            a += 1

        with pytest.raises(forebay.StoreFull):
            for _ in range(3):
                increment(store.get("mine 0"))
        assert store.get("mine 0", version=1).sum() == 0

    def test_a_handle_of_a_store_that_was_started_anew(self, daemon):
        store = daemon.connect()
        text = str(store.put("a", np.zeros(LARGE)))
        store.close()
        daemon.end()
        daemon.log = open(daemon.log.name, "ab")
        daemon.start()
        said = run(
            """
            import sys, forebay
            @forebay.task(a=forebay.RRO)
            def total(a): return a.sum()
            @forebay.task(a=forebay.INOUT)
            def increment(a): a += 1
            for work in total, increment:
                try: work(forebay.Ref(sys.argv[1]))
                except forebay.WrongStore as error: print("wrong store")
            """,
            text,
            FOREBAY_SOCKET=daemon.socket,
        )
        assert said == "wrong store\n" * 2

    def test_a_ref_that_was_removed(self, store, numbers):
        ref = store.put("a", numbers)
        store.remove("a")
        with pytest.raises(forebay.StaleRef):
            module_task(ref)
