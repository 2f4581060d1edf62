# SPDX-License-Identifier: Apache-2.0
"""Any object: what it comes back as, what of it is shared, who pins it, what is refused."""

from __future__ import annotations

import array
import asyncio
import collections
import dataclasses
import datetime
import decimal
import enum
import gc
import mmap
import pickle
import socket
import sys
import textwrap
import threading
import types

import numpy as np
import pytest

import forebay
from support import Other, eventually, in_a_segment, pins, run

LARGE = 50_000


def through(store, value, **options):
    """What comes back of `value`."""
    store.put("object", value)
    return store.get("object", **options)


def is_shared(a) -> bool:
    return in_a_segment(a) and a.ctypes.data % 64 == 0 and not a.flags.writeable


def structured() -> np.ndarray:
    dtype = np.dtype([("x", "<i2"), ("y", "<f8", (2,)), ("name", "U3")], align=True)
    result = np.zeros(LARGE, dtype)
    result["x"] = np.arange(LARGE) % 1000
    result["name"] = "äbc"
    return result


ARRAYS = {
    "floats": np.arange(float(LARGE)),
    "half": np.arange(LARGE).astype(np.float16),
    "long double": np.arange(LARGE).astype(np.longdouble),
    "complex": np.arange(LARGE) * 1j,
    "big endian": np.arange(LARGE).astype(">i4"),
    "bool": np.arange(LARGE) % 3 == 0,
    "dates": np.datetime64("2026-01-01") + np.arange(LARGE),
    "nanoseconds": np.arange(LARGE).astype("m8[ns]"),
    "text": np.array(["", "ä", "abc"] * LARGE),
    "fixed bytes": np.array([b"", b"a", b"a\0b"] * LARGE),
    "void": np.arange(LARGE * 5, dtype="u1").view("V5"),
    "structured": structured(),
    "Fortran order": np.asfortranarray(np.arange(LARGE * 6.0).reshape(2, 3, LARGE)),
}


class TestArraysInObjects:
    @pytest.mark.parametrize("name", ARRAYS)
    def test_plain_elements_are_shared_with_their_order(self, store, name):
        original = ARRAYS[name]
        [back] = through(store, [original])
        assert type(back) is np.ndarray
        assert back.dtype == original.dtype
        assert back.shape == original.shape
        assert back.flags.c_contiguous == original.flags.c_contiguous
        assert back.flags.f_contiguous == original.flags.f_contiguous
        assert back.tobytes() == original.tobytes()
        assert is_shared(back)
        with pytest.raises(ValueError, match="read-only"):
            back[...] = original
        with pytest.raises(ValueError, match="WRITEABLE"):
            back.flags.writeable = True

    @pytest.mark.parametrize("wrap", [lambda a: a, lambda a: [a]], ids=["alone", "in a list"])
    @pytest.mark.parametrize(
        "strided",
        [
            np.arange(LARGE * 2.0)[::2],
            np.arange(float(LARGE))[::-1],
            np.broadcast_to(np.arange(5.0), (LARGE, 5)),
            np.arange(LARGE * 6.0).reshape(2, 3, LARGE).transpose(1, 0, 2),
            structured()["y"],
        ],
        ids=["step", "backwards", "broadcast", "transposed", "field"],
    )
    def test_strides_become_c_order(self, store, strided, wrap):
        back = through(store, wrap(strided))
        back = back[0] if isinstance(back, list) else back
        assert type(back) is np.ndarray
        assert back.flags.c_contiguous
        assert np.array_equal(back, strided)
        assert is_shared(back)

    @pytest.mark.parametrize("wrap", [lambda a: a, lambda a: [a]], ids=["alone", "in a list"])
    def test_a_memmap_comes_back_as_a_plain_array(self, store, tmp_path, wrap):
        original = np.memmap(tmp_path / "file", "f8", "w+", shape=(LARGE,))
        original[:] = np.arange(LARGE)
        back = through(store, wrap(original))
        back = back[0] if isinstance(back, list) else back
        assert type(back) is np.ndarray
        assert (back == np.arange(LARGE)).all()
        assert is_shared(back)

    def test_the_empty_and_those_without_dimensions(self, store):
        originals = [np.zeros(0), np.zeros((3, 0, 2), "i4"), np.array(5.0), np.array("x")]
        for original, back in zip(originals, through(store, originals)):
            assert type(back) is np.ndarray
            assert back.dtype == original.dtype
            assert back.shape == original.shape
            assert back.tobytes() == original.tobytes()

    def test_one_that_occurs_twice_is_stored_once(self, store):
        original = np.arange(float(LARGE))
        first, second = through(store, [original, original])
        assert first is second
        assert store.stat("object").info.size < 1.5 * original.nbytes

    def test_70_000_small_ones(self, store):
        originals = [np.full(i % 5, i, "i4") for i in range(70_000)]
        back = through(store, originals)
        assert len(back) == 70_000
        assert all(np.array_equal(a, b) for a, b in zip(originals, back))
        assert {a.dtype for a in back} == {np.dtype("i4")}
        assert pins(store, "object") == 1
        del back
        assert pins(store, "object") == 0


class Annotated(np.ndarray):
    """A subclass with attributes in its `__dict__`."""

    def __array_finalize__(self, other):
        if other is not None:
            self.unit = getattr(other, "unit", None)


