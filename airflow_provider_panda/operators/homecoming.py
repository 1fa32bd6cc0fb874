"""What came home, in the worker: values, from the trigger's event or PanDA's own record, or an error in their place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_panda.exceptions import (
    DeadlineExceededError,
    GridTaskError,
    GridTaskFailedError,
    JobRaisedError,
    MissingResultsError,
)
from airflow_provider_panda.grid.outcome import GONE, failure_of
from airflow_provider_panda.grid.reports import verified_results
from airflow_provider_panda.payload import envelope, values
from airflow_provider_panda.payload.reference import fetch_reference, reference_is_gone
from airflow_provider_panda.payload.result import JobFailure, JobResult, decode_value, read_body
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome

if TYPE_CHECKING:
    from airflow_provider_panda.grid.panda import PandaGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How the values of one task are read.

    :param task_key: key of the task.
    :param signing_key: its signing key.
    :param allow_pickle: whether the call asked for cloudpickle values.
    :param result_store: base URL of the connection's result store, or None.
    :param jobs: index in the call of each job of the task; None: they are the same.
    """

    task_key: str
    signing_key: bytes
    allow_pickle: bool
    result_store: str | None
    jobs: Sequence[int] | None = None

    def verified(self, envelope_found: Mapping[str, Any]) -> JobResult:
        """Return the result in an envelope, after checking its signature once more."""
        return read_body({envelope.BODY_KEY: envelope_found}, key=self.signing_key, task_key=self.task_key)

    def value(self, result: JobResult) -> Any:
        """Return the value of a verified result, fetched from the result store where it went there."""
        fetched = fetch_reference(result, result_store=self.result_store)
        return decode_value(fetched, allow_pickle=self.allow_pickle)

    def in_call(self, job: int) -> int:
        """Return the index in the call of a job of the task."""
        return job if self.jobs is None else self.jobs[job]

    def recorded(self, task_id: int, grid: PandaGrid) -> Iterator[JobResult]:
        """Yield the verified results of jobs that returned, from PanDA's record of the task."""
        count = None if self.jobs is None else len(self.jobs)
        for records in grid.record_batches(task_id):
            for result in verified_results(records, key=self.signing_key, task_key=self.task_key):
                if result.returned and (count is None or result.job < count):
                    yield result

    def readable(self, task_id: int, grid: PandaGrid) -> set[int]:
        """Return the jobs, by their index in the call, whose value is there to be read.

        :raises GridError: PanDA cannot be asked.
        """
        return {
            self.in_call(result.job)
            for result in self.recorded(task_id, grid)
            if not reference_is_gone(result, result_store=self.result_store)
        }

    def values(self, task_id: int, grid: PandaGrid, *, without: Container[int] = ()) -> dict[int, Any]:
        """Return the values in PanDA's record, by the job's index in the call.

        :param without: jobs, by that index, whose value is not wanted.
        :raises GridError: PanDA cannot be asked.
        :raises ValueDecodeError: a value cannot be rebuilt here.
        """
        return {
            self.in_call(result.job): self.value(result)
            for result in self.recorded(task_id, grid)
            if self.in_call(result.job) not in without
        }


def bring_home(came: FunctionEvent, reader: Reader, grid: PandaGrid) -> list[Any]:
    """Return what each job of a complete call came to, in the order of the jobs: its value, or a ``JobFailure``.

    What had no room in the event is read from PanDA's own record, 100 jobs a request.

    :param came: what the trigger told.
    :param reader: how values are read.
    :param grid: where what the event lacks is fetched.
    :raises MissingResultsError: a job that returned has no readable value in PanDA's record.
    :raises ValueDecodeError: a value cannot be rebuilt here.
    """
    home = _home(came, reader, grid)
    return [
        home.values[job] if job in home.values else in_call(home.failure(job), reader.jobs)
        for job in range(came.n_jobs)
    ]


def in_call(failure: JobFailure, jobs: Sequence[int] | None) -> JobFailure:
    """Return a failure with the index that its job has in the call.

    :param jobs: index in the call of each job of the task; None: they are the same.
    """
    return failure if jobs is None else dataclasses.replace(failure, job=jobs[failure.job])


