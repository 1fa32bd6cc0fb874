"""Bodies that are read, and bodies that are not: noise, forgeries, other tasks, other versions."""

from __future__ import annotations

import base64
import json
import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_panda.exceptions import EnvelopeError, PandaProviderError, SignatureError, ValueDecodeError
from airflow_provider_panda.payload import envelope, values
from airflow_provider_panda.payload.result import JobFailure, decode_value, read_body

TASK = "afabcd"
KEY = envelope.derive_key("secret", TASK)


def report(**changes: Any) -> dict[str, Any]:
    fields = {
        "task_key": TASK,
        "job": 3,
        "attempt": 1,
        "status": envelope.RETURNED,
        "encoding": "json",
        "payload": values.encode((1, 2)),
        "exception": None,
        "start": 1.0,
        "end": 2.5,
        "host": "node",
        "site": None,
        "panda_id": 7,
        "python": "3.9.18",
    }
    return {**fields, **changes}


def body(**changes: Any) -> str:
    one = report(**changes)
    return envelope.message(one, envelope.sign(one, KEY), name="f")[1]


def test_a_good_body() -> None:
    result = read_body(body(), key=KEY, task_key=TASK)
    assert result.returned
    assert (result.job, result.attempt, result.panda_id, result.host) == (3, 1, 7, "node")
    assert decode_value(result) == (1, 2)
    assert read_body(json.loads(body()), key=KEY, task_key=TASK) == result
    assert read_body({envelope.BODY_KEY: result.envelope}, key=KEY, task_key=TASK) == result


def tampered(change: str) -> Any:
    whole = json.loads(body())
    inner = whole[envelope.BODY_KEY]
    if change == "payload":
        inner["signed"] = inner["signed"].replace("[1,2]", "[1,3]")
    elif change == "no signature":
        del inner["signature"]
    elif change == "signature of another type":
        inner["signature"] = ["x"]
    elif change == "signature not ascii":
        inner["signature"] = "ü\ud800"
    elif change == "signed by another key":
        whole[envelope.BODY_KEY] = envelope.sign(report(), b"other")
    return whole


@pytest.mark.parametrize(
    "change", ["payload", "no signature", "signature of another type", "signature not ascii", "signed by another key"]
)
def test_forgeries(change: str) -> None:
    with pytest.raises(SignatureError):
        read_body(tampered(change), key=KEY, task_key=TASK)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "null",
        "{}",
        '{"airflow_panda": null}',
        '{"airflow_panda": {"version": 99}}',
        "x" * 10_000_000,
        b"\xff\xfe\x00",
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda text: f"{text[:20]!r}",
)
def test_noise(text: str | bytes) -> None:
    with pytest.raises(EnvelopeError):
        read_body(text, key=KEY, task_key=TASK)


def test_large_objects_are_not_looked_at() -> None:
    large = {envelope.BODY_KEY: {"version": 1, "signed": "x" * (envelope.BODY_LIMIT + 1), "signature": ""}}
    with pytest.raises(EnvelopeError, match="limit"):
        read_body(large, key=KEY, task_key=TASK)


@pytest.mark.parametrize(
    "changes",
    [
        {"task_key": "afother"},
        {"status": "unknown"},
        {"job": "3"},
        {"job": True},
        {"job": -1},
        {"attempt": None},
        {"status": envelope.RAISED},
    ],
    ids=str,
)
def test_signed_reports_of_a_wrong_shape(changes: dict[str, Any]) -> None:
    one = report(**changes)
    whole = {envelope.BODY_KEY: envelope.sign(one, KEY)}
    with pytest.raises(EnvelopeError):
        read_body(whole, key=KEY, task_key=TASK)


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.floats(allow_nan=False),
        lambda t: (
            st.lists(t) | st.dictionaries(st.sampled_from(["airflow_panda", "version", "signed", "signature"]), t)
        ),
    )
)
def test_any_object_gives_an_error_of_ours(tree: Any) -> None:
    with pytest.raises(PandaProviderError):
        read_body(json.dumps(tree), key=KEY, task_key=TASK)


def test_undecodable_values_name_the_place() -> None:
    result = read_body(body(payload={"a": [1, {"$type": "nothing"}]}), key=KEY, task_key=TASK)
    with pytest.raises(ValueDecodeError) as caught:
        decode_value(result)
    assert caught.value.path == "$.a[1]"
    with pytest.raises(ValueDecodeError, match="encoding"):
        decode_value(read_body(body(encoding="yaml"), key=KEY, task_key=TASK))


def test_pickles_only_when_allowed_and_of_this_python() -> None:
    payload = base64.b64encode(pickle.dumps({1, 2})).decode()
    here = f"{sys.version_info.major}.{sys.version_info.minor}.0"
    same = read_body(body(encoding="cloudpickle", payload=payload, python=here), key=KEY, task_key=TASK)
    with pytest.raises(ValueDecodeError, match="only if value_format"):
        decode_value(same)
    assert decode_value(same, allow_pickle=True) == {1, 2}
    other = read_body(body(encoding="cloudpickle", payload=payload, python="3.8.1"), key=KEY, task_key=TASK)
    with pytest.raises(ValueDecodeError, match=r"pickled by Python 3\.8"):
        decode_value(other, allow_pickle=True)


def test_failures_travel_through_xcom() -> None:
    error = {"type": "ValueError", "message": "m", "traceback": "t"}
    result = read_body(body(status=envelope.RAISED, payload=None, exception=error), key=KEY, task_key=TASK)
    failure = JobFailure.of(result)
    assert (failure.job, failure.type, failure.message, failure.panda_id) == (3, "ValueError", "m", 7)
    assert JobFailure.deserialize(json.loads(json.dumps(failure.serialize())), JobFailure.__version__) == failure
    assert pickle.loads(pickle.dumps(failure)) == failure
    with pytest.raises(TypeError):
        JobFailure.deserialize(failure.serialize(), 99)
