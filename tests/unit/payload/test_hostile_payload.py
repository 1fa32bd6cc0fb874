"""What strangers may give to the modules of payload: values, archives and references, drawn by hypothesis."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_panda.exceptions import EnvelopeError, SignatureError, ValueDecodeError
from airflow_provider_panda.payload import bootstrap, envelope, values
from airflow_provider_panda.payload.reference import fetch_reference
from airflow_provider_panda.payload.result import JobResult, decode_value, read_body

KEY, TASK = b"k" * 32, "afabcdabcdefghijklmn"
STORE = "file:///var/store"
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12)
)
TAGS = st.sampled_from(
    [*sorted(values._DECODERS), "numpy.ndarray", "numpy.scalar", "pandas.Series", "pandas.Index", "os.system"]
)
FIELDS = st.sampled_from(
    ["v", "zone", "fold", "class", "name", "state", "value", "dtype", "shape", "data", "items", "range"]
)


def _tagged(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tagged = st.builds(lambda tag, rest: {"$type": tag, **rest}, TAGS, st.dictionaries(FIELDS, inner, max_size=4))
    return tagged | st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)


TREES = st.recursive(LEAVES, _tagged, max_leaves=12)


def result_of(**changed: Any) -> JobResult:
    report = {"task_key": TASK, "job": 0, "attempt": 1, "status": "returned", "encoding": "json", "python": "3.11.0"}
    return read_body({envelope.BODY_KEY: envelope.sign({**report, **changed}, KEY)}, key=KEY, task_key=TASK)


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_a_value_is_rebuilt_from_the_closed_set_or_refused(tree: Any) -> None:
    try:
        value = decode_value(result_of(payload=tree))
    except ValueDecodeError:
        return
    allowed = {"builtins", "datetime", "decimal", "uuid", "pathlib", "numpy", "pandas", "zoneinfo"}
    assert type(value).__module__.partition(".")[0] in allowed


@settings(max_examples=60, deadline=None)
@given(
    st.integers(values.MAX_DEPTH - 3, 900) | st.just(5000),
    st.sampled_from(["list", "dict", "tuple", "Path", "dataclass"]),
)
def test_nesting_has_an_end(depth: int, kind: str) -> None:
    tree: Any = "x"
    for _ in range(min(depth, 900)):
        tree = {"list": [tree], "dict": {"a": tree}}.get(kind) or {"$type": kind, "v": tree, "class": "x", "state": {}}
        if kind == "tuple":
            tree["v"] = [tree["v"]]
    if depth <= values.MAX_DEPTH and kind in ("list", "dict"):
        assert values.decode(tree) == tree
    elif depth > values.MAX_DEPTH + 1:
        with pytest.raises(values.UndecodableValue):
            values.decode(tree)
    text = "[" * depth * 20 + "]" * depth * 20
    with pytest.raises(values.UndecodableValue):
        values.loads(text)


def test_a_column_takes_no_more_memory_than_it_carries() -> None:
    pytest.importorskip("pandas")
    scalar = {"$type": "numpy.scalar", "dtype": "<f8", "shape": [], "data": "AAAAAAAAAAA="}
    index = {"$type": "pandas.Index", "range": [0, 10**12, 1], "name": None}
    for data in (scalar, {**scalar, "$type": "numpy.ndarray"}, {**scalar, "$type": "numpy.ndarray", "shape": [1]}):
        with pytest.raises(ValueDecodeError):
            decode_value(
                result_of(payload={"$type": "pandas.Series", "name": None, "index": index, "data": data, "attrs": {}})
            )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-7"])
def test_a_body_is_utf_8_and_nothing_else(encoding: str) -> None:
    body = json.dumps({envelope.BODY_KEY: envelope.sign({"task_key": TASK}, KEY)}).encode(encoding)
    if encoding == "utf-7":
        body = body.replace(b"{", b"+AHs-")
    with pytest.raises(EnvelopeError, match="no JSON"):
        read_body(body, key=KEY, task_key=TASK)


@pytest.mark.parametrize("field", ["version", "signed", "signature"])
@pytest.mark.parametrize("depth", range(900, 1000, 3))
def test_deep_fields_of_an_envelope_are_no_recursion_error(field: str, depth: int) -> None:
    nest = "[" * depth + "]" * depth
    found = f'{{"version":1,"signed":"x","signature":"y","{field}":{nest}}}'
    with pytest.raises(EnvelopeError):
        read_body(f'{{"{envelope.BODY_KEY}":{found}}}', key=KEY, task_key=TASK)


@pytest.mark.parametrize("version", [True, 1.0, "1", None, 2, [1], 10**400])
def test_version_one_is_the_number(version: Any) -> None:
    signed = envelope.sign({"task_key": TASK}, KEY) | {"version": version}
    with pytest.raises(EnvelopeError, match="version"):
        read_body({envelope.BODY_KEY: signed}, key=KEY, task_key=TASK)


def test_an_old_message_of_another_try_does_not_verify() -> None:
    """Each try has a key of its own, so that what an earlier try of a task instance sent is worth nothing now."""
    earlier, now = "afabcd00000000000001", "afabcd00000000000002"
    report = {"task_key": earlier, "job": 0, "attempt": 1, "status": "returned", "encoding": "json"}
    old = {envelope.BODY_KEY: envelope.sign(report, envelope.derive_key("secret", earlier))}
    assert read_body(old, key=envelope.derive_key("secret", earlier), task_key=earlier).returned
    with pytest.raises(SignatureError):
        read_body(old, key=envelope.derive_key("secret", now), task_key=now)


def test_no_key_without_a_secret() -> None:
    with pytest.raises(ValueError, match="empty"):
        envelope.derive_key("", TASK)


# --- references ----------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [STORE + "/", STORE, "https://store/x/", "file:///", "http://169.254.169.254/", "ftp://store/", ""]
    ),
    st.lists(
        st.sampled_from(["..", ".", "%2e%2e", "a", "/", "\\", "?x=", "#", "@elsewhere", "%00", "\n", "etc/passwd"]),
        max_size=5,
    ),
)
def test_references_stay_in_the_store(base: str, steps: list[str]) -> None:
    url = base + "/".join(steps)
    reference = {"url": url, "size": 1, "sha256": "0" * 64, "encoding": "json"}
    opened: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_provider_panda.payload.reference._read", lambda url, *rest: opened.append(url) or b"1")
        with pytest.raises(ValueDecodeError):
            fetch_reference(result_of(encoding="reference", payload=reference), result_store=STORE)
        with pytest.raises(ValueDecodeError, match="no result store"):
            fetch_reference(result_of(encoding="reference", payload=reference), result_store=None)
    for each in opened:
        assert each.startswith(STORE + "/")
        assert Path(os.path.normpath(each.removeprefix("file://"))).is_relative_to("/var/store")
        assert not set("%?#@\\\n") & set(each)


# --- archives ------------------------------------------------------------------------------------------------

KINDS = [
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CONTTYPE,
]
NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", "/", "\\", "c\0d", "~", "é", "x" * 120]), min_size=1, max_size=4
).map("/".join)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.sampled_from(KINDS), NAMES), min_size=1, max_size=4),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_nothing_leaves_the_folder(members: list[tuple[str, bytes, str]], form: int) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", format=form) as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 1 if kind in (tarfile.REGTYPE, tarfile.CONTTYPE) else 0
            tar.addfile(info, io.BytesIO(b"x"))
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer, "one", "two")
        folder.mkdir(parents=True)
        try:
            bootstrap.unpack(io.BytesIO(raw.getvalue()), str(folder))
        except bootstrap.BootstrapError:
            pass
        else:
            assert all(kind in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE) for _, kind, _ in members)
        assert [each.name for each in Path(outer).iterdir()] == ["one"]
        assert [each.name for each in Path(outer, "one").iterdir()] == ["two"]
        assert not any(each.is_symlink() for each in folder.rglob("*"))


def bomb(*sizes: int) -> io.BytesIO:
    """Return an archive of files of zeros, of which only the headers are there."""
    raw = io.BytesIO()
    for number, size in enumerate(sizes):
        info = tarfile.TarInfo(f"f{number}")
        info.size = size
        raw.write(info.tobuf(tarfile.GNU_FORMAT))
    return io.BytesIO(gzip.compress(raw.getvalue()))


@pytest.mark.parametrize("sizes", [[bootstrap.SIZE_LIMIT + 1], [1 << 60]])
def test_archives_have_a_size(sizes: list[int], tmp_path: Path) -> None:
    with pytest.raises(bootstrap.BootstrapError, match="holds over"):
        bootstrap.unpack(bomb(*sizes), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_archives_have_a_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MEMBERS_LIMIT", 10)
    with pytest.raises(bootstrap.BootstrapError, match="10 files"):
        bootstrap.unpack(bomb(*[0] * 11), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("same"))
        tar.addfile(tarfile.TarInfo("same"))
    with pytest.raises(bootstrap.BootstrapError, match="'same'"):
        bootstrap.unpack(io.BytesIO(raw.getvalue()), str(tmp_path))