def told_of_call(came: FunctionEvent, jobs: Sequence[int], n_jobs: int) -> FunctionEvent:
    """Return an event of some jobs of a call as one of the call, of which the others have values, for people to read.

    :param came: what the trigger told.
    :param jobs: index in the call of each job of the task.
    :param n_jobs: number of jobs of the call.
    """
    return dataclasses.replace(
        came,
        n_jobs=n_jobs,
        failures=tuple(in_call(failure, jobs) for failure in came.failures),
        missing=tuple(jobs[job] for job in came.missing),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Home:
    """What came home of the jobs of a task.

    :param values: decoded values by job.
    :param failures: failures by job.
    """

    values: dict[int, Any]
    failures: dict[int, JobFailure]

    def failure(self, job: int) -> JobFailure:
        """Return the failure of a job that has no value."""
        return self.failures.get(job) or JobFailure(
            job=job,
            attempt=0,
            type="JobMissing",
            message="no value came home; why had no room in the trigger's event, and PanDA's record tells of no failed "
            "attempt. See the job's log",
        )


def _home(came: FunctionEvent, reader: Reader, grid: PandaGrid) -> _Home:
    home = _Home(values={}, failures={failure.job: failure for failure in came.failures})
    failed = came.failed_jobs
    if came.results is not None:
        home.values.update(_inline_values(came.results, reader))
    if came.task_id is not None and (came.results is None or came.failures_left_out):
        _read_record(came, came.task_id, reader, grid, home)
    if failed is None:
        failed = frozenset(home.failures) - frozenset(home.values)
    if missing := [job for job in range(came.n_jobs) if job not in home.values and job not in failed]:
        raise MissingResultsError(
            f"{came.where}: PanDA's record lacks the values of {len(missing)} of "
            f"{came.n_jobs} job(s), which are together too large for a trigger event. Return smaller values, or set a "
            "result store on the PanDA connection",
            task_key=came.task_key,
            task_id=came.task_id,
            jobs=[reader.in_call(job) for job in missing],
        )
    return home


def _inline_values(results: Sequence[Mapping[str, Any]], reader: Reader) -> dict[int, Any]:
    decoded: dict[int, Any] = {}
    for entry in results:
        if "payload" in entry:
            decoded[entry["job"]] = values.decode(entry["payload"])
        else:
            result = reader.verified(entry["envelope"])
            decoded[result.job] = reader.value(result)
    return decoded


def _read_record(came: FunctionEvent, task_id: int, reader: Reader, grid: PandaGrid, home: _Home) -> None:
    """Add what PanDA's record has and the event had no room for; what the event tells stays, for it says more."""
    told = frozenset(home.failures)
    failed = told if came.failed_jobs is None else came.failed_jobs
    for records in grid.record_batches(task_id):
        if came.results is None:
            for result in verified_results(records, key=reader.signing_key, task_key=came.task_key):
                if result.status == envelope.RETURNED and result.job not in failed:
                    home.values[result.job] = reader.value(result)
        for record in records:
            known = None if record.job is None else home.failures.get(record.job)
            if record.job is None or record.job in told or record.status not in GONE:
                continue
            if known is None or known.attempt < record.attempt:
                home.failures[record.job] = failure_of(record, record.job)


def check_min_success(came: FunctionEvent, min_success: int | float | None) -> None:
    """Refuse an outcome with fewer successful jobs than asked for.

    :param min_success: number of jobs, or their share as a float; None: none must succeed.
    :raises GridTaskFailedError: there are fewer.
    """
    succeeded = came.n_jobs - came.n_failures
    if succeeded < successes_needed(came.n_jobs, min_success):
        raise GridTaskFailedError(
            f"{came.task_key}: only {succeeded} of {came.n_jobs} jobs succeeded, min_success asks for {min_success}. "
            f"First failure: {came.failures[0].type}: {came.failures[0].message}",
            task_key=came.task_key,
            task_id=came.task_id,
        )


def successes_needed(n_jobs: int, min_success: int | float | None) -> int:
    """Return how many jobs must succeed.

    :param n_jobs: number of jobs of the call.
    :param min_success: number of jobs, or their share as a float; None: none must succeed.
    """
    if isinstance(min_success, float):
        # 0.55 of 100 are 55, and not one more because 0.55 is no binary fraction.
        return math.ceil(round(min_success * n_jobs, 6))
    return min_success or 0


def error_of(came: FunctionEvent) -> GridTaskError:
    """Return the error that tells why a grid task brought no value."""
    key, task_id = came.task_key, came.task_id
    where = came.where
    told = f": {came.error}" if came.error else ""
    if came.outcome is Outcome.DEADLINE:
        return DeadlineExceededError(
            f"{where}: not ended before its deadline, PanDA's last word was {came.status!r}{told}. It was killed; "
            "raise deadline= if it needs longer",
            task_key=key,
            task_id=task_id,
        )
    if came.failures:
        first = came.failures[0]
        return JobRaisedError(
            f"{where}: job {first.job} failed with {first.type}: {first.message} (attempt {first.attempt}, "
            f"host {first.host}, site {first.site}, PandaID {first.panda_id}); "
            f"{came.n_failures} of {came.n_jobs} job(s) failed",
            task_key=key,
            task_id=task_id,
            job=first.job,
            remote_traceback=first.traceback,
        )
    if came.status in ("done", "finished"):
        return MissingResultsError(
            f"{where}: PanDA says {came.status!r}, but no value came home from {came.n_missing} of "
            f"{came.n_jobs} job(s): {_some(came)}{told}. See the jobs' logs on the PanDA monitor",
            task_key=key,
            task_id=task_id,
            jobs=came.missing,
        )
    return GridTaskFailedError(f"{where} ended as {came.status!r}{told}", task_key=key, task_id=task_id)


def _some(came: FunctionEvent) -> str:
    return ", ".join(map(str, came.missing[:20])) + (", ..." if came.n_missing > 20 else "")
