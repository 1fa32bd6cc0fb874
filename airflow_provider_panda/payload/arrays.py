"""numpy arrays and scalars, pandas frames, series, indices and time stamps as tagged JSON.

Shipped to the worker node with the runner, and imported only when such a value or tag turns up: standard library at
import, Python 3.9-3.13. Values come back equal in dtype, shape, names and content; anything that cannot is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .values import TAG, MissingLibrary, Path, UndecodableValue, UnsupportedValue, _b64, _unb64, path_text, type_name

Recurse = Callable[[Any, Path, int], Any]


def encode(value: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    """Return the tagged form of a numpy or pandas value.

    :raises UnsupportedValue: a subclass, or a dtype without a faithful form.
    """
    if type(value).__module__.partition(".")[0] == "numpy":
        return _encode_numpy(value, path, depth, recurse)
    return _encode_pandas(value, path, depth, recurse)


def decode(tag: str, tree: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    """Return the value of a tagged form.

    :raises UndecodableValue: numpy or pandas is not installed here, or the tag is unknown.
    """
    library = tag.partition(".")[0]
    try:
        if library == "numpy":
            return _decode_numpy(tag, tree, path, depth, recurse)
        return _decode_pandas(tag, tree, path, depth, recurse)
    except ImportError:
        problem = "it is a %s value, and %s is not installed here" % (tag, library)
        raise MissingLibrary(path_text(path), problem) from None


def _unsupported(value: Any, path: Path, problem: str = "") -> UnsupportedValue:
    return UnsupportedValue(path_text(path), type_name(type(value)), problem)


# --- numpy ---------------------------------------------------------------------------------------------------


def _encode_numpy(value: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    import numpy as np

    if type(value) is np.ndarray:
        return _encode_array(value, "numpy.ndarray", path, depth, recurse)
    if isinstance(value, np.generic) and not isinstance(value, np.record):
        return _encode_array(np.asarray(value), "numpy.scalar", path, depth, recurse)
    raise _unsupported(value, path)


def _encode_array(array: Any, tag: str, path: Path, depth: int, recurse: Recurse) -> Any:
    from numpy.lib import format as npy

    dtype = array.dtype
    shape = [int(n) for n in array.shape]
    if dtype.kind == "O":
        flat = [recurse(item, (path, "[%d]" % i), depth) for i, item in enumerate(array.ravel(order="C").tolist())]
        return {TAG: tag, "dtype": "object", "shape": shape, "items": flat}
    if dtype.hasobject or dtype.kind not in "biufcmMSUV":
        raise _unsupported(array, path, "a numpy array of dtype %s has no JSON form" % dtype)
    descr = recurse(npy.dtype_to_descr(dtype), path, depth) if dtype.kind == "V" else dtype.str
    return {TAG: tag, "dtype": descr, "shape": shape, "data": _b64(array.tobytes(order="C"))}


def _decode_numpy(tag: str, tree: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    import numpy as np

    if tag not in ("numpy.ndarray", "numpy.scalar"):
        raise UndecodableValue(path_text(path), "unknown tag %.60r" % tag)
    shape = tuple(tree["shape"])
    if tree["dtype"] == "object":
        items = [recurse(item, (path, "[%d]" % i), depth + 1) for i, item in enumerate(tree["items"])]
        array = np.empty(len(items), dtype=object)
        for index, item in enumerate(items):
            array[index] = item
        array = array.reshape(shape)
    else:
        descr = tree["dtype"]
        if isinstance(descr, str):
            dtype = np.dtype(descr)
        else:
            from numpy.lib import format as npy

            dtype = npy.descr_to_dtype(recurse(descr, path, depth))
        if dtype.hasobject:
            raise UndecodableValue(path_text(path), "objects are not read from bytes")
        array = np.frombuffer(bytearray(_unb64(tree["data"])), dtype=dtype).reshape(shape)
    return array if tag == "numpy.ndarray" else array[()]


# --- pandas --------------------------------------------------------------------------------------------------


def _encode_pandas(value: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    import pandas as pd

    kind = type(value)
    if value is pd.NaT:
        return {TAG: "pandas.NaT"}
    if value is pd.NA:
        return {TAG: "pandas.NA"}
    if kind is pd.Timestamp:
        zone = None if value.tz is None else _zone(value.tz, path, recurse)
        wall = value.tz_localize(None) if value.tz is not None else value
        return {TAG: "pandas.Timestamp", "wall": str(wall.asm8), "unit": wall.unit, "fold": value.fold, "zone": zone}
    if kind is pd.Timedelta:
        return {TAG: "pandas.Timedelta", "count": int(value.asm8.astype("i8")), "unit": value.unit}
    if kind is pd.DataFrame:
        columns = [
            _encode_column(value.iloc[:, i].array, (path, "[%.40r]" % (name,)), depth, recurse)
            for i, name in enumerate(value.columns)
        ]
        return {
            TAG: "pandas.DataFrame",
            "columns": _encode_index(value.columns, (path, ".columns"), depth, recurse),
            "index": _encode_index(value.index, (path, ".index"), depth, recurse),
            "data": columns,
            "attrs": recurse(dict(value.attrs), (path, ".attrs"), depth),
        }
    if kind is pd.Series:
        return {
            TAG: "pandas.Series",
            "name": recurse(value.name, (path, ".name"), depth),
            "index": _encode_index(value.index, (path, ".index"), depth, recurse),
            "data": _encode_column(value.array, path, depth, recurse),
            "attrs": recurse(dict(value.attrs), (path, ".attrs"), depth),
        }
    if isinstance(value, pd.Index):
        return _encode_index(value, path, depth, recurse)
    raise _unsupported(value, path)


def _decode_pandas(tag: str, tree: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    import numpy as np
    import pandas as pd

    if tag == "pandas.NaT":
        return pd.NaT
    if tag == "pandas.NA":
        return pd.NA
    if tag == "pandas.Timestamp":
        stamp = pd.Timestamp(np.datetime64(tree["wall"], tree["unit"]))
        zone = tree["zone"]
        return stamp if zone is None else stamp.replace(tzinfo=_unzone(zone, path, depth, recurse), fold=tree["fold"])
    if tag == "pandas.Timedelta":
        return pd.Timedelta(np.timedelta64(tree["count"], tree["unit"]))
    if tag == "pandas.Index":
        return _decode_index(tree, path, depth, recurse)
    if tag == "pandas.Series":
        index = _decode_index(tree["index"], (path, ".index"), depth, recurse)
        series = _column(tree["data"], index, path, depth, recurse)
        series.name = recurse(tree["name"], path, depth)
        series.attrs.update(recurse(tree["attrs"], path, depth))
        return series
    if tag == "pandas.DataFrame":
        index = _decode_index(tree["index"], (path, ".index"), depth, recurse)
        frame = pd.DataFrame(
            {i: _column(data, index, (path, "[%d]" % i), depth, recurse) for i, data in enumerate(tree["data"])},
            index=index,
        )
        frame.columns = _decode_index(tree["columns"], (path, ".columns"), depth, recurse)
        frame.attrs.update(recurse(tree["attrs"], path, depth))
        return frame
    raise UndecodableValue(path_text(path), "unknown tag %.60r" % tag)


def _zone(zone: Any, path: Path, recurse: Recurse) -> Any:
    """Encode a time zone: as part of a datetime, or by its name for the zone classes that pandas 2 uses (pytz)."""
    from datetime import datetime

    if type(zone).__module__.partition(".")[0] == "pytz":
        return {"pandas": str(zone)}
    return recurse(datetime(2000, 1, 1, tzinfo=zone), path, 0)


def _unzone(tree: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    if "pandas" in tree:
        import pandas as pd

        return pd.Timestamp(0, tz=tree["pandas"]).tz
    return recurse(tree, path, depth).tzinfo


def _encode_column(array: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    """Encode the values of one column; the dtype is one that pandas rebuilds exactly, else an error."""
    import numpy as np
    import pandas as pd

    dtype = array.dtype
    if isinstance(dtype, pd.StringDtype):
        missing = array.isna()
        items = [None if gone else recurse(str(item), path, depth) for item, gone in zip(array, missing)]  # noqa: B905 - Python 3.9
        nan = getattr(dtype, "na_value", pd.NA) is not pd.NA
        return {"kind": "string", "storage": dtype.storage, "nan": nan, "items": items}
    wrapper = getattr(pd.arrays, "NumpyExtensionArray", None) or pd.arrays.PandasArray  # renamed in pandas 2.1
    if isinstance(dtype, np.dtype) or isinstance(array, wrapper):
        return recurse(np.asarray(array), path, depth)
    if isinstance(dtype, pd.CategoricalDtype):
        categories = _encode_index(dtype.categories, path, depth, recurse)
        codes = recurse(np.asarray(array.codes), path, depth)
        return {"kind": "category", "categories": categories, "codes": codes, "ordered": bool(dtype.ordered)}
    if isinstance(dtype, pd.DatetimeTZDtype):
        utc = recurse(np.asarray(array.tz_convert("UTC").tz_localize(None)), path, depth)
        return {"kind": "datetimetz", "utc": utc, "zone": _zone(dtype.tz, path, recurse)}
    if isinstance(array, (pd.arrays.IntegerArray, pd.arrays.FloatingArray, pd.arrays.BooleanArray)):
        mask = np.asarray(array.isna())
        plain = array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.type(0))
        return {"kind": "nullable", "values": recurse(plain, path, depth), "mask": recurse(mask, path, depth)}
    raise UnsupportedValue(path_text(path), type_name(type(array)), "a column of dtype %s has no JSON form" % dtype)


def _decode_column(tree: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    import numpy as np
    import pandas as pd

    if TAG in tree:
        return recurse(tree, path, depth)
    kind = tree["kind"]
    if kind == "string":
        items = [recurse(item, path, depth) for item in tree["items"]]
        arguments = {"na_value": np.nan} if tree["nan"] else {}
        try:
            dtype = pd.StringDtype(tree["storage"], **arguments)
        except ImportError:  # no pyarrow here: the same type with the other storage
            dtype = pd.StringDtype("python", **arguments)
        return pd.array(items, dtype=dtype)
    if kind == "category":
        categories = _decode_index(tree["categories"], path, depth, recurse)
        return pd.Categorical.from_codes(recurse(tree["codes"], path, depth), categories, ordered=tree["ordered"])
    if kind == "datetimetz":
        utc = pd.DatetimeIndex(recurse(tree["utc"], path, depth)).tz_localize("UTC")
        return utc.tz_convert(_unzone(tree["zone"], path, depth, recurse)).array
    if kind == "nullable":
        plain, mask = recurse(tree["values"], path, depth), recurse(tree["mask"], path, depth)
        if plain.dtype.kind == "b":
            return pd.arrays.BooleanArray(plain, mask)
        return (pd.arrays.FloatingArray if plain.dtype.kind == "f" else pd.arrays.IntegerArray)(plain, mask)
    raise UndecodableValue(path_text(path), "unknown kind of column %.60r" % (kind,))


def _column(tree: Any, index: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    import pandas as pd

    values = _decode_column(tree, path, depth, recurse)
    if getattr(values, "ndim", 1) != 1 or len(values) != len(index):
        raise UndecodableValue(path_text(path), "a column and its index differ in length")
    return pd.Series(values, index=index, dtype=values.dtype)


def _encode_index(index: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    import numpy as np
    import pandas as pd

    if type(index) is pd.RangeIndex:
        bounds = [int(index.start), int(index.stop), int(index.step)]
        return {TAG: "pandas.Index", "range": bounds, "name": recurse(index.name, path, depth)}
    if type(index) is pd.MultiIndex:
        return {
            TAG: "pandas.Index",
            "levels": [_encode_index(level, path, depth, recurse) for level in index.levels],
            "codes": [recurse(np.asarray(codes), path, depth) for codes in index.codes],
            "names": recurse(list(index.names), path, depth),
        }
    if type(index) not in (pd.Index, pd.DatetimeIndex, pd.TimedeltaIndex, pd.CategoricalIndex):
        raise _unsupported(index, path)
    return {
        TAG: "pandas.Index",
        "data": _encode_column(index.array, path, depth, recurse),
        "name": recurse(index.name, path, depth),
        "freq": getattr(index, "freqstr", None),
    }


def _decode_index(tree: Any, path: Path, depth: int, recurse: Recurse) -> Any:
    import pandas as pd

    if "levels" in tree:
        return pd.MultiIndex(
            levels=[_decode_index(level, path, depth, recurse) for level in tree["levels"]],
            codes=[recurse(codes, path, depth) for codes in tree["codes"]],
            names=recurse(tree["names"], path, depth),
        )
    name = recurse(tree["name"], path, depth)
    if "range" in tree:
        return pd.RangeIndex(*tree["range"], name=name)
    values = _decode_column(tree["data"], path, depth, recurse)
    index = pd.Index(values, dtype=values.dtype, name=name)
    if tree.get("freq") is not None:
        index.freq = tree["freq"]
    return index
