"""Values come back equal in type and value, or are an error that names type and place."""

from __future__ import annotations

import collections
import contextlib
import enum
import json
import math
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_panda.payload import values

PARIS = ZoneInfo("Europe/Paris")


def there_and_back(value: Any) -> Any:
    text = values.dumps(value)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return values.loads(text)


def same(left: Any, right: Any) -> bool:
    """Equal in type and value, through containers; NaN equals NaN, and -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(
            same(left[k], right[k]) and same(k, j) for k, j in zip(left, right, strict=True)
        )
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (left, math.copysign(1, left)) == (
            right,
            math.copysign(1, right),
        )
    return bool(left == right)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**63),
        10**5000,
        1.5,
        -0.0,
        math.nan,
        math.inf,
        -math.inf,
        "",
        "Größe 𝛼 \u0000 \u2028",
        "\ud800",
        "\ud83d\ude00",
        {"\udc00": 1},
        [1, [2, (3,)]],
        (),
        {"a": {1: "int key", "1": "text key", (1, 2): None, None: 0, False: 1.0}},
        {"$type": "tuple", "v": [1]},
        {1, "a", (2, 3)},
        frozenset({frozenset({1})}),
        set(),
        b"\x00\xff",
        bytearray(b"ab"),
        1 - 2j,
        complex(-0.0, math.inf),
        Decimal("1.10"),
        Decimal("-Infinity"),
        datetime(2025, 10, 26, 2, 30, fold=1, tzinfo=PARIS),
        datetime(2025, 1, 1, 0, 0, 0, 1),
        datetime(2025, 1, 1, tzinfo=UTC),
        datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30, seconds=5), "odd")),
        date(2024, 2, 29),
        time(1, 2, 3, 4, fold=1),
        time(3, tzinfo=UTC),
        timedelta(-1, 2, 3),
        range(10, 0, -3),
        UUID(int=5),
        Path("/data/x y"),
        {"value": [None, {"deep": ({1: b""},)}]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trip(value: Any) -> None:
    back = there_and_back(value)
    assert same(back, value)
    if isinstance(value, datetime):
        assert (back.tzinfo, back.fold, back.tzname()) == (value.tzinfo, value.fold, value.tzname())


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.decimals(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.just("$type"), inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(json_like)
def test_round_trip_of_anything(value: Any) -> None:
    assert same(there_and_back(value), value)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["$type", "v", "dtype", "class"]), inner)
        ),
    )
)
def test_foreign_trees_give_a_value_or_an_error_of_ours(tree: Any) -> None:
    with contextlib.suppress(values.UndecodableValue):
        values.decode(tree)


def test_sets_are_encoded_in_one_order() -> None:
    names = [f"n{i}" for i in range(50)]
    backwards: set[str] = set()
    for name in reversed(names):
        backwards.add(name)
    assert values.dumps(set(names)) == values.dumps(backwards)


ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(10)[::-2],
    np.array(3, dtype=">i2"),
    np.zeros((0, 3), dtype="f4"),
    np.array(["a", "größe"]),
    np.array([b"ab", b"c"]),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.array(["2020-01-01", "NaT"], dtype="M8[ms]"),
    np.array([1, 2], dtype="m8[us]"),
    np.array([(1, 2.0, "x")], dtype=[("a", "i4"), ("b", "f8"), ("c", "U3")]),
    np.array([1, None, "x", (2,)], dtype=object),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_numpy_array(array: np.ndarray) -> None:
    back = there_and_back(array)
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(1.5),
        np.float32(2),
        np.int8(3),
        np.bool_(True),
        np.str_("a"),
        np.datetime64("2020-01-01", "s"),
        np.complex64(1j),
    ],
    ids=repr,
)
def test_numpy_scalar_stays_a_numpy_scalar(scalar: Any) -> None:
    back = there_and_back([scalar])[0]
    assert type(back) is type(scalar)
    assert back.dtype == scalar.dtype
    assert back == scalar


FRAME = pd.DataFrame(
    {
        "i": [1, 2],
        "f": [1.0, math.nan],
        "s": ["a", None],
        "o": pd.Series([1, "x"], dtype=object),
        "c": pd.Categorical(["a", "b"], categories=["b", "a"], ordered=True),
        "z": pd.date_range("2020", periods=2, tz="Europe/Paris"),
        "n": pd.array([1, None], dtype="Int64"),
        "g": pd.array([1.5, None], dtype="Float32"),
        "b": pd.array([True, None], dtype="boolean"),
        "t": pd.array(["x", None], dtype="string"),
        "d": pd.to_timedelta([1, 2], unit="s"),
        5: [1, 2],
    },
    index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", None]),
)


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        pd.DataFrame(),
        pd.DataFrame(index=[3, 4]),
        pd.DataFrame([[1, 2]], columns=["same", "same"]),
        pd.DataFrame({"a": [1.0]}, index=pd.date_range("2020", periods=1, freq="D", name="day")),
    ],
    ids=["every dtype", "empty", "rows only", "equal names", "dates"],
)
def test_pandas_frame(frame: pd.DataFrame) -> None:
    back = there_and_back(frame)
    pd.testing.assert_frame_equal(back, frame, check_freq=True)
    assert list(back.columns) == list(frame.columns)


@pytest.mark.parametrize("name", ["i", "s", "c", "z", "n"])
def test_pandas_series(name: str) -> None:
    back = there_and_back(FRAME[name])
    pd.testing.assert_series_equal(back, FRAME[name])


@pytest.mark.parametrize(
    "value",
    [pd.Timestamp("2020-01-01 03:04:05.123456789", tz="Europe/Paris"), pd.Timestamp("2020"), pd.Timedelta("1D 2ns")],
    ids=repr,
)
def test_pandas_times(value: Any) -> None:
    back = there_and_back(value)
    assert same(back, value)
    assert back.unit == value.unit


def test_pandas_missing_values_are_the_same_objects() -> None:
    assert there_and_back([pd.NaT, pd.NA])[0] is pd.NaT
    assert there_and_back([pd.NaT, pd.NA])[1] is pd.NA


class Text(str):
    __slots__ = ()


class Colour(enum.IntEnum):
    RED = 1


@dataclass(frozen=True)
class Point:
    x: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.x)


class Access(enum.Flag):
    READ = 1
    WRITE = 2


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "path", "named"),
    [
        ({"points": [1, 2, 3, object()]}, "$.points[3]", "type object"),
        ({"a b": {1: object()}}, "$['a b'][1]", "type object"),
        (Text("x"), "$", "Text"),
        ([Colour.RED], "$[0]", "Colour"),
        (Point(1), "$", "Point"),
        (Pair(1, 2), "$", "Pair"),
        (collections.OrderedDict(a=1), "$", "OrderedDict"),
        ({"m": np.ma.array([1])}, "$.m", "MaskedArray"),
        (np.array([object()]), "$[0]", "object"),
        (pd.DataFrame({"p": pd.period_range("2020", periods=1)}), "$['p']", "period"),
        (math.sqrt, "$", "builtin_function"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_has_no_form_is_named(value: Any, path: str, named: str) -> None:
    with pytest.raises(values.UnsupportedValue) as caught:
        values.dumps(value)
    assert caught.value.path == path
    assert named in str(caught.value)


def test_cycles_and_depth_are_errors() -> None:
    loop: list[Any] = []
    loop.append({"again": loop})
    with pytest.raises(values.UnsupportedValue, match="contains itself"):
        values.dumps(loop)
    deep: Any = 1
    for _ in range(values.MAX_DEPTH - 1):
        deep = {0: deep}
    assert there_and_back(deep) == deep
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(values.UnsupportedValue, match="nested deeper than 200"):
        values.dumps(deep)
    with pytest.raises(values.UndecodableValue):
        values.loads("[" * 100_000 + "]" * 100_000)


def test_one_object_twice_is_no_cycle() -> None:
    part = [1]
    assert there_and_back([part, part]) == [[1], [1]]


def test_shipped_classes_are_rebuilt_from_the_table_only() -> None:
    table: dict[str, type] = {"0": Point, "1": Colour, "2": Access}
    tokens = {cls: key for key, cls in table.items()}
    value = [Point(3), Colour.RED, Access.READ | Access.WRITE]
    text = values.dumps(value, tokens.get)
    back = values.loads(text, table)
    assert back == value
    assert [type(one) for one in back] == [Point, Colour, Access]
    assert back[0].twice == 6
    with pytest.raises(values.UndecodableValue, match="not part of this archive"):
        values.loads(text)


def test_nothing_named_in_a_tree_is_imported() -> None:
    sys.modules.pop("this", None)
    for tag in ("this", "this.s", "numpy.os.system", "pandas.eval", "dataclass", "enum"):
        with pytest.raises(values.UndecodableValue):
            values.decode({"$type": tag, "class": "this", "module": "this", "name": "s", "state": {}, "v": []})
    assert "this" not in sys.modules


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    text = values.dumps(np.arange(2))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(values.MissingLibrary, match="numpy is not installed"):
        values.loads(text)
