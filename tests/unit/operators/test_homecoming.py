"""What an operator makes of an event that had no room for everything: the rest comes from PanDA's own record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from airflow_provider_panda.exceptions import GridTaskFailedError, JobRaisedError, MissingResultsError
from airflow_provider_panda.grid.outcome import CallPolicy, Tally
from airflow_provider_panda.grid.task import JobRecord
from airflow_provider_panda.operators.homecoming import Reader, bring_home, check_min_success, error_of
from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.result import JobFailure, read_body
from airflow_provider_panda.payload.runner import EXIT_RAISED
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome, filled
from tests.unit.triggers.scripted import KEY, SECRET, TASK, report

SIGNING_KEY = envelope.derive_key(SECRET, KEY)
READER = Reader(task_key=KEY, signing_key=SIGNING_KEY, allow_pickle=False, result_store=None)
MANY = 3000


class Grid:
    """PanDA's record of a task, read in batches."""

    def __init__(self, records: Sequence[JobRecord] = ()) -> None:
        self.records = list(records)
        self.read = 0

    def record_batches(self, task_id: int) -> Iterator[list[JobRecord]]:
        assert task_id == TASK
        self.read += 1
        for start in range(0, len(self.records), 100):
            yield self.records[start : start + 100]


def fails(job: int) -> bool:
    return job % 3 == 1


def finished(job: int, payload: Any = None) -> JobRecord:
    told = report(job, payload if payload is not None else f"value {job}")
    return JobRecord(panda_id=10_000 + job, job=job, attempt=1, status="finished", report=told)


def failed(job: int, attempt: int = 1, **fields: Any) -> JobRecord:
    said = f"payload 71: airflow-panda {KEY} job {job} attempt {attempt}: pkg.OddError: {job} is odd; pilot 1305: x"
    given = {"exit_code": EXIT_RAISED, "diagnostics": said, "host": "node", "site": "SITE", **fields}
    return JobRecord(panda_id=20_000 + job, job=job, attempt=attempt, status="failed", **given)


def told(n_jobs: int = MANY, *, payload: Any = None, outcome: Outcome = Outcome.COMPLETE) -> FunctionEvent:
    """Return the event of a call of which every third job raised, as it comes out of Airflow's database."""
    tally = Tally(CallPolicy(n_jobs=n_jobs, on_job_error="collect"))
    for job in range(n_jobs):
        value = payload if payload is not None else f"value {job}"
        said = report(job, None if fails(job) else value, status="raised" if fails(job) else "returned")
        tally.add(read_body(said, key=SIGNING_KEY, task_key=KEY))
    bare = FunctionEvent(outcome=outcome, task_key=KEY, task_id=TASK, n_jobs=n_jobs, ended=False)
    return FunctionEvent.from_json(json.loads(json.dumps(filled(bare, tally).to_json())))


def test_what_has_room_is_not_read_again() -> None:
    grid = Grid()
    home = bring_home(told(6), READER, grid)  # type: ignore[arg-type]
    assert [each if isinstance(each, str) else each.type for each in home] == [
        "value 0", "ValueError", "value 2", "value 3", "ValueError", "value 5",
    ]  # fmt: skip
    assert grid.read == 0


def test_values_and_failures_without_room_come_from_pandas_record_each_at_its_place() -> None:
    came = told()
    assert came.results is None
    assert 0 < len(came.failures) < came.n_failures == MANY // 3
    grid = Grid([failed(job) if fails(job) else finished(job) for job in range(MANY)])
    home = bring_home(came, READER, grid)  # type: ignore[arg-type]
    assert grid.read == 1
    assert len(home) == MANY
    for job, each in enumerate(home):
        assert (each.job if isinstance(each, JobFailure) else each) == (job if fails(job) else f"value {job}")
    failures = [each for each in home if isinstance(each, JobFailure)]
    assert failures[0].traceback == "Traceback: no", "the first ones are told by the jobs themselves"
    last = failures[-1]
    assert (last.type, last.host, last.site, last.panda_id) == ("pkg.OddError", "node", "SITE", 20_000 + last.job)
    assert last.message.startswith(f"{last.job} is odd")


def test_failures_without_room_beside_values_that_have_some() -> None:
    came = told(1500, payload=1)
    assert came.results is not None
    assert came.failures_left_out
    home = bring_home(came, READER, Grid([failed(job) for job in range(1500) if fails(job)]))  # type: ignore[arg-type]
    assert [isinstance(each, JobFailure) for each in home] == [fails(job) for job in range(1500)]


def test_a_failure_that_pandas_record_does_not_tell_of_still_stands_at_its_place() -> None:
    came = told()
    records = [finished(job) for job in range(MANY) if not fails(job)]
    home = bring_home(came, READER, Grid(records))  # type: ignore[arg-type]
    assert isinstance(home[MANY - 2], JobFailure)
    assert (home[MANY - 2].job, home[MANY - 2].type) == (MANY - 2, "JobMissing")


def test_a_value_that_pandas_record_lacks_is_an_error_that_names_the_job() -> None:
    records = [failed(job) if fails(job) else finished(job) for job in range(MANY) if job != 5]
    with pytest.raises(MissingResultsError, match=f"lacks the values of 1 of {MANY}") as caught:
        bring_home(told(), READER, Grid(records))  # type: ignore[arg-type]
    assert list(caught.value.jobs) == [5]


def test_a_failed_job_stays_failed_whatever_a_later_attempt_left() -> None:
    home = bring_home(told(), READER, Grid([finished(job) for job in range(MANY)]))  # type: ignore[arg-type]
    assert isinstance(home[MANY - 2], JobFailure)


def test_the_last_attempt_of_a_job_is_told() -> None:
    job = MANY - 2
    records = [finished(each) for each in range(MANY) if not fails(each)]
    records += [failed(job, 2, host="second"), failed(job, 1, host="first")]
    home = bring_home(told(), READER, Grid(records))  # type: ignore[arg-type]
    assert (home[job].attempt, home[job].host) == (2, "second")


def test_which_jobs_failed_is_read_where_not_even_that_had_room() -> None:
    came = dataclasses.replace(told(), returned="")
    assert came.failed_jobs is None
    records = [failed(job) if fails(job) else finished(job) for job in range(MANY)]
    home = bring_home(came, READER, Grid(records))  # type: ignore[arg-type]
    assert [isinstance(each, JobFailure) for each in home] == [fails(job) for job in range(MANY)]
    with pytest.raises(MissingResultsError):
        bring_home(came, READER, Grid(records[:-1]))  # type: ignore[arg-type]


def test_failures_without_room_count() -> None:
    came = told()
    check_min_success(came, MANY - MANY // 3)
    with pytest.raises(GridTaskFailedError, match=f"only {MANY - MANY // 3} of {MANY} jobs succeeded"):
        check_min_success(came, 0.9)
    error = error_of(told(outcome=Outcome.FAILED))
    assert isinstance(error, JobRaisedError)
    assert f"{MANY // 3} of {MANY} job(s) failed" in str(error)


def test_missing_jobs_without_room_count() -> None:
    bare = FunctionEvent(outcome=Outcome.ENDED, task_key=KEY, task_id=TASK, n_jobs=MANY, ended=True, status="done")
    error = error_of(filled(bare, Tally(CallPolicy(n_jobs=MANY))))
    assert f"no value came home from {MANY} of {MANY} job(s): 0, 1," in str(error)
