"""The event between trigger and operator: JSON both ways, bounded in size."""

from __future__ import annotations

import json

from airflow_provider_panda.payload.result import JobFailure
from airflow_provider_panda.triggers.event import (
    FULL_FAILURES,
    INLINE_LIMIT,
    TRACEBACK_LIMIT,
    FunctionEvent,
    Outcome,
    inline_results,
    shorten,
)
from tests.unit.grid.test_outcome import result


def failure(job: int, text: str = "x") -> JobFailure:
    return JobFailure(
        job=job, attempt=1, type="ValueError", message=text, traceback=text, host="h", site="s", panda_id=1
    )


def test_event_survives_json() -> None:
    event = FunctionEvent(
        outcome=Outcome.FAILED,
        task_key="afabcd12345678901234",
        task_id=5,
        n_jobs=3,
        ended=False,
        status="running",
        results=[{"job": 0, "payload": [1]}],
        failures=(failure(1),),
        missing=(2,),
    )
    assert FunctionEvent.from_json(json.loads(json.dumps(event.to_json()))) == event


def test_fields_of_a_newer_provider_are_ignored() -> None:
    event = FunctionEvent(outcome=Outcome.COMPLETE, task_key="k", task_id=1, n_jobs=1, ended=True)
    assert FunctionEvent.from_json({**event.to_json(), "brand_new": 1}) == event


def test_results_up_to_the_limit_are_inline_and_more_are_not() -> None:
    small = [result(job, payload="x" * 100) for job in range(100)]
    assert [entry["job"] for entry in inline_results(small) or []] == list(range(100))
    assert inline_results([result(payload="x" * INLINE_LIMIT)]) is None


def test_a_value_that_is_no_json_keeps_its_envelope() -> None:
    import dataclasses

    pickled = dataclasses.replace(result(), encoding="cloudpickle", envelope={"signed": "s", "signature": "t"})
    assert inline_results([pickled]) == [{"job": 0, "envelope": {"signed": "s", "signature": "t"}}]


def test_failures_are_cut_to_size_but_all_are_named() -> None:
    kept = shorten(failure(job, "start" + "x" * 100_000 + "end") for job in range(FULL_FAILURES + 50))
    assert [each.job for each in kept] == list(range(FULL_FAILURES + 50))
    assert kept[0].traceback.startswith("start")
    assert kept[0].traceback.endswith("end")
    assert len(kept[0].traceback) < TRACEBACK_LIMIT + 100
    assert kept[-1].traceback == ""
    assert len(json.dumps([each.message for each in kept])) < INLINE_LIMIT