class Slotted(np.ndarray):
    __slots__ = ("unit",)


class Reducing(np.ndarray):
    __slots__ = ("unit",)

    def __reduce__(self):
        return make_reducing, (np.asarray(self), self.unit)


def make_reducing(plain, unit):
    result = plain.view(Reducing)
    result.unit = unit
    return result


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: {"a": a}], ids=["alone", "by name"])
class TestSubclasses:
    def back(self, store, original, wrap):
        back = through(store, wrap(original))
        return back if wrap(0) == 0 else back["a"]

    def test_matrix(self, store, wrap):
        original = np.matrix(np.arange(LARGE * 2.0).reshape(LARGE, 2))
        back = self.back(store, original, wrap)
        assert type(back) is np.matrix
        assert (back == original).all()
        assert (back[:2].T * back[:2]).shape == (2, 2)
        assert is_shared(back)

    def test_recarray(self, store, wrap):
        original = structured().view(np.recarray)
        back = self.back(store, original, wrap)
        assert type(back) is np.recarray
        assert back.dtype == original.dtype
        assert (back.x == original.x).all()
        assert is_shared(back)

    def test_one_with_attributes(self, store, wrap):
        original = np.arange(float(LARGE)).view(Annotated)
        original.unit = {"name": "metre"}
        back = self.back(store, original, wrap)
        assert type(back) is Annotated
        assert back.unit == {"name": "metre"}
        assert (np.asarray(back) == np.arange(LARGE)).all()
        assert is_shared(back)

    def test_one_with_attributes_and_strides(self, store, wrap):
        original = np.arange(2.0 * LARGE).view(Annotated)[::2]
        original.unit = "metre"
        back = self.back(store, original, wrap)
        assert type(back) is Annotated
        assert back.unit == "metre"
        assert (np.asarray(back) == np.arange(2.0 * LARGE)[::2]).all()

    def test_one_that_reduces_itself(self, store, wrap):
        original = np.arange(float(LARGE)).view(Reducing)
        original.unit = "metre"
        back = self.back(store, original, wrap)
        assert type(back) is Reducing
        assert back.unit == "metre"
        assert (np.asarray(back) == np.arange(LARGE)).all()

    def test_one_whose_state_would_be_lost_is_refused_by_name(self, store, wrap):
        original = np.arange(float(LARGE)).view(Slotted)
        original.unit = "metre"
        with pytest.raises(forebay.Unstorable, match="Slotted"):
            store.put("object", wrap(original))
        assert "object" not in store


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: {"a": a}], ids=["alone", "by name"])
class TestMaskedArrays:
    def back(self, store, original, wrap):
        back = through(store, wrap(original))
        return back if wrap(0) == 0 else back["a"]

    def test_mask_fill_value_and_hardness_are_kept(self, store, wrap):
        values = np.arange(float(LARGE))
        original = np.ma.MaskedArray(values, values % 3 == 0, fill_value=-7, hard_mask=True)
        back = self.back(store, original, wrap)
        assert type(back) is np.ma.MaskedArray
        assert back.fill_value == -7
        assert back.hardmask
        assert np.array_equal(back.mask, original.mask)
        assert np.array_equal(np.asarray(back.data), values)
        assert back.sum() == original.sum()
        assert in_a_segment(back.data)
        assert in_a_segment(back.mask)

    def test_without_a_mask(self, store, wrap):
        back = self.back(store, np.ma.MaskedArray(np.arange(float(LARGE))), wrap)
        assert back.mask is np.ma.nomask or not back.mask.any()
        assert back.sum() == np.arange(LARGE).sum()
        assert not back.hardmask

    def test_of_two_dimensions_in_fortran_order_and_of_fields(self, store, wrap):
        values = np.asfortranarray(np.arange(12.0).reshape(3, 4))
        back = self.back(store, np.ma.masked_greater(values, 5), wrap)
        assert np.array_equal(back.mask, values > 5)
        assert np.array_equal(back.filled(0), np.where(values > 5, 0, values))
        fields = np.ma.array([(1, 2.0), (3, 4.0)], mask=[(0, 1), (1, 0)], dtype="i4,f8")
        back = self.back(store, fields, wrap)
        assert back.dtype == fields.dtype
        assert back.mask.tolist() == fields.mask.tolist()

    def test_data_cannot_be_written_to(self, store, wrap):
        back = self.back(store, np.ma.masked_less(np.arange(float(LARGE)), 5), wrap)
        with pytest.raises(ValueError, match="read-only"):
            back[10] = 1


class TestArraysOfObjects:
    def test_elements_are_pickled_and_arrays_in_them_shared(self, store):
        original = np.empty((2, 2), object)
        original[0, 0] = {"a": 1}
        original[0, 1] = np.arange(float(LARGE))
        original[1, 0] = "text"
        back = through(store, original)
        assert back.dtype == object
        assert back.shape == (2, 2)
        assert back[0, 0] == {"a": 1}
        assert back[1, 0] == "text"
        assert back[1, 1] is None
        assert (back[0, 1] == np.arange(LARGE)).all()
        assert is_shared(back[0, 1])
        assert pins(store, "object") == 1

    def test_one_that_contains_itself(self, store):
        original = np.empty(2, object)
        original[0] = original
        original[1] = 5
        back = through(store, original)
        assert back[0] is back
        assert back[1] == 5

    def test_fields_with_objects_and_text_of_any_length(self, store):
        original = np.array([(1, "a"), (2, None)], [("x", "i4"), ("o", object)])
        back = through(store, original)
        assert back.dtype == original.dtype
        assert back.tolist() == original.tolist()
        if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
            words = np.array(["a", "b" * 100], np.dtypes.StringDType())
            back = through(store, words)
            assert back.dtype == words.dtype
            assert back.tolist() == words.tolist()


