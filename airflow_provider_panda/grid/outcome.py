"""What is known of the jobs of one task, and what it amounts to: pure decisions, no input or output.

The rules (design.md section 3, "Three ways home"): the first valid envelope per job and attempt wins; a later attempt
replaces a failure, never a success; a user exception is final unless the call retries on exceptions.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from airflow_provider_panda.grid.task import JobRecord, Phase
from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.result import JobFailure, JobResult
from airflow_provider_panda.payload.runner import EXIT_RAISED, EXIT_REFUSED

OnJobError = Literal["fail", "collect"]
WaitFor = Literal["results", "task"]

GONE = frozenset({"failed", "cancelled", "closed"})
"""States of a job attempt that ended without success."""

VALUES_LIMIT: Final = 64 * 1024
"""Bytes of encoded values that a tally keeps; above, whoever wants them reads PanDA's record (design.md, "Sizes")."""

TEXTS_LIMIT: Final = 64 * 1024
"""Characters of messages and tracebacks that a tally keeps whole; of what comes then, it keeps the head."""

HEAD_LENGTH: Final = 120
"""Characters of a message that tell what it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPolicy:
    """How the results of one call are taken.

    :param n_jobs: number of jobs.
    :param on_job_error: "fail": the first final failure ends the call; "collect": failures become values.
    :param retry_on_exception: whether an exception of the function is tried again by further attempts.
    :param max_attempt: attempts of a job.
    :param wait_for: "results": the call ends when its results are in; "task": when PanDA ended the task as well.
    :param keep_below: where fewer jobs return a value, the call fails, and what did return is kept for its retry: it
        ends when PanDA's record holds that.
    """

    n_jobs: int
    on_job_error: OnJobError = "fail"
    retry_on_exception: bool = False
    max_attempt: int = 3
    wait_for: WaitFor = "results"
    keep_below: int = 0


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
class Value:
    """What is kept of a result that returned: its value, still encoded. There may be 10,000 of them in one wait.

    :param job: index of the job in the call.
    :param payload: the encoded value, where it can be decoded as it is.
    :param envelope: the verified envelope, where the value must be verified once more before it is decoded.
    """

    job: int
    payload: Any = None
    envelope: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, result: JobResult) -> Value:
        """Return the value of a result that returned."""
        if result.encoding == "json":
            return cls(job=result.job, payload=result.payload)
        return cls(job=result.job, envelope=result.envelope)

    def to_json(self) -> dict[str, Any]:
        """Return it as it is told."""
        if self.envelope is None:
            return {"job": self.job, "payload": self.payload}
        return {"job": self.job, "envelope": self.envelope}

    @property
    def size(self) -> int:
        """Bytes that it takes where it is told among others."""
        return len(json.dumps(self.to_json())) + len(", ")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    failure: JobFailure
    final: bool
    told: bool

    @property
    def text(self) -> int:
        return len(self.failure.message) + len(self.failure.traceback)


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


def failure_of(record: JobRecord, job: int) -> JobFailure:
    """Return the failure that PanDA's record of an attempt tells of.

    :param record: the attempt.
    :param job: index of the job in the call.
    """
    kind, message = _told_by(record)
    return JobFailure(
        job=job,
        attempt=record.attempt,
        type=kind,
        message=message,
        traceback="",
        host=record.host,
        site=record.site,
        panda_id=record.panda_id,
    )


_UNKNOWN, _FAILED, _RETURNED = range(3)
"""What is known of a job."""

_HAS_VALUE: Final = bytes(known == _RETURNED for known in range(256))


class Tally:
    """The results of one call so far. Taking one costs the same however many there are.

    :param policy: how results are taken.
    """

    def __init__(self, policy: CallPolicy) -> None:
        self.policy = policy
        self._known = bytearray([_UNKNOWN]) * policy.n_jobs
        self._returned = 0
        self._values: dict[int, Value] | None = {}
        self._values_size = 0
        self._failures: dict[int, _Failed] = {}
        self._final_failures = 0
        self._unexplained = 0
        self._text = 0
        self._given_up: str | None = None

    def add(self, result: JobResult) -> bool:
        """Take a verified result; return whether it changed what is known."""
        job = result.job
        if not 0 <= job < self.policy.n_jobs or self._known[job] == _RETURNED:
            return False
        if result.status == envelope.RETURNED:
            self._drop_failure(job)
            self._known[job] = _RETURNED
            self._returned += 1
            self._keep(result)
            return True
        return self._add_failure(JobFailure.of(result), final=self._is_final(result), told=True)

    def _keep(self, result: JobResult) -> None:
        """Keep a value while all of them are few bytes; one that is missing makes the others useless."""
        if self._values is None:
            return
        value = Value.of(result)
        self._values_size += value.size
        if self._values_size > VALUES_LIMIT:
            self._values = None
        else:
            self._values[value.job] = value

    def add_record(self, record: JobRecord) -> bool:
        """Take what PanDA says of an attempt that left no envelope; return whether it changed what is known.

        PanDA keeps no report of a failed job, but its exit code, which tells an exception of the function from a
        fault of the infrastructure (facts/panda.md section 10).
        """
        job = record.job
        if job is None or not 0 <= job < self.policy.n_jobs:
            return False
        if self._known[job] == _RETURNED or record.status not in GONE:
            return False
        raised, refused = record.exit_code == EXIT_RAISED, record.exit_code == EXIT_REFUSED
        last = record.attempt >= self.policy.max_attempt
        final = record.status == "failed" and (last or refused or (raised and not self.policy.retry_on_exception))
        return self._add_failure(failure_of(record, job), final=final, told=False)

    def give_up(self, reason: str) -> None:
        """Settle every job that has no value as failed: nothing more will come."""
        self._given_up = reason

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
        self._put_failure(_Failed(failure=failure, final=final, told=told))
        return True

    def _put_failure(self, failed: _Failed) -> None:
        if self._text > TEXTS_LIMIT:
            head = failed.failure.message[:HEAD_LENGTH]
            failed = dataclasses.replace(
                failed, failure=dataclasses.replace(failed.failure, message=head, traceback="")
            )
        self._failures[failed.failure.job] = failed
        self._known[failed.failure.job] = _FAILED
        self._count(failed, 1)

    def _drop_failure(self, job: int) -> None:
        known = self._failures.pop(job, None)
        if known is not None:
            self._count(known, -1)

    def _count(self, failed: _Failed, sign: int) -> None:
        self._text += sign * failed.text
        self._final_failures += sign * failed.final
        self._unexplained += sign * (failed.final and not failed.told)

    @property
    def values(self) -> Mapping[int, Value] | None:
        """Values of the jobs that returned, by job; None if they are too many bytes to keep."""
        return self._values

    @property
    def values_size(self) -> int:
        """Bytes that the values take where they are told; more than the limit if they are too many to keep."""
        return self._values_size

    @property
    def returned(self) -> int:
        """How many jobs returned a value."""
        return self._returned

    @property
    def has_value(self) -> bytes:
        """For each job 1 if it returned a value, else 0."""
        return bytes(self._known).translate(_HAS_VALUE)

    @property
    def n_failures(self) -> int:
        """How many jobs have a failure and no value, final or not."""
        return len(self._failures) if self._given_up is None else self.policy.n_jobs - self._returned

    @property
    def n_final_failures(self) -> int:
        """How many jobs have a failure that no further attempt will replace."""
        return self._final_failures if self._given_up is None else self.policy.n_jobs - self._returned

    @property
    def n_unknown(self) -> int:
        """Of how many jobs nothing is known."""
        return self.policy.n_jobs - self._returned - self.n_failures

    @property
    def settled(self) -> int:
        """How many jobs have a value, or a failure that no further attempt will replace."""
        return self._returned + self.n_final_failures

    def each_failure(self, *, final: bool = False) -> Iterator[JobFailure]:
        """Yield the latest failure of every job that has no value, in the order of the jobs.

        :param final: leave out those that a further attempt may replace.
        """
        if self._given_up is None:
            for job in self._each(_FAILED):
                if self._failures[job].final or not final:
                    yield self._failures[job].failure
            return
        for job in self._without_value():
            if known := self._failures.get(job):
                yield known.failure
            else:
                yield JobFailure(job=job, attempt=0, type="JobMissing", message=self._given_up)

    def each_unknown(self) -> Iterator[int]:
        """Yield the jobs of which nothing is known, neither a value nor a failure."""
        if self.n_unknown:
            yield from self._each(_UNKNOWN)

    def _each(self, known: int) -> Iterator[int]:
        """Yield the jobs of which this is known; those in between take no step of the interpreter."""
        job = self._known.find(known)
        while job >= 0:
            yield job
            job = self._known.find(known, job + 1)

    def _without_value(self) -> Iterator[int]:
        return heapq.merge(self._each(_UNKNOWN), self._each(_FAILED))

    @property
    def failures(self) -> list[JobFailure]:
        """The latest failure of every job that has no value, final or not, in the order of the jobs."""
        return list(self.each_failure())

    @property
    def final_failures(self) -> list[JobFailure]:
        """Failures that no further attempt will replace, in the order of the jobs."""
        return list(self.each_failure(final=True))

    @property
    def explained(self) -> bool:
        """Whether every final failure was told by the job itself, with its traceback."""
        return not self._unexplained and self._given_up is None

    @property
    def missing(self) -> list[int]:
        """Jobs without a value."""
        return list(self._without_value())

    @property
    def to_be_kept(self) -> bool:
        """Whether there are values, but too few of them: a retry takes them from PanDA's record."""
        return 0 < self._returned < self.policy.keep_below

    def verdict(self, phase: Phase | None, *, reconciled: bool) -> Verdict:
        """Return what the results amount to.

        :param phase: what PanDA last said of the task, or None if nothing yet.
        :param reconciled: whether PanDA's own records were read after the task ended.
        """
        terminal = phase is not None and phase.terminal
        if self.n_final_failures and self.policy.on_job_error == "fail":
            return Verdict.FAILED
        if self.settled == self.policy.n_jobs:
            # PanDA ends a task 20-60 s after its last job; Airflow need not wait for it.
            return Verdict.WAIT if self.policy.wait_for == "task" and not terminal else Verdict.COMPLETE
        if terminal and reconciled:
            return Verdict.ENDED
        return Verdict.WAIT
