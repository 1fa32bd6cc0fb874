"""Values through Airflow's XCom serialisation: JSON stays JSON, the rest comes back as it was."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from airflow.sdk.serde import deserialize, serialize

import airflow_provider_panda.decorators  # noqa: F401 - registers our classes, as a DAG file does
from airflow_provider_panda.payload.result import JobFailure
from airflow_provider_panda.payload.xcom import GridValue, to_xcom


def through(value: Any) -> Any:
    """Send a value through XCom as a database does, whose JSON knows no NaN."""
    return deserialize(json.loads(json.dumps(serialize(to_xcom(value)), allow_nan=False)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2.5,
        "text",
        [1, [2, None]],
        {"a": {"b": [1]}},
        (1, 2),
        {1, 2},
        frozenset({"x"}),
        b"\x00\xff",
        1 + 2j,
        decimal.Decimal("1.10"),
        datetime.datetime(2026, 11, 22, 17, 0, tzinfo=ZoneInfo("Europe/Paris")),
        {1: {2: "x"}, (3, 4): None},
        float("inf"),
        {"__classname__": "not.a.Class", "__version__": 1, "__data__": "x"},
        [{"deep": ({1: b"x"},)}],
    ],
)
def test_round_trip(value: Any) -> None:
    came = through(value)
    assert came == value
    assert type(came) is type(value)


def test_nan() -> None:
    assert math.isnan(through([float("nan")])[0])


def test_plain_json_stays_readable_and_mappable() -> None:
    value = [{"auc": 0.9}, "x", 1]
    assert to_xcom(value) == value
    assert isinstance(to_xcom([(1,), (2,)]), list)


def test_a_failed_job_is_a_value() -> None:
    failure = JobFailure(job=1, attempt=2, type="ValueError", message="m", traceback="t", host="h", site=None)
    assert through([1, failure]) == [1, failure]


def test_a_value_of_a_newer_provider_says_so() -> None:
    with pytest.raises(TypeError, match="newer provider"):
        GridValue.deserialize("1", 2)
