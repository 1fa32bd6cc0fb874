"""What came home, in the worker: values, from the trigger's event or PanDA's own record, or an error in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from airflow_provider_panda.payload.reference import fetch_reference
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
    """

    task_key: str
    signing_key: bytes
    allow_pickle: bool
    result_store: str | None

    def verified(self, envelope_found: Mapping[str, Any]) -> JobResult:
        """Return the result in an envelope, after checking its signature once more."""
        return read_body({envelope.BODY_KEY: envelope_found}, key=self.signing_key, task_key=self.task_key)

    def value(self, result: JobResult) -> Any:
        """Return the value of a verified result, fetched from the result store where it went there."""
        fetched = fetch_reference(result, result_store=self.result_store)
        return decode_value(fetched, allow_pickle=self.allow_pickle)


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
    return [home.values[job] if job in home.values else home.failure(job) for job in range(came.n_jobs)]


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
            jobs=missing,
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
    needed = 0 if min_success is None else min_success
    if isinstance(needed, float):
        needed = needed * came.n_jobs
    if succeeded < needed:
        raise GridTaskFailedError(
            f"{came.task_key}: only {succeeded} of {came.n_jobs} jobs succeeded, min_success asks for {min_success}. "
            f"First failure: {came.failures[0].type}: {came.failures[0].message}",
            task_key=came.task_key,
            task_id=came.task_id,
        )


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
            f"{came.n_jobs} job(s): {_some(came)}. See the jobs' logs on the PanDA monitor",
            task_key=key,
            task_id=task_id,
            jobs=came.missing,
        )
    return GridTaskFailedError(f"{where} ended as {came.status!r}{told}", task_key=key, task_id=task_id)


def _some(came: FunctionEvent) -> str:
    return ", ".join(map(str, came.missing[:20])) + (", ..." if came.n_missing > 20 else "")
