"""What is known of the jobs of one task, and what it amounts to: pure decisions, no input or output.

The rules (design.md section 3, "Three ways home"): the first valid envelope per job and attempt wins; a later attempt
replaces a failure, never a success; a user exception is final unless the call retries on exceptions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from airflow_provider_panda.grid.task import JobRecord, Phase
from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.result import JobFailure, JobResult
from airflow_provider_panda.payload.runner import EXIT_RAISED, EXIT_REFUSED

OnJobError = Literal["fail", "collect"]
WaitFor = Literal["results", "task"]

GONE = frozenset({"failed", "cancelled", "closed"})
"""States of a job attempt that ended without success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPolicy:
    """How the results of one call are taken.

    :param n_jobs: number of jobs.
    :param on_job_error: "fail": the first final failure ends the call; "collect": failures become values.
    :param retry_on_exception: whether an exception of the function is tried again by further attempts.
    :param max_attempt: attempts of a job.
    :param wait_for: "results": the call ends when its results are in; "task": when PanDA ended the task as well.
    """

    n_jobs: int
    on_job_error: OnJobError = "fail"
    retry_on_exception: bool = False
    max_attempt: int = 3
    wait_for: WaitFor = "results"


class Verdict(Enum):
    """What the results so far amount to."""

    WAIT = "wait"
    COMPLETE = "complete"
    """Every job is settled (with "collect": by a value or by a final failure)."""
    FAILED = "failed"
    """A job failed for good, and the call is to fail with it."""
    ENDED = "ended"
    """PanDA ended the task, and results of some jobs are missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    failure: JobFailure
    final: bool
    told: bool


_EXIT_LINE = re.compile(
    r"airflow-panda \S+ job \d+ attempt \d+: ([A-Za-z_][\w.]*): (.*?)(?:; pilot \d+: |$)", re.DOTALL
)
"""The runner's last line, by which it ends as well as by its report, in the diagnostics that PanDA keeps."""


def _told_by(record: JobRecord) -> tuple[str, str]:
    """Return kind and message of a failure that only PanDA's record tells of."""
    said = record.diagnostics or f"PanDA says {record.status} and nothing else"
    if record.exit_code in (EXIT_RAISED, EXIT_REFUSED) and (line := _EXIT_LINE.search(said)):
        return line[1], f"{line[2]} (the message with the traceback did not arrive; see the job's log)"
    if record.exit_code == EXIT_RAISED:
        return "JobRaised", said
    if record.exit_code == EXIT_REFUSED:
        return "JobRefused", said
    return "JobLost" if record.status == "failed" else "JobCancelled", said


class Tally:
    """The results of one call so far.

    :param policy: how results are taken.
    """

    def __init__(self, policy: CallPolicy) -> None:
        self.policy = policy
        self._values: dict[int, JobResult] = {}
        self._failures: dict[int, _Failed] = {}
        self._final_failures = 0

    def add(self, result: JobResult) -> bool:
        """Take a verified result; return whether it changed what is known."""
        job = result.job
        if not 0 <= job < self.policy.n_jobs or job in self._values:
            return False
        if result.status == envelope.RETURNED:
            self._drop_failure(job)
            self._values[job] = result
            return True
        return self._add_failure(JobFailure.of(result), final=self._is_final(result), told=True)

    def add_record(self, record: JobRecord) -> bool:
        """Take what PanDA says of an attempt that left no envelope; return whether it changed what is known.

        PanDA keeps no report of a failed job, but its exit code, which tells an exception of the function from a
        fault of the infrastructure (facts/panda.md section 10).
        """
        job = record.job
        if job is None or not 0 <= job < self.policy.n_jobs or job in self._values or record.status not in GONE:
            return False
        raised, refused = record.exit_code == EXIT_RAISED, record.exit_code == EXIT_REFUSED
        kind, message = _told_by(record)
        failure = JobFailure(
            job=job,
            attempt=record.attempt,
            type=kind,
            message=message,
            traceback="",
            host=record.host,
            site=record.site,
            panda_id=record.panda_id,
        )
        last = record.attempt >= self.policy.max_attempt
        final = record.status == "failed" and (last or refused or (raised and not self.policy.retry_on_exception))
        return self._add_failure(failure, final=final, told=False)

    def give_up(self, reason: str) -> None:
        """Settle every job that has no value as failed: nothing more will come."""
        for job in self.missing:
            known = self._failures.get(job)
            failure = known.failure if known else JobFailure(job=job, attempt=0, type="JobMissing", message=reason)
            self._drop_failure(job)
            self._failures[job] = _Failed(failure=failure, final=True, told=known is not None and known.told)
            self._final_failures += 1

    def _is_final(self, result: JobResult) -> bool:
        last = result.attempt >= self.policy.max_attempt
        if result.status == envelope.RAISED:
            return last or not self.policy.retry_on_exception
        return last or result.status == envelope.REFUSED

    def _add_failure(self, failure: JobFailure, *, final: bool, told: bool) -> bool:
        known = self._failures.get(failure.job)
        if known is not None:
            # What the job itself told says more than PanDA's record, of whatever attempt.
            better = told and not known.told
            if not better and (known.final or known.failure.attempt >= failure.attempt):
                return False
            final = final or known.final
        self._drop_failure(failure.job)
        self._failures[failure.job] = _Failed(failure=failure, final=final, told=told)
        self._final_failures += final
        return True

    def _drop_failure(self, job: int) -> None:
        known = self._failures.pop(job, None)
        if known is not None and known.final:
            self._final_failures -= 1

    @property
    def values(self) -> dict[int, JobResult]:
        """Results of the jobs that returned, by job."""
        return self._values

    @property
    def failures(self) -> list[JobFailure]:
        """The latest failure of every job that has no value, final or not, in the order of the jobs."""
        return [self._failures[job].failure for job in sorted(self._failures)]

    @property
    def final_failures(self) -> list[JobFailure]:
        """Failures that no further attempt will replace, in the order of the jobs."""
        return [self._failures[job].failure for job in sorted(self._failures) if self._failures[job].final]

    @property
    def explained(self) -> bool:
        """Whether every final failure was told by the job itself, with its traceback."""
        return all(failed.told for failed in self._failures.values() if failed.final)

    @property
    def missing(self) -> list[int]:
        """Jobs without a value."""
        return [job for job in range(self.policy.n_jobs) if job not in self._values]

    def verdict(self, phase: Phase | None, *, reconciled: bool) -> Verdict:
        """Return what the results amount to.

        :param phase: what PanDA last said of the task, or None if nothing yet.
        :param reconciled: whether PanDA's own records were read after the task ended.
        """
        terminal = phase is not None and phase.terminal
        if self._final_failures and self.policy.on_job_error == "fail":
            return Verdict.FAILED
        if len(self._values) + self._final_failures == self.policy.n_jobs:
            # PanDA ends a task 20-60 s after its last job; Airflow need not wait for it.
            return Verdict.WAIT if self.policy.wait_for == "task" and not terminal else Verdict.COMPLETE
        if terminal and reconciled:
            return Verdict.ENDED
        return Verdict.WAIT
