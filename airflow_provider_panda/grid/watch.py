"""What a triggerer asks PanDA, on its event loop: the status of many tasks at once, job reports, kills."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from airflow_provider_panda.exceptions import GridAnswerTooLargeError, GridError, TaskNotFoundError
from airflow_provider_panda.grid import answers
from airflow_provider_panda.grid.answers import Answer, KillOutcome
from airflow_provider_panda.grid.board import Registration, StatusBoard
from airflow_provider_panda.grid.endpoint import PandaEndpoint, with_credentials_of
from airflow_provider_panda.grid.panda import JOBS_AT_ONCE, KILL_POLICY, TASKS_AT_ONCE, batches, halves, utc_text
from airflow_provider_panda.grid.retry import RetryPolicy, passes_by_itself
from airflow_provider_panda.grid.session import Request, Reread, Session, base_url
from airflow_provider_panda.grid.task import JobRecord, TaskStatus

__all__ = ["AsyncPandaClient", "Registration", "StatusBoard"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_JSON: Final = {"Content-Type": "application/json", "Accept": "application/json"}
"""Without these PanDA answers with Python literals (facts/panda.md section 1)."""

KILLS_AT_ONCE: Final = 8
"""Kills that one client has under way: marking a DAG run may end a thousand tasks in the same second."""

_DECODED_ON_LOOP: Final = 32 * 1024
"""Answers up to this many bytes are decoded on the loop, in well under a millisecond; larger ones in a thread."""


class AsyncPandaClient:
    """The calls of a trigger, for one endpoint. Never blocks the loop; every call has the endpoint's deadline."""

    def __init__(
        self, endpoint: PandaEndpoint, *, kill_policy: RetryPolicy = KILL_POLICY, reread: Reread | None = None
    ) -> None:
        self.endpoint = endpoint
        self._reread = reread
        self._base = f"{base_url(endpoint.url)}/api/v1"
        self._kill_policy = kill_policy
        self._kill_turns: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self._session: Session | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._brief_failed = False

    async def statuses(
        self, processing_type: str, *, since: datetime | None = None, oldest: int | None = None
    ) -> list[TaskStatus]:
        """Return the tasks of one kind (task/get_tasks_detailed_info_since).

        A listing holds :data:`TASKS_AT_ONCE` tasks. Where there are more, a second request adds the others without the
        counts of their jobs.

        :param processing_type: PanDA processingType.
        :param since: bound on PanDA's modificationTime, which may lag an hour and more: leave a day's margin.
        :param oldest: lowest jediTaskID that is of interest to the caller.
        """
        query: dict[str, Any] = {"n_tasks": TASKS_AT_ONCE, "filters": json.dumps({"processingType": processing_type})}
        if since is not None:
            query["since"] = utc_text(since)
        listed = await self._get(
            "task/get_tasks_detailed_info_since",
            query,
            lambda answer: answers.task_statuses(answer, processingType=processing_type),
        )
        if len(listed) < TASKS_AT_ONCE or since is None:
            return listed
        known = {task.task_id for task in listed}
        try:
            others = await self.brief_statuses(processing_type, since=since, oldest=oldest)
        except GridError as error:
            # What was listed counts all the same; the others are asked for alone in time.
            log.log(logging.DEBUG if self._brief_failed else logging.WARNING, "the short listing failed: %s", error)
            self._brief_failed = True
            return listed
        self._brief_failed = False
        return listed + [task for task in others if task.task_id not in known]

    async def brief_statuses(
        self, processing_type: str, *, since: datetime, oldest: int | None = None
    ) -> list[TaskStatus]:
        """Return the states of all tasks of one kind, without the counts of their jobs.

        From task/get_tasks_modified_since: a row is 0.4 kB where that of a listing is 10 kB. PanDA keys the rows by
        reqID, which tasks of one iDDS request share: of such tasks one is told.

        :param processing_type: PanDA processingType.
        :param since: bound on PanDA's modificationTime.
        :param oldest: lowest jediTaskID that is of interest.
        """
        query: dict[str, Any] = {"since": utc_text(since), "full": False, "prod_source_label": "user"}
        if oldest is not None:
            query["min_task_id"] = oldest - 1  # PanDA's bound is not among them
        return await self._get(
            "task/get_tasks_modified_since",
            query,
            lambda answer: answers.brief_statuses(answer, processingType=processing_type),
        )

    async def status(self, task_id: int) -> TaskStatus:
        """Return the state of one task.

        :raises TaskNotFoundError: PanDA does not know it: normal for a minute after its submission.
        """
        return await self._get(
            "task/get_detailed_info", {"task_id": task_id}, lambda answer: answers.one_task(answer, task_id)
        )

    async def record_batches(
        self, task_id: int, *, without: Container[int] = frozenset()
    ) -> AsyncIterator[list[JobRecord]]:
        """Yield the jobs of a task, all attempts, with the reports of finished ones: never all of them at once.

        :param task_id: jediTaskID.
        :param without: PandaIDs that are not asked for.
        """
        panda_ids = await self._get("task/get_job_ids", {"task_id": task_id}, answers.job_ids)
        for batch in batches([panda_id for panda_id in panda_ids if panda_id not in without], JOBS_AT_ONCE):
            yield await self._described(batch)

    async def job_records(self, task_id: int) -> list[JobRecord]:
        """Return the jobs of a task, all attempts, with the reports of finished ones."""
        return [record async for batch in self.record_batches(task_id) for record in batch]

    async def reports(self, panda_ids: Sequence[int]) -> list[JobRecord]:
        """Return jobs with their reports (job/get_description), in batches."""
        return [record for batch in batches(panda_ids, JOBS_AT_ONCE) for record in await self._described(batch)]

    async def kill(self, task_id: int, *, policy: RetryPolicy | None = None) -> KillOutcome:
        """Kill a task; tried again while PanDA does not know it yet. A few are asked for at once, others wait.

        :param task_id: jediTaskID.
        :param policy: how often it is tried; default: the client's.
        :raises TaskNotFoundError: unknown for longer than a registration takes, or another user's.
        """
        for pause in (policy or self._kill_policy).pauses():
            try:
                return await self._kill(task_id)
            except GridError as error:
                if not (isinstance(error, TaskNotFoundError) or passes_by_itself(error)):
                    raise
            await asyncio.sleep(pause)
        return await self._kill(task_id)

    async def _kill(self, task_id: int) -> KillOutcome:
        loop = asyncio.get_running_loop()
        if self._kill_turns is None or self._kill_turns[0] is not loop:
            self._kill_turns = loop, asyncio.Semaphore(KILLS_AT_ONCE)
        async with self._kill_turns[1]:
            return await self._post("task/kill", {"task_id": task_id}, answers.killed)

    def adopt(self, endpoint: PandaEndpoint) -> None:
        """Take the credentials of another endpoint of the same server for all further calls."""
        self.endpoint = with_credentials_of(self.endpoint, endpoint)
        if self._session is not None:
            self._session.adopt(endpoint)

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.aclose()

    async def _described(self, panda_ids: Sequence[int]) -> list[JobRecord]:
        try:
            found = await self._post("job/get_description", {"job_ids": list(panda_ids)}, answers.job_records)
            missing = sorted(set(panda_ids) - {record.panda_id for record in found})
            if missing:  # older than a few days: in the archive
                found += await self._post("job/get_description_incl_archive", {"job_ids": missing}, answers.job_records)
        except GridAnswerTooLargeError:
            if len(panda_ids) == 1:
                raise
            return [record for half in halves(panda_ids) for record in await self._described(half)]
        return found

    async def _get(self, method: str, query: Mapping[str, Any], read: Callable[[Answer], T]) -> T:
        url = f"{self._base}/{method}?{urlencode(query, doseq=True)}"
        return await self._exchange(Request(method="GET", url=url, headers=_JSON), read)

    async def _post(self, method: str, body: Mapping[str, Any], read: Callable[[Answer], T]) -> T:
        content = json.dumps(body).encode()
        return await self._exchange(
            Request(method="POST", url=f"{self._base}/{method}", headers=_JSON, content=content), read
        )

    async def _exchange(self, request: Request, read: Callable[[Answer], T]) -> T:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._session, self._loop = Session(self.endpoint, reread=self._reread), loop
        reply = await self._session.send(request)

        def decode() -> T:
            return read(answers.read_answer(reply.status, reply.body, reply.url, retry_after=reply.retry_after))

        if len(reply.body) <= _DECODED_ON_LOOP:
            return decode()
        return await asyncio.to_thread(decode)