class TestMappings:
    def test_names_and_plain_arrays_are_a_group(self, store):
        back = through(store, {"x": np.arange(float(LARGE)), "y": np.zeros(3)})
        assert isinstance(back, types.MappingProxyType)
        assert list(back) == ["x", "y"]
        assert is_shared(back["x"])

    @pytest.mark.parametrize(
        "mapping",
        [
            {"x": np.arange(float(LARGE)), "n": 5},
            {1: np.arange(float(LARGE))},
            {"x": {"deep": np.arange(float(LARGE))}},
            collections.OrderedDict([(("a", 1), np.arange(float(LARGE))), ("b", None)]),
        ],
        ids=["a number", "a key that is no name", "nested", "another class"],
    )
    def test_any_other_is_an_object(self, store, mapping):
        back = through(store, mapping)
        assert type(back) is type(mapping)
        assert list(back) == list(mapping)
        first = next(iter(back.values()))
        first = first["deep"] if isinstance(first, dict) else first
        assert (first == np.arange(LARGE)).all()
        assert is_shared(first)

    def test_an_array_of_objects_by_name(self, store):
        words = np.array(["a", None], object)
        assert through(store, {"words": words})["words"].tolist() == ["a", None]


class TestPandas:
    pd = property(lambda self: pytest.importorskip("pandas"))

    def test_a_frame_keeps_dtypes_and_index_and_shares_numbers(self, store):
        pd = self.pd
        frame = pd.DataFrame(
            {
                "x": np.arange(float(LARGE)),
                "y": np.arange(LARGE),
                "b": np.arange(LARGE) % 2 == 0,
                "t": pd.date_range("2026-01-01", periods=LARGE, freq="s", tz="Europe/Berlin"),
                "c": pd.Categorical(["a", "b"] * (LARGE // 2)),
                "s": ["text", "more"] * (LARGE // 2),
                "n": pd.array([1, None] * (LARGE // 2), dtype="Int64"),
                "o": [("a", 1), None] * (LARGE // 2),
            },
            index=pd.RangeIndex(5, LARGE + 5, name="row"),
        )
        back = through(store, frame)
        pd.testing.assert_frame_equal(back, frame)
        assert type(back.index) is pd.RangeIndex
        assert back.index.name == "row"
        for column in "x", "y", "b":
            assert in_a_segment(back[column].to_numpy()), column
            assert not back[column].to_numpy().flags.writeable
        assert pins(store, "object") == 1
        del back
        gc.collect()
        assert pins(store, "object") == 0

    def test_arrow_backed_columns_are_shared(self, store):
        pd = self.pd
        pa = pytest.importorskip("pyarrow")
        frame = pd.DataFrame(
            {"s": [f"word {i}" for i in range(LARGE)], "n": range(LARGE)}
        ).astype({"s": pd.ArrowDtype(pa.string()), "n": pd.ArrowDtype(pa.int64())})
        back = through(store, frame)
        pd.testing.assert_frame_equal(back, frame)
        for column in "s", "n":
            for chunk in pa.chunked_array(back[column].array.__arrow_array__()).chunks:
                assert all(in_a_segment(b.address) for b in chunk.buffers() if b and b.size)

    def test_series_and_kinds_of_index(self, store):
        pd = self.pd
        dates = pd.date_range("2026-01-01", periods=4, freq="D", name="day")
        levels = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["l", "n"])
        for index in dates, levels, pd.period_range("2026-01", periods=4, freq="M"):
            series = pd.Series([1.5, 2, 3, 4], index=index, name="values")
            series.attrs["unit"] = "metre"
            back = through(store, series)
            pd.testing.assert_series_equal(back, series)
            assert type(back.index) is type(index)
            assert back.attrs == {"unit": "metre"}

    def test_a_private_copy_can_be_changed(self, store):
        pd = self.pd
        store.put("f", pd.DataFrame({"x": np.arange(float(LARGE)), "y": np.zeros(LARGE)}))
        mine = store.get("f", writable="copy")
        mine.loc[0, "x"] = -1
        mine["y"] += 1
        assert mine["x"][0] == -1
        assert store.get("f")["x"][0] == 0
        assert store.get("f")["y"].sum() == 0


def arrow_buffers(table):
    for column in table.columns:
        for chunk in getattr(column, "chunks", [column]):
            yield from (b for b in chunk.buffers() if b is not None and b.size)


class TestArrow:
    pa = property(lambda self: pytest.importorskip("pyarrow"))

    def table(self):
        pa = self.pa
        return pa.table(
            {
                "n": pa.array(range(LARGE)),
                "holes": pa.array([1.5, None] * (LARGE // 2)),
                "s": pa.array(["some text", "ä"] * (LARGE // 2)),
                "d": pa.array(["x", "y"] * (LARGE // 2)).dictionary_encode(),
                "l": pa.array([[1, 2], []] * (LARGE // 2)),
                "r": pa.array([{"a": 1, "b": "x"}, None] * (LARGE // 2)),
            }
        ).replace_schema_metadata({"origin": "here"})

    def test_a_table_is_shared_buffer_by_buffer(self, store):
        table = self.table()
        back = through(store, table)
        assert type(back) is self.pa.Table
        assert back.equals(table, check_metadata=True)
        buffers = list(arrow_buffers(back))
        assert buffers
        assert all(in_a_segment(b.address) for b in buffers)
        assert all(b.address % 64 == 0 for b in buffers)
        assert not any(b.is_mutable for b in buffers)
        back.validate(full=True)

    def test_arrays_batches_and_chunks(self, store):
        pa = self.pa
        numbers = pa.array(range(LARGE))
        batch = pa.record_batch({"n": numbers})
        chunked = pa.chunked_array([numbers, numbers[:5], pa.array([], "int64")])
        for original in numbers, batch, chunked, pa.nulls(3):
            back = through(store, original)
            assert type(back) is type(original)
            assert back.equals(original)
        assert through(store, numbers).buffers()[1].address % 64 == 0

    def test_slices(self, store):
        table = self.table()
        back = through(store, table.slice(7, 100))
        assert back.equals(table.slice(7, 100))

    def test_the_pin_lives_as_long_as_the_last_buffer(self, store):
        back = through(store, self.table())
        buffer = back["n"].chunk(0).buffers()[1]
        del back
        gc.collect()
        assert pins(store, "object") == 1
        numpy = np.frombuffer(buffer, "i8")
        del buffer
        gc.collect()
        assert pins(store, "object") == 1
        assert numpy[-1] == LARGE - 1
        del numpy
        gc.collect()
        assert pins(store, "object") == 0


class Stream:
    """What Polars looks like from outside."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)

    def __reduce_ex__(self, protocol):
        raise TypeError("goes through Arrow only")

    @classmethod
    def from_arrow(cls, data):
        return cls(pytest.importorskip("pyarrow").table(data))


def from_arrow(data):
    """As `polars.from_arrow`, for classes of this module that have none."""
    return Stream.from_arrow(data)


class TestWhatSpeaksArrow:
    def test_a_class_with_from_arrow(self, store):
        pa = pytest.importorskip("pyarrow")
        table = pa.table({"n": np.arange(LARGE)})
        back = through(store, Stream(table))
        assert type(back) is Stream
        assert back.table.equals(table)
        assert all(in_a_segment(b.address) for b in arrow_buffers(back.table))

    def test_polars_frames_keep_their_types(self, store):
        pl = pytest.importorskip("polars")
        frame = pl.DataFrame(
            {
                "x": np.arange(float(LARGE)),
                "s": ["a", None] * (LARGE // 2),
                "l": [[1, 2], []] * (LARGE // 2),
                "day": [datetime.date(2026, 1, 1), None] * (LARGE // 2),
                "c": pl.Series(["a", "b"] * (LARGE // 2), dtype=pl.Categorical),
                "e": pl.Series(["a", "b"] * (LARGE // 2), dtype=pl.Enum(["a", "b"])),
                "d": pl.Series(["1.10", "2.20"] * (LARGE // 2)).cast(pl.Decimal(10, 2)),
            }
        )
        for back in through(store, frame), through(store, [frame])[0]:
            assert type(back) is pl.DataFrame
            assert back.schema == frame.schema
            assert back.equals(frame)
        empty = pl.DataFrame(schema={"a": pl.Int8})
        assert through(store, empty).schema == empty.schema

    def test_polars_series_and_lazy_frames(self, store):
        pl = pytest.importorskip("polars")
        series = pl.Series("x", [1.5, None, 3])
        back = through(store, series)
        assert type(back) is pl.Series
        assert back.name == "x"
        assert back.equals(series)
        lazy = through(store, pl.LazyFrame({"x": [1, 2]}).select(pl.col("x") + 1))
        assert lazy.collect()["x"].to_list() == [2, 3]

    def test_polars_columns_of_python_objects(self, store):
        pl = pytest.importorskip("polars")
        frame = pl.DataFrame({"o": pl.Series([{1}, {2}], dtype=pl.Object)})
        try:
            pickle.dumps(frame)
        except Exception:  # noqa: BLE001
            with pytest.raises(forebay.Unstorable, match="DataFrame"):
                store.put("object", frame)
        else:
            assert through(store, frame)["o"].to_list() == [{1}, {2}]

    def test_polars_numbers_are_shared(self, store):
        pytest.importorskip("pyarrow")
        pl = pytest.importorskip("polars")
        for value in pl.DataFrame({"x": np.arange(float(LARGE))}), pl.Series("x", np.ones(LARGE)):
            back = through(store, value)
            numbers = (back if isinstance(back, pl.Series) else back["x"]).to_numpy(allow_copy=False)
            assert in_a_segment(numbers)
            assert not numbers.flags.writeable
            del numbers, back
            gc.collect()
            assert pins(store, "object") == 0


FORMATS = ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"]


class TestSparse:
    @pytest.mark.parametrize("kind", ["matrix", "array"])
    @pytest.mark.parametrize("format", FORMATS)
    def test_matrices_and_arrays(self, store, format, kind):
        sparse = pytest.importorskip("scipy.sparse")
        make = getattr(sparse, f"{format}_{kind}")
        original = make(sparse.diags([np.arange(1.0, 81), np.ones(79)], [0, 1]).tocsr())
        back = through(store, original)
        assert type(back) is type(original)
        assert back.dtype == original.dtype
        assert (back != original).nnz == 0

    def test_parts_are_shared(self, store):
        sparse = pytest.importorskip("scipy.sparse")
        original = sparse.random(1000, 1000, 0.05, format="csr", random_state=1)
        back = through(store, original)
        for part in back.data, back.indices, back.indptr:
            assert is_shared(part)
        assert np.allclose(back @ np.ones(1000), original @ np.ones(1000))
        with pytest.raises(ValueError, match="read-only"):
            back.data[0] = 1


@pytest.mark.filterwarnings("ignore:.*not writable:UserWarning")
class TestTorch:
    torch = property(lambda self: pytest.importorskip("torch"))

    def test_tensors_of_any_element_type_are_shared(self, store):
        torch = self.torch
        names = "float32 float64 float16 bfloat16 int8 uint8 int16 int32 int64 bool complex64"
        for name in [*names.split(), "float8_e4m3fn"]:
            dtype = getattr(torch, name, None)
            if dtype is None:
                continue
            original = torch.ones(LARGE // 10, 10).to(dtype)
            back = through(store, original)
            assert type(back) is torch.Tensor
            assert back.dtype == dtype
            assert back.shape == original.shape
            assert back.view(torch.uint8).equal(original.view(torch.uint8))
            assert in_a_segment(back.data_ptr())
            assert back.data_ptr() % 64 == 0

    def test_views_parameters_and_those_without_elements(self, store):
        torch = self.torch
        base = torch.arange(float(LARGE)).reshape(10, -1)
        for original in base.T, base[2:5, ::3], base.expand(3, *base.shape), torch.zeros(0, 3):
            assert through(store, original).equal(original)
        assert through(store, torch.tensor(5.0)).item() == 5
        parameter = torch.nn.Parameter(base.clone(), requires_grad=True)
        back = through(store, parameter)
        assert type(back) is torch.nn.Parameter
        assert back.requires_grad
        assert back.equal(parameter)
        assert in_a_segment(back.data_ptr())
        frozen = torch.nn.Parameter(base.clone(), requires_grad=False)
        assert not through(store, frozen).requires_grad

    def test_in_objects_and_state_dicts(self, store):
        torch = self.torch
        model = torch.nn.Linear(300, 300)
        state = through(store, dict(model.state_dict()))
        assert in_a_segment(state["weight"].data_ptr())
        other = torch.nn.Linear(300, 300)
        other.load_state_dict(state)
        assert other.weight.equal(model.weight)
        back = through(store, model)
        assert back.weight.equal(model.weight)
        [first, second] = through(store, [model.weight.detach(), 5])
        assert first.equal(model.weight)
        assert second == 5

    def test_the_pin_lives_as_long_as_a_tensor(self, store):
        torch = self.torch
        back = through(store, [torch.ones(LARGE), torch.zeros(LARGE)])
        row = back[0][10:20]
        del back
        gc.collect()
        assert pins(store, "object") == 1
        assert row.sum() == 10
        del row
        gc.collect()
        assert pins(store, "object") == 0

    def test_a_private_copy_can_be_written_to(self, store):
        torch = self.torch
        store.put("t", torch.ones(LARGE))
        mine = store.get("t", writable="copy")
        mine += 1
        assert mine.sum() == 2 * LARGE
        assert store.get("t").sum() == LARGE


class Tensor:
    """The least of what the array API asks for."""

    def __init__(self, numpy):
        self.numpy = numpy

    def __array_namespace__(self, api_version=None):
        return sys.modules[__name__]

    def __dlpack__(self, **options):
        return self.numpy.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.numpy.__dlpack_device__()

    def __reduce_ex__(self, protocol):
        raise TypeError("goes through DLPack only")


def from_dlpack(what, **options):
    return Tensor(np.from_dlpack(what))


def test_an_array_of_the_array_api_goes_through_its_namespace(store):
    back = through(store, Tensor(np.arange(float(LARGE)).reshape(10, -1)))
    assert type(back) is Tensor
    assert back.numpy.shape == (10, LARGE // 10)
    assert (back.numpy.ravel() == np.arange(LARGE)).all()
    # Before version 2.1, NumPy hands on no read-only memory that way: then it is a copy.
    if tuple(map(int, np.__version__.split(".")[:2])) >= (2, 1):
        assert in_a_segment(back.numpy)
        assert not back.numpy.flags.writeable


class TestBuffers:
    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
    def test_bytes_come_back_as_uint8(self, store, make):
        back = through(store, make(b"hello" * LARGE))
        assert back.dtype == np.uint8
        assert back.tobytes() == b"hello" * LARGE
        assert is_shared(back)

    def test_mmap(self, store):
        with mmap.mmap(-1, LARGE) as pages:
            pages[:5] = b"hello"
            back = through(store, pages)
        assert back.dtype == np.uint8
        assert back.shape == (LARGE,)
        assert bytes(back[:5]) == b"hello"

    @pytest.mark.parametrize("code", "bBhHiIlLqQfd")
    def test_an_array_has_its_elements(self, store, code):
        back = through(store, array.array(code, [1, 2, 3]))
        assert back.tolist() == [1, 2, 3]
        assert back.dtype == np.dtype(code)

    def test_a_memoryview_has_its_format_shape_and_order(self, store):
        plane = memoryview(array.array("d", range(12))).cast("B").cast("d", (3, 4))
        assert np.array_equal(through(store, plane), np.arange(12.0).reshape(3, 4))
        assert through(store, memoryview(array.array("i", range(10)))[::3]).tolist() == [0, 3, 6, 9]
        assert through(store, memoryview(b"")).size == 0

    def test_in_an_object_they_are_what_they_were(self, store):
        back = through(store, [b"hello", bytearray(b"there"), array.array("d", [1, 2])])
        assert back == [b"hello", bytearray(b"there"), array.array("d", [1, 2])]


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Model:
    weights: np.ndarray
    name: str


class Blob:
    """Gives its bytes as a buffer out of band."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Blob, (pickle.PickleBuffer(self.data),)


class TestEverythingElse:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            5,
            1 << 200,
            2.5,
            1j,
            "",
            "ä text",
            (),
            [],
            {},
            set(),
            [1, [2, [3, ()]]],
            {"a": {1, 2}, "b": frozenset("x")},
            range(5),
            slice(1, 2),
            ...,
            datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
            decimal.Decimal("1.1"),
            Colour.RED,
            np.float64(2.5),
            np.int8(3),
            np.str_("text"),
            np.datetime64("2026-01-01"),
            np.dtype("i4,f8"),
            len,
            Model,
        ],
        ids=repr,
    )
    def test_comes_back_as_it_was(self, store, value):
        back = through(store, value)
        assert type(back) is type(value) or value == {}
        assert back == value

    def test_an_object_with_arrays(self, store):
        back = through(store, Model(np.arange(float(LARGE)), "linear"))
        assert type(back) is Model
        assert back.name == "linear"
        assert is_shared(back.weights)
        back.name = "the reader's own"
        assert store.get("object").name == "linear"

    def test_buffers_that_a_class_gives_out_of_band(self, store):
        back = through(store, Blob(b"hello" * LARGE))
        assert bytes(back.data) == b"hello" * LARGE
        view = np.frombuffer(back.data, "u1")
        assert is_shared(view)
        assert pins(store, "object") == 1
        del view, back
        gc.collect()
        assert pins(store, "object") == 0

    def test_exceptions_and_cycles(self, store):
        error = through(store, ValueError("text", 5))
        assert error.args == ("text", 5)
        loop = [np.arange(float(LARGE))]
        loop.append(loop)
        back = through(store, loop)
        assert back[1] is back
        assert is_shared(back[0])

    def test_a_ref_is_stored_as_a_ref(self, store):
        ref = store.put("a", np.zeros(3))
        assert through(store, ref) == ref
        assert through(store, {"refs": [ref]}) == {"refs": [ref]}

    def test_functions_and_lambdas_with_cloudpickle(self, store):
        pytest.importorskip("cloudpickle")
        table = np.arange(float(LARGE))

        def local(i):
            return table[i]

        assert through(store, lambda x: x + 1)(5) == 6
        assert through(store, local)(7) == 7
        assert in_a_segment(through(store, local).__closure__[0].cell_contents)

    def test_classes_and_objects_of_main_with_cloudpickle(self, store):
        pytest.importorskip("cloudpickle")
        run(
            """
            import sys, numpy as np, forebay
            class Point:
                def __init__(self): self.x = np.arange(1000.0)
                def total(self): return self.x.sum()
            def total(): return 7
            store = forebay.connect(sys.argv[1])
            store.put("object", Point())
            store.put("class", Point)
            store.put("function", total)
            """,
            store.address,
        )
        assert store.get("object").total() == np.arange(1000.0).sum()
        assert store.get("class")().total() == np.arange(1000.0).sum()
        assert store.get("function")() == 7
        assert not store.get("object").x.flags.writeable

    @pytest.mark.parametrize("wrap", [lambda a: a, lambda a: [1, a]], ids=["alone", "in a list"])
    def test_what_cannot_be_pickled_is_refused_by_name(self, store, wrap):
        with socket.socket() as plug:
            for value, name in [
                ((i for i in range(3)), "generator"),
                (threading.Lock(), "lock"),
                (plug, "socket"),
            ]:
                with pytest.raises(forebay.Unstorable, match=name):
                    store.put("object", wrap(value))
        assert "object" not in store

    def test_an_exception_of_an_objects_own_reduce_is_passed_on_or_the_cause(self, store):
        class Stubborn:
            def __reduce_ex__(self, protocol):
                raise RuntimeError("not today")

        with pytest.raises((forebay.Unstorable, RuntimeError)) as caught:
            store.put("object", Stubborn())
        assert "not today" in str(caught.value) + str(caught.value.__cause__)
        assert "object" not in store


class TestWithoutOtherPackages:
    def run(self, store, names, script):
        blocked = """
            import sys
            class Blocked:
                def find_spec(self, name, path=None, target=None):
                    if name.split(".")[0] in {}: raise ModuleNotFoundError(name, name=name)
            sys.meta_path.insert(0, Blocked())
            """.format(names.split())
        return run(textwrap.dedent(blocked) + textwrap.dedent(script), store.address)

    def test_only_numpy_is_needed(self, store):
        said = self.run(
            store,
            "pyarrow cloudpickle pandas scipy torch joblib dask distributed polars dill",
            """
            import numpy as np, forebay
            store = forebay.connect(sys.argv[1])
            store.put("a", [np.arange(100000.0), "x", {"y": np.ma.masked_less(np.arange(5), 2)}])
            a = store.get("a")
            assert not a[0].flags.writeable and a[2]["y"].sum() == 9
            forebay.install()
            shared = forebay.share(np.arange(1000.0), store=store)
            @forebay.task(x=forebay.RRO)
            def total(x): return x.sum()
            print(total(shared), forebay.__name__)
            """,
        )
        assert said == f"{np.arange(1000.0).sum()} forebay\n"

    def test_without_cloudpickle_functions_of_main_are_refused_by_name(self, store):
        said = self.run(
            store,
            "cloudpickle",
            """
            import forebay
            store = forebay.connect(sys.argv[1])
            def nice_function(): pass
            for value in (lambda: 0), (lambda: nice_function):
                try:
                    store.put("a", value)
                except forebay.Unstorable as error:
                    print("lambda" in str(error), "cloudpickle" in str(error))
            """,
        )
        assert said == "True True\nTrue True\n"

    def test_the_package_imports_none_of_them(self):
        said = run(
            """
            import sys, forebay
            heavy = "pyarrow cloudpickle pandas scipy torch joblib dask distributed polars dill"
            print([name for name in heavy.split() if name in sys.modules])
            """
        )
        assert said == "[]\n"


class TestPins:
    def test_one_for_all_buffers_until_the_last_of_them_goes(self, store):
        back = through(store, [np.zeros(LARGE), {"x": np.ones(LARGE)}, (np.arange(3), "text")])
        assert pins(store, "object") == 1
        last = back[1]["x"][5:10]
        del back
        gc.collect()
        assert pins(store, "object") == 1
        store.remove("object")
        for i in range(10):
            store.put(f"other {i}", np.full(LARGE, -1.0))
        assert (last == 1).all()

    def test_an_object_without_buffers_pins_nothing(self, store):
        back = through(store, {"a": [1, 2, "text"]})
        assert pins(store, "object") == 0
        assert back["a"] == [1, 2, "text"]

    def test_what_is_the_readers_own_can_be_changed(self, store):
        back = through(store, {"list": [1], "array": np.zeros(LARGE), 5: 5})
        back["list"].append(2)
        del back["array"]
        assert pins(store, "object") == 0
        assert store.get("object")["list"] == [1]

    def test_two_gets_see_the_same_memory(self, store):
        store.put("a", [np.arange(float(LARGE))])
        assert store.get("a")[0].ctypes.data == store.get("a")[0].ctypes.data

    def test_a_get_that_fails_while_it_unpickles_pins_nothing(self, store):
        pytest.importorskip("cloudpickle")
        run(
            """
            import sys, types, numpy as np, forebay
            module = types.ModuleType("gone")
            class Thing: pass
            Thing.__module__ = "gone"
            Thing.__qualname__ = "Thing"
            module.Thing = Thing
            sys.modules["gone"] = module
            thing = Thing()
            forebay.connect(sys.argv[1]).put("a", [np.zeros(100000), thing])
            """,
            store.address,
        )
        with pytest.raises(ModuleNotFoundError, match="gone"):
            store.get("a")
        gc.collect()
        assert pins(store, "a") == 0


class TestPrivateCopies:
    def test_all_buffers_are_writable_and_nobody_elses(self, store):
        store.put("a", [np.zeros(LARGE), {"m": np.ma.masked_less(np.arange(float(LARGE)), 5)}])
        mine = store.get("a", writable="copy")
        mine[0][:] = 7
        mine[1]["m"][10] = -1
        mine[1]["m"].mask[0] = False
        again = store.get("a")
        assert again[0].sum() == 0
        assert again[1]["m"][10] == 10
        assert again[1]["m"].mask[0]

    def test_pages_that_are_not_written_to_stay_shared(self, store):
        def private_kib() -> int:
            with open("/proc/self/smaps_rollup") as file:
                return sum(int(s.split()[1]) for s in file if s.startswith("Private_Dirty"))

        store.put("a", [np.arange(3_000_000.0), "x"])
        gc.collect()
        before = private_kib()
        mine = store.get("a", writable="copy")
        assert mine[0].sum() == np.arange(3_000_000.0).sum()
        mine[0][::100_000] = 1
        assert private_kib() - before < 4000
        assert pins(store, "a") == 1
        del mine
        gc.collect()
        assert pins(store, "a") == 0


class TestVerbs:
    def test_update_of_an_object_is_refused(self, store):
        store.put("a", [np.zeros(LARGE), 5])
        for take in False, True:
            with pytest.raises(forebay.TypeMismatch, match="'?a'?"):
                store.update("a", take=take)
        assert store.get("a")[1] == 5
        store.put("a", [np.zeros(3), 6])
        assert store.get("a", version=2)[1] == 6

    def test_exist_ok_compares_the_bytes(self, store):
        value = {"x": np.arange(float(LARGE)), "n": 5}
        first = store.put("a", value, version=1)
        assert store.put("a", value, version=1, exist_ok=True) == first
        same = {"x": np.arange(float(LARGE)), "n": 5}
        assert store.put("a", same, version=1, exist_ok=True) == first
        for other in {"x": np.arange(float(LARGE)), "n": 6}, {"x": np.ones(LARGE), "n": 5}, 7:
            with pytest.raises(forebay.Exists):
                store.put("a", other, version=1, exist_ok=True)
        with pytest.raises(forebay.Exists):
            store.put("a", np.arange(float(LARGE)), version=1, exist_ok=True)

    def test_an_object_and_an_array_are_never_taken_for_each_other(self, store):
        store.put("array", np.zeros(LARGE), version=1)
        with pytest.raises(forebay.Exists):
            store.put("array", [np.zeros(LARGE)], version=1, exist_ok=True)

    def test_put_many_and_get_many(self, store):
        values = {"a": [1, np.arange(float(LARGE))], "b": np.ones(3), "c": "text", "d": {"n": 5}}
        refs = store.put_many(values)
        a, b, c, d = store.get_many(refs)
        assert a[0] == 1
        assert is_shared(a[1])
        assert b.sum() == 3
        assert (c, d) == ("text", {"n": 5})
        assert store.get_many(list("dcba"))[1] == "text"

    @pytest.mark.parametrize("return_exceptions", [False, True])
    def test_put_many_puts_nothing_if_one_is_unstorable(self, store, return_exceptions):
        with pytest.raises(forebay.Unstorable, match="lock"):
            store.put_many({"a": [1], "b": threading.Lock()}, return_exceptions=return_exceptions)
        assert "a" not in store

    def test_get_async(self, store):
        async def main():
            future = store.get_async("a", timeout=20)
            store.put("a", [np.arange(float(LARGE)), "x"])
            return await future

        back = asyncio.run(main())
        assert back[1] == "x"
        assert is_shared(back[0])
        future = store.get_async("a", concurrent=True)
        assert future.result(20)[1] == "x"

    def test_get_or_create(self, store):
        back = store.get_or_create("a", lambda: {"n": 5, "x": np.arange(float(LARGE))})
        assert back["n"] == 5
        assert is_shared(back["x"])
        assert store.get_or_create("a", lambda: None)["n"] == 5
        with pytest.raises(forebay.Unstorable, match="lock"):
            store.get_or_create("b", threading.Lock)

    def test_manifests_with_objects(self, store):
        refs = store.put_many({"a": [1, np.zeros(LARGE)], "b": np.ones(3)})
        store.put_manifest("both", refs)
        a, b = store.get("both")
        assert a[0] == 1
        assert b.sum() == 3

    def test_stat_and_list_know_no_dtype(self, store):
        ref = store.put("a", [np.zeros(LARGE)])
        assert ref.dtype is None
        assert store.stat("a").info.dtype is None
        assert store.stat("a").info.size >= LARGE * 8
        assert [info.id for info in store.list()] == ["a"]

    def test_an_object_that_is_too_large_leaves_nothing(self, store):
        used = store.status()["used_bytes"]
        with pytest.raises(forebay.TooLarge):
            store.put("a", [np.broadcast_to(0.0, 1 << 28), 1])
        with pytest.raises(forebay.StoreFull):
            held = []
            for i in range(10):
                store.put(f"b{i}", [np.zeros(3_000_000), i])
                held.append(store.get(f"b{i}"))
        del held
        store.remove_prefix("b")
        gc.collect()
        assert eventually(lambda: store.status()["used_bytes"] <= used)

    def test_lifetimes_are_those_of_arrays(self, store):
        for i in range(4):
            store.put("a", [i], keep=2)
        assert [info.version for info in store.list("a")] == [3, 4]
        store.put("b", ["x"], evictable=True)
        assert store.stat("b").info.evictable


class TestOtherProcesses:
    def test_they_see_the_same_memory(self, store):
        pytest.importorskip("pandas")
        store.put("a", {"x": np.arange(float(LARGE)), "names": ["a", "b"]})
        with Other(
            store,
            """
            from support import in_a_segment
            a = store.get("a")
            say(in_a_segment(a["x"]), a["x"].flags.writeable, a["x"].sum(), a["names"])
            import pandas
            store.put("b", pandas.DataFrame({"n": np.arange(50000)}))
            say("put")
            hear()
            """,
        ) as other:
            assert other.hear() == f"True False {np.arange(float(LARGE)).sum()} ['a', 'b']"
            assert other.hear() == "put"
            assert pins(store, "a") == 1
            back = store.get("b")
            assert in_a_segment(back["n"].to_numpy())
            other.kill()
            assert eventually(lambda: pins(store, "a") == 0)

    def test_who_dies_while_putting_leaves_nothing(self, store):
        used = store.status()["used_bytes"]
        run(
            """
            import os, sys, signal, numpy as np, forebay
            class Deadly:
                def __reduce_ex__(self, protocol): os.kill(os.getpid(), signal.SIGKILL)
            forebay.connect(sys.argv[1]).put("a", [np.zeros(100000), Deadly()])
            """,
            store.address,
            status=-9,
        )
        assert "a" not in store
        assert eventually(lambda: store.status()["used_bytes"] == used)

    def test_threads_put_and_get_objects_at_once(self, store):
        def body(number):
            for turn in range(20):
                store.put(f"{number}/{turn}", [np.full(1000, number), number, turn])
                back = store.get(f"{number}/{turn}")
                if (back[0] != number).any() or back[1:] != [number, turn]:
                    wrong.append(number)

        wrong: list[int] = []
        threads = [threading.Thread(target=body, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not wrong
