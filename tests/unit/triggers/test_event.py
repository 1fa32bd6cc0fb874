"""The event between trigger and operator: JSON both ways, bounded in size."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_panda.grid.outcome import CallPolicy, Tally, Value
from airflow_provider_panda.payload.result import JobFailure, RemoteException
from airflow_provider_panda.triggers.event import (
    FULL_FAILURES,
    INLINE_LIMIT,
    MISSING_TOLD,
    TRACEBACK_LIMIT,
    FunctionEvent,
    Outcome,
    filled,
    inline_results,
    pack,
    shorten,
    unpack,
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
    small = [Value.of(result(job, payload="x" * 100)) for job in range(100)]
    assert [entry["job"] for entry in inline_results(small) or []] == list(range(100))
    assert inline_results([Value.of(result(payload="x" * INLINE_LIMIT))]) is None


def test_a_value_that_is_no_json_keeps_its_envelope() -> None:
    import dataclasses

    pickled = dataclasses.replace(result(), encoding="cloudpickle", envelope={"signed": "s", "signature": "t"})
    assert inline_results([Value.of(pickled)]) == [{"job": 0, "envelope": {"signed": "s", "signature": "t"}}]


def test_failures_are_cut_to_size_but_all_are_named() -> None:
    kept = shorten(failure(job, "start" + "x" * 100_000 + "end") for job in range(FULL_FAILURES + 50))
    assert [each.job for each in kept] == list(range(FULL_FAILURES + 50))
    assert kept[0].traceback.startswith("start")
    assert kept[0].traceback.endswith("end")
    assert len(kept[0].traceback) < TRACEBACK_LIMIT + 100
    assert kept[-1].traceback == ""
    assert len(json.dumps([each.message for each in kept])) < INLINE_LIMIT


LONG = RemoteException(type="module." * 200, message="\N{GRINNING FACE}\n" * 5000, traceback="\x00\u00e9" * 50_000)


def bare(outcome: Outcome, n_jobs: int) -> FunctionEvent:
    return FunctionEvent(
        outcome=outcome, task_key="afabcd12345678901234", task_id=2**40, n_jobs=n_jobs, ended=False,
        error="\N{GRINNING FACE}" * 5000, task_name="n" * 200,
    )  # fmt: skip


def tally_of(n_jobs: int, kind: str) -> Tally:
    """Return a tally in which jobs went the way that a kind says."""
    tally = Tally(CallPolicy(n_jobs=n_jobs, on_job_error="collect"))
    dice = random.Random(7)
    for job in range(n_jobs):
        last = job == n_jobs - 1
        fails = {
            "returned": False,
            "failed": True,
            "mixed": dice.random() < 0.5,
            "last failed": True if last else None,
            "last missing": None if last else True,
            "given up": None if last else False,
        }.get(kind)
        if fails is None:
            continue
        if fails:
            tally.add(_long_failure(job))
        else:
            tally.add(result(job, payload=job))
    if kind == "given up":
        tally.give_up("PanDA ended the task")
    return tally


def _long_failure(job: int) -> Any:
    import dataclasses

    return dataclasses.replace(result(job, status="raised"), exception=LONG, host="h" * 5000, site="s" * 5000)


@pytest.mark.parametrize("n_jobs", [1, 3, 1000, 5000])
@pytest.mark.parametrize("kind", ["returned", "failed", "mixed", "missing"])
@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_event_is_bounded_and_its_counts_are_right(n_jobs: int, kind: str, outcome: Outcome) -> None:
    tally = tally_of(n_jobs, kind)
    event = filled(bare(outcome, n_jobs), tally)
    text = json.dumps(event.to_json())
    assert len(text) <= INLINE_LIMIT
    again = FunctionEvent.from_json(json.loads(text))
    assert again == event
    assert (again.n_failures, again.n_missing) == (tally.n_failures, tally.n_unknown)
    assert bool(again.failures) == bool(tally.n_failures)
    assert list(again.missing) == list(range(n_jobs if kind == "missing" else 0))[:MISSING_TOLD]
    if outcome is Outcome.COMPLETE:
        assert again.failed_jobs == frozenset(tally.missing) - (
            frozenset(tally.missing) if kind == "missing" else set()
        )
        if again.results is not None:
            assert [entry["job"] for entry in again.results] == sorted(tally.values or {})


def test_the_jobs_of_the_largest_tasks_are_told_and_of_larger_ones_counted() -> None:
    told = filled(bare(Outcome.COMPLETE, 100_000), tally := tally_of(100_000, "mixed"))
    assert told.failed_jobs == frozenset(tally.missing)
    huge = filled(bare(Outcome.COMPLETE, 250_000), tally := tally_of(250_000, "mixed"))
    assert huge.failed_jobs is None
    assert huge.n_failures == len(tally.missing)
    assert len(json.dumps(huge.to_json())) <= INLINE_LIMIT


def test_the_first_failure_keeps_both_ends_of_its_traceback() -> None:
    kept = shorten([failure(0, "start" + "\u00e9" * 100_000 + "end")], 20_000)
    assert kept[0].traceback.startswith("start")
    assert kept[0].traceback.endswith("end")
    assert TRACEBACK_LIMIT // 2 < len(json.dumps(kept[0].traceback)) <= TRACEBACK_LIMIT


def test_a_few_failures_leave_the_room_to_the_values() -> None:
    tally = Tally(CallPolicy(n_jobs=1501, on_job_error="collect"))
    tally.add(result(1500, status="raised"))
    for job in range(1500):
        tally.add(result(job, payload="x"))
    event = filled(bare(Outcome.COMPLETE, 1501), tally)
    assert event.results is not None
    assert (len(event.results), event.failed_jobs) == (1500, {1500})


def steps(work: Callable[..., Any], *arguments: Any) -> int:
    """Return how often Python or C functions are called or resumed: work, in a unit that no machine changes."""
    count = 0

    def called(_frame: Any, event: str, _of: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        work(*arguments)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("kind", ["returned", "failed", "mixed", "missing", "last failed", "last missing", "given up"])
def test_an_event_takes_no_more_work_for_more_jobs(kind: str) -> None:
    few, many = tally_of(5_000, kind), tally_of(40_000, kind)
    for outcome in Outcome:
        little = steps(filled, bare(outcome, 5_000), few)
        much = steps(filled, bare(outcome, 40_000), many)
        assert much < 1.2 * little, outcome


@pytest.mark.parametrize("flags", [b"\0", b"\1", b"\0" * 9, b"\1\0\1", bytes(n % 3 == 0 for n in range(1000))])
def test_flags_survive_packing(flags: bytes) -> None:
    assert unpack(pack(flags), len(flags)) == flags
