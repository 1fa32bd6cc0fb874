"""A connection as triggers share it, whose services answer what a test says; no broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Sequence
from datetime import datetime
from typing import Any

from airflow_provider_panda.exceptions import TaskNotFoundError
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.retry import RetryPolicy
from airflow_provider_panda.grid.task import JobRecord, TaskStatus, phase_of
from airflow_provider_panda.hooks.panda import parse
from airflow_provider_panda.payload import envelope
from airflow_provider_panda.triggers.connections import SharedConnection

SECRET = "secret of the trigger unit tests"
KEY = "afabcdefghijklmnopqr"
REQUEST, TRANSFORM, TASK = 5, 9, 77


def task(
    status: str = "running", *, task_id: int = TASK, finished: int = 0, failed: int = 0, **fields: Any
) -> TaskStatus:
    """Return what PanDA says of the task."""
    return TaskStatus(
        task_id=task_id, name="n", status=status, phase=phase_of(status), jobs_finished=finished, jobs_failed=failed,
        **fields,
    )  # fmt: skip


def transform(status: str = "New", **fields: Any) -> TransformStatus:
    """Return what iDDS says of the task's transform."""
    return TransformStatus(transform_id=TRANSFORM, name="t", status=status, **fields)


def request(*transforms: TransformStatus, status: str = "Transforming", **fields: Any) -> RequestStatus:
    """Return what iDDS says of the request."""
    return RequestStatus(request_id=REQUEST, name="r", status=status, transforms=transforms, **fields)


def report(
    job: int = 0, payload: Any = 1, *, key: str = KEY, attempt: int = 1, status: str = "returned"
) -> dict[str, Any]:
    """Return what a job reported, as iDDS stores it and PanDA keeps it."""
    exception = None
    if status != "returned":
        exception = {"type": "ValueError", "message": "no", "traceback": "Traceback: no"}
    content = {
        "task_key": key, "job": job, "attempt": attempt, "status": status, "encoding": "json", "payload": payload,
        "exception": exception, "start": 1.0, "end": 2.0, "host": "h", "site": "S", "panda_id": 3, "python": "3.12.1",
    }  # fmt: skip
    return {envelope.BODY_KEY: envelope.sign(content, envelope.derive_key(SECRET, key))}


class Idds:
    """Answers with one listing after another; the last one stays. An error is raised."""

    def __init__(self, *listings: RequestStatus | Exception | None) -> None:
        self.listings: list[RequestStatus | Exception | None] = list(listings) or [request(transform())]
        self.stored: list[Any] | Exception = []
        self.asked_messages: list[tuple[int, int | None, str | None]] = []
        self.listed = 0

    async def request(self, request_id: int) -> RequestStatus | None:
        assert request_id == REQUEST
        self.listed += 1
        found = self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def messages(
        self, request_id: int, *, transform_id: int | None = None, internal_id: str | None = None
    ) -> list[Any]:
        self.asked_messages.append((request_id, transform_id, internal_id))
        if isinstance(self.stored, Exception):
            raise self.stored
        return self.stored


class Panda:
    """Answers with one status after another; the last one stays."""

    def __init__(self, *statuses: TaskStatus | Exception, records: Sequence[JobRecord] = ()) -> None:
        self.states: list[TaskStatus | Exception] = list(statuses) or [TaskNotFoundError("not yet")]
        self.records = list(records)
        self.listed: list[str] = []
        self.killed: list[int] = []
        self.refusals: list[Exception] = []
        self.read = 0

    def _next(self) -> TaskStatus:
        found = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def statuses(
        self, processing_type: str, *, since: datetime | None = None, oldest: int | None = None
    ) -> list[TaskStatus]:
        self.listed.append(processing_type)
        try:
            return [self._next()]
        except TaskNotFoundError:
            return []

    async def status(self, task_id: int) -> TaskStatus:
        assert task_id == TASK
        return self._next()

    async def record_batches(
        self, task_id: int, *, without: Container[int] = frozenset()
    ) -> AsyncIterator[list[JobRecord]]:
        for record in [each for each in self.records if each.panda_id not in without]:
            self.read += 1
            yield [record]

    async def kill(self, task_id: int, *, policy: RetryPolicy | None = None) -> KillOutcome:
        if self.refusals:
            raise self.refusals.pop(0)
        self.killed.append(task_id)
        return KillOutcome.REGISTERED


def shared(idds: Idds, panda: Panda) -> SharedConnection:
    """Return the connection."""
    fields = {
        "service": "idds",
        "idds_host": "http://127.0.0.1:1",
        "instance_secret": SECRET,
        "monitor_url": "http://mon",
    }
    connection = parse("c", host="http://127.0.0.1:1", extra=fields)
    return SharedConnection(panda=connection, broker=None, client=panda, idds=idds)  # type: ignore[arg-type]
